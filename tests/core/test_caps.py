"""Net debit caps at a box: a share is never overspent by one minor unit, in whatever way money leaves a
participant, and no way that moves nothing uses it up."""

from __future__ import annotations

import msgspec
import pytest

from edgegw.core.book import Book
from edgegw.core.caps import cap_account
from edgegw.core.decide import Funding, Short, expiry
from edgegw.core.records import (
    Account,
    ConfirmDirective,
    DeclineDirective,
    Kind,
    Leg,
    Mode,
    SiteDirective,
    Transfer,
    decode_record,
    encode,
)
from edgegw.core.site import NetDebitCap, Site
from edgegw.core.snapshot import dump
from tests.core.box import DOWN, GRANTED, REFUSED, SITE, UP, Box, cleared, refused

CITY, SHOPS = cap_account("city", "CNY"), cap_account("shops", "CNY")
NO_MORE = Funding(line_up=True, asked={CITY: REFUSED})
"""The centre has no more of the cap; of money it was not asked."""


def site(version: int = 1, **caps: int) -> Site:
    """One box where everybody is at home, so it keeps half of each cap."""
    accounts = (
        Account(id="carl", currency="CNY", home="box-1", participant="city"),
        Account(id="cora", currency="CNY", home="box-1", participant="city"),
        Account(id="shop", currency="CNY", home="box-1", participant="shops"),
        Account(id="away", currency="CNY", home="", participant="shops"),
        Account(id="anna", currency="CNY", home="box-1"),
    )
    limits = tuple(NetDebitCap(participant=who, currency="CNY", cap_minor=cap) for who, cap in caps.items())
    return msgspec.structs.replace(SITE, version=version, accounts=accounts, net_debit_caps=limits)


@pytest.fixture
def box() -> Box:
    """City may owe 200 and holds 100 of that here; everybody has money."""
    box = Box(site(city=200))
    for account_id in ("carl", "cora", "shop", "anna"):
        box.grant(account_id, 1_000)
    box.grant("risk:box-1:CNY", 1_000)
    box.grant(CITY, 100)
    return box


def test_the_share_is_spent_to_the_last_minor_unit_and_no_further(box: Box) -> None:
    """The money is there each time; what one may owe the others is not."""
    cleared(box.pay("carl", "shop", 60))
    assert refused(box.pay("cora", "shop", 41, NO_MORE)) == "net_debit_cap"
    cleared(box.pay("cora", "anna", 40))
    assert box.available(CITY) == 0
    assert refused(box.pay("carl", "shop", 1, DOWN)) == "net_debit_cap"


def test_a_payment_within_a_participant_uses_no_cap(box: Box) -> None:
    """It owes nobody anything."""
    assert len(cleared(box.pay("carl", "cora", 900)).legs) == 1
    assert box.available(CITY) == 100


def test_what_others_pay_is_there_to_be_paid_again(box: Box) -> None:
    """Netting: at any time only the difference counts, up to what a box keeps."""
    for _ in range(5):
        cleared(box.pay("carl", "shop", 100))
        cleared(box.pay("shop", "carl", 100))
    assert box.available(CITY) == 100


def test_more_than_a_box_keeps_goes_to_the_centre_in_the_same_record(box: Box) -> None:
    """Another box of the participant may need it."""
    cleared(box.pay("carl", "shop", 30))
    earned = cleared(box.pay("shop", "carl", 50))
    assert earned.legs[-1] == Leg(CITY, "centre:CNY", 20)
    assert box.available(CITY) == 100


def test_the_centre_is_asked_for_the_cap_before_the_money(box: Box) -> None:
    """Money that is granted for a payment which the cap forbids would lie idle here."""
    short = box.pay("carl", "shop", 1_500)
    assert short == Short(CITY, "CNY", 1_500)
    box.grant(CITY, 1_500)
    asked = Funding(line_up=True, asked={CITY: GRANTED})
    assert box.pay("carl", "shop", 1_500, asked) == Short("carl", "CNY", 1_500)


def test_a_refusal_of_the_cap_says_nothing_about_the_money(box: Box) -> None:
    """Somebody has paid the participant meanwhile: now the money is asked for, not refused unasked."""
    asked = Funding(line_up=True, asked={CITY: REFUSED})
    assert refused(box.pay("carl", "shop", 150, asked)) == "net_debit_cap"
    box.grant(CITY, 1_100)
    assert box.pay("carl", "shop", 1_200, asked) == Short("carl", "CNY", 1_200)


def test_nothing_stands_in_for_a_cap(box: Box) -> None:
    """The branch may risk its own money, not another bank's promise."""
    cleared(box.pay("carl", "shop", 100))
    empty(box, "carl")
    assert refused(box.pay("carl", "shop", 1, DOWN)) == "net_debit_cap"


def test_a_stand_in_takes_the_payers_share_and_keeps_it_when_it_is_confirmed(box: Box) -> None:
    """The centre takes the money from the payer's bank, whoever paid at the branch."""
    box.grant(CITY, 1_000)
    empty(box, "carl")
    stood = cleared(box.pay("carl", "shop", 70, DOWN))
    assert stood.cleared_by == "stand_in"
    left = box.available(CITY)
    box.direct(ConfirmDirective, **about(stood, 70))
    assert box.available(CITY) == left
    assert box.book.net_positions()[0].participant == "bank"


