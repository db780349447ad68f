"""A pen that has failed: nobody waits for it for ever, and the box hears that it has stopped."""

import asyncio
from pathlib import Path

import apsw
import pytest

from edgegw.core.decide import Funding
from edgegw.errors import HeadMoved, LedgerCorrupt
from edgegw.ledger.store import Store
from edgegw.ledger.writer import Job, take_snapshot
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
    waits = asyncio.create_task(pen._submit(Job(take_snapshot, alone=True)))
    _, unanswered = await asyncio.wait({fails, waits, writing}, timeout=PATIENCE_S)
    assert unanswered == set()
    for task in (fails, waits):
        with pytest.raises(HeadMoved):
            task.result()
    assert isinstance(pen.failure, HeadMoved)
    pen.desk.store.close()


async def test_a_rotted_record_ends_the_pen(tmp_path: Path) -> None:
    """Whoever finds that the disk does not hold what was written must not go on writing to it."""
    pen = open_pen(tmp_path, TestClock())
    writing = asyncio.create_task(pen.run())
    await enrol(pen)
    await pen.decide("till", [payment(1)], Funding(line_up=True))
    with apsw.Connection(str(tmp_path / "ledger.db")) as intruder:
        intruder.execute("DROP TRIGGER record_keeps_content")
        intruder.execute(
            "UPDATE record SET body = CAST(replace(body, 'anna', 'bert') AS BLOB) WHERE type = 'transfer'"
        )
    with pytest.raises(LedgerCorrupt, match="is not the one that was chained"):
        await pen.decide("till", [payment(1)], Funding(line_up=True))
    await asyncio.wait_for(writing, PATIENCE_S)
    with pytest.raises(LedgerCorrupt):
        await pen.decide("till", [payment(2)], Funding(line_up=True))
    assert "edgegw ledger check" in pen.failure.hint
    pen.desk.store.close()
