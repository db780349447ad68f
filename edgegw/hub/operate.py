"""What a person orders at the hub: a new epoch for a box, the settling of an old one, a freeze. Each in one
SQL transaction.

Leaves out publishing (`hub.site`) and opening balances (`hub.books`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import Connection, Row, select, update

from edgegw.core.accounts import receivable_account, risk_account
from edgegw.core.allowance import NS_PER_S
from edgegw.core.records import transfer_id
from edgegw.hub import receivables, replay, schema
from edgegw.hub.books import Books, set_closed, set_frozen
from edgegw.hub.declarations import Declaration, keep_declaration
from edgegw.hub.directives import DirectiveLog
from edgegw.hub.journals import not_here
from edgegw.hub.keyring import Keyring
from edgegw.hub.recalls import CENTRE, SEAL_WAIT_NS, Recalls, stand_in_key
from edgegw.hub.receive import QUARANTINED, BoxRow
from edgegw.hub.stand_ins import StandIn, duplicates_among, mark_stand_in, post_stand_in
from edgegw.hub.windows import close_rest, note_centre

SILENT_S_MIN: Final = 60
"""A box that was heard since is not lost."""


class OrderError(ValueError):
    """An order that cannot be carried out; the text says why and what would help."""


def release_epoch(connection: Connection, box: str) -> None:
    """Let this box's next opening have a new epoch: after a restore, a fork, a quarantine or a lost disk.

    What is outstanding in the old epoch stays in doubt until `seal_epoch`.
    """
    row = _lock(connection, box)
    if not row.epoch:
        raise OrderError(f"box {box} has no epoch yet; its first opening gets one by itself")
    row.release = True
    row.write(connection)


def _lock(connection: Connection, box: str) -> BoxRow:
    """The row of the box that an order names; raises OrderError with the boxes that there are."""
    boxes = connection.execute(select(schema.box.c.box).order_by(schema.box.c.box)).scalars().all()
    if box not in boxes:
        there = ", ".join(boxes)
        raise OrderError(
            f"box {box} is not in [boxes] of the hub's settings, nor enrolled; there are {there}"
        )
    return BoxRow.lock(connection, box)


def freeze(
    connection: Connection, keyring: Keyring, *, account_id: str, frozen: bool, reason: str, now_ns: int
) -> None:
    """Bar an account from paying out, here at once and at each box from its journal record on; or let it
    again."""
    for log in logs_of_all(connection, keyring, now_ns=now_ns):
        log.freeze(account_id=account_id, frozen=frozen, reason=reason)
        log.write()
    set_frozen(connection, account_id=account_id, frozen=frozen)


def close(
    connection: Connection, keyring: Keyring, *, account_id: str, closed: bool, reason: str, now_ns: int
) -> None:
    """Let an account take and pay nothing new, here at once and at each box from its journal record on, and
    what boxes hold of it return; or let it again. What is held there stays until it is posted or given free.
    """
    currency = connection.execute(
        select(schema.account.c.currency).where(
            schema.account.c.account_id == account_id, schema.account.c.floor
        )
    ).scalar_one_or_none()
    if currency is None:
        raise OrderError(f"account_id {account_id} is no customer's account here; check it with the site's")
    for log in logs_of_all(connection, keyring, now_ns=now_ns):
        log.close(account_id=account_id, currency=currency, closed=closed, reason=reason)
        log.write()
    set_closed(connection, account_id=account_id, closed=closed)


def logs_of_all(connection: Connection, keyring: Keyring, *, now_ns: int) -> Iterator[DirectiveLog]:
    """The directive log of every box that has one, behind the locks of all boxes."""
    table = schema.box.c
    boxes = connection.execute(
        select(table.box, table.epoch, table.incarnation).order_by(table.box).with_for_update()
    ).all()
    for row in boxes:
        if row.incarnation:
            yield DirectiveLog(
                connection,
                keyring,
                box=row.box,
                incarnation=row.incarnation,
                epoch=row.epoch,
                wall_ns=now_ns,
            )


def seal_epoch(
    connection: Connection, box: str, epoch: int, *, lost: int = 0, reason: str = "", now_ns: int = 0
) -> None:
    """Say that an old epoch's tail is complete: nothing more is taken, and what was in doubt is settled here.

    Raises OrderError where records are known to be missing, unless `lost` says that just so many are gone.
    The order, with what it gives back of each account, is kept in `declaration`.

    What is outstanding returns to each account; stand-ins that the box could not finish are finished at the
    centre, so that no payee waits for a box that is gone. A declined or uncovered one is the branch's
    receivable. The window that was open ends here.
    """
    row = _lock(connection, box)
    if epoch >= row.epoch:
        raise OrderError(
            f"epoch {epoch} of {box} is not over; release a new epoch first, or, where the box is lost for"
            f" ever, edgegw order lost {box}"
        )
    missing = not_here(connection, box, epoch)
    if missing != lost:
        raise OrderError(_missing(box, epoch, missing=missing, lost=lost))
    _seal(connection, Declaration(box, epoch, now_ns, records_lost=lost, box_lost=False, reason=reason))


def recall_for_seal(connection: Connection, box: str, epoch: int, *, now_ns: int) -> bool:
    """Ask the boxes that can answer for what the payers of an epoch's waiting stand-ins lack, before a seal
    declines them; whether some of it may still come."""
    table = schema.stand_in.c
    place = (table.box == box) & (table.epoch == epoch)
    rows = connection.execute(
        select(table.seq, table.payer, table.amount_minor)
        .where(place, table.state == "waiting")
        .order_by(table.seq)
    ).all()
    books = Books(connection, box=box, epoch=epoch)
    books.open({row.payer for row in rows}, draws=())
    for page in books.pages():
        page.available_minor += page.outstanding_minor  # the seal itself gives that back
    recalls = Recalls(connection, box=CENTRE, now_ns=now_ns)
    for row in rows:
        payer = books.page(row.payer)
        if payer is None or payer.frozen or payer.closed:
            continue
        if row.amount_minor <= payer.available_minor:
            payer.available_minor -= row.amount_minor
            continue
        recalls.ask_others(
            payer,
            key=f"{box} {stand_in_key(epoch, row.seq)}",
            wanted_minor=row.amount_minor - payer.available_minor,
            wait_ns=SEAL_WAIT_NS,
        )
    return recalls.again


def not_sealed(connection: Connection, box: str) -> list[int]:
    """The epochs of a box that are not sealed, the oldest first."""
    head = schema.journal_head.c
    rows = connection.execute(
        select(head.epoch).where(head.box == box, head.sealed.is_(False)).order_by(head.epoch)
    )
    return list(rows.scalars())


def declare_lost(connection: Connection, box: str, *, lost: int, reason: str, now_ns: int) -> None:
    """Say that a box is gone for ever: every epoch of it that is not sealed is settled as it was taken in,
    the newest too, and the box stays out of service.

    lost: the records that are known to have been written there and never came, of all these epochs. Raises
    OrderError for another number, and for a box that was heard a moment ago.
    """
    row = _lock(connection, box)
    heard_s = (now_ns - row.beat_at_ns) // NS_PER_S
    if row.beat_at_ns and heard_s < SILENT_S_MIN:
        raise OrderError(
            f"{box} was heard {max(0, heard_s)} s ago; switch it off first, or take it out of service with"
            f" edgegw order new-epoch {box}"
        )
    epochs = not_sealed(connection, box)
    if not epochs:
        raise OrderError(f"{box} has no epoch that is not sealed: nothing of it is outstanding")
    missing = {epoch: not_here(connection, box, epoch) for epoch in epochs}
    if sum(missing.values()) != lost:
        raise OrderError(_missing(box, epochs[-1], missing=sum(missing.values()), lost=lost))
    row.state, row.reason, row.release = QUARANTINED, f"declared lost: {reason}", False
    row.write(connection)
    for epoch, records in missing.items():
        _seal(connection, Declaration(box, epoch, now_ns, records_lost=records, box_lost=True, reason=reason))


def _seal(connection: Connection, said: Declaration) -> None:
    box, epoch = said.box, said.epoch
    head = schema.journal_head
    sealed = connection.execute(
        update(head)
        .where(head.c.box == box, head.c.epoch == epoch, head.c.sealed.is_(False))
        .values(sealed=True)
    )
    if sealed.rowcount != 1:
        raise OrderError(f"epoch {epoch} of {box} was never issued, or is sealed already")
    outstanding, stand_in = schema.outstanding.c, schema.stand_in.c
    held = connection.execute(
        select(outstanding.account_id).where(outstanding.box == box, outstanding.epoch == epoch)
    ).scalars()
    unsettled = connection.execute(
        select(schema.stand_in)
        .where(stand_in.box == box, stand_in.epoch == epoch, stand_in.settled.is_(False))
        .order_by(stand_in.seq)
    ).all()
    currencies = {one.currency for one in unsettled}
    names = set(held) | replay.own_accounts_of(box, currencies)
    names |= {account_id for one in unsettled for account_id in (one.payer, one.payee)}
    books = Books(connection, box=box, epoch=epoch, in_doubt=True)
    books.open(names)
    keep_declaration(connection, said, {page.account_id: page.outstanding_minor for page in books.pages()})
    for page in books.pages():
        page.available_minor += page.outstanding_minor
        page.outstanding_minor = 0
    live = _live_holds(connection, box, epoch) if unsettled else set()
    duplicates = duplicates_among(connection, [one.seq for one in unsettled], box=box, epoch=epoch)
    for one in unsettled:
        if f"{transfer_id(epoch=epoch, seq=one.seq, leg=0):032x}" in live:
            _finish_stand_in(connection, books, one, is_duplicate=one.seq in duplicates)
        else:
            _take_back_stand_in(connection, books, one)
    note_centre(connection, books, box=box, epoch=epoch)
    close_rest(connection, box=box, epoch=epoch)
    books.write()


def _missing(box: str, epoch: int, *, missing: int, lost: int) -> str:
    if not missing:
        return f"lost: {lost}, but no record of epoch {epoch} of {box} is known to be missing; leave it out"
    return (
        f"{missing} records of epoch {epoch} were written at {box} and are not here: let it deliver them, or"
        " bring its journal (`edgegw journal export` at box or mirror, then `edgegw order take-journal`);"
        f" if they are gone for good, order it with --lost {missing}"
    )


def _live_holds(connection: Connection, box: str, epoch: int) -> set[str]:
    table = schema.box_hold.c
    ids = connection.execute(select(table.transfer_id).where(table.box == box, table.epoch == epoch))
    return set(ids.scalars())


def _take_back_stand_in(connection: Connection, books: Books, row: Row[Any]) -> None:
    """The box's journal voided it, and no directive met that record: nobody is paid, so nobody pays."""
    if row.state == "confirmed":
        books.move_at_centre(
            debit=risk_account(row.box, row.currency), credit=row.payer, amount_minor=row.amount_minor
        )
    table = schema.stand_in
    connection.execute(
        update(table)
        .where(table.c.box == row.box, table.c.epoch == row.epoch, table.c.seq == row.seq)
        .values(state="voided", settled=True)
    )


