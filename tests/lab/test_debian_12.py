"""The playbooks on the Debian before today's: another systemd, another Python, another OpenSSH."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.controller import Controller
from tests.lab.fleet import Fleet
from tests.lab.skips import FLEET, skip_without

pytestmark = [pytest.mark.lab_long, pytest.mark.xdist_group("fleet"), pytest.mark.timeout(3_600)]
HOSTS = {"hub": "10.99.0.10", "box-1": "10.99.0.11"}
SITE = {
    "bank": "lab",
    "version": 1,
    "currencies": [{"code": "CNY", "numeric": 156}],
    "accounts": [{"id": "shop", "currency": "CNY", "home": "box-1"}],
}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    skip_without(FLEET)
    from firmware import roots

    fleet = Fleet(roots.ready("lab-host-bookworm").path, tmp_path_factory.mktemp("bookworm"), HOSTS)
    fleet.start()
    try:
        yield fleet
    finally:
        fleet.stop()


def test_servers_of_debian_12_become_a_hub_and_a_box_that_serves(fleet: Fleet, tmp_path: Path) -> None:
    """A site that is told "12 or 13" finds out on its own machines whether it is true."""
    controller = Controller.of(fleet, tmp_path)
    assert fleet.on("box-1", "cat", "/etc/debian_version").stdout.startswith("12.")
    (tmp_path / "site.json").write_text(json.dumps(SITE))
    release = controller.release(python="3.11")
    words = ("-e", f"site_file={tmp_path / 'site.json'}", "--limit", ",".join(HOSTS))
    assert all(controller.play("site", *words, release=release).changed.values())
    # The play itself has waited for the box to take payments; its own word, and its firewall:
    told = fleet.on("box-1", "runuser -u edgegw -- edgegw status /var/lib/edgegw/box.toml --json")
    assert json.loads(told.stdout)["ready"] is True
    assert "{ 8443 }" in fleet.on("box-1", "nft", "list", "set", "inet", "edgegw", "ways_in").stdout
    assert fleet.on("box-1", "systemctl", "--failed", "--plain", "--no-legend").stdout == ""
    assert controller.play("site", *words, release=release).changed == dict.fromkeys(HOSTS, 0)
