"""The boxes' windows as the hub counts them: from the records alone, as they arrive, compared with what the
box's own record of each window says (DESIGN §3.11).

A window is open until its box's record closes it; then it is `compared`, or it `differs` and waits for a
person with both figures. Where a box has signed several histories of an epoch, what is in two of them counts
once, so no record of a window can be compared: the hub's own figures are settled. What the centre moves
between participants because of a box stands beside the box's figures. Leaves out what records mean for the
books (`hub.replay`) and settlement (`hub.settlement`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import ColumnElement, Connection, Table, and_, bindparam, func, insert, select, update

from edgegw.core.accounts import BANK
from edgegw.core.book import is_between_participants
from edgegw.core.calendar import first_window
from edgegw.core.records import (
    AMOUNT_MINOR_MAX,
    Account,
    DirectiveApplied,
    Expiry,
    Leg,
    Record,
    SiteDirective,
    Transfer,
    WindowClosed,
    legs_of,
)
from edgegw.core.settlement import Side
from edgegw.core.site import PARTICIPANT_PATTERN
from edgegw.hub.books import IDS_MAX, Books, padded
from edgegw.hub.schema import clearing_window, participant_since, window_position

OPEN, CLOSED, COMPARED, DIFFERS, ACCEPTED = "open", "closed", "compared", "differs", "accepted"
DONE: Final = (CLOSED, COMPARED, ACCEPTED)
"""States of windows that a cycle may settle."""
BY_SEAL: Final = "seal"
WINDOW_DIFFERS: Final = "window_differs"
"""Why a record of a window waits in suspense."""

NAME_CHARS_MAX: Final = 64
DIFFERENCE_CHARS_MAX: Final = 500
DATE_CHARS: Final = 10
_CURRENCY: Final = re.compile(r"[A-Z]{3}\Z")


Place = dict[str, str | int]
"""Box, epoch and branch."""


@dataclass(slots=True)
class Figures:
    """One participant's figures in a window, minor units."""

    net_minor: int = 0
    said_minor: int | None = None
    is_kept: bool = False
    """Whether it has a row already."""


@dataclass(slots=True)
class Window:
    """One window of one history of an epoch."""

    number: int
    site_version: int = 0
    state: str = OPEN
    business_date: str = ""
    closed_by: str = ""
    transfers: int = 0
    difference: str = ""
    is_kept: bool = False
    figures: dict[Side, Figures] = field(default_factory=dict)

    def add(self, side: Side, amount_minor: int) -> None:
        """Count a move of this participant."""
        self.figures.setdefault(side, Figures()).net_minor += amount_minor


