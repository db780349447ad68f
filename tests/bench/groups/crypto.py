"""SM2, SM3 and SM4-GCM through the product's ways in, beside `openssl speed`."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from edgegw.sm import rates
from tests.bench.place import Place
from tests.bench.rounds import Comparison, Group, Lane, Measure, Unavailable

NAMES: Final = ("sm2_sign", "sm2_verify", "sm3_1024", "sm3_16384", "sm4_gcm_1024", "sm4_gcm_16384")

COUNTER_MODE: Final = "openssl speed, sm4-ctr of 16384 bytes"


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


class CounterModeLane:
    """SM4 in counter mode by the openssl command, which measures no SM4-GCM: encryption without a tag."""

    name = COUNTER_MODE

    def open(self, stack: ExitStack) -> None:
        """The command must be there."""
        self._program = rates.openssl().program
        if not self._program:
            raise Unavailable("there is no openssl command on this machine")

    def measure(self, seconds: float) -> Measure:
        """A second of it."""
        words = ("speed", "-mr", "-seconds", "1", "-bytes", "16384", "-evp", "sm4-ctr")
        done = subprocess.run([self._program, *words], capture_output=True, text=True, check=False)
        figures = rates.figures_of(done.stdout, count=1)
        if not figures:
            raise Unavailable("this openssl does not measure sm4-ctr")
        return Measure(count=round(figures[0]), seconds=1.0)

    def check(self) -> None:
        """Nothing is kept."""


def lanes(place: Place) -> Sequence[Lane]:
    """Both sides of each figure."""
    looks = Rates()
    sides = [RateLane(looks, name, is_ours=ours) for name in NAMES for ours in (True, False)]
    return [*sides, CounterModeLane()]


GROUP = Group(
    name="crypto",
    about="operations or bytes a second of processor time on one core, through the ways in that the product"
    " uses",
    lanes=lanes,
    comparisons=(
        *(
            Comparison(name=f"{name} / openssl speed", ours=f"edgegw, {name}", peer=f"openssl speed, {name}")
            for name in NAMES
        ),
        Comparison(name="sm4_gcm_16384 / sm4-ctr", ours="edgegw, sm4_gcm_16384", peer=COUNTER_MODE),
    ),
    quick=False,
)
