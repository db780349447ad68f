"""The copy of one box from its start to its stop: the keeper and the drills as tasks, and what they say.

Leaves out when the box may speak for its ledger, which the app says by `allowed`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import structlog

from edgegw.config.replica import ReplicaTable
from edgegw.ledger.checkpoints import Checkpoints
from edgegw.ledger.space import Use
from edgegw.replica.drills import Drills
from edgegw.replica.keeper import Keeper
from edgegw.replica.status import State, Status

AGAIN_S: Final = 5.0

_log = structlog.get_logger("edgegw.replica")


class Copier:
    """litestream and its drills beside one box; `begin` after the ledger is open, without checkpoints of its
    own if there are targets, and `end` after its writer has closed."""

    def __init__(self, table: ReplicaTable, *, ledger: Path, settings: Path, payments_bytes_min: int) -> None:
        self.allowed = False
        """Whether the box may speak for its ledger: one that is behind is not copied over a better one."""
        self.why_paused: Callable[[], str] = str
        """Why the machine has nothing left for a copy; "" where it has."""
        self.may_drill: Callable[[], Awaitable[None]] = _at_once
        """Returns once the machine has something left for a drill."""
        self.journal_size: Callable[[], int] = lambda: 0
        """How many records of the running epoch are on disk."""
        self._keeper: Keeper | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._drills: Drills | None = None
        if table.targets:
            self._keeper = Keeper(
                table,
                ledger=ledger,
                checkpoints=Checkpoints(ledger),
                may_replicate=lambda: self.allowed,
                why_paused=lambda: self.why_paused(),  # noqa: PLW0108 - it changes
                free_bytes=lambda: _free_bytes(ledger.parent),
                # With less, litestream's own files go: they would take the room that payments need.
                room_bytes_min=Use.COPIES.value * payments_bytes_min,
                journal_size=self._records,
            )
            self._drills = Drills(
                self._keeper.status,
                settings=settings,
                hours=table.drill_hours,
                data=ledger.parent,
                renew=self._keeper.renew,
                may_work=lambda: self.may_drill(),  # noqa: PLW0108 - it changes
            )

    @property
    def status(self) -> Status | None:
        """How the copy is; None where the settings want none."""
        return None if self._keeper is None else self._keeper.status

    @property
    def told(self) -> Callable[[], dict[str, str | int | float | bool]] | None:
        """What `/v1/status` says of the copy; None where the settings want none."""
        status = self.status
        if status is None:
            return None

        def told() -> dict[str, str | int | float | bool]:
            drill = status.drill
            return {
                "state": status.state.value,
                "alarm": status.alarm,
                "malformed": status.malformed,
                "reason": status.reason,
                "hint": status.hint,
                "target": status.target,
                "place": status.place,
                "txid": status.txid,
                "replicated_txid": status.replicated_txid,
                "lag_seconds": round(status.lag_seconds, 3),
                "lag_records": status.lag_records,
                "lag_bytes": status.lag_bytes,
                "wal_bytes": status.wal_bytes,
                "restarts": status.restarts,
                "drill_at_s": 0 if drill is None else drill.at_s,
                "drill_well": drill is not None and drill.well,
                "drill_skipped": drill is not None and drill.skipped,
                "drill_problem": "" if drill is None else drill.problem,
            }

        return told

    @property
    def gauges(self) -> dict[str, Callable[[], float]]:
        """The metrics of the copy by name; none where the settings want none."""
        status = self.status
        if status is None:
            return {}
        return {
            "edgegw_replica_well": lambda: int(status.state is State.WELL),
            "edgegw_replica_alarm": lambda: int(status.alarm),
            "edgegw_replica_txid": lambda: status.txid,
            "edgegw_replica_replicated_txid": lambda: status.replicated_txid,
            "edgegw_replica_lag_seconds": lambda: status.lag_seconds,
            "edgegw_replica_lag_records": lambda: status.lag_records,
            "edgegw_replica_lag_bytes": lambda: status.lag_bytes,
            "edgegw_replica_wal_bytes": lambda: status.wal_bytes,
            "edgegw_replica_restarts": lambda: status.restarts,
            "edgegw_replica_drill_well": lambda: int(status.drill is not None and status.drill.well),
            "edgegw_replica_drill_age_seconds": lambda: (
                time.time() - status.drill.at_s if status.drill is not None else float("nan")
            ),
        }

    def _records(self) -> int:
        return self.journal_size()

    def begin(self) -> None:
        """Start both."""
        if self._keeper is not None and self._drills is not None:
            for work in (self._keeper.run, self._drills.run):
                self._tasks.append(asyncio.create_task(_kept(work)))

    async def end(self, *, in_order: bool) -> None:
        """End both; `in_order` lets litestream copy the rest."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        if self._keeper is not None:
            await self._keeper.stop(in_order=in_order)


async def _kept(work: Callable[[], Awaitable[None]]) -> None:
    """Run it, and again after a fault of ours: the copy must not end the box, nor its own watching."""
    while True:
        try:
            await work()
            return
        except Exception:  # noqa: BLE001 - the edge: logged with its trace, payments go on
            _log.exception("replica_failed")
            await asyncio.sleep(AGAIN_S)


async def _at_once() -> None:
    """Wait for nothing."""


def _free_bytes(directory: Path) -> int:
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize
