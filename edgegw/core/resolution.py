"""What becomes of a payment afterwards: posts and voids of holds, reversals, refunds. Pure.

All of them are tied to their original's record, at this box; what they give back never passes what it moved.
Leaves out payments and holds themselves (`core.decide`), and expiry, which nobody asks for.
"""

from __future__ import annotations

from typing import Final

from edgegw.core.accounts import (
    receivable_account,
    recourse_account,
    risk_account,
    suspense_account,
)
from edgegw.core.book import KEPT, REFUSED, Book
from edgegw.core.caps import resolved
from edgegw.core.counts import undone_of
from edgegw.core.decision import (
    SUSPENSE,
    Context,
    Decided,
    booking,
    clearing,
    first_leg,
    place_of_record,
    refusing,
    sent_home,
    shortage,
    unfunded,
)
from edgegw.core.legs import PENDING, POST, VOID
from edgegw.core.limits import Refused
from edgegw.core.model import PendingStatus
from edgegw.core.pruned import Pruned
from edgegw.core.reasons import Reason
from edgegw.core.records import (
    ClearedBy,
    Counted,
    DeclineDirective,
    DirectiveApplied,
    Kind,
    Leg,
    Record,
    Refusal,
    Side,
    Transfer,
    Undone,
    decode_directive,
    place_text,
)

# -- what becomes of a hold --------------------

_RESOLVED: Final = {
    PendingStatus.posted: Reason.HOLD_ALREADY_POSTED,
    PendingStatus.voided: Reason.HOLD_ALREADY_VOIDED,
    PendingStatus.expired: Reason.HOLD_EXPIRED,
}


def _live_hold(c: Context) -> Transfer | Refused:
    """The record of the hold that the request names, if it can still be resolved."""
    request = c.request
    original = c.book.by_identity(request.original_client, request.original_id)
    if original is None:
        return Reason.ORIGINAL_NOT_FOUND, f"original_id {request.original_id} is not known here"
    if isinstance(original, Pruned):
        return _pruned(original)
    if not isinstance(original, Transfer):
        return Reason.ORIGINAL_WAS_REFUSED, f"original_id {request.original_id} was refused"
    if original.request.kind is not Kind.HOLD:
        return Reason.ORIGINAL_NOT_A_HOLD, f"original_id {request.original_id} is a {original.request.kind}"
    hold_id = first_leg(original)
    status = c.book.ledger.pending_status(hold_id)
    if status is not PendingStatus.pending:
        return _RESOLVED[status], f"the hold {request.original_id} is {status.name}"
    if original.epoch != c.stamp.epoch:
        return Reason.HOLD_EPOCH_OVER, f"the hold {request.original_id} ended with epoch {original.epoch}"
    if _time_is_up(original, at_ns=c.stamp.at_ns):
        return _expired(original)
    return original


def _time_is_up(hold: Transfer, *, at_ns: int) -> bool:
    """Whether a hold is over though its expiry is not journalled yet."""
    timeout_s = hold.legs[0].timeout_s
    return bool(timeout_s) and hold.at_ns + timeout_s * 1_000_000_000 <= at_ns


def _expired(hold: Transfer) -> Refused:
    return Reason.HOLD_EXPIRED, f"the hold {hold.request.id} was good for {hold.legs[0].timeout_s} s"


def _pruned(original: Pruned) -> Refused:
    place = place_text(epoch=original.epoch, seq=original.seq)
    return Reason.RECORD_PRUNED, f"record {place} of original_id {original.id} is not kept here"


def post_hold(c: Context) -> Decided:
    """Pay what is held, or a part; the rest is given free."""
    hold = _live_hold(c)
    if not isinstance(hold, Transfer):
        return refusing(c, *hold)
    held = hold.legs[0]
    amount_minor = c.request.amount_minor or held.amount_minor
    if amount_minor > held.amount_minor:
        return refusing(
            c, Reason.EXCEEDS_HOLD, f"amount_minor {amount_minor} exceeds the held {held.amount_minor}"
        )
    leg = Leg(held.debit_account_id, held.credit_account_id, amount_minor, POST, f"{first_leg(hold):032x}")
    home = sent_home(c.book, held.credit_account_id, amount_minor)
    legs = (leg, *home, *resolved(c.book, hold, flag=POST, amount_minor=amount_minor))
    return _tied(c, hold.cleared_by, legs, original=hold)


