"""What the agent knows of its machine: the image that runs, its slots, its clock, and how it restarts."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import msgspec

from edgegw.config.update import UpdateTable
from edgegw.errors import Next, OperatingError
from edgegw.update.bundle import BundleFile
from edgegw.update.epoch import EpochVariable
from edgegw.update.health import Answer
from edgegw.update.rauc import Rauc
from edgegw.update.state import Store
from edgegw.update.versions import PATTERN
from edgegw.update.windows import BoxWord

IMAGE_NAME: Final = "image.json"
_BYTES_MAX: Final = 1 << 16


class NoSlots(OperatingError):
    """This machine was not made from an image of ours: its programs come another way."""

    code = "update_no_slots"
    next = Next.PAUSE
    default_hint = "Here the program is installed by the server's own means (the Ansible role `box`)."


class WrongImage(OperatingError):
    """The image that runs does not say what it is: on trial, it is to be left."""

    code = "update_image"
    next = Next.PAUSE
    default_hint = "The image was built wrongly; publish it anew under another number."


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """`image.json` of the root that runs."""

    version: Annotated[str, msgspec.Meta(pattern=PATTERN)]
    compatible: str
    security_epoch: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0
    built_s: int = 0
    """No clock of this machine is right that shows an earlier moment."""


def read_image(folder: Path) -> Image:
    """The image that runs; raises NoSlots and WrongImage."""
    path = folder / IMAGE_NAME
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_BYTES_MAX), type=Image)
    except FileNotFoundError:
        # An appliance's root has a link there, to what its kernel image brings.
        if path.is_symlink():
            raise WrongImage(f"{path} leads nowhere") from None
        raise NoSlots(f"there is no {path}: this machine has no slots for images") from None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as problem:
        raise WrongImage(f"{path}: {problem}") from None


class Surroundings(NamedTuple):
    """Everything that the agent touches."""

    image: Image
    rauc: Rauc
    store: Store
    bundle: BundleFile
    variable: EpochVariable
    table: UpdateTable
    root_file: Path
    schema: int
    """The newest schema of a ledger that this program reads."""
    box_name: str
    """BANK/BOX; "" before the box has enrolled."""
    now_s: Callable[[], float]
    boot_id: Callable[[], str]
    box: Callable[[], BoxWord | None]
    ask: Callable[[], Answer]
    restart: Callable[[], None]

    @property
    def floor_epoch(self) -> int:
        """The highest security epoch that image and firmware know of."""
        return max(self.image.security_epoch, self.variable.read())


def restart_machine() -> None:
    """Restart in order; raises OperatingError."""
    try:
        subprocess.run(["systemctl", "reboot"], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as problem:
        raise OperatingError(f"systemctl reboot: {problem}", hint="Restart the machine by hand.") from None
