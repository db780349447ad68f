"""The collection against a flashed appliance: one machine and its hub, as those have them who run a fleet.

The tests stand in the order of the machine's life, and each begins where the one before left it. How plain
servers become a fleet is test_fleet.py's, what the box's agent does by itself test_appliance.py's.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from firmware import image, roots
from firmware.keys import keys
from firmware.virtual import HUB_ADDRESS
from tests.lab.centre import BOX, BOX_SETTINGS, HTTP_PORT, Centre, Till
from tests.lab.controller import Controller, Played
from tests.lab.shell import SSH_PORT, Shell, let_in
from tests.lab.skips import MACHINE, needs
from tests.lab.vm import Machine
from tests.ports import free_ports

pytestmark = [
    pytest.mark.lab_long,
    pytest.mark.xdist_group("fleet-appliance"),
    pytest.mark.timeout(3_600),
    needs(MACHINE),
]
FIRST: Final = "0.1.0+1"
GOOD: Final = "0.1.0+2"
BROKEN: Final = "0.1.0+3"
STARTED_S: Final = 600
# As ansible/README.md advises where playbooks order the updates.
SETTINGS: Final = BOX_SETTINGS + "automatic = false\n"


class Team:
    """What the people have: a playbook's inventory, the hub, the box behind its ssh, a till."""

    def __init__(self, folder: Path, machine: Machine, centre: Centre) -> None:
        self.folder, self.machine, self.centre = folder, machine, centre
        self.till, self.shell = Till(machine, centre), Shell(machine, folder)
        self.record, self.audits = folder / "record", folder / "audits"
        self._known = folder / "known_hosts"
        ssh = ["-F", "/dev/null", "-o", f"UserKnownHostsFile={self._known}", "-o", "BatchMode=yes"]
        self._controller = Controller(
            folder, key=folder / "login", ssh=[*ssh, "-o", "StrictHostKeyChecking=yes"]
        )

    def meet(self) -> None:
        """Take the machine's own key down, as whoever flashed it would; nothing else is believed after."""
        port = str(self.machine.ports[SSH_PORT])
        scan = ["ssh-keyscan", "-T", "60", "-t", "ed25519", "-p", port, "127.0.0.1"]
        self._known.write_bytes(subprocess.run(scan, check=True, capture_output=True, timeout=120).stdout)
        (self.folder / "hosts.json").write_text(json.dumps(self._inventory()))

    def _inventory(self) -> dict[str, Any]:
        here = {"ansible_host": "127.0.0.1"}
        # Nobody is there: a play that goes on to it says so.
        nobody = {**here, "ansible_port": free_ports(1)[0]}
        return {
            "all": {
                "vars": {
                    "ansible_user": "root",
                    # The machine is emulated.
                    "ansible_timeout": 60,
                    "update_record": str(self.record),
                    "audit_folder": str(self.audits),
                    # The lab's hub was not made by the collection.
                    "audit_hub_host": "centre",
                    "audit_hub_folder": str(self.centre.folder),
                    "audit_hub_user": "root",
                    "audit_program": str(Path(sys.executable).with_name("edgegw")),
                    "box_bank": "b1",
                    "box_name": "{{ inventory_hostname }}",
                    "box_branch": "Lab",
                    "box_hub_host": "centre",
                    "box_hub_addresses": [f"https://{HUB_ADDRESS}:8600"],
                    "box_enrolment_addresses": [f"https://{HUB_ADDRESS}:8620"],
                    "box_ready_s": 300,
                },
                "hosts": {"centre": {"ansible_connection": "local"}},
                "children": {
                    "edgegw_boxes": {
                        "children": {
                            "edgegw_canaries": {
                                "hosts": {BOX: {**here, "ansible_port": self.machine.ports[SSH_PORT]}}
                            }
                        },
                        "hosts": {"box-2": nobody},
                    }
                },
            }
        }

    def play(self, playbook: str, *words: str, everybody: bool = False, code: int = 0) -> Played:
        """Run a playbook against the box, or against all that the inventory has."""
        limit = () if everybody else ("--limit", f"{BOX},localhost")
        inventory = ("-i", str(self.folder / "hosts.json"))
        return self._controller.play(playbook, *inventory, *limit, *words, code=code)

    def update(self, version: str, *words: str, everybody: bool = False, code: int = 0) -> Played:
        """Run the playbook for updates."""
        return self.play("update", "-e", f"update_version={version}", *words, everybody=everybody, code=code)

    def status(self) -> dict[str, Any]:
        """What the box's agent says."""
        said: dict[str, Any] = json.loads(self.shell.run("edgegw update status --json"))
        return said

    def recorded(self, version: str, name: str = BOX) -> dict[str, Any]:
        """What the controller has kept of a version."""
        said: dict[str, Any] = json.loads((self.record / version / f"{name}.json").read_text())
        return said


