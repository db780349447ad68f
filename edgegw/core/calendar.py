"""When a site's clearing windows close: its business days and their cut-offs, as moments. Pure; the time zone
comes in as a value, the clock as `now_ns`.

A cut-off is one local time on one business day, and it comes exactly once: at the first moment at which the
local clock shows that time or a later one. So a time that the clock skips comes when it jumps, a time that
the clock shows twice comes at the first of them, and a day that a zone leaves out has no cut-offs. Leaves out
the zones themselves (`edgegw.zones`) and who closes (`ledger.windows`).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from typing import Final

import msgspec

from edgegw.core.site import WEEKDAYS, CalendarRule

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
DAY: Final = timedelta(days=1)
SECOND: Final = timedelta(seconds=1)
MICROSECOND: Final = timedelta(microseconds=1)
DAY_NS: Final = 24 * 3600 * 1_000_000_000

CATCH_UP_DAYS_MAX: Final = 92
"""A clock that is further beyond the last cut-off than any box is switched off is not believed: a person
closes the open window, and the calendar goes on from there."""

SEARCHED_DAYS_MAX: Final = 400
"""A calendar without any business day in so many days has none."""


WINDOWS_PER_EPOCH: Final = 1_000_000
"""More than anybody closes. Not a setting: the journal alone must give the same numbers again."""


def first_window(epoch: int) -> int:
    """The number of an epoch's first window: beyond any that an earlier epoch can have used, whatever was
    lost of it, so that no number means two windows of a box."""
    return (epoch - 1) * WINDOWS_PER_EPOCH + 1


class CutOff(msgspec.Struct, frozen=True, order=True):
    """The end of a clearing cycle: its moment (nanoseconds since 1970) and the business date that it is
    of."""

    at_ns: int
    business_date: date


class Due(msgspec.Struct, frozen=True):
    """What the calendar says now."""

    cut_offs: tuple[CutOff, ...]
    """Passed and not closed yet, in order."""
    next: CutOff | None
    """The first one that has not passed: what is decided now is of its business date."""
    waits_for_person: bool = False
    """The clock stands so far beyond the last cut-off that none is taken to have passed."""


def is_business_day(calendar: CalendarRule, day: date) -> bool:
    """Whether this day has cut-offs."""
    holidays, working = _exceptions(calendar)
    if day in holidays:
        return False
    return day in working or WEEKDAYS[day.weekday()] not in calendar.weekend


@lru_cache(maxsize=16)
def _exceptions(calendar: CalendarRule) -> tuple[frozenset[date], frozenset[date]]:
    return frozenset(calendar.holidays), frozenset(calendar.working_days)


def first_moment(zone: tzinfo, local: datetime) -> datetime:
    """The first moment (UTC) at which the clock of this zone shows `local` (without a zone) or later."""
    before = _offset(local.replace(tzinfo=zone))
    after = _offset(local.replace(tzinfo=zone, fold=1))
    as_utc = local.replace(tzinfo=UTC)
    if before >= after:
        return as_utc - before
    # The clock skips this time; it jumps at the first second that has the offset `after`.
    low, high = as_utc - after, as_utc - before
    while low + SECOND < high:
        middle = low + (high - low) // SECOND // 2 * SECOND
        if _offset(middle.astimezone(zone)) == after:
            high = middle
        else:
            low = middle
    return high


def _offset(moment: datetime) -> timedelta:
    return moment.utcoffset() or timedelta(0)


def cut_offs_from(calendar: CalendarRule, zone: tzinfo, first: date) -> Iterator[CutOff]:
    """The cut-offs of the business days from `first` on, in order, without an end; none after
    SEARCHED_DAYS_MAX days without a business day."""
    day, idle_days = first, 0
    while idle_days < SEARCHED_DAYS_MAX:
        if is_business_day(calendar, day) and _exists(zone, day):
            idle_days = 0
            yield from _cut_offs_of(calendar, zone, day)
        else:
            idle_days += 1
        day += DAY


def _exists(zone: tzinfo, day: date) -> bool:
    """Whether the zone has this day at all: one that crosses the date line leaves one out."""
    return first_moment(zone, datetime.combine(day, time())) < first_moment(
        zone, datetime.combine(day + DAY, time())
    )


def _cut_offs_of(calendar: CalendarRule, zone: tzinfo, day: date) -> Iterator[CutOff]:
    """One for each time of the day; times that the clock skips together are one cut-off."""
    last_ns: int | None = None
    for text in calendar.cut_offs:
        local = datetime.combine(day, time.fromisoformat(text))
        at_ns = (first_moment(zone, local) - EPOCH) // MICROSECOND * 1_000
        if at_ns != last_ns:
            yield CutOff(at_ns, day)
        last_ns = at_ns


def due(calendar: CalendarRule, zone: tzinfo, *, last_ns: int, last_date: str, now_ns: int) -> Due:
    """What has passed between the last cut-off that is done and now. last_ns is its moment, or the one since
    which the calendar counts, and last_date its business date (YYYY-MM-DD, "" before the first)."""
    passed: list[CutOff] = []
    for cut_off in later_than(calendar, zone, last_ns=last_ns, last_date=last_date):
        if cut_off.at_ns > now_ns:
            return Due(tuple(passed), cut_off)
        if now_ns - cut_off.at_ns > CATCH_UP_DAYS_MAX * DAY_NS:
            return Due((), _next_after(calendar, zone, now_ns), waits_for_person=True)
        passed.append(cut_off)
    return Due(tuple(passed), None)


def later_than(calendar: CalendarRule, zone: tzinfo, *, last_ns: int, last_date: str) -> Iterator[CutOff]:
    """The cut-offs behind one that is done; no business date comes again, or before the last one, when the
    calendar or its zone has changed meanwhile."""
    newest = date.fromisoformat(last_date) if last_date else date.min
    done = CutOff(last_ns, newest)
    first = max(newest, _local_day(zone, last_ns) - DAY)
    return (
        cut_off
        for cut_off in cut_offs_from(calendar, zone, first)
        if cut_off > done and cut_off.business_date >= newest
    )


def _local_day(zone: tzinfo, at_ns: int) -> date:
    return (EPOCH + at_ns // 1_000 * MICROSECOND).astimezone(zone).date()


def _next_after(calendar: CalendarRule, zone: tzinfo, now_ns: int) -> CutOff | None:
    first = _local_day(zone, now_ns) - DAY
    return next((one for one in cut_offs_from(calendar, zone, first) if one.at_ns > now_ns), None)


def closing_by_hand(
    calendar: CalendarRule, zone: tzinfo, *, last_ns: int, last_date: str, now_ns: int, business_date: str
) -> CutOff | str:
    """The cut-off that a person's close stands for, the last one of business_date; or what is wrong with that
    date.

    A close by hand ends its business date: the calendar goes on with the next one.
    """
    oldest = next(later_than(calendar, zone, last_ns=last_ns, last_date=last_date), None)
    newest = _next_after(calendar, zone, now_ns)
    if oldest is None or newest is None:
        return "the site's calendar has no business days"
    first, last = oldest.business_date, newest.business_date
    if first > last:
        return f"business date {last} is closed; the open window is of {first}, which has not begun"
    day = date.fromisoformat(business_date)
    ends = max(_cut_offs_of(calendar, zone, day), default=None)
    if ends is None or not first <= day <= last or not is_business_day(calendar, day):
        wanted = f"{first}" if first == last else f"{first} to {last}"
        return f"the open window is of business date {wanted} by the site's calendar, not {business_date}"
    return ends
