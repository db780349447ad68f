"""The hub's process and its database; several addresses may lead to it.

A crash keeps what was committed; a restore, or a failover that lost its last commits, puts an older copy of
the database in its place. Leaves out what operators order.
"""

from __future__ import annotations

import contextvars
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final, TypeVar

from sqlalchemy import Connection

from edgegw.core.messages import ExchangeError
from edgegw.exchange_http import NotPinned
from edgegw.hub.app import Hub
from edgegw.hub.keyring import Keyring
from edgegw.hub.site import bundle_of
from edgegw.hub.sqlite import SqliteDatabase
from tests.simulator.loop import VirtualLoop
from tests.simulator.network import Network
from tests.simulator.seams import Process

T = TypeVar("T")
START_NS: Final = 1_900_000_000_000_000_000
RESTART_S: Final = 2.0


class Centre:
    """One hub."""

    def __init__(
        self,
        path: Path,
        *,
        loop: VirtualLoop,
        chance: Random,
        keyring: Keyring,
        network: Network,
        addresses: tuple[str, ...],
    ) -> None:
        self.path = path
        self.addresses = addresses
        self.process: Process | None = None
        self.on_boot: Callable[[Process], None] = lambda _process: None
        self.broken: list[str] = []
        """What it could not answer, by no fault of the world."""
        self.boots = 0
        self.keyring = keyring
        self.database: SqliteDatabase
        self._hub: Hub
        self._loop = loop
        self._chance = chance
        self._network = network
        self._world = contextvars.copy_context()
        self._starting = False

    def clock_ns(self) -> int:
        """The hub's wall clock."""
        return START_NS + int(self._loop.time() * 1e9)

    def boot(self) -> None:
        """Start the process, if none runs."""
        self._starting = False
        if self.process is not None:
            return
        self.boots += 1
        own = Process(f"hub#{self.boots}")
        own.token = Random(f"hub/{self.boots}/{self._chance.random()}").randbytes
        own.kill = lambda: self._killed(own)
        self.database = SqliteDatabase(self.path)
        self._hub = Hub(self.database, self.keyring, clock_ns=self.clock_ns)
        self.process = own
        self.on_boot(own)
        for address in self.addresses:
            self._network.served[address] = (self._serve, self._site)

    def crash(self, *, again_s: float = RESTART_S) -> None:
        """Kill it where it stands."""
        if self.process is not None:
            self._killed(self.process, again_s=again_s)

    def _killed(self, own: Process, *, again_s: float = RESTART_S) -> None:
        self._loop.kill(own)
        self.process = None
        for address in self.addresses:
            self._network.served[address] = None
        self._loop.call_soon(self.database.close, context=self._world)
        if not self._starting:
            self._starting = True
            self._loop.call_later(again_s, self.boot, context=self._world)

    async def _serve(self, message: bytes) -> bytes:
        own = self.process
        if own is None:
            raise ConnectionError("the hub is gone")
        try:
            return await own.run(self._hub.exchange(message))
        except (ExchangeError, NotPinned):
            raise
        except Exception as problem:
            self.broken.append(f"{own.name} could not answer: {problem!r}")
            raise

    def _site(self, digest: str) -> bytes | None:
        return self.order(lambda connection: bundle_of(connection, digest))

    def order(self, work: Callable[[Connection], T]) -> T:
        """What an operator's command does: one SQL transaction beside the running hub."""
        return self.database.transact(work)

    def back_up(self, to: Path) -> None:
        """A copy of the database as it is committed now."""
        to.mkdir(parents=True, exist_ok=True)
        copy = to / self.path.name
        copy.unlink(missing_ok=True)
        with self.database.engine.connect() as connection:
            raw = connection.connection.driver_connection
            if raw is not None:
                raw.rollback()
                raw.execute("VACUUM INTO ?", (str(copy),))

    def put_back(self, copy: Path) -> None:
        """Put an older copy in the place of the database; the hub must be off."""
        self.database.close()
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        for source in copy.iterdir():
            shutil.copy(source, self.path.with_name(source.name))