class Fleet(NamedTuple):
    """What the tests share."""

    team: Team
    updates: Mapping[str, Future[Path]]
    """Bundles by their version. In the broken one no box can start."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet-appliance")
    made, tools, found = image.image("cloud"), roots.ready("tools").path, keys()
    centre = Centre(folder / "centre", image.releases(found))
    claim = centre.claim(settings=SETTINGS)
    centre.open_site()
    centre.start()
    disk = let_in(made.disk, folder, tools=tools)
    machine = Machine(
        folder / "vm", image=disk, tools=tools, keys=found, ports=(HTTP_PORT, SSH_PORT), claim=claim
    )
    words: dict[str, tuple[str, ...]] = {GOOD: (), BROKEN: ("systemd.mask=edgegw.service",)}
    try:
        # They are built while the machine starts.
        with ThreadPoolExecutor(max_workers=1) as builder, machine:
            machine.start()
            updates = {
                version: builder.submit(
                    image.update, "cloud", build=int(version.partition("+")[2]), more_words=more
                )
                for version, more in words.items()
            }
            team = Team(folder, machine, centre)
            machine.wait_said("this is slot a", timeout_s=STARTED_S)
            team.till.wait_ready(timeout_s=STARTED_S)
            team.shell.wait(timeout_s=STARTED_S)
            team.meet()
            yield Fleet(team, updates)
    finally:
        centre.stop()


def test_the_site_playbook_tells_how_an_appliance_is_and_edits_nothing(fleet: Fleet) -> None:
    """It stands in the inventory beside plain servers, whose packages and units it must not be given."""
    team = fleet.team
    team.till.wait_mode("active")
    team.till.pay()
    played = team.play("site")
    assert played.changed == {BOX: 0}
    assert "box-1 is an appliance: takes payments." in played.said


def test_check_mode_says_that_the_version_would_change_and_changes_nothing(fleet: Fleet) -> None:
    """Who asks what a run would do gets an answer, and no restart of a branch."""
    team = fleet.team
    team.centre.release(fleet.updates[GOOD].result())
    boot = team.shell.run("cat /proc/sys/kernel/random/boot_id")
    assert team.update(GOOD, "--check").changed[BOX] == 1
    assert team.shell.run("cat /proc/sys/kernel/random/boot_id") == boot
    said = team.status()
    assert (said["version"], said["phase"], said["target"]) == (FIRST, "idle", "")
    assert not team.record.exists()


def test_the_canary_takes_a_good_release_by_its_own_agent(fleet: Fleet) -> None:
    """The play must say what the box has decided, once it has decided it."""
    team = fleet.team
    played = team.update(GOOD)
    said = team.status()
    assert (said["version"], said["slot"], said["phase"]) == (GOOD, "edgegw-b", "idle")
    kept = team.recorded(GOOD)
    assert (kept["outcome"], kept["before"], kept["canary"]) == ("updated", FIRST, True)
    assert played.changed[BOX] > 0
    team.till.wait_ready()
    team.till.pay()
    team.centre.wait_version(GOOD, timeout_s=120)


def test_a_second_run_changes_nothing(fleet: Fleet) -> None:
    """A box that is at the version is not restarted for it again."""
    team = fleet.team
    boot, kept = team.shell.run("cat /proc/sys/kernel/random/boot_id"), team.recorded(GOOD)
    assert team.update(GOOD).changed[BOX] == 0
    assert team.shell.run("cat /proc/sys/kernel/random/boot_id") == boot
    assert team.recorded(GOOD) == kept


def test_what_an_appliance_can_prove_is_fetched_and_compared(fleet: Fleet) -> None:
    """Its program lies elsewhere than a plain server's, and the verdict must name its version, too."""
    team = fleet.team
    team.centre.wait_payments(team.till.answered)
    assert team.play("audit").changed[BOX] == 0
    verdict = json.loads((team.audits / f"{BOX}.json").read_text())
    assert verdict["journal"]["well"] is True
    assert verdict["hub"] == {"well": True, "breaks": []}
    assert verdict["checkpoint"]
    assert (verdict["version"], verdict["status"]["ready"]) == (GOOD, True)


def test_a_canary_that_falls_back_is_recorded_and_stops_the_release(fleet: Fleet) -> None:
    """In its trial the box answers on ssh and is of the version: none of that makes it well."""
    team = fleet.team
    team.centre.release(fleet.updates[BROKEN].result())
    said = team.update(BROKEN, everybody=True, code=2).said
    assert "the canary is not well there: box-1: rolled_back" in said
    kept, stopped = team.recorded(BROKEN), team.recorded(BROKEN, "stopped")
    assert (kept["outcome"], kept["before"]) == ("rolled_back", GOOD)
    status = team.status()
    assert (status["version"], status["slot"], status["phase"]) == (GOOD, "edgegw-b", "idle")
    assert kept["reason"] == next(one["why"] for one in status["failed"] if one["version"] == BROKEN)
    assert kept["reason"] in stopped["reason"]
    # Nobody else was asked.
    assert not (team.record / BROKEN / "box-2.json").exists()
    team.till.wait_ready()
    team.till.pay()


def test_a_stopped_release_is_not_tried_by_the_next_run(fleet: Fleet) -> None:
    """Each try is two restarts of a branch."""
    team = fleet.team
    boot = team.shell.run("cat /proc/sys/kernel/random/boot_id")
    assert "its rollout was stopped at" in team.update(BROKEN, everybody=True, code=2).said
    assert team.shell.run("cat /proc/sys/kernel/random/boot_id") == boot
    team.centre.wait_payments(team.till.answered)
