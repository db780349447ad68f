"""Three sides that agree: a real box and a second one, their hub, and a bank core that keeps its own list.

Ledger, pen, line and hub are the product's; the core's list is written here from what the clients asked for
and what they were told, not from any record. Nothing here knows how differences are found.
"""

from __future__ import annotations

import asyncio
import csv
import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from edgegw.access import key_files
from edgegw.core import journal
from edgegw.core.export import journal_lines
from edgegw.core.journal import Checkpoint
from edgegw.core.messages import Ask
from edgegw.core.records import Account, Kind, Mode, Request, Transfer
from edgegw.core.site import StandInRule
from edgegw.hub.take_journal import take_journal
from edgegw.ledger import prune
from edgegw.ledger.export import export_journal
from edgegw.ledger.outcomes import Decision
from edgegw.ledger.store import Store
from edgegw.ledger.writer import take_snapshot
from tests.hub.places import SqlitePlace
from tests.hub.simulated_box import BANK, CNY, SimulatedBox
from tests.hub.world import NORTH, SOUTH, World, a_site
from tests.uplink.real_box import Port, RealBox, synced
from tests.waiting import until

HEADER: Final = (
    "value_date",
    "core_reference",
    "channel",
    "client",
    "request_id",
    "box",
    "debit_account_id",
    "credit_account_id",
    "currency",
    "amount_minor",
    "status",
)
EARLY_DAYS: Final = ("2029-12-27", "2029-12-28", "2029-12-29")
FIRST_DAY, SECOND_DAY, OPEN_DAY = "2030-01-02", "2030-01-03", "2030-01-04"
ACCOUNTS: Final = (
    Account(id="A", currency=CNY),
    Account(id="B", currency=CNY),
    Account(id="C", currency=CNY),
    Account(id="SHOP", currency=CNY, home=NORTH, participant="shops"),
    Account(id="CAFE", currency=CNY, home=NORTH, participant="cafes"),
    Account(id="FAR", currency=CNY, home=SOUTH),
    Account(id="FARSHOP", currency=CNY, home=SOUTH),
)
RISK_MINOR: Final = 5_000
FUNDS: Final = (("A", 90_000), ("B", 1_000), ("C", 50_000), ("FAR", 5_000))
TREASURY: Final = "treasury"
"""The core's channel for what it posts at the hub."""


@dataclass(frozen=True)
class CoreLine:
    """One posting of the bank core."""

    value_date: str
    request_id: str
    box: str
    debit: str
    credit: str
    amount_minor: int
    status: str = "posted"
    currency: str = CNY
    client: str = "till"
    channel: str = "edgegw"
    reference: str = ""

    def cells(self, number: int) -> tuple[str, ...]:
        """As it stands in the file."""
        return (
            self.value_date,
            self.reference or f"core-{number:06d}",
            self.channel,
            self.client,
            self.request_id,
            self.box,
            self.debit,
            self.credit,
            self.currency,
            str(self.amount_minor),
            self.status,
        )


@dataclass
class Sides:
    """The files of one reconciliation."""

    folder: Path
    core: list[CoreLine] = field(default_factory=list)

    @property
    def ledger(self) -> Path:
        """The real box's data directory."""
        return self.folder / "north"

    @property
    def journal(self) -> Path:
        """The real box's exported journal."""
        return self.folder / "north.journal"

    @property
    def south(self) -> Path:
        """The other box's exported journal."""
        return self.folder / "south.journal"

    @property
    def forked_south(self) -> Path:
        """Another history of the other box, which it has signed too: a clone's."""
        return self.folder / "south-fork.journal"

    @property
    def hub(self) -> Path:
        """The hub's database."""
        return self.folder / "hub.db"

    @property
    def core_file(self) -> Path:
        """The core's list."""
        return self.folder / "core.csv"

    def write_core(self) -> None:
        """Write the core's list as it stands now."""
        with self.core_file.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(HEADER)
            writer.writerows(line.cells(number) for number, line in enumerate(self.core))

    def copy(self, folder: Path) -> Sides:
        """The same sides again, to be changed."""
        shutil.copytree(self.folder, folder)
        return Sides(folder, list(self.core))


