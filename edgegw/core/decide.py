"""Deciding a request: one function per kind, pure, on a layer of the book. Always local, online or offline
(DESIGN §2).

The answer is a record that is ready to be journalled (cleared or refused) with its legs booked on the
layer, or `Short`: the allowance does not cover it and the line is up, so the gateway asks the centre and
comes back. Identity (repeat, conflict) is decided before, by the pen, which also fills in
`original_client`. Checks come in the order of `core.reasons.Reason`. What a decision is made of is in
`core.decision`; what becomes of payments and holds afterwards in `core.resolution`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from edgegw.core import merchants
from edgegw.core.accounts import risk_account, suspense_account
from edgegw.core.book import Book, ReplayError
from edgegw.core.caps import lacking, resolved
from edgegw.core.decision import (
    SUSPENSE,
    Context,
    Decided,
    Funding,
    Rule,
    Short,
    Stamp,
    booking,
    clearing,
    refuse,
    refusing,
    sent_home,
    shortage,
    unfunded,
)
from edgegw.core.legs import PENDING, VOID
from edgegw.core.limits import NS_PER_S, Refused, offline_ns, refuses_stand_in
from edgegw.core.reasons import Reason
from edgegw.core.records import (
    ClearedBy,
    Expiry,
    Kind,
    Leg,
    Refusal,
    Request,
    Transfer,
    place_of,
    place_text,
)
from edgegw.core.resolution import post_hold, refund, reversal, void_hold

__all__ = [
    "Context",
    "Decided",
    "Funding",
    "Rule",
    "Short",
    "Stamp",
    "decide",
    "expiry",
    "refuse",
]


def decide(context: Context) -> Decided:
    """Decide one request whose identity is new and book its legs; the caller journals the record and then
    calls `book.note`."""
    kind = context.request.kind
    if kind in _REVERSIBLE:
        place = context.book.reversed_by(context.client, context.request.id)
        if place is not None:
            return refusing(context, Reason.ALREADY_REVERSED, f"reversed by record {place}")
    return _BY_KIND[kind](context)


_REVERSIBLE: Final = frozenset((Kind.PAYMENT, Kind.HOLD, Kind.POST, Kind.REFUND))
"""What a reversal that came before it undoes."""


# -- payments and holds --------------------


def _misshapen(book: Book, request: Request) -> Refused | None:
    if request.currency not in book.currencies:
        known = ", ".join(sorted(book.currencies)) or "none"
        return Reason.CURRENCY_UNKNOWN, f"currency {request.currency!r} is not one of: {known}"
    debit = book.known[request.debit_account_id]
    if debit is None:
        return (
            Reason.DEBIT_ACCOUNT_NOT_FOUND,
            f"debit_account_id {request.debit_account_id!r} is not known here",
        )
    credit = book.known[request.credit_account_id]
    if credit is None:
        return (
            Reason.CREDIT_ACCOUNT_NOT_FOUND,
            f"credit_account_id {request.credit_account_id!r} is not known here",
        )
    if debit.is_own or credit.is_own:
        own = request.debit_account_id if debit.is_own else request.credit_account_id
        return Reason.ACCOUNT_NOT_FOR_CLIENTS, f"account {own!r} is one of the books' own"
    if debit is credit:
        return (
            Reason.ACCOUNTS_MUST_BE_DIFFERENT,
            f"debit_account_id and credit_account_id are both {request.debit_account_id!r}",
        )
    pays, is_paid = debit.account.currency, credit.account.currency
    if not pays == is_paid == request.currency:
        detail = f"currency is {request.currency}, the accounts are in {pays} and {is_paid}"
        return Reason.CURRENCY_MISMATCH, detail
    return None


def _ruled(c: Context) -> Refused | None:
    if not c.funding.line_up and _lease_is_over(c):
        return Reason.LEASE_OVER, f"the centre was heard last {_offline_ns(c) // NS_PER_S} s ago"
    book, request = c.book, c.request
    payer, payee = book.known[request.debit_account_id], book.known[request.credit_account_id]
    for known in (payer, payee):
        if known is not None and known.closed is not None:
            return Reason.ACCOUNT_CLOSED, f"{known.account.id} is closed: {known.closed}"
    if payer is not None and payer.frozen is not None:
        return Reason.ACCOUNT_FROZEN, f"{request.debit_account_id} is frozen: {payer.frozen}"
    for rule in c.rules:
        refused = rule(book, c.client, request, c.stamp.at_ns)
        if refused is not None:
            return refused
    return None


def _payment(c: Context) -> Decided:
    request, book = c.request, c.book
    refused = _misshapen(book, request)
    if refused is None and not request.advice:
        refused = _ruled(c)
    if refused is not None:
        return refusing(c, *refused)
    over = _over_cap(c) if book.caps and not request.advice else None
    if over is not None:
        return over
    is_barred = request.advice and _is_barred(book, request.debit_account_id)
    if not is_barred and book.available(request.debit_account_id) >= request.amount_minor:
        return booking(c, _cleared_by(c), _to_payee(book, request.debit_account_id, request))
    return _uncovered_payment(c)


def _over_cap(c: Context) -> Short | Refusal | None:
    """What to do about a cap of which this box holds too little; nothing stands in for it."""
    short = lacking(c.book, c.request)
    if short is None:
        return None
    account_id, amount_minor = short
    funding = c.funding.of_cap(account_id)
    if funding.line_up and funding.centre in ("", "granted"):
        return Short(account_id, c.request.currency, amount_minor)
    participant, available = account_id.split(":")[1], c.book.available(account_id)
    why = "the centre gives no more" if funding.centre == "refused" else "the centre cannot be asked"
    return refusing(
        c, Reason.NET_DEBIT_CAP, f"{participant} has {available} minor units of its cap here; {why}"
    )


def _cleared_by(c: Context) -> ClearedBy:
    return _CENTRE if c.funding.centre == "granted" else _ALLOWANCE


_ALLOWANCE: Final = ClearedBy.ALLOWANCE  # reaching a member through its class is a call of a function
_CENTRE: Final = ClearedBy.CENTRE


def _lease_is_over(c: Context) -> bool:
    """Whether the box may spend no allowance of this currency any more; contact alone renews it."""
    lasts_ns = c.book.leases_ns.get(c.request.currency, 0)
    return 0 < lasts_ns <= _offline_ns(c)


def _offline_ns(c: Context) -> int:
    return offline_ns(c.book, at_ns=c.stamp.at_ns)


def _is_barred(book: Book, account_id: str) -> bool:
    return account_id in book.frozen or account_id in book.closed


def _to_payee(book: Book, source: str, request: Request) -> tuple[Leg, ...]:
    leg = Leg(source, request.credit_account_id, request.amount_minor)
    return leg, *sent_home(book, request.credit_account_id, request.amount_minor)


def _uncovered_payment(c: Context) -> Decided:
    request = c.request
    short = shortage(c, request.debit_account_id, request.amount_minor)
    if short is not None:
        return short
    if request.advice:
        return _advised(c)
    if c.funding.centre == "refused":
        return unfunded(c, request.debit_account_id)
    refused = refuses_stand_in(c.book, request, at_ns=c.stamp.at_ns)
    if refused is not None:
        return refusing(c, *refused)
    risk = risk_account(c.book.box, request.currency)
    if c.book.available(risk) < request.amount_minor:
        return refusing(
            c, Reason.STAND_IN_BOX_LIMIT, f"{c.book.available(risk)} minor units are left to stand in with"
        )
    return _stand_in(c, risk)


def _stand_in(c: Context, risk: str) -> Transfer | Refusal:
    leg = Leg(risk, c.request.credit_account_id, c.request.amount_minor, PENDING)
    payer = c.request.debit_account_id
    return booking(c, ClearedBy.STAND_IN, (leg,), reason=c.funding.reason, payer=payer)


def _advised(c: Context) -> Transfer | Refusal:
    """What has happened outside cannot be refused: at the branch's risk, else to suspense (DESIGN §2)."""
    request = c.request
    risk = risk_account(c.book.box, request.currency)
    if c.book.available(risk) >= request.amount_minor:
        return _stand_in(c, risk)
    suspense = suspense_account(c.book.box, request.currency)
    return booking(c, ClearedBy.STAND_IN, _to_payee(c.book, suspense, request), reason=SUSPENSE)


