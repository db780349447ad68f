"""The hub's books: what every account has, how much of it is available here, and how much is outstanding at
which box.

`Books` is one SQL transaction's open pages: it locks the accounts from which it draws, in the order of their
ids, lets all move in memory and writes back by how much they moved, once. The moves are the few that exist
(DESIGN §3.8), and each keeps `available + sum(outstanding) = balance`. Leaves out when to grant what
(`hub.grants`) and what a record means (`hub.replay`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

from sqlalchemy import BigInteger, Connection, bindparam, func, insert, select, update

from edgegw.core.accounts import (
    BANK,
    receivable_account,
    recourse_account,
    risk_account,
    suspense_account,
)
from edgegw.core.records import AMOUNT_MINOR_MAX
from edgegw.hub.schema import account, box, core_posting, outstanding

T = TypeVar("T")
IDS_MAX: Final = 500
"""Ids in one IN list; both engines take more, but a statement stays readable in a log."""


def padded(values: Sequence[T]) -> list[T]:
    """The same for an IN list, the last one repeated up to a power of two: so few lengths that an engine has
    each statement ready."""
    length = 1 << max(0, len(values) - 1).bit_length()
    return [*values, *(values[-1] for _ in range(length - len(values)))]


class BooksError(ValueError):
    """A posting that the books do not take; the text names the field and the mend."""


def core_account(currency: str) -> str:
    """The outside: the bank's core system, counter-account of opening balances."""
    return f"core:{currency}"


def capital_account(currency: str) -> str:
    """The bank's own money, from which the boxes' risk accounts are funded."""
    return f"capital:{currency}"


def settlement_account(participant: str, currency: str) -> str:
    """What a participant has at the settlement agent, from which it pays what it owes; below zero is its
    debit."""
    return f"settlement:{participant}:{currency}"


def is_for_box(account_id: str, box: str) -> bool:
    """Whether a box's journal may move this account: the centre's own have no floor, and a box that named
    one would make money; other boxes' own accounts are theirs."""
    kind, _, rest = account_id.partition(":")
    if kind in ("core", "capital", "settlement"):
        return False
    return kind not in ("risk", "suspense", "receivable", "recourse") or rest.startswith(f"{box}:")


def box_accounts(box: str, currency: str) -> tuple[str, ...]:
    """The books' own accounts of one box that the hub keeps; none has a floor here."""
    return (
        risk_account(box, currency),
        suspense_account(box, currency),
        receivable_account(box, currency),
        recourse_account(box, currency),
    )


@dataclass(slots=True)
class Page:
    """One account in the open books; amounts in minor units."""

    account_id: str
    currency: str
    home: str
    participant: str
    floor: bool
    frozen: bool
    closed: bool
    balance_minor: int
    available_minor: int
    outstanding_minor: int = 0
    """At the box and epoch that these books were opened for."""
    is_outstanding: bool = False
    """Whether that figure has a row already."""
    is_locked: bool = False
    """Nobody else draws from it before this SQL transaction ends."""


