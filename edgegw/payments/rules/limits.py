"""What one account pays out: at most so much by one payment, and so much in a window, held amounts included.

Amounts fire at >: a payment of exactly the limit passes. What is voided, expires or is posted in part
gives the rest back.
"""

from __future__ import annotations

from edgegw.core.book import Book
from edgegw.core.limits import Refused
from edgegw.core.reasons import Reason
from edgegw.core.records import Request
from edgegw.payments.rule import PaymentRule


def refuses(book: Book, client: str, request: Request, at_ns: int) -> Refused | None:  # noqa: ARG001
    """A refusal when the payment is too large alone, or with what the account paid out in this window."""
    rule = book.limits.get(request.currency)
    if rule is None:
        return None
    if request.amount_minor > rule.payment_minor:
        return (
            Reason.EXCEEDS_PAYMENT_LIMIT,
            f"amount_minor {request.amount_minor} exceeds {rule.payment_minor}",
        )
    spent = book.spent.get(request.debit_account_id)
    used = spent.amount_minor if spent is not None and spent.window == book.window else 0
    if used + request.amount_minor > rule.window_minor:
        detail = (
            f"{used} used and amount_minor {request.amount_minor} exceed {rule.window_minor} in this window"
        )
        return Reason.EXCEEDS_WINDOW_LIMIT, detail
    return None


RULE = PaymentRule(name="limits", order=20, refuses=refuses)
