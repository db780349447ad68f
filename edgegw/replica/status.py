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

    PAUSED = "paused"
    """The machine lacks what the copy takes: payments come first."""

    @property
    def alarm(self) -> bool:
        """Whether an operator must look."""
        return self not in (State.OFF, State.STARTING, State.WELL)

    @property
    def hint(self) -> str:
        """What an operator does about it; "" where nothing is to be done."""
        return _HINTS.get(self, "")


_HINTS: Final = {
    State.STUCK: (
        "Check the target: its disk, its server, its credentials. What waits is on the box's disk. The box"
        " restores what is at the target meanwhile: if that is malformed, it begins a new copy beside it."
    ),
    State.SILENT: "The box kills it soon and starts it again; if that goes on, look at the machine's load.",
    State.DEAD: "The box starts it again; its last words are in the log as litestream_said.",
    State.PAUSED: "`edgegw health` says what the machine lacks; the copy goes on by itself when it is well.",
    State.NO_ROOM: "Make room on the ledger's disk; the copy then begins anew by itself.",
}
MALFORMED_HINT: Final = (
    "The box begins a new copy beside it by itself, at most once an hour, and restores that soon; `edgegw"
    " drill` does it now. What is there stays for you to look at. Found again and again: check the target's"
    " disk."
)


class Drill(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore drill found."""

    at_s: int
    """When it ended, in seconds since 1970."""
    well: bool
    problem: str = ""
    malformed: bool = False
    """Whether the copy is wrong: it came and did not pass, or it is at the target and cannot be restored.
    Otherwise it was not to be had."""
    skipped: bool = False
    """There was no room to restore into; nothing is said of the copy."""
    target: str = ""
    generation: int = 1
    """Which of the target's copies: it begins anew beside one that was malformed."""
    place: str = ""
    """Where that one stands."""
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
    complaint: str = ""
    """What a stuck litestream says instead of a position."""
    target: str = ""
    generation: int = 1
    place: str = ""
    """Where the copy stands, for an operator."""
    txid: int = 0
    replicated_txid: int = 0
    lag_seconds: float = 0.0
    """Age of the oldest change that is not at the target."""
    lag_records: int = 0
    """Records of the running epoch that are not known to be at the target."""
    lag_bytes: int = 0
    """What waits to be copied."""
    wal_bytes: int = 0
    restarts: int = 0
    drill: Drill | None = None

    @property
    def malformed(self) -> bool:
        """Whether the last drill found the copy malformed, and none has found it well since."""
        return self.drill is not None and self.drill.malformed

    @property
    def alarm(self) -> bool:
        """Whether an operator must look."""
        return self.state.alarm or self.malformed

    @property
    def hint(self) -> str:
        """What an operator does about it; "" where nothing is to be done."""
        return self.state.hint or (MALFORMED_HINT if self.malformed else "")
