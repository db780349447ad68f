"""Record a branch's days on a disk, cut its power at many moments, judge what each cut may have left.

One recording is two boots with a clean stop after each, a reader that now and then holds the WAL, snapshots,
and checkpoints far more often than in a branch, so that few payments meet all of them.

Replay a failure (the test prints this line):
    python -m tests.crash.campaign --seed 7 --cut 85
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import msgspec

from edgegw.ledger import schema, writer
from edgegw.ledger.boot import LEDGER_NAME
from edgegw.ledger.store import Store
from tests.crash.fault_vfs import (
    DROPPED,
    REORDERED,
    TORN,
    Disk,
    Event,
    Recorder,
    crash_states,
    recording,
)
from tests.crash.judge import Halted, Judge, stored_bodies
from tests.crash.workload import Told, open_day

BOOTS = 2
ROUNDS = 12
DEEP_EVERY = 8
PER_CUT = 8
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - a place without a disk: thousands of states are written
WAL_PAGES = (40, 90, 1_000)
"""By the seed: a checkpoint every few commits, every dozen, and at the clean stop alone."""


class Fault(msgspec.Struct, frozen=True):
    """What is planted: `synchronous` of the writer instead of its own, or whose syncs are not done."""

    synchronous: tuple[str, int] | None = None
    lying: str | None = None


class Film(msgspec.Struct, frozen=True):
    """A recording, what clients were told, and the whole journal that was decided."""

    seed: int
    events: list[Event]
    told: Told
    bodies: tuple[bytes, ...]


class Tally(msgspec.Struct):
    """What a campaign has seen; `wrong` is (cut, fate, what)."""

    drawn: int = 0
    seconds: float = 0.0
    digests: set[bytes] = msgspec.field(default_factory=set)
    wrong: list[tuple[int, str, str]] = msgspec.field(default_factory=list)
    fates: Counter[str] = msgspec.field(default_factory=Counter)
    undone_deletes: int = 0

    @property
    def distinct(self) -> int:
        """States that differ in at least one byte."""
        return len(self.digests)

    @property
    def figures(self) -> dict[str, int]:
        """For the runner of the proofs; of the states that differ."""
        return {
            "drawn": self.drawn,
            "distinct": self.distinct,
            "dropped": sum(self.fates[fate] for fate in DROPPED),
            "reordered": sum(self.fates[fate] for fate in REORDERED),
            "torn": sum(self.fates[fate] for fate in TORN),
            "deletes_undone": self.undone_deletes,
            "wrong": len(self.wrong),
        }

    def __str__(self) -> str:
        rate = self.distinct / self.seconds if self.seconds else 0.0
        text = f"{self.drawn} states drawn, {self.distinct} distinct, {self.seconds:.0f} s, {rate:.0f}/s"
        return f"{text}, {len(self.wrong)} wrong"


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory in memory where the machine has one."""
    home = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="edgegw-crash-", dir=home) as directory:
        yield Path(directory)


@contextmanager
def often(fault: Fault, *, wal_pages: int) -> Iterator[None]:
    """Snapshots and checkpoints come often, and the fault is planted."""
    pragmas = schema._WRITER_PRAGMAS | {
        "wal_autocheckpoint": (str(wal_pages), wal_pages),
        "journal_size_limit": ("65536", 65536),
    }
    if fault.synchronous is not None:
        pragmas["synchronous"] = fault.synchronous
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(schema, "_WRITER_PRAGMAS", pragmas))
        stack.enter_context(mock.patch.object(writer, "SNAPSHOT_RECORDS", 40))
        yield


async def film(home: Path, *, seed: int, fault: Fault | None = None) -> Film:
    """Two boots of a branch on a recorded disk."""
    fault = fault or Fault()
    told = Told()
    with often(fault, wal_pages=WAL_PAGES[seed % len(WAL_PAGES)]), recording(lying=fault.lying) as recorder:
        for boot in range(BOOTS):
            await _boot(home, recorder, told, seed=seed * BOOTS + boot, boot=f"boot-{boot}")
    store = Store.open_reader(home / "data" / LEDGER_NAME)
    bodies = tuple(stored_bodies(store))
    store.close()
    return Film(seed, recorder.events, told, bodies)


async def _boot(home: Path, recorder: Recorder, told: Told, *, seed: int, boot: str) -> None:
    def tell(pen: writer.Pen) -> None:
        recorder.note(Event("told", at=pen.desk.tip.size))

    data, outside = home / "data", home / "outside"
    async with open_day(data, outside, told, seed=seed, boot=boot, on_told=tell) as (day, opened):
        readers: list[Store] = []
        for _ in range(ROUNDS):
            await day.round()
            chance = day.random.random()
            if chance < 0.3:
                opened.anchor.close()
            elif chance < 0.45 and not readers:
                readers.append(opened.store.reader())
                readers[-1]._db.execute("BEGIN; SELECT count(*) FROM record").fetchall()
            elif chance < 0.7 and readers:
                readers.pop().close()
        for reader in readers:
            reader.close()


def judge_states(shot: Film, home: Path, tally: Tally, *, states: int, cuts: set[int] | None = None) -> None:
    """Judge up to `states` new states of a recording; a state that was seen before counts as drawn only."""
    judge = Judge(shot.told, bodies=shot.bodies)
    began, end = time.monotonic(), tally.distinct + states
    for disk in crash_states(shot.events, seed=shot.seed, per_cut=PER_CUT, cuts=cuts):
        tally.drawn += 1
        if disk.digest in tally.digests:
            continue
        tally.digests.add(disk.digest)
        tally.fates[disk.fate] += 1
        tally.undone_deletes += disk.undone_deletes > 0
        for what in judged(judge, disk, home / "state", deep=tally.distinct % DEEP_EVERY == 0):
            tally.wrong.append((disk.cut, disk.fate, what))
        if tally.distinct >= end:
            break
    tally.seconds += time.monotonic() - began


def judged(judge: Judge, disk: Disk, place: Path, *, deep: bool) -> list[str]:
    """What is wrong with one state; a box that halts although nothing but power was lost is wrong too."""
    shutil.rmtree(place, ignore_errors=True)
    data, outside = place / "data", place / "outside"
    for directory in (data, outside):
        directory.mkdir(parents=True)
    disk.write(data, outside)
    try:
        return judge.judge(data, outside, told_size=disk.told_size, deep=deep)
    except Halted as halted:
        return [f"halts with {halted}; hint: {halted.problem.hint}"]


def sampled(shot: Film, count: int) -> set[int]:
    """So many moments of a recording, by its seed."""
    return set(random.Random(shot.seed).sample(range(len(shot.events)), min(count, len(shot.events))))


def main() -> None:
    """Judge all draws of one recording, or of one cut of it."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--seed", type=int, required=True)
    options.add_argument("--cut", type=int, action="append")
    chosen = options.parse_args()
    with scratch() as home:
        shot = asyncio.run(film(home, seed=chosen.seed))
        tally = Tally()
        judge_states(shot, home, tally, states=sys.maxsize, cuts=set(chosen.cut) if chosen.cut else None)
    for cut, fate, what in tally.wrong:
        print(f"cut {cut} ({shot.events[cut].kind} {shot.events[cut].name}), {fate}: {what}")
    print(tally)
    sys.exit(bool(tally.wrong))


if __name__ == "__main__":
    main()
