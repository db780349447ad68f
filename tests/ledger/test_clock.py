"""What waits for time across restarts of the process and of the machine: late at worst, never early."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import pytest

from edgegw.core.records import ClockStep, Kind, Mode, Refusal, Request, Transfer, decode_record
from edgegw.ledger.clock import WALL_BELIEVED_NS
from edgegw.ledger.outcomes import Decision
from edgegw.ledger.writer import Pen
from tests.ledger.running_box import TestClock, enrol, open_pen, running
from tests.ledger.test_writer import UP

T = TypeVar("T")
YEAR_S = 366 * 24 * 3600
HOLD_S = 3_600
HOLD = Request(
    kind=Kind.HOLD,
    id=f"{7:032x}",
    debit_account_id="anna",
    credit_account_id="shop",
    amount_minor=4_000,
    currency="CNY",
    timeout_s=HOLD_S,
)


async def held(tmp_path: Path, clock: TestClock) -> None:
    """A box that holds money for an hour, and ends."""
    async with running(open_pen(tmp_path, clock)) as pen:
        await enrol(pen)
        await pen.decide("till", [HOLD], UP)


async def posted(pen: Pen, number: int = 8) -> str:
    """What a post of the hold is answered: `cleared`, or the code of a refusal."""
    request = Request(kind=Kind.POST, id=f"{number:032x}", original_id=HOLD.id)
    [outcome] = await pen.decide("till", [request], UP)
    assert isinstance(outcome, Decision)
    return outcome.record.code if isinstance(outcome.record, Refusal) else "cleared"


@pytest.mark.parametrize(
    ("wall_s", "passed_s", "said"),
    [
        pytest.param(HOLD_S - 1, 0, "cleared", id="a second too early"),
        pytest.param(HOLD_S, 0, "hold_expired", id="on time"),
        pytest.param(-10 * YEAR_S, 0, "cleared", id="the clock lost ten years"),
        pytest.param(
            -10 * YEAR_S, HOLD_S, "hold_expired", id="the clock lost ten years, then an hour passes"
        ),
        pytest.param(10 * YEAR_S, 0, "cleared", id="the clock gained ten years"),
        pytest.param(
            10 * YEAR_S, HOLD_S, "hold_expired", id="the clock gained ten years, then an hour passes"
        ),
    ],
)
async def test_a_reboot_expires_no_hold_early(tmp_path: Path, wall_s: int, passed_s: int, said: str) -> None:
    """The wall clock's difference counts, where it can be one; a negative or an unbelievable one is none."""
    clock = TestClock()
    await held(tmp_path, clock)
    clock.wall += wall_s * 10**9
    clock.mono, clock.boot = 3, "another boot"
    async with running(open_pen(tmp_path, clock, boot="boot-2")) as pen:
        clock.pass_seconds(passed_s)
        assert await posted(pen) == said


@pytest.mark.parametrize("wall_s", [-YEAR_S, 0, YEAR_S, WALL_BELIEVED_NS // 10**9])
async def test_within_a_boot_of_the_machine_only_its_monotonic_clock_counts(
    tmp_path: Path, wall_s: int
) -> None:
    """A process that is started again asks no wall clock, which may have been set meanwhile."""
    clock = TestClock()
    clock.boot = "this boot"
    await held(tmp_path, clock)
    clock.wall += wall_s * 10**9
    clock.mono += (HOLD_S - 1) * 10**9
    async with running(open_pen(tmp_path, clock, boot="boot-2")) as pen:
        assert pen.desk.time.doubted_ns == 0
        clock.mono += 10**9 // 2
        await pen.tick()
        assert _records(pen, Transfer)[-1].request.id == HOLD.id
        clock.mono += 10**9
        assert await posted(pen) == "hold_expired"


async def test_a_clock_that_is_not_believed_still_ages_the_outage(tmp_path: Path) -> None:
    """What was perhaps not off for years expires nothing, and yet trusts no old policy: both are safe. The
    journal says so, and the same again after the next start."""
    clock = TestClock()
    async with running(open_pen(tmp_path, clock)) as pen:
        await enrol(pen)
        await pen.change_mode(Mode.OFFLINE, "no hub answers")
        before_ns = pen.desk.book.offline_since_ns
    clock.wall += YEAR_S * 10**9
    for boot in ("boot-2", "boot-3"):
        async with running(open_pen(tmp_path, clock, boot=boot)) as pen:
            book = pen.desk.book
            assert book.offline_since_ns == max(1, before_ns - YEAR_S * 10**9)
            assert book.at_ns < before_ns + 10**9
            steps = _records(pen, ClockStep)
            assert [step.doubted_ns for step in steps] == [YEAR_S * 10**9]
            await pen.tick()
            assert len(_records(pen, ClockStep)) == 1


async def test_a_clock_at_1970_is_told_and_costs_no_order(tmp_path: Path) -> None:
    """A machine whose battery is empty starts in 1970: the box's own time goes on, and the journal says how
    far the two have parted."""
    clock = TestClock()
    await held(tmp_path, clock)
    clock.wall, clock.mono = 5 * 10**9, 1
    async with running(open_pen(tmp_path, clock, boot="boot-2")) as pen:
        last_ns = pen.desk.book.at_ns
        await pen.tick()
        [step] = _records(pen, ClockStep)
        assert (step.at_ns > last_ns, step.doubted_ns) == (True, 0)
        assert step.wall_ahead_ns == clock.wall - pen.desk.time.now_ns()


def _records(pen: Pen, kind: type[T]) -> list[T]:
    entries = pen.desk.store.records(epoch=1, start=0, limit=1_000, bytes_max=1 << 20)
    found = [decode_record(entry.body) for entry in entries]
    return [record for record in found if isinstance(record, kind)]
