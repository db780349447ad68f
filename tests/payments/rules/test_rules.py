"""The suite that every rule passes because it is in the folder, and the folder's own promises."""

from __future__ import annotations

import pytest

from edgegw.core import snapshot
from edgegw.core.records import Kind, Request
from edgegw.payments.rule import PaymentRule
from edgegw.payments.rules import discover
from tests.core.box import Box, cleared, refused


@pytest.mark.parametrize("rule", discover(), ids=lambda rule: rule.name)
class TestEveryRule:
    """What holds for each of them."""

    def test_it_says_what_it_is(self, rule: PaymentRule) -> None:
        """The reference has a page for it."""
        assert rule.documentation
        assert rule.name.isidentifier()

    def test_it_changes_nothing(self, rule: PaymentRule) -> None:
        """A rule reads the book; two calls say the same."""
        box = Box()
        box.grant("anna", 100)
        cleared(box.pay("anna", "shop", 10))
        before = snapshot.dump(box.book)
        request = Request(
            kind=Kind.PAYMENT,
            id="a" * 32,
            debit_account_id="anna",
            credit_account_id="shop",
            amount_minor=2**62,
            currency="CNY",
        )
        answers = [rule.refuses(box.book, "till", request, box.now_ns) for _ in range(2)]
        assert answers[0] == answers[1]
        assert snapshot.dump(box.book) == before

    def test_it_copes_with_what_the_site_does_not_mention(self, rule: PaymentRule) -> None:
        """A currency without limits and an account without a past are no reason to refuse, and none to
        fail."""
        box = Box()
        request = Request(
            kind=Kind.PAYMENT,
            id="a" * 32,
            debit_account_id="euro",
            credit_account_id="shop",
            amount_minor=1,
            currency="EUR",
        )
        assert rule.refuses(box.book, "till", request, box.now_ns) is None


def test_a_blocked_account_or_card_pays_nothing() -> None:
    """Both are looked up on the site's list."""
    rules = [rule.refuses for rule in discover()]
    box = Box(rules=rules)
    box.grant("anna", 100)
    box.book.blocked = frozenset(("anna",))
    assert refused(box.pay("anna", "shop", 1)) == "account_blocked"
    box.book.blocked = frozenset(("token",))
    assert refused(box.pay("anna", "shop", 1, card="token")) == "card_blocked"
    cleared(box.pay("anna", "shop", 1, card="another"))


def test_the_first_rule_in_the_order_wins() -> None:
    """A blocked account's payment that is too large hears of the list."""
    box = Box(rules=[rule.refuses for rule in discover()])
    box.book.blocked = frozenset(("anna",))
    assert refused(box.pay("anna", "shop", 10_001)) == "account_blocked"
