"""The tables of other histories: what a fork of this box decided in an epoch, of which the centre has the
records and this ledger has its own.

Only identities and outcomes are kept, as of pruned records (`ledger.remains`): a payment that was answered
there is answered here, never decided again. Part of a `Store` (its `others`), on the same connection. Leaves
out who asks for them (`uplink.others`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import apsw

from edgegw.core.exchange import LogEnd
from edgegw.core.journal import Frontier
from edgegw.core.pruned import Pruned
from edgegw.errors import LedgerCorrupt
from edgegw.ledger.faults import Guard
from edgegw.ledger.remains import Value, find_in, identity_of, outcome_of, scan
from edgegw.ledger.rows import position_of, row_of_bytes

_TABLE: Final = "other_identity"


class OtherTables:
    """See the module; `guarded` is the store's."""

    def __init__(self, connection: apsw.Connection, guarded: Callable[[], Guard]) -> None:
        self._db = connection
        self._guarded = guarded

    def find(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Pruned]:
        """The outcomes of these identities, (client, id in hex); raises LedgerCorrupt for what has rotted."""
        return find_in(_TABLE, self._rows, keys)

    def ends(self) -> list[LogEnd]:
        """How far each is known, one an epoch, oldest first."""
        rows = self._rows("SELECT epoch, frontier, leaf FROM other_history ORDER BY epoch", ())
        return [LogEnd(epoch, Frontier.from_bytes(edge), leaf) for epoch, edge, leaf in rows]

    def keep(self, end: LogEnd, records: Sequence[bytes]) -> None:
        """Keep what the records before `end` decided, inside the store's transaction.

        What this ledger has decided itself is answered from its own record all the same; what cannot be read
        decides nothing.
        """
        start = end.frontier.size - len(records)
        identities = []
        for seq, body in enumerate(records, start):
            row = row_of_bytes(body, leaf=b"", epoch=end.number, seq=seq)
            if row.id is not None:
                place = position_of(epoch=end.number, seq=seq)
                identities.append(identity_of(row._replace(position=place)))
        with self._guarded():
            before = self._db.total_changes()
            self._db.executemany(f"INSERT OR IGNORE INTO {_TABLE} VALUES(?, ?, ?, ?)", identities)
            fresh = self._db.total_changes() - before
            self._db.execute(
                "INSERT INTO other_history VALUES(?, ?, ?, ?) ON CONFLICT(epoch) DO UPDATE SET"
                " frontier = excluded.frontier, leaf = excluded.leaf,"
                " identities = identities + excluded.identities",
                (end.number, end.frontier.to_bytes(), end.leaf, fresh),
            )

    def read(self, each: int) -> Iterator[int]:
        """Read all of it again; yields how many rows a run had, raises LedgerCorrupt where it is not what was
        kept."""
        kept = dict(self._rows("SELECT epoch, identities FROM other_history", ()))
        found: Counter[int] = Counter()
        for rows in scan(_TABLE, self._rows, each):
            found.update(outcome_of(row).epoch for row in rows)
            yield len(rows)
        for epoch, count in kept.items():
            if found[epoch] < count:
                raise LedgerCorrupt(
                    f"of {count} outcomes of the other history of epoch {epoch} {found[epoch]} are here"
                )

    def _rows(self, statement: str, values: Sequence[Value]) -> list[Any]:
        with self._guarded():
            return self._db.execute(statement, tuple(values)).fetchall()
