"""Sides that agree give no break; whatever an outsider changes is found, by its class, just where it is."""

from __future__ import annotations

import dataclasses
import json
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, insert, select

from edgegw.__main__ import main
from edgegw.hub.schema import metadata
from edgegw.reconcile import beside, load
from tests.hub.places import PostgresPlace
from tests.hub.simulated_box import BANK
from tests.reconcile.media import execute, query
from tests.reconcile.planter import APART, PLANTS, Expected, Planter
from tests.reconcile.sides import HEADER, PRUNED, TREASURY, Sides, make_pruned, make_sides

SEEDS = range(2)
ALL = ("--suspense-hours", "0", "--postings", TREASURY)
"""Nothing is left out."""


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Sides:
    """Three sides that agree; every test works on copies."""
    return make_sides(tmp_path_factory.mktemp("sides") / "clean")


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Sides:
    """A box that has pruned most of its journal."""
    return make_pruned(tmp_path_factory.mktemp("pruned") / "clean")


def reconciled(sides: Sides, *journals: Path, more: Sequence[str] = (), core: bool = True) -> dict[str, Any]:
    """What the command says, as a program reads it; its exit code must say the same."""
    arguments = ["reconcile", *map(str, journals), "--hub", str(sides.folder / "hub.toml"), "--json"]
    arguments += ["--core", str(sides.core_file)] if core else []
    arguments += ["--workspace", str(sides.folder / "reconcile.db"), *more]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code in (0, 1), done.output
    said: dict[str, Any] = json.loads(done.output)
    assert said["well"] == (done.exit_code == 0) == (not said["breaks"])
    return said


def unexpected(found: list[dict[str, Any]], expected: list[Expected]) -> tuple[list[Any], list[Expected]]:
    """(breaks that nobody planted, plants that nobody found); each plant is one break."""
    left = list(found)
    missed = []
    for one in expected:
        match = next((b for b in left if all(b[name] == value for name, value in one.items())), None)
        if match is None:
            missed.append(one)
        else:
            left.remove(match)
    return [(b["class"], b["place"], b["account_id"], b["detail"]) for b in left], missed


def planted(sides: Sides, names: Sequence[str], medium: str, seed: int) -> None:
    """Plant these in a copy and hold the findings against them."""
    with tempfile.TemporaryDirectory() as folder:
        copy = sides.copy(Path(folder) / "spoiled")
        planter = Planter(copy, medium, Random(f"{seed}/{names}"))
        expected = [one for name in names for one in getattr(planter, name)()]
        copy.write_core()
        north = copy.ledger if medium == "directory" else copy.journal
        said = reconciled(copy, north, planter.south_path, more=ALL)
        assert unexpected(said["breaks"], expected) == ([], []), (names, medium, seed)
        twice = [one for one in said["breaks"] if one["class"] == "duplicate_in_core"]
        assert all(one["journal"] and one["hub"] and one["core"] for one in twice)


@pytest.mark.parametrize("medium", ["directory", "file"])
def test_sides_that_agree_give_no_break(sides: Sides, medium: str) -> None:
    """An alarm that rings for stand-ins, holds, refusals or a line that is down is switched off."""
    north = sides.ledger if medium == "directory" else sides.journal
    assert reconciled(sides, north, sides.south, more=("--postings", TREASURY))["breaks"] == []
    said = reconciled(sides, north, sides.south)
    assert said["breaks"] == []
    apart = {one["what"] for one in said["apart"]}
    assert {"in_flight", "hold_open", "stand_in_waiting", "word_under_way", "other_channel"} <= apart


def test_two_sides_or_one_form_twice_give_no_break(sides: Sides) -> None:
    """Whoever has no list of the core, no journal, or both forms of one, is told no untruth."""
    assert reconciled(sides, core=False)["breaks"] == []
    assert reconciled(sides)["breaks"] == []
    assert reconciled(sides, sides.ledger, core=False)["breaks"] == []
    assert reconciled(sides, sides.ledger, sides.journal, sides.south)["breaks"] == []


def test_one_payment_at_two_boxes_is_found_once_and_with_its_owner(tmp_path: Path) -> None:
    """A till that asked elsewhere while its box was cut off has paid twice; the core must not, too."""
    sides = make_sides(tmp_path / "twice", twice=True)
    said = reconciled(sides, sides.ledger, sides.south, more=("--suspense-hours", "1000000"))
    (found,) = said["breaks"]
    assert (found["class"], found["box"]) == ("duplicate_at_fleet", "south")
    line = next(line for line in sides.core if line.request_id == found["request_id"])
    assert (found["amount_minor"], found["client"]) == (line.amount_minor, "till")
    assert "before at north 1/" in found["detail"]
    assert "suspense_waiting" in {one["what"] for one in said["apart"]}
    late = reconciled(sides, sides.ledger, sides.south, more=("--suspense-hours", "0"))
    assert [one["class"] for one in late["breaks"]] == ["duplicate_at_fleet", "suspense_aged"]


