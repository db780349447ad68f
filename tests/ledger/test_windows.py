"""Windows that close by the site's calendar: at the cut-off and not later, once each, whatever clock and
power do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

import msgspec
import pytest

from edgegw.core.records import Kind, Mode, Transfer, WindowClosed, decode_record
from edgegw.core.site import CalendarRule, Site
from edgegw.ledger.outcomes import Decision
from edgegw.ledger.windows import BY_CALENDAR, NotClosed, calendar_says
from edgegw.ledger.writer import Pen, take_snapshot
from edgegw.zones import load_zone
from tests.core.box import SITE
from tests.ledger.running_box import TestClock, enrol, open_pen, payment, running
from tests.ledger.test_writer import UP

DAILY = CalendarRule(zone="Europe/Berlin", cut_offs=("17:00",))
TWICE = CalendarRule(zone="Europe/Berlin", cut_offs=("11:00", "17:00"), weekend=("sunday",))
BERLIN = load_zone("Europe/Berlin")
DAY_S = 24 * 3600


def site(calendar: CalendarRule) -> Site:
    return msgspec.structs.replace(SITE, calendar=calendar)


def moment(text: str) -> int:
    """A local time in Berlin, nanoseconds since 1970."""
    return int(datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()) * 10**9


def clock_at(text: str) -> TestClock:
    clock = TestClock()
    clock.wall = moment(text)
    return clock


def windows(pen: Pen) -> list[WindowClosed]:
    """The closed windows as the ledger file has them."""
    found = [decode_record(body) for _, body in pen.desk.store.of_type("window", after=-1, limit=1_000)]
    return [record for record in found if isinstance(record, WindowClosed)]


def dates(pen: Pen) -> list[tuple[int, str, int]]:
    return [(closed.window, closed.business_date, closed.transfers) for closed in windows(pen)]


@asynccontextmanager
async def enrolled(folder: Path) -> AsyncIterator[tuple[Pen, TestClock]]:
    """A box that closes at 17:00 each day, an hour before that on a Friday."""
    clock = clock_at("2026-11-20T16:00")
    async with running(open_pen(folder, clock)) as pen:
        await enrol(pen, used=site(DAILY))
        yield pen, clock


async def paid(pen: Pen, number: int) -> Transfer:
    (outcome,) = await pen.decide("till", [payment(number)], UP)
    assert isinstance(outcome, Decision)
    assert isinstance(outcome.record, Transfer)
    return outcome.record


async def test_a_payment_after_the_cut_off_is_in_the_next_window_though_nobody_has_ticked(
    tmp_path: Path,
) -> None:
    """The first payment at or after the cut-off finds the window closed: no payment slips into the day before
    because a timer was late."""
    async with enrolled(tmp_path) as (pen, clock):
        before = await paid(pen, 1)
        clock.wall = moment("2026-11-20T17:00")
        after = await paid(pen, 2)
        assert (before.window, after.window) == (1, 2)
        assert [(one.business_date, one.closed_by) for one in windows(pen)] == [("2026-11-20", BY_CALENDAR)]
        said = calendar_says(pen.desk.book, wall_ns=clock.wall)
        assert said is not None
        assert said.next is not None
        assert said.next.business_date.isoformat() == "2026-11-23"


async def test_a_tick_closes_the_window_of_a_quiet_branch(tmp_path: Path) -> None:
    """Without a payment the day ends all the same, once."""
    clock = clock_at("2026-11-20T16:59:59")
    async with running(open_pen(tmp_path, clock)) as pen:
        await enrol(pen, used=site(DAILY))
        await pen.tick()
        assert dates(pen) == []
        clock.pass_seconds(1)
        await pen.tick()
        await pen.tick()
        assert dates(pen) == [(1, "2026-11-20", 1)]


async def test_cut_offs_that_a_box_slept_through_are_closed_in_order_at_its_start(tmp_path: Path) -> None:
    """What was decided before stays in the window that it was decided in; the others are empty."""
    clock = clock_at("2026-11-20T16:00")
    async with running(open_pen(tmp_path, clock)) as pen:
        await enrol(pen, used=site(TWICE))
        await paid(pen, 1)
    clock.wall, clock.mono = moment("2026-11-24T12:00"), 5
    async with running(open_pen(tmp_path, clock, boot="boot-2")) as pen:
        later = await paid(pen, 2)
        assert dates(pen) == [
            (1, "2026-11-20", 2),
            (2, "2026-11-21", 0),
            (3, "2026-11-21", 0),
            (4, "2026-11-23", 0),
            (5, "2026-11-23", 0),
            (6, "2026-11-24", 0),
        ]
        assert later.window == 7


async def test_a_clock_that_is_set_back_closes_no_cut_off_again(tmp_path: Path) -> None:
    """Within a boot and across one: business dates stay, window numbers stay."""
    async with enrolled(tmp_path) as (pen, clock):
        clock.wall = moment("2026-11-20T17:30")
        await pen.tick()
        clock.wall = moment("2026-11-20T16:30")
        await paid(pen, 1)
        clock.wall = moment("2026-11-20T17:30")
        await paid(pen, 2)
        clock.wall = moment("2026-11-19T12:00")
    async with running(open_pen(tmp_path, clock, boot="boot-2")) as pen:
        await paid(pen, 3)
        clock.wall = moment("2026-11-23T17:00")
        await pen.tick()
        assert dates(pen) == [(1, "2026-11-20", 1), (2, "2026-11-23", 3)]


async def test_a_clock_that_steps_over_cut_offs_closes_each_once(tmp_path: Path) -> None:
    """Also after it is set right again: nothing is closed twice, and the calendar goes on behind them."""
    async with enrolled(tmp_path) as (pen, clock):
        clock.wall = moment("2026-11-24T18:00")
        await pen.tick()
        clock.wall = moment("2026-11-20T16:10")
        for day in ("20", "23", "24", "25"):
            clock.wall = moment(f"2026-11-{day}T17:00")
            await pen.tick()
        assert [date for _, date, _ in dates(pen)] == ["2026-11-20", "2026-11-23", "2026-11-24", "2026-11-25"]


@pytest.mark.parametrize(
    ("days", "cut_off"),
    [(("2026-03-28", "2026-03-29", "2026-03-30"), "02:30"), (("2026-10-24", "2026-10-25"), "02:30")],
)
async def test_the_nights_of_the_clock_change_have_one_business_date_each(
    tmp_path: Path, days: tuple[str, ...], cut_off: str
) -> None:
    """02:30 does not exist in one of these nights and exists twice in the other."""
    calendar = CalendarRule(zone="Europe/Berlin", cut_offs=(cut_off,), weekend=())
    clock = clock_at(f"{days[0]}T00:00")
    async with running(open_pen(tmp_path, clock)) as pen:
        await enrol(pen, used=site(calendar))
        end = moment(f"{days[-1]}T12:00")
        while clock.wall < end:
            clock.pass_seconds(600)
            await pen.tick()
        assert [date for _, date, _ in dates(pen)] == list(days)
        assert [closed.window for closed in windows(pen)] == list(range(1, len(days) + 1))


async def test_a_close_by_hand_and_the_calendar_do_not_close_one_day_twice(tmp_path: Path) -> None:
    """At the very moment of the cut-off, before it and after it."""
    clock = clock_at("2026-11-20T16:59:59")
    async with running(open_pen(tmp_path, clock)) as pen:
        await enrol(pen, used=site(DAILY))
        clock.wall = moment("2026-11-20T17:00")
        late = await pen.close_window(window=1, business_date="2026-11-20", closed_by="clerk")
        assert isinstance(late, NotClosed)
        assert late.code == "window_not_open"
        assert dates(pen) == [(1, "2026-11-20", 1)]
        clock.wall = moment("2026-11-23T15:00")
        early = await pen.close_window(window=2, business_date="2026-11-23", closed_by="clerk")
        assert isinstance(early, WindowClosed)
        clock.wall = moment("2026-11-23T17:30")
        await pen.tick()
        after = await paid(pen, 1)
        assert dates(pen) == [(1, "2026-11-20", 1), (2, "2026-11-23", 0)]
        assert after.window == 3
        wrong = await pen.close_window(window=3, business_date="2026-12-24", closed_by="clerk")
        assert isinstance(wrong, NotClosed)
        assert "2026-11-24" in wrong.detail


async def test_orders_and_cut_offs_that_race_close_each_window_once(tmp_path: Path) -> None:
    """Payments, ticks and orders of one moment: every number once, every transfer in the window that is open
    at its place in the journal."""
    clock = clock_at("2026-11-20T16:59:59")
    async with running(open_pen(tmp_path, clock)) as pen:
        await enrol(pen, used=site(TWICE))
        for number in range(1, 40):
            clock.pass_seconds(DAY_S / 9)
            await asyncio.gather(
                paid(pen, number),
                pen.tick(),
                pen.close_window(window=pen.desk.book.window, business_date="2026-11-21", closed_by="clerk"),
                pen.tick(),
            )
        open_window = 1
        for entry in pen.desk.store.records(epoch=1, start=0, limit=10_000, bytes_max=1 << 30):
            record = decode_record(entry.body)
            if isinstance(record, WindowClosed):
                assert record.window == open_window
                open_window += 1
            elif isinstance(record, Transfer):
                assert record.window == open_window
        cut_offs = [closed.cut_off_ns for closed in windows(pen)]
        assert cut_offs == sorted(set(cut_offs))


async def test_a_new_calendar_counts_from_its_own_beginning(tmp_path: Path) -> None:
    """A site that gets a calendar after months does not close the months."""
    async with enrolled(tmp_path) as (pen, clock):
        assert pen.desk.book.cut_off_ns == clock.wall
        await pen.tick()
        assert dates(pen) == []


async def test_a_clock_of_another_year_closes_nothing_and_says_so(tmp_path: Path) -> None:
    """Payments go on; a person or the right time goes on with the windows."""
    async with enrolled(tmp_path) as (pen, clock):
        clock.wall = moment("2031-01-01T12:00")
        await pen.tick()
        assert (await paid(pen, 1)).window == 1
        assert pen.windows.waits_for_person
        clock.wall = moment("2026-11-20T17:00")
        assert (await paid(pen, 2)).window == 2
        assert not pen.windows.waits_for_person


async def test_no_window_is_closed_while_the_box_must_not_clear(tmp_path: Path) -> None:
    """A forked box writes nothing of its own; the cut-off is closed when it clears again."""
    async with enrolled(tmp_path) as (pen, clock):
        await pen.change_mode(Mode.FENCED, "test")
        clock.wall = moment("2026-11-20T17:00")
        await pen.tick()
        assert dates(pen) == []


async def test_a_snapshot_at_a_cut_off_is_of_the_book_on_disk(tmp_path: Path) -> None:
    """The next start loads it: the window, the date and the cut-off are in it."""
    async with enrolled(tmp_path) as (pen, clock):
        clock.wall = moment("2026-11-20T17:00")
        await paid(pen, 1)
        clock.wall = moment("2026-11-23T17:00")
        pen.commit_now(take_snapshot)
    async with running(open_pen(tmp_path, clock, boot="boot-2")) as pen:
        book = pen.desk.book
        assert (book.window, book.business_date, book.cut_off_ns) == (
            2,
            "2026-11-20",
            moment("2026-11-20T17:00"),
        )
        await paid(pen, 2)
        assert dates(pen) == [(1, "2026-11-20", 1), (2, "2026-11-23", 1)]


async def test_holds_and_voids_across_a_cut_off_keep_both_windows_at_zero(tmp_path: Path) -> None:
    """A hold moves nobody's position; its post counts in the window in which it is posted."""
    async with enrolled(tmp_path) as (pen, clock):
        hold = msgspec.structs.replace(payment(1, 100), kind=Kind.HOLD)
        await pen.decide("till", [hold], UP)
        clock.wall = moment("2026-11-20T17:00")
        post = msgspec.structs.replace(
            payment(2),
            kind=Kind.POST,
            amount_minor=60,
            original_client="till",
            original_id=hold.id,
            debit_account_id="",
            credit_account_id="",
        )
        await pen.decide("till", [post], UP)
        clock.wall = moment("2026-11-23T17:00")
        await pen.tick()
        first, second = windows(pen)
        assert [tuple(msgspec.to_builtins(one)) for one in second.positions] == [
            ("bank", "CNY", -60),
            ("shops", "CNY", 60),
        ]
        assert sum(one.net_minor for one in first.positions) == 0
        assert "shops" not in {one.participant for one in first.positions}
