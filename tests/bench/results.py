"""A run's results: as JSON, as tables for people, beside the ratios that were recorded last."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from tests.bench.rounds import GroupResult, LaneResult, Measure, Ratio, Spread

RECORDED: Final = Path(__file__).with_name("last.json")
WORSE: Final = 0.85
"""A ratio below this part of the recorded one is warned of: rounds alone differ by some percent."""
CLIENT_MOST: Final = 0.9
"""Of a core: a client that needs more of one may be what limits a lane."""


class Results(msgspec.Struct, kw_only=True):
    """All of a run."""

    began: str
    seconds: float
    rounds: int
    machine: dict[str, Any]
    machine_after: dict[str, Any]
    groups: list[GroupResult]

    @property
    def faults(self) -> list[str]:
        """Lanes that failed or answered wrongly."""
        return [f"{lane.name}: {lane.fault}" for group in self.groups for lane in group.lanes if lane.fault]

    @property
    def ratios(self) -> dict[str, float]:
        """Medians by name, of what could be compared."""
        return {
            one.name: one.spread.median
            for group in self.groups
            for one in group.ratios
            if one.spread is not None
        }


def table(results: Results) -> str:
    """For people."""
    machine, fsync = results.machine, results.machine["fsync_ms"]
    load = [before["load"][0] for before in (results.machine, results.machine_after)]
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, load {load[0]:.1f} before, {load[1]:.1f} after",
        f"fdatasync of two appended pages {fsync['p50']:.3f} ms (p99 {fsync['p99']:.3f})",
        f"{results.rounds} rounds of {results.seconds:g} s for each lane, in turns; medians [least to most]",
    ]
    if load[0] > machine["cores"] * 0.5:
        lines.append(
            "THE MACHINE WAS BUSY WITH SOMETHING ELSE: only ratios mean something, and those little."
        )
    for group in results.groups:
        lines += ["", f"{group.name}: {group.about}"]
        lines += [_lane(lane) for lane in group.lanes]
        lines += [_ratio(one) for one in (*group.ratios, *group.limits)]
    return "\n".join(lines) + "\n"


def _lane(lane: LaneResult) -> str:
    if not lane.stands:
        what = f"NOT COMPARED: {lane.fault}" if lane.fault else f"skipped: {lane.skipped or 'it did not run'}"
        return f"  {lane.name:58} {what}"
    rate = _spread(lane, lambda one: one.per_s)
    line = f"  {lane.name:58} {rate.median:>11,.0f} a second [{rate.least:,.0f} to {rate.most:,.0f}]"
    if any(one.cpu_s for one in lane.measures):
        line += f"  {_spread(lane, lambda one: one.cpu_us).median:,.1f} µs"
    for name in lane.measures[0].latency_ms:
        found = _spread(lane, lambda one, name=name: one.latency_ms[name])
        line += f"  {name} {found.median:.2f} ms"
    for name in lane.measures[0].figures:
        found = _spread(lane, lambda one, name=name: one.figures[name])
        line += f"  {name.replace('_', ' ')} {found.median:,.4g}"
    if share := _client_share(lane.measures):
        limit = ": THE CLIENT IS THE LIMIT" if share > CLIENT_MOST else ""
        line += f"  (client {share:.0%} of a core{limit})"
    return line


def _client_share(measures: list[Measure]) -> float:
    return max(one.client_cpu_s / one.seconds for one in measures)


def _spread(lane: LaneResult, of: Any) -> Spread:
    return Spread.of([of(one) for one in lane.measures])


def _ratio(one: Ratio) -> str:
    target = "" if one.least is None else f", target {one.least:g}"
    if one.spread is None:
        return f"  = {one.name}: not compared: {one.why_not}"
    word = {None: "", True: "  met", False: "  MISSED"}[one.met]
    spread = one.spread
    return f"  = {one.name}: {spread.median:.2f} [{spread.least:.2f} to {spread.most:.2f}]{target}{word}"


def warnings(results: Results, recorded: dict[str, float]) -> list[str]:
    """What is worse than the ratios recorded last, and what was then and could not be compared now."""
    ran = {one.name: one for group in results.groups for one in group.ratios}
    found = []
    for name, was in recorded.items():
        now = ran.get(name)
        if now is not None and now.spread is None:
            found.append(f"{name}: was {was:.2f}, not compared now: {now.why_not}")
        elif now is not None and now.spread is not None and now.spread.median < was * WORSE:
            found.append(f"{name}: was {was:.2f}, is {now.spread.median:.2f}")
    return found


def recorded_ratios() -> dict[str, float]:
    """What the repository holds."""
    if not RECORDED.exists():
        return {}
    return msgspec.json.decode(RECORDED.read_bytes(), type=dict[str, float])


def record(results: Results) -> None:
    """Make this run's ratios the ones to compare with; of groups that did not run the old ones stay."""
    merged = dict(sorted((recorded_ratios() | results.ratios).items()))
    rounded = {name: round(value, 3) for name, value in merged.items()}
    RECORDED.write_bytes(msgspec.json.format(msgspec.json.encode(rounded), indent=1) + b"\n")
