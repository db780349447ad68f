"""Limits: what an account may pay out, and how far the branch may stand in. Pure; evaluated on live
reservations, in batches too.

Boundaries are EMV's: a floor fires at >=, sums and counts at >. The stand-in policy tightens with the time
offline and never loosens (DESIGN §2.3).
"""

from __future__ import annotations

from typing import Final

from edgegw.core.book import Book, Stood
from edgegw.core.reasons import Reason
from edgegw.core.records import Request

NS_PER_S: Final = 1_000_000_000
Refused = tuple[Reason, str]
"""A reason and its detail."""

TIGHTENING: Final = ((24 * 3600, 100), (72 * 3600, 50), (120 * 3600, 25), (168 * 3600, 0))
"""Seconds offline up to which so many per cent of the stand-in amounts hold; beyond the last step, none."""


def tightened_percent(offline_ns: int) -> int:
    """What is left of the stand-in limits after this time offline, in per cent."""
    for seconds, percent in TIGHTENING:
        if offline_ns < seconds * NS_PER_S:
            return percent
    return 0


def exceeds_limits(book: Book, request: Request, *, at_ns: int) -> Refused | None:
    """The site's limits on what the debit account pays out here, held amounts included."""
    rule = book.limits.get(request.currency)
    if rule is None:
        return None
    if request.amount_minor > rule.payment_minor:
        return (
            Reason.EXCEEDS_PAYMENT_LIMIT,
            f"amount_minor {request.amount_minor} exceeds {rule.payment_minor}",
        )
    spent = book.spent.get(request.debit_account_id)
    if spent is None:
        return (
            None
            if request.amount_minor <= rule.window_minor
            else _window_limit(0, request, rule.window_minor)
        )
    used = spent.amount_minor if spent.window == book.window else 0
    if used + request.amount_minor > rule.window_minor:
        return _window_limit(used, request, rule.window_minor)
    count = spent.count if spent.interval == at_ns // (rule.velocity_seconds * NS_PER_S) else 0
    if count >= rule.velocity_count:
        return Reason.EXCEEDS_VELOCITY, f"{count} payments within {rule.velocity_seconds} s"
    return None


def _window_limit(used: int, request: Request, limit_minor: int) -> Refused:
    detail = f"{used} used and amount_minor {request.amount_minor} exceed {limit_minor} in this window"
    return Reason.EXCEEDS_WINDOW_LIMIT, detail


def offline_ns(book: Book, *, at_ns: int) -> int:
    """How long the line has been down, in the box's own time."""
    return at_ns - book.offline_since_ns if book.offline_since_ns else 0


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
    percent = tightened_percent(offline)
    if offline > rule.offline_seconds_max * NS_PER_S or percent == 0:
        return Reason.STAND_IN_TOO_LONG_OFFLINE, f"offline for {offline // NS_PER_S} s"
    if request.amount_minor * 100 >= rule.floor_minor * percent:
        floor = rule.floor_minor * percent // 100
        return Reason.STAND_IN_ABOVE_FLOOR, f"amount_minor {request.amount_minor} is not below {floor}"
    stood = book.stood.get(payer) or Stood()
    limit = rule.account_minor * percent // 100
    if stood.amount_minor + request.amount_minor > limit:
        return (
            Reason.STAND_IN_ACCOUNT_LIMIT,
            f"{stood.amount_minor} waiting and {request.amount_minor} exceed {limit}",
        )
    if stood.count + 1 > rule.account_count:
        return (
            Reason.STAND_IN_ACCOUNT_LIMIT,
            f"{stood.count} stand-ins wait, {rule.account_count} are allowed",
        )
    return None
