"""The box's own time: order comes from the log, never from the wall clock (DESIGN §9)."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Both clocks of the machine, in nanoseconds."""

    def wall_ns(self) -> int:
        """Since 1970, as the machine believes."""

    def mono_ns(self) -> int:
        """Since an arbitrary moment of this boot."""


class BoxTime:
    """The box's own time: follows the monotonic clock from the last record on, so that it never goes back.

    Across a boot it takes the wall clock's difference to the last record, never a negative one: what waits
    for time may be late, never early within what the wall clock says (DESIGN §9).
    """

    def __init__(self, clock: Clock, *, last_at_ns: int, last_wall_ns: int) -> None:
        self._clock = clock
        wall = clock.wall_ns()
        passed = max(0, wall - last_wall_ns) if last_at_ns else wall
        self._start_ns = last_at_ns + passed
        self._start_mono_ns = clock.mono_ns()

    def now_ns(self) -> int:
        """Nanoseconds, comparable with `at_ns` of records."""
        return self._start_ns + self._clock.mono_ns() - self._start_mono_ns
