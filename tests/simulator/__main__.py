"""`python -m tests.simulator`: play seeds, print what went wrong in them and what the auditor says."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import msgspec

from tests.simulator.campaign import Totals, replay_command, run_seeds, totals
from tests.simulator.drill import FAULTS, STEPS, Report

SHOWN = 5
"""Findings of one seed on the screen; the state file has more."""
FINDING_CHARS = 600


def main(words: list[str]) -> int:
    """Run the command line; 0 when every seed is green."""
    options = _parser().parse_args(words)
    faults = _faults(options.faults)
    began_s = time.monotonic()
    reports: list[Report] = []
    seeds = _seeds(options.seeds) if options.seeds else [options.seed]
    state = Path(options.state) if options.state else None
    for report in run_seeds(
        seeds, steps=options.steps, faults=faults, state=state, processes=options.processes
    ):
        reports.append(report)
        if not options.json:
            _show(report, len(reports), len(seeds), options.steps, faults)
    found = totals(reports)
    if options.json:
        commands = {
            seed: replay_command(seed, steps=options.steps, faults=faults) for seed in sorted(found.red)
        }
        words_out = {
            **msgspec.to_builtins(found, str_keys=True),
            "red": len(found.red),
            "findings": msgspec.to_builtins(found.red, str_keys=True),
            "verdict": found.verdict,
            "wall_s": round(time.monotonic() - began_s, 1),
            "replay": {str(seed): command for seed, command in commands.items()},
        }
        print(msgspec.json.encode(words_out).decode())
    else:
        _table(found, time.monotonic() - began_s)
    return 1 if found.red else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the seed to play (default 1)")
    parser.add_argument("--seeds", default="", metavar="A..B", help="a range of seeds instead of one")
    parser.add_argument("--steps", type=int, default=STEPS, help="requests of clients in each seed")
    parser.add_argument("--faults", default="all", help=f"all, none, or some of: {', '.join(FAULTS)}")
    parser.add_argument("--state", default="", metavar="FILE", help="go on from, and keep, the reports here")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="seeds at a time")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    return parser


def _faults(words: str) -> tuple[str, ...]:
    if words == "all":
        return tuple(FAULTS)
    wanted = tuple(name for name in words.split(",") if name not in ("", "none"))
    unknown = [name for name in wanted if name not in FAULTS]
    if unknown:
        raise SystemExit(f"--faults {','.join(unknown)}: unknown; there are {', '.join(FAULTS)}")
    return wanted


def _seeds(words: str) -> list[int]:
    first, _, last = words.partition("..")
    try:
        return list(range(int(first), int(last or first) + 1))
    except ValueError:
        raise SystemExit(f"--seeds {words}: give a range like 1..1000") from None


def _show(report: Report, number: int, count: int, steps: int, faults: tuple[str, ...]) -> None:
    verdict = "RED" if report.findings else "green"
    injected = " ".join(f"{name} {times}" for name, times in report.injected.items())
    print(
        f"[{number}/{count}] seed {report.seed}: {verdict}, {report.transfers} transfers,"
        f" {report.answers} answers, {report.virtual_s:.0f} s played in {report.cpu_s:.1f} s;"
        f" {injected or 'no faults'}",
        flush=True,
    )
    if report.findings:
        for finding in report.findings[:SHOWN]:
            print(f"    {finding[:FINDING_CHARS]}")
        print(f"    again: {replay_command(report.seed, steps=steps, faults=faults)}", flush=True)


def _table(found: Totals, wall_s: float) -> None:
    rows = [
        ("seeds", found.seeds),
        ("transfers", found.transfers),
        ("answers", found.answers),
        ("red seeds", len(found.red)),
        *((f"injected: {name}", times) for name, times in found.injected.items()),
        ("played, s", round(found.virtual_s)),
        ("CPU, s", round(found.cpu_s)),
        ("wall, s", round(wall_s)),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value:>12,}")
    print(f"{'verdict':<{width}}  {found.verdict:>12}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
