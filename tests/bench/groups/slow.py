"""A disk whose fsync takes 3 ms more: what batches are for.

Device mapper and loop devices need rights that a machine under test often lacks, so the delay is in the
process: an LD_PRELOAD shim behind the real call (slow_fsync.c), for the box and for its peer alike.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import apsw

from tests.bench import payments
from tests.bench.box import Box, BoxLane
from tests.bench.children import Child, environment, kept
from tests.bench.client import load
from tests.bench.peers.postgres import HERE
from tests.bench.place import Place
from tests.bench.product import Answered, compare
from tests.bench.rounds import Comparison, Group, Lane, Measure, Unavailable
from tests.ports import free_ports

DELAY_MS: Final = 3
SOURCE: Final = HERE.parent / "slow_fsync.c"
SLOW_64, SLOW_256 = (f"edgegw, HTTP, {DELAY_MS} ms slower disk, {many} connections" for many in (64, 256))
FAST_64, FAST_256 = (f"edgegw, HTTP, this disk, {many} connections" for many in (64, 256))
NAIVE_SLOW = f"one COMMIT a request, {DELAY_MS} ms slower disk, 64 connections"
NAIVE_FAST = "one COMMIT a request, this disk, 64 connections"


def shim(place: Place) -> str:
    """The shared object; raises Unavailable without a compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise Unavailable("there is no C compiler: run .ci/setup-bench as root")
    library = place.fresh("slow_fsync.so")
    words = [compiler, "-O2", "-shared", "-fPIC", f"-DDELAY_MS={DELAY_MS}", "-o", library, SOURCE, "-ldl"]
    done = subprocess.run(words, capture_output=True, check=False)
    if done.returncode:
        raise Unavailable(f"the shim does not compile: {done.stderr.decode()[-300:]}")
    return str(library)


class SlowBox(Box):
    """A box on a slower disk."""

    def open(self, stack: ExitStack) -> None:
        """With the shim."""
        self._preload = self._preload or shim(self._place)
        super().open(stack)


class NaiveLane:
    """aiohttp and SQLite, each request a COMMIT."""

    def __init__(self, place: Place, *, name: str, is_slow: bool) -> None:
        self.name = name
        self._place, self._is_slow = place, is_slow
        self._answered = Answered()

    def open(self, stack: ExitStack) -> None:
        """Start it on a file of its own."""
        [self._port] = free_ports(1)
        self._database: Path = self._place.fresh("naive.db")
        words = [sys.executable, HERE / "naive.py", str(self._port), self._database]
        words += [str(payments.ACCOUNTS), str(payments.OPENING_MINOR)]
        env = environment(**({"LD_PRELOAD": shim(self._place)} if self._is_slow else {}))
        self._child: Child = kept(stack, Child(words, log=self._place.fresh("naive.log"), env=env))
        self._child.listens(self._port)

    def measure(self, seconds: float) -> Measure:
        """By the load client."""
        measure = load(
            self._child.pid,
            kind="paid",
            first=self._answered.next,
            seconds=seconds,
            port=self._port,
            path="/v1/payments",
            connections=64,
        )
        self._answered.add(measure.count)
        return measure

    def check(self) -> None:
        """It holds what was answered."""
        self._child.end()
        connection = apsw.Connection(str(self._database))
        held = {bytes.fromhex(str(row[0])) for row in connection.execute("SELECT id FROM transfer")}
        connection.close()
        compare("its database", held, self._answered.identities())


def lanes(place: Place) -> Sequence[Lane]:
    """Two boxes and two peers: with and without the delay."""
    slow, fast = SlowBox(place, name="slow-box"), Box(place, name="fast-box")
    return (
        BoxLane(slow, name=SLOW_64, connections=64),
        NaiveLane(place, name=NAIVE_SLOW, is_slow=True),
        BoxLane(fast, name=FAST_64, connections=64),
        NaiveLane(place, name=NAIVE_FAST, is_slow=False),
        BoxLane(slow, name=SLOW_256, connections=256),
        BoxLane(fast, name=FAST_256, connections=256),
    )


GROUP = Group(
    name="slow",
    about=f"fsync delayed by {DELAY_MS} ms in the processes (LD_PRELOAD), beside one COMMIT a request",
    lanes=lanes,
    comparisons=(
        Comparison(name="slow disk / one COMMIT a request", ours=SLOW_64, peer=NAIVE_SLOW, least=20.0),
        Comparison(name="this disk / one COMMIT a request", ours=FAST_64, peer=NAIVE_FAST),
        Comparison(name="slow disk / this disk, 256 connections", ours=SLOW_256, peer=FAST_256, least=0.6),
    ),
    quick=False,
)
