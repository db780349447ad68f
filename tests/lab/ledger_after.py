"""Reads the ledger that a power cut left in a file system, as an auditor would: nothing is started."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from edgegw.ledger.schema import MIGRATIONS
from firmware.sandbox import in_tools
from tests.processes import edgegw

# As the first program of the image does it; then nothing may be wrong but sums.
_SHELL = (
    'e2fsck -p "$1" >"$2/fsck" 2>&1 || [ $? -lt 4 ] || {\n'
    # Of a superblock's two sectors one may be there alone: then its copy counts.
    '    grep -q "superblock could not be read" "$2/fsck" || touch "$2/forced"\n'
    '    e2fsck -f -y "$1" >"$2/mended" 2>&1 || [ $? -lt 4 ] ||\n'
    '        e2fsck -f -y "$1" >"$2/mended" 2>&1 || [ $? -lt 4 ] || { cat "$2/mended"; exit 1; }\n'
    "}\n"
    'e2fsck -f -p "$1" >"$2/fsck" 2>&1 || [ $? -lt 2 ] || { cat "$2/fsck"; exit 1; }\n'
    'debugfs -R "rdump $3 $2" "$1" 2>/dev/null\n'
)


class Found(NamedTuple):
    """What is there."""

    payments: list[str]
    """The ids of the till's payments; none where there is no ledger yet."""
    forced: bool
    """Whether the file system took more than its own journal, and the copy of a superblock that was torn."""


def found_after(file_system: Path, data: str, *, tools: Path, hub_key: Path) -> Found:
    """The payments of a ledger that is well, in the folder `data` of a file system, which is repaired and
    changed; fails where it is not well. What is written lies beside the file."""
    work = file_system.with_suffix(".looked")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    words = ["sh", "-euc", _SHELL, "sh", file_system, work, data]
    in_tools(tools, words, doing="reading the file system", writable=[file_system.parent])
    ledger, forced = work / Path(data).name, (work / "forced").exists()
    if not (ledger / "ledger.db").exists():
        return Found([], forced)
    with closing(sqlite3.connect(ledger / "ledger.db")) as database:
        if database.execute("PRAGMA user_version").fetchone()[0] < len(MIGRATIONS):
            return Found([], forced)  # the first start had not finished making it
    done = edgegw("ledger", "check", str(ledger), "--hub-key", str(hub_key))
    assert done.exit_code == 0, (done.output, done.exception)
    asked = "SELECT id FROM record WHERE client = 'till' AND type = 'transfer'"
    with closing(sqlite3.connect(f"file:{ledger}/ledger.db?mode=ro", uri=True)) as database:
        return Found([bytes(row[0]).hex() for row in database.execute(asked)], forced)
