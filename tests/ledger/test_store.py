"""The ledger file: what a COMMIT keeps, what it refuses, and that nothing in it changes afterwards."""

import random
from collections.abc import Callable
from pathlib import Path

import apsw
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgegw.core import journal, records, tiles
from edgegw.core.exchange import frontier_at
from edgegw.errors import (
    BrokenInvariant,
    HeadMoved,
    LedgerCorrupt,
    LedgerForeign,
    OutcomeUnknown,
    StorageBusy,
    UnsafeSqlite,
)
from edgegw.ledger import schema
from edgegw.ledger.rows import place_at, position_of, row_of
from edgegw.ledger.store import Image, Store
from tests.ledger.pens import BANK, BOX, KEY, TestPen, identity, new_store, write_directives


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return new_store(tmp_path)


@pytest.fixture
def pen(store: Store) -> TestPen:
    return TestPen(store)


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        *((v, False) for v in ("3.7.0", "3.40.1", "3.44.5", "3.45.0", "3.50.6", "3.51.0", "3.51.2")),
        *((v, True) for v in ("3.44.6", "3.44.7", "3.50.7", "3.50.12", "3.51.3", "3.52.0", "4.0.0")),
    ],
)
def test_a_sqlite_with_the_wal_reset_bug_is_refused(version: str, safe: bool) -> None:
    """Committed payments would be lost by two connections at a bad moment."""
    if safe:
        schema.check_sqlite_version(version)
        return
    with pytest.raises(UnsafeSqlite, match=version):
        schema.check_sqlite_version(version)


def test_sealed_records_are_there_after_a_new_start(tmp_path: Path, pen: TestPen) -> None:
    """What was answered must be found, byte for byte, by place and by identity."""
    pen.write_transfers(300, batch=7)
    pen.store.close()
    store = Store.open(tmp_path / "ledger.db")
    head = store.head(1)
    assert head is not None
    assert (head.size, head.root) == (300, pen.frontier.root())
    assert KEY.public.open(head.checkpoint).size == 300
    wanted = [("till-2", identity(299)), ("till-0", identity(0)), ("till-0", identity(299))]
    found = store.find(wanted)
    assert set(found) == set(wanted[:2])
    assert found[wanted[0]] == store.at(position_of(epoch=1, seq=299)) == records.encode(pen.transfer(299))


def test_an_unsealed_batch_leaves_nothing(tmp_path: Path, pen: TestPen) -> None:
    """A half-written batch that a crash leaves behind would be an unanswered payment that moved money."""
    pen.write_transfers(3)
    pen.begin()
    pen.append(pen.transfer(3))
    assert pen.store.reader().at(position_of(epoch=1, seq=3)) is None
    pen.store.close()
    store = Store.open(tmp_path / "ledger.db")
    assert store.at(position_of(epoch=1, seq=3)) is None
    assert store.counts() == (3, 3, 0, 0)


@pytest.mark.parametrize("field", ["boot", "size", "epoch"])
def test_a_head_that_is_not_ours_does_not_move(pen: TestPen, field: str) -> None:
    """Two pens on one ledger would both answer from their own memory."""
    pen.write_transfers(3)
    old_size = pen.size
    pen.begin()
    pen.append(pen.transfer(3))
    if field == "boot":
        pen.boot = "another"
    elif field == "size":
        pen.store._db.execute("UPDATE head SET size = 2")
    else:
        pen.store._db.execute("DELETE FROM head")
    with pytest.raises(HeadMoved):
        pen.seal(old_size)
    assert pen.store.counts()[:2] == (3, 3)


def test_the_newest_claim_takes_the_head(pen: TestPen) -> None:
    """The pen of an earlier boot must fail, whatever it still believes."""
    pen.write_transfers(1)
    pen.store.begin()
    pen.store.claim_head(boot="boot-2")
    pen.store.commit()
    with pytest.raises(HeadMoved):
        pen.write_transfers(1)