def test_a_fork_that_the_hub_knows_counts_once(tmp_path: Path) -> None:
    """What is settled already must not come back as a break with each reconciliation."""
    sides = make_sides(tmp_path / "forked", forked=True)
    assert reconciled(sides, sides.ledger, sides.south, sides.forked_south)["breaks"] == []
    assert reconciled(sides, sides.ledger, sides.forked_south)["breaks"] == []
    said = reconciled(sides, sides.ledger, sides.south)
    assert said["breaks"] == []
    assert "known_fork" in {one["what"] for one in said["apart"]}


@pytest.mark.parametrize("name", PLANTS)
def test_each_break_is_found_alone_where_it_was_planted(sides: Sides, name: str) -> None:
    """A class that hides, or that rings beside another one, sends the wrong person to the wrong row."""
    for seed in SEEDS:
        planted(sides, [name], ("directory", "file")[seed % 2], seed)


@pytest.mark.parametrize("medium", ["directory", "file"])
def test_all_breaks_are_found_together(sides: Sides, medium: str) -> None:
    """One break must not hide another."""
    planted(sides, [name for name in PLANTS if name != "history_forked"], medium, 1)


@pytest.mark.parametrize("medium", ["directory", "file"])
def test_what_is_pruned_at_the_box_is_no_break_and_is_compared_all_the_same(
    pruned: Sides, tmp_path: Path, medium: str
) -> None:
    """A box keeps ninety days, an auditor looks at a year: the hub's records stand for what is gone."""
    copy = pruned.copy(tmp_path / "spoiled")
    north = copy.ledger if medium == "directory" else copy.journal
    assert reconciled(copy, north, more=("--postings", TREASURY))["breaks"] == []
    workspace = copy.folder / "reconcile.db"
    assert query(workspace, "SELECT first_seq FROM log WHERE side = 'journal'") == [(PRUNED,)]
    line = copy.core[5]
    copy.core[5] = dataclasses.replace(line, amount_minor=line.amount_minor + 1)
    copy.write_core()
    execute(copy.hub, "DELETE FROM record WHERE box = 'north' AND seq = 100")
    said = reconciled(copy, north)
    assert [(b["class"], b["place"], b["request_id"]) for b in said["breaks"]] == [
        ("sequence_gap", "1/100", ""),
        ("only_in_core", "", next(b["request_id"] for b in said["breaks"] if b["class"] == "only_in_core")),
        ("amount_differs", said["breaks"][-1]["place"], line.request_id),
    ]


@pytest.mark.parametrize("medium", ["directory", "file"])
def test_a_second_process_changes_no_finding(
    sides: Sides, monkeypatch: pytest.MonkeyPatch, medium: str
) -> None:
    """Large sides are read by two processes, portion by portion; what is found is the same."""
    monkeypatch.setattr(beside, "RECORDS_MIN", 0)
    monkeypatch.setattr(load, "ALIKE", 8)
    planted(sides, [name for name in PLANTS if name != "history_forked"], medium, 3)


