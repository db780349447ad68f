"""Many seeds on all cores, resumable: each seed's report is a line of the state file as soon as it is there.

Leaves out what a seed plays (`drill`) and the command line.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.simulator.drill import FAULTS, STEPS, Report, run_seed

TRACE_CHARS: Final = 1_500
AHEAD: Final = 4
"""Seeds that are handed out and not back yet, for each process."""
TASKS_PER_PROCESS: Final = 100
"""Then a fresh process takes over: what a run leaves behind in memory does not add up."""


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """What all seeds of a campaign say together."""

    seeds: int
    transfers: int
    answers: int
    injected: dict[str, int]
    virtual_s: float
    cpu_s: float
    red: dict[int, tuple[str, ...]]
    """Seed to what was found."""

    @property
    def verdict(self) -> str:
        """green, or red."""
        return "red" if self.red else "green"


def totals(reports: Iterable[Report]) -> Totals:
    """Add the reports of seeds up."""
    injected: Counter[str] = Counter()
    found = sorted(reports, key=lambda report: report.seed)
    for report in found:
        injected.update(report.injected)
    return Totals(
        seeds=len(found),
        transfers=sum(report.transfers for report in found),
        answers=sum(report.answers for report in found),
        injected=dict(sorted(injected.items())),
        virtual_s=round(sum(report.virtual_s for report in found), 1),
        cpu_s=round(sum(report.cpu_s for report in found), 1),
        red={report.seed: report.findings for report in found if report.findings},
    )


def replay_command(seed: int, *, steps: int, faults: tuple[str, ...]) -> str:
    """The one command that plays a seed again."""
    words = ["python -m tests.simulator", f"--seed {seed}"]
    if steps != STEPS:
        words.append(f"--steps {steps}")
    if set(faults) != set(FAULTS):
        words.append(f"--faults {','.join(faults) or 'none'}")
    return " ".join(words)


def kept_reports(state: Path | None, *, steps: int, faults: tuple[str, ...]) -> dict[int, Report]:
    """The reports that an earlier run of the same campaign has left in the state file."""
    if state is None or not state.exists():
        return {}
    found: dict[int, Report] = {}
    for line in state.read_bytes().splitlines():
        try:
            words: dict[str, Any] = msgspec.json.decode(line)
            if (words["steps"], tuple(words["faults"])) == (steps, faults):
                report = msgspec.convert(words["report"], Report, strict=False)
                found[report.seed] = report
        except (msgspec.MsgspecError, KeyError):
            continue  # the last line of a run that was killed
    return found


def run_seeds(
    seeds: Iterable[int],
    *,
    steps: int = STEPS,
    faults: tuple[str, ...] = tuple(FAULTS),
    state: Path | None = None,
    processes: int = os.cpu_count() or 1,
) -> Iterator[Report]:
    """Yield each seed's report, those of an earlier run first; the rest in the order in which they end."""
    wanted = list(dict.fromkeys(seeds))
    kept = kept_reports(state, steps=steps, faults=faults)
    yield from (kept[seed] for seed in wanted if seed in kept)
    left = [seed for seed in wanted if seed not in kept]
    for report in _played(left, steps=steps, faults=faults, processes=processes):
        if state is not None:
            line = {"steps": steps, "faults": faults, "report": report}
            with state.open("ab") as file:
                file.write(msgspec.json.encode(line) + b"\n")
        yield report


def played(seed: int, steps: int, faults: tuple[str, ...]) -> Report:
    """One seed's report, also where the run itself broke: a campaign goes on, and the seed is red."""
    try:
        return run_seed(seed, steps=steps, faults=faults)
    except Exception:  # noqa: BLE001 - told with its trace
        finding = f"the run itself broke: {traceback.format_exc()[-TRACE_CHARS:]}"
        return Report(
            seed=seed,
            findings=(finding,),
            transfers=0,
            answers=0,
            injected={},
            digest="",
            virtual_s=0.0,
            cpu_s=0.0,
        )


def _played(seeds: list[int], *, steps: int, faults: tuple[str, ...], processes: int) -> Iterator[Report]:
    if processes == 1 or len(seeds) < 2:
        for seed in seeds:
            yield played(seed, steps, faults)
        return
    left = iter(seeds)
    with ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context("spawn"),
        max_tasks_per_child=TASKS_PER_PROCESS,
    ) as pool:
        running: set[Future[Report]] = set()
        while True:
            for seed in left:
                running.add(pool.submit(played, seed, steps, faults))
                if len(running) >= processes * AHEAD:
                    break
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
