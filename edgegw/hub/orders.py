"""Orders, and the two people that some of them take: a maker proposes, another checks, each step a record.

Where the hub's settings list operators, an order that takes two waits until another person has approved it,
and is then carried out in the SQL transaction of that person's record. Where none are listed, every order
acts at once: a bank that has set nobody up could approve nothing, and `findings` says that one pair of eyes
is all there is. Leaves out what orders do (`hub.order_actions`) and the log's form (`hub.order_log`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import Connection, func, insert, select

from edgegw.access.operators import CHECKER, MAKER, OperatorError, Person
from edgegw.core.card_numbers import holds_card_number
from edgegw.core.journal import sm3
from edgegw.hub.database import Database
from edgegw.hub.keyring import Keyring
from edgegw.hub.operate import OrderError
from edgegw.hub.order_actions import Action, Scene, decode_action, recall_before
from edgegw.hub.order_log import (
    Approved,
    Expired,
    Ordered,
    OrderLog,
    OrderRecord,
    Proposed,
    Rejected,
    decode,
    records_of,
    statement_of,
)
from edgegw.hub.schema import order_attachment, order_record

WAITS_NS: Final = 24 * 3600 * 1_000_000_000
"""How long a proposal may be approved: a day's shifts; what nobody approved by then is asked for anew."""
REASON_CHARACTERS_MAX: Final = 500
WAITING: Final = "waiting"


class Given(NamedTuple):
    """What came of a step."""

    number: int
    is_done: bool
    """Whether something was carried out; else it waits, or it was rejected or has expired."""
    outcome: str


class Order(NamedTuple):
    """An order as people read it."""

    number: int
    state: str
    """done (one person was enough), waiting, approved, rejected, expired."""
    action: str
    arguments: dict[str, Any]
    reason: str
    by: str
    wall_ns: int
    expires_ns: int
    checked_by: str
    checked_ns: int
    outcome: str
    """What was done, or why it was rejected."""


class _Desk:
    """One step: the log's open end, the time, and who acts."""

    def __init__(self, connection: Connection, keyring: Keyring, *, by: Person, now_ns: int) -> None:
        self.connection = connection
        self.keyring = keyring
        self.by = by
        self.now_ns = now_ns
        self.log = OrderLog(connection, keyring)
        self.log.note_operators(now_ns=now_ns)

    def head(self, number: int) -> dict[str, Any]:
        """The fields that every record has."""
        return {**self.log.head(number, now_ns=self.now_ns), "by": self.by.name}

    def write(self, record: OrderRecord, *, role: str, action: str) -> bytes:
        """Let the person sign a record, where operators are listed, and append it; its leaf."""
        operators = self.keyring.operators
        if operators:
            signature = operators.signed(self.by, statement_of(record), role=role, action=action)
            record = msgspec.structs.replace(record, signature=signature)
        return self.log.append(record)

    def number(self) -> int:
        """The next order's number."""
        newest = self.connection.execute(select(func.max(order_record.c.number))).scalar()
        return (newest or 0) + 1

    def keep(self, attachment: bytes) -> str:
        """Keep what comes with an order; its digest, "" for nothing."""
        if not attachment:
            return ""
        digest, table = sm3(attachment).hex(), order_attachment
        known = self.connection.execute(select(table.c.digest).where(table.c.digest == digest))
        if known.first() is None:
            self.connection.execute(insert(table).values(digest=digest, body=attachment))
        return digest

    def kept(self, digest: str) -> bytes:
        """It again; raises OrderError where it is not what the order names."""
        if not digest:
            return b""
        table = order_attachment
        query = select(table.c.body).where(table.c.digest == digest)
        body = bytes(self.connection.execute(query).scalar_one_or_none() or b"")
        if sm3(body).hex() != digest:
            raise OrderError(f"what came with the order is not what it names ({digest}); order it anew")
        return body


def give(
    connection: Connection,
    keyring: Keyring,
    action: Action,
    *,
    by: Person,
    reason: str,
    now_ns: int,
    attachment: bytes = b"",
) -> Given:
    """Order something: it is carried out at once, or it waits for another person; raises what the order
    raises, and OperatorError."""
    _check(reason)
    desk = _Desk(connection, keyring, by=by, now_ns=now_ns)
    number, name = desk.number(), str(action.__struct_config__.tag)
    named = {
        **desk.head(number),
        "action": name,
        "arguments": msgspec.Raw(msgspec.json.encode(action)),
        "reason": reason[:REASON_CHARACTERS_MAX],
        "attachment": desk.keep(attachment),
    }
    scene = Scene(connection, keyring, now_ns, by.name, attachment)
    if keyring.operators and action.takes_two:
        _try_out(action, scene)
        desk.write(Proposed(**named, expires_ns=now_ns + WAITS_NS), role=MAKER, action=name)
        return Given(
            number, False, f"order {number} waits for another person: edgegw orders approve {number}"
        )
    outcome = action.run(scene)
    desk.write(Ordered(**named, outcome=outcome), role=MAKER, action=name)
    return Given(number, True, outcome)


def _check(reason: str) -> None:
    """Raises OrderError where a reason names a card: it is kept for ever, at every box as well."""
    if holds_card_number(reason):
        raise OrderError("the reason holds what looks like a card number; write its last four digits")


def recall_first(
    database: Database, action: Action, *, now_ns: Callable[[], int], pause: Callable[[], None]
) -> None:
    """Let boxes give back what an order would decline for lack of, before it is given (DESIGN §4); pauses
    between its looks, for a few seconds in all."""
    while database.transact(lambda c: recall_before(c, action, now_ns=now_ns())):
        pause()


