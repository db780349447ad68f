"""The auditor's verifier finds every edit at its record and calls no clean log bad: the short form."""

import pytest

from edgegw import verifier
from tests.audit import edits


def nothing(_: int) -> None:
    """Nobody looks on."""


def test_every_edit_is_found_at_its_record() -> None:
    """Who changes, drops, moves or signs anew one record of hundreds is told which one it was."""
    found = edits.try_edits(620, 11, nothing)
    assert found["missed"] == []
    assert found["found"] == 620
    assert found["placed"] > 250
    assert set(found["classes"]) == {edit.__name__ for edit in edits.EDITS}


def test_no_clean_log_is_called_bad() -> None:
    """An alarm that rings for nothing is switched off: all shapes, epochs, receipts and pairs verify."""
    clean = edits.try_clean(60, 11, nothing)
    assert clean["alarms"] == []
    assert min(clean["clean"], clean["receipts"], clean["pairs"]) >= 60


def test_the_edits_tell_a_verifier_that_looks_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verifier that compares no leaves, or no signature, is found out: the edits are not for show."""
    monkeypatch.setattr(verifier.Scan, "compare", lambda *_: None)
    assert edits.try_edits(62, 11, nothing)["missed"]
    monkeypatch.undo()
    monkeypatch.setattr(verifier, "sm2_verify", lambda *_: True)
    assert edits.try_edits(62, 11, nothing)["missed"]
