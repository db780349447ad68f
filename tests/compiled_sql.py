"""SQL that one hub of a test run has compiled serves the next hub, too.

SQLAlchemy keeps what it has compiled for an engine, and each hub on SQLite has an engine of its own: a
process of the product has one, a test run has thousands, which would compile the same statements each.
"""

from __future__ import annotations

from typing import Any

import pysqlite3
from sqlalchemy import Connection, Engine, create_engine

from edgegw.hub import sqlite as hub_sqlite
from edgegw.hub.schema import metadata

STATEMENTS_MAX = 5_000

_first: list[Engine] = []
_tables: list[str] = []
_create_all = metadata.create_all


def share() -> None:
    """From now on, in this process."""
    hub_sqlite.create_engine = _made  # type: ignore[assignment]
    metadata.create_all = _created  # type: ignore[method-assign]


def _made(url: str, **words: Any) -> Engine:
    if not _first:
        _first.append(create_engine("sqlite://", module=pysqlite3, query_cache_size=STATEMENTS_MAX))
        _first[0].connect().close()  # its dialect asks the driver what it can do
    engine = create_engine(url, **words)
    # What is compiled is kept by the dialect that it is for.
    engine.dialect, engine._compiled_cache = _first[0].dialect, _first[0]._compiled_cache
    return engine


def _created(connection: Connection, **words: Any) -> None:
    if connection.dialect.name != "sqlite":
        _create_all(connection, **words)
        return
    if not _tables:
        _create_all(connection, **words)
        written = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid"
        _tables.extend(connection.exec_driver_sql(written).scalars())
        return
    for table in _tables:
        connection.exec_driver_sql(table)
