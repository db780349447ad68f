"""Deciding a request: one function per kind, pure, on a layer of the book. Always local, online or offline
(DESIGN §2).

The answer is a record that is ready to be journalled (cleared or refused) with its legs booked on the
layer, or `Short`: the allowance does not cover it and the line is up, so the gateway asks the centre and
comes back. Identity (repeat, conflict) is decided before, by the pen, which also fills in
`original_client`. Checks come in the order of `core.reasons.Reason`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from edgegw.core.book import (
    KEPT,
    PENDING,
    POST,
    VOID,
    Book,
    ReplayError,
    centre_account,
    receivable_account,
    recourse_account,
    risk_account,
    suspense_account,
)
from edgegw.core.limits import Refused, refuses_stand_in
from edgegw.core.model import CreateTransferStatus, PendingStatus
from edgegw.core.pruned import Pruned
from edgegw.core.reasons import Reason
from edgegw.core.records import (
    Account,
    ClearedBy,
    DeclineDirective,
    DirectiveApplied,
    Expiry,
    HeadFields,
    Kind,
    Leg,
    Record,
    Refusal,
    Request,
    Transfer,
    decode_directive,
    place_of,
    place_text,
    transfer_id,
)

Rule = Callable[[Book, str, Request, int], Refused | None]
"""A rule: (book, client, request, at_ns) -> a refusal or None. Pure."""


class Stamp(msgspec.Struct, frozen=True):
    """What a record names first: who, where in the log, when."""

    bank: str
    box: str
    epoch: int
    seq: int
    at_ns: int
    wall_ns: int
    mono_ns: int

    def head(self) -> HeadFields:
        """The first fields of a record."""
        return {
            "v": 1,
            "bank": self.bank,
            "box": self.box,
            "epoch": self.epoch,
            "seq": self.seq,
            "at_ns": self.at_ns,
            "wall_ns": self.wall_ns,
            "mono_ns": self.mono_ns,
        }


class Funding(msgspec.Struct, frozen=True):
    """How the gateway found the centre for this request."""

    line_up: bool
    centre: str = ""
    """`granted`, `refused` or `timeout` once it was asked, "" before."""
    reason: str = ""
    """Why the line counts as down, for the record: `line_down` or `centre_timeout`."""
    asked: Mapping[str, Funding] = {}
    """The same for those accounts of a linked group for which the centre was asked."""

    def of(self, account_id: str) -> Funding:
        """What holds for a member of a group that this account pays."""
        return self.asked.get(account_id, self)


class Short(msgspec.Struct, frozen=True):
    """The allowance of account_id does not cover amount_minor: ask the centre for at least that and decide
    again."""

    account_id: str
    currency: str
    amount_minor: int


class Context(msgspec.Struct, frozen=True):
    """All that a decision is made from."""

    book: Book
    stamp: Stamp
    client: str
    request: Request
    funding: Funding
    rules: Sequence[Rule]

    def asking(self, account_id: str) -> Context:
        """The same with what the centre said of this account, where it was asked for it."""
        return msgspec.structs.replace(self, funding=self.funding.of(account_id))


Decided = Transfer | Refusal | Short


def decide(context: Context) -> Decided:
    """Decide one request whose identity is new and book its legs; the caller journals the record and then
    calls `book.note`."""
    return _BY_KIND[context.request.kind](context)


def _cleared(
    c: Context, cleared_by: ClearedBy, legs: tuple[Leg, ...], *, reason: str = "", original: str = ""
) -> Transfer:
    return Transfer(
        **c.stamp.head(),
        window=c.book.window,
        client=c.client,
        request=c.request,
        cleared_by=cleared_by,
        reason=reason,
        original=original,
        legs=legs,
    )


def refuse(stamp: Stamp, client: str, request: Request, code: Reason, detail: str) -> Refusal:
    """The record of a refusal; changes nothing else."""
    return Refusal(
        **stamp.head(),
        client=client,
        request=request,
        code=code.value,
        detail=detail,
    )


def _refused(c: Context, code: Reason, detail: str) -> Refusal:
    return refuse(c.stamp, c.client, c.request, code, detail)


def _post(c: Context, legs: tuple[Leg, ...]) -> CreateTransferStatus:
    return c.book.post(legs, epoch=c.stamp.epoch, seq=c.stamp.seq, at_ns=c.stamp.at_ns)


def _booked(
    c: Context, cleared_by: ClearedBy, legs: tuple[Leg, ...], *, reason: str = "", original: str = ""
) -> Transfer | Refusal:
    status = _post(c, legs)
    if status is not CreateTransferStatus.created:
        return _refused(c, Reason.LEDGER_REFUSED, status.name)
    return _cleared(c, cleared_by, legs, reason=reason, original=original)


# -- payments and holds --------------------


def _misshapen(book: Book, client: str, request: Request) -> Refused | None:
    reversal = book.reversed_by(client, request.id)
    if reversal is not None:
        return Reason.ALREADY_REVERSED, f"reversed by record {reversal}"
    if request.currency not in book.currencies:
        known = ", ".join(sorted(book.currencies)) or "none"
        return Reason.CURRENCY_UNKNOWN, f"currency {request.currency!r} is not one of: {known}"
    debit = book.accounts.get(request.debit_account_id)
    if debit is None:
        return (
            Reason.DEBIT_ACCOUNT_NOT_FOUND,
            f"debit_account_id {request.debit_account_id!r} is not known here",
        )
    credit = book.accounts.get(request.credit_account_id)
    if credit is None:
        return (
            Reason.CREDIT_ACCOUNT_NOT_FOUND,
            f"credit_account_id {request.credit_account_id!r} is not known here",
        )
    for account in (debit, credit):
        if is_own(account):
            return Reason.ACCOUNT_NOT_FOR_CLIENTS, f"account {account.id!r} is one of the books' own"
    if debit.id == credit.id:
        return (
            Reason.ACCOUNTS_MUST_BE_DIFFERENT,
            f"debit_account_id and credit_account_id are both {debit.id!r}",
        )
    if not debit.currency == credit.currency == request.currency:
        detail = f"currency is {request.currency}, the accounts are in {debit.currency} and {credit.currency}"
        return Reason.CURRENCY_MISMATCH, detail
    return None


def is_own(account: Account) -> bool:
    """Whether it is one of the books' own accounts, which no request may name."""
    return account.id.startswith(OWN_PREFIXES)


