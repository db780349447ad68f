"""The site's `limits`, but those for stand-ins: one payment, and what adds up of an account, card, terminal,
merchant or branch over a period.

Amounts and counts fire at >: a payment of exactly the limit passes. Holds count from the moment they are
placed; what is voided, expires, is posted in part or declined late is given back within its period, a
reversal gives back the amount and still counts as a payment. Payments that were refused count nothing.
"""

from __future__ import annotations

from edgegw.core.book import Book
from edgegw.core.limits import Refused, refuses_payment
from edgegw.core.records import Request
from edgegw.payments.rule import PaymentRule


def refuses(book: Book, client: str, request: Request, at_ns: int) -> Refused | None:  # noqa: ARG001
    """A refusal when a limit does not allow it; of several, the first reason in their order."""
    return refuses_payment(book, request, at_ns=at_ns)


RULE = PaymentRule(name="limits", order=20, refuses=refuses)
