"""`core.book.History` over the ledger file, and what outlives an epoch of a book: reversals that wait."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from edgegw.core import snapshot
from edgegw.core.book import KEPT as REASON_KEPT
from edgegw.core.pruned import Pruned
from edgegw.core.records import Record, Transfer, decode_record, parse_place, place_text
from edgegw.ledger.rows import position_of
from edgegw.ledger.store import Store


class StoreHistory:
    """`core.book.History` over the ledger file: what the book does not keep in memory."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def by_identity(self, client: str, id: str) -> Record | Pruned | None:
        """The record of this identity, what stays of it where it was pruned, or None."""
        known = self._store.find([(client, id)]).get((client, id))
        return decode_record(known) if isinstance(known, bytes) else known

    def at(self, epoch: int, seq: int) -> Record | None:
        """The record at this place, or None."""
        body = self._store.at(position_of(epoch=epoch, seq=seq))
        return None if body is None else decode_record(body)

    def about(self, place: str) -> list[Record]:
        """The records that name this place as their original, oldest first."""
        epoch, seq = parse_place(place)
        return [decode_record(body) for body in self._store.about(position_of(epoch=epoch, seq=seq))]


KEPT: Final = "kept"
"""The key in the ledger's `meta` of the reversals that earlier epochs kept and that still wait."""


class KeptReversal(msgspec.Struct, frozen=True, array_like=True):
    """A reversal that came before its original: whose original it waits for, and its own place."""

    client: str
    id: str
    place: str


def kept_before(store: Store) -> dict[tuple[str, str], str]:
    """`Book.kept_before`, as it was gathered when the running epoch began."""
    text = store.meta(KEPT)
    if text is None:
        return {}
    kept = msgspec.json.decode(text, type=list[KeptReversal])
    return {(one.client, one.id): one.place for one in kept}


def gather_kept(store: Store) -> dict[tuple[str, str], str]:
    """The same from all epochs that are here: a new one is about to begin. Reads every payment's record, and
    for those that were pruned the newest snapshot."""
    found = kept_before(store)
    for image in store.latest_snapshots()[:1]:
        found.update(snapshot.load(image.body, history=None).kept.items())
    for body in store.without_original(REASON_KEPT):
        record = decode_record(body)
        if isinstance(record, Transfer) and record.reason == REASON_KEPT:
            request = record.request
            place = place_text(epoch=record.epoch, seq=record.seq)
            found[request.original_client, request.original_id] = place
    arrived = store.find(list(found))
    return {identity: place for identity, place in found.items() if identity not in arrived}


def put_kept(store: Store, kept: Mapping[tuple[str, str], str]) -> None:
    """Write down what `gather_kept` found; the caller commits."""
    rows = [KeptReversal(client, id, place) for (client, id), place in sorted(kept.items())]
    store.put_meta(KEPT, msgspec.json.encode(rows).decode())
