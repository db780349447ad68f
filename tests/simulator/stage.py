"""A small fleet that is opened once, and played again and again from there, step by step.

Each play is a fork of the process that opened it, on copies of its disks: a start costs a thousandth of
opening hub and boxes anew. Steps come over a pipe as a name and numbers; what is wrong afterwards goes back.
The world, its seams and the laws are the simulator's. Leaves out which steps (`test_conservation`).
"""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import socket
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, Final, NoReturn
from unittest.mock import patch

import apsw
import msgspec
from sqlalchemy import Engine, create_engine, event

from edgegw.core.records import Account, Request
from edgegw.core.site import AllowanceRule, CurrencyRule, LimitRule, Site, StandInRule
from edgegw.hub import sqlite as hub_sqlite
from edgegw.hub.journals import not_here
from edgegw.hub.operate import OrderError, close, freeze, release_epoch, seal_epoch
from edgegw.ledger.store import Store
from tests.simulator import disasters
from tests.simulator.laws import BoxLaws, HubLaws
from tests.simulator.loop import VirtualLoop, buried, passed
from tests.simulator.machine import BANK, Machine
from tests.simulator.model import Plain
from tests.simulator.world import World, until

BOXES: Final = 2
ACCOUNTS: Final = 5
FUNDS_MINOR: Final = 1_000
HEAL_S: Final = 90.0
ANSWER_S: Final = 1.5
MEET_S: Final = 2.0
LOST_S: Final = 12.0
"""After which a line that says nothing is journalled as lost."""
CLIENT: Final = "till"
NS: Final = 1_000_000_000
Step = tuple[str | int, ...]
"""A step's name and its numbers."""
REHEARSAL: Final[tuple[Step, ...]] = (
    *(("mend", 0), ("mend", 1)),
    *(("pay", number % 2, number, number, 150, 0) for number in range(8)),
    *(("hold", 0, 0, 1, 40, 0), ("resolve", 0, 1, 50), ("reverse", 0, 50, 0), ("reverse", 1, 100, 0)),
    *(("freeze", 1, 1), ("fund", 2, 40), ("window", 0), ("wait", 30), ("keep_hub",), ("keep_disk", 1)),
    *(("cut", 0, 0), ("cut", 1, 0), ("wait", 120)),
    *(("pay", number % 2, number, number, 250, 0) for number in range(8)),
    *(("pay", 0, 1, 2, 700, 1), ("again", 3, 1), ("clone", 0), ("pay", 1, 1, 2, 40, 0), ("settle",)),
    *(("fail_over",), ("settle",), ("restore_disk", 1), ("settle",)),
)
"""What makes hub and boxes use nearly all that they have."""


def a_small_site(boxes: tuple[str, ...], *, liable: str) -> Site:
    """One currency, five accounts of two participants, homed here and there; little enough that funds end."""
    accounts = tuple(
        Account(
            id=f"CNY-{number}",
            currency="CNY",
            home=(*boxes, "")[number % 3],
            participant=("", "city")[number % 2],
        )
        for number in range(ACCOUNTS)
    )
    return Site(
        bank=BANK,
        version=1,
        currencies=(CurrencyRule(code="CNY", numeric=156),),
        accounts=accounts,
        limits=(
            LimitRule(name="window", currency="CNY", payment_minor=900, per="window", amount_minor=5_000),
        ),
        stand_in=(
            StandInRule(
                currency="CNY",
                floor_minor=300,
                account_minor=500,
                account_count=3,
                box_minor=1_000,
                offline_seconds_max=3_600,
            ),
        ),
        allowances=(AllowanceRule(currency="CNY", share_percent=50, account_minor=400),),
        late_decline_liable=liable,
    )


@contextmanager
def one_engine() -> Iterator[None]:
    """Let every hub whose file has the same relative name use one engine: what SQL it has once written down
    serves the next play, too."""
    engines: dict[str, Engine] = {}

    def made(url: str, **words: Any) -> Engine:
        if url not in engines:
            engines[url] = create_engine(url, **words)
            path = url.removeprefix("sqlite:///")
            event.listen(engines[url], "do_connect", lambda *words: words[2].__setitem__(0, path))
        return engines[url]

    with patch.object(hub_sqlite, "create_engine", made):
        yield


