"""The line between the real ledger and the real hub: the parts keep what they promise each other."""

import asyncio
import sys
from pathlib import Path

from edgegw.core.records import Mode
from tests.core.authors import new_key
from tests.hub.world import NORTH, RISK_MINOR, World
from tests.uplink.real_box import Port, RealBox, synced
from tests.waiting import until

RISK = f"risk:{NORTH}:CNY"


async def test_money_that_is_neither_here_nor_there(
    tmp_path: Path, world: World, port: Port, boxes: list[RealBox]
) -> None:
    """Link, site, risk allowance, a grant, payments, an outage, a restart; the hub's books at the end."""
    key = new_key("checkpoint")
    box = RealBox(tmp_path, world, port, key=key, boot="one")
    boxes.append(box)
    await synced(box, world)
    await until(lambda: box.available(RISK) == RISK_MINOR, "the risk allowance")
    assert await box.line.ask(account_id="A", currency="CNY", amount_minor=400) == "granted"
    assert box.available("A") == 400
    assert await box.line.ask(account_id="A", currency="CNY", amount_minor=5_000) == "refused"
    await box.pay(1, 300)
    await port.close()
    await until(lambda: box.pen.mode is Mode.OFFLINE, "the outage")
    await box.pay(2, 50)
    await boxes.pop().stop()
    again = RealBox(tmp_path, world, port, key=key, boot="two")
    boxes.append(again)
    assert again.available("A") == 50
    await port.open()
    await synced(again, world)
    assert again.available("SHOP") == 350
    assert world.money("SHOP") == (350, 0, 350)
    assert world.money("A") == (650, 600, 50)


async def test_each_session_says_what_time_it_is_at_the_hub(
    tmp_path: Path, world: World, port: Port, boxes: list[RealBox]
) -> None:
    """A machine without a battery is late by each of its stops, and would soon refuse every till's token."""
    began_s = world.now_ns() // 1_000_000_000
    boxes.append(box := RealBox(tmp_path, world, port, key=new_key("checkpoint"), boot="one"))
    await synced(box, world)
    heard = len(box.hub_said)
    assert all(began_s <= said <= world.now_ns() // 1_000_000_000 for said in box.hub_said)
    assert heard > 0
    await port.close()
    await until(lambda: box.pen.mode is Mode.OFFLINE, "the outage")
    world.ahead_ns += 3_600 * 1_000_000_000
    await port.open()
    await until(lambda: len(box.hub_said) > heard, "another session")
    assert box.hub_said[-1] >= began_s + 3_600


# In a process of its own: two copies of SQLite, or two connections closed apart, in one process lose locks.
EDIT = """
import apsw, sys
file = apsw.Connection(sys.argv[1])
file.set_busy_timeout(30_000)
file.execute("DROP TRIGGER record_keeps_content")
file.execute(
    "UPDATE record SET body = CAST(REPLACE(CAST(body AS TEXT), ':300', ':100') AS BLOB) WHERE position = ?",
    (int(sys.argv[2]),),
)
assert file.changes() == 1
file.close()
"""


async def test_a_row_edited_in_the_ledger_file_during_the_outage_reaches_no_hub(
    tmp_path: Path, world: World, port: Port, boxes: list[RealBox]
) -> None:
    """Triggers dropped, a byte changed by hand: found by name, not sent, and the box clears no more."""
    key = new_key("checkpoint")
    box = RealBox(tmp_path, world, port, key=key, boot="one")
    boxes.append(box)
    await synced(box, world)
    assert await box.line.ask(account_id="A", currency="CNY", amount_minor=400) == "granted"
    await synced(box, world)
    await port.close()
    await until(lambda: box.pen.mode is Mode.OFFLINE, "the outage")
    seq = box.size()
    await box.pay(1, 300)
    await box.pay(2, 50)
    editor = await asyncio.create_subprocess_exec(
        sys.executable, "-c", EDIT, str(box.path), str(1 << 40 | seq)
    )
    assert await editor.wait() == 0
    held = world.row("SELECT size FROM journal_head WHERE box = :box", box=NORTH)
    await port.open()
    await until(lambda: box.pen.mode is Mode.FORKED, "the edited row to be found")
    assert f"record 1/{seq}" in box.line.status.reason
    assert world.row("SELECT size FROM journal_head WHERE box = :box", box=NORTH) == held
    (undecided,) = await box.pay(3, 1)
    assert getattr(undecided, "code", "") == "forked"
