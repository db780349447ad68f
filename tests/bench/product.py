"""The product's lanes: what they share, and what is held against what they answered."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import apsw

from tests.bench import payments
from tests.bench.children import Asked, environment, kept
from tests.bench.place import Place
from tests.bench.rounds import Measure, WrongAnswer

CHECK_SECONDS: Final = 3_600


class Answered:
    """The numbers of the payments that a lane's runs answered, from one row of numbers that is never used
    twice."""

    def __init__(self) -> None:
        self.next = 1
        self.ranges: list[range] = []

    def add(self, count: int) -> None:
        """The next so many were answered."""
        self.ranges.append(range(self.next, self.next + count))
        self.next += count

    def identities(self) -> set[bytes]:
        """All of them, as 16 bytes."""
        return {bytes.fromhex(payments.identity(number)) for numbers in self.ranges for number in numbers}


IDENTITIES: Final = "SELECT id FROM record WHERE type = 'transfer'"


def check_box(folder: Path, answered: set[bytes], *, query: str = IDENTITIES) -> None:
    """Every answered payment is a cleared one in the ledger, none is there that was not answered, and the
    whole ledger verifies; the box has ended. query: what of its rows says which payment it is."""
    connection = apsw.Connection(str(folder / "data" / "ledger.db"), flags=apsw.SQLITE_OPEN_READONLY)
    held = {row[0] for row in connection.execute(query)}
    connection.close()
    compare("the ledger", held, answered)
    done = subprocess.run(
        [sys.executable, "-m", "edgegw", "ledger", "check", "box.toml", "--json"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        timeout=CHECK_SECONDS,
        check=False,
    )
    report = json.loads(done.stdout) if done.stdout.startswith(b"{") else {}
    if done.returncode or report.get("problems") != 0:
        raise WrongAnswer(f"the journal does not verify: {done.stdout[-400:]!r} {done.stderr[-400:]!r}")


def compare(place: str, held: set[bytes], answered: set[bytes]) -> None:
    """Raise WrongAnswer unless a place holds just what was answered."""
    if lost := answered - held:
        raise WrongAnswer(f"{len(lost)} answered payments are not in {place}, as {min(lost).hex()}")
    if more := held - answered:
        raise WrongAnswer(f"{len(more)} payments are in {place} that were not answered, as {min(more).hex()}")


class EngineLane:
    """The engine in its own process, in batches."""

    def __init__(self, place: Place, *, batch: int, name: str = "") -> None:
        self.name = name or f"edgegw, in process, batches of {batch}"
        self.batch = batch
        self.answered = Answered()
        self._place = place

    def open(self, stack: ExitStack) -> None:
        """A box's folder, opened as `edgegw run` opens it."""
        self.folder = self.folder_of_box()
        self.child: Asked = kept(
            stack,
            Asked("tests.bench.engine_process", str(self.folder), log=self._place.fresh("engine.log")),
        )
        self.child.first()

    def folder_of_box(self) -> Path:
        """A copy of the world."""
        return self._place.box("engine")

    def restart(self) -> None:
        """After somebody else had the ledger."""
        log = self._place.fresh("engine.log")
        self.child = Asked("tests.bench.engine_process", str(self.folder), log=log)
        self.child.first()

    def measure(self, seconds: float) -> Measure:
        """Batch after batch."""
        told = self.child.ask(seconds=seconds, first=self.answered.next, batch=self.batch)
        self.answered.add(told["count"])
        return Measure(**told)

    def check(self) -> None:
        """See `check_box`."""
        self.child.end()
        check_box(self.folder, self.answered.identities())
