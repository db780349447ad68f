"""Power cuts of a whole appliance's disk: one life in a virtual machine, from a flashed image to an update
that is kept (`tests.lab.life`), and CUTS chance moments of it (200), read from outside
(`tests.lab.after_cut`).

    make lab-long ARGS="-k test_cuts -s"                CUTS_SEED=7 repeats the moments
    CUTS_FOLDER=folder                                  keeps the life there: the next run does not live again
    CUTS_BOOTED=5                                       so many of the cut disks are started as well (2)

What must be true of each moment: the firmware finds the table of partitions, in it the slot that it comes
back to with what was flashed or installed there, byte for byte, and so the slot of a trial, if one is due;
the agent's state names no slot that is torn; the data's file system needs no more than its journal, and the
copy of its superblock where that was torn; the ledger proves itself and has every payment that was answered
before, once.

The firmware's variables are on a medium of their own, and each write to them is whole when the guest goes on:
no cut of the disk takes them back. They are those of the last copy before the moment, a second old or so,
and so is the TPM's state. The machine itself would have had what was written between copy and cut as well:
so a slot that the firmware was told of a second too early is seen only if it is still torn at the next copy.
What a cut in the middle of a write to the flash leaves is not tried here.

The machines that are started have no line: their hub has seen what came after.
"""

from __future__ import annotations

import os
import random
import shutil
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from firmware.layout import MIB, SECTOR_BYTES, partitions
from tests.lab.after_cut import CutDisk, Starts, starts_of, table_of
from tests.lab.centre import HTTP_PORT, Till
from tests.lab.life import DISK_GIB, Life, is_in, life, moments
from tests.lab.logged_machine import CutMachine, copy_of, variables_of
from tests.lab.power_cut import CUTS, Sweep, cut_out, drawn_seed
from tests.lab.skips import MACHINE, needs

pytestmark = [pytest.mark.lab_long, pytest.mark.timeout(5_400), needs(MACHINE)]
BOOTED: Final = int(os.environ.get("CUTS_BOOTED") or 2)
READY_S: Final = 900
DISK_BYTES: Final = DISK_GIB << 30
TABLE_CUTS: Final = 100
MANY: Final = 100
"""Of so many moments some find a slot half written."""
ASKED_AGAIN: Final = 3


class Swept:
    """A life's disk, which goes forward in its log."""

    def __init__(self, life: Life, disk: Path) -> None:
        self._life, self.disk = life, disk
        cut_out(life.base, disk, start=0, size=DISK_BYTES)
        self.sweep = Sweep(disk, life.log)
        self.written = self.sweep.written
        self.places = [one.at for one in self.written]
        last = life.lived.answered[-1].position
        assert self.places[-1] >= last - MIB, "the log is not whole: QEMU could not write some of it"

    def due(self, entries: int) -> list[str]:
        """The payments that were answered before the entry after so many was asked of the disk."""
        reached = self._reached(entries)
        return [one.id for one in self._life.lived.answered if one.position <= reached]

    def beside(self, entries: int) -> Path:
        """The last copy before it of what is not on the disk."""
        number = bisect_right(self._life.lived.beside, self._reached(entries)) - 1
        return copy_of(self._life.folder, max(0, number))

    def _reached(self, entries: int) -> int:
        return self.places[entries] if entries < len(self.places) else self.written[-1].data_at


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Life:
    """The life, of this run or of one before."""
    given = os.environ.get("CUTS_FOLDER")
    return life(Path(given).absolute() if given else tmp_path_factory.mktemp("life"))


def test_no_moment_leaves_a_machine_that_cannot_start_or_lacks_an_answered_payment(
    lived: Life, tmp_path: Path
) -> None:
    """A branch's power fails when it fails, and a till was told of its money."""
    seed = drawn_seed()
    chance = random.Random(seed)
    swept = Swept(lived, tmp_path / "disk.raw")
    starts = cache(lambda beside: starts_of(variables_of(beside), tools=lived.tools))
    torn = lost = paid = 0
    for moment in moments(swept.written, lived.lived.begins, cuts=CUTS, chance=chance):
        swept.sweep.forward(moment.entries)
        due, told = swept.due(moment.entries), starts(swept.beside(moment.entries))
        with swept.sweep.cut(chance) as unflushed:
            where = f"CUTS_SEED={seed}, {moment}, {unflushed} writes not flushed, {told}"
            cut = CutDisk(swept.disk, tools=lived.tools, work=tmp_path)
            check_slots(lived, cut, told, where)
            check_data(lived, cut, told, due, where)
            if moment.part == "writing":
                torn += bool(cut.why_not_started("b", lived.held("b")))
        lost, paid = lost + unflushed, max(paid, len(due))
    swept.sweep.close()
    print(f"{CUTS} cuts, {torn} with a slot half written, {lost} writes that nobody had flushed, {paid} paid")
    assert lost, "no cut found anything that was not flushed: it proves nothing"
    assert torn or CUTS < MANY, "no cut found a slot half written"
    assert starts(swept.beside(len(swept.written))).first == "b", "the update was not kept in the end"


