"""Reads a machine's disk from outside, as an auditor would; changes single bytes of it, as a thief might."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from firmware.layout import MIB, partition
from firmware.sandbox import in_tools
from tests.lab.centre import Centre
from tests.lab.vm import Machine
from tests.processes import edgegw


def verified_payments(machine: Machine, centre: Centre, folder: Path) -> list[str]:
    """The ids of the till's payments in the ledger of a machine that is off, once they are proven.

    The keys that prove them are the centre's word: what is on the disk cannot vouch for itself.
    """
    data = _data_of(machine, folder)
    exported = folder / "audit.db"
    for words in (
        ("export", str(data), "--output", str(exported)),
        ("verify", *centre.proving_keys(), "export", str(exported)),
    ):
        done = edgegw(*words)
        assert done.exit_code == 0, (words, done.output, done.exception)
    with closing(sqlite3.connect(exported)) as database:
        rows = database.execute("SELECT id FROM transfer WHERE client = 'till'").fetchall()
    return [str(row[0]) for row in rows]


def flip(machine: Machine, part: str, offset: int) -> None:
    """Change one byte of a partition of a machine that is off."""
    disk, place = machine.folder / "disk.qcow2", partition("cloud", part).start_bytes + offset

    def tool(*words: str) -> str:
        command = ["qemu-io", "-f", "qcow2", *words, disk]
        folders = [machine.folder, machine.image.parent]
        return in_tools(machine.tools, command, doing="changing the disk", writable=folders)

    was = int(tool("-r", "-c", f"read -v {place} 1").split(":")[1].split()[0], 16)
    tool("-c", f"write -P {was ^ 0xFF} {place} 1")


def _data_of(machine: Machine, folder: Path) -> Path:
    """The box's data directory, copied out of the disk."""
    whole, part = folder / "disk.img", folder / "data.img"
    start = partition("cloud", "data").start_bytes
    shell = (
        'qemu-img convert -q -O raw "$1" "$2"\n'
        # The partition has grown to the disk's end; its file system says how large it is.
        'dd if="$2" of="$3" bs=1M skip="$4" conv=sparse status=none\n'
        'rm "$2"\n'
        'e2fsck -fy "$3" >/dev/null 2>&1 || [ $? -le 1 ]\n'
        'debugfs -R "rdump /lib/edgegw/data $5" "$3" 2>/dev/null\n'
    )
    disk = machine.folder / "disk.qcow2"
    in_tools(
        machine.tools,
        ["sh", "-euc", shell, "sh", disk, whole, part, str(start // MIB), folder],
        doing="reading the machine's disk",
        writable=[folder, machine.folder, machine.image.parent],
    )
    return folder / "data"
