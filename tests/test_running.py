"""What a box says beside its ledger of where it listens."""

from pathlib import Path

import msgspec

from edgegw.config.box import Box, BoxSettings, HubTable
from edgegw.discovery.finder import discovery_of
from edgegw.payments.protocols.http import HttpOptions
from edgegw.running import RUNNING_NAME, Announcement, RunningBox


class Listening:
    """A way in that is open."""

    addresses: tuple[str, ...] = ("127.0.0.1:8443",)


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
