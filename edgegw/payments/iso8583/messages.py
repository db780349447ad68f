"""What an ISO 8583 message asks for, and how an answer is said in field 39.

Owns the message types, the mandatory fields, the processing codes, card and terminal to accounts, and the one
table from reasons to response codes. Everything here is a function of the message and the site's settings.
Leaves out: sockets, sign-on, the MAC's check and asking the gateway (`protocols/iso8583.py`).
"""

from __future__ import annotations

import datetime
import enum
import re
from collections.abc import Mapping
from typing import Final

import msgspec

from edgegw.core.reasons import Reason
from edgegw.core.records import BatchTotals, Kind, Request
from edgegw.core.site import Site, TerminalRule
from edgegw.payments.answer import Answer, Outcome
from edgegw.payments.iso8583.fields import Message, is_well_formed, problems, shown
from edgegw.payments.iso8583.identity import (
    Family,
    OriginalData,
    Trace,
    original_data,
    original_traces,
    trace_of,
)
from edgegw.payments.vault import Lookups, mask

WORD_CHARACTERS_MAX: Final = 25
"""Field 44 is an..25."""

APPROVED: Final = "00"
INVALID_MERCHANT: Final = "03"
INVALID_REQUEST: Final = "12"
INVALID_AMOUNT: Final = "13"
INVALID_CARD: Final = "14"
NOT_FOUND: Final = "25"
FORMAT_ERROR: Final = "30"
TERMINAL_NOT_PERMITTED: Final = "58"
SECURITY_VIOLATION: Final = "63"
CENTRE_UNAVAILABLE: Final = "91"
DUPLICATE: Final = "94"
MALFUNCTION: Final = "96"

RESPONSE_CODES: Final[Mapping[str, str]] = {
    Reason.LINKED_EVENT_FAILED: INVALID_REQUEST,
    Reason.ALREADY_REVERSED: INVALID_REQUEST,
    Reason.CURRENCY_UNKNOWN: INVALID_REQUEST,
    Reason.DEBIT_ACCOUNT_NOT_FOUND: INVALID_CARD,
    Reason.CREDIT_ACCOUNT_NOT_FOUND: INVALID_MERCHANT,
    Reason.ACCOUNT_NOT_FOR_CLIENTS: "57",
    Reason.ACCOUNTS_MUST_BE_DIFFERENT: INVALID_REQUEST,
    Reason.CURRENCY_MISMATCH: INVALID_REQUEST,
    Reason.ORIGINAL_NOT_FOUND: NOT_FOUND,
    Reason.RECORD_PRUNED: NOT_FOUND,
    Reason.ORIGINAL_WAS_REFUSED: "21",
    Reason.ORIGINAL_NOT_A_HOLD: INVALID_REQUEST,
    Reason.ORIGINAL_NOT_REVERSIBLE: INVALID_REQUEST,
    Reason.HOLD_ALREADY_POSTED: "21",
    Reason.HOLD_ALREADY_VOIDED: "21",
    Reason.HOLD_EXPIRED: "21",
    Reason.HOLD_EPOCH_OVER: "21",
    Reason.STAND_IN_EPOCH_OVER: "21",
    Reason.EXCEEDS_HOLD: INVALID_AMOUNT,
    Reason.EXCEEDS_ORIGINAL: "21",
    Reason.BATCH_NOT_COUNTED: INVALID_REQUEST,
    Reason.ACCOUNT_BLOCKED: "62",
    Reason.LEASE_OVER: CENTRE_UNAVAILABLE,
    Reason.ACCOUNT_CLOSED: "62",
    Reason.ACCOUNT_FROZEN: "62",
    Reason.CARD_BLOCKED: "62",
    Reason.TERMINAL_BLOCKED: TERMINAL_NOT_PERMITTED,
    Reason.MERCHANT_BLOCKED: INVALID_MERCHANT,
    Reason.NOT_ON_LIST: "62",
    Reason.EXCEEDS_PAYMENT_LIMIT: "61",
    Reason.BELOW_PAYMENT_MINIMUM: INVALID_AMOUNT,
    Reason.EXCEEDS_AMOUNT_LIMIT: "61",
    Reason.EXCEEDS_COUNT_LIMIT: "65",
    Reason.EXCEEDS_VELOCITY: "65",
    Reason.REFUSED_BY_RULE: "05",
    Reason.NET_DEBIT_CAP: "61",
    Reason.INSUFFICIENT_FUNDS: "51",
    Reason.ACCOUNT_BARRED: "51",
    Reason.STAND_IN_NOT_WANTED: CENTRE_UNAVAILABLE,
    Reason.STAND_IN_NOT_OFFERED: CENTRE_UNAVAILABLE,
    Reason.STAND_IN_TOO_LONG_OFFLINE: CENTRE_UNAVAILABLE,
    Reason.STAND_IN_ABOVE_FLOOR: CENTRE_UNAVAILABLE,
    Reason.STAND_IN_ACCOUNT_LIMIT: CENTRE_UNAVAILABLE,
    Reason.STAND_IN_CARD_LIMIT: CENTRE_UNAVAILABLE,
    Reason.STAND_IN_TERMINAL_LIMIT: CENTRE_UNAVAILABLE,
    Reason.STAND_IN_MERCHANT_LIMIT: CENTRE_UNAVAILABLE,
    Reason.STAND_IN_BOX_LIMIT: CENTRE_UNAVAILABLE,
    Reason.STAND_IN_WAITS: CENTRE_UNAVAILABLE,
    Reason.LEDGER_REFUSED: MALFUNCTION,
}


