"""SM2, SM3 and SM4-GCM through the product's ways in, beside `openssl speed`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from edgegw.sm import rates
from tests.bench.place import Place
from tests.bench.rounds import Comparison, Group, Lane, Measure, Unavailable

NAMES: Final = ("sm2_sign", "sm2_verify", "sm3_1024", "sm3_16384", "sm4_gcm_1024", "sm4_gcm_16384")


class Rates:
    """One look at all of them, for both sides of each: they are measured in halves around each other."""

    def __init__(self) -> None:
        self._program = rates.openssl().program
        self._looks: list[dict[str, rates.Rate]] = []

    def of(self, name: str, turn: int) -> rates.Rate:
        """A figure of a round; raises Unavailable where there is no such."""
        while len(self._looks) <= turn:
            self._looks.append({one.name: one for one in rates.rates(self._program)})
        if name not in self._looks[turn]:
            raise Unavailable(f"{name} is not measured: {', '.join(self._looks[turn])}")
        return self._looks[turn][name]


class RateLane:
    """One side of one figure."""

    def __init__(self, looks: Rates, figure: str, *, is_ours: bool) -> None:
        self.name = f"edgegw, {figure}" if is_ours else f"openssl speed, {figure}"
        self._looks, self._figure, self._is_ours = looks, figure, is_ours
        self._turn = 0

    def open(self, stack: ExitStack) -> None:
        """Nothing runs."""

    def measure(self, seconds: float) -> Measure:
        """A second of processor time, however long the round is."""
        found = self._looks.of(self._figure, self._turn)
        self._turn += 1
        rate = found.per_second if self._is_ours else found.openssl_per_second
        if rate is None:
            raise Unavailable(found.note)
        return Measure(count=round(rate), seconds=1.0)

    def check(self) -> None:
        """The known answers are the tests'."""


def lanes(place: Place) -> Sequence[Lane]:
    """Both sides of each figure."""
    looks = Rates()
    return [RateLane(looks, name, is_ours=ours) for name in NAMES for ours in (True, False)]


GROUP = Group(
    name="crypto",
    about="operations or bytes a second of processor time on one core, through the ways in that the product"
    " uses",
    lanes=lanes,
    comparisons=tuple(
        Comparison(name=f"{name} / openssl speed", ours=f"edgegw, {name}", peer=f"openssl speed, {name}")
        for name in NAMES
    ),
    quick=False,
)
