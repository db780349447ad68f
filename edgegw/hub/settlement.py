"""Settlement: closed windows become cycles, cycles become transfers between the participants' settlement
accounts, and what exceeds a net debit cap waits in a queue.

A run is one SQL transaction and may be given again at any time: it takes every window that is done and in no
cycle yet, so a box that was away joins a later cycle, and each window is settled exactly once. What a
participant pays is taken from its cover under the lock of its settlement account: its balance there plus its
net debit cap, for all boxes and cycles together. Leaves out counting the windows (`hub.windows`) and the
reports (`hub.statement`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, tzinfo
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import Connection, and_, func, insert, or_, select, update

from edgegw.core.accounts import CAP_PREFIX
from edgegw.core.calendar import EPOCH, MICROSECOND
from edgegw.core.caps import cap_account
from edgegw.core.records import decode_record
from edgegw.core.settlement import Obligation, Side, caps_of, obligations_of, releasable
from edgegw.core.site import Site
from edgegw.hub import suspense
from edgegw.hub.books import Books, BooksError, Opening, open_accounts, settlement_account
from edgegw.hub.caps import set_headroom
from edgegw.hub.schema import (
    BRANCH_SEQS,
    account,
    clearing_window,
    core_posting,
    record,
    settlement_cycle,
    settlement_entry,
    settlement_transfer,
    suspense_item,
    window_position,
)
from edgegw.hub.windows import ACCEPTED, DIFFERS, DONE, WINDOW_DIFFERS
from edgegw.zones import load_zone

TRANSFER, COVER = "transfer", "cover"
SETTLEMENT_PREFIX: Final = "settlement:"
BY_CYCLE, SETTLED = "in_cycle", "settled"


class SettlementError(ValueError):
    """A settlement that cannot be carried out; the text says why and what would help."""


class Run(NamedTuple):
    """What one run did."""

    cycle: int
    windows: int
    """That it gathered."""
    transfers: int
    """That their positions need."""
    posted: int
    """Of these and of older ones."""
    queued: int
    """That wait for cover after it, older ones too."""


class Queued(NamedTuple):
    """A transfer that waits, in the order of the queue."""

    cycle: int
    number: int
    obligation: Obligation


class _Done(NamedTuple):
    """A window that is to be settled."""

    box: str
    epoch: int
    branch: int
    number: int


def run(connection: Connection, site: Site | None, *, settlement_date: str, now_ns: int) -> Run | None:
    """Settle what is there to settle, in the SQL transaction that the caller commits; None where there is
    nothing. Raises SettlementError and BooksError with nothing done."""
    _lock(connection)
    windows, positions = _due(connection)
    waiting = _queue(connection)
    if not windows and not waiting:
        return None
    books = _open_books(connection, positions, waiting)
    number = (connection.execute(select(func.max(settlement_cycle.c.cycle))).scalar() or 0) + 1
    try:
        wanted = obligations_of(positions)
    except ValueError as problem:
        raise SettlementError(f"{problem}: `edgegw windows` shows every window's figures") from None
    fresh = [Queued(number, place, one) for place, one in enumerate(wanted, 1)]
    queue = [*waiting, *fresh]
    taken = releasable([one.obligation for one in queue], _cover(books, site))
    posted = [queue[place] for place in taken]
    if not windows and not posted:
        return None
    connection.execute(
        insert(settlement_cycle).values(
            cycle=number, settlement_date=settlement_date, created_ns=now_ns, windows=len(windows)
        )
    )
    _gather(connection, windows, number)
    if fresh:
        connection.execute(insert(settlement_transfer), [_transfer_row(one) for one in fresh])
    _post(connection, books, posted, number)
    set_headroom(connection, caps_of(site))
    return Run(number, len(windows), len(fresh), len(posted), len(queue) - len(posted))


def date_of(site: Site | None, *, now_ns: int) -> str:
    """The settlement date of a run at this moment: the day in the zone of the site's calendar, else in
    UTC."""
    zone: tzinfo = UTC
    if site is not None and site.calendar is not msgspec.UNSET:
        zone = load_zone(site.calendar.zone)
    return (EPOCH + now_ns // 1_000 * MICROSECOND).astimezone(zone).date().isoformat()


def _lock(connection: Connection) -> None:
    """Let one run in at a time: what is read behind this, no other run changes before the COMMIT."""
    connection.execute(
        select(account.c.account_id)
        .where(account.c.account_id.startswith(SETTLEMENT_PREFIX))
        .order_by(account.c.account_id)
        .with_for_update()
    ).all()


def _due(connection: Connection) -> tuple[list[_Done], dict[Side, int]]:
    """The windows that are done and in no cycle, and what they add up to. One statement: a box may end a
    window between two of them, and it would be counted here and gathered again by the next run."""
    done, position = clearing_window, window_position
    place = ("box", "epoch", "branch", "number")
    rows = connection.execute(
        select(
            *(done.c[name] for name in place),
            position.c.participant,
            position.c.currency,
            (position.c.net_minor + position.c.centre_minor).label("amount_minor"),
        )
        .outerjoin(position, and_(*(done.c[name] == position.c[name] for name in place)))
        .where(done.c.state.in_(DONE), done.c.cycle == 0)
        .order_by(*(done.c[name] for name in place))
    )
    windows: dict[_Done, None] = {}
    positions: defaultdict[Side, int] = defaultdict(int)
    for row in rows:
        windows[_Done(*row[: len(place)])] = None
        if row.participant is not None:
            positions[row.participant, row.currency] += row.amount_minor
    return list(windows), positions


def _queue(connection: Connection) -> list[Queued]:
    table = settlement_transfer.c
    rows = connection.execute(
        select(table.cycle, table.number, table.currency, table.debtor, table.creditor, table.amount_minor)
        .where(table.posted_in == 0)
        .order_by(table.cycle, table.number)
    )
    return [Queued(row.cycle, row.number, Obligation(*row[2:])) for row in rows]


def _open_books(connection: Connection, positions: dict[Side, int], waiting: Iterable[Queued]) -> Books:
    """The settlement accounts, locked: all that a run looks at stands still until its COMMIT."""
    sides = set(positions)
    for one in waiting:
        sides |= {(one.obligation.debtor, one.obligation.currency)}
        sides |= {(one.obligation.creditor, one.obligation.currency)}
    open_accounts(
        connection, [Opening(settlement_account(*side), side[1], "", "", False) for side in sorted(sides)]
    )
    books = Books(connection, box="", epoch=0)
    books.open(
        connection.execute(
            select(account.c.account_id).where(account.c.account_id.startswith(SETTLEMENT_PREFIX))
        ).scalars()
    )
    return books


def _cover(books: Books, site: Site | None) -> dict[Side, int]:
    """What each participant with a cap can still pay."""
    cover: dict[Side, int] = {}
    for cap in caps_of(site):
        page = books.page(settlement_account(cap.participant, cap.currency))
        if page is not None:
            cover[cap.participant, cap.currency] = page.balance_minor + cap.cap_minor
    return cover


def _gather(connection: Connection, windows: Sequence[_Done], cycle: int) -> None:
    table = clearing_window
    for one in windows:
        taken = connection.execute(
            update(table)
            .where(
                table.c.box == one.box,
                table.c.epoch == one.epoch,
                table.c.branch == one.branch,
                table.c.number == one.number,
                table.c.cycle == 0,
            )
            .values(cycle=cycle)
        )
        if taken.rowcount != 1:
            raise SettlementError(f"window {one.number} of {one.box} is in a cycle already: run it again")


def _transfer_row(one: Queued) -> dict[str, str | int]:
    return {"cycle": one.cycle, "number": one.number, "posted_in": 0, **msgspec.to_builtins(one.obligation)}


def _post(connection: Connection, books: Books, posted: Sequence[Queued], cycle: int) -> None:
    """Move the books, and write what stands on each account's statement."""
    entries = _Entries(connection, cycle)
    entries.add_cover()
    table = settlement_transfer
    for one in posted:
        due = one.obligation
        debit = settlement_account(due.debtor, due.currency)
        credit = settlement_account(due.creditor, due.currency)
        for account_id in (debit, credit):
            if not books.has_room(account_id, due.amount_minor):
                raise BooksError(f"{account_id} would leave the range of the books")
        books.move_at_centre(debit=debit, credit=credit, amount_minor=due.amount_minor)
        reference = f"{one.cycle}/{one.number}"
        entries.add(debit, TRANSFER, reference, -due.amount_minor)
        entries.add(credit, TRANSFER, reference, due.amount_minor)
        connection.execute(
            update(table)
            .where(table.c.cycle == one.cycle, table.c.number == one.number)
            .values(posted_in=cycle)
        )
    books.write()
    entries.write()