def test_a_list_that_is_wrong_is_told_by_the_second_process_too(
    sides: Sides, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is left behind."""
    monkeypatch.setattr(beside, "RECORDS_MIN", 0)
    file = tmp_path / "core.csv"
    file.write_text(f"{','.join(HEADER)}\n{WELL.replace('CNY', 'cny')}\n", encoding="utf-8")
    arguments = ["reconcile", "--core", str(file), "--hub", str(sides.folder / "hub.toml")]
    done = CliRunner().invoke(main, [*arguments, "--workspace", str(tmp_path / "reconcile.db")])
    assert (done.exit_code, "line 2: currency is 'cny'" in done.output) == (2, True)
    assert list(tmp_path.iterdir()) == [file]


def test_a_hub_on_postgresql_is_compared_as_one_on_sqlite(
    sides: Sides, postgres: PostgresPlace, tmp_path: Path
) -> None:
    """Clean, and with every break at once."""
    copy = sides.copy(tmp_path / "spoiled")
    on_postgresql(copy, postgres)
    assert reconciled(copy, copy.ledger, copy.south, more=("--postings", TREASURY))["breaks"] == []
    planter = Planter(copy, "directory", Random(7))
    names = [name for name in PLANTS if name != "history_forked"]
    expected = [one for name in names for one in getattr(planter, name)()]
    copy.write_core()
    on_postgresql(copy, postgres)
    said = reconciled(copy, copy.ledger, copy.south, more=ALL)
    assert unexpected(said["breaks"], expected) == ([], [])


def on_postgresql(sides: Sides, place: PostgresPlace) -> None:
    """Let the hub's rows be in PostgreSQL, and its settings say so."""
    place.start_afresh()
    file = create_engine(f"sqlite:///{sides.hub}")
    with file.connect() as source, place.engine.begin() as target:
        for table in metadata.sorted_tables:
            rows = [dict(row) for row in source.execute(select(table)).mappings()]
            if rows and table.name != "schema_version":
                target.execute(insert(table), rows)
    file.dispose()
    (sides.folder / "hub.toml").write_text(
        f'bank = "{BANK}"\ndatabase_url = "{place.url}"\nkey_file = "hub.pem"\n'
        f'database_password_file = "{place.password_file}"\n'
    )


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(st.sampled_from(PLANTS), min_size=2, max_size=8, unique=True),
    medium=st.sampled_from(["directory", "file"]),
    seed=st.integers(0, 2**16),
)
def test_any_breaks_are_found_together(sides: Sides, names: list[str], medium: str, seed: int) -> None:
    """Whatever an outsider combines, each is found once and nothing else is."""
    if not any(set(pair) <= set(names) for pair in APART):
        planted(sides, names, medium, seed)


def test_a_row_that_somebody_has_written_as_text_is_compared_like_any_other(
    sides: Sides, tmp_path: Path
) -> None:
    """SQLite keeps text in a column for bytes, and replace() makes text; that must end no reconciliation."""
    copy = sides.copy(tmp_path / "spoiled")
    one = "SELECT min(seq) FROM {} WHERE box = 'north' AND type = '{}'"
    changes = (
        f"""UPDATE record SET body = replace(body, '"mono_ns":', '"mono_ns":1') WHERE box = 'north'
        AND seq = ({one.format("record", "refusal")})""",
        f"""UPDATE directive SET body = replace(body, '"amount_minor":', '"amount_minor":1')
        WHERE box = 'north' AND seq = ({one.format("directive", "confirm")})""",
        "UPDATE journal_head SET root = CAST(root AS TEXT) WHERE box = 'north'",
    )
    assert [execute(copy.hub, change) for change in changes] == [1, 1, 1]
    found = {one["class"] for one in reconciled(copy, copy.ledger, copy.south)["breaks"]}
    assert found == {"record_differs", "directive_not_from_hub"}


def test_every_class_of_break_is_planted_by_a_test() -> None:
    """A class that nobody has ever seen found is a promise."""
    said = CliRunner().invoke(main, ["reconcile", "--help"]).output
    classes = re.findall(r"^  ([a-z_]+): ", said.partition("Classes of breaks:")[2], flags=re.MULTILINE)
    assert sorted(classes) == sorted([*PLANTS, "duplicate_at_fleet"])