def _hold(c: Context) -> Decided:
    refused = _misshapen(c.book, c.request) or _ruled(c)
    if refused is not None:
        return refusing(c, *refused)
    request = c.request
    over = _over_cap(c)
    if over is not None:
        return over
    if c.book.available(request.debit_account_id) < request.amount_minor:
        short = shortage(c, request.debit_account_id, request.amount_minor)
        if short is not None:
            return short
        if c.funding.centre == "refused":
            return unfunded(c, request.debit_account_id)
        return refusing(c, Reason.STAND_IN_NOT_OFFERED, "the branch does not stand in for holds")
    leg = Leg(
        request.debit_account_id,
        request.credit_account_id,
        request.amount_minor,
        PENDING,
        "",
        request.timeout_s,
    )
    return booking(c, _cleared_by(c), (leg,))


def _close_batch(c: Context) -> Decided:
    """End a merchant's batch, whatever its client has counted: a difference is said, and stays on record."""
    request, batches = c.request, c.book.batches
    batch = batches.get((request.merchant, request.terminal))
    if batch is None and merchants.is_full(batches):
        detail = f"{merchants.MERCHANTS_MAX} merchants and terminals are counted already"
        return refusing(c, Reason.BATCH_NOT_COUNTED, detail)
    closed = merchants.closed(batch or merchants.first_batch(c.stamp.epoch), request.totals)
    return clearing(c, ClearedBy.ALLOWANCE, (), batch=closed)


_BY_KIND: Final[dict[Kind, Callable[[Context], Decided]]] = {
    Kind.PAYMENT: _payment,
    Kind.HOLD: _hold,
    Kind.POST: post_hold,
    Kind.VOID: void_hold,
    Kind.REVERSAL: reversal,
    Kind.REFUND: refund,
    Kind.CLOSE_BATCH: _close_batch,
}


def expiry(book: Book, stamp: Stamp, hold_id: int) -> Expiry | None:
    """The record of one hold whose time is up, booked; None when it is not live any more."""
    hold = book.ledger.find(hold_id)
    if hold is None or not book.ledger.is_live(hold_id):
        return None
    epoch, seq, _ = place_of(hold_id)
    place = place_text(epoch=epoch, seq=seq)
    original = book.at(place)
    if not isinstance(original, Transfer):
        raise ReplayError(f"the live hold {hold_id:032x} has no record at {place}")
    held = original.legs[0]
    leg = Leg(held.debit_account_id, held.credit_account_id, held.amount_minor, VOID, f"{hold_id:032x}")
    record = Expiry(
        **stamp.head(),
        window=book.window,
        original=place,
        legs=(leg, *resolved(book, original, flag=VOID, amount_minor=held.amount_minor)),
    )
    book.replay(record)
    return record
