"""The power of a real ext4 is cut under a paying box: every answer is on the disk that comes back.

The file system lies in a file; FS_IOC_SHUTDOWN without a flush of its log is the cut, the next mount replays
what the log has. The anchor lies on another medium, which keeps what it has.
What the box says after the moment of the cut reaches nobody: an fsync that was under way then may return as
if all were well, which no machine without power does.
Short: a few cuts. Long, two hundred on one disk that is never made anew, about a minute:
    pytest -m slow tests/crash/test_power_cut.py -s
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgegw.errors import OperatingError
from edgegw.ledger.boot import Opened
from edgegw.ledger.writer import Pen
from tests.crash.campaign import Fault, often
from tests.crash.judge import Halted, Judge
from tests.crash.machine import PoweredDisk
from tests.crash.workload import Day, Told, open_day
from tests.proof.figures import note

SHORT_CUTS, LONG_CUTS = 5, 200
NEW_LEDGER_EVERY = 10
"""Cuts until the next branch starts on the disk: a judgement reads the whole journal."""
EVERYTHING = 10**9


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[PoweredDisk]:
    """A disk of its own."""
    made = PoweredDisk(tmp_path)
    try:
        yield made
    finally:
        made.remove()


class Branch:
    """One ledger on the disk, its anchor elsewhere, and what its clients were told through all boots."""

    def __init__(self, disk: PoweredDisk, anchors: Path, number: int) -> None:
        self.disk = disk
        self.data = disk.home / f"branch-{number}"
        self.outside = anchors / f"branch-{number}"
        self.told = Told()
        self.judge = Judge(self.told)

    async def run_and_cut(self, *, seed: int, fault: Fault) -> None:
        """Pay until the power fails: after so many batches, at any moment of the batch that follows."""
        rng = random.Random(seed)
        self.told.deaf = False
        batches = rng.randint(1, 40)
        delay_s = rng.choice((0.0, 0.0002, 0.001, 0.004))
        dark = asyncio.Event()
        ordered = False

        def tell(pen: Pen) -> None:
            nonlocal ordered
            if pen.batches >= batches and not ordered:
                ordered = True
                asyncio.get_running_loop().call_later(delay_s, self._cut, dark)

        with often(fault, wal_pages=rng.choice((20, 200))):
            try:
                async with open_day(
                    self.data, self.outside, self.told, seed=seed, boot=f"boot-{seed}", on_told=tell
                ) as (day, opened):
                    await self._pay(day, opened, dark)
            except OperatingError:
                return

    def _cut(self, dark: asyncio.Event) -> None:
        self.told.deaf = True
        self.disk.cut()
        dark.set()

    async def _pay(self, day: Day, opened: Opened, dark: asyncio.Event) -> None:
        while not dark.is_set() and day.pen.failure is None:
            try:
                await day.round()
            except OperatingError:
                break
        await dark.wait()
        if day.pen.failure is None:
            day.pen.failure = OperatingError("the power is off")

    def wrong(self) -> list[str]:
        """What is wrong after the power has come back."""
        try:
            return self.judge.judge(self.data, self.outside, told_size=EVERYTHING, deep=True)
        except Halted as halted:
            return [f"halts with {halted}"]


async def cut_often(disk: PoweredDisk, anchors: Path, *, cuts: int, seed: int, fault: Fault) -> list[str]:
    """Cut so many times; everything that was wrong after any of them."""
    wrong: list[str] = []
    told = 0
    branch = Branch(disk, anchors, 0)
    for number in range(cuts):
        if number and number % NEW_LEDGER_EVERY == 0:
            told += len(branch.told.answers)
            branch = Branch(disk, anchors, number)
        await branch.run_and_cut(seed=seed + number, fault=fault)
        disk.unmount()
        assert disk.mount()
        wrong += [f"cut {number}, seed {seed + number}: {what}" for what in branch.wrong()]
    if fault == Fault():
        note(cuts=cuts, answers=told + len(branch.told.answers), cuts_wrong=len(wrong))
    print(f"{cuts} cuts from seed {seed}, {told + len(branch.told.answers)} answers, {len(wrong)} wrong")
    return wrong


async def test_a_power_cut_under_a_paying_box_loses_no_answer(disk: PoweredDisk, tmp_path: Path) -> None:
    """The real file system must keep what its fsync has promised to SQLite, and SQLite to us."""
    assert await cut_often(disk, tmp_path / "anchors", cuts=SHORT_CUTS, seed=100, fault=Fault()) == []


async def test_synchronous_normal_loses_answers_in_a_power_cut(disk: PoweredDisk, tmp_path: Path) -> None:
    """If this cut loses nothing of a ledger that does not sync, it is no power cut."""
    planted = Fault(synchronous=("NORMAL", 1))
    wrong = await cut_often(disk, tmp_path / "anchors", cuts=1, seed=100, fault=planted)
    assert any("is lost" in what or "behind" in what for what in wrong), wrong


@pytest.mark.slow
@pytest.mark.timeout(3_600)
async def test_two_hundred_power_cuts_lose_no_answer(disk: PoweredDisk, tmp_path: Path) -> None:
    """The long run, on one disk that ages with every cut."""
    assert await cut_often(disk, tmp_path / "anchors", cuts=LONG_CUTS, seed=1_000, fault=Fault()) == []
