"""A machine of the lab: QEMU with the appliance's disk, a firmware with the lab's keys, a TPM, two networks.

    with Machine(folder, image=image, tools=tools, keys=keys) as machine:
        machine.start()
        machine.wait_http(8080, "/readyz")
        machine.cut()                       # the power goes: SIGKILL, nothing is flushed by the guest

QEMU is the tools root's, under emulation: Debian 12's own one corrupts guests. `lan` carries the forwarded
ports, `wan` reaches this machine at 10.0.3.2; each may be unplugged. Leaves out what the appliance does.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from firmware.keys import OWNER_GUID, Keys
from firmware.sandbox import in_tools, tools_command
from tests.waiting import wait_until

HUB_ADDRESS: Final = "10.0.3.2"
"""Where the guest reaches this machine's loopback, through `wan`."""
_OVMF: Final = "/usr/share/OVMF"
_FIRMWARE: Final = f"{_OVMF}/OVMF_CODE_4M.secboot.fd"
# Without a hardware's help each instruction is translated: the plain processor is translated fastest.
_PROCESSOR: Final = "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+rdrand"
_POLL_S: Final = 0.2
_BEFORE_OTHERS: Final = "-10"
"""How nice its group of processes is, where the kernel groups them by session."""


class Gone(AssertionError):
    """The machine did not do in time what was waited for; the end of its serial log is in the message."""


class Machine:
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
        """Make the disk as an overlay of `image`, which stays as it is, and forward `ports` of the guest."""
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.image = image.absolute()
        self.tools = tools
        self.keys = keys
        self._claim = claim
        self._tpm = tpm
        self.extra = extra
        """More words for QEMU; what is put there counts from the next start on."""
        # A socket's path may have 107 characters.
        self.sockets = Path(tempfile.mkdtemp(prefix="vm-"))
        self.ports: dict[int, int] = {port: _free_port() for port in ports}
        self._gone: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._tpm_process: subprocess.Popen[bytes] | None = None
        self.serial = self.folder / "serial.log"
        self._seen = 0
        if not (self.folder / "disk.qcow2").exists():
            self._make(disk_gib)

    def _make(self, disk_gib: int) -> None:
        self._lay_over(self.image, disk_gib)
        plain = self.folder / "vars.fd"
        certificate = self.keys.certificate
        self._in_tools(
            *("virt-fw-vars", "--input", f"{_OVMF}/OVMF_VARS_4M.fd", "--output", plain, "--secure-boot"),
            *("--set-pk", OWNER_GUID, certificate("PK"), "--add-kek", OWNER_GUID, certificate("KEK")),
            *("--add-db", OWNER_GUID, certificate("db")),
        )
        # Only a qcow2 holds snapshots.
        self._in_tools("qemu-img", "convert", "-q", "-O", "qcow2", plain, self.folder / "vars.qcow2")

    def _lay_over(self, base: Path, disk_gib: int) -> None:
        """Make the disk, as what is written over another one."""
        disk, size = self.folder / "disk.qcow2", f"{disk_gib}G"
        self._in_tools("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, disk, size)

    def _in_tools(self, *command: str | Path) -> str:
        writable = [self.folder, self.image.parent, self.keys.folder]
        return in_tools(self.tools, command, doing="preparing the virtual machine", writable=writable)

    def start(self, *, snapshot: str | None = None) -> None:
        """Turn the machine on, or bring it back to a snapshot of a running one."""
        assert self._process is None, "the machine is on already"
        self._seen = self.serial.stat().st_size if self.serial.exists() else 0
        if self._tpm:
            self._start_tpm()
        (self.sockets / "qmp").unlink(missing_ok=True)
        command = tools_command(
            self.tools,
            ["qemu-system-x86_64", *self._arguments(), *(["-loadvm", snapshot] if snapshot else [])],
            writable=[self.folder, self.image.parent, self.sockets],
            network=True,
        )
        self._process = self._run(command, "qemu.log")

    def _run(self, command: list[str | Path], log_name: str) -> subprocess.Popen[bytes]:
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
        state = self.folder / "tpm"
        if not state.exists():
            state.mkdir()
            # One bank: with four, the firmware hashes the kernel image four times, slowly.
            setup = ("swtpm_setup", "--tpm2", "--tpmstate", f"dir://{state}", "--pcr-banks", "sha256")
            self._in_tools(*setup)
        command = ["swtpm", "socket", "--tpm2", "--terminate", "--tpmstate", f"dir={state}"]
        command += ["--ctrl", f"type=unixio,path={self.sockets}/tpm"]
        (self.sockets / "tpm").unlink(missing_ok=True)
        sandboxed = tools_command(self.tools, command, writable=[self.folder, self.sockets])
        self._tpm_process = self._run(sandboxed, "swtpm.log")
        wait_until((self.sockets / "tpm").exists, "the TPM")

    def _arguments(self) -> Iterator[str]:
        forwarded = "".join(f",hostfwd=tcp:127.0.0.1:{ours}-:{port}" for port, ours in self.ports.items())
        yield from ("-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35,smm=on")
        yield from ("-accel", "tcg,thread=multi,tb-size=512", "-cpu", _PROCESSOR, "-smp", "2", "-m", "1024")
        yield from ("-global", "driver=cfi.pflash01,property=secure,value=on")
        yield from ("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={_FIRMWARE}")
        yield from ("-drive", f"if=pflash,unit=1,format=qcow2,file={self.folder}/vars.qcow2")
        yield from ("-drive", self._drive(), "-device", "virtio-blk-pci,drive=disk")
        yield from ("-netdev", f"user,id=lan,restrict=on,net=10.0.2.0/24{forwarded}")
        yield from ("-device", "virtio-net-pci,netdev=lan,id=lan-card,romfile=,mac=52:54:00:ed:6e:01")
        yield from ("-netdev", "user,id=wan,net=10.0.3.0/24")
        yield from ("-device", "virtio-net-pci,netdev=wan,id=wan-card,romfile=,mac=52:54:00:ed:6e:02")
        yield from ("-device", "virtio-rng-pci", "-device", "i6300esb", "-action", "watchdog=reset")
        yield from ("-chardev", f"file,id=serial,append=on,path={self.serial}", "-serial", "chardev:serial")
        yield from ("-qmp", f"unix:{self.sockets}/qmp,server=on,wait=off")
        if self._tpm:
            yield from (
                "-chardev",
                f"socket,id=tpm,path={self.sockets}/tpm",
                "-tpmdev",
                "emulator,id=tpm,chardev=tpm",
            )
            yield from ("-device", "tpm-crb,tpmdev=tpm")
        yield from self.extra
        if self._claim is not None:
            written = self.folder / "claim"
            written.write_text(f"io.systemd.credential:edgegw.claim={self._claim}", encoding="utf-8")
            written.chmod(0o600)
            # From a file: a command line is for everybody to read.
            yield from ("-smbios", f"type=11,path={written}")

    def _drive(self) -> str:
        return f"if=none,id=disk,format=qcow2,cache=writeback,discard=unmap,file={self.folder}/disk.qcow2"

    def take_claim(self) -> str:
        """The claim, which the machine is then not handed by its tables."""
        claim, self._claim = self._claim, None
        assert claim is not None
        return claim

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
