"""What time it is by the hub's signed word: the clock by which certificates are held to their ends.

A machine that was built years ago, or whose battery is empty, begins with a clock that is wrong by years, and
must reach its hub all the same. The hub's last word is kept in a file; within one boot of the machine time
goes on from it by the monotonic clock, and after that the machine's clock counts again, never behind that
word. Leaves out the ledger's own time (`ledger.clock`) and who asks the hub (`edgegw.enrolment`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol

import msgspec

from edgegw.access.key_files import replace_key_file

_S: Final = 1_000_000_000
OFF_S: Final = 5.0
"""Less than this is the way of a message; a token may be a minute off."""
_FILE_BYTES_MAX: Final = 4_096


class Clock(Protocol):
    """The machine's clocks, in nanoseconds."""

    def wall_ns(self) -> int:
        """Since 1970, as the machine believes."""

    def mono_ns(self) -> int:
        """Since an arbitrary moment of this boot of the machine, sleep included."""

    def boot_id(self) -> str:
        """Names this boot of the machine; "" where nobody can tell."""


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """The hub's last word: when it was said, and what the machine's clocks said to it."""

    hub_s: float
    mono_s: float
    boot_id: str


class HubTime:
    """The time of one machine; `file` keeps the hub's word, and may be missing."""

    def __init__(self, file: Path, clock: Clock) -> None:
        self._file = file
        self._clock = clock
        self._word = _read(file)

    def now_s(self) -> float:
        """Unix seconds."""
        word, wall_s = self._word, self.machine_s
        if word is None:
            return wall_s
        passed_s = self._clock.mono_ns() / _S - word.mono_s
        if word.boot_id and word.boot_id == self._clock.boot_id() and passed_s >= 0:
            return word.hub_s + passed_s
        return max(wall_s, word.hub_s)

    @property
    def machine_s(self) -> float:
        """What the machine's clock says, Unix seconds."""
        return self._clock.wall_ns() / _S

    @property
    def machine_ahead_s(self) -> float:
        """How far the machine's clock is ahead of this time; negative: behind."""
        return self.machine_s - self.now_s()

    def at_least(self, hub_s: float) -> None:
        """Take a word of the hub's that may be old; raises KeyFileError as `heard` does."""
        if hub_s > self.now_s():
            self.heard(hub_s)

    def told(self, hub_s: float) -> None:
        """Take the hub's fresh word where this time, or the machine's clock, is not that; raises KeyFileError
        as `heard` does. What follows the file sets the machine's clock (`edgegw-clock-word.path`)."""
        if max(abs(hub_s - self.now_s()), hub_s - self.machine_s) > OFF_S:
            self.heard(hub_s)

    def heard(self, hub_s: float) -> None:
        """Take the hub's fresh word, earlier than the one before or not; raises KeyFileError where it cannot
        be kept, and is taken all the same."""
        self._word = Word(hub_s=hub_s, mono_s=self._clock.mono_ns() / _S, boot_id=self._clock.boot_id())
        replace_key_file(self._file, msgspec.json.encode(self._word) + b"\n")


def _read(file: Path) -> Word | None:
    try:
        return msgspec.json.decode(file.read_bytes()[:_FILE_BYTES_MAX], type=Word)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None  # the machine's clock is all there is
