"""What the box of a data directory says of itself, for the commands that ask."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgegw.core.records import UNREADABLE

if TYPE_CHECKING:
    from edgegw.running import RunningBox


def read_running(directory: Path) -> RunningBox | None:
    """What the box of a data directory says of itself while it runs; None where nothing readable is there."""
    from edgegw.running import RUNNING_NAME, RunningBox

    try:
        return msgspec.json.decode((directory / RUNNING_NAME).read_bytes(), type=RunningBox)
    except (OSError, *UNREADABLE):
        return None
