"""An account as decisions read it: its ids, whose it is, whether it may pay. Pure.

Each payment asks this of both its accounts several times, and only directives change it: so a book puts it
together once for an account (`KnownAccounts`) and begins again when a directive has changed anything of it.
Leaves out the balances, which every payment changes (`core.state`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

import msgspec

from edgegw.core.journal import sm3
from edgegw.core.records import Account
from edgegw.core.settlement import Side

BANK: Final = "bank"
"""The participant of accounts that name none, and of the books' own accounts."""

CENTRE_PREFIX: Final = "centre:"
CAP_PREFIX: Final = "cap:"
UNCAPPED_PREFIX: Final = "uncapped:"
OWN_PREFIXES: Final = (
    CENTRE_PREFIX,
    "risk:",
    "suspense:",
    "receivable:",
    "recourse:",
    "core:",
    "capital:",
    "settlement:",
    CAP_PREFIX,
    UNCAPPED_PREFIX,
)
KNOWN_MAX: Final = 1 << 17
"""So many accounts are kept put together, some 30 MB; beyond, all are put together anew."""


class Known(msgspec.Struct, frozen=True, gc=False):
    """What of an account no payment changes."""

    account: Account
    key: int
    """The ledger's id of it."""
    ledger: int
    """The ledger's number of its currency."""
    side: Side
    """Under whom it is netted, and its currency."""
    is_own: bool
    """No request may name it."""
    stays: bool
    """Whether money credited to it stays at this box."""
    closed: str | None
    """Why it takes and pays nothing new, if so."""
    frozen: str | None
    """Why it pays nothing, if so."""


class KnownAccounts(dict[str, Known | None]):
    """By id, put together at the first look; None for an account that is not known, which is not kept."""

    def __init__(self, look: Callable[[str], Known | None]) -> None:
        self._look = look

    def __missing__(self, account_id: str) -> Known | None:
        found = self._look(account_id)
        if found is not None:
            if len(self) >= KNOWN_MAX:
                self.clear()
            self[account_id] = found
        return found


def is_own(account: Account) -> bool:
    """Whether it is one of the books' own accounts, which no request may name."""
    return account.id.startswith(OWN_PREFIXES)


@lru_cache(maxsize=1 << 17)
def account_key(account_id: str) -> int:
    """The ledger's 128-bit id of an account: the first half of the SM3 of its id."""
    return int.from_bytes(sm3(account_id.encode())[:16])


def ledger_number(currency: str) -> int:
    """The ledger (TigerBeetle's word for a set of accounts that can move to each other) of a currency: its
    letters as a number."""
    return int.from_bytes(currency.encode())


def centre_account(currency: str) -> str:
    """The counter-account of everything that is not in this box: grants come from it, returns go to it."""
    return f"{CENTRE_PREFIX}{currency}"


def risk_account(box: str, currency: str) -> str:
    """The account that pays when the branch stands in; its allowance is the branch's limit."""
    return f"risk:{box}:{currency}"


def suspense_account(box: str, currency: str) -> str:
    """Where an advice lands that nothing covers."""
    return f"suspense:{box}:{currency}"


def receivable_account(box: str, currency: str) -> str:
    """What payees owe the branch; its counter-account is `recourse_account`."""
    return f"receivable:{box}:{currency}"


def recourse_account(box: str, currency: str) -> str:
    """The other side of `receivable_account`."""
    return f"recourse:{box}:{currency}"