def check_slots(life: Life, cut: CutDisk, told: Starts, where: str) -> None:
    """What the firmware starts is what was signed."""
    for slot in {told.first, told.once} - {""}:
        why = cut.why_not_started(slot, life.held(slot))
        assert not why, f"{where}: {why}"


def check_data(life: Life, cut: CutDisk, told: Starts, due: Sequence[str], where: str) -> None:
    """The ledger has what tills were told of, and the agent trusts no slot that is torn."""
    found, state = cut.data(hub_key=life.hub_key)
    assert not found.forced, f"{where}: the file system took more than its journal"
    lacking = set(due) - set(found.payments)
    assert not lacking, f"{where}: {len(lacking)} of {len(due)} answered payments are not there"
    assert len(found.payments) == len(set(found.payments)), f"{where}: a payment is there twice"
    if state.attempt is None:
        return
    slot = state.attempt.slot.removeprefix("edgegw-")
    if state.attempt.phase == "installing":
        assert slot != told.first, f"{where}: {state.attempt} overwrites what the machine comes back to"
    else:
        why = cut.why_not_started(slot, life.held(slot))
        assert not why, f"{where}: {state.attempt}: {why}"


def test_the_table_of_partitions_outlives_each_cut_while_it_is_written(lived: Life, tmp_path: Path) -> None:
    """The first start lets the data partition grow; a server without a table starts nothing any more."""
    seed = drawn_seed()
    chance = random.Random(seed)
    swept = Swept(lived, tmp_path / "disk.raw")
    names = [part.name for part in partitions("cloud")]
    ends = (MIB // SECTOR_BYTES, (DISK_BYTES - MIB) // SECTOR_BYTES)
    entries = [
        number
        for number, one in enumerate(swept.written, start=1)
        if one.sectors and not ends[0] <= one.sector < ends[1]
    ]
    assert entries, "the table was never written: it proves nothing"
    for each in entries:
        swept.sweep.forward(each)
        for _ in range(-(-TABLE_CUTS // len(entries))):
            with swept.sweep.cut(chance) as unflushed:
                found = list(table_of(swept.disk, tools=lived.tools))
                assert found == names, f"CUTS_SEED={seed}, entry {each}, {unflushed} writes not flushed"
    swept.sweep.close()


def test_a_machine_comes_up_after_a_cut_and_knows_what_it_has_answered(lived: Life, tmp_path: Path) -> None:
    """What a branch sees: the power went in the middle of an installation, or in an outage."""
    seed = drawn_seed()
    chance = random.Random(seed)
    for number in range(BOOTED):
        folder = tmp_path / f"cut-{number}"
        folder.mkdir()
        swept = Swept(lived, folder / "disk.raw")
        entries = in_the_outage(swept, lived, chance) if number % 2 else in_the_middle(swept, chance)
        swept.sweep.forward(entries)
        unflushed = swept.sweep.lose(chance)
        swept.sweep.close()
        beside, due = swept.beside(entries), swept.due(entries)
        told = starts_of(variables_of(beside), tools=lived.tools)
        print(f"entry {entries}, {unflushed} writes not flushed, {told}, {len(due)} paid before")
        shutil.copytree(beside, folder / "vm")
        comes_up(lived, folder, slot=told.once or told.first, due=due)
        shutil.rmtree(folder)


def in_the_middle(swept: Swept, chance: random.Random) -> int:
    """A moment while the other slot's root is written."""
    writes = [number for number, one in enumerate(swept.written, start=1) if is_in(one, "root-b")]
    return chance.choice(writes)


def in_the_outage(swept: Swept, life: Life, chance: random.Random) -> int:
    """A moment while it pays without its line."""
    begins = life.lived.begins
    answered = [one.position for one in life.lived.answered]
    paid = [place for place in answered if begins["outage"] < place <= begins["line back"]]
    first, last = (bisect_left(swept.places, place) for place in (paid[0], paid[-1]))
    return chance.randrange(first, last) + 1


def comes_up(life: Life, folder: Path, *, slot: str, due: Sequence[str]) -> None:
    """It starts in that slot, gives its first answers again and takes new payments."""
    machine = CutMachine(
        folder / "vm",
        image=folder / "disk.raw",
        tools=life.tools,
        keys=life.keys,
        ports=(HTTP_PORT,),
        disk_gib=DISK_GIB,
    )
    with machine:
        machine.start()
        machine.unplug("wan")
        machine.wait_said(f"this is slot {slot}", timeout_s=READY_S)
        till = Till(machine, life.centre)
        till.wait_ready(timeout_s=READY_S)
        for id in due[-ASKED_AGAIN:]:
            assert till.ask(id, 1).headers.get("Idempotent-Replay") == "true", id
        till.pay(1)
