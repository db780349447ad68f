"""Reading back: first answers, what happened to a payment afterwards, receipts, windows, notices. Committed
state only.

Reads go through a connection of their own, on one thread of their own, so that a slow disk never holds the
loop (DESIGN §6)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from edgegw.core.pruned import Pruned
from edgegw.core.records import (
    ConfirmDirective,
    DeclineDirective,
    DirectiveApplied,
    Expiry,
    Record,
    Refusal,
    Transfer,
    WindowClosed,
    decode_directive,
    decode_record,
    parse_place,
    place_text,
)
from edgegw.ledger.receipts import Receipt, receipt_of
from edgegw.ledger.rows import position_of
from edgegw.ledger.store import Store
from edgegw.payments.answer import Answer, answer_from, answer_from_pruned
from edgegw.payments.notices import Notices, page_of, position
from edgegw.payments.problems import Unanswered

T = TypeVar("T")
SCAN_MAX: Final = 10_000
"""Records of windows that are read at once."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to a payment after its answer."""

    record: str
    type: str
    """`post`, `void`, `reversal`, `expiry`, `confirm` or `decline`."""
    id: str
    """The id of the post, void or reversal; "" for what no client asked for."""
    outcome: str
    reason: str
    liable: str
    """Of a late decline: who bears it, `merchant` or `branch`."""
    amount_minor: int
    at_ns: int


class PaymentView(msgspec.Struct, frozen=True, kw_only=True):
    """A payment's answer, and what became of it."""

    answer: Answer
    events: tuple[Event, ...]


class Proven(msgspec.Struct, frozen=True, kw_only=True):
    """The end of the journal."""

    epoch: int
    size: int
    checkpoint: str
    cosigned_size: int
    cosignature: str


