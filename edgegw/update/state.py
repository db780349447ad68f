"""What the agent remembers over power cuts: what failed, what is on trial, below what it never goes.

One file, replaced whole. Everything in it can be lost without harm to payments: the slots are the firmware's
and RAUC's business, and the security epoch is kept a second time outside of the disk's data (`update.epoch`).
An older program reads what a newer one wrote: fields are added with defaults, never changed or taken away.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Literal

import msgspec

from edgegw.update.files import replace_file

STATE_NAME: Final = "state.json"
STATUS_NAME: Final = "status.json"
_BYTES_MAX: Final = 1 << 20
FAILED_MAX: Final = 64
TRIALS_MAX: Final = 2
"""A trial that ends without a verdict may have been a power cut: so often it is tried, no more."""

Phase = Literal["downloading", "installing", "trial"]


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """One bundle, named by what it holds."""

    version: str
    sha256: str
    security_epoch: int
    length: int = 0


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """A release that this box takes no more."""

    version: str
    sha256: str
    why: str
    at_s: int


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """The release that is under way. `installing`: the other slot is being written, nothing of it counts.
    `trial`: the next boot may be its only one."""

    release: Release
    phase: Phase
    slot: str = ""
    """Of a trial: the slot that holds it, as the boot loader names it."""
    boot_id: str = ""
    """The boot of the machine in which the trial was prepared: it has begun when this is another."""
    was_ready: bool = False
    """Whether the box took payments before."""
    mode: str = ""
    """The box's mode before."""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    floor_version: str = ""
    """The highest version that was committed here; "" before the first commit."""
    floor_epoch: int = 0
    committed: Release | None = None
    """What runs by a commit of this agent; None for the image as it was flashed."""
    failed: tuple[Failed, ...] = ()
    interrupted: dict[str, int] = {}
    """SHA-256 of a bundle to how many of its trials ended without a verdict."""
    attempt: Attempt | None = None
    checked_s: int = 0
    """When metadata was last believed, Unix seconds."""
    problem: str = ""
    """Why the last look brought nothing, where that is no good news."""
    hint: str = ""

    def has_failed(self, *, version: str, sha256: str) -> Failed | None:
        """Why this release is not taken, by its bytes or by its number."""
        return next((one for one in self.failed if sha256 == one.sha256 or version == one.version), None)

    def with_failed(self, failed: Failed) -> State:
        """The same, and this one is remembered, once."""
        others = tuple(one for one in self.failed if one.sha256 != failed.sha256)
        return msgspec.structs.replace(self, failed=(*others, failed)[-FAILED_MAX:])


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """What the box tells the centre and `edgegw update status` of its program."""

    version: str = ""
    """Of the image; "" on a machine without slots."""
    slot: str = ""
    security_epoch: int = 0
    floor_version: str = ""
    floor_epoch: int = 0
    phase: str = "idle"
    target: str = ""
    """The version that is under way."""
    failed: tuple[Failed, ...] = ()
    checked_s: int = 0
    problem: str = ""
    hint: str = ""


class StateUnreadable(Exception):
    """The state's file is there and says nothing readable."""


class Store:
    """The state of one machine, in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / STATE_NAME

    def read(self) -> State:
        """The state; the first one where there is none. Raises StateUnreadable and OSError."""
        try:
            with self._path.open("rb") as file:
                return msgspec.json.decode(file.read(_BYTES_MAX), type=State)
        except FileNotFoundError:
            return State()
        except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
            raise StateUnreadable(f"{self._path}: {problem}") from None

    def write(self, state: State) -> State:
        """Put it in place of the one before, on disk when this returns; raises OSError."""
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        replace_file(self._path, msgspec.json.encode(state) + b"\n", mode=0o600)
        return state

    def tell(self, word: Word) -> None:
        """Let the box read what its program is; raises OSError."""
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        path, body = self.folder / STATUS_NAME, msgspec.json.encode(word) + b"\n"
        try:
            if path.read_bytes() == body:
                return
        except OSError:
            pass
        replace_file(path, body, mode=0o644)


def read_word(folder: Path) -> Word | None:
    """What the agent last said of this machine; None where it said nothing."""
    try:
        with (folder / STATUS_NAME).open("rb") as file:
            return msgspec.json.decode(file.read(_BYTES_MAX), type=Word)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def set_aside(folder: Path) -> None:
    """Move an unreadable state out of the way, so that it can be looked at; raises OSError."""
    os.replace(folder / STATE_NAME, folder / f"{STATE_NAME}.unreadable")
