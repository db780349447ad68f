"""What a record becomes in an audit export: rows in the order of the columns in `audit.tables`."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from edgegw.core.records import (
    Acknowledgement,
    Boot,
    ClockStep,
    Directive,
    DirectiveApplied,
    DurabilityChanged,
    Expiry,
    HealthChanged,
    KeyIntroduced,
    Leg,
    Link,
    ModeChanged,
    Operator,
    Record,
    Refusal,
    Request,
    SiteReturned,
    Snapshot,
    Transfer,
    WindowClosed,
    parse_place,
    place_of,
)
from edgegw.ledger.rows import SEQ_BITS, position_of

Value = int | str | bytes | None
Row = tuple[Value, ...]

_DIRECTIVES: Final = frozenset(str(kind.__struct_config__.tag) for kind in typing.get_args(Directive))
_ACTIONS: Final = ((2, "hold"), (4, "post"), (8, "void"))
"""The flags of a leg; none of them: the money moved."""


class Numbers:
    """Counts the rows of the tables whose rows have no record of their own."""

    def __init__(self) -> None:
        self.legs = self.accounts = self.positions = self.totals = 0


def rows_of(record: Record, record_id: int, numbers: Numbers) -> Iterator[tuple[str, Row]]:
    """(table, row) of everything that a record says, its row in `record` excepted."""
    if isinstance(record, Transfer):
        row = (
            record_id,
            record.window,
            record.client,
            *_request(record.request),
            str(record.cleared_by.value),
        )
        yield "transfer", (*row, record.reason, _place(record.original), record.linked)
        yield from _legs(record.legs, record_id, numbers)
        yield from _totals(record, record_id, numbers)
    elif isinstance(record, Refusal):
        asked = _request(record.request)
        yield "refusal", (record_id, record.client, *asked, record.code, record.detail)
    elif isinstance(record, Expiry):
        yield "expiry", (record_id, record.window, _place(record.original))
        yield from _legs(record.legs, record_id, numbers)
    elif isinstance(record, DirectiveApplied):
        yield from _directive(record, record_id, numbers)
    elif isinstance(record, WindowClosed):
        day = (record.window, record.business_date, record.transfers, record.closed_by)
        yield "clearing_window", (record_id, *day)
        for position in record.positions:
            numbers.positions += 1
            net = (position.participant, position.currency, position.net_minor)
            yield "position", (numbers.positions, record_id, *net)
    elif (event := _event(record)) is not None:
        table, row = event
        yield table, (record_id, *row)


def _event(record: Record) -> tuple[str, Row] | None:
    """The table and the row, without its record's id, of a record that is one row."""
    if isinstance(record, Link):
        return "link", _link(record.note)
    if isinstance(record, KeyIntroduced):
        return "key", (record.key, record.note)
    if isinstance(record, Boot):
        return "boot", (record.boot, record.version, record.box_digest, record.site_digest)
    if isinstance(record, ModeChanged):
        return "mode", (record.mode.value, record.previous.value, record.reason)
    if isinstance(record, DurabilityChanged):
        return "durability", (record.durability.value, record.previous.value, record.reason)
    if isinstance(record, HealthChanged):
        return "health", (record.check, record.subject, record.level, record.previous, record.reason)
    if isinstance(record, ClockStep):
        return "clock", (record.wall_ahead_ns,)
    if isinstance(record, Snapshot):
        return "snapshot", (record.digest,)
    if isinstance(record, Operator):
        return "operator", (record.operator, record.action, record.detail)
    if isinstance(record, SiteReturned):
        return "site_returned", (record.version, record.left_digest, record.digest, record.reason)
    if isinstance(record, Acknowledgement):
        return "acknowledgement", (record.client, record.by, record.up_to)
    return None


def _request(request: Request) -> Row:
    return (
        request.id,
        request.kind.value,
        request.debit_account_id,
        request.credit_account_id,
        request.amount_minor,
        request.currency,
        request.timeout_s,
        request.original_client,
        request.original_id,
        int(request.advice),
        int(request.stand_in),
        request.terminal,
        request.merchant,
        request.reference,
    )


def _place(text: str) -> int | None:
    if not text:
        return None
    epoch, seq = parse_place(text)
    return position_of(epoch=epoch, seq=seq)


def _legs(legs: Iterable[Leg], record_id: int, numbers: Numbers) -> Iterator[tuple[str, Row]]:
    for place, leg in enumerate(legs):
        numbers.legs += 1
        action = next((action for flag, action in _ACTIONS if leg.flags & flag), "move")
        pending: tuple[int | None, int | None] = (None, None)
        if leg.pending:
            epoch, seq, number = place_of(int(leg.pending, 16))
            pending = position_of(epoch=epoch, seq=seq), number
        moved = (leg.debit_account_id, leg.credit_account_id, leg.amount_minor, action)
        yield "leg", (numbers.legs, record_id, place, *moved, *pending, leg.timeout_s)


def _totals(record: Transfer, record_id: int, numbers: Numbers) -> Iterator[tuple[str, Row]]:
    """A closed batch: one row for each currency."""
    batch = record.batch
    for total in () if batch is None else batch.totals:
        numbers.totals += 1
        figures = msgspec.structs.astuple(total)
        yield "batch_total", (numbers.totals, record_id, 0 if batch is None else batch.number, *figures)


def _link(note: str) -> Row:
    """What the hub's link says; nothing of a note that is none, which the note itself shows."""
    try:
        said: dict[str, Any] = msgspec.json.decode(note.split("\n", 2)[1].encode())
        return said["key"], said["old_epoch"], said["old_size"], said["old_root"], note
    except (msgspec.MsgspecError, LookupError, TypeError):
        return None, None, None, None, note


def _directive(record: DirectiveApplied, record_id: int, numbers: Numbers) -> Iterator[tuple[str, Row]]:
    head = (record_id, record.window, record.outcome, record.reason)
    yield "directive", (*head, *directive_row(msgspec.json.decode(record.directive)))
    yield from _legs(record.legs, record_id, numbers)
    for account in record.accounts:
        numbers.accounts += 1
        place = (account.id, account.currency, account.home, account.participant, int(account.floor))
        yield "account", (numbers.accounts, record_id, *place)


def directive_row(directive: object) -> Row:
    """The columns of a directive from its incarnation on; none of one that the box could not read."""
    if not isinstance(directive, dict) or directive.get("type") not in _DIRECTIVES:
        return (None,) * 13
    said: dict[str, Value] = {name: _plain(value) for name, value in directive.items()}
    epoch, seq = said.get("epoch"), said.get("at_seq")
    about = None
    if isinstance(epoch, int) and isinstance(seq, int) and epoch >> 63 - SEQ_BITS == seq >> SEQ_BITS == 0:
        about = position_of(epoch=epoch, seq=seq)
    account_id = said.get("account_id") or said.get("payer_account_id")
    return (
        *(said.get(name) for name in ("incarnation", "seq", "type")),
        account_id,
        *(said.get(name) for name in ("currency", "amount_minor", "request_id")),
        about,
        *(said.get(name) for name in ("liable", "reason", "version", "digest", "frozen")),
    )


def _plain(value: object) -> Value:
    """A value that a column holds; None for another."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str) or (isinstance(value, int) and -(2**63) <= value < 2**63):
        return value
    return None
