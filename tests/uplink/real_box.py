"""A box of the real parts for tests in process: ledger, pen and line, against the real hub on a port."""

import asyncio
from contextlib import suppress
from pathlib import Path

import msgspec
from aiohttp import web

from edgegw.access.keys import SigningKey, VerifyingKey
from edgegw.access.tls import TransportContext
from edgegw.commands.serving import site_of
from edgegw.core.decide import Funding
from edgegw.core.journal import Checkpoint
from edgegw.core.messages import open_link
from edgegw.core.records import Kind, Mode, Request
from edgegw.errors import Behind, NewEpoch, OperatingError
from edgegw.hub.app import make_app
from edgegw.ledger.closed import ClosedPen
from edgegw.ledger.outcomes import Budget, Outcome
from edgegw.ledger.received import policy_of
from edgegw.ledger.start import Own, Ways, begin_epoch, start
from edgegw.ledger.store import Store
from edgegw.ledger.writer import Pen
from edgegw.ledger_source import LedgerSource
from edgegw.machine import MachineClock
from edgegw.own import signer
from edgegw.uplink.line import Line
from edgegw.uplink.ports import Identity
from edgegw.uplink.session import Sources
from tests.hub.simulated_box import BANK
from tests.hub.world import NORTH, World
from tests.uplink.box import FAST
from tests.waiting import until


class Port:
    """The hub's HTTP on a port of its own, taken away and given back."""

    def __init__(self, world: World, *, tls: TransportContext | None = None) -> None:
        self._world = world
        self._runner: web.AppRunner | None = None
        self._tls = tls
        self.number = 0

    @property
    def url(self) -> str:
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self.number}"

    async def open(self) -> None:
        app = make_app(self._world.hub)
        app.cleanup_ctx.clear()
        self._runner = web.AppRunner(app, shutdown_timeout=0.01)
        await self._runner.setup()
        await site_of(self._runner, "127.0.0.1", self.number, name="hub", tls=self._tls).start()
        self.number = self._runner.addresses[0][1]

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()


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
        tls: TransportContext | None = None,
    ) -> None:
        directory.mkdir(exist_ok=True)
        self.path = directory / "ledger.db"
        self.store = Store.open(self.path, create=True)
        self.store.own(bank=BANK, box=NORTH)
        self.world, self.port, self.key, self.tls = world, port, key, tls
        self.hub_said: list[int] = []
        """What time it was at the hub, at each opening."""

        def open_note(epoch: int, note: str) -> Checkpoint:
            hub = world.hub_key.public
            return policy_of(self.store, epoch, None, hub_key=hub, parse=VerifyingKey.parse).open(note)

        self.own = Own(
            bank=BANK,
            box=NORTH,
            boot=boot,
            sign=signer(key, bank=BANK, box=NORTH),
            open_note=open_note,
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
            identity=Identity(
                BANK,
                NORTH,
                self.own.boot,
                device,
                hub,
                VerifyingKey.parse,
                epoch_key=lambda: self.own.key_text,
                tls=self.tls,
            ),
            settings=msgspec.structs.replace(FAST, addresses=((0, self.port.url),)),
            source=LedgerSource(self.reader),
            pen=pen,
            keeper=keeper,
            sources=Sources(chance=lambda: 0.0, hub_says=self.hub_said.append),
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

    @property
    def ended(self) -> bool:
        """Whether something has ended its life."""
        return self._living.done()

    async def _put_down(self, why: OperatingError) -> None:
        if self.closed is None:
            self.pen.give_up(why)
            await self._writing

    async def stop(self) -> None:
        self._living.cancel()
        try:
            with suppress(asyncio.CancelledError):
                await self._living
        finally:
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
