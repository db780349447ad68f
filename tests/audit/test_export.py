"""The audit export: every row proven from the keys alone, any edit named, and what its views say is so."""

import asyncio
import json
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from edgegw import verifier
from edgegw.__main__ import main
from edgegw.audit.database import export_database
from edgegw.audit.rows import directive_row
from edgegw.core.card_numbers import holds_card_number
from edgegw.core.records import Kind, Request
from edgegw.errors import LedgerCorrupt, LedgerForeign
from edgegw.ledger.store import Store
from tests.audit import edits
from tests.audit.ledgers import new_ledger, write_epoch
from tests.audit.logs import Author
from tests.payments.branch import BAKER, ELSEWHERE, PUPIL, Branch, open_branch, payment_id
from tests.payments.branch import BOX as BRANCH
from tests.payments.test_service import line_down, pay

EPOCHS = {1: 300, 2: 41, 3: 1}


def nothing(*_: int) -> None:
    """Nobody looks on."""


@pytest.fixture(scope="module")
def authors() -> list[Author]:
    first = Author.new()
    return [first, *(Author.new(epoch=epoch, hub=first.hub) for epoch in (2, 3))]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, authors: list[Author]) -> Path:
    """A ledger of three epochs, each cosigned in part."""
    directory = tmp_path_factory.mktemp("exported")
    with closing(new_ledger(directory)) as store:
        for author in authors:
            size = EPOCHS[author.epoch]
            write_epoch(store, author, size, author.epoch, cosigned=max(1, size * 2 // 3))
    return directory


@pytest.fixture(scope="module")
def exported(directory: Path) -> Path:
    path = directory / "audit.db"
    with closing(Store.open_reader(directory / "ledger.db")) as store:
        written = export_database(store, path, progress=nothing)
    assert written.records == sum(EPOCHS.values())
    return path


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str], authors: list[Author]) -> Callable[..., tuple[int, Any]]:
    """Show a file to the verifier: its exit code, and the figures."""

    def show(path: Path, *keys: str, kind: str = "export") -> tuple[int, Any]:
        given = keys or tuple(text for author in authors for text in author.arguments(hub=True))
        code = verifier.main([*given, "--json", kind, str(path)])
        return code, json.loads(capsys.readouterr().out)

    return show