class Branch:
    """A day in two branches; every answer goes into the core's list as a bank would book it."""

    def __init__(self, world: World, box: RealBox, port: Port) -> None:
        self.world, self.box, self.port = world, box, port
        self.lines: list[CoreLine] = []
        self.day = EARLY_DAYS[0]
        self._number = 0

    def new_id(self) -> str:
        """An id that nobody has used."""
        self._number += 1
        return f"{self._number:032x}"

    async def ask(self, kind: Kind, *, id: str = "", **fields: object) -> tuple[str, Transfer | None]:
        """One request; its id, and its record where it was cleared."""
        request = Request(kind=kind, id=id or self.new_id(), **fields)  # type: ignore[arg-type]
        (outcome,) = await self.box.ask(request)
        assert isinstance(outcome, Decision), outcome
        return request.id, outcome.record if isinstance(outcome.record, Transfer) else None

    async def pay(self, debit: str, credit: str, amount_minor: int) -> str:
        """A payment that is cleared and booked by the core."""
        id, record = await self.ask(
            Kind.PAYMENT,
            debit_account_id=debit,
            credit_account_id=credit,
            amount_minor=amount_minor,
            currency=CNY,
        )
        assert record is not None, (debit, credit)
        self.booked(id, debit, credit, amount_minor)
        return id

    def booked(self, id: str, debit: str, credit: str, amount_minor: int, status: str = "posted") -> None:
        """One line more in the core."""
        self.lines.append(CoreLine(self.day, id, NORTH, debit, credit, amount_minor, status))

    async def give_back(self, original: str, debit: str, credit: str, amount_minor: int) -> None:
        """A reversal that moves money."""
        id, record = await self.ask(
            Kind.REVERSAL,
            original_client="till",
            original_id=original,
            amount_minor=amount_minor,
            currency=CNY,
        )
        assert record is not None
        self.booked(id, debit, credit, amount_minor)

    async def hold(self, amount_minor: int) -> str:
        """A hold on A for SHOP."""
        id, record = await self.ask(
            Kind.HOLD,
            debit_account_id="A",
            credit_account_id="SHOP",
            amount_minor=amount_minor,
            currency=CNY,
            timeout_s=86_400,
        )
        assert record is not None
        return id

    async def resolve(self, kind: Kind, hold: str, amount_minor: int = 0) -> None:
        """Post (so much of) a hold, or void it."""
        id, record = await self.ask(
            kind, original_client="till", original_id=hold, amount_minor=amount_minor, currency=CNY
        )
        assert record is not None
        if kind is Kind.POST:
            self.booked(id, "A", "SHOP", amount_minor)

    async def stand_in(self, amount_minor: int, *, payer: str = "B") -> str:
        """A payment of B, whose money is at the centre, while the line is down."""
        id, record = await self.ask(
            Kind.PAYMENT,
            debit_account_id=payer,
            credit_account_id="CAFE",
            amount_minor=amount_minor,
            currency=CNY,
        )
        assert record is not None
        assert record.cleared_by == "stand_in"
        return id

    async def close_window(self, next_day: str) -> None:
        """The window's end; what follows is of the next day."""
        closed = await self.box.pen.close_window(business_date=self.day, closed_by="manager")
        assert getattr(closed, "business_date", "") == self.day, closed
        self.day = next_day

    async def go_offline(self) -> None:
        """The line is cut."""
        await self.port.close()
        await until(lambda: self.box.pen.mode is Mode.OFFLINE, "the outage")

    async def come_back(self) -> None:
        """The line is back, and both sides have said all."""
        await self.port.open()
        await self.agree()

    async def agree(self) -> None:
        """Hub and box hold the same, and no directive is under way."""

        def applied() -> bool:
            open_words = "SELECT count(*) FROM directive WHERE outcome = '' AND box = :box"
            stand_ins = "SELECT count(*) FROM stand_in WHERE settled = 0"
            return self.world.row(open_words, box=NORTH) == (0,) and self.world.row(stand_ins) == (0,)

        await synced(self.box, self.world)
        await until(applied, "every directive to be applied")
        await synced(self.box, self.world)


