"""HTTP, one payment a request, at 64 and 256 connections; and a hundred a request."""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench.box import BatchLane, Box, BoxLane
from tests.bench.peers.web import Echo, EchoLane, FastApi, FastApiLane
from tests.bench.place import Place
from tests.bench.product import Answered
from tests.bench.rounds import Comparison, Group, Lane

CALL = "FastAPI, asyncpg, one plpgsql call"
STATEMENTS = "FastAPI, asyncpg, several statements"
BATCHES = "edgegw, HTTP, 100 payments a request, 8 connections"


def ours(connections: int) -> str:
    """The product's lane."""
    return f"edgegw, HTTP, {connections} connections"


def echo_of(connections: int) -> str:
    """The floor's lane."""
    return f"aiohttp echo on uvloop, {connections} connections"


def lanes(place: Place) -> Sequence[Lane]:
    """One box, one echo, two applications on one database."""
    box, echo, answered = Box(place), Echo(place), Answered()
    call = FastApi(place, answered, style="call")
    statements = FastApi(place, answered, style="statements")
    found: list[Lane] = []
    for connections in (64, 256):
        found += [
            BoxLane(box, name=ours(connections), connections=connections),
            EchoLane(echo, name=echo_of(connections), connections=connections),
        ]
    return (
        *found,
        FastApiLane(call, name=CALL, connections=64),
        FastApiLane(statements, name=STATEMENTS, connections=64),
        BatchLane(box, name=BATCHES, connections=8),
    )


GROUP = Group(
    name="http",
    about="payments over HTTP on loopback, the whole box with tokens, limits and its ledger; the client has a"
    " process of its own on the same cores, so the servers' µs of processor time are told beside what passed",
    lanes=lanes,
    comparisons=(
        Comparison(name="HTTP, 64 connections / bare echo", ours=ours(64), peer=echo_of(64), least=0.65),
        Comparison(name="HTTP, 256 connections / bare echo", ours=ours(256), peer=echo_of(256), least=0.65),
        Comparison(name="HTTP / FastAPI with one plpgsql call", ours=ours(64), peer=CALL, least=6.0),
        Comparison(name="HTTP / FastAPI with several statements", ours=ours(64), peer=STATEMENTS, least=10.0),
        Comparison(name="batches of 100 / single payments", ours=BATCHES, peer=ours(64), least=6.0),
    ),
)
