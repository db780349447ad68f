"""A disk whose fsync takes 5 or 50 ms: the box goes on answering, many at a time, and loses nothing.

strace holds the committing thread of a real process in its fdatasync. Commands: as for any test.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash import machine
from tests.crash.paying_child import IN_A_ROW
from tests.crash.traced import Child, Tracer
from tests.proof.figures import note

CLIENTS = 32
SLOW_US = {"5 ms": 5_000, "50 ms": 50_000}


@pytest.mark.parametrize("delay", SLOW_US)
def test_a_slow_disk_makes_batches_larger_and_loses_nothing(tmp_path: Path, delay: str) -> None:
    """One fsync a payment would let a branch with a slow disk answer twenty of them a second."""
    machine.need_strace()
    child = Child(tmp_path / "box", wal_pages=1_000)
    harm = f"inject=fdatasync:delay_exit={SLOW_US[delay]}"
    tracer = Tracer(child.commit_thread, tmp_path / "strace.log", "-e", "trace=fdatasync", "-e", harm)
    before = child.batches
    child.order("crowd", CLIENTS)
    tracer.end(gone=child.gone)
    batches = child.batches - before
    assert child.end() < 0
    print(f"{child.paid} payments in {batches} batches with an fsync of {delay}")
    wrong = child.wrong()
    of = delay.replace(" ", "_")
    note(**{f"paid_{of}": child.paid, f"batches_{of}": batches, f"wrong_{of}": len(wrong)})
    assert tracer.injected >= batches > 0
    assert child.errors == []
    assert child.paid == CLIENTS * IN_A_ROW
    assert batches * 4 <= child.paid
    assert wrong == []
