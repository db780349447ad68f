"""The three ways to fund a payment, holds, reversals, stand-in and their limits."""

from __future__ import annotations

import pytest

from edgegw.core.accounts import (
    receivable_account,
    risk_account,
    suspense_account,
)
from edgegw.core.decide import Short, expiry
from edgegw.core.ledger import due
from edgegw.core.records import (
    AMOUNT_MINOR_MAX,
    ClearedBy,
    ConfirmDirective,
    DeclineDirective,
    FreezeDirective,
    GrantDirective,
    Kind,
    Mode,
    Refusal,
    RefuseDirective,
    Request,
)
from edgegw.payments.rules import discover
from tests.core.box import DOWN, GRANTED, REFUSED, UP, Box, cleared, refused

RISK = risk_account("box-1", "CNY")


@pytest.fixture
def box() -> Box:
    """A box whose payer has 5,000 and whose branch may stand in with 2,000."""
    box = Box(rules=[rule.refuses for rule in discover()])
    box.grant("anna", 5_000)
    box.grant(RISK, 2_000)
    box.mode(Mode.ACTIVE)
    return box


def late_word(box: Box, kind: type, at_seq: int, amount_minor: int, **fields: object) -> str:
    """The outcome of the hub's word on the stand-in at a place."""
    record = box.direct(
        kind,
        epoch=1,
        at_seq=at_seq,
        payer_account_id="bert",
        currency="CNY",
        amount_minor=amount_minor,
        **fields,
    )
    return record.outcome


# -- allowance and centre --------------------


def test_a_covered_payment_is_cleared_here_whatever_the_line_does(box: Box) -> None:
    """An allowance clears online and offline alike, and says so."""
    for funding in (UP, DOWN):
        assert cleared(box.pay("anna", "shop", 1_000, funding)).cleared_by is ClearedBy.ALLOWANCE
    assert (box.available("anna"), box.available("shop")) == (3_000, 2_000)


def test_money_received_is_spendable_at_once(box: Box) -> None:
    """The right moves with the money."""
    cleared(box.pay("anna", "bert", 1_500, DOWN))
    assert cleared(box.pay("bert", "shop", 1_500, DOWN)).cleared_by is ClearedBy.ALLOWANCE


def test_an_uncovered_payment_asks_the_centre_and_changes_nothing(box: Box) -> None:
    """Short is an answer to the gateway, not a record."""
    records = len(box.records)
    decided = box.pay("anna", "shop", 5_001)
    assert decided == Short("anna", "CNY", 5_001)
    assert (len(box.records), box.available("anna")) == (records, 5_000)


def test_a_payment_after_a_grant_says_that_the_centre_cleared_it(box: Box) -> None:
    """The posting is local, the funding was the centre's."""
    box.direct(
        GrantDirective, awaited=True, account_id="anna", currency="CNY", amount_minor=1, request_id="1-b-1"
    )
    assert cleared(box.pay("anna", "shop", 5_001, GRANTED)).cleared_by is ClearedBy.CENTRE


def test_a_refusal_of_the_centre_is_not_line_down(box: Box) -> None:
    """It never falls through to stand-in."""
    assert refused(box.pay("bert", "shop", 100, REFUSED)) == "insufficient_funds"


def test_a_late_grant_is_handed_back(box: Box) -> None:
    """Nobody waits for it, so the box does not keep it."""
    record = box.direct(
        GrantDirective, account_id="bert", currency="CNY", amount_minor=700, request_id="1-x-9"
    )
    assert (record.outcome, box.available("bert")) == ("returned", 0)


def test_credits_to_an_account_of_another_branch_go_home(box: Box) -> None:
    """The right to money credited elsewhere returns to the centre in the same record."""
    record = cleared(box.pay("anna", "away", 400))
    assert [leg.credit_account_id for leg in record.legs] == ["away", "centre:CNY"]
    assert box.available("away") == 0


# -- stand-in --------------------


