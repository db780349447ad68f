"""How a record lies in the ledger file: its place as one number, and the columns beside its bytes.

The columns are an index, never a second truth: each is derived from the record here, for the writer and for
the full check alike.
"""

from __future__ import annotations

from typing import Final, NamedTuple, get_args

import msgspec

from edgegw.core.apply import original_of as original_in
from edgegw.core.records import (
    Acknowledgement,
    DirectiveApplied,
    Expiry,
    Record,
    Refusal,
    Transfer,
    decode_directive,
    decode_record,
    parse_place,
)

SEQ_BITS: Final = 40
UNREAD: Final = "unread"
"""The type of a record whose bytes this program cannot read: a later version's."""
SEQ_MAX: Final = (1 << SEQ_BITS) - 1
EPOCH_MAX: Final = (1 << 63 - SEQ_BITS) - 1


_DECIDED: Final = (Transfer, Refusal)  # a union would be made anew for each record
_WITH_ORIGINAL: Final = (Transfer, Refusal, Expiry)


class Row(NamedTuple):
    """One record as the `record` table holds it; `original` is a position."""

    position: int
    type: str
    client: str | None
    id: bytes | None
    original: int | None
    leaf: bytes
    body: bytes


def position_of(*, epoch: int, seq: int) -> int:
    """The rowid of a record (or directive): epoch (or incarnation), then seq, which is the leaf's index."""
    if not 0 <= epoch <= EPOCH_MAX or not 0 <= seq <= SEQ_MAX:
        raise ValueError(f"{epoch}/{seq} has no place: epochs end at {EPOCH_MAX}, sequences at {SEQ_MAX}")
    return epoch << SEQ_BITS | seq


def place_at(position: int) -> tuple[int, int]:
    """Epoch (or incarnation) and seq of a position."""
    return position >> SEQ_BITS, position & SEQ_MAX


def row_of(record: Record, *, leaf: bytes, body: bytes) -> Row:
    """The row of a record, its leaf hash and its verbatim bytes."""
    place = position_of(epoch=record.epoch, seq=record.seq)
    if isinstance(record, Transfer) and not record.original:  # nearly all are
        return Row(place, _TRANSFER, record.client, bytes.fromhex(record.request.id), None, leaf, body)
    client, identity = identity_of(record)
    return Row(place, type_of(record), client, identity, original_of(record), leaf, body)


def row_of_bytes(body: bytes, *, leaf: bytes, epoch: int, seq: int) -> Row:
    """The row of a record that somebody else wrote; of a type not known here, it is kept all the same."""
    try:
        return row_of(decode_record(body), leaf=leaf, body=body)
    except (msgspec.MsgspecError, ValueError):
        return Row(position_of(epoch=epoch, seq=seq), UNREAD, None, None, None, leaf, body)


def column_fault(row: Row) -> str:
    """Which column of a row does not say what its bytes say, "" when all do."""
    try:
        expected = row_of(decode_record(row.body), leaf=row.leaf, body=row.body)
    except (msgspec.MsgspecError, ValueError) as problem:
        return f"its bytes are no record: {problem}"
    differing = [name for name in Row._fields if getattr(row, name) != getattr(expected, name)]
    return f"column {differing[0]} does not say what its bytes say" if differing else ""


def type_of(record: Record) -> str:
    """The record's type as its bytes name it."""
    return _TYPES[type(record)]


_TYPES: Final = {kind: str(kind.__struct_config__.tag) for kind in get_args(Record)}
_TRANSFER: Final = _TYPES[Transfer]


def identity_of(record: Record) -> tuple[str | None, bytes | None]:
    """(client, id as 16 bytes) of a record that decided a request, (client, None) of one that says what a
    client has noted; (None, None) of any other."""
    if isinstance(record, _DECIDED):
        return record.client, bytes.fromhex(record.request.id)
    return (record.client if isinstance(record, Acknowledgement) else None), None


def original_of(record: Record) -> int | None:
    """The position of the record that this one resolves, reverses, expires, confirms or declines, or up to
    which it acknowledges."""
    if isinstance(record, _WITH_ORIGINAL):
        place = record.original
    elif isinstance(record, Acknowledgement):
        place = record.up_to
    elif isinstance(record, DirectiveApplied):
        place = _meant_by(record)
    else:
        return None
    if not place:
        return None
    epoch, seq = parse_place(place)
    return position_of(epoch=epoch, seq=seq)


def _meant_by(record: DirectiveApplied) -> str:
    """The place that an applied directive is about, "" where there is none or it cannot be read."""
    try:
        return original_in(decode_directive(bytes(record.directive)))
    except msgspec.MsgspecError:
        return ""