class Recount:
    """The windows of one push of one history of an epoch, inside the SQL transaction that keeps it."""

    def __init__(self, connection: Connection, *, box: str, epoch: int, branch: int, compares: bool) -> None:
        """compares: no other history of the epoch is known, so its records of windows can be compared."""
        self._connection = connection
        self._place: Place = {"box": box, "epoch": epoch, "branch": branch}
        self._compares = compares
        self._since: dict[str, list[tuple[int, str]]] = {}
        self._currencies: Mapping[str, str] = {}
        self._open = Window(first_window(epoch))
        self._touched: list[Window] = []

    @property
    def number(self) -> int:
        """The open window's."""
        return self._open.number

    def load(self, records: Sequence[Record], currencies: Mapping[str, str]) -> None:
        """Read the open window, and whom the accounts of these records are netted under. currencies: of the
        accounts that the hub knows."""
        self._currencies = currencies
        legs = [leg for record in records for leg in legs_of(record)]
        names = {name for leg in legs for name in (leg.debit_account_id, leg.credit_account_id)}
        self._since = participants_since(self._connection, names & currencies.keys())
        kept = _open_window(self._connection, self._place)
        if kept is not None:
            self._open = kept
        elif self._place["branch"]:
            self._open.site_version = self._site_before_the_fork()
            windows = (getattr(record, "window", None) for record in records)
            self._open.number = next(
                (number for number in windows if isinstance(number, int) and 0 < number <= AMOUNT_MINOR_MAX),
                self._open.number,
            )
        self._touched = [self._open]

    def _site_before_the_fork(self) -> int:
        """The site that the histories have in common; its directive is not replayed again."""
        table = clearing_window.c
        newest = select(func.max(table.site_version)).where(
            table.box == self._place["box"], table.epoch == self._place["epoch"]
        )
        return self._connection.execute(newest).scalar() or 0

    def use_site(self, record: DirectiveApplied, said: SiteDirective, *, is_lost: bool) -> None:
        """From here on the box's accounts are netted under whom this site says. is_lost: the hub has lost its
        bundle, and the record says what was in it."""
        if record.outcome != "applied" or not 0 <= said.version <= AMOUNT_MINOR_MAX:
            return
        self._open.site_version = max(self._open.site_version, said.version)
        if is_lost:
            note_participants(self._connection, record.accounts, version=said.version)
            self._since = participants_since(self._connection, self._since.keys())

    def count(self, record: Transfer | Expiry | DirectiveApplied, legs: Sequence[Leg]) -> str:
        """Count the legs of a record that is booked; what is wrong with the window that it names, or ""."""
        window = self._open
        window.transfers += len(legs)
        for leg in legs:
            if is_between_participants(leg):
                debit, credit = self._side(leg.debit_account_id), self._side(leg.credit_account_id)
                if debit != credit:
                    window.add(debit, -leg.amount_minor)
                    window.add(credit, leg.amount_minor)
        if self._compares and record.window != window.number:
            return self._differs(window, f"it names window {record.window}, the open one is {window.number}")
        return ""

    def _side(self, account_id: str) -> Side:
        currency = self._currencies[account_id]
        known = self._since.get(account_id, ())
        says = [who for version, who in known if version <= self._open.site_version]
        return (says[-1] if says else "") or BANK, currency

    def close(self, record: WindowClosed) -> str:
        """End the open window as this record says; the first difference between it and the hub's figures, or
        "" where there is none."""
        window = self._open
        window.state = COMPARED if self._compares else CLOSED
        window.business_date = _plain(record.business_date, DATE_CHARS)
        window.closed_by = _plain(record.closed_by, NAME_CHARS_MAX)
        found = self._compared(window, record) if self._compares else ""
        self._open = Window(window.number + 1, window.site_version)
        self._touched.append(self._open)
        return found or (window.difference if window.state == DIFFERS else "")

    def _compared(self, window: Window, record: WindowClosed) -> str:
        if window.difference:
            window.state = DIFFERS
        said: dict[Side, int] = {}
        for one in record.positions:
            side = (one.participant, one.currency)
            if side in said:
                return self._differs(window, f"it names {one.participant} in {one.currency} twice")
            said[side] = one.net_minor
            is_name = re.match(PARTICIPANT_PATTERN, one.participant) and _CURRENCY.match(one.currency)
            if is_name and abs(one.net_minor) <= AMOUNT_MINOR_MAX:
                window.figures.setdefault(side, Figures()).said_minor = one.net_minor
        counted = {side: figures.net_minor for side, figures in window.figures.items() if figures.net_minor}
        for side in sorted(counted.keys() | said.keys()):
            if counted.get(side, 0) != said.get(side, 0):
                return self._differs(
                    window,
                    f"it says {said.get(side, 0)} for {side[0]} in {side[1]},"
                    f" its records give {counted.get(side, 0)}",
                )
        if record.window != window.number:
            return self._differs(window, f"it is of window {record.window}, the open one is {window.number}")
        if record.transfers != window.transfers:
            return self._differs(
                window, f"it says {record.transfers} transfers, its records give {window.transfers}"
            )
        return ""

    def _differs(self, window: Window, difference: str) -> str:
        """Keep the first difference of a window."""
        if window.state != OPEN:
            window.state = DIFFERS
        if window.difference:
            return ""
        window.difference = _plain(f"window {window.number}: {difference}", DIFFERENCE_CHARS_MAX)
        return window.difference

    def write(self) -> None:
        """Write the windows back; the caller commits."""
        for window in self._touched:
            for side, figures in window.figures.items():
                if abs(figures.net_minor) > AMOUNT_MINOR_MAX:
                    self._differs(window, f"{side[0]} has moved more than the books can count")
                    figures.net_minor = max(-AMOUNT_MINOR_MAX, min(AMOUNT_MINOR_MAX, figures.net_minor))
            _write_window(self._connection, window, self._place)


def _plain(text: str, characters_max: int) -> str:
    """A box's words as any database keeps them."""
    return "".join(one if one.isprintable() else "?" for one in text[:characters_max])


def _where(table: Table, place: Place) -> ColumnElement[bool]:
    return and_(*(table.c[name] == value for name, value in place.items()))


def _open_window(connection: Connection, place: Place) -> Window | None:
    table = clearing_window
    row = connection.execute(select(table).where(_where(table, place), table.c.state == OPEN)).one_or_none()
    if row is None:
        return None
    window = Window(
        row.number, row.site_version, transfers=row.transfers, difference=row.difference, is_kept=True
    )
    kept = window_position
    rows = connection.execute(
        select(kept.c.participant, kept.c.currency, kept.c.net_minor).where(
            _where(kept, place), kept.c.number == row.number
        )
    )
    for participant, currency, net_minor in rows:
        window.figures[participant, currency] = Figures(net_minor, is_kept=True)
    return window


