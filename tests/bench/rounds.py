"""The bench's common runner: lanes in interleaved rounds, medians with their ranges, ratios of rounds.

A lane is one side of a comparison: the product, a peer or a floor. It is measured once a round, all lanes in
turns, so that a busy moment hits all alike; a ratio is the median of the rounds' own ratios. A lane that
failed, or that was found to have answered wrongly or lost what it had answered, is compared with nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

if TYPE_CHECKING:
    from tests.bench.place import Place

TOLD_MAX: Final = 600
"""So much of a fault is told."""


class Unavailable(Exception):
    """A lane cannot run on this machine; its text says why, and what would help."""


class WrongAnswer(Exception):
    """A lane failed, answered wrongly, or does not hold what it has answered."""


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """One lane's share of one round."""

    count: int
    """Payments (requests, rows, operations) answered, each of them rightly."""
    seconds: float
    cpu_s: float = 0.0
    """Of the server's processes, all of them; the client is not counted."""
    client_cpu_s: float = 0.0
    latency_ms: dict[str, float] = {}
    """p50, p99, p999 as the client saw them."""
    figures: dict[str, float] = {}
    """What else is told of it: bytes, memory."""

    @property
    def per_s(self) -> float:
        """So many a second of the clock."""
        return self.count / self.seconds

    @property
    def cpu_us(self) -> float:
        """Microseconds of the server's processor time for each."""
        return self.cpu_s / self.count * 1e6


class Lane(Protocol):
    """One side of a comparison."""

    name: str

    def open(self, stack: ExitStack) -> None:
        """Start what it needs; its end goes on the stack. Raises Unavailable."""

    def measure(self, seconds: float) -> Measure:
        """Work for about so long. Raises WrongAnswer."""

    def check(self) -> None:
        """After the last round: hold what is kept against what was answered. Raises WrongAnswer."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """A ratio that has a target: ours to the peer's, in one run."""

    name: str
    ours: str
    peer: str
    least: float | None = None
    """The target; None tells the ratio alone."""
    of: Callable[[Measure], float] = lambda measure: measure.per_s


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """A figure of one lane that has a target of its own."""

    name: str
    lane: str
    of: Callable[[Measure], float]
    most: float
    unit: str


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured in one set of rounds."""

    name: str
    about: str
    """What is compared, and how the two cores are shared."""
    lanes: Callable[[Place], Sequence[Lane]]
    comparisons: tuple[Comparison, ...] = ()
    limits: tuple[Limit, ...] = ()
    quick: bool = True
    """Part of `make bench-quick`."""
    asked: bool = False
    """Takes so long that it runs only where `--only` names it."""


class Spread(msgspec.Struct, frozen=True):
    """A median and its range over the rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


class LaneResult(msgspec.Struct, kw_only=True):
    """A lane after all rounds."""

    name: str
    measures: list[Measure] = []
    fault: str = ""
    """Why it is compared with nothing."""
    skipped: str = ""
    """Why it did not run."""

    @property
    def stands(self) -> bool:
        """Whether it may be compared."""
        return bool(self.measures) and not self.fault and not self.skipped


class Ratio(msgspec.Struct, kw_only=True):
    """A comparison's outcome."""

    name: str
    spread: Spread | None
    least: float | None = None
    why_not: str = ""
    """Why there is no ratio."""

    @property
    def met(self) -> bool | None:
        """Whether the median reaches its target; None where there is none, or no ratio."""
        return None if self.spread is None or self.least is None else self.spread.median >= self.least


class GroupResult(msgspec.Struct, kw_only=True):
    """A group after all rounds."""

    name: str
    about: str
    lanes: list[LaneResult]
    ratios: list[Ratio] = []
    limits: list[Ratio] = []


Tell = Callable[[str], None]