PRUNED: Final = 256
"""Records that a pruned box has no more."""


def make_pruned(folder: Path) -> Sides:
    """A box that has given most of its journal away: its hub and the core know all of it."""
    (folder / "live").mkdir(parents=True)
    world = World(SqlitePlace(folder / "live" / "hub.db"), clock_ns=time.time_ns)
    lines = asyncio.run(_a_long_day(world, folder / "live" / "north"))
    world.back_up(folder / "hub.db")
    world.hub.close()
    sides = Sides(folder, lines)
    write_exported(world.new_box(SOUTH), sides.south)
    return _written(sides, world)


async def _a_long_day(world: World, north: Path) -> list[CoreLine]:
    world.publish(_site(1))  # type: ignore[arg-type]
    for account_id, amount_minor in FUNDS:
        world.fund(account_id, amount_minor)
    port = Port(world)
    await port.open()
    key = world.devices[NORTH]
    box = RealBox(north, world, port, key=type(key)(f"{BANK}/north/checkpoint", key._private), boot="b1")
    try:
        branch = Branch(world, box, port)
        await synced(box, world)
        while box.available("A") < 40_000:
            await box.line.ask(account_id="A", currency=CNY, amount_minor=40_000)
        requests = [
            Request(
                kind=Kind.PAYMENT,
                id=branch.new_id(),
                debit_account_id="A",
                credit_account_id=("SHOP", "CAFE")[number % 2],
                amount_minor=10 + number % 7,
                currency=CNY,
            )
            for number in range(PRUNED + 20)
        ]
        answers = await asyncio.gather(*map(box.ask, requests))
        for (outcome,), request in zip(answers, requests, strict=True):
            assert isinstance(outcome, Decision)
            branch.booked(
                request.id, request.debit_account_id, request.credit_account_id, request.amount_minor
            )
        await branch.close_window(FIRST_DAY)
        for _ in range(2):
            await box.pen.work(take_snapshot)
        await branch.pay("A", "SHOP", 5)
        await branch.agree()
        await until(lambda: _cosigned(box) > PRUNED, "the hub's cosignature")
        await _prune(box, world)
    finally:
        await box.stop()
        await port.close()
    return branch.lines


def _cosigned(box: RealBox) -> int:
    held = box.store.cosignature(1)
    return held[0] if held else 0


async def _prune(box: RealBox, world: World) -> None:
    opened = world.hub_key.public.check_cosignature
    (mark,) = prune.new_marks(box.store, verify_cosignature=opened)
    two_days_s = 2 * prune.DAY_S
    aged = type(mark)(mark.epoch, mark.size, mark.hub_s - two_days_s, mark.at_ns - two_days_s * 10**9)
    await box.pen.work(prune.remember([aged]))
    (plan,) = prune.plans(box.store, records_days=1, verify_cosignature=opened)
    done = prune.Done(epoch=plan.epoch, start=plan.start, end=plan.start, held_by=plan.held_by)
    reader = box.store.reader()
    for step in prune.work(reader, plan, done):
        if step is not None:
            await box.pen.work(step)
    reader.close()
    assert done.end == PRUNED


def _site(version: int, **changes: object) -> object:
    rule = StandInRule(
        currency=CNY,
        floor_minor=4_000,  # what one payer splits is added up
        account_minor=3_000,
        account_count=20,
        box_minor=RISK_MINOR,
        offline_seconds_max=3_600,
    )
    return a_site(version, accounts=ACCOUNTS, stand_in=(rule,), **changes)


