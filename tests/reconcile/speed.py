"""`python -m tests.reconcile.speed`: how long a reconciliation of a million records, rows and lines takes.

The sides are made from a seed; the command runs as an auditor runs it. Told are the CPU seconds of its two
processes, which is what it takes where each has a core to itself, the wall seconds here, and its memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.reconcile.many import make_many

LIMIT_SECONDS = 60
LOOK_S = 0.2
RUN = "import sys; from edgegw.__main__ import main; main(sys.argv[1:])"


def timed(folder: Path) -> dict[str, Any]:
    """Reconcile what lies in a folder; the figures."""
    command = [sys.executable, "-c", RUN, "reconcile", "north.journal", "--core", "core.csv", "--json"]
    started = time.monotonic()
    with tempfile.TemporaryFile() as out, subprocess.Popen(command, stdout=out, cwd=folder) as process:
        second_s = _second(process.pid)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        said = json.loads(out.read() or b"{}")
    wall, cpu = time.monotonic() - started, used.ru_utime + used.ru_stime
    figures = {
        "exit": process.returncode,
        "first_cpu_seconds": round(cpu - second_s, 1),
        "second_cpu_seconds": round(second_s, 1),
        "wall_seconds": round(wall, 1),
    }
    sides = {one["what"]: one["records"] for one in said.get("sides", [])}
    size_mb = (folder / "reconcile.db").stat().st_size // 2**20 if not process.returncode else 0
    return figures | {"memory_mb": used.ru_maxrss // 1024, "workspace_mb": size_mb, "sides": sides}


def _second(pid: int) -> float:
    """The CPU seconds of the processes that a process has started, once it has ended."""
    first, spent = psutil.Process(pid), dict[int, float]()
    while first.is_running() and first.status() != psutil.STATUS_ZOMBIE:
        for child in first.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                times = child.cpu_times()
                spent[child.pid] = times.user + times.system
        threading.Event().wait(LOOK_S)
    return sum(spent.values())


def main() -> int:
    """Measure and print; 1 when it found a break or took longer than it may."""
    parser = argparse.ArgumentParser(prog="python -m tests.reconcile.speed", description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="keep the sides here, and use those that are there")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a line")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        if not (folder / "hub.toml").exists():
            make_many(folder, options.records)
        figures = timed(folder)
    allowed = max(LIMIT_SECONDS * options.records / 1_000_000, 2)
    well = figures["exit"] == 0 and figures["first_cpu_seconds"] <= allowed
    if options.json:
        print(json.dumps({"within_seconds": allowed, "well": well, **figures}))
    else:
        print(", ".join(f"{name} {value}" for name, value in figures.items()))
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
