"""How the collection updates an appliance: the box's own agent does it, and has the last word."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from tests.lab.module_files import fail, load


class Agent:
    """A box's `edgegw update`, by its documented words."""

    def __init__(self, *, newest: str, failed: str = "") -> None:
        self.newest, self.failed, self.armed = newest, failed, ""

    def run(self, words: list[str], *, timeout_s: int = 300) -> SimpleNamespace:
        """One command."""
        if words[:3] == ["edgegw", "update", "status"]:
            said = {"version": "0.1.0", "target": self.armed, "failed": []}
            if self.failed:
                said["failed"] = [{"version": self.failed, "why": "it did not open the ledger"}]
            return SimpleNamespace(code=0, out=json.dumps(said), told="")
        assert words[:5] == ["edgegw", "update", "check", "--now", "--no-reboot"]
        wanted = words[words.index("--version") + 1] if "--version" in words else self.newest
        if wanted == self.failed:
            return SimpleNamespace(code=1, out="", told=f"{wanted} failed here before")
        self.armed = wanted
        return SimpleNamespace(code=0, out="", told="")


def update(agent: Agent, monkeypatch: pytest.MonkeyPatch, version: str) -> Any:
    """What the module says of this box."""
    module = load("edgegw_update", monkeypatch)
    monkeypatch.setattr(module, "run", agent.run)
    asked = SimpleNamespace(params={"version": version, "fetch_s": 7200}, check_mode=False, fail_json=fail)
    return module.update_appliance(asked)


def test_a_box_takes_the_version_that_the_canaries_have_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that was published meanwhile would go to all boxes, tried by none."""
    agent = Agent(newest="0.3.0")
    assert update(agent, monkeypatch, "0.2.0")["outcome"] == "installed"
    assert agent.armed == "0.2.0"


def test_a_version_that_failed_on_a_box_is_told_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """The record of the rollout must say what the box knows."""
    said = update(Agent(newest="0.2.0", failed="0.2.0"), monkeypatch, "0.2.0")
    assert said["outcome"] == "failed"
    assert said["reason"] == "it did not open the ledger"
