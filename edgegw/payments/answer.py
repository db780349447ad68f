"""The answer to a payment, made from its stored record and nothing else, so that every repeat is the same
bytes for ever.

Owns the shape that all protocols answer from and the one function that makes it. What happened to the payment
*afterwards* (a hold posted, a stand-in declined late) is not part of the answer; `payments.history` tells it.
"""

from __future__ import annotations

import enum
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from edgegw.core.book import KEPT
from edgegw.core.model import TransferFlags
from edgegw.core.pruned import Pruned
from edgegw.core.reasons import REASONS
from edgegw.core.records import BatchTotals, ClearedBy, Kind, Leg, Refusal, Request, Transfer, place_text


class Outcome(enum.StrEnum):
    """What was decided."""

    CLEARED = "cleared"
    REFUSED = "refused"
    KEPT = "kept"
    """A reversal whose original is not known here yet: nothing moved; it wins when the original arrives."""


class Action(enum.StrEnum):
    """What a leg did."""

    MOVED = "moved"
    HELD = "held"
    POSTED = "posted"
    VOIDED = "voided"


class Movement(msgspec.Struct, frozen=True, gc=False):
    """One leg of a cleared payment."""

    action: Action
    debit_account_id: str
    credit_account_id: str
    amount_minor: int


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """A merchant's batch in one currency: how many, and their sum in minor units."""

    currency: str
    payments_count: int
    payments_minor: int
    payment_reversals_count: int
    payment_reversals_minor: int
    refunds_count: int
    refunds_minor: int
    refund_reversals_count: int
    refund_reversals_minor: int


class ClosedBatch(msgspec.Struct, frozen=True, kw_only=True):
    """A merchant's or terminal's batch that was closed."""

    merchant: str
    terminal: str
    """"" for the batch of the merchant itself."""
    number: int
    previous: str
    """epoch/seq of the record of the close before it, "" for the first one of an epoch."""
    totals: tuple[Totals, ...]
    """One for each currency in which there was anything."""
    balanced: bool | None
    """Whether the client's own totals were the same; null where it sent none."""
    difference: str
    """The first figure that differs, with both values."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What was decided about a request, once and for all."""

    client: str
    id: str
    kind: Kind
    outcome: Outcome
    cleared_by: ClearedBy | None
    """What funded it; null when it was refused."""
    reason: str
    """Of a refusal: its code. Of a stand-in: why the branch stood in."""
    detail: str
    """Of a refusal: what exactly was wrong. Of a record that is not kept here: that the centre holds it."""
    transient: bool
    """Of a refusal: whether the same request under a new id may succeed later."""
    amount_minor: int
    currency: str
    """"" where the request names none (posts, voids and reversals keep their original's)."""
    original_id: str
    window: int
    """The clearing window that it belongs to; 0 for a refusal."""
    box: str
    record: str
    """epoch/seq of its record in the box's journal."""
    at_ns: int
    """The box's own time, strictly increasing."""
    wall_ns: int
    """The wall clock as it stood at the box; for people."""
    legs: tuple[Movement, ...]
    batch: ClosedBatch | UnsetType = UNSET
    """Of a batch that was closed: what was in it."""


def answer_from(record: Transfer | Refusal) -> Answer:
    """The answer that a record stands for."""
    request = record.request
    legs: tuple[Leg, ...] = ()
    if isinstance(record, Refusal):
        outcome, cleared_by, window = Outcome.REFUSED, None, 0
        reason, detail, transient = record.code, record.detail, REASONS[record.code].transient
    else:
        outcome = Outcome.KEPT if record.reason == KEPT else Outcome.CLEARED
        cleared_by, window, legs = record.cleared_by, record.window, record.legs
        reason, detail, transient = record.reason, "", False
    return Answer(
        client=record.client,
        id=request.id,
        kind=request.kind,
        outcome=outcome,
        cleared_by=cleared_by,
        reason=reason,
        detail=detail,
        transient=transient,
        amount_minor=request.amount_minor or (legs[0].amount_minor if legs else 0),
        currency=request.currency,
        original_id=request.original_id,
        window=window,
        box=record.box,
        record=place_text(epoch=record.epoch, seq=record.seq),
        at_ns=record.at_ns,
        wall_ns=record.wall_ns,
        legs=tuple([_movement(leg) for leg in legs]),
        batch=UNSET if isinstance(record, Refusal) or record.batch is None else closed_batch(record),
    )


def closed_batch(record: Transfer) -> ClosedBatch | UnsetType:
    """The batch that a record closed."""
    request, batch = record.request, record.batch
    if batch is None:
        return UNSET
    return ClosedBatch(
        merchant=request.merchant,
        terminal=request.terminal,
        number=batch.number,
        previous=batch.previous,
        totals=shown_totals(batch.totals),
        balanced=not batch.difference if request.totals else None,
        difference=batch.difference,
    )


def shown_totals(totals: tuple[BatchTotals, ...]) -> tuple[Totals, ...]:
    """Every figure of every currency, zeros too."""
    return tuple([Totals(**msgspec.structs.asdict(one)) for one in totals])


PRUNED: Final = "the record is not kept at this box; the centre holds it"


def answer_from_pruned(pruned: Pruned, *, box: str, request: Request | None = None) -> Answer:
    """The answer of a pruned record: decided as it was, without the legs that moved. request is the same one
    sent again; without it what was original_id is "".
    """
    remains = pruned.remains
    refused = remains.cleared_by is None
    kept = remains.reason == KEPT
    return Answer(
        client=pruned.client,
        id=pruned.id,
        kind=remains.kind,
        outcome=Outcome.REFUSED if refused else Outcome.KEPT if kept else Outcome.CLEARED,
        cleared_by=remains.cleared_by,
        reason=remains.reason,
        detail=PRUNED,
        transient=refused and REASONS[remains.reason].transient,
        amount_minor=remains.amount_minor,
        currency=remains.currency,
        original_id="" if request is None else request.original_id,
        window=remains.window,
        box=box,
        record=place_text(epoch=pruned.epoch, seq=pruned.seq),
        at_ns=remains.at_ns,
        wall_ns=remains.wall_ns,
        legs=(),
    )


_ACTIONS: Final = (
    (int(TransferFlags.PENDING), Action.HELD),
    (int(TransferFlags.POST_PENDING_TRANSFER), Action.POSTED),
    (int(TransferFlags.VOID_PENDING_TRANSFER), Action.VOIDED),
)


def _movement(leg: Leg) -> Movement:
    action = (
        next((action for flag, action in _ACTIONS if leg.flags & flag), Action.MOVED)
        if leg.flags
        else Action.MOVED
    )
    return Movement(action, leg.debit_account_id, leg.credit_account_id, leg.amount_minor)
