"""What waits for a person at the hub, each with the next command: read, never changed.

Boxes out of service or with older settings than the fleet, both signed heads of a fork, epochs that are over
and not sealed with the money that is in doubt there, named losses, suspense. Read in pages by primary key, so
that memory is bounded and no reading transaction stays open beside a hub that runs. Leaves out how they are
told (`edgegw.commands.hub`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, Select, Table, and_, exists, select, tuple_

from edgegw.core.allowance import NS_PER_S
from edgegw.core.records import UNREADABLE
from edgegw.hub import identity_log, losses, orders, receivables, schema, suspense
from edgegw.hub.database import Database
from edgegw.hub.identities import LIVE, REVOKED
from edgegw.hub.receive import ACTIVE, BEHIND, FORKED, QUARANTINED
from edgegw.hub.stages import APPLIED, FLEET
from edgegw.hub.suspense import Place
from edgegw.hub.windows import WINDOW_DIFFERS

PAGE_ROWS: Final = 500
UNRENEWED_PART: Final = 6
"""A box renews when a third of the life is left; in the last sixth a person is told."""


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that waits. seq counts within its log: the journal of that epoch where `log` is ""."""

    kind: str
    """order, identity, certificate, box, site, program, fork, unsealed, in_doubt, loss, declared_loss,
    suspense, parked, receivable or late_decline."""
    box: str
    epoch: int
    reason: str
    next: str
    """What a person does about it."""
    log: str = ""
    seq: int | None = None
    account_id: str = ""
    currency: str = ""
    amount_minor: int | None = None
    owner: str = ""
    """Who must act: `bank`, `branch:BOX` or `merchant:ACCOUNT`."""
    at_ns: int = 0
    """Since when, nanoseconds since 1970."""
    held_checkpoint: str = ""
    """Of a fork: the signed head of the history that the hub holds."""
    other_checkpoint: str = ""
    """And the one that does not lead to it."""


class _Request(msgspec.Struct):
    amount_minor: int = 0
    currency: str = ""
    debit_account_id: str = ""


class _Record(msgspec.Struct):
    request: _Request | None = None


def findings(database: Database) -> Iterator[Finding]:
    """Everything that waits: orders for a second person, boxes, and the rest."""
    yield from _orders(database)
    yield from _identity_alarms(database)
    yield from _revoked(database)
    yield from _certificates(database)
    yield from _boxes(database)
    yield from _sites(database)
    yield from _programs(database)
    yield from _forks(database)
    yield from _unsealed(database)
    yield from _in_doubt(database)
    yield from _losses(database)
    yield from _declared(database)
    yield from _suspense(database)
    yield from _receivables(database)
    yield from _late_declines(database)


def _all(connection: Connection, *, query: Select[Any]) -> Sequence[Row[Any]]:
    return connection.execute(query).all()


def _pages(database: Database, query: Select[Any], table: Table) -> Iterator[Row[Any]]:
    """The rows of a query that selects the table's whole primary key first."""
    key = list(table.primary_key.columns)
    after: ColumnElement[bool] | None = None
    while True:
        page = query.order_by(*key).limit(PAGE_ROWS)
        rows = database.transact(partial(_all, query=page if after is None else page.where(after)))
        yield from rows
        if len(rows) < PAGE_ROWS:
            return
        after = tuple_(*key) > tuple(rows[-1][: len(key)])


def _orders(database: Database) -> Iterator[Finding]:
    """What waits for a second person; box and epoch say nothing here."""
    for one in database.transact(orders.waiting):
        yield Finding(
            kind="order",
            box="",
            epoch=0,
            log="order",
            seq=one.number,
            at_ns=one.wall_ns,
            reason=f"{one.action} by {one.by}: {one.reason}" if one.reason else f"{one.action} by {one.by}",
            next=f"edgegw orders show {one.number}, then edgegw orders approve or reject {one.number}",
        )


def _identity_alarms(database: Database) -> Iterator[Finding]:
    """What somebody tried with a claim or an identity, until a person has looked at it; the newest."""
    for one in database.transact(identity_log.unseen_alarms):
        claim = f", claim {one.claim}" if one.claim else ""
        remote = f", from {one.remote}" if one.remote else ""
        yield Finding(
            kind="identity",
            box=one.box,
            epoch=0,
            log="identities",
            seq=one.number,
            at_ns=one.at_ns,
            reason=f"{one.event}: {one.detail}{claim}{remote}",
            next=f"edgegw hub ca log --alarms, then edgegw hub ca log --seen {one.number}",
        )


