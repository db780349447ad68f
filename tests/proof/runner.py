"""Runs steps, two at a time, and remembers which are done for this very source.

Owns the directory of a run: for each step a log, the figures that it noted, its result, and a file in which
it may keep how far it came. A step that is done is not run again as long as no file of the source changes;
what an interrupted one kept is there when it starts again. Leaves out what a result is worth (`steps`) and
how it is told (`results`).
"""

from __future__ import annotations

import hashlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from tests.proof.figures import FIGURES, LACKS, Figures, noted, printed
from tests.proof.machine import ROOT
from tests.proof.steps import Step, falls_short

LANES: Final = 2
"""So many steps at a time: the smallest machine has two cores."""
PROGRESS_S: Final = 20.0
SOURCES: Final = ("edgegw/**/*.py", "tests/**/*.py", "pyproject.toml", "requirements.lock")

Say = Callable[[str], None]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a step came to."""

    name: str
    source: str
    """The digest of the source that was measured."""
    command: str
    status: int
    seconds: float
    ended: str
    """UTC, to the minute."""
    figures: Figures

    @property
    def lacks(self) -> str:
        """Why this machine cannot run the step; "" where it can."""
        return str(self.figures.get(LACKS, ""))


def verdict(step: Step, result: Result | None, *, short: bool = False) -> tuple[bool, str]:
    """Whether what is asked was reached, and in words what was not."""
    if result is None:
        return False, "not measured"
    if result.status != 0:
        return False, f"failed with status {result.status}"
    if result.lacks:
        return True, f"not on this machine: {result.lacks}"
    found = falls_short(step, result.figures, short=short)
    return not found, "; ".join(found) or "holds"


def minutes(steps: Iterable[Step]) -> int:
    """About how long steps take together."""
    waiting = list(steps)
    beside = sum(step.minutes for step in waiting if not step.alone)
    return -(-beside // LANES) + sum(step.minutes for step in waiting if step.alone)


def source_digest(root: Path = ROOT) -> str:
    """One digest over every file that a proof may depend on."""
    summed = hashlib.sha256()
    for path in sorted(path for pattern in SOURCES for path in root.glob(pattern)):
        content = path.read_bytes()
        summed.update(f"{path.relative_to(root)}\0{len(content)}\0".encode())
        summed.update(content)
    return summed.hexdigest()[:16]


class Run:
    """The results of one directory."""

    def __init__(self, home: Path, *, source: str, short: bool = False, say: Say = print) -> None:
        self.home = home / "short" if short else home
        self.home.mkdir(parents=True, exist_ok=True)
        self.short = short
        self.say = say
        self.source = source
        self._children: dict[Step, subprocess.Popen[bytes]] = {}
        self._room = threading.Condition()
        self._running = 0
        self._stopping = False

    def result(self, step: Step) -> Result | None:
        """What a step last came to, whatever the source was; None when it was never done."""
        path = self._path(step, "json")
        return msgspec.json.decode(path.read_bytes(), type=Result) if path.exists() else None

    def log(self, step: Step) -> Path:
        """What the step's command printed."""
        return self._path(step, "log")

    def verdict(self, step: Step) -> tuple[bool, str]:
        """Whether what is asked was reached with this very source, and in words what was not."""
        result = self.result(step)
        holds, words = verdict(step, result, short=self.short)
        if result is None or result.source == self.source:
            return holds, words
        return False, f"{words} (with an older source)"

    def is_done(self, step: Step) -> bool:
        """Whether the step holds for this source and need not run again."""
        result = self.result(step)
        return result is not None and result.command == self.command(step) and self.verdict(step)[0]

    def command(self, step: Step) -> str:
        """What the step runs, after `python`."""
        return (step.short if self.short else step.command).replace("{state}", str(self._path(step, "state")))

    def play(self, steps: Sequence[Step], *, again: bool) -> None:
        """Run what is not done yet, the longest first; those that time themselves last and alone."""
        due = [step for step in steps if again or not self.is_done(step)]
        for step in steps:
            if step not in due:
                self.say(f"{step.name}: done before, with the same source")
        if again:
            for step in due:
                self._path(step, "state").unlink(missing_ok=True)
        due.sort(key=lambda step: (step.alone, -step.minutes))
        if due:
            about = "" if self.short else f", about {minutes(due)} min"
            self.say(f"{len(due)} of {len(steps)} steps to run{about}; logs in {self.home}")
        try:
            self._play(due)
        except KeyboardInterrupt:
            self._stop()
            raise

    def _play(self, due: list[Step]) -> None:
        told = time.monotonic()
        while due or self._running:
            with self._room:
                if due and self._running < (1 if due[0].alone else LANES):
                    self._running += 1
                    threading.Thread(target=self._lane, args=(due.pop(0),), daemon=True).start()
                    continue
                self._room.wait(timeout=1.0)
            if time.monotonic() - told > PROGRESS_S:
                told = time.monotonic()
                self._progress(due)

    def _progress(self, waiting: list[Step]) -> None:
        for step in list(self._children):
            lines = self.log(step).read_text(errors="replace").strip().splitlines()
            self.say(f"  {step.name} goes on: {lines[-1][:100] if lines else 'nothing said yet'}")
        about = "" if self.short or not waiting else f", about {minutes(waiting)} min more"
        self.say(f"  {len(waiting)} steps wait{about}")

    def _lane(self, step: Step) -> None:
        try:
            self._step(step)
        finally:
            with self._room:
                self._running -= 1
                self._room.notify_all()

    def _step(self, step: Step) -> None:
        command = self.command(step)
        figures_path, log = self._path(step, "figures"), self.log(step)
        figures_path.unlink(missing_ok=True)
        self._forget_state_of_other_source(step)
        self.say(f"{step.name}: python {command}")
        began = time.monotonic()
        with log.open("wb") as output:
            child = subprocess.Popen(
                [sys.executable, *shlex.split(command)],
                cwd=ROOT,
                env={**os.environ, FIGURES: str(figures_path), "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._children[step] = child
            status = child.wait()
        del self._children[step]
        if not self._stopping:
            result = Result(
                name=step.name,
                source=self.source,
                command=command,
                status=status,
                seconds=round(time.monotonic() - began, 1),
                ended=time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
                figures=printed(log.read_text(errors="replace")) | noted(figures_path),
            )
            self._path(step, "json").write_bytes(msgspec.json.encode(result))
            words = verdict(step, result, short=self.short)[1]
            self.say(f"{step.name}: {words}, {result.seconds:.0f} s; {log}")

    def _forget_state_of_other_source(self, step: Step) -> None:
        """What was kept half-way counts for the source that it was measured on, and for no other."""
        mark = self._path(step, "source")
        if not mark.exists() or mark.read_text() != self.source:
            self._path(step, "state").unlink(missing_ok=True)
            mark.write_text(self.source)

    def _stop(self) -> None:
        self._stopping = True
        for child in list(self._children.values()):
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)

    def _path(self, step: Step, ending: str) -> Path:
        return self.home / f"{step.name}.{ending}"
