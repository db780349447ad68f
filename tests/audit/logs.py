"""Logs as a box would have written them, made from a seed, quickly: what the auditor's tools are tried on.

Records are encoded by the package's own structs, so they look as real ones do; what they mean for balances is
nobody's business here. The signatures are real ones of keys that are made anew in each run.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from edgegw.access.keys import SigningKey
from edgegw.core import export, journal
from edgegw.core.journal import FIRST_PREVIOUS, Checkpoint, Frontier, nodes_of
from edgegw.core.messages import LinkNote, sign_link
from edgegw.core.records import (
    BatchTotals,
    Boot,
    ClearedBy,
    HealthChanged,
    KeyIntroduced,
    Kind,
    Leg,
    Link,
    MerchantBatch,
    Mode,
    ModeChanged,
    Operator,
    Position,
    Record,
    Refusal,
    Request,
    SiteReturned,
    Transfer,
    WindowClosed,
    encode,
)
from edgegw.sm.sm2 import PrivateKey

BANK, BOX = "bank", "branch-7"
TIME_S = 1_800_000_000
SHOPS = ("baker", "butcher", "面包店", "café", "kiosk")


class Author(NamedTuple):
    """A box in one epoch, the hub that linked it, and what they sign with."""

    box: SigningKey
    hub: SigningKey
    epoch: int = 1

    @classmethod
    def new(cls, *, epoch: int = 1, hub: SigningKey | None = None) -> Author:
        """Fresh keys."""
        return cls(
            SigningKey(f"{BANK}/{BOX}/{epoch}", PrivateKey.generate()),
            hub or SigningKey(f"{BANK}/hub", PrivateKey.generate()),
            epoch,
        )

    @property
    def origin(self) -> str:
        """The origin of its journal."""
        return journal.journal_origin(bank=BANK, box=BOX, epoch=self.epoch)

    def link(self, *, old_epoch: int = 0, old_size: int = 0, old_root: str = "") -> str:
        """The hub's signed word that this epoch is this box's."""
        link = LinkNote(
            bank=BANK,
            box=BOX,
            epoch=self.epoch,
            key=self.box.public.text(),
            old_epoch=old_epoch,
            old_size=old_size,
            old_root=old_root,
        )
        return sign_link(link, self.hub)

    def arguments(self, *, hub: bool) -> list[str]:
        """The keys as the verifier's command line takes them."""
        return ["--box-key", self.box.public.text(), *(["--hub-key", self.hub.public.text()] if hub else [])]


def records(author: Author, size: int, seed: int) -> Iterator[bytes]:
    """The records of an epoch, link, key and boot first, then an ordinary day's mixture."""
    rng = random.Random(seed)
    for seq in range(size):
        head: dict[str, Any] = {"v": 1, "bank": BANK, "box": BOX, "epoch": author.epoch, "seq": seq}
        at_ns = TIME_S * 10**9 + seq * 10**6
        head |= {"at_ns": at_ns, "wall_ns": at_ns + rng.randrange(10**6), "mono_ns": seq * 10**6}
        yield encode(_record(author, head, seq, rng))


def _record(author: Author, head: dict[str, Any], seq: int, rng: random.Random) -> Record:
    if seq == 0:
        return Link(**head, note=author.link())
    if seq == 1:
        return KeyIntroduced(**head, key=author.box.public.text())
    kind = rng.randrange(100)
    if seq == 2 or kind == 0:
        return Boot(**head, boot=f"{rng.getrandbits(128):032x}", version="1", box_digest="", site_digest="")
    if kind == 1:
        return ModeChanged(**head, mode=Mode.OFFLINE, previous=Mode.ACTIVE, reason=rng.choice(SHOPS))
    if kind == 2:
        positions = (Position("city", "CNY", 5), Position("land", "CNY", -5))
        day = {"window": seq, "business_date": "2027-01-15", "transfers": seq, "closed_by": "hour"}
        return WindowClosed(**head, **day, positions=positions)
    if kind == 3:
        return Operator(**head, operator="clerk", action="new-window", detail=rng.choice(SHOPS))
    if kind == 4:
        digests = {"left_digest": f"{rng.getrandbits(256):064x}", "digest": f"{rng.getrandbits(256):064x}"}
        return SiteReturned(**head, version=seq, **digests, reason=rng.choice(SHOPS))
    if kind == 6:
        levels = {"level": rng.choice(("well", "pause")), "previous": "shed"}
        return HealthChanged(**head, check="memory", subject="", **levels, reason=rng.choice(SHOPS))
    if kind == 5:
        return _batch_closed(head, seq, rng)
    request = Request(
        kind=Kind.PAYMENT,
        id=f"{0x019300000000 + seq:012x}{rng.getrandbits(80):020x}",
        debit_account_id=f"customer-{rng.randrange(10_000)}",
        credit_account_id=rng.choice(("baker", "butcher", "kiosk")),
        amount_minor=rng.randrange(1, 100_000),
        currency="CNY",
        terminal=f"T{rng.randrange(1000):07}",
        reference=f"{rng.choice(SHOPS)} {rng.randrange(10**6)}",
    )
    if kind < 10:
        return Refusal(**head, client="till", request=request, code="insufficient_funds", detail="0 are left")
    legs = (Leg(request.debit_account_id, request.credit_account_id, request.amount_minor),)
    return Transfer(
        **head, window=1, client="till", request=request, cleared_by=ClearedBy.ALLOWANCE, legs=legs
    )


