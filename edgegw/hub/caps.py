"""The net debit caps of the whole fleet, in the books: what of a cap is free here, and what is at which box.

`cap:<participant>:<currency>` has as its balance the cap and what the participant is owed, less what it owes,
in all that is not settled yet: windows in no cycle and transfers that wait. Boxes' records move it as they
move money, grants hand shares of it out, so `available + sum(outstanding) = balance` bounds what all boxes
together can still let a participant owe (DESIGN §3.8, §10). What a settlement has posted gives the used part
back: after a run, and when a site sets other caps, the balance is set to what the windows say. Leaves out the
boxes' side (`core.caps`), grants (`hub.grants`) and the settlement accounts' cover (`hub.settlement`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, and_, func, select

from edgegw.core.accounts import BANK
from edgegw.core.caps import cap_account, uncapped_account
from edgegw.core.settlement import Side
from edgegw.core.site import NetDebitCap
from edgegw.hub.books import Books
from edgegw.hub.schema import account, clearing_window, settlement_transfer, stand_in, window_position

HEADROOM_MAX: Final = 2**61
"""More than anybody owes; so the books have room for what moves it."""


def set_headroom(connection: Connection, caps: Sequence[NetDebitCap]) -> None:
    """Let each cap's account have what its participant may still owe; the caller commits."""
    if not caps:
        return
    books = Books(connection, box="", epoch=0)
    books.open(
        {cap_account(cap.participant, cap.currency) for cap in caps}
        | {uncapped_account(cap.currency) for cap in caps}
    )
    owed = unsettled(connection)  # behind the locks: no push moves a cap meanwhile
    for cap in caps:
        page = books.page(cap_account(cap.participant, cap.currency))
        if page is None:
            continue
        wanted_minor = cap.cap_minor + owed[cap.participant, cap.currency]
        wanted_minor = max(-HEADROOM_MAX, min(HEADROOM_MAX, wanted_minor))
        ends = uncapped_account(cap.currency), page.account_id
        if wanted_minor < page.balance_minor:
            ends = ends[1], ends[0]
        if wanted_minor != page.balance_minor:
            amount_minor = abs(wanted_minor - page.balance_minor)
            books.move_at_centre(debit=ends[0], credit=ends[1], amount_minor=amount_minor)
    books.write()


def unsettled(connection: Connection) -> defaultdict[Side, int]:
    """What each participant is owed (above zero) or owes in all that no posted transfer has settled."""
    found: defaultdict[Side, int] = defaultdict(int)
    window, position = clearing_window.c, window_position.c
    rows = connection.execute(
        select(
            position.participant,
            position.currency,
            func.sum(position.net_minor + position.centre_minor),
        )
        .join(
            clearing_window,
            and_(
                window.box == position.box,
                window.epoch == position.epoch,
                window.branch == position.branch,
                window.number == position.number,
            ),
        )
        .where(window.cycle == 0)
        .group_by(position.participant, position.currency)
    )
    for participant, currency, net_minor in rows:
        found[participant, currency] += int(net_minor)
    waiting = settlement_transfer.c
    for row in connection.execute(select(settlement_transfer).where(waiting.posted_in == 0)):
        found[row.debtor, row.currency] -= row.amount_minor
        found[row.creditor, row.currency] += row.amount_minor
    # The centre has charged a payer whose share is still reserved at the box: its record will charge that.
    confirmed = connection.execute(
        select(account.c.participant, stand_in.c.currency, stand_in.c.amount_minor)
        .join(account, account.c.account_id == stand_in.c.payer)
        .where(stand_in.c.state == "confirmed", stand_in.c.settled.is_(False))
    )
    for participant, currency, amount_minor in confirmed:
        found[participant or BANK, currency] += amount_minor
        found[BANK, currency] -= amount_minor
    return found
