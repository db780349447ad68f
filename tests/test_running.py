"""What a box says beside its ledger of where it listens."""

import subprocess
import sys
from pathlib import Path

import msgspec

from edgegw.config.box import Box, BoxSettings, HubTable
from edgegw.discovery.finder import discovery_of
from edgegw.machine import started
from edgegw.payments.protocols.http import HttpOptions
from edgegw.running import RUNNING_NAME, Announcement, RunningBox
from edgegw.update.health import running_box


class Listening:
    """A way in that is open."""

    addresses: tuple[str, ...] = ("127.0.0.1:8443",)


def announce(folder: Path) -> Path:
    """What this process says as a box that has no way in but its own word; the file."""
    settings = BoxSettings(bank="b1", box="box-1", hub=HubTable(addresses=()), data_dir=str(folder))
    box = Box(settings=settings, protocols={}, digest="")
    announcement = Announcement(box, {}, None, None, discovery_of(settings))
    announcement.is_open = True
    announcement.write(None, None, None, 0)
    return folder / RUNNING_NAME


def test_the_word_of_a_boot_before_is_no_running_box(tmp_path: Path) -> None:
    """After a power cut its number was the agent's: a box that never came up was called alive, and a broken
    image kept; its window that was due held up every restart."""
    path = announce(tmp_path)
    assert running_box(tmp_path, started) is not None
    said = msgspec.json.decode(path.read_bytes())
    boot, _, ticks = said["started"].partition(" ")
    path.write_bytes(msgspec.json.encode(said | {"started": f"{boot[::-1]} {ticks}"}))
    assert running_box(tmp_path, started) is None
    with subprocess.Popen([sys.executable, "-c", "input()", "edgegw"], stdin=subprocess.PIPE) as other:
        path.write_bytes(msgspec.json.encode(said | {"pid": other.pid}))
        assert running_box(tmp_path, started) is None, "another process of this boot has the number now"
        path.write_bytes(msgspec.json.encode(said | {"pid": other.pid, "started": started(other.pid)}))
        assert running_box(tmp_path, started) is not None
    assert running_box(tmp_path, started) is None, "it has ended"


def test_nothing_is_said_before_every_way_in_is_open(tmp_path: Path) -> None:
    """A box that read a long ledger first said "open" without an address, a second after its start."""
    settings = BoxSettings(bank="b1", box="box-1", hub=HubTable(addresses=()), data_dir=str(tmp_path))
    servers: dict[str, Listening] = {}
    box = Box(settings=settings, protocols={"http": HttpOptions()}, digest="")
    discovery = discovery_of(settings)
    announcement = Announcement(box, servers, None, None, discovery)  # type: ignore[arg-type]
    announcement.write(None, None, None, 0)
    assert list(tmp_path.iterdir()) == []
    servers["http"] = Listening()
    announcement.is_open = True
    announcement.write(None, None, None, 0)
    said = msgspec.json.decode((tmp_path / RUNNING_NAME).read_bytes(), type=RunningBox)
    assert said.addresses == {"http": Listening.addresses}
    # A stop closes one way in after the other while the box still tells what it does.
    servers["http"].addresses = ()
    announcement.write(None, None, None, 0)
    said = msgspec.json.decode((tmp_path / RUNNING_NAME).read_bytes(), type=RunningBox)
    assert said.addresses == {"http": ()}
