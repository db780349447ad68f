"""`core.book.History` over the ledger file."""

from __future__ import annotations

from edgegw.core.records import Record, decode_record, parse_place
from edgegw.ledger.rows import position_of
from edgegw.ledger.store import Store


class StoreHistory:
    """`core.book.History` over the ledger file: what the book does not keep in memory."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def by_identity(self, client: str, id: str) -> Record | None:
        """The record of this identity, or None."""
        body = self._store.find([(client, id)]).get((client, id))
        return None if body is None else decode_record(body)

    def at(self, epoch: int, seq: int) -> Record | None:
        """The record at this place, or None."""
        body = self._store.at(position_of(epoch=epoch, seq=seq))
        return None if body is None else decode_record(body)

    def about(self, place: str) -> list[Record]:
        """The records that name this place as their original, oldest first."""
        epoch, seq = parse_place(place)
        return [decode_record(body) for body in self._store.about(position_of(epoch=epoch, seq=seq))]
