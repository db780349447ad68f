"""How often one account pays out: at most velocity_per_minute payments and holds in a minute.

Minutes lie end to end in the box's own time, so a burst across their border can reach twice the count.
"""

from __future__ import annotations

from edgegw.core.book import VELOCITY_INTERVAL_NS, Book
from edgegw.core.limits import Refused
from edgegw.core.reasons import Reason
from edgegw.core.records import Request
from edgegw.payments.rule import PaymentRule


def refuses(book: Book, client: str, request: Request, at_ns: int) -> Refused | None:  # noqa: ARG001
    """A refusal when the account has paid out as often as it may in this interval."""
    rule = book.limits.get(request.currency)
    spent = book.spent.get(request.debit_account_id)
    if rule is None or spent is None or spent.interval != at_ns // VELOCITY_INTERVAL_NS:
        return None
    if spent.count >= rule.velocity_per_minute:
        return Reason.EXCEEDS_VELOCITY, f"{spent.count} payments in this minute"
    return None


RULE = PaymentRule(name="velocity", order=30, refuses=refuses)
