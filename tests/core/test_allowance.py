"""The allowance policy as tables of cases, and leases: when a box that hears nothing stops spending."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgegw.core import snapshot
from edgegw.core.accounts import risk_account
from edgegw.core.allowance import (
    Due,
    Holder,
    grant_minor,
    home_target_minor,
    is_seen,
    lacking_minor,
    lease_ns,
    seen_target_minor,
    to_recall,
)
from edgegw.core.decide import expiry
from edgegw.core.ledger import due
from edgegw.core.records import Boot, ClockStep, Kind, Link, Mode, Record
from edgegw.core.site import AllowanceRule
from tests.core.box import DOWN, GRANTED, SITE, UP, Box, cleared, refused

DAY_NS = 24 * 3600 * 10**9


def rule(**fields: int) -> AllowanceRule:
    """A rule of 50 per cent and at most 400 at home."""
    return msgspec.convert(
        {"currency": "CNY", "share_percent": 50, "account_minor": 400, **fields}, AllowanceRule
    )


@pytest.mark.parametrize(
    ("balance", "share", "cap", "target"),
    [
        (1_000, 50, 400, 400),
        (600, 50, 400, 300),
        (601, 50, 400, 300),
        (0, 50, 400, 0),
        (900, 0, 400, 0),
        (900, 50, 0, 0),
    ],
)
def test_an_allotment_is_a_share_with_a_cap(balance: int, share: int, cap: int, target: int) -> None:
    """Never more of one account than either says, at home and where it was seen."""
    home = rule(share_percent=share, account_minor=cap)
    seen = rule(seen_days=1, seen_share_percent=share, seen_account_minor=cap)
    assert home_target_minor(home, balance_minor=balance) == target
    assert seen_target_minor(seen, balance_minor=balance) == target
    assert (
        home_target_minor(None, balance_minor=balance) == seen_target_minor(None, balance_minor=balance) == 0
    )


@pytest.mark.parametrize(
    ("days", "seen_ago_days", "recalled_ago_days", "seen"),
    [(7, 6, 99, True), (7, 7, 99, False), (7, 1, 0, False), (7, 1, 2, True), (0, 0, 99, False)],
)
def test_an_account_is_seen_until_it_stays_away_or_its_money_was_asked_back(
    days: int, seen_ago_days: int, recalled_ago_days: int, seen: bool
) -> None:
    """What lay idle and went back is not handed out again before the account pays there."""
    now_ns = 1_000 * DAY_NS
    found = is_seen(
        rule(seen_days=days),
        seen_ns=now_ns - seen_ago_days * DAY_NS,
        recalled_ns=now_ns - recalled_ago_days * DAY_NS,
        now_ns=now_ns,
    )
    assert found is seen


@pytest.mark.parametrize(
    ("fields", "asked", "available", "held", "balance", "target", "granted"),
    [
        ({}, 100, 900, 0, 1_000, 0, 100),  # a visitor gets what was asked
        ({}, 100, 900, 0, 1_000, 400, 500),  # at home the allotment comes with it
        ({}, 100, 900, 300, 1_000, 400, 200),
        ({}, 100, 900, 500, 1_000, 400, 100),
        ({}, 100, 60, 50, 1_000, 0, 60),  # the rest may be free at the box
        ({"headroom_percent": 50}, 100, 900, 0, 1_000, 0, 150),
        ({"headroom_percent": 50}, 101, 900, 0, 1_000, 0, 151),  # rounded down
        ({"headroom_percent": 1000}, 100, 900, 0, 1_000, 0, 500),  # within the cap of 400
        ({"headroom_percent": 1000}, 100, 450, 0, 500, 0, 350),  # within the share of 250
        ({"headroom_percent": 1000}, 100, 900, 390, 1_000, 0, 110),  # with what is there already
        ({"headroom_percent": 1000}, 100, 120, 0, 1_000, 0, 120),  # of what is available
        ({"headroom_percent": 20}, 100, 900, 300, 1_000, 400, 200),  # the larger of the two, not both
    ],
)
def test_what_a_top_up_gives(
    fields: dict[str, int], asked: int, available: int, held: int, balance: int, target: int, granted: int
) -> None:
    """What was asked, and allotment or headroom with it, within what is there."""
    assert granted == grant_minor(
        rule(**fields),
        asked_minor=asked,
        available_minor=available,
        outstanding_minor=held,
        balance_minor=balance,
        target_minor=target,
    )


@pytest.mark.parametrize(
    ("asked", "available", "held", "lacking"),
    [
        (100, 100, 0, 0),
        (100, 99, 0, 1),
        (100, 0, 0, 100),
        (200, 80, 120, 0),
        (200, 79, 120, 1),
        (100, 0, 120, 100),
        (200, 0, 120, 80),
    ],
)
def test_what_other_boxes_must_give_back(asked: int, available: int, held: int, lacking: int) -> None:
    """What the asking box holds counts once; with nothing at the centre it has shown that it is not free."""
    assert lacking_minor(asked_minor=asked, available_minor=available, outstanding_minor=held) == lacking


@pytest.mark.parametrize(
    ("wanted", "holders", "dues"),
    [
        (300, [("a", 200, False), ("b", 500, False)], [("b", 300)]),
        (600, [("a", 200, False), ("b", 500, False)], [("b", 500), ("a", 100)]),
        (600, [("a", 200, False), ("b", 500, True)], [("a", 200), ("b", 400)]),
        (701, [("a", 200, False), ("b", 500, True)], []),
        (1, [], []),
        (5, [("b", 5, False), ("a", 5, False)], [("a", 5)]),
    ],
)
def test_who_is_asked_for_how_much(
    wanted: int, holders: list[tuple[str, int, bool]], dues: list[tuple[str, int]]
) -> None:
    """As few boxes as possible, the account's home last, and nobody in vain."""
    assert to_recall(wanted, [Holder(*one) for one in holders]) == [Due(*one) for one in dues]


