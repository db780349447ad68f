"""What a machine cannot run of the lab has its reason in one list."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.lab import skips

HERE = Path(__file__).parent
SKIPPING = {"skip", "skipif", "importorskip", "xfail"}


@pytest.mark.parametrize("path", sorted(HERE.glob("*.py")), ids=lambda path: path.name)
def test_no_test_of_the_lab_skips_by_a_reason_of_its_own(path: Path) -> None:
    """A reason that is not in the list is one that nobody weighs against what the lab promises."""
    if path == Path(skips.__file__):
        return
    nodes = ast.walk(ast.parse(path.read_text("utf-8")))
    called = [node.func for node in nodes if isinstance(node, ast.Call)]
    own = [func.lineno for func in called if isinstance(func, ast.Attribute) and func.attr in SKIPPING]
    assert own == []


def test_a_missing_program_is_named_with_its_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads the reason knows what to install."""
    monkeypatch.setattr(skips.shutil, "which", lambda _: None)
    reason = skips.why_not.__wrapped__(skips.RULES)
    assert "promtool" in reason
    assert "prometheus" in reason