class Books:
    """The accounts of one SQL transaction, and what of them is outstanding at one box in one epoch."""

    def __init__(self, connection: Connection, *, box: str, epoch: int, in_doubt: bool = False) -> None:
        """in_doubt: the epoch is over, and what is outstanding in it waits for its tail."""
        self._connection = connection
        self._box = box
        self._epoch = epoch
        self._in_doubt = in_doubt
        self._pages: dict[str, Page] = {}
        self._before: dict[str, tuple[int, int, int]] = {}
        self.centre_minor: dict[tuple[str, str], int] = {}
        """What these books moved between participants by the centre's own decision, by participant and
        currency; what a box decided is in its own records."""

    def open(self, account_ids: Iterable[str], *, draws: Iterable[str] | None = None) -> None:
        """Read accounts; unknown ids stay unknown. Call it once, with all that may be needed. Those from
        which something may be drawn (all, where it is not said) are locked, in the order of their ids."""
        wanted = set(account_ids) - self._pages.keys()
        locked = wanted if draws is None else wanted & set(draws)
        for ids, lock in ((sorted(locked), True), (sorted(wanted - locked), False)):
            for start in range(0, len(ids), IDS_MAX):
                self._open(ids[start : start + IDS_MAX], lock=lock)

    def _open(self, ids: list[str], *, lock: bool) -> None:
        query = (
            select(
                account.c.account_id,
                account.c.currency,
                account.c.home,
                account.c.participant,
                account.c.floor,
                account.c.frozen,
                account.c.closed,
                account.c.balance_minor,
                account.c.available_minor,
                outstanding.c.amount_minor,
            )
            # Only who has locked the box's row writes what is outstanding there, so that the row of it is the
            # newest, however long the account's own is waited for.
            .outerjoin(
                outstanding,
                (outstanding.c.account_id == account.c.account_id)
                & (outstanding.c.box == self._box)
                & (outstanding.c.epoch == self._epoch),
            )
            .where(account.c.account_id.in_(padded(ids)))
            .order_by(account.c.account_id)
        )
        if lock:
            query = query.with_for_update(key_share=True, of=account)
        for row in self._connection.execute(query):
            page = Page(*row[:-1])
            page.is_locked = lock
            if row.amount_minor is not None:
                page.outstanding_minor, page.is_outstanding = row.amount_minor, True
            self._pages[page.account_id] = page
            self._before[page.account_id] = _amounts(page)

    def page(self, account_id: str) -> Page | None:
        """The open page of an account; None when the hub has no such account."""
        return self._pages.get(account_id)

    def draw(self, account_id: str, *, waits: bool = True) -> Page | None:
        """The open page of an account as it is now, locked: what is decided by its figures stays true. None
        too where somebody else draws from it and we do not wait."""
        page = self._pages.get(account_id)
        if page is None or page.is_locked:
            return page
        now = self._connection.execute(
            select(account.c.balance_minor, account.c.available_minor, account.c.frozen, account.c.closed)
            .where(account.c.account_id == account_id)
            .with_for_update(key_share=True, skip_locked=not waits)
        ).one_or_none()
        if now is None:
            return None
        balance_minor, available_minor, outstanding_minor = self._before[account_id]
        page.balance_minor += now.balance_minor - balance_minor
        page.available_minor += now.available_minor - available_minor
        page.frozen, page.closed, page.is_locked = now.frozen, now.closed, True
        self._before[account_id] = (now.balance_minor, now.available_minor, outstanding_minor)
        return page

    def pages(self) -> list[Page]:
        """Every open page, in the order of the ids."""
        return [self._pages[account_id] for account_id in sorted(self._pages)]

    # -- the moves ---------------------------------------------------------------------------------------

    def grant(self, account_id: str, amount_minor: int) -> None:
        """Hand amount_minor of what is available to the box; raises BooksError beyond it, whatever the
        account."""
        page = self._drawn(account_id)
        if not 0 < amount_minor <= page.available_minor:
            raise BooksError(
                f"a grant of {amount_minor} from {account_id}, which has {page.available_minor} available"
            )
        page.available_minor -= amount_minor
        page.outstanding_minor += amount_minor

    def give_back(self, account_id: str, amount_minor: int) -> int:
        """Take back what the box returned, at most what was outstanding there; returns what was not (0 in a
        sound world)."""
        page = self._known(account_id)
        returned = min(amount_minor, page.outstanding_minor) if page.floor else amount_minor
        returned = max(returned, 0)
        page.outstanding_minor -= returned
        page.available_minor += returned
        return amount_minor - returned

    def move_at_box(self, *, debit: str, credit: str, amount_minor: int) -> int:
        """Post what the box has moved; what exceeds the payer's outstanding is borne by the box's risk
        account, and returned."""
        payer, payee = self._known(debit), self._known(credit)
        covered = min(amount_minor, max(payer.outstanding_minor, 0)) if payer.floor else amount_minor
        payer.balance_minor -= covered
        payer.outstanding_minor -= covered
        overdrawn = amount_minor - covered
        if overdrawn:
            # From the part at the centre: the box's own risk allowance is a figure of its journal and did not
            # move.
            risk = self._known(risk_account(self._box, payer.currency))
            risk.balance_minor -= overdrawn
            risk.available_minor -= overdrawn
            self._note_centre(debit=risk, credit=payer, amount_minor=overdrawn)
        payee.balance_minor += amount_minor
        payee.outstanding_minor += amount_minor
        return overdrawn

    def move_at_centre(self, *, debit: str, credit: str, amount_minor: int) -> None:
        """Post between what is available here; raises BooksError where that takes a floored account below
        zero."""
        payer, payee = self._known(debit), self._known(credit)
        if payer.floor and self._drawn(debit).available_minor < amount_minor:
            raise BooksError(
                f"debit_account_id {debit} has {payer.available_minor} available, not {amount_minor}"
            )
        payer.balance_minor -= amount_minor
        payer.available_minor -= amount_minor
        payee.balance_minor += amount_minor
        payee.available_minor += amount_minor
        self._note_centre(debit=payer, credit=payee, amount_minor=amount_minor)

    def count_at_centre(self, *, debit: str, credit: str, amount_minor: int) -> None:
        """Let what a box has moved be settled as if the centre had moved it: its own window is closed."""
        self._note_centre(debit=self._known(debit), credit=self._known(credit), amount_minor=amount_minor)

    def _note_centre(self, *, debit: Page, credit: Page, amount_minor: int) -> None:
        sides = [(page.participant or BANK, page.currency) for page in (debit, credit)]
        if sides[0] != sides[1]:
            for side, signed_minor in zip(sides, (-amount_minor, amount_minor), strict=True):
                self.centre_minor[side] = self.centre_minor.get(side, 0) + signed_minor

    def has_room(self, account_id: str, amount_minor: int) -> bool:
        """Whether an account can still move by amount_minor: the database counts no further than 2^63 - 1.
        What is not in these books has room."""
        page = self._pages.get(account_id)
        if page is None:
            return True
        largest = max(abs(page.balance_minor), abs(page.available_minor), abs(page.outstanding_minor))
        return largest + amount_minor <= AMOUNT_MINOR_MAX

    def _drawn(self, account_id: str) -> Page:
        self.draw(account_id)
        return self._known(account_id)

    def _known(self, account_id: str) -> Page:
        page = self._pages.get(account_id)
        if page is None:
            raise BooksError(f"account_id {account_id} is unknown; publish a site that lists it")
        return page

    # -- writing back ------------------------------------------------------------------------------------

    def write(self) -> None:
        """Write by how much the pages changed, in the order of their ids; the caller commits.

        What is not locked may have been credited by others meanwhile, so no figure is written as a whole.
        """
        changed = [page for page in self.pages() if _amounts(page) != self._before[page.account_id]]
        if not changed:
            return
        self._connection.execute(
            update(account)
            .where(account.c.account_id == bindparam("id"))
            .values(
                balance_minor=account.c.balance_minor + bindparam("balance", type_=BigInteger),
                available_minor=account.c.available_minor + bindparam("available", type_=BigInteger),
            ),
            [self._moved(page) for page in changed],
        )
        known = [page for page in changed if page.is_outstanding]
        if known:
            self._connection.execute(
                update(outstanding)
                .where(
                    outstanding.c.box == self._box,
                    outstanding.c.epoch == self._epoch,
                    outstanding.c.account_id == bindparam("id"),
                )
                .values(amount_minor=bindparam("amount")),
                [{"id": page.account_id, "amount": page.outstanding_minor} for page in known],
            )
        fresh = [page for page in changed if not page.is_outstanding and page.outstanding_minor]
        if fresh:
            self._connection.execute(insert(outstanding), [self._outstanding_row(page) for page in fresh])
        for page in changed:
            page.is_outstanding = page.is_outstanding or page.outstanding_minor != 0
            self._before[page.account_id] = _amounts(page)

    def _moved(self, page: Page) -> dict[str, str | int]:
        balance_minor, available_minor, _ = self._before[page.account_id]
        return {
            "id": page.account_id,
            "balance": page.balance_minor - balance_minor,
            "available": page.available_minor - available_minor,
        }

    def _outstanding_row(self, page: Page) -> dict[str, str | int | bool]:
        return {
            "box": self._box,
            "epoch": self._epoch,
            "account_id": page.account_id,
            "amount_minor": page.outstanding_minor,
            "in_doubt": self._in_doubt,
        }


