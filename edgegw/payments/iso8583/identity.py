"""Identities of ISO 8583 messages, which carry none of their own (DESIGN §9).

A message is known by acquirer (32), terminal (41), merchant (42), STAN (11), retrieval reference (37) and
local date and time (13, 12): what a repeat repeats. Field 7 is left out, because a repeat is sent at another
time. The date gets the year that is nearest to the business date. Owns the id, the calendar and how a message
names an earlier one; leaves out what is done with them.
"""

from __future__ import annotations

import calendar
import datetime
import enum
from typing import Final

import msgspec

from edgegw.core.journal import sm3
from edgegw.payments.iso8583.fields import Message

_TIME_BYTES: Final = 6
_HASH_BYTES: Final = 10
_ORIGINAL_DIGITS: Final = 42


class Family(enum.StrEnum):
    """Messages with equal traces in different families are different requests; in one family they are
    repeats."""

    ORIGINAL = "original"
    """Payments, holds, completions, and advices of them: a 0220 that reports what a 0200 has done already
    moves nothing twice."""
    ADVICE = "advice"
    """An advice whose 0200 or 0100 was refused here, yet it happened."""
    REVERSAL = "reversal"
    """0400 and 0420, which often repeat the trace of what they reverse."""
    RECONCILIATION = "reconciliation"
    """0500 and 0520."""


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """What identifies a message; local is the date and time at the terminal, without a zone."""

    acquirer: str
    terminal: str
    merchant: str
    stan: str
    rrn: str
    local: datetime.datetime

    def id(self, family: Family) -> str:
        """32 hex digits: 48 bits of local time in milliseconds, then 80 bits of SM3 over family and parts:
        ordered by time."""
        milliseconds = calendar.timegm(self.local.timetuple()) * 1_000
        parts = (
            family,
            self.acquirer,
            self.terminal,
            self.merchant,
            self.stan,
            self.rrn,
            self.local.isoformat(),
        )
        digest = sm3("\x1f".join(parts).encode("utf-8"))
        return (milliseconds.to_bytes(_TIME_BYTES, "big") + digest[:_HASH_BYTES]).hex()


def nearest_date(month_day: str, *, business_date: datetime.date) -> datetime.date | None:
    """MMDD in the year that brings it nearest to the business date; None for a 29 February with no such year
    around."""
    month, day = int(month_day[:2]), int(month_day[2:])
    found = []
    for year in (business_date.year - 1, business_date.year, business_date.year + 1):
        try:
            found.append(datetime.date(year, month, day))
        except ValueError:
            continue
    return min(found, key=lambda date: abs(date - business_date), default=None)


def _moment(month_day: str, time: str, business_date: datetime.date) -> datetime.datetime | None:
    date = nearest_date(month_day, business_date=business_date)
    if date is None:
        return None
    return datetime.datetime.combine(date, datetime.time(int(time[:2]), int(time[2:4]), int(time[4:])))


def trace_of(message: Message, *, terminal: str, merchant: str, business_date: datetime.date) -> Trace | None:
    """The trace of a message whose form and mandatory fields were checked; None when its date lies in no year
    around."""
    local = _moment(message.get(13), message.get(12), business_date)
    if local is None:
        return None
    return Trace(
        acquirer=message.get(32).lstrip("0"),
        terminal=terminal,
        merchant=merchant,
        stan=message.get(11),
        rrn=message.get(37),
        local=local,
    )


class OriginalData(msgspec.Struct, frozen=True):
    """Field 90: type, STAN, MMDDhhmmss and acquirer of an earlier message; zeros mean "not said"."""

    mti: str
    stan: str
    sent: str
    acquirer: str


def original_data(message: Message) -> OriginalData | None:
    """Field 90 taken apart, or None when it is absent or all zeros."""
    text = message.get(90)
    if len(text) != _ORIGINAL_DIGITS or not int(text):
        return None
    return OriginalData(mti=text[:4], stan=text[4:10], sent=text[10:20], acquirer=text[20:31].lstrip("0"))


def original_traces(trace: Trace, data: OriginalData | None, *, business_date: datetime.date) -> list[Trace]:
    """The traces that the original of a reversal or completion may have, the likeliest first.

    STAN and acquirer come from field 90, else from the message itself; terminal, merchant and retrieval
    reference are the message's own. Local date and time: those of the message (card schemes keep fields 12
    and 13 of the original in everything about it), or positions 11 to 20 of field 90 where a terminal writes
    its own clock there.
    """
    if data is None:
        return [trace]
    stan = data.stan if int(data.stan) else trace.stan
    acquirer = data.acquirer or trace.acquirer
    first = msgspec.structs.replace(trace, stan=stan, acquirer=acquirer)
    sent = _sent(data.sent, business_date)
    if sent is None or sent == first.local:
        return [first]
    return [first, msgspec.structs.replace(first, local=sent)]


def _sent(text: str, business_date: datetime.date) -> datetime.datetime | None:
    try:
        return _moment(text[:4], text[4:], business_date)
    except ValueError:
        return None
