"""A box, as a process, on a disk that fills up and a machine that runs out of memory."""

import json
import secrets
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from tests.lab.skips import FILE_SYSTEM, needs
from tests.processes import Branch
from tests.waiting import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), needs(FILE_SYSTEM)]

DISK_BYTES = 128 << 20
LINE_BYTES = 8 << 20
"""`disk.payments_bytes_min`: telemetry is shed below four of it, work waits below three."""
MEMORY = "MemTotal: 1000000 kB\nMemAvailable: {} kB\nSwapFree: 0 kB\n"
SETTINGS = f"""[health]
root_dir = "machine"
sample_seconds = 1
calm_seconds = 1
[disk]
reserve_bytes = {LINE_BYTES}
payments_bytes_min = {LINE_BYTES}
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk, where the ledger will be."""
    place = tmp_path / "data"
    place.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(place))
    subprocess.run(mount, check=True)
    yield place
    subprocess.run(("umount", "-l", str(place)), check=True)


@pytest.fixture
def branch(tmp_path: Path, disk: Path) -> Iterator[Branch]:
    """A branch whose ledger lies there, and whose box looks at a machine of ours each second."""
    (tmp_path / "machine/proc").mkdir(parents=True)
    has_memory(tmp_path, 600_000)
    branch = Branch(tmp_path)
    branch.more = SETTINGS
    branch.start_hub()
    branch.start_box()
    branch.wait_for_mode("active")
    assert disk.joinpath("ledger.db").exists()
    yield branch
    branch.end()


def has_memory(folder: Path, available_kb: int) -> None:
    """So much can be had from now on."""
    fresh = folder / "machine/proc/meminfo.new"
    fresh.write_text(MEMORY.format(available_kb))
    fresh.replace(folder / "machine/proc/meminfo")


def leave_free(disk: Path, free_bytes: int) -> None:
    """Fill the disk up to this."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    done = subprocess.run(
        ("df", "--output=avail", "-B1", str(disk)), capture_output=True, text=True, check=True
    )
    wanted = int(done.stdout.split()[-1]) - free_bytes
    subprocess.run(("fallocate", "-l", str(wanted), str(filler)), check=True)


def level(branch: Branch, check: str) -> str:
    """At which level the running box holds this, by its metrics."""
    lines = branch.call("GET", "/metrics").body.decode().splitlines()
    [line] = [one for one in lines if one.startswith(f'edgegw_health_level{{check="{check}"')]
    return line.rpartition(" ")[2]


def wait_for_level(branch: Branch, check: str, number: str) -> None:
    """Until it holds it there."""
    wait_until(lambda: level(branch, check) == number, f"{check} at level {number}")


def health_of(branch: Branch, *, code: int) -> dict[str, dict[str, object]]:
    """What `edgegw health` says, by check."""
    said = json.loads(branch.run("health", branch.path("box.toml"), "--json", code=code))
    return {one["check"]: one for one in said}


def test_a_disk_that_fills_sheds_then_pauses_then_stops_payments_and_comes_back(
    branch: Branch, disk: Path
) -> None:
    """The log that nobody reads, or a copy, would take the last bytes from the payments."""
    leave_free(disk, 4 * LINE_BYTES - (1 << 20))
    wait_for_level(branch, "ledger_room", "2.0")
    disk_bytes = [
        line
        for line in branch.call("GET", "/metrics").body.decode().splitlines()
        if line.startswith("edgegw_disk_bytes{")
    ]
    assert disk_bytes
    assert all(line.endswith("NaN") for line in disk_bytes)
    assert branch.pay("alice", 100).status == 201
    leave_free(disk, 3 * LINE_BYTES - (1 << 20))
    wait_for_level(branch, "ledger_room", "3.0")
    assert branch.pay("alice", 100).status == 201
    status = json.loads(branch.run("status", branch.path("box.toml"), "--json", code=1))
    assert [need["what"] for need in status["needs"]] == ["machine"]
    assert status["health"][0]["check"] == "ledger_room"
    assert "Free space" in status["health"][0]["mend"]
    leave_free(disk, LINE_BYTES - (1 << 20))
    wait_until(lambda: branch.pay("alice", 100).json.get("code") == "storage_full", "the reserve's refusal")
    (disk / "filler").unlink()
    wait_until(lambda: branch.pay("alice", 100).status == 201, "payments again")
    wait_for_level(branch, "ledger_room", "0.0")


def test_without_memory_payments_are_refused_with_the_reason_and_taken_again(
    branch: Branch, disk: Path, tmp_path: Path
) -> None:
    """A box that is ended for want of memory in the middle of a payment answers nobody."""
    local = secrets.token_hex(16)
    first = branch.pay("alice", 100, id=local)
    has_memory(tmp_path, 15_000)
    wait_for_level(branch, "memory", "4.0")
    refused = branch.pay("alice", 100)
    assert (refused.status, refused.json["code"]) == (503, "unwell")
    assert "memory" in refused.json["message"]
    assert branch.pay("alice", 100, id=local).body == first.body
    readiness = branch.call("GET", "/readyz")
    assert (readiness.status, "memory" in readiness.json["message"]) == (503, True)
    assert branch.call("GET", "/healthz").status == 200
    held = health_of(branch, code=3)["memory"]
    assert (held["level"], held["action"]) == ("refuse", "new payments are refused")
    has_memory(tmp_path, 600_000)
    wait_until(lambda: branch.call("GET", "/readyz").status == 200, "payments again")
    assert branch.pay("alice", 100).status == 201
    assert branch.box is not None
    assert branch.box.end(signal.SIGTERM) == 0
    with apsw.Connection(str(disk / "ledger.db")) as ledger:
        bodies = ledger.execute("SELECT body FROM record WHERE type = 'health' ORDER BY position").fetchall()
    changes = [(said["previous"], said["level"]) for said in map(json.loads, (body for (body,) in bodies))]
    assert changes == [("well", "refuse"), ("refuse", "well")]
