"""Stand-ins at the centre: kept when they arrive, then confirmed out of the payer's money or declined late
(DESIGN §4).

Leaves out finding them in the journal (`hub.replay`) and the box's answer, which the replay settles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, insert, update

from edgegw.core.book import risk_account
from edgegw.core.site import Site
from edgegw.hub import schema
from edgegw.hub.books import Books
from edgegw.hub.directives import DirectiveLog

DUPLICATE_IDENTITY: Final = "duplicate_identity"


@dataclass(slots=True)
class StandIn:
    """A stand-in that this push brought and that is still to be decided."""

    seq: int
    payer: str
    payee: str
    currency: str
    amount_minor: int
    duplicate: bool = False
    voided: bool = False


def keep_stand_ins(connection: Connection, stand_ins: Sequence[StandIn], *, box: str, epoch: int) -> None:
    """Write down a push's stand-ins as waiting, or voided when the same push took them back."""
    if stand_ins:
        rows = [
            {
                "box": box,
                "epoch": epoch,
                "seq": one.seq,
                "payer": one.payer,
                "payee": one.payee,
                "currency": one.currency,
                "amount_minor": one.amount_minor,
                "state": "voided" if one.voided else "waiting",
                "liable": "",
                "reason": "",
                "settled": one.voided,
            }
            for one in stand_ins
        ]
        connection.execute(insert(schema.stand_in), rows)


def decide_stand_in(
    connection: Connection, books: Books, log: DirectiveLog, one: StandIn, *, box: str, epoch: int, site: Site
) -> None:
    """Confirm a waiting stand-in out of what the payer has available, else decline it late (DESIGN §4)."""
    reason = post_stand_in(books, one, box=box)
    liable = site.late_decline_liable if reason else ""
    if reason:
        log.decline(
            epoch=epoch,
            at_seq=one.seq,
            payer=one.payer,
            currency=one.currency,
            amount_minor=one.amount_minor,
            liable=liable,
            reason=reason,
        )
    else:
        log.confirm(
            epoch=epoch,
            at_seq=one.seq,
            payer=one.payer,
            currency=one.currency,
            amount_minor=one.amount_minor,
        )
    mark_stand_in(connection, one, box=box, epoch=epoch, liable=liable, reason=reason)


def post_stand_in(books: Books, one: StandIn, *, box: str) -> str:
    """Move the payer's money to the risk account that stood in; why it cannot be, or "" when it was."""
    payer = books.page(one.payer)
    if one.duplicate:
        return DUPLICATE_IDENTITY
    if payer is None or payer.currency != one.currency:
        return "account_not_found"
    if payer.frozen:
        return "account_frozen"
    if payer.available_minor < one.amount_minor:
        return "insufficient_funds"
    books.move_at_centre(
        debit=payer.account_id, credit=risk_account(box, one.currency), amount_minor=one.amount_minor
    )
    return ""


def mark_stand_in(
    connection: Connection,
    one: StandIn,
    *,
    box: str,
    epoch: int,
    liable: str,
    reason: str,
    settled: bool = False,
) -> None:
    """Write down what was decided about a stand-in."""
    table = schema.stand_in
    connection.execute(
        update(table)
        .where(table.c.box == box, table.c.epoch == epoch, table.c.seq == one.seq)
        .values(state="declined" if reason else "confirmed", liable=liable, reason=reason, settled=settled)
    )