class Role(enum.Enum):
    """What a message type asks for."""

    HOLD = "0100"
    PAYMENT = "0200"
    ADVICE = "0220"
    REVERSAL = "0400"
    REVERSAL_ADVICE = "0420"
    RECONCILIATION = "0500"
    RECONCILIATION_ADVICE = "0520"
    NETWORK = "0800"

    @property
    def is_advice(self) -> bool:
        """Whether it reports what has already happened."""
        return self in (Role.ADVICE, Role.REVERSAL_ADVICE, Role.RECONCILIATION_ADVICE)


_MANDATORY_ORIGINAL: Final = (3, 4, 11, 12, 13, 32, 41, 49)
_MANDATORY_REVERSAL: Final = (4, 11, 12, 13, 32, 41)
_MANDATORY_RECONCILIATION: Final = (11, 12, 13, 32, 41)
MANDATORY: Final[Mapping[Role, tuple[int, ...]]] = {
    Role.HOLD: _MANDATORY_ORIGINAL,
    Role.PAYMENT: _MANDATORY_ORIGINAL,
    Role.ADVICE: _MANDATORY_ORIGINAL,
    Role.REVERSAL: _MANDATORY_REVERSAL,
    Role.REVERSAL_ADVICE: _MANDATORY_REVERSAL,
    Role.RECONCILIATION: _MANDATORY_RECONCILIATION,
    Role.RECONCILIATION_ADVICE: _MANDATORY_RECONCILIATION,
    Role.NETWORK: (11, 70),
}
"""Besides, an original without field 90 needs a card: field 2, 35 or 45."""

ECHOED: Final = (2, 3, 4, 7, 11, 12, 13, 15, 18, 22, 24, 25, 32, 33, 37, 41, 42, 49, 70, 90)
"""What an answer repeats of its request, where it was well formed."""

CARD_PAYS: Final = frozenset({"00", "01"})
"""Processing codes (first two digits of field 3) that move money from the card's account to the terminal's:
goods, cash out."""
TERMINAL_PAYS: Final = frozenset({"20", "21"})
"""And the other way round: refund, cash in."""


TOTALS: Final[Mapping[int, str]] = {
    74: "refunds_count",
    75: "refund_reversals_count",
    76: "payments_count",
    77: "payment_reversals_count",
    86: "refunds_minor",
    87: "refund_reversals_minor",
    88: "payments_minor",
    89: "payment_reversals_minor",
}
"""What the fields of a reconciliation count: credits are what the card gets, debits what it pays."""
IN_BALANCE: Final = "1"
OUT_OF_BALANCE: Final = "2"
"""Field 66."""
RECONCILE_ERROR: Final = "95"


