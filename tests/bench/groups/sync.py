"""The line: how fast a backlog drains to the hub, what a record weighs on it, what payments notice of it."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import apsw
import psutil

from tests.bench.box import BatchLane, Box, BoxLane
from tests.bench.children import cpu_s
from tests.bench.place import Place
from tests.bench.rounds import Comparison, Group, Lane, Limit, Measure, WrongAnswer
from tests.bench.world import make_world
from tests.processes import Process
from tests.waiting import wait_until

SQLITE = "hub on SQLite: backlog drained"
POSTGRESQL = "hub on PostgreSQL: backlog drained"
DRAINING = "edgegw, HTTP, 200 a second while a backlog drains"
CAUGHT_UP = "edgegw, HTTP, 200 a second, nothing to drain"
LIVE_PER_S: Final = 200
DRAIN_SECONDS: Final = 900.0
LINE_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 0.05
"""A look at the hub's tables costs it something, too."""
_HELD: Final = "SELECT size FROM journal_head WHERE box = 'box-1' AND epoch = 1"


class LinedBox(Box):
    """A box whose hub comes and goes."""

    def __init__(self, place: Place, *, name: str, is_postgresql: bool = False) -> None:
        super().__init__(place, name=name)
        self._is_postgresql = is_postgresql
        self._hub: Process | None = None
        self._fill = BatchLane(self, name="", connections=8)

    def open(self, stack: ExitStack) -> None:
        """The hub's end goes on the stack, too."""
        super().open(stack)
        stack.callback(self.end_hub)

    def copied(self) -> Path:
        """With short pauses of the line; a world of its own where the hub's books are PostgreSQL's."""
        if not self._is_postgresql:
            return self._place.box(self._name)
        self._place.postgres.query("CREATE DATABASE hub")
        folder = self._place.fresh(self._name)
        make_world(folder, database_url=self._place.postgres.url("hub"))
        return folder

    def start_hub(self) -> None:
        """On the ports that the box knows."""
        self._hub = Process("hub", folder=self.folder, log=self._place.fresh("hub.log"))
        self._hub.opened()

    def end_hub(self) -> None:
        """In order."""
        if self._hub is not None and self._hub.popen.poll() is None:
            self._hub.end(signal.SIGTERM)
        self._hub = None

    @property
    def hub_pid(self) -> int:
        """Of the running hub."""
        assert self._hub is not None
        return self._hub.popen.pid

    def held(self) -> int:
        """How many records the hub has of this box."""
        if self._is_postgresql:
            from pg8000.native import Connection

            connection = Connection("bench", port=self._place.postgres.port, database="hub")
            try:
                rows = connection.run(_HELD)
            finally:
                connection.close()
        else:
            reader = apsw.Connection(str(self.folder / "hub.db"), flags=apsw.SQLITE_OPEN_READONLY)
            reader.set_busy_timeout(5_000)
            rows = reader.execute(_HELD).fetchall()
            reader.close()
        return int(rows[0][0])

    def written(self) -> int:
        """How many records the box has."""
        reader = apsw.Connection(str(self.folder / "data" / "ledger.db"), flags=apsw.SQLITE_OPEN_READONLY)
        [(size,)] = reader.execute("SELECT size FROM head WHERE epoch = 1").fetchall()
        reader.close()
        return int(size)

    def fill(self, seconds: float) -> None:
        """Payments for so long while the hub is away."""
        self.end_hub()
        self._fill.measure(seconds)

    def wait_until_held(self, size: int) -> None:
        """Until the hub has so many."""
        wait_until(
            lambda: self.held() >= size,
            "the hub to hold everything",
            timeout_seconds=DRAIN_SECONDS,
            poll_seconds=LOOK_SECONDS,
        )


class DrainLane:
    """From the first package that the hub keeps to the last."""

    def __init__(self, box: LinedBox, *, name: str) -> None:
        self.name = name
        self._box = box

    def open(self, stack: ExitStack) -> None:
        """Its box."""
        self._box.open(stack)

    def measure(self, seconds: float) -> Measure:
        """Fill for the time of a round, then let it drain, however long that takes."""
        box = self._box
        box.fill(seconds)
        before, target = box.held(), box.written()
        box.start_hub()
        wait_until(lambda: box.held() > before, "the line", timeout_seconds=LINE_SECONDS)
        first, began_s, used_s = box.held(), time.perf_counter(), cpu_s(box.hub_pid)
        carried = psutil.net_io_counters(pernic=True)["lo"].bytes_sent
        box.wait_until_held(target)
        taken_s, count = time.perf_counter() - began_s, target - first
        carried = psutil.net_io_counters(pernic=True)["lo"].bytes_sent - carried
        figures = {"loopback_bytes_each": carried / count} if count > 0 else {}
        return Measure(count=count, seconds=taken_s, cpu_s=cpu_s(box.hub_pid) - used_s, figures=figures)

    def check(self) -> None:
        """The hub has what the box has, which is what was answered."""
        if self._box.held() < self._box.written():
            self._box.start_hub()
            self._box.wait_until_held(self._box.written())
        self._box.end_hub()
        self._box.check()


class LiveLane(BoxLane):
    """Payments at an even pace beside the line's work."""

    def __init__(self, box: LinedBox, *, name: str, is_draining: bool) -> None:
        super().__init__(box, name=name, connections=64)
        self._line, self._is_draining = box, is_draining

    def measure(self, seconds: float) -> Measure:
        """While a backlog of twice the time drains, or when none is left."""
        if self._is_draining:
            self._line.fill(seconds * 2)
            self._line.start_hub()
        else:
            self._line.wait_until_held(self._line.written())
        found = self.loaded(seconds, connections=64, per_s=LIVE_PER_S)
        left = self._line.written() - self._line.held()
        if self._is_draining and left <= 0:
            raise WrongAnswer("the backlog was gone before the round was: give it more seconds")
        return found


def lanes(place: Place) -> Sequence[Lane]:
    """Two boxes with their hubs."""
    box = LinedBox(place, name="sync-box")
    return (
        DrainLane(box, name=SQLITE),
        LiveLane(box, name=DRAINING, is_draining=True),
        LiveLane(box, name=CAUGHT_UP, is_draining=False),
        DrainLane(LinedBox(place, name="sync-pg-box", is_postgresql=True), name=POSTGRESQL),
    )


GROUP = Group(
    name="sync",
    about="records that a hub takes, verifies, replays into its books, keeps and cosigns; loopback's bytes"
    " are all of the machine's, both directions with their headers",
    lanes=lanes,
    comparisons=(
        Comparison(
            name="live p99 with nothing to drain / while draining",
            ours=DRAINING,
            peer=CAUGHT_UP,
            least=1 / 1.2,
            of=lambda one: 1 / one.latency_ms["p99"],
        ),
    ),
    limits=(
        Limit(
            name="a record drained at the hub on SQLite",
            lane=SQLITE,
            of=lambda one: 1e6 / one.per_s,
            most=20,
            unit="µs",
        ),
        Limit(
            name="a record drained at the hub on PostgreSQL",
            lane=POSTGRESQL,
            of=lambda one: 1e6 / one.per_s,
            most=50,
            unit="µs",
        ),
        Limit(
            name="a record on the wire",
            lane=SQLITE,
            of=lambda one: one.figures["loopback_bytes_each"],
            most=150,
            unit="bytes",
        ),
    ),
    quick=False,
)
