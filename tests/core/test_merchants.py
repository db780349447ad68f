"""Merchants' batches: counted by replay, closed once, compared with what the client has counted."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgegw.core import merchants, snapshot
from edgegw.core.accounts import risk_account
from edgegw.core.book import Book
from edgegw.core.merchants import BATCHES_PER_EPOCH, first_batch
from edgegw.core.overlay import Overlay
from edgegw.core.records import (
    AMOUNT_MINOR_MAX,
    BatchTotals,
    ConfirmDirective,
    Kind,
    MerchantBatch,
    Mode,
    Request,
    Transfer,
)
from tests.core.box import DOWN, Box, cleared, refused

RISK = risk_account("box-1", "CNY")
HERE = {"merchant": "m-1", "terminal": "t-1"}


@pytest.fixture
def box() -> Box:
    """A box whose payer has 50,000 and whose branch may stand in with 2,000."""
    box = Box()
    box.grant("anna", 50_000)
    box.grant(RISK, 2_000)
    box.mode(Mode.ACTIVE)
    return box


def close(
    box: Box, terminal: str = "", totals: tuple[BatchTotals, ...] = (), *, merchant: str = "m-1"
) -> MerchantBatch:
    """The batch that a close ends."""
    request = Request(
        kind=Kind.CLOSE_BATCH, id=box.new_id(), merchant=merchant, terminal=terminal, totals=totals
    )
    batch = cleared(box.ask(request)).batch
    assert batch is not None
    return batch


def figures(batch: MerchantBatch) -> dict[str, tuple[int, int]]:
    """Side to count and sum, of a batch in CNY alone."""
    if not batch.totals:
        return {}
    [total] = batch.totals
    assert total.currency == "CNY"
    sides = ("payments", "payment_reversals", "refunds", "refund_reversals")
    found = {side: (getattr(total, f"{side}_count"), getattr(total, f"{side}_minor")) for side in sides}
    return {side: both for side, both in found.items() if both != (0, 0)}


def test_a_batch_counts_what_moved_since_the_last_one_and_begins_anew(box: Box) -> None:
    """Payments, posts, refunds and reversals, each where it belongs; refusals and holds that gave their
    money free count nowhere."""
    paid = cleared(box.pay("anna", "shop", 1_000, **HERE))
    cleared(box.pay("anna", "shop", 300, **HERE))
    refused(box.pay("anna", "nobody", 1, **HERE))
    cleared(box.pay("anna", "shop", 77))
    hold = cleared(box.ask(_hold(box, 900)))
    voided = cleared(box.ask(_hold(box, 800)))
    undone = cleared(box.ask(_hold(box, 700)))
    cleared(box.about(Kind.VOID, voided.request.id))
    cleared(box.about(Kind.REVERSAL, undone.request.id))
    cleared(box.about(Kind.POST, hold.request.id, 600))
    lost = cleared(box.about(Kind.REFUND, paid.request.id, 250))
    cleared(box.about(Kind.REFUND, hold.request.id, 100))
    cleared(box.about(Kind.REVERSAL, lost.request.id))
    cleared(box.about(Kind.REVERSAL, paid.request.id, 50))
    expected = {
        "payments": (3, 1_900),
        "payment_reversals": (1, 50),
        "refunds": (2, 350),
        "refund_reversals": (1, 250),
    }
    for terminal in ("", "t-1"):
        batch = close(box, terminal)
        assert (batch.number, batch.previous, figures(batch)) == (1, "", expected)
        first = f"1/{box.records[-1].seq}"
        cleared(box.pay("anna", "shop", 5, merchant="m-1"))
        batch = close(box, terminal)
        assert (batch.number, batch.previous) == (2, first)
        assert figures(batch) == ({} if terminal else {"payments": (1, 5)})
        assert close(box, terminal).totals == ()


def _hold(box: Box, amount_minor: int) -> Request:
    return Request(
        kind=Kind.HOLD,
        id=box.new_id(),
        debit_account_id="anna",
        credit_account_id="shop",
        amount_minor=amount_minor,
        currency="CNY",
        **HERE,
    )


def test_a_stand_in_counts_once_and_its_reversal_once(box: Box) -> None:
    """The terminal has counted it when it was answered; the centre's late word changes nothing of that."""
    waits = cleared(box.pay("bert", "shop", 300, DOWN, **HERE))
    box.direct(
        ConfirmDirective, epoch=1, at_seq=waits.seq, payer_account_id="bert", currency="CNY", amount_minor=300
    )
    undone = cleared(box.pay("bert", "shop", 200, DOWN, **HERE))
    cleared(box.about(Kind.REVERSAL, undone.request.id, funding=DOWN))
    kept = box.new_id()
    cleared(box.about(Kind.REVERSAL, kept))
    assert figures(close(box)) == {"payments": (2, 500), "payment_reversals": (1, 200)}


