"""A first boot on a root that boots: real systemd and all of the hardening, from a stick to serving, and back
to a machine that waits for a claim."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.docs.test_provision import commands_under
from tests.lab.first_box import STICK, become_box, prepared_centre, waits
from tests.lab.skips import SYSTEM, needs
from tests.lab.system import System

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600), needs(SYSTEM)]
STATUS = ("runuser", "-u", "edgegw", "--", "edgegw", "first-boot", "--status")


@pytest.fixture(scope="module")
def centre(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared_centre(tmp_path_factory.mktemp("centre"))


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
        become_box(system)
        assert system.property("edgegw-first-boot", "Result") == "success"
        assert "mybank/branch-1 takes payments" in system.run(*STATUS).stdout
        assert system.run("test", "-e", STICK, check=False).returncode == 1
        _, (stop, reset) = commands_under("provision/CHECKLIST.md", "A machine goes back")
        system.run(*stop.split())
        assert "switch the machine off and on" in system.run(*reset.split(), "--yes").stdout
        assert system.said("ls", "/var/lib/edgegw") == "spent-claims.json"
    with System(root, var) as system:
        waits(system)
