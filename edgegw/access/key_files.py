"""Files of keys: written whole or not at all, never over another, and read only if their owner alone can.

Leaves out what the keys are (`sm.sm2`) and their names (`access.keys`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
from pathlib import Path
from typing import Final

from edgegw.sm.sm2 import PrivateKey

KEY_FILE_BYTES_MAX: Final = 16_384
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP})
_AT_FDCWD: Final = -100
_RENAME_NOREPLACE: Final = 1
_C: Final = ctypes.CDLL(None, use_errno=True)
_DRAFT: Final = re.compile(r"\.[0-9a-f]{16}")


class KeyFileError(Exception):
    """A key's file cannot be used; the text names the path, `hint` the mend."""

    def __init__(self, path: Path, problem: str, *, hint: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.hint = hint


def read_key_file(path: Path) -> bytes:
    """What stands in a secret's file, which only its owner can read; raises KeyFileError."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(KEY_FILE_BYTES_MAX + 1)
    except OSError as problem:
        raise KeyFileError(
            path, f"cannot be read ({problem.strerror})", hint="give the path of the key"
        ) from None
    if mode & 0o077:
        raise KeyFileError(path, f"others can read it (mode {mode & 0o777:o})", hint=f"chmod 600 {path}")
    if len(content) > KEY_FILE_BYTES_MAX:
        raise KeyFileError(path, f"more than {KEY_FILE_BYTES_MAX} bytes", hint="this is no key file")
    return content


def load_private_key(path: Path) -> PrivateKey:
    """The key that lies open in a PKCS#8 PEM file which only its owner can read; raises KeyFileError."""
    try:
        return PrivateKey.from_pem(read_key_file(path))
    except ValueError as problem:
        raise KeyFileError(path, str(problem), hint="restore the key from its backup") from None


def store_private_key(path: Path, key: PrivateKey) -> None:
    """Write the key to a new file, mode 0600, whole and fsynced or not at all; raises KeyFileError."""
    write_new_file(path, key.to_pem(), mode=0o600)


def write_new_file(path: Path, body: bytes, *, mode: int) -> None:
    """Create path with body, whole and fsynced, or raise KeyFileError; never replaces what is there."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        try:
            _write_synced(draft, body, mode=mode)
            _name_new(draft, path)
        finally:
            draft.unlink(missing_ok=True)
        sync_folder(path.parent)
    except FileExistsError:
        raise KeyFileError(
            path, "exists already", hint="a key is never overwritten: move it away first"
        ) from None
    except OSError as problem:
        raise KeyFileError(path, f"cannot be written ({problem.strerror})", hint="mend the folder") from None


def _name_new(draft: Path, path: Path) -> None:
    """Give a whole file its name, never over another; raises OSError."""
    try:
        os.link(draft, path)  # unlike a rename, a link never replaces
    except OSError as problem:
        if problem.errno not in _NO_LINKS:
            raise
        # FAT, as sticks have it, knows no links, and its kernel this rename.
        if _C.renameat2(_AT_FDCWD, os.fsencode(draft), _AT_FDCWD, os.fsencode(path), _RENAME_NOREPLACE):
            found = ctypes.get_errno()
            raise OSError(found, os.strerror(found), str(path)) from None


def replace_key_file(path: Path, body: bytes, *, mode: int = 0o600) -> None:
    """Put body in the place of the file, whole and fsynced or not at all; raises KeyFileError. It is for its
    owner alone unless mode says else."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        try:
            _write_synced(draft, body, mode=mode)
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as problem:
        raise KeyFileError(path, f"cannot be written ({problem.strerror})", hint="mend the folder") from None


def take_place(fresh: Path, path: Path) -> None:
    """Let one file take the place of another at once, whose bytes are then overwritten; raises KeyFileError.

    What a disk that moves its blocks keeps of them is out of reach: there only a sealed key is gone.
    """
    try:
        with path.open("r+b") as old:
            length = os.fstat(old.fileno()).st_size
            os.replace(fresh, path)
            sync_folder(path.parent)
            old.write(bytes(length))
            old.flush()
            os.fsync(old.fileno())
    except OSError as problem:
        raise KeyFileError(path, f"cannot be replaced ({problem.strerror})", hint="mend the folder") from None


def drafts_of(path: Path) -> list[Path]:
    """What was left half-written of this file by a process that was killed."""
    return [one for one in path.parent.glob(f".{path.name}.*") if _DRAFT.fullmatch(one.suffix)]


def remove_key_file(path: Path) -> None:
    """Take the file away for good, if it is there; raises KeyFileError."""
    try:
        path.unlink(missing_ok=True)
        sync_folder(path.parent)
    except FileNotFoundError:
        return  # there is no folder either
    except OSError as problem:
        raise KeyFileError(path, f"cannot be removed ({problem.strerror})", hint="mend the folder") from None


def rename_key_file(path: Path, to: Path) -> None:
    """Give the file another name in its folder, whole and for good; raises KeyFileError."""
    try:
        path.rename(to)
        sync_folder(to.parent)
    except OSError as problem:
        raise KeyFileError(path, f"cannot be renamed ({problem.strerror})", hint="mend the folder") from None


def shred_key_file(path: Path) -> None:
    """Overwrite the file and take it away, if it is there; raises KeyFileError. What the medium keeps of
    what was overwritten is the medium's."""
    try:
        with path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            file.write(bytes(size))
            file.flush()
            os.fsync(file.fileno())
    except FileNotFoundError:
        return
    except OSError as problem:
        raise KeyFileError(
            path, f"cannot be overwritten ({problem.strerror})", hint="mend the folder"
        ) from None
    remove_key_file(path)


def _write_synced(path: Path, body: bytes, *, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """What was renamed, made or removed in the folder outlives a power cut; raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
