"""What the hub has lost of a box, taken back: its own directives with their effects, and accounts that only a
lost bundle named (DESIGN §4, "hub behind").

A directive that comes back has been in force at the box all the time. So its effect is booked whatever the
centre has left by now: what is not available any more is borne by the box's risk account, and named in
`loss`. Directives that the hub wrote after it had lost others, and that no box has heard, are withdrawn.
Leaves out the records (`hub.replay`) and when the hub is whole again (`hub.beats`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from sqlalchemy import Connection, Row, delete, insert, select, update

from edgegw.core.accounts import risk_account
from edgegw.core.caps import is_cap, uncapped_account
from edgegw.core.exchange import PackageJudgement, judge_handed_back
from edgegw.core.messages import ExchangeError, LogHead, Package, PackageVerdict
from edgegw.core.records import (
    UNREADABLE,
    CloseDirective,
    ConfirmDirective,
    DeclineDirective,
    Directive,
    DirectiveApplied,
    FreezeDirective,
    GrantDirective,
    RefuseDirective,
    SiteDirective,
    decode_directive,
)
from edgegw.hub import schema
from edgegw.hub.books import (
    Books,
    BooksError,
    Opening,
    box_accounts,
    capital_account,
    core_account,
    known_accounts,
    open_accounts,
    set_closed,
    set_frozen,
)
from edgegw.hub.directives import (
    DirectiveLog,
    directives_held,
    directives_root_at,
    drop_after,
    epoch_of,
    held_directives,
)
from edgegw.hub.items import Item
from edgegw.hub.journals import keep_evidence
from edgegw.hub.keyring import Keyring
from edgegw.hub.limit_orders import keep_again
from edgegw.hub.receive import ACTIVE, BEHIND, QUARANTINED, BoxRow
from edgegw.hub.site import bundle_is_lost, note_lost
from edgegw.hub.stages import read_announced
from edgegw.hub.stand_ins import StandIn, keep_word, wait_again
from edgegw.hub.windows import note_centre

WITHDRAWN: Final = "withdrawn"


class HandedBack(NamedTuple):
    """What the hub holds of an incarnation after a package of it came back; why it is not more, where it
    is not."""

    head: LogHead
    reason: str = ""


def has_directives(connection: Connection, row: BoxRow, theirs: LogHead) -> bool:
    """Whether the hub holds every directive that the box has applied, and the same ones."""
    own = directives_held(connection, box=row.box, incarnation=row.incarnation)
    if (theirs.number, theirs.size) > (own.number, own.size):
        return False
    if theirs.number != own.number or not theirs.size:
        return True
    root = own.root
    if theirs.size < own.size:
        root = directives_root_at(connection, box=row.box, incarnation=own.number, size=theirs.size) or b""
    return root == theirs.root


def take_handed_back(
    connection: Connection, keyring: Keyring, row: BoxRow, package: Package, theirs: LogHead, *, now_ns: int
) -> HandedBack:
    """Take a package of the hub's own directives from a box that has applied them. A package again changes
    nothing."""
    held = held_directives(connection, box=row.box, incarnation=package.number)
    judged = judge_handed_back(package, held, bank=keyring.bank, box=row.box, key=keyring.key.public)
    if judged.verdict in (PackageVerdict.GAP, PackageVerdict.DUPLICATE):
        return HandedBack(judged.head, judged.reason)
    if judged.verdict is PackageVerdict.FORK and drop_unheard(
        connection, keyring, row, package.number, other_checkpoint=package.checkpoint
    ):
        head = directives_held(connection, box=row.box, incarnation=package.number)
        return HandedBack(head, f"the hub held others, {judged.reason}: go on from {head.size}")
    if judged.verdict is not PackageVerdict.ACCEPTED:
        return _give_up(connection, row, package, judged)
    epoch = epoch_of(connection, box=row.box, incarnation=package.number)
    if epoch is None:
        # Each epoch begins an incarnation, so the older one belongs to an older epoch.
        epoch = max(1, row.epoch - max(0, theirs.number - package.number))
    log = DirectiveLog(
        connection, keyring, box=row.box, incarnation=package.number, epoch=epoch, wall_ns=now_ns
    )
    directives = _decoded(package.number, judged)
    _open_named(connection, row.box, directives)
    books = Books(connection, box=row.box, epoch=epoch, in_doubt=epoch != row.epoch)
    books.open(_accounts_of(row.box, directives))
    effects = _Effects(connection, books, row.box, epoch)
    for body, said in zip(judged.records, directives, strict=True):
        log.append_again(said, body)
        effects.book(said)
    log.write()
    effects.write()
    note_centre(connection, books, box=row.box, epoch=epoch)
    books.write()
    row.incarnation = max(row.incarnation, package.number)
    read_announced(connection, row)
    return HandedBack(judged.head)


def _decoded(incarnation: int, judged: PackageJudgement) -> list[Directive]:
    directives: list[Directive] = []
    for body in judged.records:
        try:
            directives.append(decode_directive(body))
        except UNREADABLE as problem:
            seq = judged.head.size - len(judged.records) + len(directives)
            raise ExchangeError(
                f"directive {incarnation}/{seq} that the hub has lost cannot be read ({problem}): run the"
                " hub's version that wrote it"
            ) from None
    return directives


def _give_up(connection: Connection, row: BoxRow, package: Package, judged: PackageJudgement) -> HandedBack:
    """No directive of the hub's own stands in the way, and these cannot be proved all the same: let the
    records come without them, under quarantine.

    What they granted counts as never issued, so what was spent of it is a named loss of the risk account. A
    log of a later number closes the one in question.
    """
    epoch = epoch_of(connection, box=row.box, incarnation=package.number) or row.epoch
    reason = f"directives of incarnation {package.number} from {package.old_size} on: {judged.reason}"
    if judged.checkpoint is not None:
        row.incarnation = max(row.incarnation, package.number)
        held = _checkpoint_of(connection, row.box, package.number)
        if held:
            keep_evidence(
                connection,
                box=row.box,
                epoch=epoch,
                reason=reason,
                held_checkpoint=held,
                other_checkpoint=package.checkpoint,
            )
    row.incarnation += 1
    row.site_version, row.site_digest, row.site_word = 0, "", ""
    row.taking_back = False
    if row.state in (ACTIVE, BEHIND):
        row.state, row.reason = QUARANTINED, reason
    return HandedBack(LogHead(row.incarnation), reason)


def _checkpoint_of(connection: Connection, box: str, incarnation: int) -> str:
    table = schema.directive_head.c
    note: str | None = connection.execute(
        select(table.checkpoint).where(table.box == box, table.incarnation == incarnation)
    ).scalar_one_or_none()
    return note or ""


class _Effects:
    """What directives that came back do in the books, once more."""

    def __init__(self, connection: Connection, books: Books, box: str, epoch: int) -> None:
        self._connection = connection
        self._books = books
        self._box = box
        self._epoch = epoch
        self._losses: list[dict[str, str | int]] = []

    def book(self, said: Directive) -> None:
        """Book one directive as when it was first issued."""
        if isinstance(said, GrantDirective):
            self._cover(said, said.account_id, said.currency, said.amount_minor)
            self._books.grant(said.account_id, said.amount_minor)
            self._answered(said, said.amount_minor)
        elif isinstance(said, RefuseDirective):
            self._answered(said, 0)
        elif isinstance(said, ConfirmDirective | DeclineDirective):
            self._late_word(said)
        elif isinstance(said, FreezeDirective | CloseDirective):
            try:
                self._bar(said)
            except BooksError:
                return  # an account of a bundle that is lost: nobody pays from it here
        elif isinstance(said, SiteDirective):
            note_lost(self._connection, said)
        else:
            keep_again(self._connection, said)

    def _bar(self, said: FreezeDirective | CloseDirective) -> None:
        if isinstance(said, FreezeDirective):
            set_frozen(self._connection, account_id=said.account_id, frozen=said.frozen)
        else:
            set_closed(self._connection, account_id=said.account_id, closed=said.closed)

    def _late_word(self, said: ConfirmDirective | DeclineDirective) -> None:
        reason = said.reason if isinstance(said, DeclineDirective) else ""
        liable = said.liable if isinstance(said, DeclineDirective) else ""
        one = StandIn(
            seq=said.at_seq,
            payer=said.payer_account_id,
            payee="",
            currency=said.currency,
            amount_minor=said.amount_minor,
        )
        is_new = keep_word(
            self._connection, one, box=self._box, epoch=said.epoch, liable=liable, reason=reason
        )
        if is_new and isinstance(said, ConfirmDirective):
            self._cover(said, said.payer_account_id, said.currency, said.amount_minor)
            self._books.move_at_centre(
                debit=said.payer_account_id,
                credit=risk_account(self._box, said.currency),
                amount_minor=said.amount_minor,
            )

    def _cover(self, said: Directive, account_id: str, currency: str, amount_minor: int) -> None:
        """Let an account have the amount available: what it lacks is the branch's loss, or for the risk
        account the bank's own money as at first."""
        page = self._books.page(account_id)
        short_minor = 0 if page is None else amount_minor - page.available_minor
        if page is None or short_minor <= 0:
            return
        risk = risk_account(self._box, currency)
        source = capital_account(currency) if account_id == risk else risk
        if is_cap(account_id):
            source = uncapped_account(currency)  # a cap is no money, so nobody loses any
        self._books.move_at_centre(debit=source, credit=account_id, amount_minor=short_minor)
        if source == risk:
            self._losses.append(
                {
                    "box": self._box,
                    "epoch": self._epoch,
                    "log": f"directives {said.incarnation}",
                    "seq": said.seq,
                    "leg": 0,
                    "account_id": account_id,
                    "amount_minor": short_minor,
                }
            )

    def _answered(self, said: GrantDirective | RefuseDirective, amount_minor: int) -> None:
        table = schema.grant_request
        place = (table.c.box == self._box) & (table.c.request_id == said.request_id)
        if not said.request_id or self._connection.execute(select(table.c.box).where(place)).first():
            return
        self._connection.execute(
            insert(table).values(
                box=self._box,
                request_id=said.request_id,
                incarnation=said.incarnation,
                directive_seq=said.seq,
                account_id=said.account_id,
                amount_minor=amount_minor,
            )
        )

    def write(self) -> None:
        """Write the losses."""
        if self._losses:
            self._connection.execute(insert(schema.loss), self._losses)


