"""A journal that was written elsewhere, kept here: a mirror's copy, or a box's own past that it has lost.

Nothing is taken on trust: a package is judged against what is held, by the key that the hub's link gives the
epoch, and lands in one COMMIT. Leaves out who sends (`uplink`, `mirror`) and what the records do to a book.
"""

from __future__ import annotations

import msgspec

from edgegw.core import tiles
from edgegw.core.exchange import HeldLog, PackageJudgement, frontier_at, judge_push
from edgegw.core.journal import Frontier, consistency_proof, parse_checkpoint
from edgegw.core.key_policy import KeyPolicy, ParseKey, open_revoked, read_change, void_above
from edgegw.core.messages import (
    PACKAGE_BYTES_MAX,
    PACKAGE_RECORDS_MAX,
    ExchangeError,
    LinkNote,
    LogHead,
    Package,
    PackageVerdict,
    VerifyingKey,
    open_link,
)
from edgegw.core.records import Link, decode_record
from edgegw.ledger.key_changes import KeyNote
from edgegw.ledger.rows import row_of_bytes
from edgegw.ledger.store import Head, Store


def held_log(store: Store, epoch: int) -> HeldLog:
    """What is held of an epoch, as a package is judged against it."""
    head = store.head(epoch)
    if head is None or not head.size:
        return HeldLog(epoch, Frontier(), lambda index: store.node(epoch, index + 1)(0, index))

    def root_at(size: int) -> bytes:
        return frontier_at(size, store.node(epoch, size)).root()

    frontier = frontier_at(head.size, store.node(epoch, head.size))
    return HeldLog(epoch, frontier, lambda index: store.node(epoch, index + 1)(0, index), root_at)


def take_package(store: Store, package: Package, *, bank: str, box: str, keys: KeyPolicy) -> PackageJudgement:
    """Judge a package of a box's journal and, if it is accepted, keep what is new in one COMMIT; `keys` are
    those of the epoch's checkpoints (`policy_of`). Raises OperatingError where the disk fails."""
    held = held_log(store, package.number)
    judged = judge_push(package, held, bank=bank, box=box, keys=keys)
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
        signed=judged.checkpoint is not None and judged.checkpoint.size == judged.head.size,
        keys=() if judged.keys is None else [KeyNote(read_change(n).said.seq, n) for n in judged.keys.notes],
    )
    return judged


def proven_head(store: Store, epoch: int) -> Head | None:
    """The longest part of an epoch that its author has signed just so; None where there is none.

    A journal that was written elsewhere may end inside of what its newest checkpoint covers; only up to here
    can it be proven to others.
    """
    head = store.head(epoch)
    if head is None or not head.size:
        return None
    for note in (head.checkpoint, store.signed_note(epoch)):
        if note:
            signed = parse_checkpoint(note)[0]
            if signed.size <= head.size:
                return Head(epoch, signed.size, signed.root, note, head.boot)
    return None


def package_from(store: Store, pull: LogHead) -> Package | None:
    """The records of an epoch that follow `pull`, as far as they can be proven; None where there are no more,
    or others are held. Raises OperatingError where the disk fails."""
    head = proven_head(store, pull.number)
    if head is None or not 0 <= pull.size < head.size:
        return None
    node = store.node(pull.number, head.size)
    frontier = frontier_at(pull.size, node)
    if pull.size and frontier.root() != pull.root:
        return None
    limit = min(PACKAGE_RECORDS_MAX, head.size - pull.size)
    entries = store.records(epoch=pull.number, start=pull.size, limit=limit, bytes_max=PACKAGE_BYTES_MAX)
    frontier.extend(entry.leaf for entry in entries)
    return Package(
        number=pull.number,
        old_size=pull.size,
        records=tuple(entry.body for entry in entries),
        root=frontier.root(),
        checkpoint=head.checkpoint,
        proof=tuple(consistency_proof(frontier.size, head.size, node)),
        keys=tuple(one.note for one in store.keys.notes(pull.number) if frontier.size <= one.seq < head.size),
    )


def policy_of(
    store: Store,
    epoch: int,
    package: Package | None,
    *,
    hub_key: VerifyingKey,
    parse: ParseKey,
    heeds_revoked: bool = False,
) -> KeyPolicy:
    """The keys of an epoch's checkpoints as far as this ledger knows: the hub's link names the first, and
    each statement that is kept is checked. Raises ExchangeError.

    heeds_revoked: what the hub has revoked is void. A box reads its own past all the same.
    """
    link = link_of(store, epoch, package, hub_key=hub_key)
    first = KeyPolicy(bank=link.bank, box=link.box, epoch=epoch, first=link.key, parse=parse)
    try:
        parse(link.key)
        policy = first.extended([one.note for one in store.keys.notes(epoch)])
        if not heeds_revoked:
            return policy
        words = [open_revoked(note, hub_key) for note in store.keys.revoked()]
        return policy.without(void_above(words, box=link.box, epoch=epoch))
    except ValueError as problem:
        raise ExchangeError(f"the keys of epoch {epoch}: {problem}") from None


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
