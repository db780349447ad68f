"""The hub's tests share one world each, on each engine: a database, keys and a published site."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest

from edgegw.sm import sm2
from tests.conftest import LOCKS
from tests.hub import simulated_box
from tests.hub.places import (
    Lender,
    LentPlace,
    Place,
    PostgresPlace,
    SqlitePlace,
    make_database,
    own_engine,
    own_name,
)
from tests.hub.world import World, a_site
from tests.postgres_server import Server, the_server
from tests.simulator.seams import HashedPrivate, HashedPublic


@pytest.fixture(scope="session")
def server() -> Server:
    """The PostgreSQL of this test run."""
    return the_server(Path(os.environ[LOCKS]))


@pytest.fixture(scope="session")
def lender(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lender]:
    """A database of this process's own with the hub's tables, and connections to it that are used again."""
    name = own_name()
    make_database(server, name)
    engine = own_engine(server, name)
    lender = Lender(PostgresPlace(server, name, tmp_path_factory.mktemp("postgresql"), engine))
    lender.lend().close()
    yield lender
    lender.end()
    engine.dispose()


@pytest.fixture
def postgres(server: Server, lender: Lender, tmp_path: Path) -> PostgresPlace:
    """That database, with nothing in its tables; whoever opens it connects."""
    lender.place.start_afresh()
    return PostgresPlace(server, own_name(), tmp_path, lender.place.engine)


@pytest.fixture
def lent(server: Server, lender: Lender, tmp_path: Path) -> LentPlace:
    """The same with connections that other tests have used."""
    lender.place.start_afresh()
    place = LentPlace(server, own_name(), tmp_path, lender.place.engine)
    place.lender = lender
    return place


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Where the hub keeps its books: every test of the hub runs on both engines.

    A keyed hash signs in SM2's place, which takes most of a test's time and is the same on both; with the
    line's tests (tests/uplink) the same hub verifies and signs in full.
    """
    with hashed_signatures():
        if request.param == "sqlite":
            yield SqlitePlace(tmp_path / "hub.db")
        else:
            yield request.getfixturevalue("lent")


@contextmanager
def hashed_signatures() -> Iterator[None]:
    """Let every key of a test sign by a keyed hash, while it is open."""

    class Hashed(HashedPrivate):
        @classmethod
        def generate(cls) -> "Hashed":
            return cls(os.urandom(16))

    with patch.object(sm2, "PublicKey", HashedPublic), patch.object(simulated_box, "PrivateKey", Hashed):
        yield


@pytest.fixture
def world(place: Place) -> Iterator[World]:
    """A hub with the plain site published and 1 000 on A."""
    world = World(place)
    world.publish(a_site())
    world.fund("A", 1_000)
    yield world
    world.hub.close()
