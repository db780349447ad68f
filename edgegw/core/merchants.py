"""Merchants' batches: what was paid, refunded and reversed on a merchant's behalf since its batch was closed.

A payment that names a merchant counts in the merchant's batch, and in its terminal's where it names one too;
each is closed for itself, numbered, and begins at zero again. Counting is a function of the records, so a
replay gives the same. A stand-in counts when it is cleared, a hold when it is posted, what is only kept
never. A number is never used twice, in no epoch: an epoch begins with numbers of its own, at zero. Leaves
out who may close (`core.decide` writes the record) and how a batch is shown.
"""

from __future__ import annotations

from typing import Final

import msgspec

from edgegw.core.overlay import Overlay
from edgegw.core.records import (
    AMOUNT_MINOR_MAX,
    BatchTotals,
    Counted,
    Kind,
    MerchantBatch,
    Side,
    Transfer,
    place_text,
)

MERCHANTS_MAX: Final = 100_000
"""Merchants and terminals that are counted, some 30 MB: their names are what clients send. Beyond, none is
added."""
BATCHES_PER_EPOCH: Final = 1_000_000


class OpenBatch(msgspec.Struct, frozen=True, array_like=True):
    """What has been counted since the last close."""

    number: int
    previous: str
    """epoch/seq of the close before, "" where there is none in this epoch."""
    totals: tuple[BatchTotals, ...] = ()
    """One for each currency, sorted by it."""


Batches = dict[tuple[str, str], OpenBatch] | Overlay[tuple[str, str], OpenBatch]
"""Of each merchant (its terminal "") and each merchant's terminal."""


def first_batch(epoch: int) -> OpenBatch:
    """The batch that is open before anything was counted in an epoch."""
    return OpenBatch((epoch - 1) * BATCHES_PER_EPOCH + 1, "")


def note(batches: Batches, record: Transfer) -> None:
    """Count a cleared request, or begin a new batch where it closes one."""
    request = record.request
    if record.batch is not None:
        place = place_text(epoch=record.epoch, seq=record.seq)
        batches[request.merchant, request.terminal] = OpenBatch(record.batch.number + 1, place)
        return
    if record.counted is not None:
        counted, amount_minor = record.counted, record.legs[0].amount_minor
    elif request.kind is Kind.PAYMENT and request.merchant:
        side = Side.REFUNDS if request.merchant_pays else Side.PAYMENTS
        counted = Counted(request.merchant, request.terminal, side, request.currency)
        amount_minor = request.amount_minor
    else:
        return
    keys = [(counted.merchant, "")]
    if counted.terminal:
        keys.append((counted.merchant, counted.terminal))
    for key in keys:
        batch = batches.get(key)
        if batch is None:
            if is_full(batches):
                continue
            batch = first_batch(record.epoch)
        batches[key] = OpenBatch(
            batch.number, batch.previous, _added(batch.totals, counted.side, counted.currency, amount_minor)
        )


def is_full(batches: Batches) -> bool:
    """Whether no merchant or terminal is added any more."""
    if isinstance(batches, Overlay):
        return not batches.has_fewer_than(MERCHANTS_MAX)
    return len(batches) >= MERCHANTS_MAX


def _added(
    totals: tuple[BatchTotals, ...], side: Side, currency: str, amount_minor: int
) -> tuple[BatchTotals, ...]:
    """The totals with one more on a side; sums stop at what a record can carry."""
    rest = tuple([one for one in totals if one.currency != currency])
    old = next((one for one in totals if one.currency == currency), None) or BatchTotals(currency=currency)
    count, minor = f"{side}_count", f"{side}_minor"
    changed = {
        count: getattr(old, count) + 1,
        minor: min(getattr(old, minor) + amount_minor, AMOUNT_MINOR_MAX),
    }
    new = msgspec.structs.replace(old, **changed)
    return (new,) if not rest else tuple(sorted((*rest, new), key=lambda one: one.currency))


def closed(batch: OpenBatch, said: tuple[BatchTotals, ...]) -> MerchantBatch:
    """What the record of a close says, compared with the client's own totals where it sent some."""
    return MerchantBatch(
        number=batch.number,
        previous=batch.previous,
        totals=batch.totals,
        difference=_difference(batch.totals, said) if said else "",
    )


def _difference(counted: tuple[BatchTotals, ...], said: tuple[BatchTotals, ...]) -> str:
    """The first figure that the client has otherwise, or ""; what one side leaves out is zero."""
    ours, theirs = ({one.currency: one for one in totals} for totals in (counted, said))
    for currency in sorted(ours.keys() | theirs.keys()):
        nothing = BatchTotals(currency=currency)
        mine, other = ours.get(currency, nothing), theirs.get(currency, nothing)
        name = mine.different_figure(other)
        if name:
            return f"{name} in {currency} is {getattr(mine, name)} here and {getattr(other, name)} there"
    return ""
