"""Cut-offs: each comes exactly once, in order, in every time zone that changes its clock, whatever the clock
of the box does meanwhile."""

from __future__ import annotations

import importlib.resources
import random
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgegw.core.calendar import CATCH_UP_DAYS_MAX, CutOff, closing_by_hand, due, is_business_day
from edgegw.core.site import WEEKDAYS, CalendarRule
from edgegw.zones import UnknownZone, load_zone

NS = 10**9
MINUTE = timedelta(minutes=1)
YEARS = (datetime(2025, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
DATE_LINE = ("Pacific/Apia", datetime(2011, 12, 30, 10, tzinfo=UTC))
"""Samoa went over the date line and had no 30 December 2011."""


def ns(moment: datetime) -> int:
    return int((moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1)) * 1000


def changes_of(zone: tzinfo) -> list[datetime]:
    """When a zone changes its clock, to the minute, found by looking at it."""
    found, moment = [], YEARS[0]
    while moment < YEARS[1]:
        later, before = moment + timedelta(days=7), moment.astimezone(zone).utcoffset()
        if before != later.astimezone(zone).utcoffset():
            at, minutes = moment, 7 * 24 * 60
            while minutes > 1:
                minutes -= minutes // 2
                if (at + minutes * MINUTE).astimezone(zone).utcoffset() == before:
                    at += minutes * MINUTE
            found.append(at + MINUTE)
        moment = later
    return found


def all_zones() -> list[str]:
    return importlib.resources.files("tzdata").joinpath("zones").read_text().split()


@lru_cache(maxsize=1)
def clock_changes() -> list[tuple[str, datetime]]:
    """Every kind of change that some zone makes, once each: which offsets, at which local time."""
    kinds: dict[tuple[object, ...], tuple[str, datetime]] = {DATE_LINE: DATE_LINE}
    for name in all_zones():
        zone = load_zone(name)
        for at in changes_of(zone):
            before = (at - MINUTE).astimezone(zone)
            kinds.setdefault(
                (before.utcoffset(), at.astimezone(zone).utcoffset(), before.hour, before.minute), (name, at)
            )
    return list(kinds.values())


def brute_force(calendar: CalendarRule, start: datetime, end: datetime) -> list[tuple[int, date]]:
    """The cut-offs within (start, end], by looking at a clock on the wall each minute."""
    zone = load_zone(calendar.zone)
    seen: set[tuple[date, str]] = set()
    days: list[date] = []
    shown: list[tuple[datetime, datetime]] = []
    moment = start - timedelta(days=1)
    while moment <= end + timedelta(days=1):
        local = moment.astimezone(zone).replace(tzinfo=None)
        shown.append((moment, local))
        if not days or local.date() > days[-1]:
            days.append(local.date())
        moment += MINUTE
    wanted = [
        (day, text)
        for day in days
        if day not in calendar.holidays
        and (day in calendar.working_days or WEEKDAYS[day.weekday()] not in calendar.weekend)
        for text in calendar.cut_offs
    ]
    found: list[tuple[int, date]] = []
    latest = shown[0][1]
    for at, local in shown:
        latest = max(latest, local)
        while wanted and latest >= datetime.fromisoformat(f"{wanted[0][0]}T{wanted[0][1]}"):
            day, text = wanted.pop(0)
            seen.add((day, text))
            if start < at <= end and (ns(at), day) not in found:
                found.append((ns(at), day))
    return found


times = st.lists(
    st.tuples(st.integers(0, 23), st.sampled_from((0, 1, 15, 29, 30, 59))),
    min_size=1,
    max_size=4,
    unique=True,
).map(lambda found: tuple(f"{hour:02}:{minute:02}" for hour, minute in sorted(found)))


@settings(max_examples=30, deadline=None)
@given(data=st.data(), cut_offs=times, weekend=st.sets(st.sampled_from(WEEKDAYS), max_size=3))
def test_a_cut_off_comes_once_however_the_clock_is_changed(
    data: st.DataObject, cut_offs: tuple[str, ...], weekend: set[str]
) -> None:
    """Around every kind of change that some zone makes, what is due is what a clock on the wall shows."""
    name, at = data.draw(st.sampled_from(clock_changes()))
    days = [at.date() + timedelta(days=number) for number in range(-2, 3)]
    calendar = CalendarRule(
        zone=name,
        cut_offs=cut_offs,
        weekend=tuple(weekend),
        holidays=tuple(data.draw(st.sets(st.sampled_from(days), max_size=1))),
        working_days=tuple(data.draw(st.sets(st.sampled_from(days), max_size=1))),
    )
    start, end = at - timedelta(hours=30), at + timedelta(hours=30)
    said = due(calendar, load_zone(name), last_ns=ns(start), last_date="", now_ns=ns(end))
    found = [(one.at_ns, one.business_date) for one in said.cut_offs]
    model = brute_force(calendar, start, end)
    assert [one for one in found if one[0] > ns(start)] == model
    assert said.next is not None
    assert said.next.at_ns > ns(end)


def test_midnight_and_the_skipped_hour_close_every_kind_of_day() -> None:
    """The times at which clocks are changed, in every kind of zone, each day one business date."""
    for name, at in clock_changes():
        local = (at - MINUTE).astimezone(load_zone(name)) + MINUTE
        inside = (local + timedelta(minutes=20)).strftime("%H:%M")
        calendar = CalendarRule(zone=name, cut_offs=tuple(sorted({"00:00", inside})), weekend=())
        start, end = at - timedelta(hours=14), at + timedelta(hours=14)
        said = due(calendar, load_zone(name), last_ns=ns(start), last_date="", now_ns=ns(end))
        found = [(one.at_ns, one.business_date) for one in said.cut_offs if one.at_ns > ns(start)]
        assert found == brute_force(calendar, start, end), (name, at)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), cut_offs=times)
