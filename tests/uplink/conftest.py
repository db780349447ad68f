"""A real hub with its books, its port, and the boxes of a test."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from edgegw.hub.database import open_database
from tests.hub.world import World, a_site, check_books
from tests.uplink.real_box import Port, RealBox


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A hub with the plain site published and 1 000 on A."""
    world = World(open_database(tmp_path / "hub.db"))
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
