"""Pass-through: requests that are only carried to an upstream and back."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from tests.bench.peers.proxies import PROXIES, ProxyLane, Upstream
from tests.bench.place import Place
from tests.bench.rounds import Comparison, Group, Lane, Measure, Unavailable

CONNECTIONS = 64
OURS = f"edgegw, pass-through, {CONNECTIONS} connections"


class OursLane:
    """The product's own pass-through."""

    name = OURS

    def open(self, stack: ExitStack) -> None:
        """There is none."""
        raise Unavailable("edgegw carries no foreign requests: it has no routes yet")

    def measure(self, seconds: float) -> Measure:
        """Not reached."""
        raise Unavailable("edgegw carries no foreign requests")

    def check(self) -> None:
        """Nothing ran."""


def lanes(place: Place) -> Sequence[Lane]:
    """Ours, and all of them before one upstream."""
    upstream = Upstream(place)
    return (OursLane(), *(ProxyLane(place, upstream, one, connections=CONNECTIONS) for one in PROXIES))


GROUP = Group(
    name="proxies",
    about="a payment's body carried to an upstream (nginx) and back; wrk looks at every answer; proxy,"
    " upstream and wrk share the cores, so the proxies' own µs say more than what passed",
    lanes=lanes,
    comparisons=tuple(
        Comparison(
            name=f"pass-through / {one.name}",
            ours=OURS,
            peer=f"{one.name}, {CONNECTIONS} connections",
            least=1.0 if one.name in ("Caddy", "Traefik") else None,
        )
        for one in PROXIES
    ),
    quick=False,
)