def run_group(group: Group, place: Place, *, rounds: int, seconds: float, tell: Tell) -> GroupResult:
    """Open all lanes, measure them in turns, check them, compare what stands."""
    lanes = list(group.lanes(place))
    results = {lane.name: LaneResult(name=lane.name) for lane in lanes}
    with ExitStack() as stack:
        for lane in lanes:
            _open(lane, results[lane.name], stack, tell)
        for turn in range(rounds):
            for lane in lanes:
                result = results[lane.name]
                if not (result.fault or result.skipped):
                    _measure(lane, result, seconds)
                    tell(f"{group.name} {turn + 1}/{rounds}: {_line(result)}")
        for lane in lanes:
            result = results[lane.name]
            if result.stands:
                _check(lane, result)
                tell(f"{group.name}: {lane.name}: {result.fault or 'checked'}")
    found = GroupResult(name=group.name, about=group.about, lanes=list(results.values()))
    found.ratios = [compared(one, results) for one in group.comparisons]
    found.limits = [_limited(one, results) for one in group.limits]
    return found


def compared(comparison: Comparison, results: dict[str, LaneResult]) -> Ratio:
    """The median of the rounds' ratios; none where a side failed, answered wrongly or did not run."""
    ratio = Ratio(name=comparison.name, spread=None, least=comparison.least)
    for name in (comparison.ours, comparison.peer):
        result = results.get(name)
        if result is None or not result.stands:
            reason = "it is not here" if result is None else result.fault or result.skipped or "no round"
            ratio.why_not = f"{name}: {reason}"
            return ratio
    ours, peer = (
        [comparison.of(one) for one in results[name].measures] for name in (comparison.ours, comparison.peer)
    )
    ratio.spread = Spread.of([a / b for a, b in zip(ours, peer, strict=True)])
    return ratio


def _limited(limit: Limit, results: dict[str, LaneResult]) -> Ratio:
    """How many times a figure fits into what it may be at most: 1 and more is within."""
    name = f"{limit.name}: at most {limit.most:g} {limit.unit}"
    result = results.get(limit.lane)
    if result is None or not result.stands:
        reason = "it is not here" if result is None else result.fault or result.skipped or "no round"
        return Ratio(name=name, spread=None, least=1.0, why_not=reason)
    found = Spread.of([limit.of(one) for one in result.measures])
    name += f" (found {found.median:.3g}, {found.least:.3g} to {found.most:.3g})"
    spread = Spread(limit.most / found.median, limit.most / found.most, limit.most / found.least)
    return Ratio(name=name, spread=spread, least=1.0)


def _open(lane: Lane, result: LaneResult, stack: ExitStack, tell: Tell) -> None:
    try:
        lane.open(stack)
    except Unavailable as reason:
        result.skipped = _short(str(reason))
        tell(f"{lane.name}: skipped: {result.skipped}")
    except Exception as fault:  # noqa: BLE001 - whatever a lane meets, the others are measured
        result.fault = _short(f"did not start: {fault or repr(fault)}")
        tell(f"{lane.name}: {result.fault}")


def _measure(lane: Lane, result: LaneResult, seconds: float) -> None:
    try:
        measure = lane.measure(seconds)
        if measure.count <= 0:
            raise WrongAnswer("it answered nothing")
    except Unavailable as reason:
        result.skipped = _short(str(reason))
    except Exception as fault:  # noqa: BLE001 - as above
        result.fault = _short(str(fault) or repr(fault))
    else:
        result.measures.append(measure)


def _check(lane: Lane, result: LaneResult) -> None:
    try:
        lane.check()
    except Exception as fault:  # noqa: BLE001 - as above
        result.fault = _short(str(fault) or repr(fault))


def _short(text: str) -> str:
    """One line of it."""
    words = " ".join(text.split())
    return words if len(words) <= TOLD_MAX else f"{words[:TOLD_MAX]} …"


def _line(result: LaneResult) -> str:
    if result.fault or result.skipped:
        return f"{result.name}: {result.fault or result.skipped}"
    last = result.measures[-1]
    line = f"{result.name}: {last.per_s:,.0f} a second"
    if last.cpu_s:
        line += f", {last.cpu_us:.1f} µs of processor each"
    for name, value in last.latency_ms.items():
        line += f", {name} {value:.2f} ms"
    return line
