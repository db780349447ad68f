"""A box's machine: its disks, its clocks, its boots. The process on it is `app.run_box`, whole.

A crash leaves the files as they are and drops everything else. Leaves out the network, and who decides what
goes wrong when.
"""

from __future__ import annotations

import asyncio
import contextvars
import shutil
from collections.abc import Awaitable, Callable
from copy import copy
from pathlib import Path
from random import Random
from typing import Any, Final

import apsw
import msgspec

import edgegw.app as app
from edgegw.config.box import Box, BoxSettings, HubTable, LineTable, PeerAddress, RefusalsTable
from edgegw.core.records import Request
from edgegw.errors import OperatingError
from edgegw.own import Keys
from edgegw.payments.problems import Unanswered
from tests.simulator.loop import VirtualLoop
from tests.simulator.seams import Process

BANK: Final = "simbank"
NS: Final = 1_000_000_000
WALL_START_NS: Final = 1_900_000_000 * NS
LINE: Final = LineTable(
    heartbeat_ms=8_000,
    gather_ms=1_000,
    connect_timeout_ms=1_000,
    answer_timeout_ms=2_000,
    centre_timeout_ms=800,
    failback_ms=20_000,
    backoff_ms_max=6_000,
)
RESTART_S: Final = 2.0
"""The supervisor starts a process again after so long."""


class Said(msgspec.Struct, frozen=True):
    """What came back for one request: the bytes of its answer, or the code of why there is none."""

    answer: bytes = b""
    code: str = ""


