"""What a site's limits allow. Pure; evaluated on live reservations, inside batches too.

Boundaries are EMV's: the floor fires at >=, amounts, sums and counts at >. The limits for the time offline
tighten with its length and never loosen before the line was up (DESIGN §2.3). Leaves out how sums are kept
(`core.counts`, `core.tally`).
"""

from __future__ import annotations

from typing import Final

from edgegw.core.book import Book
from edgegw.core.cards import settings_name
from edgegw.core.counts import (
    NOTHING,
    OFFLINE,
    OUTAGE,
    STAND_IN,
    Count,
    Limit,
    LimitChange,
    Stood,
    split_measure,
    subject,
)
from edgegw.core.reasons import Reason
from edgegw.core.records import Mode, Request
from edgegw.core.site import LimitRule, StandInRule

NS_PER_S: Final = 1_000_000_000
NS_PER_HOUR: Final = 3_600 * NS_PER_S
Refused = tuple[Reason, str]
"""A reason and its detail."""

_STAND_IN_REASONS: Final = {
    "account": Reason.STAND_IN_ACCOUNT_LIMIT,
    "card": Reason.STAND_IN_CARD_LIMIT,
    "terminal": Reason.STAND_IN_TERMINAL_LIMIT,
    "merchant": Reason.STAND_IN_MERCHANT_LIMIT,
    "branch": Reason.STAND_IN_BOX_LIMIT,
}
_PRECEDENCE: Final = {reason: place for place, reason in enumerate(Reason)}


def offline_ns(book: Book, *, at_ns: int) -> int:
    """How long the centre was not heard, in the box's own time."""
    return at_ns - book.offline_since_ns if book.offline_since_ns else 0


def tightened_percent(book: Book, *, at_ns: int) -> int:
    """What is left of the limits for the time offline, in per cent: the step of its length, or the next one
    where the clock that measured it is not trusted."""
    offline = offline_ns(book, at_ns=at_ns)
    steps = book.policy.tightening
    at = next((at for at, step in enumerate(steps) if offline <= step.until_hours * NS_PER_HOUR), len(steps))
    at += book.clock_suspect
    return steps[at].percent if at < len(steps) else 0


def refuses_payment(book: Book, request: Request, *, at_ns: int) -> Refused | None:
    """The first reason, in their order, why a limit does not allow this payment or hold."""
    limits = book.policy.limits.get(request.currency)
    if limits is None:
        return None
    percent = -1
    found: Refused | None = None
    for limit in limits:
        share = 100
        if limit.rule.when == OFFLINE:
            if book.mode is Mode.ACTIVE:
                continue
            share = percent = tightened_percent(book, at_ns=at_ns) if percent < 0 else percent
        refused = _exceeded(book, limit, request, at_ns=at_ns, percent=share)
        if refused is not None and (found is None or _PRECEDENCE[refused[0]] < _PRECEDENCE[found[0]]):
            found = refused
    return found


def _exceeded(book: Book, limit: Limit, request: Request, *, at_ns: int, percent: int) -> Refused | None:
    rule = limit.rule
    whose = subject(rule.of, request, book.box)
    name = settings_name(book.cards, of=rule.of, whose=whose) if rule.of == "card" else whose
    if not whose or (limit.only and name not in limit.only):
        return None
    limits = _in_force(book, rule, name or "") if book.tally.changes else rule
    amount_minor = request.amount_minor
    if limits.payment_minor is not None and amount_minor * 100 > limits.payment_minor * percent:
        most = limits.payment_minor * percent // 100
        return _reason(
            limit, Reason.EXCEEDS_PAYMENT_LIMIT
        ), f"{_named(rule, whose)}: {amount_minor} exceeds {most}"
    if rule.payment_minor_min is not None and amount_minor < rule.payment_minor_min:
        return (
            Reason.BELOW_PAYMENT_MINIMUM,
            f"{_named(rule, whose)}: {amount_minor} is below {rule.payment_minor_min}",
        )
    if limits.amount_minor is None and limits.count is None:
        return None
    measure = limit.measure
    used: Count | Stood = NOTHING
    if measure is None:
        used = _unconfirmed(book, rule, request, whose)
    elif measure.per != OUTAGE or book.tally.outage_ns:
        used = book.tally.used(measure, limit.key, whose, at_ns=at_ns)
    if limits.amount_minor is not None:
        most = limits.amount_minor * percent // 100
        if used.amount_minor + amount_minor > most:
            code = Reason.EXCEEDS_VELOCITY if rule.seconds else Reason.EXCEEDS_AMOUNT_LIMIT
            wanted = f"{used.amount_minor} used and {amount_minor} wanted exceed {most}"
            return _reason(limit, code), f"{_named(rule, whose)}: {wanted}{_period(rule)}"
    if limits.count is not None:
        most = limits.count * percent // 100
        if used.count + 1 > most:
            code = Reason.EXCEEDS_VELOCITY if rule.seconds else Reason.EXCEEDS_COUNT_LIMIT
            return _reason(
                limit, code
            ), f"{_named(rule, whose)}: {used.count} payments and one more exceed {most}{_period(rule)}"
    return None


