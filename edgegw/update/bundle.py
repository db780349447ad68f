"""The one bundle that a box holds: a file whose blocks are kept for it, so that a download never takes the
ledger's room, and a full disk never an update's.

A download goes on where it was cut, also after a power cut, and what is given to RAUC has been hashed whole.
Leaves out who says which bundle (`update.choosing`).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from edgegw.errors import Next, OperatingError
from edgegw.update.files import replace_file, sync_folder
from edgegw.update.sources import NotThere, Source
from edgegw.update.state import Release

BUNDLE_NAME: Final = "bundle.raucb"
PART_NAME: Final = "bundle.json"
"""Beside it: of which bundle the bytes are."""
SYNC_BYTES: Final = 8 << 20
"""After so many bytes what came is put on disk: more than that no power cut takes back."""
_KEEP_SIZE: Final = 1
_BLOCK: Final = 512
_C: Final = ctypes.CDLL(None, use_errno=True)


class NoRoom(OperatingError):
    """The room for bundles is not there, and the ledger's is not taken for it."""

    code = "update_no_room"
    next = Next.PAUSE
    default_hint = "Free room on the data partition; payments are not concerned."


class WrongBundle(OperatingError):
    """What came is not what was signed."""

    code = "update_wrong_bundle"
    next = Next.PAUSE
    default_hint = "Publish the repository again; what came is thrown away and fetched anew."


class Cut(OperatingError):
    """The download ended early; it goes on where it was."""

    code = "update_cut"
    next = Next.PAUSE
    default_hint = "The agent goes on with it by itself."


class _Part(msgspec.Struct, frozen=True):
    sha256: str


class BundleFile:
    """The file, in the agent's folder. keep_free_bytes: what the ledger keeps of its disk."""

    def __init__(self, folder: Path, *, room_bytes: int, keep_free_bytes: int) -> None:
        self.path = folder / BUNDLE_NAME
        self._part = folder / PART_NAME
        self._room_bytes = room_bytes
        self._keep_free_bytes = keep_free_bytes

    def reserve(self) -> None:
        """Take hold of the room, where that is not done yet; raises NoRoom and OSError."""
        descriptor = self._open()
        try:
            self._reserve(descriptor)
        finally:
            os.close(descriptor)
        sync_folder(self.path.parent)

    def fetch(self, source: Source, release: Release, *, path: str, cancelled: Callable[[], bool]) -> None:
        """Have the whole bundle here, from what is here already and the source; raises NoRoom, WrongBundle,
        LinkDown and OSError. cancelled: asked now and then; then LinkDown."""
        if release.length > self._room_bytes:
            raise NoRoom(
                f"the bundle has {release.length} bytes, there is room for {self._room_bytes}",
                hint="Raise bundle_bytes_max in [update] of the box's settings.",
            )
        descriptor = self._open()
        try:
            if self._held() != release.sha256 or os.fstat(descriptor).st_size > release.length:
                self._begin(descriptor, release)
            self._reserve(descriptor)
            if os.fstat(descriptor).st_size < release.length:
                _Writing(descriptor, release, cancelled).run(source, path)
        finally:
            os.close(descriptor)
        self.check(release)

    def check(self, release: Release) -> None:
        """Read the bundle whole; raises WrongBundle, after which nothing of it is left, and OSError."""
        found = hashlib.sha256()
        with self.path.open("rb") as file:
            while chunk := file.read(1 << 20):
                found.update(chunk)
        if found.hexdigest() == release.sha256:
            return
        self.drop()
        raise WrongBundle(
            f"the bundle of {release.version} has SHA-256 {found.hexdigest()}, not the signed one"
        )

    def has(self, release: Release) -> bool:
        """Whether as many bytes are here as the release has, and are its."""
        try:
            return self._held() == release.sha256 and self.path.stat().st_size == release.length
        except OSError:
            return False

    def drop(self) -> None:
        """Forget what is here and keep the room; raises OSError."""
        self._part.unlink(missing_ok=True)
        descriptor = self._open()
        try:
            os.ftruncate(descriptor, 0)
            os.fsync(descriptor)
            self._reserve(descriptor)
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _begin(self, descriptor: int, release: Release) -> None:
        # First the bytes, then whose they are: bytes are never taken for those of another bundle.
        self._part.unlink(missing_ok=True)
        os.ftruncate(descriptor, 0)
        os.fsync(descriptor)
        replace_file(self._part, msgspec.json.encode(_Part(release.sha256)) + b"\n", mode=0o600)

    def _held(self) -> str:
        try:
            return msgspec.json.decode(self._part.read_bytes(), type=_Part).sha256
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return ""

    def _reserve(self, descriptor: int) -> None:
        """Truncating gives blocks back, so this follows each; the file's size stays."""
        taken = os.fstat(descriptor).st_blocks * _BLOCK
        lacking = self._room_bytes - taken
        if lacking <= 0:
            return
        disk = os.fstatvfs(descriptor)
        free = disk.f_bavail * disk.f_frsize
        if free - lacking < self._keep_free_bytes:
            raise NoRoom(
                f"{lacking} bytes are needed for the bundle, and of {free} free ones the ledger keeps"
                f" {self._keep_free_bytes}"
            )
        if _C.fallocate(descriptor, _KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(self._room_bytes)):
            raise NoRoom(
                f"the disk does not keep {self._room_bytes} bytes: {os.strerror(ctypes.get_errno())}"
            )


class _Writing:
    """One download into an open file."""

    def __init__(self, descriptor: int, release: Release, cancelled: Callable[[], bool]) -> None:
        self._descriptor = descriptor
        self._release = release
        self._cancelled = cancelled
        self._unsynced = 0

    def run(self, source: Source, path: str) -> None:
        """Write what the source gives behind what is here; raises WrongBundle and LinkDown."""
        start = os.fstat(self._descriptor).st_size
        try:
            source.bundle(f"{self._release.sha256}.{path}", start=start, take=self._take)
        except NotThere:
            raise WrongBundle(
                f"{source.name} has no bundle of {self._release.version}, though its metadata names it",
                hint="Publish the repository whole: bundles first, metadata last.",
            ) from None
        finally:
            os.fsync(self._descriptor)
        size = os.fstat(self._descriptor).st_size
        if size < self._release.length:
            raise Cut(f"{source.name}: the bundle ended after {size} of {self._release.length} bytes")

    def _take(self, position: int, chunk: bytes) -> None:
        if self._cancelled():
            raise Cut("the download was asked to stop")
        if position + len(chunk) > self._release.length:
            raise WrongBundle(f"more came than the {self._release.length} bytes of {self._release.version}")
        view = memoryview(chunk)
        while view:
            written = os.pwrite(self._descriptor, view, position)
            position, view = position + written, view[written:]
        self._unsynced += len(chunk)
        if self._unsynced >= SYNC_BYTES:
            os.fsync(self._descriptor)
            self._unsynced = 0
