"""Legs of records as the ledger books them: one leg, and what became of one that was pending."""

from __future__ import annotations

from typing import Final

from edgegw.core import ledger
from edgegw.core.model import CreateTransferStatus, PendingStatus, Transfer, TransferFlags
from edgegw.core.records import AMOUNT_MINOR_MAX, Expiry, Record, legs_of

POST: Final = int(TransferFlags.POST_PENDING_TRANSFER)
VOID: Final = int(TransferFlags.VOID_PENDING_TRANSFER)


def posted(state: ledger.State, moved: Transfer, *, at_ns: int) -> CreateTransferStatus:
    """Book one leg, unless a counter would pass what disk and hub can count, though the core counts on."""
    if not moved.flags & (POST | VOID):
        debit, credit = (
            state.balances.get(moved.debit_account_id),
            state.balances.get(moved.credit_account_id),
        )
        room_minor = AMOUNT_MINOR_MAX - moved.amount_minor
        if debit is not None and debit.debits_pending + debit.debits_posted > room_minor:
            return CreateTransferStatus.overflows_debits
        if credit is not None and credit.credits_pending + credit.credits_posted > room_minor:
            return CreateTransferStatus.overflows_credits
    return ledger.apply(state, moved, at_ns=at_ns).status


def resolution(record: Record, ledger_id: int) -> PendingStatus | None:
    """What this record makes of a pending leg; None where it is about others."""
    for leg in legs_of(record):
        if leg.pending and int(leg.pending, 16) == ledger_id:
            if isinstance(record, Expiry):
                return PendingStatus.expired
            return PendingStatus.posted if leg.flags & POST else PendingStatus.voided
    return None