class _Entries:
    """The lines that a run adds to the settlement accounts' statements."""

    def __init__(self, connection: Connection, cycle: int) -> None:
        self._connection = connection
        self._cycle = cycle
        table = settlement_entry.c
        newest = select(table.account_id, func.max(table.number).label("number")).group_by(table.account_id)
        last = newest.subquery()
        rows = connection.execute(
            select(table.account_id, table.number, table.balance_minor).join(
                last, and_(last.c.account_id == table.account_id, last.c.number == table.number)
            )
        )
        self._last = {row.account_id: (row.number, row.balance_minor) for row in rows}
        self._rows: list[dict[str, str | int]] = []

    def add_cover(self) -> None:
        """What the bank core has posted to settlement accounts since their last lines."""
        posting, entry = core_posting.c, settlement_entry.c
        known = select(entry.reference).where(entry.kind == COVER)
        rows = self._connection.execute(
            select(posting.id, posting.debit_account_id, posting.credit_account_id, posting.amount_minor)
            .where(
                or_(
                    posting.debit_account_id.startswith(SETTLEMENT_PREFIX),
                    posting.credit_account_id.startswith(SETTLEMENT_PREFIX),
                ),
                posting.id.not_in(known),
            )
            .order_by(posting.id)
        )
        for id, debit, credit, amount_minor in rows.all():
            for account_id, signed_minor in ((debit, -amount_minor), (credit, amount_minor)):
                if account_id.startswith(SETTLEMENT_PREFIX):
                    self.add(account_id, COVER, id, signed_minor)

    def add(self, account_id: str, kind: str, reference: str, amount_minor: int) -> None:
        """One line; amount_minor is above zero where the account is credited."""
        number, balance_minor = self._last.get(account_id, (0, 0))
        self._last[account_id] = number + 1, balance_minor + amount_minor
        self._rows.append(
            {
                "account_id": account_id,
                "number": number + 1,
                "cycle": self._cycle,
                "kind": kind,
                "reference": reference,
                "amount_minor": amount_minor,
                "balance_minor": balance_minor + amount_minor,
            }
        )

    def write(self) -> None:
        """Keep the lines."""
        if self._rows:
            self._connection.execute(insert(settlement_entry), self._rows)


