"""The hub's own timetable: on business days of the site's calendar, at the times of the hub's settings, it
gives the run that a person could give.

Several hub processes may keep it: a time for which there is a cycle already is over. After a time at which
the hub was down it settles when it is back. Leaves out what a run does (`hub.settlement`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from itertools import takewhile
from typing import Final, Protocol, TypeVar

import msgspec
import structlog
from sqlalchemy import Connection, func, select

from edgegw.core.calendar import EPOCH, MICROSECOND, cut_offs_from
from edgegw.core.site import CalendarRule
from edgegw.hub.schema import settlement_cycle
from edgegw.hub.settlement import Run, date_of, run
from edgegw.hub.site import Sites
from edgegw.zones import load_zone

TICK_S: Final = 10.0
DAYS_BACK: Final = timedelta(days=30)
"""So far back a time is looked for that the hub has missed; no holidays are longer."""

Result = TypeVar("Result")
_log = structlog.get_logger("edgegw.hub")


class Transactions(Protocol):
    """Where work on the hub's database is run, each in one SQL transaction (`hub.app.Hub`)."""

    def run(self, work: Callable[[Connection], Result]) -> Awaitable[Result]:
        """What `work` gives, once it is committed."""


def settling(hub: Transactions, times: Sequence[str]) -> Callable[[object], AsyncGenerator[None, None]]:
    """What keeps the timetable while an application runs; with no times, nothing."""

    async def keep(_: object) -> AsyncGenerator[None, None]:
        task = asyncio.create_task(keep_settling(hub, times, now_ns=time.time_ns)) if times else None
        yield
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    return keep


async def keep_settling(
    hub: Transactions, times: Sequence[str], *, now_ns: Callable[[], int], tick_s: float = TICK_S
) -> None:
    """Settle at these local times (HH:MM) for ever; what goes wrong is logged, and tried again."""
    sites, done_ns = Sites(), 0
    while True:
        try:
            work = partial(settle_due, sites=sites, times=times, since_ns=done_ns, now_ns=now_ns())
            done_ns, settled = await hub.run(work)
            if settled is not None:
                _log.info("settled", **settled._asdict())
        except Exception:  # noqa: BLE001 - the edge: logged with its trace, boxes are served all the same
            _log.exception("settlement_failed", hint="`edgegw settlement run` says what would help.")
        await asyncio.sleep(tick_s)


def settle_due(
    connection: Connection, sites: Sites, times: Sequence[str], *, since_ns: int, now_ns: int
) -> tuple[int, Run | None]:
    """Run a cycle if a time has passed since `since_ns` for which there is none; that time, and what was
    done."""
    site = sites.newest(connection)
    if site is None or site.calendar is msgspec.UNSET:
        return since_ns, None
    passed_ns = _latest(site.calendar, times, now_ns=now_ns)
    if passed_ns <= since_ns:
        return since_ns, None
    newest_ns = connection.execute(select(func.max(settlement_cycle.c.created_ns))).scalar() or 0
    if newest_ns >= passed_ns:
        return passed_ns, None
    return passed_ns, run(connection, site, settlement_date=date_of(site, now_ns=now_ns), now_ns=now_ns)


def _latest(calendar: CalendarRule, times: Sequence[str], *, now_ns: int) -> int:
    """The newest of these times that has passed on a business day, nanoseconds since 1970; 0 for none."""
    zone = load_zone(calendar.zone)
    timetable = msgspec.structs.replace(calendar, cut_offs=tuple(sorted(set(times))))
    now = (EPOCH + now_ns // 1_000 * MICROSECOND).astimezone(zone)
    moments = cut_offs_from(timetable, zone, (now - DAYS_BACK).date())
    return max((one.at_ns for one in takewhile(lambda one: one.at_ns <= now_ns, moments)), default=0)