def _finish_stand_in(connection: Connection, books: Books, row: Row[Any], *, is_duplicate: bool) -> None:
    """Finish one stand-in of a sealed epoch. Only a decline that the merchant bears moves nothing."""
    one = StandIn(
        seq=row.seq,
        payer=row.payer,
        payee=row.payee,
        currency=row.currency,
        amount_minor=row.amount_minor,
        duplicate=is_duplicate,
    )
    risk = risk_account(row.box, row.currency)
    reason, liable = row.reason, row.liable
    if row.state == "waiting":
        reason = post_stand_in(books, one, box=row.box)
        liable = "branch" if reason else ""
    if reason and liable == "branch":
        receivable = receivable_account(row.box, row.currency)
        books.move_at_centre(debit=receivable, credit=risk, amount_minor=row.amount_minor)
        owed = {
            "epoch": row.epoch,
            "seq": row.seq,
            "owner": f"branch:{row.box}",
            "reason": reason,
            "debtor": row.payer,
            "funded_by": "",
            "currency": row.currency,
            "amount_minor": row.amount_minor,
        }
        receivables.keep(connection, [owed], box=row.box, now_ns=time.time_ns())
    if not reason or liable == "branch":
        books.move_at_centre(debit=risk, credit=row.payee, amount_minor=row.amount_minor)
    mark_stand_in(connection, one, box=row.box, epoch=row.epoch, liable=liable, reason=reason, settled=True)
