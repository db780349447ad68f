"""The day must be the same from the same seed, and hold all that the demo promises."""

import datetime
import json
from collections import Counter

import pytest

from edgegw.core.site import decode_site
from edgegw.demo.day import make_day
from edgegw.demo.plan import CLIENTS, Day, Step, Wrong
from edgegw.demo.terminal import decode, encode, fields_of, merchant_of

DATE = datetime.date(2026, 3, 2)


@pytest.fixture(scope="module")
def day() -> Day:
    """A day of the demo's default size."""
    return make_day(seed=7, payments=4_000, date=DATE)


def steps_of(day: Day) -> list[Step]:
    """Every request of the day."""
    return [step for phase in day.phases for step in phase.steps()]


def test_the_same_seed_gives_the_same_day(day: Day) -> None:
    """A failure could not be repeated from its seed otherwise."""
    assert make_day(seed=7, payments=4_000, date=DATE) == day
    assert make_day(seed=8, payments=4_000, date=DATE) != day


def test_a_day_too_short_for_the_kill_is_refused() -> None:
    """With fewer payments there are no 16 in flight to kill the box in."""
    with pytest.raises(ValueError, match="payments is 10"):
        make_day(seed=1, payments=10, date=DATE)


def test_the_day_has_every_story_over_both_ways(day: Day) -> None:
    """A story that fell out of the plan would be missing in the proof and nobody would see it."""
    stories = Counter(step.story for step in steps_of(day))
    wanted = "card till visitor salary cash large foreign hold refund broke blocked"
    assert stories.keys() == set(wanted.split())
    ways = Counter(step.way for step in steps_of(day))
    assert min(ways.values()) * 4 > sum(ways.values())
    kinds = {(step.way, step.kind) for step in steps_of(day)}
    assert {("iso8583", kind) for kind in ("payment", "hold", "post", "reversal")} <= kinds
    assert {("http", kind) for kind in ("payment", "hold", "post", "void", "reversal")} <= kinds


def test_visitors_make_up_enough_of_the_day_for_each_way_to_fund(day: Day) -> None:
    """Each of centre and stand-in must clear 5 %: their payers must be planned, not hoped for."""
    payments = [step for step in steps_of(day) if step.kind == "payment"]
    down = {"silence", "outage", "afternoon"}
    visits = Counter(
        phase.name in down
        for phase in day.phases
        for step in phase.steps()
        if step.story in ("visitor", "salary", "large")
    )
    assert visits[True] * 10 > len(payments)
    assert visits[False] * 10 > len(payments)


def test_no_identity_occurs_twice_in_the_plan(day: Day) -> None:
    """Two steps with one identity would be a conflict of the plan's own making."""
    identities = Counter((step.client, step.kind, step.id) for step in steps_of(day))
    assert identities.most_common(1)[0][1] == 1
    traces = Counter((step.client, step.stan) for step in steps_of(day) if step.stan)
    assert traces.most_common(1)[0][1] == 1


def test_posts_voids_and_reversals_come_after_what_they_name(day: Day) -> None:
    """But for the one that overtakes its payment on purpose."""
    seen: set[str] = set()
    early = []
    for phase in day.phases:
        for chain in phase.chains:
            for item in chain:
                for step in [item] if isinstance(item, Step) else getattr(item, "steps", ()):
                    if step.original and step.original not in seen:
                        early.append(step)
                    if step.kind in ("payment", "hold"):
                        seen.add(step.id)
    assert [step.expect for step in early] == ["kept"]


def test_wrong_messages_come_over_both_ways_and_name_what_must_come_back(day: Day) -> None:
    """A wrong message without an expectation proves nothing."""
    wrong = [
        item for phase in day.phases for chain in phase.chains for item in chain if isinstance(item, Wrong)
    ]
    assert {one.way for one in wrong} == {"http", "iso8583"}
    assert all(one.expect for one in wrong)
    assert len(wrong) >= 30


def test_the_site_settings_are_a_site(day: Day) -> None:
    """The hub would refuse to publish anything else, minutes later."""
    keys = dict.fromkeys(CLIENTS, "a" * 43 + "=")
    tokens = {pan: f"{index:064x}" for index, pan in enumerate(day.cards)}
    site = decode_site(json.dumps(day.settings(keys, tokens)).encode())
    assert len(site.accounts) == len(day.opening)
    assert len(site.cards) == len(day.cards)
    assert {rule.merchant for rule in site.terminals} == {merchant_of(rule.id) for rule in site.terminals}


def test_card_numbers_are_card_numbers(day: Day) -> None:
    """The search for leaked card numbers looks for these; the box must take them for real ones."""
    for pan in day.cards:
        digits = [int(digit) for digit in pan]
        doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
        assert len(digits) == 16
        assert (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def test_a_partial_reversal_says_what_was_really_spent() -> None:
    """Field 4 holds the original amount and field 95 what was kept of it; else too much goes back."""
    day = make_day(seed=3, payments=2_000, date=DATE)
    parts = [step for step in steps_of(day) if step.mti == "0400" and step.amount_minor != step.field_4_minor]
    assert parts
    fields = fields_of(parts[0])
    assert int(fields[4]) - int(fields[95][:12]) == parts[0].amount_minor
    said = decode(encode("0400", fields))
    assert said["90"][4:10] == parts[0].original_stan
