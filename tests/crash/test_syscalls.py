"""A box that is killed, or whose disk fails, at a system call of a payment: nothing that was told is lost.

strace counts a thread's calls and does its harm at the n-th; the box is a real process. Short: a seeded
sample. Long, every call of the loop's and the committing thread, some minutes:
    pytest -m slow tests/crash/test_syscalls.py -s
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.crash import machine
from tests.crash.traced import PAYMENTS, Child, Tracer
from tests.proof.figures import note

SHORT_SEED = 5
SHORT_KILLS, SHORT_ERRORS = 4, 4
UNEVEN = {"futex", "epoll_wait"}
"""Calls that wait: how many there are is the scheduler's business, so the last ones may not come."""
TRIES = 4
"""A call that does not come is waited for in so many boxes: each wakes up in its own way."""
DISK_CALLS = ("pread64", "pwrite64", "fdatasync", "ftruncate", "fcntl", "fstat")
NO_ROOM_CALLS = ("pwrite64", "ftruncate")


class Point(NamedTuple):
    """Where harm is done: a thread, the n-th of its calls of this name, and the harm in strace's words."""

    thread: str
    call: str
    number: int
    harm: str

    def __str__(self) -> str:
        return f"{self.harm} at {self.call} {self.number} of the {self.thread}"


def disk_paths(home: Path) -> list[str]:
    """Only calls on these are made to fail: the ledger's disk is what fails, not the process's pipes."""
    data = home / "data"
    names = ("ledger.db", "ledger.db-wal", "ledger.db-shm")
    return [option for name in names for option in ("-P", str(data / name))]


def points(place: Path) -> tuple[list[Point], list[Point]]:
    """Every call of a few payments, of which one makes a checkpoint: to be killed at, and to be failed."""
    kills, errors = [], []
    for thread in ("loop", "commit"):
        for only_disk in (False, True):
            child = Child(place / f"{thread}-{only_disk}")
            tracer = _tracer(child, thread, *(disk_paths(child.home) if only_disk else ()))
            child.order("pay", PAYMENTS)
            tracer.end(gone=child.gone)
            child.end()
            for call, count in sorted(tracer.calls.items()):
                numbers = range(1, count + 1)
                if not only_disk:
                    kills += [Point(thread, call, n, "signal=KILL") for n in numbers]
                    continue
                errors += [Point(thread, call, n, "error=EIO") for n in numbers if call in DISK_CALLS]
                errors += [Point(thread, call, n, "error=ENOSPC") for n in numbers if call in NO_ROOM_CALLS]
    return kills, errors


def _tracer(child: Child, thread: str, *options: str) -> Tracer:
    number = child.loop_thread if thread == "loop" else child.commit_thread
    return Tracer(number, child.home / "strace.log", *options)


def harmed(home: Path, point: Point) -> tuple[bool, list[str], list[str]]:
    """Whether the harm was done, what the clients were told instead of an answer, and what is wrong."""
    child = Child(home)
    # The call must be traced, or strace does nothing to it and says nothing.
    options = ["-e", f"trace={point.call}", "-e", f"inject={point.call}:{point.harm}:when={point.number}"]
    if point.harm.startswith("error"):
        options += disk_paths(home)
    tracer = _tracer(child, point.thread, *options)
    child.order("pay", PAYMENTS)
    tracer.end(gone=child.gone)
    child.end()
    wrong = child.wrong()
    if not child.gone and child.paid + len(child.errors) < PAYMENTS:
        wrong.append("a payment was neither answered nor failed")
    return tracer.injected > 0, child.errors, wrong


def play(place: Path, chosen: list[Point]) -> None:
    """Do every harm to a box of its own, and judge what each leaves."""
    idle, failures = [], []
    for index, point in enumerate(chosen):
        for again in range(TRIES):
            bit, errors, wrong = harmed(place / f"{index}-{again}", point)
            print(
                f"{point}: {'bit' if bit else 'did not come'}; told {errors or 'answers alone'}", flush=True
            )
            failures += [f"{point}: {what}" for what in wrong]
            if bit:
                break
        else:
            idle.append(point)
    done = Counter(point.harm.partition("=")[2].lower() for point in chosen if point not in idle)
    note(**done, did_not_come=len(idle), wrong=len(failures))
    assert not failures, "\n".join(failures)
    assert [str(point) for point in idle if point.call not in UNEVEN] == []
    assert len(idle) <= len(chosen) // 10, "most of the harm was never done"


def some(points: list[Point], count: int, rng: random.Random) -> list[Point]:
    """So many of them, of as many kinds; the commonest call must not be all that is tried."""
    kinds = sorted({(point.thread, point.call, point.harm) for point in points})
    rng.shuffle(points)
    one_of_each = {(point.thread, point.call, point.harm): point for point in points}
    return [one_of_each[kind] for kind in rng.sample(kinds, count)]


def test_a_killed_or_failed_call_loses_no_answer(tmp_path: Path) -> None:
    """A sample of all calls: the box must come back with what it told, whichever call was its last."""
    machine.need_strace()
    kills, errors = points(tmp_path / "profile")
    rng = random.Random(SHORT_SEED)
    kills = [point for point in kills if point.call not in UNEVEN]
    print(f"seed {SHORT_SEED}: {len(kills)} calls to be killed at, {len(errors)} to be failed")
    play(tmp_path, some(kills, SHORT_KILLS, rng) + some(errors, SHORT_ERRORS, rng))


def test_a_failed_fsync_ends_the_process_and_promises_nothing(tmp_path: Path) -> None:
    """After a failed fsync the kernel may have thrown the pages away: to try again is to lie."""
    machine.need_strace()
    child_home = tmp_path / "box"
    bit, errors, wrong = harmed(child_home, Point("commit", "fdatasync", 1, "error=EIO"))
    assert bit
    assert set(errors) == {"outcome_unknown"}
    assert wrong == []


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_every_call_of_a_payment_may_be_the_last(tmp_path: Path) -> None:
    """The long run: SIGKILL at each call of both threads."""
    machine.need_strace()
    play(tmp_path, points(tmp_path / "profile")[0])


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_every_call_to_the_disk_may_fail(tmp_path: Path) -> None:
    """The long run: EIO and ENOSPC at each call on the ledger's files."""
    machine.need_strace()
    play(tmp_path, points(tmp_path / "profile")[1])
