"""A real hub with its books, its port, and the boxes of a test."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.hub.places import SqlitePlace
from tests.hub.world import World, a_site, check_books
from tests.uplink.box import MemoryBox
from tests.uplink.hub import HubServer, MemoryHub
from tests.uplink.played import Start
from tests.uplink.real_box import Port, RealBox


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A hub with the plain site published and 1 000 on A."""
    world = World(SqlitePlace(tmp_path / "hub.db"), clock_ns=time.time_ns)
    world.publish(a_site())
    world.fund("A", 1_000)
    yield world
    with world.engine.begin() as connection:
        check_books(connection)


@pytest.fixture
async def port(world: World) -> AsyncIterator[Port]:
    port = Port(world)
    await port.open()
    yield port
    await port.close()


@pytest.fixture
async def boxes() -> AsyncIterator[list[RealBox]]:
    """Whatever the test puts in is stopped."""
    started: list[RealBox] = []
    yield started
    for box in started:
        await box.stop()


@pytest.fixture
def hub() -> MemoryHub:
    return MemoryHub()


@pytest.fixture
async def servers(hub: MemoryHub) -> AsyncIterator[list[HubServer]]:
    """Two addresses of one hub."""
    both = [await HubServer(hub).start() for _ in range(2)]
    yield both
    for server in both:
        await server.stop()


@pytest.fixture
async def start(hub: MemoryHub, servers: list[HubServer]) -> AsyncIterator[Start]:
    """Start a box's line to some of the addresses, by default the first alone; the line before it ends."""
    tasks: list[asyncio.Task[None]] = []

    async def stop() -> None:
        while tasks:
            task = tasks.pop()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    async def started(*addresses: str, box: MemoryBox | None = None, **settings: int) -> MemoryBox:
        await stop()
        addresses = addresses or (servers[0].address,)
        if box is None:
            box = MemoryBox(hub.key, *addresses, **settings)
            hub.box_key = box.identity.key.public
        else:
            box.line = box.new_line(*addresses, **settings)
        tasks.append(asyncio.create_task(box.run()))
        return box

    yield started
    await stop()
