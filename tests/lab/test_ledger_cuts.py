"""Power cuts of a box's disk while it pays, in an outage too, and tells its hub: real processes, a real file
system, and a disk that loses what nobody had flushed.

The box is killed, its disk cut, and it goes on from there, again and again, while the hub lives on; then CUTS
more moments between are read as an auditor would. CUTS_SEED repeats the moments. Leaves out slots and
updates.
"""

from __future__ import annotations

import http.client
import random
import secrets
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from firmware import roots
from tests.lab.ledger_after import found_after
from tests.lab.logged_disk import SIZE_BYTES, LoggedDisk
from tests.lab.power_cut import CUTS, Sweep, cut_out, drawn_seed
from tests.lab.skips import LOGGED_DISK, needs
from tests.processes import Branch
from tests.waiting import wait_until

pytestmark = [pytest.mark.lab_long, pytest.mark.timeout(3_600), needs(LOGGED_DISK)]
LIVED: Final = 12
"""Cuts after which the box goes on."""


class Answered(NamedTuple):
    """A payment that the till was told of, and when."""

    id: str
    stretch: int
    position: int


class BranchOnDisk(Branch):
    """Its box's ledger lies on a disk that is cut."""

    def __init__(self, folder: Path, disk: LoggedDisk) -> None:
        self.disk = disk
        self.answered: list[Answered] = []
        self._unanswered = ""
        super().__init__(folder)

    def write_box(self, addresses: tuple[str, ...]) -> None:
        """As a branch's, with its data on the disk."""
        super().write_box(addresses)
        settings = self.folder / "box.toml"
        settings.write_text(f'data_dir = "{self.disk.path}/data"\n{settings.read_text()}')

    def ask(self) -> bool:
        """Pay; what was not answered is asked again under its id. Whether it was answered."""
        self._unanswered = self._unanswered or secrets.token_hex(16)
        try:
            reply = self.pay("alice", 1, id=self._unanswered)
        except (OSError, http.client.HTTPException):
            return False
        assert reply.status in (200, 201), reply.body
        self.answered.append(Answered(self._unanswered, self.disk.stretch, self.disk.position))
        self._unanswered = ""
        return True

    def pay_until_killed(self, seconds: float) -> None:
        """Pay without a pause until the box is killed, so many seconds from now."""
        assert self.box is not None
        killer = threading.Timer(seconds, self.box.popen.kill)
        killer.start()
        while self.ask():
            pass
        killer.join()
        self.box.popen.wait(timeout=60)
        self.box = None

    def at_the_hub(self) -> list[str]:
        """The ids of the till's payments there; one that is there twice is listed twice."""
        asked = "SELECT request_id FROM record WHERE client = 'till' AND request_id IS NOT NULL"
        with closing(sqlite3.connect(f"file:{self.folder}/hub.db?mode=ro", uri=True)) as database:
            return [str(row[0]) for row in database.execute(asked)]


class Lived(NamedTuple):
    """What is left of it."""

    branch: BranchOnDisk
    disk: LoggedDisk
    ends: list[int]
    """Where in the log of each stretch its cut was."""
    unflushed: list[int]
    seed: int


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lived]:
    """A life with a cut each second or so."""
    folder = tmp_path_factory.mktemp("ledger")
    seed = drawn_seed()
    chance = random.Random(seed)
    disk = LoggedDisk(folder / "disk", tools=roots.ready("tools").path)
    branch = BranchOnDisk(folder, disk)
    ends, unflushed = [], []
    try:
        branch.start_hub()
        for number in range(LIVED):
            disk.plug()
            branch.start_box()
            assert branch.ask()
            if number % 3 == 1 and branch.hub is not None:
                branch.hub.end(signal.SIGKILL)
                branch.hub = None
            branch.pay_until_killed(chance.uniform(0.05, 3.0))
            position, lost = disk.pull(chance)
            ends.append(position)
            unflushed.append(lost)
            if branch.hub is None:
                branch.start_hub()
        disk.plug()
        branch.start_box()
        assert branch.ask()
        wait_until(
            lambda: sorted(branch.at_the_hub()) == sorted(one.id for one in branch.answered),
            "the hub to have each answered payment once",
        )
        yield Lived(branch, disk, ends, unflushed, seed)
    finally:
        branch.end()
        disk.unplug()


def test_a_box_goes_on_after_each_cut_and_the_hub_has_each_answered_payment_once(lived: Lived) -> None:
    """No till may be told of money that the next start does not know."""
    assert len(lived.ends) == LIVED
    assert any(lived.unflushed), "no cut found anything that was not flushed: it proves nothing"
    answered = [one.id for one in lived.branch.answered]
    assert len(answered) == len(set(answered)) > LIVED


def test_no_moment_is_one_at_which_an_answered_payment_is_not_on_the_disk(
    lived: Lived, tmp_path: Path
) -> None:
    """Whatever the disk had not flushed: the ledger opens, proves itself, and has what tills were told."""
    tools, hub_key = roots.ready("tools").path, lived.branch.folder / "secrets/hub.pub"
    looked = lost = 0
    for stretch, end in enumerate(lived.ends):
        disk, part = tmp_path / "disk.raw", tmp_path / "part.raw"
        cut_out(lived.disk.base(stretch), disk, start=0, size=SIZE_BYTES)
        sweep = Sweep(disk, lived.disk.log(stretch))
        chance = random.Random(f"{lived.seed} {stretch}")
        until = sum(one.at < end for one in sweep.written)
        share = CUTS // LIVED + (stretch < CUTS % LIVED)
        for entry in sorted(chance.randrange(until) + 1 for _ in range(share)):
            sweep.forward(entry)
            position = sweep.written[entry - 1].at
            answered = lived.branch.answered
            due = {one.id for one in answered if (one.stretch, one.position) <= (stretch, position)}
            with sweep.cut(chance) as unflushed:
                cut_out(disk, part, start=0, size=SIZE_BYTES)
            where = (
                f"CUTS_SEED={lived.seed}, stretch {stretch}, entry {entry}, {unflushed} writes not flushed"
            )
            found = found_after(part, "/data", tools=tools, hub_key=hub_key)
            assert not due - set(found.payments), f"{where}: {len(due)} answered, not all there"
            assert len(found.payments) == len(set(found.payments)), f"{where}: a payment is there twice"
            assert not found.forced, f"{where}: the file system took more than its journal"
            looked, lost = looked + 1, lost + unflushed
        sweep.close()
    paid = len(lived.branch.answered)
    print(f"{looked} cuts, {lost} writes that nobody had flushed, {paid} answered payments")
    assert looked == CUTS