def accept_window(
    connection: Connection, *, box: str, number: int, branch: int = 0, by: str, now_ns: int
) -> None:
    """Let a window that differs from its box's word be settled by the hub's figures, which its records give;
    what waits for a person because of it is closed. Raises SettlementError."""
    table = clearing_window
    place = and_(table.c.box == box, table.c.number == number, table.c.branch == branch)
    accepted = connection.execute(update(table).where(place, table.c.state == DIFFERS).values(state=ACCEPTED))
    if accepted.rowcount != 1:
        found = connection.execute(select(table.c.state).where(place)).scalars().first()
        state = "is not known here" if found is None else f"is {found}"
        raise SettlementError(
            f"window {number} of {box} {state}; only one that differs is accepted, as `edgegw windows` says"
        )
    for item in _items_about(connection, box=box, number=number, branch=branch):
        suspense.close(
            connection,
            item,
            by=by,
            action="accept",
            detail="settled by the hub's figures",
            reference=f"window {number}",
            now_ns=now_ns,
        )


def _items_about(connection: Connection, *, box: str, number: int, branch: int) -> list[suspense.Place]:
    """What waits in suspense because this window differs."""
    item, kept = suspense_item.c, record.c
    rows = connection.execute(
        select(item.box, item.epoch, item.seq, kept.body)
        .join(record, and_(kept.box == item.box, kept.epoch == item.epoch, kept.seq == item.seq))
        .where(
            item.box == box,
            item.reason == WINDOW_DIFFERS,
            item.state != suspense.CLOSED,
            item.seq >= branch * BRANCH_SEQS,
            item.seq < (branch + 1) * BRANCH_SEQS,
        )
        .order_by(item.epoch, item.seq)
    )
    return [
        suspense.Place(row.box, row.epoch, row.seq)
        for row in rows
        if getattr(decode_record(row.body), "window", 0) == number
    ]


# -- listing -------------------------------------------------------------------------------------------------


class WindowPosition(msgspec.Struct, frozen=True, kw_only=True):
    """One participant's figures in a window, minor units."""

    participant: str
    currency: str
    net_minor: int
    """By the box's records, as the hub counts them."""
    said_minor: int | None
    """By the box's own record of the window; null where there is none."""
    centre_minor: int
    """What the centre moved meanwhile because of the box; settled with the window."""


class WindowView(msgspec.Struct, frozen=True, kw_only=True):
    """One window as the hub has it."""

    box: str
    epoch: int
    branch: int
    window: int
    state: str
    """open, closed (not comparable), compared, differs, accepted, in_cycle or settled."""
    cycle: int
    """0: in none yet."""
    business_date: str
    closed_by: str
    transfers: int
    difference: str
    positions: list[WindowPosition]


