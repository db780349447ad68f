"""A machine of the lab: the virtual one of `firmware.virtual`, watched from outside.

    with Machine(folder, image=image, tools=tools, keys=keys) as machine:
        machine.start()
        machine.wait_http(8080, "/readyz")
        machine.cut()                       # the power goes: SIGKILL, nothing is flushed by the guest

Each of its two networks may be unplugged. Leaves out what the appliance does.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from firmware.keys import Keys
from firmware.virtual import Virtual
from tests.waiting import wait_until

_POLL_S: Final = 0.2
_BEFORE_OTHERS: Final = "-10"
"""How nice its group of processes is, where the kernel groups them by session."""


class Gone(AssertionError):
    """The machine did not do in time what was waited for; the end of its serial log is in the message."""


class Machine(Virtual):
    """One virtual machine; its disk, firmware variables and TPM live in a folder and outlast each start."""

    def __init__(
        self,
        folder: Path,
        *,
        image: Path,
        tools: Path,
        keys: Keys,
        disk_gib: int = 3,
        ports: tuple[int, ...] = (),
        claim: str | None = None,
        tpm: bool = True,
        extra: tuple[str, ...] = (),
    ) -> None:
        """As `Virtual`, with `ports` of the guest forwarded from free ones."""
        self._gone: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._tpm_process: subprocess.Popen[bytes] | None = None
        self._seen = 0
        super().__init__(
            folder,
            image=image,
            tools=tools,
            keys=keys,
            forwarded={port: _free_port() for port in ports},
            claim=claim,
            disk_gib=disk_gib,
            tpm=tpm,
            extra=extra,
        )
        self.serial = self.folder / "serial.log"

    def start(self, *, snapshot: str | None = None) -> None:
        """Turn the machine on, or bring it back to a snapshot of a running one."""
        assert self._process is None, "the machine is on already"
        self._seen = self.serial.stat().st_size if self.serial.exists() else 0
        if self._tpm:
            self._start_tpm()
        (self.sockets / "qmp").unlink(missing_ok=True)
        console = ("-chardev", f"file,id=serial,append=on,path={self.serial}", "-serial", "chardev:serial")
        command = self.command(*(("-loadvm", snapshot) if snapshot else ()), console=console)
        self._process = self._begin(command, "qemu.log")

    def _begin(self, command: list[str | Path], log_name: str) -> subprocess.Popen[bytes]:
        """Start a program; the descriptor that it inherits tells when it and its children are gone."""
        gone, held = os.pipe()
        self._gone.append(gone)
        with (self.folder / log_name).open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(held,),
                start_new_session=True,
            )
        os.close(held)
        # The longest chain of tests hangs on the emulator: what runs beside it can wait.
        with contextlib.suppress(OSError):
            Path(f"/proc/{process.pid}/autogroup").write_text(_BEFORE_OTHERS)
        return process

    def _start_tpm(self) -> None:
        self._tpm_process = self._begin(self.tpm_command(), "swtpm.log")
        wait_until((self.sockets / "tpm").exists, "the TPM")

    @property
    def running(self) -> bool:
        """Whether QEMU runs."""
        return self._process is not None and self._process.poll() is None

    def pull(self) -> None:
        """Pull the power, from another thread than the one that drives the machine: that one then cuts it."""
        if self._process is not None:
            self._process.kill()

    def cut(self) -> None:
        """Pull the power: SIGKILL of QEMU."""
        for process in (self._process, self._tpm_process):
            if process is not None:
                process.kill()
                process.wait()
        # What was killed is the sandbox; QEMU dies with it a moment later, and holds its disk until then.
        for gone in self._gone:
            os.read(gone, 1)
            os.close(gone)
        self._gone.clear()
        self._process = self._tpm_process = None

    def unplug(self, network: str, *, plugged: bool = False) -> None:
        """Cut a network's cable (`lan` or `wan`), or plug it in again."""
        self.monitor("set_link", name=f"{network}-card", up=plugged)

    def save(self, name: str) -> None:
        """Keep the running machine as a snapshot: disk, memory, firmware's variables, TPM."""
        self._human(f"savevm {name}")

    def restore(self, name: str) -> None:
        """Bring the running machine back to a snapshot."""
        self._human(f"loadvm {name}")

    def _human(self, command: str) -> None:
        said = self.monitor("human-monitor-command", **{"command-line": command})
        assert not said, said

    def monitor(self, command: str, **arguments: object) -> Any:
        """Give QEMU a command (QMP) and return its answer."""
        wait_until((self.sockets / "qmp").exists, "QEMU's monitor")
        with socket.socket(socket.AF_UNIX) as line, line.makefile("rw", encoding="utf-8") as text:
            line.settimeout(120)
            line.connect(str(self.sockets / "qmp"))
            text.readline()
            answer: dict[str, Any] = {}
            for asked in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}):
                text.write(json.dumps(asked) + "\n")
                text.flush()
                answer = json.loads(text.readline())
                while "event" in answer:
                    answer = json.loads(text.readline())
                assert "error" not in answer, answer["error"]
            return answer["return"]

    def wait_written(self, more_bytes: int, *, timeout_s: float) -> None:
        """Wait until the guest has written so many more bytes to its disk."""
        goal = self._written() + more_bytes
        what = f"{more_bytes} bytes on the disk"
        self._wait(lambda: self._written() >= goal, timeout_s=timeout_s, what=what)

    def _written(self) -> int:
        stats = self.monitor("query-blockstats")
        return max(int(one["stats"]["wr_bytes"]) for one in stats if one.get("device") == "disk")

    def said(self) -> str:
        """What the serial console wrote since the last start."""
        if not self.serial.exists():
            return ""
        with self.serial.open("rb") as file:
            file.seek(self._seen)
            return file.read().decode(errors="replace").replace("\r", "")

    def wait_said(self, text: str, *, timeout_s: float, times: int = 1) -> None:
        """Wait until the serial console has written a text so many times since the last start."""
        self._wait(
            lambda: self.said().count(text) >= times, timeout_s=timeout_s, what=f"{text!r} on the console"
        )

    def get(self, port: int, path: str, *, timeout_s: float = 5) -> tuple[int, bytes]:
        """Ask a forwarded port of the guest by HTTP: status and body; raises OSError or HTTPException."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[port], timeout=timeout_s)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def wait_http(self, port: int, path: str, *, status: int = 200, timeout_s: float = 300) -> bytes:
        """Wait until a forwarded port answers a path with a status; the body."""
        body = b""

        def answers() -> bool:
            nonlocal body
            with contextlib.suppress(OSError, http.client.HTTPException):
                got, body = self.get(port, path)
                return got == status
            return False

        self._wait(answers, timeout_s=timeout_s, what=f"{status} from {path} of port {port}")
        return body

    def _wait(self, reached: Callable[[], bool], *, timeout_s: float, what: str) -> None:
        def reached_or_ended() -> bool:
            return not self.running or reached()

        try:
            wait_until(reached_or_ended, what, timeout_seconds=timeout_s, poll_seconds=_POLL_S)
            assert self.running, f"QEMU ended before: {what}"
        except AssertionError as problem:
            raise Gone(f"{problem}; the console's end:\n{self.said()[-4_000:]}") from None

    def __enter__(self) -> Machine:
        """The machine, not started."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End QEMU, whatever happened."""
        self.cut()
        shutil.rmtree(self.sockets, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number
