"""Net debit caps where payments are decided: each box holds a share of a participant's cap, as it holds an
allowance of an account, and a payment to another participant takes from it (DESIGN §10).

The share is the balance of `cap:<participant>:<currency>` in the box's ledger: granted by the centre, moved
by a leg of the very record that moves the money, reserved and released with the hold that it is for. What a
participant is paid by others raises its share again; what that brings above the box's even part goes to the
centre at once. A payment, a hold and a stand-in are refused where the share does not cover them; what cannot
be refused (advices, reversals, the centre's late word) is charged all the same, below zero if need be. The
moves' other side is `uncapped:<currency>`, for all who have no cap. Leaves out what the centre grants
(`hub.grants`) and how much there is in all (`hub.caps`).
"""

from __future__ import annotations

from collections.abc import Iterator

from edgegw.core.accounts import (
    BANK,
    CAP_PREFIX,
    CENTRE_PREFIX,
    UNCAPPED_PREFIX,
    centre_account,
)
from edgegw.core.book import Book
from edgegw.core.legs import PENDING, POST, VOID
from edgegw.core.records import Account, Leg, Request, Transfer, transfer_id
from edgegw.core.settlement import Side, cap_shares
from edgegw.core.site import Site


def cap_account(participant: str, currency: str) -> str:
    """What a participant may still pay others, net, before it is settled."""
    return f"{CAP_PREFIX}{participant}:{currency}"


def uncapped_account(currency: str) -> str:
    """The other side of what moves shares of caps: participants without one, and the caps themselves."""
    return f"{UNCAPPED_PREFIX}{currency}"


def is_cap(account_id: str) -> bool:
    """Whether an account counts a cap, and no money."""
    return account_id.startswith((CAP_PREFIX, UNCAPPED_PREFIX))


def cap_accounts(site: Site) -> tuple[Account, ...]:
    """The accounts in which a site's caps are counted, at each box and at the centre; none has a floor."""
    sides = sorted(cap_shares(site))
    found = [(cap_account(*side), side[1]) for side in sides]
    found += [(uncapped_account(currency), currency) for currency in sorted({code for _, code in sides})]
    return tuple(Account(id=name, currency=currency, floor=False) for name, currency in found)


def ends_of(book: Book, *, debit_account_id: str, credit_account_id: str) -> tuple[str, str] | None:
    """Whose share falls and whose rises when money goes from one account to another; None where no cap is
    concerned."""
    if not book.caps:
        return None
    payer, payee = _side(book, debit_account_id), _side(book, credit_account_id)
    if payer == payee or not (payer in book.caps or payee in book.caps):
        return None
    debit, credit = (
        cap_account(*side) if side in book.caps else uncapped_account(side[1]) for side in (payer, payee)
    )
    return debit, credit


def _side(book: Book, account_id: str) -> Side:
    account = book.accounts[account_id]
    return account.participant or BANK, account.currency


def lacking(book: Book, request: Request) -> tuple[str, int] | None:
    """The share that does not cover this payment or hold, and how much of it must come, minor units; None
    where it does, or where there is no cap."""
    ends = ends_of(
        book, debit_account_id=request.debit_account_id, credit_account_id=request.credit_account_id
    )
    if ends is None or not ends[0].startswith(CAP_PREFIX):
        return None
    available = book.available(ends[0])
    if available >= request.amount_minor:
        return None
    return ends[0], request.amount_minor - min(available, 0)


def charged(book: Book, legs: tuple[Leg, ...], *, payer: str = "") -> tuple[Leg, ...]:
    """The moves of shares that go with these legs, which are not booked yet. payer: who pays in the end,
    where the branch stands in."""
    found: list[Leg] = []
    for leg in legs if book.caps else ():
        names = (leg.debit_account_id, leg.credit_account_id)
        if leg.flags & (POST | VOID) or any(name.startswith(CENTRE_PREFIX) for name in names):
            continue
        ends = ends_of(book, debit_account_id=payer or names[0], credit_account_id=names[1])
        if ends is not None:
            found.append(Leg(*ends, leg.amount_minor, leg.flags & PENDING, "", leg.timeout_s))
            if not leg.flags & PENDING:
                found += _sent_on(book, ends[1], leg.amount_minor)
    return tuple(found)


def resolved(book: Book, original: Transfer, *, flag: int, amount_minor: int) -> tuple[Leg, ...]:
    """The moves of shares that go with a hold or stand-in that is posted (with amount_minor) or voided:
    whatever it has reserved, also where the site has changed since."""
    found: list[Leg] = []
    for index, leg in enumerate(original.legs):
        if not index or not leg.flags & PENDING:
            continue
        pending = f"{transfer_id(epoch=original.epoch, seq=original.seq, leg=index):032x}"
        moved_minor = amount_minor if flag == POST else leg.amount_minor
        found.append(Leg(leg.debit_account_id, leg.credit_account_id, moved_minor, flag, pending))
        if flag == POST:
            found += _sent_on(book, leg.credit_account_id, amount_minor)
    return tuple(found)


def _sent_on(book: Book, account_id: str, earned_minor: int) -> Iterator[Leg]:
    """What a share has earned and the box does not keep: other boxes may need it."""
    if account_id.startswith(CAP_PREFIX):
        above_minor = book.available(account_id) + earned_minor - _kept_minor(book, account_id)
        if above_minor > 0:
            centre = centre_account(book.accounts[account_id].currency)
            yield Leg(account_id, centre, min(above_minor, earned_minor))


def _kept_minor(book: Book, account_id: str) -> int:
    participant = account_id.split(":")[1]
    return book.caps.get((participant, book.accounts[account_id].currency), 0)


def trimmed(book: Book) -> tuple[Leg, ...]:
    """What goes to the centre of the shares that are larger than the site in force lets a box have."""
    found = []
    for name, account in sorted(book.accounts.items(), key=lambda row: row[0]):
        if name.startswith(CAP_PREFIX):
            above_minor = book.available(name) - _kept_minor(book, name)
            if above_minor > 0:
                found.append(Leg(name, centre_account(account.currency), above_minor))
    return tuple(found)
