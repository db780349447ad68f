"""What every test shares: how hypothesis draws cases, and the lock that lets a `serial` test run alone."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same cases on every run: what is red here is red everywhere. Machines are busy: no deadline per case.
settings.register_profile(
    "default", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", settings.get_profile("default"), derandomize=False, max_examples=1_000)
settings.load_profile("default")

_LOCKS = "EDGEGW_TESTS_LOCKS"


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder of locks before the workers start; they inherit its name."""
    if not hasattr(config, "workerinput"):
        os.environ[_LOCKS] = tempfile.mkdtemp(prefix="edgegw-tests-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the folder of locks once the workers are gone."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(_LOCKS), ignore_errors=True)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test marked `serial` while no other test runs; its timeout starts when it does."""
    serial = item.get_closest_marker("serial") is not None
    folder = Path(os.environ[_LOCKS])
    with (folder / "turn").open("a") as turn:
        # Everyone passes the gate; a serial test holds it while it waits, so that others cannot starve it.
        with (folder / "gate").open("a") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            fcntl.flock(turn, fcntl.LOCK_EX if serial else fcntl.LOCK_SH)
        return (yield)