def test_a_stand_in_is_at_the_branchs_risk_and_waits(box: Box) -> None:
    """Risk pays, the payer is only named, and the payee cannot spend it yet."""
    record = cleared(box.pay("bert", "shop", 300, DOWN))
    assert (record.cleared_by, record.reason) == (ClearedBy.STAND_IN, "line_down")
    assert (box.available(RISK), box.available("bert"), box.available("shop")) == (1_700, 0, 0)


@pytest.mark.parametrize(
    ("amounts", "code"),
    [
        ((500,), "stand_in_above_floor"),
        ((499, 499, 3), "stand_in_account_limit"),
        ((100, 100, 100, 1), "stand_in_account_limit"),
    ],
)
def test_stand_in_limits_hold_to_the_minor_unit(box: Box, amounts: tuple[int, ...], code: str) -> None:
    """The floor fires at >=, the sum and the count at >."""
    for amount in amounts[:-1]:
        cleared(box.pay("bert", "shop", amount, DOWN))
    assert refused(box.pay("bert", "shop", amounts[-1], DOWN)) == code


def test_the_branchs_own_limit_bounds_all_stand_ins(box: Box) -> None:
    """The risk account's allowance is the cumulative limit of the box."""
    for payer in ("bert", "anna"):
        cleared(box.pay(payer, "shop", 499, DOWN if payer == "bert" else UP))
    box.grant("shop", 1)
    while box.available(RISK) >= 499:
        box.book.tally.stood.clear()  # type: ignore[union-attr]  # another payer each time
        cleared(box.pay("bert", "shop", 499, DOWN))
    box.book.tally.stood.clear()  # type: ignore[union-attr]
    assert refused(box.pay("bert", "shop", 499, DOWN)) == "stand_in_box_limit"


def test_stand_in_ends_with_the_longest_time_offline(box: Box) -> None:
    """The policy never loosens offline."""
    box.mode(Mode.OFFLINE)
    box.wait(3_500)
    cleared(box.pay("bert", "shop", 10, DOWN))
    box.wait(200)
    assert refused(box.pay("bert", "shop", 10, DOWN)) == "stand_in_too_long_offline"


def test_a_barred_account_gets_no_stand_in_until_the_line_was_up(box: Box) -> None:
    """What the centre refused, the branch does not pay when the line drops right after."""
    box.direct(RefuseDirective, request_id="r", account_id="bert", currency="CNY", reason="no_funds")
    assert refused(box.pay("bert", "shop", 10, DOWN)) == "account_barred"
    box.mode(Mode.OFFLINE)
    assert refused(box.pay("bert", "shop", 10, DOWN)) == "account_barred"
    box.mode(Mode.ACTIVE)
    cleared(box.pay("bert", "shop", 10, DOWN))


def test_a_client_may_exclude_stand_in(box: Box) -> None:
    """The mode is the client's choice, payment by payment."""
    assert refused(box.pay("bert", "shop", 10, DOWN, stand_in=False)) == "stand_in_not_wanted"


def test_a_confirmation_gives_the_payee_the_money(box: Box) -> None:
    """The pending credit is posted, and the payer's stand-in is no longer counted."""
    record = cleared(box.pay("bert", "shop", 300, DOWN))
    assert late_word(box, ConfirmDirective, record.seq, 300) == "applied"
    assert box.available("shop") == 300
    assert box.book.tally.stood.get(("account", "bert", "CNY")) is None


def test_a_late_decline_takes_it_back_from_the_merchant(box: Box) -> None:
    """It is a ledger event: posted, and collected by the risk account."""
    record = cleared(box.pay("bert", "shop", 300, DOWN))
    fields = {"liable": "merchant", "reason": "insufficient_funds"}
    assert late_word(box, DeclineDirective, record.seq, 300, **fields) == "applied"
    assert (box.available("shop"), box.available(RISK)) == (0, 2_000)


def test_a_late_decline_may_be_the_branchs_loss(box: Box) -> None:
    """The payee keeps it, the risk account does not get it back."""
    record = cleared(box.pay("bert", "shop", 300, DOWN))
    assert late_word(box, DeclineDirective, record.seq, 300, liable="branch", reason="frozen") == "applied"
    assert (box.available("shop"), box.available(RISK)) == (300, 1_700)