# --- what no box has heard ----------------------------------------------------------------------------------


def drop_unheard(
    connection: Connection, keyring: Keyring, row: BoxRow, incarnation: int, *, other_checkpoint: str
) -> bool:
    """The box holds other directives than the hub: shorten the log to those that its journal has applied, and
    keep the head that the hub signs no more. Whether there was anything to drop."""
    unheard = _unheard(connection, row.box, incarnation, from_seq=0)
    if not unheard:
        return False
    held_checkpoint = _checkpoint_of(connection, row.box, incarnation)
    _undo(connection, row, incarnation, unheard)
    size = unheard[0].seq
    drop_after(connection, keyring, box=row.box, incarnation=incarnation, size=size)
    read_announced(connection, row)
    keep_evidence(
        connection,
        box=row.box,
        epoch=row.epoch,
        reason=f"directives of incarnation {incarnation} from {size} on were written again after a loss",
        held_checkpoint=held_checkpoint,
        other_checkpoint=other_checkpoint,
    )
    return True


def withdraw(connection: Connection, row: BoxRow, *, from_seq: int) -> None:
    """Undo the directives of the box's present log that it has not applied; the log itself stays."""
    unheard = _unheard(connection, row.box, row.incarnation, from_seq=from_seq)
    _undo(connection, row, row.incarnation, unheard)
    table = schema.directive
    connection.execute(
        update(table)
        .where(
            table.c.box == row.box,
            table.c.incarnation == row.incarnation,
            table.c.seq >= from_seq,
            table.c.outcome == "",
        )
        .values(outcome=WITHDRAWN)
    )


