"""What is wrong with the copy of a running box is in its log, metrics and status within ten seconds."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.processes import Branch
from tests.waiting import wait_until

WITHIN_S = 10.0
REPLICA = '[replica]\ndrill_hours = 0\n[[replica.targets]]\nname = "disk"\nkind = "file"\ncopy_dir = "copy"\n'


@pytest.fixture
def branch(tmp_path: Path) -> Iterator[Branch]:
    """A box with the settings that an operator does not change, copying."""
    branch = Branch(tmp_path)
    branch.more = REPLICA
    branch.start_hub()
    branch.start_box()
    wait_until(lambda: state_of(branch) == "well", "the copy", timeout_seconds=30)
    wait_until(lambda: branch.pay("alice", 1).status == 201, "the allowance", timeout_seconds=30)
    yield branch
    branch.end()


def state_of(branch: Branch) -> str:
    """The copy's state, as the box says it."""
    return str(branch.call("GET", "/v1/status").json["replica"]["state"])


def litestream_of(branch: Branch) -> psutil.Process:
    """The box's litestream that copies; a drill runs another one."""
    assert branch.box is not None
    children = psutil.Process(branch.box.popen.pid).children()
    (child,) = (one for one in children if "replicate" in one.cmdline())
    return child


def seconds_until_alarm(branch: Branch, state: str, harm: Callable[[], None]) -> float:
    """Do harm, go on paying, and wait for its alarm in status, log and metrics."""
    began_s = time.monotonic()
    harm()

    def alarmed() -> bool:
        assert branch.pay("alice", 1).status == 201, "payments are not hindered"
        return state_of(branch) == state

    wait_until(alarmed, state, timeout_seconds=30)
    lasted_s = time.monotonic() - began_s
    assert branch.box is not None
    event = branch.box.event(f"replica_{state}")
    assert event is not None
    assert event["level"] == "error"
    assert event["hint"]
    if state != "dead":  # That one is over within a second, and its metric may be.
        assert "edgegw_replica_alarm 1.0" in branch.call("GET", "/metrics").body.decode()
    return lasted_s


@pytest.mark.slow
def test_silent_stuck_and_dead_are_each_alarmed_within_ten_seconds(branch: Branch) -> None:
    """An alarm on the next morning tells of a night without a copy."""
    child = litestream_of(branch)
    silent_s = seconds_until_alarm(branch, "silent", lambda: os.kill(child.pid, signal.SIGSTOP))
    os.kill(child.pid, signal.SIGCONT)
    wait_until(lambda: state_of(branch) == "well", "the copy", timeout_seconds=30)

    copy, away = Path(branch.path("copy")), Path(branch.path("away"))

    def block() -> None:
        shutil.move(copy, away)
        copy.write_text("in the way")

    stuck_s = seconds_until_alarm(branch, "stuck", block)
    copy.unlink()
    shutil.move(away, copy)
    wait_until(lambda: state_of(branch) == "well", "the copy", timeout_seconds=60)

    dead_s = seconds_until_alarm(branch, "dead", litestream_of(branch).kill)
    wait_until(lambda: state_of(branch) == "well", "the copy", timeout_seconds=30)
    assert max(silent_s, stuck_s, dead_s) < WITHIN_S, (silent_s, stuck_s, dead_s)
