"""A running box keeps its certificate: renews it at two thirds of its life, and fetches what was revoked.

It asks for ever, later and later, and soon again where the certificate has ended: without one there is no
line, and payments go on as they do in any outage. Whatever the hub's last word was stands in `status`. Leaves
out asking itself (`edgegw.enrolment`) and taking new files up, which the line does at its next connection.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec
import structlog

from edgegw.access.key_files import KeyFileError
from edgegw.access.places import PlaceAway
from edgegw.access.revocation_lists import OlderList, is_listed, keep_lists
from edgegw.core.enrolment import CRL_PATH, EnrolmentError, Refusal
from edgegw.enrolment import (
    EnrolmentRefused,
    Holder,
    crl_file,
    enrolled_table,
    get,
    kinds_of,
    renew,
    where_of,
)
from edgegw.errors import LinkDown

DUE: Final = 2 / 3
JITTER: Final = 0.05
"""Of a life: boxes that were enrolled in one week do not renew in one hour."""
PAUSE_S_FIRST: Final = 30.0
PAUSE_S_MAX: Final = 3_600.0
ENDED_PAUSE_S_MAX: Final = 30.0
"""Of a box whose certificate has ended: only the renewal stands between it and its line."""
LISTS_S: Final = 86_400.0
DAY_S: Final = 86_400.0
_GIVEN_UP: Final = frozenset(
    {Refusal.REVOKED, Refusal.REPLACED, Refusal.SUPERSEDED, Refusal.NOT_ENROLLED, Refusal.KEY_BOUND}
)
"""Only a person mends these."""

_log = structlog.get_logger("edgegw.renewal")


class CertificateStatus(msgspec.Struct, kw_only=True):
    """How a box is with its certificate."""

    state: str = "well"
    """`well`, `due`, `ended`, or `refused` by the hub."""
    ends_s: int = 0
    days_left: float = 0.0
    problem: str = ""
    """Why the last attempt failed; "" where it did not."""
    hint: str = ""
    clock_ahead_s: int = 0
    """How far the machine's clock is ahead of the hub's time; negative: behind."""


class Renewal:
    """The certificate of one running box."""

    def __init__(
        self, holder: Holder, *, chance: Callable[[], float] = random.random, pause_s_max: float = PAUSE_S_MAX
    ) -> None:
        self._holder = holder
        self._chance = chance
        self._pause_s_max = pause_s_max
        self._late = chance() * JITTER
        self._failures = 0
        self._lists_at_s = -LISTS_S
        self._refused = False
        self._is_time_in_doubt = False
        self._problem = ""
        self._hint = ""

    @property
    def status(self) -> CertificateStatus:
        """Now."""
        time = self._holder.time
        try:
            life = self._holder.files.life()
        except KeyFileError as problem:
            return CertificateStatus(state="ended", problem=str(problem), hint=problem.hint)
        left_s = life.ends_s - time.now_s()
        state = "ended" if left_s <= 0 else "due" if time.now_s() >= self._due_s() else "well"
        return CertificateStatus(
            state="refused" if self._refused else state,
            ends_s=int(life.ends_s),
            days_left=round(left_s / DAY_S, 2),
            problem=self._problem,
            hint=self._hint,
            clock_ahead_s=round(time.machine_ahead_s),
        )

    async def run(self) -> None:
        """Keep the certificate until cancelled; returns never."""
        while True:
            pause_s = await self.once()
            await asyncio.sleep(pause_s)

    async def once(self) -> float:
        """Do what is due; for how many seconds there is nothing to do then."""
        if not 0 <= self._holder.time.now_s() - self._lists_at_s < LISTS_S:
            # First: their date is the newest word on the time that a box with a wrong clock can get.
            await self._attempt(self._fetch_lists)
        is_due = self._is_time_in_doubt or self._holder.time.now_s() >= self._due_s()
        if is_due and not await self._attempt(self._renew):
            return self._pause_s()
        if self._failures:
            return self._pause_s()
        now_s = self._holder.time.now_s()
        due_s = min(self._due_s(), self._lists_at_s + LISTS_S)
        return min(max(1.0, due_s - now_s), self._pause_s_max)

    def _due_s(self) -> float:
        life = self._holder.files.life()
        return life.begins_s + (life.ends_s - life.begins_s) * (DUE + self._late)

    def _pause_s(self) -> float:
        ended = self._holder.files.life().ends_s <= self._holder.time.now_s()
        longest_s = ENDED_PAUSE_S_MAX if ended and not self._refused else self._pause_s_max
        pause_s = min(longest_s, PAUSE_S_FIRST * 2.0 ** min(16, self._failures - 1))
        return float(pause_s * (0.5 + self._chance() / 2))

    async def _attempt(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Whether it went well; what went wrong is kept and logged."""
        try:
            await work()
        except (LinkDown, EnrolmentRefused, EnrolmentError, KeyFileError, PlaceAway, ValueError) as problem:
            self._failed(problem)
            return False
        self._failures, self._refused, self._problem, self._hint = 0, False, "", ""
        return True

    def _failed(self, problem: Exception) -> None:
        self._failures += 1
        said, self._problem = self._problem, str(problem)
        self._hint = getattr(problem, "hint", "")
        if isinstance(problem, EnrolmentRefused):
            self._refused = problem.refusal in _GIVEN_UP
        if self._refused and said != self._problem:
            _log.error("identity_refused", problem=self._problem, hint=self._hint)
        elif not self._refused:
            _log.warning("renewal_failed", problem=self._problem, hint=self._hint, failures=self._failures)

    async def _renew(self) -> None:
        where = where_of(self._holder.settings)
        if where is None:
            return
        reply = await renew(self._holder, where=where)
        self._is_time_in_doubt = False
        self._late = self._chance() * JITTER
        ends_s = self._holder.files.life().ends_s
        _log.info("certificate_renewed", box=reply.box, ends_s=int(ends_s), generation=reply.generation)

    async def _fetch_lists(self) -> None:
        settings = self._holder.settings
        where = where_of(settings)
        if where is None:
            return
        lists = [await get(where, CRL_PATH + kind) for kind in sorted(kinds_of(settings))]
        ca_file = Path(enrolled_table(settings).ca_file)
        try:
            made_s = keep_lists(crl_file(settings), lists, ca_file=ca_file)
        except OlderList:
            # The hub's clock may have been ahead when it made the one held, and this box believes it ever
            # since. The answer to a renewal is fresh beyond doubt.
            self._is_time_in_doubt = True
            raise
        self._holder.time.at_least(made_s)
        self._lists_at_s = self._holder.time.now_s()
        if is_listed(crl_file(settings), self._holder.files.held()):
            raise EnrolmentRefused(Refusal.REVOKED, "its list has this box's certificate")
