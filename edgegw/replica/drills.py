"""Restore drills: on a schedule a child of low priority restores the copy, checks it whole and holds it
against the live journal (`edgegw drill`). A copy that was never restored is no copy.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import structlog

from edgegw.replica.litestream import FOLDER, launched
from edgegw.replica.status import DRILL_NAME, Drill, State, Status

FIRST_S: Final = (20.0, 90.0)
"""The first drill comes so long after the start, by chance in between."""
SPREAD: Final = 0.1
"""By how much of its interval a drill is early or late, so that a fleet does not restore all at once."""
AGAIN_S: Final = 600.0
"""After a drill that failed, or found no room."""
LOOK_S: Final = 2.0
TIMEOUT_S: Final = 6 * 3600.0
NICE: Final = 19
HINT: Final = "The box makes a new whole copy by itself; `edgegw drill` says whether it is well again."

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
        renew: Callable[[], None],
        first_s: tuple[float, float] = FIRST_S,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._status = status
        self._settings = settings
        self._interval_s = hours * 3600
        self._renew = renew
        self._first_s = first_s
        self._chance = chance
        status.drill = last_drill(data)

    async def run(self) -> None:
        """Drill for ever; at once an end where the settings want none."""
        if not self._interval_s:
            return
        low, high = self._first_s
        await asyncio.sleep(low + (high - low) * self._chance())
        while True:
            if self._status.state is not State.WELL:
                await asyncio.sleep(LOOK_S)
                continue
            drill = await self.once(self._status.target)
            usual_s = self._interval_s * (1 + SPREAD * (2 * self._chance() - 1))
            await asyncio.sleep(usual_s if drill.well else min(AGAIN_S, usual_s))

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
        else:
            _log.error("replica_drill_failed", target=target, problem=drill.problem, hint=HINT)
            if drill.malformed:
                self._renew()
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
