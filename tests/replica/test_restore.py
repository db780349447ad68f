"""A box that burns comes back from litestream's copy: with real processes and the real litestream."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import psutil
import pytest

from edgegw.replica.drills import Drills
from edgegw.replica.litestream import binary
from edgegw.replica.status import Drill, State, Status
from tests.processes import START_SECONDS, Branch, edgegw
from tests.waiting import until, wait_until

REPLICA = """[replica]
sync_ms = 100
alarm_ms = 8000
drill_hours = 0
[[replica.targets]]
name = "disk"
kind = "file"
copy_dir = "copy"
"""
FIRST = "0" * 31 + "1"


@pytest.fixture
def branch(tmp_path: Path) -> Iterator[Branch]:
    """A branch whose box copies its ledger, with hub and box running."""
    branch = Branch(tmp_path)
    branch.more = REPLICA
    branch.start_hub()
    branch.start_box()
    branch.wait_for_mode("active")
    wait_until(
        lambda: branch.call("GET", "/v1/accounts/alice").json["available_minor"] == 100_000,
        "alice's allowance",
    )
    yield branch
    branch.end()


def status_of(branch: Branch) -> dict[str, Any]:
    """The box's own word; its mode is missing for the moment between two epochs."""
    return branch.call("GET", "/v1/status").json


def wait_until_copied(branch: Branch) -> int:
    """Wait until what the box has answered is at the target; the journal's size before."""
    size = status_of(branch)["journal_size"]
    before = status_of(branch)["replica"]["txid"]

    def copied() -> bool:
        now = status_of(branch)["replica"]
        behind = now["txid"] - now["replicated_txid"]
        return (
            now["state"] == "well"
            and now["txid"] > 0 == behind
            and (now["txid"] > before or not now["lag_bytes"])
        )

    wait_until(copied, "the journal to be copied", timeout_seconds=START_SECONDS)
    # Once more: the position may have been read just before the last record came.
    branch.pay("alice", 1)
    wait_until(lambda: status_of(branch)["replica"]["txid"] > before, "the next read")
    wait_until(copied, "the journal to be copied", timeout_seconds=START_SECONDS)
    return int(size)


def waits_for_its_epoch(branch: Branch) -> None:
    """The status says what the box waits for, also when it lacks nothing more."""
    words = ("status", branch.path("box.toml"))

    def has_all() -> bool:
        said = json.loads(branch.run(*words, "--json", code=3))
        return bool(said["mode"] == "behind" and said["lacking"] == 0)

    wait_until(has_all, "its past to come back", timeout_seconds=START_SECONDS)
    people = " ".join(branch.run(*words, code=3).split())
    assert "edgegw order new-epoch box-1" in people
    assert "needs a person" in people


def children_of(branch: Branch) -> list[psutil.Process]:
    """The box's child processes."""
    assert branch.box is not None
    return psutil.Process(branch.box.popen.pid).children()


def restored(branch: Branch) -> dict[str, Any]:
    """What `edgegw restore` says; what it left checks."""
    said: dict[str, Any] = json.loads(branch.run("restore", branch.path("box.toml"), "--json"))
    if said["restored"]:
        branch.run("ledger", "check", branch.path("box.toml"))
    return said


def test_a_burnt_box_comes_back_from_its_copy_and_clears_only_in_a_new_epoch(branch: Branch) -> None:
    """The day for which the copy is made."""
    first = branch.pay("alice", 1_500, id=FIRST)
    size = wait_until_copied(branch)
    (litestream,) = children_of(branch)
    assert branch.box is not None
    branch.box.end(signal.SIGKILL)
    _, alive = psutil.wait_procs([litestream], timeout=30)
    assert not alive, "a litestream that outlives its box makes malformed copies"
    shutil.rmtree(branch.path("data"))
    said = restored(branch)
    assert (said["target"], said["epoch"], said["set_aside"]) == ("disk", 1, "")
    assert said["size"] >= size
    branch.start_box(ready=False)
    wait_until(lambda: status_of(branch).get("mode") == "behind", "the box to find itself behind")
    assert branch.pay("alice", 1_500, id=FIRST).body == first.body
    assert branch.pay("alice", 1).status == 503
    wait_until(lambda: status_of(branch)["replica"]["state"] == "off", "the copy to rest")
    waits_for_its_epoch(branch)
    branch.run("order", "new-epoch", "box-1", "--hub", branch.path("hub.toml"))
    wait_until(lambda: status_of(branch).get("mode") == "active", "the next epoch", timeout_seconds=60)
    assert branch.pay("alice", 1_500, id=FIRST).body == first.body
    assert branch.pay("alice", 1).status == 201
    wait_until(lambda: status_of(branch)["replica"]["state"] == "well", "the copy to begin anew")


