"""Writing a log out of the ledger for an auditor, in the format that `edgegw.core.export` tells.

Reads what is committed, in steps, so that a running box goes on meanwhile and its WAL stays short. The file
is the caller's, to open, to sync and to name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO, Final

from edgegw.core.exchange import frontier_at
from edgegw.core.export import BLOCK_RECORDS, journal_lines
from edgegw.core.journal import FIRST_PREVIOUS, directives_origin, journal_origin
from edgegw.errors import LedgerCorrupt, LedgerForeign
from edgegw.ledger.received import proven_head
from edgegw.ledger.store import DirectivesEnd, Entry, Head, Store

STEP: Final = 4 * BLOCK_RECORDS
STEP_BYTES: Final = 8 * 2**20
Progress = Callable[[int, int], None]
"""Entries written, and entries in all."""


def export_journal(store: Store, out: BinaryIO, *, epoch: int, progress: Progress) -> Head:
    """Write the journal of an epoch, without what was pruned of it; the head that it ends in. Raises
    LedgerForeign if there is none.

    Of a journal that was written elsewhere only as much as its author has signed just so (`proven_head`).
    """
    bank, box = _owner(store)
    # The cosignature first: it is never beyond a head that is read later.
    cosigned = store.cosignature(epoch)
    head = proven_head(store, epoch)
    if head is None:
        raise _nothing_there("epoch", epoch, [known.epoch for known in store.heads()])

    start = store.pruned.horizon(epoch)
    node = store.node(epoch, head.size)

    def read(seq: int) -> list[Entry]:
        return store.records(epoch=epoch, start=seq, limit=min(STEP, head.size - seq), bytes_max=STEP_BYTES)

    lines = journal_lines(
        journal_origin(bank=bank, box=box, epoch=epoch),
        _pairs(read, start=start, size=head.size, progress=progress),
        checkpoint=head.checkpoint,
        cosignatures=[cosigned[1]] if cosigned and cosigned[0] <= head.size else [],
        keys=[one.note for one in store.keys.notes(epoch) if one.seq < head.size],
        before=frontier_at(start, node),
        previous=node(0, start - 1) if start else FIRST_PREVIOUS,
    )
    out.writelines(lines)
    return head


def export_directives(store: Store, out: BinaryIO, *, incarnation: int, progress: Progress) -> DirectivesEnd:
    """Write the directives of an incarnation; where the file ends. Raises LedgerForeign if there are none."""
    bank, box = _owner(store)
    ends = {end.incarnation: end for end in store.directives_ends()}
    if incarnation not in ends:
        raise _nothing_there("incarnation", incarnation, list(ends))
    end = ends[incarnation]

    def read(seq: int) -> list[Entry]:
        limit = min(STEP, end.size - seq)
        return store.directives(incarnation=incarnation, start=seq, limit=limit, bytes_max=STEP_BYTES)

    lines = journal_lines(
        directives_origin(bank=bank, box=box, incarnation=incarnation),
        _pairs(read, start=0, size=end.size, progress=progress),
        checkpoint=end.checkpoint,
        cosignatures=[],
    )
    out.writelines(lines)
    return end


def _pairs(
    read: Callable[[int], list[Entry]], *, start: int, size: int, progress: Progress
) -> Iterator[tuple[bytes, bytes]]:
    """(record, leaf) of entries start to size, which must all be there."""
    seq = start
    while seq < size:
        entries = read(seq)
        if not entries or entries[0].seq != seq or entries[-1].seq != seq + len(entries) - 1:
            raise LedgerCorrupt(f"entries are missing from seq {seq} on")
        for entry in entries:
            yield entry.body, entry.leaf
        seq += len(entries)
        progress(seq - start, size - start)


def _nothing_there(what: str, number: int, known: list[int]) -> LedgerForeign:
    return LedgerForeign(
        f"there is no {what} {number} in this ledger",
        hint=f"It has {', '.join(map(str, known)) or 'none yet'}.",
    )


def _owner(store: Store) -> tuple[str, str]:
    bank, box = store.meta("bank"), store.meta("box")
    if bank is None or box is None:
        raise LedgerForeign(f"{store.path} does not say whose ledger it is")
    return bank, box