OWN_PREFIXES: Final = (
    "centre:",
    "risk:",
    "suspense:",
    "receivable:",
    "recourse:",
    "core:",
    "capital:",
    "settlement:",
)


def _ruled(c: Context) -> Refused | None:
    for account_id in (c.request.debit_account_id, c.request.credit_account_id):
        closed = c.book.closed.get(account_id)
        if closed is not None:
            return Reason.ACCOUNT_CLOSED, f"{account_id} is closed: {closed}"
    frozen = c.book.frozen.get(c.request.debit_account_id)
    if frozen is not None:
        return Reason.ACCOUNT_FROZEN, f"{c.request.debit_account_id} is frozen: {frozen}"
    for rule in c.rules:
        refused = rule(c.book, c.client, c.request, c.stamp.at_ns)
        if refused is not None:
            return refused
    return None


def _payment(c: Context) -> Decided:
    refused = _misshapen(c.book, c.client, c.request)
    if refused is None and not c.request.advice:
        refused = _ruled(c)
    if refused is not None:
        return _refused(c, *refused)
    request, book = c.request, c.book
    if book.available(request.debit_account_id) >= request.amount_minor and not _barred_advice(c):
        by = ClearedBy.CENTRE if c.funding.centre == "granted" else ClearedBy.ALLOWANCE
        return _booked(c, by, _to_payee(book, request.debit_account_id, request))
    return _uncovered_payment(c)


def _barred_advice(c: Context) -> bool:
    payer = c.request.debit_account_id
    return c.request.advice and (payer in c.book.frozen or payer in c.book.closed)


def _to_payee(book: Book, source: str, request: Request) -> tuple[Leg, ...]:
    leg = Leg(source, request.credit_account_id, request.amount_minor)
    return leg, *_sent_home(book, request.credit_account_id, request.amount_minor)


