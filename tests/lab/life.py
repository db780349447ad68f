"""One life of an appliance on a disk that is logged: flashed, enrolled, paying with its line and without it,
updated while it pays, kept, paying again.

What is needed of it afterwards lies in one folder, so that it need not be lived twice.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import secrets
import shutil
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from firmware import image, roots
from firmware.keys import Keys, keys
from firmware.layout import SECTOR_BYTES, partition
from firmware.sandbox import in_tools
from tests.lab.after_cut import KERNEL_IMAGE, ROOT
from tests.lab.centre import HTTP_PORT, Centre, Till
from tests.lab.logged_machine import Beside, LoggedMachine
from tests.lab.power_cut import Written, cut_out, entries
from tests.waiting import wait_until

DISK_GIB: Final = 3
PAUSE_S: Final = 1.0
FLASHED, UPDATED = "0.1.0+1", "0.1.0+2"
_LIVED: Final = "life.json"
_STARTED_S: Final = 900
_UPDATED_S: Final = 1_200
_PAYMENTS: Final = 30
PERCENT: Final = {
    "first boot": 8,
    "paying": 15,
    "outage": 15,
    "line back": 2,
    "fetching": 15,
    "writing": 25,
    "trial": 10,
    "kept": 5,
    "second outage": 5,
}
"""How many of the moments lie in each part of the life."""


class Moment(NamedTuple):
    """A moment of the log."""

    part: str
    entries: int
    """So many had been asked of the disk."""


def moments(
    written: Sequence[Written], begins: Mapping[str, int], *, cuts: int, chance: random.Random
) -> list[Moment]:
    """Chance moments of a life in their order; each part has its share, however much was written in it."""
    places = [one.at for one in written]
    bounds = [*(bisect_left(places, position) for position in begins.values()), len(written)]
    found: list[Moment] = []
    share = 0
    for part, first, end in zip(begins, bounds, bounds[1:], strict=False):
        before, share = share, share + PERCENT[part]
        count = cuts * share // 100 - cuts * before // 100
        found += (Moment(part, chance.randrange(first, max(first + 1, end)) + 1) for _ in range(count))
    return sorted(found, key=lambda one: one.entries)


def is_in(one: Written, *names: str) -> bool:
    """Whether something was written into one of these partitions."""
    place = one.sector * SECTOR_BYTES
    parts = (partition("cloud", name) for name in names)
    return bool(one.sectors) and any(0 <= place - part.start_bytes < part.size_bytes for part in parts)


def with_writing(begins: Mapping[str, int], written: Sequence[Written]) -> dict[str, int]:
    """The parts of a life, with the one in which the other slot is written: only the log knows when."""
    first = next(one.at for one in written if is_in(one, "esp-b", "root-b"))
    return dict(sorted({**begins, "writing": first}.items(), key=lambda part: part[1]))


class Answered(msgspec.Struct, frozen=True):
    """A payment that the till was told of, and how long the log was then."""

    id: str
    position: int


class Lived(msgspec.Struct, frozen=True):
    """What was noted."""

    answered: list[Answered]
    begins: dict[str, int]
    """How long the log was when each part of the life began, in their order."""
    beside: list[int]
    """How long it was at each copy of what is not on the disk."""


class Life(NamedTuple):
    """A life that is over."""

    folder: Path
    lived: Lived
    tools: Path
    keys: Keys
    centre: Centre

    @property
    def base(self) -> Path:
        """The disk as it was flashed."""
        return self.folder / "base.raw"

    @property
    def log(self) -> Path:
        """What was written since."""
        return self.folder / "vm/writes.log"

    @property
    def hub_key(self) -> Path:
        """What proves the hub's word in a ledger."""
        return self.folder / "centre/secrets/hub.pub"

    def held(self, slot: str) -> Path:
        """The folder with what a slot holds once it is written: kernel image and root."""
        return self.folder / "slots" / slot


def life(folder: Path) -> Life:
    """The life that lies in a folder; it is lived first where there is none."""
    found, tools = keys(), roots.ready("tools").path
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / _LIVED
    if not note.exists():
        # What an earlier run left unfinished.
        shutil.rmtree(folder / "centre", ignore_errors=True)
    centre = Centre(folder / "centre", image.releases(found))
    if not note.exists():
        lived = _lived(folder, tools, found, centre)
        note.write_bytes(msgspec.json.encode(lived))
    return Life(folder, msgspec.json.decode(note.read_bytes(), type=Lived), tools, found, centre)


