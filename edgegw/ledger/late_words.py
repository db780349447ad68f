"""What became of payments after their answers, found in the journal, and how far each client has taken note.

A late word is the record of a hold that expired, of the centre's confirmation or decline, or of a payment
that a kept reversal has met, as the indexes `record_late` and `record_acknowledgement` lead to it: the
records are the only truth. Part of a `Store` (its `late`), on the same connection. Leaves out what clients
are told of it (`payments.notices`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import apsw
import msgspec

from edgegw.core.records import Acknowledgement, decode_record, parse_place
from edgegw.errors import LedgerCorrupt
from edgegw.ledger.faults import Guard
from edgegw.ledger.rows import place_at, position_of

_AFTER: Final = """SELECT late.position, late.original, meant.client FROM (
        SELECT position, original FROM record INDEXED BY record_late
        WHERE type IN ('directive', 'expiry', 'refusal') AND original IS NOT NULL AND position > ?
        ORDER BY position LIMIT ?) late
    LEFT JOIN record meant ON meant.position = late.original ORDER BY late.position"""
_LAST: Final = """SELECT coalesce(max(position), 0) FROM record INDEXED BY record_late
    WHERE type IN ('directive', 'expiry', 'refusal') AND original IS NOT NULL"""
_ONE: Final = """SELECT 1 FROM record
    WHERE position = ? AND type IN ('directive', 'expiry', 'refusal') AND original IS NOT NULL"""
_NEWEST: Final = """SELECT position, body FROM record INDEXED BY record_acknowledgement
    WHERE type = 'acknowledgement' AND client = ? ORDER BY position DESC LIMIT 1"""
_APPLIED: Final = b'"outcome":"applied"'
"""Only a key of the record itself is written so: quotes inside texts are escaped."""
_UNNOTED: Final = """WITH unnoted AS (
    SELECT meant.client AS client, r.position AS position, r.original AS original
    FROM record r INDEXED BY record_late JOIN record meant ON meant.position = r.original
    WHERE r.type IN ('directive', 'expiry', 'refusal') AND r.original IS NOT NULL
    AND (r.type <> 'directive' OR instr(r.body, ?1) > 0)
    AND (r.position > coalesce((SELECT a.original FROM record a INDEXED BY record_acknowledgement
            WHERE a.type = 'acknowledgement' AND a.client = meant.client
            ORDER BY a.position DESC LIMIT 1), -1)
        OR r.position IN (SELECT value FROM json_each(?2))))"""
_BY_CLIENT: Final = f"{_UNNOTED} SELECT client, count(*), min(position) FROM unnoted GROUP BY client"  # noqa: S608 - our own words
_BY_EPOCH: Final = f"""{_UNNOTED} SELECT min(position), client FROM unnoted GROUP BY position >> 40
    UNION ALL SELECT min(original), client FROM unnoted GROUP BY original >> 40"""  # noqa: S608 - our own words
_CLIENTS: Final = """SELECT DISTINCT client FROM record INDEXED BY record_acknowledgement
    WHERE type = 'acknowledgement'"""


class LateWord(NamedTuple):
    """Positions of a late word and of the record that it is about, and whose payment that was."""

    position: int
    original: int
    client: str | None


class Noted(NamedTuple):
    """How far a client has taken note: the place of the newest record that says so ("" for none), up to
    which position, and which positions before that are excepted."""

    record: str = ""
    up_to: int = -1
    apart: tuple[int, ...] = ()


class Unnoted(NamedTuple):
    """Late words that a client has not taken note of: how many, and the oldest one's position."""

    client: str
    notices: int
    oldest: int


class LateWords:
    """See the module; `guarded` is the store's."""

    def __init__(self, connection: apsw.Connection, guarded: Callable[[], Guard]) -> None:
        self._db = connection
        self._guarded = guarded

    def after(self, position: int, *, limit: int) -> list[LateWord]:
        """The next late words behind a position, in the journal's order, whoever they are for."""
        return [LateWord(*row) for row in self._rows(_AFTER, (position, limit))]

    def noted(self, client: str) -> Noted:
        """How far a client has taken note."""
        rows = self._rows(_NEWEST, (client,))
        if not rows:
            return Noted()
        position, body = rows[0]
        try:
            record = decode_record(bytes(body))
        except msgspec.DecodeError as problem:
            place = place_at(position)
            raise LedgerCorrupt(f"the acknowledgement at {place} cannot be read: {problem}") from None
        if not isinstance(record, Acknowledgement):
            raise LedgerCorrupt(f"the record at {place_at(position)} is no acknowledgement")
        return Noted(
            f"{record.epoch}/{record.seq}", _position(record.up_to), tuple(map(_position, record.apart))
        )

    def unnoted(self) -> list[Unnoted]:
        """What each client has not taken note of, by client; reads every such late word."""
        return [Unnoted(*row) for row in self._rows(_BY_CLIENT, (_APPLIED, self._apart()))]

    def oldest_needed(self) -> dict[int, tuple[int, str]]:
        """For each epoch the oldest seq that somebody is still to be told of, word or payment, and whom."""
        found: dict[int, tuple[int, str]] = {}
        for position, client in self._rows(_BY_EPOCH, (_APPLIED, self._apart())):
            epoch, seq = place_at(position)
            found[epoch] = min(found.get(epoch, (seq, client)), (seq, client))
        return found

    def newest(self) -> int:
        """The position of the newest late word, whoever it is for; 0 before the first."""
        return int(self._rows(_LAST, ())[0][0])

    def is_late(self, position: int) -> bool:
        """Whether a record is a late word."""
        return bool(self._rows(_ONE, (position,)))

    def _apart(self) -> str:
        clients = [str(row[0]) for row in self._rows(_CLIENTS, ())]
        return msgspec.json.encode([one for client in clients for one in self.noted(client).apart]).decode()

    def _rows(self, statement: str, values: tuple[int | str | bytes, ...]) -> list[Any]:
        with self._guarded():
            return self._db.execute(statement, values).fetchall()


def _position(place: str) -> int:
    epoch, seq = parse_place(place)
    return position_of(epoch=epoch, seq=seq)
