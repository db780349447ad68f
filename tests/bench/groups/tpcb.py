"""The engine beside pgbench's own script, which most people know."""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench.peers.postgres import TpcbLane
from tests.bench.place import Place
from tests.bench.product import EngineLane
from tests.bench.rounds import Comparison, Group, Lane

OURS = "edgegw, in process, batches of 64"
PEER = "PostgreSQL, TPC-B-like, 64 clients"


def lanes(place: Place) -> Sequence[Lane]:
    """Two."""
    return (EngineLane(place, batch=64, name=OURS), TpcbLane(place, name=PEER))


GROUP = Group(
    name="tpcb",
    about="the engine beside pgbench's own TPC-B-like script: three balances and a row of history, scale 50",
    lanes=lanes,
    comparisons=(Comparison(name="engine / TPC-B-like", ours=OURS, peer=PEER),),
    quick=False,
)
