"""A box that answers what its mirror has on disk, too, beside one whose mirror only follows."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from edgegw.running import RUNNING_NAME
from tests.bench.box import Box, BoxLane
from tests.bench.place import Place
from tests.bench.rounds import Comparison, Group, Lane
from tests.ports import free_ports
from tests.processes import Process, edgegw
from tests.waiting import wait_until

MIRRORED = "edgegw, HTTP, 64 connections, durability mirrored"
LOCAL = "edgegw, HTTP, 64 connections, durability local with a mirror"


class MirroredBox(Box):
    """A box with a mirror on the same machine."""

    def __init__(self, place: Place, *, durability: str) -> None:
        super().__init__(place, name=f"{durability}-box")
        self._durability = durability

    def copied(self) -> Path:
        """A copy of the world whose box knows its mirror."""
        folder = super().copied()
        key, [port] = folder / "secrets" / "mirror.pem", free_ports(1)
        words = ("keygen", "mirror", "--bank", "b1", "--mirror", "mirror-1", "--out", str(key))
        made = edgegw(*words)
        assert made.exit_code == 0, made.output
        device = (folder / "secrets" / "device.pub").read_text().strip()
        (folder / "mirror.toml").write_text(
            'bank = "b1"\nmirror = "mirror-1"\nhub_key_file = "secrets/hub.pub"\n'
            f'listen = ["127.0.0.1:{port}"]\n[boxes]\nbox-1 = "{device}"\n'
        )
        with (folder / "box.toml").open("a") as settings:
            settings.write(
                f'\n[mirror]\nkey_file = "secrets/mirror.pub"\ndurability = "{self._durability}"\n'
                f'when_away = "refuse"\n[[mirror.addresses]]\nurl = "http://127.0.0.1:{port}"\n'
            )
        return folder

    def open(self, stack: ExitStack) -> None:
        """The mirror ends after its box."""
        stack.callback(self._end_mirror)
        super().open(stack)

    def start(self) -> None:
        """The mirror first; ready is a box whose mirror has all that was written before it came."""
        self._mirror = Process("mirror", folder=self.folder, log=self._place.fresh("mirror.log"))
        self._mirror.opened()
        super().start()
        wait_until(self._is_followed, "the mirror to have all", timeout_seconds=120.0)

    def _is_followed(self) -> bool:
        path = self.folder / "data" / RUNNING_NAME
        told: dict[str, Any] = json.loads(path.read_text())["mirror"] if path.exists() else {}
        return told.get("durability") == self._durability and told.get("lacking_records") == 0

    def _end_mirror(self) -> None:
        if self._mirror.popen.poll() is None:
            self._mirror.end(signal.SIGTERM)


def lanes(place: Place) -> Sequence[Lane]:
    """Two boxes with a mirror each."""
    return (
        BoxLane(MirroredBox(place, durability="mirrored"), name=MIRRORED, connections=64),
        BoxLane(MirroredBox(place, durability="local"), name=LOCAL, connections=64),
    )


GROUP = Group(
    name="mirrored",
    about="a mirror takes, verifies and keeps every record on the same machine; one box waits for it",
    lanes=lanes,
    comparisons=(Comparison(name="durability mirrored / local", ours=MIRRORED, peer=LOCAL),),
    quick=False,
)
