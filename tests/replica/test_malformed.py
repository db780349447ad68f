"""A copy whose files were damaged at the target is found out, kept, and begins anew beside itself."""

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgegw.replica.copies import CopyError, Ledger, MalformedCopy
from edgegw.replica.generations import Generations
from edgegw.replica.keeper import RENEW_EACH_S
from edgegw.replica.status import Drill, State
from tests.processes import START_SECONDS, edgegw
from tests.replica.kept import SOON_ALARM_MS, Kept, replaced
from tests.replica.test_restore import FIRST, Branch, branch, restored, status_of, wait_until_copied
from tests.waiting import until, wait_until

__all__ = ["branch"]


def flipped(file: Path) -> None:
    """One bit is another one."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def halved(file: Path) -> None:
    """The second half never came."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def emptied(file: Path) -> None:
    """A power cut before the content was on the disk."""
    file.write_bytes(b"")


def newest_of(copy: Path) -> list[Path]:
    """The target's files, newest last."""
    return sorted((copy / "ltx/0").iterdir())


def newest_but_one(copy: Path) -> list[Path]:
    """The target's files that have the newest but one transaction, merged or not: MIN-MAX.ltx, in hex."""
    spans = {
        file: range(*(int(end, 16) + up for up, end in enumerate(file.stem.split("-"))))
        for file in all_of(copy)
    }
    newest = max(span[-1] for span in spans.values())
    wanted = max(span[-1] for span in spans.values() if span[-1] != newest)
    return [file for file, span in spans.items() if wanted in span]


def all_of(copy: Path) -> list[Path]:
    """The target's files of every level: some are merged ones."""
    return sorted((copy / "ltx").glob("*/*"))


@pytest.mark.parametrize("damaged", [flipped, halved, emptied, Path.unlink])
async def test_a_damaged_copy_is_called_malformed_and_an_absent_target_is_not(
    tmp_path: Path, damaged: Callable[[Path], None]
) -> None:
    """Called unreachable, a copy that can never be restored again is waited for."""
    kept = Kept(tmp_path)
    async with kept.running():
        await kept.until(State.WELL)
        for _ in range(3):
            await kept.until_copied()
    for file in newest_but_one(tmp_path / "copy"):
        damaged(file)
    copies = Generations(kept.table, kept.targets[0], Ledger(kept.data, kept.path)).copies(1)
    with pytest.raises(MalformedCopy) as found:
        await asyncio.to_thread(copies.restore_newest, tmp_path / "restored.db")
    assert found.value.txid == copies.txids()[0]
    replaced(tmp_path / "copy")
    with pytest.raises(CopyError) as silent:
        await asyncio.to_thread(copies.restore_newest, tmp_path / "restored.db")
    assert not isinstance(silent.value, MalformedCopy)


async def test_a_copy_begins_anew_once_an_hour_and_only_the_one_that_was_drilled(tmp_path: Path) -> None:
    """A target that spoils all that it is given would be filled with whole copies."""
    kept = Kept(tmp_path)
    now_s = 1_000_000.0
    kept.keeper._wall_s = lambda: now_s
    malformed = Drill(at_s=1, well=False, malformed=True, target="disk")
    status = kept.keeper.status
    async with kept.running() as keeper:
        await kept.until(State.WELL)
        await kept.until_copied()
        keeper.renew(Drill(at_s=1, well=False, malformed=True, target="another"))
        assert not keeper._renewing
        keeper.renew(malformed)
        await until(lambda: status.generation == 2 and status.state is State.WELL, "the second copy")
        await kept.until_copied()
        assert not (kept.data / "litestream/disk").exists(), "what waited for the first copy takes room"
        second = Drill(at_s=1, well=False, malformed=True, target="disk", generation=2)
        now_s += RENEW_EACH_S - 1
        keeper.renew(malformed)
        keeper.renew(second)
        assert not keeper._renewing
        now_s += 1
        keeper.renew(malformed)
        assert not keeper._renewing
        keeper.renew(second)
        await until(lambda: status.generation == 3 and status.state is State.WELL, "the third copy")
        await kept.until_copied()
        assert await kept.copied_rows() == kept.rows
    kept.reopen()
    async with kept.running():
        await kept.until(State.WELL)
        assert kept.keeper.status.place == str(tmp_path / "copy/generation-3")