class Fleet:
    """The opened world, asleep: every file is closed, so that a fork may go on with copies of them."""

    def __init__(self, folder: Path, *, liable: str) -> None:
        """Made inside `seams.open_seams`. Who bears late declines: `merchant` or `branch`."""
        self.folder = folder
        self.plays = 0
        folder.mkdir()
        before = Path.cwd()
        os.chdir(folder)  # all paths are relative, so that a play finds its own files under the same names
        self.loop = VirtualLoop(Random(f"fleet/{liable}"))
        self.loop.set_exception_handler(lambda _loop, _context: None)
        asyncio.set_event_loop(self.loop)
        try:
            self.world = self.loop.run_until_complete(self._opened(liable))
        finally:
            asyncio.set_event_loop(None)
            os.chdir(before)
        running = [machine.process for machine in self.world.machines.values() if machine.process is not None]
        self._stores = [store for own in running for store in own.stores if _is_open(store)]
        for store in self._stores:
            store._db.close(True)
        self.world.centre.database.engine.dispose()
        self._files = {
            path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }

    async def _opened(self, liable: str) -> World:
        world = World(f"fleet/{liable}", Path(), self.loop, boxes=BOXES)
        site = a_small_site(tuple(world.machines), liable=liable)
        world.open_with(site, [(account.id, FUNDS_MINOR) for account in site.accounts])
        if not await until(lambda: not world.in_step(), seconds=HEAL_S):
            raise AssertionError(world.in_step())
        for name in world.machines:
            cut(world, name)
        await passed(LOST_S)
        return world

    def play(self) -> Play:
        """Go on from here in a process of its own."""
        self.plays += 1
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which the child does not use
            child = os.fork()
        if not child:
            here.close()
            _live(self, there)
        there.close()
        return Play(child, here)

    def wake(self) -> Stage:
        """In a process of its own: copy the disks and go on."""
        folder = self.folder.with_name(f"{self.folder.name}-{self.plays}")
        folder.mkdir()
        os.chdir(folder)
        for path, content in self._files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        for store in self._stores:
            opened = apsw.Connection(str(store.path))
            opened.set_busy_timeout(1_000)
            for part in (store, *vars(store).values()):
                if hasattr(part, "_db"):
                    part._db = opened
        asyncio.set_event_loop(self.loop)
        return Stage(self.world, self.loop)

    def rehearse(self, steps: Iterable[Step]) -> None:
        """Play here, and never again: no play of a later fleet pays for what is made at its first use."""
        before = Path.cwd()
        try:
            stage = self.wake()
            for step in steps:
                stage.step(*step)
            self.close()
            self.world.close()
        finally:
            asyncio.set_event_loop(None)
            os.chdir(before)

    def close(self) -> None:
        """Give up what sleeps."""
        buried(self.loop)


def cut(world: World, label: str, way: int = 0) -> None:
    """Break a box's line: both ways, or only down (1) or up (2)."""
    for address in world.centre.addresses:
        link = world.network.link(label, address)
        link.broken_up, link.broken_down = way != 1, way != 2


def _is_open(store: Store) -> bool:
    try:
        return bool(store._db.db_filename("main"))
    except apsw.ConnectionClosedError:
        return False


def _live(fleet: Fleet, line: socket.socket) -> NoReturn:
    """The play's process: one step after another until the other end is closed; never returns."""
    try:
        gc.disable()
        with line.makefile("rwb") as talk:
            stage = fleet.wake()
            while words := talk.readline():
                try:
                    findings = stage.step(*msgspec.json.decode(words))
                except Exception:  # noqa: BLE001 - told with its trace
                    findings = [f"the step itself broke: {traceback.format_exc()}"]
                talk.write(msgspec.json.encode(findings) + b"\n")
                talk.flush()
        shutil.rmtree(Path.cwd(), ignore_errors=True)
    finally:
        os._exit(0)