def proposed_action(connection: Connection, number: int) -> Action | None:
    """What waits under this number for another person; None where nothing does."""
    found = [record for _, record in _records(connection, number)]
    if len(found) != 1 or not isinstance(found[0], Proposed):
        return None
    return decode_action(bytes(found[0].arguments))


def _try_out(action: Action, scene: Scene) -> None:
    """Carry it out and take it back: what cannot be done is told to the maker, not to the checker."""
    savepoint = scene.connection.begin_nested()
    try:
        action.run(scene)
    finally:
        savepoint.rollback()


def approve(connection: Connection, keyring: Keyring, number: int, *, by: Person, now_ns: int) -> Given:
    """Carry out what another person has proposed; raises OrderError, OperatorError and what the order raises,
    with nothing done."""
    desk = _Desk(connection, keyring, by=by, now_ns=now_ns)
    proposed, leaf = _waiting(desk, number)
    if proposed.expires_ns <= now_ns:
        _expire(desk, number, leaf)
        return Given(number, False, f"order {number} has expired: nobody approved it in time; order it anew")
    if by.name == proposed.by:
        raise OperatorError(f"{by.name} has proposed order {number}; another person approves it")
    both = f"{proposed.by}+{by.name}"
    scene = Scene(connection, keyring, now_ns, both, desk.kept(proposed.attachment))
    outcome = decode_action(bytes(proposed.arguments)).run(scene)
    record = Approved(**desk.head(number), proposal=leaf.hex(), outcome=outcome)
    desk.write(record, role=CHECKER, action=proposed.action)
    return Given(number, True, outcome)


def reject(
    connection: Connection, keyring: Keyring, number: int, *, by: Person, reason: str, now_ns: int
) -> Given:
    """Say no to what waits: as another person, or as its maker who takes it back."""
    _check(reason)
    desk = _Desk(connection, keyring, by=by, now_ns=now_ns)
    proposed, leaf = _waiting(desk, number)
    role = MAKER if by.name == proposed.by else CHECKER
    record = Rejected(**desk.head(number), proposal=leaf.hex(), reason=reason[:REASON_CHARACTERS_MAX])
    desk.write(record, role=role, action=proposed.action)
    return Given(number, False, f"order {number} is rejected")


def expire_due(connection: Connection, keyring: Keyring, *, now_ns: int) -> int:
    """Write down what nobody has approved in time; how many."""
    due = [one for one in waiting(connection) if one.expires_ns <= now_ns]
    if not due:
        return 0
    desk = _Desk(connection, keyring, by=Person(), now_ns=now_ns)
    still = {one.number for one in waiting(connection)}  # behind the log's lock
    expired = [one.number for one in due if one.number in still]
    for number in expired:
        [(leaf, _)] = _records(connection, number)
        _expire(desk, number, leaf)
    return len(expired)


def _expire(desk: _Desk, number: int, leaf: bytes) -> None:
    desk.log.append(Expired(**{**desk.head(number), "by": ""}, proposal=leaf.hex()))


def _records(connection: Connection, number: int) -> list[tuple[bytes, OrderRecord]]:
    """An order's records with their leaves."""
    table = order_record.c
    rows = connection.execute(
        select(table.leaf, table.body).where(table.number == number).order_by(table.seq)
    )
    return [(bytes(row.leaf), decode(bytes(row.body))) for row in rows]


def _waiting(desk: _Desk, number: int) -> tuple[Proposed, bytes]:
    """A proposal that waits, as its maker has signed it, and its leaf. The log alone says that it waits."""
    found = _records(desk.connection, number)
    if not found:
        raise OrderError(f"there is no order {number}; `edgegw orders list` shows which wait")
    leaf, record = found[0]
    if not isinstance(record, Proposed) or len(found) > 1:
        state = "done" if isinstance(record, Ordered) else found[-1][1].__struct_config__.tag
        raise OrderError(f"order {number} is {state} already")
    signature = bytes.fromhex(record.signature)
    if record.number != number or not desk.keyring.operators.has_signed(
        record.by, statement_of(record), signature
    ):
        raise OrderError(
            f"order {number} is not what {record.by} has signed: `edgegw orders check` tells what was"
            " changed; order it anew"
        )
    return record, leaf


def waiting(connection: Connection) -> list[Order]:
    """What waits for a second person, the oldest first."""
    return [one for one in orders_of(connection) if one.state == WAITING]


def orders_of(connection: Connection) -> list[Order]:
    """Every order, the oldest first, as the log tells it."""
    found: dict[int, Order] = {}
    for record in _readable(connection):
        if isinstance(record, Proposed | Ordered):
            is_done = isinstance(record, Ordered)
            found[record.number] = Order(
                record.number,
                "done" if is_done else WAITING,
                record.action,
                msgspec.json.decode(record.arguments),
                record.reason,
                record.by,
                record.wall_ns,
                0 if isinstance(record, Ordered) else record.expires_ns,
                "",
                0,
                record.outcome if isinstance(record, Ordered) else "",
            )
        elif record.number in found:
            found[record.number] = found[record.number]._replace(
                state=str(record.__struct_config__.tag),
                checked_by=record.by,
                checked_ns=record.wall_ns,
                outcome=record.outcome
                if isinstance(record, Approved)
                else record.reason
                if isinstance(record, Rejected)
                else "",
            )
    return list(found.values())


def _readable(connection: Connection) -> Iterator[OrderRecord]:
    for _, _, body in records_of(connection):
        yield decode(body)
