"""The collection's molecule scenarios on hosts made for them: `python -m tests.lab.scenarios [NAME...]`.

Needs root, as the hosts do. Each scenario prepares what it needs; one after the other they share the hosts.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.lab.controller import ANSIBLE, TOOLS, Controller
from tests.lab.fleet import Fleet
from tests.lab.skips import FLEET, why_not
from tests.lab.wheels import other_version

FOLDER: Final = ANSIBLE / "extensions/molecule"
HOSTS: Final = {
    "hub": "10.99.0.10",
    "box-1": "10.99.0.11",
    "hub-2": "10.99.0.13",
    "mirror-1": "10.99.0.14",
    "monitor": "10.99.0.15",
}
NAMES: Final = tuple(sorted(path.parent.name for path in FOLDER.glob("*/molecule.yml")))
_NEXT: Final = "0.1.0+1"


class Scenarios:
    """Hosts that run, and molecule beside them."""

    def __init__(self, controller: Controller) -> None:
        """Make the two releases that scenarios name."""
        self._controller = controller
        release = controller.release(python="3.13")
        wheel = other_version(controller.wheel_of(release), _NEXT, controller.folder)
        after = controller.release(python="3.13", wheel=wheel)
        self._releases = {"EDGEGW_RELEASE": str(release), "EDGEGW_RELEASE_NEXT": str(after)}

    def test(self, name: str) -> None:
        """Run one whole: prepare, converge, idempotence, verify; AssertionError tells what it said."""
        command = [str(TOOLS / "molecule"), "test", "--scenario-name", name]
        self._controller.beside(command, name=f"molecule-{name}", **self._releases)


@contextmanager
def running(folder: Path) -> Iterator[Scenarios]:
    """The hosts, for a block; folder: for logs."""
    from firmware import roots

    (folder / "run").mkdir()
    fleet = Fleet(roots.ready("lab-services").path, folder / "run", HOSTS)
    fleet.start()
    try:
        yield Scenarios(Controller.of(fleet, folder))
    finally:
        fleet.stop()


def main() -> int:
    """Run the scenarios that are named, or all; 0 where each passes."""
    if reason := why_not(FLEET):
        print(reason, file=sys.stderr)
        return 3
    names = sys.argv[1:] or list(NAMES)
    if unknown := set(names) - set(NAMES):
        print(
            f"no such scenario: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}", file=sys.stderr
        )
        return 2
    failed = 0
    with tempfile.TemporaryDirectory(prefix="edgegw-molecule-") as folder, running(Path(folder)) as scenarios:
        for name in names:
            began = time.monotonic()
            try:
                scenarios.test(name)
                said = "passed"
            except AssertionError as problem:
                print(problem)
                said, failed = "failed", failed + 1
            print(f"{name}: {said} in {time.monotonic() - began:.0f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