def _amounts(page: Page) -> tuple[int, int, int]:
    return page.balance_minor, page.available_minor, page.outstanding_minor


NEW: Final = {"frozen": False, "closed": False, "balance_minor": 0, "available_minor": 0}


class Opening(NamedTuple):
    """An account to open, or to give its new home and participant."""

    account_id: str
    currency: str
    home: str
    participant: str
    floor: bool


def open_accounts(connection: Connection, openings: Iterable[Opening]) -> None:
    """Open accounts with nothing in them, give known ones their new home and participant.

    Raises BooksError where a known one has another currency or floor.
    """
    wanted = sorted(set(openings))
    for start in range(0, len(wanted), IDS_MAX):
        _open_accounts(connection, wanted[start : start + IDS_MAX])


def known_openings(connection: Connection, account_ids: Sequence[str]) -> dict[str, Opening]:
    """Those of these accounts that are open, as they were opened."""
    columns = account.c
    found: dict[str, Opening] = {}
    for start in range(0, len(account_ids), IDS_MAX):
        rows = connection.execute(
            select(
                columns.account_id, columns.currency, columns.home, columns.participant, columns.floor
            ).where(columns.account_id.in_(account_ids[start : start + IDS_MAX]))
        )
        found.update((row.account_id, Opening(*row)) for row in rows)
    return found


