"""Moving the WAL into the ledger file, where the pen's own COMMITs do not: a copy reads the WAL meanwhile.

A copier (`edgegw.replica`) takes the ledger's changes from the WAL and does the checkpoints itself, each
after it has read what it moves. Whoever moves frames that it has not read takes them out of the copy, in
silence: so the box checkpoints only while no copier runs, and empties the WAL before the next one begins,
which then starts with a whole copy. Leaves out when that is.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Final

import apsw

from edgegw.ledger.faults import Guard, translated
from edgegw.ledger.schema import WAL_BYTES_MAX

TRUNCATE_WAIT_S: Final = 0.25
"""How long payments may wait for the WAL to be emptied; readers that are in the way get another try."""
LOOK_S: Final = 0.0005
"""SQLite's own waiting looks so rarely that it never meets the gap between two COMMITs of a busy pen."""


class Checkpoints:
    """A connection of its own to one ledger file, which must exist; one thread after the other uses it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wal = path.with_name(path.name + "-wal")
        self._connection: apsw.Connection | None = None
        self._using = threading.Lock()

    @property
    def wal_bytes(self) -> int:
        """How long the WAL is, used again or not."""
        try:
            return self._wal.stat().st_size
        except FileNotFoundError:
            return 0

    def passive(self) -> None:
        """Move into the file what no reader holds back, without making anybody wait."""
        with self._using, Guard(_nothing):
            self._opened().wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def truncate(self) -> bool:
        """Move all of it and cut the WAL to nothing; False where a reader or the pen was in the way."""
        try:
            with self._using:
                connection = self._opened()
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except apsw.BusyError:
            return False
        except apsw.Error as problem:
            raise translated(problem) from problem
        return True

    def close(self) -> None:
        """Close the connection."""
        with self._using:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _opened(self) -> apsw.Connection:
        if self._connection is None:
            connection = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READWRITE)
            connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
            for pragma in (
                "synchronous=FULL",
                "wal_autocheckpoint=0",
                f"journal_size_limit={WAL_BYTES_MAX}",
            ):
                connection.execute(f"PRAGMA {pragma}").fetchall()
            connection.set_busy_handler(_patient)
            self._connection = connection
        return self._connection


def _patient(looks: int) -> bool:
    """Wait for a lock that another connection holds; False when that has lasted too long."""
    time.sleep(LOOK_S)
    return looks * LOOK_S < TRUNCATE_WAIT_S


def _nothing() -> None:
    """Nothing is open that could be undone."""
