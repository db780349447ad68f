"""Hub and box as processes of their own, and the product's commands: started, waited for, ended by their pid.

Every wait has a limit, and a failure names the log to read.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

POLL_SECONDS: Final = 0.05
STOP_SECONDS_MAX: Final = 20.0
COMMAND_SECONDS_MAX: Final = 120.0
LOG_LINES_SHOWN: Final = 5


class DemoFailed(Exception):
    """The demo cannot go on; the text says what happened and which log to read."""


def tail(path: Path) -> str:
    """The last lines of a log, for a failure's text."""
    try:
        lines = path.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
    except OSError:
        return "(no log)"
    return "\n".join(line[:400] for line in lines)


class Process:
    """One process of the product."""

    def __init__(self, name: str, arguments: list[str], *, log: Path) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "edgegw", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    @property
    def lives(self) -> bool:
        """Whether it runs."""
        return self._child.poll() is None

    def freeze(self) -> None:
        """SIGSTOP: it answers nothing more, so that what is sent to it stays in flight."""
        os.kill(self._child.pid, signal.SIGSTOP)

    def kill(self) -> None:
        """SIGKILL, at once: nothing of it runs any more after this."""
        os.kill(self._child.pid, signal.SIGKILL)

    async def ended(self, *, seconds_max: float = STOP_SECONDS_MAX) -> int:
        """Its exit code; raises DemoFailed when it lives on."""
        deadline = time.monotonic() + seconds_max
        while self.lives:
            if time.monotonic() > deadline:
                raise DemoFailed(f"{self.name} has not ended after {seconds_max:g} s; read {self.log}")
            await asyncio.sleep(POLL_SECONDS)
        return self._child.wait()

    async def stop(self) -> None:
        """SIGTERM and a clean end; raises DemoFailed for anything else."""
        if self.lives:
            self._child.terminate()
        code = await self.ended()
        if code:
            raise DemoFailed(f"{self.name} ended with exit code {code}; read {self.log}:\n{tail(self.log)}")

    def abandon(self) -> None:
        """Make sure that it is gone, whatever happened."""
        if self.lives:
            self._child.kill()
        self._child.wait()


async def until(
    condition: Callable[[], Awaitable[bool]], what: str, *, process: Process, seconds_max: float
) -> None:
    """Return once the condition holds; raises DemoFailed at the limit or when the process ends."""
    deadline = time.monotonic() + seconds_max
    while not await condition():
        if not process.lives:
            code = await process.ended()
            raise DemoFailed(
                f"{process.name} ended with exit code {code} while the demo waited for: {what};"
                f" read {process.log}:\n{tail(process.log)}"
            )
        if time.monotonic() > deadline:
            raise DemoFailed(
                f"waited {seconds_max:g} s in vain for: {what}; read {process.log}:\n{tail(process.log)}"
            )
        await asyncio.sleep(POLL_SECONDS)


async def command(*arguments: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """Run `edgegw` with these arguments; its exit code and what it said."""
    return await run("-m", "edgegw", *arguments, environment=environment)


async def run(*arguments: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """Run this Python with these arguments; raises DemoFailed when it takes too long."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | (environment or {}),
    )
    try:
        async with asyncio.timeout(COMMAND_SECONDS_MAX):
            output, _ = await child.communicate()
    except TimeoutError:
        child.kill()
        await child.wait()
        raise DemoFailed(f"`{' '.join(arguments)}` has not ended after {COMMAND_SECONDS_MAX:g} s") from None
    return child.returncode or 0, output.decode(errors="replace").strip()


async def must(*arguments: str, environment: dict[str, str] | None = None) -> str:
    """Run an `edgegw` command that has to succeed; what it said."""
    code, output = await command(*arguments, environment=environment)
    if code:
        raise DemoFailed(f"`edgegw {' '.join(arguments)}` ended with exit code {code}:\n{output}")
    return output
