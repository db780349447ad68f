"""What of the lab a machine may be unable to run: one list, each with what is missing."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

import pytest

IMAGE = "the image is built"
MACHINE = "a virtual machine runs"
_NOT_ROOT = "roots are made by root: run `make lab` as root"
_NO_NAMESPACES = "bubblewrap may make no namespaces here: run it outside of a container that forbids them"


def why_not(what: str) -> str:
    """Why this machine cannot do it; nothing if it can."""
    if platform.machine() != "x86_64":
        return f"{what} on x86-64 only, and this machine is {platform.machine()}"
    if os.geteuid() != 0:
        return _NOT_ROOT
    missing = [name for name in ("mmdebstrap", "bwrap", "dpkg-deb", "apt-get") if shutil.which(name) is None]
    if missing:
        return f"missing on this machine: {', '.join(missing)}; run .ci/setup-image as root"
    if not Path("/proc/self/ns/user").exists():
        return _NO_NAMESPACES
    if what == MACHINE and (os.cpu_count() or 1) < 2:
        return "a virtual machine under emulation needs two cores"
    return ""


def needs(what: str) -> pytest.MarkDecorator:
    """Skip a test, with the reason, on a machine that cannot do `what`."""
    reason = why_not(what)
    return pytest.mark.skipif(bool(reason), reason=reason)