def make_sides(folder: Path, *, twice: bool = False, forked: bool = False) -> Sides:
    """A morning, five closed windows, two outages with stand-ins of every fate; a tail in flight.

    twice: a till has sent one payment again to the other box. forked: the hub has taken in the clone's
    history of the other box, and the core has what it did.
    """
    live = folder / "live"
    live.mkdir(parents=True)
    world = World(SqlitePlace(live / "hub.db"), clock_ns=time.time_ns)
    lines, south = asyncio.run(_a_day(world, live / "north"))
    if twice:
        first = next(line for line in lines if line.credit == "SHOP")
        south.sync(Ask("2", "A", CNY, 5_000))
        south.pay("A", "SHOP", first.amount_minor, home=True, request_id=first.request_id)
        south.sync()
    sides = Sides(folder, lines)
    write_exported(south, sides.south)
    forked_lines = _fork(south)
    write_exported(south, sides.forked_south)
    if forked:
        taken = take_journal(
            world.database, world.keyring, sides.forked_south, now_ns=time.time_ns, progress=lambda *_: None
        )
        assert (taken.branch, taken.fork_size, taken.losses) == (1, FORK_SEQ, 0)
        sides.core += forked_lines
    world.back_up(folder / "hub.db")
    world.hub.close()
    return _written(sides, world)


async def _a_day(world: World, north: Path) -> tuple[list[CoreLine], SimulatedBox]:
    world.publish(_site(1))  # type: ignore[arg-type]
    for account_id, amount_minor in FUNDS:
        world.fund(account_id, amount_minor)
    port = Port(world)
    await port.open()
    key = world.devices[NORTH]
    box = RealBox(north, world, port, key=type(key)(f"{BANK}/north/checkpoint", key._private), boot="b1")
    try:
        await synced(box, world)
        await until(lambda: box.available(f"risk:{NORTH}:{CNY}") == RISK_MINOR, "the risk allowance")
        branch = Branch(world, box, port)
        await _a_morning(branch)
        await _first_outage(branch)
        await _second_outage(branch)
        south = world.box(SOUTH)
        branch.lines += _at_south(south)
        await branch.go_offline()
        await branch.pay("A", "CAFE", 41)
        await branch.stand_in(42)
        await branch.hold(43)
        del branch.lines[-1]  # the hub has not heard of it, so the core has not either
        await branch.close_window("2030-01-05")
    finally:
        await box.stop()
        await port.close()
    return branch.lines, south


async def _a_morning(branch: Branch) -> None:
    while branch.box.available("A") < 60_000:  # a slow machine's late grant is handed back
        await branch.box.line.ask(account_id="A", currency=CNY, amount_minor=60_000)
    for next_day in (*EARLY_DAYS[1:], FIRST_DAY):
        await branch.pay("A", "SHOP", 20)
        await branch.pay("A", "CAFE", 21)
        await branch.close_window(next_day)
    paid = [await branch.pay("A", ("SHOP", "CAFE")[number % 2], 100 + number) for number in range(24)]
    for number in range(4):
        await branch.pay("A", "FAR", 200 + number)  # homed elsewhere: the right goes back to the centre
    await branch.give_back(paid[0], "SHOP", "A", 30)
    await branch.give_back(paid[2], "SHOP", "A", 102)
    held = [await branch.hold(300 + number) for number in range(6)]
    await branch.resolve(Kind.POST, held[0], 300)
    await branch.resolve(Kind.POST, held[1], 150)
    await branch.resolve(Kind.VOID, held[2])
    await branch.close_window(SECOND_DAY)
    for number in range(12):
        await branch.pay("A", ("SHOP", "CAFE")[number % 2], 400 + number)
    await branch.resolve(Kind.POST, held[3], 303)
    for _ in range(3):
        _, record = await branch.ask(
            Kind.PAYMENT,
            debit_account_id="NOBODY",
            credit_account_id="SHOP",
            amount_minor=77,
            currency=CNY,
        )
        assert record is None
    await branch.close_window(OPEN_DAY)
    for number in range(12):
        await branch.pay("A", ("SHOP", "CAFE")[number % 2], 500 + number)


