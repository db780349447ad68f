"""The engine once more through a Unix socket, as pgbench reaches PostgreSQL through one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import mkdtemp

from tests.bench.children import Asked, kept
from tests.bench.client import load
from tests.bench.peers.postgres import PgbenchLane
from tests.bench.place import Place
from tests.bench.product import EngineLane
from tests.bench.rounds import Comparison, Group, Lane, Measure

OURS = "edgegw, Unix socket, 64 clients"
ONE_CALL = "PostgreSQL, one call, 64 clients"
CHAINED = "PostgreSQL, one call and a hash chain, 64 clients"


class SocketLane(EngineLane):
    """The same engine; each of 64 clients has one payment in flight."""

    def __init__(self, place: Place) -> None:
        super().__init__(place, batch=1, name=OURS)

    def open(self, stack: ExitStack) -> None:
        """A box's folder, and a socket whose path is short enough."""
        self.folder = self._place.box("engine")
        place = Path(mkdtemp(prefix="edgegw-bench-"))
        stack.callback(place.rmdir)
        self._socket = place / "engine"
        stack.callback(lambda: self._socket.unlink(missing_ok=True))
        words = (str(self.folder), "--socket", str(self._socket))
        self.child: Asked = kept(
            stack, Asked("tests.bench.engine_process", *words, log=self._place.fresh("engine.log"))
        )
        self.child.first()

    def measure(self, seconds: float) -> Measure:
        """By the load client."""
        measure = load(
            self.child.popen.pid,
            kind="line",
            first=self.answered.next,
            seconds=seconds,
            socket=str(self._socket),
            connections=64,
        )
        self.answered.add(measure.count)
        return measure


def lanes(place: Place) -> Sequence[Lane]:
    """Ours and the two that have the like."""
    return (
        SocketLane(place),
        PgbenchLane(place, name=ONE_CALL, function="pay", table="transfer"),
        PgbenchLane(place, name=CHAINED, function="pay_chained", table="chained"),
    )


GROUP = Group(
    name="socket",
    about="64 clients at a Unix socket, one payment in flight each, at the engine and at PostgreSQL alike;"
    " the clients run on the same cores and are not counted into the servers' µs",
    lanes=lanes,
    comparisons=(
        Comparison(name="socket / PostgreSQL's one-call transfer", ours=OURS, peer=ONE_CALL, least=6.0),
        Comparison(name="socket / the same with a hash chain", ours=OURS, peer=CHAINED, least=20.0),
    ),
)
