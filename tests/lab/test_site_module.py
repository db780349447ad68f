"""What the module that publishes a site says before anything is published."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.lab.module_files import load


@pytest.mark.parametrize(("version", "changes"), [(3, False), (4, True)])
@pytest.mark.parametrize("name", ["site.json", "site.toml"])
def test_check_mode_knows_a_newer_version_in_either_form(
    monkeypatch: pytest.MonkeyPatch, name: str, version: int, changes: bool
) -> None:
    """Settings in TOML were said to change nothing, whatever they held."""
    module = load("edgegw_site", monkeypatch)
    src = str(Path("/var/lib/edgegw", name))

    def run(words: list[str], **_: object) -> SimpleNamespace:
        checked = f"{src}: sound; version {version}, 2 accounts\n"
        listed = '{"versions": [{"version": 3, "digest": "d"}]}'
        out = checked if "check" in words else listed
        return SimpleNamespace(code=0, out=out, told=out)

    told: dict[str, Any] = {}
    params = {"src": src, "settings": "hub.toml", "program": "edgegw", "user": "edgegw"}
    one = SimpleNamespace(params=params, check_mode=True, exit_json=told.update)
    monkeypatch.setattr(module, "run", run)
    for shared in ("PROGRAM", "USER"):
        monkeypatch.setattr(module, shared, {})
    monkeypatch.setattr(module, "AnsibleModule", lambda **_: _Ending(one))
    with pytest.raises(SystemExit):
        module.main()
    assert (told["changed"], told["newest"]) == (changes, 3)


class _Ending:
    """A module whose `exit_json` ends it."""

    def __init__(self, one: SimpleNamespace) -> None:
        self.params, self.check_mode, self._tell = one.params, one.check_mode, one.exit_json

    def exit_json(self, **told: object) -> None:
        self._tell(told)
        raise SystemExit
