"""The security epoch outside of the disk's data: an EFI variable that a copied or restored disk does not take
back.

Who is root on the machine, or holds its firmware, can change it all the same; it is there against an older
disk, and for a data partition that was made anew.
"""

from __future__ import annotations

import array
import fcntl
import os
from pathlib import Path
from typing import Final

EFI_FOLDER: Final = Path("/sys/firmware/efi/efivars")
VARIABLE: Final = "EdgegwSecurityEpoch-6f1b0d0e-7c0a-4f55-9a3c-2f6d1f0c8e51"
_ATTRIBUTES: Final = (7).to_bytes(4, "little")
"""Non-volatile, for the boot services and for the running system."""
_GET_FLAGS: Final = 0x80086601
_SET_FLAGS: Final = 0x40086602
_IMMUTABLE: Final = 0x10


class EpochVariable:
    """The variable; `folder` is where the kernel shows the firmware's."""

    def __init__(self, folder: Path = EFI_FOLDER) -> None:
        self._path = folder / VARIABLE

    def read(self) -> int:
        """The epoch; 0 where there is none, or no such firmware."""
        try:
            body = self._path.read_bytes()
        except OSError:
            return 0
        return int.from_bytes(body[4:8], "little") if len(body) == 8 else 0

    def raise_to(self, epoch: int) -> None:
        """Put this epoch there unless a higher one is; raises OSError. Nothing happens on a machine without
        such firmware."""
        if not self._path.parent.is_dir() or self.read() >= epoch:
            return
        if self._path.exists():
            _make_mutable(self._path)
        # The firmware takes a variable whole, by one write.
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, _ATTRIBUTES + epoch.to_bytes(4, "little"))
        finally:
            os.close(descriptor)


def _make_mutable(path: Path) -> None:
    """The kernel guards variables that it does not know against being removed by mistake."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        flags = array.array("l", [0])
        try:
            fcntl.ioctl(descriptor, _GET_FLAGS, flags, True)
        except OSError:
            return  # no file system that has such flags
        if flags[0] & _IMMUTABLE:
            flags[0] &= ~_IMMUTABLE
            fcntl.ioctl(descriptor, _SET_FLAGS, flags, True)
    finally:
        os.close(descriptor)
