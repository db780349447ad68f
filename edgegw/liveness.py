"""What a server tells the service manager that started it: that it serves, how it is, and that it lives.

The manager hears that it lives only after a round of the server's own work has come back: through its event
loop, and through the threads that write. A server that hangs stops saying so and is started again. The
datagram is our own: it is a line of text to a socket, and the libraries for it either link libsystemd or know
no watchdog. Leaves out what a round is (the server says), and the manager's side (`edgegw/units`).
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog

ROUNDS: Final = 4
"""Rounds of work in the time that the manager allows between two signs of life."""
_STATUS_CHARACTERS_MAX: Final = 300

_log = structlog.get_logger("edgegw.liveness")


class Liveness:
    """The way to the service manager; where none waits for it (no NOTIFY_SOCKET), no word is said."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self.watchdog_s = _watchdog_s(environment)
        """A sign of life is wanted at least as often; 0: never."""
        self._status = ""
        self._failed = False
        self._is_ready = False
        if self.watchdog_s:
            # One that hangs is ended by SIGABRT: then each thread's place in the code is told, and no value.
            faulthandler.enable(file=sys.__stderr__ or 2)

    def ready(self) -> None:
        """It serves; said once, also by a box that goes on into its next epoch."""
        if not self._is_ready:
            self._is_ready = True
            self._say("READY=1")

    def stopping(self) -> None:
        """It was asked to stop, and does."""
        self._say("STOPPING=1")

    def lives(self) -> None:
        """A round of its work has come back."""
        if self.watchdog_s:
            self._say("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for people; the same again is not sent."""
        line = " ".join(text.split())[:_STATUS_CHARACTERS_MAX]
        if line != self._status:
            self._status = line
            self._say(f"STATUS={line}")

    async def watch(self, work: Callable[[], Awaitable[object]]) -> None:
        """Do a round of `work`, and say that it has come back, for ever; where nobody asks for signs of
        life, do nothing for ever. What it raises is an answer, too: a database that is away is no reason to
        be started again."""
        while self.watchdog_s:
            try:
                await work()
            except Exception as problem:  # noqa: BLE001 - who serves decides what ends it
                _log.debug("round_refused", problem=str(problem))
            self.lives()
            await asyncio.sleep(self.watchdog_s / ROUNDS)
        await asyncio.get_running_loop().create_future()

    def _say(self, text: str) -> None:
        if not self._address:
            return
        name = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as way:
                way.setblocking(False)  # a manager that does not read must not hold up payments
                way.sendto(text.encode(), name)
            self._failed = False
        except OSError as problem:
            if not self._failed:
                _log.warning("manager_not_told", problem=str(problem), said=text.partition("=")[0])
            self._failed = True


def _watchdog_s(environment: Mapping[str, str]) -> float:
    """Seconds; 0 where there is none, or it is another process's."""
    owner, microseconds = environment.get("WATCHDOG_PID", ""), environment.get("WATCHDOG_USEC", "")
    if not microseconds.isdigit() or (owner and owner != str(os.getpid())):
        return 0
    return int(microseconds) / 1e6
