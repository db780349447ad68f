"""Every record and directive read again while the box runs, so that a row that was changed by hand is found
wherever it stands.

A start reads the newest snapshot and the tail behind it, and the line hashes what it sends; what the centre
has already is nobody's but this one's, and a repeat is answered from it. Leaves out balances and what stands
beside the rows: those are `ledger.check`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from edgegw.core.exchange import frontier_at
from edgegw.core.journal import FIRST_PREVIOUS, Frontier, leaf_hash
from edgegw.errors import LedgerCorrupt, RecordPruned
from edgegw.ledger.prune import Remainder
from edgegw.ledger.rows import column_fault, place_at, position_of
from edgegw.ledger.store import DirectivesEnd, Head, Store

PORTION: Final = 128
"""Rows between two looks up: some two milliseconds in which nobody else has the interpreter."""
_BYTES_MAX: Final = 4 << 20


def scrub(store: Store) -> Iterator[int]:
    """One pass over the newest epoch, the newest directives and what stays of pruned records; yields how many
    rows a portion had.

    Raises LedgerCorrupt that names the first row that is missing or not what was written. Older epochs are
    left out: what was wrong with them is why there is a newer one.
    """
    for head in store.heads()[-1:]:
        yield from _records(store, head)
    for end in store.directives_ends()[-1:]:
        yield from _directives(store, end)
    yield from _remains(store)
    yield from store.others.read(PORTION)


def _records(store: Store, head: Head) -> Iterator[int]:
    start, frontier = store.pruned.horizon(head.epoch), Frontier()
    try:
        node = store.node(head.epoch, head.size)
        previous = node(0, start - 1) if start else FIRST_PREVIOUS
        frontier = frontier_at(start, node)
        while start < head.size:
            leaves = _portion(store, head, start, previous)
            start, previous = start + len(leaves), leaves[-1]
            frontier.extend(leaves)
            yield len(leaves)
    except (LedgerCorrupt, RecordPruned):
        if store.pruned.horizon(head.epoch) > start:
            return  # Pruned while it was read, and for that read again: the next pass begins behind it.
        raise
    if frontier.root() != head.root:
        raise LedgerCorrupt(f"the records of epoch {head.epoch} do not give the root that was signed")


def _portion(store: Store, head: Head, start: int, previous: bytes) -> list[bytes]:
    """The leaves of the next rows, each of them checked."""
    rows = store.rows(epoch=head.epoch, start=start, limit=min(PORTION, head.size - start))
    for seq, row in enumerate(rows, start):
        if row.position != position_of(epoch=head.epoch, seq=seq):
            raise LedgerCorrupt(f"record {head.epoch}/{seq} is missing")
        _check_leaf(f"record {head.epoch}/{seq}", previous, row.leaf, row.body)
        fault = column_fault(row)
        if fault:
            raise LedgerCorrupt(f"record {head.epoch}/{seq}: {fault}")
        previous = row.leaf
    if not rows:
        raise LedgerCorrupt(f"record {head.epoch}/{start} is missing")
    for position in store.unindexed(rows):
        seq = place_at(position)[1]
        raise LedgerCorrupt(f"record {head.epoch}/{seq} is not found by its index: it would be done again")
    return [row.leaf for row in rows]


def _remains(store: Store) -> Iterator[int]:
    """What stays of pruned records: repeats are answered from it."""
    horizons = store.pruned.horizons()
    if not horizons:
        return
    kept = Remainder(store)
    yield from kept.read(PORTION)
    wrong = list(kept.problems())
    if wrong and store.pruned.horizons() == horizons:
        place, problem = wrong[0]
        raise LedgerCorrupt(f"record {place}: {problem}")


def _directives(store: Store, end: DirectivesEnd) -> Iterator[int]:
    previous, frontier = FIRST_PREVIOUS, Frontier()
    while frontier.size < end.size:
        start = frontier.size
        limit = min(PORTION, end.size - start)
        entries = store.directives(
            incarnation=end.incarnation, start=start, limit=limit, bytes_max=_BYTES_MAX
        )
        for seq, entry in enumerate(entries, start):
            if entry.seq != seq:
                raise LedgerCorrupt(f"directive {end.incarnation}/{seq} is missing")
            _check_leaf(f"directive {end.incarnation}/{seq}", previous, entry.leaf, entry.body)
            previous = entry.leaf
        if not entries:
            raise LedgerCorrupt(f"directive {end.incarnation}/{start} is missing")
        frontier.extend([entry.leaf for entry in entries])
        yield len(entries)
    if (frontier.root(), frontier.to_bytes()) != (end.root, end.frontier):
        raise LedgerCorrupt(
            f"the directives of incarnation {end.incarnation} do not end where they are said to"
        )


def _check_leaf(what: str, previous: bytes, leaf: bytes, body: bytes) -> None:
    if leaf_hash(previous, body) != leaf:
        raise LedgerCorrupt(f"{what}: its bytes do not give the leaf that is stored with it")
