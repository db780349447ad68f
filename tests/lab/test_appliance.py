"""The appliance in a virtual machine, from a disk that was flashed to a box that lost its power three times.

One machine for all: the tests stand in the order of its life, and each begins where the one before left it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from firmware import image, roots
from firmware.keys import keys
from tests.lab.centre import HTTP_PORT, Centre, Till
from tests.lab.disk import verified_payments
from tests.lab.skips import MACHINE, needs
from tests.lab.vm import Machine

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("machine"), pytest.mark.timeout(1_800), needs(MACHINE)]
UPDATED_S = 600


class Branch(NamedTuple):
    """What the tests share."""

    machine: Machine
    centre: Centre
    till: Till
    tools: Path
    updates: Mapping[int, Future[Path]]
    """Bundles by their build's number. The third has no box that could start."""

    def boot(self, slot: str, *, plugged: bool = True, timeout_s: float = 400) -> None:
        """Wait for a start in this slot, until the box takes payments."""
        self.machine.wait_said(f"this is slot {slot}", timeout_s=timeout_s)
        if not plugged:
            self.machine.unplug("wan")
        self.till.wait_ready(timeout_s=timeout_s)

    def release(self, build: int) -> None:
        """Publish a bundle. An agent that finds it at its first look after a start need not look again."""
        self.centre.release(self.updates[build].result())


@pytest.fixture(scope="module")
def branch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Branch]:
    folder = tmp_path_factory.mktemp("appliance")
    made, tools, found = image.image("cloud"), roots.ready("tools").path, keys()
    centre = Centre(folder / "centre", image.releases(found))
    claim = centre.claim()
    centre.open_site()
    centre.start()
    machine = Machine(
        folder / "vm", image=made.disk, tools=tools, keys=found, ports=(HTTP_PORT, 8090), claim=claim
    )
    words: dict[int, tuple[str, ...]] = {2: (), 3: ("systemd.mask=edgegw.service",)}
    try:
        # They are built while the machine starts.
        with ThreadPoolExecutor(max_workers=1) as builder, machine:
            machine.start()
            updates = {
                build: builder.submit(image.update, "cloud", build=build, more_words=more)
                for build, more in words.items()
            }
            branch = Branch(machine, centre, Till(machine, centre), tools, updates)
            branch.boot("a")
            yield branch
    finally:
        centre.stop()


def test_a_flashed_disk_enrols_itself_and_serves(branch: Branch) -> None:
    """A technician who only plugs it in must get a box that takes payments."""
    branch.till.wait_mode("active")
    assert branch.till.status()["box"] == "box-1"
    for _ in range(3):
        branch.till.pay()


def test_no_payment_that_was_answered_is_lost_by_a_power_cut_in_an_outage(branch: Branch) -> None:
    """The only copy of what was cleared offline is on the disk that loses its power."""
    machine, till = branch.machine, branch.till
    machine.unplug("wan")
    till.wait_mode("offline")
    for _ in range(3):
        till.pay()
    machine.cut()
    machine.start()
    branch.boot("a", plugged=False)
    till.pay()
    machine.unplug("wan", plugged=True)
    till.wait_mode("active")
    branch.centre.wait_payments(till.answered)


def test_power_that_goes_while_an_update_is_written_leaves_the_slot_that_ran(branch: Branch) -> None:
    """A branch is not to stand still because somebody pulled a plug at night."""
    branch.release(2)
    # First the whole bundle is kept, then the EFI partition's 64 MiB come: this is in the middle of the root.
    bundle_bytes = branch.updates[2].result().stat().st_size
    branch.machine.wait_written(bundle_bytes + (104 << 20), timeout_s=UPDATED_S)
    branch.machine.cut()
    branch.machine.start()
    branch.boot("a")
    branch.till.pay()


def test_a_good_update_is_kept(branch: Branch) -> None:
    """A fleet that cannot be updated keeps its holes. This one was cut, and comes from the bundle on disk."""
    branch.machine.wait_said("this is slot b, version 0.1.0+2", timeout_s=UPDATED_S)
    branch.release(3)
    branch.till.wait_ready()
    branch.till.pay()
    branch.centre.wait_version("0.1.0+2", timeout_s=UPDATED_S)


def test_an_update_that_does_not_serve_falls_back(branch: Branch) -> None:
    """An image that is broken in the field must undo itself, with nobody there."""
    branch.machine.wait_said("this is slot a, version 0.1.0+3", timeout_s=UPDATED_S)
    branch.machine.wait_said("this is slot b, version 0.1.0+2", timeout_s=UPDATED_S, times=2)
    branch.till.wait_ready()
    branch.till.pay()
    branch.centre.wait_problem("0.1.0+3 has failed", timeout_s=UPDATED_S)


def test_in_the_end_every_answered_payment_is_on_the_disk_once(branch: Branch, tmp_path: Path) -> None:
    """What the till was told must be what an auditor finds."""
    branch.till.wait_mode("active")
    branch.centre.wait_payments(branch.till.answered)
    branch.machine.cut()
    found = verified_payments(branch.machine, branch.centre, tmp_path)
    assert sorted(found) == sorted(branch.till.answered), json.dumps(found)
