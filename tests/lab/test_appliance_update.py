"""How the collection updates an appliance: the box's own agent does it, and has the last word."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.lab.module_files import fail, load

NOW = "0.1.0"


class Agent:
    """A box's `edgegw update`, by its documented words."""

    def __init__(self, *, newest: str, failed: str = "", hindered: tuple[str, ...] = ()) -> None:
        """hindered: how its first looks end."""
        self.newest, self.failed, self.armed = newest, failed, ""
        self._hindered = list(hindered)

    def run(self, words: list[str], *, timeout_s: int = 300) -> SimpleNamespace:
        """One command."""
        if words[:3] == ["edgegw", "update", "status"]:
            return SimpleNamespace(code=0, out=word(NOW, target=self.armed, failed=self.failed), told="")
        assert words[:6] == ["edgegw", "update", "check", "--now", "--no-reboot", "--json"]
        wanted = words[words.index("--version") + 1] if "--version" in words else self.newest
        if self._hindered:
            return looked(self._hindered.pop(0), "not now", code=3)
        if wanted == self.failed:
            return looked("refused", f"{wanted} failed here before", code=1)
        self.armed = wanted
        return looked("armed", version=wanted)


def looked(end: str, said: str = "", *, version: str = "", code: int = 0) -> SimpleNamespace:
    """How a look ends: below a line of the agent's log."""
    told = json.dumps({"end": end, "said": said, "hint": "", "version": version})
    return SimpleNamespace(code=code, out=f"installing percent=100\n{told}\n", told=told)


def word(version: str, *, phase: str = "idle", target: str = "", failed: str = "") -> str:
    """What `edgegw update status` says."""
    given_up = [{"version": failed, "why": "it did not open the ledger"}] if failed else []
    return json.dumps({"version": version, "phase": phase, "target": target, "failed": given_up})


def at_once(condition: Callable[[], bool], timeout_s: float, *, pause_s: float = 0) -> bool:
    """In place of `wait_for`: nothing pauses, and so many questions are as many seconds."""
    return any(condition() for _ in range(int(timeout_s)))


def asked(version: str) -> SimpleNamespace:
    """The module's side towards Ansible."""
    params = {"version": version, "fetch_s": 3, "health_s": 5}
    return SimpleNamespace(params=params, check_mode=False, fail_json=fail)


def update(agent: Agent, monkeypatch: pytest.MonkeyPatch, version: str) -> Any:
    """What the module says of this box."""
    module = load("edgegw_update", monkeypatch)
    monkeypatch.setattr(module, "run", agent.run)
    monkeypatch.setattr(module, "wait_for", at_once)
    return module.update_appliance(asked(version))


def verdict(words: list[str], monkeypatch: pytest.MonkeyPatch, version: str) -> Any:
    """What the module says after the reboot, by the box's words one after the other; the last one stays."""
    module, left = load("edgegw_update", monkeypatch), list(words)

    def run(_: list[str]) -> SimpleNamespace:
        return SimpleNamespace(code=0, out=left.pop(0) if left[1:] else left[0], told="")

    monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(module, "wait_for", at_once)
    return module.verify_appliance(asked(version))


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


def test_a_look_of_the_agent_or_a_closing_window_fails_no_canary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both pass by themselves; the version would be stopped for all boxes, tried by none."""
    agent = Agent(newest="0.2.0", hindered=("busy", "waits"))
    assert update(agent, monkeypatch, "0.2.0")["outcome"] == "installed"
    said = update(Agent(newest="0.2.0", hindered=("busy",) * 9), monkeypatch, "0.2.0")
    assert (said["outcome"], said["reason"]) == ("failed", "not now")


def test_a_play_that_is_started_again_does_not_restart_a_box_in_its_trial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The restart would end the trial without a verdict, and the box would be back on the version before."""
    agent = Agent(newest="0.2.0", hindered=("trial",))
    assert update(agent, monkeypatch, "0.2.0")["outcome"] == "trial"


def test_a_box_that_leaves_a_failed_trial_is_not_taken_for_updated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its verdict and its restart the box runs the version, and nothing is under way."""
    leaving = word("0.2.0", failed="0.2.0")
    words = [word(NOW, phase="trial", target="0.2.0"), leaving, leaving, word(NOW, failed="0.2.0")]
    said = verdict(words, monkeypatch, "0.2.0")
    assert (said["outcome"], said["after"]) == ("rolled_back", NOW)
    assert said["reason"] == "it did not open the ledger"


def test_a_kept_trial_is_an_update_and_one_without_a_verdict_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent's commit alone says that a version is well there."""
    trial = word("0.2.0", phase="trial", target="0.2.0")
    assert verdict([trial, word("0.2.0")], monkeypatch, "0.2.0")["outcome"] == "updated"
    said = verdict([trial], monkeypatch, "0.2.0")
    assert said["outcome"] == "failed"
    assert "no verdict within 5 s (trial)" in said["reason"]


def test_a_gate_in_check_mode_finds_nobody_tried_and_nobody_away(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing is written down then; whoever asked what a run would do was told that no canary was reached."""
    module, ended = load("edgegw_rollout", monkeypatch), []
    params = {"version": "0.2.0", "directory": str(tmp_path), "hosts": ["box-1"], "canary": True}
    params |= {"failed_max": 0, "unreachable_percent_max": 20}
    asked = SimpleNamespace(params=params, check_mode=True, exit_json=lambda **said: ended.append(said))
    module.Rollout(asked).gate()
    assert ended == [{"changed": False, "outcomes": {}}]


def test_the_version_of_an_appliance_is_its_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An audit's verdict that names no version says less than it should."""
    module = load("edgegw_status", monkeypatch)
    program, image = tmp_path / "edgegw/current/bin/edgegw", tmp_path / "image.json"
    (tmp_path / "edgegw").mkdir()
    (tmp_path / "edgegw/current").symlink_to("0.1.0")
    assert module.version_in_use(program, image=image) == "0.1.0"
    image.write_text(json.dumps({"version": "0.1.0+2"}))
    assert module.version_in_use(Path("/usr/bin/edgegw"), image=image) == "0.1.0+2"
