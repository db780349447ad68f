"""Refunds and reversals: tied to their original, in parts, and never more than it has moved."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgegw.core.accounts import receivable_account, risk_account
from edgegw.core.decide import Short
from edgegw.core.records import ClearedBy, DeclineDirective, Kind, Mode, Request, Transfer
from tests.core.box import DOWN, GRANTED, REFUSED, UP, Box, cleared, refused

RISK = risk_account("box-1", "CNY")


@pytest.fixture
def box() -> Box:
    """A box whose payer has 5,000 and whose branch may stand in with 2,000."""
    box = Box()
    box.grant("anna", 5_000)
    box.grant(RISK, 2_000)
    box.mode(Mode.ACTIVE)
    return box


def test_a_refund_of_something_unknown_is_refused_and_not_kept(box: Box) -> None:
    """Only what is undone can overtake its original: a refund of a typing error must not wait for ever."""
    original_id = box.new_id()
    assert refused(box.about(Kind.REFUND, original_id)) == "original_not_found"
    cleared(box.pay("anna", "shop", 100, id=original_id))


def test_a_refund_of_another_clients_payment_is_refused(box: Box) -> None:
    """Whoever knows an id is not yet whoever was paid."""
    payment = cleared(box.pay("anna", "shop", 1_000))
    request = Request(
        kind=Kind.REFUND, id=box.new_id(), original_client="other", original_id=payment.request.id
    )
    assert refused(box.ask(request, client="other")) == "original_not_found"
    assert box.available("shop") == 1_000


def test_refunds_and_reversals_share_what_is_left(box: Box) -> None:
    """A cap for each kind would give the money back twice."""
    payment = cleared(box.pay("anna", "shop", 1_000))
    cleared(box.about(Kind.REFUND, payment.request.id, 600))
    assert refused(box.about(Kind.REVERSAL, payment.request.id, 401)) == "exceeds_original"
    cleared(box.about(Kind.REVERSAL, payment.request.id, 150))
    assert refused(box.about(Kind.REFUND, payment.request.id, 251)) == "exceeds_original"
    cleared(box.about(Kind.REFUND, payment.request.id))
    assert (box.available("anna"), box.available("shop")) == (5_000, 0)
    assert refused(box.about(Kind.REFUND, payment.request.id)) == "exceeds_original"


def test_a_refund_after_the_window_is_closed_belongs_to_the_open_one(box: Box) -> None:
    """A payment of an earlier day is given back today, and nets today."""
    payment = cleared(box.pay("anna", "shop", 1_000))
    box.close_window()
    refund = cleared(box.about(Kind.REFUND, payment.request.id, 400))
    assert (payment.window, refund.window) == (1, 2)
    assert [row.net_minor for row in box.book.net_positions()] == [400, -400]


def test_of_a_hold_posted_in_part_only_that_part_is_given_back(box: Box) -> None:
    """What was never taken cannot come back; the post's own id names the same money."""
    hold = cleared(box.hold("anna", "shop", 4_000))
    assert refused(box.about(Kind.REFUND, hold.request.id)) == "original_not_reversible"
    post = cleared(box.about(Kind.POST, hold.request.id, 3_000))
    assert refused(box.about(Kind.REFUND, hold.request.id, 3_001)) == "exceeds_original"
    by_hold = cleared(box.about(Kind.REFUND, hold.request.id, 1_000))
    by_post = cleared(box.about(Kind.REVERSAL, post.request.id, 500))
    assert by_hold.original == by_post.original == f"{hold.epoch}/{hold.seq}"
    assert refused(box.about(Kind.REFUND, post.request.id, 1_501)) == "exceeds_original"
    cleared(box.about(Kind.REFUND, post.request.id))
    assert (box.available("anna"), box.available("shop")) == (5_000, 0)


@pytest.mark.parametrize("kind", [Kind.VOID, None])
def test_a_hold_that_gave_its_money_free_gives_none_back(box: Box, kind: Kind | None) -> None:
    """Voided or expired, nothing has moved."""
    hold = cleared(box.hold("anna", "shop", 1_000, timeout_s=5))
    if kind is None:
        box.wait(6)
        assert refused(box.about(Kind.REFUND, hold.request.id)) == "original_not_reversible"
    else:
        cleared(box.about(kind, hold.request.id))
        assert refused(box.about(Kind.REFUND, hold.request.id)) == "exceeds_original"
    assert box.available("shop") == 0


def test_a_refund_whose_answer_was_lost_is_taken_back_whole(box: Box) -> None:
    """A terminal that hears nothing reverses; then the payment can be refunded again."""
    payment = cleared(box.pay("anna", "shop", 1_000))
    refund = cleared(box.about(Kind.REFUND, payment.request.id, 700))
    assert refused(box.about(Kind.REVERSAL, refund.request.id, 300)) == "original_not_reversible"
    assert refused(box.about(Kind.REFUND, refund.request.id)) == "original_not_reversible"
    undone = cleared(box.about(Kind.REVERSAL, refund.request.id))
    assert (box.available("anna"), box.available("shop")) == (4_000, 1_000)
    assert refused(box.about(Kind.REVERSAL, refund.request.id)) == "exceeds_original"
    assert refused(box.about(Kind.REVERSAL, undone.request.id)) == "original_not_reversible"
    cleared(box.about(Kind.REFUND, payment.request.id, 1_000))
    assert (box.available("anna"), box.available("shop")) == (5_000, 0)


