"""Stand-ins at the centre: kept when they arrive, then confirmed out of the payer's money or declined late
(DESIGN §4).

Leaves out finding them in the journal (`hub.replay`) and the box's answer, which the replay settles.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, insert, select, true, tuple_, update

from edgegw.core.accounts import risk_account
from edgegw.core.records import Acknowledgement
from edgegw.core.site import Site
from edgegw.hub import schema
from edgegw.hub.books import IDS_MAX, Books
from edgegw.hub.directives import DirectiveLog
from edgegw.hub.recalls import STAND_IN_WAIT_NS, Recalls, stand_in_key
from edgegw.hub.schema import BRANCH_SEQS

_PLACE: Final = re.compile(r"([0-9]{1,7})/([0-9]{1,13})")
DUPLICATE_IDENTITY: Final = "duplicate_identity"
INSUFFICIENT_FUNDS: Final = "insufficient_funds"


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
    client: str = ""
    decided: bool = False
    """Confirmed or declined before this record came: the hub has lost the record and taken the word back."""


def keep_stand_ins(connection: Connection, stand_ins: Sequence[StandIn], *, box: str, epoch: int) -> None:
    """Write down a push's stand-ins as waiting, or voided when the same push took them back; one of which the
    word is here already gets its payee."""
    _find_decided(connection, stand_ins, box=box, epoch=epoch)
    fresh = [one for one in stand_ins if not one.decided]
    if fresh:
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
                "client": one.client,
                "word_epoch": 0,
                "word_seq": 0,
                "told_ns": 0,
            }
            for one in fresh
        ]
        connection.execute(insert(schema.stand_in), rows)


def _find_decided(connection: Connection, stand_ins: Sequence[StandIn], *, box: str, epoch: int) -> None:
    if not stand_ins:
        return
    table = schema.stand_in
    by_seq = {one.seq: one for one in stand_ins}
    mine = (table.c.box == box) & (table.c.epoch == epoch)
    for seq in connection.execute(select(table.c.seq).where(mine, table.c.seq.in_(sorted(by_seq)))).scalars():
        by_seq[seq].decided = True
        connection.execute(
            update(table)
            .where(mine, table.c.seq == seq)
            .values(payee=by_seq[seq].payee, client=by_seq[seq].client)
        )


def keep_word(
    connection: Connection, one: StandIn, *, box: str, epoch: int, liable: str, reason: str
) -> bool:
    """Write down a decision that the hub has lost, also before the record that it is about; False where it is
    here already."""
    table = schema.stand_in
    place = (table.c.box == box) & (table.c.epoch == epoch) & (table.c.seq == one.seq)
    state = connection.execute(select(table.c.state).where(place)).scalar_one_or_none()
    if state in ("confirmed", "declined"):
        return False
    if state is None:
        keep_stand_ins(connection, [one], box=box, epoch=epoch)
    mark_stand_in(connection, one, box=box, epoch=epoch, liable=liable, reason=reason)
    return True


def wait_again(connection: Connection, *, box: str, epoch: int, seq: int) -> None:
    """Take a decision back that the box has not heard."""
    table = schema.stand_in
    connection.execute(
        update(table)
        .where(
            table.c.box == box,
            table.c.epoch == epoch,
            table.c.seq == seq,
            table.c.settled.is_(False),
        )
        .values(state="waiting", liable="", reason="")
    )


def note_told(connection: Connection, said: Acknowledgement, *, box: str, epoch: int, now_ns: int) -> None:
    """A client has taken note of what was decided about its stand-ins, up to a record of its box."""
    table = schema.stand_in
    reached = place_or_none(said.up_to)
    if reached is None:
        return
    apart = [place for place in map(place_or_none, said.apart) if place is not None]
    word = tuple_(table.c.word_epoch, table.c.word_seq)
    connection.execute(
        update(table)
        .where(
            table.c.box == box,
            table.c.state.in_(("confirmed", "declined")),
            table.c.told_ns == 0,
            table.c.client == said.client,
            table.c.word_epoch > 0,
            table.c.word_epoch <= epoch,
            word <= tuple_(*reached),
            word.not_in(apart) if apart else true(),
        )
        .values(told_ns=now_ns)
    )


def place_or_none(text: str) -> tuple[int, int] | None:
    """epoch and seq of a box's own words for a place; None for what is none that a column keeps."""
    found = _PLACE.fullmatch(text)
    return None if found is None else (int(found[1]), int(found[2]))


