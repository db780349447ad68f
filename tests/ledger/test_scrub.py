"""Reading again: a row that was changed by hand is found wherever it stands, and a sound ledger is not
accused."""

from pathlib import Path

import apsw
import pytest

from edgegw.errors import LedgerCorrupt
from edgegw.ledger.rows import position_of
from edgegw.ledger.scrub import PORTION, scrub
from edgegw.ledger.store import Store
from tests.ledger.pens import TestPen, new_store, write_directives

SIZE = 2 * PORTION + 44
OLD = position_of(epoch=2, seq=7)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger of two epochs and some directives."""
    directory = tmp_path_factory.mktemp("original")
    store = new_store(directory)
    TestPen(store).write_transfers(5)
    TestPen(store, epoch=2).write_transfers(SIZE)
    write_directives(store, 10)
    store.close()
    return directory / "ledger.db"


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt, with the triggers out of the way as an intruder would have them."""
    copy = tmp_path / "ledger.db"
    copy.write_bytes(original.read_bytes())
    with apsw.Connection(str(copy)) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
    return copy


def test_a_sound_ledger_is_read_whole_and_not_accused(path: Path) -> None:
    """A false alarm stops a branch."""
    portions = list(scrub(Store.open_reader(path)))
    assert sum(portions) == SIZE + 10
    assert max(portions) <= PORTION


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        (f"UPDATE record SET body = CAST(body || ' ' AS BLOB) WHERE position = {OLD}", "record 2/7"),
        (f"UPDATE record SET id = zeroblob(16) WHERE position = {OLD}", "record 2/7: column id"),
        (f"UPDATE record SET client = 'thief' WHERE position = {OLD}", "record 2/7: column client"),
        (f"UPDATE record SET type = 'mode' WHERE position = {OLD}", "record 2/7: column type"),
        (f"UPDATE record SET leaf = zeroblob(32) WHERE position = {OLD}", "record 2/7"),
        (f"DELETE FROM record WHERE position = {OLD}", "record 2/7 is missing"),
        (f"DELETE FROM record WHERE position >= {OLD}", "record 2/7 is missing"),
        ("UPDATE head SET root = zeroblob(32)", "the records of epoch 2"),
        ("UPDATE directive SET body = CAST(body || ' ' AS BLOB) WHERE position % 16 = 3", "directive 1/3"),
        ("DELETE FROM directive WHERE position % 16 = 9", "directive 1/9 is missing"),
        ("UPDATE directive_head SET size = size - 1", "the directives of incarnation 1"),
    ],
)
def test_what_was_changed_by_hand_is_named(path: Path, statement: str, named: str) -> None:
    """An old record that the centre holds already is read by nobody else, and answers repeats."""
    connection = apsw.Connection(str(path))
    connection.execute(statement)
    assert connection.total_changes() >= 1
    connection.close()
    with pytest.raises(LedgerCorrupt, match=named):
        list(scrub(Store.open_reader(path)))


@pytest.mark.parametrize("index", ["record_identity", "record_original"])
def test_an_index_that_leads_nowhere_is_found(path: Path, index: str) -> None:
    """A payment that its identity does not lead to is done again, and so is a reversal of it."""
    pen = TestPen(Store.open(path), epoch=2)
    pen.resume()
    pen.write(pen.transfer(SIZE, original="2/7"))
    pen.store.close()
    with apsw.Connection(str(path)) as connection:
        before = connection.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (index,)).fetchall()[0][0]
        connection.execute(f"DROP INDEX {index}")
        connection.execute(before.replace("IS NOT NULL", f"IS NOT NULL AND position <> {OLD + SIZE - 7}"))
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute("UPDATE sqlite_schema SET sql = ? WHERE name = ?", (before, index))
    with pytest.raises(LedgerCorrupt, match=f"record 2/{SIZE} is not found by its index"):
        list(scrub(Store.open_reader(path)))