def test_a_declined_stand_in_cannot_be_refunded(box: Box) -> None:
    """The payer never paid, so nothing goes back to it."""
    record = cleared(box.pay("bert", "shop", 300, DOWN))
    late_word(box, DeclineDirective, record.seq, 300, liable="branch", reason="frozen")
    assert refused(box.about(Kind.REVERSAL, record.request.id)) == "exceeds_original"


# -- holds --------------------


def test_a_hold_counts_against_the_allowance_until_it_is_posted_in_part(box: Box) -> None:
    """What is held cannot be spent; what is not posted comes back."""
    hold = cleared(box.hold("anna", "shop", 4_000))
    assert box.pay("anna", "shop", 1_001) == Short("anna", "CNY", 1_001)
    cleared(box.about(Kind.POST, hold.request.id, 3_000))
    assert (box.available("anna"), box.available("shop")) == (2_000, 3_000)


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        (Kind.POST, Kind.POST, "hold_already_posted"),
        (Kind.POST, Kind.VOID, "hold_already_posted"),
        (Kind.VOID, Kind.POST, "hold_already_voided"),
        (Kind.VOID, Kind.VOID, "hold_already_voided"),
    ],
)
def test_a_hold_resolves_once(box: Box, first: Kind, second: Kind, code: str) -> None:
    """Whatever comes second is refused by name."""
    hold = cleared(box.hold("anna", "shop", 100))
    cleared(box.about(first, hold.request.id))
    assert refused(box.about(second, hold.request.id)) == code


def test_more_than_the_hold_is_not_posted(box: Box) -> None:
    """The amount is the hold's at most."""
    hold = cleared(box.hold("anna", "shop", 100))
    assert refused(box.about(Kind.POST, hold.request.id, 101)) == "exceeds_hold"


def test_an_expired_hold_gives_the_money_back_and_is_over(box: Box) -> None:
    """Never early; refused by name afterwards."""
    hold = cleared(box.hold("anna", "shop", 5_000, timeout_s=5))
    box.wait(4)
    assert not due(box.book.ledger, at_ns=box.now_ns)
    box.wait(2)
    assert refused(box.about(Kind.POST, hold.request.id)) == "hold_expired"
    assert refused(box.about(Kind.REVERSAL, hold.request.id)) == "hold_expired"
    (held,) = due(box.book.ledger, at_ns=box.now_ns)
    record = expiry(box.book, box.stamp(), held.id)
    assert record is not None
    assert box.available("anna") == 5_000
    assert refused(box.about(Kind.VOID, hold.request.id)) == "hold_expired"


def test_the_branch_does_not_stand_in_for_holds(box: Box) -> None:
    """A hold without cover is refused while the line is down."""
    request = cleared(box.hold("anna", "shop", 1)).request
    assert (
        refused(box.ask(type(request)(**_of(request, id=box.new_id(), debit="bert")), DOWN))
        == "stand_in_not_offered"
    )


def _of(request: object, *, id: str, debit: str) -> dict[str, object]:
    fields = {name: getattr(request, name) for name in request.__struct_fields__}  # type: ignore[attr-defined]
    return {**fields, "id": id, "debit_account_id": debit}


# -- reversals --------------------


def test_refunds_never_sum_to_more_than_the_original(box: Box) -> None:
    """Parts add up, the last one to the minor unit."""
    payment = cleared(box.pay("anna", "shop", 1_000))
    cleared(box.about(Kind.REVERSAL, payment.request.id, 600))
    assert refused(box.about(Kind.REVERSAL, payment.request.id, 401)) == "exceeds_original"
    cleared(box.about(Kind.REVERSAL, payment.request.id))
    assert (box.available("anna"), box.available("shop")) == (5_000, 0)
    assert refused(box.about(Kind.REVERSAL, payment.request.id)) == "exceeds_original"


