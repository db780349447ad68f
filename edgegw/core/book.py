"""A box's whole state in memory: the ledger, and what the records say beyond it (windows, stand-ins, limits,
the line).

`Book.replay` is the one way in which a record changes the state; the writer decides on a layer
(`Book.overlay`) with `core.decide` and merges it after its COMMIT, a start replays the tail behind a
snapshot, the full check and the hub replay everything. Leaves out: deciding (`core.decide`), bytes and
chain (`core.records`, `core.journal`), disk (`edgegw.ledger`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol, TypeVar

import msgspec

from edgegw.core import ledger, merchants
from edgegw.core.accounts import (
    BANK,
    CENTRE_PREFIX,
    Known,
    KnownAccounts,
    account_key,
    is_own,
    ledger_number,
)
from edgegw.core.allowance import lease_ns
from edgegw.core.calendar import first_window
from edgegw.core.cards import ONE_NAME, CardNames
from edgegw.core.counts import Policy, StandIn, policy_of, subject, undone_of
from edgegw.core.legs import LEG_CODE, PENDING, POST, VOID, book_leg, resolution, transfer_of
from edgegw.core.lists import HeldList
from edgegw.core.model import (
    Account as LedgerAccount,
)
from edgegw.core.model import (
    AccountFlags,
    Balance,
    CreateTransferStatus,
    PendingStatus,
)
from edgegw.core.model import (
    Transfer as LedgerTransfer,
)
from edgegw.core.overlay import Overlay
from edgegw.core.pruned import Pruned
from edgegw.core.reasons import Reason
from edgegw.core.records import (
    AMOUNT_MINOR_MAX,
    Account,
    BlockDirective,
    Boot,
    ClearedBy,
    ClockStep,
    CloseDirective,
    ConfirmDirective,
    DeclineDirective,
    DirectiveApplied,
    Durability,
    DurabilityChanged,
    Expiry,
    FreezeDirective,
    GrantDirective,
    Kind,
    Leg,
    LimitDirective,
    Link,
    Mode,
    ModeChanged,
    Position,
    Record,
    Refusal,
    RefuseDirective,
    SiteDirective,
    SiteReturned,
    Transfer,
    WindowClosed,
    decode_directive,
    legs_of,
    parse_place,
    place_of,
    place_text,
    transfer_id,
)
from edgegw.core.settlement import Side, cap_shares
from edgegw.core.site import CurrencyRule, Site, StandInRule
from edgegw.core.site_change import tighter
from edgegw.core.standing import Standing, applied, line_was_up, returned
from edgegw.core.tally import Tally

K = TypeVar("K")
V = TypeVar("V")
Table = dict[K, V] | Overlay[K, V]

_ACTIVE: Final = Mode.ACTIVE  # reaching a member through its class is a call of a function
_CREATED: Final = CreateTransferStatus.created
_HOLD: Final = Kind.HOLD
_PAYMENT: Final = Kind.PAYMENT
_STAND_IN: Final = ClearedBy.STAND_IN
RECORD_STEP_NS: Final = 1 << 16
"""The box's own time moves at least this far between records, so that every leg has a time of its own."""

CLOCK_TOLERANCE_NS: Final = 1_000_000_000
"""A wall clock that is further back than this after a start is not trusted."""


class History(Protocol):
    """What the book asks of the records that it does not keep in memory."""

    def by_identity(self, client: str, id: str) -> Record | Pruned | None:
        """The record of this identity, what stays of it where it was pruned, or None."""

    def at(self, epoch: int, seq: int) -> Record | None:
        """The record at this place, or None."""

    def about(self, place: str) -> list[Record]:
        """The records that name this place as their original, in order."""


class ReplayError(Exception):
    """A record that the state before it does not allow: the journal or the program is broken."""


