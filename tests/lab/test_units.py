"""The units on a root that boots: real systemd, a root that nothing may write, all of the hardening."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from firmware.secrets_in_root import secrets_in
from tests.lab.skips import SYSTEM, needs
from tests.lab.system import System
from tests.processes import edgegw
from tests.waiting import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600), needs(SYSTEM)]
BOX = 990
START_SECONDS = 90.0
BOX_TOML = """bank = "b1"
box = "box-1"
[hub]
key_file = "secrets/hub.pub"
[[hub.addresses]]
url = "http://127.0.0.1:8600"
[http]
host = "0.0.0.0"
port = 8443
[http.tls]
profile = "plain"
"""
EXPOSURE_MAX = 2.5
_OF_THE_IMAGE = {"rauc.service", "edgegw-commit.service", "edgegw-update.service", "edgegw-fallback.service"}
"""They need slots, which no container has."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A box's folder as first boot leaves it, before it is on the machine."""
    folder = tmp_path_factory.mktemp("box")
    for words in (
        ("hub", "--bank", "b1", "--out", str(folder / "secrets/hub.pem")),
        ("box", "--bank", "b1", "--box", "box-1", "--out", str(folder / "secrets/device.pem")),
    ):
        assert edgegw("keygen", *words).exit_code == 0
    (folder / "box.toml").write_text(BOX_TOML)
    return folder