class Machine:
    """One box: `boot()` starts its process, `crash()` ends it; its disk is a folder."""

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        loop: VirtualLoop,
        chance: Random,
        keys: Keys,
        addresses: tuple[str, ...],
        transport: Callable[[str, Any], Any],
        label: str = "",
    ) -> None:
        self.name = name
        self.label = label or name
        """What this machine is called where a copy of it must be told from it."""
        self.folder = folder
        self.keys = keys
        self.wall_ahead_ns = 0
        """How wrong its wall clock is."""
        self.boots = 0
        self._machine_began_ns = 0
        self.on_boot: Callable[[Process], None] = lambda _process: None
        self.ended: list[str] = []
        """Why its processes ended that nobody had killed."""
        self.broken: list[str] = []
        """Ends that no fault of the world excuses."""
        self.supervised = True
        self.process: Process | None = None
        self.has_room = True
        self._loop = loop
        self._chance = chance
        self._addresses = addresses
        self._transport = transport
        self._world = contextvars.copy_context()
        self._starting: asyncio.TimerHandle | None = None
        self._box = Box(
            settings=BoxSettings(
                bank=BANK,
                box=name,
                hub=HubTable(
                    addresses=tuple(
                        PeerAddress(url=address, priority=number) for number, address in enumerate(addresses)
                    ),
                    key="",
                ),
                data_dir=str(folder / "data"),
                anchor_dir=str(folder / "anchor"),
                line=LINE,
                refusals=RefusalsTable(burst_count=1_000_000, per_second_count=100_000),
            ),
            protocols={},
            digest="",
        )

    @property
    def up(self) -> bool:
        """Whether its process takes requests."""
        return self.process is not None and self.process.gateway is not None

    def wall_ns(self) -> int:
        """What its wall clock shows."""
        return WALL_START_NS + int(self._loop.time() * NS) + self.wall_ahead_ns

    # --- its process ----------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Start the process, if none runs."""
        if self._starting is not None:
            self._starting.cancel()
            self._starting = None
        if self.process is not None:
            return
        self.boots += 1
        if self.boots % 2:  # else the process alone is started again
            self._machine_began_ns = int(self._loop.time() * NS) - 1_000
        began_ns, machine_boot = self._machine_began_ns, f"{self.label}/{self.boots // 2}"
        chance = Random(f"{self.name}/{self.boots}/{self._chance.random()}")
        own = Process(f"{self.name}#{self.boots}")
        own.keys = self.keys
        own.wall_ns = self.wall_ns
        own.mono_ns = lambda: int(self._loop.time() * NS) - began_ns
        own.boot_id = lambda: machine_boot
        own.token = chance.randbytes
        own.fraction = chance.random
        own.transport = lambda settings: self._transport(self.label, settings)
        own.room = lambda: self.has_room
        own.kill = lambda: self._killed(own)
        self.process = own
        self.on_boot(own)
        running = own.run(app.run_box(self._box))
        running.add_done_callback(lambda done: self._ended(own, done))

    def crash(self, *, again_s: float = RESTART_S) -> None:
        """Kill the process where it stands; it is started again after a while, if anybody watches over it."""
        if self.process is not None:
            self._killed(self.process, again_s=again_s)

    def _killed(self, own: Process, *, again_s: float = RESTART_S) -> None:
        self._loop.kill(own)
        if self.process is own:
            self.process = None
        # Not here: the process may be in the middle of a statement.
        self._loop.call_soon(_let_go, own, context=self._world)
        self.boot_in(again_s)

    def boot_in(self, seconds: float) -> None:
        """Start it after a while, if it is watched over."""
        if self.supervised and self._starting is None:
            self._starting = self._loop.call_later(seconds, self._boot_again, context=self._world)

    def _boot_again(self) -> None:
        self._starting = None
        self.boot()

    def _ended(self, own: Process, done: asyncio.Task[None]) -> None:
        """The process ended by itself."""
        if own.dead:
            return
        problem = done.exception()
        self.ended.append(f"{own.name}: {problem!r}")
        if problem is not None and not isinstance(problem, OperatingError):
            self.broken.append(f"{own.name} ended with {problem!r}")
        self._killed(own)

    def let_go(self) -> None:
        """Close what the running process holds; nothing of it runs any more."""
        if self.process is not None:
            _let_go(self.process)

    async def stop(self) -> None:
        """End the process in order, as SIGTERM does, and wait for it."""
        own = self.process
        if own is None or own.stop is None:
            self.crash()
            return
        own.stop.set()
        while self.process is own:
            await _moment()

    # --- its disk -------------------------------------------------------------------------------------------

    @property
    def ledger(self) -> Path:
        """The ledger's file."""
        return self.folder / "data" / "ledger.db"

    def copy_disk(self, to: Path, *, anchor: bool) -> None:
        """A copy of its ledger as it is now, with the anchor or without."""
        shutil.rmtree(to, ignore_errors=True)
        (to / "data").mkdir(parents=True)
        if self.ledger.exists():
            # Not by reading the file: closing it would drop the locks that this process has on it.
            source = apsw.Connection(str(self.ledger), flags=apsw.SQLITE_OPEN_READONLY)
            target = apsw.Connection(str(to / "data" / self.ledger.name))
            with target.backup("main", source, "main") as backup:
                backup.step()
            target.close()
            source.close()
        if anchor and (self.folder / "anchor").exists():
            shutil.copytree(self.folder / "anchor", to / "anchor")

    def put_disk(self, copy: Path) -> None:
        """Put a copy back; the machine must be off. What the copy lacks stays (the anchor)."""
        for part in ("data", "anchor"):
            if (copy / part).exists():
                shutil.rmtree(self.folder / part, ignore_errors=True)
                shutil.copytree(copy / part, self.folder / part)

    def clone(self, folder: Path, label: str) -> Machine:
        """A second machine with this one's names, keys and, as it is now, disks."""
        self.copy_disk(folder, anchor=True)
        return Machine(
            self.name,
            folder,
            loop=self._loop,
            chance=Random(f"{label}/{self._chance.random()}"),
            keys=self.keys._replace(checkpoint=copy(self.keys.checkpoint)),
            addresses=self._addresses,
            transport=self._transport,
            label=label,
        )

    # --- its clients ----------------------------------------------------------------------------------------

    def ask(self, client: str, requests: list[Request], *, linked: bool) -> asyncio.Future[list[Said]]:
        """Hand requests to the gateway as a way in would; the answer may never come."""
        heard: asyncio.Future[list[Said]] = self._loop.create_future()
        own = self.process
        if own is None or own.gateway is None:
            heard.set_result([Said(code="no_connection")] * len(requests))
            return heard
        gateway = own.gateway

        async def decide() -> list[Said]:
            try:
                return [_said(one) for one in await gateway.decide_many(client, requests, linked=linked)]
            except Unanswered as problem:
                return [Said(code=problem.code)] * len(requests)

        deciding = own.run(decide())
        deciding.add_done_callback(lambda done: _hear(heard, done))
        return heard

    def operate(self, work: Callable[[Any], Awaitable[Any]]) -> asyncio.Future[Any]:
        """Let an operator do something with the gateway; None when it did not work out."""
        heard: asyncio.Future[Any] = self._loop.create_future()
        own = self.process
        if own is None or own.gateway is None:
            heard.set_result(None)
            return heard

        async def operated() -> Any:
            try:
                return await work(own.gateway)
            except Unanswered:
                return None

        own.run(operated()).add_done_callback(lambda done: _hear(heard, done))
        return heard


def _said(result: Any) -> Said:
    if isinstance(result, Unanswered):
        return Said(code=result.code)
    return Said(answer=msgspec.json.encode(result.answer))


def _hear(heard: asyncio.Future[Any], done: asyncio.Task[Any]) -> None:
    if heard.done() or done.cancelled():
        return
    problem = done.exception()
    if problem is None:
        heard.set_result(done.result())
    elif isinstance(problem, Exception):
        heard.set_exception(problem)


def _let_go(own: Process) -> None:
    """What the kernel does for a dead process: its files are closed, its locks are gone."""
    for store in own.stores:
        store._db.close(True)
    own.stores.clear()
    if own.opened is not None:
        try:
            own.opened.lock.release()
        except OSError:
            pass  # it had let go itself
        own.opened = None


async def _moment() -> None:
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.1, over.set_result, None)
    await over