def test_a_reversal_before_its_original_is_kept_and_wins(box: Box) -> None:
    """The original is refused when it arrives, under the same id."""
    original_id = box.new_id()
    assert cleared(box.about(Kind.REVERSAL, original_id)).reason == "kept"
    assert refused(box.pay("anna", "shop", 100, id=original_id)) == "already_reversed"
    assert box.available("anna") == 5_000


@pytest.mark.parametrize("kind", [Kind.POST, Kind.REFUND])
def test_a_reversal_that_overtakes_a_post_or_refund_wins_too(box: Box, kind: Kind) -> None:
    """Else the money moves for good, and what was to undo it waits for ever."""
    paid = box.hold("anna", "shop", 1_000) if kind is Kind.POST else box.pay("anna", "shop", 1_000)
    before = box.available("anna"), box.available("shop")
    late_id = box.new_id()
    kept = cleared(box.about(Kind.REVERSAL, late_id))
    late = Request(kind=kind, id=late_id, original_client="till", original_id=cleared(paid).request.id)
    decided = box.ask(late)
    assert refused(decided) == "already_reversed"
    assert isinstance(decided, Refusal)
    assert decided.original == f"{kept.epoch}/{kept.seq}"
    assert (box.available("anna"), box.available("shop")) == before


def test_a_waiting_stand_in_is_reversed_locally(box: Box) -> None:
    """The risk account has its money back at once, and a confirmation that crosses is refused."""
    payment = cleared(box.pay("bert", "shop", 300, DOWN))
    cleared(box.about(Kind.REVERSAL, payment.request.id, funding=DOWN))
    assert (box.available(RISK), box.available("shop")) == (2_000, 0)
    assert late_word(box, ConfirmDirective, payment.seq, 300) == "refused"


def test_an_uncovered_refund_makes_the_payer_whole_at_the_branchs_risk(box: Box) -> None:
    """The payee owes it: a receivable is booked."""
    payment = cleared(box.pay("anna", "shop", 800))
    cleared(box.pay("shop", "bert", 800))
    assert box.about(Kind.REVERSAL, payment.request.id) == Short("shop", "CNY", 800)
    refund = cleared(box.about(Kind.REVERSAL, payment.request.id, funding=DOWN))
    assert refund.cleared_by is ClearedBy.STAND_IN
    balance = box.book.balance(receivable_account("box-1", "CNY"))
    assert balance is not None
    assert (box.available("anna"), box.available(RISK), balance.debits_posted) == (5_000, 1_200, 800)


# -- advices --------------------


def test_an_advice_is_never_refused_for_money(box: Box) -> None:
    """Allowance, else the branch's risk, else suspense."""
    assert cleared(box.pay("anna", "shop", 5_000, DOWN, advice=True)).cleared_by is ClearedBy.ALLOWANCE
    assert cleared(box.pay("anna", "shop", 2_000, DOWN, advice=True)).legs[0].debit_account_id == RISK
    record = cleared(box.pay("anna", "shop", 9_999, DOWN, advice=True))
    assert record.reason == "suspense"
    assert record.legs[0].debit_account_id == suspense_account("box-1", "CNY")


def test_reversing_an_uncovered_advice_pays_nobody_who_never_paid(box: Box) -> None:
    """Suspense paid the shop, so suspense gets it back; the payer's balance must not grow."""
    advised = cleared(box.pay("anna", "shop", 9_999, DOWN, advice=True))
    cleared(box.about(Kind.REVERSAL, advised.request.id, advice=True))
    suspense = box.book.balance(suspense_account("box-1", "CNY"))
    assert suspense is not None
    assert suspense.credits_posted == suspense.debits_posted == 9_999
    assert (box.available("anna"), box.available("shop")) == (5_000, 0)


def test_an_uncovered_advice_whose_money_is_gone_leaves_a_receivable(box: Box) -> None:
    """There is no payer to be made whole: the payee owes, and the branch's risk is not touched."""
    advised = cleared(box.pay("anna", "shop", 9_999, DOWN, advice=True))
    cleared(box.pay("shop", "bert", 9_999))
    cleared(box.about(Kind.REVERSAL, advised.request.id, funding=DOWN, advice=True))
    receivable = box.book.balance(receivable_account("box-1", "CNY"))
    assert receivable is not None
    assert (receivable.debits_posted, box.available("anna"), box.available(RISK)) == (9_999, 5_000, 2_000)


