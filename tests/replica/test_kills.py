"""The box is killed at ten thousand records a second, again and again: no copy that came is ever malformed.

Before litestream died with its box, three of eight were; before it then began with a whole copy, three of 22.
"""

import asyncio
import random
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from edgegw.replica.copies import CopyError
from tests.proof.figures import note
from tests.replica.kept import Kept
from tests.replica.killed_box import chained
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
KILLS = 20
PER_SECOND = 10_000


def restored(kept: Kept) -> tuple[int, bytes]:
    """The copy's records, after SQLite's check and the chain's."""
    assert asyncio.run(kept.copied_rows()) >= 0
    connection = apsw.Connection(str(kept.data / "restored.db"))
    try:
        return chained(connection)
    finally:
        connection.close()


def run(folder: Path, *, seconds: float, per_second: float) -> subprocess.Popen[bytes]:
    """The box."""
    words = ("-m", "tests.replica.killed_box", str(folder), str(seconds), str(per_second))
    return subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def killed_and_restarted(folder: Path, chance: random.Random) -> tuple[int, int]:
    """Kill a box at a moment of chance; the records of the copy then, 0 for none yet, and after a restart."""
    box = run(folder, seconds=300, per_second=PER_SECOND)
    copy = folder / "copy/ltx/0"
    wait_until(lambda: any(copy.glob("*.ltx")), "the first copy", timeout_seconds=100)
    threshold = chance.randrange(2_000_000, 12_000_000)
    ledger = folder / "data/ledger.db"
    wait_until(lambda: ledger.stat().st_size > threshold, "the moment", timeout_seconds=100)
    box.kill()
    box.wait(timeout=60)
    kept = Kept(folder)
    try:
        at_kill = restored(kept)[0]
    except CopyError:
        at_kill = 0
    kept.writer.close()
    assert run(folder, seconds=4, per_second=2_000).wait(timeout=100) == 0
    kept.reopen()
    live = chained(kept.writer)
    assert restored(kept) == live
    kept.writer.close()
    return at_kill, live[0]


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.timeout(1_200)
def test_no_copy_of_a_box_that_is_killed_at_full_speed_is_malformed(tmp_path: Path) -> None:
    """A copy that is wrong in one of three crashes is worse than none: nobody knows which."""
    chance = random.Random(7)
    sizes: list[int] = []
    for number in range(KILLS):
        at_kill, after = killed_and_restarted(tmp_path / str(number), chance)
        sizes.append(at_kill)
        note(kills=number + 1, without_copy_at_kill=sum(not size for size in sizes))
        assert 0 <= at_kill <= after


@pytest.mark.serial
def test_a_copy_comes_back_whole_after_one_kill(tmp_path: Path) -> None:
    """The short form of the long run."""
    assert killed_and_restarted(tmp_path / "once", random.Random(1))[1] > 0
