"""What a bundle says of the machine: versions, kernel, memory, disks, clock, units, slots."""

from __future__ import annotations

import os
import platform
import shutil
import ssl
import subprocess
import sys
import time
from collections import deque
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil

UNITS: Final = (
    "edgegw.service",
    "edgegw-hub.service",
    "edgegw-mirror.service",
    "edgegw-first-boot.service",
    "edgegw-update.service",
    "edgegw-commit.service",
    "edgegw-fallback.service",
    "edgegw-degraded.service",
    "edgegw-firewall.service",
    "edgegw-clock.service",
    "edgegw-disks.service",
)
_UNIT_FACTS: Final = (
    "Id,LoadState,ActiveState,SubState,Result,NRestarts,ExecMainCode,ExecMainStatus,UnitFileState"
)
UPDATE_STATE: Final = Path("/var/lib/edgegw-update/state.json")
COMMAND_S_MAX: Final = 10.0
_RELEASE: Final = Path("/etc/os-release")
_SYNCHRONIZED: Final = Path("/run/systemd/timesync/synchronized")


def versions() -> dict[str, Any]:
    """Of the program, what it runs on and what it uses."""
    import apsw

    packages = {}
    for wanted in metadata.requires("edgegw") or ():
        name = wanted.split(";")[0].split("[")[0].split(">")[0].split("=")[0].strip()
        if "extra ==" not in wanted:
            try:
                packages[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                packages[name] = "none"
    release = _RELEASE.read_text().splitlines() if _RELEASE.exists() else []
    return {
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "sqlite": apsw.sqlite_lib_version(),
        "packages": packages,
        "system": [line for line in release if line.startswith(("ID=", "VERSION_ID=", "IMAGE_"))],
    }


def kernel() -> dict[str, Any]:
    """Kernel, processors, memory and load."""
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    uname = os.uname()
    return {
        "release": uname.release,
        "machine": uname.machine,
        "processors": psutil.cpu_count(),
        "load": list(os.getloadavg()),
        "memory_total_bytes": memory.total,
        "memory_available_bytes": memory.available,
        "swap_used_bytes": swap.used,
        "up_s": int(time.time() - psutil.boot_time()),
        "python_flags": list(sys.flags),
    }


def disk(folder: Path) -> dict[str, Any]:
    """The file system of a folder: room, inodes, kind, options, and how large what lies in it is."""
    stats = os.statvfs(folder)
    at = max(
        (one for one in psutil.disk_partitions(all=True) if _holds(Path(one.mountpoint), folder)),
        key=lambda one: len(one.mountpoint),
        default=None,
    )
    files = sorted(folder.iterdir())[:200]
    return {
        "free_bytes": stats.f_bavail * stats.f_frsize,
        "total_bytes": stats.f_blocks * stats.f_frsize,
        "free_inodes_records": stats.f_favail,
        "kind": "" if at is None else at.fstype,
        "options": "" if at is None else at.opts,
        "files": [[one.name, _size(one), oct(one.lstat().st_mode)] for one in files],
    }


def _holds(mount: Path, folder: Path) -> bool:
    return mount == folder or mount in folder.resolve().parents


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return -1


def clock() -> dict[str, Any]:
    """The clocks against each other, and whether the system says that its own is kept right."""
    return {
        "wall_s": int(time.time()),
        "since_boot_s": int(time.clock_gettime(time.CLOCK_BOOTTIME)),
        "monotonic_s": int(time.monotonic()),
        "zone": list(time.tzname),
        "synchronized": _SYNCHRONIZED.exists(),
    }


def units() -> str:
    """How systemd has the program's units; raises OSError where there is no systemd."""
    return _said("systemctl", "show", "--no-pager", f"--property={_UNIT_FACTS}", *UNITS)


def slots() -> dict[str, Any]:
    """How RAUC has the slots, and what the update agent remembers."""
    found: dict[str, Any] = {}
    if shutil.which("rauc") is not None:
        found["rauc"] = msgspec.json.decode(_said("rauc", "status", "--output-format=json"))
    if UPDATE_STATE.exists():
        found["update"] = msgspec.json.decode(UPDATE_STATE.read_bytes())
    if not found:
        raise OSError("there is no rauc, and no update agent has run here")
    return found


def tail(path: Path, *, bytes_max: int) -> list[str]:
    """The last whole lines of a file, so many bytes at most; raises OSError."""
    with path.open("rb") as file:
        start = max(0, file.seek(0, os.SEEK_END) - bytes_max)
        file.seek(start)
        lines = file.read(bytes_max).split(b"\n")
    return [line.decode("utf-8", "replace") for line in lines[1 if start else 0 :] if line]


def journal(unit: str, *, lines_max: int, bytes_max: int) -> list[str]:
    """The last lines that systemd's journal has of a unit; raises OSError where there is none."""
    said = _said("journalctl", "--no-pager", "--output=cat", f"--lines={lines_max}", f"--unit={unit}")
    kept: deque[str] = deque()
    room = bytes_max
    for line in reversed(said.splitlines()):
        room -= len(line) + 1
        if room < 0:
            break
        kept.appendleft(line)
    return list(kept)


def _said(*command: str) -> str:
    done = subprocess.run(
        command, capture_output=True, timeout=COMMAND_S_MAX, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        raise OSError(
            f"{command[0]} ended with {done.returncode}: {done.stderr.decode(errors='replace')[:200]}"
        )
    return done.stdout.decode("utf-8", "replace")
