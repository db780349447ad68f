"""A person's way into a machine of the lab: ssh, with a key that was laid on its disk before the first start.

Whoever may write to a disk that is off may lay one there. Leaves out what is asked.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

from firmware.layout import partition
from firmware.sandbox import in_tools
from tests.lab.vm import Gone, Machine
from tests.waiting import wait_until

SSH_PORT: Final = 22
_NOT_LET_IN: Final = 255
_POLL_S: Final = 1.0


def let_in(image: Path, folder: Path, *, tools: Path) -> Path:
    """A copy of an image whose data partition has the lab's key, which lies in the folder."""
    key, copy, script = folder / "login", folder / "login.img", folder / "login.debugfs"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", str(key)], check=True)
    subprocess.run(["cp", "--sparse=always", str(image), str(copy)], check=True)
    public = key.with_suffix(".pub")
    public.chmod(0o600)
    script.write_text(
        f"mkdir lib\nmkdir lib/ssh\ncd lib/ssh\nwrite {public} authorized_keys\n"
        "set_inode_field authorized_keys uid 0\nset_inode_field authorized_keys gid 0\n"
    )
    start = partition("cloud", "data").start_bytes
    in_tools(
        tools,
        ["debugfs", "-w", "-f", script, f"{copy}?offset={start}"],
        doing="laying a key on the disk",
        writable=[folder],
    )
    return copy


class Shell:
    """root on a machine, by ssh."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.folder = folder
        self._machine = machine

    def ask(self, command: str, *, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a line of shell; 255 where nobody is let in."""
        options = (
            *("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes", "LogLevel=ERROR"),
            # One greeting for many commands: under emulation it takes seconds. A machine that starts ends it.
            *("ControlMaster=auto", f"ControlPath={self._machine.sockets}/ssh", "ControlPersist=120"),
            *("ConnectTimeout=60", "ServerAliveInterval=15", "ServerAliveCountMax=4"),
        )
        words = ["ssh", "-F", "/dev/null", "-i", str(self.folder / "login")]
        words += [word for one in options for word in ("-o", one)]
        words += ["-p", str(self._machine.ports[SSH_PORT]), "root@127.0.0.1", command]
        return subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=timeout_s
        )

    def run(self, command: str, *, timeout_s: float = 300) -> str:
        """Run a line of shell that must succeed; what it printed."""
        done = self.ask(command, timeout_s=timeout_s)
        if done.returncode == _NOT_LET_IN:
            done = self.ask(command, timeout_s=timeout_s)
        assert done.returncode == 0, (command, done.returncode, done.stdout[-2_000:], done.stderr[-2_000:])
        return done.stdout

    def wait(self, *, timeout_s: float = 240) -> None:
        """Wait until somebody is let in."""
        said = ""

        def is_in() -> bool:
            nonlocal said
            try:
                done = self.ask("true", timeout_s=30)
            except subprocess.TimeoutExpired:
                return False  # its port is open as soon as it runs, and nobody is behind it yet
            said = done.stderr
            return done.returncode == 0

        try:
            wait_until(is_in, "ssh", timeout_seconds=timeout_s, poll_seconds=_POLL_S)
        except AssertionError as problem:
            raise Gone(f"{problem} ({said}); the console's end:\n{self._machine.said()[-3_000:]}") from None


def twin(folder: Path, of: Machine, *, with_tpm: bool) -> None:
    """Copy what a machine that is off consists of into the folder of another one."""
    folder.mkdir(parents=True)
    for name in ("disk.qcow2", "vars.qcow2"):
        shutil.copyfile(of.folder / name, folder / name)
    if with_tpm:
        shutil.copytree(of.folder / "tpm", folder / "tpm")
