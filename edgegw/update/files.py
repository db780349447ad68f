"""Files that are replaced whole or not at all, also when the power fails in between."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgegw.errors import Next, OperatingError

LOCK_NAME = "lock"


class AtWork(OperatingError):
    """Another process of this machine is at an update."""

    code = "update_at_work"
    next = Next.RETRY
    default_hint = "The agent is at it: `edgegw update status` says how far. Give the command again later."


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the only one at work in the folder; raises AtWork and OSError. The lock ends with the process."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AtWork("another process is looking for a release, or installs one") from None
        yield
    finally:
        os.close(descriptor)


def replace_file(path: Path, body: bytes, *, mode: int) -> None:
    """Put body in the place of the file; it is on disk when this returns. Raises OSError."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
    sync_folder(path.parent)


def copy_file(path: Path, to: Path) -> int:
    """Copy a file whole, unless the same is there; how many were copied. It is on disk when this returns.
    Raises OSError."""
    if to.exists() and to.stat().st_size == path.stat().st_size and _digest(to) == _digest(path):
        return 0
    draft = to.with_name(f".{to.name}.new")
    with path.open("rb") as file, draft.open("wb") as fresh:
        shutil.copyfileobj(file, fresh, 1 << 20)
        fresh.flush()
        os.fchmod(fresh.fileno(), 0o644)
        os.fsync(fresh.fileno())
    os.replace(draft, to)
    sync_folder(to.parent)
    return 1


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def sync_folder(folder: Path) -> None:
    """What was renamed, made or removed in the folder outlives a power cut; raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
