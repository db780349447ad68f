"""A small pen for tests: writes records of every shape into a real ledger, signs every head."""

from pathlib import Path
from typing import Any

from edgegw.access.keys import SigningKey
from edgegw.core import journal, records, snapshot, tiles
from edgegw.core.exchange import frontier_at
from edgegw.core.journal import FIRST_PREVIOUS, Frontier, leaf_hash
from edgegw.ledger.check import Report, check
from edgegw.ledger.rows import Row, row_of
from edgegw.ledger.store import DirectivesEnd, Entry, Image, Store
from edgegw.sm.sm2 import PrivateKey

BANK, BOX, BOOT = "demo-bank", "branch-1", "boot-1"
KEY = SigningKey(f"{BANK}/{BOX}", PrivateKey.generate())
HUB = SigningKey(f"{BANK}/hub", PrivateKey.generate())


def identity(number: int) -> str:
    """A time-ordered id."""
    return f"{0x018F_0000_0000 + number:012x}7{number % 0xFFF:03x}8{number:015x}"


class TestPen:
    """Appends to one epoch of a store; `write` is one batch and one COMMIT."""

    __test__ = False

    def __init__(self, store: Store, *, epoch: int = 1, boot: str = BOOT, key: SigningKey = KEY) -> None:
        self.store = store
        self.epoch = epoch
        self.boot = boot
        self.key = key
        self.leaf = FIRST_PREVIOUS
        self.frontier = Frontier()
        self.leaves: list[bytes] = []

    def resume(self) -> None:
        """Go on where the ledger ends."""
        for entry in self.store.records(epoch=self.epoch, start=0, limit=10**9, bytes_max=2**40):
            self.leaf = entry.leaf
            self.leaves.append(entry.leaf)
            self.frontier.append(entry.leaf)

    @property
    def size(self) -> int:
        return self.frontier.size

    def head_fields(self, seq: int) -> dict[str, Any]:
        at_ns = self.epoch * 10**15 + seq + 1
        place = {"bank": BANK, "box": BOX, "epoch": self.epoch, "seq": seq}
        return {"v": 1, **place, "at_ns": at_ns, "wall_ns": at_ns, "mono_ns": at_ns}

    def transfer(self, seq: int, **changes: Any) -> records.Record:
        request = records.Request(
            kind=records.Kind.PAYMENT,
            id=identity(seq + (self.epoch - 1) * 10**7),
            debit_account_id="A-1",
            credit_account_id="B-1",
            amount_minor=seq + 1,
            currency="CNY",
        )
        leg = records.Leg("A-1", "B-1", seq + 1)
        fields = {"request": request, "window": 1, "client": f"till-{seq % 3}", "legs": (leg,), **changes}
        return records.Transfer(**self.head_fields(seq), cleared_by=records.ClearedBy.ALLOWANCE, **fields)

    def begin(self) -> None:
        self.store.begin()
        if self.size == 0:
            self.store.start_epoch(self.epoch, boot=self.boot, root=Frontier().root())

    def append(self, *written: records.Record) -> None:
        rows: list[Row] = []
        for record in written:
            body = records.encode(record)
            self.leaf = leaf_hash(self.leaf, body)
            rows.append(row_of(record, leaf=self.leaf, body=body))
        self.leaves += [row.leaf for row in rows]
        self.store.append(rows, tiles.extend(self.frontier, [row.leaf for row in rows], epoch=self.epoch))

    def seal(self, old_size: int) -> None:
        root = self.frontier.root()
        origin = journal.journal_origin(bank=BANK, box=BOX, epoch=self.epoch)
        note = self.key.seal(journal.Checkpoint(origin, self.size, root).body())
        self.store.seal(
            epoch=self.epoch,
            old_size=old_size,
            size=self.size,
            root=root,
            checkpoint=note,
            boot=self.boot,
        )

    def write(self, *written: records.Record) -> None:
        old_size = self.size
        self.begin()
        self.append(*written)
        self.seal(old_size)

    def write_transfers(self, count: int, *, batch: int = 1_000) -> None:
        end = self.size + count
        while self.size < end:
            self.write(*(self.transfer(seq) for seq in range(self.size, min(end, self.size + batch))))

    def cosign(self, size: int) -> None:
        root = frontier_at(size, self.store.node(self.epoch, size)).root()
        origin = journal.journal_origin(bank=BANK, box=BOX, epoch=self.epoch)
        note = HUB.cosign(journal.Checkpoint(origin, size, root), time_s=1_800_000_000)
        self.store.begin()
        self.store.put_cosignature(epoch=self.epoch, size=size, note=note)
        self.store.commit()

    def write_snapshot(self, image: bytes) -> None:
        record = records.Snapshot(**self.head_fields(self.size), digest=snapshot.digest(image))
        old_size = self.size
        self.begin()
        self.append(record)
        position = row_of(record, leaf=b"", body=b"").position
        self.store.put_snapshot(Image(position, record.digest, image))
        self.seal(old_size)


def write_directives(store: Store, count: int, *, incarnation: int = 1) -> None:
    """A new incarnation's first `count` directives, as one package."""
    leaf, frontier, entries = FIRST_PREVIOUS, Frontier(), list[Entry]()
    for seq in range(count):
        head = {"bank": BANK, "box": BOX, "incarnation": incarnation, "seq": seq, "wall_ns": seq}
        grant = records.GrantDirective(v=1, **head, account_id="A-1", currency="CNY", amount_minor=5)
        body = records.encode(grant)
        leaf = leaf_hash(leaf, body)
        frontier.append(leaf)
        entries.append(Entry(seq, leaf, body))
    origin = journal.directives_origin(bank=BANK, box=BOX, incarnation=incarnation)
    note = HUB.seal(journal.Checkpoint(origin, count, frontier.root()).body())
    store.begin()
    end = DirectivesEnd(incarnation, count, frontier.root(), note, frontier.to_bytes())
    store.put_directives(entries, end)
    store.commit()


def new_store(directory: Path) -> Store:
    store = Store.open(directory / "ledger.db", create=True)
    store.own(bank=BANK, box=BOX)
    return store


def open_checkpoint(note: str) -> journal.Checkpoint:
    """The checkpoint of a note that its author's key has signed, box or hub by the origin."""
    return (HUB if "/hub/" in note.partition("\n")[0] else KEY).public.open(note)


def full_check(store: Store, **options: Any) -> Report:
    defaults = {
        "verify_checkpoint": open_checkpoint,
        "verify_cosignature": HUB.public.check_cosignature,
        "progress": lambda *_: None,
    }
    return check(store, **(defaults | options))
