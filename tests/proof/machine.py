"""What the figures were measured on: processor, kernel, versions, file system, and what an fsync costs."""

from __future__ import annotations

import os
import platform
import ssl
import statistics
import subprocess
import time
from pathlib import Path
from typing import Final

import apsw

FSYNCS: Final = 200
ROOT: Final = Path(__file__).parents[2]


def described(place: Path) -> dict[str, str]:
    """The machine in words; file system and fsync are those of a directory."""
    median_ms, worst_ms = fsync_ms(place)
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "SQLite": f"{apsw.sqlite_lib_version()} (apsw {apsw.apsw_version()})",
        "OpenSSL": ssl.OPENSSL_VERSION,
        "file system": _file_system(place),
        "fdatasync of 4 KiB": f"median {median_ms:.2f} ms, 99 % below {worst_ms:.2f} ms, of {FSYNCS}",
    }


def fsync_ms(place: Path) -> tuple[float, float]:
    """Median and 99th percentile, in milliseconds, of appending a page until it is on the disk."""
    path = place / "fsync"
    took_ms = []
    with path.open("wb", buffering=0) as file:
        for _ in range(FSYNCS):
            began = time.perf_counter()
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
            took_ms.append((time.perf_counter() - began) * 1_000)
    path.unlink()
    return statistics.median(took_ms), statistics.quantiles(took_ms, n=100)[98]


def commit() -> str:
    """The commit that was measured, with a word where the tree differs from it; "none" outside git."""
    head = _said("git", "rev-parse", "--short=12", "HEAD")
    changed = _said("git", "status", "--porcelain", "--untracked-files=no", "--", "edgegw", "tests/*.py")
    return f"{head or 'none'}{' and changes that are not committed' if changed else ''}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(place: Path) -> str:
    return _said("stat", "--file-system", "--format=%T", str(place)) or "unknown"


def _said(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
