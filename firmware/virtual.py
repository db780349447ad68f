"""A virtual machine for an image: QEMU, a firmware with the build's keys, a TPM, two networks.

    machine = Virtual(folder, image=image, tools=tools, keys=keys, forwarded={8443: 18443}, claim=claim)
    machine.run()                       # in the foreground, until its power goes: SIGTERM or Ctrl-C

QEMU and the firmware are the tools root's, under emulation: Debian 12's own one corrupts guests. Disk,
variables and TPM live in the folder and outlast each start. `lan` carries the forwarded ports, `wan` reaches
this machine at 10.0.3.2. Leaves out what the appliance does.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Final

from firmware.keys import OWNER_GUID, Keys
from firmware.places import BuildError
from firmware.sandbox import in_tools, tools_command

HUB_ADDRESS: Final = "10.0.3.2"
"""Where the guest reaches this machine's loopback, through `wan`."""
_OVMF: Final = "/usr/share/OVMF"
_FIRMWARE: Final = f"{_OVMF}/OVMF_CODE_4M.secboot.fd"
# Without a hardware's help each instruction is translated: the plain processor is translated fastest.
_PROCESSOR: Final = "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+rdrand"
_TPM_S: Final = 30.0
_LOOK_S: Final = 0.05


class Virtual:
    """One virtual machine, off until somebody starts it."""

    def __init__(
        self,
        folder: Path,
        *,
        image: Path,
        tools: Path,
        keys: Keys,
        forwarded: Mapping[int, int],
        claim: str | None = None,
        disk_gib: int = 3,
        tpm: bool = True,
        extra: tuple[str, ...] = (),
    ) -> None:
        """Make the disk as an overlay of `image`, which stays as it is, unless there is one. forwarded: the
        guest's port to the one on this machine's loopback; claim: what it is handed by its tables (SMBIOS);
        extra: more words for QEMU. Raises BuildError."""
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.image, self.tools, self.keys = image.absolute(), tools, keys
        self.ports, self.claim, self.extra = dict(forwarded), claim, extra
        self._tpm = tpm
        # A socket's path may have 107 characters.
        self.sockets = Path(tempfile.mkdtemp(prefix="vm-"))
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

    def run(self) -> int:
        """Turn it on, its console to this program's output, until it ends or this process is told to; QEMU's
        exit code. Raises BuildError."""
        ended = threading.Event()

        def end(_number: int, _frame: FrameType | None) -> None:
            ended.set()

        before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
        running: list[subprocess.Popen[bytes]] = []
        try:
            if self._tpm:
                running.append(subprocess.Popen(self.tpm_command(), start_new_session=True))
                self._wait_tpm(running[0], ended)
            qemu = subprocess.Popen(
                self.command(console=("-serial", "stdio")), stdin=subprocess.DEVNULL, start_new_session=True
            )
            running.append(qemu)
            while qemu.poll() is None and not ended.wait(_LOOK_S):
                pass
            return qemu.poll() or 0
        finally:
            for process in reversed(running):
                process.kill()
                process.wait()
            for number, handler in before.items():
                signal.signal(number, handler)
            shutil.rmtree(self.sockets, ignore_errors=True)

    def _wait_tpm(self, process: subprocess.Popen[bytes], ended: threading.Event) -> None:
        looks = int(_TPM_S / _LOOK_S)
        while looks and process.poll() is None and not (self.sockets / "tpm").exists():
            looks -= 1
            ended.wait(_LOOK_S)
        if not (self.sockets / "tpm").exists():
            raise BuildError("the machine's TPM does not start", hint=f"Remove {self.folder}, and try again.")

    def command(self, *more: str, console: tuple[str, ...]) -> list[str | Path]:
        """The command that runs it."""
        return tools_command(
            self.tools,
            ["qemu-system-x86_64", *self._arguments(), *console, *more],
            writable=[self.folder, self.image.parent, self.sockets],
            network=True,
        )

    def tpm_command(self) -> list[str | Path]:
        """The command that runs its TPM, which is made if there is none."""
        state = self.folder / "tpm"
        if not state.exists():
            state.mkdir()
            # One bank: with four, the firmware hashes the kernel image four times, slowly.
            setup = ("swtpm_setup", "--tpm2", "--tpmstate", f"dir://{state}", "--pcr-banks", "sha256")
            self._in_tools(*setup)
        command = ["swtpm", "socket", "--tpm2", "--terminate", "--tpmstate", f"dir={state}"]
        command += ["--ctrl", f"type=unixio,path={self.sockets}/tpm"]
        (self.sockets / "tpm").unlink(missing_ok=True)
        return tools_command(self.tools, command, writable=[self.folder, self.sockets])

    def _arguments(self) -> Iterator[str]:
        forwarded = "".join(f",hostfwd=tcp:127.0.0.1:{ours}-:{port}" for port, ours in self.ports.items())
        yield from ("-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35,smm=on")
        yield from ("-accel", "tcg,thread=multi,tb-size=512", "-cpu", _PROCESSOR, "-smp", "2", "-m", "1024")
        yield from ("-global", "driver=cfi.pflash01,property=secure,value=on")
        yield from ("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={_FIRMWARE}")
        yield from ("-drive", f"if=pflash,unit=1,{self._variables()}")
        yield from ("-drive", self._drive(), "-device", "virtio-blk-pci,drive=disk")
        yield from ("-netdev", f"user,id=lan,restrict=on,net=10.0.2.0/24{forwarded}")
        yield from ("-device", "virtio-net-pci,netdev=lan,id=lan-card,romfile=,mac=52:54:00:ed:6e:01")
        yield from ("-netdev", "user,id=wan,net=10.0.3.0/24")
        yield from ("-device", "virtio-net-pci,netdev=wan,id=wan-card,romfile=,mac=52:54:00:ed:6e:02")
        yield from ("-device", "virtio-rng-pci", "-device", "i6300esb", "-action", "watchdog=reset")
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
        if self.claim is not None:
            written = self.folder / "claim"
            written.write_text(f"io.systemd.credential:edgegw.claim={self.claim}", encoding="utf-8")
            written.chmod(0o600)
            # From a file: a command line is for everybody to read.
            yield from ("-smbios", f"type=11,path={written}")

    def _drive(self) -> str:
        return f"if=none,id=disk,format=qcow2,cache=writeback,discard=unmap,file={self.folder}/disk.qcow2"

    def _variables(self) -> str:
        return f"format=qcow2,file={self.folder}/vars.qcow2"
