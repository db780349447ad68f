"""A box and the health of its machine: looks every few seconds, does what a level asks for, says so.

What is done has a place each that asks here: the log's level, costly metrics (`sheds`), work that can wait
(`may_work`), copies (`why_no_copies`), payments (`why_no_payments`). Each change is a line of the log and a
record of the journal. A look runs in a thread beside the payments; what it finds is judged on the loop.
Leaves out what a reading is and what it means (`edgegw.observe`).
"""

from __future__ import annotations

import asyncio
import logging
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from edgegw.config.box import BoxSettings
from edgegw.core.records import HealthChanged
from edgegw.errors import BrokenInvariant, OperatingError, Unwell
from edgegw.ledger.batch import Batch
from edgegw.ledger.writer import Pen
from edgegw.observe.checks import LEDGER, Level, Limits
from edgegw.observe.disks import Disks
from edgegw.observe.health import Change, Health, Standing, judged_once
from edgegw.observe.readings import Machine, Reading, Tree
from edgegw.running import Held
from edgegw.uplink.threads import in_thread

_log = structlog.get_logger("edgegw.health")


class Watch:
    """The readings of one box's machine."""

    def __init__(self, settings: BoxSettings, *, clock_ahead_s: Callable[[], float | None]) -> None:
        table = settings.health
        tree = Tree(Path(table.root_dir))
        self.limits = limits_of(settings)
        self._machine = Machine(
            tree, temperature_celsius_max=table.temperature_celsius_max, clock_ahead_s=clock_ahead_s
        )
        places = {
            LEDGER: Path(settings.data_dir),
            "anchor": Path(settings.anchor_dir),
            "temporary": Path(tempfile.gettempdir()),
        }
        self._disks = Disks(tree, places)

    def read(self) -> list[Reading]:
        """Everything, once; takes some milliseconds."""
        return [*self._machine.read(), *self._disks.read()]


def limits_of(settings: BoxSettings) -> Limits:
    """The thresholds that are settings."""
    table = settings.health
    return Limits(
        payments_bytes_min=settings.disk.payments_bytes_min,
        memory_percent_min=table.memory_percent_min,
        temperature_celsius_max=table.temperature_celsius_max,
        wear_percent_max=table.wear_percent_max,
        clock_ahead_seconds_max=table.clock_ahead_seconds_max,
        calm_seconds=table.calm_seconds,
    )


def look_once(
    settings: BoxSettings, *, clock_ahead_s: float | None, held: Sequence[Held]
) -> tuple[Standing, ...]:
    """How the machine stands now, the worst first, whether a box runs or not; held: by a running one."""
    watch = Watch(settings, clock_ahead_s=lambda: clock_ahead_s)
    return judged_once(
        watch.limits,
        watch.read(),
        {
            (one.check, one.subject): (
                Level[one.level.upper()],
                f"held since {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(one.since_s))} UTC by {one.why}",
            )
            for one in held
        },
    )


class BoxHealth:
    """The health of a running box's machine, over all its epochs."""

    def __init__(
        self,
        settings: BoxSettings,
        *,
        clock_ahead_s: Callable[[], float | None],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock_s = clock_s
        self._watch = Watch(settings, clock_ahead_s=clock_ahead_s)
        self._health = Health(self._watch.limits)
        self._sample_s = float(settings.health.sample_seconds)
        self._work_goes_on = asyncio.Event()
        self._work_goes_on.set()
        self._log_level = logging.getLogger().level
        self._held: dict[tuple[str, str], Held] = {}
        self.pen: Pen | None = None
        """Writes the journal; None while nothing writes one."""

    @property
    def standings(self) -> tuple[Standing, ...]:
        """As of the last look, the worst first."""
        return self._health.standings

    @property
    def held(self) -> tuple[Held, ...]:
        """What is not well, for who asks from outside; changes with a level alone."""
        return tuple(self._held.values())

    def sheds(self) -> bool:
        """Whether what only tells is left out."""
        return self._health.level() >= Level.SHED

    def unless_shed(self, read: Callable[[], float]) -> float:
        """What a costly reading says, or NaN while telemetry is shed."""
        return math.nan if self.sheds() else read()

    def work_goes_on(self) -> bool:
        """Whether work that can wait is done."""
        return self._work_goes_on.is_set()

    async def may_work(self) -> None:
        """Return once work that can wait need not wait any longer."""
        await self._work_goes_on.wait()

    def why_no_copies(self) -> str:
        """Why no copy of the ledger is made now; "" where it may."""
        return "; ".join(
            held.why
            for held in self._held.values()
            if Level[held.level.upper()] >= Level.PAUSE and not self._health.checks[held.check].keeps_copies
        )

    def why_no_payments(self) -> Unwell | None:
        """Why no new payment is decided, or None."""
        for held in self._held.values():
            if held.level == Level.REFUSE.name.lower():
                return Unwell(
                    f"the machine endangers the ledger: {held.why}", hint=self._health.checks[held.check].mend
                )
        return None

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self.look()
            await asyncio.sleep(self._sample_s)

    async def look(self) -> None:
        """Look once, do what the levels ask for, and tell what has changed."""
        readings = await in_thread(self._watch.read)
        for change in self._health.take(readings, self._clock_s()):
            self._hold(change)
            tell = _log.warning if change.level > change.before else _log.info
            tell(
                "health",
                check=change.check.name,
                subject=change.subject,
                level=change.level.name.lower(),
                before=change.before.name.lower(),
                why=change.why,
                hint=change.check.mend if change.level else "",
            )
            self._act()
            await self._journal(change)

    async def _journal(self, change: Change) -> None:
        """Write it down, unless it comes and goes with the work and nothing was done; that it cannot be
        written is no reason not to act."""
        pen = self.pen
        told_alone = change.check.passes and max(change.level, change.before) < Level.SHED
        if told_alone or pen is None or pen.failure or not (pen.epoch and pen.mode.clears):
            return

        def run(batch: Batch) -> None:
            batch.note_and_write(
                HealthChanged(
                    **batch.head(),
                    check=change.check.name,
                    subject=change.subject,
                    level=change.level.name.lower(),
                    previous=change.before.name.lower(),
                    reason=change.why,
                )
            )

        try:
            await pen.work(run)
        except (OperatingError, BrokenInvariant) as problem:
            _log.warning("health_not_journalled", check=change.check.name, problem=str(problem))

    def _hold(self, change: Change) -> None:
        key = (change.check.name, change.subject)
        if change.level is Level.WELL:
            self._held.pop(key, None)
            return
        self._held[key] = Held(
            check=change.check.name,
            subject=change.subject,
            level=change.level.name.lower(),
            since_s=int(time.time()),
            why=change.why,
        )

    def _act(self) -> None:
        level = self._health.level()
        shed = max(self._log_level, logging.WARNING)
        logging.getLogger().setLevel(shed if level >= Level.SHED else self._log_level)
        if level >= Level.PAUSE:
            self._work_goes_on.clear()
        else:
            self._work_goes_on.set()