@pytest.fixture(scope="module")
def system(root: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A machine that was enrolled, booted; the box serves."""
    var = tmp_path_factory.mktemp("machine") / "var"
    place = var / "lib/edgegw"
    place.parent.mkdir(parents=True)
    shutil.copytree(folder, place)
    for path in (place, *place.rglob("*")):
        os.chown(path, BOX, BOX)
    place.chmod(0o700)
    with System(root, var) as running:
        wait_for(running, "edgegw", "active")
        yield running


def wait_for(system: System, unit: str, state: str) -> None:
    """Wait until a unit is in this state."""
    wait_until(
        lambda: system.property(unit, "ActiveState") == state,
        f"{unit} to be {state}",
        timeout_seconds=START_SECONDS,
    )


def main_process(system: System) -> str:
    """The box's process."""
    return system.property("edgegw", "MainPID")


def test_the_box_serves_and_says_how_it_is(system: System) -> None:
    """Under all that it may not do, with a root that it cannot write: the line is down, and it answers."""
    assert system.property("edgegw", "StatusText") == "offline: never connected"
    asked = (
        "import urllib.request as r, urllib.error as e\n"
        "try: print(r.urlopen('http://127.0.0.1:8443/readyz').status)\n"
        "except e.HTTPError as problem: print(problem.code)"
    )
    assert system.said("python3", "-c", asked) == "503"
    assert system.property("edgegw", "User") == "edgegw"


def test_nothing_else_fails_and_nobody_can_log_in(system: System) -> None:
    """What fails at each start is what nobody reads; a console is a way in without a key."""
    wait_until(
        lambda: system.said("systemctl", "is-system-running") in ("running", "degraded"),
        "all that was to be started to be started",
        timeout_seconds=START_SECONDS,
    )
    listed = system.said("systemctl", "--failed", "--plain", "--no-legend", "--no-pager").splitlines()
    assert {line.split()[0] for line in listed} - _OF_THE_IMAGE == set()
    units = system.said("systemctl", "list-units", "--all", "--plain", "--no-legend", "--no-pager")
    assert not re.search(r"^(\S*getty@\S*|console-getty\.service)\s+\S+\s+active", units, re.MULTILINE)
    for unit in ("getty@.service", "serial-getty@.service", "emergency.service", "debug-shell.service"):
        assert system.said("systemctl", "is-enabled", unit) == "masked"


def test_the_firewall_drops_all_but_the_ways_in(system: System) -> None:
    """Its rules are in force before the first interface, and the box's port is opened by its settings."""
    rules = system.run("nft", "list", "table", "inet", "edgegw").stdout
    assert "hook input priority filter; policy drop;" in rules
    wait_until(
        lambda: "elements = { 8443 }" in system.said("nft", "list", "set", "inet", "edgegw", "ways_in"),
        "the port of the settings to be open",
        timeout_seconds=START_SECONDS,
    )
    system.run("systemctl", "reload", "edgegw-firewall")
    system.run("systemctl", "restart", "edgegw-ports@box")
    assert "{ 8443 }" in system.said("nft", "list", "set", "inet", "edgegw", "ways_in")


def test_a_firewall_that_is_not_in_force_is_told_and_stops_no_payments(system: System) -> None:
    """Nobody reads a branch's journal: that anybody reaches every port had to stand where a person looks."""

    def told() -> tuple[str, float]:
        words = ("edgegw", "health", "/var/lib/edgegw/box.toml", "--json")
        standings = json.loads(system.said("runuser", "-u", "edgegw", "--", *words))
        return next((one["level"], one["value"]) for one in standings if one["check"] == "firewall")

    assert told() == ("well", 0)
    drop_in = "/run/systemd/system/edgegw-firewall.service.d"
    fault = "[Service]\\nExecStart=\\nExecStart=nft -f /nowhere\\n"
    system.run(
        "sh", "-c", f"mkdir -p {drop_in}; printf '{fault}' >{drop_in}/fault.conf; systemctl daemon-reload"
    )
    system.run("systemctl", "restart", "edgegw-firewall", check=False)
    assert system.property("edgegw-firewall", "ActiveState") == "failed"
    assert told() == ("notice", 1)
    assert system.property("edgegw", "ActiveState") == "active"
    system.run("sh", "-c", f"rm -r {drop_in}; systemctl daemon-reload; systemctl restart edgegw-firewall")
    assert told()[1] == 0  # the box holds to a level for a while
    assert "{ 8443 }" in system.said("nft", "list", "set", "inet", "edgegw", "ways_in")


def test_ssh_is_off_until_a_key_is_there(system: System) -> None:
    """A sshd that listens without anybody who may come in is only there to be attacked."""
    assert system.property("ssh", "ActiveState") == "inactive"
    system.run("sh", "-c", "echo 'ssh-ed25519 AAAA somebody' > /var/lib/ssh/authorized_keys")
    wait_for(system, "ssh", "active")
    told = system.run("sshd", "-T").stdout
    assert "passwordauthentication no" in told
    assert "hostkey /var/lib/ssh/ssh_host_ed25519_key" in told


def test_a_box_that_is_killed_or_hangs_is_started_again(system: System) -> None:
    """Of one that hangs the process is there and its port is open: only what it no longer says gives it away.
    None is started again at once: one that cannot start would keep the machine busy with nothing else."""
    assert system.property("edgegw", "RestartUSec") == "3s"
    drop_in = "/run/systemd/system/edgegw.service.d"
    system.run("sh", "-c", f"mkdir -p {drop_in}; printf '[Service]\\nWatchdogSec=6s\\n' >{drop_in}/soon.conf")
    system.run("systemctl", "daemon-reload")
    killed = main_process(system)
    system.run("kill", "-KILL", killed)
    wait_until(lambda: main_process(system) not in ("0", killed), "another process", timeout_seconds=60)
    wait_for(system, "edgegw", "active")
    hanging = main_process(system)
    system.run("kill", "-STOP", hanging)
    wait_until(lambda: main_process(system) not in ("0", hanging), "another process", timeout_seconds=60)
    wait_for(system, "edgegw", "active")
    journal = system.said("journalctl", "--no-pager", "--unit", "edgegw")
    assert "Failed with result 'signal'" in journal
    assert "Failed with result 'watchdog'" in journal


def test_each_unit_is_sound_and_hardened_by_this_systemd(system: System) -> None:
    """Of the version that is in the image: an older one knows fewer of the settings."""
    units = system.said("sh", "-c", "ls /usr/lib/systemd/system | grep ^edgegw").split()
    assert units
    verified = system.run("systemd-analyze", "verify", "--man=no", *units)
    assert (verified.stdout, verified.stderr) == ("", "")
    for unit in units:
        if unit.endswith(".service"):
            path = f"/usr/lib/systemd/system/{unit}"
            told = system.said("systemd-analyze", "security", "--offline=true", "--no-pager", path)
            found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", told)
            assert found is not None, told
            assert float(found[1]) <= EXPOSURE_MAX, f"{unit}: {found[1]}"


def test_a_machine_without_settings_becomes_a_box_when_they_come(
    root: Path, folder: Path, tmp_path: Path
) -> None:
    """First boot may not start units; what it moves into place does."""
    var = tmp_path / "var"
    with System(root, var) as machine:
        assert machine.property("edgegw", "ActiveState") == "inactive"
        place = var / "lib/edgegw"
        shutil.copytree(folder / "secrets", place / "secrets")
        (place / "box.new").write_text(BOX_TOML)
        for path in (place, *place.rglob("*")):
            os.chown(path, BOX, BOX)
        (place / "box.new").rename(place / "box.toml")
        wait_for(machine, "edgegw", "active")


def test_without_its_disk_it_says_so_and_takes_no_payments(root: Path, tmp_path: Path) -> None:
    """The start leaves the reason behind: a page for who stands there, no loop, and nothing that looks like
    a box."""
    reason = tmp_path / "reason"
    reason.write_text("the data partition cannot be mounted <script>\n")
    with System(root, tmp_path / "var", files={"/run/edgegw/degraded": reason}) as machine:
        wait_for(machine, "edgegw-degraded", "active")
        asked = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8090/').read().decode())"
        page = machine.run("python3", "-c", asked).stdout
        assert "the data partition cannot be mounted &lt;script&gt;" in page
        for unit in ("edgegw", "edgegw-first-boot", "edgegw-update"):
            assert machine.property(unit, "ActiveState") == "inactive"


def test_the_root_holds_no_secret(root: Path) -> None:
    """It is the same on all boxes, and whoever has an image has read it."""
    assert secrets_in(root) == []
