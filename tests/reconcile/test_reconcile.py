"""Sides that agree give no break; whatever an outsider changes is found, by its class, just where it is."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgegw.__main__ import main
from tests.reconcile.planter import APART, PLANTS, Expected, Planter
from tests.reconcile.sides import Sides, make_sides

SEEDS = range(3)


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Sides:
    """Three sides that agree; every test works on copies."""
    return make_sides(tmp_path_factory.mktemp("sides") / "clean")


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
        said = reconciled(copy, north, planter.south_path, more=("--suspense-hours", "0"))
        assert unexpected(said["breaks"], expected) == ([], []), (names, medium, seed)


@pytest.mark.parametrize("medium", ["directory", "file"])
def test_sides_that_agree_give_no_break(sides: Sides, medium: str) -> None:
    """An alarm that rings for stand-ins, holds, refusals or a line that is down is switched off."""
    said = reconciled(sides, sides.ledger if medium == "directory" else sides.journal, sides.south)
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


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(st.sampled_from(PLANTS), min_size=2, max_size=8, unique=True),
    medium=st.sampled_from(["directory", "file"]),
    seed=st.integers(0, 2**16),
)
def test_any_breaks_are_found_together(sides: Sides, names: list[str], medium: str, seed: int) -> None:
    """Whatever an outsider combines, each is found once and nothing else is."""
    if not any(set(pair) <= set(names) for pair in APART):
        planted(sides, names, medium, seed)