def test_a_refund_is_not_taken_back_from_who_has_spent_it(box: Box) -> None:
    """The centre is asked for the customer's money; its no is a no, and nobody goes below zero."""
    payment = cleared(box.pay("anna", "shop", 1_000))
    refund = cleared(box.about(Kind.REFUND, payment.request.id))
    cleared(box.pay("anna", "bert", 5_000))
    assert box.about(Kind.REVERSAL, refund.request.id) == Short("anna", "CNY", 1_000)
    assert refused(box.about(Kind.REVERSAL, refund.request.id, funding=REFUSED)) == "insufficient_funds"
    down = cleared(box.about(Kind.REVERSAL, refund.request.id, funding=DOWN))
    assert down.cleared_by is ClearedBy.STAND_IN
    assert (box.available("anna"), box.available("shop"), box.available(RISK)) == (0, 1_000, 1_000)


def test_a_refund_of_a_waiting_stand_in_takes_it_back_here(box: Box) -> None:
    """The pending leg is voided at once; a part waits for the centre's word."""
    payment = cleared(box.pay("bert", "shop", 300, DOWN))
    assert refused(box.about(Kind.REFUND, payment.request.id, 100, DOWN)) == "stand_in_waits"
    refund = cleared(box.about(Kind.REFUND, payment.request.id, funding=DOWN))
    assert (box.available(RISK), box.available("shop"), box.available("bert")) == (2_000, 0, 0)
    assert refused(box.about(Kind.REVERSAL, refund.request.id)) == "original_not_reversible"


def test_a_declined_stand_in_is_not_refunded(box: Box) -> None:
    """The payer never paid."""
    payment = cleared(box.pay("bert", "shop", 300, DOWN))
    box.direct(
        DeclineDirective,
        epoch=1,
        at_seq=payment.seq,
        payer_account_id="bert",
        currency="CNY",
        amount_minor=300,
        liable="merchant",
        reason="insufficient_funds",
    )
    assert refused(box.about(Kind.REFUND, payment.request.id)) == "exceeds_original"


def test_an_uncovered_refund_is_the_branchs_risk_and_cannot_be_taken_back(box: Box) -> None:
    """The payer is whole, the payee owes it; that debt is settled by people."""
    payment = cleared(box.pay("anna", "shop", 800))
    cleared(box.pay("shop", "bert", 800))
    refund = cleared(box.about(Kind.REFUND, payment.request.id, funding=DOWN))
    balance = box.book.balance(receivable_account("box-1", "CNY"))
    assert balance is not None
    assert (refund.cleared_by, balance.debits_posted) == (ClearedBy.STAND_IN, 800)
    assert refused(box.about(Kind.REVERSAL, refund.request.id)) == "original_not_reversible"


SHARE = st.tuples(
    st.sampled_from((Kind.REFUND, Kind.REVERSAL)),
    st.integers(min_value=0, max_value=700),
    st.sampled_from((UP, DOWN, REFUSED, GRANTED)),
    st.booleans(),
    st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(
    posted_minor=st.sampled_from((0, 300, 1_000)),
    shares=st.lists(SHARE, min_size=1, max_size=12),
    takes_back=st.lists(st.integers(min_value=0, max_value=11), max_size=4),
)
def test_no_order_of_refunds_gives_back_more_than_was_paid(
    posted_minor: int, shares: list[tuple[Kind, int, object, bool, bool]], takes_back: list[int]
) -> None:
    """Parts of any size and either kind, covered or at the branch's risk, some of them taken back, some
    decided on layers that are thrown away: what the payer has got never passes what it has paid."""
    box = Box()
    box.grant("anna", 5_000)
    box.grant(RISK, 5_000)
    if posted_minor:
        hold = cleared(box.hold("anna", "shop", 1_000))
        cleared(box.about(Kind.POST, hold.request.id, posted_minor))
        paid_id, paid_minor = hold.request.id, posted_minor
    else:
        paid_id, paid_minor = cleared(box.pay("anna", "shop", 1_000)).request.id, 1_000
    given: list[Transfer] = []
    for kind, amount_minor, funding, advice, thrown_away in shares:
        if thrown_away:
            kept, box.book = box.book, box.book.overlay()
            records = len(box.records)
            box.about(kind, paid_id, amount_minor, funding, advice=advice)
            box.book = kept
            del box.records[records:]
            continue
        decided = box.about(kind, paid_id, amount_minor, funding, advice=advice)
        if isinstance(decided, Transfer):
            given.append(decided)
        elif not isinstance(decided, Short):
            assert decided.code in {"exceeds_original", "insufficient_funds", "stand_in_box_limit"}
        assert box.available("anna") <= 5_000
        for number in [number for number in takes_back if number < len(given)]:
            box.about(Kind.REVERSAL, given[number].request.id)
        assert 5_000 - paid_minor <= box.available("anna") <= 5_000
    receivable = box.book.balance(receivable_account("box-1", "CNY"))
    owed_minor = 0 if receivable is None else receivable.debits_posted
    assert box.available("shop") - owed_minor == 5_000 - box.available("anna")
