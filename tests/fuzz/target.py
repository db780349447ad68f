"""What a fuzz target is: a decoder, what it may raise, true samples, and the one way in which it is played.

A decoder gets any bytes. It may raise what its documentation names, within bounded time; anything else is a
finding, and so is an assertion of the target's own: what was taken means the same when it is written and read
again, and a refusal has changed nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

SECONDS_MAX: Final = 2.0
"""For one input of a few kilobytes, on a busy machine; a decoder takes microseconds."""
BYTES_MAX: Final = 8_192
"""Inputs are no longer than this, but for the ones that are one byte many times."""


class Target(NamedTuple):
    """One decoder."""

    name: str
    play: Callable[[bytes], object]
    documented: tuple[type[Exception], ...]
    samples: Callable[[], list[bytes]]
    slow: bool = False
    """It takes milliseconds: the quick run plays fewer."""


class Slow(AssertionError):
    """An input took longer than SECONDS_MAX of a core."""


def took(target: Target, data: bytes) -> bool:
    """Whether the decoder took the bytes; False when it refused them as documented. Anything else is
    raised."""
    began = time.thread_time()
    try:
        target.play(data)
    except target.documented:
        return False
    finally:
        seconds = time.thread_time() - began
        if seconds > SECONDS_MAX:
            raise Slow(f"{target.name}: {seconds:.1f} s for {len(data)} bytes")
    return True