def _open_accounts(connection: Connection, openings: list[Opening]) -> None:
    columns = account.c
    rows = connection.execute(
        select(columns.account_id, columns.currency, columns.home, columns.participant, columns.floor)
        .where(columns.account_id.in_([opening.account_id for opening in openings]))
        .order_by(columns.account_id)
        .with_for_update()
    )
    known = {row.account_id: Opening(*row) for row in rows}
    fresh, changed = [], []
    for opening in openings:
        first = known.get(opening.account_id)
        if first is None:
            fresh.append({**opening._asdict(), **NEW})
        elif (first.currency, first.floor) != (opening.currency, opening.floor):
            raise BooksError(
                f"account {opening.account_id} is open in {first.currency} with floor {first.floor}; "
                f"it cannot become {opening.currency} with floor {opening.floor}: use another id"
            )
        elif first != opening:
            changed.append({"id": opening.account_id, "to": opening.home, "under": opening.participant})
    if fresh:
        connection.execute(insert(account), fresh)
    if changed:
        connection.execute(
            update(account)
            .where(columns.account_id == bindparam("id"))
            .values(home=bindparam("to"), participant=bindparam("under")),
            changed,
        )


def known_accounts(connection: Connection, account_ids: Iterable[str]) -> set[str]:
    """Which of these ids are open."""
    found: set[str] = set()
    wanted = sorted(set(account_ids))
    for start in range(0, len(wanted), IDS_MAX):
        ids = wanted[start : start + IDS_MAX]
        rows = connection.execute(select(account.c.account_id).where(account.c.account_id.in_(ids)))
        found |= set(rows.scalars())
    return found


def visitors_among(connection: Connection, account_ids: Iterable[str], *, box: str) -> set[str]:
    """Which of these are customers' accounts that are not at home at a box."""
    found: set[str] = set()
    wanted = sorted(set(account_ids))
    for start in range(0, len(wanted), IDS_MAX):
        ids = wanted[start : start + IDS_MAX]
        rows = connection.execute(
            select(account.c.account_id).where(
                account.c.account_id.in_(ids), account.c.floor, account.c.home != box
            )
        )
        found |= set(rows.scalars())
    return found


def currencies_of(connection: Connection, account_ids: Iterable[str]) -> set[str]:
    """The currencies of these accounts; unknown ids have none."""
    found: set[str] = set()
    wanted = sorted(set(account_ids))
    for start in range(0, len(wanted), IDS_MAX):
        rows = connection.execute(
            select(account.c.currency)
            .where(account.c.account_id.in_(padded(wanted[start : start + IDS_MAX])))
            .distinct()
        )
        found |= set(rows.scalars())
    return found


def lock_accounts(connection: Connection, account_ids: Iterable[str]) -> None:
    """Lock accounts for postings, behind the boxes where they are at home: in the order of a box's own
    beat, so that neither waits for the other in a circle."""
    wanted = sorted(set(account_ids))
    parts = [wanted[start : start + IDS_MAX] for start in range(0, len(wanted), IDS_MAX)]
    homes: set[str] = set()
    for ids in parts:
        rows = connection.execute(select(account.c.home).where(account.c.account_id.in_(ids)).distinct())
        homes |= set(rows.scalars())
    connection.execute(
        select(box.c.box).where(box.c.box.in_(sorted(homes))).order_by(box.c.box).with_for_update()
    )
    for ids in parts:
        connection.execute(
            select(account.c.account_id)
            .where(account.c.account_id.in_(ids))
            .order_by(account.c.account_id)
            .with_for_update(key_share=True)
        )


