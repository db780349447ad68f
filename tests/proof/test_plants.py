"""Faults that are planted must bite, and must not outlive the text that they replace."""

from __future__ import annotations

import pytest

from tests.proof.machine import ROOT
from tests.proof.planting import Copy, Edit, Gone, Plant, grown
from tests.proof.plants import PLANTS, play

CHEAP = ("note-not-verified", "late-grant-kept")
"""Planted at each run of the tests; the others by `python -m tests.proof.plants`."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """The tree, copied once."""
    return Copy(tmp_path_factory.mktemp("plants") / "tree")


def test_what_runs_in_the_copy_is_the_copy(copy: Copy) -> None:
    """A fault that is planted beside what runs is never found, whatever the tests are worth."""
    assert copy.bites()


@pytest.mark.parametrize("one", PLANTS, ids=lambda one: one.name)
def test_the_text_of_every_plant_is_in_the_product(one: Plant) -> None:
    """A plant that no longer fits plants nothing, and proves nothing about the tests."""
    for edit in one.edits:
        assert grown(edit, (ROOT / edit.file).read_text(encoding="utf-8"))
    assert one.tests
    assert [test for test in one.tests if not (ROOT / test.partition("::")[0]).exists()] == []


def test_a_text_that_is_gone_or_twice_there_is_no_plant() -> None:
    """Replaced in a comment or twice, a fault is another fault than the one that is named."""
    for source in ("", "a = 1\na = 1\n"):
        with pytest.raises(Gone, match="once"):
            grown(Edit("file.py", "a = 1", "a = 2"), source)


@pytest.mark.timeout(300)
def test_cheap_faults_are_found_and_the_copy_is_sound_again(copy: Copy) -> None:
    """Tests that stay green with a planted fault protect nothing."""
    before = (copy.home / "edgegw/core/journal.py").read_bytes()
    figures = play([one for one in PLANTS if one.name in CHEAP], copy)
    assert figures == {"planted": 2, "found": 2, "not_found": 0, "gone": 0, "red_without": 0}
    assert (copy.home / "edgegw/core/journal.py").read_bytes() == before


@pytest.mark.timeout(300)
def test_a_fault_that_no_test_sees_is_said(copy: Copy) -> None:
    """The runner must not call a fault found because its tests ran."""
    file = "edgegw/core/card_numbers.py"
    first = (ROOT / file).read_text(encoding="utf-8").splitlines()[0]
    unseen = Plant("unseen", "", (Edit(file, first, f"{first} "),), ("tests/core/test_card_numbers.py",))
    assert play([unseen], copy)["not_found"] == 1
