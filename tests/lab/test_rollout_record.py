"""What the controller keeps of a rollout, and what comes back when a stop is taken back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.lab.module_files import Failed, fail, load


class Ended(Exception):
    """What `exit_json` does to a module."""


@pytest.fixture
def rollout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """One action of the module on the record of version 0.2.0."""
    module = load("edgegw_rollout", monkeypatch)
    monkeypatch.setattr(module, "write_whole", lambda path, text: path.write_text(text, encoding="utf-8"))

    def ended(**_: object) -> None:
        raise Ended

    def act(action: str, **more: object) -> None:
        told = {"version": "0.2.0", "directory": str(tmp_path), "canary": False, "before": "", "reason": ""}
        limits = {"hosts": [], "failed_max": 0, "unreachable_percent_max": 20}
        params = {**told, **limits, **more}

        def stopped(msg: str, **_: object) -> None:
            fail(msg)

        one = SimpleNamespace(params=params, check_mode=False, fail_json=stopped, exit_json=ended)
        with pytest.raises(Ended):
            getattr(module.Rollout(one), action)()

    return act


def test_a_stop_that_is_taken_back_does_not_stop_the_first_batch_again(
    tmp_path: Path, rollout: Callable[..., Any]
) -> None:
    """The host that stopped it stood in a later batch, to which no run ever came again."""
    hosts = ["branch-1", "branch-2", "branch-3"]
    rollout("note", host="branch-1", outcome="updated")
    rollout("note", host="branch-2", outcome="unreachable")
    rollout("note", host="branch-3", outcome="rolled_back", reason="it did not start")
    with pytest.raises(Failed, match="branch-3: rolled_back"):
        rollout("gate", hosts=hosts)
    with pytest.raises(Failed, match="was stopped at"):
        rollout("check")
    rollout("again")
    rollout("check")
    rollout("note", host="branch-1", outcome="unchanged")
    rollout("gate", hosts=hosts)
    kept = {path.name: json.loads(path.read_text())["outcome"] for path in (tmp_path / "0.2.0").iterdir()}
    assert kept == {"branch-1.json": "updated"}


def test_who_was_away_stays_on_record_where_nothing_was_stopped(
    tmp_path: Path, rollout: Callable[..., Any]
) -> None:
    """In a later batch of the run that takes a stop back, the hosts of its first one count."""
    rollout("note", host="branch-2", outcome="unreachable")
    rollout("again")
    assert (tmp_path / "0.2.0/branch-2.json").exists()
