"""The enrolment of a plain server over a line that breaks before the hub's answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.lab.module_files import load


class _Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def told(self) -> str:
        return self.out + self.err


class _Module:
    """A module whose end is an exception."""

    check_mode = False

    def __init__(self, folder: Path) -> None:
        self.params = {"claim": "a claim", "branch": "", "place": "files", "folder": str(folder)}
        self.params |= {"program": "edgegw", "user": "edgegw"}

    def exit_json(self, **told: object) -> None:
        raise SystemExit(str(told["said"]))

    def fail_json(self, msg: str) -> None:
        raise SystemExit(msg)


@pytest.mark.parametrize(
    ("answers", "asked", "said"),
    [
        ([(3, "no answer in time"), (0, "b/box-1 is enrolled")], 2, "b/box-1 is enrolled"),
        ([(3, "the hub refuses (claim_used): another device")], 1, "the box is not enrolled"),
        ([(2, "box.toml: it is wrong")], 1, "the box is not enrolled"),
    ],
)
def test_a_lost_answer_is_asked_for_with_the_same_claim(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answers: list[tuple[int, str]], asked: int, said: str
) -> None:
    """The hub had bound the machine's keys, and the next run brought another claim: that one was refused for
    keys that are bound, for good."""
    module, texts = load("edgegw_enrol", monkeypatch), []

    def run(_: object, *, text: str, **__: object) -> _Done:
        texts.append(text)
        code, word = answers[len(texts) - 1]
        return _Done(code, word, "")

    def wait_for(condition: Callable[[], bool], *_: object, **__: object) -> bool:
        return any(condition() for _ in range(3))

    shared: dict[str, Any] = {"run": run, "wait_for": wait_for, "Done": _Done, "PROGRAM": {}, "USER": {}}
    for name, value in shared.items():
        monkeypatch.setattr(module, name, value, raising=False)
    monkeypatch.setattr(module, "AnsibleModule", lambda **_: _Module(tmp_path))
    with pytest.raises(SystemExit, match=said):
        module.main()
    assert texts == ["a claim\n"] * asked
