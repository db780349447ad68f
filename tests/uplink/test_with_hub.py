"""The line between the real ledger and the real hub: the parts keep what they promise each other."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from aiohttp import web

from edgegw.access.keys import SigningKey, VerifyingKey
from edgegw.app import LedgerSource, MachineClock
from edgegw.core import journal
from edgegw.core.decide import Funding
from edgegw.core.journal import Checkpoint
from edgegw.core.messages import open_link
from edgegw.core.records import Kind, Mode, Request
from edgegw.errors import Behind, NewEpoch, OperatingError
from edgegw.hub.app import make_app
from edgegw.hub.database import open_database
from edgegw.ledger.closed import ClosedPen
from edgegw.ledger.outcomes import Budget, Outcome
from edgegw.ledger.start import Own, Ways, begin_epoch, start
from edgegw.ledger.store import Store
from edgegw.ledger.writer import Pen
from edgegw.uplink.line import Line, Sources
from edgegw.uplink.ports import Identity
from tests.core.authors import new_key
from tests.hub.simulated_box import BANK
from tests.hub.world import NORTH, RISK_MINOR, World, a_site, check_books
from tests.uplink.box import FAST
from tests.waiting import until

RISK = f"risk:{NORTH}:CNY"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A hub with the plain site published and 1 000 on A."""
    world = World(open_database(tmp_path / "hub.db"))
    world.publish(a_site())
    world.fund("A", 1_000)
    yield world
    with world.engine.begin() as connection:
        check_books(connection)


class Port:
    """The hub's HTTP on a port of its own, taken away and given back."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._runner: web.AppRunner | None = None
        self.number = 0

    async def open(self) -> None:
        app = make_app(self._world.hub)
        app.cleanup_ctx.clear()
        self._runner = web.AppRunner(app, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.number).start()
        self.number = self._runner.addresses[0][1]

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()


@pytest.fixture
async def port(world: World) -> AsyncIterator[Port]:
    port = Port(world)
    await port.open()
    yield port
    await port.close()


class RealBox:
    """Ledger, pen and line of the box NORTH in a directory; `stop` ends it as a kill would.

    It goes from epoch to epoch as `edgegw run` does, open or (`behind` says why) closed.
    """

    def __init__(
        self,
        directory: Path,
        world: World,
        port: Port,
        *,
        key: SigningKey,
        boot: str,
        behind: str = "",
    ) -> None:
        self.path = directory / "ledger.db"
        self.store = Store.open(self.path, create=True)
        self.world, self.port, self.key = world, port, key

        def sign(epoch: int, size: int, root: bytes) -> str:
            origin = journal.journal_origin(bank=BANK, box=NORTH, epoch=epoch)
            return key.seal(Checkpoint(origin, size, root).body())

        self.own = Own(
            bank=BANK,
            box=NORTH,
            boot=boot,
            sign=sign,
            open_note=lambda _epoch, note: key.public.open(note),
            key_text=key.public.text(),
            version="0",
            box_digest="",
        )
        self.ways = Ways(
            clock=MachineClock(),
            rules=[],
            budget=Budget(burst=10, per_second=10),
            room_for_payments=lambda: True,
            make_room=lambda: None,
        )
        self.reader = self.store.reader()
        self.stopped = asyncio.Event()
        self.closed: ClosedPen | None = None
        if behind:
            self._close(behind)
        else:
            self._use(start(self.store, self.own, self.ways))
        self._living = asyncio.create_task(self._live())

    def _use(self, pen: Pen) -> None:
        self.pen, self.closed = pen, None
        self.line = self._line(pen, None)
        self.pen.awaited = self.line.awaited
        self.pen.on_commit.append(self.line.head_moved)
        self._writing = asyncio.create_task(self.pen.run())

    def _close(self, reason: str) -> None:
        self.closed = ClosedPen(
            self.store,
            Behind(reason),
            bank=BANK,
            box=NORTH,
            hub_key=self.world.hub_key.public,
            parse_key=VerifyingKey.parse,
            before_taking=lambda: None,
        )
        self.line = self._line(self.closed, self.closed)

    def _line(self, pen: Pen | ClosedPen, keeper: ClosedPen | None) -> Line:
        device, hub = self.world.devices[NORTH], self.world.hub_key.public
        return Line(
            identity=Identity(BANK, NORTH, self.own.boot, device, hub, epoch_key=self.own.key_text),
            settings=type(FAST)(
                addresses=((0, f"http://127.0.0.1:{self.port.number}"),),
                heartbeat_ms=20,
                gather_ms=2,
                backoff_ms_max=40,
            ),
            source=LedgerSource(self.reader),
            pen=pen,
            keeper=keeper,
            sources=Sources(chance=lambda: 0.0),
        )

    async def _live(self) -> None:
        while True:
            try:
                await self.line.run()
            except NewEpoch as given:
                await self._put_down(given)
                epoch = open_link(given.note, self.world.hub_key.public).epoch
                self._use(begin_epoch(self.store, self.own, self.ways, note=given.note, epoch=epoch))
            except Behind as found:
                await self._put_down(found)
                self._close(str(found))

    async def _put_down(self, why: OperatingError) -> None:
        if self.closed is None:
            self.pen.give_up(why)
            await self._writing

    async def stop(self) -> None:
        self._living.cancel()
        with suppress(asyncio.CancelledError):
            await self._living
        # Not cancelled: its last COMMIT would go on in its thread, and the connection is busy then.
        if self.closed is None:
            self.pen.close()
            await self._writing
        self.reader.close()
        self.store.close()

    def available(self, account_id: str) -> int:
        return self.pen.desk.book.available(account_id)

    async def pay(self, number: int, amount_minor: int) -> list[Outcome]:
        return await self.ask(_payment(number, amount_minor))

    async def ask(self, request: Request) -> list[Outcome]:
        pen = self.pen if self.closed is None else self.closed
        return await pen.decide("till", [request], Funding(self.line.up))

    def size(self) -> int:
        return self.pen.desk.tip.frontier.size


def _payment(number: int, amount_minor: int) -> Request:
    return Request(
        kind=Kind.PAYMENT,
        id=f"{number:032x}",
        debit_account_id="A",
        credit_account_id="SHOP",
        amount_minor=amount_minor,
        currency="CNY",
    )


async def synced(box: RealBox, world: World) -> None:
    """The hub holds all that the box has written, and the box knows it."""

    def held() -> bool:
        query = "SELECT size FROM journal_head WHERE box = :box AND epoch = :epoch"
        return world.row(query, box=NORTH, epoch=box.pen.epoch) == (box.size(),)

    await until(lambda: box.line.mode is Mode.ACTIVE and box.pen.epoch > 0 and held(), "hub and box to agree")


@pytest.fixture
async def boxes() -> AsyncIterator[list[RealBox]]:
    """Whatever the test puts in is stopped."""
    started: list[RealBox] = []
    yield started
    for box in started:
        await box.stop()


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


# In a process of its own: two copies of SQLite, or two connections closed apart, in one process lose locks.
EDIT = """
import apsw, sys
file = apsw.Connection(sys.argv[1])
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
