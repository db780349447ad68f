"""Reads what a power cut left on an appliance's disk, from outside: as the firmware would, which starts a
slot, as the first program would, which mounts the data, and as an auditor would, who reads the ledger.

Nothing is started. Leaves out what should be there.
"""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Final, NamedTuple

from edgegw.update.state import State, Store
from firmware.layout import MIB, SECTOR_BYTES, SLOTS, boot_entry
from firmware.places import BuildError
from firmware.sandbox import in_tools
from tests.lab.ledger_after import Found, found_after
from tests.lab.power_cut import cut_out

KERNEL_IMAGE: Final = "kernel.efi"
ROOT: Final = "root.img"
_GLOBAL: Final = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
_ENTRY_NAME: Final = re.compile(r"Boot([0-9A-F]{4})")
_HEAD_OF_ENTRY_BYTES: Final = 6
# The file system is found well first; then there is one file where every firmware looks.
_START: Final = 'fsck.vfat -n "$1"\nmcopy -n -i "$1" ::EFI/BOOT/BOOTX64.EFI "$2"\n'
_STATE: Final = 'debugfs -R "dump $1/state.json $2/state.json" "$3" 2>/dev/null\n'


class Extent(NamedTuple):
    """A partition's place."""

    start_bytes: int
    size_bytes: int


class Starts(NamedTuple):
    """Which slot the firmware starts."""

    first: str
    """That of its order: where the machine comes back to."""
    once: str
    """That of the next start alone, where there is one."""


class CutDisk:
    """The disk of one cut. work: a folder for what is copied out of it."""

    def __init__(self, path: Path, *, tools: Path, work: Path) -> None:
        """Raises BuildError where the disk has no table of partitions."""
        self.path, self._tools, self._work = path, tools, work
        self.parts = table_of(path, tools=tools)

    def why_not_started(self, slot: str, held: Path) -> str:
        """Why a slot does not hold what the folder `held` does: its kernel image in a file system that is
        well, and its root; "" where it does."""
        esp, kernel_image = self._work / "esp.raw", self._work / KERNEL_IMAGE
        kernel_image.unlink(missing_ok=True)
        part = self.parts[f"esp-{slot}"]
        cut_out(self.path, esp, start=part.start_bytes, size=part.size_bytes)
        words = ["sh", "-euc", _START, "sh", esp, kernel_image]
        try:
            in_tools(self._tools, words, doing="starting a slot", writable=[self._work])
        except BuildError as problem:
            return f"slot {slot}: {problem}"
        if kernel_image.read_bytes() != (held / KERNEL_IMAGE).read_bytes():
            return f"slot {slot}: its kernel image is not the one that was signed"
        if not is_there(held / ROOT, self.path, start=self.parts[f"root-{slot}"].start_bytes):
            return f"slot {slot}: its root is not the one that its kernel image proves"
        return ""

    def data(self, *, hub_key: Path) -> tuple[Found, State]:
        """The ledger's payments and what the updater remembers; fails where one of them is not well."""
        part, extent = self._work / "data.raw", self.parts["data"]
        cut_out(self.path, part, start=extent.start_bytes, size=extent.size_bytes)
        found = found_after(part, "/lib/edgegw/data", tools=self._tools, hub_key=hub_key)
        state = self._work / "state.json"
        state.unlink(missing_ok=True)
        words = ["sh", "-euc", _STATE, "sh", "/lib/edgegw-update", self._work, part]
        in_tools(self._tools, words, doing="reading the updater's state", writable=[self._work])
        return found, Store(self._work).read()


def table_of(disk: Path, *, tools: Path) -> dict[str, Extent]:
    """The partitions of a disk by their names, from the first table or its copy at the disk's end, as the
    firmware takes them. Raises BuildError where both are torn."""
    words = ["sfdisk", "--json", disk]
    said = in_tools(tools, words, doing="reading the table of partitions", writable=[disk.parent])
    return {
        one["name"]: Extent(one["start"] * SECTOR_BYTES, one["size"] * SECTOR_BYTES)
        for one in json.loads(said)["partitiontable"]["partitions"]
    }


def starts_of(variables: Path, *, tools: Path) -> Starts:
    """Which slot a firmware with these variables starts."""
    words = ["virt-fw-vars", "--input", variables, "--output-json", "/dev/stdout"]
    said = in_tools(tools, words, doing="reading the firmware's variables", writable=[variables.parent])
    return starts(said[said.index("{") :])


def starts(told: str) -> Starts:
    """The same, of the variables as JSON."""
    held = {
        one["name"]: bytes.fromhex(one["data"])
        for one in json.loads(told)["variables"]
        if one["guid"] == _GLOBAL
    }
    slots = {
        int(name[1], 16): slot
        for each, body in held.items()
        for slot in SLOTS
        if (name := _ENTRY_NAME.fullmatch(each)) and boot_entry("cloud", slot)[_HEAD_OF_ENTRY_BYTES:] in body
    }
    order = [slots[one] for (one,) in struct.iter_unpack("<H", held.get("BootOrder", b"")) if one in slots]
    once = slots.get(int.from_bytes(held["BootNext"], "little"), "") if "BootNext" in held else ""
    # Before a first start the firmware has no entry of ours, and takes the first partition that starts.
    return Starts(first=order[0] if order else SLOTS[0], once=once)


def is_there(held: Path, disk: Path, *, start: int) -> bool:
    """Whether a file's bytes lie in a disk from there on."""
    with held.open("rb") as file, disk.open("rb") as whole:
        whole.seek(start)
        while body := file.read(MIB):
            if whole.read(len(body)) != body:
                return False
    return True
