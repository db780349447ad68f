"""What the image's first program does with a root that is not what was signed, with variables in files."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from firmware.places import SOURCE

RESTARTS, STAYS = 4, 3
STANDS_IN = """
say() { echo "$*"; }
stay() { echo "STOPPED: $*"; exit 3; }
entry() { [ "$1" = b ] && echo 0E0B || echo 0E0A; }
reboot() { exit 4; }
chattr() { :; }
sync() { :; }
give_way "its root is not what was signed"
"""


class Firmware:
    """The variables of a machine, and its first program's way out of a bad slot."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        program = (SOURCE / "initrd/init").read_text().replace("/run/", f"{folder}/")
        functions = ("text_of", "bytes_of", "give_way", "forget_rescue")
        self._program = "\n".join(
            found[0]
            for name in functions
            if (found := re.search(rf"^{name}\(\) \{{.*?(?:^|; )\}}$", program, re.MULTILINE | re.DOTALL))
        )

    def start(self, slot: str) -> tuple[int, str]:
        """A start in a slot whose root is bad; how it ended, and what was said."""
        given = f"vars={self._folder} global=g rescue={self._folder}/note slot={slot}"
        other = "b" if slot == "a" else "a"
        # Not sh: that of Debian knows no \x in printf, busybox does.
        words = ["bash", "-c", f"{given} other={other}\n{self._program}\n{STANDS_IN}"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    @property
    def next(self) -> bytes:
        """The entry that is started once."""
        return (self._folder / "BootNext-g").read_bytes()[4:]


@pytest.fixture
def firmware(tmp_path: Path) -> Firmware:
    """A machine that has had no trouble yet."""
    return Firmware(tmp_path)


def test_a_bad_slot_gives_way_to_the_other_once(firmware: Firmware) -> None:
    """The branch pays on from the slot before; the firmware's order stays as it was."""
    assert firmware.start("a") == (
        RESTARTS,
        "slot a: its root is not what was signed\nstarting slot b once\n",
    )
    assert firmware.next == bytes([0x0B, 0x0E])


def test_two_bad_slots_stand_still(firmware: Firmware) -> None:
    """A machine that starts for ever tells nobody anything."""
    assert firmware.start("b")[0] == RESTARTS
    code, said = firmware.start("a")
    assert code == STAYS
    assert "neither slot's root is what was signed" in said


def test_a_bad_slot_whose_other_one_is_refused_by_the_firmware_stands_still(firmware: Firmware) -> None:
    """The firmware passes over a kernel image that it does not know, and comes back to the same slot."""
    assert [firmware.start("a")[0] for _ in range(3)] == [RESTARTS] * 3
    code, said = firmware.start("a")
    assert code == STAYS
    assert "slot b does not start" in said
