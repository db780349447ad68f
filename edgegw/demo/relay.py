"""The line between box and hub as the demo can break it: a TCP relay that carries bytes, falls silent, or is
cut.

Silent is what a dead router does: connections are accepted and live on, and nothing moves. Cut is what a
firewall in between does: connections break and new ones do not last. The box has no switch for either.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from typing import Final

READ_BYTES: Final = 1 << 16


class LineState(enum.StrEnum):
    """What the line does with bytes."""

    CARRIES = "carries"
    SILENT = "silent"
    CUT = "cut"


class Relay:
    """One address of the hub as the box sees it."""

    def __init__(self, *, target_port: int, target_host: str = "127.0.0.1") -> None:
        self._target = (target_host, target_port)
        self._server: asyncio.Server | None = None
        self._carries = asyncio.Event()
        self._carries.set()
        self._connections: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.state = LineState.CARRIES
        self.port = 0
        self.carried_bytes = 0
        """Both ways together, since the start."""
        self.accepted = 0
        """Connections taken, whatever became of them."""

    async def start(self, *, port: int = 0) -> None:
        """Listen on a port of 127.0.0.1 (0: a free one)."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    def carry(self) -> None:
        """Let bytes through again; what a silent line held back goes on, as TCP sends again."""
        self.state = LineState.CARRIES
        self._carries.set()

    def fall_silent(self) -> None:
        """Accept connections and carry nothing, in either direction."""
        self.state = LineState.SILENT
        self._carries.clear()

    def cut(self) -> None:
        """Break every connection and let no new one live."""
        self.state = LineState.CUT
        self._carries.clear()
        for task in self._connections:
            task.cancel()

    async def stop(self) -> None:
        """Close the port and every connection."""
        if self._server is not None:
            self._server.close()
        self.cut()
        if self._connections:
            await asyncio.wait(self._connections)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self.state is LineState.CUT:
            writer.transport.abort()
            return
        task = asyncio.ensure_future(self._connect(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: to the hub once the line carries, then both ways until one side ends."""
        ends = [writer]
        try:
            await self._carries.wait()
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            ends.append(far_writer)
            there = asyncio.ensure_future(self._pump(reader, far_writer))
            back = asyncio.ensure_future(self._pump(far_reader, writer))
            try:
                await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in (there, back):
                    pump.cancel()
                await asyncio.wait((there, back))
        except (OSError, asyncio.CancelledError):
            pass  # The line broke, which is what it is for; both ends learn it below.
        finally:
            for end in ends:
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(READ_BYTES):
                await self._carries.wait()
                writer.write(data)
                await writer.drain()
                self.carried_bytes += len(data)