def list_windows(connection: Connection, *, box: str = "") -> list[WindowView]:
    """Every window, of one box or of all, in the order of boxes and numbers."""
    table, position = clearing_window, window_position
    wanted, figures_wanted = select(table), select(position)
    if box:
        wanted, figures_wanted = wanted.where(table.c.box == box), figures_wanted.where(position.c.box == box)
    kept = connection.execute(figures_wanted.order_by(position.c.participant, position.c.currency))
    figures: defaultdict[tuple[str, int, int, int], list[WindowPosition]] = defaultdict(list)
    for row in kept:
        figures[row.box, row.epoch, row.branch, row.number].append(
            WindowPosition(
                participant=row.participant,
                currency=row.currency,
                net_minor=row.net_minor,
                said_minor=row.said_minor,
                centre_minor=row.centre_minor,
            )
        )
    waiting = {one.cycle for one in _queue(connection)}
    rows = connection.execute(wanted.order_by(table.c.box, table.c.epoch, table.c.branch, table.c.number))
    return [
        WindowView(
            box=row.box,
            epoch=row.epoch,
            branch=row.branch,
            window=row.number,
            state=row.state if not row.cycle else BY_CYCLE if row.cycle in waiting else SETTLED,
            cycle=row.cycle,
            business_date=row.business_date,
            closed_by=row.closed_by,
            transfers=row.transfers,
            difference=row.difference,
            positions=figures[row.box, row.epoch, row.branch, row.number],
        )
        for row in rows
    ]


class CycleView(msgspec.Struct, frozen=True, kw_only=True):
    """One cycle."""

    cycle: int
    settlement_date: str
    windows: int
    transfers: int
    queued: int
    """Of its transfers, those that still wait for cover."""
    state: str
    """in_cycle while a transfer waits, else settled."""


def list_cycles(connection: Connection) -> list[CycleView]:
    """Every cycle, the oldest first."""
    transfer = settlement_transfer.c
    total: defaultdict[int, int] = defaultdict(int)
    queued: defaultdict[int, int] = defaultdict(int)
    for cycle, posted_in in connection.execute(select(transfer.cycle, transfer.posted_in)):
        total[cycle] += 1
        queued[cycle] += posted_in == 0
    rows = connection.execute(select(settlement_cycle).order_by(settlement_cycle.c.cycle))
    return [
        CycleView(
            cycle=row.cycle,
            settlement_date=row.settlement_date,
            windows=row.windows,
            transfers=total[row.cycle],
            queued=queued[row.cycle],
            state=BY_CYCLE if queued[row.cycle] else SETTLED,
        )
        for row in rows
    ]


class AccountView(msgspec.Struct, frozen=True, kw_only=True):
    """One participant's settlement account in one currency, minor units."""

    participant: str
    currency: str
    account_id: str
    balance_minor: int
    cap_minor: int | None
    """How far the balance may go below zero; null: without a limit."""
    queued_minor: int
    """What it owes in transfers that wait."""
    cap_free_minor: int | None
    """What the centre can still grant of the cap."""
    cap_at_boxes_minor: int | None
    """What boxes hold of it, by the hub's books."""


def list_accounts(connection: Connection, site: Site | None) -> list[AccountView]:
    """Every settlement account, in the order of their ids."""
    caps = {(cap.participant, cap.currency): cap.cap_minor for cap in caps_of(site)}
    queued: defaultdict[Side, int] = defaultdict(int)
    for one in _queue(connection):
        queued[one.obligation.debtor, one.obligation.currency] += one.obligation.amount_minor
    rows = connection.execute(
        select(account.c.account_id, account.c.currency, account.c.balance_minor)
        .where(account.c.account_id.startswith(SETTLEMENT_PREFIX))
        .order_by(account.c.account_id)
    )
    shares = {
        row.account_id: (row.available_minor, row.balance_minor - row.available_minor)
        for row in connection.execute(
            select(account.c.account_id, account.c.available_minor, account.c.balance_minor).where(
                account.c.account_id.startswith(CAP_PREFIX)
            )
        )
    }
    found = []
    for account_id, currency, balance_minor in rows:
        participant = account_id.split(":")[1]
        cap = caps.get((participant, currency))
        free_minor, held_minor = shares.get(cap_account(participant, currency), (0, 0))
        found.append(
            AccountView(
                participant=participant,
                currency=currency,
                account_id=account_id,
                balance_minor=balance_minor,
                cap_minor=cap,
                queued_minor=queued[participant, currency],
                cap_free_minor=None if cap is None else free_minor,
                cap_at_boxes_minor=None if cap is None else held_minor,
            )
        )
    return found