class History:
    """All reads of one box."""

    def __init__(self, store: Store, *, epoch: Callable[[], int]) -> None:
        self._records = store
        self._epoch = epoch
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reads")

    @property
    def folder(self) -> Path:
        """Where the ledger lies."""
        return self._records.path.parent

    def close(self) -> None:
        """End the thread of reads."""
        self._thread.shutdown()

    async def _read(self, read: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, read)

    async def answer(self, client: str, payment_id: str) -> Answer | None:
        """The first answer of an identity, or what is left of it where the record was pruned."""
        return await self._read(lambda: self._answer(self._known(client, payment_id)))

    def _known(self, client: str, payment_id: str) -> Transfer | Refusal | Pruned | None:
        known = self._records.find([(client, payment_id)]).get((client, payment_id))
        if known is None or isinstance(known, Pruned):
            return known
        record = decode_record(known)
        return record if isinstance(record, Transfer | Refusal) else None

    def _answer(self, known: Transfer | Refusal | Pruned | None) -> Answer | None:
        if isinstance(known, Pruned):
            return answer_from_pruned(known, box=self._records.meta("box") or "")
        return None if known is None else answer_from(known)

    async def view(self, client: str, payment_id: str) -> PaymentView | None:
        """A payment's answer and what became of it."""
        return await self._read(lambda: self._view(client, payment_id))

    def _view(self, client: str, payment_id: str) -> PaymentView | None:
        record = self._known(client, payment_id)
        if isinstance(record, Pruned):
            return PaymentView(
                answer=answer_from_pruned(record, box=self._records.meta("box") or ""), events=()
            )
        if record is None:
            return None
        later = [decode_record(body) for body in self._records.about(_position(record.epoch, record.seq))]
        events = [event for event in map(_event, later) if event is not None]
        return PaymentView(answer=answer_from(record), events=tuple(events))

    async def receipt(self, client: str, payment_id: str) -> Receipt | None:
        """The receipt of an identity, proven against the newest checkpoint of its epoch. Raises Unanswered
        where its record was pruned."""
        return await self._read(lambda: self._receipt(client, payment_id))

    def _receipt(self, client: str, payment_id: str) -> Receipt | None:
        body = self._records.find([(client, payment_id)]).get((client, payment_id))
        if body is None:
            return None
        if isinstance(body, Pruned):
            place = place_text(epoch=body.epoch, seq=body.seq)
            raise Unanswered("record_pruned", f"record {place} is not kept at this box; the centre proves it")
        record = decode_record(body)
        return receipt_of(self._records, epoch=record.epoch, seq=record.seq)

    async def window(self, number: int) -> WindowClosed | None:
        """The record of a closed window."""
        return next(
            (closed for closed in await self.windows(after=number - 1, limit=1) if closed.window == number),
            None,
        )

    async def windows(self, *, after: int, limit: int) -> list[WindowClosed]:
        """Closed windows with a number above `after`, oldest first."""
        return await self._read(lambda: self._windows(after, limit))

    def _windows(self, after: int, limit: int) -> list[WindowClosed]:
        found: list[WindowClosed] = []
        position = -1
        while len(found) < limit:
            rows = self._records.of_type("window", after=position, limit=SCAN_MAX)
            closed = [decode_record(body) for _, body in rows]
            found += [
                record for record in closed if isinstance(record, WindowClosed) and record.window > after
            ]
            if len(rows) < SCAN_MAX:
                break
            position = rows[-1][0]
        return found[:limit]

    async def transfers(self, places: Sequence[tuple[int, int]]) -> list[Transfer]:
        """The cleared requests at these (epoch, seq); those that are not kept here are left out."""
        return await self._read(lambda: self._transfers(places))

    def _transfers(self, places: Sequence[tuple[int, int]]) -> list[Transfer]:
        bodies = [self._records.at(_position(epoch, seq)) for epoch, seq in places]
        records = [decode_record(body) for body in bodies if body is not None]
        return [record for record in records if isinstance(record, Transfer)]

    async def batches(
        self, start: str, *, merchant: str, terminal: str, limit: int
    ) -> tuple[list[Answer], str]:
        """Closed batches from the record `start` back ("" is none), newest first, and where to go on. It ends
        before records that are not kept."""
        return await self._read(lambda: self._batches(start, merchant, terminal, limit))

    def _batches(self, place: str, merchant: str, terminal: str, limit: int) -> tuple[list[Answer], str]:
        found: list[Answer] = []
        while place and len(found) < limit:
            body = self._records.at(_position(*parse_place(place)))
            record = None if body is None else decode_record(body)
            if not isinstance(record, Transfer) or record.batch is None:
                return found, ""
            if (record.request.merchant, record.request.terminal) != (merchant, terminal):
                return found, ""
            found.append(answer_from(record))
            place = record.batch.previous
        return found, place

    async def notices(self, client: str, *, after: str | None, limit: int) -> Notices:
        """What became of a client's payments later, beyond the place `after` ("" is the beginning); with
        None, what it has not acknowledged."""
        return await self._read(lambda: page_of(self._records, client, after=after, limit=limit))

    async def late_word(self, client: str, place: str) -> bool:
        """Whether a client may acknowledge up to this place: a late word is there, or it has done so."""
        return await self._read(lambda: self._late_word(client, position(place)))

    def _late_word(self, client: str, at: int) -> bool:
        return at <= self._records.late.noted(client).up_to or self._records.late.is_late(at)

    async def head(self) -> Proven:
        """The end of the journal in the running epoch, with what the centre has cosigned of it."""
        return await self._read(self._head)

    def _head(self) -> Proven:
        epoch = self._epoch()
        head = self._records.head(epoch)
        size, note = self._records.cosignature(epoch) or (0, "")
        return Proven(
            epoch=epoch,
            size=0 if head is None else head.size,
            checkpoint="" if head is None else head.checkpoint,
            cosigned_size=size,
            cosignature=note,
        )


def _position(epoch: int, seq: int) -> int:
    return position_of(epoch=epoch, seq=seq)


def _event(record: Record) -> Event | None:
    place = place_text(epoch=record.epoch, seq=record.seq)
    if isinstance(record, Transfer):
        answer = answer_from(record)
        return Event(
            record=place,
            type=answer.kind,
            id=answer.id,
            outcome=answer.outcome,
            reason=answer.reason,
            liable="",
            amount_minor=answer.amount_minor,
            at_ns=record.at_ns,
        )
    if isinstance(record, Expiry):
        return _unasked(
            record, place, kind="expiry", outcome="applied", amount_minor=record.legs[0].amount_minor
        )
    if not isinstance(record, DirectiveApplied):
        return None
    directive = decode_directive(bytes(record.directive))
    if isinstance(directive, ConfirmDirective):
        return _unasked(
            record, place, kind="confirm", outcome=record.outcome, amount_minor=directive.amount_minor
        )
    if isinstance(directive, DeclineDirective):
        declined = _unasked(
            record, place, kind="decline", outcome=record.outcome, amount_minor=directive.amount_minor
        )
        return msgspec.structs.replace(declined, reason=directive.reason, liable=directive.liable)
    return None


def _unasked(
    record: Expiry | DirectiveApplied, place: str, *, kind: str, outcome: str, amount_minor: int
) -> Event:
    return Event(
        record=place,
        type=kind,
        id="",
        outcome=outcome,
        reason="",
        liable="",
        amount_minor=amount_minor,
        at_ns=record.at_ns,
    )
