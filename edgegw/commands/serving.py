"""Serving HTTP until a signal, as hub and mirror do once their parts are open."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence

import structlog
from aiohttp import web

from edgegw.errors import OperatingError


async def serve(
    application: web.Application,
    addresses: Sequence[tuple[str, int]],
    *,
    name: str,
    bank: str,
    failed: asyncio.Future[None] | None = None,
) -> None:
    """Serve at each (host, port) until SIGTERM, SIGINT or the error in `failed`, which is raised then.

    name is what the server is, as in its log. Raises OperatingError for an address that cannot be had.
    """
    loop = asyncio.get_running_loop()
    ended = failed or loop.create_future()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=5.0)
    await runner.setup()
    log = structlog.get_logger(f"edgegw.{name}")
    stopping = asyncio.create_task(stop.wait())
    try:
        for host, port in addresses:
            try:
                await web.TCPSite(runner, host, port).start()
            except OSError as problem:
                raise OperatingError(
                    f"listen: {host}:{port} cannot be had: {problem.strerror or problem}",
                    hint="Give listen another address, or stop the process that has this one.",
                ) from None
        served = [f"{place[0]}:{place[1]}" for place in runner.addresses]
        log.info("open", bank=bank, pid=os.getpid(), addresses=served)
        await asyncio.wait((stopping, ended), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        await runner.cleanup()
    if ended.done():
        ended.result()
    log.info("stopped", bank=bank)