def _revoked(database: Database) -> Iterator[Finding]:
    """Boxes whose device is revoked, while an epoch of theirs is not sealed: money is outstanding there."""
    device, box, head = schema.identity.c, schema.box.c, schema.journal_head.c
    later = schema.identity.alias()
    is_newest = ~exists().where(later.c.box == device.box, later.c.generation > device.generation)
    query = (
        select(device.box, device.generation, device.reason, device.ended_ns, box.epoch)
        .join(schema.box, box.box == device.box)
        .where(device.state == REVOKED, is_newest, exists().where(head.box == device.box, ~head.sealed))
    )
    for row in _pages(database, query, schema.identity):
        yield Finding(
            kind="box",
            box=row.box,
            epoch=row.epoch,
            at_ns=row.ended_ns,
            reason=f"its device is revoked: {row.reason}",
            next=f"edgegw hub ca claim {row.box} --replaces for another one, or edgegw order lost {row.box}",
        )


def _certificates(database: Database) -> Iterator[Finding]:
    """Of live devices, what has not been renewed though most of its life is over."""
    table, device = schema.certificate.c, schema.identity.c
    query = (
        select(table.digest, table.box, table.kind, table.serial, table.issued_ns, table.ends_s)
        .join(schema.identity, and_(device.box == table.box, device.generation == table.generation))
        .where(device.state == LIVE, table.is_newest, table.revoked_s == 0)
    )
    now_ns = time.time_ns()
    for row in _pages(database, query, schema.certificate):
        life_ns = row.ends_s * NS_PER_S - row.issued_ns
        if now_ns < row.ends_s * NS_PER_S - life_ns // UNRENEWED_PART:
            continue
        ended = "has ended" if now_ns >= row.ends_s * NS_PER_S else "ends soon"
        yield Finding(
            kind="certificate",
            box=row.box,
            epoch=0,
            log="certificates",
            at_ns=row.issued_ns,
            reason=f"its certificate {row.kind} {row.serial} {ended} and was not renewed",
            next=f"see why {row.box} does not reach the enrolment: edgegw hub ca log, and its own status",
        )


def _boxes(database: Database) -> Iterator[Finding]:
    table = schema.box.c
    query = select(table.box, table.epoch, table.state, table.reason, table.release, table.taking_back)
    for row in _pages(database, query, schema.box):
        if row.taking_back:
            reason = "the hub has lost something of it and grants it nothing before all is back"
            yield _box(row, reason, f"let {row.box} speak: it hands back what it has by itself")
        if row.release:
            yield _box(row, "a new epoch is ordered", f"let {row.box} run: it takes the epoch by itself")
        elif row.state != ACTIVE:
            yield _box(row, f"{row.state}: {row.reason}", _next_for(row.state, row.box))


def _box(row: Row[Any], reason: str, what: str) -> Finding:
    return Finding(kind="box", box=row.box, epoch=row.epoch, reason=reason, next=what)


def _next_for(state: str, box: str) -> str:
    order = f"edgegw order new-epoch {box}"
    if state == FORKED:
        return f"edgegw order take-journal FILE for its other history, then {order}"
    if state in (BEHIND, QUARANTINED):
        return f"find out why, then {order}"
    return order


def _sites(database: Database) -> Iterator[Finding]:
    """Boxes that keep older settings than the fleet has: their programs cannot read the newer ones, or they
    have refused them."""
    fleets = database.transact(partial(_all, query=_fleets_version()))
    box = schema.box.c
    query = select(box.box, box.epoch, box.site_version, box.site_word, box.site_format)
    for row in _pages(database, query.where(box.beat_at_ns > 0), schema.box):
        told = _of_settings(row, fleets)
        if told is not None:
            reason, what = told
            yield Finding(kind="site", box=row.box, epoch=row.epoch, reason=reason, next=what)


def _programs(database: Database) -> Iterator[Finding]:
    """Boxes whose updates fail, or that can get none."""
    box = schema.box.c
    query = select(box.box, box.epoch, box.program, box.program_problem)
    for row in _pages(database, query.where(box.program_problem != ""), schema.box):
        yield Finding(
            kind="program",
            box=row.box,
            epoch=row.epoch,
            reason=f"runs {row.program}: {row.program_problem}",
            next="publish a mended release under a new number; on the box: edgegw update status",
        )


