"""What an appliance must refuse, tried on one that runs and pays: each time it says why, and goes on paying.

The same refusals beside the code: metadata in tests/update/test_trusted.py, choosing and manifests in
tests/update/test_agent.py, bundles cut and altered in tests/update/test_bundle.py, RAUC's signatures alone in
tests/lab/test_real_rauc.py, claims and copied disks that renew in tests/hub/test_enrolments.py, two live
copies of a box without a TPM in tests/drills (`two_live_boots_of_one_epoch`). Here it is the image that does
it, with Secure Boot, a TPM, RAUC and a hub, and a clock without a battery: each start begins in 2001.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from firmware import image, roots
from firmware.keys import keys
from firmware.layout import MIB
from tests.lab.centre import HTTP_PORT, Centre, Till
from tests.lab.disk import flip, verified_payments
from tests.lab.forged import REVOKED, Forger, flip_in, name_by_stolen_online_key, with_revoked
from tests.lab.shell import SSH_PORT, Shell, let_in, twin
from tests.lab.skips import MACHINE, needs
from tests.lab.vm import Machine
from tests.waiting import wait_until

pytestmark = [pytest.mark.lab_long, pytest.mark.timeout(1_800), needs(MACHINE)]
PAGE_PORT: Final = 8090
PORTS: Final = (HTTP_PORT, PAGE_PORT, SSH_PORT)
DEAD_CLOCK: Final = ("-rtc", "base=2001-01-01T00:00:00")
BUSY: Final = "another process is looking"
DAY_S: Final = 86_400
HONEST: Final = "honest"
GOOD: Final = "0.1.0+2"
INSIDE_THE_KERNEL: Final = 8 * MIB
INSIDE_THE_ROOT: Final = 40 * MIB
STARTED_S: Final = 900


class Branch(NamedTuple):
    """What the tests share."""

    machine: Machine
    centre: Centre
    till: Till
    shell: Shell
    forger: Forger
    claim: str
    good: image.Image

    def check(self, *more: str) -> tuple[int, str]:
        """Look for a release as a person does; the code, and what was said."""
        command = " ".join(("edgegw update check --now", *more))
        said = self.shell.ask(command)
        deadline = time.monotonic() + 240
        while BUSY in said.stdout + said.stderr and time.monotonic() < deadline:
            said = self.shell.ask(command)
        return said.returncode, said.stdout + said.stderr

    def boots(self) -> tuple[str, str]:
        """Which boot this is, and of which slot."""
        boot, slot = self.shell.run("cat /proc/sys/kernel/random/boot_id /run/edgegw/slot").split()
        return boot, slot


@pytest.fixture(scope="module")
def branch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Branch]:
    folder = tmp_path_factory.mktemp("refused")
    found, tools = with_revoked(keys()), roots.ready("tools").path
    made = image.image("cloud")
    centre = Centre(folder / "centre", image.releases(found))
    claim = centre.claim()
    centre.open_site()
    centre.start()
    (folder / "forged").mkdir()
    forger = Forger(folder / "forged", made, tools=tools, found=found)
    disk = let_in(made.disk, folder, tools=tools)
    machine = Machine(
        folder / "vm", image=disk, tools=tools, keys=found, ports=PORTS, claim=claim, extra=DEAD_CLOCK
    )
    try:
        with machine:
            machine.start()
            till, shell = Till(machine, centre), Shell(machine, folder)
            machine.wait_said("this is slot a", timeout_s=STARTED_S)
            till.wait_ready(timeout_s=STARTED_S)
            shell.wait(timeout_s=STARTED_S)
            yield Branch(machine, centre, till, shell, forger, claim, image.image("cloud", build=2))
    finally:
        centre.stop()


def test_a_machine_whose_clock_begins_in_2001_serves_at_no_moment_before_its_build(branch: Branch) -> None:
    """A battery that is empty must neither stop clearing nor date it twenty years back."""
    branch.till.wait_mode("active")
    branch.till.pay()
    assert int(branch.shell.run("date +%s")) >= int(branch.shell.run("stat -L -c %Y /usr/lib/clock-epoch"))


class Bad(NamedTuple):
    """Something that must be refused: how it comes to be offered, and what the box says of it."""

    offer: Callable[[Branch, str], None]
    said: str
    options: tuple[str, ...] = ()
    is_told: bool = True
    """Whether the centre is to hear of it."""


def _signed_by_a_stranger(branch: Branch, version: str) -> None:
    branch.centre.release(branch.forger.bundle(version, found=branch.forger.strangers))


def _signed_too_late(branch: Branch, version: str) -> None:
    branch.centre.release(branch.forger.bundle(version, signer="expired"))


def _signed_by_a_stolen_key(branch: Branch, version: str) -> None:
    branch.centre.release(branch.forger.bundle(version, signer=REVOKED))


def _for_another_machine(branch: Branch, version: str) -> None:
    branch.centre.release(branch.forger.bundle(version, for_compatible="edgegw-x86_64-hardware"))


def _flipped_at_the_hub(branch: Branch, version: str) -> None:
    branch.centre.release(branch.forger.bundle(version))
    (served,) = (branch.centre.updates / "targets").glob(f"*-{version}-cloud.raucb")
    flip_in(served)


def _flipped_before_it_was_listed(branch: Branch, version: str) -> None:
    bundle = branch.forger.bundle(version)
    flip_in(bundle)
    branch.centre.release(bundle)


def _older(branch: Branch, version: str) -> None:
    branch.centre.release(branch.forger.bundle(version))


def _older_in_disguise(branch: Branch, version: str) -> None:
    branch.centre.release(branch.forger.bundle(version, manifest_version="0.0.9"))


def _of_an_older_epoch(branch: Branch, version: str) -> None:
    branch.centre.release(branch.forger.bundle(version, security_epoch=0))


def _listed_by_the_hubs_key_alone(branch: Branch, version: str) -> None:
    branch.centre.release(branch.forger.bundle(version))
    branch.centre.take_back(version)
    shutil.copytree(branch.centre.updates, branch.centre.folder / HONEST)
    name_by_stolen_online_key(branch.centre.updates, branch.centre.keys / "online.pem")


def _replayed(branch: Branch, version: str) -> None:
    centre = branch.centre
    before = centre.folder / "before"
    shutil.copytree(centre.updates, before)
    centre.release(branch.forger.bundle(version))
    centre.take_back(version)
    assert branch.check()[0] == 0, "what is newest is not believed"
    shutil.rmtree(centre.updates)
    before.rename(centre.updates)


def _frozen(branch: Branch, version: str) -> None:
    branch.centre.release(branch.forger.bundle(version))
    branch.centre.refresh(now_s=int(time.time()) - 20 * DAY_S)


REFUSED: Final = {
    "another key signed the bundle": Bad(_signed_by_a_stranger, "RAUC refuses the bundle"),
    "its signer has expired": Bad(_signed_too_late, "certificate has expired"),
    "its signer was revoked": Bad(_signed_by_a_stolen_key, "certificate revoked"),
    "it is for another machine": Bad(_for_another_machine, "for edgegw-x86_64-hardware, not"),
    "a byte was changed at the hub": Bad(_flipped_at_the_hub, "not the signed one"),
    "a byte was changed before it was listed": Bad(_flipped_before_it_was_listed, "rauc install: "),
    "it is older": Bad(_older, "is older than", options=("--version", "0.0.8"), is_told=False),
    "it is older and listed as newer": Bad(_older_in_disguise, "own manifest says 0.0.9"),
    "its security epoch is lower": Bad(_of_an_older_epoch, "its security epoch is 0"),
    "another key signed the list": Bad(_listed_by_the_hubs_key_alone, "was signed by 0/1 keys"),
    "the list is an old one again": Bad(_replayed, "it is older than what this box has seen"),
    "nobody signs the list any more": Bad(_frozen, "the metadata is frozen"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_update_is_refused_with_its_reason_and_the_box_goes_on(branch: Branch, name: str) -> None:
    """Whatever lies at the hub: what was not signed for this box now is not written, or never starts."""
    bad, number = REFUSED[name], 11 + list(REFUSED).index(name)
    version = "0.0.8" if bad.offer is _older else f"0.1.0+{number}"
    before = branch.boots()
    bad.offer(branch, version)
    code, said = branch.check(*bad.options)
    assert code == 1, said
    assert bad.said in said
    if bad.is_told:
        assert bad.said in branch.shell.run("edgegw update status")
        wait_until(lambda: bad.said in branch.centre.fleet(), "the centre to hear why", poll_seconds=0.5)
    assert branch.boots() == before
    branch.till.pay()
    mended(branch.centre, version)


def mended(centre: Centre, version: str) -> None:
    """The centre is itself again, above whatever the box was shown."""
    honest = centre.folder / HONEST
    if honest.exists():
        shutil.rmtree(centre.updates)
        honest.rename(centre.updates)
        for _ in range(2):
            centre.renew()
    if version in centre.offered():
        centre.take_back(version)
    centre.publish()


def test_after_all_that_a_good_update_is_kept(branch: Branch) -> None:
    """A box that refuses everything is as lost as one that takes everything."""
    branch.centre.release(branch.good.bundle)
    _, said = branch.check()
    branch.machine.wait_said("this is slot b", timeout_s=600)
    branch.till.wait_ready(timeout_s=STARTED_S)
    branch.till.pay()
    branch.centre.wait_version(GOOD, timeout_s=300)
    branch.shell.wait()
    wait_until(
        lambda: f"{GOOD} in slot edgegw-b, idle" in branch.shell.run("edgegw update status"),
        f"the update to be kept ({said})",
        timeout_seconds=300,
        poll_seconds=2,
    )


def test_a_claim_that_was_used_makes_no_second_box(branch: Branch, tmp_path: Path) -> None:
    """Who finds the claim of a branch in a bin gets no box by it, and somebody hears of the try."""
    branch.machine.cut()
    first = branch.machine
    with Machine(
        tmp_path / "vm",
        image=first.image,
        tools=first.tools,
        keys=first.keys,
        ports=PORTS,
        claim=branch.claim,
    ) as thief:
        thief.start()
        thief.wait_said("this is slot a", timeout_s=STARTED_S)
        wait_until(
            lambda: b"have used this claim" in thief.wait_http(PAGE_PORT, "/", timeout_s=STARTED_S),
            "the page to say why",
            timeout_seconds=STARTED_S,
            poll_seconds=2,
        )
    assert "claim_used" in branch.centre.findings()


def test_a_copied_disk_is_no_box_without_its_tpm(branch: Branch, tmp_path: Path) -> None:
    """A disk that was copied in the night must not pay from another machine."""
    branch.machine.cut()
    first = branch.machine
    twin(tmp_path / "vm", first, with_tpm=False)
    with Machine(
        tmp_path / "vm", image=first.image, tools=first.tools, keys=first.keys, ports=PORTS
    ) as copied:
        copied.start()
        copied.wait_said("this is slot", timeout_s=STARTED_S)
        shell = Shell(copied, branch.shell.folder)
        shell.wait(timeout_s=STARTED_S)
        wait_until(
            lambda: "this machine's TPM did not seal it" in shell.run("journalctl -b -u edgegw -o cat"),
            "the box to say that it cannot open its keys",
            timeout_seconds=STARTED_S,
            poll_seconds=2,
        )
        # QEMU takes the connection for the guest, and ends it when nobody listens there.
        with pytest.raises(OSError, match=r"refused|reset|closed|timed out|EOF"):
            Till(copied, branch.centre).call("GET", "/readyz")


def test_a_root_that_was_changed_starts_the_other_slot_and_is_mended(branch: Branch) -> None:
    """One changed block in what runs is found before anything of it runs, and the branch pays on."""
    machine = branch.machine
    machine.cut()
    flip(machine, "root-b", INSIDE_THE_ROOT)
    machine.start()
    machine.wait_said("slot b: its root is not what was signed", timeout_s=STARTED_S)
    machine.wait_said("this is slot a", timeout_s=STARTED_S)
    branch.till.wait_ready(timeout_s=STARTED_S)
    branch.till.pay()
    # The hub still has what was kept here: the agent fills the slot again.
    machine.wait_said("this is slot b", timeout_s=900, times=2)
    branch.till.wait_ready(timeout_s=STARTED_S)
    branch.till.pay()
    branch.centre.wait_version(GOOD, timeout_s=300)


def test_a_kernel_image_that_was_changed_is_refused_by_the_firmware(branch: Branch) -> None:
    """What Secure Boot does not know does not run; the other slot does."""
    machine = branch.machine
    machine.cut()
    # Else the agent would fill the slot again at once.
    branch.centre.take_back(GOOD)
    flip(machine, "esp-b", INSIDE_THE_KERNEL)
    machine.start()
    machine.wait_said("this is slot a", timeout_s=STARTED_S)
    branch.till.wait_ready(timeout_s=STARTED_S)
    branch.till.pay()
    branch.centre.wait_version("0.1.0+1", timeout_s=120)
    assert "this is slot b" not in machine.said()


def test_one_slot_refused_and_the_other_changed_ends_in_standing_still(branch: Branch) -> None:
    """Two bad slots must not chase each other until somebody pulls the plug."""
    machine = branch.machine
    machine.cut()
    flip(machine, "root-a", INSIDE_THE_ROOT)
    machine.start()
    machine.wait_said("STOPPED: slot b does not start", timeout_s=STARTED_S)
    assert machine.said().count("this is slot a") == 4, "three times it gives way, then it stands still"


def test_both_roots_changed_end_in_standing_still_and_one_mended_serves(
    branch: Branch, tmp_path: Path
) -> None:
    """It says what is wrong and waits for a person; what is on the disk is all there."""
    machine = branch.machine
    machine.cut()
    flip(machine, "esp-b", INSIDE_THE_KERNEL)
    flip(machine, "root-b", INSIDE_THE_ROOT)
    machine.start()
    machine.wait_said("STOPPED: neither slot's root is what was signed", timeout_s=STARTED_S)
    assert machine.said().count("this is slot") == 1, "slot a was tried before, for the same reason"
    machine.cut()
    flip(machine, "root-b", INSIDE_THE_ROOT)
    machine.start()
    machine.wait_said("this is slot b", timeout_s=STARTED_S)
    branch.till.wait_ready(timeout_s=STARTED_S)
    branch.till.pay()
    branch.till.wait_mode("active")
    branch.centre.wait_payments(branch.till.answered)
    machine.cut()
    assert sorted(verified_payments(machine, branch.centre, tmp_path)) == sorted(branch.till.answered)