async def _first_outage(branch: Branch) -> None:
    """B has 1 000: two stand-ins are confirmed, one is declined late, one is taken back."""
    await branch.go_offline()
    for amount_minor in (300, 301):
        branch.booked(await branch.stand_in(amount_minor), "B", "CAFE", amount_minor)
    await branch.stand_in(900)
    taken_back = await branch.stand_in(250)
    id, record = await branch.ask(
        Kind.REVERSAL, original_client="till", original_id=taken_back, amount_minor=250, currency=CNY
    )
    assert record is not None
    branch.booked(id, "B", "CAFE", 250, "released")  # the core may say so; it moved nothing
    await branch.come_back()


async def _second_outage(branch: Branch) -> None:
    """A late decline that the branch bears."""
    branch.world.publish(_site(2, late_decline_liable="branch"))  # type: ignore[arg-type]
    await branch.agree()
    await branch.go_offline()
    borne = await branch.stand_in(950)
    await branch.come_back()
    branch.booked(borne, f"receivable:{NORTH}:{CNY}", "CAFE", 950)
    await branch.agree()


def _at_south(south: SimulatedBox) -> list[CoreLine]:
    """The other box: payments from allowance."""
    south.sync(Ask("1", "C", CNY, 20_000))
    lines = []
    for number in range(12):
        id = f"{1_000_000 + number:032x}"
        south.pay("C", "FARSHOP", 600 + number, request_id=id)
        lines.append(CoreLine(OPEN_DAY, id, SOUTH, "C", "FARSHOP", 600 + number))
    for number in range(4):
        south.refuse(f"{2_000_000 + number:032x}")
    south.sync()
    # The hub declines it, and the line is cut before this box has journalled the word.
    south.stand_in("B", "FARSHOP", 800, request_id=f"{3_000_000:032x}")
    south.beat()
    return lines


def _written(sides: Sides, world: World) -> Sides:
    folder = sides.folder
    shutil.copytree(folder / "live" / "north", sides.ledger)
    store = Store.open_reader(sides.ledger / "ledger.db")
    try:
        with sides.journal.open("wb") as file:
            export_journal(store, file, epoch=1, progress=lambda *_: None)
    finally:
        store.close()
    shutil.rmtree(folder / "live")
    key_files.store_private_key(folder / "hub.pem", world.hub_key._private)
    (folder / "hub.toml").write_text(f'bank = "{BANK}"\ndatabase_file = "hub.db"\nkey_file = "hub.pem"\n')
    # Another channel's lines need not carry our identity.
    sides.core += [
        replace(line, channel="counter", request_id="", client="", box="", reference=f"counter-{number}")
        for number, line in enumerate(sides.core[:5])
    ]
    sides.core += [
        CoreLine(
            FIRST_DAY,
            "",
            "",
            f"core:{CNY}",
            account_id,
            amount_minor,
            client="",
            channel=TREASURY,
            reference=f"opening-{number}",
        )
        for number, (account_id, amount_minor) in enumerate(FUNDS)
    ]
    sides.write_core()
    return sides


FORK_SEQ: Final = 12
"""Up to here both histories of the other box are one."""


def _fork(box: SimulatedBox) -> list[CoreLine]:
    """Let the box be a clone of itself that went on from there; what it pays."""
    del box.bodies[FORK_SEQ:]
    lines = []
    for number in range(3):
        id = f"{4_000_000 + number:032x}"
        box.pay("C", "FARSHOP", 40 + number, request_id=id)
        lines.append(CoreLine(OPEN_DAY, id, SOUTH, "C", "FARSHOP", 40 + number))
    return lines


def write_exported(box: SimulatedBox, path: Path) -> None:
    """The journal of a box that has no ledger file, as `edgegw journal export` writes it."""
    origin = journal.journal_origin(bank=BANK, box=box.name, epoch=box.epoch)
    leaves = journal.chain(journal.FIRST_PREVIOUS, box.bodies)
    head = Checkpoint(origin, len(box.bodies), box.root(len(box.bodies)))
    with path.open("wb") as file:
        file.writelines(
            journal_lines(
                origin,
                list(zip(box.bodies, leaves, strict=True)),
                checkpoint=box.key.seal(head.body()),
                cosignatures=[],
            )
        )
