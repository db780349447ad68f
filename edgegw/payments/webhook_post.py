"""One message to one client's webhook and what it said: signed as Standard Webhooks' `v1a`, within a time
limit.

The address comes from the site's signed settings and is not trusted beyond that: no redirects, no
credentials, no proxy, no cookies, only networks that the box's settings do not bar, and of the answer nothing
but its status is read. Leaves out what is sent when (`payments.webhooks`).
"""

from __future__ import annotations

import asyncio
import base64
import enum
import ipaddress
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

RESOLVERS_MAX: Final = 64
"""Names that may be looked up at once; a resolver that is silent holds up those of 64 clients at least."""
_NOT_THIS_ONE: Final = (400, 409, 413, 422)
"""The receiver has read it and does not want it; anything else is a fault of the address or of the time."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Outcome(enum.StrEnum):
    """What a webhook did with a message."""

    TAKEN = "taken"
    REFUSED = "refused"
    """It does not want this one; others it may."""
    AWAY = "away"
    """It takes nothing now."""


class Said(NamedTuple):
    """What a webhook did, and its own words or the fault."""

    outcome: Outcome
    text: str


class _Barred(OSError):
    """An address in a network that the box's settings bar."""


class _Resolver(AbstractResolver):
    """Names to addresses, in threads of its own, without those in barred networks."""

    def __init__(self, barred: Sequence[Network]) -> None:
        self._barred = barred
        self._threads = ThreadPoolExecutor(max_workers=RESOLVERS_MAX, thread_name_prefix="webhook-names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The host's addresses; raises OSError."""
        loop = asyncio.get_running_loop()
        infos = await loop.run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        )
        found = [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=kind,
                proto=proto,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, proto, _, address in infos
            if not is_barred(str(address[0]), self._barred)
        ]
        if not found:
            raise _Barred(f"every address of {host} is in a network that notices.networks_barred names")
        return found

    async def close(self) -> None:
        """End the threads; one that waits for a name is left behind."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def is_barred(host: str, barred: Sequence[Network]) -> bool:
    """Whether an address in figures is in one of these networks; a name is not."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return any((mapped or address) in network for network in barred)


class Postman:
    """Posts to webhooks, each by itself."""

    def __init__(self, sign: Callable[[bytes], bytes], *, networks_barred: Sequence[str]) -> None:
        self._sign = sign
        self._barred = [ipaddress.ip_network(network) for network in networks_barred]
        self._session: aiohttp.ClientSession | None = None

    async def post(self, url: str, *, id: str, body: bytes, now_s: int, timeout_s: float) -> Said:
        """Post one message; whatever goes wrong is what the webhook said."""
        signed = self._sign(f"{id}.{now_s}.".encode() + body)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "edgegw",
            "webhook-id": id,
            "webhook-timestamp": str(now_s),
            "webhook-signature": f"v1a,{base64.b64encode(signed).decode()}",
        }
        try:
            if is_barred(URL(url).host or "", self._barred):
                return Said(Outcome.AWAY, "its address is in a network that notices.networks_barred names")
            async with self._client().post(
                url,
                data=body,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
            ) as answer:
                return _said(answer.status)
        except TimeoutError:
            return Said(Outcome.AWAY, f"no answer within {timeout_s:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as problem:
            return Said(Outcome.AWAY, _words(problem) or type(problem).__name__)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            # No limit in all: a client's messages go one after the other, so each has one connection.
            connector = aiohttp.TCPConnector(limit=0, resolver=_Resolver(self._barred))
            self._session = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
            )
        return self._session


def _words(problem: Exception) -> str:
    """What went wrong, without the address: its path may be the receiver's secret."""
    if isinstance(problem, aiohttp.ClientConnectorError):
        return str(problem.os_error)
    if isinstance(problem, aiohttp.ClientResponseError):
        return problem.message
    return "" if isinstance(problem, ValueError) else str(problem)


def _said(status: int) -> Said:
    if 200 <= status < 300:
        return Said(Outcome.TAKEN, f"HTTP {status}")
    return Said(Outcome.REFUSED if status in _NOT_THIS_ONE else Outcome.AWAY, f"HTTP {status}")
