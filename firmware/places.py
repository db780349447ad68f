"""Where the build keeps its things, how it runs other programs, and what it says when it cannot.

Leaves out what is built. Everything big is below one folder, `build/` of the checkout or what EDGEGW_BUILD
names: `pool/` (packages by hash), `wheels/`, `roots/` (by the hash of their lock), `keys/`, `out/`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from edgegw.errors import OperatingError

SOURCE: Final = Path(__file__).resolve().parent
CHECKOUT: Final = SOURCE.parent
OVERLAY: Final = SOURCE / "overlay"
LOCKS: Final = SOURCE / "locks"
_TOLD_LINES: Final = 15
_TOLD_CHARACTERS: Final = 300
_MIB: Final = 1 << 20


class BuildError(OperatingError):
    """The image cannot be built as things are; the hint says what to do."""

    code = "build_error"
    default_hint = "Read firmware/README.md, then run the command again."


def build_folder(*names: str) -> Path:
    """A folder below the one of the build, made if it is not there."""
    folder = Path(os.environ.get("EDGEGW_BUILD") or CHECKOUT / "build").absolute().joinpath(*names)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def program(name: str) -> str:
    """The path of a program of this machine; raises BuildError where it is missing."""
    found = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if found is None:
        raise BuildError(
            f"the program {name} is missing on this machine", hint="Run .ci/setup-image as root."
        )
    return found


def run(
    command: Sequence[str | Path],
    *,
    doing: str,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    give: bytes | None = None,
    hint: str = "",
) -> str:
    """Run a program to its end and return what it printed; raises BuildError with its last lines if it fails.

    `doing` names the step for that error, `environment` is added to this process's own.
    """
    words = [program(str(command[0])), *map(str, command[1:])]
    ended = subprocess.run(
        words,
        input=give,
        stdin=subprocess.DEVNULL if give is None else None,
        capture_output=True,
        cwd=folder,
        env=dict(os.environ) | {"LC_ALL": "C.UTF-8"} | dict(environment or {}),
        check=False,
    )
    if ended.returncode:
        said = (ended.stdout + b"\n" + ended.stderr).decode(errors="replace").strip().splitlines()
        raise BuildError(
            f"{doing} failed: {command[0]} ended with {ended.returncode} and said:\n  "
            + "\n  ".join(line[:_TOLD_CHARACTERS] for line in said[-_TOLD_LINES:]),
            hint=hint,
        )
    return ended.stdout.decode(errors="replace")


def need_room(folder: Path, *, need_bytes: int, purpose: str) -> None:
    """Raise BuildError, before anything is written, if a folder's disk has too little room."""
    free = shutil.disk_usage(folder).free
    if free < need_bytes:
        raise BuildError(
            f"{purpose} needs {need_bytes // _MIB} MiB below {folder}, and {free // _MIB} MiB are free",
            hint="Make room there (`python -m firmware prune` removes old roots), or set EDGEGW_BUILD to a"
            " folder on a larger disk.",
        )


@contextlib.contextmanager
def alone(name: str) -> Iterator[None]:
    """Hold the build's lock of that name: two commands at once must not write the same files."""
    with (build_folder() / f".{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def workshop(name: str) -> Iterator[Path]:
    """A folder of the build for what is half done; it is removed at the end, whatever happened."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=build_folder("work")))
    try:
        yield folder
    finally:
        remove(folder)


def remove(path: Path) -> None:
    """Remove a file or a tree that may hold folders without the right to write."""

    def make_writable(function: object, failed: str, _: object) -> None:
        with contextlib.suppress(OSError):
            Path(failed).parent.chmod(0o700)
            Path(failed).chmod(0o700)
            (os.rmdir if function is os.rmdir else os.unlink)(failed)

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, onerror=make_writable)
    else:
        path.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_date_epoch() -> int:
    """The time that all of an image bears, in seconds: SOURCE_DATE_EPOCH, else that of the last commit."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is not None:
        if not given.isdecimal():
            raise BuildError(
                f"SOURCE_DATE_EPOCH is {given!r}, not a number of seconds",
                hint="Set it to seconds since 1970, or unset it.",
            )
        return int(given)
    said = run(
        # A clone that root builds may belong to the person who made it.
        ["git", "-c", f"safe.directory={CHECKOUT}", "-C", CHECKOUT, "log", "-1", "--format=%ct"],
        doing="reading the time of the last commit",
        hint="Build in a clone of the repository, or set SOURCE_DATE_EPOCH to seconds since 1970.",
    )
    return int(said)