def _sent_home(book: Book, account_id: str, amount_minor: int) -> tuple[Leg, ...]:
    """The leg that gives the right to money back to the centre when its account is homed elsewhere."""
    account = book.accounts[account_id]
    if book.homed_here(account):
        return ()
    return (Leg(account_id, centre_account(account.currency), amount_minor),)


def _short(c: Context, account_id: str, amount_minor: int) -> Short | None:
    """Ask the centre, if it can still be asked for this request; again, when others spent what it granted."""
    if c.funding.line_up and c.funding.centre in ("", "granted"):
        return Short(account_id, c.book.accounts[account_id].currency, amount_minor)
    return None


def _unfunded(c: Context, account_id: str) -> Refusal:
    available = c.book.available(account_id)
    return _refused(
        c,
        Reason.INSUFFICIENT_FUNDS,
        f"{account_id} has {available} minor units here; the centre gives no more",
    )


def _uncovered_payment(c: Context) -> Decided:
    request = c.request
    short = _short(c, request.debit_account_id, request.amount_minor)
    if short is not None:
        return short
    if request.advice:
        return _advised(c)
    if c.funding.centre == "refused":
        return _unfunded(c, request.debit_account_id)
    refused = refuses_stand_in(c.book, request, at_ns=c.stamp.at_ns)
    if refused is not None:
        return _refused(c, *refused)
    risk = risk_account(c.book.box, request.currency)
    if c.book.available(risk) < request.amount_minor:
        return _refused(
            c, Reason.STAND_IN_BOX_LIMIT, f"{c.book.available(risk)} minor units are left to stand in with"
        )
    return _stand_in(c, risk)


def _stand_in(c: Context, risk: str) -> Transfer | Refusal:
    leg = Leg(risk, c.request.credit_account_id, c.request.amount_minor, PENDING)
    return _booked(c, ClearedBy.STAND_IN, (leg,), reason=c.funding.reason)


def _advised(c: Context) -> Transfer | Refusal:
    """What has happened outside cannot be refused: at the branch's risk, else to suspense (DESIGN §2)."""
    request = c.request
    risk = risk_account(c.book.box, request.currency)
    if c.book.available(risk) >= request.amount_minor:
        return _stand_in(c, risk)
    suspense = suspense_account(c.book.box, request.currency)
    return _booked(c, ClearedBy.STAND_IN, _to_payee(c.book, suspense, request), reason=SUSPENSE)


SUSPENSE: Final = "suspense"


def _hold(c: Context) -> Decided:
    refused = _misshapen(c.book, c.client, c.request) or _ruled(c)
    if refused is not None:
        return _refused(c, *refused)
    request = c.request
    if c.book.available(request.debit_account_id) < request.amount_minor:
        short = _short(c, request.debit_account_id, request.amount_minor)
        if short is not None:
            return short
        if c.funding.centre == "refused":
            return _unfunded(c, request.debit_account_id)
        return _refused(c, Reason.STAND_IN_NOT_OFFERED, "the branch does not stand in for holds")
    by = ClearedBy.CENTRE if c.funding.centre == "granted" else ClearedBy.ALLOWANCE
    leg = Leg(
        request.debit_account_id,
        request.credit_account_id,
        request.amount_minor,
        PENDING,
        "",
        request.timeout_s,
    )
    return _booked(c, by, (leg,))


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
    hold_id = _first_leg(original)
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


def _first_leg(record: Transfer) -> int:
    return transfer_id(epoch=record.epoch, seq=record.seq, leg=0)


def _place(record: Transfer) -> str:
    return place_text(epoch=record.epoch, seq=record.seq)


def _post_hold(c: Context) -> Decided:
    hold = _live_hold(c)
    if not isinstance(hold, Transfer):
        return _refused(c, *hold)
    held = hold.legs[0]
    amount_minor = c.request.amount_minor or held.amount_minor
    if amount_minor > held.amount_minor:
        return _refused(
            c, Reason.EXCEEDS_HOLD, f"amount_minor {amount_minor} exceeds the held {held.amount_minor}"
        )
    leg = Leg(held.debit_account_id, held.credit_account_id, amount_minor, POST, f"{_first_leg(hold):032x}")
    legs = (leg, *_sent_home(c.book, held.credit_account_id, amount_minor))
    return _booked(c, hold.cleared_by, legs, original=_place(hold))


