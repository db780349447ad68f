"""What a client is told of its payments after their answers: derived from the journal, never a second truth.

Owns what a notice says and which are a client's. Leaves out finding late words and acknowledgements
(`ledger.late_words`) and carrying notices to whoever wants them (`payments.webhooks`, the HTTP interface).
"""

from __future__ import annotations

from typing import Final

import msgspec

from edgegw.core.records import (
    ConfirmDirective,
    DeclineDirective,
    DirectiveApplied,
    Expiry,
    Leg,
    Record,
    Refusal,
    Transfer,
    decode_directive,
    decode_record,
    parse_place,
    place_text,
)
from edgegw.ledger.late_words import LateWord, Noted
from edgegw.ledger.rows import place_at, position_of
from edgegw.ledger.store import Store

SCAN_MAX: Final = 10_000
"""Late words looked through for one page: about 20 ms."""


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a payment after its answer."""

    record: str
    """epoch/seq of the record that it is of; it rises, and names the notice."""
    id: str
    """The payment's; of a reversal that took effect, the reversal's."""
    outcome: str
    """`confirmed` or `declined` by the centre, `expired`, or `reversed`: a reversal that was kept has met its
    payment, which is refused."""
    money: str
    """What came of the payee's money: `kept`, `taken_back`, `receivable` (kept; the branch bears it and
    collects), `released` (a hold that is over), or `never_moved`."""
    reason: str
    liable: str
    """Of a late decline: who bears it, `merchant` or `branch`; else ""."""
    owner: str
    """Of a late decline: who must act now, `merchant:ACCOUNT` or `branch:BOX`; else ""."""
    amount_minor: int
    currency: str
    debit_account_id: str
    credit_account_id: str
    reference: str
    """The client's own words about the payment."""
    payment_record: str
    at_ns: int
    """The box's own time."""
    wall_ns: int
    """Nanoseconds since 1970 by the box's clock."""
    acknowledged: bool = False


class Notices(msgspec.Struct, frozen=True, kw_only=True):
    """A page of notices, and where the next one starts."""

    notices: tuple[Notice, ...]
    next_after: str
    more: bool
    acknowledged_up_to: str
    """What the client has taken note of, to its last record; "" for nothing."""


def position(place: str) -> int:
    """The position of an epoch/seq."""
    epoch, seq = parse_place(place)
    return position_of(epoch=epoch, seq=seq)


def place(position: int) -> str:
    """The epoch/seq of a position; "" before the first."""
    if position < 0:
        return ""
    epoch, seq = place_at(position)
    return place_text(epoch=epoch, seq=seq)


def page_of(store: Store, client: str, *, after: str | None, limit: int) -> Notices:
    """A client's notices behind a place; with None, those that it has not acknowledged, the oldest first."""
    noted = store.late.noted(client)
    start = first_unnoted(noted) if after is None else position(after) if after else -1
    found: list[Notice] = []
    words = store.late.after(start, limit=SCAN_MAX)
    reached = start
    for word in words:
        is_noted = word.position <= noted.up_to and word.position not in noted.apart
        if not (after is None and is_noted):
            notice = notice_of(store, client, word)
            if notice is not None:
                found.append(msgspec.structs.replace(notice, acknowledged=is_noted))
        reached = word.position
        if len(found) == limit:
            break
    more = bool(words) and (len(words) == SCAN_MAX or reached != words[-1].position)
    return Notices(
        notices=tuple(found), next_after=place(reached), more=more, acknowledged_up_to=place(noted.up_to)
    )


def first_unnoted(noted: Noted) -> int:
    """The position behind which something may not be acknowledged."""
    return min((one - 1 for one in noted.apart), default=noted.up_to)


def notice_of(store: Store, client: str, word: LateWord) -> Notice | None:
    """What a late word tells this client; None where it is not for it, or changed nothing."""
    if word.client != client:
        return None
    record, original = _at(store, word.position), _at(store, word.original)
    if not isinstance(original, Transfer):
        return None
    if isinstance(record, Expiry):
        return _notice(record, original, original.legs[0], outcome="expired", money="released")
    if isinstance(record, Refusal):
        asked = record.request
        never = Leg(asked.debit_account_id, asked.credit_account_id, asked.amount_minor)
        return _notice(record, original, never, outcome="reversed", money="never_moved", reason=record.code)
    if not isinstance(record, DirectiveApplied) or record.outcome != "applied":
        return None
    said = decode_directive(bytes(record.directive))
    if isinstance(said, ConfirmDirective):
        return _notice(record, original, original.legs[0], outcome="confirmed", money="kept")
    if not isinstance(said, DeclineDirective):
        return None
    is_merchants = said.liable == "merchant"
    owner = f"merchant:{original.legs[0].credit_account_id}" if is_merchants else f"branch:{record.box}"
    return _notice(
        record,
        original,
        original.legs[0],
        outcome="declined",
        money="taken_back" if is_merchants else "receivable",
        reason=said.reason,
        liable=said.liable,
        owner=owner,
    )


def _notice(
    record: Expiry | DirectiveApplied | Refusal,
    original: Transfer,
    leg: Leg,
    *,
    outcome: str,
    money: str,
    reason: str = "",
    liable: str = "",
    owner: str = "",
) -> Notice:
    asked = record.request if isinstance(record, Refusal) else original.request
    return Notice(
        record=place_text(epoch=record.epoch, seq=record.seq),
        id=original.request.id,
        outcome=outcome,
        money=money,
        reason=reason,
        liable=liable,
        owner=owner,
        amount_minor=leg.amount_minor,
        currency=asked.currency,
        debit_account_id=asked.debit_account_id,
        credit_account_id=leg.credit_account_id,
        reference=original.request.reference,
        payment_record=place_text(epoch=original.epoch, seq=original.seq),
        at_ns=record.at_ns,
        wall_ns=record.wall_ns,
    )


def _at(store: Store, position: int) -> Record | None:
    body = store.at(position)
    return None if body is None else decode_record(body)
