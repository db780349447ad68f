"""Whose handshake is next: their work gets a share of the processor, and addresses take turns for it.

A handshake costs a listener a thousand times what it costs a peer that plays back an old greeting, and
payments are made by the same thread. Work beyond the share waits and costs nothing meanwhile. Leaves out the
handshakes themselves (`access.arrivals`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

BURST_S: Final = 0.05
"""So much work may be done at once after a rest: some twenty handshakes."""
FIRST_GUESS_S: Final = 0.003
BESIDES_S: Final = 0.001
"""What the loop does for a handshake besides its cryptography."""
_LEARNT: Final = 0.1
"""How much one handshake changes what the next is thought to cost."""
_PAUSE_S_MIN: Final = 0.001


class Turns:
    """The share of one listener's handshakes."""

    def __init__(self, share: float, *, now_s: Callable[[], float] = time.monotonic) -> None:
        """share: of one core's time."""
        self._share = share
        self._now_s = now_s
        self._credit_s = BURST_S
        self._at_s = now_s()
        self._guess_s = FIRST_GUESS_S
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Handshakes whose turn has not come."""
        return sum(len(queue) for queue in self._waiting.values())

    async def wait(self, host: str) -> float:
        """Return when it is this address's turn: what the handshake is thought to cost, for `done`."""
        if self._waiting or self._credit() <= 0:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(host, deque()).append(turn)
            self._arm()
            await turn  # a cancelled one is passed over in its turn
        else:
            self._credit_s -= self._guess_s
        return self._guess_s

    def done(self, guess_s: float, work_s: float) -> None:
        """A handshake is over, and its cryptography took so long."""
        cost_s = work_s + BESIDES_S
        self._credit_s += guess_s - cost_s
        self._guess_s += _LEARNT * (cost_s - self._guess_s)

    def _credit(self) -> float:
        now_s = self._now_s()
        self._credit_s = min(BURST_S, self._credit_s + (now_s - self._at_s) * self._share)
        self._at_s = now_s
        return self._credit_s

    def _arm(self) -> None:
        if self._timer is None and self._waiting:
            pause_s = max(_PAUSE_S_MIN, -self._credit() / self._share)
            self._timer = asyncio.get_running_loop().call_later(pause_s, self._go_on)

    def _go_on(self) -> None:
        self._timer = None
        while self._waiting and self._credit() > 0:
            host = next(iter(self._waiting))
            queue = self._waiting.pop(host)
            turn = queue.popleft()
            if queue:
                self._waiting[host] = queue  # behind all other addresses
            if not turn.done():
                turn.set_result(None)
                self._credit_s -= self._guess_s
        self._arm()
