"""What became of a leg of a record that was pending."""

from __future__ import annotations

from typing import Final

from edgegw.core.model import PendingStatus, TransferFlags
from edgegw.core.records import Expiry, Record, legs_of

POST: Final = int(TransferFlags.POST_PENDING_TRANSFER)


def resolution(record: Record, ledger_id: int) -> PendingStatus | None:
    """What this record makes of a pending leg; None where it is about others."""
    for leg in legs_of(record):
        if leg.pending and int(leg.pending, 16) == ledger_id:
            if isinstance(record, Expiry):
                return PendingStatus.expired
            return PendingStatus.posted if leg.flags & POST else PendingStatus.voided
    return None
