"""Modules of the collection without Ansible, whose parts are on a controller alone."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

_MODULES = Path(__file__).resolve().parents[2] / "ansible/plugins/modules"
_SHARED = "ansible_collections.edgegw.fleet.plugins.module_utils.program"
_NAMES = (
    "PROGRAM",
    "USER",
    "AnsibleModule",
    "Done",
    "Health",
    "box_health",
    "point",
    "run",
    "service_state",
    "wait_for",
    "write_whole",
)


class Failed(Exception):
    """What `fail_json` does to a module."""


def fail(msg: str) -> None:
    """In place of `fail_json`."""
    raise Failed(msg)


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of the collection; what it would have of the others is None until a test gives it."""
    for other in ("ansible", "ansible.module_utils", "ansible.module_utils.basic", _SHARED):
        stand_in = ModuleType(other)
        for word in _NAMES:
            setattr(stand_in, word, None)
        monkeypatch.setitem(sys.modules, other, stand_in)
    spec = importlib.util.spec_from_file_location(name, _MODULES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