def post_core(
    connection: Connection, *, id: str, debit_account_id: str, credit_account_id: str, amount_minor: int
) -> bool:
    """Post between available amounts (opening balances: from `core:<currency>`), once for each id; False when
    it was posted before.

    Raises BooksError for the same id with other content, unknown accounts, two currencies, or money that is
    not there.
    """
    posting = {
        "debit_account_id": debit_account_id,
        "credit_account_id": credit_account_id,
        "amount_minor": amount_minor,
    }
    first = connection.execute(select(core_posting).where(core_posting.c.id == id)).mappings().one_or_none()
    if first is not None:
        for field, value in posting.items():
            if first[field] != value:
                raise BooksError(
                    f"posting {id} exists with {field} {first[field]}, not {value}; use a new id"
                )
        return False
    if not 0 < amount_minor <= AMOUNT_MINOR_MAX:
        raise BooksError(f"amount_minor is {amount_minor}; give 1 to {AMOUNT_MINOR_MAX}")
    lock_accounts(connection, (debit_account_id, credit_account_id))
    books = Books(connection, box="", epoch=0)
    books.open((debit_account_id, credit_account_id))
    pages = [books.page(account_id) for account_id in (debit_account_id, credit_account_id)]
    if debit_account_id == credit_account_id:
        raise BooksError(
            f"debit_account_id and credit_account_id are both {debit_account_id}; name two accounts"
        )
    if len({page.currency for page in pages if page is not None}) > 1:
        raise BooksError(f"{debit_account_id} and {credit_account_id} are in two currencies")
    for account_id in (debit_account_id, credit_account_id):
        if not books.has_room(account_id, amount_minor):
            raise BooksError(f"{account_id} would go beyond {AMOUNT_MINOR_MAX}; post less")
    books.move_at_centre(debit=debit_account_id, credit=credit_account_id, amount_minor=amount_minor)
    connection.execute(insert(core_posting).values(id=id, **posting))
    books.write()
    homes = {page.home for page in pages if page is not None and page.floor}
    connection.execute(update(box).where(box.c.box.in_(homes)).values(allot_due=True))
    return True


def violations(connection: Connection) -> list[str]:
    """What breaks the books, in words; empty is sound. Reads every account, so it is for checks and not for
    each push."""
    held = (
        select(outstanding.c.account_id, func.sum(outstanding.c.amount_minor).label("amount"))
        .group_by(outstanding.c.account_id)
        .subquery()
    )
    total = func.coalesce(held.c.amount, 0)
    torn = connection.execute(
        select(
            account.c.account_id,
            account.c.balance_minor,
            account.c.available_minor,
            total.label("outstanding"),
        )
        .outerjoin(held, held.c.account_id == account.c.account_id)
        .where(account.c.available_minor + total != account.c.balance_minor)
    )
    found = [
        f"{row.account_id}: {row.available_minor} available and {row.outstanding} outstanding "
        f"are not {row.balance_minor}"
        for row in torn
    ]
    below = connection.execute(
        select(account.c.account_id, account.c.balance_minor, account.c.available_minor).where(
            account.c.floor, (account.c.balance_minor < 0) | (account.c.available_minor < 0)
        )
    )
    found += [
        f"{row.account_id}: below its floor, {row.balance_minor} ({row.available_minor} available)"
        for row in below
    ]
    sums = connection.execute(
        select(account.c.currency, func.sum(account.c.balance_minor).label("sum"))
        .group_by(account.c.currency)
        .having(func.sum(account.c.balance_minor) != 0)
    )
    found += [f"{row.currency}: the balances sum to {row.sum}, not 0" for row in sums]
    overdrawn = connection.execute(
        select(outstanding.c.box, outstanding.c.account_id, outstanding.c.amount_minor)
        .join(account, account.c.account_id == outstanding.c.account_id)
        .where(account.c.floor, outstanding.c.amount_minor < 0)
    )
    return found + [f"{row.account_id}: {row.amount_minor} outstanding at {row.box}" for row in overdrawn]


def set_frozen(connection: Connection, *, account_id: str, frozen: bool) -> None:
    """Bar an account from paying out at the centre, or let it again; raises BooksError when it is unknown."""
    _set(connection, account_id, {"frozen": frozen})


def set_closed(connection: Connection, *, account_id: str, closed: bool) -> None:
    """Let the centre give nothing of an account to any box, or let it again; raises BooksError when it is
    unknown."""
    _set(connection, account_id, {"closed": closed})


def _set(connection: Connection, account_id: str, values: dict[str, bool]) -> None:
    changed = connection.execute(update(account).where(account.c.account_id == account_id).values(**values))
    if changed.rowcount != 1:
        raise BooksError(f"account_id {account_id} is unknown; publish a site that lists it")
