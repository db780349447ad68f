"""Whether litestream may go on where it was: only where it ended in order, and has copied all.

litestream trusts a WAL that was begun anew since it looked last, if the frame that it read last still stands
there. What somebody else moved into the ledger's file meanwhile, what a power cut took away, and what a pen
had written but not committed when it was killed, is then wrong in the copy, and a restore is malformed:
measured, with ten thousand records a second, in a tenth of the kills of the box even where nobody else made a
checkpoint. So a small file beside litestream's settings says for which target it ended in order, and how the
WAL began then: one that was begun anew since begins otherwise. Without it the WAL is emptied before
litestream starts, the one sign that makes it begin with a whole copy.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from edgegw.ledger.schema import fsync_directory

_NAME: Final = "intact"
_WAL_HEADER_BYTES: Final = 32


class Intact:
    """The file in the litestream folder; each change is on disk when it returns."""

    def __init__(self, folder: Path, *, wal: Path) -> None:
        self._path = folder / _NAME
        self._wal = wal

    def holds(self, target: str) -> bool:
        """Whether litestream can go on with this target where it was."""
        try:
            return self._path.read_text(encoding="ascii") == self._text(target)
        except (OSError, UnicodeDecodeError):
            return False

    def begin(self, target: str) -> None:
        """litestream has ended in order, and has copied all to this target."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        with fresh.open("w", encoding="ascii") as file:
            file.write(self._text(target))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        fsync_directory(self._path.parent)

    def _text(self, target: str) -> str:
        """Raises OSError where there is no WAL."""
        with self._wal.open("rb") as wal:
            return f"{target} {wal.read(_WAL_HEADER_BYTES).hex()}\n"

    def end(self) -> None:
        """The ledger is written, or its WAL moved, from now on."""
        try:
            self._path.unlink()
        except FileNotFoundError:
            return
        fsync_directory(self._path.parent)
