"""A litestream that dies, falls silent or gets stuck is alarmed, started again, and copies nothing wrong."""

import asyncio
import os
import signal
from pathlib import Path

import psutil
import pytest

from edgegw.config.replica import ReplicaTarget
from edgegw.replica import litestream
from edgegw.replica.progress import Progress
from edgegw.replica.status import State
from tests.replica.kept import SOON_ALARM_MS, Kept, replaced
from tests.waiting import until


async def test_what_is_written_is_at_the_target_and_the_position_says_so(tmp_path: Path) -> None:
    """A copy whose position nobody reads is found missing on the day it is needed."""
    kept = Kept(tmp_path)
    kept.write(200)
    async with kept.running() as keeper:
        await kept.until(State.WELL)
        await kept.until_copied()
        await until(lambda: (keeper.status.lag_seconds, keeper.status.lag_bytes) == (0.0, 0), "no lag")
        assert await kept.copied_rows() == 201
        kept.write(3)
    # A stop in order copies the rest.
    assert await kept.copied_rows() == 204


async def test_a_dead_litestream_is_alarmed_and_the_next_one_copies_what_it_missed(tmp_path: Path) -> None:
    """A copy that stopped in silence looks like one that has nothing to do."""
    kept = Kept(tmp_path)
    kept.write(50)
    async with kept.running() as keeper:
        await kept.until(State.WELL)
        await kept.until_copied()
        os.kill(kept.child_pid, signal.SIGKILL)
        await kept.until(State.DEAD)
        assert "-9" in keeper.status.reason
        kept.write(50)
        await kept.until(State.WELL)
        await kept.until_copied()
        assert (keeper.status.restarts, await kept.copied_rows()) == (1, kept.rows)


async def test_a_silent_litestream_is_alarmed_and_well_again_when_it_answers(tmp_path: Path) -> None:
    """One that hangs holds the WAL, and no process list shows it."""
    kept = Kept(tmp_path, alarm_ms=SOON_ALARM_MS)
    async with kept.running() as keeper:
        await kept.until(State.WELL)
        os.kill(kept.child_pid, signal.SIGSTOP)
        await kept.until(State.SILENT)
        assert "has not answered" in keeper.status.reason
        os.kill(kept.child_pid, signal.SIGCONT)
        await kept.until(State.WELL)
        assert keeper.status.restarts == 0


async def test_a_litestream_that_stays_silent_is_killed_and_replaced(tmp_path: Path) -> None:
    """As long as it hangs nobody can move the WAL, which grows until the disk is full."""
    kept = Kept(tmp_path, alarm_ms=750)
    async with kept.running() as keeper:
        await kept.until(State.WELL)
        frozen = kept.child_pid
        os.kill(frozen, signal.SIGSTOP)
        await kept.until(State.DEAD)
        await kept.until(State.WELL)
        assert keeper.status.restarts >= 1
        assert not psutil.pid_exists(frozen)


async def test_a_copy_that_does_not_move_while_the_ledger_does_is_alarmed(tmp_path: Path) -> None:
    """litestream runs and answers, and the target has been full for a week."""
    kept = Kept(tmp_path, alarm_ms=SOON_ALARM_MS)
    kept.write(10)
    async with kept.running() as keeper:
        await kept.until(State.WELL)
        await kept.until_copied()
        mend = replaced(tmp_path / "copy")
        kept.write(10)
        await kept.until(State.STUCK)
        assert "has not moved" in keeper.status.reason
        assert keeper.status.lag_bytes > 0
        mend()
        await kept.until(State.WELL, timeout_seconds=60)
        await kept.until_copied()
        assert await kept.copied_rows() == kept.rows


