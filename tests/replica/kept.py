"""A small ledger of the box's shape that a test writes, with a keeper and the real litestream beside it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import apsw

from edgegw.config.replica import ReplicaTable, ReplicaTarget
from edgegw.ledger import schema
from edgegw.ledger.checkpoints import Checkpoints
from edgegw.replica.copies import CopyError, Ledger
from edgegw.replica.generations import Generations
from edgegw.replica.keeper import Keeper
from edgegw.replica.status import State
from tests.waiting import until

ALARM_MS = 8_000
"""As in a box by default: on a busy machine litestream is slow, not silent."""
SOON_ALARM_MS = 1_500
"""Where an alarm is the subject."""
LOOK_S = 0.2


class Kept:
    """The ledger's writer, as the pen is: it leaves the WAL to whoever moves it."""

    def __init__(self, folder: Path, *targets: ReplicaTarget, alarm_ms: int = ALARM_MS) -> None:
        self.data = folder / "data"
        self.data.mkdir(parents=True, exist_ok=True)
        self.path = self.data / "ledger.db"
        self.targets = targets or (ReplicaTarget(name="disk", kind="file", copy_dir=str(folder / "copy")),)
        self.table = ReplicaTable(targets=self.targets, sync_ms=100, alarm_ms=alarm_ms, drill_hours=0)
        self.writer = schema.open_writer(self.path, create=True, checkpoints=False)
        self.free_bytes = 1 << 40
        self.allowed = True
        self.rows = 0
        self.keeper = self.new_keeper()

    def new_keeper(self) -> Keeper:
        """A keeper as a box's start makes it."""
        keeper = Keeper(
            self.table,
            ledger=self.path,
            checkpoints=Checkpoints(self.path),
            may_replicate=lambda: self.allowed,
            free_bytes=lambda: self.free_bytes,
            room_bytes_min=100 << 20,
        )
        keeper._poll_s = LOOK_S
        return keeper

    def write(self, rows: int = 1, *, bytes_each: int = 400) -> None:
        """Commit so many rows at once."""
        with self.writer:
            for _ in range(rows):
                self.rows += 1
                values = (self.rows, "transfer", "till", os.urandom(16), None, os.urandom(32))
                self.writer.execute(
                    "INSERT INTO record VALUES(?, ?, ?, ?, ?, ?, ?)", (*values, os.urandom(bytes_each))
                )

    @property
    def child_pid(self) -> int:
        """litestream's process."""
        child = self.keeper._child
        assert child is not None
        return child.pid

    async def until(self, *states: State, timeout_seconds: float = 60.0) -> None:
        """Wait for one of these states."""
        await until(
            lambda: self.keeper.status.state in states,
            f"{[state.value for state in states]}, it is {self.keeper.status}",
            timeout_seconds=timeout_seconds,
        )

    async def until_copied(self) -> None:
        """Wait until all that was written before is at the target."""
        before = self.keeper.status.txid
        self.write()
        await until(
            lambda: before < self.keeper.status.txid <= self.keeper.status.replicated_txid,
            f"the rows to be copied, it is {self.keeper.status}",
            timeout_seconds=60.0,
        )

    async def until_follows(self) -> None:
        """Wait until litestream is well and knows of nothing that waits."""
        status = self.keeper.status
        await until(
            lambda: (status.state, status.lag_seconds, status.lag_bytes) == (State.WELL, 0.0, 0),
            f"the copy to follow, it is {status}",
            timeout_seconds=90.0,
        )

    async def copied_rows(self, target: int = 0) -> int:
        """How many rows the newest state at a target has, once SQLite has found it whole."""
        return await asyncio.to_thread(self._copied_rows, target)

    def _copied_rows(self, target: int) -> int:
        copies = Generations(self.table, self.targets[target], Ledger(self.data, self.path)).copies(
            self.keeper.status.generation
        )
        output = self.data / "restored.db"
        for suffix in ("", "-wal", "-shm"):
            Path(f"{output}{suffix}").unlink(missing_ok=True)
        states = copies.txids()
        if not states:
            raise CopyError("nothing is copied yet")
        copies.restore(states[0], output)
        connection = apsw.Connection(str(output))
        try:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            return int(connection.execute("SELECT count(*) FROM record").fetchall()[0][0])
        finally:
            connection.close()

    @asynccontextmanager
    async def running(self, *, in_order: bool = True) -> AsyncIterator[Keeper]:
        """The keeper at work, and ended as a box's stop does."""
        work = asyncio.create_task(self.keeper.run())
        try:
            yield self.keeper
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            self.writer.close()
            await self.keeper.stop(in_order=in_order)

    def reopen(self) -> None:
        """The next start of the box."""
        self.writer = schema.open_writer(self.path, create=False, checkpoints=False)
        self.keeper = self.new_keeper()


def replaced(path: Path) -> Callable[[], None]:
    """Put a file where a directory is, so that nothing can be written there; call what comes to mend it."""
    away = path.with_name(path.name + "-away")
    path.rename(away)
    path.write_text("in the way")

    def mend() -> None:
        path.unlink()
        away.rename(path)

    return mend
