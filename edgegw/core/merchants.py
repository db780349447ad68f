"""Merchants' batches: what was paid, refunded and reversed on a merchant's behalf since its batch was closed.

A payment that names a merchant counts in the merchant's batch, and in its terminal's where it names one too;
each is closed for itself, numbered, and begins at zero again. Counting is a function of the records, so a
replay gives the same. A stand-in counts when it is cleared, a hold when it is posted, what is only kept
never. A number is never used twice, in no epoch: an epoch begins with numbers of its own, at zero. Leaves
out who may close (`core.decide` writes the record) and how a batch is shown.
"""

from __future__ import annotations

from typing import Final, cast

import msgspec

from edgegw.core.overlay import Overlay
from edgegw.core.records import (
    AMOUNT_MINOR_MAX,
    BatchTotals,
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


Row = tuple[str, int, int, int, int, int, int, int, int]
"""A currency, and the figures of `BatchTotals` in their order: made anew for each payment, so it is small."""

_AT: Final = {Side.PAYMENTS: 1, Side.PAYMENT_REVERSALS: 3, Side.REFUNDS: 5, Side.REFUND_REVERSALS: 7}
"""Where in a row a side's count stands; its sum is the next one."""
_PAYMENTS: Final = 1
_REFUNDS: Final = 5
_PAYMENT: Final = Kind.PAYMENT  # reaching a member through its class costs a tenth of a payment


class OpenBatch(msgspec.Struct, frozen=True, array_like=True):
    """What has been counted since the last close."""

    number: int
    previous: str
    """epoch/seq of the close before, "" where there is none in this epoch."""
    rows: tuple[Row, ...] = ()
    """One for each currency, sorted by it."""

    @property
    def totals(self) -> tuple[BatchTotals, ...]:
        """The same by name."""
        return tuple([_decode(dict(zip(_NAMES, row, strict=True))) for row in self.rows])


_NO_ROWS: Final[tuple[Row, ...]] = ()
_NAMES: Final = BatchTotals.__struct_fields__


def _decode(figures: dict[str, int | str]) -> BatchTotals:
    return msgspec.convert(figures, BatchTotals)


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
    counted = record.counted
    if counted is not None:
        merchant, terminal, currency = counted.merchant, counted.terminal, counted.currency
        at, amount_minor = _AT[counted.side], record.legs[0].amount_minor
    elif request.merchant and request.kind is _PAYMENT:
        merchant, terminal, currency = request.merchant, request.terminal, request.currency
        at, amount_minor = _REFUNDS if request.merchant_pays else _PAYMENTS, request.amount_minor
    else:
        return
    _count(batches, (merchant, ""), record.epoch, currency, at, amount_minor)
    if terminal:
        _count(batches, (merchant, terminal), record.epoch, currency, at, amount_minor)


def _count(
    batches: Batches, key: tuple[str, str], epoch: int, currency: str, at: int, amount_minor: int
) -> None:
    """One more in a row, from its place `at` on; sums stop at what a record can carry."""
    batch = batches.get(key)
    if batch is None:
        if is_full(batches):
            return
        batch = first_batch(epoch)
    rows = batch.rows
    figures: list[int]
    if len(rows) == 1 and rows[0][0] == currency:
        figures, others = [*rows[0][1:]], _NO_ROWS
    else:
        figures = [*next((row[1:] for row in rows if row[0] == currency), (0,) * 8)]
        others = tuple([row for row in rows if row[0] != currency])
    figures[at - 1] += 1
    figures[at] = min(figures[at] + amount_minor, AMOUNT_MINOR_MAX)
    row = cast("Row", (currency, *figures))
    batches[key] = OpenBatch(
        batch.number, batch.previous, (row,) if not others else tuple(sorted((*others, row)))
    )


def is_full(batches: Batches) -> bool:
    """Whether no merchant or terminal is added any more."""
    if isinstance(batches, Overlay):
        return not batches.has_fewer_than(MERCHANTS_MAX)
    return len(batches) >= MERCHANTS_MAX


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
