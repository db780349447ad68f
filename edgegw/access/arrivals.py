"""Connections that arrive at an encrypted listener: the handshake, bounded in time and number.

asyncio's own encrypted servers make the application's protocol before the handshake and say nothing of one
that fails. Here a protocol is made once a handshake is done; until then a peer costs a place among few, for
a few seconds. One that is refused hears TLS's own word for it, is counted, and is told in the log, so many
lines a minute. Leaves out what is negotiated (`access.tls`).
"""

from __future__ import annotations

import asyncio
import ssl
import time
import weakref
from collections.abc import Callable
from typing import Final

import structlog

from edgegw.access.crowd import Crowd, host_of
from edgegw.access.tls import HANDSHAKE_WORK, LAST_WORDS, TransportContext, Work, server_context
from edgegw.access.turns import Turns
from edgegw.tls_tables import OptionalServerTls, ServerTls, is_encrypted

HANDSHAKE_S_MAX: Final = 10.0
"""Two round trips of a satellite line, and a box that is busy."""
SHARE: Final = 0.25
"""Of a core's time, for handshakes: a box makes its payments by the same thread."""
HANDSHAKES_MAX: Final = 256
"""More than that, and the one that has taken longest ends: who says nothing gives way to who speaks."""
HANDSHAKES_EACH_MAX: Final = 32
"""Of one address; it takes milliseconds, so an honest address has fewer."""
GOODBYE_S_MAX: Final = 2.0
"""For the peer's end of a connection that is closed."""
WATCH_EACH_S: Final = 5.0
"""How often connections are held against the lists of revoked certificates; one that speaks, each second."""
LINES_EACH_MINUTE: Final = 30
_PLAIN_REQUEST: Final = "HTTP_REQUEST"

_log = structlog.get_logger("edgegw.tls")


class Arrivals:
    """The handshakes of one listener."""

    def __init__(
        self,
        context: TransportContext,
        *,
        name: str,
        plain_answer: bytes = b"",
        counted: Callable[[str], None] = lambda _: None,
        share: float = SHARE,
    ) -> None:
        """name: of the listener, in the log. plain_answer: to a peer that speaks HTTP without TLS. counted:
        is called with `handshake_refused` or `handshake_crowded` for each. share: of a core's time, for
        handshakes."""
        self._context = context
        self._name = name
        self._plain_answer = plain_answer
        self._counted = counted
        self._turns = Turns(share)
        self._under_way: dict[asyncio.Transport, asyncio.Task[None]] = {}
        self._crowd: Crowd[asyncio.Transport] = Crowd()
        self._minute = 0
        self._lines = 0
        self._secured: weakref.WeakSet[asyncio.Transport] = weakref.WeakSet()
        self._watching: asyncio.Task[None] | None = None

    @property
    def under_way(self) -> int:
        """Handshakes that are not done."""
        return len(self._under_way)

    def protocol(self, accept: Callable[[], asyncio.BaseProtocol]) -> Callable[[], asyncio.BaseProtocol]:
        """A factory for `create_server`: `accept` makes the protocol of a peer whose handshake is done."""
        return lambda: _Arriving(lambda transport: self._begin(transport, accept))

    def end(self) -> None:
        """End all handshakes."""
        for task in self._under_way.values():
            task.cancel()
        if self._watching is not None:
            self._watching.cancel()

    def _begin(self, transport: asyncio.Transport, accept: Callable[[], asyncio.BaseProtocol]) -> None:
        host = host_of(transport)
        if self._crowd.count(host) >= HANDSHAKES_EACH_MAX:
            self._counted("handshake_crowded")
            self._tell(host, f"it has {HANDSHAKES_EACH_MAX} handshakes under way")
            transport.abort()
            return
        if len(self._crowd) >= HANDSHAKES_MAX and (oldest := self._crowd.first()) is not None:
            self._counted("handshake_crowded")
            self._crowd.discard(oldest)
            self._under_way.pop(oldest).cancel()
            self._tell(host_of(oldest), "it was the longest without a handshake, and its place was needed")
        self._crowd.add(transport, host)
        task = asyncio.get_running_loop().create_task(self._shake(transport, host, accept))
        self._under_way[transport] = task
        task.add_done_callback(lambda _: self._ended(transport))

    def _ended(self, transport: asyncio.Transport) -> None:
        self._under_way.pop(transport, None)
        self._crowd.discard(transport)

    async def _shake(
        self, transport: asyncio.Transport, host: str, accept: Callable[[], asyncio.BaseProtocol]
    ) -> None:
        def last_words(alert: bytes, problem: ssl.SSLError) -> None:
            is_plain = problem.reason == _PLAIN_REQUEST and self._plain_answer
            transport.write(self._plain_answer if is_plain else alert)

        LAST_WORDS.set(last_words)
        waiting = _Waiting()
        work = Work()
        HANDSHAKE_WORK.set(work)
        try:
            secured = await self._secured_in_its_turn(transport, waiting, host, work)
        except OSError as problem:
            self._counted("handshake_refused")
            self._tell(host, _said(problem))
            transport.abort()
            return
        except asyncio.CancelledError:
            transport.abort()
            raise
        except Exception:  # noqa: BLE001 - the edge: logged with its trace, the listener lives on
            _log.exception("handshake_failed", listener=self._name, remote=host)
            transport.abort()
            return
        if secured is None or waiting.is_lost:
            self._counted("handshake_refused")
            self._tell(host, "it left before the handshake was done")
            return
        waiting.hand_over(secured, accept())
        self._secured.add(secured)
        if self._watching is None or self._watching.done():
            self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def _secured_in_its_turn(
        self, transport: asyncio.Transport, waiting: _Waiting, host: str, work: Work
    ) -> asyncio.Transport | None:
        """The transport behind the handshake; raises OSError."""
        begun_s = time.monotonic()
        try:
            async with asyncio.timeout(HANDSHAKE_S_MAX):
                guess_s = await self._turns.wait(host)
        except TimeoutError:
            raise ConnectionRefusedError("its turn did not come: there are too many handshakes") from None
        left_s = HANDSHAKE_S_MAX - (time.monotonic() - begun_s)
        try:
            return await asyncio.get_running_loop().start_tls(
                transport,
                waiting,
                self._context,
                server_side=True,
                ssl_handshake_timeout=max(left_s, HANDSHAKE_S_MAX / 10),
                ssl_shutdown_timeout=GOODBYE_S_MAX,
            )
        finally:
            self._turns.done(guess_s, work.cpu_s)

    async def _watch(self) -> None:
        """End the connections of certificates that have ended or were revoked since, also those that say
        nothing; while there are any."""
        while self._secured:
            await asyncio.sleep(WATCH_EACH_S)
            for transport in list(self._secured):
                # One that is closed answers no other question: asyncio has taken its protocol from it.
                wrapped = None if transport.is_closing() else transport.get_extra_info("ssl_object")
                if wrapped is None:
                    self._secured.discard(transport)
                elif problem := wrapped.problem():
                    self._counted("certificate_ended")
                    _log.warning("connection_ended", listener=self._name, problem=problem)
                    self._secured.discard(transport)
                    transport.abort()

    def _tell(self, host: str, problem: str) -> None:
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            left_out = self._lines - LINES_EACH_MINUTE
            if left_out > 0:
                _log.warning("handshakes_refused", listener=self._name, more=left_out)
            self._minute, self._lines = minute, 0
        self._lines += 1
        if self._lines <= LINES_EACH_MINUTE:
            _log.warning(
                "handshake_refused",
                listener=self._name,
                profile=self._context.profile,
                remote=host,
                problem=problem,
            )


