"""What a machine may lack is a list, and nothing else lets a crash test be left out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.conftest import unlisted
from tests.crash.machine import MAY_LACK

ROOT = Path(__file__).parents[2]
SKIPS = """
import pytest
from tests.crash import machine
def test_listed(): machine.lacks("loop")
def test_unlisted(): pytest.skip("I do not feel like it")
"""


@pytest.mark.parametrize("what", MAY_LACK)
def test_what_is_on_the_list_may_be_lacking(what: str) -> None:
    """A machine without a loop mount must still be able to run the rest."""
    assert not unlisted(f"Skipped: {MAY_LACK[what]}")


def test_a_skip_that_is_not_on_the_list_fails(tmp_path: Path) -> None:
    """A harness that is skipped for a made-up reason looks like a ledger that loses nothing."""
    (tmp_path / "test_skips.py").write_text(SKIPS)
    (tmp_path / "conftest.py").write_text(
        (Path(__file__).parent / "conftest.py").read_text(encoding="utf-8"), encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 failed, 1 skipped" in done.stdout, done.stdout + done.stderr
    assert "not in tests/crash/machine.py" in done.stdout
