"""Records replayed on a book of their own, from the beginning of an epoch or from what pruning left of it.

For the full check and for pruning itself; a start replays on the book that it goes on with (`ledger.start`).
"""

from __future__ import annotations

from edgegw.core import snapshot
from edgegw.core.book import Book
from edgegw.core.records import Record, Snapshot
from edgegw.ledger.history import StoreHistory
from edgegw.ledger.store import Store


class Replay:
    """Takes the records of a ledger in order and holds each snapshot against the book that they give."""

    def __init__(self, store: Store, *, bank: str, box: str) -> None:
        self._store = store
        self._bank, self._box = bank, box
        self._epoch = self._last = -1
        self._first: int | None = 0
        self.book = self._empty()
        """The book after the last record taken."""

    def take(self, record: Record) -> None:
        """Replay one more record; raises ValueError or ReplayError where it does not fit."""
        if (record.epoch, record.seq) <= (self._epoch, self._last) or record.epoch != self._epoch:
            self.begin(record.epoch)
        self._last = record.seq
        if self._first is None or record.seq < self._first:
            return
        book = self.book
        if isinstance(record, Snapshot):
            digest = snapshot.digest(snapshot.dump(book))
            if digest != record.digest:
                raise ValueError(f"the replay has digest {digest}, the snapshot says {record.digest}")
        book.replay(record)
        book.forget_fresh()

    def begin(self, epoch: int) -> int | None:
        """Go on with an epoch: the seq from which its records count, None for none of them. Raises ValueError
        where the book that pruning left is not the one that was kept."""
        self._epoch, self._first, self.book = epoch, 0, self._empty()
        kept = next((one for one in self._store.pruned.horizons() if one.epoch == epoch), None)
        if kept is None:
            return self._first
        if not kept.digest:
            self._first = None
            return None
        image = self._store.pruned.image(epoch)
        if snapshot.digest(image) != kept.digest:
            raise ValueError(f"the book before record {epoch}/{kept.base} has not the digest {kept.digest}")
        self.book = snapshot.load(image, history=StoreHistory(self._store))
        self._first = kept.base
        return self._first

    def _empty(self) -> Book:
        return Book(bank=self._bank, box=self._box, history=StoreHistory(self._store))
