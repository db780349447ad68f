"""The hub's database as PostgreSQL, through asyncpg: any number of hub processes on one database.

Each of this process's few threads has one connection and an event loop that drives it, so that a transaction
that waits for a row, and one that verifies a signature, hold up nobody else.

READ COMMITTED, with every decision under the lock of the row that it is about: a box's own row for all that
is the box's, an account's for what is drawn from it. SERIALIZABLE was measured: boxes that share no row are
aborted several times each, because their records stand in one page of an index, and it is not to be had on
every engine. What an engine refuses all the same (a deadlock, two inserts of one key, any restart that a
serialisable one asks for) is run again, after waits that grow and are drawn by chance, and ends as
DatabaseBusy.

Nothing here or in the hub's SQL is PostgreSQL's alone: no advisory lock, no LISTEN, no type of its own. The
locks that it takes (FOR UPDATE, FOR NO KEY UPDATE, SKIP LOCKED) are known to the engines that speak its
protocol.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import asyncpg
from sqlalchemy import Connection, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from edgegw.errors import OperatingError
from edgegw.hub.database import (
    Database,
    DatabaseAway,
    DatabaseBusy,
    DatabaseError,
    NotKept,
    Result,
    Work,
    prepare_schema,
)

WORKERS: Final = 8
"""Connections of one process. More only wait for the same cores, and a server allows about 100 in all."""
PATIENCE_S: Final = 10.0
"""A transaction that meets others for so long is given up."""
WAIT_S_FIRST: Final = 0.005
WAIT_S_MAX: Final = 0.5
CONNECT_S_MAX: Final = 10.0
STATEMENTS_READY: Final = 400
"""Statements that a connection keeps prepared; the hub has fewer, in all lengths of their lists."""
COMMAND_S_MAX: Final = 60.0
"""A server that is silent for so long is taken for gone."""

_AGAIN: Final = frozenset(
    {
        "40001",  # serialization_failure: also the restart that CockroachDB and YugabyteDB ask for
        "40P01",  # deadlock_detected
        "55P03",  # lock_not_available: lock_timeout
        "23505",  # unique_violation: two transactions looked, and both wrote
        "42P07",  # duplicate_table: two processes made the tables at once
    }
)
DATA_EXCEPTION: Final = "22"
"""The class of the SQLSTATEs of a value that does not fit."""
_GONE: Final = frozenset({"57P01", "57P02", "57P03", "53300", "08000", "08003", "08006", "08001", "25006"})
"""The server ends, starts, is full, or is a stand-by now."""
ISOLATION: Final = "READ COMMITTED"
READ_ISOLATION: Final = "REPEATABLE READ"
READ_EACH: Final = 1_000
READ_PARTS: Final = 4
LOOK_S: Final = 0.1
"""A reader that has gone is noticed after so long."""
_SESSION: Final = {
    "application_name": "edgegw-hub",
    # A process that hangs must not hold its rows for ever.
    "idle_in_transaction_session_timeout": "60s",
}
_DURABILITY: Final = ("fsync", "full_page_writes", "synchronous_commit")


class Target(NamedTuple):
    """Where the database is; the password apart from the address, so that no log shows it."""

    url: str
    """postgresql://role@host:port/database, with libpq's options (several hosts, sslmode, sslrootcert)."""
    password_file: Path | None = None
    """Without one, ~/.pgpass is read."""

    def password(self) -> str | None:
        """The password as the file says it now; raises DatabaseError."""
        file = self.password_file
        if file is None:
            return None
        try:
            if file.stat().st_mode & 0o077:
                raise DatabaseError(f"database_password_file = {file}: others may read it; chmod 0600")
            return file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as problem:
            raise DatabaseError(f"database_password_file = {file}: it cannot be read: {problem}") from None


