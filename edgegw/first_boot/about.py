"""What a technician and the centre want to know of a machine that is no box yet."""

from __future__ import annotations

import ipaddress
import os
import socket
import time
from pathlib import Path
from typing import Final

import psutil

from edgegw import __version__

_SERIAL_CREDENTIAL: Final = "edgegw.serial"
"""The unit hands it over: only root may read it from the firmware."""
_OS_RELEASE: Final = Path("/etc/os-release")
_WORDS_MAX: Final = 80


def serial() -> str:
    """The maker's number of the machine, as its firmware says; "" where it says none."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    places = [Path(folder, _SERIAL_CREDENTIAL)] if folder else []
    for path in (*places, Path("/sys/class/dmi/id/product_serial")):
        try:
            said = path.read_bytes()[:_WORDS_MAX].decode("ascii", "replace").strip()
        except OSError:
            continue
        if said.strip("-"):
            return said
    return ""


def versions() -> str:
    """The program's version, and the system's."""
    try:
        lines = _OS_RELEASE.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = dict(line.partition("=")[::2] for line in lines)
    system = " ".join(named.get(name, "").strip('"') for name in ("PRETTY_NAME", "IMAGE_VERSION")).strip()
    return f"edgegw {__version__}" + (f", {system}" if system else "")


def addresses() -> list[str]:
    """The machine's addresses in the branch, those a person would type first."""
    found = [
        one.address.partition("%")[0]
        for places in psutil.net_if_addrs().values()
        for one in places
        if one.family in (socket.AF_INET, socket.AF_INET6)
    ]
    usable = [one for one in found if not ipaddress.ip_address(one).is_loopback]
    return sorted(usable, key=lambda one: (":" in one, one.startswith("fe80"), one))


def clock() -> str:
    """The machine's clock, which may be wrong by years."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
