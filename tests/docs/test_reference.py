"""Holds REFERENCE.md to the code: what an operator reads there is what the program does."""

import subprocess
import sys
from pathlib import Path

import pytest

from edgegw import references
from edgegw.config.options import options_of
from edgegw.core.reasons import Reason
from tests.docs.readme import ROOT

TABLES = list(references.tables())


def test_the_reference_is_what_the_code_says() -> None:
    """A reference that was true last month sends an operator the wrong way tonight."""
    written = (ROOT / references.REFERENCE).read_text(encoding="utf-8")
    assert written == references.reference(), "run `make reference` and commit what it writes"


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.title)
def test_no_table_is_empty_and_no_row_leaves_its_meaning_out(table: references.Table) -> None:
    """A renamed registry would leave a heading with nothing below it."""
    assert table.rows
    for row in table.rows:
        assert len(row) == len(table.columns), row
        assert all(row[:2]), row


@pytest.mark.parametrize(
    "table", [one for one in TABLES if one.columns[0] == "option"], ids=lambda table: table.title
)
def test_every_option_says_what_it_is(table: references.Table) -> None:
    """An option without a sentence of help is tried out on a live box."""
    assert [row[0] for row in table.rows if not row[-1]] == []


def test_every_refusal_has_its_iso_8583_code() -> None:
    """A terminal must be told something for each reason that the ledger can give."""
    (table,) = (one for one in TABLES if one.title == "ISO 8583 response codes")
    said = " ".join(row[1] for row in table.rows)
    assert [reason for reason in Reason if f"`{reason}`" not in said] == []


def test_a_table_inside_a_table_is_listed_with_its_own_name() -> None:
    """`[line]` and `[[hub.addresses]]` must not vanish behind their table's name."""
    names = {one.name for one in options_of(references.BoxSettings)}
    assert {"line.heartbeat_ms", "hub.addresses[].url"} <= names


def test_a_mistyped_command_line_writes_no_file(tmp_path: Path) -> None:
    """A file named `--help` is found by whoever next types `rm *` there."""
    command = [sys.executable, "-m", "edgegw.references"]
    asked = subprocess.run([*command, "--help"], cwd=tmp_path, capture_output=True, check=True, timeout=100)
    assert references.REFERENCE.encode() in asked.stdout
    assert list(tmp_path.iterdir()) == []
    subprocess.run([*command, "here.md"], cwd=tmp_path, check=True, timeout=100)
    assert (tmp_path / "here.md").read_text(encoding="utf-8") == references.reference()
