"""Serving HTTP until a signal, as hub and mirror do once their parts are open."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import structlog
from aiohttp import web

from edgegw.access.arrivals import Arrivals
from edgegw.access.tls import TransportContext
from edgegw.errors import OperatingError
from edgegw.liveness import Liveness

_SHARE: Final = 0.5
"""Of a core's time, for handshakes: this loop carries bytes alone, and all boxes come back at once."""
_TLS_ONLY: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"this port speaks TLS only; use https://\n"
)


async def serve(
    application: web.Application,
    addresses: Sequence[tuple[str, int]],
    *,
    name: str,
    bank: str,
    tls: TransportContext | None,
    turn: Callable[[], Awaitable[object]],
    failed: asyncio.Future[None] | None = None,
    opened: Callable[[Sequence[str]], None] = lambda _served: None,
) -> None:
    """Serve at each (host, port) until SIGTERM, SIGINT or the error in `failed`, which is raised then.

    name is what the server is, as in its log; turn is a round through its threads, which shows that they
    live. opened: told where it listens. Raises OperatingError for an address that cannot be had.
    """
    loop = asyncio.get_running_loop()
    ended = failed or loop.create_future()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    log = structlog.get_logger(f"edgegw.{name}")
    life = Liveness()
    stopping, living = asyncio.create_task(stop.wait()), asyncio.create_task(life.watch(turn))
    try:
        async with listening(application, addresses, name=name, option="listen", tls=tls) as served:
            log.info("open", bank=bank, pid=os.getpid(), addresses=served)
            opened(served)
            life.status(f"serves at {', '.join(served)}")
            life.ready()
            await asyncio.wait((stopping, ended), return_when=asyncio.FIRST_COMPLETED)
            life.stopping()
    finally:
        stopping.cancel()
        living.cancel()
    if ended.done():
        ended.result()
    log.info("stopped", bank=bank)


@asynccontextmanager
async def listening(
    application: web.Application,
    addresses: Sequence[tuple[str, int]],
    *,
    name: str,
    option: str,
    tls: TransportContext | None,
    connections_max: int = 0,
) -> AsyncIterator[list[str]]:
    """Serve at each (host, port), which is told as it was got, until the block ends.

    connections_max: of a plain listener that anybody may reach; the oldest gives way. 0: no such bound.
    Raises OperatingError, which names the option, for an address that cannot be had.
    """
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=5.0)
    await runner.setup()
    try:
        for host, port in addresses:
            try:
                site = (
                    _FewSite(runner, host, port, connections_max)
                    if connections_max
                    else site_of(runner, host, port, name=name, tls=tls)
                )
                await site.start()
            except OSError as problem:
                raise OperatingError(
                    f"{option}: {host}:{port} cannot be had: {problem.strerror or problem}",
                    hint=f"Give {option} another address, or stop the process that has this one.",
                ) from None
        yield [f"{place[0]}:{place[1]}" for place in runner.addresses]
    finally:
        await runner.cleanup()


def site_of(
    runner: web.BaseRunner, host: str, port: int, *, name: str, tls: TransportContext | None
) -> web.BaseSite:
    """What listens at an address, encrypted or plain."""
    return web.TCPSite(runner, host, port) if tls is None else _EncryptedSite(runner, host, port, name, tls)


class _FewSite(web.BaseSite):
    """As `web.TCPSite`, which lets connections that say nothing stay for ever, as many as come."""

    def __init__(self, runner: web.BaseRunner, host: str, port: int, connections_max: int) -> None:
        super().__init__(runner)
        self._host, self._port, self._most = host, port, connections_max
        self._held: deque[web.RequestHandler] = deque()

    @property
    def name(self) -> str:
        """Where it listens."""
        return f"http://{self._host}:{self._port}"

    async def start(self) -> None:
        """Listen; raises OSError."""
        await super().start()
        self._server = await asyncio.get_running_loop().create_server(
            self._accepted, self._host, self._port, backlog=128
        )

    def _accepted(self) -> web.RequestHandler:
        accept = self._runner.server
        assert accept is not None  # noqa: S101 - a runner that is set up has one
        fresh = accept()
        self._held.append(fresh)
        if len(self._held) > self._most:
            oldest = self._held.popleft()
            if oldest.transport is not None:  # else it has ended by itself
                oldest.transport.abort()
        return fresh


class _EncryptedSite(web.BaseSite):
    """As `web.TCPSite`, whose own encryption bounds nothing."""

    def __init__(
        self, runner: web.BaseRunner, host: str, port: int, listener: str, tls: TransportContext
    ) -> None:
        super().__init__(runner)
        self._host, self._port = host, port
        self._arrivals = Arrivals(tls, name=listener, plain_answer=_TLS_ONLY, share=_SHARE)

    @property
    def name(self) -> str:
        """Where it listens."""
        return f"https://{self._host}:{self._port}"

    async def start(self) -> None:
        """Listen; raises OSError."""
        await super().start()
        accept = self._runner.server
        assert accept is not None  # noqa: S101 - a runner that is set up has one
        self._server = await asyncio.get_running_loop().create_server(
            self._arrivals.protocol(accept), self._host, self._port, backlog=128
        )

    async def stop(self) -> None:
        """Listen no more, and end the handshakes."""
        self._arrivals.end()
        await super().stop()
