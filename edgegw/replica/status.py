"""What the box says of its copy: in the log, at `/metrics`, at `/v1/status` and in `edgegw status`."""

from __future__ import annotations

import enum
from typing import Final

import msgspec

DRILL_NAME: Final = "drill.json"
"""Below the litestream folder: what the last drill found."""


class State(enum.Enum):
    """How the copy is."""

    OFF = "off"
    """Nothing is copied now: the box is behind its past, or has only begun."""
    STARTING = "starting"
    WELL = "well"
    STUCK = "stuck"
    """litestream runs and answers, and its position does not move while the ledger does."""
    SILENT = "silent"
    """litestream runs and does not answer."""
    DEAD = "dead"
    """litestream has ended; it is started again."""
    NO_ROOM = "no_room"
    """The ledger's disk has too little room for what waits to be copied: payments come first."""

    @property
    def alarm(self) -> bool:
        """Whether an operator must look."""
        return self not in (State.OFF, State.STARTING, State.WELL)


class Drill(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore drill found."""

    at_s: int
    """When it ended, in seconds since 1970."""
    well: bool
    problem: str = ""
    malformed: bool = False
    """Whether the copy came and was wrong; otherwise it did not come at all."""
    skipped: bool = False
    """There was no room to restore into; nothing is said of the copy."""
    target: str = ""
    txid: str = ""
    epoch: int = 0
    size: int = 0
    """Records of the newest epoch in the copy."""
    behind_records: int = 0
    """How many more the live journal had when they were compared."""
    seconds: float = 0.0


class Status(msgspec.Struct, kw_only=True):
    """The copy as it is now."""

    state: State = State.OFF
    reason: str = ""
    target: str = ""
    txid: int = 0
    replicated_txid: int = 0
    lag_seconds: float = 0.0
    """Age of the oldest change that is not at the target."""
    lag_bytes: int = 0
    """What waits to be copied."""
    wal_bytes: int = 0
    restarts: int = 0
    drill: Drill | None = None
