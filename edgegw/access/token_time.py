"""The time by which tokens live and end: it never goes back over a restart, whatever the machine's clock
does.

The wall clock counts, because clients and services name its seconds. Behind the latest time that the box has
seen it is not believed: then that time goes on by the monotonic clock, a tenth slower, so that a clock that
was put back by minutes is caught up with within the hour. A jump ahead is followed at once, and
believed for good only after it has lasted, so that a wrong minute does not lock clients out for a year.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

JUMP_S: Final = 300
"""A wall clock that is ahead by more than this has jumped, or the machine was off."""
BELIEVED_AFTER_S: Final = 600
"""So long a jump has to last."""
CATCHING_UP: Final = 0.9
"""How fast the time goes while the wall clock is behind it."""


class TokenTime:
    """Seconds since 1970 that an earlier reading never exceeds, but for jumps that were taken back soon."""

    def __init__(
        self,
        *,
        latest_s: int,
        wall_s: Callable[[], float] = time.time,
        mono_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """latest_s: the latest time that was kept; 0 for none."""
        self._wall_s = wall_s
        self._mono_s = mono_s
        self._floor_s: float = latest_s or wall_s()
        self._floor_mono_s = mono_s()
        self._jumped_mono_s: float | None = None

    def now_s(self) -> int:
        """The time by which tokens are judged."""
        return int(self._now()[0])

    def believed_s(self) -> int:
        """What of it is to be kept: a jump that may still be taken back is left out."""
        return int(self._now()[1])

    def behind_s(self) -> int:
        """How far the machine's clock is behind this time."""
        return max(0, int(self._now()[0] - self._wall_s()))

    def _now(self) -> tuple[float, float]:
        wall_s, mono_s = self._wall_s(), self._mono_s()
        passed_s = mono_s - self._floor_mono_s
        floor_s = self._floor_s + passed_s
        if wall_s < floor_s:
            floor_s = max(wall_s, self._floor_s + passed_s * CATCHING_UP)
        if wall_s > floor_s + JUMP_S:
            if self._jumped_mono_s is None:
                self._jumped_mono_s = mono_s
            if mono_s - self._jumped_mono_s < BELIEVED_AFTER_S:
                return wall_s, floor_s
        self._jumped_mono_s = None
        self._floor_s, self._floor_mono_s = max(floor_s, wall_s), mono_s
        return self._floor_s, self._floor_s