@pytest.mark.parametrize("liable", ["merchant", "branch"])
def test_a_late_decline_gives_the_payers_share_back(box: Box, liable: str) -> None:
    """Its bank pays nothing, whoever bears it."""
    box.grant(CITY, 1_000)
    empty(box, "carl")
    before = box.available(CITY)
    stood = cleared(box.pay("carl", "shop", 70, DOWN))
    assert box.available(CITY) == before - 70
    applied = box.direct(DeclineDirective, **about(stood, 70), liable=liable, reason="insufficient_funds")
    assert applied.outcome == "applied"
    assert box.available(CITY) == before


def test_a_hold_reserves_the_share_until_it_is_posted_voided_or_expired(box: Box) -> None:
    """What is reserved cannot be promised to somebody else, and what is not used comes back."""
    first, second, third = (cleared(box.hold("carl", "shop", 30)) for _ in range(3))
    assert refused(box.pay("cora", "shop", 11, NO_MORE)) == "net_debit_cap"
    assert box.hold("cora", "shop", 11) == Short(CITY, "CNY", 11)
    cleared(box.about(Kind.POST, first.request.id, 10))
    assert box.available(CITY) == 30
    cleared(box.about(Kind.VOID, second.request.id))
    assert box.available(CITY) == 60
    box.wait(61)
    layer = box.book.overlay()
    gone = expiry(layer, box.stamp(), int(f"{third.epoch << 96 | third.seq << 32 | 1:032x}", 16))
    assert gone is not None
    layer.merge()
    assert box.available(CITY) == 90


def test_a_refund_is_never_refused_for_a_cap(box: Box) -> None:
    """It undoes what has raised the payee's share; where that was spent meanwhile it goes below zero."""
    box = Box(site(city=200, shops=20))
    for account_id in ("carl", "shop"):
        box.grant(account_id, 1_000)
    box.grant(CITY, 100)
    paid = cleared(box.pay("carl", "shop", 100))
    assert box.available(SHOPS) == 10
    cleared(box.about(Kind.REVERSAL, paid.request.id))
    assert box.available(SHOPS) == -90
    assert box.available(CITY) == 100
    assert box.pay("shop", "carl", 5) == Short(SHOPS, "CNY", 95)


def test_an_advice_is_charged_below_zero(box: Box) -> None:
    """It has happened; the next payment waits until the hole is filled."""
    cleared(box.pay("carl", "shop", 250, DOWN, advice=True))
    assert box.available(CITY) == -150
    assert box.pay("carl", "shop", 10) == Short(CITY, "CNY", 160)


def test_a_lower_cap_sends_back_what_a_box_may_not_keep(box: Box) -> None:
    """At once, in the record of the site that says so; and all of it where there is no cap any more. With the
    line down a cap that the site has left out still binds."""
    applied = box.direct(SiteDirective, site=site(2, city=60), version=2, digest="00" * 32, bytes=1)
    assert (applied.outcome, box.available(CITY)) == ("applied", 30)
    box.direct(SiteDirective, site=site(3), version=3, digest="00" * 32, bytes=1)
    assert refused(box.pay("carl", "shop", 31, DOWN)) == "net_debit_cap"
    box.mode(Mode.ACTIVE)
    box.direct(SiteDirective, site=site(4), version=4, digest="00" * 32, bytes=1)
    assert box.available(CITY) == 0
    cleared(box.pay("carl", "shop", 900))
    assert box.available(CITY) == 0


def test_positions_are_the_same_with_caps_and_without(box: Box) -> None:
    """What is counted for a cap is nobody's money."""
    plain = Box(site())
    for other in (box, plain):
        for account_id in ("carl", "shop"):
            other.grant(account_id, 100)
        cleared(other.pay("carl", "shop", 90))
        cleared(other.pay("shop", "anna", 40))
        held = cleared(other.hold("carl", "shop", 8))
        cleared(other.about(Kind.POST, held.request.id, 5))
    assert box.book.net_positions() == plain.book.net_positions()


def test_the_journal_alone_gives_the_shares_again(box: Box) -> None:
    """A start replays it; the hub does too."""
    cleared(box.pay("carl", "shop", 60))
    cleared(box.hold("carl", "away", 20))
    cleared(box.pay("shop", "carl", 100))
    again = Book(bank="demo", box="box-1")
    for record in box.records:
        again.replay(decode_record(encode(record)))
    assert dump(again) == dump(box.book)


def empty(box: Box, account_id: str) -> None:
    """Let an account have nothing here."""
    cleared(box.pay(account_id, "cora", box.available(account_id), UP))


def about(stood: Transfer, amount_minor: int) -> dict[str, object]:
    """The fields of the centre's word on a stand-in."""
    return {
        "epoch": stood.epoch,
        "at_seq": stood.seq,
        "payer_account_id": stood.request.debit_account_id,
        "currency": "CNY",
        "amount_minor": amount_minor,
    }
