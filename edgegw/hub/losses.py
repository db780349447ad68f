"""Named losses: what a box paid out beyond what it had, or the hub had granted and lost, borne by its risk
account.

A loss is named `box/epoch/log/seq.leg`. A posting of the bank core's to that risk account whose id is
`loss:NAME` makes it good; until then it waits for a person. Rows are never changed or deleted. Leaves out
what makes them (`hub.replay`, `hub.take_back`).
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, String, cast, func, literal, select

from edgegw.core.accounts import risk_account
from edgegw.hub.schema import account, core_posting, loss
from edgegw.hub.suspense import SuspenseError

POSTING_PREFIX: Final = "loss:"


def open_losses() -> Select[Any]:
    """Those that nobody has made good, with the id of the posting that does; selects the whole key first."""
    return (
        select(
            loss.c.box,
            loss.c.epoch,
            loss.c.log,
            loss.c.seq,
            loss.c.leg,
            loss.c.account_id,
            loss.c.amount_minor,
            account.c.currency,
            _settle_by().label("settle_by"),
        )
        .outerjoin(account, account.c.account_id == loss.c.account_id)
        .outerjoin(core_posting, core_posting.c.id == _settle_by())
        .where(core_posting.c.id.is_(None))
    )


def _settle_by() -> ColumnElement[str]:
    """The id of the posting that makes a loss good."""
    named = literal(POSTING_PREFIX) + loss.c.box + "/" + cast(loss.c.epoch, String) + "/"
    place = func.replace(loss.c.log, " ", "-") + "/" + cast(loss.c.seq, String)
    return named + place + "." + cast(loss.c.leg, String)


def make_good(connection: Connection, posting_id: str, *, credit_account_id: str, amount_minor: int) -> None:
    """Take a fresh posting of the bank core's as what makes the loss good that it names. Raises SuspenseError
    where it names none, pays another account or another amount."""
    row = connection.execute(
        select(loss.c.box, loss.c.amount_minor, account.c.currency)
        .join(account, account.c.account_id == loss.c.account_id)
        .where(_settle_by() == posting_id)
    ).one_or_none()
    name = posting_id.removeprefix(POSTING_PREFIX)
    if row is None:
        raise SuspenseError(f"{name} is no loss; `edgegw findings` has them all")
    wanted = risk_account(row.box, row.currency)
    if credit_account_id != wanted:
        raise SuspenseError(f"credit_account_id {credit_account_id}: {name} was borne by {wanted}")
    if amount_minor != row.amount_minor:
        raise SuspenseError(f"amount_minor {amount_minor}: {name} is a loss of {row.amount_minor}")
