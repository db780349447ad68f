"""`python -m tests.bench.hot_path engine|http`: where the hot path's time goes, as shares of each function.

py-spy samples the product while a lane of the bench works, only threads that run, C code included. Shares are
of all samples with a function on the stack, so a caller's holds its callees'; what is told as own is without
them. `--raw` keeps the samples in the form from which flame graphs are drawn.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import msgspec

from tests.bench.box import Box, BoxLane
from tests.bench.children import bench_program
from tests.bench.place import DEFAULT, Place
from tests.bench.product import EngineLane
from tests.bench.rounds import Measure

RATE_EACH_S: Final = 200
TOLD: Final = 60
LEAST: Final = 0.02
"""Of all samples: less is no line of the flame graph."""
BAR: Final = 30
"""The width of all samples in it."""
WAITING: Final = ("PyThread_acquire_lock_timed", "pthread_cond_timedwait", "epoll_wait", "fdatasync")
"""A thread that waits for another one or for the disk is no processor time."""
_LINE: Final = re.compile(r"^(.*) (\d+)$")
_PLACE: Final = re.compile(r"^(?P<name>\S+) \((?P<file>.*?)(?::\d+)?\)$")


class Frame(msgspec.Struct):
    """One function on one way to it: how many samples it is in, and what it calls."""

    name: str
    count: int = 0
    calls: dict[str, Frame] = {}


def stacks(raw: str) -> Iterator[tuple[list[str], int]]:
    """Each stack of py-spy's raw format that used a processor, outermost function first, and its samples."""
    for line in raw.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        names = [_short(frame) for frame in match[1].split(";") if not frame.startswith("0x")]
        if names and not any(name.startswith(WAITING) for name in names):
            yield names, int(match[2])


def shares(raw: str) -> tuple[Counter[str], Counter[str], int]:
    """Samples with a function anywhere on the stack, with it on top, and all, from py-spy's raw format."""
    anywhere, own, total = Counter[str](), Counter[str](), 0
    for names, count in stacks(raw):
        total += count
        own[names[-1]] += count
        anywhere.update(dict.fromkeys(names, count))
    return anywhere, own, total


def flame(raw: str) -> list[str]:
    """A flame graph for a page of text: one line a function, by depth, with its share of all samples.

    A function that does nothing but call one other gives its line to that one; less than LEAST is left out.
    """
    root = Frame("all")
    for names, count in stacks(raw):
        at = root
        at.count += count
        for name in names:
            at = at.calls.setdefault(name, Frame(name))
            at.count += count
    return list(_drawn(root, root.count, 0))


def _drawn(frame: Frame, total: int, depth: int) -> Iterator[str]:
    while len(frame.calls) == 1 and (only := next(iter(frame.calls.values()))).count == frame.count:
        frame = only
    share = frame.count / total
    yield f"{share:6.1%} {'  ' * depth}{'█' * round(share * BAR)} {frame.name}"
    for called in sorted(frame.calls.values(), key=lambda one: -one.count):
        if called.count >= total * LEAST:
            yield from _drawn(called, total, depth + 1)


def _short(frame: str) -> str:
    """Function and file without line and folder, so that all lines of a function are one."""
    match = _PLACE.match(frame.strip())
    if match is None:
        return frame.strip()
    return f"{match['name']} ({'/'.join(match['file'].split('/')[-2:])})"


def sampled(pid: int, seconds: float, path: Path, work: EngineLane | BoxLane) -> Measure:
    """Let the lane work while py-spy looks; the raw samples are in the path then."""
    words = [bench_program("py-spy"), "record", "--pid", str(pid), "--native", "--rate", str(RATE_EACH_S)]
    words += ["--duration", str(round(seconds)), "--format", "raw", "--output", path]
    command = [str(word) for word in words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as spy:
        measure = work.measure(seconds + 1)
        _, said = spy.communicate()
    if spy.returncode:
        raise SystemExit(f"py-spy failed: {said.decode()[-400:]}")
    return measure


def main() -> None:
    """Sample, and tell."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.hot_path", description=__doc__)
    parser.add_argument("what", choices=("engine", "http"))
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--flame", action="store_true", help="a flame graph instead of the two lists")
    parser.add_argument("--raw", type=Path, default=None, help="keep the samples, for flame graphs")
    parser.add_argument("--folder", type=Path, default=DEFAULT)
    given = parser.parse_args()
    place = Place(given.folder.resolve())
    try:
        with ExitStack() as stack:
            path = given.raw or place.fresh("samples")
            lane: EngineLane | BoxLane
            if given.what == "engine":
                lane = EngineLane(place, batch=64)
                lane.open(stack)
                pid = lane.child.popen.pid
            else:
                lane = BoxLane(Box(place), name="http", connections=64)
                lane.open(stack)
                pid = lane.box.pid
            lane.measure(2.0)
            measure = sampled(pid, given.seconds, path, lane)
            _tell(measure, path.read_text(), is_flame=given.flame)
    finally:
        place.close()


def _tell(measure: Measure, raw: str, *, is_flame: bool) -> None:
    anywhere, own, total = shares(raw)
    rate = f"{measure.per_s:,.0f} payments a second, {measure.cpu_us:.1f} µs of processor each"
    lines = [f"{rate}; {total} samples"]
    if is_flame:
        lines += ["", *flame(raw)]
    else:
        for title, found in (("with what it calls", anywhere), ("own", own)):
            lines += ["", title]
            lines += [f"  {count / total:6.1%}  {name}" for name, count in found.most_common(TOLD)]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
