"""What every test shares: how hypothesis draws cases, the lock that lets a `serial` test run alone, and the
end of the PostgreSQL that the first test which needs one has started."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
from _pytest.nodeid import NodeId
from hypothesis import HealthCheck, settings

from tests import compiled_sql
from tests.postgres_server import end_server, fast_folder

# The same cases on every run: what is red here is red everywhere. Machines are busy: no deadline per case.
settings.register_profile(
    "default", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", settings.get_profile("default"), derandomize=False, max_examples=1_000)
settings.load_profile("default")

# A COMMIT on a disk that others use takes a tenth of a second or a whole one, and tests make thousands.
if (memory := fast_folder()) is not None:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", memory)

compiled_sql.share()

LOCKS = "EDGEGW_TESTS_LOCKS"
MAIN_PID = "EDGEGW_TESTS_MAIN_PID"


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder of locks before the workers start; they inherit its name."""
    if not hasattr(config, "workerinput"):
        os.environ[LOCKS] = tempfile.mkdtemp(prefix="edgegw-tests-")
        os.environ[MAIN_PID] = str(os.getpid())


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let the tests of a group go to one worker: xdist 3.8 notes groups where pytest 9.2 does not look."""
    if not getattr(config.option, "loadgroup", False):
        return
    for item in items:
        mark = item.get_closest_marker("xdist_group")
        if mark is not None and not item.nodeid.endswith(f"@{mark.args[0]}"):
            item._id = NodeId.parse(f"{item.nodeid}@{mark.args[0]}")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove what the workers shared, once they are gone."""
    if not hasattr(config, "workerinput"):
        folder = os.environ.pop(LOCKS)
        end_server(Path(folder))
        shutil.rmtree(folder, ignore_errors=True)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test marked `serial` while no other test runs; its timeout starts when it does."""
    serial = item.get_closest_marker("serial") is not None
    folder = Path(os.environ[LOCKS])
    with (folder / "turn").open("a") as turn:
        # Everyone passes the gate; a serial test holds it while it waits, so that others cannot starve it.
        with (folder / "gate").open("a") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            fcntl.flock(turn, fcntl.LOCK_EX if serial else fcntl.LOCK_SH)
        return (yield)
