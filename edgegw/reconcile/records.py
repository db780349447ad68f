"""What a record means to a reconciliation: one row for the payment in it, what it resolves, and what it adds
to the sums of its epoch. Leaves out its bytes and chain (`journals`, `centre`).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from edgegw.core.accounts import BANK, OWN_PREFIXES
from edgegw.core.book import is_between_participants
from edgegw.core.legs import PENDING, POST, VOID
from edgegw.core.records import (
    Account,
    ClearedBy,
    ConfirmDirective,
    DeclineDirective,
    Directive,
    DirectiveApplied,
    Expiry,
    GrantDirective,
    Kind,
    Leg,
    Record,
    Refusal,
    Transfer,
    WindowClosed,
    decode_directive,
    decode_record,
    legs_of,
    parse_place,
    place_of,
)
from edgegw.reconcile.workspace import Row, Workspace

_RESERVES: Final = PENDING | VOID
UNREAD: Final = "unread"
"""The type of a record whose bytes this program cannot read."""


def said_by(body: bytes) -> Directive | None:
    """The directive in these bytes; None where this program cannot read them."""
    try:
        return decode_directive(body)
    except msgspec.DecodeError:
        return None


def identity_of(body: bytes) -> tuple[str, str] | None:
    """Client and id of the request that a record decided; None where it decided none, or cannot be read."""
    try:
        record = decode_record(body)
    except msgspec.DecodeError:
        return None
    return (record.client, record.request.id) if isinstance(record, Transfer | Refusal) else None


def money_of(said: Directive | None) -> Row:
    """Account, currency and amount that a directive is about."""
    if isinstance(said, GrantDirective):
        return said.account_id, said.currency, said.amount_minor
    if isinstance(said, ConfirmDirective | DeclineDirective):
        return said.payer_account_id, said.currency, said.amount_minor
    return "", "", None


class Meaning(NamedTuple):
    """The columns of a record's row that come from its bytes; NULLs where it decided no request."""

    type: str
    client: str | None = None
    request_id: str | None = None
    kind: str | None = None
    state: str | None = None
    debit_account_id: str | None = None
    credit_account_id: str | None = None
    amount_minor: int | None = None
    currency: str | None = None
    window: int | None = None
    wall_ns: int | None = None
    original: str | None = None
    counted: int = 0


class _Account:
    """One account of the box: whom it is netted under, in which currency, and its posted sums."""

    __slots__ = ("about", "credits", "debits", "is_centre", "returned")

    def __init__(self, about: tuple[str, str], is_centre: bool) -> None:
        self.about = about
        self.is_centre = is_centre
        self.debits = self.credits = self.returned = 0


