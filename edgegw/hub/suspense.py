"""Suspense at the centre: what a record said and the books could not take, item by item, until a person is
done with it (DESIGN §3.10).

An item is named `box/epoch/seq` (`+n` for the n-th other history). It is open, parked or closed, its steps
are kept, and no row is ever deleted. A posting of the bank core's whose id is `suspense:NAME` closes it.
Leaves out what puts items here (`hub.replay`), booking them again (`hub.retry`) and receivables
(`hub.receivables`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, and_, func, insert, select, tuple_, update

from edgegw.hub import schema
from edgegw.hub.schema import BRANCH_SEQS

OPEN, PARKED, CLOSED = "open", "parked", "closed"
STATES: Final = (OPEN, PARKED, CLOSED)
POSTING_PREFIX: Final = "suspense:"
DAY_NS: Final = 86_400 * 1_000_000_000
BY_CHARS_MAX: Final = 64
PAGE_ROWS: Final = 500
RAISED_EACH: Final = 200
"""Aged items that one transaction tells of."""

_NAME: Final = re.compile(r"([a-z0-9][a-z0-9-]{0,31})/([0-9]{1,7})/([0-9]{1,15})(?:\+([0-9]{1,4}))?\Z")


class SuspenseError(ValueError):
    """An order about an item that cannot be carried out; the text says why and what would help."""


class Place(NamedTuple):
    """Where an item's record is kept: seq counts as `schema.BRANCH_SEQS` says."""

    box: str
    epoch: int
    seq: int

    @property
    def name(self) -> str:
        """The item's name."""
        branch, own = divmod(self.seq, BRANCH_SEQS)
        return f"{self.box}/{self.epoch}/{own}" + (f"+{branch}" if branch else "")

    @classmethod
    def parse(cls, name: str) -> Place:
        """From its name; raises SuspenseError."""
        found = _NAME.match(name)
        if found is None:
            raise SuspenseError(f"{name!r} names no item; write box/epoch/record as `list` does")
        return cls(found[1], int(found[2]), int(found[4] or 0) * BRANCH_SEQS + int(found[3]))


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """Something that somebody did about an item."""

    at_ns: int
    by: str
    action: str
    """`retry`, `park`, `posting`, `reversal` or `accept`."""
    detail: str


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """An item of the list."""

    item: str
    state: str
    owner: str
    """Who must act: `bank`, `branch:BOX` or `merchant:ACCOUNT`."""
    reason: str
    detail: str
    currency: str
    amount_minor: int
    """That is still to be settled; 0 where none is known."""
    at_ns: int
    """When the hub put it here, nanoseconds since 1970."""
    steps: int
    reference: str
    """What has closed it."""


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of an item, for whoever must settle it."""

    item: Item
    steps: tuple[Step, ...]
    record: str
    """The record's bytes as the box has signed them; in hex where they are no text."""
    leaf: str
    """Its leaf in the box's chain, hex."""
    settle_by: str
    """The id of a posting that closes it."""


def _item(row: Row[Any]) -> Item:
    return Item(
        item=Place(row.box, row.epoch, row.seq).name,
        state=row.state,
        owner=row.owner,
        reason=row.reason,
        detail=row.detail,
        currency=row.currency,
        amount_minor=row.amount_minor,
        at_ns=row.at_ns,
        steps=row.steps,
        reference=row.reference,
    )


def is_at(place: Place) -> ColumnElement[bool]:
    """Selects an item's row."""
    table = schema.suspense_item.c
    return and_(table.box == place.box, table.epoch == place.epoch, table.seq == place.seq)


# -- reading -----------------------------------------------------------------------------------------------


def page_of(
    connection: Connection, *, states: Sequence[str] = (OPEN,), box: str = "", after: str = ""
) -> list[Item]:
    """Up to PAGE_ROWS items in these states (of this box alone), in the order of their records, behind the
    one named `after`."""
    table = schema.suspense_item
    query = select(table).where(table.c.state.in_(states))
    if box:
        query = query.where(table.c.box == box)
    if after:
        query = query.where(tuple_(table.c.box, table.c.epoch, table.c.seq) > tuple(Place.parse(after)))
    query = query.order_by(table.c.box, table.c.epoch, table.c.seq).limit(PAGE_ROWS)
    return [_item(row) for row in connection.execute(query)]


def item_at(connection: Connection, place: Place, *, lock: bool = False) -> Item:
    """The item of this name, locked for whoever is to change it: several act on one at once, and one of them
    settles it. Raises SuspenseError."""
    query = select(schema.suspense_item).where(is_at(place))
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise SuspenseError(f"{place.name} is no item; `edgegw suspense list --all` has them all")
    return _item(row)


def evidence_of(connection: Connection, place: Place) -> Evidence:
    """An item with its steps and its record; raises SuspenseError."""
    item = item_at(connection, place)
    table, record = schema.suspense_step.c, schema.record.c
    steps = connection.execute(
        select(table.at_ns, table.by, table.action, table.detail)
        .where(table.box == place.box, table.epoch == place.epoch, table.seq == place.seq)
        .order_by(table.number)
    )
    row = connection.execute(
        select(record.body, record.leaf).where(
            record.box == place.box, record.epoch == place.epoch, record.seq == place.seq
        )
    ).one_or_none()
    return Evidence(
        item=item,
        steps=tuple(
            Step(at_ns=at_ns, by=by, action=action, detail=detail) for at_ns, by, action, detail in steps
        ),
        record="" if row is None else _as_text(bytes(row.body)),
        leaf="" if row is None else bytes(row.leaf).hex(),
        settle_by=POSTING_PREFIX + place.name,
    )