def _void_hold(c: Context) -> Decided:
    hold = _live_hold(c)
    if not isinstance(hold, Transfer):
        return _refused(c, *hold)
    return _voided(c, hold)


def _voided(c: Context, original: Transfer) -> Transfer | Refusal:
    held = original.legs[0]
    leg = Leg(
        held.debit_account_id, held.credit_account_id, held.amount_minor, VOID, f"{_first_leg(original):032x}"
    )
    return _booked(c, original.cleared_by, (leg,), original=_place(original))


# -- reversals and refunds --------------------

_GIVING_BACK: Final = (Kind.REVERSAL, Kind.VOID, Kind.REFUND)


def _reversal(c: Context) -> Decided:
    """Give money back, whole or in part; what is not known yet is kept, and wins when it arrives."""
    original = c.book.by_identity(c.request.original_client, c.request.original_id)
    if original is None:
        return _cleared(c, ClearedBy.ALLOWANCE, (), reason=KEPT)
    return _undone(c, original)


def _refund(c: Context) -> Decided:
    """The same of a payment that has happened: one that is not known here gives nothing back."""
    request = c.request
    original = c.book.by_identity(request.original_client, request.original_id)
    if original is None:
        return _refused(c, Reason.ORIGINAL_NOT_FOUND, f"original_id {request.original_id} is not known here")
    if isinstance(original, Transfer) and original.request.kind is Kind.HOLD and _is_live(c.book, original):
        return _refused(c, Reason.ORIGINAL_NOT_REVERSIBLE, "a live hold is voided, or posted in part")
    return _undone(c, original)


def _undone(c: Context, original: Record | Pruned) -> Decided:
    request = c.request
    if isinstance(original, Pruned):
        return _refused(c, *_pruned(original))
    if not isinstance(original, Transfer):
        return _refused(c, Reason.ORIGINAL_WAS_REFUSED, f"original_id {request.original_id} was refused")
    if original.request.kind is Kind.POST:
        hold = c.book.at(original.original)
        if not isinstance(hold, Transfer):
            return _refused(c, Reason.RECORD_PRUNED, f"record {original.original} is not kept here")
        original = hold  # what was posted is the hold's to give back
    reversible = {Kind.PAYMENT, Kind.HOLD} | ({Kind.REFUND} if request.kind is Kind.REVERSAL else set())
    if original.request.kind not in reversible:
        detail = f"original_id {request.original_id} is a {original.request.kind}"
        return _refused(c, Reason.ORIGINAL_NOT_REVERSIBLE, detail)
    parties = _parties(c.book, original)
    unknown = next((name for name in parties if name not in c.book.accounts), None)
    if unknown is not None:
        return _refused(c, Reason.ORIGINAL_NOT_REVERSIBLE, f"account {unknown!r} is not known here any more")
    if _waits_in_earlier_epoch(c, original):
        return _refused(c, *_waiting_elsewhere(original))
    given_back = given_back_minor(c.book, original)
    moved = _moved_minor(c.book, original)
    amount_minor = request.amount_minor or moved - given_back
    if amount_minor <= 0 or given_back + amount_minor > moved:
        detail = f"amount_minor {request.amount_minor} with {given_back} given back exceeds {moved}"
        return _refused(c, Reason.EXCEEDS_ORIGINAL, detail)
    if original.request.kind is Kind.REFUND:
        return _refund_undone(c, original, amount_minor, moved)
    pending = original.legs[0].flags & PENDING and _is_live(c.book, original)
    if pending and _time_is_up(original, at_ns=c.stamp.at_ns):
        return _refused(c, *_expired(original))
    if pending and amount_minor == moved and not given_back:
        return _voided(c, original)
    if original.request.kind is Kind.HOLD and pending:
        return _refused(c, Reason.ORIGINAL_NOT_REVERSIBLE, "a live hold is reversed whole, or posted in part")
    if pending and not request.advice:
        return _refused(
            c, Reason.STAND_IN_WAITS, "the centre has not confirmed it; until then it is reversed whole only"
        )
    payee, payer = parties
    return _give_back(c, original, amount_minor, payee=payee, payer=payer)


