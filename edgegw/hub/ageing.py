"""The hub's own reminder: items in suspense and receivables that wait for too long are told in its log each
day, until somebody has acted on them; and the look for kept reversals that no push has met.

Any number of hub processes may keep it: each item is told once a day by one of them. Leaves out what they are
(`hub.suspense`, `hub.receivables`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Final

import msgspec
import structlog
from sqlalchemy import Connection

from edgegw.hub import kept, receivables, suspense
from edgegw.hub.settling import Transactions

TICK_S: Final = 60.0
_log = structlog.get_logger("edgegw.hub")


def reminding(hub: Transactions, aged_days: int) -> Callable[[object], AsyncGenerator[None, None]]:
    """What tells of aged items while an application runs."""

    async def keep(_: object) -> AsyncGenerator[None, None]:
        task = asyncio.create_task(keep_reminding(hub, aged_days, now_ns=time.time_ns))
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    return keep


async def keep_reminding(
    hub: Transactions, aged_days: int, *, now_ns: Callable[[], int], tick_s: float = TICK_S
) -> None:
    """Tell of what is older than so many days, and find what no push has met, for ever; what goes wrong is
    logged, and tried again."""
    while True:
        try:
            for place in await hub.run(lambda connection: kept.missed(connection, now_ns=now_ns())):
                _log.warning("reversed_elsewhere", item=place.name)
            while await _told(hub, aged_days, now_ns()):
                pass
        except Exception:  # noqa: BLE001 - the edge: logged with its trace, boxes are served all the same
            _log.exception("ageing_failed")
        await asyncio.sleep(tick_s)


async def _told(hub: Transactions, aged_days: int, now_ns: int) -> bool:
    """Tell of the next ones; whether there may be more."""

    def items(connection: Connection) -> list[suspense.Item]:
        return suspense.raise_aged(connection, aged_days=aged_days, now_ns=now_ns)

    def owed(connection: Connection) -> list[receivables.Receivable]:
        return receivables.raise_aged(connection, aged_days=aged_days, now_ns=now_ns)

    aged, unpaid = await hub.run(items), await hub.run(owed)
    for item in aged:
        hint = f"`edgegw suspense show {item.item}` has the evidence; then retry, park, or post."
        _log.warning("suspense_aged", hint=hint, **_said(item, item.at_ns, now_ns))
    for one in unpaid:
        hint = f"Collect it and post it with id {one.settle_by}."
        _log.warning("receivable_aged", hint=hint, **_said(one, one.at_ns, now_ns))
    return len(aged) == suspense.RAISED_EACH or len(unpaid) == suspense.RAISED_EACH


def _said(one: msgspec.Struct, at_ns: int, now_ns: int) -> dict[str, object]:
    return {**msgspec.structs.asdict(one), "days": (now_ns - at_ns) // suspense.DAY_NS}
