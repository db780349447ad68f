"""How far the branch may stand in. Pure; evaluated on live reservations, inside batches too.

Boundaries are EMV's: a floor fires at >=, sums and counts at >. The policy tightens with the time offline and
never loosens (DESIGN §2.3). What an account may pay out at all is for the rules in `payments.rules`.
"""

from __future__ import annotations

from typing import Final

from edgegw.core.book import Book, Stood
from edgegw.core.reasons import Reason
from edgegw.core.records import Request

NS_PER_S: Final = 1_000_000_000
Refused = tuple[Reason, str]
"""A reason and its detail."""

TIGHTENING: Final = ((24 * 3600, 100), (72 * 3600, 50), (120 * 3600, 25))
"""Seconds offline up to which so many per cent of the stand-in amounts hold; beyond the last step, none."""


def tightened_percent(offline_ns: int) -> int:
    """What is left of the stand-in limits after this time offline, in per cent."""
    for seconds, percent in TIGHTENING:
        if offline_ns < seconds * NS_PER_S:
            return percent
    return 0


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
