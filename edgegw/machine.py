"""The machine that a box runs on: its clocks, its limits, and how it says stop."""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import time
from pathlib import Path
from typing import Final

import structlog

DESCRIPTORS_MAX: Final = 65_536
COLLECT_EACH: Final = 50_000
"""So many new objects are made before the youngest are looked through for cycles: a few full batches, which
leave hardly any."""
_STARTED: Final = 19
"""Of the words behind the name in proc_pid_stat(5): the start, in ticks since the boot."""

_log = structlog.get_logger("edgegw.app")


class MachineClock:
    """The machine's clocks."""

    def wall_ns(self) -> int:
        """Nanoseconds since 1970."""
        return time.time_ns()

    def mono_ns(self) -> int:
        """Nanoseconds of the monotonic clock that goes on while the machine sleeps."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def boot_id(self) -> str:
        """The kernel's name for this boot."""
        try:
            return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        except OSError:
            return ""


def started(pid: int) -> str:
    """Which process bears this number: its boot, and when in it it began; "" where none does. A number alone
    is another process's after a restart, and one day in the same boot."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return ""
    return f"{MachineClock().boot_id()} {after_name[_STARTED].decode()}"


def settle_memory() -> None:
    """What a start has loaded stays until the end: let the search for cycles look at it no more."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_EACH, 10, 10)


def raise_descriptor_limit() -> None:
    """Take what the system allows: the usual first 1,024 are fewer than the connections of the ways in, and
    without one the line and the ledger's readers fail, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def stop_signal() -> asyncio.Event:
    """Set by SIGTERM and SIGINT, from now on."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(
        signal.SIGHUP,
        lambda: _log.warning(
            "hangup_ignored", hint="Box settings are read at the start; site settings come from the hub."
        ),
    )
    return stop