async def test_litestreams_own_damaged_files_do_not_stop_the_copy_for_good(tmp_path: Path) -> None:
    """It complains of them for ever, and the copy at the target is sound and grows old."""
    kept = Kept(tmp_path, alarm_ms=SOON_ALARM_MS)
    async with kept.running():
        await kept.until(State.WELL)
        await kept.until_copied()
    flipped(newest_of(kept.data / "litestream/disk")[-1])
    kept.reopen()
    async with kept.running() as keeper:
        await kept.until(State.STUCK)
        assert "corrupted" in keeper.status.complaint
        keeper.renew(Drill(at_s=1, well=True, target="disk"))
        await kept.until(State.WELL)
        await kept.until_copied()
        assert await kept.copied_rows() == kept.rows


def copy_of(branch: Branch) -> dict[str, Any]:
    """The box's own word on its copy."""
    found: dict[str, Any] = status_of(branch).get("replica", {})
    return found


def copies_whole(branch: Branch) -> None:
    """Wait until the whole ledger is at the target, merged, and later files beside it."""
    whole = Path(branch.path("copy/ltx/9"))
    wait_until(lambda: whole.exists() and any(whole.iterdir()), "a whole copy", timeout_seconds=40)
    wait_until_copied(branch)


def status_at_peace(branch: Branch) -> None:
    """`edgegw status` ends with 0 again; what it reads is written each second."""
    wait_until(
        lambda: edgegw("status", branch.path("box.toml")).exit_code == 0,
        "nothing to need a person",
        timeout_seconds=START_SECONDS,
    )


def begins_anew(branch: Branch) -> None:
    """Wait until the copy is well in its second place, and has all."""

    def well() -> bool:
        now = copy_of(branch)
        return (Path(now["place"]).name, now["state"]) == ("generation-2", "well")

    wait_until(well, "the second copy", timeout_seconds=2 * START_SECONDS)
    wait_until_copied(branch)


def test_a_drill_names_the_malformed_copy_and_the_box_begins_another_from_which_it_comes_back(
    branch: Branch,
) -> None:
    """Stuck until somebody emptied the right two folders, the box had no copy on the day it burnt."""
    first = branch.pay("alice", 1_500, id=FIRST)
    copies_whole(branch)
    damaged = all_of(Path(branch.path("copy")))
    for file in damaged:
        flipped(file)
    evidence = [file.read_bytes() for file in damaged]
    drill = json.loads(branch.run("drill", branch.path("box.toml"), "--json", code=1))
    assert (drill["malformed"], drill["target"], drill["place"]) == (True, "disk", branch.path("copy"))
    wait_until(lambda: copy_of(branch)["malformed"], "the alarm")
    assert copy_of(branch)["alarm"]
    assert "edgegw drill" in copy_of(branch)["hint"]
    wait_until(lambda: edgegw("status", branch.path("box.toml")).exit_code == 1, "the status to say so")
    said = json.loads(branch.run("status", branch.path("box.toml"), "--json", code=1))
    assert [(need["what"], need["problem"][:9]) for need in said["needs"]] == [("copy", "malformed")]
    assert "needs a person copy: malformed" in " ".join(
        branch.run("status", branch.path("box.toml"), code=1).split()
    )
    begins_anew(branch)
    assert [file.read_bytes() for file in damaged] == evidence
    drill = json.loads(branch.run("drill", branch.path("box.toml"), "--json"))
    assert (drill["well"], Path(drill["place"]).name) == (True, "generation-2")
    wait_until(lambda: not copy_of(branch)["alarm"], "the end of the alarm")
    status_at_peace(branch)
    size = wait_until_copied(branch)
    assert branch.box is not None
    branch.box.end(signal.SIGKILL)
    shutil.rmtree(branch.path("data"))
    said = restored(branch)
    assert (said["size"] >= size, Path(said["place"]).name) == (True, "generation-2")
    branch.start_box(ready=False)
    wait_until(lambda: status_of(branch).get("mode") == "behind", "the box to find itself behind")
    assert branch.pay("alice", 1_500, id=FIRST).body == first.body


@pytest.mark.slow
def test_a_box_that_comes_back_to_a_damaged_copy_mends_it_with_nobody_there(branch: Branch) -> None:
    """Nobody reads an alarm at night, and the branch has no copy until somebody does."""
    copies_whole(branch)
    assert branch.box is not None
    branch.box.end(signal.SIGTERM)
    newest_of(Path(branch.path("copy")))[-1].write_bytes(os.urandom(300))
    shutil.rmtree(branch.path("data/litestream"))
    branch.start_box()
    begins_anew(branch)
    # With the second place lost as well, an older state of the first is better than none.
    branch.box.end(signal.SIGTERM)
    for file in all_of(Path(branch.path("copy/generation-2"))):
        flipped(file)
    said = restored(branch)
    assert (said["restored"], said["place"]) == (True, branch.path("copy"))
    assert "disk.2 " in said["tried"][0]
