"""Draws a run's results: `.venv-bench/bin/python tests/bench/plots.py results.json` writes an SVG for each
group beside it. Knows the JSON alone, because matplotlib is in the bench's environment and the program is
not."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "edgegw"

from matplotlib import pyplot  # noqa: E402 - the backend is chosen before


def draw(group: dict[str, Any], path: Path, machine: str) -> None:
    """A bar a lane, its rounds as points on it; lanes that do not stand are left out."""
    lanes = [one for one in group["lanes"] if one["measures"] and not one["fault"]]
    if not lanes:
        return
    rates = [[one["count"] / one["seconds"] for one in lane["measures"]] for lane in lanes]
    figure, axes = pyplot.subplots(figsize=(9, 0.6 * len(lanes) + 1.6), layout="constrained")
    for row, (lane, points) in enumerate(zip(lanes, rates, strict=True)):
        ours = lane["name"].startswith("edgegw")
        axes.barh(row, statistics.median(points), color="#2a6f97" if ours else "#adb5bd", zorder=1)
        axes.plot(points, [row] * len(points), "k.", markersize=4, zorder=2)
        axes.annotate(f" {statistics.median(points):,.0f}", (max(points), row), va="center", fontsize=8)
    axes.set_yticks(range(len(lanes)), [lane["name"] for lane in lanes], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("a second; bars are medians, points are rounds")
    axes.set_title(f"{group['name']} ({machine})", fontsize=9)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    """All groups of the file."""
    source = Path(sys.argv[1])
    results = json.loads(source.read_text())
    machine = results["machine"]
    words = f"{machine['processor']}, {machine['cores']} cores, fdatasync {machine['fsync_ms']['p50']:.2f} ms"
    for group in results["groups"]:
        path = source.with_name(f"{source.stem}-{group['name']}.svg")
        draw(group, path, words)


if __name__ == "__main__":
    main()
