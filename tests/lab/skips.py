"""What of the lab a machine may be unable to run: one list, each with what is missing.

A test of the lab names what it needs by one of these words, and skips by no reason of its own.
"""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
from typing import Final

import pytest

IMAGE: Final = "the image is built"
MACHINE: Final = "a virtual machine runs"
SYSTEM: Final = "a system boots in namespaces"
FLEET: Final = "a fleet of systems runs"
NETWORK: Final = "a network of its own is made"
FILE_SYSTEM: Final = "a file system of its own is mounted"
LOGGED_DISK: Final = "a disk's writes are logged"
RULES: Final = "alert rules are read by Prometheus' checker"

_PROGRAMS: Final = {
    IMAGE: ("mmdebstrap", "bwrap", "dpkg-deb", "apt-get"),
    SYSTEM: ("systemd-nspawn", "unshare", "nsenter", "ip"),
    FLEET: ("systemd-nspawn", "unshare", "nsenter", "ip", "ssh", "ssh-keygen"),
    NETWORK: ("unshare", "ip"),
    FILE_SYSTEM: ("unshare", "mount"),
    LOGGED_DISK: ("mount", "umount", "losetup"),
    RULES: ("promtool",),
}
_NEEDS_IMAGE: Final = (MACHINE, SYSTEM, FLEET, LOGGED_DISK)
"""What is built from locks of Debian's packages."""
_PACKAGES: Final = {"promtool": "install Debian's package prometheus"}
_TRIED: Final = {
    IMAGE: ("bwrap", "--bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--unshare-pid", "true"),
    SYSTEM: ("unshare", "--mount", "--net", "--pid", "--fork", "true"),
    FLEET: ("unshare", "--mount", "--net", "--pid", "--fork", "true"),
    NETWORK: ("unshare", "--net", "true"),
    LOGGED_DISK: ("sh", "-c", "test -c /dev/fuse && losetup -f"),
    FILE_SYSTEM: ("unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"),
}
"""A command that a machine must be able to run: a container may forbid what root could do elsewhere."""


@functools.cache
def why_not(what: str) -> str:
    """Why this machine cannot do it; nothing if it can."""
    if what in _NEEDS_IMAGE and (reason := why_not(IMAGE)):
        return reason
    if what == IMAGE and platform.machine() != "x86_64":
        return f"{what} on x86-64 only, and this machine is {platform.machine()}"
    if what != RULES and os.geteuid() != 0:
        return f"{what} by root alone: run `make lab` as root"
    missing = [name for name in _PROGRAMS.get(what, ()) if shutil.which(name) is None]
    if missing:
        mend = _PACKAGES.get(missing[0], "run .ci/setup-image as root")
        return f"missing on this machine: {', '.join(missing)}; {mend}"
    if what in _TRIED and subprocess.run(_TRIED[what], capture_output=True, check=False).returncode:
        return f"namespaces are forbidden here, and with them {what}: run it outside of this container"
    if what == MACHINE and (os.cpu_count() or 1) < 2:
        return "a virtual machine under emulation needs two cores"
    return ""


def needs(what: str) -> pytest.MarkDecorator:
    """Skip a test, with the reason, on a machine that cannot do `what`."""
    reason = why_not(what)
    return pytest.mark.skipif(bool(reason), reason=reason)


def skip_without(what: str) -> None:
    """Skip the test that is running, with the reason, on a machine that cannot do `what`."""
    if reason := why_not(what):
        pytest.skip(reason)
