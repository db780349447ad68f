"""What the reading of a cut disk is made of: which moments, and which slot the firmware starts."""

from __future__ import annotations

import json
import random
from pathlib import Path

from firmware.layout import SECTOR_BYTES, boot_entry, partition
from tests.lab.after_cut import Starts, is_there, starts
from tests.lab.life import PERCENT, moments, with_writing
from tests.lab.power_cut import Written

GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
ENTRIES = {
    "Boot0E0A": boot_entry("cloud", "a"),
    "Boot0E0B": boot_entry("cloud", "b"),
    "Boot0000": b"\1\0\0\0",
}


def told(**variables: bytes) -> str:
    """A firmware's variables."""
    held = [{"name": name, "guid": GLOBAL, "data": body.hex()} for name, body in variables.items()]
    strange = {"name": "BootNext", "guid": "eb704011-1402-11d3-8e77-00a0c969723b", "data": "0b0e"}
    return json.dumps({"version": 2, "variables": [*held, strange]})


def test_the_firmware_starts_what_comes_first_and_a_trial_once() -> None:
    """A slot that is not looked at may be torn."""
    order = b"\x00\x00\x0b\x0e\x0a\x0e"
    assert starts(told(**ENTRIES, BootOrder=order)) == Starts(first="b", once="")
    assert starts(told(**ENTRIES, BootOrder=order, BootNext=b"\x0a\x0e")) == Starts(first="b", once="a")
    assert starts(told(**ENTRIES, BootOrder=order, BootNext=b"\x00\x00")) == Starts(first="b", once="")


def test_a_firmware_without_entries_starts_what_was_flashed() -> None:
    """Before its first start nobody has told it of slots."""
    assert starts(told()) == Starts(first="a", once="")
    assert starts(told(Boot0000=b"\1\0\0\0", BootOrder=b"\0\0")) == Starts(first="a", once="")


def test_each_part_of_a_life_has_its_share_of_the_cuts() -> None:
    """An update writes most: moments by chance alone would hardly see a payment."""
    written = [Written(at=512 * number, sector=0, sectors=1, flags=0) for number in range(1, 1_001)]
    begins = {part: 512 * 10 * number for number, part in enumerate(PERCENT)}
    found = moments(written, begins, cuts=200, chance=random.Random(1))
    assert len(found) == 200
    assert [one.entries for one in found] == sorted(one.entries for one in found)
    assert {part: sum(one.part == part for one in found) for part in begins} == {
        part: 2 * percent for part, percent in PERCENT.items()
    }
    ends = [*list(begins.values())[1:], written[-1].at + 512]
    for (part, begin), end in zip(begins.items(), ends, strict=True):
        asked = [written[one.entries - 1].at for one in found if one.part == part]
        assert all(begin <= at < end for at in asked), part


def test_the_part_in_which_a_slot_is_written_begins_with_the_first_write_to_it() -> None:
    """Few large writes among thousands of small ones: by chance alone hardly a cut would tear a slot."""
    slot = partition("cloud", "esp-b").start_bytes // SECTOR_BYTES
    before, first, later = (
        Written(at=512 * number, sector=sector, sectors=8, flags=0)
        for number, sector in enumerate((slot - 8, slot, slot + 8), start=3)
    )
    flush = Written(at=512, sector=slot, sectors=0, flags=1)
    found = with_writing({"fetching": 0, "trial": first.at + 9}, [flush, before, first, later])
    assert list(found.items()) == [("fetching", 0), ("writing", first.at), ("trial", first.at + 9)]


def test_a_byte_that_differs_is_seen(tmp_path: Path) -> None:
    """A root is compared whole, its last piece as well."""
    held, disk = tmp_path / "held", tmp_path / "disk"
    body = random.Random(1).randbytes((2 << 20) + 512)
    held.write_bytes(body)
    disk.write_bytes(bytes(512) + body + b"rest")
    assert is_there(held, disk, start=512)
    disk.write_bytes(bytes(512) + body[:-1] + b"?rest")
    assert not is_there(held, disk, start=512)
    disk.write_bytes(bytes(512) + body[:-1])
    assert not is_there(held, disk, start=512)
