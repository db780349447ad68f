"""Writing down that a client has taken note of late words: the work of one batch, which changes nothing where
all of it is noted already.

Leaves out the reading (`ledger.late_words`) and who may say so (`payments`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from edgegw.core.records import Acknowledgement, place_text
from edgegw.ledger.batch import Batch
from edgegw.ledger.late_words import Noted
from edgegw.ledger.rows import place_at


def acknowledgement(
    *,
    client: str,
    by: str,
    up_to: int,
    apart: Collection[int],
    settled: Collection[int],
    whole: bool,
) -> Callable[[Batch], Noted]:
    """The work that notes late words up to a position; how far the client is then.

    apart: positions that are not to count from now on; settled: such that count after all; whole: none before
    `up_to` stands apart any more.
    """

    def run(batch: Batch) -> Noted:
        before = batch.desk.store.late.noted(client)
        reached = max(up_to, before.up_to)
        kept = {one for one in before.apart if not (whole and one <= up_to)}
        left = tuple(sorted((kept | set(apart)) - set(settled)))
        if (reached, left) == (before.up_to, before.apart):
            return before
        record = Acknowledgement(
            **batch.head(),
            client=client,
            by=by,
            up_to=_place(reached),
            apart=tuple(map(_place, left)),
        )
        batch.note_and_write(record)
        return Noted(place_text(epoch=record.epoch, seq=record.seq), reached, left)

    return run


def _place(position: int) -> str:
    epoch, seq = place_at(position)
    return place_text(epoch=epoch, seq=seq)
