"""Whether the site's settings are well in their first minutes: judged here, by what the box itself has seen.

Four things count, the first three against the time before: payments of clients that are let in and are
refused because an account or currency of theirs is not known any more; requests on which the program itself
fails; that nobody is let in while somebody is turned away as unknown; and that the process ends again and
again. What limits and lists refuse does not count: it may
be just what was wanted. Nobody outside can bring it about: a stranger's requests alone do not count while one
known client is served. Leaves out going back (`ledger.writer.Pen.return_site`).
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

import msgspec

from edgegw.core.reasons import Reason
from edgegw.payments.service import Meter

NOT_KNOWN: Final = frozenset(
    (
        Reason.CURRENCY_UNKNOWN.value,
        Reason.DEBIT_ACCOUNT_NOT_FOUND.value,
        Reason.CREDIT_ACCOUNT_NOT_FOUND.value,
        Reason.CURRENCY_MISMATCH.value,
    )
)
"""Refusals that a site causes by what it no longer has."""
FAILED_EVENT: Final = "failed"
TURNED_AWAY_EVENT: Final = "turned_away"
"""Events of the ways in: the program failed on a request; its sender is not in the settings."""
BEFORE_S: Final = 600
"""So much of the time before is compared with."""
FAILURES_MAX: Final = 2
"""So many failures of the program may happen to anybody."""
ENDS_MAX: Final = 2
"""So often the process may end in the first minutes: a technician starts it anew, the power goes."""
PERCENT: Final = 100


class Counts(NamedTuple):
    """What happened in a second, or in several."""

    decided: int = 0
    not_known: int = 0
    failed: int = 0
    turned_away: int = 0

    def plus(self, other: Counts) -> Counts:
        """Both together."""
        return Counts(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class Watch(msgspec.Struct, frozen=True):
    """How far the watching is, for the process after this one."""

    digest: str = ""
    before: Counts = Counts()
    since: Counts = Counts()
    seconds_left: int = 0
    ends: int = 0
    """Processes that have ended while these settings were watched."""


class SiteHealth:
    """Counts, and compares the settings' first probation_s with the time before them."""

    def __init__(self, *, probation_s: int, requests_min: int, refused_percent_more: int) -> None:
        self._probation_s = probation_s
        self._requests_min = requests_min
        self._refused_percent_more = refused_percent_more
        self._decided = self._not_known = self._failed = self._turned_away = 0
        """In this second."""
        self._past: deque[Counts] = deque(maxlen=BEFORE_S)
        self.watch = Watch()

    def resume(self, watch: Watch) -> None:
        """Go on from where the process before this one was."""
        ends = watch.ends + 1 if watch.seconds_left else 0
        self.watch = msgspec.structs.replace(watch, ends=ends)

    def decided(self, code: str) -> None:
        """A client's request was decided; code is its refusal's, "" where it was cleared."""
        self._decided += 1
        if code in NOT_KNOWN:
            self._not_known += 1

    def failed(self) -> None:
        """The program failed on a request."""
        self._failed += 1

    def turned_away(self) -> None:
        """Somebody was turned away whom the settings do not know."""
        self._turned_away += 1

    def second(self, digest: str) -> str:
        """Once a second, with the digest of the settings in force: why they are not well, or ""."""
        counts = Counts(self._decided, self._not_known, self._failed, self._turned_away)
        self._decided = self._not_known = self._failed = self._turned_away = 0
        if digest != self.watch.digest:
            before = _sum(self._past) if self._past else self.watch.before
            seconds = self._probation_s if self.watch.digest else 0
            self.watch = Watch(digest, before, Counts(), seconds)
        self._past.append(counts)
        watch = self.watch
        if not watch.seconds_left:
            return ""
        self.watch = msgspec.structs.replace(
            watch, since=watch.since.plus(counts), seconds_left=watch.seconds_left - 1
        )
        return self._judged()

    def _judged(self) -> str:
        before, since = self.watch.before, self.watch.since
        if self.watch.ends > ENDS_MAX:
            return f"the process ended {self.watch.ends} times in their first {self._probation_s} s"
        if since.failed > max(FAILURES_MAX, before.failed):
            return f"the program failed on {since.failed} requests, {before.failed} before"
        if since.decided >= self._requests_min:
            share, share_before = _percent(since), _percent(before)
            if share > share_before + self._refused_percent_more:
                return (
                    f"{share} % of {since.decided} requests name what is not known, {share_before} % before"
                )
        silent = not since.decided and since.turned_away >= self._requests_min
        if silent and before.decided >= self._requests_min:
            return f"nobody is let in, {since.turned_away} were turned away, {before.decided} served before"
        return ""


def _sum(seconds: deque[Counts]) -> Counts:
    total = Counts()
    for counts in seconds:
        total = total.plus(counts)
    return total


def _percent(counts: Counts) -> int:
    return counts.not_known * PERCENT // counts.decided if counts.decided else 0


class WatchingMeter:
    """A meter that also tells the health what counts there."""

    def __init__(self, meter: Meter, health: SiteHealth) -> None:
        self._meter = meter
        self._health = health

    def decided(
        self, *, kind: str, outcome: str, cleared_by: str, reason: str, repeat: bool, seconds: float
    ) -> None:
        """A decision left the service; a repeat says nothing of today's settings."""
        self._meter.decided(
            kind=kind, outcome=outcome, cleared_by=cleared_by, reason=reason, repeat=repeat, seconds=seconds
        )
        if not repeat:
            self._health.decided(reason)

    def unanswered(self, *, code: str) -> None:
        """A request left the service without a decision."""
        self._meter.unanswered(code=code)

    def protocol_event(self, *, protocol: str, event: str) -> None:
        """A way in had something that is no decision."""
        self._meter.protocol_event(protocol=protocol, event=event)
        if event == FAILED_EVENT:
            self._health.failed()
        elif event == TURNED_AWAY_EVENT:
            self._health.turned_away()

    def exposition(self) -> tuple[bytes, str]:
        """All metrics and their content type."""
        return self._meter.exposition()
