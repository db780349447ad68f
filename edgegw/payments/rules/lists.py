"""Blocked accounts and card tokens of the site's settings pay nothing."""

from __future__ import annotations

from edgegw.core.book import Book
from edgegw.core.limits import Refused
from edgegw.core.reasons import Reason
from edgegw.core.records import Request
from edgegw.payments.rule import PaymentRule


def refuses(book: Book, client: str, request: Request, at_ns: int) -> Refused | None:  # noqa: ARG001
    """A refusal when the debit account or the card's token is on the site's list."""
    for name in (request.debit_account_id, request.card):
        if name and name in book.blocked:
            return Reason.ACCOUNT_BLOCKED, f"{name} is blocked"
    return None


RULE = PaymentRule(name="lists", order=10, refuses=refuses)