class PostgresDatabase(Database):
    """One database of a PostgreSQL server, or of one that speaks like it."""

    def __init__(self, target: Target, *, workers: int = WORKERS, patience_s: float = PATIENCE_S) -> None:
        """Open it, with the tables made; raises DatabaseError and DatabaseAway."""
        super().__init__(workers=workers)
        self._target = target
        self._patience_s = patience_s
        self._lanes: list[_Lane] = []
        try:
            self.transact(_check_server)
            self.transact(lambda c: prepare_schema(c, place=target.url, mend="database_url"))
        except BaseException:
            self.close()
            raise

    def transact(self, work: Work[Result]) -> Result:
        """Run `work` in one of this database's threads; it is run again where others were in its way."""
        if self.is_own_thread():
            return self._lane().run(work)
        return self.threads.submit(lambda: self._lane().run(work)).result()

    def read(self, work: Callable[[Connection], Iterable[Result]]) -> Iterator[Result]:
        """Read in one of this database's threads; this one takes what comes, and no more of it waits than
        fits a short queue."""
        parts: queue.Queue[list[Result] | None] = queue.Queue(READ_PARTS)
        is_over = threading.Event()

        def produce(connection: Connection) -> None:
            rows = iter(work(connection))
            while part := list(itertools.islice(rows, READ_EACH)):
                while not _put(parts, part):
                    if is_over.is_set():
                        return

        done = self.threads.submit(lambda: self._lane().read(produce))
        done.add_done_callback(lambda _: _end_of(parts, is_over))
        try:
            while (part := parts.get()) is not None:
                yield from part
            done.result()
        finally:
            is_over.set()

    def _lane(self) -> _Lane:
        lane: _Lane | None = getattr(self.own, "lane", None)
        if lane is None:
            lane = self.own.lane = _Lane(self._target, self._patience_s, self._retried)
            self._lanes.append(lane)
        return lane

    def _retried(self, cause: str) -> None:
        self.on_retry(cause)

    def close(self) -> None:
        """Let running work finish, then close every connection."""
        self.threads.shutdown()
        # In a thread of its own: the caller's may have a loop that runs.
        closing = threading.Thread(target=self._close_lanes)
        closing.start()
        closing.join()

    def _close_lanes(self) -> None:
        while self._lanes:
            self._lanes.pop().close()


def _put(parts: queue.Queue[list[Result] | None], part: list[Result] | None) -> bool:
    """Whether there was room for it, or soon became so."""
    try:
        parts.put(part, timeout=LOOK_S)
    except queue.Full:
        return False
    return True


def _end_of(parts: queue.Queue[list[Result] | None], is_over: threading.Event) -> None:
    """Tell the reader that nothing more comes, unless it has gone."""
    while not _put(parts, None):
        if is_over.is_set():
            return


class _Unreachable(Exception):
    """No server takes a connection now."""


