"""ISO 8583 over one connection with many messages in flight, beside HTTP with as many connections."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime

from tests.bench.box import Box, BoxLane
from tests.bench.client import ISO_LOAD, load
from tests.bench.place import Place
from tests.bench.product import check_box
from tests.bench.rounds import Comparison, Group, Lane, Measure

IN_FLIGHT = 128
OURS = f"edgegw, ISO 8583, 1 connection, {IN_FLIGHT} in flight"
HTTP = "edgegw, HTTP, 64 connections"


class IsoBox(Box):
    """Its payments are known by field 37."""

    def hold(self) -> None:
        """The identity is the box's own, made of the message; the reference is the client's number."""
        answered = {f"{number:012d}".encode() for numbers in self.answered.ranges for number in numbers}
        query = "SELECT CAST(body ->> '$.request.reference' AS BLOB) FROM record WHERE type = 'transfer'"
        check_box(self.folder, answered, query=query)


class IsoLane:
    """Payments by card at 64 terminals, over the one connection of a switch."""

    def __init__(self, box: Box) -> None:
        self.name = OURS
        self._box = box
        self._month_day = f"{datetime.now(UTC):%m%d}"

    def open(self, stack: ExitStack) -> None:
        """A box of its own; a card's first payment costs the vault a COMMIT, so each pays once before."""
        self._box.open(stack)
        self.measure(1.0)

    def measure(self, seconds: float) -> Measure:
        """By the client for terminals."""
        numbers = self._box.answered
        measure = load(
            self._box.pid,
            program=ISO_LOAD,
            kind="iso8583",
            first=numbers.next,
            seconds=seconds,
            port=self._box.iso_port,
            in_flight=IN_FLIGHT,
            month_day=self._month_day,
        )
        numbers.add(measure.count)
        return measure

    def check(self) -> None:
        """See `Box.check`."""
        self._box.check()


def lanes(place: Place) -> Sequence[Lane]:
    """Two boxes: what each was asked is told apart."""
    return (
        IsoLane(IsoBox(place, name="iso-box")),
        BoxLane(Box(place), name=HTTP, connections=64),
    )


GROUP = Group(
    name="iso8583",
    about="the same payments by card at terminals, over one connection, beside HTTP; cards go by the vault",
    lanes=lanes,
    comparisons=(Comparison(name="ISO 8583 / HTTP", ours=OURS, peer=HTTP, least=1.0),),
)
