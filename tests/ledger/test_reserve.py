"""A full disk: payments are refused in time, own records still go in, nothing acknowledged is lost."""

import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgegw.core import records
from edgegw.errors import OutcomeUnknown, StorageFull
from edgegw.ledger.reserve import LOOK_S, Reserve, Room
from edgegw.ledger.space import Space, Use
from edgegw.ledger.store import Store
from edgegw.observe.logs import LogFile
from tests.ledger.pens import TestPen, full_check, new_store

DISK_BYTES = 24 * 2**20
RESERVE_BYTES = 4 * 2**20
PAYMENTS_BYTES_MIN = 2 * 2**20
OWN_BYTES_MIN = 2**20


class Clock:
    """Time that moves when the test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Disk:
    """A real small file system, and somebody else who fills it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.clock = Clock()
        self.reserve = self.new_reserve()

    def new_reserve(self) -> Reserve:
        return Reserve(
            self.home,
            reserve_bytes=RESERVE_BYTES,
            payments_bytes_min=PAYMENTS_BYTES_MIN,
            own_bytes_min=OWN_BYTES_MIN,
            clock_s=self.clock,
        )

    def look(self) -> Room:
        self.clock.now_s += 1.0 + LOOK_S
        return self.reserve.state()

    @property
    def foreign(self) -> Path:
        return self.home / "foreign.log"

    def fill(self, *, leave_bytes: int) -> None:
        """Write real bytes until only leave_bytes are free."""
        with self.foreign.open("ab") as file:
            while (room := self.reserve.free_bytes - leave_bytes) > 0:
                try:
                    file.write(os.urandom(min(room, 2**20)))
                    file.flush()
                except OSError:
                    return

    def free(self) -> None:
        self.foreign.unlink()