async def test_while_litestream_cannot_run_the_wal_stays_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pen leaves the WAL to litestream; without it the WAL would grow until payments stop."""
    monkeypatch.setattr(litestream, "binary", lambda: "/bin/false")
    kept = Kept(tmp_path)
    longest = 0
    async with kept.running() as keeper:
        await kept.until(State.DEAD)
        for _ in range(10):
            size = kept.path.stat().st_size
            kept.write(1_000, bytes_each=4_000)
            await until(lambda size=size: kept.path.stat().st_size > size + 3_500_000, "the box's checkpoint")
            longest = max(longest, keeper.status.wal_bytes)
    # On a busy machine a checkpoint comes late; what must not be is a WAL that holds everything.
    assert kept.path.stat().st_size > 40_000_000 > 32_000_000 > longest


async def test_after_a_stop_in_order_litestream_goes_on_without_a_whole_copy(tmp_path: Path) -> None:
    """A large ledger that is sent whole at every start of the box never arrives over a branch's line."""
    kept = Kept(tmp_path)
    kept.write(2_000)
    async with kept.running():
        await kept.until(State.WELL)
        await kept.until_copied()
    kept.reopen()
    async with kept.running():
        await kept.until(State.WELL)
        await kept.until_copied()
        newest = max((tmp_path / "copy/ltx/0").iterdir())
        assert newest.stat().st_size < kept.path.stat().st_size / 10
        assert await kept.copied_rows() == kept.rows


async def test_after_a_kill_litestream_begins_with_a_whole_copy(tmp_path: Path) -> None:
    """Going on where it was made malformed copies: what it had read was not what the ledger came to hold."""
    kept = Kept(tmp_path)
    kept.write(2_000)
    async with kept.running(in_order=False):
        await kept.until(State.WELL)
        await kept.until_copied()
    kept.reopen()
    kept.write(5)
    async with kept.running():
        await kept.until(State.WELL)
        await kept.until_copied()
        whole = [file for file in (tmp_path / "copy/ltx/0").iterdir() if file.stat().st_size > 500_000]
        assert len(whole) == 2
        assert await kept.copied_rows() == kept.rows


async def test_a_target_that_takes_nothing_gives_way_to_the_next(tmp_path: Path) -> None:
    """The second disk is there for the day the first one is not."""
    (tmp_path / "broken").write_text("no directory")
    broken = ReplicaTarget(name="broken", kind="file", copy_dir=str(tmp_path / "broken/copy"))
    second = ReplicaTarget(name="second", kind="file", copy_dir=str(tmp_path / "second"))
    kept = Kept(tmp_path, broken, second, alarm_ms=SOON_ALARM_MS)
    kept.write(20)
    async with kept.running() as keeper:
        await until(
            lambda: (keeper.status.target, keeper.status.state) == ("second", State.WELL),
            "the second target",
            timeout_seconds=60,
        )
        await kept.until_copied()
        assert await kept.copied_rows(1) == kept.rows


async def test_on_a_full_disk_what_waits_to_be_copied_makes_room_for_payments(tmp_path: Path) -> None:
    """litestream's own files beside the ledger would take the last bytes that payments need."""
    kept = Kept(tmp_path)
    kept.write(100)
    async with kept.running():
        await kept.until(State.WELL)
        await kept.until_copied()
        state = litestream.state_folder(kept.data, kept.targets[0])
        assert state.exists()
        kept.free_bytes = 1 << 20
        await kept.until(State.NO_ROOM)
        await until(lambda: not state.exists(), "litestream's files to go")
        kept.free_bytes = 1 << 40
        await kept.until(State.WELL)
        await kept.until_copied()
        assert await kept.copied_rows() == kept.rows


async def test_a_box_that_is_behind_copies_nothing(tmp_path: Path) -> None:
    """It would put a restored past on top of the longer copy that it came from."""
    kept = Kept(tmp_path)
    kept.allowed = False
    kept.write(10)
    async with kept.running():
        await kept.until(State.OFF)
        kept.allowed = True
        await kept.until(State.WELL)
        await kept.until_copied()
        kept.allowed = False
        await kept.until(State.OFF)
        await until(lambda: kept.keeper._child is None, "litestream to end")
    assert not (tmp_path / "data/litestream/intact").exists()


async def test_a_fault_of_the_keeper_leaves_no_second_litestream_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of them at one ledger move what the other has not read, and both copies are malformed."""
    kept = Kept(tmp_path)
    work = asyncio.create_task(kept.keeper.run())
    await kept.until(State.WELL)
    first = kept.child_pid
    monkeypatch.setattr(Progress, "answered", lambda *_, **__: {}["a fault of ours"])
    with pytest.raises(KeyError):
        await work
    assert not psutil.pid_exists(first)
    kept.writer.close()
    await kept.keeper.stop(in_order=False)