def _refund_undone(c: Context, refund: Transfer, amount_minor: int, moved_minor: int) -> Decided:
    """Take a refund back whole: who got the money pays it to who gave it."""
    leg = refund.legs[0]
    if leg.flags & VOID or refund.cleared_by is ClearedBy.STAND_IN:
        detail = (
            "the refund moved nothing of the payee's: it took a stand-in back, or was at the branch's risk"
        )
        return _refused(c, Reason.ORIGINAL_NOT_REVERSIBLE, detail)
    if amount_minor != moved_minor:
        return _refused(c, Reason.ORIGINAL_NOT_REVERSIBLE, "a refund is taken back whole")
    return _give_back(c, refund, amount_minor, payee=leg.credit_account_id, payer=leg.debit_account_id)


def _is_live(book: Book, original: Transfer) -> bool:
    return book.ledger.is_live(_first_leg(original))


def _waits_in_earlier_epoch(c: Context, original: Transfer) -> bool:
    """A hold or stand-in that was neither resolved nor decided when its epoch ended is the centre's to
    finish: whatever were given back here could be money that never moved."""
    return (
        original.epoch != c.stamp.epoch
        and bool(original.legs[0].flags & PENDING)
        and c.book.ledger.pending_status(_first_leg(original)) is PendingStatus.pending
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
    for record in book.about(_place(original)):
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
    for record in book.about(_place(original)):
        if isinstance(record, Transfer) and record.request.kind is Kind.POST:
            return record.legs[0].amount_minor
        if isinstance(record, DirectiveApplied) and isinstance(
            decode_directive(bytes(record.directive)), DeclineDirective
        ):
            return 0
    if original.request.kind is Kind.HOLD and not _is_live(book, original):
        return 0
    return original.request.amount_minor


def _give_back(c: Context, original: Transfer, amount_minor: int, *, payee: str, payer: str) -> Decided:
    c = c.asking(payee)
    box, currency, place = c.book.box, c.book.accounts[payee].currency, _place(original)
    home = _sent_home(c.book, payer, amount_minor)
    closed, frozen = c.book.closed.get(payee), c.book.frozen.get(payee)
    if closed is not None and not c.request.advice:
        return _refused(c, Reason.ACCOUNT_CLOSED, f"{payee} is closed: {closed}")
    if frozen is not None and not c.request.advice:
        return _refused(c, Reason.ACCOUNT_FROZEN, f"{payee} is frozen: {frozen}")
    if closed is None and frozen is None and c.book.available(payee) >= amount_minor:
        by = ClearedBy.CENTRE if c.funding.centre == "granted" else ClearedBy.ALLOWANCE
        return _booked(c, by, (Leg(payee, payer, amount_minor), *home), original=place)
    short = _short(c, payee, amount_minor)
    if short is not None:
        return short
    if c.funding.centre in ("refused", "granted") and not c.request.advice:
        return _unfunded(c, payee)
    owed = Leg(receivable_account(box, currency), recourse_account(box, currency), amount_minor)
    source, reason = risk_account(box, currency), c.funding.reason
    if payer == suspense_account(box, currency):
        return _booked(c, ClearedBy.STAND_IN, (owed,), reason=reason, original=place)
    if c.book.available(source) < amount_minor:
        if not c.request.advice:
            left = c.book.available(source)
            detail = f"{payee} has {c.book.available(payee)} and the branch {left} minor units left"
            return _refused(c, Reason.STAND_IN_BOX_LIMIT, detail)
        source, reason = suspense_account(box, currency), SUSPENSE
    legs = (Leg(source, payer, amount_minor), *home, owed)
    return _booked(c, ClearedBy.STAND_IN, legs, reason=reason, original=place)


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


_BY_KIND: Final[dict[Kind, Callable[[Context], Decided]]] = {
    Kind.PAYMENT: _payment,
    Kind.HOLD: _hold,
    Kind.POST: _post_hold,
    Kind.VOID: _void_hold,
    Kind.REVERSAL: _reversal,
    Kind.REFUND: _refund,
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
        legs=(leg,),
    )
    book.replay(record)
    return record