def test_a_head_that_skips_records_is_refused(pen: TestPen) -> None:
    """A checkpoint is signed only for what is on disk."""
    pen.begin()
    pen.append(pen.transfer(0))
    pen.frontier.append(bytes(32))
    with pytest.raises(BrokenInvariant):
        pen.seal(0)
    assert pen.store.counts() == (0, 0, 0, 0)


def test_records_are_not_committed_without_their_head(pen: TestPen) -> None:
    """A record that no checkpoint covers must not reach the disk."""
    pen.begin()
    pen.append(pen.transfer(0))
    with pytest.raises(BrokenInvariant):
        pen.store.commit()
    assert pen.store.counts() == (0, 0, 0, 0)


def test_one_identity_has_one_record(pen: TestPen) -> None:
    """A doubled payment is stopped by the disk even if the pen forgot to look."""
    pen.write(pen.transfer(0))
    again = pen.transfer(
        1, request=records.Request(kind=records.Kind.PAYMENT, id=identity(0)), client="till-0"
    )
    pen.begin()
    with pytest.raises(BrokenInvariant, match="UNIQUE"):
        pen.append(again)
    assert pen.store.counts()[:2] == (1, 1)


def test_two_clients_may_use_one_id(pen: TestPen) -> None:
    """Identities belong to their client; another's id must not block or answer a payment."""
    request = records.Request(kind=records.Kind.PAYMENT, id=identity(0), amount_minor=9)
    pen.write(pen.transfer(0), pen.transfer(1, client="elsewhere", request=request))
    found = pen.store.find([("elsewhere", identity(0))])
    assert list(found) == [("elsewhere", identity(0))]
    assert b'"amount_minor":9' in found["elsewhere", identity(0)]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE record SET body = x'00'",
        "DELETE FROM record",
        "INSERT OR REPLACE INTO record SELECT * FROM record",
        "UPDATE directive SET body = x'00'",
        "DELETE FROM directive",
        "INSERT OR REPLACE INTO directive SELECT * FROM directive",
    ],
)
def test_nothing_written_is_changed_or_deleted(pen: TestPen, statement: str) -> None:
    """A log only grows; a slip of our own must not edit history."""
    pen.write_transfers(2)
    write_directives(pen.store, 2)
    with pytest.raises(apsw.ConstraintError, match="never"):
        pen.store._db.execute(statement)


def test_a_failed_commit_ends_the_writing(pen: TestPen, monkeypatch: pytest.MonkeyPatch) -> None:
    """After COMMIT was tried nobody knows; going on could answer twice or lose."""
    pen.begin()
    pen.append(pen.transfer(0))
    monkeypatch.setattr(pen.store, "_db", _FailingCommit(pen.store._db))
    with pytest.raises(OutcomeUnknown) as caught:
        pen.seal(0)
    assert "same id" in caught.value.hint
    with pytest.raises(OutcomeUnknown):
        pen.store.begin()


class _FailingCommit:
    """A connection whose disk fails at COMMIT."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def execute(self, statement: str, *values: object) -> object:
        if statement == "COMMIT":
            raise apsw.IOError("disk I/O error")
        return self._connection.execute(statement, *values)

    def __getattr__(self, name: str) -> object:
        return getattr(self._connection, name)


def test_a_foreign_write_lock_is_named(tmp_path: Path, pen: TestPen) -> None:
    """A replication tool that holds the file too long must not look like a broken disk."""
    pen.write_transfers(1)
    other = apsw.Connection(str(tmp_path / "ledger.db"))
    other.execute("BEGIN IMMEDIATE")
    pen.store._db.execute("PRAGMA busy_timeout=1")
    with pytest.raises(StorageBusy):
        pen.store.begin()
    other.execute("ROLLBACK")
    pen.write_transfers(1)
    assert pen.store.counts()[0] == 2


def test_another_boxs_ledger_is_refused(tmp_path: Path, store: Store) -> None:
    """Two disks swapped in a branch must not clear each other's money."""
    store.close()
    with pytest.raises(LedgerForeign, match="branch-1"):
        Store.open(tmp_path / "ledger.db").own(bank=BANK, box="branch-2")
    Store.open(tmp_path / "ledger.db").own(bank=BANK, box=BOX)


