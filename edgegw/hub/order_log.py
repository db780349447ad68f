"""The hub's log of orders: who proposed, approved and rejected what, record by record.

The mathematics of every other log here: records verbatim, each chained to the one before, a Merkle tree, a
checkpoint that the hub signs. Its origin is that of a directive log no box can have (number 0), so that
`edgegw/verifier.py` proves an export as it is. A person's signature in a record binds it to the record before
it. Whoever can write in the database can cut off the newest records together with their checkpoint, and
nothing else, unseen: a checkpoint that was kept elsewhere shows that, too. Leaves out what orders do
(`hub.order_actions`) and who may give them (`hub.orders`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, insert, select, update

from edgegw.access.operators import Operators
from edgegw.core import journal
from edgegw.core.export import journal_lines
from edgegw.core.journal import Checkpoint, Frontier, NoteError
from edgegw.core.records import UNREADABLE
from edgegw.hub.keyring import Keyring
from edgegw.hub.schema import order_head, order_record, schema_version

LOG_NAME: Final = "orders"
LOG_NUMBER: Final = 0
STATEMENT: Final = "edgegw/order/v1"
RECORD_VERSION: Final = 1


class Step(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    """What every record of the log names. box and incarnation are the log's own name and number."""

    v: int
    bank: str
    box: str
    incarnation: int
    seq: int
    wall_ns: int
    number: int
    """The order's."""
    after: str
    """The leaf of the record before, hex: nothing that was signed fits another place."""
    by: str = ""
    """Who; "" where the hub's settings list no operators and nobody gave a name, and for the hub itself."""
    signature: str = ""
    """Of the statement that these fields make (`statement_of`), hex; "" where no operators are listed."""


class Proposed(Step, frozen=True, kw_only=True, tag="proposed"):
    """A maker's order, which waits for a checker."""

    action: str
    arguments: msgspec.Raw
    reason: str
    attachment: str = ""
    """The digest (SM3, hex) of what comes with it, as a site bundle."""
    expires_ns: int


class Approved(Step, frozen=True, kw_only=True, tag="approved"):
    """Another person's word: it was carried out with this record."""

    proposal: str
    """The leaf of the proposal, hex."""
    outcome: str


class Rejected(Step, frozen=True, kw_only=True, tag="rejected"):
    """A checker's refusal, or the maker's own withdrawal."""

    proposal: str
    reason: str


class Expired(Step, frozen=True, kw_only=True, tag="expired"):
    """Nobody approved it in time; the hub says so."""

    proposal: str


class Ordered(Step, frozen=True, kw_only=True, tag="ordered"):
    """An order that one person may give: it was carried out with this record."""

    action: str
    arguments: msgspec.Raw
    reason: str
    attachment: str = ""
    outcome: str


