"""A bank in a folder for one drill: hub and box as real processes, a till that keeps every answer, and disks
that are copied, put back and taken away.
"""

from __future__ import annotations

import copy
import json
import random
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.mirror.branch import MirroredBranch
from tests.processes import START_SECONDS, Branch
from tests.waiting import wait_until


class Bank(Branch):
    """See the module. What a till was told is kept and held against the hub's books at the end."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.chance = chance
        self.answered: dict[str, tuple[str, int, bytes]] = {}
        """Per id: who pays, how much, and the answer's bytes."""
        self.images = 0
        self.twins: list[Bank] = []
        super().__init__(folder)

    # --- what a till does -----------------------------------------------------------------------------------

    def sell(self, count: int, *, accounts: tuple[str, ...] = ("alice", "bob")) -> None:
        """So many payments of some accounts; each must be cleared."""
        for _ in range(count):
            payer, amount_minor = self.chance.choice(accounts), self.chance.randint(1, 300)
            id = f"{self.chance.getrandbits(128):032x}"
            reply = self.pay(payer, amount_minor, id=id)
            assert reply.status == 201, (payer, amount_minor, reply)
            assert reply.json["outcome"] == "cleared", reply
            self.answered[id] = (payer, amount_minor, reply.body)

    def repeats_agree(self, ids: list[str]) -> None:
        """A till that asks again hears the first answer, byte for byte."""
        for id in ids:
            payer, amount_minor, body = self.answered[id]
            again = self.pay(payer, amount_minor, id=id)
            assert (again.body, again.headers.get("Idempotent-Replay")) == (body, "true"), (id, again)

    def outcomes_agree(self, ids: list[str]) -> None:
        """A till that asks again what the other history of a fork answered hears the same outcome: the record
        is not here."""
        for id in ids:
            payer, amount_minor, body = self.answered[id]
            again = self.pay(payer, amount_minor, id=id)
            assert again.headers.get("Idempotent-Replay") == "true", (id, again)
            first = json.loads(body) | {"legs": [], "detail": again.json["detail"]}
            assert again.json == first, (again.json, first)

    def clears_nothing(self) -> None:
        """A new payment is not decided, and its id stays free."""
        reply = self.pay("alice", 1)
        assert reply.status == 503, reply

    # --- a second box from the same disk --------------------------------------------------------------------

    def twin(self) -> Bank:
        """A clone: the stopped box's disk, second medium and keys, in another machine with the same hub."""
        folder = self.image()
        shutil.copy2(self.folder / "box.toml", folder / "box.toml")
        other = copy.copy(self)
        other.folder, other.box, other.answered = folder, None, {}
        self.twins.append(other)
        return other

    def wait_until_not_both_clear(self, other: Bank) -> None:
        """Of two live boots of one epoch at most one clears."""
        self.until(
            lambda: not (self.status()["clears"] and other.status()["clears"]),
            "one of two boots of one epoch to be fenced",
        )

    # --- processes and disks --------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether the box's process lives."""
        return self.box is not None and self.box.popen.poll() is None

    def end(self) -> None:
        """Kill what still runs, twins too."""
        for twin in self.twins:
            if twin.box is not None:
                twin.box.end(signal.SIGKILL)
        super().end()

    def stop_box(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the box as told: by a power cut unless a clean stop is asked for."""
        assert self.box is not None
        self.box.end(number)

    def stop_hub(self) -> None:
        """Take the line down."""
        assert self.hub is not None
        self.hub.end(signal.SIGKILL)

    def image(self) -> Path:
        """A copy of the stopped box's disk, anchor and secrets included."""
        self.images += 1
        target = self.folder / f"image-{self.images}"
        for name in ("data", "anchor", "secrets"):
            shutil.copytree(self.folder / name, target / name)
        return target

    def put_back(self, image: Path, *, anchor: bool) -> None:
        """An old disk in the stopped box, with or without the second medium."""
        for name in ("data", "anchor") if anchor else ("data",):
            self.wipe(name)
            shutil.copytree(image / name, self.folder / name)

    def wipe(self, name: str) -> None:
        """A disk that is gone."""
        shutil.rmtree(self.folder / name)

    def hub_image(self) -> Path:
        """A copy of the stopped hub's database."""
        self.images += 1
        target = self.folder / f"hub-image-{self.images}"
        target.mkdir()
        for file in self.folder.glob("hub.db*"):
            shutil.copy2(file, target / file.name)
        return target

    def put_hub_back(self, image: Path) -> None:
        """The stopped hub's database as it was."""
        for file in self.folder.glob("hub.db*"):
            file.unlink()
        for file in image.iterdir():
            shutil.copy2(file, self.folder / file.name)

    # --- what the box and the hub say -----------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """The box's own word."""
        return dict(self.call("GET", "/v1/status").json)

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for something, START_SECONDS at most."""

        def holds() -> bool:
            with suppress(OSError):
                return condition()
            return False

        wait_until(holds, what, timeout_seconds=START_SECONDS)

    def wait_until_ready(self) -> None:
        """The box takes payments."""
        self.until(lambda: self.call("GET", "/readyz").status == 200, "the box to take payments")

    def wait_until_synced(self) -> None:
        """The line is up and the hub has all."""

        def synced() -> bool:
            said = self.status()
            return said["mode"] == "active" and said["records_waiting"] == 0

        self.until(synced, "box and hub to agree")


class MirroredBank(Bank, MirroredBranch):
    """A bank whose box answers only what its mirror has too."""

    def stop_mirror(self) -> None:
        """Take the mirror away."""
        assert self.mirror is not None
        self.mirror.end(signal.SIGKILL)