def arrivals_of(
    tls: OptionalServerTls,
    *,
    name: str,
    plain_answer: bytes = b"",
    counted: Callable[[str], None] = lambda _: None,
) -> Arrivals | None:
    """The handshakes of a listener with this table, None where it is plain; raises TlsError."""
    if isinstance(tls, ServerTls) and is_encrypted(tls):
        return Arrivals(server_context(tls), name=name, plain_answer=plain_answer, counted=counted)
    return None


class _Arriving(asyncio.Protocol):
    """A connection as it is accepted: nothing is read of it before the handshake begins."""

    def __init__(self, begin: Callable[[asyncio.Transport], None]) -> None:
        self._begin = begin

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - create_server makes no others
        transport.pause_reading()
        self._begin(transport)


class _Waiting(asyncio.Protocol):
    """Keeps what a peer sends right behind its handshake, until the application's protocol is there."""

    def __init__(self) -> None:
        self._received: list[bytes] = []
        self._has_ended = False
        self.is_lost = False
        """Whether the connection is gone."""

    def data_received(self, data: bytes) -> None:
        self._received.append(data)

    def eof_received(self) -> None:
        self._has_ended = True

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.is_lost = True

    def hand_over(self, transport: asyncio.Transport, protocol: asyncio.BaseProtocol) -> None:
        """Give the connection and what came of it to the application."""
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if isinstance(protocol, asyncio.Protocol):
            for data in self._received:
                protocol.data_received(data)
            if self._has_ended:
                protocol.eof_received()


def _said(problem: OSError) -> str:
    if isinstance(problem, ssl.SSLError) and problem.reason == _PLAIN_REQUEST:
        return "it spoke HTTP without TLS"
    if isinstance(problem, ConnectionAbortedError):
        return f"its handshake was not done after {HANDSHAKE_S_MAX:g} s"
    if isinstance(problem, ConnectionResetError) and not str(problem):
        return "it left before the handshake was done; it may not trust this server's certificate"
    return str(problem) or type(problem).__name__