def void_hold(c: Context) -> Decided:
    """Give free what is held."""
    hold = _live_hold(c)
    if not isinstance(hold, Transfer):
        return refusing(c, *hold)
    return _voided(c, hold)


def _voided(c: Context, original: Transfer) -> Transfer | Refusal:
    held = original.legs[0]
    leg = Leg(
        held.debit_account_id, held.credit_account_id, held.amount_minor, VOID, f"{first_leg(original):032x}"
    )
    legs = (leg, *resolved(c.book, original, flag=VOID, amount_minor=held.amount_minor))
    return _tied(c, original.cleared_by, legs, original=original)


# -- reversals and refunds --------------------

_GIVING_BACK: Final = (Kind.REVERSAL, Kind.VOID, Kind.REFUND)


def reversal(c: Context) -> Decided:
    """Give money back, whole or in part; what is not known yet is kept, and wins when it arrives."""
    original = c.book.by_identity(c.request.original_client, c.request.original_id)
    if original is None:
        return clearing(c, ClearedBy.ALLOWANCE, (), reason=KEPT)
    return _undone(c, original)


def refund(c: Context) -> Decided:
    """The same of a payment that has happened: one that is not known here gives nothing back."""
    request = c.request
    original = c.book.by_identity(request.original_client, request.original_id)
    if original is None:
        return refusing(c, Reason.ORIGINAL_NOT_FOUND, f"original_id {request.original_id} is not known here")
    if isinstance(original, Transfer) and original.request.kind is Kind.HOLD and _is_live(c.book, original):
        return refusing(c, Reason.ORIGINAL_NOT_REVERSIBLE, "a live hold is voided, or posted in part")
    return _undone(c, original)


def _undone(c: Context, original: Record | Pruned) -> Decided:
    request = c.request
    if isinstance(original, Pruned):
        return refusing(c, *_pruned(original))
    if not isinstance(original, Transfer):
        return refusing(c, Reason.ORIGINAL_WAS_REFUSED, f"original_id {request.original_id} was refused")
    if original.request.kind is Kind.POST:
        hold = c.book.at(original.original)
        if not isinstance(hold, Transfer):
            return refusing(c, Reason.RECORD_PRUNED, f"record {original.original} is not kept here")
        original = hold  # what was posted is the hold's to give back
    reversible = {Kind.PAYMENT, Kind.HOLD} | ({Kind.REFUND} if request.kind is Kind.REVERSAL else set())
    if original.request.kind not in reversible:
        detail = f"original_id {request.original_id} is a {original.request.kind}"
        return refusing(c, Reason.ORIGINAL_NOT_REVERSIBLE, detail)
    parties = _parties(c.book, original)
    unknown = next((name for name in parties if name not in c.book.accounts), None)
    if unknown is not None:
        return refusing(c, Reason.ORIGINAL_NOT_REVERSIBLE, f"account {unknown!r} is not known here any more")
    if _waits_in_earlier_epoch(c, original):
        return refusing(c, *_waiting_elsewhere(original))
    given_back = given_back_minor(c.book, original)
    moved = _moved_minor(c.book, original)
    amount_minor = request.amount_minor or moved - given_back
    if amount_minor <= 0 or given_back + amount_minor > moved:
        detail = f"amount_minor {request.amount_minor} with {given_back} given back exceeds {moved}"
        return refusing(c, Reason.EXCEEDS_ORIGINAL, detail)
    if original.request.kind is Kind.REFUND:
        return _refund_undone(c, original, amount_minor, moved)
    pending = original.legs[0].flags & PENDING and _is_live(c.book, original)
    if pending and _time_is_up(original, at_ns=c.stamp.at_ns):
        return refusing(c, *_expired(original))
    if pending and amount_minor == moved and not given_back:
        return _voided(c, original)
    if original.request.kind is Kind.HOLD and pending:
        return refusing(c, Reason.ORIGINAL_NOT_REVERSIBLE, "a live hold is reversed whole, or posted in part")
    if pending and not request.advice:
        return refusing(
            c, Reason.STAND_IN_WAITS, "the centre has not confirmed it; until then it is reversed whole only"
        )
    payee, payer = parties
    return _give_back(c, original, amount_minor, payee=payee, payer=payer)