class Rejection(msgspec.Struct, frozen=True):
    """The adapter's own no: nothing was asked of the gateway and the identity is not used up."""

    code: str
    word: str
    text: str


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """What to ask the gateway for."""

    request: Request
    originals: tuple[str, ...] = ()
    """For a completion or reversal: ids under which its original may be known, best first; `request` names
    the default."""
    instead: Request | None = None
    """For an advice: what to ask for when the identity belongs to a refused payment, or the hold is gone."""


def role_of(mti: str) -> Role | None:
    """The role of a message type, a repeat's (x1) too; None for one that is not served."""
    try:
        return Role(mti[:3] + "0") if mti[3:] in ("0", "1") else None
    except ValueError:
        return None


def response_mti(mti: str) -> str:
    """The type of the answer, "" for what gets none: answers, notifications, other versions of the standard,
    garbage."""
    if not re.fullmatch(r"0[1-8][02][0-5]", mti):
        return ""
    return f"{mti[:2]}{int(mti[2]) + 1}0"


def client_of(terminal: str) -> str:
    """The client of the identities of a terminal."""
    return f"iso8583:{terminal}"


class Directory:
    """The site's settings as messages look things up."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.terminals = {rule.id: rule for rule in site.terminals}
        self.cards = site.cards
        self.currencies = {f"{rule.numeric:03d}": rule.code for rule in site.currencies}


# -- checks ----------------------------------------------------------------------------------------


def malformed(message: Message, role: Role) -> Rejection | None:
    """What is wrong with the message's own fields: all of it for the log, the first for field 44; None when
    nothing is."""
    found = problems(message)
    missing = [number for number in MANDATORY[role] if not message.get(number)]
    original = original_data(message) if not found else None
    if role in (Role.HOLD, Role.PAYMENT, Role.ADVICE) and original is None and not _card_fields(message):
        missing.append(2)
    texts, words = [problem.text for problem in found], [problem.word for problem in found]
    if missing:
        listed = [f"F{number}" for number in sorted(missing)]
        texts.append(f"mandatory in {message.mti} and missing: {', '.join(listed)}; send them")
        words.append(f"missing {' '.join(listed)}")
    if not texts:
        return None
    return Rejection(FORMAT_ERROR, words[0][:WORD_CHARACTERS_MAX], "; ".join(texts))


def terminal_of(message: Message, directory: Directory) -> TerminalRule | Rejection:
    """The registered terminal that field 41 names, with the merchant of field 42 if there is one."""
    terminal = directory.terminals.get(message.get(41))
    if terminal is None:
        value = shown(41, message.get(41))
        text = f"field 41 (terminal) is {value}, not in the site's settings; register the terminal"
        return Rejection(TERMINAL_NOT_PERMITTED, "F41 not registered", text)
    merchant = message.get(42)
    if merchant and merchant != terminal.merchant:
        value = shown(42, merchant)
        text = f"field 42 (merchant) is {value}; terminal {terminal.id} belongs to {terminal.merchant}"
        return Rejection(INVALID_MERCHANT, "F42 not of this terminal", text)
    return terminal


# -- cards -----------------------------------------------------------------------------------------

_TRACK_2: Final = re.compile(r"([0-9]{8,19})[=D].*")
_TRACK_1: Final = re.compile(r"B?([0-9]{8,19})\^.*", re.DOTALL)
_PAN: Final = re.compile(r"[0-9]{8,19}")


def _card_fields(message: Message) -> bool:
    return any(message.get(number) for number in (2, 35, 45))


def number_of(message: Message) -> str | Rejection:
    """The card number of fields 2, 35 and 45, which must agree; "" when none of them is there."""
    found: set[str] = set()
    for number, pattern in ((2, _PAN), (35, _TRACK_2), (45, _TRACK_1)):
        value = message.get(number)
        if not value:
            continue
        matched = pattern.fullmatch(value)
        if matched is None:
            text = f"field {number} is {shown(number, value)} and holds no card number; send 8 to 19 digits"
            return Rejection(INVALID_CARD, f"F{number} no card number", text)
        found.add(matched.group(pattern.groups))
    if len(found) > 1:
        return Rejection(
            INVALID_CARD, "F2 F35 F45 differ", "fields 2, 35 and 45 name different cards; send one"
        )
    return found.pop() if found else ""


# -- requests --------------------------------------------------------------------------------------


class Interpreter:
    """Turns well-formed messages of registered terminals into requests."""

    def __init__(self, lookups: Lookups, *, hold_timeout_s: int) -> None:
        self._lookups = lookups
        self._hold_timeout_s = hold_timeout_s

    def proposal(
        self,
        message: Message,
        role: Role,
        *,
        terminal: TerminalRule,
        directory: Directory,
        business_date: datetime.date,
    ) -> Proposal | Rejection:
        """What the message asks the gateway for, or why it cannot be asked."""
        trace = trace_of(
            message, terminal=terminal.id, merchant=terminal.merchant, business_date=business_date
        )
        if trace is None:
            text = f"field 13 (local date) is {message.get(13)!r}, a day of no year near {business_date}"
            return Rejection(FORMAT_ERROR, f"F13 {message.get(13)} no such day", text)
        if role in (Role.RECONCILIATION, Role.RECONCILIATION_ADVICE):
            wrong = _wrong_currency(message, terminal, directory)
            return Proposal(request=_close(message, trace, terminal)) if wrong is None else wrong
        pan = number_of(message)
        if isinstance(pan, Rejection):
            return pan
        amount_minor = _amount_minor(message)
        if isinstance(amount_minor, Rejection):
            return amount_minor
        wrong = _wrong_currency(message, terminal, directory)
        if wrong is not None:
            return wrong
        base = Request(
            kind=Kind.PAYMENT,
            id=trace.id(Family.ORIGINAL),
            amount_minor=amount_minor,
            advice=role.is_advice,
            card=self._lookups.lookup(pan) if pan else "",
            card_mask=mask(pan) if pan else "",
            terminal=terminal.id,
            merchant=terminal.merchant,
            reference=trace.rrn,
        )
        data = original_data(message)
        if role in (Role.REVERSAL, Role.REVERSAL_ADVICE):
            return _reversal(base, trace, data, business_date)
        paid = self._paid(base, message, role, terminal, directory)
        if data is not None and role is not Role.HOLD:
            if message.get(3)[:2] in TERMINAL_PAYS:
                return _refund(base, trace, data, business_date, role, paid)
            return _completion(base, trace, data, business_date, role, paid)
        if isinstance(paid, Rejection) or role is not Role.ADVICE:
            return paid if isinstance(paid, Rejection) else Proposal(request=paid)
        return Proposal(request=paid, instead=msgspec.structs.replace(paid, id=trace.id(Family.ADVICE)))

    def _paid(
        self, base: Request, message: Message, role: Role, terminal: TerminalRule, directory: Directory
    ) -> Request | Rejection:
        """The payment or hold between the card's account and the terminal's."""
        code = message.get(3)[:2]
        if code not in CARD_PAYS | TERMINAL_PAYS or (role is Role.HOLD and code not in CARD_PAYS):
            served = ", ".join(sorted(CARD_PAYS if role is Role.HOLD else CARD_PAYS | TERMINAL_PAYS))
            value = shown(3, message.get(3))
            text = f"field 3 (processing code) is {value}; in {message.mti} it begins with one of {served}"
            return Rejection(INVALID_REQUEST, f"F3 {code} not served", text)
        account_id = directory.cards.get(base.card)
        if account_id is None:
            text = f"card {base.card_mask} is not in the site's settings; the bank adds its lookup to `cards`"
            return Rejection(INVALID_CARD, "card not registered", text)
        debit, credit = account_id, terminal.credit_account_id
        if code in TERMINAL_PAYS:
            debit, credit = credit, debit
        hold = role is Role.HOLD
        return msgspec.structs.replace(
            base,
            kind=Kind.HOLD if hold else Kind.PAYMENT,
            debit_account_id=debit,
            credit_account_id=credit,
            currency=terminal.currency,
            timeout_s=self._hold_timeout_s if hold else 0,
            merchant_pays=code in TERMINAL_PAYS,
        )


def _close(message: Message, trace: Trace, terminal: TerminalRule) -> Request:
    """End the terminal's batch. Of the fields of totals those that are left out are zero; none at all are not
    compared. Whether the message is an advice makes no difference: a 0520 repeats its 0500."""
    sent = {number: message.get(number) for number in TOTALS}
    totals: tuple[BatchTotals, ...] = ()
    if any(sent.values()):
        figures = {TOTALS[number]: int(value) for number, value in sent.items() if value}
        totals = (BatchTotals(currency=terminal.currency, **figures),)
    return Request(
        kind=Kind.CLOSE_BATCH,
        id=trace.id(Family.RECONCILIATION),
        merchant=terminal.merchant,
        terminal=terminal.id,
        reference=trace.rrn,
        totals=totals,
    )


def _completion(
    base: Request,
    trace: Trace,
    data: OriginalData,
    business_date: datetime.date,
    role: Role,
    paid: Request | Rejection,
) -> Proposal | Rejection:
    if data.mti[:3] != "010":
        text = f"field 90 (original data) names a {data.mti}; a completion names the 0100 whose hold it takes"
        return Rejection(FORMAT_ERROR, f"F90 {data.mti} not 0100", text)
    originals = tuple(
        one.id(Family.ORIGINAL) for one in original_traces(trace, data, business_date=business_date)
    )
    request = msgspec.structs.replace(
        base, kind=Kind.POST, original_client=client_of(trace.terminal), original_id=originals[0]
    )
    if role is not Role.ADVICE or isinstance(paid, Rejection):
        return Proposal(request=request, originals=originals)
    return Proposal(
        request=request,
        originals=originals,
        instead=msgspec.structs.replace(paid, id=trace.id(Family.ADVICE)),
    )


def _refund(
    base: Request,
    trace: Trace,
    data: OriginalData,
    business_date: datetime.date,
    role: Role,
    paid: Request | Rejection,
) -> Proposal | Rejection:
    """Money back of the payment that field 90 names; never more than that has moved."""
    if data.mti[:2] not in ("01", "02"):
        text = f"field 90 (original data) names a {data.mti}; a refund names the 0200 or 0220 that paid"
        return Rejection(FORMAT_ERROR, f"F90 {data.mti} no payment", text)
    traces = original_traces(trace, data, business_date=business_date)
    originals = tuple(one.id(family) for one in traces for family in (Family.ADVICE, Family.ORIGINAL))
    request = msgspec.structs.replace(
        base,
        kind=Kind.REFUND,
        original_client=client_of(trace.terminal),
        original_id=traces[0].id(Family.ORIGINAL),
    )
    if role is not Role.ADVICE or isinstance(paid, Rejection):
        return Proposal(request=request, originals=originals)
    return Proposal(
        request=request,
        originals=originals,
        instead=msgspec.structs.replace(paid, id=trace.id(Family.ADVICE)),
    )


def _reversal(
    base: Request, trace: Trace, data: OriginalData | None, business_date: datetime.date
) -> Proposal:
    traces = original_traces(trace, data, business_date=business_date)
    # An id of the advice family is known only where the original was refused and yet happened: it moved.
    originals = tuple(one.id(family) for one in traces for family in (Family.ADVICE, Family.ORIGINAL))
    request = msgspec.structs.replace(
        base,
        kind=Kind.REVERSAL,
        id=trace.id(Family.REVERSAL),
        original_client=client_of(trace.terminal),
        original_id=traces[0].id(Family.ORIGINAL),
    )
    return Proposal(request=request, originals=originals)


def _amount_minor(message: Message) -> int | Rejection:
    """Field 4, less what really was spent (first 12 digits of field 95) in a partial reversal."""
    amount_minor = int(message.get(4))
    replacement = message.get(95)
    if replacement:
        if not re.fullmatch(r"[0-9]{12}.*", replacement):
            text = f"field 95 (replacement amounts) is {shown(95, replacement)}; begin it with 12 digits"
            return Rejection(FORMAT_ERROR, "F95 not digits", text)
        amount_minor -= int(replacement[:12])
    if amount_minor <= 0:
        text = "field 4 (amount), less what field 95 replaces, leaves nothing; send an amount above 0"
        return Rejection(INVALID_AMOUNT, "F4 leaves no amount", text)
    return amount_minor


def _wrong_currency(message: Message, terminal: TerminalRule, directory: Directory) -> Rejection | None:
    value = message.get(49)
    if not value or directory.currencies.get(value, value) == terminal.currency:
        return None
    text = f"field 49 (currency) is {shown(49, value)}; terminal {terminal.id} takes {terminal.currency}"
    return Rejection(INVALID_REQUEST, f"F49 {value} not {terminal.currency}", text)


# -- answers ---------------------------------------------------------------------------------------

_BASE_36: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_APPROVAL_CHARACTERS: Final = 6


def approval_code(record: str) -> str:
    """Field 38: six characters of base 36 from the record's sequence in the journal; it comes round after 2.1
    billion."""
    left = int(record.partition("/")[2])
    characters = []
    for _ in range(_APPROVAL_CHARACTERS):
        left, digit = divmod(left, 36)
        characters.append(_BASE_36[digit])
    return "".join(reversed(characters))


def reply(message: Message, *, code: str, word: str = "", approval: str = "") -> Message:
    """The answer to a message: what it echoes, the response code, and a word in field 44. The message must
    have an answer's type."""
    echoed = {
        number: message.fields[number]
        for number in ECHOED
        if number in message.fields and is_well_formed(number, message.fields[number])
    }
    said = {38: approval, 39: code, 44: word[:WORD_CHARACTERS_MAX]}
    return Message(
        response_mti(message.mti), echoed | {number: value for number, value in said.items() if value}
    )


