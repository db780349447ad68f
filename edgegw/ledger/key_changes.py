"""What a ledger keeps of its epochs' keys: the statements of those that took over, what the hub has revoked,
and the policy that follows.

Part of a `Store` (its `keys`), on the same connection and inside the same SQL transactions. Leaves out what a
policy is (`core.key_policy`) and whose link names the first key (`ledger.received`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import apsw

from edgegw.ledger.faults import Guard


class KeyNote(NamedTuple):
    """The statement of the record at seq by which another key takes over."""

    seq: int
    note: str


class KeyTables:
    """See the module; `guarded` is the store's."""

    def __init__(self, connection: apsw.Connection, guarded: Callable[[], Guard]) -> None:
        self._db = connection
        self._guarded = guarded

    def notes(self, epoch: int) -> list[KeyNote]:
        """The statements of an epoch, in order."""
        with self._guarded():
            rows = self._db.execute("SELECT seq, note FROM key_change WHERE epoch = ? ORDER BY seq", (epoch,))
            return [KeyNote(int(seq), str(note)) for seq, note in rows]

    def revoked(self) -> list[str]:
        """The hub's words that revoke keys of this box, each a signed note."""
        with self._guarded():
            return [str(row[0]) for row in self._db.execute("SELECT note FROM revoked_key ORDER BY note")]

    # --- writing, inside the store's transactions ---------------------------------------------------------

    def put(self, epoch: int, one: KeyNote) -> None:
        """Keep the statement of a record that is written with it."""
        with self._guarded():
            self._db.execute("INSERT INTO key_change VALUES(?, ?, ?)", (epoch, *one))

    def replace(self, epoch: int, notes: Iterable[KeyNote], *, start: int) -> None:
        """Keep these statements of records from seq `start` on, and no others from there: what was said
        beside a checkpoint gives way to what the records say."""
        with self._guarded():
            self._db.execute("DELETE FROM key_change WHERE epoch = ? AND seq >= ?", (epoch, start))
            rows = [(epoch, *one) for one in notes if one.seq >= start]
            self._db.executemany("INSERT INTO key_change VALUES(?, ?, ?)", rows)

    def put_revoked(self, note: str) -> None:
        """Keep the hub's word that revokes a key; it is never taken back."""
        with self._guarded():
            self._db.execute("INSERT OR IGNORE INTO revoked_key VALUES(?)", (note,))
