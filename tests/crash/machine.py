"""What a machine may lack, and how a test says so: the only reasons for which a test of crashes or of
keys' places may be skipped.

A skip for any other reason is a failure (`tests/crash/conftest.py`): a harness that does nothing looks like a
ledger that loses nothing.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

from tests.proof.figures import LACKS, note

MAY_LACK = {
    "root": "only root may mount a file system and cut its power",
    "strace": "strace is not installed",
    "ptrace": "this machine does not let one process trace another",
    "mkfs.ext4": "mkfs.ext4 is not installed",
    "loop": "this machine cannot mount a file as a disk",
    "shutdown": "this kernel's ext4 does not know FS_IOC_SHUTDOWN",
    "swtpm": "swtpm or tpm2-tools is not installed",
    "softhsm2": "softhsm2 is not installed",
    "systemd-creds": "systemd-creds is not installed, or not run by root",
}
"""What is lacking: the reason that a skip gives, word for word."""

FS_IOC_SHUTDOWN = 0x8004587D
WITHOUT_LOG = ctypes.c_uint32(2)
"""EXT4_GOING_FLAGS_NOLOGFLUSH: the journal in memory is lost as well, as in a power cut."""


def lacks(what: str) -> NoReturn:
    """Skip the test for a reason that is on the list."""
    note(**{LACKS: MAY_LACK[what]})
    pytest.skip(MAY_LACK[what])


def need_strace() -> None:
    """Skip where no other process can be traced."""
    if shutil.which("strace") is None:
        lacks("strace")
    if not _traces():
        lacks("ptrace")


@cache
def _traces() -> bool:
    """Whether strace may attach to a process that it has not started itself."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as idle:
        command = ["strace", "-o", os.devnull, "-p", str(idle.pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            said = tracer.stderr.readline() if tracer.stderr else ""
            tracer.terminate()
        idle.kill()
    return "attached" in said


class PoweredDisk:
    """An ext4 of its own in a file, mounted at `home`; `cut` takes its power away, `mount` gives it back."""

    def __init__(self, place: Path, *, size_bytes: int = 96 * 2**20) -> None:
        """Make and mount it, or skip."""
        if os.geteuid() != 0:
            lacks("root")
        if shutil.which("mkfs.ext4") is None:
            lacks("mkfs.ext4")
        self.home = place / "disk"
        self.home.mkdir()
        self._image = place / "image"
        with self._image.open("wb") as file:
            file.truncate(size_bytes)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(self._image)], check=True)
        if not self.mount():
            lacks("loop")

    def mount(self) -> bool:
        """Replay the file system's journal and mount it; False where that is not possible here."""
        command = ["mount", "-o", "loop", str(self._image), str(self.home)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def cut(self) -> None:
        """Nothing that is not on the disk gets there any more; every later call to it fails."""
        descriptor = os.open(self.home, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, FS_IOC_SHUTDOWN, WITHOUT_LOG)
        except OSError:
            lacks("shutdown")
        finally:
            os.close(descriptor)

    def unmount(self) -> None:
        """Take it away; whoever has files open on it makes this fail."""
        subprocess.run(["umount", str(self.home)], check=True, capture_output=True)

    def remove(self) -> None:
        """Unmount it whatever is open."""
        subprocess.run(["umount", "--lazy", str(self.home)], check=False, capture_output=True)
