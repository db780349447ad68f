"""Plants a fault in a copy of the source and runs the tests that must find it.

The copy is of the tracked files, in a directory of its own, with this very interpreter: whatever imports
`edgegw` there must get the copy (`bites`), or a plant would be looked for in the sound tree. Leaves out which
faults there are (`plants`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tests.proof.figures import FIGURES
from tests.proof.machine import ROOT

FAILED: Final = 1
"""pytest's status when tests ran and some failed; any other is no finding."""
TIMEOUT_S: Final = 1_200


class Edit(NamedTuple):
    """A text that stands exactly once in a file, and what it becomes."""

    file: str
    old: str
    new: str


class Plant(NamedTuple):
    """A fault, and the tests that must go red."""

    name: str
    harm: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]


class Gone(Exception):
    """The text that a plant replaces is no longer what the file says: the plant must follow the code."""


def grown(edit: Edit, source: str) -> str:
    """The source with the fault; raises Gone unless its text stands there exactly once."""
    count = source.count(edit.old)
    if count != 1:
        raise Gone(f"{edit.file}: this text stands there {count} times, not once: {edit.old!r}")
    return source.replace(edit.old, edit.new)


class Copy:
    """The tracked files of the tree below a directory."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        for name in _tracked():
            target = home / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)

    def bites(self) -> bool:
        """Whether a program in the copy, and one that it starts elsewhere, runs the copy's package."""
        script = "import edgegw, tests.proof.planting as p; print(edgegw.__file__, p.__file__)"
        for place in (self.home, self.home.parent):
            done = self._run(place, "-c", script)
            if not all(Path(path).is_relative_to(self.home) for path in done.stdout.split()):
                return False
        return True

    def check(self, tests: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run tests of the copy until the first that fails."""
        return self._run(self.home, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests)

    def finds(self, plant: Plant) -> tuple[bool, str]:
        """Plant, run its tests, take the plant out; whether a test went red, and what pytest said.

        Raises Gone.
        """
        files = {edit.file: (self.home / edit.file).read_text(encoding="utf-8") for edit in plant.edits}
        faulty = dict(files)
        for edit in plant.edits:
            faulty[edit.file] = grown(edit, faulty[edit.file])
        try:
            for file, source in faulty.items():
                (self.home / file).write_text(source, encoding="utf-8")
            done = self.check(plant.tests)
        finally:
            for file, source in files.items():
                (self.home / file).write_text(source, encoding="utf-8")
        return done.returncode == FAILED, done.stdout[-2_000:] + done.stderr[-2_000:]

    def _run(self, place: Path, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != FIGURES}
        environment |= {"PYTHONPATH": str(self.home), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            [sys.executable, *words],
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )


def _tracked() -> list[str]:
    """Every file of the tree that git knows, and those that are not added yet."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]
