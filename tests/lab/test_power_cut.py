"""The lab's power cuts: what they may take from a disk, and what not."""

from __future__ import annotations

import random
import struct
from pathlib import Path

from tests.lab.power_cut import Sweep, cut_out, entries

SECTOR = 512
FLUSH = 1


def write_log(path: Path, *asked: tuple[int, bytes]) -> None:
    """A log as QEMU writes it: (sector, bytes) is a write, one without bytes a flush."""
    body = struct.pack("<QQQI", 0x6A736677736872, 1, len(asked), SECTOR).ljust(SECTOR, b"\0")
    for sector, data in asked:
        flags = 0 if data else FLUSH
        body += (
            struct.pack("<QQQQ", sector, len(data) // SECTOR, flags, len(data)).ljust(SECTOR, b"\0") + data
        )
    path.write_bytes(body)


def test_a_cut_keeps_what_was_flushed_and_may_lose_or_tear_the_rest(tmp_path: Path) -> None:
    """A lab whose cuts lose nothing proves nothing; one that loses what was flushed accuses the innocent."""
    disk, log = tmp_path / "disk", tmp_path / "log"
    disk.write_bytes(bytes(8 * SECTOR))
    first, second, third = (bytes([number]) * 2 * SECTOR for number in (1, 2, 3))
    write_log(log, (0, first), (0, b""), (2, second), (0, third))
    sweep = Sweep(disk, log)
    sweep.forward(4)
    seen = set()
    for seed in range(200):
        with sweep.cut(random.Random(seed)) as unflushed:
            assert unflushed == 2
            seen.add(disk.read_bytes()[: 4 * SECTOR : SECTOR])
    assert disk.read_bytes()[: 4 * SECTOR] == first + bytes(2 * SECTOR), "a cut changed the disk for good"
    assert seen >= {bytes([1, 1, 0, 0]), bytes([1, 1, 2, 2]), bytes([3, 3, 2, 2])}, "none, in order, all"
    assert bytes([3, 3, 0, 0]) in seen, "the later one alone"
    assert {bytes([1, 1, 2, 0]), bytes([3, 1, 0, 0])} & seen, "torn"
    assert all(one[0] in (1, 3) and one[1] in (1, 3) for one in seen), "what was flushed was lost"
    sweep.close()


def test_a_log_that_ends_in_the_middle_is_read_until_there(tmp_path: Path) -> None:
    """QEMU is killed while it writes: what stands whole in the log counts, and nothing behind a hole."""
    log = tmp_path / "log"
    write_log(log, (0, b"1" * SECTOR), (0, b""), (1, b"2" * SECTOR))
    whole = log.read_bytes()
    log.write_bytes(whole[:-1])
    assert [one.is_flush for one in entries(log)] == [False, True]
    log.write_bytes(whole[:SECTOR] + bytes(2 * SECTOR) + whole[3 * SECTOR :])
    assert entries(log) == []
    log.write_bytes(bytes(SECTOR) + whole[SECTOR:])
    assert len(entries(log)) == 3, "the head is written now and then alone"


def test_a_part_of_a_disk_is_copied_with_its_holes(tmp_path: Path) -> None:
    """Two hundred cuts of a disk of three gigabytes must fit on a disk."""
    disk, part = tmp_path / "disk", tmp_path / "part"
    with disk.open("wb") as file:
        file.truncate(64 << 20)
        file.seek(40 << 20)
        file.write(b"here")
    cut_out(disk, part, start=32 << 20, size=32 << 20)
    assert part.stat().st_size == 32 << 20
    assert part.stat().st_blocks * 512 < 1 << 20
    assert part.read_bytes()[8 << 20 : (8 << 20) + 4] == b"here"
