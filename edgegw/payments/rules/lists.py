"""Who pays nothing: by the site's `blocked`, by an order of the centre (`edgegw order block`), by a list.

An account is the payer's, a card named by its lookup, a merchant the request's or, where it names none, the
payee's account. Of a list to block whoever is on it is refused, of a list to allow whoever is not; a payment
that names no card (terminal) is not held against lists of them.
"""

from __future__ import annotations

from typing import Final

from edgegw.core.book import Book
from edgegw.core.cards import settings_name
from edgegw.core.counts import subject
from edgegw.core.limits import Refused
from edgegw.core.reasons import Reason
from edgegw.core.records import Request
from edgegw.payments.rule import PaymentRule

REASONS: Final = {
    "account": Reason.ACCOUNT_BLOCKED,
    "card": Reason.CARD_BLOCKED,
    "terminal": Reason.TERMINAL_BLOCKED,
    "merchant": Reason.MERCHANT_BLOCKED,
}
"""In order of precedence."""


def refuses(book: Book, client: str, request: Request, at_ns: int) -> Refused | None:  # noqa: ARG001
    """A refusal when the payer, card, terminal or merchant is blocked."""
    if request.debit_account_id in book.blocked:
        return Reason.ACCOUNT_BLOCKED, f"{request.debit_account_id} is blocked"
    if request.card:
        name = book.cards.lookup(request.card)
        if name is None:
            return Reason.CARD_BLOCKED, f"card {request.card} was shredded, so no list can be asked for it"
        if name in book.blocked:
            return Reason.CARD_BLOCKED, f"{request.card} is blocked"
    refused = _ordered(book, request) if book.tally.blocks else None
    return refused or (_listed(book, request) if book.policy.lists else None)


def _ordered(book: Book, request: Request) -> Refused | None:
    for of, reason in REASONS.items():
        whose = subject(of, request, book.box)
        why = book.tally.blocked.get((of, settings_name(book.cards, of=of, whose=whose) or ""))
        if why is not None:
            return reason, f"{of} {whose} is blocked: {why}"
    return None


def _listed(book: Book, request: Request) -> Refused | None:
    for rule, held in book.policy.lists:
        whose = subject(rule.of, request, book.box)
        name = settings_name(book.cards, of=rule.of, whose=whose)
        if name and held.has(rule.of, name) == (rule.effect == "block"):
            if rule.effect == "block":
                return REASONS[rule.of], f"{rule.of} {whose} is on list {rule.name}"
            return Reason.NOT_ON_LIST, f"{rule.of} {whose} is not on list {rule.name}"
    return None


RULE = PaymentRule(name="lists", order=10, refuses=refuses)
