"""Where a test's hub keeps its books: a SQLite file, or a database of a real PostgreSQL.

Each place opens what the hub uses (`open`), and beside it an engine for the test's own SQL: with PostgreSQL
through another driver than the hub's.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from sqlalchemy import Engine, create_engine, insert, select, text

from edgegw.hub.database import Database, prepare_schema
from edgegw.hub.postgresql import PostgresDatabase, Target
from edgegw.hub.schema import metadata
from edgegw.hub.sqlite import SqliteDatabase
from tests.postgres_server import Server

WORKERS: Final = 2


class Place(Protocol):
    """One hub's database, wherever it is."""

    engine: Engine
    """For the test's own SQL; there once `open` was called."""

    def open(self) -> Database:
        """The database as the hub opens it."""
        ...

    def start_afresh(self) -> None:
        """Be empty for another hub; the last one has closed the database."""
        ...

    def back_up(self, path: Path) -> None:
        """Keep what is committed now under this name."""
        ...

    def restore(self, path: Path) -> None:
        """Put what was kept in its place; the hub has closed the database."""
        ...


class SqlitePlace:
    """A file."""

    engine: Engine

    def __init__(self, path: Path) -> None:
        self.path = path
        self._afresh = 0

    def open(self) -> SqliteDatabase:
        database = SqliteDatabase(self.path)
        self.engine = database.engine
        return database

    def start_afresh(self) -> None:
        self._afresh += 1
        self.path = self.path.with_name(f"hub-{self._afresh}.db")

    def back_up(self, path: Path) -> None:
        with self.engine.connect() as connection:
            raw = connection.connection.driver_connection
            assert raw is not None
            raw.rollback()
            raw.execute("VACUUM INTO ?", (str(path),))

    def restore(self, path: Path) -> None:
        self.path = path


class PostgresPlace:
    """A database of a server, emptied for each test: that takes a hundredth of making one."""

    def __init__(self, server: Server, database: str, folder: Path, engine: Engine) -> None:
        self.folder = folder
        self.engine = engine
        self.url = server.url(database)
        self.password_file = folder / "database-password"
        self.password_file.write_text(f"{server.password}\n")
        self.password_file.chmod(0o600)
        self._kept: dict[Path, dict[str, list[dict[str, Any]]]] = {}

    def open(self) -> PostgresDatabase:
        return PostgresDatabase(self.target(), workers=WORKERS)

    def target(self) -> Target:
        """As the hub's settings name it."""
        return Target(self.url, self.password_file)

    def back_up(self, path: Path) -> None:
        with self.engine.begin() as connection:
            self._kept[path] = {
                table.name: [dict(row) for row in connection.execute(select(table)).mappings()]
                for table in metadata.sorted_tables
            }

    def restore(self, path: Path) -> None:
        self.start_afresh()
        with self.engine.begin() as connection:
            for table in metadata.sorted_tables:
                rows = self._kept[path][table.name]
                if rows and table.name != "schema_version":
                    connection.execute(insert(table), rows)

    def start_afresh(self) -> None:
        names = [table.name for table in reversed(metadata.sorted_tables) if table.name != "schema_version"]
        with self.engine.begin() as connection:  # in one message to the server
            connection.exec_driver_sql(";".join(f"DELETE FROM {name}" for name in names))


class LentDatabase(PostgresDatabase):
    """One that goes back to whoever lends it when its hub closes it."""

    give_back: Callable[[LentDatabase], None]

    def close(self) -> None:
        """Let running work finish; connections stay, and what they have prepared."""
        all_idle = threading.Barrier(self.workers, timeout=60)
        for done in [self.threads.submit(all_idle.wait) for _ in range(self.workers)]:
            done.result()
        self.give_back(self)

    def end(self) -> None:
        """Close it for good."""
        super().close()


class Lender:
    """Databases that outlast the test which has opened them: to connect, and to make each statement ready
    once more, takes most of a short test's time."""

    def __init__(self, place: PostgresPlace) -> None:
        self.place = place
        self._idle: list[LentDatabase] = []

    def lend(self) -> LentDatabase:
        """One that nobody uses."""
        if not self._idle:
            made = LentDatabase(self.place.target(), workers=WORKERS)
            made.give_back = self._idle.append
            return made
        lent = self._idle.pop()
        lent.transact(lambda c: prepare_schema(c, place=self.place.url, mend="database_url"))
        return lent

    def end(self) -> None:
        """Close them all."""
        while self._idle:
            self._idle.pop().end()


class LentPlace(PostgresPlace):
    """The same, whose hubs share connections one after the other."""

    lender: Lender

    def open(self) -> PostgresDatabase:
        return self.lender.lend()


def own_engine(server: Server, database: str) -> Engine:
    """For a test's own SQL: another driver than the hub's."""
    return create_engine(
        server.url(database).replace("postgresql://", "postgresql+pg8000://"),
        connect_args={"password": server.password, "ssl_context": False},
    )


def make_database(server: Server, name: str) -> None:
    """A database of its own for this process of the test run, if it has none yet."""
    engine = own_engine(server, "postgres").execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))
        connection.execute(text(f"CREATE DATABASE \"{name}\" ENCODING 'UTF8' TEMPLATE template0"))
    engine.dispose()


def own_name() -> str:
    """The name of this process's database: the workers of a test run share one server."""
    return f"hub_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
