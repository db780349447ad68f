"""The box's own time: order comes from the log, never from the wall clock (DESIGN §9)."""

from __future__ import annotations

from typing import Final, Protocol

WALL_BELIEVED_NS: Final = 7 * 24 * 3600 * 1_000_000_000
"""A wall clock that has gone on by more than this while the machine was off is not believed: what expires by
it would be early, and may be late."""

MACHINE_BOOT: Final = "machine_boot"
"""The key in the ledger's `meta` of the boot of the machine in which the last process wrote."""


class Clock(Protocol):
    """Both clocks of the machine, in nanoseconds."""

    def wall_ns(self) -> int:
        """Since 1970, as the machine believes."""

    def mono_ns(self) -> int:
        """Since an arbitrary moment of this boot of the machine, sleep included."""

    def boot_id(self) -> str:
        """Names this boot of the machine, whatever processes it runs; "" where nobody can tell."""


class BoxTime:
    """The box's own time: follows the monotonic clock from the last record on, so that it never goes back.

    Within one boot of the machine it follows that clock across restarts of the process too. Across a reboot
    it takes the wall clock's difference to the last record: never a negative one, and none at all beyond
    `WALL_BELIEVED_NS`, so that what waits for time may be late, never early (DESIGN §9).
    """

    def __init__(
        self, clock: Clock, *, last_at_ns: int, last_wall_ns: int, last_mono_ns: int | None = None
    ) -> None:
        """last_mono_ns: of the last record, where it was written in this boot of the machine."""
        self._clock = clock
        wall_ns, mono_ns = clock.wall_ns(), clock.mono_ns()
        self.wall_ahead_ns = last_wall_ns - last_at_ns
        """How far the wall clock was ahead at the last record."""
        self.doubted_ns = 0
        """What the wall clock says to have passed and this time has not taken."""
        if not last_at_ns:
            passed_ns = wall_ns
        elif last_mono_ns is not None and mono_ns >= last_mono_ns:
            passed_ns = mono_ns - last_mono_ns
        else:
            passed_ns = max(0, wall_ns - last_wall_ns)
            if passed_ns > WALL_BELIEVED_NS:
                passed_ns, self.doubted_ns = 0, passed_ns
        self._start_ns = last_at_ns + passed_ns
        self._start_mono_ns = mono_ns

    def now_ns(self) -> int:
        """Nanoseconds, comparable with `at_ns` of records."""
        return self._start_ns + self._clock.mono_ns() - self._start_mono_ns