def _of_settings(row: Row[Any], fleets: Sequence[Row[Any]]) -> tuple[str, str] | None:
    """Why a box keeps older settings, and what to do; None where it does not."""
    if row.site_word not in ("", APPLIED):
        return (
            f"version {row.site_version} of the site's settings is {row.site_word}",
            "mend what it says, and edgegw site publish a higher version",
        )
    for fleet in fleets:
        if row.site_version < fleet.version and row.site_format < fleet.format:
            needs = (
                f"its program reads format {row.site_format}, version {fleet.version} needs {fleet.format}"
            )
            keeps = f"it keeps version {row.site_version} of the site's settings"
            return f"{keeps}: {needs}", f"update the program of {row.box}"
    return None


def _fleets_version() -> Select[Any]:
    """Number and format of the newest version that all boxes are to have; no row before the first."""
    site = schema.site.c
    known = select(site.version, site.format).where(site.stage == FLEET, site.bundle.is_not(None))
    return known.order_by(site.version.desc()).limit(1)


def _forks(database: Database) -> Iterator[Finding]:
    table, head = schema.evidence.c, schema.journal_head.c
    query = select(
        table.box,
        table.epoch,
        table.number,
        table.reason,
        table.held_checkpoint,
        table.other_checkpoint,
        head.sealed,
    ).outerjoin(schema.journal_head, and_(head.box == table.box, head.epoch == table.epoch))
    for row in _pages(database, query, schema.evidence):
        if not row.sealed:
            yield Finding(
                kind="fork",
                box=row.box,
                epoch=row.epoch,
                reason=row.reason,
                held_checkpoint=row.held_checkpoint,
                other_checkpoint=row.other_checkpoint,
                next="edgegw order take-journal FILE, as `edgegw journal export` writes it where the other"
                " history is",
            )


def _unsealed(database: Database) -> Iterator[Finding]:
    table, box = schema.journal_head.c, schema.box.c
    query = (
        select(table.box, table.epoch, table.size, table.forked)
        .join(schema.box, box.box == table.box)
        .where(table.sealed.is_(False), table.epoch < box.epoch)
    )
    for row in _pages(database, query, schema.journal_head):
        histories = "two histories are known, " if row.forked else ""
        yield Finding(
            kind="unsealed",
            box=row.box,
            epoch=row.epoch,
            reason=f"over and not sealed; {histories}{row.size} records are here",
            next=_seal(row.box, row.epoch),
        )


def _in_doubt(database: Database) -> Iterator[Finding]:
    table, account = schema.outstanding.c, schema.account.c
    query = (
        select(table.box, table.epoch, table.account_id, table.amount_minor, account.currency)
        .join(schema.account, account.account_id == table.account_id)
        .where(table.in_doubt, table.amount_minor != 0)
    )
    for row in _pages(database, query, schema.outstanding):
        yield Finding(
            kind="in_doubt",
            box=row.box,
            epoch=row.epoch,
            account_id=row.account_id,
            currency=row.currency,
            amount_minor=row.amount_minor,
            reason="outstanding in an epoch that is over; nobody is granted it meanwhile",
            next=_seal(row.box, row.epoch),
        )


def _seal(box: str, epoch: int) -> str:
    return f"edgegw order seal {box} {epoch} once its last records are in"


def _losses(database: Database) -> Iterator[Finding]:
    for row in _pages(database, losses.open_losses(), schema.loss):
        yield Finding(
            kind="loss",
            box=row.box,
            epoch=row.epoch,
            log=row.log,
            seq=row.seq,
            account_id=row.account_id,
            currency=row.currency or "",
            amount_minor=row.amount_minor,
            reason=f"{row.account_id} was short of it; the risk account of {row.box} bore it",
            next=f"edgegw post FILE with id {row.settle_by}, where the bank makes the risk account good",
        )


def _declared(database: Database) -> Iterator[Finding]:
    table = schema.declaration.c
    query = select(table.box, table.epoch, table.records_lost, table.box_lost, table.reason).where(
        table.box_lost | (table.records_lost > 0)
    )
    for row in _pages(database, query, schema.declaration):
        what = f"{row.records_lost} records are declared lost" + (", and the box" if row.box_lost else "")
        yield Finding(
            kind="declared_loss",
            box=row.box,
            epoch=row.epoch,
            reason=f"{what}: {row.reason}" if row.reason else what,
            next="edgegw post FILE, where payees show receipts for what was lost",
        )


