"""Room on the ledger's disk: payments stop early, and the box's own records still go in (DESIGN §3.3, §8).

A preallocated file beside the ledger is given up when the box must write what it cannot refuse: modes,
windows, directives, the end of a run. It is taken back as soon as there is space, and payments go on.
"""

from __future__ import annotations

import enum
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edgegw.ledger.schema import fsync_directory

RESERVE_NAME: Final = "ledger.reserve"
RESERVE_BYTES: Final = 64 * 2**20
PAYMENTS_BYTES_MIN: Final = 32 * 2**20
"""Free space below which no new payment is taken: the largest batch, the WAL's copy into the file, and what
other programs write between two looks must still fit."""
OWN_BYTES_MIN: Final = 8 * 2**20
"""Free space that the box's own next records are given."""
LOOK_S: Final = 0.2
"""How long a look at the disk holds good."""


class Room(enum.Enum):
    """What the disk has room for."""

    PAYMENTS = "payments"
    OWN_RECORDS = "own_records"
    """No new payments; the reserve is still there."""
    RELEASED = "released"
    """No new payments, and the reserve is being used up."""


class Reserve:
    """The reserve of one ledger's directory, sizes in bytes. For one thread."""

    def __init__(
        self,
        directory: Path,
        *,
        reserve_bytes: int = RESERVE_BYTES,
        payments_bytes_min: int = PAYMENTS_BYTES_MIN,
        own_bytes_min: int = OWN_BYTES_MIN,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = directory / RESERVE_NAME
        self._reserve_bytes = reserve_bytes
        self._payments_bytes_min = payments_bytes_min
        self._own_bytes_min = own_bytes_min
        self._clock_s = clock_s
        self._looked_s = float("-inf")
        self._room = Room.RELEASED
        self._whole = False

    @property
    def free_bytes(self) -> int:
        """Free space beside the reserve, as of now."""
        disk = os.statvfs(self.path.parent)
        return disk.f_bavail * disk.f_frsize

    def state(self) -> Room:
        """What there is room for, at most LOOK_S old; takes the reserve back when there is space for it."""
        now_s = self._clock_s()
        if now_s - self._looked_s >= LOOK_S:
            self._looked_s = now_s
            self._room = self._look()
        return self._room

    def room_for_payments(self) -> bool:
        """Whether a new payment may be taken."""
        return self.state() is Room.PAYMENTS

    def make_room(self) -> None:
        """Before the box's own records are written: give the reserve up if they may not fit without."""
        if self.free_bytes < self._own_bytes_min and self.path.exists():
            self.path.unlink()
            self._whole = False
            self._looked_s = float("-inf")

    def _look(self) -> Room:
        free = self.free_bytes
        if not self._whole or not self.path.exists():
            missing = max(0, self._reserve_bytes - self._allocated_bytes())
            # Half as much again, or the reserve would come and go with every record.
            if missing and free < missing + self._payments_bytes_min * 3 // 2:
                return Room.RELEASED
            if not self._allocate():
                return Room.RELEASED
            free = self.free_bytes
        return Room.PAYMENTS if free >= self._payments_bytes_min else Room.OWN_RECORDS

    def _allocated_bytes(self) -> int:
        """What is there of the reserve; an earlier run may have been killed half-way."""
        try:
            return self.path.stat().st_blocks * 512
        except FileNotFoundError:
            return 0

    def _allocate(self) -> bool:
        """Take the whole reserve; False, and none of it, when it does not fit after all."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, self._reserve_bytes)
            os.fsync(descriptor)
        except OSError:
            self.path.unlink()
            return False
        finally:
            os.close(descriptor)
        fsync_directory(self.path.parent)
        self._whole = True
        return True