def decide_stand_in(
    connection: Connection,
    books: Books,
    log: DirectiveLog,
    one: StandIn,
    recalls: Recalls,
    *,
    box: str,
    epoch: int,
    site: Site,
) -> None:
    """Confirm a waiting stand-in out of what the payer has available, else decline it late (DESIGN §4).

    While the payer's money is on its way to this box in a grant, it goes on waiting: a grant that came too
    late for the payment is handed back, and then it pays. It waits as well, for a short while, for boxes that
    hold the payer's money: others, and this one, where a payment beyond its allowance has left that as it
    was.
    """
    reason = post_stand_in(books, one, box=box)
    if reason == INSUFFICIENT_FUNDS:
        if _grant_is_under_way(connection, log, one.payer, box=box):
            return
        payer = books.draw(one.payer)
        if payer is not None and recalls.ask_others(
            payer,
            key=stand_in_key(epoch, one.seq),
            wanted_minor=one.amount_minor - payer.available_minor,
            own_minor=payer.outstanding_minor,
            wait_ns=STAND_IN_WAIT_NS,
        ):
            return
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


def still_waiting(
    connection: Connection, payers: Collection[str], *, box: str, epoch: int, before_seq: int
) -> list[StandIn]:
    """The stand-ins before this place that wait for a grant to one of these payers, in order."""
    if not payers:
        return []
    return waiting_stand_ins(connection, box=box, epoch=epoch, payers=payers, before_seq=before_seq)


def waiting_stand_ins(
    connection: Connection,
    *,
    box: str,
    epoch: int,
    payers: Collection[str] = (),
    before_seq: int = BRANCH_SEQS,
) -> list[StandIn]:
    """The stand-ins that wait for the centre's word, in order; of these payers only, where some are named.

    Those of other branches wait for the epoch's seal: no box has their records in its journal.
    """
    table = schema.stand_in.c
    rows = connection.execute(
        select(table.seq, table.payer, table.payee, table.currency, table.amount_minor)
        .where(
            table.box == box,
            table.epoch == epoch,
            table.seq < before_seq,
            table.state == "waiting",
            table.payer.in_(sorted(payers)) if payers else true(),
        )
        .order_by(table.seq)
    )
    waiting = [StandIn(*row) for row in rows]
    duplicates = duplicates_among(connection, [one.seq for one in waiting], box=box, epoch=epoch)
    for one in waiting:
        one.duplicate = one.seq in duplicates
    return waiting


def duplicates_among(connection: Connection, seqs: Sequence[int], *, box: str, epoch: int) -> set[int]:
    """Which of these stand-ins were cleared before under the same identity, as the replay has found."""
    table = schema.suspense_item.c
    found: set[int] = set()
    for start in range(0, len(seqs), IDS_MAX):
        rows = connection.execute(
            select(table.seq).where(
                table.box == box,
                table.epoch == epoch,
                table.reason == DUPLICATE_IDENTITY,
                table.seq.in_(seqs[start : start + IDS_MAX]),
            )
        )
        found |= set(rows.scalars())
    return found


def _grant_is_under_way(connection: Connection, log: DirectiveLog, payer: str, *, box: str) -> bool:
    """Whether the newest grant that this box asked for is not in its journal yet; older ones are settled
    before it."""
    asked, said = schema.grant_request.c, schema.directive.c
    newest = connection.execute(
        select(asked.directive_seq)
        .where(
            asked.box == box,
            asked.account_id == payer,
            asked.incarnation == log.incarnation,
            asked.amount_minor > 0,
        )
        .order_by(asked.directive_seq.desc())
        .limit(1)
    ).scalar_one_or_none()
    if newest is None:
        return False
    outcome: str = connection.execute(
        select(said.outcome).where(said.box == box, said.incarnation == log.incarnation, said.seq == newest)
    ).scalar_one()
    return not outcome


def post_stand_in(books: Books, one: StandIn, *, box: str) -> str:
    """Move the payer's money to the risk account that stood in; why it cannot be, or "" when it was."""
    payer = books.draw(one.payer)
    if one.duplicate:
        return DUPLICATE_IDENTITY
    if payer is None or payer.currency != one.currency:
        return "account_not_found"
    if payer.closed:
        return "account_closed"
    if payer.frozen:
        return "account_frozen"
    if payer.available_minor < one.amount_minor:
        return INSUFFICIENT_FUNDS
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