def test_a_credit_counts_as_a_refund_and_its_reversal_as_one_taken_back(box: Box) -> None:
    """A refund without an original, as terminals send it, is a payment of the merchant's."""
    credit = cleared(box.pay("anna", "bert", 400, merchant_pays=True, **HERE))
    cleared(box.about(Kind.REVERSAL, credit.request.id))
    assert figures(close(box)) == {"refunds": (1, 400), "refund_reversals": (1, 400)}


@pytest.mark.parametrize(
    ("said", "difference"),
    [
        ({"payments_count": 1, "payments_minor": 100}, ""),
        ({"payments_count": 1, "payments_minor": 101}, "payments_minor in CNY is 100 here and 101 there"),
        ({"payments_count": 2, "payments_minor": 100}, "payments_count in CNY is 1 here and 2 there"),
        (
            {"payments_count": 1, "payments_minor": 100, "refunds_count": 1},
            "refunds_count in CNY is 0 here and 1 there",
        ),
        ({"currency": "EUR"}, "payments_count in CNY is 1 here and 0 there"),
    ],
)
def test_what_the_client_has_otherwise_is_said_and_the_batch_is_closed_all_the_same(
    box: Box, said: dict[str, object], difference: str
) -> None:
    """A close is a cut: left open, the next day's payments would hide the difference."""
    cleared(box.pay("anna", "shop", 100, **HERE))
    totals = BatchTotals(**{"currency": "CNY", **said})  # type: ignore[arg-type]
    assert close(box, totals=(totals,)).difference == difference
    assert close(box).number == 2


def test_merchants_and_currencies_are_counted_apart(box: Box) -> None:
    """One shop's evening is not another's."""
    cleared(box.pay("anna", "shop", 100, merchant="m-2"))
    box.grant("euro", 50, "EUR")
    assert figures(close(box)) == {}
    assert figures(close(box, merchant="m-2")) == {"payments": (1, 100)}


def test_beyond_the_greatest_number_of_merchants_none_is_added(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients name merchants as they like, memory ends; those that are known go on, and a close of one that
    was never counted says so instead of zero."""
    monkeypatch.setattr(merchants, "MERCHANTS_MAX", 2)
    cleared(box.pay("anna", "shop", 100, **HERE))
    cleared(box.pay("anna", "shop", 50, merchant="m-9"))
    cleared(box.pay("anna", "shop", 10, merchant="m-1", terminal="t-9"))
    request = Request(kind=Kind.CLOSE_BATCH, id=box.new_id(), merchant="m-9")
    assert refused(box.ask(request)) == "batch_not_counted"
    assert figures(close(box)) == {"payments": (2, 110)}


def test_a_sum_stops_where_a_record_can_carry_no_more() -> None:
    """Accounts of one merchant may each be full; the journal must still be written."""
    box = Box()
    box.grant("anna", AMOUNT_MINOR_MAX)
    for payer, payee in (("anna", "bert"), ("bert", "shop")):
        cleared(box.pay(payer, payee, AMOUNT_MINOR_MAX, merchant="m-1"))
    assert figures(close(box)) == {"payments": (2, AMOUNT_MINOR_MAX)}


def test_an_epoch_begins_with_numbers_that_no_earlier_one_can_have_used() -> None:
    """Two batches of one number could not be told apart."""
    assert first_batch(1).number == 1
    assert first_batch(3).number == 2 * BATCHES_PER_EPOCH + 1


STEP = st.tuples(st.sampled_from(("pay", "refund", "reverse", "close", "close_terminal")), st.integers(1, 90))


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(STEP, min_size=2, max_size=25))
def test_replay_and_snapshot_count_the_same(steps: list[tuple[str, int]]) -> None:
    """What the records say again, from the beginning or from an image in the middle, is what was counted."""
    box = Box()
    box.grant("anna", 50_000)
    paid: list[str] = []
    image = b""
    first = 0
    for number, (what, amount) in enumerate(steps):
        if number == len(steps) // 2:
            image, first = snapshot.dump(box.book), len(box.records)
        if what == "pay":
            paid.append(
                cleared(box.pay("anna", "shop", amount, merchant=f"m-{amount % 2}", terminal="t")).request.id
            )
        elif what in ("refund", "reverse") and paid:
            box.about(Kind.REFUND if what == "refund" else Kind.REVERSAL, paid[amount % len(paid)], amount)
        elif what.startswith("close"):
            close(box, "t" if what == "close_terminal" else "", merchant=f"m-{amount % 2}")
    again = Book(bank="demo", box="box-1")
    for record in box.records:
        again.replay(record)
    assert dict(again.batches.items()) == dict(box.book.batches.items())
    assert snapshot.dump(again) == snapshot.dump(box.book)
    loaded = snapshot.load(image, history=None)
    batches = Overlay(loaded.batches)  # type: ignore[arg-type]
    for record in box.records[first:]:
        if isinstance(record, Transfer):
            merchants.note(batches, record)
    assert dict(batches.items()) == dict(box.book.batches.items())
