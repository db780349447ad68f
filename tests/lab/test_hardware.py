"""The image for branch servers, in machines that have nothing virtual: it finds disk, cards, TPM itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from firmware import roots
from firmware.image import Image, releases, update
from firmware.keys import keys
from tests.lab.centre import HTTP_PORT, Centre, Till
from tests.lab.server import NVME, SATA, Server
from tests.lab.skips import MACHINE, needs
from tests.lab.sticks import listed, write_stick
from tests.lab.vm import Machine

pytestmark = [
    pytest.mark.lab_long,
    pytest.mark.xdist_group("machine"),
    pytest.mark.timeout(1_800),
    needs(MACHINE),
]


@pytest.fixture
def server(tmp_path: Path, server_image: Image) -> Iterator[tuple[Server, Till]]:
    """A server that was flashed, its claim, and the centre that it enrols at."""
    found = keys()
    centre = Centre(tmp_path / "centre", releases(found))
    claim = centre.claim()
    centre.open_site()
    centre.start()
    machine = Server(
        tmp_path / "vm",
        controller=NVME,
        image=server_image.disk,
        tools=roots.ready("tools").path,
        keys=found,
        ports=(HTTP_PORT, 8090),
        claim=claim,
    )
    try:
        with machine:
            yield machine, Till(machine, centre)
    finally:
        centre.stop()


def test_a_server_serves_from_whatever_its_disk_hangs_on(server: tuple[Server, Till]) -> None:
    """A driver that the initial RAM disk lacks is a branch that stands still, after a trip there."""
    machine, till = server
    machine.start()
    machine.wait_said("this is slot a", timeout_s=400)
    till.wait_ready(timeout_s=600)
    till.wait_mode("active")
    till.pay()
    machine.cut()
    machine.controller = SATA
    machine.start()
    machine.wait_said("this is slot a", timeout_s=400)
    till.wait_ready(timeout_s=600)
    till.pay()


def test_a_server_without_a_line_gets_its_claim_and_an_update_from_sticks(
    server: tuple[Server, Till], server_image: Image, tmp_path: Path
) -> None:
    """Where a line is thin or not yet laid, a technician's pocket is the line."""
    machine, till = server
    centre, stick, tools = till.centre, machine.folder / "stick.img", machine.tools
    claim, machine.claim = machine.claim, None
    assert claim is not None
    (tmp_path / "claim.json").write_text(claim)
    write_stick(stick, {"edgegw/claim.json": tmp_path / "claim.json"}, tools=tools, mib=64)
    machine.start()
    machine.wait_http(8090, "/", timeout_s=600)
    machine.plug_in(stick)
    till.wait_ready(timeout_s=600)
    till.wait_mode("active")
    till.pay()
    machine.pull_out()
    assert "claim" not in listed(stick, tools=tools).lower()
    assert json.loads(claim)["seed"].encode() not in stick.read_bytes()
    machine.unplug("wan")
    till.wait_mode("offline")
    centre.sign(update("hardware", build=2))
    (tmp_path / "updates").mkdir()
    centre.publish(tmp_path / "updates")
    # Without it the box keeps waiting: records are on the way that only it holds.
    (tmp_path / "updates/NOW").touch()
    found = [path for path in (tmp_path / "updates").rglob("*") if path.is_file()]
    files = {f"edgegw/updates/{path.relative_to(tmp_path / 'updates')}": path for path in found}
    write_stick(stick, files, tools=tools, mib=512)
    machine.plug_in(stick)
    machine.wait_said("this is slot b, version 0.1.0+2", timeout_s=900)
    till.wait_ready(timeout_s=600)
    till.pay()
    machine.unplug("wan", plugged=True)
    centre.wait_version("0.1.0+2", timeout_s=300)
    centre.wait_payments(till.answered)


def test_words_that_a_machine_adds_for_the_kernel_stop_the_start(tmp_path: Path, server_image: Image) -> None:
    """Whoever writes a board's SMBIOS tables must not get a shell before the root is proven."""
    added = "io.systemd.stub.kernel-cmdline-extra=rdinit=/bin/sh"
    with Machine(
        tmp_path / "vm",
        image=server_image.disk,
        tools=roots.ready("tools").path,
        keys=keys(),
        tpm=False,
        extra=("-smbios", f"type=11,value={added}"),
    ) as machine:
        machine.start()
        machine.wait_said("STOPPED: the kernel was given words that nobody signed", timeout_s=400)