def test_files_that_are_no_ledger_are_refused(tmp_path: Path) -> None:
    """A wrong path must not be written to, nor a newer ledger be misread."""
    with pytest.raises(LedgerForeign, match="no ledger at"):
        Store.open(tmp_path / "none.db")
    (tmp_path / "text.db").write_text("no database at all, but long enough to have a header" * 20)
    with pytest.raises(LedgerForeign, match="no SQLite"):
        Store.open(tmp_path / "text.db", create=True)
    apsw.Connection(str(tmp_path / "other.db")).execute("CREATE TABLE a(b)")
    with pytest.raises(LedgerForeign, match="no ledger"):
        Store.open(tmp_path / "other.db", create=True)
    assert apsw.Connection(str(tmp_path / "other.db")).pragma("journal_mode") == "delete"


def test_a_newer_ledger_is_refused(tmp_path: Path, store: Store) -> None:
    """An old program must not guess at a schema that does not say that it may be written by it."""
    store.close()
    apsw.Connection(str(tmp_path / "ledger.db")).execute(f"PRAGMA user_version={len(schema.MIGRATIONS) + 1}")
    with pytest.raises(LedgerForeign, match="schema"):
        Store.open(tmp_path / "ledger.db")


def test_readers_cannot_write(pen: TestPen) -> None:
    """The API's connections must not be able to touch the ledger."""
    pen.write_transfers(1)
    with pytest.raises(apsw.ReadOnlyError):
        pen.store.reader()._db.execute("INSERT INTO meta VALUES('a', 'b')")


def test_packages_are_bounded_but_never_empty(pen: TestPen) -> None:
    """One record larger than the limit would stop the sync for ever."""
    pen.write_transfers(10)
    size = len(records.encode(pen.transfer(0)))
    read = pen.store.records
    assert [entry.seq for entry in read(epoch=1, start=0, limit=3, bytes_max=10**6)] == [0, 1, 2]
    assert [entry.seq for entry in read(epoch=1, start=4, limit=100, bytes_max=2 * size + 9)] == [4, 5]
    assert [entry.seq for entry in read(epoch=1, start=8, limit=100, bytes_max=1)] == [8]
    assert read(epoch=1, start=10, limit=100, bytes_max=1) == []
    assert read(epoch=2, start=0, limit=100, bytes_max=1) == []


def test_what_is_about_a_record_is_found(pen: TestPen) -> None:
    """A refund that is not found is paid twice."""
    confirm = records.ConfirmDirective(
        v=1, bank=BANK, box=BOX, incarnation=1, seq=0, wall_ns=1, epoch=1, at_seq=0,
        payer_account_id="A-1", currency="CNY", amount_minor=1,
    )  # fmt: skip
    applied = records.DirectiveApplied(
        **pen.head_fields(3), window=1, directive=msgspec.Raw(records.encode(confirm)), outcome="applied"
    )
    refund = pen.transfer(1, original="1/0")
    unreadable = records.DirectiveApplied(
        **pen.head_fields(4), window=1, directive=msgspec.Raw(b'{"type":"later"}'), outcome="refused"
    )
    pen.write(pen.transfer(0), refund, pen.transfer(2), applied, unreadable)
    about = pen.store.about(position_of(epoch=1, seq=0))
    assert about == [records.encode(refund), records.encode(applied)]


def test_only_the_last_two_snapshots_stay(pen: TestPen) -> None:
    """Images of the book must not fill the disk, and the last but one must be there if the last is bad."""
    for number in range(4):
        pen.write_snapshot(f"image {number}".encode())
    assert [image.body for image in pen.store.latest_snapshots()] == [b"image 3", b"image 2"]
    assert isinstance(pen.store.latest_snapshots()[0], Image)


