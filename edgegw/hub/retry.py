"""Booking an item of suspense again: after an account was opened, money came, or a program learned to read
it.

Each reason has its own way; what no booking of the hub's own can settle says so. One SQL transaction tries;
where something still stands against it, nothing of that is kept but the step. Leaves out the list
(`hub.suspense`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import Connection, Row, select

from edgegw.core.accounts import CENTRE_PREFIX, suspense_account
from edgegw.core.records import Transfer, legs_of
from edgegw.hub import replay, schema
from edgegw.hub.books import Books, currencies_of
from edgegw.hub.branches import BranchedEpoch
from edgegw.hub.database import Database
from edgegw.hub.directives import DirectiveLog
from edgegw.hub.items import CANNOT_BE_APPLIED, UNDECODABLE, Item, read_items
from edgegw.hub.keyring import Keyring
from edgegw.hub.recalls import Recalls
from edgegw.hub.receive import BoxRow
from edgegw.hub.schema import BRANCH_SEQS
from edgegw.hub.site import Sites
from edgegw.hub.stand_ins import DUPLICATE_IDENTITY, StandIn, decide_stand_in, keep_stand_ins
from edgegw.hub.suspense import CLOSED, POSTING_PREFIX, Place, SuspenseError, close, is_at, item_at, note_step
from edgegw.hub.windows import DIFFERS, OPEN, WINDOW_DIFFERS, note_centre


class Still(Exception):
    """Why an item cannot be settled yet."""


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a retry."""

    item: str
    closed: bool
    detail: str
    """The reference that has closed it, or why it still waits."""


class _Case(NamedTuple):
    """What a retry works with: the locked box, the item, the record as it can be read now."""

    connection: Connection
    keyring: Keyring
    box: BoxRow
    place: Place
    row: Row[tuple[object, ...]]
    item: Item
    now_ns: int

    @property
    def amount_minor(self) -> int:
        """What is still to be settled."""
        amount_minor: int = self.row.amount_minor
        return amount_minor

    @property
    def record(self) -> Transfer:
        """The record of a payment; raises Still."""
        if not isinstance(self.item.record, Transfer):
            raise Still(f"its record cannot be read: {self.item.problem}")
        return self.item.record


def retry(database: Database, keyring: Keyring, name: str, *, by: str, now_ns: int) -> Tried:
    """Book an item again; it is closed, or keeps waiting with the new reason. Both are a step of its own.
    Raises SuspenseError for what is no item, or closed."""
    place = Place.parse(name)
    try:
        reference = database.transact(lambda c: _settled(c, keyring, place, by=by, now_ns=now_ns))
    except Still as still:
        why = str(still)
        database.transact(lambda c: note_step(c, place, by=by, action="retry", detail=why, now_ns=now_ns))
        return Tried(item=name, closed=False, detail=why)
    return Tried(item=name, closed=True, detail=reference)


def _settled(connection: Connection, keyring: Keyring, place: Place, *, by: str, now_ns: int) -> str:
    item_at(connection, place)
    box = BoxRow.lock(connection, place.box)
    row = connection.execute(select(schema.suspense_item).where(is_at(place)).with_for_update()).one()
    if row.state == CLOSED:
        raise SuspenseError(f"{place.name} is closed by {row.reference}")
    case = _Case(connection, keyring, box, place, row, _read(connection, place), now_ns)
    reference = _WAYS.get(str(row.reason), _by_a_person)(case)
    close(
        connection,
        place,
        by=by,
        action="retry",
        detail="settled",
        reference=reference,
        now_ns=now_ns,
    )
    return reference


def _read(connection: Connection, place: Place) -> Item:
    table = schema.record.c
    row = connection.execute(
        select(table.body, table.leaf).where(
            table.box == place.box, table.epoch == place.epoch, table.seq == place.seq
        )
    ).one_or_none()
    if row is None:
        raise SuspenseError(f"the record of {place.name} is not here; let {place.box} deliver it")
    return read_items([bytes(row.body)], [bytes(row.leaf)], start=place.seq)[0]


def _by_a_person(case: _Case) -> str:
    raise Still(
        "no booking of the hub's own settles this: both sides' records say what is to move; post that with id"
        f" {POSTING_PREFIX}{case.place.name}, or park it where nothing moves"
    )


# -- the record itself -------------------------------------------------------------------------------------


def _as_it_says(case: _Case) -> str:
    """Book the record as if it had just come."""
    connection, place, item = case.connection, case.place, case.item
    if item.problem:
        raise Still(f"its record cannot be read: {item.problem}")
    _check_not_sealed(case)
    names = replay.accounts_of([item])
    names |= replay.own_accounts_of(place.box, currencies_of(connection, names))
    books = Books(connection, box=place.box, epoch=place.epoch, in_doubt=place.epoch != case.box.epoch)
    books.open(names, draws=replay.stand_in_payers([item]))
    histories = _histories(connection, place)
    player = replay.Replay(
        connection, books, box=place.box, epoch=place.epoch, now_ns=case.now_ns, histories=histories
    )
    fault = player.again(item)
    if fault:
        raise Still(fault)
    keep_stand_ins(connection, player.outcome.stand_ins, box=place.box, epoch=place.epoch)
    _decide(case, books, player.outcome.stand_ins)
    note_centre(connection, books, box=place.box, epoch=place.epoch)
    books.write()
    return f"record {place.name}"