def _next_for_item(reason: str, place: Place) -> str:
    if reason == WINDOW_DIFFERS:
        return (
            f"edgegw windows hub.toml --box {place.box} shows both figures; once it is clear why:"
            f" edgegw settlement accept {place.box} WINDOW"
        )
    return (
        f"edgegw suspense show {place.name}; then edgegw suspense retry, or edgegw post with id"
        f" {suspense.POSTING_PREFIX}{place.name}, or edgegw suspense park"
    )


def _suspense(database: Database) -> Iterator[Finding]:
    table, record = schema.suspense_item.c, schema.record.c
    query = (
        select(
            table.box,
            table.epoch,
            table.seq,
            table.owner,
            table.reason,
            table.detail,
            table.state,
            table.at_ns,
            record.body,
        )
        .outerjoin(
            schema.record,
            and_(record.box == table.box, record.epoch == table.epoch, record.seq == table.seq),
        )
        .where(table.state != suspense.CLOSED)
    )
    for row in _pages(database, query, schema.suspense_item):
        request = _request(row.body)
        number = row.seq // schema.BRANCH_SEQS
        yield Finding(
            kind="parked" if row.state == suspense.PARKED else "suspense",
            box=row.box,
            epoch=row.epoch,
            log=f"branch {number}" if number else "journal",
            seq=row.seq % schema.BRANCH_SEQS,
            account_id=request.debit_account_id,
            currency=request.currency,
            amount_minor=request.amount_minor,
            owner=row.owner,
            at_ns=row.at_ns,
            reason=f"{row.reason}: {row.detail}" if row.detail else row.reason,
            next=_next_for_item(row.reason, Place(row.box, row.epoch, row.seq)),
        )


def _receivables(database: Database) -> Iterator[Finding]:
    table = schema.receivable.c
    query = select(
        table.box,
        table.epoch,
        table.seq,
        table.owner,
        table.reason,
        table.debtor,
        table.currency,
        table.amount_minor,
        table.paid_minor,
        table.at_ns,
    ).where(table.paid_minor < table.amount_minor)
    for row in _pages(database, query, schema.receivable):
        number = row.seq // schema.BRANCH_SEQS
        name = Place(row.box, row.epoch, row.seq).name
        yield Finding(
            kind="receivable",
            box=row.box,
            epoch=row.epoch,
            log=f"branch {number}" if number else "journal",
            seq=row.seq % schema.BRANCH_SEQS,
            account_id=row.debtor,
            currency=row.currency,
            amount_minor=row.amount_minor - row.paid_minor,
            owner=row.owner,
            at_ns=row.at_ns,
            reason=row.reason,
            next=f"collect it, then edgegw post with id {receivables.POSTING_PREFIX}{name}",
        )


def _late_declines(database: Database) -> Iterator[Finding]:
    """Those of which the merchant has not taken note."""
    table = schema.stand_in.c
    query = select(
        table.box,
        table.epoch,
        table.seq,
        table.payer,
        table.payee,
        table.currency,
        table.amount_minor,
        table.liable,
        table.reason,
        table.client,
    ).where(table.state == "declined", table.told_ns == 0, table.word_epoch > 0)
    for row in _pages(database, query, schema.stand_in):
        number = row.seq // schema.BRANCH_SEQS
        is_merchants = row.liable == "merchant"
        yield Finding(
            kind="late_decline",
            box=row.box,
            epoch=row.epoch,
            log=f"branch {number}" if number else "journal",
            seq=row.seq % schema.BRANCH_SEQS,
            account_id=row.payer,
            currency=row.currency,
            amount_minor=row.amount_minor,
            owner=f"merchant:{row.payee}" if is_merchants else f"branch:{row.box}",
            reason=f"{row.reason}; client {row.client} has not acknowledged that",
            next=f"tell {row.client}: its notices at {row.box} wait in GET /v1/notices (?client= reads a"
            " terminal's), or for its webhook",
        )


def _request(body: bytes | None) -> _Request:
    try:
        found = msgspec.json.decode(body or b"{}", type=_Record).request
    except UNREADABLE:
        found = None
    return found or _Request()