@given(
    wanted=st.integers(1, 1_000),
    held=st.lists(st.tuples(st.integers(0, 500), st.booleans()), max_size=6),
)
def test_a_recall_is_for_what_is_wanted_and_never_for_more_than_is_held(
    wanted: int, held: list[tuple[int, bool]]
) -> None:
    """Exactly the wanted sum, or nothing."""
    holders = [Holder(f"b{index}", amount, is_home) for index, (amount, is_home) in enumerate(held)]
    dues = to_recall(wanted, holders)
    at = {one.box: one.amount_minor for one in holders}
    assert sum(one.amount_minor for one in dues) == (wanted if sum(at.values()) >= wanted else 0)
    assert all(0 < one.amount_minor <= at[one.box] for one in dues)


# --- leases -------------------------------------------------------------------------------------------------

LEASED = msgspec.structs.replace(SITE, allowances=(rule(lease_seconds=3_600, lease_margin_seconds=600),))
RISK = risk_account("box-1", "CNY")


def leased() -> Box:
    """A box with 5 000 of anna's and a lease of an hour less ten minutes, whose line is up."""
    box = Box(LEASED)
    box.grant("anna", 5_000)
    box.grant(RISK, 2_000)
    box.mode(Mode.ACTIVE)
    return box


def boot(box: Box) -> None:
    """A start of the process."""
    replay(box, Boot(**box.stamp().head(), boot="b", version="1", box_digest="", site_digest=""))


def replay(box: Box, record: Record) -> None:
    """Write a record that no request asked for."""
    box.book.replay(record)
    box.records.append(record)


def test_a_lease_without_seconds_is_for_ever() -> None:
    """Bundles from before leases keep their meaning; a margin never makes a lease endless."""
    assert lease_ns(rule()) == 0
    assert lease_ns(rule(lease_seconds=5, lease_margin_seconds=4)) == 10**9
    assert lease_ns(rule(lease_seconds=5, lease_margin_seconds=5)) == 10**9


