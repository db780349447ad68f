"""The hub's database as one SQLite file: served by one process, in one thread, with what durability needs
read back and asserted.

SQLite comes from the `pysqlite3` wheel, because distributions carry versions that can lose committed rows in
WAL mode (DESIGN §8). Operators' commands may open the file beside the serving process.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pysqlite3
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import OperationalError

from edgegw.hub.database import Database, DatabaseBusy, DatabaseError, Result, Work, prepare_schema

SQLITE_VERSION_MIN: Final = (3, 51, 3)
"""The first release without the WAL-reset bug."""
SQLITE_VERSIONS_MENDED: Final = frozenset({(3, 50, 7), (3, 44, 6)})
BUSY_TIMEOUT_MS: Final = 10_000

READS: Final = "edgegw_reads"
"""An execution option: this transaction writes nothing and holds up nobody who does."""

_PRAGMAS: Final = {
    "journal_mode": "wal",
    "synchronous": 2,
    "foreign_keys": 1,
    "busy_timeout": BUSY_TIMEOUT_MS,
    "trusted_schema": 0,
    "mmap_size": 0,
}


class SqliteDatabase(Database):
    """One SQLite file."""

    def __init__(self, path: Path) -> None:
        """The file at `path`, with the tables made; raises DatabaseError."""
        check_sqlite_version(tuple(pysqlite3.sqlite_version_info))
        super().__init__(workers=1)
        self.engine = create_engine(f"sqlite:///{path}", module=pysqlite3)
        event.listen(self.engine, "connect", _prepare)
        event.listen(self.engine, "begin", _begin)
        self.transact(lambda c: prepare_schema(c, place=str(path), mend="database_file"))
        os.chmod(path, 0o600)

    def transact(self, work: Work[Result]) -> Result:
        """Run `work` here and now: BEGIN IMMEDIATE lets one writer in at a time, whatever thread it is in."""
        try:
            with self.engine.begin() as connection:
                return work(connection)
        except OperationalError as problem:
            if getattr(problem.orig, "sqlite_errorname", "").startswith("SQLITE_BUSY"):
                raise DatabaseBusy(f"another process has written for {BUSY_TIMEOUT_MS} ms") from None
            raise

    def read(self, work: Callable[[Connection], Iterable[Result]]) -> Iterator[Result]:
        """Read here and now; in WAL mode a reader sees one state and lets the writer write."""
        with self.engine.connect() as connection:
            yield from work(connection.execution_options(**{READS: True}))

    def close(self) -> None:
        """Let the running work finish, then let go of the file."""
        self.threads.shutdown()
        self.engine.dispose()


def check_sqlite_version(version: tuple[int, ...]) -> None:
    """Raise DatabaseError for an SQLite that can lose committed rows (3.7.0 to 3.51.2, with two mended
    releases)."""
    if version < SQLITE_VERSION_MIN and version not in SQLITE_VERSIONS_MENDED:
        found = ".".join(map(str, version))
        raise DatabaseError(
            f"SQLite {found} can lose committed rows in WAL mode; install pysqlite3 with 3.51.3 or newer"
        )


@contextmanager
def sole_process(path: Path) -> Iterator[None]:
    """Serve the database at `path` alone: a second serving process raises DatabaseError. Operators' commands
    may run beside."""
    lock = path.with_name(path.name + ".lock")
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DatabaseError(
                f"another hub serves {path}; stop it first",
                hint="One process serves one SQLite file; any number serve one PostgreSQL (database_url).",
            ) from None
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
    reads = connection.get_execution_options().get(READS, False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
