"""A ledger that has grown: what a payment costs then beside an empty one, how long a start takes, what it
weighs.

`--payments` says how far (ten million); the grown ledger is kept for later runs. Filling it takes as long as
the engine needs for so many payments, so the group runs only where `--only growth` names it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import psutil

from tests.bench.box import Box, BoxLane
from tests.bench.children import Asked
from tests.bench.place import Place
from tests.bench.product import Answered, EngineLane
from tests.bench.rounds import Comparison, Group, Lane, Limit, Measure

EMPTY = "edgegw, in process, batches of 64, empty ledger"
GROWN = "edgegw, in process, batches of 64, grown ledger"
START = "edgegw run: from nothing to ready, grown ledger"
FILL_BATCH: Final = 512
FILL_SECONDS: Final = 60.0


class Grown:
    """The ledger that is kept, and how many payments are in it."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.answered = Answered()

    def folder(self) -> Path:
        """Filled as far as is asked for."""
        folder = self._place.grown
        note = folder / "answered"
        if not folder.exists():
            self._place.box("growth").rename(folder)
        self.answered.add(json.loads(note.read_text()) if note.exists() else 0)
        if self.answered.next <= self._place.payments:
            child = Asked("tests.bench.engine_process", str(folder), log=self._place.fresh("fill.log"))
            child.first()
            while self.answered.next <= self._place.payments:
                told = child.ask(seconds=FILL_SECONDS, first=self.answered.next, batch=FILL_BATCH)
                self.answered.add(told["count"])
            child.end()
            self.keep(folder)
        return folder

    def keep(self, folder: Path) -> None:
        """Note how far it is."""
        (folder / "answered").write_text(str(self.answered.next - 1))


class GrownLane(EngineLane):
    """The engine on it."""

    def __init__(self, place: Place, grown: Grown) -> None:
        super().__init__(place, batch=64, name=GROWN)
        self._grown = grown
        self.answered = grown.answered

    def folder_of_box(self) -> Path:
        """The grown one."""
        return self._grown.folder()

    def measure(self, seconds: float) -> Measure:
        """With what a payment weighs: the ledger's file by all its payments."""
        if self.child.popen.poll() is not None:
            self.restart()
        found = super().measure(seconds)
        self._grown.keep(self.folder)
        size = sum(path.stat().st_size for path in (self.folder / "data").glob("ledger.db"))
        rss = psutil.Process(self.child.popen.pid).memory_info().rss / 2**20
        figures = {"disk_bytes_each": size / (self.answered.next - 1), "rss_mb": rss}
        return Measure(count=found.count, seconds=found.seconds, cpu_s=found.cpu_s, figures=figures)


class GrownBox(Box):
    """`edgegw run` on it, when the engine's process has ended."""

    def __init__(self, place: Place, grown: Grown, engine: GrownLane) -> None:
        super().__init__(place, name="grown-box")
        self._grown, self._engine = grown, engine
        self.answered = grown.answered

    def copied(self) -> Path:
        """Itself: a copy would be gigabytes."""
        return self._engine.folder

    def open(self, stack: ExitStack) -> None:
        """Nothing before its first measure."""
        self._stack = stack

    def start(self) -> None:
        """The engine's process gives the ledger free."""
        self._engine.child.end()
        super().start()

    def hold(self) -> None:
        """The engine's lane looks at the same ledger."""


class StartLane(BoxLane):
    """Starts, then takes payments for a round; ended after each."""

    def measure(self, seconds: float) -> Measure:
        """How long it took, and what it keeps in memory after its payments."""
        box = self.box
        began_s = time.perf_counter()
        box.folder = box.copied()
        box.start()
        started_s = time.perf_counter() - began_s
        try:
            self.loaded(seconds, connections=64)
            rss_mb = box.rss_mb
        finally:
            box.end()
        return Measure(count=1, seconds=started_s, figures={"seconds": started_s, "rss_mb": rss_mb})


def lanes(place: Place) -> Sequence[Lane]:
    """An empty one, a grown one in process, the grown one as a box."""
    grown = Grown(place)
    engine = GrownLane(place, grown)
    box = GrownBox(place, grown, engine)
    return (
        EngineLane(place, batch=64, name=EMPTY),
        engine,
        StartLane(box, name=START, connections=64),
    )


GROUP = Group(
    name="growth",
    about="the engine on a grown ledger beside an empty one, by processor time",
    lanes=lanes,
    comparisons=(
        Comparison(
            name="grown / empty ledger, by processor time",
            ours=GROWN,
            peer=EMPTY,
            least=0.8,
            of=lambda one: 1 / one.cpu_us,
        ),
    ),
    limits=(
        Limit(name="start to serving", lane=START, of=lambda one: one.seconds, most=3, unit="s"),
        Limit(name="memory", lane=START, of=lambda one: one.figures["rss_mb"], most=300, unit="MB"),
        Limit(
            name="on disk, a payment with its record and indexes",
            lane=GROWN,
            of=lambda one: one.figures["disk_bytes_each"],
            most=600,
            unit="bytes",
        ),
    ),
    asked=True,
)