def _batch_closed(head: dict[str, Any], seq: int, rng: random.Random) -> Transfer:
    figures = {"payments_count": rng.randrange(9), "refunds_minor": rng.randrange(10**6)}
    totals = tuple(BatchTotals(currency=code, **figures) for code in ("CNY", "EUR"))
    identity = f"{0x019300000000 + seq:012x}{rng.getrandbits(80):020x}"
    request = Request(
        kind=Kind.CLOSE_BATCH, id=identity, merchant="Corner Shop", terminal="T1", totals=totals
    )
    batch = MerchantBatch(number=seq, totals=totals)
    return Transfer(
        **head, window=1, client="till", request=request, cleared_by=ClearedBy.ALLOWANCE, batch=batch
    )


class Log(NamedTuple):
    """A whole log in memory, and the documents that an auditor gets of it."""

    author: Author
    records: Sequence[bytes]
    leaves: list[bytes]

    @classmethod
    def of(cls, author: Author, bodies: Sequence[bytes]) -> Log:
        """The log of these records."""
        return cls(author, bodies, journal.chain(FIRST_PREVIOUS, bodies))

    def head(self, size: int | None = None) -> Checkpoint:
        """Its head as it was at a size."""
        frontier = Frontier()
        frontier.extend(self.leaves[:size])
        return Checkpoint(self.author.origin, frontier.size, frontier.root())

    def note(self, size: int | None = None) -> str:
        """The checkpoint that the box signed at a size."""
        return self.author.box.seal(self.head(size).body())

    def cosignature(self, size: int) -> str:
        """The note that the hub cosigned at a size."""
        return self.author.hub.cosign(self.head(size), time_s=TIME_S + size)

    def lines(self, *, cosigned: int = 0) -> list[bytes]:
        """The exported journal, line by line."""
        entries = zip(self.records, self.leaves, strict=True)
        notes = [self.cosignature(cosigned)] if cosigned else []
        return list(
            export.journal_lines(self.author.origin, entries, checkpoint=self.note(), cosignatures=notes)
        )

    def receipt(self, index: int, *, cosigned: int = 0, size: int | None = None) -> dict[str, Any]:
        """The receipt of a record as the box gives it."""
        size = len(self.records) if size is None else size
        node = nodes_of(self.leaves[:size])
        covered = index < cosigned <= size
        return {
            "type": "edgegw-receipt-v1",
            "record": self.records[index].decode(),
            "previous_leaf": (self.leaves[index - 1] if index else FIRST_PREVIOUS).hex(),
            "index": index,
            "size": size,
            "proof": [step.hex() for step in journal.inclusion_proof(index, size, node)],
            "checkpoint": self.note(size),
            "cosignature": self.cosignature(cosigned) if covered else "",
            "cosignature_proof": [
                step.hex() for step in (journal.consistency_proof(cosigned, size, node) if covered else ())
            ],
        }

    def consistency(self, old: int, size: int) -> bytes:
        """The proof file between two sizes."""
        steps = journal.consistency_proof(old, size, nodes_of(self.leaves[:size])) if 0 < old < size else []
        return json.dumps({"edgegw_consistency": 1, "proof": [step.hex() for step in steps]}).encode() + b"\n"


def streamed(author: Author, size: int, seed: int, *, cosigned: int = 0) -> Iterator[bytes]:
    """The lines of an exported journal of any size; memory is one block."""
    frontier, notes = Frontier(), {}

    def entries() -> Iterator[tuple[bytes, bytes]]:
        leaf = FIRST_PREVIOUS
        for body in records(author, size, seed):
            leaf = journal.leaf_hash(leaf, body)
            frontier.append(leaf)
            if frontier.size == cosigned:
                head = Checkpoint(author.origin, cosigned, frontier.root())
                notes["cosigned"] = author.hub.cosign(head, time_s=TIME_S)
            yield body, leaf

    # The last line is made by the same writer, from a log without records.
    for number, line in enumerate(
        export.journal_lines(author.origin, entries(), checkpoint="", cosignatures=[])
    ):
        if number == 0 or not line.startswith(b'{"checkpoint":'):
            yield line
    head = Checkpoint(author.origin, size, frontier.root())
    last = export.journal_lines(
        author.origin, (), checkpoint=author.box.seal(head.body()), cosignatures=list(notes.values())
    )
    yield list(last)[-1]
