"""Keeps litestream at work beside the box: starts it, watches it, starts it again, and says how the copy is.

It never hinders a start or a payment: what goes wrong here is an alarm and another try. While litestream runs
it alone makes checkpoints; while it does not, the box does, and the next one begins with a whole copy, unless
it ended in order (`replica.intact`). A copy that was found malformed is left as it is, and begins anew beside
itself (`replica.generations`). Leaves out what the positions mean (`replica.progress`) and the drills, which
find that out (`replica.drills`).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import msgspec
import structlog

from edgegw.config.replica import ReplicaTable, ReplicaTarget
from edgegw.errors import OperatingError
from edgegw.replica import litestream
from edgegw.replica.control import Busy, Control, ControlError
from edgegw.replica.copies import CopyError, Ledger
from edgegw.replica.generations import Generations, in_place
from edgegw.replica.intact import Intact
from edgegw.replica.progress import Progress
from edgegw.replica.status import Drill, State, Status

PAUSE_S: Final = 0.5
BACKOFF_FIRST_S: Final = 0.5
BACKOFF_S_MAX: Final = 30.0
STEADY_S: Final = 60.0
"""A litestream that ran so long is started again without a pause."""
ANSWER_S_MAX: Final = 1.0
SILENT_FOR_ALARMS: Final = 3
"""After so many times the alarm's time a silent litestream is killed: it holds the WAL."""
STUCK_FOR_ALARMS: Final = 6
"""After so many the next target is tried, where there is another."""
WHOLE_COPY_BYTES_PER_S: Final = 4 * 2**20
"""Slower than that, the first copy is called stuck."""
WAL_WORTH_BYTES: Final = 4 * 2**20
"""The box leaves a shorter WAL alone."""
EMPTY_TRIES: Final = 40

RENEW_EACH_S: Final = 3600
"""A copy begins anew so often at most: each is a whole one, and the damaged ones stay at the target."""

_log = structlog.get_logger("edgegw.replica")


class Checkpoints(Protocol):
    """What moves the WAL into the ledger's file while litestream does not."""

    @property
    def wal_bytes(self) -> int:
        """How long the WAL is."""

    def passive(self) -> None:
        """Move what nobody holds back."""

    def truncate(self) -> bool:
        """Move all and empty the WAL; False when somebody was in the way."""

    def close(self) -> None:
        """Give the connection back."""


class _Said(msgspec.Struct):
    """A line of litestream's log."""

    level: str | int = ""
    """A line about a level of compaction names that by the same word."""
    msg: str = ""
    error: str = ""


