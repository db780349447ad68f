"""The engine in process, beside PostgreSQL and beside the floor."""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench.peers.floor import FloorLane
from tests.bench.peers.postgres import PgbenchLane
from tests.bench.place import Place
from tests.bench.product import EngineLane
from tests.bench.rounds import Comparison, Group, Lane

OURS = "edgegw, in process, batches of 64"
ONE_CALL = "PostgreSQL, one call, 64 clients"
CHAINED = "PostgreSQL, one call and a hash chain, 64 clients"


def lanes(place: Place) -> Sequence[Lane]:
    """The engine first: the floor inserts its rows."""
    engine = EngineLane(place, batch=64, name=OURS)
    return (
        engine,
        FloorLane(place, engine),
        PgbenchLane(place, name=ONE_CALL, function="pay", table="transfer"),
        PgbenchLane(place, name=CHAINED, function="pay_chained", table="chained"),
    )


GROUP = Group(
    name="engine",
    about="payments decided, chained, signed and committed in batches of 64, the engine in its own process;"
    " pgbench's 64 clients reach PostgreSQL over a socket on the same cores",
    lanes=lanes,
    comparisons=(
        Comparison(name="engine / PostgreSQL's one-call transfer", ours=OURS, peer=ONE_CALL, least=6.0),
        Comparison(name="engine / the same with a hash chain", ours=OURS, peer=CHAINED, least=20.0),
        Comparison(name="engine / floor", ours=OURS, peer="floor: inserts in C, batches of 64", least=0.5),
    ),
)