def test_an_export_is_proven_by_the_one_file_and_the_hubs_key(exported: Path, authors: list[Author]) -> None:
    """An auditor needs nothing of ours: the hub's links name each epoch's key."""
    hub_key = ["--hub-key", authors[0].hub.public.text()]
    command = [sys.executable, "-I", "-S", verifier.__file__, *hub_key, "--json", "export", str(exported)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    found = json.loads(done.stdout)
    assert (done.returncode, found["verified"], found["records"]) == (0, True, sum(EPOCHS.values()))
    assert [one["size"] for one in found["epochs"]] == list(EPOCHS.values())
    assert found["other_tables"] == []


def test_with_the_boxes_keys_alone_it_says_whose_word_it_is(exported: Path, authors: list[Author]) -> None:
    """One key for each epoch; one too few is no proof."""
    keys = [text for author in authors for text in author.arguments(hub=False)]
    assert verifier.main([*keys, "export", str(exported)]) == 0
    assert verifier.main([*keys[:-2], "export", str(exported)]) == 1
    assert verifier.main(["--hub-key", Author.new().hub.public.text(), "export", str(exported)]) == 1


def test_each_record_carries_its_receipt(exported: Path, tmp_path: Path, verify: Callable[..., Any]) -> None:
    """One SELECT in any tool gives a file that proves one payment."""
    with closing(sqlite3.connect(exported)) as db:
        rows = db.execute("SELECT epoch, seq, receipt FROM receipt ORDER BY record_id").fetchall()
    assert [(epoch, seq) for epoch, seq, _ in rows] == [
        (e, s) for e, size in EPOCHS.items() for s in range(size)
    ]
    path = tmp_path / "receipt.json"
    for epoch, seq, receipt in rows[::7] + rows[-3:]:
        path.write_text(receipt)
        code, found = verify(path, kind="receipt")
        # What the hub has not cosigned yet has no cosignature to show.
        cosigned = max(1, EPOCHS[epoch] * 2 // 3)
        assert code == (0 if seq < cosigned else 1), (epoch, seq, found)


def test_every_edit_of_an_export_is_named(exported: Path, verify: Callable[..., Any], tmp_path: Path) -> None:
    """Any value of any row, a row gone, there twice or invented: not verified, and whose record it is."""
    rng = random.Random(3)
    path = tmp_path / "edited.db"
    for turn in range(150):
        shutil.copy(exported, path)
        with closing(sqlite3.connect(path)) as db:
            what, record = edits.edit_export(db, rng)
            db.commit()
        code, found = verify(path)
        assert code == 1, (turn, what, found)
        if record is not None:
            assert found["first_bad_record"] == record, (turn, what, found)


def test_views_that_show_something_else_are_found(
    exported: Path, verify: Callable[..., Any], tmp_path: Path
) -> None:
    """The rows may be right and the view a lie; a table beside ours is named and no more."""
    path = tmp_path / "edited.db"
    for statement in (
        "DROP VIEW balance",
        "DROP VIEW balance; CREATE VIEW balance AS SELECT 1 AS epoch, 0 AS balance_minor",
        "ALTER TABLE transfer ADD COLUMN note TEXT",
        "DROP TABLE snapshot; CREATE VIEW snapshot AS SELECT 1",
    ):
        shutil.copy(exported, path)
        with closing(sqlite3.connect(path)) as db:
            db.executescript(statement)
        code, found = verify(path)
        assert (code, found["place"]) == (1, "schema"), statement
    shutil.copy(exported, path)
    with closing(sqlite3.connect(path)) as db:
        db.executescript("CREATE TABLE my_notes(text)")
    code, found = verify(path)
    assert (code, found["other_tables"]) == (0, ["my_notes"])


def test_a_damaged_file_is_no_traceback(exported: Path, verify: Callable[..., Any], tmp_path: Path) -> None:
    """Cut, overwritten or of another kind: the verifier says so and ends well."""
    body, path = exported.read_bytes(), tmp_path / "damaged.db"
    rng = random.Random(8)
    for turn in range(25):
        changed = bytearray(body)
        start = rng.randrange(4096, len(body) - 600)
        changed[start : start + 500] = rng.randbytes(500)
        path.write_bytes(bytes(changed) if turn % 5 else body[:start])
        assert verify(path)[0] in (0, 1, 2), (turn, start)  # 0: no row reads otherwise
    for other in (b"", b"SQLite format 3\0", b"{}"):
        path.write_bytes(other)
        assert verify(path)[0] in (1, 2)
    path.unlink()
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE record(a)")
    assert verify(path)[0] == 2


def test_no_card_and_no_mask_has_a_column(exported: Path) -> None:
    """A list of card tokens beside names and places would be worth stealing."""
    with closing(sqlite3.connect(exported)) as db:
        tables = [
            name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')")
        ]
        columns = {row[1] for table in tables for row in db.execute(f"PRAGMA table_info({table})")}
        bodies = [body for (body,) in db.execute("SELECT body FROM record")]
    assert not {name for name in columns if "card" in name}
    assert "amount_minor" in columns
    assert not [
        body for body in bodies if holds_card_number(json.loads(body).get("request", {}).get("reference", ""))
    ]


def test_a_file_of_customers_payments_is_its_owners_alone(exported: Path) -> None:
    """Whoever else works on the machine has no business in it."""
    assert exported.stat().st_mode & 0o077 == 0


def test_foreign_keys_hold(exported: Path) -> None:
    """A tool that follows them must arrive somewhere."""
    with closing(sqlite3.connect(exported)) as db:
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        assert db.execute("PRAGMA foreign_key_list(leg)").fetchall() != []


def test_a_ledger_that_was_changed_is_not_exported(authors: list[Author], tmp_path: Path) -> None:
    """A proof of something else than what was signed would be worth less than none."""
    with closing(new_ledger(tmp_path)) as store:
        with pytest.raises(LedgerForeign):
            export_database(store, tmp_path / "audit.db", progress=nothing)
        write_epoch(store, authors[0], 50, 1)
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as db:
        db.executescript(
            "DROP TRIGGER record_keeps_content;"
            "UPDATE record SET body = CAST(replace(CAST(body AS TEXT), '\"v\":1', '\"v\":2') AS BLOB)"
            " WHERE position & 1099511627775 = 17"
        )
    with closing(Store.open_reader(tmp_path / "ledger.db")) as store, pytest.raises(LedgerCorrupt):
        export_database(store, tmp_path / "audit.db", progress=nothing)
    assert list(tmp_path.glob("*audit.db*")) == []


@pytest.fixture
async def branch(tmp_path: Path) -> AsyncIterator[Branch]:
    async with open_branch(tmp_path) as opened:
        yield opened


async def test_what_the_views_say_is_what_the_box_has_in_its_books(
    branch: Branch, tmp_path: Path, verify: Callable[..., Any]
) -> None:
    """Balances by replaying legs, holds and stand-ins that wait, of a box that runs and has done it all."""
    till = branch.gateway
    await branch.grant(BAKER, 10_000)
    await branch.grant(f"risk:{BRANCH}:CNY", 50_000)
    answers = [await till.handle("till", pay(700)) for _ in range(5)]
    holds = [payment_id() for _ in range(4)]
    for hold in holds:
        await till.handle("till", pay(300, kind=Kind.HOLD, id=hold, timeout_s=600))
    for kind, hold, amount_minor in ((Kind.POST, holds[0], 120), (Kind.VOID, holds[1], 0)):
        body = pay(amount_minor, kind=kind, original_client="till", original_id=hold)
        await till.handle("till", without_accounts(body))
    await till.handle(
        "till",
        without_accounts(pay(0, kind=Kind.REVERSAL, original_client="till", original_id=answers[0].id)),
    )
    await till.handle("till", pay(50, credit_account_id=ELSEWHERE))
    await till.handle("till", pay(10**9))
    await line_down(branch)
    waiting = [
        await till.handle("till", pay(1_000 + n, debit_account_id=PUPIL, credit_account_id=BAKER))
        for n in range(8)
    ]
    stood_in = [answer for answer in waiting if answer.cleared_by == "stand_in"]
    assert len(stood_in) > 3
    await branch.confirm(stood_in[0].record, stood_in[0].amount_minor)
    await branch.decline(stood_in[1].record, stood_in[1].amount_minor)
    shop = {"merchant": "Corner Shop", "terminal": "T1"}
    for amount_minor in (20, 30):
        await till.handle("till", pay(amount_minor, debit_account_id=BAKER, **shop))
    closing_id = payment_id()
    await till.handle("till", Request(kind=Kind.CLOSE_BATCH, id=closing_id, **shop))
    path = tmp_path / "audit.db"
    store = branch.store.reader()
    try:
        paying = asyncio.gather(*(till.handle("till", pay(1)) for _ in range(20)))
        await asyncio.to_thread(exported_from, branch.store.path, path)
        await paying
        await asyncio.to_thread(exported_from, branch.store.path, path)
    finally:
        store.close()
    assert verify(path, "--box-key", branch.key.public.text())[0] == 0
    with closing(sqlite3.connect(path)) as db:
        db.row_factory = sqlite3.Row
        balances = {row["account_id"]: row for row in db.execute("SELECT * FROM balance")}
        left = [row["id"] for row in db.execute("SELECT id FROM unresolved_hold ORDER BY record_id")]
        waits = [row["id"] for row in db.execute("SELECT id FROM waiting_stand_in ORDER BY record_id")]
        days = list(db.execute("SELECT * FROM payments_by_day WHERE kind = 'payment' AND client = 'till'"))
        batches = list(
            db.execute(
                "SELECT transfer.id, merchant, terminal, number, batch_total.currency, payments_count,"
                " payments_minor, refunds_count FROM batch_total JOIN transfer USING (record_id)"
            )
        )
        refused = list(db.execute("SELECT * FROM refusals_by_day"))
    for account in branch.book.accounts:
        book = branch.book.balance(account)
        assert book is not None
        row = balances.get(account)
        figures = ("debits_posted", "credits_posted", "debits_pending", "credits_pending")
        assert tuple(row[name] if row else 0 for name in figures) == tuple(
            getattr(book, name) for name in figures
        ), account
    assert left == holds[2:]
    assert waits == [answer.id for answer in stood_in[2:]]
    assert sum(row["payments"] for row in days) == 5 + 1 + 2 + len(waiting) + 20
    assert [tuple(row) for row in batches] == [(closing_id, "Corner Shop", "T1", 1, "CNY", 2, 50, 0)]
    assert sum(row["refusals"] for row in refused) >= 1


def without_accounts(request: Request) -> Request:
    """A post, void or reversal names no accounts and no currency."""
    return msgspec.structs.replace(request, debit_account_id="", credit_account_id="", currency="")


@pytest.mark.parametrize(
    "directive",
    [
        {"type": "confirm", "epoch": 3, "at_seq": 7, "amount_minor": 5, "payer_account_id": "a", "seq": 1},
        {"type": "confirm", "epoch": 2**40, "at_seq": 7},
        {"type": "decline", "epoch": -1, "at_seq": 2**41, "amount_minor": 2**80, "reason": ["x"]},
        {"type": "decline", "epoch": True, "at_seq": "7", "liable": 5.5},
        {"type": "freeze", "frozen": True, "account_id": ""},
        {"type": "unheard-of", "amount_minor": 5},
        {"no": "type"},
        "5b5d",
        [],
        None,
    ],
)
def test_a_directive_that_is_none_is_exported_as_it_is_verified(directive: Any) -> None:
    """The hub may send what nobody can read; it is journalled as refused and must not end an export."""
    assert directive_row(directive) == verifier.directive_of(directive)


def exported_from(ledger: Path, path: Path) -> None:
    with closing(Store.open_reader(ledger)) as store:
        export_database(store, path, progress=nothing)


def test_the_commands_give_what_the_verifier_takes(
    directory: Path, tmp_path: Path, authors: list[Author], verify: Callable[..., Any]
) -> None:
    """Export, receipt, checkpoint and proof from the command line, each checked by `edgegw verify`."""
    runner = CliRunner()

    def run(*words: str) -> str:
        done = runner.invoke(main, [*words])
        assert done.exit_code == 0, (words, done.output)
        return done.output

    place, audit, receipt = str(directory), str(tmp_path / "a.db"), str(tmp_path / "receipt.json")
    old, new, proof = (str(tmp_path / name) for name in ("old.note", "new.note", "proof.json"))
    keys = [text for author in authors for text in author.arguments(hub=False)]
    hub = ["--hub-key", authors[0].hub.public.text()]
    assert "342 records of 3 epochs" in run("export", place, "--output", audit)
    run("verify", *keys, *hub, "export", audit)
    run("journal", "receipt", place, "--record", "1/17", "--output", receipt)
    run("verify", *keys, *hub, "receipt", receipt)
    with closing(Store.open_reader(directory / "ledger.db")) as store:
        entries = store.records(epoch=1, start=0, limit=300, bytes_max=2**30)
    log = edits.Log.of(authors[0], [entry.body for entry in entries])
    Path(old).write_text(log.note(123))
    run("journal", "checkpoint", place, "--epoch", "1", "--output", new)
    run("verify", *keys, "checkpoints", new, new)
    run("journal", "proof", place, "--from", old, "--checkpoint", new, "--output", proof)
    run("verify", *keys, "checkpoints", old, new, "--proof", proof)
    run("journal", "proof", place, "--from", "123", "--epoch", "1", "--checkpoint", new, "--output", proof)
    run("verify", *keys, "checkpoints", old, new, "--proof", proof)
    Path(old).write_text(edits.Log.of(authors[0], log.records[::-1]).note(123))
    for words in (
        ["journal", "proof", place, "--from", old, "--checkpoint", new, "--output", proof],
        ["journal", "proof", place, "--from", "999", "--epoch", "1", "--checkpoint", new, "--output", proof],
        ["journal", "proof", place, "--from", str(tmp_path / "none"), "--checkpoint", new, "--output", proof],
        ["journal", "receipt", place, "--record", "1/9999", "--output", receipt],
        ["journal", "receipt", place, "--record", "seventeen", "--output", receipt],
    ):
        done = runner.invoke(main, words)
        assert done.exit_code == 2, (words, done.output)