def test_no_counter_passes_what_the_hub_can_keep() -> None:
    """The hub keeps 63 bits: a record beyond them would be in its suspense and this box in quarantine."""
    box = Box()
    box.grant("anna", AMOUNT_MINOR_MAX)
    cleared(box.pay("anna", "bert", AMOUNT_MINOR_MAX))
    assert refused(box.pay("bert", "anna", AMOUNT_MINOR_MAX)) == "ledger_refused"
    assert refused(box.pay("bert", "anna", 1)) == "ledger_refused"
    assert box.grant("shop", 1).outcome == "refused"


# -- shape, lists, limits --------------------


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"currency": "USD"}, "currency_unknown"),
        ({"debit": "nobody"}, "debit_account_not_found"),
        ({"credit": "nobody"}, "credit_account_not_found"),
        ({"debit": "risk:box-1:CNY"}, "account_not_for_clients"),
        ({"credit": "anna"}, "accounts_must_be_different"),
        ({"credit": "euro"}, "currency_mismatch"),
        ({"amount": 10_001}, "exceeds_payment_limit"),
    ],
)
def test_a_misshapen_payment_is_refused_by_name(box: Box, fields: dict[str, object], code: str) -> None:
    """The first reason in the documented order."""
    values = {"debit": "anna", "credit": "shop", "amount": 10, "currency": "CNY", **fields}
    decided = box.pay(
        str(values["debit"]), str(values["credit"]), int(str(values["amount"])), currency=values["currency"]
    )
    assert refused(decided) == code


def test_a_frozen_account_pays_nothing_until_it_is_free_again(box: Box) -> None:
    """A freeze binds from its record; credits still arrive."""
    box.direct(FreezeDirective, account_id="anna", frozen=True, reason="court order")
    assert refused(box.pay("anna", "shop", 1)) == "account_frozen"
    box.grant("bert", 5)
    cleared(box.pay("bert", "anna", 5))
    box.direct(FreezeDirective, account_id="anna", frozen=False, reason="lifted")
    cleared(box.pay("anna", "shop", 1))


def test_a_frozen_payee_gives_nothing_back_either(box: Box) -> None:
    """A refund pays out too; what cannot be refused makes the payer whole at the branch's risk."""
    payment = cleared(box.pay("anna", "shop", 800))
    box.direct(FreezeDirective, account_id="shop", frozen=True, reason="court order")
    assert refused(box.about(Kind.REVERSAL, payment.request.id, 100)) == "account_frozen"
    cleared(box.about(Kind.REVERSAL, payment.request.id, funding=DOWN, advice=True))
    assert (box.available("anna"), box.available("shop"), box.available(RISK)) == (5_000, 800, 1_200)


def test_the_window_limit_counts_what_is_held(box: Box) -> None:
    """Held, posted in part and voided amounts count with what still stands."""
    box.grant("anna", 100_000)
    for _ in range(4):
        cleared(box.pay("anna", "shop", 10_000))
    hold = cleared(box.hold("anna", "shop", 10_000))
    assert refused(box.pay("anna", "shop", 1)) == "exceeds_amount_limit"
    cleared(box.about(Kind.POST, hold.request.id, 4_000))
    cleared(box.pay("anna", "shop", 6_000))
    assert refused(box.pay("anna", "shop", 1)) == "exceeds_amount_limit"
    box.close_window()
    cleared(box.pay("anna", "shop", 1))


@pytest.mark.parametrize("kind", [Kind.VOID, Kind.REVERSAL, None])
def test_a_hold_of_an_earlier_window_gives_no_room_in_this_one(box: Box, kind: Kind | None) -> None:
    """Its amount counted where it was held; what it does not use must not lift this window's limit."""
    box.grant("anna", 100_000)
    hold = cleared(box.hold("anna", "shop", 10_000))
    box.close_window()
    for _ in range(5):
        cleared(box.pay("anna", "shop", 10_000))
    if kind is None:
        cleared(box.about(Kind.POST, hold.request.id, 1_000))
    else:
        cleared(box.about(kind, hold.request.id))
    assert refused(box.pay("anna", "shop", 1)) == "exceeds_amount_limit"


