"""Wishes for grants: who waits for which, until the directives answer or the time is up (DESIGN §2.3).

Owns request ids and their waiters, in memory alone: what a grant is and does is the pen's, and a grant that
nobody waits for any more is handed back by the pen, which asks `awaited`.
"""

from __future__ import annotations

import asyncio
import enum
from typing import Final

import msgspec

from edgegw.core.messages import ASKS_MAX, Ask

WAITING_MAX: Final = 4_096
"""More than a rush hour leaves waiting within one timeout; beyond it the line counts as down for a
payment."""

LAST_WORD_MS: Final = 150
"""Kept of a payment's wait for the last message and for the pen that writes its answer."""


class Outcome(enum.StrEnum):
    """What became of an ask."""

    GRANTED = "granted"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    DOWN = "down"


class _Waiter:
    __slots__ = ("ask", "claimed", "ends_s", "future", "sent")

    def __init__(self, ask: Ask, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        self.ask = ask
        self.ends_s = loop.time() + timeout_s
        self.future: asyncio.Future[Outcome] = loop.create_future()
        self.sent = False
        self.claimed = False


class Asks:
    """The asks of one boot that somebody waits for."""

    def __init__(self, *, boot: str, timeout_ms: int) -> None:
        self._boot = boot
        self._timeout_s = timeout_ms / 1_000
        self._number = 0
        self._waiting: dict[str, _Waiter] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait(self, *, epoch: int, account_id: str, currency: str, amount_minor: int) -> Outcome:
        """Wait for a grant of at least amount_minor, timeout_ms at most; DOWN at once when too many wait
        already."""
        if len(self._waiting) >= WAITING_MAX:
            return Outcome.DOWN
        self._number += 1
        request_id = f"{epoch}-{self._boot}-{self._number}"
        waiter = _Waiter(Ask(request_id, account_id, currency, amount_minor), self._timeout_s)
        self._waiting[request_id] = waiter
        try:
            return await self._outcome(waiter)
        finally:
            del self._waiting[request_id]

    async def _outcome(self, waiter: _Waiter) -> Outcome:
        await asyncio.wait((waiter.future,), timeout=self._timeout_s)
        if not waiter.future.done() and waiter.claimed:
            # The pen is writing the grant for it right now: one more COMMIT, not one more round trip.
            await asyncio.wait((waiter.future,), timeout=self._timeout_s)
        return waiter.future.result() if waiter.future.done() else Outcome.TIMEOUT

    def awaited(self, request_id: str) -> bool:
        """Whether somebody waits for this grant; if so it is his, and he waits until it is written."""
        waiter = self._waiting.get(request_id)
        if waiter is None or waiter.future.done():
            return False
        waiter.claimed = True
        return True

    def resolve(self, request_id: str, outcome: Outcome) -> None:
        """Tell the one who waits, if anybody does."""
        waiter = self._waiting.get(request_id)
        if waiter is not None and not waiter.future.done():
            waiter.future.set_result(outcome)

    def give_up(self) -> None:
        """The line is down: tell everybody, but those whose grant is being written."""
        for waiter in self._waiting.values():
            if not waiter.future.done() and not waiter.claimed:
                waiter.future.set_result(Outcome.DOWN)

    def to_send(self, *, spent_ms: int = 0) -> tuple[Ask, ...]:
        """The asks for the next message, the oldest first, at most ASKS_MAX; each is sent again until it
        is answered. spent_ms: what a message and its answer take; after the patience that an ask names, one
        more message still brings its answer in time."""
        now_s = asyncio.get_running_loop().time()
        asks: list[Ask] = []
        for waiter in self._waiting.values():
            if len(asks) == ASKS_MAX:
                break
            if not waiter.future.done():
                waiter.sent = True
                left_ms = int((waiter.ends_s - now_s) * 1_000) - 2 * spent_ms - LAST_WORD_MS
                asks.append(msgspec.structs.replace(waiter.ask, patience_ms=max(0, left_ms)))
        return tuple(asks)

    @property
    def unsent(self) -> bool:
        """Whether somebody waits whose ask no message has carried yet."""
        return any(not waiter.sent and not waiter.future.done() for waiter in self._waiting.values())
