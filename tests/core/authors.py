"""An author of a log for tests: appends records, signs its head, and packs any part of it, true or not."""

from typing import Any

import msgspec

from edgegw.access.keys import SigningKey
from edgegw.core import journal
from edgegw.core.exchange import HeldLog, PackageJudgement
from edgegw.core.messages import LogHead, Package
from edgegw.sm.sm2 import PrivateKey

BANK, BOX = "demo-bank", "branch-1"


def new_key(name: str) -> SigningKey:
    return SigningKey(name, PrivateKey.generate())


class Author:
    """A log with a key: a box's journal (`field` is epoch) or a hub's directives (incarnation)."""

    def __init__(self, key: SigningKey, *, number: int = 1, field: str = "epoch") -> None:
        self.key = key
        self.number = number
        self.field = field
        self.bodies: list[bytes] = []
        self.leaves: list[bytes] = []

    @property
    def origin(self) -> str:
        if self.field == "epoch":
            return journal.journal_origin(bank=BANK, box=BOX, epoch=self.number)
        return journal.directives_origin(bank=BANK, box=BOX, incarnation=self.number)

    def append(self, *texts: str) -> None:
        for text in texts:
            self.append_body(self.body(text))

    def body(self, text: str, **changes: Any) -> bytes:
        place = {"bank": BANK, "box": BOX, self.field: self.number, "seq": len(self.bodies)}
        return msgspec.json.encode({"type": "operator", "v": 1, **place, "text": text, **changes})

    def append_body(self, body: bytes) -> None:
        previous = self.leaves[-1] if self.leaves else journal.FIRST_PREVIOUS
        self.bodies.append(body)
        self.leaves.append(journal.leaf_hash(previous, body))

    def root(self, size: int | None = None) -> bytes:
        frontier = journal.Frontier()
        frontier.extend(self.leaves[:size])
        return frontier.root()

    def checkpoint(self, size: int | None = None) -> str:
        size = len(self.bodies) if size is None else size
        return self.key.seal(journal.Checkpoint(self.origin, size, self.root(size)).body())

    def head(self) -> LogHead:
        return LogHead(self.number, len(self.bodies), self.root() if self.bodies else b"")

    def node(self, size: int | None = None) -> journal.Node:
        return journal.nodes_of(self.leaves[:size])

    def package(self, start: int, stop: int, *, head: int | None = None) -> Package:
        head = len(self.bodies) if head is None else head
        return Package(
            number=self.number,
            old_size=start,
            records=tuple(self.bodies[start:stop]),
            root=self.root(stop),
            checkpoint=self.checkpoint(head),
            proof=tuple(journal.consistency_proof(stop, head, self.node(head))) if stop else (),
        )


class Reader:
    """The other side of a log: keeps what it accepts."""

    def __init__(self, number: int = 1) -> None:
        self.number = number
        self.bodies: list[bytes] = []
        self.leaves: list[bytes] = []
        self.frontier = journal.Frontier()
        self.roots: dict[int, bytes] = {}

    def held(self) -> HeldLog:
        return HeldLog(self.number, self.frontier, self.leaves.__getitem__, self.roots.get)

    def keep(self, judged: PackageJudgement) -> None:
        assert judged.frontier is not None
        self.bodies += judged.records
        self.leaves += judged.leaves
        self.frontier = judged.frontier
        self.number = judged.head.number
        self.roots[judged.head.size] = judged.head.root
