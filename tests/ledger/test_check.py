"""The full check: whatever is changed by hand is found, and the first bad record is named."""

from collections.abc import Callable
from pathlib import Path

import apsw
import msgspec
import pytest

from edgegw.core import journal, records
from edgegw.ledger.check import Report
from edgegw.ledger.rows import position_of, row_of
from edgegw.ledger.store import Store
from tests.ledger.pens import BANK, BOX, HUB, KEY, TestPen, full_check, new_store, write_directives

EDITED = 300
SIZE = 700


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger of two epochs with everything in it."""
    directory = tmp_path_factory.mktemp("original")
    store = new_store(directory)
    TestPen(store).write_transfers(5)
    pen = TestPen(store, epoch=2)
    pen.write_transfers(SIZE - 1)
    pen.write_snapshot(b"the book")
    pen.cosign(600)
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


def spoilt(path: Path, statement: str, *values: object) -> Report:
    connection = apsw.Connection(str(path))
    connection.execute(statement, values)  # type: ignore[arg-type]
    assert connection.total_changes() >= 1
    connection.close()
    return full_check(Store.open_reader(path))


def kinds(report: Report) -> set[str]:
    return {finding.what for finding in report.findings}


def at(seq: int = EDITED, epoch: int = 2) -> int:
    return position_of(epoch=epoch, seq=seq)


def test_a_sound_ledger_is_well(path: Path) -> None:
    """A check that cries wolf is switched off; one that reads nothing is worthless."""
    told: list[tuple[int, int]] = []
    played: list[records.Record] = []
    report = full_check(
        Store.open_reader(path), progress=lambda *step: told.append(step), replay=played.append
    )
    assert report.findings == []
    assert report.well
    assert (report.records, report.epochs, report.directives) == (SIZE + 5, 2, 10)
    assert told[-1] == (SIZE + 5, SIZE + 5)
    assert [(r.epoch, r.seq) for r in played] == [(1, n) for n in range(5)] + [(2, n) for n in range(SIZE)]


def test_an_edited_amount_is_located(path: Path) -> None:
    """One digit in one row, and nothing else: the record is named, once."""
    digit = "CAST(replace(body, '\"amount_minor\":301', '\"amount_minor\":901') AS BLOB)"
    report = spoilt(path, f"UPDATE record SET body = {digit} WHERE position = {at()}")
    assert report.first_bad_record == "2/300"
    assert "its bytes and the leaf before give" in report.findings[0].problem
    assert kinds(report) == {"record"}
    assert report.problems == 1


def test_an_edit_with_all_leaves_recomputed_meets_the_signature(path: Path) -> None:
    """Whoever can rewrite the whole file still cannot sign its root."""
    store = Store.open_reader(path)
    entries = store.records(epoch=2, start=0, limit=10**6, bytes_max=10**9)
    store.close()
    connection = apsw.Connection(str(path))
    leaf, frontier = journal.FIRST_PREVIOUS, journal.Frontier()
    with connection:
        for seq, _, body in entries:
            changed = body.replace(b'"amount_minor":301', b'"amount_minor":901') if seq == EDITED else body
            leaf = journal.leaf_hash(leaf, changed)
            frontier.append(leaf)
            values = (leaf, changed, at(seq))
            connection.execute("UPDATE record SET leaf = ?, body = ? WHERE position = ?", values)
        connection.execute("UPDATE head SET root = ? WHERE epoch = 2", (frontier.root(),))
    connection.close()
    report = full_check(Store.open_reader(path))
    assert report.first_bad_record == ""
    places = [(finding.what, finding.place) for finding in report.findings]
    assert places == [("tile", "2/8/1"), ("head", "2"), ("cosignature", "2/600")]


@pytest.mark.parametrize(
    ("assignment", "column"),
    [
        ("client = 'till-9'", "client"),
        ("id = x'00112233445566778899aabbccddeeff'", "id"),
        ("original = 7", "original"),
        ("type = 'refusal'", "type"),
        ("client = NULL, id = NULL", "client"),
    ],
)
def test_an_edited_column_is_located(path: Path, assignment: str, column: str) -> None:
    """A payment that is found under another identity would be paid again."""
    report = spoilt(path, f"UPDATE record SET {assignment} WHERE position = {at()}")
    assert report.first_bad_record == "2/300"
    assert f"column {column} " in report.findings[0].problem
    assert kinds(report) == {"record"}


@pytest.mark.parametrize("seq", [0, EDITED, SIZE - 1])
def test_a_deleted_record_is_located(path: Path, seq: int) -> None:
    """A lost payment must be named, also the first and the last one."""
    report = spoilt(path, "DELETE FROM record WHERE position = ?", at(seq))
    assert report.first_bad_record == f"2/{seq}"
    assert "is missing" in report.findings[0].problem
    assert "head" in kinds(report)


def test_a_record_beyond_the_head_is_found(path: Path) -> None:
    """Nobody signed for it."""
    report = spoilt(
        path, "INSERT INTO record SELECT ?, type, NULL, NULL, NULL, leaf, body FROM record LIMIT 1", at(SIZE)
    )
    assert [finding.what for finding in report.findings] == ["file"]


def test_an_unreadable_record_is_located(path: Path) -> None:
    """Bytes that are no record at all must not end the check."""
    report = spoilt(path, "UPDATE record SET body = x'7b' WHERE position = ?", at())
    assert report.first_bad_record == "2/300"
    assert report.records == SIZE + 5
    assert "cannot be read" in report.findings[1].problem


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE tile SET hash = zeroblob(32)", "tile"),
        ("DELETE FROM tile WHERE number = 1", "tile"),
        ("INSERT INTO tile VALUES(1, 8, -1, x'00'), (2, 16, -1, x'00')", "tile"),
        ("UPDATE head SET root = zeroblob(32) WHERE epoch = 2", "head"),
        ("UPDATE head SET checkpoint = replace(checkpoint, '700', '699') WHERE epoch = 2", "head"),
        ("UPDATE head SET checkpoint = (SELECT checkpoint FROM head ORDER BY epoch LIMIT 1)", "head"),
        ("UPDATE head SET checkpoint = '' WHERE epoch = 2", "head"),
        ("UPDATE cosignature SET size = 599", "cosignature"),
        ("UPDATE cosignature SET size = 999", "cosignature"),
        ("UPDATE cosignature SET note = (SELECT checkpoint FROM head WHERE epoch = 2)", "cosignature"),
        ("UPDATE snapshot SET body = x'00'", "snapshot"),
        ("UPDATE snapshot SET digest = 'ff'", "snapshot"),
        ("UPDATE snapshot SET position = position - 1", "snapshot"),
        ("UPDATE directive SET body = x'7b7d' WHERE position & 0xff = 4", "directive"),
        ("UPDATE directive SET leaf = zeroblob(32) WHERE position & 0xff = 4", "directive"),
        ("DELETE FROM directive WHERE position & 0xff = 9", "directive"),
        ("UPDATE directive_head SET frontier = zeroblob(72)", "directives"),
        ("UPDATE directive_head SET checkpoint = (SELECT max(checkpoint) FROM head)", "directives"),
    ],
)
def test_whatever_is_changed_is_found(path: Path, statement: str, what: str) -> None:
    """Each stored thing is held against the entries that it stands for."""
    report = spoilt(path, statement)
    assert what in kinds(report)
    assert not report.well


def test_a_directive_at_a_wrong_place_is_found(path: Path) -> None:
    """A directive that says another place was moved there."""
    body = records.encode(
        records.FreezeDirective(
            v=1, bank=BANK, box=BOX, incarnation=1, seq=3, wall_ns=1, account_id="A-1", frozen=True, reason=""
        )
    )
    report = spoilt(path, "UPDATE directive SET body = ? WHERE position & 0xff = 4", body)
    assert [finding.place for finding in report.findings if "says it is" in finding.problem] == ["1/4"]


def _moved(pen: TestPen) -> records.Record:
    return pen.transfer(8)


def _foreign(pen: TestPen) -> records.Record:
    return msgspec.structs.replace(pen.transfer(5), box="branch-2")


def _backwards(pen: TestPen) -> records.Record:
    return msgspec.structs.replace(pen.transfer(5), at_ns=5 + 10**15)


@pytest.mark.parametrize(
    ("wrong", "problem"), [(_moved, "says it is"), (_foreign, "says it is"), (_backwards, "at_ns ")]
)
def test_a_record_that_contradicts_its_place_is_found(
    tmp_path: Path, wrong: Callable[[TestPen], records.Record], problem: str
) -> None:
    """Chained and signed by us, and wrong all the same: the pen's own mistakes are what this is for."""
    pen = TestPen(new_store(tmp_path))
    pen.write_transfers(5)
    record = wrong(pen)
    body = records.encode(record)
    row = row_of(record, leaf=journal.leaf_hash(pen.leaf, body), body=body)
    pen.begin()
    pen.frontier.append(row.leaf)
    pen.store.append([row._replace(position=at(5, epoch=1))], [])
    pen.seal(5)
    report = full_check(pen.store)
    assert report.first_bad_record == "1/5"
    assert [finding.problem.startswith(problem) for finding in report.findings] == [True]


def test_a_replay_that_objects_is_reported_with_its_place(path: Path) -> None:
    """A balance that went below its floor must lead to the record that did it, and the check goes on."""

    def replay(record: records.Record) -> None:
        if record.seq == 42:
            raise ValueError("below its floor")

    report = full_check(Store.open_reader(path), replay=replay)
    assert [str(finding) for finding in report.findings] == ["replay 2/42: ValueError: below its floor"]
    assert report.records == SIZE + 5


def test_a_torn_page_is_reported_not_raised(path: Path) -> None:
    """A broken disk is what the check is called for; it must not die of it."""
    body = bytearray(path.read_bytes())
    pages = len(body) // 4096
    for page in range(pages // 2, pages // 2 + 20):  # beyond the schema's: without that nothing opens it
        body[page * 4096 : page * 4096 + 512] = bytes(512)
    path.write_bytes(body)
    report = full_check(Store.open_reader(path))
    assert "file" in kinds(report)


def test_a_wrong_key_is_not_trusted(path: Path) -> None:
    """A checkpoint by somebody else's key proves nothing."""
    report = full_check(Store.open_reader(path), verify_checkpoint=HUB.public.open)
    assert [finding.what for finding in report.findings] == ["head", "head"]
    assert KEY.public != HUB.public
