"""What another history of the box decided is learnt however much of its own the box has pruned."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from edgegw.core import journal
from edgegw.core.messages import Beat, Beaten, LinkNote, Verdict, sign_link
from edgegw.core.records import Mode
from edgegw.errors import RecordPruned
from edgegw.uplink.others import Others, head_of
from tests.core.authors import BANK, BOX, Author, new_key
from tests.uplink.box import MemoryBox


class PrunedBox(MemoryBox):
    """Of the leaves below the horizon only the last one stays, as `ledger.prune` leaves them."""

    horizon = 0

    def node(self, *, epoch: int, size: int) -> journal.Node:
        whole = super().node(epoch=epoch, size=size)

        def node(level: int, index: int) -> bytes:
            if not level and index < self.horizon - 1:
                raise RecordPruned(f"record {epoch}/{index} was pruned")
            return whole(level, index)

        return node


class Hub:
    """A session with a hub that holds one epoch, and closed it."""

    def __init__(self, log: Author) -> None:
        self.log = log
        self.opened = SimpleNamespace(closed=(log.head(),))

    async def beat(self, beat: Beat) -> Beaten:
        start, size = beat.pull.size if beat.pull is not None else 0, len(self.log.bodies)
        is_same = beat.pull is not None and (not start or self.log.root(start) == beat.pull.root)
        more = self.log.package(start, min(start + 32, size)) if is_same and start < size else None
        return Beaten(verdict=Verdict.OK, pulled=more)


async def read_now(read: Callable[[], object]) -> object:
    return read()


@pytest.mark.parametrize(("parting", "begins"), [(50, 50), (20, 0)])
async def test_a_fork_is_learnt_beside_or_below_what_was_pruned(parting: int, begins: int) -> None:
    """The hub gives the next epoch only to a box that knows it: one that cannot find it waits for ever."""
    hub_key = new_key("hub")
    box = PrunedBox(hub_key)
    box.horizon = 45
    key = box.epoch_key.public.text()
    said = LinkNote(bank=BANK, box=BOX, epoch=1, key=key, old_epoch=0, old_size=0, old_root="")
    note = sign_link(said, hub_key)
    mine, theirs = Author(box.epoch_key), Author(box.epoch_key)
    for log in (mine, theirs):
        log.append_body(log.body("", type="link", note=note))
    for number in range(1, 100):
        mine.append(str(number))
        theirs.append(str(number) if number < parting else f"other {number}")
    box.epochs[1] = mine
    others = Others(
        Hub(theirs),  # type: ignore[arg-type]
        box,
        box,
        box.identity,
        read=read_now,  # type: ignore[arg-type]
        mode=Mode.FORKED,
        lacking=lambda _: None,
        bytes_max=1 << 20,
    )
    assert await others.learn()
    assert [head_of(end) for end in box.others()] == [theirs.head()]
    assert box.other_records == theirs.bodies[begins:]
    assert not await others.learn()