def test_an_older_cosignature_does_not_replace_a_newer(pen: TestPen) -> None:
    """A late duplicate from the hub must not shrink what is known to be held there."""
    pen.write_transfers(5)
    pen.cosign(5)
    pen.cosign(3)
    kept = pen.store.cosignature(1)
    assert kept is not None
    assert kept[0] == 5


def test_a_long_wal_is_cut_back(tmp_path: Path, pen: TestPen) -> None:
    """A slow reader must not leave the disk full of WAL for ever."""
    pen.write_transfers(10)
    reader = pen.store.reader()
    reader._db.execute("BEGIN")
    reader.heads()
    pen.store._db.execute(f"PRAGMA journal_size_limit={2**20}").fetchall()
    pen.write_transfers(20_000)
    grown = (tmp_path / "ledger.db-wal").stat().st_size
    reader._db.execute("COMMIT")
    pen.write_transfers(20)
    pen.write_transfers(20)
    assert grown > 8 * 2**20 > 2 * (tmp_path / "ledger.db-wal").stat().st_size


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> TestPen:
    pen = TestPen(new_store(tmp_path_factory.mktemp("long")))
    rng = random.Random(7)
    while pen.size < 1_800:
        pen.write_transfers(rng.choice([1, 3, 64, 255, 256, 257, 600]))
    return pen


@settings(max_examples=60)
@given(data=st.data())
def test_proofs_from_the_file_verify(long: TestPen, data: st.DataObject) -> None:
    """A receipt whose proof does not verify is worth nothing."""
    size = data.draw(st.integers(1, long.size))
    index = data.draw(st.integers(0, size - 1))
    old_size = data.draw(st.integers(1, size))
    reader = long.store
    roots = {n: frontier_at(n, journal.nodes_of(long.leaves[:n])).root() for n in (old_size, size)}
    assert frontier_at(size, reader.node(1, size)).root() == roots[size]
    inclusion = journal.inclusion_proof(index, size, reader.node(1, size))
    journal.verify_inclusion(index, size, long.leaves[index], roots[size], inclusion)
    consistency = journal.consistency_proof(old_size, size, reader.node(1, size))
    journal.verify_consistency(old_size, size, roots[old_size], roots[size], consistency)


@given(
    cuts=st.lists(st.integers(1, 700), max_size=6), size=st.sampled_from([0, 255, 256, 257, 65_535, 65_792])
)
@settings(max_examples=12)
def test_tiles_are_the_nodes_of_the_tree(cuts: list[int], size: int) -> None:
    """A wrong tile would spoil every later proof over it."""
    leaves = [journal.sm3(n.to_bytes(4, "big")) for n in range(size)]
    frontier, made, start = journal.Frontier(), list[tiles.Tile](), 0
    for cut in [*cuts, size]:
        made += tiles.extend(frontier, leaves[start : start + cut], epoch=3)
        start += cut
    node = journal.nodes_of(leaves) if leaves else None
    expected = {(level, number) for level in (8, 16) for number in range(size >> level)}
    assert {(tile.level, tile.number) for tile in made} == expected
    assert node is None or all(tile.hash == node(tile.level, tile.number) for tile in made)
    plain = journal.Frontier()
    plain.extend(leaves)
    assert frontier.root() == plain.root()


@given(epoch=st.integers(0, 2**23 - 1), seq=st.integers(0, 2**40 - 1))
def test_places_are_positions_in_order(epoch: int, seq: int) -> None:
    """Records of two epochs in one place would overwrite each other."""
    position = position_of(epoch=epoch, seq=seq)
    assert place_at(position) == (epoch, seq)
    assert 0 <= position < 2**63


def test_a_place_beyond_the_end_is_refused() -> None:
    """A sequence that runs over must not become the next epoch's first record."""
    with pytest.raises(ValueError, match="has no place"):
        position_of(epoch=1, seq=2**40)


