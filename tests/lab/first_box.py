"""The appliance's root, booted in namespaces, on its way to a box: a centre beside it, a claim on a stick.

As provision/README.md has it for people. Leaves out what is tried on the box.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.docs.test_provision import commands_under
from tests.lab.system import System
from tests.waiting import wait_until

STICK: Final = "/run/edgegw-stick/edgegw/claim.json"
_SECONDS: Final = 180.0
_SITE: Final = '{"bank":"mybank","version":1,"currencies":[{"code":"CNY","numeric":156}],"accounts":[]}'


def prepared_centre(folder: Path) -> Path:
    """The folder of a hub as the centre's page makes it, with a claim, a replacement's claim and a site."""
    ((*prepared, _),) = commands_under("provision/README.md", "The centre, once")
    claim, *_ = commands_under("provision/README.md", "A claim")
    (folder / "site.json").write_text(_SITE)
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


def become_box(system: System) -> None:
    """Run the centre that lies in the system's /var/centre, and put its claim in; it is a box then."""
    hub = ("systemd-run", "--unit=hub", "--working-directory=/var/centre", "edgegw", "hub", "hub.toml")
    system.run(*hub)
    _until(lambda: '"open"' in system.said("journalctl", "--unit=hub", "--output=cat"), "the hub to serve")
    system.run("runuser", "-u", "edgegw", "--", "mkdir", "-p", str(Path(STICK).parent))
    system.run("install", "-o", "edgegw", "-m", "600", "/var/centre/claim.json", STICK)
    _until(lambda: system.property("edgegw-first-boot", "ActiveState") == "inactive", "the box to serve")


def waits(system: System) -> None:
    """Wait until the machine waits for a claim."""
    _until(
        lambda: "waits for a claim" in system.property("edgegw-first-boot", "StatusText"),
        "the machine to wait for a claim",
    )


def _until(condition: Callable[[], bool], what: str) -> None:
    """Wait as long as a busy machine may need."""
    wait_until(condition, what, timeout_seconds=_SECONDS)