class Listing(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One operator, as the hub's settings say."""

    name: str
    key: str
    roles: tuple[str, ...]
    actions: tuple[str, ...] = ()
    revoked: bool = False


class Listed(Step, frozen=True, kw_only=True, tag="operators"):
    """Whose word counts from here on, by the hub's settings; the hub says so before the first order under
    them. Its number is 0."""

    operators: tuple[Listing, ...]


OrderRecord = Listed | Proposed | Approved | Rejected | Expired | Ordered
_decoder: msgspec.json.Decoder[OrderRecord] = msgspec.json.Decoder(OrderRecord)


def statement_of(record: OrderRecord) -> bytes:
    """What a person signs: the whole record as it is written, without the signature and the outcome."""
    changes: dict[str, str] = {"signature": ""}
    if isinstance(record, Approved | Ordered):
        changes["outcome"] = ""
    return f"{STATEMENT}\n".encode() + msgspec.json.encode(msgspec.structs.replace(record, **changes)) + b"\n"


class OrderLog:
    """The open end of the log in one SQL transaction, behind a lock that lets one order in at a time."""

    def __init__(self, connection: Connection, keyring: Keyring) -> None:
        self._connection = connection
        self._keyring = keyring
        # Always there, and nothing but orders waits for it: the log's own row is not, before the first one.
        connection.execute(select(schema_version.c.version).with_for_update()).one()
        row = connection.execute(select(order_head)).one_or_none()
        self._is_new = row is None
        self._frontier = Frontier() if row is None else Frontier.from_bytes(row.frontier)
        self.last_leaf: bytes = journal.FIRST_PREVIOUS if row is None else bytes(row.last_leaf)

    def note_operators(self, *, now_ns: int) -> None:
        """Write down whose word counts, where that is not what the log says: settings that were changed for a
        moment leave a trace in it."""
        listed = tuple(
            Listing(
                name=one.name,
                key=one.key_text,
                roles=tuple(sorted(one.roles)),
                actions=tuple(sorted(one.actions)),
                revoked=one.is_revoked,
            )
            for one in self._keyring.operators
        )
        table = order_record.c
        newest = self._connection.execute(
            select(table.body).where(table.number == 0).order_by(table.seq.desc()).limit(1)
        ).scalar_one_or_none()
        known = () if newest is None else getattr(decode(bytes(newest)), "operators", ())
        if known != listed:
            self.append(Listed(**self.head(0, now_ns=now_ns), operators=listed))

    def head(self, number: int, *, now_ns: int) -> dict[str, Any]:
        """The fields that every record has."""
        return {
            "v": RECORD_VERSION,
            "bank": self._keyring.bank,
            "box": LOG_NAME,
            "incarnation": LOG_NUMBER,
            "seq": self.size,
            "wall_ns": now_ns,
            "number": number,
            "after": self.last_leaf.hex(),
        }

    @property
    def size(self) -> int:
        """How many records it holds."""
        return self._frontier.size

    def append(self, record: OrderRecord) -> bytes:
        """Write a record and the checkpoint over it; its leaf."""
        body = msgspec.json.encode(record)
        leaf = journal.leaf_hash(self.last_leaf, body)
        self._connection.execute(
            insert(order_record).values(seq=self.size, number=record.number, leaf=leaf, body=body)
        )
        self._frontier.extend([leaf])
        self.last_leaf = leaf
        origin = origin_of(self._keyring.bank)
        values = {
            "size": self.size,
            "frontier": self._frontier.to_bytes(),
            "last_leaf": leaf,
            "checkpoint": self._keyring.key.seal(Checkpoint(origin, self.size, self._frontier.root()).body()),
        }
        if self._is_new:
            self._connection.execute(insert(order_head).values(id=1, **values))
            self._is_new = False
        else:
            self._connection.execute(update(order_head).where(order_head.c.id == 1).values(**values))
        return leaf


def origin_of(bank: str) -> str:
    """The log's origin line."""
    return journal.directives_origin(bank=bank, box=LOG_NAME, incarnation=LOG_NUMBER)


def decode(body: bytes) -> OrderRecord:
    """A record from its bytes; raises msgspec.DecodeError."""
    try:
        return _decoder.decode(body)
    except UNREADABLE as problem:
        raise msgspec.DecodeError(str(problem)) from None


def records_of(connection: Connection) -> list[tuple[int, bytes, bytes]]:
    """Every record: seq, leaf, bytes, in order. A bank's people give some thousand orders a year."""
    table = order_record.c
    rows = connection.execute(select(table.seq, table.leaf, table.body).order_by(table.seq))
    return [(row.seq, bytes(row.leaf), bytes(row.body)) for row in rows]


def checkpoint_of(connection: Connection) -> str:
    """The hub's newest signed note over the log; "" before the first order."""
    return connection.execute(select(order_head.c.checkpoint)).scalar_one_or_none() or ""


def export_lines(connection: Connection, keyring: Keyring) -> Iterator[bytes]:
    """The log as a file that `edgegw verify journal` proves with the hub's key."""
    entries = [(body, leaf) for _, leaf, body in records_of(connection)]
    return journal_lines(
        origin_of(keyring.bank), entries, checkpoint=checkpoint_of(connection), cosignatures=()
    )


def problems_of(connection: Connection, keyring: Keyring) -> Iterator[str]:
    """What is wrong with the log: chain, tree, the hub's signature, every person's. Nothing: it is sound."""
    frontier, leaf = Frontier(), journal.FIRST_PREVIOUS
    for place, (seq, kept, body) in enumerate(records_of(connection)):
        if seq != place:
            yield f"record {place} is missing"
            return
        previous, leaf = leaf, journal.leaf_hash(leaf, body)
        if kept != leaf:
            yield f"record {seq} is not what was written there: its bytes do not give its leaf"
            return
        frontier.extend([leaf])
        yield from _record_problems(keyring.operators, body, seq, previous)
    note = checkpoint_of(connection)
    if not note and not frontier.size:
        return
    try:
        signed = keyring.key.public.open(note)
    except NoteError as problem:
        yield f"the checkpoint is not the hub's: {problem}"
        return
    if (signed.size, signed.root) != (frontier.size, frontier.root()):
        yield f"{frontier.size} records are here, and they are not the {signed.size} that the hub has signed"


def _record_problems(operators: Operators, body: bytes, seq: int, previous: bytes) -> Iterator[str]:
    try:
        record = decode(body)
    except msgspec.DecodeError as problem:
        yield f"record {seq} cannot be read: {problem}"
        return
    if record.after != previous.hex():
        yield f"record {seq} was signed for another place"
    if not record.signature:
        return
    if not operators.key_text(record.by):
        yield f"record {seq} is {record.by}'s, who is not listed any more; list them as revoked"
    elif not operators.has_signed(record.by, statement_of(record), bytes.fromhex(record.signature)):
        yield f"record {seq} was not signed by {record.by}"
