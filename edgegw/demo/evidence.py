"""What the report judges: the answers file, and both databases by SQL of its own. Reads, and judges nothing.

The box's file is read with apsw and the hub's with pysqlite3, each read-only, after the processes have ended.
Record bodies are parsed as plain JSON here; nothing of the product's own decoding is used.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import apsw
import pysqlite3

from edgegw.demo.answers import Answered, Event, Mistaken, Opening, Told, read_entries

SEQ_BITS: Final = 40
Key = tuple[str, ...]


class Record(NamedTuple):
    """One record of a journal, from either database."""

    epoch: int
    seq: int
    leaf: bytes
    body: bytes
    said: dict[str, Any]

    @property
    def place(self) -> str:
        """Its place as answers name it."""
        return f"{self.epoch}/{self.seq}"

    @property
    def legs(self) -> list[list[Any]]:
        """[debit, credit, amount, flags, pending] each."""
        return [leg[:5] for leg in self.said.get("legs", [])]

    @property
    def key(self) -> Key | None:
        """What a client would call it; None for a record that answers nobody."""
        if self.said["type"] not in ("transfer", "refusal"):
            return None
        client, request = self.said["client"], self.said["request"]
        if client.startswith("iso8583:"):
            return client, request["kind"], request["reference"]
        return client, request["id"]


def key_of(answer: Answered) -> Key:
    """What its client would call it."""
    if answer.way == "iso8583":
        return f"iso8583:{answer.client}", answer.kind, answer.id
    return answer.client, answer.id


class Day(NamedTuple):
    """The answers file, sorted by kind of line."""

    opening: Opening
    first: dict[Key, Answered]
    again: list[Answered]
    mistakes: list[Mistaken]
    events: list[Event]
    told: list[Told]

    def event(self, what: str) -> Event | None:
        """The last event of this name."""
        return next((event for event in reversed(self.events) if event.what == what), None)


def read_day(path: Path) -> Day:
    """The day as the clients saw it; raises ValueError for a file without its first line."""
    opening: Opening | None = None
    day = Day(Opening(accounts={}, homes={}, currencies={}), {}, [], [], [], [])
    for entry in read_entries(path):
        if isinstance(entry, Opening):
            opening = entry
        elif isinstance(entry, Answered):
            if entry.again:
                day.again.append(entry)
            else:
                day.first[key_of(entry)] = entry
        elif isinstance(entry, Mistaken):
            day.mistakes.append(entry)
        elif isinstance(entry, Told):
            day.told.append(entry)
        else:
            day.events.append(entry)
    if opening is None:
        raise ValueError(f"{path} does not begin with the opening balances")
    return day._replace(opening=opening)


class BoxFile(NamedTuple):
    """The box's ledger file."""

    records: list[Record]
    heads: dict[int, tuple[int, bytes]]
    """Epoch to size and root."""
    cosigned: dict[int, int]
    """Epoch to the size that the hub has cosigned."""


def read_box(path: Path) -> BoxFile:
    """All of the box's ledger file that the report needs."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        rows = connection.execute("SELECT position, leaf, body FROM record ORDER BY position")
        records = [_record(position, leaf, body) for position, leaf, body in rows]
        heads = {
            epoch: (size, root)
            for epoch, size, root in connection.execute("SELECT epoch, size, root FROM head")
        }
        cosigned = dict(connection.execute("SELECT epoch, size FROM cosignature"))
    finally:
        connection.close()
    return BoxFile(records, heads, cosigned)


def _record(position: int, leaf: bytes, body: bytes) -> Record:
    epoch, seq = position >> SEQ_BITS, position & ((1 << SEQ_BITS) - 1)
    return Record(epoch, seq, leaf, body, _parsed(body))


def _parsed(body: bytes) -> dict[str, Any]:
    """The body as JSON; what was edited into something else keeps a type that matches nothing."""
    try:
        said = json.loads(body)
    except ValueError:
        return {"type": "unreadable"}
    return said if isinstance(said, dict) and "type" in said else {"type": "unreadable"}


class HubFile(NamedTuple):
    """The hub's database."""

    records: list[Record]
    heads: dict[int, tuple[int, bytes]]
    accounts: dict[str, tuple[str, int, int]]
    """Account to its currency, balance and what is available."""
    outstanding: dict[tuple[int, str], int]
    """(epoch, account) to what the box holds."""
    counters: dict[tuple[int, str], tuple[int, int, int, int]]
    """(epoch, account) to debits pending and posted, credits pending and posted, as the hub replayed them."""
    stand_ins: dict[str, tuple[str, str, bool]]
    """Place to its state, who is liable, and whether the box has journalled the word."""
    suspense: list[str]


def open_hub(path: Path) -> Any:
    """A read-only connection to the hub's database; it may run meanwhile."""
    return pysqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)


def read_hub(path: Path, *, box: str) -> HubFile:
    """All of the hub's database that the report needs, of one box."""
    connection = open_hub(path)

    def rows(sql: str) -> Iterator[tuple[Any, ...]]:
        yield from connection.execute(sql, {"box": box} if ":box" in sql else {})

    try:
        return HubFile(
            records=[
                Record(epoch, seq, leaf, body, _parsed(body))
                for epoch, seq, leaf, body in rows(
                    "SELECT epoch, seq, leaf, body FROM record WHERE box = :box ORDER BY epoch, seq"
                )
            ],
            heads={
                epoch: (size, root)
                for epoch, size, root in rows("SELECT epoch, size, root FROM journal_head WHERE box = :box")
            },
            accounts={
                name: (currency, balance, available)
                for name, currency, balance, available in rows(
                    "SELECT account_id, currency, balance_minor, available_minor FROM account"
                )
            },
            outstanding={
                (epoch, name): amount
                for epoch, name, amount in rows(
                    "SELECT epoch, account_id, amount_minor FROM outstanding WHERE box = :box"
                )
            },
            counters={
                (row[0], row[1]): (row[2], row[3], row[4], row[5])
                for row in rows(
                    "SELECT epoch, account_id, debits_pending, debits_posted, credits_pending,"
                    " credits_posted FROM box_balance WHERE box = :box"
                )
            },
            stand_ins={
                f"{epoch}/{seq}": (state, liable, bool(settled))
                for epoch, seq, state, liable, settled in rows(
                    "SELECT epoch, seq, state, liable, settled FROM stand_in WHERE box = :box"
                )
            },
            suspense=[
                f"{epoch}/{seq}: {reason}: {detail}"
                for epoch, seq, reason, detail in rows("SELECT epoch, seq, reason, detail FROM suspense_item")
            ],
        )
    finally:
        connection.close()


def unsettled_stand_ins(path: Path) -> int:
    """How many stand-ins still wait for the centre's word, or for the box to journal it."""
    connection = open_hub(path)
    try:
        found: int = connection.execute("SELECT count(*) FROM stand_in WHERE NOT settled").fetchone()[0]
    finally:
        connection.close()
    return found
