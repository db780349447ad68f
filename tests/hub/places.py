"""Where a test's hub keeps its books: a SQLite file, or a database of a real PostgreSQL.

Each place opens what the hub uses (`open`), and beside it an engine for the test's own SQL: with PostgreSQL
through another driver than the hub's.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, Protocol

from sqlalchemy import Engine, create_engine, delete, insert, select, text

from edgegw.hub.database import Database
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

    def __init__(self, server: Server, database: str, folder: Path) -> None:
        self.folder = folder
        self.url = server.url(database)
        self.password_file = folder / "database-password"
        self.password_file.write_text(f"{server.password}\n")
        self.password_file.chmod(0o600)
        self.engine = create_engine(
            self.url.replace("postgresql://", "postgresql+pg8000://"),
            connect_args={"password": server.password},
        )
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
        with self.engine.begin() as connection:
            for table in reversed(metadata.sorted_tables):
                if table.name != "schema_version":
                    connection.execute(delete(table))


def make_database(server: Server, name: str) -> None:
    """A database of its own for this process of the test run, if it has none yet."""
    engine = create_engine(
        server.url("postgres").replace("postgresql://", "postgresql+pg8000://"),
        connect_args={"password": server.password},
        isolation_level="AUTOCOMMIT",
    )
    with engine.connect() as connection:
        connection.execute(text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))
        connection.execute(text(f"CREATE DATABASE \"{name}\" ENCODING 'UTF8' TEMPLATE template0"))
    engine.dispose()


def own_name() -> str:
    """The name of this process's database: the workers of a test run share one server."""
    return f"hub_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