def _refund_undone(c: Context, given: Transfer, amount_minor: int, moved_minor: int) -> Decided:
    """Take a refund back whole: who got the money pays it to who gave it."""
    leg = given.legs[0]
    if leg.flags & VOID or given.cleared_by is ClearedBy.STAND_IN:
        detail = (
            "the refund moved nothing of the payee's: it took a stand-in back, or was at the branch's risk"
        )
        return refusing(c, Reason.ORIGINAL_NOT_REVERSIBLE, detail)
    if amount_minor != moved_minor:
        return refusing(c, Reason.ORIGINAL_NOT_REVERSIBLE, "a refund is taken back whole")
    return _give_back(c, given, amount_minor, payee=leg.credit_account_id, payer=leg.debit_account_id)


def _is_live(book: Book, original: Transfer) -> bool:
    return book.ledger.is_live(first_leg(original))


def _waits_in_earlier_epoch(c: Context, original: Transfer) -> bool:
    """A hold or stand-in that was neither resolved nor decided when its epoch ended is the centre's to
    finish: whatever were given back here could be money that never moved."""
    return (
        original.epoch != c.stamp.epoch
        and bool(original.legs[0].flags & PENDING)
        and c.book.ledger.pending_status(first_leg(original)) is PendingStatus.pending
    )


def _waiting_elsewhere(original: Transfer) -> Refused:
    id, epoch = original.request.id, original.epoch
    if original.request.kind is Kind.HOLD:
        return Reason.HOLD_EPOCH_OVER, f"the hold {id} ended with epoch {epoch}; nothing is held any more"
    return Reason.STAND_IN_EPOCH_OVER, f"the stand-in {id} waited when epoch {epoch} ended"


def given_back_minor(book: Book, original: Transfer) -> int:
    """What reversals, refunds and voids gave back of a payment, less the refunds that were taken back; of a
    refund, what was taken back of it. Minor units."""
    total_minor = 0
    for record in book.about(place_of_record(original)):
        if isinstance(record, Transfer) and record.request.kind in _GIVING_BACK and record.legs:
            total_minor += record.legs[0].amount_minor
            if record.request.kind is Kind.REFUND:
                total_minor -= given_back_minor(book, record)
    return total_minor


def _moved_minor(book: Book, original: Transfer) -> int:
    """What the original moved and still stands for: its amount, what a hold was posted with, 0 after a
    late decline."""
    if original.request.kind is Kind.REFUND:
        return original.legs[0].amount_minor
    for record in book.about(place_of_record(original)):
        if isinstance(record, Transfer) and record.request.kind is Kind.POST:
            return record.legs[0].amount_minor
        if isinstance(record, DirectiveApplied) and _is_decline(record):
            return 0
    if original.request.kind is Kind.HOLD and not _is_live(book, original):
        return 0
    return original.request.amount_minor


def _is_decline(word: DirectiveApplied) -> bool:
    """Whether it is a late decline that took effect here."""
    is_one = isinstance(decode_directive(bytes(word.directive)), DeclineDirective)
    return is_one and word.outcome != REFUSED


