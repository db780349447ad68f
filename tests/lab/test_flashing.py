"""A server is flashed as firmware/README.md says: from a stick, and over the network."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from firmware import roots
from firmware.image import Image
from firmware.keys import keys
from firmware.sandbox import in_tools
from tests.lab.server import NVME, SATA, SERIAL, Server
from tests.lab.skips import MACHINE, needs
from tests.lab.sticks import write_stick

pytestmark = [
    pytest.mark.lab_long,
    pytest.mark.xdist_group("machine"),
    pytest.mark.timeout(1_800),
    needs(MACHINE),
]
STARTED_S = 400
WRITTEN_S = 600
_STICK_MIB = 1_536


def bare_server(folder: Path, *, controller: str) -> Server:
    """A server with an empty disk, and a firmware that starts nothing that the lab did not sign."""
    folder.mkdir(exist_ok=True)
    (folder / "empty.img").touch()
    os.truncate(folder / "empty.img", 1 << 20)
    tools = roots.ready("tools").path
    # It stays on when its power goes off: what it said last is read then.
    return Server(
        folder,
        controller=controller,
        image=folder / "empty.img",
        tools=tools,
        keys=keys(),
        ports=(8090,),
        tpm=False,
        extra=("-no-shutdown",),
    )


def flashing_stick(stick: Path, made: Image, *, tools: Path) -> None:
    """A stick with the flasher where firmware looks, and the image."""
    assert made.flasher is not None
    files = {"EFI/BOOT/BOOTX64.EFI": made.flasher, made.disk.name: made.disk}
    write_stick(stick, files, tools=tools, mib=_STICK_MIB, label="TOOLS")


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A folder of the flashing bench, which its TFTP and its HTTP server both give out."""
    folder = tmp_path / "vm/bench"
    folder.mkdir(parents=True)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    # The flasher asks the server that its start came from, at HTTP's own port.
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 80), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_is_flashed_from_a_stick(tmp_path: Path, server_image: Image) -> None:
    """A technician has a stick and no Linux; under Secure Boot no stranger's live system starts either."""
    with bare_server(tmp_path / "vm", controller=NVME) as server:
        server.stick = server.folder / "stick.img"
        flashing_stick(server.stick, server_image, tools=server.tools)
        server.start()
        server.wait_said("the image is on this stick", timeout_s=STARTED_S)
        server.wait_said("WRITTEN to nvme0n1", timeout_s=WRITTEN_S)
        server.cut()
        server.stick = None
        server.start()
        server.wait_said("this is slot a", timeout_s=STARTED_S)
        server.wait_http(8090, "/", timeout_s=WRITTEN_S)


def test_a_disk_that_holds_something_is_written_over_the_network_only_if_it_was_named(
    tmp_path: Path, server_image: Image, shared: Path
) -> None:
    """A server that starts over the network by mistake must not lose its disk."""
    assert server_image.flasher is not None
    shutil.copyfile(server_image.flasher, shared / "flash.efi")
    (shared / server_image.disk.name).symlink_to(server_image.disk)
    with bare_server(tmp_path / "vm", controller=SATA) as server:
        with (server.folder / "empty.img").open("r+b") as disk:
            disk.write(b"somebody's books")
        server.network_start = (shared, "flash.efi")
        server.start()
        server.wait_said(f"serial {SERIAL}: holds something, left alone", timeout_s=STARTED_S)
        server.wait_said("STOPPED: there are 0 disks to write to", timeout_s=30)
        server.cut()
        (shared / "disks.txt").write_text(f"{SERIAL}\n")
        server.start()
        server.wait_said("the image comes from 10.0.3.2", timeout_s=STARTED_S)
        server.wait_said("WRITTEN to sda", timeout_s=WRITTEN_S)


def test_an_image_that_is_not_the_flashers_own_leaves_an_empty_disk(
    tmp_path: Path, server_image: Image
) -> None:
    """The bench's network and its sticks are trusted by nobody: the flasher knows its image by the hash."""
    with bare_server(tmp_path / "vm", controller=SATA) as server:
        changed = tmp_path / server_image.disk.name
        in_tools(
            server.tools,
            ["cp", "--sparse=always", server_image.disk, changed],
            doing="copying the image",
            writable=[tmp_path, server_image.disk.parent],
        )
        with changed.open("r+b") as file:
            file.seek(500 << 20)
            file.write(b"!")
        stick = server.folder / "stick.img"
        server.stick = stick
        flashing_stick(stick, msgspec.structs.replace(server_image, disk=changed), tools=server.tools)
        server.start()
        server.wait_said("is not the image that belongs to this flasher", timeout_s=WRITTEN_S)
