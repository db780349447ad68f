"""A machine of the lab whose disk loses, when its power goes, what the guest had not flushed: its writes and
flushes are logged (`tests.lab.power_cut`), and one life of it gives any number of cuts.

What of a machine is not on its disk has its own medium and cannot be made from that log: the firmware's
variables (flash) and the TPM. `Beside` copies both, each time that they have changed and rest, with the place
in the disk's log at which the copy was whole. So the last copy before a cut is one that the machine had by
then; it may have had a newer one.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final

from tests.lab.vm import Machine

_LOOK_S: Final = 0.2
_VARIABLES: Final = "vars.fd"
_TPM: Final = "tpm"


class FlashMachine(Machine):
    """A machine whose firmware's variables are a plain file, as flash is: whole at every moment, and without
    snapshots."""

    def _variables(self) -> str:
        return f"format=raw,file={self.folder}/{_VARIABLES}"


class LoggedMachine(FlashMachine):
    """One whose disk is logged, from its only start on."""

    @property
    def log(self) -> Path:
        """What was written."""
        return self.folder / "writes.log"

    @property
    def position(self) -> int:
        """How long the log is now: whatever the guest was told to be written stands before."""
        return self.log.stat().st_size

    def start(self, *, snapshot: str | None = None) -> None:
        """Turn it on."""
        assert snapshot is None, "a log has no way back"
        self.log.touch(exist_ok=False)
        super().start()

    def _arguments(self) -> Iterator[str]:
        yield from super()._arguments()
        # What is merged may have as many pieces as one write here can take; the log adds two, and fails.
        yield from ("-global", "virtio-blk-device.request-merging=off")

    def _drive(self) -> str:
        # This machine keeps its power: only the guest's own flushes cost time, and they are in the log.
        disk = "file.driver=qcow2,file.file.driver=file,file.file.cache.no-flush=on"
        log = "log.driver=file,log.cache.no-flush=on,log-sector-size=512"
        return (
            "if=none,id=disk,driver=blklogwrites,cache=writeback,discard=unmap,"
            f"{disk},file.file.filename={self.folder}/disk.qcow2,{log},log.filename={self.log}"
        )


class CutMachine(FlashMachine):
    """One that comes up after a cut: `image` is the disk of the cut, and its folder begins as a copy of what
    was on its other media (`Beside`)."""

    def _make(self, disk_gib: int) -> None:
        self._lay_over(self.image, disk_gib)


class Beside:
    """Copies a running machine's variables and TPM beside its log, for as long as the block lasts."""

    def __init__(self, machine: LoggedMachine, folder: Path) -> None:
        self._machine, self._folder = machine, folder
        self.positions: list[int] = []
        """Of the copies, in the order of `copy_of`."""
        self._copied: object = None
        self._ended = threading.Event()
        self._looks = threading.Thread(target=self._look_on)

    def _look_on(self) -> None:
        seen: object = None
        while not self._ended.wait(_LOOK_S):
            now = self._signs()
            if now == seen != self._copied:
                self._copy(now)
            seen = now

    def _signs(self) -> object:
        """What changes whenever one of the files does."""
        folder = self._machine.folder
        found = [folder / _VARIABLES, *sorted((folder / _TPM).glob("*.permall"))]
        return [(path, path.stat().st_mtime_ns, path.stat().st_size) for path in found]

    def _copy(self, signs: object) -> None:
        target = copy_of(self._folder, len(self.positions))
        shutil.rmtree(target, ignore_errors=True)
        (target / _TPM).mkdir(parents=True)
        shutil.copyfile(self._machine.folder / _VARIABLES, target / _VARIABLES)
        for path in (self._machine.folder / _TPM).glob("*.permall"):
            shutil.copyfile(path, target / _TPM / path.name)
        position = self._machine.position
        # One that changed meanwhile is of no moment.
        if self._signs() == signs:
            self._copied = signs
            self.positions.append(position)

    def __enter__(self) -> Beside:
        """Copy from now on."""
        self._looks.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Copy no more."""
        self._ended.set()
        self._looks.join()


def copy_of(folder: Path, number: int) -> Path:
    """Where one copy lies."""
    return folder / f"beside-{number:04}"


def variables_of(copy: Path) -> Path:
    """The firmware's variables of a copy."""
    return copy / _VARIABLES