def test_a_lease_s_end_stops_new_spending_and_moves_nothing() -> None:
    """Payments, holds and stand-ins are refused at the margin before its end; what is promised goes on."""
    box = leased()
    hold, gone = cleared(box.hold("anna", "shop", 700, 0)), cleared(box.hold("anna", "shop", 300, 9_000))
    payment = cleared(box.pay("anna", "shop", 100))
    stood = cleared(box.pay("bert", "shop", 40, DOWN))
    box.mode(Mode.OFFLINE)
    box.wait(2_999)
    cleared(box.pay("anna", "shop", 1, DOWN))
    box.wait(1)
    before = snapshot.dump(box.book)
    assert refused(box.pay("anna", "shop", 1, DOWN)) == "lease_over"
    assert refused(box.pay("bert", "shop", 1, DOWN)) == "lease_over"
    assert msgspec.json.decode(before)["accounts"] == msgspec.json.decode(snapshot.dump(box.book))["accounts"]
    assert cleared(box.about(Kind.POST, hold.request.id, funding=DOWN)).legs[0].amount_minor == 700
    cleared(box.about(Kind.REVERSAL, payment.request.id, funding=DOWN))
    cleared(box.about(Kind.REVERSAL, stood.request.id, funding=DOWN))
    cleared(box.pay("anna", "shop", 5, DOWN, advice=True))
    box.wait(9_000)
    (held,) = due(box.book.ledger, at_ns=box.now_ns)
    assert held.amount_minor == gone.request.amount_minor
    assert expiry(box.book, box.stamp(), held.id) is not None


def test_contact_renews_a_lease_by_itself() -> None:
    """While the hub is heard the box spends, also before all is delivered; with that the lease begins
    afresh."""
    box = leased()
    box.mode(Mode.OFFLINE)
    box.wait(99_999)
    assert refused(box.pay("anna", "shop", 1, DOWN)) == "lease_over"
    box.mode(Mode.SYNCING)
    cleared(box.pay("anna", "shop", 1, UP))
    cleared(box.pay("anna", "shop", 1, GRANTED))
    assert refused(box.pay("anna", "shop", 1, DOWN)) == "lease_over"
    box.mode(Mode.ACTIVE)
    box.wait(99_999)
    cleared(box.pay("anna", "shop", 1, DOWN))
    box.mode(Mode.OFFLINE)
    box.wait(2_900)
    cleared(box.pay("anna", "shop", 1, DOWN))
    box.wait(100)
    assert refused(box.pay("anna", "shop", 1, DOWN)) == "lease_over"


def test_a_lease_of_one_currency_leaves_others_alone() -> None:
    """Each has a rule of its own."""
    site = msgspec.structs.replace(
        LEASED, allowances=(msgspec.structs.replace(LEASED.allowances[0], currency="EUR"),)
    )
    box = Box(site)
    box.grant("anna", 10)
    box.mode(Mode.ACTIVE)
    box.mode(Mode.OFFLINE)
    box.wait(99_999)
    cleared(box.pay("anna", "shop", 1, DOWN))


@pytest.mark.parametrize(
    ("off_s", "doubted_s", "after_s", "over"),
    [
        (100, 0, 100, False),
        (2_900, 0, 200, True),
        (99_999, 0, 0, True),
        (0, 0, 2_900, False),  # the clock was set back while the machine was off: the margin is for this
        (0, 99_999, 0, True),  # a jump that is not believed counts as passed
        (100, 100, 2_000, False),
    ],
)
def test_a_box_that_was_off_counts_the_time(off_s: int, doubted_s: int, after_s: int, over: bool) -> None:
    """It was up when it lost its power, and starts with its line down: what it heard is as old as its last
    record."""
    box = leased()
    cleared(box.pay("anna", "shop", 1))
    box.wait(off_s)
    boot(box)
    if doubted_s:
        replay(box, ClockStep(**box.stamp().head(), wall_ahead_ns=0, doubted_ns=doubted_s * 10**9))
    box.mode(Mode.OFFLINE)
    box.wait(after_s)
    decided = box.pay("anna", "shop", 1, DOWN)
    assert (refused(decided) == "lease_over") if over else cleared(decided)


def test_starts_while_the_line_is_down_never_renew_a_lease() -> None:
    """It only grows, however often the box starts."""
    box = leased()
    box.mode(Mode.OFFLINE)
    for _ in range(3):
        box.wait(1_000)
        boot(box)
        box.mode(Mode.OFFLINE)
    assert refused(box.pay("anna", "shop", 1, DOWN)) == "lease_over"


def test_a_new_epoch_begins_with_the_hub_s_word() -> None:
    """Its link was given for this very start."""
    box = leased()
    box.mode(Mode.OFFLINE)
    box.wait(99_999)
    replay(box, Link(**box.stamp().head(), note=""))
    box.wait(2_000)
    cleared(box.pay("anna", "shop", 1, DOWN))
