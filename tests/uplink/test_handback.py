"""What goes back to a hub that has lost its directives, from a log of any length."""

from collections.abc import Sequence

import pytest

from edgegw.core import journal
from edgegw.core.exchange import HeldLog, judge_handed_back
from edgegw.core.messages import PACKAGE_RECORDS_MAX, LogHead, PackageVerdict
from edgegw.uplink.handback import HandBack
from edgegw.uplink.outbox import EditedRecord
from edgegw.uplink.ports import HeldDirectives
from tests.core.authors import BANK, BOX, Author, Reader, new_key
from tests.uplink.box import MemoryBox

COUNT = 3_000


class LongLog(MemoryBox):
    """A box that has applied many directives, and counts what is read of them."""

    def __init__(self) -> None:
        self.author = Author(new_key("hub"), field="incarnation")
        super().__init__(self.author.key)
        for number in range(COUNT):
            self.author.append_body(self.author.body(f"{number}"))
        self.directive_rows = list(zip(range(COUNT), self.author.leaves, self.author.bodies, strict=True))
        self.read = 0

    def incarnations(self) -> Sequence[HeldDirectives]:
        frontier = journal.Frontier()
        frontier.extend(self.author.leaves)
        return [HeldDirectives(1, frontier, self.author.leaves[-1], self.author.checkpoint())]

    def directive_records(
        self, *, incarnation: int, start: int, limit: int, bytes_max: int
    ) -> Sequence[tuple[int, bytes, bytes]]:
        rows = super().directive_records(
            incarnation=incarnation, start=start, limit=min(limit, 100), bytes_max=bytes_max
        )
        self.read += len(rows)
        return rows


def test_handing_back_costs_the_same_at_the_end_as_at_the_beginning() -> None:
    """Read whole for each package, a year's directives kept a restored hub waiting for minutes."""
    box = LongLog()
    back, reader = HandBack(box), Reader()
    box.read = -COUNT  # once, to know the tree
    held = LogHead(1)
    while (returning := back.next(held, asked=False, bytes_max=1 << 20)) is not None:
        assert not returning.asks
        assert box.read <= 4 * PACKAGE_RECORDS_MAX
        box.read = 0
        key = box.author.key.public
        judged = judge_handed_back(returning.package, reader.held(), bank=BANK, box=BOX, key=key)
        assert judged.verdict is PackageVerdict.ACCEPTED, judged.reason
        reader.keep(judged)
        held = judged.head
    assert reader.bodies == box.author.bodies


def test_a_hub_with_other_directives_is_asked_once_and_then_told_from_where_they_part() -> None:
    """The last one that both could have says it; what the hub then keeps is where it goes on."""
    box = LongLog()
    back = HandBack(box)
    other = LogHead(1, 700, bytes(32))
    asked = back.next(other, asked=False, bytes_max=1 << 20)
    assert asked is not None
    assert (asked.asks, asked.package.old_size) == (True, 699)
    assert back.next(other, asked=True, bytes_max=1 << 20) is None
    shorter = back.next(LogHead(1, 600, box.author.root(600)), asked=False, bytes_max=1 << 20)
    assert shorter is not None
    assert (shorter.asks, shorter.package.old_size) == (False, 600)
    held = HeldLog(1, journal.Frontier(), lambda index: box.author.leaves[index])
    judged = judge_handed_back(shorter.package, held, bank=BANK, box=BOX, key=box.author.key.public)
    assert judged.verdict is PackageVerdict.GAP


def test_a_directive_that_is_gone_from_the_disk_is_named() -> None:
    """Nothing of it goes back then, and the box must say which one it was."""
    box = LongLog()
    del box.directive_rows[2_900:]
    with pytest.raises(EditedRecord, match="directive 1/2900 is missing"):
        HandBack(box).next(LogHead(1), asked=False, bytes_max=1 << 20)
