"""What a box does about its machine's health: a real pen, and a machine's files as the kernel has them."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edgegw.box_health import BoxHealth, look_once
from edgegw.config.box import BoxSettings, HubTable
from edgegw.config.health import HealthTable
from edgegw.core.decision import Funding
from edgegw.core.records import HealthChanged, decode_record
from edgegw.errors import StorageFull
from edgegw.ledger.outcomes import Decision, Outcome, Undecided
from edgegw.ledger.writer import Pen
from edgegw.observe.health import RISE_READINGS
from tests.ledger.running_box import TestClock, enrol, open_pen, payment, running

SHED_KB, PAUSE_KB, REFUSE_KB, WELL_KB = 90_000, 45_000, 15_000, 600_000


class Machine:
    """A machine of a gigabyte, and the box that looks at it."""

    def __init__(self, folder: Path) -> None:
        self.now_s = 0.0
        self.root = folder / "machine"
        (self.root / "proc").mkdir(parents=True)
        self.has(WELL_KB)
        for name in ("data", "anchor"):
            (folder / name).mkdir()
        self.settings = BoxSettings(
            bank="demo",
            box="box-1",
            hub=HubTable(addresses=()),
            data_dir=str(folder / "data"),
            anchor_dir=str(folder / "anchor"),
            health=HealthTable(root_dir=str(self.root), calm_seconds=60),
        )
        self.health = BoxHealth(self.settings, clock_ahead_s=lambda: None, clock_s=lambda: self.now_s)

    def has(self, available_kb: int) -> None:
        """So much memory can be had from now on."""
        (self.root / "proc/meminfo").write_text(
            f"MemTotal: 1000000 kB\nMemAvailable: {available_kb} kB\nSwapFree: 0 kB\n"
        )

    async def comes_to(self, available_kb: int) -> None:
        """And the box has looked often enough."""
        self.has(available_kb)
        for _ in range(RISE_READINGS):
            await self.health.look()

    async def recovers(self) -> None:
        """And the calm is over."""
        self.has(WELL_KB)
        for _ in range(2):
            await self.health.look()
            self.now_s += 60


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine that is well."""
    return Machine(tmp_path)


@pytest.fixture(autouse=True)
def _level() -> Iterator[None]:
    """The log's level is the process's."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.INFO)
    yield
    root.setLevel(before)


@asynccontextmanager
async def writing(tmp_path: Path, machine: Machine) -> AsyncIterator[Pen]:
    """A pen beside it, with an epoch and money."""
    async with running(open_pen(tmp_path, TestClock())) as pen:
        await enrol(pen)
        pen.unwell, machine.health.pen = machine.health.why_no_payments, pen
        yield pen


async def asked(pen: Pen, number: int) -> Outcome:
    """The outcome of the payment of this number."""
    [outcome] = await pen.decide("till", [payment(number)], Funding(line_up=True))
    return outcome


async def paid(pen: Pen, number: int) -> Decision:
    """The decision that it must be."""
    outcome = await asked(pen, number)
    assert isinstance(outcome, Decision), outcome
    return outcome


def journalled(pen: Pen) -> list[tuple[str, str, str]]:
    """What the journal tells of the machine: check, level before, level."""
    entries = pen.desk.store.records(epoch=1, start=0, limit=1_000, bytes_max=1 << 24)
    records = [decode_record(entry.body) for entry in entries]
    return [
        (record.check, record.previous, record.level)
        for record in records
        if isinstance(record, HealthChanged)
    ]


async def test_each_tier_acts_in_its_turn_and_all_of_it_is_undone(tmp_path: Path, machine: Machine) -> None:
    """Telemetry goes first, then work that can wait, payments last; and a box that recovers but does not
    take payments again is a box that is down."""
    health = machine.health
    async with writing(tmp_path, machine) as pen:
        first = await paid(pen, 1)
        await machine.comes_to(SHED_KB)
        assert logging.getLogger().level == logging.WARNING
        assert math.isnan(health.unless_shed(lambda: 1.0))
        assert (health.work_goes_on(), health.why_no_copies(), health.why_no_payments()) == (True, "", None)
        await machine.comes_to(PAUSE_KB)
        waiting = asyncio.create_task(health.may_work())
        await asyncio.sleep(0)
        assert not waiting.done()
        assert "memory" in health.why_no_copies()
        await paid(pen, 2)
        await machine.comes_to(REFUSE_KB)
        refused = await asked(pen, 3)
        assert isinstance(refused, Undecided)
        assert (refused.code, "1.5 percent, threshold 2" in refused.detail) == ("unwell", True)
        assert refused.hint
        assert (await paid(pen, 1)).body == first.body
        await machine.recovers()
        await waiting
        assert logging.getLogger().level == logging.INFO
        assert health.unless_shed(lambda: 1.0) == 1.0
        await paid(pen, 3)
        assert journalled(pen) == [
            ("memory", "well", "shed"),
            ("memory", "shed", "pause"),
            ("memory", "pause", "refuse"),
            ("memory", "refuse", "well"),
        ]


async def test_trouble_of_the_disk_does_not_stop_its_copy(tmp_path: Path, machine: Machine) -> None:
    """While the disk fails, the copy is what will be left."""
    stuck = machine.root / "proc/pressure"
    stuck.mkdir()
    (stuck / "io").write_text("full avg10=0 avg60=99.0 avg300=0 total=1\n")
    async with writing(tmp_path, machine) as pen:
        await machine.comes_to(WELL_KB)
        assert (machine.health.work_goes_on(), machine.health.why_no_copies()) == (False, "")
        await paid(pen, 1)


async def test_what_comes_and_goes_with_the_work_is_journalled_only_where_something_was_done(
    tmp_path: Path, machine: Machine
) -> None:
    """Every busy noon would write records that are kept for years."""
    (machine.root / "proc/loadavg").write_text("99.0 99.0 99.0 1/1 1\n")
    async with writing(tmp_path, machine) as pen:
        await machine.comes_to(WELL_KB)
        assert [held.check for held in machine.health.held] == ["load"]
        assert journalled(pen) == []


async def test_a_journal_that_takes_nothing_does_not_keep_the_box_from_acting(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is when the actions are needed."""

    async def full(_run: object) -> None:
        raise StorageFull("no room")

    async with writing(tmp_path, machine) as pen:
        monkeypatch.setattr(pen, "work", full)
        await machine.comes_to(REFUSE_KB)
        assert machine.health.why_no_payments() is not None


async def test_one_look_from_outside_tells_what_the_box_holds_to(machine: Machine) -> None:
    """`edgegw status` beside a box that refuses must say why, although memory is back for now."""
    await machine.comes_to(REFUSE_KB)
    machine.has(WELL_KB)
    held = machine.health.held
    standings = look_once(machine.settings, clock_ahead_s=None, held=held)
    assert (standings[0].check, standings[0].level, standings[0].value) == ("memory", "refuse", 60.0)
    assert standings[0].told.startswith("585 of 976 MiB; held since ")
    assert standings[0].needs_person
    alone = look_once(machine.settings, clock_ahead_s=None, held=())
    assert {one.level for one in alone if one.check == "memory"} == {"well"}