def _unheard(
    connection: Connection, box: str, incarnation: int, *, from_seq: int
) -> Sequence[Row[int, bytes]]:
    table = schema.directive.c
    return connection.execute(
        select(table.seq, table.body)
        .where(
            table.box == box,
            table.incarnation == incarnation,
            table.seq >= from_seq,
            table.outcome == "",
        )
        .order_by(table.seq)
    ).all()


def _undo(connection: Connection, row: BoxRow, incarnation: int, unheard: Sequence[Row[int, bytes]]) -> None:
    if not unheard:
        return
    directives = [decode_directive(one.body) for one in unheard]
    epoch = epoch_of(connection, box=row.box, incarnation=incarnation) or row.epoch
    books = Books(connection, box=row.box, epoch=epoch, in_doubt=epoch != row.epoch)
    books.open(_accounts_of(row.box, directives))
    for said in directives:
        if isinstance(said, GrantDirective):
            books.give_back(said.account_id, said.amount_minor)
        elif isinstance(said, ConfirmDirective | DeclineDirective):
            wait_again(connection, box=row.box, epoch=said.epoch, seq=said.at_seq)
        if isinstance(said, ConfirmDirective):
            books.move_at_centre(
                debit=risk_account(row.box, said.currency),
                credit=said.payer_account_id,
                amount_minor=said.amount_minor,
            )
    note_centre(connection, books, box=row.box, epoch=epoch)
    books.write()
    asked = schema.grant_request.c
    connection.execute(
        delete(schema.grant_request).where(
            asked.box == row.box,
            asked.incarnation == incarnation,
            asked.directive_seq >= unheard[0].seq,
        )
    )


