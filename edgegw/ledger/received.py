"""A journal that was written elsewhere, kept here: a mirror's copy, or a box's own past that it has lost.

Nothing is taken on trust: a package is judged against what is held, by the key that the hub's link gives the
epoch, and lands in one COMMIT. Leaves out who sends (`uplink`, `mirror`) and what the records do to a book.
"""

from __future__ import annotations

import msgspec

from edgegw.core.exchange import HeldLog, PackageJudgement, frontier_at, judge_push
from edgegw.core.journal import Frontier
from edgegw.core.messages import (
    ExchangeError,
    LinkNote,
    Package,
    PackageVerdict,
    VerifyingKey,
    open_link,
)
from edgegw.core.records import Link, decode_record
from edgegw.ledger import tiles
from edgegw.ledger.rows import row_of_bytes
from edgegw.ledger.store import Store


def held_log(store: Store, epoch: int) -> HeldLog:
    """What is held of an epoch, as a package is judged against it."""
    head = store.head(epoch)
    if head is None or not head.size:
        return HeldLog(epoch, Frontier(), lambda index: store.node(epoch, index + 1)(0, index))

    def root_at(size: int) -> bytes:
        return frontier_at(size, store.node(epoch, size)).root()

    frontier = frontier_at(head.size, store.node(epoch, head.size))
    return HeldLog(epoch, frontier, lambda index: store.node(epoch, index + 1)(0, index), root_at)


def take_package(
    store: Store, package: Package, *, bank: str, box: str, key: VerifyingKey
) -> PackageJudgement:
    """Judge a package of a box's journal and, if it is accepted, keep what is new in one COMMIT; `key` is
    the epoch's checkpoint key (`link_of`). Raises OperatingError where the disk fails."""
    held = held_log(store, package.number)
    judged = judge_push(package, held, bank=bank, box=box, key=key)
    if judged.verdict is not PackageVerdict.ACCEPTED or not judged.records:
        return judged
    start = judged.head.size - len(judged.records)
    rows = [
        row_of_bytes(body, leaf=leaf, epoch=package.number, seq=seq)
        for seq, (body, leaf) in enumerate(zip(judged.records, judged.leaves, strict=True), start)
    ]
    new_tiles = tiles.extend(held.frontier.copy(), judged.leaves, epoch=package.number)
    store.take(
        epoch=package.number,
        rows=rows,
        new_tiles=new_tiles,
        root=judged.head.root,
        checkpoint=package.checkpoint,
    )
    return judged


def link_of(store: Store, epoch: int, package: Package | None, *, hub_key: VerifyingKey) -> LinkNote:
    """The hub-signed link of an epoch, from its first record: the one that is held, else the package's.

    It names the key that signs the epoch's checkpoints. Raises ExchangeError when there is none.
    """
    rows = store.records(epoch=epoch, start=0, limit=1, bytes_max=1)
    if rows:
        body = rows[0].body
    elif package is not None and package.number == epoch and package.old_size == 0 and package.records:
        body = package.records[0]
    else:
        raise ExchangeError(f"epoch {epoch} has no first record here: send it from its beginning")
    try:
        record = decode_record(body)
    except (msgspec.MsgspecError, ValueError) as problem:
        raise ExchangeError(f"the first record of epoch {epoch} cannot be read: {problem}") from None
    if not isinstance(record, Link):
        raise ExchangeError(f"the first record of epoch {epoch} is no link")
    link = open_link(record.note, hub_key)
    if (link.bank, link.box, link.epoch) != (record.bank, record.box, epoch):
        raise ExchangeError(f"the link of epoch {epoch} is for {link.bank}/{link.box} epoch {link.epoch}")
    return link
