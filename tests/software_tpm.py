"""A TPM 2.0 in software (swtpm), for the tests of keys that it seals."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

from edgegw.access.places.tpm2 import Tpm2
from tests.crash.machine import lacks
from tests.waiting import wait_until


def need_tpm() -> None:
    """Skip where there is no TPM in software, or nothing that speaks to one."""
    if not shutil.which("swtpm") or not shutil.which("tpm2_unseal"):
        lacks("swtpm")


def two_ports() -> tuple[int, int]:
    """Two free ports side by side: tpm2-tools look for a TPM's second one behind its first."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as one:
            first: int = one.getsockname()[1]
            try:
                socket.create_server(("127.0.0.1", first + 1)).close()
            except OSError:
                continue
            return first, first + 1


class SoftwareTpm:
    """One TPM, in software: its chip is the folder, its bus a port of this machine."""

    def __init__(self, chip: Path) -> None:
        self.chip = chip
        chip.mkdir(exist_ok=True)
        ports = two_ports()
        self.tcti = f"swtpm:host=127.0.0.1,port={ports[0]}"
        self._process = subprocess.Popen(
            [
                *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={chip}"),
                *("--server", f"type=tcp,port={ports[0]},bindaddr=127.0.0.1"),
                *("--ctrl", f"type=tcp,port={ports[1]},bindaddr=127.0.0.1"),
                *("--flags", "not-need-init,startup-clear"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: self._listens(ports[1]), "swtpm to listen", timeout_seconds=30)

    @staticmethod
    def _listens(port: int) -> bool:
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", port)) == 0

    def place(self, *pcrs: int) -> Tpm2:
        """The place, sealing to these PCRs."""
        return Tpm2(tcti=self.tcti, pcrs=pcrs)

    def stop(self) -> None:
        """Switch it off."""
        self._process.terminate()
        self._process.wait()