def _write_window(connection: Connection, window: Window, place: Place) -> None:
    table = clearing_window
    values = {
        "state": window.state,
        "business_date": window.business_date,
        "closed_by": window.closed_by,
        "transfers": window.transfers,
        "site_version": window.site_version,
        "difference": window.difference,
    }
    if window.is_kept:
        connection.execute(
            update(table).where(_where(table, place), table.c.number == window.number).values(**values)
        )
    else:
        connection.execute(insert(table).values(**place, number=window.number, cycle=0, **values))
    rows = sorted(window.figures.items())
    kept = window_position
    fresh = [
        {
            **place,
            "number": window.number,
            "participant": participant,
            "currency": currency,
            "net_minor": figures.net_minor,
            "said_minor": figures.said_minor,
            "centre_minor": 0,
        }
        for (participant, currency), figures in rows
        if not figures.is_kept
    ]
    if fresh:
        connection.execute(insert(kept), fresh)
    known = [
        {"who": participant, "code": currency, "net": figures.net_minor, "said": figures.said_minor}
        for (participant, currency), figures in rows
        if figures.is_kept
    ]
    if known:
        connection.execute(
            update(kept)
            .where(
                _where(kept, place),
                kept.c.number == window.number,
                kept.c.participant == bindparam("who"),
                kept.c.currency == bindparam("code"),
            )
            .values(net_minor=bindparam("net"), said_minor=bindparam("said")),
            known,
        )


def note_centre(connection: Connection, books: Books, *, box: str, epoch: int) -> None:
    """Add what these books moved between participants by the centre's own decision to the open window of
    the box's epoch, or to one of its own where the epoch is sealed; call it once, before the books are
    written."""
    moved = {side: amount_minor for side, amount_minor in books.centre_minor.items() if amount_minor}
    books.centre_minor.clear()
    if not moved:
        return
    place: Place = {"box": box, "epoch": epoch, "branch": 0}
    window = _open_window(connection, place)
    if window is None:
        window = _another_window(connection, place)
        _write_window(connection, window, place)
    kept = window_position
    for (participant, currency), amount_minor in sorted(moved.items()):
        if (participant, currency) in window.figures:
            connection.execute(
                update(kept)
                .where(
                    _where(kept, place),
                    kept.c.number == window.number,
                    kept.c.participant == participant,
                    kept.c.currency == currency,
                )
                .values(centre_minor=kept.c.centre_minor + amount_minor)
            )
        else:
            connection.execute(
                insert(kept).values(
                    **place,
                    number=window.number,
                    participant=participant,
                    currency=currency,
                    net_minor=0,
                    centre_minor=amount_minor,
                )
            )


def _another_window(connection: Connection, place: Place) -> Window:
    """The first of an epoch; of one that is sealed the next, which is closed: no record will ever end it."""
    table = clearing_window
    newest = connection.execute(select(func.max(table.c.number)).where(_where(table, place))).scalar()
    if newest is None:
        return Window(first_window(int(place["epoch"])))
    return Window(newest + 1, state=CLOSED, closed_by=BY_SEAL)


def close_rest(connection: Connection, *, box: str, epoch: int) -> None:
    """Close what is open of an epoch that is settled for good: no record of the box will ever close it."""
    table = clearing_window
    connection.execute(
        update(table)
        .where(table.c.box == box, table.c.epoch == epoch, table.c.state == OPEN)
        .values(state=CLOSED, closed_by=BY_SEAL)
    )


# -- whom accounts are netted under --------------------------------------------------------------------------


def participants_since(
    connection: Connection, account_ids: Iterable[str]
) -> dict[str, list[tuple[int, str]]]:
    """Site version and participant for each change of these accounts, the oldest first; none for accounts
    that were always the bank's own."""
    found: dict[str, list[tuple[int, str]]] = {}
    wanted = sorted(set(account_ids))
    table = participant_since.c
    for start in range(0, len(wanted), IDS_MAX):
        rows = connection.execute(
            select(table.account_id, table.version, table.participant)
            .where(table.account_id.in_(padded(wanted[start : start + IDS_MAX])))
            .order_by(table.account_id, table.version)
        )
        for account_id, version, participant in rows:
            found.setdefault(account_id, []).append((version, participant))
    return found


def note_participants(connection: Connection, accounts: Iterable[Account], *, version: int) -> None:
    """Write down whom a site's accounts are netted under, where that is new with its version."""
    wanted = {account.id: account.participant for account in accounts if not account.id.startswith("centre:")}
    if (
        not any(wanted.values())
        and not connection.execute(select(func.count(participant_since.c.version))).scalar()
    ):
        return
    known = participants_since(connection, wanted)
    fresh = [
        {"account_id": account_id, "version": version, "participant": participant}
        for account_id, participant in wanted.items()
        if (known[account_id][-1][1] if account_id in known else "") != participant
        and not any(said == version for said, _ in known.get(account_id, ()))
    ]
    if fresh:
        connection.execute(insert(participant_since), fresh)
