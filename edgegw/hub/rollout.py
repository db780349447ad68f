"""The hub's eye on the version that is staged: it halts one that has failed at a box, and lets the fleet have
one that was healthy for as long as was asked (`hub.site.advance`). Several hub processes may watch at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol

import structlog

TICK_S: Final = 1.0

_log = structlog.get_logger("edgegw.hub")


class Stages(Protocol):
    """Where the staged version is moved on (`hub.app.Hub`)."""

    def advance_site(self) -> Awaitable[str]:
        """Move it on by itself; what was done, or ""."""


def watching(hub: Stages) -> Callable[[object], AsyncGenerator[None, None]]:
    """What keeps watch while an application runs."""

    async def keep(_: object) -> AsyncGenerator[None, None]:
        task = asyncio.create_task(keep_watching(hub))
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    return keep


async def keep_watching(hub: Stages, *, tick_s: float = TICK_S) -> None:
    """Watch for ever; what goes wrong is logged, and tried again."""
    while True:
        try:
            done = await hub.advance_site()
            if done:
                _log.warning("site_stage", done=done)
        except Exception:  # noqa: BLE001 - the edge: logged with its trace, boxes are served all the same
            _log.exception("site_stage_failed", hint="`edgegw site versions` says how the versions are.")
        await asyncio.sleep(tick_s)
