"""The database is opened only where it keeps what it says."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from edgegw.hub import sqlite
from edgegw.hub.books import Opening, open_accounts, post_core
from edgegw.hub.database import SCHEMA_VERSION, DatabaseBusy, DatabaseError
from edgegw.hub.schema import core_posting, metadata
from edgegw.hub.sqlite import SqliteDatabase, check_sqlite_version, sole_process
from tests.hub.places import Place, SqlitePlace


@pytest.mark.parametrize("version", [(3, 40, 1), (3, 46, 1), (3, 50, 6), (3, 51, 2)])
def test_an_sqlite_that_loses_rows_is_refused(version: tuple[int, int, int]) -> None:
    """The versions with the WAL-reset bug, among them what Debian 12 and 13 carry."""
    with pytest.raises(DatabaseError, match="pysqlite3"):
        check_sqlite_version(version)


@pytest.mark.parametrize("version", [(3, 44, 6), (3, 50, 7), (3, 51, 3), (3, 53, 4)])
def test_a_mended_sqlite_is_taken(version: tuple[int, int, int]) -> None:
    """The fix and its two back-ports."""
    check_sqlite_version(version)


def test_commits_are_on_disk_and_references_hold(tmp_path: Path) -> None:
    """Durability is read back, not hoped for; the file is the owner's alone."""
    database = SqliteDatabase(tmp_path / "hub.db")
    with database.engine.connect() as connection:
        found = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    database.close()
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    assert (tmp_path / "hub.db").stat().st_mode & 0o077 == 0


def test_two_hubs_do_not_serve_one_file(tmp_path: Path) -> None:
    """SQLite has one serving process; the second is told what to do."""
    path = tmp_path / "hub.db"
    with sole_process(path), pytest.raises(DatabaseError, match="another hub"), sole_process(path):
        pass
    with sole_process(path):
        pass


def test_a_database_of_another_version_is_left_alone(place: Place) -> None:
    """Half a schema would fail in the middle of a beat; the text says what to run instead."""
    place.open().close()
    with place.engine.begin() as connection:
        connection.execute(text("UPDATE schema_version SET version = 1"))
    with pytest.raises(DatabaseError, match="tables of version 1"):
        place.open()
    with place.engine.begin() as connection:
        connection.execute(text("UPDATE schema_version SET version = :now"), {"now": SCHEMA_VERSION})
    place.open().close()


def test_tables_without_a_version_are_left_alone(tmp_path: Path) -> None:
    """They are from a program that kept the version elsewhere."""
    place = SqlitePlace(tmp_path / "hub.db")
    place.open().close()
    with place.engine.begin() as connection:
        connection.execute(text("DROP TABLE schema_version"))
    with pytest.raises(DatabaseError, match="an earlier program"):
        place.open()


def test_every_table_can_be_made_in_postgresql() -> None:
    """No type or clause of one engine alone."""
    for table in metadata.sorted_tables:
        words = str(CreateTable(table).compile(dialect=postgresql.dialect()))
        assert "SERIAL" not in words
        for column in table.columns:
            if column.name.endswith("_minor"):
                assert f"{column.name} BIGINT" in words


def test_a_long_reading_holds_up_nobody_who_writes(place: Place) -> None:
    """A reconciliation reads for a minute, and boxes go on; it sees one state all the time."""
    reader, writer = place.open(), place.open()

    def counts(connection: Connection) -> Iterator[int]:
        for _ in range(2):
            yield connection.execute(select(func.count()).select_from(core_posting)).scalar_one()

    def posted(connection: Connection) -> None:
        names = [Opening(name, "CNY", "", "", False) for name in ("core:CNY", "A")]
        open_accounts(connection, names)
        post_core(connection, id="1", debit_account_id="core:CNY", credit_account_id="A", amount_minor=1)

    reading = reader.read(counts)
    seen = [next(reading)]
    writer.transact(posted)
    assert [*seen, *reading] == [0, 0]
    assert list(reader.read(counts)) == [1, 1]
    for database in (reader, writer):
        database.close()


def test_a_writer_who_comes_to_no_turn_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An order beside a busy hub ends with what to do next, not with a trace."""
    monkeypatch.setitem(sqlite._PRAGMAS, "busy_timeout", 1)
    place = SqlitePlace(tmp_path / "hub.db")
    first, second = place.open(), place.open()

    def write(_: Connection) -> None:
        with pytest.raises(DatabaseBusy) as caught:
            second.transact(lambda connection: connection.execute(text("DELETE FROM recall")))
        assert "ask again" in caught.value.hint

    first.transact(write)
