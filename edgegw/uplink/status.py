"""What line and mirror say about themselves: plain numbers and texts, for the status page and the metrics."""

from __future__ import annotations

from typing import Final

import msgspec

from edgegw.core.records import Mode
from edgegw.errors import Behind, Fenced, Forked, LinkDown

HINTS: Final = {
    Mode.OFFLINE: LinkDown.default_hint,
    Mode.BEHIND: Behind.default_hint,
    Mode.FORKED: Forked.default_hint,
    Mode.FENCED: Fenced.default_hint,
}


class LineStatus(msgspec.Struct, kw_only=True):
    """The line now. Times are of the monotonic clock; 0 is never."""

    mode: Mode
    reason: str = ""
    hint: str = ""
    """What an operator does about this mode."""
    since_ns: int = 0
    address: str = ""
    """The address in use; "" while there is none."""
    said: dict[str, str] = {}
    """What each address that fails said last."""
    last_contact_ns: int = 0
    round_trip_ns: int = 0
    waiting: int = 0
    """Records that the hub lacks."""
    lacking: int = 0
    """Records of the box's own past that the other side holds and that have not come back yet."""
    handing_back: bool = False
    """Whether the hub is being given back directives that it has lost."""
    epochs_at_fault: dict[int, str] = {}
    """Earlier epochs of which nothing more is sent, and why."""
    pushed_records: int = 0
    directives_applied: int = 0
    sent_bytes: int = 0
    """On the wire, compressed, without HTTP's own headers."""
    sent_bytes_raw: int = 0
    received_bytes: int = 0
    """After decompression."""
    bundle_fault: str = ""
    """What was wrong with the last site bundle."""
    pen_fault: str = ""
    """Why the ledger could not take what came over the line; "" when it could."""


class MirrorWord(msgspec.Struct, frozen=True, kw_only=True):
    """How a running box is with its mirror."""

    address: str = ""
    """The address in use; "" while there is none."""
    durability: str
    """What is in force: `mirrored`, `local`, or `away` while nothing is decided without the mirror."""
    wanted: str
    """What the settings want: `mirrored` or `local`."""
    since_s: int = 0
    """Since when it is so, in seconds since 1970."""
    reason: str = ""
    lacking_records: int = 0
    """Records of the running epoch that the mirror does not have."""
    lag_seconds: float = 0.0
    """For how long the oldest of them is on the box's disk."""
    coming_back: int = 0
    """Records of the box's own past that the mirror has not given back yet."""
    said: str = ""
    """What the mirror, or the way to it, said last when it failed."""
    hint: str = ""
    """What an operator does; "" where nothing is to be done."""
