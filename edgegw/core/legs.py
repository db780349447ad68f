"""A record's legs as the ledger's transfers: how one is booked, and what became of one that was pending."""

from __future__ import annotations

from typing import Final

from edgegw.core import ledger
from edgegw.core.accounts import KnownAccounts, account_key
from edgegw.core.model import CreateTransferStatus, PendingStatus, TransferFlags
from edgegw.core.model import Transfer as LedgerTransfer
from edgegw.core.records import Expiry, Leg, Record, legs_of

PENDING: Final = int(TransferFlags.PENDING)
POST: Final = int(TransferFlags.POST_PENDING_TRANSFER)
VOID: Final = int(TransferFlags.VOID_PENDING_TRANSFER)
LEG_CODE: Final = 1


def transfer_of(leg: Leg, known: KnownAccounts, ledger_id: int) -> LedgerTransfer:
    """A leg as the ledger is asked for it."""
    debit, credit = known[leg.debit_account_id], known[leg.credit_account_id]
    return LedgerTransfer(
        id=ledger_id,
        debit_account_id=account_key(leg.debit_account_id) if debit is None else debit.key,
        credit_account_id=account_key(leg.credit_account_id) if credit is None else credit.key,
        amount_minor=leg.amount_minor,
        ledger=0 if debit is None else debit.ledger,
        code=LEG_CODE,
        flags=leg.flags,
        pending_id=int(leg.pending, 16) if leg.pending else 0,
        timeout_s=leg.timeout_s,
    )


def book_leg(
    state: ledger.State, leg: Leg, known: KnownAccounts, ledger_id: int, *, at_ns: int, is_new: bool
) -> CreateTransferStatus:
    """Book one leg; is_new: nothing was ever booked under this id, and what will be stands in the ledger's
    history as soon as it may be asked for.

    Such a leg that leaves no hold behind asks for the balances alone (`ledger.move`): what else
    `ledger.apply` looks at, its record's place and the accounts known here say already.
    """
    if is_new and not (leg.flags or leg.pending or leg.timeout_s) and leg.amount_minor >= 0:
        debit, credit = known[leg.debit_account_id], known[leg.credit_account_id]
        if (
            debit is not None
            and credit is not None
            and debit.key != credit.key
            and debit.ledger == credit.ledger
            and state.failed.get(ledger_id) is None
        ):
            accounts = state.accounts
            payer, payee = accounts[debit.key], accounts[credit.key]
            return ledger.move(state, ledger_id, payer, payee, leg.amount_minor, at_ns=at_ns)
    return ledger.apply(state, transfer_of(leg, known, ledger_id), at_ns=at_ns).status


def resolution(record: Record, ledger_id: int) -> PendingStatus | None:
    """What this record makes of a pending leg; None where it is about others."""
    for leg in legs_of(record):
        if leg.pending and int(leg.pending, 16) == ledger_id:
            if isinstance(record, Expiry):
                return PendingStatus.expired
            return PendingStatus.posted if leg.flags & POST else PendingStatus.voided
    return None
