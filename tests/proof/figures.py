"""How a long run hands its figures to the runner of the proofs.

A test calls `note`; a command prints one JSON object as its last line. Both are read here. Leaves out what is
asked of a figure (`steps`).
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

FIGURES = "EDGEGW_FIGURES"
"""The environment's word for the file that `note` appends to; where it is not set, nobody asks."""
LACKS = "lacks"
"""The figure that says what the machine cannot do: a reason on the list of `tests/crash/machine.py`."""

Figures = dict[str, object]
_PASSED = re.compile(r"^=*\s*(?:(?P<failed>\d+) failed, )?(?P<passed>\d+) passed\b", re.MULTILINE)


def note(**figures: object) -> None:
    """Hand figures over, by name; a name that was noted before has its later value."""
    path = os.environ.get(FIGURES)
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(figures) + "\n")


def noted(path: Path) -> Figures:
    """What tests have noted in a file; nothing when there is none."""
    found: Figures = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            found |= json.loads(line)
    return found


def printed(output: str) -> Figures:
    """The JSON object on the last line of an output, or how many tests pytest says have passed."""
    lines = output.strip().splitlines()
    if lines and lines[-1].startswith("{"):
        try:
            found = json.loads(lines[-1])
        except json.JSONDecodeError:
            return {}
        return dict(found)
    counts = _PASSED.search(output)
    return {} if counts is None else {"passed": int(counts["passed"]), "failed": int(counts["failed"] or 0)}
