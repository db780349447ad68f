"""Closing the box's windows: by the site's calendar, and by hand.

A cut-off is closed by the first batch at or after it, before that batch decides anything: so a payment after
the cut-off is in the next window, and what a box missed while it was off is closed in order at its start.
What is done already is the journal's word (`Book.cut_off_ns`), so no clock that steps and no restart closes
one twice. Leaves out when cut-offs are (`core.calendar`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from edgegw.core.book import Book
from edgegw.core.calendar import CutOff, Due, closing_by_hand, due, later_than
from edgegw.core.records import WindowClosed
from edgegw.core.site import CalendarRule
from edgegw.ledger.batch import Batch
from edgegw.zones import UnknownZone, load_zone

BY_CALENDAR: Final = "calendar"
"""Who has closed a window that nobody ordered to be closed."""


class NotClosed(msgspec.Struct, frozen=True):
    """Why an order to close a window closed none: `window_not_open` or `business_date_not_open`."""

    code: str
    detail: str


class Windows:
    """What of the calendar is known for the book as it stands."""

    def __init__(self) -> None:
        self.waits_for_person = False
        """The clock is so far beyond the last cut-off that a person must close the open window."""
        self._known: tuple[str, int, str] | None = None
        self._next_ns = 0

    def is_due(self, book: Book, *, wall_ns: int) -> bool:
        """Whether a cut-off has passed that is to be closed; quick, for every batch."""
        if _calendar(book) is None or not book.epoch or not book.mode.clears:
            return False
        state = (book.site_digest, book.cut_off_ns, book.business_date)
        if state == self._known and wall_ns < self._next_ns:
            return False
        said = calendar_says(book, wall_ns=wall_ns)
        self.waits_for_person = said is not None and said.waits_for_person
        if said is not None and said.next is not None and not said.cut_offs and not self.waits_for_person:
            self._known, self._next_ns = state, said.next.at_ns
        return said is not None and bool(said.cut_offs)

    def close_due(self, batch: Batch) -> None:
        """Close the cut-offs that have passed, in order: the first one ends the open window, those that were
        missed after it close empty ones."""
        wall_ns = batch.wall_ns
        if not self.is_due(batch.book, wall_ns=wall_ns):
            return
        said = calendar_says(batch.book, wall_ns=wall_ns)
        for cut_off in () if said is None else said.cut_offs:
            close(batch, cut_off.business_date.isoformat(), BY_CALENDAR, cut_off)


def calendar_says(book: Book, *, wall_ns: int) -> Due | None:
    """What is due, and of which business date the open window is; None where the site has no calendar."""
    calendar = _calendar(book)
    if calendar is None:
        return None
    try:
        zone = load_zone(calendar.zone)
    except UnknownZone:  # this program's zones are older than the site: payments go on
        return Due((), None, waits_for_person=True)
    return due(
        calendar,
        zone,
        last_ns=book.cut_off_ns,
        last_date=book.business_date,
        now_ns=wall_ns,
    )


def _calendar(book: Book) -> CalendarRule | None:
    site = book.site
    return None if site is None or site.calendar is msgspec.UNSET else site.calendar


def order(*, window: int, business_date: str, closed_by: str) -> Callable[[Batch], WindowClosed | NotClosed]:
    """The work of a batch that closes a window (0: whichever is open) because somebody has ordered it."""

    def run(batch: Batch) -> WindowClosed | NotClosed:
        book = batch.book
        if window not in (0, book.window):
            return NotClosed("window_not_open", f"window {window} is not open; the open one is {book.window}")
        calendar = _calendar(book)
        if calendar is None:
            return close(batch, business_date, closed_by)
        try:
            zone = load_zone(calendar.zone)
        except UnknownZone as problem:
            return NotClosed("business_date_not_open", str(problem))
        cut_off = closing_by_hand(
            calendar,
            zone,
            last_ns=book.cut_off_ns,
            last_date=book.business_date,
            now_ns=batch.desk.clock.wall_ns(),
            business_date=business_date,
        )
        if isinstance(cut_off, str):
            return NotClosed("business_date_not_open", cut_off)
        return close(batch, business_date, closed_by, cut_off)

    return run


def close(batch: Batch, business_date: str, closed_by: str, cut_off: CutOff | None = None) -> WindowClosed:
    """Journal the end of the open window with its positions; the next one is open."""
    book = batch.book
    record = WindowClosed(
        **batch.head(),
        window=book.window,
        business_date=business_date,
        transfers=book.window_transfers,
        positions=book.net_positions(),
        closed_by=closed_by,
        cut_off_ns=0 if cut_off is None else cut_off.at_ns,
        next_business_date=_next_date(book, cut_off),
    )
    batch.note_and_write(record)
    return record


def _next_date(book: Book, cut_off: CutOff | None) -> str:
    """The business date of the window behind this cut-off, "" where no calendar says it."""
    calendar = _calendar(book)
    if calendar is None or cut_off is None:
        return ""
    last = cut_off.business_date.isoformat()
    following = later_than(calendar, load_zone(calendar.zone), last_ns=cut_off.at_ns, last_date=last)
    return next((one.business_date.isoformat() for one in following), "")
