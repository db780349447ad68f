"""The table at the end of a run, and `tests/RESULTS.md` with the machine that it was measured on."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from tests.proof.figures import LACKS, Figures
from tests.proof.machine import ROOT, commit, described
from tests.proof.runner import Run
from tests.proof.steps import Step

RESULTS: Final = ROOT / "tests/RESULTS.md"
WIDTH: Final = 150
"""Columns of the table where no terminal says how many there are."""
_ROW: Final = re.compile(r"^\| `(?P<name>[a-z0-9-]+)` \| (?P<claim>[^|]+) \|", re.MULTILINE)
_HEAD: Final = """\
# Measured

Written by `make proof`; do not edit. `make proof ARGS="--only NAME"` measures one line again, and
`python -m tests.proof --list` says what is asked and by which command.

"""


def told(figures: Figures) -> str:
    """Figures as `name value`, in the order in which they were noted; of a list its length."""
    shown = {name: len(value) if isinstance(value, list) else value for name, value in figures.items()}
    return ", ".join(
        f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}"
        for name, value in shown.items()
        if isinstance(value, int | float | str) and name != LACKS
    )


def show(steps: Sequence[Step], run: Run) -> bool:
    """Print claim, command, asked, measured and verdict of each step, and what is red once more with its log;
    whether all hold."""
    table = Table(show_lines=True)
    for column in ("claim", "command", "asked", "measured", "verdict"):
        table.add_column(column, overflow="fold")
    red, lacking = [], 0
    for step in steps:
        result = run.result(step)
        holds, words = run.verdict(step)
        if not holds:
            red.append(f"{step.name}: {words}; {run.log(step)}")
        lacks = holds and result is not None and bool(result.lacks)
        lacking += lacks
        measured = told(result.figures) if result else ""
        mark = "[yellow]" if lacks else "[green]" if holds else "[red]"
        table.add_row(
            f"[bold]{step.name}[/]\n{step.claim}",
            run.command(step),
            "\n".join(step.asked),
            measured,
            mark + words,
        )
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    console.print(table)
    for line in red:
        print(line)
    held = len(steps) - len(red) - lacking
    print(f"{held} of {len(steps)} hold, {lacking} not on this machine, {len(red)} red or not measured")
    return not red


def document(steps: Iterable[Step], run: Run, machine: dict[str, str]) -> str:
    """RESULTS.md: the machine, then a row for each step."""
    lines = [_HEAD + "| | |\n|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in machine.items()]
    lines += ["", "| step | claim | asked | measured | verdict | took | ended (UTC) |", "|---" * 7 + "|"]
    rows = []
    for step in steps:
        result = run.result(step)
        words = run.verdict(step)[1]
        measured, took, ended = (
            (told(result.figures), f"{result.seconds:.0f} s", result.ended) if result else ("", "", "")
        )
        asked = ", ".join(step.asked)
        rows.append(f"| `{step.name}` | {step.claim} | {asked} | {measured} | {words} | {took} | {ended} |")
    lines += rows
    lines += ["", "## The command of each figure", "", "```sh"]
    lines += [f".venv/bin/python {step.command.replace('{state}', 'run.state')}" for step in steps]
    return "\n".join([*lines, "```", ""])


def write(steps: Iterable[Step], run: Run, path: Path = RESULTS) -> None:
    """Measure the machine and write the document."""
    machine = {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": commit(),
        **described(run.home),
    }
    path.write_text(document(steps, run, machine), encoding="utf-8")


def claims(text: str) -> dict[str, str]:
    """The claims of a RESULTS.md by their steps' names."""
    return {match["name"]: match["claim"] for match in _ROW.finditer(text)}
