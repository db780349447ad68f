"""What must hold at the end of every drill, read from the hub's database with SQL of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pysqlite3

from tests.drills.branch import Bank

OPENING_MINOR = {"alice": 200_000, "bob": 200_000}


def rows(bank: Bank, query: str) -> list[tuple[Any, ...]]:
    """The rows of a query to the hub's database."""
    connection = pysqlite3.connect(Path(bank.folder) / "hub.db")
    try:
        return list(connection.execute(query))
    finally:
        connection.close()


def check_books(bank: Bank) -> None:
    """Money is conserved, nobody is below the floor, and what boxes hold adds up."""
    torn = rows(
        bank,
        "SELECT account_id, balance_minor, available_minor, (SELECT COALESCE(SUM(amount_minor), 0) FROM"
        " outstanding o WHERE o.account_id = a.account_id) AS held FROM account a"
        " WHERE available_minor + held <> balance_minor",
    )
    assert not torn, torn
    assert rows(bank, "SELECT COALESCE(SUM(balance_minor), 0) FROM account") == [(0,)]
    below = rows(bank, "SELECT account_id FROM account WHERE floor AND balance_minor < 0")
    assert not below, below


def check_answers(bank: Bank, *, loss_allowed: bool = False) -> None:
    """Every payment that a till was told of is in the hub's books once: the payee has all of it, and the
    payers bore it, or, where two histories spent one allowance, a loss that has a name."""
    bank.until(
        lambda: rows(bank, "SELECT count(*) FROM stand_in WHERE NOT settled") == [(0,)],
        "the centre's word on what the branch cleared at its own risk",
    )
    check_books(bank)
    balance = dict(rows(bank, "SELECT account_id, balance_minor FROM account"))
    paid = dict.fromkeys(OPENING_MINOR, 0)
    for payer, amount_minor, _ in bank.answered.values():
        paid[payer] += amount_minor
    assert balance["shop"] == sum(paid.values()), (balance, paid)
    losses = dict(rows(bank, "SELECT account_id, SUM(amount_minor) FROM loss GROUP BY account_id"))
    assert loss_allowed or not losses, losses
    for account_id, opening_minor in OPENING_MINOR.items():
        borne = opening_minor - balance[account_id]
        assert borne + losses.get(account_id, 0) == paid[account_id], (account_id, balance, paid, losses)