def _give_back(c: Context, original: Transfer, amount_minor: int, *, payee: str, payer: str) -> Decided:
    c = c.asking(payee)
    box, currency = c.book.box, c.book.accounts[payee].currency
    home = sent_home(c.book, payer, amount_minor)
    closed, frozen = c.book.closed.get(payee), c.book.frozen.get(payee)
    if closed is not None and not c.request.advice:
        return refusing(c, Reason.ACCOUNT_CLOSED, f"{payee} is closed: {closed}")
    if frozen is not None and not c.request.advice:
        return refusing(c, Reason.ACCOUNT_FROZEN, f"{payee} is frozen: {frozen}")
    if closed is None and frozen is None and c.book.available(payee) >= amount_minor:
        by = ClearedBy.CENTRE if c.funding.centre == "granted" else ClearedBy.ALLOWANCE
        return _tied(c, by, (Leg(payee, payer, amount_minor), *home), original=original)
    short = shortage(c, payee, amount_minor)
    if short is not None:
        return short
    if c.funding.centre in ("refused", "granted") and not c.request.advice:
        return unfunded(c, payee)
    owed = Leg(receivable_account(box, currency), recourse_account(box, currency), amount_minor)
    source, reason = risk_account(box, currency), c.funding.reason
    if payer == suspense_account(box, currency):
        return _tied(c, ClearedBy.STAND_IN, (owed,), reason=reason, original=original)
    if c.book.available(source) < amount_minor:
        if not c.request.advice:
            left = c.book.available(source)
            detail = f"{payee} has {c.book.available(payee)} and the branch {left} minor units left"
            return refusing(c, Reason.STAND_IN_BOX_LIMIT, detail)
        source, reason = suspense_account(box, currency), SUSPENSE
    legs = (Leg(source, payer, amount_minor), *home, owed)
    return _tied(c, ClearedBy.STAND_IN, legs, reason=reason, original=original)


def _parties(book: Book, original: Transfer) -> tuple[str, str]:
    """Who was paid, and who paid."""
    if original.request.kind is Kind.REFUND:
        leg = original.legs[0]
        return leg.credit_account_id, leg.debit_account_id
    return original.request.credit_account_id, _who_paid(book, original)


def _who_paid(book: Book, original: Transfer) -> str:
    """The payer, or the suspense account where an advice was uncovered: then the payer never gave
    anything."""
    suspense = suspense_account(book.box, original.request.currency)
    return suspense if original.legs[0].debit_account_id == suspense else original.request.debit_account_id


def _counted(c: Context, original: Transfer, leg: Leg) -> Counted | None:
    """Where a post, reversal or refund counts in a merchant's batch: in the original's, unless the request
    names its own."""
    kind, paid = c.request.kind, original.request
    if leg.flags & VOID and paid.kind is Kind.HOLD:
        return None  # a hold counts when it is posted
    if kind is Kind.REVERSAL and (paid.kind is Kind.REFUND or paid.merchant_pays):
        side = Side.REFUND_REVERSALS
    elif kind is Kind.REVERSAL:
        side = Side.PAYMENT_REVERSALS
    else:
        side = Side.REFUNDS if kind is Kind.REFUND else Side.PAYMENTS
    merchant, terminal = c.request.merchant or paid.merchant, c.request.terminal or paid.terminal
    if not merchant and original.counted is not None:
        merchant, terminal = original.counted.merchant, original.counted.terminal
    currency = c.book.accounts[leg.debit_account_id].currency
    return Counted(merchant, terminal, side, currency) if merchant else None


def _undone_here(c: Context, original: Transfer, leg: Leg) -> Undone | None:
    """Off whose limits a reversal takes its amount; of what never moved a void says so itself."""
    takes_off = c.request.kind is Kind.REVERSAL and original.request.kind in (Kind.PAYMENT, Kind.HOLD)
    is_counted = bool(c.book.tally.measures) and original.epoch == c.stamp.epoch
    return undone_of(original) if takes_off and is_counted and not leg.flags & VOID else None


def _tied(
    c: Context, cleared_by: ClearedBy, legs: tuple[Leg, ...], *, original: Transfer, reason: str = ""
) -> Transfer | Refusal:
    """The record that names its original, and where it counts in a merchant's batch."""
    return booking(
        c,
        cleared_by,
        legs,
        reason=reason,
        original=place_of_record(original),
        counted=_counted(c, original, legs[0]),
        undone=_undone_here(c, original, legs[0]),
    )