class Keeper:
    """litestream for one ledger; `run` it as a task, `stop` it after the ledger's writer has closed."""

    def __init__(
        self,
        table: ReplicaTable,
        *,
        ledger: Path,
        checkpoints: Checkpoints,
        may_replicate: Callable[[], bool],
        why_paused: Callable[[], str] = str,
        free_bytes: Callable[[], int],
        room_bytes_min: int,
        journal_size: Callable[[], int] = lambda: 0,
        clock_s: Callable[[], float] = time.monotonic,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self.status = Status()
        self._table = table
        self._ledger = ledger
        self._data = ledger.parent
        self._wal = ledger.with_name(ledger.name + "-wal")
        self._checkpoints = checkpoints
        self._may_replicate = may_replicate
        self._why_paused = why_paused
        self._free_bytes = free_bytes
        self._room_bytes_min = room_bytes_min
        self._journal_size = journal_size
        self._clock_s = clock_s
        self._wall_s = wall_s
        self._alarm_s = table.alarm_ms / 1_000
        self._poll_s = min(1.0, self._alarm_s / 4)
        self._intact = Intact(self._data / litestream.FOLDER, wal=self._wal)
        self._child: asyncio.subprocess.Process | None = None
        self._chosen = 0
        self._place = table.targets[0]
        self._last_words = ""
        self._begun_s = 0
        self._renewing = ""
        """The target whose copy is to begin anew."""

    def renew(self, drill: Drill) -> None:
        """Let the copy that was drilled begin anew, if it is the one that is written to and has not begun
        anew within RENEW_EACH_S."""
        status = self.status
        drilled = (drill.target, drill.generation) == (status.target, status.generation)
        if drilled and self._wall_s() - self._begun_s >= RENEW_EACH_S:
            self._renewing = drill.target

    async def run(self) -> None:
        """Keep litestream at work until cancelled."""
        backoff_s = BACKOFF_FIRST_S
        while True:
            why_not = self._why_not()
            if why_not is not None:
                self._say(*why_not)
                await self._take_over()
                await asyncio.sleep(PAUSE_S)
                continue
            began_s = self._clock_s()
            try:
                ended = await self._one(self._table.targets[self._chosen])
            except (CopyError, OperatingError, OSError) as problem:
                ended = str(problem)
            if ended is None:
                continue
            self.status.restarts += 1
            self._say(State.DEAD, ended)
            steady = self._clock_s() - began_s > STEADY_S
            backoff_s = BACKOFF_FIRST_S if steady else min(backoff_s * 2, BACKOFF_S_MAX)
            await self._wait_down(backoff_s)

    async def stop(self, *, in_order: bool) -> None:
        """End litestream: in order after the ledger's writer has closed, so that it copies the rest; else at
        once, because what the WAL holds is not certain."""
        child, self._child = self._child, None
        # litestream's connection must be the last to close: it leaves the WAL as it was copied.
        await asyncio.to_thread(self._checkpoints.close)
        if child is not None and child.returncode is None:
            await _ended(child, litestream.SHUTDOWN_S + 5.0 if in_order else 0.0)
        try:
            if in_order and child is not None and child.returncode == 0:
                self._intact.begin(self._place.name)
        except OSError as problem:
            _log.warning("replica_mark", problem=str(problem))
        self._say(State.OFF, "")

    # --- one litestream -------------------------------------------------------------------------------------

    async def _one(self, target: ReplicaTarget) -> str | None:
        """Run litestream until it ends or must end; why, or None when that is no fault."""
        try:
            place = await self._put(target)
        except CopyError:
            self._choose_next()
            self._intact.end()
            await asyncio.to_thread(self._checkpoints.truncate)
            raise
        self._say(State.STARTING, "")
        await self._prepare(place)
        path = await asyncio.to_thread(
            litestream.write_settings, self._table, place, data=self._data, ledger=self._ledger
        )
        words = ("replicate", "-no-expand-env", "-config", str(path))
        self._child = child = await asyncio.create_subprocess_exec(
            *litestream.launched(litestream.binary(), *words),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=litestream.environment(),
            # A Ctrl-C at the terminal is for the box, which ends it last.
            start_new_session=True,
        )
        listening = asyncio.create_task(self._listen(child))
        control = Control(litestream.socket_path(self._data), ledger=self._ledger)
        try:
            return await self._watch(child, control, place)
        except Exception:
            # Two at one ledger would each move what the other has not read.
            await _ended(child, 0.0)
            raise
        finally:
            await control.close()
            if child.returncode is not None:
                await listening
                self._child = None

    async def _put(self, target: ReplicaTarget) -> ReplicaTarget:
        """The target with the place where its copy stands, or begins anew; raises CopyError."""
        generations = Generations(self._table, target, Ledger(self._data, self._ledger))
        generation = await asyncio.to_thread(generations.current)
        if self._renewing == target.name:
            left, now_s = in_place(target, generation.number), int(self._wall_s())
            generation = await asyncio.to_thread(generations.begin_next, generation, now_s=now_s)
            self._renewing = ""
            place = in_place(target, generation.number)
            new, old = litestream.place_of(place), litestream.place_of(left)
            _log.warning("replica_begins_anew", target=target.name, place=new, left=old)
        else:
            generations.keep(generation)
            place = in_place(target, generation.number)
        self._place, self._begun_s = place, generation.begun_s
        status = self.status
        status.target, status.generation = target.name, generation.number
        status.place = litestream.place_of(place)
        return place

    async def _prepare(self, target: ReplicaTarget) -> None:
        """Empty the WAL if litestream must begin with a whole copy; from here on it alone checkpoints."""
        intact = self._intact.holds(target.name)
        self._intact.end()
        if not intact:
            for _ in range(EMPTY_TRIES):
                if await asyncio.to_thread(self._checkpoints.truncate):
                    break
                await asyncio.sleep(PAUSE_S)
            else:
                raise OperatingError("the WAL cannot be emptied: a reader holds it")
        await asyncio.to_thread(self._checkpoints.close)

    async def _watch(
        self, child: asyncio.subprocess.Process, control: Control, target: ReplicaTarget
    ) -> str | None:
        progress = Progress(began_s=self._clock_s(), alarm_s=self._alarm_s)
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_s):
                    await child.wait()
            if child.returncode is not None:
                if not progress.position.replicated_txid:
                    self._choose_next()
                said = f": {self._last_words}" if self._last_words else ""
                return f"litestream ended with exit code {child.returncode}{said}"
            if self._why_not() is not None or self._renewing == self.status.target:
                await self._end_for_good(child)
                return None
            await self._look(control, progress, target)
            now_s = self._clock_s()
            if progress.silent_s(now_s) > SILENT_FOR_ALARMS * self._alarm_s:
                await _ended(child, 0.0)
                return "litestream was killed: it did not answer"
            stuck_s = progress.stuck_s(now_s, whole_copy_s=self._whole_copy_s())
            if len(self._table.targets) > 1 and stuck_s > STUCK_FOR_ALARMS * self._alarm_s:
                self._choose_next()
                await _ended(child, 1.0)
                return f"{self.status.target} takes no copy; the next target is tried"

    def _choose_next(self) -> None:
        """Let the next try be with the next target, where there is another."""
        self._chosen = (self._chosen + 1) % len(self._table.targets)

    async def _look(self, control: Control, progress: Progress, target: ReplicaTarget) -> None:
        """Ask once and say how the copy is."""
        changed, records = _changed_ns(self._wal), self._journal_size()
        try:
            position = await control.position(timeout_s=min(ANSWER_S_MAX, self._alarm_s / 4))
            progress.answered(position, now_s=self._clock_s(), changed=changed, records=records)
        except ControlError as problem:
            progress.complained(str(problem), now_s=self._clock_s())
        except Busy:
            progress.busy(now_s=self._clock_s())
        except (OSError, TimeoutError):
            pass  # Silence is counted from its last answer.
        now_s = self._clock_s()
        status, position = self.status, progress.position
        status.txid, status.replicated_txid = position.txid, position.replicated_txid
        status.lag_records = max(0, self._journal_size() - progress.copied_records)
        status.complaint = progress.complaint
        status.lag_seconds = progress.lag_s(now_s)
        status.wal_bytes = self._checkpoints.wal_bytes
        status.lag_bytes = await asyncio.to_thread(
            _waiting_bytes, litestream.state_folder(self._data, target), position.replicated_txid
        )
        state, reason = progress.state(now_s, whole_copy_s=self._whole_copy_s())
        if state.alarm and self._last_words:
            reason += f"; its log: {self._last_words}"
        self._say(state, reason)

    def _whole_copy_s(self) -> float:
        """How long a copy of the whole ledger may take."""
        with suppress(OSError):
            return self._ledger.stat().st_size / WHOLE_COPY_BYTES_PER_S
        return 0.0

    async def _listen(self, child: asyncio.subprocess.Process) -> None:
        """Keep litestream's last error, and log each."""
        self._last_words = ""
        while child.stderr is not None and (line := await _line(child.stderr)):
            try:
                said = msgspec.json.decode(line, type=_Said)
            except msgspec.MsgspecError:
                said = _Said("ERROR", line.decode(errors="replace").strip())
            if said.level in ("WARN", "ERROR"):
                self._last_words = f"{said.msg}: {said.error}" if said.error else said.msg
                _log.warning("litestream_said", words=self._last_words)

    # --- without it -----------------------------------------------------------------------------------------

    def _why_not(self) -> tuple[State, str] | None:
        """Why nothing may be copied now; None if it may."""
        if not self._may_replicate():
            return State.OFF, "the box must not speak for its ledger"
        if paused := self._why_paused():
            return State.PAUSED, paused
        free = self._free_bytes()
        enough = self._room_bytes_min * (2 if self.status.state is State.NO_ROOM else 1)
        if free < enough:
            return State.NO_ROOM, f"{free} bytes are free on the ledger's disk; {enough} are needed"
        return None

    async def _end_for_good(self, child: asyncio.subprocess.Process) -> None:
        """End litestream, and where room is short throw away what it has not copied."""
        await _ended(child, 2.0)
        if self._free_bytes() < self._room_bytes_min:
            folder = litestream.state_folder(self._data, self._place)
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _wait_down(self, pause_s: float) -> None:
        """The pause before the next try, in which the box makes the checkpoints."""
        until_s = self._clock_s() + pause_s
        while self._clock_s() < until_s:
            await self._take_over()
            await asyncio.sleep(min(PAUSE_S, pause_s))

    async def _take_over(self) -> None:
        """A checkpoint by the box, if it is worth one; the next copy is a whole one."""
        if self._checkpoints.wal_bytes < WAL_WORTH_BYTES:
            return
        try:
            self._intact.end()
            await asyncio.to_thread(self._checkpoints.passive)
        except (OperatingError, OSError) as problem:
            _log.warning("checkpoint_failed", problem=str(problem))
        self.status.wal_bytes = self._checkpoints.wal_bytes

    # --- saying it ------------------------------------------------------------------------------------------

    def _say(self, state: State, reason: str) -> None:
        """Keep it, and log it when the state is another one."""
        status = self.status
        before, status.state, status.reason = status.state, state, reason
        status.complaint = status.complaint if state is State.STUCK else ""
        if state is before:
            return
        if state.alarm:
            _log.error(f"replica_{state.value}", target=status.target, problem=reason, hint=state.hint)
        elif state is State.WELL:
            _log.info("replica_well", target=status.target)


async def _ended(child: asyncio.subprocess.Process, patience_s: float) -> None:
    """Ask it to end, wait so long, then kill it."""
    with suppress(ProcessLookupError):
        if patience_s:
            child.send_signal(signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await child.wait()
                return
        child.kill()
    await child.wait()


async def _line(stream: asyncio.StreamReader) -> bytes:
    """The next line; one that is too long is thrown away in pieces."""
    while True:
        try:
            return await stream.readline()
        except ValueError:
            continue


def _changed_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _waiting_bytes(state: Path, replicated_txid: int) -> int:
    """The bytes of the files that litestream has made and not copied."""
    waiting = 0
    with suppress(OSError), os.scandir(state / "ltx" / "0") as entries:
        for entry in entries:
            first = entry.name.partition("-")[0]
            with suppress(ValueError, OSError):
                if int(first, 16) > replicated_txid:
                    waiting += entry.stat().st_size
    return waiting
