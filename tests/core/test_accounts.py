"""What a book keeps of an account between directives: it must never outlive the directive that changes it."""

from __future__ import annotations

import pytest

from edgegw.core import accounts
from edgegw.core.accounts import Known
from edgegw.core.apply import apply_directive
from edgegw.core.book import Book
from edgegw.core.records import (
    Account,
    CloseDirective,
    DirectiveApplied,
    DirectiveHead,
    FreezeDirective,
    Refusal,
    encode,
)
from tests.core.box import Box

HEAD = {"v": 1, "bank": "demo", "box": "box-1", "incarnation": 1, "wall_ns": 0}


def known(book: Book, account_id: str) -> Known:
    """What the book knows of an account that it has."""
    found = book.known[account_id]
    assert found is not None
    return found


def applied(box: Box, layer: Book, directive: DirectiveHead) -> DirectiveApplied:
    """Apply a directive on a layer alone."""
    return apply_directive(
        layer, box.stamp(), encode(directive), awaited=lambda _: False, sites=lambda _: None
    )


def test_a_freeze_that_was_not_committed_binds_nobody() -> None:
    """It holds on its own layer, and is gone with it."""
    box = Box()
    assert known(box.book, "anna").frozen is None
    layer = box.book.overlay()
    freeze = FreezeDirective(**HEAD, seq=1, account_id="anna", frozen=True, reason="lost")
    assert applied(box, layer, freeze).outcome == "applied"
    assert known(layer, "anna").frozen == "lost"
    assert known(box.book, "anna").frozen is None


def test_a_freeze_binds_the_next_payment_although_the_account_was_looked_at_before() -> None:
    """The first payment leaves the account put together as it was."""
    box = Box()
    box.grant("anna", 100)
    assert not isinstance(box.pay("anna", "bert", 1), Refusal)
    box.direct(FreezeDirective, account_id="anna", frozen=True, reason="lost")
    refused = box.pay("anna", "bert", 1)
    assert isinstance(refused, Refusal)
    assert refused.code == "account_frozen"
    box.direct(FreezeDirective, account_id="anna", frozen=False, reason="found")
    assert not isinstance(box.pay("anna", "bert", 1), Refusal)


def test_money_for_an_account_closed_on_a_layer_stays_no_more_once_that_is_merged() -> None:
    """Neither on the layer nor below it."""
    box = Box()
    assert known(box.book, "bert").stays
    layer = box.book.overlay()
    close = CloseDirective(**HEAD, seq=1, account_id="bert", currency="CNY", closed=True, reason="gone")
    applied(box, layer, close)
    assert not known(layer, "bert").stays
    assert known(box.book, "bert").stays
    layer.merge()
    assert not known(box.book, "bert").stays
    assert known(box.book, "bert").closed == "gone"


def test_an_account_that_was_not_known_is_found_once_it_is_opened() -> None:
    """That it was not there is not kept."""
    box = Box()
    assert box.book.known["carl"] is None
    box.book.open_accounts((Account(id="carl", currency="CNY", home="box-1"),))
    assert known(box.book, "carl").stays


def test_what_is_kept_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond it all begins again, and every look gives the same."""
    monkeypatch.setattr(accounts, "KNOWN_MAX", 2)
    box = Box()
    names = ("anna", "bert", "shop", "anna", "away")
    wanted = {name: known(Box().book, name) for name in names}
    for name in names:
        assert known(box.book, name) == wanted[name]
        assert len(box.book.known) <= accounts.KNOWN_MAX
