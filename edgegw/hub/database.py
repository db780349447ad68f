"""The hub's database: opened once, by one process when it is SQLite, with what durability needs read back and
asserted.

SQLite comes from the `pysqlite3` wheel, because distributions carry versions that can lose committed rows in
WAL mode (DESIGN §8). Leaves out the tables (`hub.schema`) and everything that is asked of them.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pysqlite3
from sqlalchemy import Connection, Engine, create_engine, event, inspect

from edgegw.hub.schema import metadata

SQLITE_VERSION_MIN: Final = (3, 51, 3)
"""The first release without the WAL-reset bug."""
SQLITE_VERSIONS_MENDED: Final = frozenset({(3, 50, 7), (3, 44, 6)})
BUSY_TIMEOUT_MS: Final = 10_000
SCHEMA_VERSION: Final = 3
"""Kept in the file (PRAGMA user_version). Another version's file is refused, not changed."""

_PRAGMAS: Final = {
    "journal_mode": "wal",
    "synchronous": 2,
    "foreign_keys": 1,
    "busy_timeout": BUSY_TIMEOUT_MS,
    "trusted_schema": 0,
    "mmap_size": 0,
}


class DatabaseError(RuntimeError):
    """The database cannot be used as it is; the text says what to do."""


def check_sqlite_version(version: tuple[int, ...]) -> None:
    """Raise DatabaseError for an SQLite that can lose committed rows (3.7.0 to 3.51.2, with two mended
    releases)."""
    if version < SQLITE_VERSION_MIN and version not in SQLITE_VERSIONS_MENDED:
        found = ".".join(map(str, version))
        raise DatabaseError(
            f"SQLite {found} can lose committed rows in WAL mode; install pysqlite3 with 3.51.3 or newer"
        )


def open_database(path: Path) -> Engine:
    """An engine over the SQLite file at `path`, with the tables made; raises DatabaseError."""
    check_sqlite_version(tuple(pysqlite3.sqlite_version_info))
    engine = create_engine(f"sqlite:///{path}", module=pysqlite3)
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    with engine.begin() as connection:
        _check_schema(connection, path)
        metadata.create_all(connection)
    os.chmod(path, 0o600)
    return engine


def _check_schema(connection: Connection, path: Path) -> None:
    found = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    if inspect(connection).get_table_names() and found != SCHEMA_VERSION:
        raise DatabaseError(
            f"{path} has tables of version {found}, this program uses version {SCHEMA_VERSION}:"
            " run the program that made it, or give database_file another place"
        )
    connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")


@contextmanager
def sole_process(path: Path) -> Iterator[None]:
    """Serve the database at `path` alone: a second serving process raises DatabaseError. Operators' commands
    may run beside."""
    lock = path.with_name(path.name + ".lock")
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DatabaseError(f"another hub serves {path}; stop it first") from None
        yield


def _prepare(connection: Any, _: object) -> None:
    # SQLAlchemy sends BEGIN itself (`_begin`); the driver's own would be a deferred one.
    connection.isolation_level = None
    cursor = connection.cursor()
    for name, value in _PRAGMAS.items():
        cursor.execute(f"PRAGMA {name} = {value}")
        found = cursor.execute(f"PRAGMA {name}").fetchone()[0]
        if found != value:
            raise DatabaseError(
                f"PRAGMA {name} is {found!r}, not {value!r}: the file system does not allow it"
            )
    cursor.close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
