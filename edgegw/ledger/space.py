"""Who may still write when the ledger's disk gets low: telemetry is shed first, copies next, payments last.

Payments stop at `payments_bytes_min` (`ledger.reserve`); everything that is not money stops at a multiple of
it, so that nothing else ever brings payments to that line. Also says which bytes are whose.
"""

from __future__ import annotations

import enum
import os
from pathlib import Path
from typing import Final

from edgegw.errors import StorageFull
from edgegw.ledger.boot import LEDGER_NAME
from edgegw.ledger.reserve import PAYMENTS_BYTES_MIN, RESERVE_NAME

LOG_DIRECTORY: Final = "log"
"""Beside the ledger: the process's own log."""
_PATTERNS: Final = {
    "ledger": (LEDGER_NAME, f"{LEDGER_NAME}-wal", f"{LEDGER_NAME}-shm"),
    "reserve": (RESERVE_NAME,),
    "log": (LOG_DIRECTORY,),
    "copies": ("drill-*", "restore-*", "*litestream*"),
}
KINDS: Final = tuple(_PATTERNS)
"""Of what lies beside the ledger; `copies` is what drills, restores and the copier need."""


class Use(enum.Enum):
    """What is not money; the value is how many times `payments_bytes_min` it leaves free."""

    TELEMETRY = 4
    COPIES = 3
    """Exports, restore drills."""


class Space:
    """One ledger's directory; sizes in bytes."""

    def __init__(self, directory: Path, *, payments_bytes_min: int = PAYMENTS_BYTES_MIN) -> None:
        self._directory = directory
        self._payments_bytes_min = payments_bytes_min

    def may_use(self, use: Use, wanted_bytes: int) -> bool:
        """Whether so much may be written for this use now."""
        return self.lacking_bytes(use, wanted_bytes) == 0

    def lacking_bytes(self, use: Use, wanted_bytes: int) -> int:
        """How much more would have to be free for that."""
        disk = os.statvfs(self._directory)
        return max(0, wanted_bytes + use.value * self._payments_bytes_min - disk.f_bavail * disk.f_frsize)

    def check_output(self, output: Path, wanted_bytes: int) -> None:
        """Raise StorageFull where an export of so many bytes would take the ledger's disk what it needs."""
        if os.stat(output.absolute().parent).st_dev != os.stat(self._directory).st_dev:
            return
        lacking = self.lacking_bytes(Use.COPIES, wanted_bytes)
        if lacking:
            raise StorageFull(
                f"{output} would lie on the ledger's disk, where {lacking} bytes more would have to be free",
                hint="Write it to another disk, or free space on the ledger's.",
            )

    def bytes_of(self, kind: str) -> int:
        """What lies there of one of KINDS."""
        return sum(_bytes(path) for pattern in _PATTERNS[kind] for path in self._directory.glob(pattern))

    def bytes_by_kind(self) -> dict[str, int]:
        """The same of all."""
        return {kind: self.bytes_of(kind) for kind in KINDS}


def _bytes(path: Path) -> int:
    """Of a file, or of all in a directory; what is not there, or goes meanwhile, has none."""
    try:
        if path.is_dir():
            return sum(_bytes(inner) for inner in path.iterdir())
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0
