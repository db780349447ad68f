"""The line that the demo breaks: it must carry, fall silent and be cut for real, or nothing is proven."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from edgegw.demo.relay import LineState, Relay
from tests.waiting import until


@contextlib.asynccontextmanager
async def line() -> AsyncIterator[tuple[Relay, list[bytes]]]:
    """A relay in front of an echo server, and what the server has received."""
    received: list[bytes] = []

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                received.append(data)
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    relay = Relay(target_port=server.sockets[0].getsockname()[1])
    await relay.start()
    try:
        yield relay, received
    finally:
        await relay.stop()
        server.close()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> bytes:
    """What comes back for data."""
    writer.write(data)
    async with asyncio.timeout(30):
        return await reader.readexactly(len(data))


async def test_bytes_are_not_altered_on_the_way() -> None:
    """A relay that loses or reorders bytes would blame the product."""
    async with line() as (relay, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        data = bytes(range(256)) * 4096
        assert await ask(reader, writer, data) == data
        await until(lambda: relay.carried_bytes == 2 * len(data), "all to be counted")
        writer.close()


async def test_a_silent_line_accepts_and_delivers_nothing_until_it_returns() -> None:
    """Silence must look like a dead router: no reset, no refusal, no byte."""
    async with line() as (relay, received):
        old_reader, old_writer = await asyncio.open_connection("127.0.0.1", relay.port)
        assert await ask(old_reader, old_writer, b"before") == b"before"
        relay.fall_silent()
        assert relay.state is LineState.SILENT
        new_reader, new_writer = await asyncio.open_connection("127.0.0.1", relay.port)
        await until(lambda: relay.accepted == 2, "the new connection is accepted")
        old_writer.write(b"old")
        new_writer.write(b"new")
        carried = relay.carried_bytes
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await asyncio.gather(old_reader.read(1), new_reader.read(1))
        assert received == [b"before"]
        assert relay.carried_bytes == carried
        relay.carry()
        async with asyncio.timeout(30):
            assert await new_reader.readexactly(3) == b"new"
        old_writer.close()
        new_writer.close()


async def test_a_cut_line_breaks_old_connections_and_takes_no_new_ones() -> None:
    """After the cut nothing may reach the hub, by old connections or new ones."""
    async with line() as (relay, received):
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        assert await ask(reader, writer, b"before") == b"before"
        relay.cut()
        assert await ended(reader)
        new_reader, new_writer = await asyncio.open_connection("127.0.0.1", relay.port)
        with contextlib.suppress(OSError):
            new_writer.write(b"new")
        assert await ended(new_reader)
        assert received == [b"before"]
        relay.carry()
        last_reader, last_writer = await asyncio.open_connection("127.0.0.1", relay.port)
        assert await ask(last_reader, last_writer, b"after") == b"after"
        for one in (writer, new_writer, last_writer):
            one.close()


async def test_a_connection_that_waits_in_silence_is_broken_by_the_cut() -> None:
    """A connection taken in silence must not come alive when the line is cut and mended later."""
    async with line() as (relay, received):
        relay.fall_silent()
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        writer.write(b"lost")
        await until(lambda: relay.accepted == 1, "the connection is accepted")
        relay.cut()
        assert await ended(reader)
        relay.carry()
        assert received == []
        writer.close()


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether the other side has ended the connection."""
    async with asyncio.timeout(30):
        try:
            return await reader.read(1) == b""
        except ConnectionResetError:
            return True
