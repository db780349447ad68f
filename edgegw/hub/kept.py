"""Reversals that a box keeps for an original that it does not know: the centre knows all boxes, so it finds
those whose original was cleared elsewhere, whichever of the two comes first.

Only the box that holds the original gives money back (DESIGN §2), so nothing moves here: whoever was paid
gets an item that says where to ask. A reversal whose original never comes stays listed, at its box and in
`kept_reversal`. Pushes wait for each other only where they draw on one account, so two that come at one
moment through two hub processes do not see each other: those are found by a look at all of them (`missed`).
Leaves out who may be told (`hub.suspense`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    Table,
    exists,
    insert,
    not_,
    or_,
    select,
)

from edgegw.core.book import KEPT
from edgegw.core.records import Transfer, decode_record
from edgegw.hub import suspense
from edgegw.hub.books import padded
from edgegw.hub.items import Item
from edgegw.hub.schema import BRANCH_SEQS, kept_reversal, record, suspense_item

REVERSED_ELSEWHERE: Final = "reversed_elsewhere"


class Met(NamedTuple):
    """A record of this push that has met the other one."""

    seq: int
    owner: str
    detail: str


def meet(connection: Connection, items: Sequence[Item], *, box: str, epoch: int) -> list[Met]:
    """Write down the reversals of a push that were kept, and find what belongs together: a kept one here
    whose original is known, an original here whose reversal was kept elsewhere. The push's records are kept
    already."""
    cleared = [(item, item.record) for item in items if isinstance(item.record, Transfer)]
    waiting = [
        (item.seq, one.request.original_client, one.request.original_id)
        for item, one in cleared
        if one.reason == KEPT and item.has_identity
    ]
    originals = {
        (one.client, one.request.id): (item.seq, one)
        for item, one in cleared
        if one.legs and item.has_identity
    }
    return _of_the_kept(connection, waiting, box=box, epoch=epoch) + _of_the_originals(
        connection, originals, box=box, epoch=epoch
    )


def _of_the_kept(
    connection: Connection, waiting: Sequence[tuple[int, str, str]], *, box: str, epoch: int
) -> list[Met]:
    if not waiting:
        return []
    rows = [
        {"original_id": id, "original_client": client, "box": box, "epoch": epoch, "seq": seq}
        for seq, client, id in waiting
    ]
    connection.execute(insert(kept_reversal), rows)
    ids = padded(sorted({id for _, _, id in waiting}))
    found = connection.execute(select(record).where(record.c.request_id.in_(ids))).all()
    known = {(row.client, row.request_id): row for row in found}
    met = []
    for seq, client, id in waiting:
        row = known.get((client, id))
        original = None if row is None else decode_record(row.body)
        if row is not None and isinstance(original, Transfer) and original.legs:
            place = f"{row.box} {row.epoch}/{row.seq % BRANCH_SEQS}"
            detail = f"its original was cleared at {place}: ask there for the money back"
            met.append(Met(seq, _payee(original), detail))
    return met


def _of_the_originals(
    connection: Connection, originals: dict[tuple[str, str], tuple[int, Transfer]], *, box: str, epoch: int
) -> list[Met]:
    if not originals:
        return []
    ids = padded(sorted({id for _, id in originals}))
    met = []
    for row in connection.execute(select(kept_reversal).where(kept_reversal.c.original_id.in_(ids))):
        seq, original = originals.get((row.original_client, row.original_id), (-1, None))
        if original is None or ((row.box, row.epoch) == (box, epoch) and row.seq > seq):
            continue
        met.append(Met(seq, _payee(original), _kept_at(row)))
    return met


def missed(connection: Connection, *, now_ns: int) -> list[suspense.Place]:
    """Put every original in suspense whose reversal is kept elsewhere and of which neither push has seen the
    other; where."""
    found = []
    for row in connection.execute(_untold_pairs()).all():
        original = decode_record(row.body)
        if not isinstance(original, Transfer) or not original.legs:
            continue
        place = suspense.Place(row.at_box, row.at_epoch, row.at_seq)
        item = suspense.new_row(
            place, owner=_payee(original), reason=REVERSED_ELSEWHERE, detail=_kept_at(row), now_ns=now_ns
        )
        connection.execute(insert(suspense_item).values(item))
        found.append(place)
    return found


def _untold_pairs() -> Select[Any]:
    """Kept reversals with their originals of other boxes, where neither is anybody's item."""
    kept, other = kept_reversal.c, record.c

    def is_told(at: Table) -> ColumnElement[bool]:
        item = suspense_item.c
        return exists().where(item.box == at.c.box, item.epoch == at.c.epoch, item.seq == at.c.seq)

    return (
        select(
            kept.box,
            kept.epoch,
            kept.seq,
            other.box.label("at_box"),
            other.epoch.label("at_epoch"),
            other.seq.label("at_seq"),
            other.body,
        )
        .join(record, (other.request_id == kept.original_id) & (other.client == kept.original_client))
        .where(
            other.type == "transfer",
            or_(other.box != kept.box, other.epoch != kept.epoch),
            not_(is_told(kept_reversal)),
            not_(is_told(record)),
        )
    )


def _kept_at(row: Row[Any]) -> str:
    place = f"{row.box} {row.epoch}/{row.seq % BRANCH_SEQS}"
    return f"its reversal is kept at {place}, which does not know it: give the money back here"


def _payee(original: Transfer) -> str:
    return f"merchant:{original.legs[0].credit_account_id}"
