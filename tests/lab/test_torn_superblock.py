"""A data partition whose superblock a power cut has torn, and the image's first program, which mends it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from firmware import roots
from firmware.places import SOURCE
from firmware.sandbox import in_tools
from tests.lab.skips import IMAGE, needs

pytestmark = [pytest.mark.lab, needs(IMAGE)]
TIME_OF_WRITING: Final = 1024 + 0x30
COPY: Final = 32_768 * 4096
FEATURES, NEEDS_RECOVERY = 0x60, 4
SUM: Final = 0x3FC
MAKE: Final = (
    'mkfs.ext4 -q -F -b 4096 -J size=4 -E lazy_itable_init=0 "$1" 256M\n'
    'debugfs -w -R "write /usr/lib/os-release ledger" "$1"\n'
    # A transaction in the journal, as a machine leaves it whose power goes.
    'printf "%s\\n" jo "jw -b 333 /dev/zero" jc >"$1.script"\n'
    'debugfs -w -f "$1.script" "$1"\n'
)
MEND: Final = 'data=$1\nmend_data || { echo "it is not whole" >&2; exit 1; }'
READ: Final = 'e2fsck -f -n "$1" >/dev/null 2>&1\ndebugfs -R "cat ledger" "$1" 2>/dev/null\n'


def test_a_torn_superblock_is_mended_at_the_first_start(tmp_path: Path) -> None:
    """A box that comes up without its ledger takes no payments, and needs somebody who comes by."""
    tools, disk = roots.ready("tools").path, tmp_path / "data"

    def run(script: str, *before: str) -> str:
        words = ["sh", "-uc", "\n".join((*before, script)), "sh", disk]
        return in_tools(tools, words, doing="trying a file system", writable=[tmp_path])

    run(MAKE, "set -e")
    body = bytearray(disk.read_bytes())
    # Its copy was written when it grew, that is, while it was mounted.
    body[COPY + FEATURES] |= NEEDS_RECOVERY
    body[COPY + SUM : COPY + SUM + 4] = crc32c(body[COPY : COPY + SUM]).to_bytes(4, "little")
    # Of its two sectors the first is there, with another time of writing, and not the second, with the sum.
    body[TIME_OF_WRITING] ^= 0xFF
    disk.write_bytes(body)
    program = (SOURCE / "initrd/init").read_text()
    mend = re.search(r"^mend_data\(\) \{.*?^\}$", program, re.MULTILINE | re.DOTALL)
    assert mend is not None
    run(MEND, "say() { :; }", mend[0])
    assert "Debian" in run(READ, "set -e")


def crc32c(body: bytes) -> int:
    """ext4's sum of a superblock."""
    found = 0xFFFFFFFF
    for byte in body:
        found ^= byte
        for _ in range(8):
            found = found >> 1 ^ (0x82F63B78 if found & 1 else 0)
    return found