def _as_text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body.hex()


class Counts(NamedTuple):
    """What waits in suspense."""

    open: int
    parked: int
    aged: int
    oldest_ns: int
    """When the oldest open item came; 0 where there is none."""


def counts(connection: Connection, *, aged_before_ns: int) -> Counts:
    """How many items wait; aged are the open ones that came before that moment."""
    table = schema.suspense_item.c
    rows = connection.execute(
        select(table.state, func.count(), func.min(table.at_ns))
        .where(table.state.in_((OPEN, PARKED)))
        .group_by(table.state)
    )
    found = {state: (count, oldest) for state, count, oldest in rows}
    aged = connection.execute(
        select(func.count()).where(table.state == OPEN, table.at_ns < aged_before_ns)
    ).scalar_one()
    count, oldest_ns = found.get(OPEN, (0, 0))
    return Counts(count, found.get(PARKED, (0, 0))[0], aged, int(oldest_ns))


def new_row(
    place: Place,
    *,
    owner: str,
    reason: str,
    detail: str,
    now_ns: int,
    currency: str = "",
    amount_minor: int = 0,
) -> dict[str, str | int]:
    """The row of an item that nobody has acted on yet."""
    return {
        **place._asdict(),
        "owner": owner,
        "reason": reason,
        "detail": detail,
        "currency": currency,
        "amount_minor": amount_minor,
        "state": OPEN,
        "reference": "",
        "at_ns": now_ns,
        "steps": 0,
        "raised_ns": 0,
    }


# -- changing ----------------------------------------------------------------------------------------------


def note_step(
    connection: Connection,
    place: Place,
    *,
    by: str,
    action: str,
    detail: str,
    now_ns: int,
    **changes: str | int,
) -> None:
    """Keep that somebody did something about an item, and change its row with it."""
    table = schema.suspense_item
    steps = connection.execute(select(table.c.steps).where(is_at(place)).with_for_update()).scalar_one()
    connection.execute(update(table).where(is_at(place)).values(steps=steps + 1, **changes))
    connection.execute(
        insert(schema.suspense_step).values(
            **place._asdict(),
            number=steps + 1,
            at_ns=now_ns,
            by=by[:BY_CHARS_MAX],
            action=action,
            detail=detail,
        )
    )


def park(connection: Connection, item: str, *, by: str, reason: str, now_ns: int) -> None:
    """Set an open item aside: it is told as parked from here on, and no longer as aged. A retry or a posting
    still settles it. Raises SuspenseError."""
    place = Place.parse(item)
    found = item_at(connection, place, lock=True)
    if found.state != OPEN:
        raise SuspenseError(f"{item} is {found.state}; only open items are parked")
    if not by.strip() or not reason.strip():
        raise SuspenseError("by, reason: say who parks it and why; both are kept")
    note_step(connection, place, by=by, action="park", detail=reason, now_ns=now_ns, state=PARKED)


def close(
    connection: Connection, place: Place, *, by: str, action: str, detail: str, reference: str, now_ns: int
) -> None:
    """Close an item with what has settled it."""
    note_step(
        connection,
        place,
        by=by,
        action=action,
        detail=detail,
        now_ns=now_ns,
        state=CLOSED,
        amount_minor=0,
        reference=reference,
    )


def close_by_posting(connection: Connection, posting_id: str, *, now_ns: int) -> None:
    """Close the item that a fresh posting of the bank core's names; raises SuspenseError where it names none,
    or one that is closed."""
    place = Place.parse(posting_id.removeprefix(POSTING_PREFIX))
    found = item_at(connection, place, lock=True)
    if found.state == CLOSED:
        raise SuspenseError(f"{place.name} is closed by {found.reference}; give the posting another id")
    close(
        connection,
        place,
        by="bank core",
        action="posting",
        detail="settled by a person's posting",
        reference=posting_id,
        now_ns=now_ns,
    )


def relieve(connection: Connection, place: Place, *, amount_minor: int, by: Place, now_ns: int) -> None:
    """Take what a reversal gave back off an item; nothing is left to settle where that was all."""
    row = connection.execute(select(schema.suspense_item).where(is_at(place)).with_for_update()).one_or_none()
    if row is None or row.state == CLOSED:
        return
    detail, left_minor = f"record {by.name} gave {amount_minor} back", row.amount_minor - amount_minor
    if left_minor > 0:
        note_step(
            connection,
            place,
            by=by.box,
            action="reversal",
            detail=detail,
            now_ns=now_ns,
            amount_minor=left_minor,
        )
    else:
        close(
            connection,
            place,
            by=by.box,
            action="reversal",
            detail=detail,
            reference=f"record {by.name}",
            now_ns=now_ns,
        )


def raise_aged(connection: Connection, *, aged_days: int, now_ns: int) -> list[Item]:
    """Up to RAISED_EACH open items that are older than so many days and were not told of for a day; they
    count as told now, so that several hub processes tell of each once a day."""
    table = schema.suspense_item
    due = (
        (table.c.state == OPEN)
        & (table.c.at_ns <= now_ns - aged_days * DAY_NS)
        & (table.c.raised_ns <= now_ns - DAY_NS)
    )
    rows = connection.execute(select(table).where(due).order_by(table.c.at_ns).limit(RAISED_EACH)).all()
    told = []
    for row in rows:
        place = Place(row.box, row.epoch, row.seq)
        mine = connection.execute(update(table).where(is_at(place), due).values(raised_ns=now_ns))
        if mine.rowcount == 1:
            told.append(_item(row))
    return told