def announce_thaws(connection: Connection, log: DirectiveLog, *, box: str, incarnation: int) -> None:
    """Tell a box of accounts that its last log froze or closed and that are not any more."""
    table = schema.directive.c
    bodies = connection.execute(
        select(table.body)
        .where(table.box == box, table.incarnation == incarnation, table.type.in_(("freeze", "close")))
        .order_by(table.seq)
    ).scalars()
    frozen: dict[str, bool] = {}
    closed: dict[str, bool] = {}
    for body in bodies:
        said = decode_directive(body)
        if isinstance(said, FreezeDirective):
            frozen[said.account_id] = said.frozen
        elif isinstance(said, CloseDirective):
            closed[said.account_id] = said.closed
    now = schema.account.c
    for account_id in sorted(name for name in {**frozen, **closed} if frozen.get(name) or closed.get(name)):
        row = connection.execute(
            select(now.currency, now.frozen, now.closed).where(now.account_id == account_id)
        ).one_or_none()
        if row is None:
            continue
        if frozen.get(account_id) and not row.frozen:
            log.freeze(account_id=account_id, frozen=False, reason="not frozen at the centre")
        if closed.get(account_id) and not row.closed:
            log.close(
                account_id=account_id, currency=row.currency, closed=False, reason="not closed at the centre"
            )


# --- accounts -----------------------------------------------------------------------------------------------


def open_lost_accounts(connection: Connection, items: Iterable[Item], *, box: str) -> None:
    """Open what a lost bundle has opened at the box: its journal names the accounts, by a directive of the
    hub's own. Home and participant are the bundle's again when it is published again."""
    for item in items:
        said, record = item.directive, item.record
        if not isinstance(said, SiteDirective) or not isinstance(record, DirectiveApplied):
            continue
        if not bundle_is_lost(connection, said.digest):
            continue
        own = {name for account in record.accounts for name in box_accounts(box, account.currency)}
        wanted = [
            Opening(a.id, a.currency, a.home, a.participant, a.floor and a.id not in own)
            for a in record.accounts
            if not a.id.startswith("centre:")
        ]
        _open_unknown(connection, box, wanted)


def _open_named(connection: Connection, box: str, directives: Sequence[Directive]) -> None:
    """Open the accounts that directives grant or charge and that the hub has lost."""
    wanted = []
    for said in directives:
        if isinstance(said, GrantDirective):
            floor = said.account_id not in box_accounts(box, said.currency) and not is_cap(said.account_id)
            if is_cap(said.account_id):
                wanted.append(Opening(uncapped_account(said.currency), said.currency, "", "", False))
            wanted.append(Opening(said.account_id, said.currency, "", "", floor))
        elif isinstance(said, ConfirmDirective):
            wanted.append(Opening(said.payer_account_id, said.currency, "", "", True))
    _open_unknown(connection, box, wanted)


def _open_unknown(connection: Connection, box: str, wanted: Sequence[Opening]) -> None:
    currencies = {opening.currency for opening in wanted}
    bank = [
        Opening(name, code, "", "", False)
        for code in currencies
        for name in (core_account(code), capital_account(code))
    ]
    own = [Opening(name, code, box, "", False) for code in currencies for name in box_accounts(box, code)]
    by_id = {opening.account_id: opening for opening in (*wanted, *bank, *own)}
    known = known_accounts(connection, by_id)
    open_accounts(connection, [opening for name, opening in by_id.items() if name not in known])


def _accounts_of(box: str, directives: Iterable[Directive]) -> set[str]:
    names: set[str] = set()
    for said in directives:
        if isinstance(said, GrantDirective):
            names |= {said.account_id, capital_account(said.currency), uncapped_account(said.currency)}
        elif isinstance(said, ConfirmDirective | DeclineDirective):
            names.add(said.payer_account_id)
        if isinstance(said, GrantDirective | ConfirmDirective | DeclineDirective):
            names.add(risk_account(box, said.currency))
    return names
