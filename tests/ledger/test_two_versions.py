"""An image that is left again: what a newer program has answered is answered by the older one for ever."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import apsw
import msgspec
import pytest

from edgegw.core import snapshot
from edgegw.core.records import Mode
from edgegw.errors import LedgerForeign
from edgegw.ledger import schema, writer
from edgegw.ledger.check import check
from edgegw.ledger.store import Store
from tests.ledger.running_box import KEY, TestClock, enrol, open_pen, payment, running
from tests.ledger.test_writer import decided

TOMORROW = """
CREATE TABLE tomorrow(position INTEGER PRIMARY KEY, word TEXT NOT NULL) STRICT;
CREATE INDEX record_tomorrow ON record(position) WHERE type = 'transfer' AND original IS NULL;
"""
NEWER = len(schema.MIGRATIONS) + 1


class TomorrowsImage(snapshot.BookImage, frozen=True, kw_only=True, omit_defaults=True):
    """A snapshot with a field that no older program knows."""

    tomorrow: int = 1


@contextmanager
def newer_program(*, readable_from: int = schema.READABLE_FROM) -> Iterator[None]:
    """The program of the next release, on trial: one more table, and a snapshot of its own after each
    commit."""
    taken = snapshot.dump

    def dump(*arguments: Any, **named: Any) -> bytes:
        image = msgspec.json.decode(taken(*arguments, **named))
        return msgspec.json.encode({**image, "tomorrow": 1})

    with (
        patch.object(schema, "MIGRATIONS", (*schema.MIGRATIONS, TOMORROW)),
        patch.object(schema, "READABLE_FROM", readable_from),
        patch.object(snapshot, "BookImage", TomorrowsImage),
        patch.object(snapshot, "dump", dump),
        patch.object(writer, "SNAPSHOT_RECORDS", 8),
    ):
        yield


async def test_what_a_trial_has_answered_survives_its_rollback(tmp_path: Path) -> None:
    """A payment that a client holds an answer for must never be decided a second time."""
    clock, answers = TestClock(), {}
    async with running(open_pen(tmp_path, clock)) as pen:
        await enrol(pen)
        for number in range(1, 11):
            answers[number] = (await decided(pen, payment(number))).body
    with newer_program():
        async with running(open_pen(tmp_path, clock, boot="trial")) as pen:
            await pen.change_mode(Mode.OFFLINE, "the line is down")
            for number in range(11, 41):
                answers[number] = (await decided(pen, payment(number))).body
            pen.desk.store._db.execute("INSERT INTO tomorrow VALUES(1, 'its own')")
    # The slot before comes up again.
    async with running(open_pen(tmp_path, clock, boot="after")) as pen:
        assert pen.desk.book.available("anna") == 5_000 - 40 * 10
        for number, body in answers.items():
            again = await decided(pen, payment(number))
            assert (again.repeat, again.body) == (True, body)
        answers[41] = (await decided(pen, payment(41))).body
        assert pen.desk.book.available("anna") == 5_000 - 41 * 10
    with newer_program():
        async with running(open_pen(tmp_path, clock, boot="second trial")) as pen:
            for number, body in answers.items():
                assert (await decided(pen, payment(number))).body == body
            word = pen.desk.store._db.execute("SELECT word FROM tomorrow").fetchall()
            assert word == [("its own",)]
    store = Store.open(tmp_path / "ledger.db")
    assert any(b"tomorrow" in image.body for image in store.latest_snapshots())
    report = check(
        store,
        verify_checkpoint=KEY.public.open,
        verify_cosignature=pytest.fail,
        progress=lambda *_: None,
    )
    store.close()
    # The hub of this test signs nothing.
    assert {one.what for one in report.findings} <= {"directive", "directives"}, report.findings


def test_a_ledger_that_says_nothing_or_lies_is_refused(tmp_path: Path) -> None:
    """A program that guesses at a schema can lose what it does not know."""
    path = tmp_path / "ledger.db"
    with newer_program(readable_from=NEWER):
        Store.open(path, create=True).close()
    with pytest.raises(LedgerForeign, match="schema"):
        Store.open(path)
    for word in (f"{NEWER} 6x", f"{NEWER + 1} 1", "", f"{NEWER}", "-1 -1", f"{NEWER} "):
        connection = apsw.Connection(str(path))
        connection.execute("UPDATE meta SET value = ? WHERE key = 'readable_from'", (word,))
        connection.close()
        with pytest.raises(LedgerForeign, match="schema"):
            Store.open(path)


def test_a_script_that_an_older_program_must_bear_only_adds() -> None:
    """Who writes the next one has to see this before a branch does."""
    for script in schema.MIGRATIONS[schema.READABLE_FROM :]:
        for statement in filter(None, (part.strip() for part in script.split(";"))):
            assert re.match(r"CREATE (TABLE|INDEX) ", statement), statement
