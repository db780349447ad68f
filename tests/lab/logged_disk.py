"""A file system of this machine whose writes and flushes are logged: a disk that loses, when its power goes,
what nobody had flushed.

QEMU's storage daemon shows the disk as a file (FUSE), a loop device mounts it, and the daemon logs what comes
(`tests.lab.power_cut`). Each time that it is plugged in is a stretch, with a disk to begin from and a log.
"""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path
from typing import Final

from firmware.sandbox import in_tools
from tests.lab.power_cut import Sweep, cut_out
from tests.waiting import wait_until

SIZE_BYTES: Final = 512 << 20
_LIBRARIES: Final = "usr/lib/x86_64-linux-gnu"


class LoggedDisk:
    """One disk, in a folder; `path` is where it is mounted."""

    def __init__(self, folder: Path, *, tools: Path) -> None:
        self.folder, self._tools = folder, tools
        self.path, self._shown = folder / "mounted", folder / "shown"
        self.path.mkdir(parents=True)
        self._shown.touch()
        self.stretch = -1
        self._daemon: subprocess.Popen[bytes] | None = None
        with self.base(0).open("wb") as file:
            file.truncate(SIZE_BYTES)
        words = ["mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0", self.base(0)]
        in_tools(tools, words, doing="making a file system", writable=[folder])

    def base(self, stretch: int) -> Path:
        """The disk as it was when it was plugged in."""
        return self.folder / f"base-{stretch}.raw"

    def log(self, stretch: int) -> Path:
        """What was written since."""
        return self.folder / f"writes-{stretch}.log"

    @property
    def position(self) -> int:
        """How long the log is now."""
        return self.log(self.stretch).stat().st_size

    def plug(self) -> None:
        """Begin a stretch: show, mount."""
        self.stretch += 1
        work, log = self.folder / "work.raw", self.log(self.stretch)
        cut_out(self.base(self.stretch), work, start=0, size=SIZE_BYTES)
        log.touch()
        usr, libraries = self._tools / "usr", self._tools / _LIBRARIES
        # Not in a namespace of its own: what it shows is mounted here.
        words = [usr / "lib64/ld-linux-x86-64.so.2", "--library-path", libraries]
        words += [usr / "bin/qemu-storage-daemon"]
        words += ["--blockdev", f"driver=file,node-name=disk,filename={work}"]
        words += ["--blockdev", f"driver=file,node-name=log,filename={log}"]
        words += ["--blockdev", "driver=blklogwrites,node-name=logged,file=disk,log=log,log-sector-size=512"]
        words += ["--export", f"type=fuse,id=shown,node-name=logged,mountpoint={self._shown},writable=on"]
        self._daemon = subprocess.Popen([str(word) for word in words])
        wait_until(lambda: self._shown.stat().st_size == SIZE_BYTES, "the disk to be shown")
        subprocess.run(["mount", "-o", "loop", str(self._shown), str(self.path)], check=True)

    def pull(self, chance: random.Random) -> tuple[int, int]:
        """End the stretch: the power goes now, whoever used the disk is dead already. Where in the log that
        is, and how many writes nobody had flushed."""
        position = self.position
        self.unplug()
        after = self.base(self.stretch + 1)
        cut_out(self.base(self.stretch), after, start=0, size=SIZE_BYTES)
        sweep = Sweep(after, self.log(self.stretch))
        sweep.forward(sum(one.at < position for one in sweep.written))
        lost = sweep.lose(chance)
        sweep.close()
        return position, lost

    def unplug(self) -> None:
        """Take the disk away from this machine; what that writes is of no stretch."""
        if self._daemon is None:
            return
        if os.path.ismount(self.path):
            subprocess.run(["umount", str(self.path)], check=True)
        self._daemon.terminate()
        self._daemon.wait(30)
        self._daemon = None
