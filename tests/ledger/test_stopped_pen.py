"""A pen that has failed: nobody waits for it for ever, and the box hears that it has stopped."""

import asyncio
from pathlib import Path

import pytest

from edgegw.core.decide import Funding
from edgegw.core.messages import LinkNote
from edgegw.errors import HeadMoved
from edgegw.ledger.store import Store
from tests.ledger.running_box import TestClock, enrol, open_pen, payment

PATIENCE_S = 10


async def test_what_waits_behind_a_failed_commit_is_answered_and_the_pen_ends(tmp_path: Path) -> None:
    """Clients that hang, in a box that neither works nor stops, are worse than an error."""
    pen = open_pen(tmp_path, TestClock())
    writing = asyncio.create_task(pen.run())
    await enrol(pen)
    other = Store.open(tmp_path / "ledger.db")
    other.begin()
    other.claim_head(boot="another")
    other.commit()
    other.close()
    fails = asyncio.create_task(pen.decide("till", [payment(1)], Funding(line_up=True)))
    note = LinkNote(bank="demo", box="box-1", epoch=2, key="", old_epoch=1, old_size=0, old_root="")
    waits = asyncio.create_task(pen.link("a batch of its own", note))
    _, unanswered = await asyncio.wait({fails, waits, writing}, timeout=PATIENCE_S)
    assert unanswered == set()
    for task in (fails, waits):
        with pytest.raises(HeadMoved):
            task.result()
    assert isinstance(pen.failure, HeadMoved)
    pen.desk.store.close()
