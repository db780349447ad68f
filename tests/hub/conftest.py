"""The hub's tests share one world each: a database file, keys and a published site."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgegw.hub.database import open_database
from tests.hub.world import World, a_site


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A hub with the plain site published and 1 000 on A."""
    world = World(open_database(tmp_path / "hub.db"))
    world.publish(a_site())
    world.fund("A", 1_000)
    yield world
    world.hub.close()