WELL = "2030-01-02,core-1,edgegw,till,{id},north,A,SHOP,CNY,100,posted".format(id="0" * 32)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (WELL.replace("2030-01-02", "2030-02-30"), "line 3: value_date is '2030-02-30'; write a day"),
        (WELL.replace(",100,", ",1.00,"), "a whole number of minor units above 0, 100 where this currency"),
        (WELL.replace(",100,", ",0,"), "line 3: amount_minor is '0'"),
        (WELL.replace(",100,", f",{2**63},"), f"line 3: amount_minor is '{2**63}'"),
        (WELL.replace("CNY", "cny"), "line 3: currency is 'cny'; write three capital letters"),
        (WELL.replace("posted", "booked"), "line 3: status is 'booked'; write one of posted, held"),
        (WELL.replace("0" * 32, "0" * 31), "write 32 lower-case hex digits"),
        (WELL.replace("till", ""), "line 3: client is ''"),
        (WELL + ",more", "line 3: it has 12 fields, the header 11"),
        ('"2030-01-02', "it is no CSV"),
    ],
)
def test_a_line_that_is_not_as_it_must_be_is_named_with_its_mend(
    sides: Sides, tmp_path: Path, line: str, said: str
) -> None:
    """A list that is read half shows a bank breaks that are none."""
    file = tmp_path / "core.csv"
    file.write_text(f"{','.join(HEADER)}\n{WELL}\n{line}\n", encoding="utf-8")
    arguments = ["reconcile", "--core", str(file), "--hub", str(sides.folder / "hub.toml")]
    done = CliRunner().invoke(main, [*arguments, "--workspace", str(tmp_path / "reconcile.db")])
    assert done.exit_code == 2
    assert said in done.output
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    "written",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace(",", ";"),
        lambda text: text.replace(",", "\t"),
        lambda text: text.replace("\n", "\r\n").rstrip(),
        lambda text: "\n".join(
            ",".join(f'"{cell}"' for cell in line.split(",")) for line in text.splitlines()
        ),
        lambda text: "\n".join(",".join(reversed(line.split(","))) for line in text.splitlines()),
        lambda text: "\n".join(f"{line},note {number}" for number, line in enumerate(text.splitlines())),
        lambda text: text.replace("value_date", " Value_Date ") + "\n\n",
    ],
    ids=["byte order mark", "semicolons", "tabs", "CRLF", "quoted", "other order", "more columns", "blanks"],
)
def test_a_list_is_taken_as_programs_write_it(
    sides: Sides, tmp_path: Path, written: Callable[[str], str]
) -> None:
    """Spreadsheets and exports of a bank differ in form; none of it is a break, or a line that is skipped."""
    file = tmp_path / "core.csv"
    file.write_bytes(written(sides.core_file.read_text(encoding="utf-8").replace("\r", "")).encode())
    copy = Sides(sides.folder, sides.core)
    said = reconciled(copy, copy.ledger, copy.south, more=("--core", str(file)), core=False)
    assert said["breaks"] == []
    assert next(one["records"] for one in said["sides"] if one["what"] == "core") == len(sides.core)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("", "line 1: it is empty; write the names of the columns: value_date,core_reference"),
        (",".join(HEADER[:-1]), "line 1: there is no column status; add it"),
        (",".join((*HEADER, "box")), "line 1: the column box stands there 2 times; leave one"),
    ],
)
def test_a_header_that_is_not_as_it_must_be_is_named_with_its_mend(
    sides: Sides, tmp_path: Path, header: str, said: str
) -> None:
    """A column that is taken for another one makes breaks of every line."""
    file = tmp_path / "core.csv"
    file.write_text(header and f"{header}\n")
    arguments = ["reconcile", "--core", str(file), "--hub", str(sides.folder / "hub.toml")]
    done = CliRunner().invoke(main, [*arguments, "--workspace", str(tmp_path / "reconcile.db")])
    assert (done.exit_code, said in done.output) == (2, True), done.output


def test_what_is_no_side_and_no_workspace_is_refused(sides: Sides, tmp_path: Path) -> None:
    """A file of somebody's is not replaced, and what is no journal is not taken for an empty one."""
    hub = ["--hub", str(sides.folder / "hub.toml"), "--workspace"]
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    done = CliRunner().invoke(main, ["reconcile", *hub, str(other)])
    assert (done.exit_code, other.read_text()) == (2, "mine")
    done = CliRunner().invoke(main, ["reconcile", str(other), *hub, str(tmp_path / "reconcile.db")])
    assert done.exit_code == 2
    assert "is no exported journal" in done.output
    done = CliRunner().invoke(main, ["reconcile", str(tmp_path), *hub, str(tmp_path / "reconcile.db")])
    assert done.exit_code == 3
    assert "holds no ledger" in done.output


def test_the_workspace_answers_in_plain_sql_and_a_person_is_told(sides: Sides, tmp_path: Path) -> None:
    """An auditor's own tools must find what the command has found."""
    copy = sides.copy(tmp_path / "spoiled")
    (expected,) = Planter(copy, "file", Random(5)).missing_in_core()
    copy.write_core()
    workspace = tmp_path / "reconcile.db"
    arguments = ["reconcile", str(copy.journal), "--core", str(copy.core_file), "--workspace", str(workspace)]
    for _ in range(2):  # a workspace may be replaced
        done = CliRunner().invoke(main, [*arguments, "--hub", str(copy.folder / "hub.toml")])
        assert done.exit_code == 1
        assert "missing_in_core: The bank core: post it" in done.output
        ((name, amount_minor, line),) = query(workspace, "SELECT class, amount_minor, core_line FROM break")
        assert (name, amount_minor, line) == ("missing_in_core", expected["amount_minor"], None)
    keys = json.loads(
        CliRunner().invoke(main, [*arguments, "--hub", str(copy.folder / "hub.toml"), "--json"]).output
    )
    words = re.findall(r"\w+", CliRunner().invoke(main, ["reconcile", "--help"]).output)
    assert {*keys, *keys["breaks"][0], *keys["classes"][0]} <= {*words}
    found = "SELECT records FROM summary WHERE what = 'break: missing_in_core'"
    assert query(workspace, found) == [(1,)]