class Play:
    """The other end of a play."""

    def __init__(self, child: int, line: socket.socket) -> None:
        self._child = child
        self._line = line
        self._talk = line.makefile("rwb")

    def step(self, name: str, *numbers: int) -> list[str]:
        """Do one step there; what is wrong after it."""
        self._talk.write(msgspec.json.encode((name, *numbers)) + b"\n")
        self._talk.flush()
        words = self._talk.readline()
        findings: list[str] = msgspec.json.decode(words) if words else ["the play has ended"]
        return findings

    def end(self) -> None:
        """Close it."""
        self._talk.close()
        self._line.close()
        os.waitpid(self._child, 0)


class Stage:
    """What can happen: each public method is a step, whose numbers choose among what there is."""

    def __init__(self, world: World, loop: VirtualLoop) -> None:
        self.world = world
        self.loop = loop
        self.asked: list[tuple[str, Plain]] = []
        """Every request, and where it was sent first."""
        self.hub_copy: Path | None = None
        self.disk_copies: dict[str, Path] = {}
        self._minted = 0
        self._steps: dict[str, Callable[..., Any]] = {
            step.__name__: step
            for step in (
                *(self.pay, self.hold, self.resolve, self.reverse, self.again),
                *(
                    self.cut,
                    self.mend,
                    self.meet,
                    self.wait,
                    self.crash,
                    self.clock,
                    self.window,
                    self.freeze,
                    self.fund,
                    self.close,
                ),
                *(self.keep_disk, self.restore_disk, self.clone, self.order_epoch, self.seal),
                *(self.keep_hub, self.fail_over, self.crash_hub, self.settle),
            )
        }
        self._boxes: dict[str, BoxLaws] = {}
        self._hub: HubLaws | None = None

    def step(self, name: Any, *numbers: Any) -> list[str]:
        """Do one step, and look at everything."""
        self.loop.run_until_complete(self._steps[name](*numbers))
        return self.findings()

    def findings(self) -> list[str]:
        """What does not hold now."""
        world = self.world
        found = world.centre.broken + world.findings
        for label, machine in {**world.machines, **world.retired}.items():
            found += machine.broken
            if not machine.ledger.exists():
                continue
            laws = self._boxes.get(label)
            if laws is None:
                laws = BoxLaws(label, machine.name, machine.ledger, world.facts.sites)
                self._boxes[label] = laws
            found += laws.look()
            own = machine.process
            if own is not None and own.gateway is not None:
                book = own.gateway.book
                if (book.epoch << 40 | book.seq) == laws.position:
                    found += laws.compare(book.balance)
        if self._hub is None:
            self._hub = HubLaws(world.centre.path, world.facts)
        return found + list(self._hub.look())

    # --- clients --------------------------------------------------------------------------------------------

    def _box(self, number: int) -> Machine:
        labels = sorted(self.world.machines)
        return self.world.machines[labels[number % len(labels)]]

    def _mint(self) -> str:
        self._minted += 1
        return f"{self._minted:032x}"

    async def _ask(self, machine: Machine, request: Plain) -> None:
        asking = machine.ask(CLIENT, [msgspec.convert(request, Request)], linked=False)
        await asyncio.wait((asking,), timeout=ANSWER_S)

    async def _new(self, machine: Machine, request: Plain) -> None:
        self.asked.append((machine.label, request))
        await self._ask(machine, request)

    def _parties(self, payer: int, payee: int, amount: int) -> Plain:
        payer %= ACCOUNTS
        payee = (payer + 1 + payee % (ACCOUNTS - 1)) % ACCOUNTS
        return {
            "id": self._mint(),
            "debit_account_id": f"CNY-{payer}",
            "credit_account_id": f"CNY-{payee}",
            "amount_minor": amount,
            "currency": "CNY",
        }

    async def pay(self, box: int, payer: int, payee: int, amount: int, advice: int) -> None:
        """A payment."""
        request = {"kind": "payment", **self._parties(payer, payee, amount), "advice": bool(advice)}
        await self._new(self._box(box), request)

    async def hold(self, box: int, payer: int, payee: int, amount: int, timeout_s: int) -> None:
        """A hold, with an end or without."""
        await self._new(
            self._box(box), {"kind": "hold", **self._parties(payer, payee, amount), "timeout_s": timeout_s}
        )

    def _earlier(self, number: int, *kinds: str) -> tuple[str, Plain] | None:
        found = [one for one in self.asked if one[1]["kind"] in kinds]
        return found[number % len(found)] if found else None

    async def resolve(self, number: int, post: int, percent: int) -> None:
        """Post a hold, whole or in part, or void it."""
        earlier = self._earlier(number, "hold")
        if earlier is not None:
            amount = earlier[1]["amount_minor"] * percent // 100 if post else 0
            await self._new(
                self._at(earlier[0]),
                {
                    "kind": "post" if post else "void",
                    "id": self._mint(),
                    "original_id": earlier[1]["id"],
                    "amount_minor": amount,
                },
            )

    async def reverse(self, number: int, percent: int, advice: int, refund: int = 0) -> None:
        """Give a payment back, or refund it, whole or in part."""
        earlier = self._earlier(number, "payment", "hold", "refund")
        if earlier is not None:
            await self._new(
                self._at(earlier[0]),
                {
                    "kind": "refund" if refund else "reversal",
                    "id": self._mint(),
                    "original_id": earlier[1]["id"],
                    "amount_minor": earlier[1]["amount_minor"] * percent // 100,
                    "advice": bool(advice) and not refund,
                },
            )

    async def again(self, number: int, elsewhere: int) -> None:
        """Ask once more what was asked before, there or at another box."""
        if self.asked:
            label, request = self.asked[number % len(self.asked)]
            await self._ask(self._box(elsewhere) if elsewhere else self._at(label), request)

    def _at(self, label: str) -> Machine:
        return self.world.machines.get(label) or self._box(0)

    # --- lines, boxes, time ---------------------------------------------------------------------------------

    async def cut(self, box: int, way: int) -> None:
        """The line breaks."""
        cut(self.world, self._box(box).label, way)

    async def mend(self, box: int) -> None:
        """The line is well again."""
        for address in self.world.centre.addresses:
            self.world.network.link(self._box(box).label, address).heal()
        await passed(MEET_S)

    async def meet(self, box: int, payer: int, payee: int, amount: int, way: int) -> None:
        """The line is well for as long as a payment, which may need the centre; then it is as before."""
        machine = self._box(box)
        await self.mend(box)
        await self.pay(box, payer, payee, amount, 0)
        await passed(MEET_S)
        cut(self.world, machine.label, way)

    async def wait(self, deciseconds: int) -> None:
        """Time passes."""
        await passed(deciseconds / 10)

    async def crash(self, box: int, at_commit: int) -> None:
        """A box is killed, now or right before or after its next COMMIT."""
        own = self._box(box).process
        if own is not None and at_commit:
            own.dies_after_commit = at_commit == 2
            own.dies_at_commit = own.commits + 1
        else:
            self._box(box).crash()

    async def crash_hub(self, at_commit: int) -> None:
        """The hub is killed, now or right before or after its next COMMIT."""
        own = self.world.centre.process
        if own is not None and at_commit:
            own.dies_after_commit = at_commit == 2
            own.dies_at_commit = own.commits + 1
        else:
            self.world.centre.crash()

    async def clock(self, box: int, seconds: int) -> None:
        """A box's wall clock steps."""
        self._box(box).wall_ahead_ns += seconds * NS

    # --- people ---------------------------------------------------------------------------------------------

    async def window(self, box: int) -> None:
        """Close a box's window."""
        closing = self._box(box).operate(
            lambda gateway: gateway.close_window(
                window=gateway.book.window, business_date="2030-01-02", by="operator"
            )
        )
        await asyncio.wait((closing,), timeout=ANSWER_S)

    def _order(self, work: Callable[[Any], Any]) -> None:
        if self.world.centre.process is None:
            return
        try:
            self.world.centre.order(work)
        except OrderError:
            return  # its hint says what must come first

    async def freeze(self, account: int, frozen: int) -> None:
        """Freeze an account, or let it pay again."""
        self._order(
            lambda connection: freeze(
                connection,
                self.world.keyring,
                account_id=f"CNY-{account % ACCOUNTS}",
                frozen=bool(frozen),
                reason="ordered",
                now_ns=self.world.centre.clock_ns(),
            )
        )

    async def close(self, account: int, closed: int) -> None:
        """Close an account, or open it again."""
        self._order(
            lambda connection: close(
                connection,
                self.world.keyring,
                account_id=f"CNY-{account % ACCOUNTS}",
                closed=bool(closed),
                reason="ordered",
                now_ns=self.world.centre.clock_ns(),
            )
        )

    async def fund(self, account: int, amount: int) -> None:
        """Money from outside."""
        if self.world.centre.process is not None:
            self.world.fund(f"CNY-{account % ACCOUNTS}", amount)

    # --- disasters ------------------------------------------------------------------------------------------

    async def keep_disk(self, box: int) -> None:
        """A copy of a box's ledger is made."""
        machine = self._box(box)
        if machine.ledger.exists():
            copy = Path(f"copy-of-{machine.label}")
            machine.copy_disk(copy, anchor=False)
            self.disk_copies[machine.label] = copy

    async def restore_disk(self, box: int) -> None:
        """It is put back, whatever has happened since."""
        machine = self._box(box)
        copy = self.disk_copies.get(machine.label)
        if copy is not None:
            machine.crash()
            machine.let_go()
            self._forget(machine.label)
            machine.put_disk(copy)
            machine.boot()
            await passed(2.0)

    def _forget(self, label: str) -> None:
        laws = self._boxes.pop(label, None)
        if laws is not None:
            laws.close()

    async def clone(self, box: int) -> None:
        """A box's disks are started on a second machine, cut off from the centre."""
        machine = self._box(box)
        label = f"{machine.name}-copy"
        if machine.process is None or label in {**self.world.machines, **self.world.retired}:
            return
        copy = machine.clone(Path(label), label)
        self.world.machines[label] = copy
        cut(self.world, label)
        copy.boot()
        await passed(1.0)

    async def order_epoch(self, box: int) -> None:
        """A person orders a new epoch, after all copies of the box were switched off and brought in."""
        machine = self._box(box)
        if self.world.centre.process is None:
            return
        self._retire(machine.name)
        self._order(lambda connection: release_epoch(connection, machine.name))
        await passed(3.0)

    def _retire(self, name: str) -> None:
        for label, machine in self.world.machines.items():
            if label != machine.name and machine.name == name:
                self._forget(label)
        disasters.retire_copies(self.world, of=name)

    async def seal(self, box: int) -> None:
        """An epoch that is over is settled."""
        self._seal(self._box(box).name)

    def _seal(self, name: str) -> None:
        """What is known to be missing is declared lost: the disk that had it is gone."""

        def work(connection: Any, epoch: int) -> None:
            seal_epoch(connection, name, epoch, lost=not_here(connection, name, epoch))

        for row in self.world.tables("journal_head")["journal_head"]:
            if row["box"] == name and not row["sealed"]:
                self._order(lambda connection, epoch=row["epoch"]: work(connection, epoch))

    async def keep_hub(self) -> None:
        """A copy of the hub's database is made."""
        if self.world.centre.process is not None:
            self.hub_copy = Path("copy-of-hub")
            self.world.centre.back_up(self.hub_copy)

    async def fail_over(self) -> None:
        """The hub goes on with the copy: what it has committed since is lost to it."""
        centre = self.world.centre
        if self.hub_copy is None or centre.process is None:
            return
        centre.crash(again_s=0.5)
        if self._hub is not None:
            self._hub.close()
            self._hub = None
        centre.put_back(self.hub_copy)
        await passed(0.6)
        disasters.bring_again(self.world)

    async def settle(self) -> None:
        """All is mended; in the end everybody agrees, and what is over is sealed."""
        world = self.world
        for link in world.network.links.values():
            link.heal()
        await until(lambda: world.centre.process is not None, seconds=HEAL_S)
        for machine in world.machines.values():
            if machine.process is not None:
                machine.process.dies_at_commit = 0
        if world.centre.process is not None:
            world.centre.process.dies_at_commit = 0
        for name in sorted({machine.name for machine in world.machines.values()}):
            self._retire(name)
        person = asyncio.ensure_future(disasters.operator(world))
        try:
            if not await until(self._agreed, seconds=HEAL_S):
                world.findings += [f"never in step: {one}" for one in world.in_step()]
        finally:
            person.cancel()

    def _agreed(self) -> bool:
        if self.world.in_step(settled=False):
            return False
        for box in sorted(self.world.machines):
            self._seal(box)
        return not self.world.in_step()