def _mount(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mounting a small file system is not permitted here: {done.stderr.strip()}")


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """A file system of 24 MB of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    home = tmp_path / "disk"
    home.mkdir()
    if request.param == "tmpfs":
        _mount(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(home)])
    else:
        if shutil.which("mkfs.ext4") is None:
            pytest.skip("mkfs.ext4 is not installed")
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
        _mount(["mount", "-o", "loop", str(image), str(home)])
    try:
        yield Disk(home)
    finally:
        subprocess.run(["umount", "--lazy", str(home)], check=True)


def mode_record(pen: TestPen, reason: str) -> records.Record:
    fields = pen.head_fields(pen.size)
    return records.ModeChanged(
        **fields, mode=records.Mode.OFFLINE, previous=records.Mode.ACTIVE, reason=reason
    )


def pay(disk: Disk, pen: TestPen) -> bool:
    """One batch of payments as the box would take them; False when they are refused for want of room."""
    disk.clock.now_s += 1.0 + LOOK_S
    if not disk.reserve.room_for_payments():
        return False
    pen.write_transfers(20)
    return True


def test_a_full_disk_refuses_payments_and_keeps_own_records(disk: Disk) -> None:
    """On a disk that others filled the branch must still say why it stopped, close its window and sync."""
    pen = TestPen(new_store(disk.home))
    assert pay(disk, pen)
    assert disk.look() is Room.PAYMENTS
    disk.fill(leave_bytes=PAYMENTS_BYTES_MIN - 2**16)
    assert not pay(disk, pen)
    assert disk.look() is Room.OWN_RECORDS
    disk.fill(leave_bytes=0)
    assert not pay(disk, pen)
    for number in range(100):
        disk.reserve.make_room()
        pen.write(mode_record(pen, f"disk full {number}"))
    assert disk.look() is Room.RELEASED
    assert not pay(disk, pen)
    disk.free()
    assert pay(disk, pen)
    assert disk.reserve.path.stat().st_size == RESERVE_BYTES
    pen.store.close()
    report = full_check(Store.open(disk.home / "ledger.db"))
    assert report.findings == []
    assert report.records == 20 + 100 + 20


def test_a_disk_that_fills_under_a_batch_loses_nothing_acknowledged(disk: Disk) -> None:
    """Whatever the error is called, what was sealed before is whole after a new start."""
    pen = TestPen(new_store(disk.home))
    pen.write_transfers(2_000)
    disk.fill(leave_bytes=0)
    sealed = [pen.size]

    def write_until_it_fails() -> None:
        while True:
            pen.write_transfers(300)
            sealed.append(pen.size)

    with pytest.raises((StorageFull, OutcomeUnknown)):
        write_until_it_fails()
    pen.store.close()
    disk.free()
    store = Store.open(disk.home / "ledger.db")
    report = full_check(store)
    assert report.findings == []
    assert report.records in (sealed[-1], sealed[-1] + 300)


def test_a_batch_that_does_not_fit_is_undone(disk: Disk) -> None:
    """Before COMMIT nothing was decided: the same store goes on once there is room."""
    pen = TestPen(new_store(disk.home))
    pen.write_transfers(10)
    pen.store._db.execute("PRAGMA cache_size=10")
    pen.store._db.execute("PRAGMA cache_spill=10").fetchall()
    disk.fill(leave_bytes=0)
    frontier, leaf = pen.frontier.copy(), pen.leaf
    with pytest.raises(StorageFull) as caught:
        pen.write_transfers(60_000, batch=60_000)
    assert "Free space" in caught.value.hint
    disk.free()
    pen.frontier, pen.leaf = frontier, leaf
    pen.write_transfers(10)
    report = full_check(pen.store)
    assert report.findings == []
    assert report.records == 20


def test_the_reserve_is_not_taken_from_what_payments_need(disk: Disk) -> None:
    """Taking it back too early would refuse payments again at once, and so on for ever."""
    assert disk.look() is Room.PAYMENTS
    disk.fill(leave_bytes=0)
    disk.reserve.make_room()
    assert not disk.reserve.path.exists()
    assert disk.look() is Room.RELEASED
    disk.free()
    disk.fill(leave_bytes=RESERVE_BYTES + PAYMENTS_BYTES_MIN)
    assert disk.look() is Room.RELEASED
    disk.free()
    assert disk.look() is Room.PAYMENTS


def test_the_reserve_survives_a_restart(disk: Disk) -> None:
    """A start on a nearly full disk keeps what the last run had set aside, and completes a half of it."""
    assert disk.look() is Room.PAYMENTS
    disk.fill(leave_bytes=PAYMENTS_BYTES_MIN - 2**16)
    assert disk.new_reserve().state() is Room.OWN_RECORDS
    disk.free()
    os.truncate(disk.reserve.path, RESERVE_BYTES // 2)
    again = disk.new_reserve()
    assert again.state() is Room.PAYMENTS
    assert again.path.stat().st_blocks * 512 >= RESERVE_BYTES


def test_a_look_at_the_disk_is_not_taken_for_every_payment(tmp_path: Path) -> None:
    """The check must cost nothing on the path of a payment."""
    clock = Clock()
    reserve = Reserve(tmp_path, reserve_bytes=4096, payments_bytes_min=1, own_bytes_min=1, clock_s=clock)
    assert reserve.room_for_payments()
    reserve.path.unlink()
    assert reserve.room_for_payments()
    assert not reserve.path.exists()
    clock.now_s += 1.0 + LOOK_S
    assert reserve.room_for_payments()
    assert reserve.path.exists()


def test_telemetry_is_shed_before_copies_and_payments_stop_last(disk: Disk) -> None:
    """A log that fills the disk must never be what a payment is refused for."""
    space = Space(disk.home, payments_bytes_min=PAYMENTS_BYTES_MIN)
    pen = TestPen(new_store(disk.home))
    log = LogFile(
        disk.home / "log" / "box.jsonl",
        bytes_max=2**20,
        may_write=lambda line_bytes: space.may_use(Use.TELEMETRY, line_bytes),
    )

    def say(count: int) -> None:
        for number in range(count):
            log.emit(logging.makeLogRecord({"msg": f"{number} " + "x" * 1_000}))

    def allowed() -> tuple[bool, bool, bool]:
        telemetry, copies = (space.may_use(use, 2**16) for use in (Use.TELEMETRY, Use.COPIES))
        return telemetry, copies, pay(disk, pen)

    assert allowed() == (True, True, True)
    say(2_000)
    assert log.dropped == 0
    assert 2**19 < space.bytes_of("log") <= 2**20
    # Its own older files, which go first, must not be what is lacking.
    disk.fill(leave_bytes=4 * PAYMENTS_BYTES_MIN - 2**20)
    say(10)
    assert log.dropped == 10
    assert space.bytes_of("log") <= 2**18 + 4_096
    disk.fill(leave_bytes=4 * PAYMENTS_BYTES_MIN - 2**16)
    assert allowed() == (False, True, True)
    disk.fill(leave_bytes=3 * PAYMENTS_BYTES_MIN - 2**16)
    assert allowed() == (False, False, True)
    disk.fill(leave_bytes=PAYMENTS_BYTES_MIN - 2**16)
    assert allowed() == (False, False, False)
    disk.free()
    assert allowed() == (True, True, True)
    say(1)
    assert log.dropped == 0
    assert "log_lines_dropped" in (disk.home / "log" / "box.jsonl").read_text()


def test_an_export_does_not_take_the_ledgers_disk_what_payments_need(disk: Disk, tmp_path: Path) -> None:
    """An auditor's file in the data directory must not stop the branch; on another disk it is welcome."""
    space = Space(disk.home, payments_bytes_min=PAYMENTS_BYTES_MIN)
    space.check_output(disk.home / "audit.db", 2**20)
    disk.fill(leave_bytes=3 * PAYMENTS_BYTES_MIN)
    with pytest.raises(StorageFull, match=r"audit\.db"):
        space.check_output(disk.home / "audit.db", 2**20)
    space.check_output(tmp_path / "audit.db", 2**20)
