"""The shield: what a peer may cost before it has said anything useful. Body size and pace, connections,
requests at once; and how fast a known one may ask.

Slow or idle *headers* are cut by aiohttp's keep-alive deadline, which runs from the moment of connecting.
Owns limits and their errors; leaves out what is told to the peer (the protocol's own words)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Generic, Protocol

import msgspec

from edgegw.access.crowd import Crowd, One
from edgegw.core.site import RateRule, Site


class BodyTooLarge(Exception):
    """More bytes than allowed; `bytes_max` says how many are."""

    def __init__(self, bytes_max: int) -> None:
        super().__init__(f"the body has more than {bytes_max} bytes")
        self.bytes_max = bytes_max


class BodyTooSlow(Exception):
    """The whole body was not there within timeout_seconds."""

    def __init__(self, timeout_seconds: float, received: int) -> None:
        super().__init__(f"{received} bytes of the body came within {timeout_seconds:g} s, the rest did not")


class Body(Protocol):
    """A stream of a body's bytes (aiohttp's StreamReader)."""

    def read_nowait(self) -> bytes:
        """All that has arrived."""

    async def readany(self) -> bytes:
        """What has arrived; b"" at the end."""

    def at_eof(self) -> bool:
        """Whether all of it was read."""

    def is_eof(self) -> bool:
        """Whether all of it has arrived."""


async def read_whole(body: Body, *, length: int | None, bytes_max: int, timeout_seconds: float) -> bytes:
    """All bytes of a body; raises BodyTooLarge (by its announced length at once) or BodyTooSlow."""
    if length is not None and length > bytes_max:
        raise BodyTooLarge(bytes_max)
    if body.is_eof():  # The common case: it came with the headers, so there is nothing to wait for.
        whole = body.read_nowait()
        if len(whole) > bytes_max:
            raise BodyTooLarge(bytes_max)
        return whole
    parts: list[bytes] = []
    try:
        async with asyncio.timeout(timeout_seconds):
            return await _read(body, bytes_max, parts)
    except TimeoutError:
        raise BodyTooSlow(timeout_seconds, sum(map(len, parts))) from None


async def _read(body: Body, bytes_max: int, parts: list[bytes]) -> bytes:
    size = 0
    while not body.at_eof():
        part = await body.readany()
        size += len(part)
        if size > bytes_max:
            raise BodyTooLarge(bytes_max)
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


class Shares:
    """How many requests each client has in hand, so that one client cannot fill the box's queue."""

    def __init__(self, *, each_max: int) -> None:
        self._each_max = each_max
        self._in_hand: dict[str, int] = {}

    def take(self, client: str) -> bool:
        """Begin a request of a client; False when it has as many as it may."""
        count = self._in_hand.get(client, 0)
        if count >= self._each_max:
            return False
        self._in_hand[client] = count + 1
        return True

    def give_back(self, client: str) -> None:
        """End a request of a client."""
        count = self._in_hand[client] - 1
        if count:
            self._in_hand[client] = count
        else:
            del self._in_hand[client]


class Rates:
    """How fast each client or terminal may ask by the site's rates: a bucket each, which refills."""

    def __init__(
        self, *, site: Callable[[], Site | None], now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._site = site
        self._now_s = now_s
        self._seen: Site | None = None
        self._rules: dict[str, RateRule] = {}
        self._levels: dict[str, tuple[float, float]] = {}

    def take(self, name: str) -> bool:
        """Begin a request of a client or terminal that the site knows; False when it asks too fast."""
        site = self._site()
        if site is not self._seen:
            self._seen = site
            rates = msgspec.UNSET if site is None else site.rates
            self._rules = {} if rates is msgspec.UNSET else {rule.name: rule for rule in rates}
            self._levels.clear()
        rule = self._rules.get(name) or self._rules.get("")
        if rule is None:
            return True
        now_s = self._now_s()
        level, since_s = self._levels.get(name, (float(rule.burst_count), now_s))
        level = min(rule.burst_count, level + (now_s - since_s) * rule.per_second_count)
        is_free = level >= 1
        self._levels[name] = (level - 1 if is_free else level, now_s)
        return is_free


class Lines:
    """How many lines of the log strangers may cause in a minute."""

    def __init__(self, *, each_minute_max: int, now_s: Callable[[], float] = time.monotonic) -> None:
        self._each_minute_max = each_minute_max
        self._now_s = now_s
        self._minute = 0
        self._count = 0

    def take(self) -> bool:
        """Begin a line; False when this minute has had its lines."""
        minute = int(self._now_s() // 60)
        if minute != self._minute:
            self._minute, self._count = minute, 0
        self._count += 1
        return self._count <= self._each_minute_max


class Places(Generic[One]):
    """The places of one way in. When all are taken, a connection on which no known client was heard and that
    has no request in hand gives its place to a new one (`access.crowd`); no other ever does."""

    def __init__(self, *, places_max: int, end: Callable[[One], None]) -> None:
        """end: ends a connection that gives way; its place is free by then."""
        self._places_max = places_max
        self._end = end
        self._taken: dict[One, str | None] = {}
        """Each with its address, None until that is seen and from when it is known."""
        self._idle_strangers: Crowd[One] = Crowd()

    def __len__(self) -> int:
        return len(self._taken)

    def __iter__(self) -> Iterator[One]:
        return iter(self._taken)

    def has_one_free(self) -> bool:
        """Whether one more may come; where that takes it, a stranger has been ended."""
        if len(self._taken) < self._places_max:
            return True
        stranger = self._idle_strangers.first()
        if stranger is None:
            return False
        self.leave(stranger)
        self._end(stranger)
        return True

    def take(self, one: One) -> None:
        """Take a place for a connection whose address is not seen yet."""
        self._taken[one] = None

    def stranger(self, one: One, host: str) -> None:
        """Its address: it is idle, and nobody known was heard on it."""
        self._taken[one] = host
        self._idle_strangers.add(one, host)

    def busy(self, one: One) -> None:
        """It has a request in hand."""
        self._idle_strangers.discard(one)

    def idle(self, one: One) -> None:
        """It has no request in hand from now on."""
        host = self._taken.get(one)
        if host is not None:
            self._idle_strangers.add(one, host)

    def known(self, one: One) -> None:
        """A known client was heard on it."""
        if one in self._taken:
            self._taken[one] = None
            self._idle_strangers.discard(one)

    def leave(self, one: One) -> None:
        """Give its place free, if it has one."""
        self._taken.pop(one, None)
        self._idle_strangers.discard(one)


class _Busy(asyncio.Protocol):
    """Answers a connection that is one too many, and closes it."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.WriteTransport):
            transport.write(self._answer)
        transport.close()


def bounded(
    accept: Callable[[], asyncio.BaseProtocol], *, has_one_free: Callable[[], bool], answer: bytes
) -> Callable[[], asyncio.BaseProtocol]:
    """A protocol factory that gives connections without a free place the `answer` and nothing else."""
    return lambda: accept() if has_one_free() else _Busy(answer)
