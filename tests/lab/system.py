"""One system that boots from a root which nothing may write, as the appliance's slot is.

    with System(root, folder / "var") as system:
        system.run("systemctl", "is-active", "edgegw").stdout

Real systemd, no kernel of its own; it has namespaces of its own, and ends with the process that started it.
Leaves out what is tried on it, and what needs a kernel: slots, the firmware, growing, udev.
"""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.waiting import wait_until

START_SECONDS: Final = 120.0
STOP_SECONDS: Final = 30
_UP: Final = "basic.target"


class System:
    """A system that runs in a block."""

    def __init__(self, root: Path, var: Path, *, files: dict[str, Path] | None = None) -> None:
        """root is used as it is; var becomes its /var; files: other places of it, and what is there."""
        self._root, self._var, self._files = root, var, files or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._first = 0
        self.log = var.with_name(f"{var.name}.log")

    def __enter__(self) -> Self:
        """Boot it; returns when services are being started."""
        self._var.mkdir(exist_ok=True)
        nspawn = [
            *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--console=pipe", "--read-only"),
            *("--machine=appliance", f"--directory={self._root}", f"--bind={self._var}:/var"),
            *("--tmpfs=/tmp", "--capability=CAP_NET_ADMIN", "--kill-signal=SIGRTMIN+3"),
            *(f"--bind-ro={there}:{place}" for place, there in self._files.items()),
            "--boot",
        ]
        separate = ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child=SIGKILL"]
        begin = ["sh", "-c", 'ip link set lo up; exec "$@"', "sh", *nspawn]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*separate, "--propagation", "private", "--", *begin],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            wait_until(self._is_up, "the system to boot", timeout_seconds=START_SECONDS)
        except AssertionError:
            self.__exit__(None, None, None)
            raise AssertionError(self.log.read_text(errors="replace")[-4_000:]) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it in order; what hangs is killed."""
        process = self._process
        assert process is not None
        nspawn = _child_of(process.pid)
        if nspawn:
            with suppress(ProcessLookupError):
                os.kill(nspawn, signal.SIGTERM)  # another signal would end nspawn and leave its system
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the system to its end."""
        done = subprocess.run(
            ["nsenter", "--target", str(self._first), "--all", "--", *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert not check or done.returncode == 0, (words, done.stdout, done.stderr)
        return done

    def command(self, words: list[str], *, folder: Path = Path("/")) -> list[str]:
        """A command of this machine as it is run beside the system, in its network."""
        return ["nsenter", "--target", str(self._first), "--net", f"--wd={folder}", "--", *words]

    def said(self, *words: str) -> str:
        """What a command prints, whatever its exit code."""
        return self.run(*words, check=False).stdout.strip()

    def property(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.said("systemctl", "show", "--property", name, "--value", unit)

    def _is_up(self) -> bool:
        process = self._process
        assert process is not None
        assert process.poll() is None, self.log.read_text(errors="replace")[-4_000:]
        nspawn = _child_of(process.pid)
        self._first = _child_of(nspawn) if nspawn else 0
        if not self._first:
            return False
        return self.said("systemctl", "is-active", _UP) == "active"


def _child_of(pid: int) -> int:
    """The child that lives: nspawn may keep one that has ended beside the system's first process."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    return next((int(one) for one in children if Path(f"/proc/{one}/ns/mnt").exists()), 0)
