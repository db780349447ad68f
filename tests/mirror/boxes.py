"""A box for the mirror's tests: true records of its epochs, signed, as packages and openings."""

import secrets
from typing import Any

from edgegw.access.keys import SigningKey
from edgegw.core import records
from edgegw.core.messages import SESSION_BYTES, Beat, Beaten, LinkNote, LogHead, Open, Opened, sign_link
from edgegw.core.records import Mode
from edgegw.mirror.keeper import Keeper
from tests.core.authors import BANK, BOX, Author, new_key

HUB_KEY = new_key(f"{BANK}/hub")
MIRROR_KEY = new_key(f"{BANK}/mirror-1")
DEVICE_KEY = new_key(f"{BANK}/{BOX}")


class Epoch(Author):
    """An epoch of a box whose first record is a link that the hub has signed."""

    def __init__(self, number: int = 1, *, hub: SigningKey = HUB_KEY, **link: Any) -> None:
        super().__init__(new_key(f"{BANK}/{BOX}/checkpoint"), number=number)
        note = {
            "bank": BANK,
            "box": BOX,
            "epoch": number,
            "key": self.key.public.text(),
            "old_epoch": number - 1,
            "old_size": 0,
            "old_root": "",
        } | link
        self.write(records.Link(**self.fields(), note=sign_link(LinkNote(**note), hub)))

    def fields(self) -> dict[str, Any]:
        seq = len(self.bodies)
        times = {"at_ns": seq + 1, "wall_ns": seq + 1, "mono_ns": seq + 1}
        return {"v": 1, "bank": BANK, "box": BOX, "epoch": self.number, "seq": seq, **times}

    def write(self, record: records.Record) -> None:
        self.append_body(records.encode(record))

    def write_many(self, count: int, text: str = "done") -> None:
        for _ in range(count):
            self.write(records.Operator(**self.fields(), operator="ann", action=text, detail=""))

    def part(self, size: int) -> LogHead:
        return LogHead(self.number, size, self.root(size) if size else b"")

    def copy(self) -> "Epoch":
        """The same disk, once more."""
        other = Epoch.__new__(Epoch)
        other.__dict__ = {**self.__dict__, "bodies": self.bodies.copy(), "leaves": self.leaves.copy()}
        return other


def opening(*heads: LogHead, boot: str = "boot-1", mode: Mode = Mode.OFFLINE) -> Open:
    """A box that says that it has these heads, the last one of its own epoch."""
    return Open(
        version=1,
        version_oldest=1,
        bank=BANK,
        box=BOX,
        boot=boot,
        epoch=heads[-1].number if heads else 0,
        key="",
        mode=mode,
        journals=heads,
    )


class Conversation:
    """One boot's messages to a keeper."""

    def __init__(self, keeper: Keeper, *, boot: str = "boot-1") -> None:
        self.keeper = keeper
        self.boot = boot
        self.opened: Opened | None = None
        self._session = b""
        self._counter = 0

    def open(self, *heads: LogHead, mode: Mode = Mode.OFFLINE) -> Opened:
        self._counter = 0
        self._session = secrets.token_bytes(SESSION_BYTES)
        self.opened = self.keeper.opened(opening(*heads, boot=self.boot, mode=mode), candidate=self._session)
        return self.opened

    def beat(self, **fields: Any) -> Beaten:
        self._counter += 1
        beat = Beat(directives=LogHead(0), **fields)
        return self.keeper.beaten(beat, session=self._session, counter=self._counter)
