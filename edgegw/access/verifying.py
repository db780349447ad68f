"""Verifying SM2 signatures beside the loop: a bounded number at once, by turns of the addresses that wait.

A verification costs a third of a millisecond of one core, and anyone may ask for it. So it runs in threads
(libcrypto releases the interpreter), two at once; of each address so many wait and no more, and the next to
run is always another address's: a flood from one delays the others by one verification each."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from edgegw.sm.sm2 import PublicKey

AT_ONCE: Final = 2
WAITING_EACH_MAX: Final = 1024
"""As many as a way in has connections by default: who shares a flood's address waits half a second, and is
not refused."""


class TooMany(Exception):
    """As many signatures of this address wait as may."""


class Verifiers:
    """The threads that verify, and who waits for them."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(max_workers=AT_ONCE, thread_name_prefix="verify")
        self._running = 0
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """By address, the next one first."""

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False)

    async def verify(self, key: PublicKey, message: bytes, signature: bytes, *, peer: str) -> bool:
        """Whether the signature is the key's; raises TooMany."""
        if self._running >= AT_ONCE:
            await self._turn(peer)
        else:
            self._running += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, lambda: key.verify(message, signature))
        finally:
            self._next()

    async def _turn(self, peer: str) -> None:
        """Wait for a place, which whoever ends hands over."""
        queue = self._waiting.setdefault(peer, deque())
        if len(queue) >= WAITING_EACH_MAX:
            raise TooMany
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._next()
            raise

    def _next(self) -> None:
        """Hand the place to the address whose turn it is, or give it free."""
        while self._waiting:
            peer = next(iter(self._waiting))
            queue = self._waiting.pop(peer)
            turn = queue.popleft()
            if queue:
                self._waiting[peer] = queue
            if not turn.done():
                turn.set_result(None)
                return
        self._running -= 1
