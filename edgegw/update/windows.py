"""When the box may be restarted for a new image: the hours of the settings, and what the box is doing.

Pure: the moment, the site's zone and the box's own word come in. A window that is closing, or is about to,
holds up every restart, also one that a person orders.
"""

from __future__ import annotations

from datetime import datetime, time, timedelta, tzinfo
from typing import Final

import msgspec

from edgegw.config.update import WEEK, UpdateTable

WAITS: Final = frozenset({"behind", "offline", "syncing"})
"""In these modes the box alone has records that nobody else holds, or is getting its past back: no restart
of its own accord."""


SPARING: Final = frozenset({"pause", "refuse"})
"""While the machine's health is held at these, what can wait does."""


class _Mirror(msgspec.Struct, frozen=True):
    durability: str = ""


class _Held(msgspec.Struct, frozen=True):
    level: str = ""
    why: str = ""


class BoxWord(msgspec.Struct, frozen=True, kw_only=True):
    """What of a running box matters for its program; the file is the box's (`running.json`)."""

    pid: int = 0
    started: str = ""
    """Which process of this number wrote it (`machine.started`)."""
    addresses: dict[str, tuple[str, ...]] = {}
    mode: str = ""
    next_cut_off_s: int = 0
    """When the open window closes by the calendar, Unix seconds; 0: the site has none, or nothing is to
    come."""
    window_due: bool = False
    """A cut-off has passed and its window is not closed yet."""
    zone: str = ""
    """Of the site's calendar."""
    mirror: _Mirror | None = None
    health: tuple[_Held, ...] = ()
    """What is not well with the machine."""

    @property
    def why_spared(self) -> str:
        """Why the machine has nothing left for work that can wait; "" where it has."""
        return "; ".join(held.why for held in self.health if held.level in SPARING)

    @property
    def is_mirror_away(self) -> bool:
        """Whether the box decides nothing because its mirror does not answer."""
        return self.mirror is not None and self.mirror.durability == "away"


def why_wait(table: UpdateTable, box: BoxWord | None, *, now_s: float, zone: tzinfo, by_hand: bool) -> str:
    """Why the box is not restarted now; "" where it may be. box: None where none runs."""
    if box is not None:
        if box.window_due:
            return "a window is being closed"
        ahead_s = box.next_cut_off_s - now_s
        if box.next_cut_off_s and ahead_s < table.quiet_minutes * 60:
            return f"a window closes in {max(0, int(ahead_s)) // 60} minutes"
    if by_hand:
        return ""
    if box is not None and box.mode in WAITS:
        return f"the box is {box.mode}: records are on the way that only it holds"
    if box is not None and box.why_spared:
        return f"the machine has nothing left for it: {box.why_spared}"
    if not is_open(table, datetime.fromtimestamp(now_s, zone)):
        return f"it restarts on {', '.join(table.days)} from {table.begins} to {table.ends} alone"
    return ""


def is_open(table: UpdateTable, local: datetime) -> bool:
    """Whether the settings' hours are now, on the day on which they began."""
    begins, ends, now = time.fromisoformat(table.begins), time.fromisoformat(table.ends), local.time()
    today, yesterday = local.date(), local.date() - timedelta(days=1)
    if begins == ends:
        return WEEK[today.weekday()] in table.days
    if begins < ends:
        return begins <= now < ends and WEEK[today.weekday()] in table.days
    if now >= begins:
        return WEEK[today.weekday()] in table.days
    return now < ends and WEEK[yesterday.weekday()] in table.days