def answered(message: Message, answer: Answer, *, currency: str) -> Message:
    """The reply that says what was decided: field 44 names `cleared_by`, or the reason of a refusal. currency
    is the terminal's, in which alone a reconciliation has figures."""
    if answer.outcome is Outcome.REFUSED:
        return reply(message, code=RESPONSE_CODES[answer.reason], word=answer.reason)
    if answer.outcome is Outcome.KEPT and role_of(message.mti) is not Role.REVERSAL_ADVICE:
        return reply(message, code=NOT_FOUND, word="kept")
    if answer.kind is Kind.CLOSE_BATCH:
        return _reconciled(message, answer, currency)
    word = "kept" if answer.outcome is Outcome.KEPT else str(answer.cleared_by or "")
    return reply(message, code=APPROVED, word=word, approval=approval_code(answer.record))


def _reconciled(message: Message, answer: Answer, currency: str) -> Message:
    """The reply to a reconciliation: what the box has counted, whether it is the same, and the net of it."""
    batch = answer.batch
    if batch is msgspec.UNSET:  # a repeat whose record is not kept here any more
        return reply(message, code=APPROVED, word="batch closed", approval=approval_code(answer.record))
    differs = bool(batch.difference)
    word = batch.difference if differs else f"batch {batch.number}"
    said = reply(
        message,
        code=RECONCILE_ERROR if differs else APPROVED,
        word=word,
        approval=approval_code(answer.record),
    )
    figures = dict.fromkeys(TOTALS, 0)
    for total in batch.totals:
        if total.currency == currency:
            figures |= {number: getattr(total, name) for number, name in TOTALS.items()}
    debits, credits_ = figures[88] - figures[89], figures[86] - figures[87]
    net = debits - credits_
    fields = {number: _filled(value, 10 if number < 80 else 16) for number, value in figures.items()}
    fields[66] = OUT_OF_BALANCE if differs else IN_BALANCE
    fields[97] = ("D" if net >= 0 else "C") + _filled(abs(net), 16)
    return msgspec.structs.replace(said, fields=said.fields | fields)


def _filled(value: int, digits: int) -> str:
    """A figure as its field has it; one that has no room is all nines."""
    return str(min(value, 10**digits - 1)).zfill(digits)
