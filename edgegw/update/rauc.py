"""RAUC's programs as the agent uses them: what the slots are, what a bundle is, install, keep.

The only file that knows RAUC. A slot is never marked bad here: what is not kept is not first in the boot
order, and that is enough. Leaves out when to call what (`update.agent`, `update.commit`).
"""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec

from edgegw.errors import Next, OperatingError

STATUS_S: Final = 60.0
INSTALL_S: Final = 3_600.0
_PROGRESS: Final = re.compile(r"^\s*([0-9]{1,3})% (.*)$")
_OUTPUT_SHOWN: Final = 400


class RaucFailed(OperatingError):
    """RAUC does not do what it was asked for; the text has its own word."""

    code = "rauc_failed"
    next = Next.PAUSE
    default_hint = "Read `journalctl -u rauc`."

    def __init__(self, problem: str, *, hint: str = "", is_answer: bool = False) -> None:
        """is_answer: RAUC said so itself; it was not killed, and came to an end in time."""
        super().__init__(problem, hint=hint)
        self.is_answer = is_answer


class Slots(msgspec.Struct, frozen=True, kw_only=True):
    """What of the slots matters here, by the names that the boot loader has for them."""

    compatible: str
    booted: str
    other: str
    """"" where there is no second slot."""
    first: str = ""
    """The slot of the next boot if nothing happens; of a boot on trial that is the other one."""


class BundleFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the signed manifest of a bundle says."""

    compatible: str = ""
    version: str = ""


class _Slot(msgspec.Struct):
    bootname: str | None = None
    state: str = ""


class _Status(msgspec.Struct):
    compatible: str
    booted: str
    slots: Annotated[list[dict[str, _Slot]], msgspec.Meta(max_length=64)]
    boot_primary: str | None = None


class Rauc:
    """RAUC on this machine."""

    def __init__(self, program: Sequence[str] = ("rauc",), *, install_s: float = INSTALL_S) -> None:
        self._program = tuple(program)
        self._install_s = install_s

    def slots(self) -> Slots:
        """What runs, and where the next image goes; raises RaucFailed."""
        output = self._run("status", "--detailed", "--output-format=json", timeout_s=STATUS_S)
        try:
            status = msgspec.json.decode(output, type=_Status)
        except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
            raise RaucFailed(f"rauc status: {problem}") from None
        slots: Mapping[str, _Slot] = {name: slot for one in status.slots for name, slot in one.items()}
        booted = next(
            (slot.bootname for slot in slots.values() if slot.state == "booted" and slot.bootname), ""
        )
        others = [slot.bootname for slot in slots.values() if slot.bootname and slot.bootname != booted]
        if not booted:
            raise RaucFailed(f"rauc status names no slot as booted ({status.booted!r})")
        first = slots.get(status.boot_primary or "", _Slot()).bootname or ""
        return Slots(
            compatible=status.compatible, booted=booted, other=others[0] if others else "", first=first
        )

    def facts(self, bundle: Path) -> BundleFacts:
        """The manifest of a bundle whose signature RAUC has checked; raises RaucFailed."""
        output = self._run("info", "--output-format=json", str(bundle), timeout_s=STATUS_S)
        try:
            return msgspec.json.decode(output, type=BundleFacts)
        except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
            raise RaucFailed(f"rauc info: {problem}", is_answer=True) from None

    def install(self, bundle: Path, *, progress: Callable[[int, str], None]) -> None:
        """Write the bundle into the other slot and make that the next boot's, once. progress: percent and
        RAUC's word. Raises RaucFailed; the slot that runs is untouched then as well."""
        said = ""
        with subprocess.Popen(
            [*self._program, "install", str(bundle)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            end = threading.Timer(self._install_s, process.kill)
            end.start()
            try:
                for line in process.stdout or ():
                    if found := _PROGRESS.match(line):
                        progress(min(100, int(found[1])), found[2].strip())
                    elif line.startswith("LastError:"):
                        said = line.partition(":")[2].strip()
                code = process.wait()
            finally:
                end.cancel()
        if code:
            raise RaucFailed(f"rauc install: {said[:_OUTPUT_SHOWN] or f'it ended with code {code}'}")

    def keep(self) -> None:
        """Make the slot that runs the first of the boot order; raises RaucFailed."""
        self._run("status", "mark-good", "booted", timeout_s=STATUS_S)

    def _run(self, *arguments: str, timeout_s: float) -> bytes:
        what = f"rauc {arguments[0]}"
        try:
            done = subprocess.run(
                [*self._program, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
        except FileNotFoundError:
            raise RaucFailed(f"{what}: there is no rauc", hint="This machine has no slots.") from None
        except (OSError, subprocess.TimeoutExpired) as problem:
            raise RaucFailed(f"{what}: {problem}") from None
        if done.returncode:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
            said = (lines[-1] if lines else f"code {done.returncode}")[:_OUTPUT_SHOWN]
            raise RaucFailed(f"{what}: {said}", is_answer=done.returncode > 0)
        return done.stdout