class _Lane:
    """One thread's connection, and the loop that drives it."""

    def __init__(self, target: Target, patience_s: float, on_retry: Callable[[str], None]) -> None:
        self._target = target
        self._patience_s = patience_s
        self._on_retry = on_retry
        self._runner = asyncio.Runner()
        self._engine = create_async_engine(
            "postgresql+asyncpg://",
            creator=self._driver,
            isolation_level=ISOLATION,
            pool_size=1,
            max_overflow=0,
        )

    def _driver(self) -> DBAPIConnection:
        dialect = self._engine.dialect.dbapi
        assert dialect is not None  # noqa: S101 - the engine was made with one
        made: DBAPIConnection = dialect.connect(
            async_creator_fn=self._connect, prepared_statement_cache_size=STATEMENTS_READY
        )
        return made

    async def _connect(self) -> asyncpg.Connection[asyncpg.Record]:
        url = self._target.url
        try:
            return await asyncpg.connect(
                url,
                password=self._target.password(),
                timeout=CONNECT_S_MAX,
                command_timeout=COMMAND_S_MAX,
                server_settings={**_SESSION, "lock_timeout": f"{int(self._patience_s * 1000)}ms"},
            )
        except asyncpg.PostgresError as problem:
            if problem.sqlstate in _GONE:
                raise _Unreachable(str(problem)) from None
            raise DatabaseError(f"database_url = {url}: {problem}") from None
        except OSError as problem:
            raise _Unreachable(str(problem) or type(problem).__name__) from None
        except (asyncpg.InterfaceError, ValueError) as problem:
            raise DatabaseError(f"database_url = {url}: {problem}") from None

    def run(self, work: Work[Result]) -> Result:
        """Run `work` to its COMMIT, as often as it takes."""
        return self._runner.run(self._until_done(work))

    def read(self, work: Work[None]) -> None:
        """Run `work` once, on one state of all tables."""
        self._runner.run(self._read(work))

    async def _read(self, work: Work[None]) -> None:
        try:
            async with self._engine.connect() as connection:
                await connection.execution_options(isolation_level=READ_ISOLATION)
                await connection.run_sync(work)
        except _Unreachable as problem:
            raise DatabaseAway(f"the database cannot be reached: {problem}") from None
        except DBAPIError as problem:
            cause = _cause(problem)
            if not cause:
                raise
            raise _end(cause, problem) from None

    async def _until_done(self, work: Work[Result]) -> Result:
        until = time.monotonic() + self._patience_s
        attempt = 0
        while True:
            try:
                return await self._once(work)
            except _Unreachable as problem:
                cause = "08001"
                end: OperatingError = DatabaseAway(f"the database cannot be reached: {problem}")
            except DBAPIError as problem:
                if _sqlstate(problem).startswith(DATA_EXCEPTION):
                    raise NotKept(_said(problem)) from None
                cause = _cause(problem)
                if not cause:
                    raise
                end = _end(cause, problem)
            if time.monotonic() >= until:
                raise end from None
            self._on_retry(cause)
            longest_s = min(WAIT_S_MAX, WAIT_S_FIRST * 2**attempt)
            await asyncio.sleep(longest_s * random.uniform(0.5, 1.0))  # noqa: S311 - who goes first is no secret
            attempt += 1

    async def _once(self, work: Work[Result]) -> Result:
        async with self._engine.connect() as connection:
            await connection.begin()
            try:
                result = await connection.run_sync(work)
            except TimeoutError:
                await connection.invalidate()
                raise _Unreachable("it is silent") from None
            await _commit(connection)
            return result

    def close(self) -> None:
        """Close the connection and the loop."""
        self._runner.run(self._engine.dispose())
        self._runner.close()


async def _commit(connection: AsyncConnection) -> None:
    try:
        await connection.commit()
    except BaseException as problem:
        # A COMMIT that is refused has done nothing. Of one that is not answered nobody knows, and the
        # connection may still be in the middle of it: nobody uses that one again.
        if isinstance(problem, DBAPIError) and _sqlstate(problem) in _AGAIN:
            raise
        await connection.invalidate()
        if isinstance(problem, DBAPIError | OSError):
            raise DatabaseAway(f"the outcome of a COMMIT is not known: {problem}") from None
        raise


def _sqlstate(problem: DBAPIError) -> str:
    return str(getattr(problem.orig, "sqlstate", None) or "")


def _cause(problem: DBAPIError) -> str:
    """The SQLSTATE of what lets a transaction be run again that failed before its COMMIT; "" where nothing
    does."""
    state = _sqlstate(problem)
    if state in _AGAIN or state in _GONE:
        return state
    return "08006" if problem.connection_invalidated else ""


def _end(cause: str, problem: DBAPIError) -> OperatingError:
    if cause in _AGAIN:
        return DatabaseBusy(f"other transactions were in the way until the end ({_said(problem)})")
    return DatabaseAway(f"the database went away: {_said(problem)}")


def _said(problem: DBAPIError) -> str:
    return str(problem.orig).partition("\n")[0]


def _check_server(connection: Connection) -> None:
    """Raise DatabaseError for a server that may lose what it has committed, or cannot keep every name."""
    rows = connection.execute(
        text("SELECT name, setting FROM pg_settings WHERE name IN ('server_encoding', :one, :two, :three)"),
        dict(zip(("one", "two", "three"), _DURABILITY, strict=True)),
    )
    found = {row.name: row.setting for row in rows}
    for name in _DURABILITY:
        if found.get(name) == "off":
            raise DatabaseError(
                f"{name} is off: the server may lose what it has committed",
                hint=f"Set {name} = on in the server's configuration.",
            )
    if found.get("server_encoding", "UTF8") != "UTF8":
        raise DatabaseError(
            f"server_encoding is {found['server_encoding']}: names in other letters cannot be kept",
            hint="Make the database with ENCODING 'UTF8'.",
        )
