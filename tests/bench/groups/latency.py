"""How long one payment takes: at a quiet hour, and at 70 % of what the box can."""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench.box import Box, BoxLane
from tests.bench.place import Place
from tests.bench.rounds import Group, Lane, Limit, Measure

QUIET = "edgegw, HTTP, 100 a second"
BUSY = "edgegw, HTTP, 70 % of saturation"
PART = 0.7
CONNECTIONS = 256
"""Of the open loop: enough that a request seldom waits for a free one."""


class BusyLane(BoxLane):
    """First as many as the box can, then 70 % of that at an even pace."""

    def measure(self, seconds: float) -> Measure:
        """The paced part alone is told; a request's time counts from when it was due."""
        most = self.loaded(seconds / 2, connections=64)
        return self.loaded(seconds, connections=CONNECTIONS, per_s=most.per_s * PART)


def lanes(place: Place) -> Sequence[Lane]:
    """One box."""
    box = Box(place)
    return (
        BoxLane(box, name=QUIET, connections=16, per_s=100),
        BusyLane(box, name=BUSY, connections=CONNECTIONS),
    )


GROUP = Group(
    name="latency",
    about="payments over HTTP at an even pace; a request's time counts from the moment that it was due",
    lanes=lanes,
    limits=(
        Limit(
            name="p50 at 100 a second", lane=QUIET, of=lambda one: one.latency_ms["p50"], most=1, unit="ms"
        ),
        Limit(
            name="p99 at 70 % of saturation",
            lane=BUSY,
            of=lambda one: one.latency_ms["p99"],
            most=30,
            unit="ms",
        ),
    ),
)
