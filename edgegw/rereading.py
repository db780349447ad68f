"""Reading every record of the newest epoch again while the box runs: who changed one by hand is found out.

At the start, when the line is back, and each hour. Leaves out the reading itself (`ledger.scrub`) and what a
record that was changed leads to (the line says it to the centre, and the box clears nothing).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import structlog

from edgegw.errors import Forked, LedgerCorrupt
from edgegw.ledger.scrub import scrub
from edgegw.ledger.store import Store
from edgegw.uplink.line import Line
from edgegw.uplink.threads import in_thread

REST: Final = 9
"""After the first pass, so many times as long as a portion took is left to the payments."""
PAUSE_S: Final = 3600.0
TICK_S: Final = 1.0

_log = structlog.get_logger("edgegw.app")


async def keep_reading(
    store: Store, line: Line, read_once: asyncio.Event, may_work: Callable[[], Awaitable[None]]
) -> None:
    """Read every record again, at the start, when the line is back and each PAUSE_S; one that was changed by
    hand ends the clearing. Slowly once `read_once` is set, which the first pass does, and then only while the
    machine has something left for it: `may_work` returns."""
    while True:
        portions = scrub(store)
        began_s = time.monotonic()
        try:
            while await in_thread(partial(next, portions, None)) is not None:
                if read_once.is_set():
                    await asyncio.sleep(REST * (time.monotonic() - began_s))
                    await may_work()
                began_s = time.monotonic()
        except LedgerCorrupt as problem:
            _log.error("record_edited", problem=str(problem), hint=Forked.default_hint)
            await line.distrust(str(problem))
        read_once.set()
        await _next_reading(line)
        await may_work()


async def _next_reading(line: Line) -> None:
    """Until PAUSE_S are over, or the line is back: what an outage has seen is found at its end."""
    began_s, was_up = time.monotonic(), line.up
    while time.monotonic() - began_s < PAUSE_S:
        await asyncio.sleep(TICK_S)
        if line.up and not was_up:
            return
        was_up = line.up
