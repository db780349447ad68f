"""How the hub's work reaches its database: a function of one SQLAlchemy connection, in one SQL transaction.

`Database` is what all else knows: `transact` runs such a function and commits, `threads` are where it runs.
Two engines keep the promise, each in a file of its own: SQLite (`hub.sqlite`, one process, one thread) and
PostgreSQL (`hub.postgresql`, any number of processes, a bounded number of threads each). Work may be run
again where another transaction was in its way, so it changes nothing but its connection. Leaves out the
tables (`hub.schema`) and everything that is asked of them.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from sqlalchemy import Connection, insert, inspect, select

from edgegw.errors import Next, OperatingError
from edgegw.hub.schema import metadata, schema_version

SCHEMA_VERSION: Final = 9
"""Kept in the database itself. Another version's tables are refused, not changed."""

Result = TypeVar("Result")
Work = Callable[[Connection], Result]


class DatabaseError(OperatingError):
    """The database cannot be used as it is."""

    code = "database_unusable"
    default_hint = "The text says what would help."


class DatabaseBusy(OperatingError):
    """Other transactions were in the way for too long; nothing was done."""

    code = "database_busy"
    next = Next.RETRY
    default_hint = "Nothing is half done: ask again in a moment; a box does so by itself."


class DatabaseAway(OperatingError):
    """The database does not answer, or went away in the middle of a COMMIT: then nobody knows what came of
    it."""

    code = "database_away"
    next = Next.RETRY
    default_hint = (
        "Ask again with the same ids: what was committed is found and not done twice. See that the server"
        " which `database_url` names runs and can be reached."
    )


class NotKept(ValueError):
    """A value that no column of the database keeps."""


class Database(ABC):
    """The hub's database, open."""

    def __init__(self, *, workers: int) -> None:
        self.workers = workers
        """Transactions that may run at once in this process."""
        self.own = threading.local()
        """What each of the threads has of its own."""
        self.threads = ThreadPoolExecutor(
            max_workers=workers, thread_name_prefix="hub-sql", initializer=self._enter
        )
        self.on_retry: Callable[[str], None] = lambda _cause: None
        """Told the SQLSTATE each time that a transaction is run again."""

    def _enter(self) -> None:
        self.own.is_ours = True

    def is_own_thread(self) -> bool:
        """Whether this is one of `threads`."""
        return getattr(self.own, "is_ours", False)

    @abstractmethod
    def transact(self, work: Work[Result]) -> Result:
        """Run `work` in one SQL transaction that is committed when it returns; from any thread, and it waits.

        Raises what `work` raises with nothing done, NotKept, DatabaseBusy and DatabaseAway.
        """

    @abstractmethod
    def read(self, work: Callable[[Connection], Iterable[Result]]) -> Iterator[Result]:
        """What `work` yields as it reads one state of all tables, however long that takes; nothing is kept of
        what it writes.

        Raises what `work` raises, DatabaseBusy and DatabaseAway; then it is to be read from the start.
        """

    @abstractmethod
    def close(self) -> None:
        """Let running work finish, then let go of the database."""


def prepare_schema(connection: Connection, *, place: str, mend: str) -> None:
    """Make the tables where there are none; raises DatabaseError for those of another version."""
    found = set(inspect(connection).get_table_names()) & set(metadata.tables)
    if not found:
        metadata.create_all(connection)
        connection.execute(insert(schema_version).values(version=SCHEMA_VERSION))
        return
    versions = [0]
    if schema_version.name in found:
        versions = list(connection.execute(select(schema_version.c.version)).scalars())
    if versions != [SCHEMA_VERSION]:
        known = ", ".join(str(version) if version else "an earlier program" for version in versions) or "none"
        raise DatabaseError(
            f"{place} has tables of version {known}, this program uses version {SCHEMA_VERSION}:"
            f" run the program that made them, or give {mend} another place"
        )