class Book:
    """The state of one box; a layer over another book when `base` is given."""

    _TABLES: Final = ("accounts", "barred", "batches", "closed", "frozen", "kept", "positions", "stand_ins")
    _SCALARS: Final = (
        "at_ns",
        "business_date",
        "clock_suspect",
        "cut_off_ns",
        "durability",
        "epoch",
        "mode",
        "mode_reason",
        "offline_since_ns",
        "seq",
        "site_digest",
        "site_version",
        "wall_ns",
        "standing",
        "window",
        "window_transfers",
    )
    _SETTINGS: Final = (
        "site",
        "currencies",
        "policy",
        "stand_in_rules",
        "leases_ns",
        "caps",
        "own_site",
        "blocked",
        "held_lists",
        "kept_before",
    )

    at_ns: int
    """The box's own time at the last record."""
    business_date: str
    """Of the window that was closed last by the site's calendar, "" before the first."""
    clock_suspect: bool
    """The wall clock was back after a start, so that nobody knows how long the box was off; until the line is
    up."""
    cut_off_ns: int
    """The calendar's cut-offs up to this moment are done; 0 while the site has none."""
    durability: Durability
    epoch: int
    seq: int
    """Of the last record; nothing at a later place is known to this book, whatever is on disk already."""
    mode: Mode
    mode_reason: str
    offline_since_ns: int
    """The box's own time when the centre was heard last, 0 while the line is up; a start is no contact."""
    site_digest: str
    site_version: int
    wall_ns: int
    """The wall clock at the last record."""
    standing: Standing
    window: int
    window_transfers: int
    site: Site | None
    """In force, with what else binds."""
    own_site: Site | None
    """The same as published."""
    currencies: dict[str, CurrencyRule]
    policy: Policy
    stand_in_rules: dict[str, StandInRule]
    leases_ns: dict[str, int]
    """By currency, how long after the centre's last word allowances may be spent; 0 is for ever."""
    caps: dict[Side, int]
    """What this box may keep of each net debit cap."""
    blocked: frozenset[str]
    held_lists: dict[str, HeldList]
    """By digest; whoever puts settings into force has put their lists here before."""
    kept_before: Mapping[tuple[str, str], str]
    """As `kept`, from earlier epochs: whoever loads the book knows them; no record of this one made them."""

    def __init__(
        self, *, bank: str, box: str, history: History | None = None, base: Book | None = None
    ) -> None:
        self.bank = bank
        self.box = box
        self.cards: CardNames = ONE_NAME if base is None else base.cards
        """Set by whoever has a vault."""
        self._base = base
        self._history = history
        self.fresh: dict[tuple[str, str], Record] = {}
        self.fresh_places: dict[tuple[int, int], Record] = {}
        self.fresh_about: dict[str, list[Record]] = {}
        if base is None:
            found = self._resolved if history is not None else None
            # The core counts further than disk and hub can.
            self.ledger = ledger.State(history=found, most_minor=AMOUNT_MINOR_MAX)
            self._start()
        else:
            self.ledger = base.ledger.overlay()
            self.ledger.history = self._resolved if history is not None else None
            for name in (*self._SCALARS, *self._SETTINGS):
                setattr(self, name, getattr(base, name))
        self.accounts: Table[str, Account] = {} if base is None else Overlay(base.accounts)
        self.batches: merchants.Batches = {} if base is None else Overlay(base.batches)
        self.barred: Table[str, str] = {} if base is None else Overlay(base.barred)
        self.closed: Table[str, str] = {} if base is None else Overlay(base.closed)
        """Accounts that take and pay nothing new, and why."""
        self.frozen: Table[str, str] = {} if base is None else Overlay(base.frozen)
        self.kept: Table[tuple[str, str], str] = {} if base is None else Overlay(base.kept)
        self.positions: Table[tuple[str, str], int] = {} if base is None else Overlay(base.positions)
        self.stand_ins: Table[int, StandIn] = {} if base is None else Overlay(base.stand_ins)
        self.tally: Tally = Tally(box) if base is None else base.tally.overlay()
        self.known: KnownAccounts = KnownAccounts(self._look) if base is None else base.known
        """Shared with the book below until a directive makes a difference."""

    def _start(self) -> None:
        self.at_ns = 0
        self.business_date = ""
        self.clock_suspect = False
        self.cut_off_ns = 0
        self.durability = Durability.LOCAL
        self.epoch = 0
        self.seq = -1
        self.mode = Mode.OFFLINE
        self.mode_reason = "never connected"
        self.offline_since_ns = 0
        self.site_digest = ""
        self.site_version = 0
        self.wall_ns = 0
        self.standing = Standing()
        self.window = 1
        self.window_transfers = 0
        self.site = self.own_site = None
        self.currencies = {}
        self.policy = Policy()
        self.stand_in_rules = {}
        self.leases_ns = {}
        self.caps = {}
        self.blocked = frozenset()
        self.held_lists = {}
        self.kept_before = {}

    # -- layers --------------------

    def overlay(self) -> Book:
        """A layer that sees everything here and changes nothing here before `merge()`."""
        return Book(bank=self.bank, box=self.box, history=self._history, base=self)

    def merge(self) -> None:
        """Write this layer into the book below."""
        base = self._base
        if base is None:
            raise ValueError(
                "a base book has nothing to merge into; call overlay() and merge what it returns"
            )
        self.ledger.merge()
        for name in self._TABLES:
            getattr(self, name).merge()
        self.tally.merge(at_ns=self.at_ns)
        if self.known is not base.known:
            base.forget_known()
        for name in (*self._SCALARS, *self._SETTINGS):
            setattr(base, name, getattr(self, name))
        if base._base is not None or self._history is None:
            base.fresh.update(self.fresh)
            base.fresh_places.update(self.fresh_places)
            for place, records in self.fresh_about.items():
                base.fresh_about.setdefault(place, []).extend(records)
        self.forget_fresh()

    def forget_fresh(self) -> None:
        """Drop the records kept since the last merge: they are on disk, where history finds them again."""
        self.fresh.clear()
        self.fresh_places.clear()
        self.fresh_about.clear()

    def use_site(self, site: Site, *, held_to: Site | None = None) -> None:
        """Decide by these settings from now on, and by the limits of held_to as well; the accounts they name
        are opened by the site directive's record."""
        self.own_site = site
        self.site = site = site if held_to is None else tighter(site, held_to)
        self.currencies = {rule.code: rule for rule in site.currencies}
        self.policy = policy_of(site, self.held_lists)
        self.stand_in_rules = {rule.currency: rule for rule in site.stand_in}
        self.leases_ns = {rule.currency: lease_ns(rule) for rule in reversed(site.allowances)}
        self.caps = cap_shares(site)
        self.blocked = frozenset(site.blocked)

    # -- reading --------------------

    def balance(self, account_id: str) -> Balance | None:
        """The four counters of an account here, or None when it is unknown."""
        return self.ledger.balances.get(account_key(account_id))

    def available(self, account_id: str) -> int:
        """What an account may spend here, minor units: its allowance less what is held."""
        balance = self.ledger.balances.get(account_key(account_id))
        return (
            0 if balance is None else balance.credits_posted - balance.debits_posted - balance.debits_pending
        )

    def _look(self, account_id: str) -> Known | None:
        account = self.accounts.get(account_id)
        if account is None:
            return None
        key = account_key(account_id)
        in_ledger = self.ledger.accounts.get(key)
        return Known(
            account,
            key,
            0 if in_ledger is None else in_ledger.ledger,
            (account.participant or BANK, account.currency),
            is_own(account),
            self.homed_here(account),
            self.closed.get(account_id),
            self.frozen.get(account_id),
        )

    def forget_known(self) -> None:
        """Something of an account is not as it was."""
        self.known = KnownAccounts(self._look)

    def homed_here(self, account: Account) -> bool:
        """Whether money credited to this account stays here."""
        return account.home == self.box and account.id not in self.closed

    def reversed_by(self, client: str, id: str) -> str | None:
        """The place of the reversal that came before its original of this identity and waits for it."""
        identity = client, id
        return self.kept.get(identity) or self.kept_before.get(identity)

    def by_identity(self, client: str, id: str) -> Record | Pruned | None:
        """The record of an identity (what stays of it, once pruned), from this layer, those below, or
        history."""
        book: Book | None = self
        while book is not None:
            record = book.fresh.get((client, id))
            if record is not None:
                return record
            book = book._base
        return None if self._history is None else self._history.by_identity(client, id)

    def at(self, place: str) -> Record | None:
        """The record at an `epoch/seq`, or None."""
        epoch, seq = parse_place(place)
        book: Book | None = self
        while book is not None:
            record = book.fresh_places.get((epoch, seq))
            if record is not None:
                return record
            book = book._base
        return None if self._history is None else self._history.at(epoch, seq)

    def about(self, place: str) -> list[Record]:
        """The records that name this place as their original, oldest first."""
        found: list[Record] = []
        if self._history is not None:
            here = self.epoch, self.seq
            found += (record for record in self._history.about(place) if (record.epoch, record.seq) <= here)
        layers = []
        book: Book | None = self
        while book is not None:
            layers.append(book.fresh_about.get(place, []))
            book = book._base
        for fresh in reversed(layers):
            found.extend(fresh)
        return found

    def _resolved(self, ledger_id: int) -> tuple[LedgerTransfer, PendingStatus] | None:
        """A transfer that is not in memory, and what became of it, from its record and the records about
        it."""
        epoch, seq, leg = place_of(ledger_id)
        if (epoch, seq) > (self.epoch, self.seq):
            return None
        place = place_text(epoch=epoch, seq=seq)
        record = self.at(place)
        if record is None or leg >= len(legs_of(record)):
            return None
        transfer = self._ledger_transfer(record, leg)
        if not transfer.flags & PENDING:
            return transfer, PendingStatus.none
        for later in self.about(place):
            status = resolution(later, ledger_id)
            if status is not None:
                return transfer, status
        return transfer, PendingStatus.pending

    def _ledger_transfer(self, record: Record, index: int) -> LedgerTransfer:
        place = transfer_id(epoch=record.epoch, seq=record.seq, leg=index)
        transfer = transfer_of(legs_of(record)[index], self.known, place)
        return msgspec.structs.replace(transfer, at_ns=record.at_ns + index)

    # -- changing --------------------

    def post(self, legs: tuple[Leg, ...], *, epoch: int, seq: int, at_ns: int) -> CreateTransferStatus:
        """Book the legs of one record, all or none; the first status that is not `created`, else
        `created`."""
        # A book without a history keeps every transfer in the ledger's own memory.
        is_new = self._history is not None and (epoch, seq) > (self.epoch, self.seq)
        if len(legs) == 1:
            place = transfer_id(epoch=epoch, seq=seq, leg=0)
            return book_leg(self.ledger, legs[0], self.known, place, at_ns=at_ns, is_new=is_new)
        layer = self.ledger.overlay()
        for index, leg in enumerate(legs):
            place = transfer_id(epoch=epoch, seq=seq, leg=index)
            status = book_leg(layer, leg, self.known, place, at_ns=at_ns + index, is_new=is_new)
            if status is not _CREATED:
                return status
        layer.merge()
        return _CREATED

    def replay(self, record: Record) -> None:
        """Change the state as this record says; raises ReplayError when the state before it does not allow
        it."""
        if record.at_ns < self.at_ns + RECORD_STEP_NS and record.seq:
            raise ReplayError(f"record {record.epoch}/{record.seq} is not later than the one before it")
        if isinstance(record, Expiry):
            self._expire(record)
        elif isinstance(record, DirectiveApplied):
            self.open_accounts(record.accounts)
        legs = legs_of(record)
        if legs and not isinstance(record, Expiry):
            status = self.post(legs, epoch=record.epoch, seq=record.seq, at_ns=record.at_ns)
            if status is not _CREATED:
                raise ReplayError(
                    f"record {record.epoch}/{record.seq}: the ledger says {status.name} to its legs"
                )
        self.note(record)

    def _expire(self, record: Expiry) -> None:
        for leg in record.legs:
            if not ledger.expire_transfer(self.ledger, int(leg.pending, 16)):
                raise ReplayError(f"record {record.epoch}/{record.seq}: the hold {leg.pending} is not live")

    def open_accounts(self, accounts: tuple[Account, ...]) -> None:
        """Open accounts in the ledger, or change the home and participant of known ones."""
        for account in accounts:
            self.accounts[account.id] = account
            key = account_key(account.id)
            if self.ledger.accounts.get(key) is None:
                flags = int(AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS) if account.floor else 0
                self.ledger.accounts[key] = LedgerAccount(
                    id=key, ledger=ledger_number(account.currency), code=LEG_CODE, flags=flags
                )
                self.ledger.balances[key] = Balance()
        if accounts:
            self.forget_known()

    def note(self, record: Record) -> None:
        """Everything that a record changes besides the ledger's balances; its legs are booked already."""
        last = self.at_ns, self.wall_ns
        self.at_ns, self.wall_ns = record.at_ns, record.wall_ns
        self.epoch, self.seq = record.epoch, record.seq
        legs = legs_of(record)
        self.window_transfers += len(legs)
        self._note_positions(legs)
        if isinstance(record, Transfer):  # first: nearly all records are
            self._note_transfer(record)
        elif isinstance(record, DirectiveApplied):
            self._note_directive(record)
            self._remember_about(record, legs)
        elif isinstance(record, Expiry):
            for leg in legs:
                self._give_back_held(leg, leg.amount_minor, count=1)
            self._remember_about(record, legs)
        elif isinstance(record, ModeChanged):
            self._note_mode(record)
        elif isinstance(record, ClockStep):
            if self.offline_since_ns:
                self.offline_since_ns = max(1, self.offline_since_ns - record.doubted_ns)
        elif isinstance(record, DurabilityChanged):
            self.durability = record.durability
        elif isinstance(record, SiteReturned):
            self.site_digest = record.digest
            self.standing = returned(left=record.left_digest, at_ns=record.at_ns)
            self.tally.measure(record.counted)
        elif isinstance(record, WindowClosed):
            self._note_close(record)
        elif isinstance(record, Boot | Link):
            self._note_start(record, *last)
        elif isinstance(record, Refusal):
            self.fresh[record.client, record.request.id] = record
            if record.code == Reason.ALREADY_REVERSED:
                _drop(self.kept, (record.client, record.request.id))

    def _note_start(self, record: Boot | Link, last_at_ns: int, last_wall_ns: int) -> None:
        """Time without the centre goes on while a box is off, and from its first record on."""
        if isinstance(record, Link):
            self.window = first_window(record.epoch)
            self.tally.begin(self.window)
            self.offline_since_ns = self.tally.outage_ns = record.at_ns
            return
        self.offline_since_ns = self.offline_since_ns or last_at_ns
        self.tally.outage_ns = self.tally.outage_ns or record.at_ns
        if record.wall_ns + CLOCK_TOLERANCE_NS < last_wall_ns:
            self.clock_suspect = True

    def _note_close(self, record: WindowClosed) -> None:
        self.window = record.window + 1
        self.window_transfers = 0
        self.tally.close(record)
        if record.cut_off_ns:
            self.cut_off_ns, self.business_date = record.cut_off_ns, record.business_date
        for key, _ in list(self.positions.items()):
            _drop(self.positions, key)

    def _remember_about(self, record: Record, legs: tuple[Leg, ...]) -> None:
        originals = {getattr(record, "original", "")}
        for leg in legs:
            if leg.pending:
                epoch, seq, _ = place_of(int(leg.pending, 16))
                originals.add(place_text(epoch=epoch, seq=seq))
        for original in originals - {""}:
            self.fresh_about.setdefault(original, []).append(record)

    def _note_positions(self, legs: tuple[Leg, ...]) -> None:
        for leg in legs:
            debit, credit = self.known[leg.debit_account_id], self.known[leg.credit_account_id]
            if debit is None or credit is None:
                raise ReplayError(f"{leg.debit_account_id} or {leg.credit_account_id} is not known here")
            if debit.side != credit.side and is_between_participants(leg):
                self.positions[debit.side] = (self.positions.get(debit.side) or 0) - leg.amount_minor
                self.positions[credit.side] = (self.positions.get(credit.side) or 0) + leg.amount_minor

    def _note_transfer(self, record: Transfer) -> None:
        request = record.request
        merchants.note(self.batches, record)
        self.fresh[record.client, request.id] = record
        self.fresh_places[record.epoch, record.seq] = record
        kind = request.kind
        if kind is _PAYMENT or kind is _HOLD:
            if self.tally.measures:
                self.tally.add(record, is_offline=self.mode is not _ACTIVE)
            if record.cleared_by is _STAND_IN and record.legs[0].flags & PENDING:
                self._note_stand_in(record)
            return
        self._remember_about(record, record.legs)
        if record.reason == KEPT:
            self.kept[request.original_client, request.original_id] = place_text(
                epoch=record.epoch, seq=record.seq
            )
        for leg in record.legs:
            if leg.flags & VOID:
                self._settle_stand_in(int(leg.pending, 16))
                self._give_back_held(leg, leg.amount_minor, count=1)
            elif leg.flags & POST:
                held = self.ledger.find(int(leg.pending, 16))
                self._give_back_held(leg, 0 if held is None else held.amount_minor - leg.amount_minor)
        if record.undone is not None:
            amount_minor = record.legs[0].amount_minor
            self.tally.give_back(record.undone, at_ns=self.at_ns, amount_minor=amount_minor, count=0)

    def _note_stand_in(self, record: Transfer) -> None:
        request = record.request
        place = transfer_id(epoch=record.epoch, seq=record.seq, leg=0)
        self.stand_ins[place] = waiting = StandIn(
            payer_account_id=request.debit_account_id,
            currency=request.currency,
            amount_minor=request.amount_minor,
            client=record.client,
            id=request.id,
            card=request.card,
            terminal=request.terminal,
            merchant=subject("merchant", request, self.box),
        )
        self.tally.stand_in(waiting)

    def _settle_stand_in(self, place: int) -> None:
        waiting = self.stand_ins.get(place)
        if waiting is not None:
            _drop(self.stand_ins, place)
            self.tally.settle(waiting)

    def _note_directive(self, record: DirectiveApplied) -> None:
        if record.outcome == REFUSED:
            return
        directive = decode_directive(bytes(record.directive))
        if isinstance(directive, ConfirmDirective | DeclineDirective):
            self._settle_stand_in(transfer_id(epoch=directive.epoch, seq=directive.at_seq, leg=0))
            if isinstance(directive, DeclineDirective):
                place = place_text(epoch=directive.epoch, seq=directive.at_seq)
                before_minor = sum(
                    one.legs[0].amount_minor
                    for one in self.about(place)
                    if isinstance(one, Transfer) and one.undone is not None
                )
                self._give_back(place, directive.amount_minor - before_minor, count=1)
        elif isinstance(directive, SiteDirective):
            if directive.digest != self.site_digest:
                is_offline = self.mode is Mode.OFFLINE
                self.standing = applied(before=self.site_digest, is_offline=is_offline, at_ns=record.at_ns)
            self.site_version, self.site_digest = directive.version, directive.digest
            self.cut_off_ns = record.cut_off_ns or self.cut_off_ns
            self.tally.measure(record.counted)
        elif isinstance(directive, FreezeDirective):
            self.forget_known()
            if directive.frozen:
                self.frozen[directive.account_id] = directive.reason
            else:
                _drop(self.frozen, directive.account_id)
        elif isinstance(directive, BlockDirective | LimitDirective):
            self.tally.obey(directive)
        elif isinstance(directive, CloseDirective):
            self.forget_known()
            if directive.closed:
                self.closed[directive.account_id] = directive.reason
            else:
                _drop(self.closed, directive.account_id)
        elif isinstance(directive, RefuseDirective):
            self.barred[directive.account_id] = directive.reason
        elif isinstance(directive, GrantDirective):
            _drop(self.barred, directive.account_id)

    def _note_mode(self, record: ModeChanged) -> None:
        if record.mode is Mode.OFFLINE:
            self.offline_since_ns = self.offline_since_ns or record.at_ns
            self.tally.outage_ns = self.tally.outage_ns or record.at_ns
        elif record.mode is Mode.ACTIVE:
            self.offline_since_ns = self.tally.outage_ns = 0
            self.clock_suspect = False
            if self.standing.held_to:
                self.standing = line_was_up(self.standing)
                if self.own_site is not None:
                    self.use_site(self.own_site)
            for account_id, _ in list(self.barred.items()):
                _drop(self.barred, account_id)
        self.mode, self.mode_reason = record.mode, record.reason

    def _give_back_held(self, leg: Leg, amount_minor: int, *, count: int = 0) -> None:
        """Take what a hold did not use off the periods in which it counted."""
        epoch, seq, index = place_of(int(leg.pending, 16))
        if not index:  # its other legs reserve a part of a net debit cap
            self._give_back(place_text(epoch=epoch, seq=seq), amount_minor, count=count)

    def _give_back(self, place: str, amount_minor: int, *, count: int = 0) -> None:
        if not self.tally.measures or not (amount_minor or count) or parse_place(place)[0] != self.epoch:
            return
        original = self.at(place)
        if isinstance(original, Transfer) and original.request.kind in (Kind.PAYMENT, Kind.HOLD):
            paid = undone_of(original)
            self.tally.give_back(paid, at_ns=self.at_ns, amount_minor=amount_minor, count=count)

    def net_positions(self) -> tuple[Position, ...]:
        """The open window's net amounts, sorted; they sum to zero for each currency."""
        rows = sorted(
            (participant, currency, net) for (participant, currency), net in self.positions.items() if net
        )
        return tuple(Position(*row) for row in rows)


KEPT: Final = "kept"
REFUSED: Final = "refused"


def is_between_participants(leg: Leg) -> bool:
    """Whether a leg counts in a window's positions: what is held or given up moves nothing, and an allowance
    that comes from the centre or goes back there leaves everybody's money with the same participant."""
    ends = (leg.debit_account_id, leg.credit_account_id)
    return not leg.flags & (PENDING | VOID) and not any(end.startswith(CENTRE_PREFIX) for end in ends)


def _drop(table: Table[K, V], key: K) -> None:
    if isinstance(table, Overlay):
        table.remove(key)
    else:
        table.pop(key, None)
