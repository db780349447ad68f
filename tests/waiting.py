"""Waiting in tests for something that another thread, process or task does: the one place that may sleep."""

import asyncio
import time
from collections.abc import Callable

_POLL_SECONDS = 0.005
LONGEST_SECONDS = 30.0
"""What should come at once, on a machine that is busy with something else."""


def wait_until(
    condition: Callable[[], bool],
    what: str,
    *,
    timeout_seconds: float = LONGEST_SECONDS,
    poll_seconds: float = _POLL_SECONDS,
) -> None:
    """Return once condition() is true; fail with `what` after timeout_seconds."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_seconds} s in vain for: {what}")
        time.sleep(poll_seconds)


async def until(
    condition: Callable[[], bool], what: str, *, timeout_seconds: float = LONGEST_SECONDS
) -> None:
    """Return once condition() is true while the loop goes on; fail with `what` after timeout_seconds."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_seconds} s in vain for: {what}")
        await asyncio.sleep(_POLL_SECONDS)
