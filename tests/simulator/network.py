"""Links between boxes and the centre: they lose, double, delay, mix up and garble messages, and break one way
or both. A message that went astray may come again much later, as a replay.

`Wire` is what the line takes for its transport. Nothing here knows what a message says.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

from edgegw.uplink.transport import LineFault, NotThere, Sent
from tests.simulator.loop import VirtualLoop

Serve = Callable[[bytes], Awaitable[bytes]]
FETCH_S = 30.0


class Link:
    """One box's way to one address, and what is wrong with it now."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.heal()
        self.old: list[bytes] = []
        """Messages that may come again."""

    def heal(self) -> None:
        """Everything arrives, once, quickly."""
        self.lost = self.doubled = self.stale = self.garbled = 0.0
        self.delay_s = 0.02
        self.broken_up = self.broken_down = False
        """To the centre, and back."""


class Network:
    """All links, and whoever answers at an address."""

    def __init__(self, loop: VirtualLoop, chance: Random, injected: Counter[str]) -> None:
        self._loop = loop
        self._chance = chance
        self._injected = injected
        self.context = contextvars.copy_context()
        """The world's: no process's death drops what is on its way."""
        self.links: dict[tuple[str, str], Link] = {}
        self.served: dict[str, tuple[Serve, Callable[[str], bytes | None]] | None] = {}

    def link(self, box: str, address: str) -> Link:
        """The link of a box to an address."""
        return self.links.setdefault((box, address), Link(Random(f"{self._chance.random()}")))

    def transport(self, box: str, settings: Any) -> Wire:
        """What a box's line takes for its transport."""
        return Wire(self, box, settings.answer_timeout_ms / 1_000)

    def carry(self, box: str, address: str, message: bytes, reply: asyncio.Future[bytes]) -> None:
        """Send a message on its way; the reply, if one comes through, goes into `reply`."""
        link = self.link(box, address)
        if link.stale and link.old and link.chance.random() < link.stale:
            self._count("stale")
            self._later(link, 0, self._arrive, link, address, link.chance.choice(link.old), None)
        link.old = [*link.old[-7:], message]
        if link.broken_up or link.chance.random() < link.lost:
            self._count("partition" if link.broken_up else "drop")
            return
        if link.chance.random() < link.doubled:
            self._count("duplicate")
            self._later(link, 3, self._arrive, link, address, message, None)
        self._later(link, 1, self._arrive, link, address, self._maybe_garbled(link, message), reply)

    def _arrive(self, link: Link, address: str, message: bytes, reply: asyncio.Future[bytes] | None) -> None:
        served = self.served.get(address)
        if served is None:
            if reply is not None and not reply.done():
                reply.set_exception(LineFault(f"{address}: refused"))
            return
        answering = asyncio.ensure_future(served[0](message))
        answering.add_done_callback(lambda done: self._return(link, done, reply))

    def _return(self, link: Link, done: asyncio.Future[bytes], reply: asyncio.Future[bytes] | None) -> None:
        if done.cancelled():
            return
        problem = done.exception()
        if reply is None:
            return
        if link.broken_down or link.chance.random() < link.lost:
            self._count("partition" if link.broken_down else "drop")
        elif problem is not None:
            self._later(link, 1, _fail, reply, LineFault(f"HTTP 400 {problem}"))
        else:
            self._later(link, 1, _tell, reply, self._maybe_garbled(link, done.result()))

    def _maybe_garbled(self, link: Link, message: bytes) -> bytes:
        if not link.garbled or link.chance.random() >= link.garbled or not message:
            return message
        self._count("garble")
        at = link.chance.randrange(len(message))
        return message[:at] + bytes([message[at] ^ 1 << link.chance.randrange(8)]) + message[at + 1 :]

    def fetch(self, box: str, address: str, digest: str, reply: asyncio.Future[bytes]) -> None:
        """Ask an address for a site bundle."""
        link, served = self.link(box, address), self.served.get(address)
        if link.broken_up or link.broken_down or link.chance.random() < link.lost:
            return
        body = None if served is None else served[1](digest)
        if body is None:
            self._later(link, 2, _fail, reply, NotThere(f"{address}: HTTP 404"))
        else:
            self._later(link, 2, _tell, reply, self._maybe_garbled(link, body))

    def _later(self, link: Link, times: float, call: Callable[..., None], *arguments: Any) -> None:
        self._loop.call_later(link.delay_s * (times + link.chance.random()), call, *arguments)

    def _count(self, fault: str) -> None:
        self._injected[fault] += 1


def _tell(reply: asyncio.Future[bytes], answer: bytes) -> None:
    if not reply.done():
        reply.set_result(answer)


def _fail(reply: asyncio.Future[bytes], problem: LineFault) -> None:
    if not reply.done():
        reply.set_exception(problem)


class Wire:
    """`uplink.transport.Transport` over played links: no HTTP, the same promises."""

    def __init__(self, network: Network, box: str, answer_s: float) -> None:
        self._network = network
        self._box = box
        self._answer_s = answer_s

    async def exchange(self, address: str, message: bytes) -> Sent:
        """The answer to one envelope, in time; raises LineFault."""
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        # The network is the world's: what is on its way outlives who sent it.
        asyncio.get_running_loop().call_soon(
            self._network.carry, self._box, address, message, reply, context=self._network.context
        )
        return Sent(await self._in_time(address, reply, self._answer_s), len(message))

    async def site(self, address: str, digest: str) -> bytes:
        """A site bundle by its digest; raises LineFault, NotThere."""
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(
            self._network.fetch, self._box, address, digest, reply, context=self._network.context
        )
        return await self._in_time(address, reply, FETCH_S)

    async def _in_time(self, address: str, reply: asyncio.Future[bytes], seconds: float) -> bytes:
        try:
            async with asyncio.timeout(seconds):
                return await reply
        except TimeoutError:
            raise LineFault(f"{address}: no answer in time") from None

    async def close(self) -> None:
        """Nothing is open."""