def _lived(folder: Path, tools: Path, found: Keys, centre: Centre) -> Lived:
    made = image.image("cloud")
    bundle = image.update("cloud", build=2)
    _keep_slots(folder / "slots", made, bundle, tools)
    base = folder / "base.raw"
    cut_out(made.disk, base, start=0, size=DISK_GIB << 30)
    claim = centre.claim()
    centre.open_site()
    centre.start()
    shutil.rmtree(folder / "vm", ignore_errors=True)
    machine = LoggedMachine(
        folder / "vm", image=base, tools=tools, keys=found, ports=(HTTP_PORT,), claim=claim, disk_gib=DISK_GIB
    )
    try:
        with machine:
            machine.start()
            with Beside(machine, folder) as beside:
                living = _Living(machine, centre)
                living.live(bundle)
                machine.cut()
    finally:
        centre.stop()
    (machine.folder / "disk.qcow2").unlink()
    begins = with_writing(living.begins, entries(machine.log))
    return Lived(answered=living.answered, begins=begins, beside=beside.positions)


def _keep_slots(folder: Path, made: image.Image, bundle: Path, tools: Path) -> None:
    """Keep what each slot is to hold: of the first what was flashed, of the other what is in the bundle."""
    shutil.rmtree(folder, ignore_errors=True)
    for slot, kernel_image in (("a", made.kernel_image), ("b", bundle.with_suffix(".efi"))):
        (folder / slot).mkdir(parents=True)
        shutil.copyfile(kernel_image, folder / slot / KERNEL_IMAGE)
    start = partition("cloud", "root-a").start_bytes
    cut_out(made.disk, folder / "a" / ROOT, start=start, size=made.root_bytes)
    words = ["unsquashfs", "-quiet", "-no-progress", "-d", folder / "bundle", bundle, ROOT]
    in_tools(tools, words, doing="opening the bundle", writable=[folder, bundle.parent])
    (folder / "bundle" / ROOT).rename(folder / "b" / ROOT)


class _Living:
    """The machine's time, and what its till was told."""

    def __init__(self, machine: LoggedMachine, centre: Centre) -> None:
        self._machine, self._centre, self._till = machine, centre, Till(machine, centre)
        self.answered: list[Answered] = []
        self.begins: dict[str, int] = {}
        self._unanswered = ""

    def live(self, bundle: Path) -> None:
        """All of it."""
        machine, till, centre = self._machine, self._till, self._centre
        self._begin("first boot")
        machine.wait_said(f"this is slot a, version {FLASHED}", timeout_s=_STARTED_S)
        till.wait_ready(timeout_s=_STARTED_S)
        till.wait_mode("active")
        self._begin("paying")
        self._pay()
        self._outage("outage")
        self._begin("line back")
        machine.unplug("wan", plugged=True)
        till.wait_mode("active")
        centre.wait_payments([one.id for one in self.answered])
        self._begin("fetching")
        centre.release(bundle)
        self._pay_until(
            lambda: f"this is slot b, version {UPDATED}" in machine.said(), "the start of the other slot"
        )
        self._begin("trial")
        self._pay_until(lambda: centre.has_kept(UPDATED), "the update to be kept")
        self._begin("kept")
        self._pay()
        self._outage("second outage")

    def _begin(self, part: str) -> None:
        self.begins[part] = self._machine.position

    def _outage(self, part: str) -> None:
        self._begin(part)
        self._machine.unplug("wan")
        self._till.wait_mode("offline")
        self._pay()

    def _pay(self) -> None:
        """A number of payments, each answered."""
        due = len(self.answered) + _PAYMENTS
        self._pay_until(lambda: len(self.answered) >= due, f"{_PAYMENTS} payments", pause_s=0.01)

    def _pay_until(self, reached: Callable[[], bool], what: str, *, pause_s: float = PAUSE_S) -> None:
        """Pay without an end, also while nobody answers, until something is reached."""

        def paid_and_reached() -> bool:
            assert self._machine.running, "QEMU has ended"
            self._ask()
            return reached()

        wait_until(paid_and_reached, what, timeout_seconds=_UPDATED_S, poll_seconds=pause_s)

    def _ask(self) -> None:
        """Pay with one question; what was not answered is asked again under its id."""
        self._unanswered = self._unanswered or secrets.token_hex(16)
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            self._till.ask(self._unanswered, 1)
            self.answered.append(Answered(self._unanswered, self._machine.position))
            self._unanswered = ""
