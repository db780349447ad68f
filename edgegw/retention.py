"""A box's retention: when pruning is done, beside the payments or on a ledger at rest, and its report.

Once some time after a start and then each day: remember what the centre holds by now, and take away what has
been there for long enough, portion by portion. Leaves out what may go (`ledger.prune`) and who asks (`app`,
`commands.prune`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Final

import msgspec
import structlog

from edgegw.access.keys import VerifyingKey
from edgegw.config.box import BoxSettings, has_mirror
from edgegw.core.journal import Cosignature
from edgegw.errors import LedgerCorrupt
from edgegw.ledger import prune
from edgegw.ledger.coverage import Coverage
from edgegw.ledger.prune import Bound, Done, Plan, Work
from edgegw.ledger.store import Store
from edgegw.ledger.writer import Pen, take_snapshot
from edgegw.uplink.threads import in_thread

FIRST_S: Final = 900.0
"""A start has more urgent work."""
PAUSE_S: Final = 86_400.0
REST: Final = 9
"""So many times as long as a step took is left to the payments."""

_log = structlog.get_logger("edgegw.retention")


class Report(msgspec.Struct, kw_only=True):
    """What was pruned, or may be, of every epoch."""

    records_days: int
    dry_run: bool
    epochs: list[Done] = []
    file_bytes_before: int = 0
    file_bytes: int = 0
    free_bytes: int = 0
    """Inside the file: the next records fill them, or they are given back."""
    shrinks: bool = True
    """Whether free pages are given back to the disk; a file of an earlier version needs --vacuum once."""


def dry_run(
    store: Store, *, records_days: int, hub: VerifyingKey, progress: Callable[[int, int], None]
) -> Report:
    """What may go now, holds included, and what keeps the rest; nothing is written. progress gets records
    replayed and in all. Raises LedgerCorrupt for what does not replay."""
    size = store.pruned.file_size()
    report = Report(
        records_days=records_days,
        dry_run=True,
        file_bytes_before=size.size,
        file_bytes=size.size,
        free_bytes=size.free,
        shrinks=size.shrinks,
    )
    wanted = _plans(store, records_days, hub)
    total, done = sum(plan.end - plan.start for plan in wanted), 0
    for plan in wanted:
        settled = plan
        for step in prune.settled(store, plan):
            done = min(total, done + prune.READ_EACH)
            progress(done, total)
            if step is not None:
                settled = step[0]
        kept = store.pruned.weight(settled.epoch, settled.start, settled.end)
        report.epochs.append(
            Done(
                epoch=settled.epoch,
                start=settled.start,
                end=settled.end,
                records=kept.records,
                identities=kept.identities,
                record_bytes=kept.record_bytes,
                held_by=settled.held_by,
            )
        )
    return report


def prune_now(
    store: Store,
    *,
    records_days: int,
    hub: VerifyingKey,
    write: Callable[[Work], None],
    vacuum: bool,
    progress: Callable[[int, int], None],
) -> Report:
    """Prune a ledger at rest; write has each piece of work written before it returns."""
    reader = store.reader()
    report = Report(records_days=records_days, dry_run=False, file_bytes_before=store.pruned.file_size().size)
    try:
        write(prune.remember(prune.new_marks(reader, verify_cosignature=hub.check_cosignature)))
        wanted = _plans(reader, records_days, hub)
        for place, plan in enumerate(wanted):
            done = _nothing_yet(plan)
            report.epochs.append(done)
            for step in prune.work(reader, plan, done):
                if step is not None:
                    write(step)
            progress(place + 1, len(wanted))
    finally:
        reader.close()
    if vacuum:
        store.pruned.vacuum()
    else:
        for _ in range(_pages_to_give_back(store)):
            write(prune.give_back)
    size = store.pruned.file_size()
    report.file_bytes, report.free_bytes, report.shrinks = size.size, size.free, size.shrinks
    return report


class Retention:
    """Prunes beside the payments, for one pen."""

    def __init__(
        self,
        settings: BoxSettings,
        store: Store,
        pen: Pen,
        *,
        hub: VerifyingKey,
        coverage: Coverage,
        anchored: Callable[[], bool],
        may_work: Callable[[], Awaitable[None]],
        first_s: float = FIRST_S,
    ) -> None:
        """anchored: whether what is on disk is known outside, too. may_work: returns once the machine has
        something left for this."""
        self._days = settings.retention.records_days
        self._mirrored = has_mirror(settings)
        self._store = store
        self._pen = pen
        self._hub = hub
        self._coverage = coverage
        self._anchored = anchored
        self._may_work = may_work
        self._pause_s = first_s

    async def run(self) -> None:
        """Wait, and prune once; for ever waiting where the settings keep all."""
        if not self._days:
            await asyncio.Event().wait()
        await asyncio.sleep(self._pause_s)
        await self._may_work()
        self._pause_s = PAUSE_S
        await self.once()

    async def once(self) -> list[Done]:
        """Prune what may go now; what was done of each epoch. Raises OperatingError."""
        if not (self._pen.mode.clears and self._pen.epoch and self._anchored()):
            return []
        reader = self._store.reader()
        found: list[Done] = []
        try:
            marks = await in_thread(partial(prune.new_marks, reader, verify_cosignature=self._verify))
            if marks:
                await self._pen.work(prune.remember(marks))
            for plan in await in_thread(partial(_plans, reader, self._days, self._hub, (self._mirror,))):
                if not plan.whole and plan.held_by.rule == "snapshot":
                    await self._pen.work(take_snapshot)  # Tomorrow it keeps nothing back.
                found.append(await self._prune(reader, plan))
        except LedgerCorrupt as problem:
            # Nothing was deleted; what ends the clearing is the reading of all records (`ledger.scrub`).
            _log.error("not_pruned", problem=str(problem), hint=problem.hint)
        finally:
            reader.close()
        return found

    async def _prune(self, reader: Store, plan: Plan) -> Done:
        done = _nothing_yet(plan)
        steps = prune.work(reader, plan, done)
        before = reader.pruned.file_size().size
        while True:
            await self._may_work()
            began_s = time.monotonic()
            going, step = await in_thread(partial(_next, steps))
            if not going:
                break
            if step is not None:
                await self._pen.work(step)
            await asyncio.sleep(REST * (time.monotonic() - began_s))
        if done.records:
            for _ in range(_pages_to_give_back(reader)):
                await self._pen.work(prune.give_back)
            after = reader.pruned.file_size().size
            said = msgspec.structs.asdict(done) | {"held_by": done.held_by.rule, "why": done.held_by.why}
            _log.info("pruned", file_bytes_before=before, file_bytes=after, **said)
        return done

    def _verify(self, note: str) -> Cosignature:
        return self._hub.check_cosignature(note)

    def _mirror(self, epoch: int) -> Bound | None:
        """A mirror gets what it lacks from this box alone."""
        if not self._mirrored or epoch != self._pen.epoch:
            return None
        return Bound("mirror", self._coverage.size(epoch), "the mirror does not have the rest")


def _next(steps: Iterator[Work | None]) -> tuple[bool, Work | None]:
    for step in steps:
        return True, step
    return False, None


def _plans(
    store: Store,
    records_days: int,
    hub: VerifyingKey,
    beside: Sequence[Callable[[int], Bound | None]] = (),
) -> list[Plan]:
    return prune.plans(
        store, records_days=records_days, verify_cosignature=hub.check_cosignature, beside=beside
    )


def _nothing_yet(plan: Plan) -> Done:
    return Done(epoch=plan.epoch, start=plan.start, end=plan.start, held_by=plan.held_by)


def _pages_to_give_back(store: Store) -> int:
    """How many times `prune.give_back` is to be written."""
    size = store.pruned.file_size()
    return -(-size.free // (prune.GIVE_BACK_PAGES * 4096)) if size.shrinks else 0