class Ledger:
    """The sums of one (box, epoch) while its records pass by, and the smaller tables that they fill.

    Memory is by account and window, not by record.
    """

    def __init__(self, workspace: Workspace, *, box: str, epoch: int) -> None:
        self._workspace = workspace
        self._box, self._epoch = box, epoch
        self._accounts: dict[str, _Account] = {}
        self._shared: dict[tuple[str, str], tuple[str, str]] = {}
        self._nets: dict[int, dict[tuple[str, str], int]] = {}
        self._transfers: dict[int, int] = {}

    def take(self, body: bytes, *, place: int, seq: int, counts: bool, sums: bool) -> Meaning:
        """What a record says. counts: it is the one of its place that stands for the payment; sums: the hub
        holds it too, so that it is in the hub's sums by account."""
        try:
            record = decode_record(body)
        except msgspec.DecodeError:
            return Meaning(UNREAD)
        if counts:
            self._note(record, place=place, seq=seq)
        if isinstance(record, Transfer):
            if counts:
                self._add(record, sums=sums)
            return self._transfer(record, counted=int(counts))
        if counts and isinstance(record, DirectiveApplied | Expiry):
            self._add(record, sums=sums)
        if isinstance(record, Refusal):
            return _refusal(record, counted=int(counts))
        return Meaning(str(record.__struct_config__.tag), wall_ns=record.wall_ns)

    def close(self) -> None:
        """Write all sums out."""
        head = (self._box, self._epoch)
        for account_id, one in self._accounts.items():
            if one.debits or one.credits:
                row = (*head, account_id, one.debits, one.credits, one.returned)
                self._workspace.add("account_total", row)
        for window, nets in self._nets.items():
            for about, net_minor in nets.items():
                self._workspace.add("window_net", (*head, window, *about, net_minor))
        for window, count in self._transfers.items():
            self._workspace.add("window_transfers", (self._box, self._epoch, window, count))

    # -- one payment -------------------------------------------------------------------------------------

    def _transfer(self, record: Transfer, *, counted: int) -> Meaning:
        request, legs = record.request, record.legs
        state = _state_of(record)
        first = legs[0] if legs else None
        debit = request.debit_account_id if first is None or state == "waiting" else first.debit_account_id
        credit = request.credit_account_id if first is None else first.credit_account_id
        amount_minor = request.amount_minor if first is None else first.amount_minor
        return Meaning(
            "transfer",
            record.client,
            request.id,
            str(request.kind.value),
            state,
            debit,
            credit,
            amount_minor,
            request.currency or self._account(debit).about[1] or self._account(credit).about[1],
            record.window,
            record.wall_ns,
            record.original or None,
            counted,
        )

    # -- what it resolves, and the smaller tables --------------------------------------------------------

    def _note(self, record: Record, *, place: int, seq: int) -> None:
        if isinstance(record, Transfer) and _is_plain(record):
            return
        for leg in legs_of(record):
            if leg.pending:
                epoch, at_seq, _ = place_of(int(leg.pending, 16))
                self._resolved(place, seq, (epoch, at_seq), _effect_of(record, leg), leg.amount_minor)
        if isinstance(record, Transfer):
            moves = record.legs and not record.legs[0].flags & (VOID | POST)
            if record.request.kind in (Kind.REVERSAL, Kind.REFUND) and record.original and moves:
                original = parse_place(record.original)
                self._resolved(place, seq, original, "reversed", record.legs[0].amount_minor)
        elif isinstance(record, DirectiveApplied):
            self._directive(record, place=place, seq=seq)
        elif isinstance(record, WindowClosed):
            self._window(record, place=place)

    def _resolved(
        self, place: int, seq: int, original: tuple[int, int], effect: str, amount_minor: int
    ) -> None:
        row = (place, self._box, self._epoch, seq, *original, effect, amount_minor)
        self._workspace.add("resolution", row)

    def _directive(self, record: DirectiveApplied, *, place: int, seq: int) -> None:
        for account in record.accounts:
            self._open(account)
        said = said_by(bytes(record.directive))
        if said is not None:
            kind = str(said.__struct_config__.tag)
            head = (place, self._box, self._epoch, seq, said.incarnation, said.seq, kind, record.outcome)
            self._workspace.add("applied_directive", (*head, *money_of(said)))

    def _open(self, account: Account) -> None:
        about = (account.participant or BANK, account.currency)
        self._account(account.id).about = self._shared.setdefault(about, about)

    def _window(self, record: WindowClosed, *, place: int) -> None:
        head = (self._box, self._epoch, record.window, place)
        self._workspace.add("window_closed", (*head, record.business_date, record.transfers))
        for position in record.positions:
            said = (position.participant, position.currency, position.net_minor)
            self._workspace.add("window_position", (*head, *said))

    # -- the sums ----------------------------------------------------------------------------------------

    def _add(self, record: Transfer | DirectiveApplied | Expiry, *, sums: bool) -> None:
        legs, window = record.legs, record.window
        if not legs:
            return
        self._transfers[window] = self._transfers.get(window, 0) + len(legs)
        if isinstance(record, Expiry):
            return
        nets = self._nets.setdefault(window, {})
        for leg in legs:
            if leg.flags & _RESERVES:
                continue
            payer, payee, amount_minor = (
                self._account(leg.debit_account_id),
                self._account(leg.credit_account_id),
                leg.amount_minor,
            )
            if sums:
                payer.debits += amount_minor
                payee.credits += amount_minor
                if payee.is_centre:
                    payer.returned += amount_minor
            if payer.about != payee.about and is_between_participants(leg):
                nets[payer.about] = nets.get(payer.about, 0) - amount_minor
                nets[payee.about] = nets.get(payee.about, 0) + amount_minor

    def _account(self, account_id: str) -> _Account:
        known = self._accounts.get(account_id)
        if known is None:
            # The books' own accounts end in their currency.
            own = account_id.startswith(OWN_PREFIXES)
            about = (BANK, account_id.rpartition(":")[2] if own else "")
            known = self._accounts[account_id] = _Account(about, account_id.startswith("centre:"))
        return known


def _refusal(record: Refusal, *, counted: int) -> Meaning:
    request = record.request
    return Meaning(
        "refusal",
        record.client,
        request.id,
        str(request.kind.value),
        "refused",
        request.debit_account_id,
        request.credit_account_id,
        request.amount_minor,
        request.currency,
        None,
        record.wall_ns,
        None,
        counted,
    )


def _is_plain(record: Transfer) -> bool:
    """Whether it is what most records are, a payment that resolves nothing."""
    legs = record.legs
    return record.request.kind is Kind.PAYMENT and len(legs) == 1 and not legs[0].pending


def _state_of(record: Transfer) -> str:
    """What a cleared request did when it was decided; `matching_journals` follows what became of it."""
    if not record.legs:
        return "kept"
    first = record.legs[0]
    if first.flags & VOID:
        return "released"
    if first.flags & PENDING:
        return "waiting" if record.cleared_by is ClearedBy.STAND_IN else "held"
    if first.debit_account_id.startswith(OWN_PREFIXES) and first.credit_account_id.startswith(OWN_PREFIXES):
        return "internal"
    return "posted"


def _effect_of(record: Record, leg: Leg) -> str:
    if isinstance(record, DirectiveApplied):
        said = said_by(bytes(record.directive))
        if said is None:
            return "posted"
        if isinstance(said, DeclineDirective):
            return "declined" if said.liable == "merchant" else "borne"
        return "confirmed"
    return "posted" if leg.flags & POST else "released"
