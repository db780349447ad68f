"""One batch of the pen: a layer of the book and the records that were written on it, for which one COMMIT
stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import msgspec

from edgegw.core.book import RECORD_STEP_NS, Book
from edgegw.core.decide import Rule, Stamp
from edgegw.core.journal import FIRST_PREVIOUS, Frontier, leaf_hash
from edgegw.core.pruned import Pruned
from edgegw.core.records import HeadFields, Record, encode
from edgegw.ledger.clock import BoxTime, Clock
from edgegw.ledger.outcomes import Budget, Undecided
from edgegw.ledger.rows import Row, row_of
from edgegw.ledger.store import Store

Sign = Callable[[int, int, bytes], str]
"""(epoch, size, root) -> the signed checkpoint note."""


class Tip(msgspec.Struct, frozen=True):
    """Where a journal ends: its epoch (0: none yet), the last leaf, the tree's right edge, the signed
    checkpoint of it."""

    epoch: int
    last_leaf: bytes
    frontier: Frontier
    checkpoint: str

    @property
    def size(self) -> int:
        """How many records the epoch has."""
        return self.frontier.size


class Desk(msgspec.Struct):
    """What every batch of a pen works with; `book` and `tip` are what is on disk."""

    store: Store
    book: Book
    tip: Tip
    boot: str
    clock: Clock
    time: BoxTime
    rules: Sequence[Rule]
    budget: Budget
    closed_for_payments: Callable[[], Undecided | None]


class Batch:
    """See the module."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.book = desk.book.overlay()
        self.rows: list[Row] = []
        self.known: dict[tuple[str, str], bytes | Pruned] = {}
        """The bytes of the records of those identities that the batch decides on and that are on disk, or
        what stays of them."""
        self.signer: tuple[str, Sign] | None = None
        """The checkpoint key that takes over with this batch, and what signs with it."""
        self.touched = False
        """Something besides records was written into the SQL transaction."""
        self.epoch = desk.tip.epoch
        self.old_size = desk.tip.size
        self.frontier = desk.tip.frontier
        self.now_ns, self.wall_ns, self._mono_ns = (
            desk.time.now_ns(),
            desk.clock.wall_ns(),
            desk.clock.mono_ns(),
        )
        """The clocks are read once: a batch is decided within milliseconds."""
        self._leaf = desk.tip.last_leaf
        self._at_ns = desk.book.at_ns

    @cached_property
    def closed(self) -> Undecided | None:
        """Why this batch decides no new payment, or None."""
        return self.desk.closed_for_payments()

    @property
    def last_leaf(self) -> bytes:
        """The leaf of the last record written, or of the one before the batch."""
        return self._leaf

    @property
    def size(self) -> int:
        """How many records the epoch has with this batch."""
        return self.old_size + len(self.rows)

    def stamp(self, ahead: int = 0) -> Stamp:
        """The stamp of the next record, or of the one `ahead` records behind it."""
        book = self.book
        return Stamp(
            book.bank,
            book.box,
            self.epoch,
            self.old_size + len(self.rows) + ahead,
            max(self.now_ns, self._at_ns + RECORD_STEP_NS) + ahead * RECORD_STEP_NS,
            self.wall_ns,
            self._mono_ns,
        )

    def head(self) -> HeadFields:
        """The next record's first fields, for records that are not decided by `core`."""
        return self.stamp().head()

    def write(self, record: Record) -> bytes:
        """Chain a record whose effects are in the book already; its bytes."""
        body = encode(record)
        self._leaf = leaf_hash(self._leaf, body)
        self.rows.append(row_of(record, leaf=self._leaf, body=body))
        self._at_ns = record.at_ns
        return body

    def note_and_write(self, record: Record) -> bytes:
        """Chain a record and take what it says beyond the ledger's balances into the book."""
        self.book.note(record)
        return self.write(record)

    def begin_epoch(self, epoch: int) -> None:
        """The records from here on are the first of a new epoch; nothing was written before in this batch."""
        self.epoch, self.old_size = epoch, 0
        self._leaf, self.frontier = FIRST_PREVIOUS, Frontier()
        self.desk.store.start_epoch(epoch, boot=self.desk.boot, root=self.frontier.root())
