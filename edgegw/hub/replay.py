"""What the records of a push mean for the hub: legs move the books, stand-ins are confirmed or declined,
directives are marked as applied, and what cannot be posted goes to suspense with an owner.

Applying is total: every record is kept and the log moves on, whatever it says. A record that the replica's
ledger refuses, names what the hub does not know or cannot be decoded becomes a `suspense_item`; a debit
beyond what was outstanding is borne by the box's risk account, written down as a `loss`, and the box is
quarantined (DESIGN §3.8, §3.10). Leaves out bytes and proofs (`core.exchange`), and heads and sessions
(`hub.receive`, `hub.beats`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from sqlalchemy import Connection, bindparam, insert, select, tuple_, update
from sqlalchemy.exc import SQLAlchemyError

from edgegw.core.accounts import (
    centre_account,
    receivable_account,
    risk_account,
    suspense_account,
)
from edgegw.core.book import is_between_participants
from edgegw.core.legs import PENDING, POST, VOID
from edgegw.core.model import AT_NS_MAX, CreateTransferStatus
from edgegw.core.records import (
    AMOUNT_MINOR_MAX,
    Acknowledgement,
    ClearedBy,
    ConfirmDirective,
    DeclineDirective,
    Directive,
    DirectiveApplied,
    Expiry,
    GrantDirective,
    Kind,
    Leg,
    RecallDirective,
    Record,
    Refusal,
    SiteDirective,
    Transfer,
    WindowClosed,
    decode_record,
    legs_of,
    place_of,
)
from edgegw.hub import kept, schema
from edgegw.hub.books import Books, box_accounts, is_for_box, padded
from edgegw.hub.items import First, Item, Poisoned
from edgegw.hub.recalls import mark_answered
from edgegw.hub.receivables import branch_bears, payee_owes
from edgegw.hub.receivables import keep as keep_receivables
from edgegw.hub.replica import Replica
from edgegw.hub.schema import BRANCH_SEQS, is_other_branch
from edgegw.hub.site import bundle_is_lost
from edgegw.hub.stand_ins import DUPLICATE_IDENTITY, StandIn, note_told, place_or_none
from edgegw.hub.suspense import Place, new_row, relieve
from edgegw.hub.windows import WINDOW_DIFFERS, Recount

BANK_OWNS: Final = "bank"
"""Who owns an item that neither branch nor merchant can settle."""

_HEX_ID: Final = re.compile(r"[0-9a-f]{32}")
_READ_COLUMNS: Final = ("type", "client", "request_id")
"""What is known of a record once it can be read."""
IDENTITY_CONFLICT: Final = "identity_conflict"
CLEARED_OTHERWISE: Final = "cleared_otherwise"
CANNOT_BE_POSTED: Final = "cannot_be_posted"
RETURN_NOT_COVERED: Final = "return_not_covered"
ADVICE_UNCOVERED: Final = "advice_uncovered"
APPLIED_OTHERWISE: Final = "directive_applied_otherwise"


class Histories(Protocol):
    """The histories of an epoch that the box has signed twice."""

    def translate(self, items: Sequence[Item]) -> None:
        """Give the records their places among all histories, and let what they resolve name the record that
        counts."""


def accounts_of(items: Iterable[Item]) -> set[str]:
    """Every account whose money these records may move at the hub; `centre:` accounts do not exist there."""
    names: set[str] = set()
    for item in items:
        if item.record is None:
            continue
        for leg in legs_of(item.record):
            names |= {leg.debit_account_id, leg.credit_account_id}
        if isinstance(item.record, Transfer):
            names.add(item.record.request.debit_account_id)
        if isinstance(item.directive, ConfirmDirective | DeclineDirective):
            names.add(item.directive.payer_account_id)
        elif isinstance(item.directive, GrantDirective):
            names.add(item.directive.account_id)
    return {name for name in names if name and not name.startswith("centre:")}


def stand_in_payers(items: Iterable[Item]) -> set[str]:
    """Who is to pay for what the branch stood in for in these records."""
    records = (item.record for item in items)
    return {
        record.request.debit_account_id
        for record in records
        if isinstance(record, Transfer) and record.cleared_by is ClearedBy.STAND_IN
    }


def freed_in(items: Iterable[Item]) -> set[str]:
    """Every account of which something that was held is free again, or was posted."""
    records = [item.record for item in items if item.record is not None]
    return {leg.debit_account_id for record in records for leg in legs_of(record) if leg.pending}


def payers_of(items: Iterable[Item]) -> set[str]:
    """Who paid or held money here."""
    records = (item.record for item in items)
    return {
        record.request.debit_account_id
        for record in records
        if isinstance(record, Transfer) and record.request.kind in (Kind.PAYMENT, Kind.HOLD) and record.legs
    }


def holds_of(items: Iterable[Item]) -> set[str]:
    """The ids (32 hex digits) of the holds that these records resolve."""
    records = [item.record for item in items if item.record is not None]
    return {leg.pending for record in records for leg in legs_of(record) if leg.pending}


def leg_fault(leg: Leg) -> str:
    """What makes a leg impossible before any ledger looks at it, or ""."""
    if not 1 <= leg.amount_minor <= AMOUNT_MINOR_MAX:
        return f"amount_minor {leg.amount_minor} is not within 1 to {AMOUNT_MINOR_MAX}"
    if leg.pending and not _HEX_ID.fullmatch(leg.pending):
        return f"pending {leg.pending!r} is not 32 lower-case hex digits"
    if leg.flags & ~(PENDING | POST | VOID):
        return f"flags {leg.flags} are unknown in a leg"
    if not 0 <= leg.timeout_s <= AMOUNT_MINOR_MAX:
        return f"timeout_s {leg.timeout_s} is out of range"
    return ""


def _at_stake(record: Record) -> int:
    """The amount of a record that cannot be posted, as far as any column keeps it."""
    amount_minor = (
        record.request.amount_minor if isinstance(record, Transfer) else legs_of(record)[0].amount_minor
    )
    return amount_minor if 0 < amount_minor <= AMOUNT_MINOR_MAX else 0


def _posted(legs: tuple[Leg, ...]) -> list[tuple[str, str, int]]:
    return [(leg.debit_account_id, leg.credit_account_id, leg.amount_minor) for leg in legs]


@dataclass(slots=True)
class Outcome:
    """What a replay found besides moving money."""

    quarantine: str = ""
    """Why the box must be quarantined; "" when it need not."""
    suspense: int = 0
    stand_ins: list[StandIn] = field(default_factory=list)


class Replay:
    """One push of one (box, epoch), inside the SQL transaction that keeps it."""

    def __init__(
        self,
        connection: Connection,
        books: Books,
        *,
        box: str,
        epoch: int,
        now_ns: int,
        histories: Histories | None = None,
    ) -> None:
        """histories: of an epoch of which the box has signed several; what is in two of them counts once."""
        self._now_ns = now_ns
        self._connection = connection
        self._books = books
        self._box = box
        self._epoch = epoch
        self._histories = histories
        self._replica = Replica(connection, box=box, epoch=epoch)
        self._windows = Recount(connection, box=box, epoch=epoch, branch=0, compares=histories is None)
        self._suspense: list[dict[str, str | int]] = []
        self._losses: list[dict[str, str | int]] = []
        self._directives: dict[tuple[int, int], tuple[bytes, str]] = {}
        self._marks: list[dict[str, str | int]] = []
        self._voided: list[int] = []
        self._receivables: list[dict[str, str | int]] = []
        self._relieved: list[tuple[Place, int, Place]] = []
        self._is_late = False
        self.outcome = Outcome()

    def run(self, items: Sequence[Item]) -> Outcome:
        """Keep the records and move the books as they say; the accounts of `accounts_of` must be open in
        them. Raises Poisoned."""
        self._find_first(items)
        self._keep(items)
        if self._histories is not None:
            self._histories.translate(items)
        self._load(items)
        faults: dict[int, str] = {}
        for item in items:
            try:
                self._apply(item)
            except SQLAlchemyError:
                raise
            except Exception as fault:  # noqa: BLE001 - whatever one record meets, the others go on
                faults[item.seq] = f"{type(fault).__name__}: {fault}"
        if faults:
            raise Poisoned(faults)
        for met in kept.meet(self._connection, items, box=self._box, epoch=self._epoch):
            self._suspend(met.seq, kept.REVERSED_ELSEWHERE, met.detail, owner=met.owner)
        self._write()
        return self.outcome

    def again(self, item: Item) -> str:
        """Book one kept record that went to suspense when it came; what stands against it still, or "".
        Where something does, the caller rolls back.

        What it moves between participants is settled with the open window if its own one is closed.
        """
        self._find_first([item])
        if self._histories is not None:
            self._histories.translate([item])
        self._load([item])
        self._is_late = getattr(item.record, "window", 0) != self._windows.number
        self._apply(item)
        if self._suspense:
            return f"{self._suspense[0]['reason']}: {self._suspense[0]['detail']}"
        if self.outcome.quarantine:
            return self.outcome.quarantine
        table = schema.record
        self._connection.execute(
            update(table)
            .where(table.c.box == self._box, table.c.epoch == self._epoch, table.c.seq == item.seq)
            .values({name: value for name, value in self._row(item).items() if name in _READ_COLUMNS})
        )
        self._write()
        return ""

    def _write(self) -> None:
        self._windows.write()
        self._replica.write()
        self._write_findings()

    # -- keeping -----------------------------------------------------------------------------------------

    def _find_first(self, items: Sequence[Item]) -> None:
        """Which identities are taken already: in the table, or earlier in this push."""
        wanted: dict[tuple[str, str], list[Item]] = {}
        for item in items:
            if isinstance(item.record, Transfer | Refusal):
                wanted.setdefault((item.record.client, item.record.request.id), []).append(item)
        if not wanted:
            return
        places = {(self._box, self._epoch, item.seq) for item in items}
        table = schema.record.c
        rows = self._connection.execute(
            select(table.client, table.request_id, table.box, table.epoch, table.seq, table.body).where(
                table.request_id.in_(padded(sorted({request_id for _, request_id in wanted})))
            )
        )
        taken = {
            (row.client, row.request_id): First(decode_record(row.body), row.box, row.epoch, row.seq)
            for row in rows
            if (row.box, row.epoch, row.seq) not in places
        }
        for identity, same in wanted.items():
            for item in same:
                item.first = taken.get(identity)
                item.has_identity = item.first is None
                if item.record is not None and item.has_identity:
                    taken[identity] = First(item.record, self._box, self._epoch, item.seq)

    def _keep(self, items: Sequence[Item]) -> None:
        self._connection.execute(insert(schema.record), [self._row(item) for item in items])

    def _row(self, item: Item) -> dict[str, str | int | bytes | None]:
        record = item.record
        decided = record if isinstance(record, Transfer | Refusal) and item.has_identity else None
        return {
            "box": self._box,
            "epoch": self._epoch,
            "seq": item.seq,
            "type": "unknown" if record is None else str(type(record).__struct_config__.tag),
            "client": None if decided is None else decided.client,
            "request_id": None if decided is None else decided.request.id,
            "leaf": item.leaf,
            "body": item.body,
        }

    def _load(self, items: Sequence[Item]) -> None:
        currencies = {page.account_id: page.currency for page in self._books.pages()}
        for code in set(currencies.values()):
            currencies[centre_account(code)] = code
        self._replica.load(currencies, holds_of(items))
        self._windows = Recount(
            self._connection,
            box=self._box,
            epoch=self._epoch,
            branch=items[0].seq // BRANCH_SEQS,
            compares=self._histories is None,
        )
        self._windows.load([item.record for item in items if item.record is not None], currencies)
        said = [item.directive for item in items if item.directive is not None]
        places = [(d.incarnation, d.seq) for d in said if 0 <= d.incarnation < 2**31 and 0 <= d.seq < 2**63]
        if places:
            table = schema.directive.c
            rows = self._connection.execute(
                select(table.incarnation, table.seq, table.body, table.outcome).where(
                    table.box == self._box, tuple_(table.incarnation, table.seq).in_(places)
                )
            )
            self._directives = {(row.incarnation, row.seq): (row.body, row.outcome) for row in rows}

    # -- one record --------------------------------------------------------------------------------------

    def _apply(self, item: Item) -> None:
        if item.record is None:
            self._suspend(item.seq, item.reason, item.problem)
            return
        if isinstance(item.directive, SiteDirective) and isinstance(item.record, DirectiveApplied):
            is_lost = bundle_is_lost(self._connection, item.directive.digest)
            self._windows.use_site(item.record, item.directive, is_lost=is_lost)
        if self._histories is not None and self._is_counted(item, item.record):
            return
        legs = legs_of(item.record)
        if legs:
            fault = self._book(item.record, legs)
            if fault:
                self._suspend(
                    item.seq,
                    CANNOT_BE_POSTED,
                    fault,
                    currency=self._currency_of(legs),
                    amount_minor=_at_stake(item.record),
                )
                self._quarantine(f"record {self._epoch}/{item.seq} cannot be posted: {fault}")
                return
            self._move(item.record, legs)
            if isinstance(item.record, Transfer | Expiry | DirectiveApplied):
                self._count(item.record, legs)
        if isinstance(item.record, WindowClosed):
            self._window_differs(item.seq, self._windows.close(item.record))
        if isinstance(item.record, Transfer):
            self._transfer(item, item.record)
        elif isinstance(item.record, DirectiveApplied) and item.directive is not None:
            self._directive(item.record, item.directive)
        elif isinstance(item.record, Acknowledgement):
            note_told(self._connection, item.record, box=self._box, epoch=self._epoch, now_ns=self._now_ns)

    def _count(self, record: Transfer | Expiry | DirectiveApplied, legs: tuple[Leg, ...]) -> None:
        """Count the legs in the record's window; where that is closed at the hub, settle them with the open
        one."""
        if not self._is_late:
            self._window_differs(record.seq, self._windows.count(record, legs))
            return
        for leg in legs:
            if is_between_participants(leg):
                self._books.count_at_centre(
                    debit=leg.debit_account_id, credit=leg.credit_account_id, amount_minor=leg.amount_minor
                )

    def _window_differs(self, seq: int, difference: str) -> None:
        """A box whose own word about a window is not what its records give is looked at by a person."""
        if difference:
            self._suspend(seq, WINDOW_DIFFERS, difference)
            self._quarantine(f"record {self._epoch}/{seq}: {difference}")

    def _is_counted(self, item: Item, record: Record) -> bool:
        """Whether another history of this epoch has done the same already: it counts once, and where it was
        done otherwise a person looks."""
        first = item.first
        if isinstance(record, Transfer) and first is not None and isinstance(first.record, Transfer):
            elsewhere = (first.box, first.epoch) == (self._box, self._epoch) and is_other_branch(
                first.seq, item.seq
            )
            if elsewhere and first.record.request.different_field(record.request) is None:
                if _posted(first.record.legs) != _posted(record.legs):
                    self._suspend(item.seq, CLEARED_OTHERWISE, f"as {self._name(first.seq)}")
                return True
        if isinstance(record, DirectiveApplied) and item.directive is not None:
            said = item.directive
            body, outcome = self._directives.get((said.incarnation, said.seq), (b"", ""))
            if outcome and body == bytes(record.directive):
                if outcome != record.outcome:
                    detail = f"directive {said.incarnation}/{said.seq} was {outcome}, here {record.outcome}"
                    self._suspend(item.seq, APPLIED_OTHERWISE, detail)
                return True
        if isinstance(record, Expiry):
            return not all(self._replica.is_live(leg.pending) for leg in record.legs)
        return False

    def _name(self, seq: int) -> str:
        number, own = divmod(seq, BRANCH_SEQS)
        return f"branch {number}, record {self._epoch}/{own}" if number else f"record {self._epoch}/{own}"

    def _book(self, record: Record, legs: tuple[Leg, ...]) -> str:
        """Book the legs in the replica of the box's own ledger; what is wrong with them, or ""."""
        if not 0 <= record.at_ns < AT_NS_MAX - len(legs):
            return f"at_ns {record.at_ns} is no time"
        for leg in legs:
            fault = leg_fault(leg)
            if fault:
                return fault
            for account_id in (leg.debit_account_id, leg.credit_account_id):
                if not is_for_box(account_id, self._box):
                    return f"account_id {account_id} is no box's to move, or another one's"
                if not self._replica.knows(account_id):
                    return f"account_id {account_id} is unknown at the hub"
                if not self._books.has_room(account_id, sum(other.amount_minor for other in legs)):
                    return f"account_id {account_id} would leave the range of the hub's books"
        if isinstance(record, Expiry):
            status = self._replica.expire(legs)
        else:
            status = self._replica.post(legs, seq=record.seq, at_ns=record.at_ns)
        return "" if status is CreateTransferStatus.created else f"the ledger says {status.name}"

    def _move(self, record: Record, legs: tuple[Leg, ...]) -> None:
        """Move the books by the legs that post; a pending or voided leg reserves at the box and moves nothing
        here."""
        for index, leg in enumerate(legs):
            if not leg.flags & (PENDING | VOID) and not isinstance(record, Expiry):
                self._move_leg(record.seq, index, leg)
            self._check_floor(leg.debit_account_id)

    def _move_leg(self, seq: int, index: int, leg: Leg) -> None:
        if leg.debit_account_id.startswith("centre:"):
            return  # outstanding rose when the grant was issued
        if leg.credit_account_id.startswith("centre:"):
            excess = self._books.give_back(leg.debit_account_id, leg.amount_minor)
            if excess:
                detail = f"{leg.debit_account_id} returned {excess} more than was outstanding"
                page = self._books.page(leg.debit_account_id)
                self._suspend(
                    seq,
                    RETURN_NOT_COVERED,
                    detail,
                    currency="" if page is None else page.currency,
                    amount_minor=excess,
                )
                self._quarantine(f"record {self._epoch}/{seq}: {detail}")
            return
        overdrawn = self._books.move_at_box(
            debit=leg.debit_account_id, credit=leg.credit_account_id, amount_minor=leg.amount_minor
        )
        if overdrawn:
            self._losses.append(
                {
                    "box": self._box,
                    "epoch": self._epoch,
                    "log": f"branch {seq // BRANCH_SEQS}" if seq >= BRANCH_SEQS else "journal",
                    "seq": seq % BRANCH_SEQS,
                    "leg": index,
                    "account_id": leg.debit_account_id,
                    "amount_minor": overdrawn,
                }
            )
            self._quarantine(
                f"record {self._epoch}/{seq}: {leg.debit_account_id} spent {overdrawn} more "
                "than was outstanding"
            )

    def _check_floor(self, account_id: str) -> None:
        """A box may hold or stand in for no more than its own journal says it has."""
        page = self._books.page(account_id)
        if page is None or not (page.floor or account_id == risk_account(self._box, page.currency)):
            return
        if self._histories is None and self._replica.available(account_id) < 0:
            self._quarantine(f"{account_id} is below zero in the box's own journal")

    def _transfer(self, item: Item, record: Transfer) -> None:
        request, legs = record.request, record.legs
        waits = record.cleared_by is ClearedBy.STAND_IN and bool(legs) and bool(legs[0].flags & PENDING)
        if waits:
            self.outcome.stand_ins.append(
                StandIn(
                    seq=record.seq,
                    payer=request.debit_account_id,
                    payee=legs[0].credit_account_id,
                    currency=request.currency,
                    amount_minor=legs[0].amount_minor,
                    client=record.client,
                )
            )
        for leg in legs:
            if leg.flags & VOID:
                self._note_void(leg)
            page = self._books.page(leg.debit_account_id)
            if page is not None and leg.debit_account_id == suspense_account(self._box, page.currency):
                self._suspend(
                    record.seq,
                    ADVICE_UNCOVERED,
                    f"{leg.amount_minor} to {leg.credit_account_id}",
                    owner=f"branch:{self._box}",
                    currency=page.currency,
                    amount_minor=leg.amount_minor,
                )
        self._note_owed(record)
        if item.first is not None and legs:
            self._duplicate(item.first, record, waits=waits)

    def _currency_of(self, legs: tuple[Leg, ...]) -> str:
        """Of the first account of the legs that the hub knows."""
        names = [name for leg in legs for name in (leg.debit_account_id, leg.credit_account_id)]
        pages = [page for name in names if (page := self._books.page(name)) is not None]
        return pages[0].currency if pages else ""

    def _note_owed(self, record: Transfer) -> None:
        """What an uncovered reversal has booked as owed, and what a reversal gives back of an advice that
        was uncovered."""
        owed = payee_owes(record, box=self._box, epoch=self._epoch)
        if owed is not None:
            self._receivables.append(owed)
        given_back = sum(
            leg.amount_minor
            for leg in record.legs
            if leg.credit_account_id.startswith(f"suspense:{self._box}:") and not leg.flags & (PENDING | VOID)
        )
        if owed is not None and len(record.legs) == 1:
            given_back = int(owed["amount_minor"])
        place = place_or_none(record.original)
        if given_back and place is not None:
            original = Place(self._box, *place)
            self._relieved.append((original, given_back, Place(self._box, self._epoch, record.seq)))

    def _note_void(self, leg: Leg) -> None:
        epoch, seq, _ = place_of(int(leg.pending, 16))
        if epoch == self._epoch:
            self._voided.append(seq)
        for waiting in self.outcome.stand_ins:
            if (epoch, waiting.seq) == (self._epoch, seq):
                waiting.voided = True

    def _duplicate(self, taken: First, record: Transfer, *, waits: bool) -> None:
        """One identity cleared twice in the fleet: the second one is taken back where it is the same, else it
        waits."""
        first, place = taken.record, f"{taken.box} {taken.epoch}/{taken.record.seq}"
        same = isinstance(first, Transfer) and first.request.different_field(record.request) is None
        if not same:
            self._suspend(record.seq, IDENTITY_CONFLICT, f"decided with other content at {place}")
            return
        for waiting in self.outcome.stand_ins:
            waiting.duplicate = waiting.duplicate or waiting.seq == record.seq
        leg = record.legs[0]
        payer = self._books.page(leg.debit_account_id)
        is_given_back = (
            record.request.kind is Kind.PAYMENT and not waits and payer is not None and payer.floor
        )
        self._suspend(
            record.seq,
            DUPLICATE_IDENTITY,
            f"cleared before at {place}",
            owner=f"merchant:{leg.credit_account_id}",
            currency=self._currency_of(record.legs),
            amount_minor=leg.amount_minor if is_given_back else 0,
        )
        if is_given_back and payer is not None:
            # The payer is whole at once; whoever owns the item collects from the payee.
            self._books.move_at_centre(
                debit=suspense_account(self._box, payer.currency),
                credit=payer.account_id,
                amount_minor=leg.amount_minor,
            )

    # -- directives --------------------------------------------------------------------------------------

    def _directive(self, record: DirectiveApplied, said: Directive) -> None:
        place = (said.incarnation, said.seq)
        body, outcome = self._directives.get(place, (b"", ""))
        if body != bytes(record.directive) or outcome:
            fault = "directive_not_ours" if body != bytes(record.directive) else "directive_applied_twice"
            self._suspend(record.seq, fault, f"directive {said.incarnation}/{said.seq}")
            self._quarantine(f"record {self._epoch}/{record.seq}: {fault}")
            return
        self._directives[place] = (body, record.outcome)
        self._marks.append({"mark_incarnation": place[0], "mark_seq": place[1], "mark": record.outcome})
        refused = record.outcome == "refused"
        if isinstance(said, GrantDirective) and refused:
            self._books.give_back(said.account_id, said.amount_minor)
        elif isinstance(said, RecallDirective):
            mark_answered(self._connection, box=self._box, incarnation=said.incarnation, seq=said.seq)
        elif isinstance(said, ConfirmDirective):
            if refused:
                self._books.move_at_centre(
                    debit=risk_account(self._box, said.currency),
                    credit=said.payer_account_id,
                    amount_minor=said.amount_minor,
                )
            self._settle(said, record.seq, voided=refused)
        elif isinstance(said, DeclineDirective):
            if said.liable == "branch" and not refused:
                self._receivables.append(branch_bears(said, box=self._box))
                self._books.move_at_centre(
                    debit=receivable_account(self._box, said.currency),
                    credit=risk_account(self._box, said.currency),
                    amount_minor=said.amount_minor,
                )
            self._settle(said, record.seq, voided=refused)

    def _settle(self, said: ConfirmDirective | DeclineDirective, word_seq: int, *, voided: bool) -> None:
        table = schema.stand_in
        state = {"state": "voided"} if voided else {}
        self._connection.execute(
            update(table)
            .where(table.c.box == self._box, table.c.epoch == said.epoch, table.c.seq == said.at_seq)
            .values(settled=True, word_epoch=self._epoch, word_seq=word_seq, **state)
        )

    # -- findings ----------------------------------------------------------------------------------------

    def _suspend(
        self,
        seq: int,
        reason: str,
        detail: str,
        *,
        owner: str = BANK_OWNS,
        currency: str = "",
        amount_minor: int = 0,
    ) -> None:
        if any(item["seq"] == seq for item in self._suspense):
            return  # one owner for one record is enough; the first reason is the deepest
        self._suspense.append(
            new_row(
                Place(self._box, self._epoch, seq),
                owner=owner,
                reason=reason,
                detail=f"{self._name(seq)}: {detail}" if seq >= BRANCH_SEQS else detail,
                currency=currency,
                amount_minor=amount_minor,
                now_ns=self._now_ns,
            )
        )
        self.outcome.suspense += 1

    def _quarantine(self, reason: str) -> None:
        self.outcome.quarantine = self.outcome.quarantine or reason

    def _write_findings(self) -> None:
        if self._suspense:
            self._connection.execute(insert(schema.suspense_item), self._suspense)
        for place, amount_minor, by in self._relieved:
            relieve(self._connection, place, amount_minor=amount_minor, by=by, now_ns=self._now_ns)
        keep_receivables(self._connection, self._receivables, box=self._box, now_ns=self._now_ns)
        if self._losses:
            self._connection.execute(insert(schema.loss), self._losses)
        if self._voided:
            waiting = schema.stand_in.c
            self._connection.execute(
                update(schema.stand_in)
                .where(
                    waiting.box == self._box,
                    waiting.epoch == self._epoch,
                    waiting.seq.in_(self._voided),
                    waiting.state == "waiting",
                )
                .values(state="voided", settled=True)
            )
        if self._marks:
            table = schema.directive
            self._connection.execute(
                update(table)
                .where(
                    table.c.box == self._box,
                    table.c.incarnation == bindparam("mark_incarnation"),
                    table.c.seq == bindparam("mark_seq"),
                )
                .values(outcome=bindparam("mark")),
                self._marks,
            )


def own_accounts_of(box: str, currencies: Iterable[str]) -> set[str]:
    """The box's accounts in the hub's books that a replay may need besides those that the records name."""
    return {name for currency in currencies for name in box_accounts(box, currency)}