def _named(rule: LimitRule, whose: str) -> str:
    return f"limit {rule.name} of {rule.of} {whose}"


def _period(rule: LimitRule) -> str:
    return f" in {rule.seconds} s" if rule.seconds else f" per {rule.per}"


def _in_force(book: Book, rule: LimitRule, whose: str) -> LimitRule | LimitChange:
    """The values of a limit for this id: the centre's order's before the site's."""
    change = book.tally.change_of(rule.name, whose)
    if change is None:
        return rule
    return LimitChange(
        rule.payment_minor if change.payment_minor is None else change.payment_minor,
        rule.amount_minor if change.amount_minor is None else change.amount_minor,
        rule.count if change.count is None else change.count,
    )


def _reason(limit: Limit, code: Reason) -> Reason:
    return _STAND_IN_REASONS[limit.rule.of] if limit.rule.when == STAND_IN else code


def _unconfirmed(book: Book, rule: LimitRule, request: Request, whose: str) -> Stood:
    currencies = (request.currency,) if rule.currency else tuple(book.currencies)
    waiting = [book.tally.stood.get((rule.of, whose, currency)) for currency in currencies]
    return Stood(
        sum(one.amount_minor for one in waiting if one is not None),
        sum(one.count for one in waiting if one is not None),
    )


def refuses_stand_in(book: Book, request: Request, *, at_ns: int) -> Refused | None:
    """Why the branch does not stand in for this payment; its own risk account's cover is the ledger's
    check."""
    rule = book.stand_in_rules.get(request.currency)
    payer = request.debit_account_id
    if not request.stand_in:
        return Reason.STAND_IN_NOT_WANTED, "stand_in is false"
    if rule is None or rule.floor_minor == 0:
        return Reason.STAND_IN_NOT_OFFERED, f"no stand-in in {request.currency}"
    barred = book.barred.get(payer)
    if barred is not None:
        return Reason.ACCOUNT_BARRED, f"the centre refused {payer}: {barred}"
    offline = offline_ns(book, at_ns=at_ns)
    percent = tightened_percent(book, at_ns=at_ns)
    if offline > rule.offline_seconds_max * NS_PER_S or percent == 0:
        return Reason.STAND_IN_TOO_LONG_OFFLINE, f"offline for {offline // NS_PER_S} s"
    refused = _at_floor(book, rule, request, at_ns=at_ns, percent=percent)
    if refused is not None:
        return refused
    for limit in book.policy.stand_in_limits.get(request.currency, ()):
        refused = _exceeded(book, limit, request, at_ns=at_ns, percent=percent)
        if refused is not None:
            return refused
    return None


def _at_floor(book: Book, rule: StandInRule, request: Request, *, at_ns: int, percent: int) -> Refused | None:
    """A sale that is split is as large as its parts."""
    before_minor = 0
    if rule.split_seconds:
        measure = split_measure(rule)
        whose = subject(measure.of, request, book.box)
        before_minor = book.tally.used(measure, measure.key, whose, at_ns=at_ns).amount_minor
    if (before_minor + request.amount_minor) * 100 < rule.floor_minor * percent:
        return None
    floor = rule.floor_minor * percent // 100
    split = f" with {before_minor} at this merchant" if before_minor else ""
    return Reason.STAND_IN_ABOVE_FLOOR, f"amount_minor {request.amount_minor}{split} is not below {floor}"
