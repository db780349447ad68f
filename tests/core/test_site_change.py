"""What differs between two versions is told whole, and what both allow is never more than either does."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgegw.core.book import Book
from edgegw.core.records import Account
from edgegw.core.site import (
    AllowanceRule,
    ClientRule,
    CurrencyRule,
    LimitRule,
    RateRule,
    Site,
    StandInRule,
    TighteningStep,
)
from edgegw.core.site_change import KEYS, changes, tighter
from edgegw.core.site_file import NotOurs, check_site, join_file, restored, sign_site, split_file
from tests.core.authors import new_key
from tests.core.box import SITE

AMOUNTS = st.integers(1, 5)


def _subset(values: list[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(st.sampled_from(values), unique_by=lambda one: one.name or one.id).map(tuple)


@st.composite
def sites(draw: st.DrawFn) -> Site:
    """Small sites that share names, so that two of them differ in parts."""
    accounts = [
        Account(id=name, currency="CNY", home=draw(st.sampled_from(("", "north", "south"))))
        for name in draw(st.lists(st.sampled_from("ABCDE"), unique=True))
    ]
    limits = [
        LimitRule(
            name=name,
            of=draw(st.sampled_from(("account", "branch"))),
            currency="CNY",
            payment_minor_min=draw(st.none() | AMOUNTS),
            payment_minor=draw(st.none() | AMOUNTS),
            amount_minor=draw(st.none() | AMOUNTS),
            per="window",
        )
        for name in draw(st.lists(st.sampled_from(("a", "b", "c")), unique=True))
    ]
    rates = [
        RateRule(name=name, per_second_count=draw(AMOUNTS), burst_count=draw(AMOUNTS))
        for name in draw(st.lists(st.sampled_from(("", "till", "app")), unique=True))
    ]
    stand_in = StandInRule(
        currency="CNY",
        floor_minor=draw(AMOUNTS),
        account_minor=draw(AMOUNTS),
        account_count=draw(AMOUNTS),
        box_minor=draw(AMOUNTS),
        offline_seconds_max=draw(AMOUNTS),
        split_seconds=draw(AMOUNTS),
    )
    allowance = AllowanceRule(
        currency="CNY",
        share_percent=draw(AMOUNTS),
        account_minor=draw(AMOUNTS),
        lease_seconds=draw(st.sampled_from((0, 60, 90))),
        lease_margin_seconds=draw(AMOUNTS),
    )
    steps = draw(st.lists(st.integers(1, 9), unique=True, max_size=3).map(sorted))
    percents = sorted(draw(st.lists(st.integers(0, 100), min_size=len(steps), max_size=len(steps))))
    return Site(
        bank="b",
        version=draw(st.integers(1, 3)),
        currencies=(CurrencyRule(code="CNY", numeric=156),),
        accounts=tuple(accounts),
        clients=tuple(
            ClientRule(name=name, public_key=draw(st.sampled_from(("k1", "k2"))))
            for name in draw(st.lists(st.sampled_from(("till", "app")), unique=True))
        ),
        cards=draw(st.dictionaries(st.sampled_from(("t1", "t2")), st.sampled_from("ABC"))),
        blocked=tuple(draw(st.lists(st.sampled_from("ABC"), unique=True).map(sorted))),
        limits=tuple(limits),
        stand_in=draw(st.sampled_from(((), (stand_in,)))),
        rates=draw(st.sampled_from((msgspec.UNSET, tuple(rates)))),
        tightening=draw(
            st.sampled_from(
                (
                    msgspec.UNSET,
                    tuple(
                        TighteningStep(until_hours=hours, percent=percent)
                        for hours, percent in zip(steps, reversed(percents), strict=True)
                    ),
                )
            )
        ),
        allowances=draw(st.sampled_from(((), (allowance,)))),
        late_decline_liable=draw(st.sampled_from(("merchant", "branch"))),
    )


def _keyed(site: Site) -> dict[str, dict[str, Any]]:
    """A site as this test reads it: sections of keyed values."""
    table = msgspec.to_builtins(site)
    del table["version"]
    found: dict[str, dict[str, Any]] = {"settings": {}}
    for section, value in table.items():
        if isinstance(value, list | tuple):
            found[section] = {}
            for one in value:
                key = one if isinstance(one, str) else "/".join(str(one[k]) for k in KEYS if one.get(k))
                found[section][key or "each"] = one
        elif isinstance(value, dict):
            found[section] = value
        else:
            found["settings"][section] = value
    return found


@settings(max_examples=40)
@given(sites(), sites())
def test_the_old_version_with_the_changes_is_the_new_one(old: Site, new: Site) -> None:
    """Nothing that an operator is about to publish is left untold, and nothing else is told."""
    table = _keyed(old)
    for one in changes(old, new):
        section = table.setdefault(one.section, {})
        if one.what == "added":
            assert one.key not in section
            section[one.key] = one.after
        elif one.what == "removed":
            assert section.pop(one.key) == one.before
        elif one.field:
            row = dict(section[one.key])
            assert row.pop(one.field, None) == one.before
            section[one.key] = row | ({} if one.after is None else {one.field: one.after})
        else:
            assert section[one.key] == one.before
            section[one.key] = one.after
    plain = {name: rows for name, rows in table.items() if rows}
    assert plain == {name: rows for name, rows in _keyed(new).items() if rows}


def _allows(site: Site, amount: int, box: str = "north") -> bool:
    """Whether every limit of the site lets a payment of this amount pass, and one that is over it."""
    return all(
        (rule.payment_minor is None or amount <= rule.payment_minor)
        and (rule.payment_minor_min is None or amount >= rule.payment_minor_min)
        and (rule.amount_minor is None or amount <= rule.amount_minor)
        for rule in site.limits
    )


def _percent(site: Site, hours: int) -> int:
    book = Book(bank="b", box="north")
    book.use_site(site)
    return next((step.percent for step in book.policy.tightening if hours <= step.until_hours), 0)


def _lease_s(site: Site) -> float:
    """How long after the hub's word a box may spend."""
    rules = [rule for rule in site.allowances if rule.lease_seconds]
    return min((rule.lease_seconds - rule.lease_margin_seconds for rule in rules), default=math.inf)