def test_a_clock_that_jumps_closes_no_cut_off_twice_and_leaves_none_out(
    seed: int, cut_offs: tuple[str, ...]
) -> None:
    """A box that looks at a clock which steps to and fro, and is off for days, closes what one with a good
    clock closes up to the latest time that was shown."""
    chance = random.Random(seed)
    name, at = chance.choice(clock_changes())
    calendar = CalendarRule(zone=name, cut_offs=cut_offs)
    zone = load_zone(name)
    start = now = ns(at - timedelta(days=10))
    last_ns, last_date, latest = start, "", start
    closed: list[CutOff] = []
    for _ in range(40):
        now += chance.choice((1, 60, 3_600, 40_000, -7_200, -200_000, 260_000)) * NS
        latest = max(latest, now)
        for one in due(calendar, zone, last_ns=last_ns, last_date=last_date, now_ns=now).cut_offs:
            closed.append(one)
            last_ns, last_date = one.at_ns, one.business_date.isoformat()
    assert closed == list(due(calendar, zone, last_ns=start, last_date="", now_ns=latest).cut_offs)
    assert len(set(closed)) == len(closed)
    assert [one.business_date for one in closed] == sorted(one.business_date for one in closed)


SHANGHAI = CalendarRule(
    zone="Asia/Shanghai",
    cut_offs=("11:30", "17:00"),
    holidays=(date(2026, 10, 1), date(2026, 10, 2)),
    working_days=(date(2026, 10, 10),),
)
ZONE = load_zone("Asia/Shanghai")


def at(day: int, hour: int, minute: int = 0, month: int = 10) -> int:
    return ns(datetime(2026, month, day, hour, minute, tzinfo=ZONE))


def test_after_the_last_cut_off_of_a_day_the_next_business_day_has_begun() -> None:
    """Wednesday after 17:00 is of the Monday behind two holidays and a weekend."""
    said = due(SHANGHAI, ZONE, last_ns=at(30, 17, month=9), last_date="2026-09-30", now_ns=at(1, 12))
    assert said.cut_offs == ()
    assert said.next == CutOff(at(5, 11, 30), date(2026, 10, 5))


