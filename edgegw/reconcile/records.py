"""What a record means to a reconciliation: one row for the payment in it, what it resolves, and what it adds
to the sums of its epoch. Leaves out its bytes and chain (`journals`, `centre`).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from edgegw.core.book import BANK, PENDING, POST, VOID, is_between_participants, legs_of
from edgegw.core.decide import OWN_PREFIXES
from edgegw.core.records import (
    Account,
    ClearedBy,
    ConfirmDirective,
    DeclineDirective,
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
    parse_place,
    place_of,
)
from edgegw.reconcile.workspace import Value, Workspace

UNREAD: Final = "unread"
"""The type of a record whose bytes this program cannot read."""


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


class Ledger:
    """The sums of one (box, epoch) while its records pass by, and the smaller tables that they fill.

    Memory is by account, not by record: the totals are written out when there are many.
    """

    TOTALS_MAX: Final = 100_000

    def __init__(self, workspace: Workspace, *, box: str, epoch: int) -> None:
        self._workspace = workspace
        self._box, self._epoch = box, epoch
        self._accounts: dict[str, tuple[str, str]] = {}
        self._shared: dict[tuple[str, str], tuple[str, str]] = {}
        self._totals: dict[str, list[int]] = {}
        self._nets: dict[tuple[int, str, str], int] = {}
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
            self._add(record, sums=sums)
        if isinstance(record, Transfer):
            return self._transfer(record, counted=int(counts))
        if isinstance(record, Refusal):
            return _refusal(record, counted=int(counts))
        return Meaning(str(record.__struct_config__.tag), wall_ns=record.wall_ns)

    def close(self) -> None:
        """Write all sums out."""
        self._flush_totals()
        for (window, participant, currency), net_minor in self._nets.items():
            self._workspace.add(
                "window_net", (self._box, self._epoch, window, participant, currency, net_minor)
            )
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
            request.currency or self._currency(debit) or self._currency(credit),
            record.window,
            record.wall_ns,
            record.original or None,
            counted,
        )

    def _currency(self, account_id: str) -> str:
        known = self._accounts.get(account_id)
        if known is not None:
            return known[1]
        # The books' own accounts end in their currency.
        return account_id.rpartition(":")[2] if account_id.startswith(OWN_PREFIXES) else ""

    # -- what it resolves, and the smaller tables --------------------------------------------------------

    def _note(self, record: Record, *, place: int, seq: int) -> None:
        for leg in legs_of(record):
            if leg.pending:
                epoch, at_seq, _ = place_of(int(leg.pending, 16))
                self._resolved(place, seq, (epoch, at_seq), _effect_of(record, leg), leg.amount_minor)
        if isinstance(record, Transfer):
            moves = record.legs and not record.legs[0].flags & (VOID | POST)
            if record.request.kind is Kind.REVERSAL and record.original and moves:
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
        try:
            said = decode_directive(bytes(record.directive))
        except msgspec.DecodeError:
            return
        row: tuple[Value, ...] = ("", "", None)
        if isinstance(said, GrantDirective):
            row = (said.account_id, said.currency, said.amount_minor)
        elif isinstance(said, ConfirmDirective | DeclineDirective):
            row = (said.payer_account_id, said.currency, said.amount_minor)
        kind = str(said.__struct_config__.tag)
        head = (place, self._box, self._epoch, seq, said.incarnation, said.seq, kind, record.outcome)
        self._workspace.add("applied_directive", (*head, *row))

    def _open(self, account: Account) -> None:
        about = (account.participant or BANK, account.currency)
        self._accounts[account.id] = self._shared.setdefault(about, about)

    def _window(self, record: WindowClosed, *, place: int) -> None:
        head = (self._box, self._epoch, record.window, place)
        self._workspace.add("window_closed", (*head, record.business_date, record.transfers))
        for position in record.positions:
            said = (position.participant, position.currency, position.net_minor)
            self._workspace.add("window_position", (*head, *said))

    # -- the sums ----------------------------------------------------------------------------------------

    def _add(self, record: Record, *, sums: bool) -> None:
        legs = legs_of(record)
        if not legs or not isinstance(record, Transfer | DirectiveApplied | Expiry):
            return
        window = record.window
        self._transfers[window] = self._transfers.get(window, 0) + len(legs)
        if isinstance(record, Expiry):
            return
        for leg in legs:
            if not leg.flags & (PENDING | VOID):
                self._net(leg, window)
                if sums:
                    self._total(leg)
        if len(self._totals) > self.TOTALS_MAX:
            self._flush_totals()

    def _total(self, leg: Leg) -> None:
        totals, amount_minor = self._totals, leg.amount_minor
        debit, credit = leg.debit_account_id, leg.credit_account_id
        paid = totals.get(debit)
        if paid is None:
            paid = totals[debit] = [0, 0, 0]
        paid[0] += amount_minor
        if credit.startswith("centre:"):
            paid[2] += amount_minor
        received = totals.get(credit)
        if received is None:
            received = totals[credit] = [0, 0, 0]
        received[1] += amount_minor

    def _net(self, leg: Leg, window: int) -> None:
        accounts, amount_minor = self._accounts, leg.amount_minor
        debit, credit = leg.debit_account_id, leg.credit_account_id
        payer = accounts.get(debit) or (BANK, self._currency(debit))
        payee = accounts.get(credit) or (BANK, self._currency(credit))
        if payer != payee and is_between_participants(leg):
            nets = self._nets
            nets[window, *payer] = nets.get((window, *payer), 0) - amount_minor
            nets[window, *payee] = nets.get((window, *payee), 0) + amount_minor

    def _flush_totals(self) -> None:
        for account_id, totals in self._totals.items():
            self._workspace.add("account_total", (self._box, self._epoch, account_id, *totals))
        self._totals.clear()


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
        try:
            said = decode_directive(bytes(record.directive))
        except msgspec.DecodeError:
            return "posted"
        if isinstance(said, DeclineDirective):
            return "declined" if said.liable == "merchant" else "borne"
        return "confirmed"
    return "posted" if leg.flags & POST else "released"