def test_velocity_counts_every_payment_of_the_last_minute(box: Box) -> None:
    """The hundred-and-first within sixty seconds is refused, until the first is sixty seconds old."""
    for _ in range(50):
        cleared(box.pay("anna", "shop", 1))
    box.wait(30)
    for _ in range(50):
        cleared(box.pay("anna", "shop", 1))
    assert refused(box.pay("anna", "shop", 1)) == "exceeds_velocity"
    box.wait(29)
    assert refused(box.pay("anna", "shop", 1)) == "exceeds_velocity"
    box.wait(1)
    cleared(box.pay("anna", "shop", 1))


def test_a_refusal_changes_nothing_but_the_journal(box: Box) -> None:
    """The book before and after differs in nothing that counts money."""
    before = {key: box.book.balance(key) for key in box.book.accounts}  # type: ignore[union-attr]
    refused(box.pay("anna", "nobody", 5))
    assert before == {key: box.book.balance(key) for key in box.book.accounts}  # type: ignore[union-attr]


def test_a_hold_that_is_posted_to_another_branch_goes_home(box: Box) -> None:
    """Posting moves the right on like a payment does."""
    hold = cleared(box.hold("anna", "away", 100))
    record = cleared(box.about(Kind.POST, hold.request.id, 60))
    assert [leg.credit_account_id for leg in record.legs] == ["away", "centre:CNY"]
    assert box.available("away") == 0


def test_a_hold_remembers_its_end(box: Box) -> None:
    """timeout_s is the client's; 0 never ends."""
    box.hold("anna", "shop", 1, timeout_s=0)
    box.hold("anna", "shop", 1, timeout_s=7)
    box.wait(6)
    assert not due(box.book.ledger, at_ns=box.now_ns)
    box.wait(2)
    assert len(due(box.book.ledger, at_ns=box.now_ns)) == 1


def test_positions_count_what_was_posted_by_participant(box: Box) -> None:
    """Holds count when they are posted; what stays within a participant nets to nothing."""
    cleared(box.pay("anna", "shop", 300))
    cleared(box.pay("anna", "bert", 50))
    hold = cleared(box.hold("anna", "shop", 200))
    assert [tuple(row) for row in _rows(box)] == [("bank", "CNY", -300), ("shops", "CNY", 300)]
    cleared(box.about(Kind.POST, hold.request.id, 150))
    assert [tuple(row) for row in _rows(box)] == [("bank", "CNY", -450), ("shops", "CNY", 450)]
    assert box.close_window().window == 1
    assert _rows(box) == []


def test_an_allowance_that_comes_or_goes_is_no_position(box: Box) -> None:
    """What the centre grants, and what goes home to it, leaves the money with the same participant: as a
    position it would be settled between banks though nobody has paid."""
    box.grant("shop", 1_000)
    assert _rows(box) == []
    cleared(box.pay("shop", "away", 100))
    assert _rows(box) == [("bank", "CNY", 100), ("shops", "CNY", -100)]


def _rows(box: Box) -> list[tuple[str, str, int]]:
    return [(row.participant, row.currency, row.net_minor) for row in box.book.net_positions()]


def test_the_time_offline_counts_from_the_first_moment(box: Box) -> None:
    """A second word of an outage does not start it anew; a contact ends it."""
    box.mode(Mode.OFFLINE)
    since = box.book.offline_since_ns
    box.wait(10)
    box.mode(Mode.OFFLINE)
    assert (box.book.mode, box.book.offline_since_ns) == (Mode.OFFLINE, since)
    box.mode(Mode.ACTIVE)
    assert (box.book.mode, box.book.offline_since_ns) == (Mode.ACTIVE, 0)
