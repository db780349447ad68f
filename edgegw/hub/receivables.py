"""What the branches have paid for others and are owed: late declines that the branch bears, reversals that
the payee did not cover.

A receivable is named `box/epoch/record`, like an item in suspense. It is collected, or written off, by a
posting of the bank core's to `receivable:BOX:CURRENCY` whose id is `receivable:NAME` (`receivable:NAME#2` for
the next part): the debited account says who has borne it. Rows are never deleted. Leaves out what makes them
(`hub.replay`, `hub.operate`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import Connection, Row, func, insert, select, tuple_, update

from edgegw.core.accounts import (
    receivable_account,
    recourse_account,
    risk_account,
    suspense_account,
)
from edgegw.core.records import DeclineDirective, Transfer
from edgegw.hub import schema
from edgegw.hub.books import Books
from edgegw.hub.suspense import DAY_NS, PAGE_ROWS, RAISED_EACH, Place, SuspenseError

POSTING_PREFIX: Final = "receivable:"
UNCOVERED_REVERSAL: Final = "uncovered_reversal"


class Receivable(msgspec.Struct, frozen=True, kw_only=True):
    """One of the list."""

    receivable: str
    owner: str
    """Who must act: `branch:BOX` collects it, `merchant:ACCOUNT` owes it."""
    reason: str
    original: str
    """Client and id of the payment."""
    debtor: str
    """The account that owes it."""
    currency: str
    amount_minor: int
    paid_minor: int
    at_ns: int
    settle_by: str
    """The id of a posting that pays it."""


def branch_bears(said: DeclineDirective, *, box: str) -> dict[str, str | int]:
    """The receivable of a late decline that the branch bears: the payer owes it."""
    return {
        "epoch": said.epoch,
        "seq": said.at_seq,
        "owner": f"branch:{box}",
        "reason": said.reason,
        "debtor": said.payer_account_id,
        "funded_by": "",
        "currency": said.currency,
        "amount_minor": said.amount_minor,
    }


def payee_owes(record: Transfer, *, box: str, epoch: int) -> dict[str, str | int] | None:
    """The receivable that an uncovered reversal has booked, or None where it has booked none."""
    owed = next((leg for leg in record.legs if leg.debit_account_id.startswith(f"receivable:{box}:")), None)
    if owed is None:
        return None
    _, _, currency = owed.debit_account_id.rpartition(":")
    paid_from = record.legs[0].debit_account_id
    if paid_from not in (risk_account(box, currency), suspense_account(box, currency)):
        # An uncovered advice: suspense has paid the payee already.
        paid_from = suspense_account(box, currency)
    return {
        "epoch": epoch,
        "seq": record.seq,
        "owner": "",
        "reason": UNCOVERED_REVERSAL,
        "debtor": "",
        "funded_by": paid_from,
        "currency": currency,
        "amount_minor": owed.amount_minor,
        "original": f"{record.request.original_client} {record.request.original_id}",
    }


def keep(connection: Connection, rows: Iterable[dict[str, str | int]], *, box: str, now_ns: int) -> None:
    """Write receivables down; one that is there already stays as it is."""
    for row in rows:
        place = Place(box, int(row["epoch"]), int(row["seq"]))
        if _row_at(connection, place) is not None:
            continue
        values = {"original": "", **row}
        if not values["original"]:
            values["original"] = _identity_at(connection, place)
        if not values["debtor"]:
            payee = _payee_of(connection, str(values["original"]))
            values |= {"debtor": payee, "owner": f"merchant:{payee}" if payee else "bank"}
        connection.execute(
            insert(schema.receivable).values(box=box, paid_minor=0, at_ns=now_ns, raised_ns=0, **values)
        )


def _identity_at(connection: Connection, place: Place) -> str:
    record = schema.record.c
    row = connection.execute(
        select(record.client, record.request_id).where(
            record.box == place.box, record.epoch == place.epoch, record.seq == place.seq
        )
    ).one_or_none()
    return "" if row is None else f"{row.client or ''} {row.request_id or ''}".strip()


def _payee_of(connection: Connection, original: str) -> str:
    """Who was paid by the payment of this identity."""
    client, _, request_id = original.rpartition(" ")
    record = schema.record.c
    body = connection.execute(
        select(record.body).where(record.request_id == request_id, record.client == client)
    ).scalar_one_or_none()
    return "" if body is None else msgspec.json.decode(bytes(body), type=_Original).request.credit_account_id


class _Request(msgspec.Struct, frozen=True):
    credit_account_id: str = ""


class _Original(msgspec.Struct, frozen=True):
    request: _Request = _Request()


def _row_at(connection: Connection, place: Place) -> Row[Any] | None:
    table = schema.receivable
    return connection.execute(
        select(table).where(table.c.box == place.box, table.c.epoch == place.epoch, table.c.seq == place.seq)
    ).one_or_none()


def page_of(connection: Connection, *, paid_too: bool = False, after: str = "") -> list[Receivable]:
    """Up to PAGE_ROWS receivables that are not paid (or all), in the order of their records, behind the one
    named `after`."""
    table = schema.receivable
    query = select(table)
    if not paid_too:
        query = query.where(table.c.paid_minor < table.c.amount_minor)
    if after:
        query = query.where(tuple_(table.c.box, table.c.epoch, table.c.seq) > tuple(Place.parse(after)))
    rows = connection.execute(query.order_by(table.c.box, table.c.epoch, table.c.seq).limit(PAGE_ROWS))
    return [_told(row) for row in rows]


def _told(row: Row[Any]) -> Receivable:
    name = Place(row.box, row.epoch, row.seq).name
    return Receivable(
        receivable=name,
        owner=row.owner,
        reason=row.reason,
        original=row.original,
        debtor=row.debtor,
        currency=row.currency,
        amount_minor=row.amount_minor,
        paid_minor=row.paid_minor,
        at_ns=row.at_ns,
        settle_by=POSTING_PREFIX + name,
    )


class Counts(NamedTuple):
    """Receivables that are not paid."""

    open: int
    aged: int


def counts(connection: Connection, *, aged_before_ns: int) -> Counts:
    """How many are not paid; aged are those that were booked before that moment."""
    table = schema.receivable.c
    unpaid = table.paid_minor < table.amount_minor
    every, aged = (
        connection.execute(select(func.count()).where(unpaid, *more)).scalar_one()
        for more in ((), (table.at_ns < aged_before_ns,))
    )
    return Counts(every, aged)


def pay(connection: Connection, posting_id: str, *, credit_account_id: str, amount_minor: int) -> None:
    """Take a fresh posting of the bank core's as payment of the receivable that it names, and make the
    account whole that had paid. Raises SuspenseError where it names none, pays another account or too
    much."""
    place = Place.parse(posting_id.removeprefix(POSTING_PREFIX).partition("#")[0])
    row = _row_at(connection, place)
    if row is None:
        raise SuspenseError(f"{place.name} is no receivable; `edgegw receivables --all` has them all")
    wanted = receivable_account(row.box, row.currency)
    if credit_account_id != wanted:
        raise SuspenseError(f"credit_account_id {credit_account_id}: {place.name} is paid to {wanted}")
    left_minor = row.amount_minor - row.paid_minor
    if amount_minor > left_minor:
        raise SuspenseError(f"amount_minor {amount_minor}: {left_minor} are left to pay of {place.name}")
    table = schema.receivable
    changed = connection.execute(
        update(table)
        .where(
            table.c.box == place.box,
            table.c.epoch == place.epoch,
            table.c.seq == place.seq,
            table.c.paid_minor == row.paid_minor,
        )
        .values(paid_minor=row.paid_minor + amount_minor)
    )
    if changed.rowcount != 1:
        raise SuspenseError(f"{place.name} was paid by somebody else at this moment; look at it again")
    if row.funded_by:
        recourse = recourse_account(row.box, row.currency)
        books = Books(connection, box="", epoch=0)
        books.open((recourse, row.funded_by))
        books.move_at_centre(debit=recourse, credit=row.funded_by, amount_minor=amount_minor)
        books.write()


def raise_aged(connection: Connection, *, aged_days: int, now_ns: int) -> list[Receivable]:
    """Up to RAISED_EACH receivables that were not paid for so many days and not told of for one; they count
    as told now."""
    table = schema.receivable
    due = (
        (table.c.paid_minor < table.c.amount_minor)
        & (table.c.at_ns <= now_ns - aged_days * DAY_NS)
        & (table.c.raised_ns <= now_ns - DAY_NS)
    )
    told = []
    for row in connection.execute(select(table).where(due).order_by(table.c.at_ns).limit(RAISED_EACH)).all():
        mine = connection.execute(
            update(table)
            .where(table.c.box == row.box, table.c.epoch == row.epoch, table.c.seq == row.seq, due)
            .values(raised_ns=now_ns)
        )
        if mine.rowcount == 1:
            told.append(_told(row))
    return told