def test_a_row_says_what_its_record_says(pen: TestPen) -> None:
    """The columns are what is searched; a record under another's identity would be another's answer."""
    row = row_of(pen.transfer(5, original="1/3"), leaf=b"l", body=b"b")
    place, original = position_of(epoch=1, seq=5), position_of(epoch=1, seq=3)
    assert row == (place, "transfer", "till-2", bytes.fromhex(identity(5)), original, b"l", b"b")


@pytest.mark.parametrize(
    ("damage", "read"),
    [
        ("UPDATE head SET checkpoint = CAST(x'8041' AS TEXT)", Store.heads),
        ("UPDATE head SET size = 'x'", Store.heads),
        ("UPDATE head SET root = 'x'", lambda store: store.head(1)),
        ("UPDATE meta SET value = CAST(x'80' AS TEXT) WHERE key = 'box'", lambda store: store.meta("box")),
        ("UPDATE cosignature SET size = 'x'", lambda store: store.cosignature(1)),
        ("UPDATE tile SET hash = 'x'", lambda store: list(store.tiles_of(1))),
        ("UPDATE tile SET hash = 'x'", lambda store: store.node(1, 300)(8, 0)),
        ("UPDATE snapshot SET body = 'x'", Store.latest_snapshots),
        (
            "UPDATE record SET leaf = 'x'",
            lambda store: store.records(epoch=1, start=0, limit=9, bytes_max=9),
        ),
        (
            "PRAGMA writable_schema=ON; UPDATE sqlite_schema SET sql = replace(sql, 'leaf B', 'lead B')",
            lambda store: store.records(epoch=1, start=0, limit=9, bytes_max=9),
        ),
    ],
)
def test_a_value_that_rot_made_another_type_is_corruption(
    tmp_path: Path, damage: str, read: Callable[[Store], object]
) -> None:
    """A start that ends in a TypeError tells the operator nothing; SQLite checks types on writing alone."""
    pen = TestPen(new_store(tmp_path))
    pen.write_transfers(300)
    pen.write_snapshot(b"the book")
    pen.cosign(200)
    pen.store.close()
    intruder = apsw.Connection(str(tmp_path / "ledger.db"))
    intruder.execute("DROP TRIGGER record_keeps_content")
    intruder.execute("PRAGMA writable_schema=ON; UPDATE sqlite_schema SET sql = replace(sql, 'STRICT', '')")
    intruder.close()
    intruder = apsw.Connection(str(tmp_path / "ledger.db"))
    intruder.execute(damage)
    intruder.close()
    store = Store.open_reader(tmp_path / "ledger.db")
    with pytest.raises(LedgerCorrupt):
        read(store)
    store.close()


def test_a_record_that_rotted_is_not_answered_from(tmp_path: Path) -> None:
    """A repeat that is answered with another amount than the first time, or a reversal of it, moves money."""
    pen = TestPen(new_store(tmp_path))
    pen.write_transfers(20)
    pen.write(pen.transfer(20, original="1/7"))
    pen.store.close()
    intruder = apsw.Connection(str(tmp_path / "ledger.db"))
    intruder.execute("DROP TRIGGER record_keeps_content")
    intruder.execute(
        "UPDATE record SET body = CAST(replace(body, 'amount_minor\":', 'amount_minor\":1') AS BLOB)"
        " WHERE position IN (?, ?)",
        (position_of(epoch=1, seq=7), position_of(epoch=1, seq=20)),
    )
    intruder.close()
    store = Store.open_reader(tmp_path / "ledger.db")
    place = position_of(epoch=1, seq=7)
    with pytest.raises(LedgerCorrupt, match="1/7 is not the one"):
        store.find([("till-1", identity(7))])
    with pytest.raises(LedgerCorrupt, match="1/7 is not the one"):
        store.at(place)
    with pytest.raises(LedgerCorrupt, match="1/20 is not the one"):
        store.about(place)
    assert store.find([("till-2", identity(8))])
    store.close()
