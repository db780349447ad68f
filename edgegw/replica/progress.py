"""From what litestream answers, and when, to how the copy is: no I/O, and time comes in.

Its position must move when the ledger does, its copy must follow its position, and it must answer at all.
"""

from __future__ import annotations

from collections import deque

from edgegw.replica.control import Position
from edgegw.replica.status import State


class Progress:
    """One litestream's positions over time, in seconds of any monotonic clock."""

    def __init__(self, *, began_s: float, alarm_s: float) -> None:
        self.position = Position(0)
        self.complaint = ""
        """What it said last instead of a position."""
        self._alarm_s = alarm_s
        self._answered_s = self._moved_s = began_s
        self._answered = False
        self._waiting: deque[tuple[int, float, int]] = deque()
        self.copied_records = 0
        """How many records of the journal are known to be at the target."""
        self._read_change = 0
        self._unread_since_s: float | None = None
        self._complaining_since_s: float | None = None
        self._busy_since_s: float | None = None
        self._moved = False

    def answered(self, position: Position, *, now_s: float, changed: int, records: int = 0) -> None:
        """It said where it is; changed is when the ledger had last been written before it was asked, records
        how long the journal was then."""
        self._answered_s, self._answered = now_s, True
        self._complaining_since_s, self.complaint, self._busy_since_s = None, "", None
        if position.txid > self.position.txid:
            self._waiting.append((position.txid, now_s, records))
            self._read_change, self._unread_since_s = changed, None
        elif changed != self._read_change and self._unread_since_s is None:
            self._unread_since_s = now_s
        elif changed == self._read_change:
            self._unread_since_s = None
        if position.replicated_txid > self.position.replicated_txid:
            self._moved = self.position.txid > 0 or self._moved
            self._moved_s = now_s
        while self._waiting and self._waiting[0][0] <= position.replicated_txid:
            self.copied_records = self._waiting.popleft()[2]
        if position.txid <= position.replicated_txid:
            self.copied_records = records
        self.position = position

    def complained(self, complaint: str, *, now_s: float) -> None:
        """It answered with a complaint."""
        self._answered_s, self.complaint = now_s, complaint
        if self._complaining_since_s is None:
            self._complaining_since_s = now_s

    def busy(self, *, now_s: float) -> None:
        """It answered that it is at work."""
        self._answered_s = now_s
        if self._busy_since_s is None:
            self._busy_since_s = now_s

    def lag_s(self, now_s: float) -> float:
        """Age of the oldest change that is known to wait; 0 when all is copied."""
        return now_s - self._waiting[0][1] if self._waiting else 0.0

    def silent_s(self, now_s: float) -> float:
        """How long it has not answered."""
        return now_s - self._answered_s

    def stuck_s(self, now_s: float, *, whole_copy_s: float = 0.0) -> float:
        """How long it has not moved though it should; a whole copy, and the first, may take whole_copy_s."""
        copy_s = min(self.lag_s(now_s), now_s - self._moved_s) if self._waiting else 0.0
        read_s = 0.0 if self._unread_since_s is None else now_s - self._unread_since_s
        copy_s -= 0.0 if self._moved or self.complaint else whole_copy_s
        busy_s = 0.0 if self._busy_since_s is None else now_s - self._busy_since_s - whole_copy_s
        complaining_s = 0.0 if self._complaining_since_s is None else now_s - self._complaining_since_s
        return max(copy_s, read_s, busy_s, complaining_s)

    def state(self, now_s: float, *, whole_copy_s: float = 0.0) -> tuple[State, str]:
        """How it is, and why."""
        if (silent_s := self.silent_s(now_s)) > self._alarm_s:
            return State.SILENT, f"litestream has not answered for {silent_s:.0f} s"
        if (stuck_s := self.stuck_s(now_s, whole_copy_s=whole_copy_s)) > self._alarm_s:
            said = f"; it says: {self.complaint}" if self.complaint else ""
            at = f"{self.position.replicated_txid} of {self.position.txid}"
            return State.STUCK, f"the copy has not moved for {stuck_s:.0f} s, it is at {at}{said}"
        if not self._answered or self._busy_since_s is not None:
            return State.STARTING, ""
        return State.WELL, ""
