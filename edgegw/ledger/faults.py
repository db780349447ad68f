"""How SQLite's errors become the errors of this house, in one place.

Everything here is before COMMIT: what was open is undone, so the error may promise that nothing was decided.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Final

import apsw

from edgegw.errors import (
    BrokenInvariant,
    LedgerCorrupt,
    OperatingError,
    StorageBusy,
    StorageFailed,
    StorageFull,
)

_NO_ROOM: Final = frozenset({apsw.SQLITE_FULL, apsw.SQLITE_IOERR_SHMSIZE})
"""A full disk; the second comes when the WAL's index cannot grow."""
_CORRUPT: Final = (apsw.CorruptError, apsw.NotADBError, apsw.FormatError)
_DISK: Final = (
    apsw.IOError,
    apsw.CantOpenError,
    apsw.ReadOnlyError,
    apsw.NoMemError,
    apsw.ProtocolError,
    apsw.PermissionsError,
)


class Guard:
    """A `with` block in which SQLite's errors become ours, after `undo` was called."""

    __slots__ = ("_undo",)

    def __init__(self, undo: Callable[[], None]) -> None:
        self._undo = undo

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Undo and translate."""
        if isinstance(problem, apsw.Error):
            self._undo()
            raise translated(problem) from problem
        if isinstance(problem, UnicodeDecodeError):
            self._undo()
            raise LedgerCorrupt(f"a text of the ledger is no UTF-8: {problem}") from problem


def translated(problem: apsw.Error) -> OperatingError | BrokenInvariant:
    """Our error for one of SQLite's, raised before any COMMIT was tried."""
    code = getattr(problem, "extendedresult", 0)
    text = f"{problem} (SQLite {code})"
    if isinstance(problem, apsw.FullError) or code in _NO_ROOM:
        return StorageFull(text)
    if isinstance(problem, apsw.BusyError | apsw.LockedError):
        return StorageBusy(text)
    if isinstance(problem, _CORRUPT):
        return LedgerCorrupt(text)
    if isinstance(problem, apsw.SQLError):
        return LedgerCorrupt(f"the tables are not those that this program makes: {text}")
    if isinstance(problem, _DISK):
        return StorageFailed(text)
    return BrokenInvariant(text)
