"""`python -m tests.audit.speed`: how long the verifier takes for a journal of a million, or an audit export.

The journal is made from a seed; the verifier runs as an auditor runs it: the one file, a process of its own,
isolated, on one core. Told are CPU and wall seconds and the largest memory of that process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from edgegw import verifier
from tests.audit.ledgers import new_ledger, write_epoch
from tests.audit.logs import Author, streamed

LIMIT_SECONDS = 30
EXPORT = "import sys; from edgegw.__main__ import main; main(sys.argv[1:])"


def timed(command: list[str]) -> dict[str, Any]:
    """Run a command on one core; its figures."""
    core = min(os.sched_getaffinity(0))
    started = time.monotonic()
    with tempfile.TemporaryFile() as out, subprocess.Popen(command, stdout=out) as process:
        os.sched_setaffinity(process.pid, {core})
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        printed = out.read()
    wall, cpu = time.monotonic() - started, used.ru_utime + used.ru_stime
    figures = {"exit": process.returncode, "cpu_seconds": round(cpu, 1), "wall_seconds": round(wall, 1)}
    return figures | {"memory_mb": used.ru_maxrss // 1024, "said": printed.decode()[-400:]}


def verifying(kind: str, path: Path, keys: list[str]) -> dict[str, Any]:
    """The figures of verifying a file, alone."""
    command = [sys.executable, "-I", "-S", str(verifier.__file__), *keys, "--json", kind, str(path)]
    figures = timed(command) | {"bytes": path.stat().st_size}
    return figures | {"verified": bool(json.loads(figures.pop("said")).get("verified"))}


def journal(folder: Path, size: int) -> dict[str, Any]:
    """Make a journal of so many records and verify it."""
    author, path = Author.new(), folder / "journal"
    with path.open("wb") as file:
        file.writelines(streamed(author, size, 1, cosigned=size * 9 // 10))
    figures = verifying("journal", path, author.arguments(hub=True))
    path.unlink()
    return {"what": "journal", "records": size, **figures}


def export(folder: Path, size: int) -> list[dict[str, Any]]:
    """Make a ledger of so many records, export it by the command, and verify the export."""
    author = Author.new()
    with closing(new_ledger(folder)) as store:
        write_epoch(store, author, size, 1, cosigned=size)
    output = folder / "audit.db"
    written = timed([sys.executable, "-c", EXPORT, "export", str(folder), "--output", str(output)])
    sizes = {"ledger_bytes": (folder / "ledger.db").stat().st_size, "bytes": output.stat().st_size}
    figures = verifying("export", output, author.arguments(hub=True))
    return [
        {"what": "export", "records": size, **written, **sizes},
        {"what": "verify export", "records": size, **figures},
    ]


def main() -> int:
    """Measure and print; 1 when a journal of a million takes longer than it may."""
    parser = argparse.ArgumentParser(prog="python -m tests.audit.speed", description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--exports", type=int, default=0, help="also an audit export of so many records")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [journal(Path(folder), options.records)]
        rows += export(Path(folder), options.exports) if options.exports else []
    allowed = LIMIT_SECONDS * options.records / 1_000_000
    well = rows[0]["verified"] and rows[0]["cpu_seconds"] <= max(allowed, 1)
    if options.json:
        print(json.dumps({"within_seconds": allowed, "well": well, "rows": rows}))
    else:
        for row in rows:
            print(", ".join(f"{name} {value}" for name, value in row.items() if name != "said"))
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
