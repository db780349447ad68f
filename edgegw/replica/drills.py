"""Restore drills: on a schedule a child of low priority restores the copy, checks it whole and holds it
against the live journal (`edgegw drill`). A copy that was never restored is no copy. What a drill finds
malformed, the box's own or an operator's, begins anew (`replica.keeper`).
"""

from __future__ import annotations

import asyncio
import math
import random
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import structlog

from edgegw.replica.litestream import FOLDER, launched
from edgegw.replica.status import DRILL_NAME, MALFORMED_HINT, Drill, State, Status

FIRST_S: Final = (20.0, 90.0)
"""The first drill comes so long after the start, by chance in between."""
SPREAD: Final = 0.1
"""By how much of its interval a drill is early or late, so that a fleet does not restore all at once."""
AGAIN_S: Final = 600.0
"""After a drill that failed, or found no room."""
LOOK_S: Final = 2.0
TIMEOUT_S: Final = 6 * 3600.0
NICE: Final = 19
HINT: Final = "Check the target: its disk, its server, its credentials. `edgegw drill` tries it again."

_log = structlog.get_logger("edgegw.replica")


def last_drill(data: Path) -> Drill | None:
    """What the last drill found; None before the first."""
    try:
        return msgspec.json.decode((data / FOLDER / DRILL_NAME).read_bytes(), type=Drill)
    except (OSError, msgspec.MsgspecError):
        return None


class Drills:
    """The drills of one box; `run` as a task."""

    def __init__(
        self,
        status: Status,
        *,
        settings: Path,
        hours: float,
        data: Path,
        renew: Callable[[Drill], None],
        may_work: Callable[[], Awaitable[None]],
        first_s: tuple[float, float] = FIRST_S,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """renew: lets a copy that is not to go on begin anew; told again until there is another one.
        may_work: returns once the machine has something left for a drill."""
        self._status = status
        self._settings = settings
        self._interval_s = hours * 3600 or math.inf
        self._data = data
        self._renew = renew
        self._may_work = may_work
        self._first_s = first_s
        self._chance = chance
        status.drill = last_drill(data)

    async def run(self) -> None:
        """Drill for ever: on schedule, soon after a copy was malformed, and when the copy is stuck."""
        due_s = self._soon_s() if self._interval_s < math.inf else math.inf
        stuck_due_s = 0.0
        while True:
            await self._may_work()
            state, now_s = self._status.state, time.monotonic()
            if state is State.WELL and now_s >= due_s:
                due_s = self._next_s(await self.once(self._status.target))
            elif state is State.STUCK and now_s >= stuck_due_s:
                # Where its target only does not answer this is said; no other look tells them apart.
                await self.once(self._status.target)
                stuck_due_s = time.monotonic() + AGAIN_S
            if self._look():
                due_s = min(due_s, self._soon_s())
            await asyncio.sleep(LOOK_S)

    def _soon_s(self) -> float:
        low, high = self._first_s
        return time.monotonic() + low + (high - low) * self._chance()

    def _next_s(self, drill: Drill) -> float:
        usual_s = self._interval_s * (1 + SPREAD * (2 * self._chance() - 1))
        return time.monotonic() + (usual_s if drill.well else min(AGAIN_S, usual_s))

    def _look(self) -> bool:
        """Act on the last drill, an operator's too; whether there is another copy since, to be drilled."""
        status, kept = self._status, last_drill(self._data)
        if kept is not None and (status.drill is None or kept.at_s > status.drill.at_s):
            status.drill = kept
        drill = status.drill
        if drill is None:
            return False
        # A litestream that is stuck at a sound copy complains of its own files beside the ledger.
        if drill.malformed or (drill.well and status.state is State.STUCK and status.complaint):
            self._renew(drill)
        return drill.malformed and (drill.target, drill.generation) != (status.target, status.generation)

    async def once(self, target: str) -> Drill:
        """One drill on a target now; its result is in the status and in the log."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                drill = await self._child(target)
        except TimeoutError:
            drill = _failed(target, f"the drill was not done within {TIMEOUT_S:.0f} s")
        self._status.drill = drill
        if drill.well:
            _log.info("replica_drill", target=target, size=drill.size, behind_records=drill.behind_records)
        elif drill.skipped:
            _log.warning("replica_drill_skipped", target=target, problem=drill.problem)
        elif drill.malformed:
            _log.error("replica_malformed", target=target, problem=drill.problem, hint=MALFORMED_HINT)
        else:
            _log.error("replica_drill_failed", target=target, problem=drill.problem, hint=HINT)
        return drill

    async def _child(self, target: str) -> Drill:
        words = ("-P", "-m", "edgegw", "drill", str(self._settings), "--target", target, "--json")
        child = await asyncio.create_subprocess_exec(
            *launched(sys.executable, *words, nice=NICE),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            said, complained = await child.communicate()
        finally:
            with suppress(ProcessLookupError):
                child.kill()
        try:
            return msgspec.json.decode(said, type=Drill)
        except msgspec.MsgspecError:
            lines = complained.decode(errors="replace").strip().splitlines() or [f"exit {child.returncode}"]
            return _failed(target, lines[0])


def _failed(target: str, problem: str) -> Drill:
    return Drill(at_s=int(time.time()), well=False, problem=problem, target=target)
