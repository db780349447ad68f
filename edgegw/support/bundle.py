"""The bundle's file: parts within limits, a manifest with their hashes, and a last look for secrets.

A part that fails, hangs or is too large is left out and named in the manifest: the machine may be as ill
as it likes.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from edgegw.support.redact import Redactor

FORMAT: Final = 1
PART_BYTES_MAX: Final = 4 << 20
BUNDLE_BYTES_MAX: Final = 24 << 20
PART_S_MAX: Final = 20.0
_SECRET_FILE_BYTES_MAX: Final = 1 << 20
_SECRET_FILES_MAX: Final = 256
_LINE_BYTES_MIN: Final = 12
_PRIVATE: Final = 0o600


class Part(NamedTuple):
    """One file of the bundle."""

    name: str
    make: Callable[[], bytes]
    """Raises whatever it likes."""


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is in the bundle."""

    name: str
    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`manifest.json`, the bundle's first file."""

    format: int
    made_at_s: int
    of: str
    version: str
    files: tuple[Made, ...]
    left_out: dict[str, str]
    """Parts that are not there, and why."""
    secret_files_looked_for: int
    """So many files of keys, tokens and claims were read, and nothing of them is in the bundle."""


def write_bundle(
    path: Path,
    parts: Sequence[Part],
    *,
    of: str,
    version: str,
    redactor: Redactor,
    secret_files: Iterable[Path],
) -> Manifest:
    """Make the parts and write them, gzipped, for the owner's eyes alone; raises OSError for the file."""
    made: dict[str, bytes] = {}
    left_out: dict[str, str] = {}
    secrets = [lines for lines in map(_secrets_of, _first(secret_files)) if lines]
    for part in parts:
        body, problem = _made(part)
        room = BUNDLE_BYTES_MAX - sum(map(len, made.values()))
        if body is None:
            left_out[part.name] = redactor.text(problem)
        elif len(body) > min(PART_BYTES_MAX, room):
            left_out[part.name] = f"it has {len(body)} bytes, which is too much"
        elif any(line in body for lines in secrets for line in lines):
            left_out[part.name] = "it would have held what stands in a file of secrets"
        else:
            made[part.name] = body
    manifest = Manifest(
        format=FORMAT,
        made_at_s=int(time.time()),
        of=of,
        version=version,
        files=tuple(
            Made(name=name, bytes=len(body), sha256=hashlib.sha256(body).hexdigest())
            for name, body in made.items()
        ),
        left_out=left_out,
        secret_files_looked_for=len(secrets),
    )
    _write(path, {"manifest.json": msgspec.json.format(msgspec.json.encode(manifest)), **made})
    return manifest


def _made(part: Part) -> tuple[bytes | None, str]:
    """The part, or why it is not there. In a thread of its own: a dead disk answers never."""
    done: list[tuple[bytes | None, str]] = []

    def work() -> None:
        try:
            done.append((part.make(), ""))
        except BaseException as problem:  # noqa: BLE001 - the rest of the bundle must come out
            done.append((None, f"{type(problem).__name__}: {problem}"))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PART_S_MAX)
    return done[0] if done else (None, f"it was not there after {PART_S_MAX:.0f} s")


def _first(files: Iterable[Path]) -> list[Path]:
    return sorted(set(files))[:_SECRET_FILES_MAX]


def _secrets_of(path: Path) -> list[bytes]:
    """The lines of a file of secrets that could be told from other text."""
    try:
        if not path.is_file() or path.stat().st_size > _SECRET_FILE_BYTES_MAX:
            return []
        return list(_lines(path.read_bytes()))
    except OSError:
        return []


def _lines(body: bytes) -> Iterator[bytes]:
    if b"PRIVATE KEY" not in body and (b"-----BEGIN CERTIFICATE" in body or b"-----BEGIN X509 CRL" in body):
        return
    for line in body.splitlines():
        stripped = line.strip()
        if len(stripped) >= _LINE_BYTES_MIN and not stripped.startswith(b"-----"):
            yield stripped


def _write(path: Path, files: dict[str, bytes]) -> None:
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE)
    with os.fdopen(handle, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as bundle:
        for name, body in files.items():
            entry = tarfile.TarInfo(f"support/{name}")
            entry.size, entry.mode, entry.mtime = len(body), _PRIVATE, int(time.time())
            bundle.addfile(entry, io.BytesIO(body))
    fresh.replace(path)
