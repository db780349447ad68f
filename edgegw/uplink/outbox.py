"""What the hub lacks of the journal: read, checked, packed. Nothing that was changed by hand leaves the box.

Runs in a worker thread over committed state. Each record is hashed again from the leaf before it, compared
with what is stored beside it, and the root that these leaves give must lead to the head that the box has
signed (DESIGN §3.6); the first difference is a `Fault`, and then nothing is sent any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from edgegw.core import journal
from edgegw.core.exchange import frontier_at
from edgegw.core.messages import PACKAGE_RECORDS_MAX, LogHead, Package
from edgegw.errors import RecordPruned
from edgegw.uplink.ports import Head, Journal


class EditedRecord(Exception):
    """A record on disk is not what was written there; the text names the place and the difference."""


class OtherHistory(EditedRecord):
    """What the hub holds is not what this box has signed."""


class Outgoing(NamedTuple):
    """The next package, if the hub lacks anything, and how many records it lacks with that package's."""

    package: Package | None
    waiting: int
    at_fault: Mapping[int, str] = {}
    """Earlier epochs of which nothing is sent, and why."""


def collect(source: Journal, held: Mapping[int, LogHead], *, bytes_max: int) -> Outgoing:
    """The next package for a hub that holds so much of each epoch, the oldest first; raises EditedRecord.

    An epoch that `held` does not name is not wanted: the hub has closed it, or does not know it. An edited or
    pruned record of an earlier epoch holds back itself and what follows in that epoch alone: what was wrong
    with it is why there is a newer one. Where the hub holds another history of it, it is shown that, or
    nobody asks for this one. Of an epoch that is still coming back here, nothing is sent before its end is.
    """
    package, waiting = None, 0
    at_fault: dict[int, str] = {}
    heads = source.heads()
    for head in heads:
        have = held.get(head.epoch)
        if have is None or ends_early(head) or not _differs(head, have):
            continue
        if package is None:
            try:
                package = pack(source, head, have, bytes_max)
            except (EditedRecord, RecordPruned) as problem:
                if head is heads[-1]:
                    raise
                at_fault[head.epoch] = str(problem)
                if isinstance(problem, OtherHistory):
                    with suppress(RecordPruned):
                        package = other_history(source, head, have)
                    waiting += package is not None
                elif isinstance(problem, EditedRecord):
                    package = _sound_part(source, head, have, bytes_max)
                    waiting += 0 if package is None else len(package.records)
                continue
        waiting += head.size - have.size
    return Outgoing(package, waiting, at_fault)


def _differs(head: Head, have: LogHead) -> bool:
    """Whether the hub lacks something of an epoch, or has said to hold another history up to this head."""
    return have.size < head.size or (have.size == head.size and have.size > 0 and have.root != head.root)


def other_history(source: Journal, head: Head, have: LogHead | None) -> Package | None:
    """What shows a reader that the box has signed another history of this epoch than the reader holds: the
    last record of both lengths, and the box's own note. None where it holds the same, or nothing."""
    if have is None or not have.size or ends_early(head):
        return None
    both = min(have.size, head.size)
    node = source.node(epoch=head.epoch, size=head.size)
    root = frontier_at(both, node).root()
    if have.size == both and root == have.root:
        return None
    rows = source.records(epoch=head.epoch, start=both - 1, limit=1, bytes_max=1)
    return Package(
        number=head.epoch,
        old_size=both - 1,
        records=tuple(body for _, _, body in rows),
        root=root,
        checkpoint=head.checkpoint,
        proof=tuple(journal.consistency_proof(both, head.size, node)),
        keys=_keys(source, head, 0),
    )


def ends_early(head: Head) -> bool:
    """Whether fewer records are here than the head's note covers."""
    try:
        return journal.parse_checkpoint(head.checkpoint)[0].size > head.size
    except journal.NoteError:
        return False


def _sound_part(source: Journal, head: Head, have: LogHead, bytes_max: int) -> Package | None:
    """What comes before an edited record: it leads to the signed head as well. None where that is nothing."""
    count = PACKAGE_RECORDS_MAX
    while count := count // 2:
        with suppress(EditedRecord):
            return pack(source, head, have, bytes_max, count)
    return None


def pack(
    source: Journal, head: Head, have: LogHead, bytes_max: int, count_max: int = PACKAGE_RECORDS_MAX
) -> Package:
    """The next records of an epoch, all of them checked; raises EditedRecord and RecordPruned."""
    node = source.node(epoch=head.epoch, size=head.size)
    frontier = frontier_at(have.size, node)
    if have.size and frontier.root() != have.root:
        raise OtherHistory(
            f"the tree up to {head.epoch}/{have.size} has another root than the hub holds: "
            f"{frontier.root().hex()}, not {have.root.hex()}"
        )
    rows = source.records(epoch=head.epoch, start=have.size, limit=count_max, bytes_max=bytes_max)
    rows = rows[: head.size - have.size]
    previous = node(0, have.size - 1) if have.size else journal.FIRST_PREVIOUS
    frontier.extend(_checked_leaves(head.epoch, have.size, previous, rows))
    fault = source.column_fault(epoch=head.epoch, start=have.size, count=len(rows))
    if fault is not None:
        raise EditedRecord(f"record {head.epoch}/{fault[0]}: {fault[1]}")
    root = frontier.root()
    proof = tuple(journal.consistency_proof(frontier.size, head.size, node))
    _check_head(head, frontier.size, root, proof)
    return Package(
        number=head.epoch,
        old_size=have.size,
        records=tuple(body for _, _, body in rows),
        root=root,
        checkpoint=head.checkpoint,
        proof=proof,
        keys=_keys(source, head, frontier.size),
    )


def _keys(source: Journal, head: Head, start: int) -> tuple[str, ...]:
    """The statements about keys of records from `start` up to the head that is shown."""
    return tuple(note for seq, note in source.key_changes(head.epoch) if start <= seq < head.size)


def _checked_leaves(
    epoch: int, start: int, previous: bytes, rows: Sequence[tuple[int, bytes, bytes]]
) -> list[bytes]:
    if not rows:
        raise EditedRecord(f"record {epoch}/{start} is missing")
    leaves = []
    for expected, (seq, leaf, body) in enumerate(rows, start):
        if seq != expected:
            raise EditedRecord(f"record {epoch}/{expected} is missing")
        previous = journal.leaf_hash(previous, body)
        if previous != leaf:
            raise EditedRecord(f"record {epoch}/{seq}: its bytes do not give the leaf that is stored with it")
        leaves.append(leaf)
    return leaves


def _check_head(head: Head, size: int, root: bytes, proof: tuple[bytes, ...]) -> None:
    """What is about to leave must lead to the signed head, by the same check that the hub will make."""
    try:
        signed, _ = journal.parse_checkpoint(head.checkpoint)
        if (signed.size, signed.root) != (head.size, head.root):
            raise EditedRecord(f"the head of epoch {head.epoch} is not the one that its checkpoint signs")
        journal.verify_consistency(size, head.size, root, head.root, proof)
    except (journal.ProofError, journal.NoteError) as problem:
        raise EditedRecord(
            f"records up to {head.epoch}/{size - 1} do not lead to the signed head: {problem}"
        ) from None