def test_a_copy_that_is_damaged_gives_way_to_an_older_one_and_nothing_is_deleted(branch: Branch) -> None:
    """A restore that trusts the newest file puts a hole in the journal."""
    branch.pay("alice", 1_500, id=FIRST)
    wait_until_copied(branch)
    assert branch.box is not None
    branch.run("restore", branch.path("box.toml"), code=3)
    branch.box.end(signal.SIGTERM)
    ledger = Path(branch.path("data/ledger.db")).read_bytes()
    newest = max(Path(branch.path("copy/ltx/0")).iterdir())
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    newest.write_bytes(damaged)
    drill = json.loads(branch.run("drill", branch.path("box.toml"), "--json", code=1))
    assert (drill["well"], drill["malformed"]) == (False, True)
    said = restored(branch)
    assert said["restored"]
    assert newest.name.partition("-")[0] in said["tried"][0]
    assert said["txid"] < newest.name.partition("-")[0]
    assert (Path(said["set_aside"]) / "ledger.db").read_bytes() == ledger
    assert sorted(path.name for path in Path(branch.path("data")).glob("restore-*")) == []
    # Without any sound copy the ledger begins empty: the hub fills it.
    shutil.rmtree(branch.path("copy"))
    said = restored(branch)
    assert not said["restored"]
    assert (Path(said["set_aside"]) / "ledger.db").exists()
    assert not Path(branch.path("data/ledger.db")).exists()


def forged(branch: Branch) -> None:
    """Add a state to the copy that restores and is wrong: one record's bytes are others."""
    settings = json.loads(Path(branch.path("data/litestream/disk.yml")).read_text())
    copies = Path(branch.path("forged"))
    copies.mkdir()
    litestream = [binary(), "restore", "-config", branch.path("data/litestream/disk.yml")]
    subprocess.run([*litestream, "-o", str(copies / "ledger.db"), branch.path("data/ledger.db")], check=True)
    connection = apsw.Connection(str(copies / "ledger.db"))
    connection.execute("DROP TRIGGER record_keeps_content")
    connection.execute(
        "UPDATE record SET body = CAST(body || x'20' AS BLOB)"
        " WHERE position = (SELECT max(position) FROM record)"
    )
    connection.close()
    settings["dbs"][0] |= {"path": str(copies / "ledger.db"), "meta-path": str(copies / "state")}
    del settings["socket"]
    (copies / "settings.yml").write_text(json.dumps(settings))
    subprocess.run([binary(), "replicate", "-config", str(copies / "settings.yml"), "-once"], check=True)


async def test_a_copy_that_restores_and_is_wrong_fails_the_drill_begins_anew_and_is_not_put_in_place(
    branch: Branch,
) -> None:
    """SQLite finds nothing wrong with a record that was edited; the chain does."""
    await asyncio.to_thread(wait_until_copied, branch)
    assert branch.box is not None
    branch.box.end(signal.SIGTERM)
    assert "intact" in os.listdir(branch.path("data/litestream")), "it goes on where it was"
    sound = json.loads(branch.run("drill", branch.path("box.toml"), "--json"))
    forged(branch)
    renewed: list[Drill] = []
    status = Status(state=State.WELL, target="disk")
    drills = Drills(
        status,
        settings=Path(branch.path("box.toml")),
        hours=1,
        data=Path(branch.path("data")),
        renew=renewed.append,
        may_work=partial(asyncio.sleep, 0),
    )
    assert status.drill is not None
    assert status.drill.well, "the last drill is known before the next"
    drill = await drills.once("disk")
    assert (drill.well, drill.malformed) == (False, True)
    drills._look()
    assert renewed == [drill]
    assert "record" in drill.problem
    said = await asyncio.to_thread(restored, branch)
    assert (said["txid"], said["size"]) == (sound["txid"], sound["size"])
    assert len(said["tried"]) == 1


async def test_drills_come_soon_and_on_schedule_beside_the_running_box(branch: Branch) -> None:
    """A copy that nobody ever restored is a hope, and a drill that somebody must remember is not held."""
    branch.pay("alice", 1_500)
    await asyncio.to_thread(wait_until_copied, branch)
    status = Status(state=State.STARTING, target="disk")
    drills = Drills(
        status,
        settings=Path(branch.path("box.toml")),
        hours=1e-5,
        data=Path(branch.path("data")),
        renew=lambda _: None,
        may_work=partial(asyncio.sleep, 0),
        first_s=(0.0, 0.0),
    )
    work = asyncio.create_task(drills.run())
    try:
        await until(lambda: status.drill is None, "no drill before the copy is well")
        status.state = State.WELL
        await until(lambda: status.drill is not None, "the first drill", timeout_seconds=60)
        first = status.drill
        assert first is not None
        assert (first.well, first.problem, first.epoch) == (True, "", 1)
        assert first.size > 0
        await until(lambda: status.drill is not first, "the second drill", timeout_seconds=60)
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
    words = ("status", branch.path("box.toml"))

    def has_all() -> bool:
        return "records, 0 bytes, 0.0 s behind" in " ".join(edgegw(*words).stdout.split())

    await asyncio.to_thread(wait_until, has_all, "the status to say that all is copied")
    shown = json.loads(await asyncio.to_thread(branch.run, *words, "--json"))
    copy = shown["replica"]
    assert (copy["state"], copy["target"], copy["alarm"], shown["needs"]) == ("well", "disk", False, [])
    assert shown["replica_drill"]["well"]
    people = " ".join((await asyncio.to_thread(branch.run, *words)).split())
    assert "copy well at disk, /" in people
    assert "…" not in people
    assert not [name for name in os.listdir(branch.path("data")) if name.startswith("drill-")]
    assert "edgegw_replica_well 1.0" in branch.call("GET", "/metrics").body.decode()
    branch.run("drill", branch.path("box.toml"), "--target", "none", code=2)
