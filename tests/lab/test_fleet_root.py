"""The playbooks over ssh against the appliance's own root, booted in namespaces: what is on it, what is not.

Slots, trials and restarts are a virtual machine's.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.lab.controller import Controller
from tests.lab.first_box import become_box, prepared_centre, waits
from tests.lab.skips import SYSTEM, needs
from tests.lab.system import System

pytestmark = [pytest.mark.lab_long, pytest.mark.timeout(1_200), needs(SYSTEM)]
BOX = "branch-1"
VERSION = "0.1.0+1"


def inventory(folder: Path, centre: Path) -> Path:
    """One appliance, and the hub, which the collection has not made."""
    told: dict[str, Any] = {
        "ansible_user": "root",
        "audit_folder": str(folder / "audits"),
        "audit_hub_folder": str(centre),
        "audit_hub_host": "centre",
        "audit_hub_user": "root",
        "audit_program": str(Path(sys.executable).with_name("edgegw")),
        "update_record": str(folder / "record"),
        "box_bank": "mybank",
        "box_branch": "Harbour Street",
        "box_hub_host": "centre",
        "box_hub_addresses": ["https://127.0.0.1:8600"],
        "box_enrolment_addresses": ["https://127.0.0.1:8620"],
    }
    canaries = {"hosts": {BOX: {"ansible_host": "127.0.0.1"}}}
    hosts = {"centre": {"ansible_connection": "local"}}
    children = {"edgegw_boxes": {"children": {"edgegw_canaries": canaries}}}
    made = folder / "hosts.json"
    made.write_text(json.dumps({"all": {"vars": told, "hosts": hosts, "children": children}}))
    return made


def test_playbooks_find_on_an_appliance_what_they_need_and_change_nothing(root: Path, tmp_path: Path) -> None:
    """It has no sudo, no writable home, and its program elsewhere: a play that needs these fails there."""
    var, key = tmp_path / "var", tmp_path / "login"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    (var / "lib/ssh").mkdir(parents=True, mode=0o700)
    shutil.copyfile(key.with_suffix(".pub"), var / "lib/ssh/authorized_keys")
    (var / "centre").mkdir()
    prepared_centre(var / "centre")
    # The kernel's image brings it, and here is none.
    (var / "image.json").write_text(json.dumps({"version": VERSION, "compatible": "edgegw-x86_64-cloud"}))
    ssh = ["-F", "/dev/null", "-o", f"UserKnownHostsFile={tmp_path / 'known_hosts'}", "-o", "BatchMode=yes"]
    with System(root, var) as system:
        system.run("install", "-D", "/var/image.json", "/run/edgegw/image.json")
        waits(system)
        become_box(system)
        # The machine has made its own key; whoever stands beside it takes it down.
        public = system.run("cut", "-d ", "-f1,2", "/var/lib/ssh/ssh_host_ed25519_key.pub").stdout
        (tmp_path / "known_hosts").write_text(f"127.0.0.1 {public}")
        controller = Controller(tmp_path, key=key, ssh=ssh, beside=system)
        words = ("-i", str(inventory(tmp_path, var / "centre")))
        site = controller.play("site", *words)
        assert site.changed == {BOX: 0}
        assert f"{BOX} is an appliance: takes payments." in site.said
        asked = controller.play("update", *words, "-e", "update_version=0.1.0+2", "--check")
        assert asked.changed[BOX] == 1
        assert not (tmp_path / "record").exists()
        assert controller.play("audit", *words).changed[BOX] == 0
        verdict = json.loads((tmp_path / "audits" / f"{BOX}.json").read_text())
    assert verdict["journal"]["well"] is True
    assert verdict["hub"] == {"well": True, "breaks": []}
    assert verdict["checkpoint"]
    assert (verdict["version"], verdict["status"]["ready"]) == (VERSION, True)
