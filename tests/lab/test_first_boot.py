"""A first boot on a root that boots: real systemd and all of the hardening, from a stick to serving, and back
to a machine that waits for a claim."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.test_provision import commands_under
from tests.lab.skips import SYSTEM, needs
from tests.lab.system import System
from tests.waiting import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600), needs(SYSTEM)]
SECONDS = 180.0
SITE = '{"bank":"mybank","version":1,"currencies":[{"code":"CNY","numeric":156}],"accounts":[]}'
STATUS = ("runuser", "-u", "edgegw", "--", "edgegw", "first-boot", "--status")
STICK = "/run/edgegw-stick/edgegw/claim.json"


@pytest.fixture(scope="module")
def centre(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a hub as the centre's page makes it, with a claim, a replacement's claim and a site."""
    folder = tmp_path_factory.mktemp("centre")
    ((*prepared, _),) = commands_under("provision/README.md", "The centre, once")
    claim, *_ = commands_under("provision/README.md", "A claim")
    (folder / "site.json").write_text(SITE)
    script = "\n".join(["set -e", *prepared, *claim, "edgegw site publish site.json --hub hub.toml"])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_a_stick_makes_it_a_box_and_a_reset_makes_it_wait_again(
    root: Path, centre: Path, tmp_path: Path
) -> None:
    """What the technician's page promises, with what systemd forbids each part of it."""
    var = tmp_path / "var"
    shutil.copytree(centre, var / "centre")
    with System(root, var) as system:
        waits(system)
        assert system.property("edgegw", "ConditionResult") == "no"
        assert system.said("stat", "-c", "%a %U", "/var/lib/edgegw") == "700 edgegw"
        hub = ("systemd-run", "--unit=hub", "--working-directory=/var/centre", "edgegw", "hub", "hub.toml")
        system.run(*hub)
        until(lambda: '"open"' in system.said("journalctl", "--unit=hub", "--output=cat"), "the hub to serve")
        system.run("runuser", "-u", "edgegw", "--", "mkdir", "-p", str(Path(STICK).parent))
        system.run("install", "-o", "edgegw", "-m", "600", "/var/centre/claim.json", STICK)
        until(lambda: system.property("edgegw-first-boot", "ActiveState") == "inactive", "the box to serve")
        assert system.property("edgegw-first-boot", "Result") == "success"
        assert "mybank/branch-1 takes payments" in system.run(*STATUS).stdout
        assert system.run("test", "-e", STICK, check=False).returncode == 1
        _, (stop, reset) = commands_under("provision/CHECKLIST.md", "A machine goes back")
        system.run(*stop.split())
        assert "switch the machine off and on" in system.run(*reset.split(), "--yes").stdout
        assert system.said("ls", "/var/lib/edgegw") == "spent-claims.json"
    with System(root, var) as system:
        waits(system)


def waits(system: System) -> None:
    """Wait until the machine waits for a claim."""
    until(
        lambda: "waits for a claim" in system.property("edgegw-first-boot", "StatusText"),
        "the machine to wait for a claim",
    )


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait as long as a busy machine may need."""
    wait_until(condition, what, timeout_seconds=SECONDS)
