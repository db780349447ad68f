"""The answer to a payment, made from its stored record and nothing else, so that every repeat is the same
bytes for ever.

Owns the shape that all protocols answer from and the one function that makes it. What happened to the payment
*afterwards* (a hold posted, a stand-in declined late) is not part of the answer; `payments.history` tells it.
"""

from __future__ import annotations

import enum
from typing import Final

import msgspec

from edgegw.core.book import KEPT
from edgegw.core.model import TransferFlags
from edgegw.core.reasons import REASONS
from edgegw.core.records import ClearedBy, Kind, Leg, Refusal, Transfer, place_text


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


class Movement(msgspec.Struct, frozen=True):
    """One leg of a cleared payment."""

    action: Action
    debit_account_id: str
    credit_account_id: str
    amount_minor: int


class Answer(msgspec.Struct, frozen=True, kw_only=True):
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
    """Of a refusal: what exactly was wrong."""
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
