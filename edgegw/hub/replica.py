"""A box's ledger as the hub replays it, through the same core: four counters an account, and the holds that
live.

Only the accounts and holds that a push touches are loaded. They carry no floor here, because what a box did
has happened: the counters must follow it even where it was wrong, and the books find what was overdrawn.
Leaves out the books (`hub.books`) and what a record means for them (`hub.replay`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from edgegw.core import ledger
from edgegw.core.accounts import account_key
from edgegw.core.legs import LEG_CODE, PENDING
from edgegw.core.model import Account, Balance, CreateTransferStatus, PendingStatus, Transfer
from edgegw.core.overlay import Overlay
from edgegw.core.records import AMOUNT_MINOR_MAX, Leg, transfer_id
from edgegw.core.state import State
from edgegw.hub.books import padded
from edgegw.hub.schema import box_balance, box_hold

IDS_MAX: Final = 500


class Replica:
    """The part of one box's ledger, in one epoch, that a push touches."""

    def __init__(self, connection: Connection, *, box: str, epoch: int) -> None:
        self._connection = connection
        self._box = box
        self._epoch = epoch
        self._state = State()
        self._names: dict[int, str] = {}
        self._known: dict[str, Balance] = {}
        self._holds: set[int] = set()

    def load(self, currencies: Mapping[str, str], holds: Iterable[str]) -> None:
        """Read the accounts (id to currency) and the holds (32 hex digits); what the tables lack starts at
        nothing."""
        for part in _parts(sorted(currencies)):
            rows = self._connection.execute(
                select(box_balance).where(
                    box_balance.c.box == self._box,
                    box_balance.c.epoch == self._epoch,
                    box_balance.c.account_id.in_(padded(part)),
                )
            )
            for row in rows:
                self._known[row.account_id] = Balance(
                    debits_pending=row.debits_pending,
                    debits_posted=row.debits_posted,
                    credits_pending=row.credits_pending,
                    credits_posted=row.credits_posted,
                )
        for account_id, currency in currencies.items():
            key = account_key(account_id)
            self._names[key] = account_id
            self._state.accounts[key] = Account(
                id=key, ledger=int.from_bytes(currency.encode()), code=LEG_CODE
            )
            self._state.balances[key] = self._known.get(account_id, Balance())
        for part in _parts(sorted(set(holds))):
            self._load_holds(part)

    def _load_holds(self, ids: list[str]) -> None:
        rows = self._connection.execute(
            select(box_hold).where(
                box_hold.c.box == self._box,
                box_hold.c.epoch == self._epoch,
                box_hold.c.transfer_id.in_(padded(ids)),
            )
        )
        for row in rows:
            debit = account_key(row.debit_account_id)
            account = self._state.accounts.get(debit)
            if account is None or not self.knows(row.credit_account_id):
                continue  # the record that resolves it names other accounts, and finds no hold
            hold = Transfer(
                id=int(row.transfer_id, 16),
                debit_account_id=debit,
                credit_account_id=account_key(row.credit_account_id),
                amount_minor=row.amount_minor,
                ledger=account.ledger,
                code=LEG_CODE,
                flags=PENDING,
                timeout_s=row.timeout_s,
                at_ns=row.at_ns,
            )
            ledger.restore_hold(self._state, hold)
            self._holds.add(hold.id)

    def knows(self, account_id: str) -> bool:
        """Whether the account was loaded."""
        return account_key(account_id) in self._names

    def is_live(self, hold_id: str) -> bool:
        """Whether the hold with this id (32 hex digits) was loaded and is not resolved."""
        return self._state.pendings.get(int(hold_id, 16)) is PendingStatus.pending

    def available(self, account_id: str) -> int:
        """What the account may spend at the box, as its journal says: posted credits less all debits, minor
        units."""
        balance = self._state.balances[account_key(account_id)]
        return balance.credits_posted - balance.debits_posted - balance.debits_pending

    def post(self, legs: tuple[Leg, ...], *, seq: int, at_ns: int) -> CreateTransferStatus:
        """Book the legs of one record, all or none; the first status other than `created`, else `created`."""
        layer = self._state.overlay()
        for index, leg in enumerate(legs):
            moved = self._transfer(leg, transfer_id(epoch=self._epoch, seq=seq, leg=index))
            status = ledger.apply(layer, moved, at_ns=at_ns + index).status
            if status is not CreateTransferStatus.created:
                return status
        if any(max(_counters(balance).values()) > AMOUNT_MINOR_MAX for _, balance in _changed(layer)):
            return CreateTransferStatus.overflows_debits  # the disk counts no further, though the core would
        layer.merge()
        return CreateTransferStatus.created

    def expire(self, legs: tuple[Leg, ...]) -> CreateTransferStatus:
        """Expire the holds that these legs name, all or none."""
        layer = self._state.overlay()
        for leg in legs:
            if not leg.pending or not ledger.expire_transfer(layer, int(leg.pending, 16)):
                return CreateTransferStatus.pending_transfer_not_found
        layer.merge()
        return CreateTransferStatus.created

    def _transfer(self, leg: Leg, ledger_id: int) -> Transfer:
        debit = account_key(leg.debit_account_id)
        return Transfer(
            id=ledger_id,
            debit_account_id=debit,
            credit_account_id=account_key(leg.credit_account_id),
            amount_minor=leg.amount_minor,
            ledger=self._state.accounts[debit].ledger,
            code=LEG_CODE,
            flags=leg.flags,
            pending_id=int(leg.pending, 16) if leg.pending else 0,
            timeout_s=leg.timeout_s,
        )

    def write(self) -> None:
        """Write counters that moved, new holds, and the end of resolved ones; the caller commits."""
        fresh: list[tuple[str, Balance]] = []
        moved: list[tuple[str, Balance]] = []
        for key, balance in self._state.balances.items():
            account_id = self._names[key]
            if balance == self._known.get(account_id, Balance()):
                continue
            (moved if account_id in self._known else fresh).append((account_id, balance))
        if fresh:
            place = {"box": self._box, "epoch": self._epoch}
            rows = [{**place, "account_id": name, **_counters(balance)} for name, balance in fresh]
            self._connection.execute(insert(box_balance), rows)
        if moved:
            self._connection.execute(
                update(box_balance)
                .where(
                    box_balance.c.box == self._box,
                    box_balance.c.epoch == self._epoch,
                    box_balance.c.account_id == bindparam("id"),
                )
                .values({name: bindparam(name) for name in _COUNTERS}),
                [{"id": name, **_counters(balance)} for name, balance in moved],
            )
        self._write_holds()

    def _write_holds(self) -> None:
        state = self._state
        fresh, gone = [], []
        for hold_id, status in state.pendings.items():
            if status is PendingStatus.pending:
                if hold_id not in self._holds:
                    fresh.append(self._hold_row(state.transfers[hold_id]))
            elif hold_id in self._holds:
                gone.append({"id": f"{hold_id:032x}"})
        if fresh:
            self._connection.execute(insert(box_hold), fresh)
        if gone:
            self._connection.execute(
                delete(box_hold).where(
                    box_hold.c.box == self._box,
                    box_hold.c.epoch == self._epoch,
                    box_hold.c.transfer_id == bindparam("id"),
                ),
                gone,
            )

    def _hold_row(self, hold: Transfer) -> dict[str, str | int]:
        return {
            "box": self._box,
            "epoch": self._epoch,
            "transfer_id": f"{hold.id:032x}",
            "debit_account_id": self._names[hold.debit_account_id],
            "credit_account_id": self._names[hold.credit_account_id],
            "amount_minor": hold.amount_minor,
            "timeout_s": hold.timeout_s,
            "at_ns": hold.at_ns,
        }


_COUNTERS: Final = ("debits_pending", "debits_posted", "credits_pending", "credits_posted")


def _counters(balance: Balance) -> dict[str, int]:
    return {name: getattr(balance, name) for name in _COUNTERS}


def _changed(layer: State) -> list[tuple[int, Balance]]:
    return list(layer.balances.changes()) if isinstance(layer.balances, Overlay) else []


def _parts(ids: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), IDS_MAX):
        yield ids[start : start + IDS_MAX]
