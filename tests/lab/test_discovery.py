"""Discovery on a network of its own: `tests/discovery/on_a_network.py` in a namespace with loopback alone."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.skips import NETWORK, needs

ROOT = Path(__file__).parents[2]
INSIDE = "tests/discovery/on_a_network.py"
SET_UP = 'ip link set lo up multicast on && ip route add 224.0.0.0/4 dev lo && exec "$@"'


@pytest.mark.lab
@pytest.mark.timeout(300)
@needs(NETWORK)
def test_boxes_and_mirrors_find_each_other_and_believe_nobody() -> None:
    """A flood, a liar, an impostor and two boxes of one name: none of them on a network of this machine."""
    tests = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", INSIDE)
    command = ["unshare", "--net", "sh", "-c", SET_UP, "sh", *tests, "--import-mode=importlib"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-2_000:]
