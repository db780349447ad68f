"""Which earlier epochs the box holds without the hub's cosignature: what came back after a restore has none.

Reads the ledger. Asking is the line's (`uplink.line`): a pull of what the box has already is answered with
the hub's word for it.
"""

from __future__ import annotations

from collections.abc import Iterable

from edgegw.core import journal
from edgegw.core.exchange import frontier_at
from edgegw.core.messages import LogHead
from edgegw.errors import RecordPruned
from edgegw.uplink.ports import Head, Journal


def without_cosignature(source: Journal, theirs: Iterable[LogHead]) -> list[LogHead]:
    """Of each epoch before the newest as much as the hub says that it holds, where the box holds the same
    and has no cosignature that covers it; oldest first."""
    held = {head.number: head for head in theirs}
    return [
        held[head.epoch]
        for head in source.heads()[:-1]
        if head.epoch in held and _lacks(source, head, held[head.epoch])
    ]


def _lacks(source: Journal, head: Head, theirs: LogHead) -> bool:
    if not _cosigned_size(source, head.epoch) < theirs.size <= head.size:
        return False
    node = source.node(epoch=head.epoch, size=head.size)
    try:
        return frontier_at(theirs.size, node).root() == theirs.root
    except RecordPruned:
        return False  # its records are here no more, so it was cosigned as far as anyone can show


def _cosigned_size(source: Journal, epoch: int) -> int:
    note = source.cosignature(epoch)
    try:
        return journal.parse_checkpoint(note)[0].size if note else 0
    except journal.NoteError:
        return 0
