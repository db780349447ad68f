"""What each box holds of which account, as a person or a program reads it: read in pages, never changed.

Leaves out what a box makes of it: how much of it is free there, only its own journal says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, Select, select, tuple_

from edgegw.core.allowance import NS_PER_S
from edgegw.core.site import Site
from edgegw.hub import schema
from edgegw.hub.database import Database
from edgegw.hub.site import Sites

PAGE_ROWS: Final = 500


class Holding(msgspec.Struct, frozen=True, kw_only=True):
    """What is outstanding of one account at one box. Times are the hub's, nanoseconds since 1970; 0 is
    never."""

    box: str
    epoch: int
    account_id: str
    currency: str
    amount_minor: int
    is_home: bool
    """The account is at home there."""
    in_doubt: bool
    """The epoch is over and not sealed."""
    state: str
    """Of the box: active, behind, forked or quarantined."""
    heard_ns: int
    """When the box was heard last."""
    lease_ends_ns: int
    """When the box has stopped spending it at the latest, unless it is heard again; 0 where the site names no
    lease. Nothing moves by that."""
    paid_ns: int
    """When the account paid there last, within ten minutes, where the site follows that."""


def holdings(database: Database, *, box: str = "") -> Iterator[Holding]:
    """Everything that is outstanding (at one box), in the order of boxes, epochs and accounts."""
    site = database.transact(lambda connection: Sites().newest(connection))
    leases = _leases_ns(site)
    after: tuple[str, int, str] = (box, -1, "")
    while True:
        rows = database.transact(partial(_page, after=after, box=box))
        for row in rows:
            lease_ns = leases.get(row.currency, 0)
            yield Holding(
                box=row.box,
                epoch=row.epoch,
                account_id=row.account_id,
                currency=row.currency,
                amount_minor=row.amount_minor,
                is_home=row.home == row.box,
                in_doubt=row.in_doubt,
                state=row.state,
                heard_ns=row.beat_at_ns,
                lease_ends_ns=row.beat_at_ns + lease_ns if lease_ns and row.beat_at_ns else 0,
                paid_ns=row.seen_ns or 0,
            )
        if len(rows) < PAGE_ROWS:
            return
        after = (rows[-1].box, rows[-1].epoch, rows[-1].account_id)


def _leases_ns(site: Site | None) -> dict[str, int]:
    """The whole lease by currency: the box itself ends it earlier, by its margin."""
    rules = () if site is None else site.allowances
    return {rule.currency: rule.lease_seconds * NS_PER_S for rule in rules}


def _page(connection: Connection, *, after: tuple[str, int, str], box: str) -> Sequence[Row[Any]]:
    held, account, of, seen = (
        schema.outstanding.c,
        schema.account.c,
        schema.box.c,
        schema.box_account.c,
    )
    query: Select[Any] = (
        select(
            held.box,
            held.epoch,
            held.account_id,
            held.amount_minor,
            held.in_doubt,
            account.currency,
            account.home,
            of.state,
            of.beat_at_ns,
            seen.seen_ns,
        )
        .join(schema.account, account.account_id == held.account_id)
        .join(schema.box, of.box == held.box)
        .outerjoin(schema.box_account, (seen.box == held.box) & (seen.account_id == held.account_id))
        .where(held.amount_minor != 0, tuple_(held.box, held.epoch, held.account_id) > after)
        .order_by(held.box, held.epoch, held.account_id)
        .limit(PAGE_ROWS)
    )
    return connection.execute(query.where(held.box == box) if box else query).all()