def test_a_weekend_day_can_be_worked() -> None:
    """A Saturday that is worked in exchange for a holiday has its cut-offs."""
    assert is_business_day(SHANGHAI, date(2026, 10, 10))
    assert not is_business_day(SHANGHAI, date(2026, 10, 11))
    said = due(SHANGHAI, ZONE, last_ns=at(9, 17), last_date="2026-10-09", now_ns=at(10, 17))
    assert [one.business_date.day for one in said.cut_offs] == [10, 10]


def test_a_clock_that_is_years_ahead_closes_nothing_by_itself() -> None:
    """A dead clock that shows another year must not close hundreds of windows that nobody had."""
    far = at(1, 12) + (CATCH_UP_DAYS_MAX + 7) * 24 * 3600 * NS
    said = due(SHANGHAI, ZONE, last_ns=at(1, 12), last_date="", now_ns=far)
    assert said.cut_offs == ()
    assert said.waits_for_person
    near = at(1, 12) + CATCH_UP_DAYS_MAX * 24 * 3600 * NS
    assert len(due(SHANGHAI, ZONE, last_ns=at(1, 12), last_date="", now_ns=near).cut_offs) > 100


def by_hand(now: int, day: str, *, last: int = 0, last_date: str = "") -> CutOff | str:
    return closing_by_hand(
        SHANGHAI,
        ZONE,
        last_ns=last or at(8, 17),
        last_date=last_date or "2026-10-08",
        now_ns=now,
        business_date=day,
    )


def test_a_close_by_hand_stands_for_the_last_cut_off_of_its_day() -> None:
    """Or the calendar would close the same business date again an hour later."""
    stands_for = by_hand(at(9, 10), "2026-10-09")
    assert stands_for == CutOff(at(9, 17), date(2026, 10, 9))
    said = due(SHANGHAI, ZONE, last_ns=at(9, 17), last_date="2026-10-09", now_ns=at(9, 18))
    assert said.cut_offs == ()
    assert said.next == CutOff(at(10, 11, 30), date(2026, 10, 10))


@pytest.mark.parametrize("day", ["2026-10-08", "2026-10-10", "2026-10-11", "2025-10-09", "2027-10-09"])
def test_a_close_by_hand_of_another_date_is_refused_with_the_right_one(day: str) -> None:
    """A typing mistake must not move business dates."""
    said = by_hand(at(9, 10), day)
    assert isinstance(said, str)
    assert "2026-10-09" in said
    assert day in said


def test_no_business_date_is_closed_by_hand_before_it_has_begun() -> None:
    """Two orders in a row would run ahead of the calendar, day by day."""
    said = by_hand(at(9, 10), "2026-10-10", last=at(9, 17), last_date="2026-10-09")
    assert isinstance(said, str)
    assert "has not begun" in said


def test_a_site_that_moves_to_another_zone_goes_back_by_no_date() -> None:
    """The same evening comes later in the west: it is the same date again, never the one before."""
    west = CalendarRule(zone="Pacific/Honolulu", cut_offs=("17:00",), weekend=())
    said = due(
        west,
        load_zone(west.zone),
        last_ns=at(9, 17),
        last_date="2026-10-09",
        now_ns=at(9, 17) + 10 * 24 * 3600 * NS,
    )
    assert [one.business_date.day for one in said.cut_offs][:2] == [9, 10]


@pytest.mark.parametrize("name", ["", "..", "Asia", "../tzdata", "Asia/Nowhere", "zone.tab"])
def test_what_is_no_zone_is_told_by_name(name: str) -> None:
    """Also what is a folder or another file of the zones."""
    with pytest.raises(UnknownZone, match="IANA"):
        load_zone(name)


def test_every_zone_of_the_package_loads_without_the_system() -> None:
    """An appliance may have no zones of its own."""
    for name in all_zones():
        assert load_zone(name).utcoffset(datetime(2026, 1, 1)) is not None  # noqa: DTZ001 - a zone is asked