def _rate(site: Site, name: str) -> tuple[float, float]:
    rules = {} if site.rates is msgspec.UNSET else {rule.name: rule for rule in site.rates}
    rule = rules.get(name) or rules.get("")
    return (1e9, 1e9) if rule is None else (rule.per_second_count, rule.burst_count)


@settings(max_examples=40)
@given(sites(), sites())
def test_what_both_allow_is_no_more_than_either_allows(one: Site, other: Site) -> None:
    """A box that goes back by itself, or takes settings up without the line, loosens nothing."""
    held = tighter(one, other)
    for amount in range(1, 7):
        assert _allows(held, amount) == (_allows(one, amount) and _allows(other, amount))
    assert set(held.blocked) == {*one.blocked, *other.blocked}
    for name in ("till", "app", "else"):
        assert _rate(held, name) == tuple(map(min, zip(_rate(one, name), _rate(other, name), strict=True)))
    for hours in (1, 2, 5, 24, 25, 100, 169):
        assert _percent(held, hours) == min(_percent(one, hours), _percent(other, hours))
    assert _lease_s(held) == min(_lease_s(one), _lease_s(other))
    stand_ins = [site.stand_in for site in (one, other)]
    assert bool(held.stand_in) == all(stand_ins)
    if held.stand_in:
        mine, theirs, both = stand_ins[0][0], stand_ins[1][0], held.stand_in[0]
        assert both.floor_minor == min(mine.floor_minor, theirs.floor_minor)
        assert both.split_seconds == max(mine.split_seconds, theirs.split_seconds)
    assert (held.accounts, held.clients, held.cards) == (one.accounts, one.clients, one.cards)


@settings(max_examples=20)
@given(sites())
def test_settings_held_to_themselves_are_themselves(site: Site) -> None:
    """But for the order of lists."""
    held = tighter(site, site)
    assert msgspec.structs.replace(held, rates=site.rates, blocked=site.blocked) == site


def test_a_limit_that_falls_away_is_called_loosened() -> None:
    """And one that is lowered tightened: that is what an operator looks for."""
    limit = LimitRule(name="day", currency="CNY", amount_minor=100, per="day")
    old = msgspec.structs.replace(SITE, limits=(limit,))
    lower = msgspec.structs.replace(SITE, limits=(msgspec.structs.replace(limit, amount_minor=50),))
    none = msgspec.structs.replace(SITE, limits=())
    assert [one.effect for one in changes(old, lower)] == ["tightened"]
    assert [one.effect for one in changes(lower, old)] == ["loosened"]
    assert [one.effect for one in changes(old, none)] == ["loosened"]
    blocked = msgspec.structs.replace(old, blocked=("anna",))
    assert [(one.key, one.effect) for one in changes(old, blocked)] == [("anna", "tightened")]


@pytest.mark.parametrize(
    ("field", "before", "after", "effect"),
    [
        ("headroom_percent", 0, 10, "loosened"),
        ("seen_days", 10, 0, "tightened"),
        ("seen_account_minor", 10, 20, "loosened"),
        ("idle_hours", 0, 10, "tightened"),
        ("lease_seconds", 0, 10, "tightened"),
        ("lease_margin_seconds", 10, 20, "tightened"),
        ("lease_margin_seconds", 10, 0, "loosened"),
    ],
)
def test_what_lets_boxes_hold_more_is_called_loosened(
    field: str, before: int, after: int, effect: str
) -> None:
    """Zero is left out of the settings: of a share it means nothing, of a lease no end."""
    old, new = (
        msgspec.structs.replace(
            SITE,
            allowances=(AllowanceRule(currency="CNY", share_percent=1, account_minor=1, **{field: value}),),
        )
        for value in (before, after)
    )
    assert [one.effect for one in changes(old, new)] == [effect]


def test_a_file_with_the_hubs_note_proves_itself_and_nothing_else() -> None:
    """Another byte, another key or another note is not the hub's word."""
    key, stranger = new_key("b/hub"), new_key("b/hub")
    bundle = b"  " + msgspec.json.encode(SITE)
    note, same = split_file(join_file(sign_site(bundle, key, bank="b", version=1), bundle))
    assert same == bundle
    assert check_site(note, bundle, key.public).version == 1
    for wrong, by in ((bundle + b" ", key.public), (bundle, stranger.public)):
        try:
            check_site(note, wrong, by)
        except NotOurs:
            continue
        raise AssertionError("a bundle that the hub has not signed was taken for its own")


def test_a_restored_bundle_is_the_same_bytes_wherever_it_is_made() -> None:
    """Else a box could not prove its own by the digest that the hub names."""
    bundle = msgspec.json.encode(SITE)
    again = restored(bundle, version=9)
    assert restored(b" " + bundle, version=9) == again
    assert restored(again, version=1) == bundle