def _decide(case: _Case, books: Books, stand_ins: Sequence[StandIn]) -> None:
    """Give the centre's word on stand-ins that it can read now; those of an epoch that is over wait for its
    seal."""
    box, site = case.box, Sites().newest(case.connection)
    if (
        not stand_ins
        or site is None
        or case.place.epoch != box.epoch
        or not box.incarnation
        or box.taking_back
    ):
        return
    log = DirectiveLog(
        case.connection,
        case.keyring,
        box=box.box,
        incarnation=box.incarnation,
        epoch=box.epoch,
        wall_ns=case.now_ns,
    )
    recalls = Recalls(case.connection, box=box.box, now_ns=case.now_ns)
    for one in stand_ins:
        if not one.voided and not one.decided:
            decide_stand_in(
                case.connection, books, log, one, recalls, box=box.box, epoch=box.epoch, site=site
            )
    log.write()
    if recalls.again:
        box.stand_ins_due = True
        box.write(case.connection)


def _check_not_sealed(case: _Case) -> None:
    head = schema.journal_head.c
    sealed = case.connection.execute(
        select(head.sealed).where(head.box == case.place.box, head.epoch == case.place.epoch)
    ).scalar_one()
    if sealed:
        raise Still(
            f"epoch {case.place.epoch} of {case.place.box} is sealed, its money has gone back; post what is"
            f" to move with id {POSTING_PREFIX}{case.place.name}"
        )


def _histories(connection: Connection, place: Place) -> BranchedEpoch | None:
    head = schema.journal_head.c
    forked = connection.execute(
        select(head.forked).where(head.box == place.box, head.epoch == place.epoch)
    ).scalar_one()
    return BranchedEpoch(connection, place.box, place.epoch, place.seq // BRANCH_SEQS) if forked else None


# -- money that somebody owes --------------------------------------------------------------------------------


def _from_the_payer(case: _Case) -> str:
    """An advice that nothing covered: the payer pays what suspense has paid for it."""
    payer = case.record.request.debit_account_id
    if not payer:
        raise Still("it made a payer whole; `edgegw receivables` has what the payee owes for that")
    return _moved(case, payer)


def _from_the_payee(case: _Case) -> str:
    """One payment cleared at two boxes: the payer has its money back, the payee gives what it got twice."""
    if not case.amount_minor:
        return _when_decided(case)
    return _moved(case, case.record.legs[0].credit_account_id)


def _moved(case: _Case, debit: str) -> str:
    connection, place = case.connection, case.place
    credit = suspense_account(place.box, str(case.row.currency))
    books = Books(connection, box=place.box, epoch=place.epoch)
    books.open((debit, credit))
    page = books.page(debit)
    if page is None:
        raise Still(f"account {debit} is unknown at the hub")
    if page.frozen:
        raise Still(f"account {debit} is frozen")
    if page.available_minor < case.amount_minor:
        raise Still(f"account {debit} has {page.available_minor} available, not {case.amount_minor}")
    books.move_at_centre(debit=debit, credit=credit, amount_minor=case.amount_minor)
    note_centre(connection, books, box=place.box, epoch=place.epoch)
    books.write()
    return f"{case.amount_minor} from {debit} to {credit}"


def _when_decided(case: _Case) -> str:
    table = schema.stand_in
    row = case.connection.execute(
        select(table).where(
            table.c.box == case.place.box, table.c.epoch == case.place.epoch, table.c.seq == case.place.seq
        )
    ).one_or_none()
    if row is None:
        return _by_a_person(case)
    if not row.settled:
        raise Still(f"the stand-in is {row.state}, and the branch's word about that is not here")
    return f"stand-in {row.state} {row.reason}".rstrip()


def _given_back(case: _Case) -> str:
    """A return of more than the box had: what has become outstanding there since."""
    _check_not_sealed(case)
    connection, place = case.connection, case.place
    if case.item.record is None:
        raise Still(f"its record cannot be read: {case.item.problem}")
    legs = legs_of(case.item.record)
    account_id = next(leg.debit_account_id for leg in legs if leg.credit_account_id.startswith(CENTRE_PREFIX))
    books = Books(connection, box=place.box, epoch=place.epoch, in_doubt=place.epoch != case.box.epoch)
    books.open((account_id,))
    lacking_minor = books.give_back(account_id, case.amount_minor)
    if lacking_minor:
        raise Still(f"{account_id} still has {lacking_minor} less outstanding there than was returned")
    books.write()
    return f"{case.amount_minor} of {account_id} returned"


def _when_accepted(case: _Case) -> str:
    """A window that differs is settled where its figures are."""
    window = getattr(case.item.record, "window", 0)
    table = schema.clearing_window.c
    state = case.connection.execute(
        select(table.state).where(
            table.box == case.place.box,
            table.epoch == case.place.epoch,
            table.branch == case.place.seq // BRANCH_SEQS,
            table.number == window,
        )
    ).scalar_one_or_none()
    if state in (None, OPEN, DIFFERS):
        raise Still(f"window {window} still differs; `edgegw settlement accept {case.place.box} {window}`")
    return f"window {window} is {state}"


_WAYS: Final[dict[str, Callable[[_Case], str]]] = {
    UNDECODABLE: _as_it_says,
    CANNOT_BE_APPLIED: _as_it_says,
    replay.CANNOT_BE_POSTED: _as_it_says,
    replay.ADVICE_UNCOVERED: _from_the_payer,
    replay.RETURN_NOT_COVERED: _given_back,
    WINDOW_DIFFERS: _when_accepted,
    DUPLICATE_IDENTITY: _from_the_payee,
}
