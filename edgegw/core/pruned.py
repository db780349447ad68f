"""What stays of a decided request when its record is pruned: enough to know a repeat from a conflict and to
give its outcome again, for ever (DESIGN §3.4).

Leaves out where it lies (`ledger.remains`) and how it is shown (`payments.answer`).
"""

from __future__ import annotations

from typing import Final

import msgspec

from edgegw.core.journal import sm3
from edgegw.core.records import ClearedBy, Kind, Refusal, Request, Transfer

_SEAL_BYTES: Final = 8


class Remains(msgspec.Struct, frozen=True, array_like=True):
    """The outcome of a request without its content."""

    kind: Kind
    cleared_by: ClearedBy | None
    """None: it was refused."""
    reason: str
    """Of a refusal its code, else the transfer's reason."""
    amount_minor: int
    currency: str
    window: int
    at_ns: int
    wall_ns: int
    content: bytes
    """`content_digest` of the request."""


class Pruned(msgspec.Struct, frozen=True):
    """A decided request whose record is not at this box any more; the centre holds it."""

    client: str
    id: str
    epoch: int
    seq: int
    remains: Remains

    def is_of(self, request: Request) -> bool:
        """Whether this is the request that was decided, field by field."""
        return content_digest(request) == self.remains.content


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Remains).decode
_canonical: Final = msgspec.json.Encoder().encode


def content_digest(request: Request) -> bytes:
    """SM3 of a request's canonical form: equal for equal content, and for nothing else."""
    return sm3(_canonical(request))


def remains_of(record: Transfer | Refusal) -> Remains:
    """What stays of a record that decided a request."""
    request = record.request
    cleared = record if isinstance(record, Transfer) else None
    legs = () if cleared is None else cleared.legs
    return Remains(
        kind=request.kind,
        cleared_by=None if cleared is None else cleared.cleared_by,
        reason=record.reason if isinstance(record, Transfer) else record.code,
        amount_minor=request.amount_minor or (legs[0].amount_minor if legs else 0),
        currency=request.currency,
        window=0 if cleared is None else cleared.window,
        at_ns=record.at_ns,
        wall_ns=record.wall_ns,
        content=content_digest(request),
    )


def pack(remains: Remains, *, place: bytes) -> bytes:
    """Its bytes, sealed to where they lie: what rots, or stands for another identity, is found on reading."""
    body = _encode(remains)
    return body + sm3(place + body)[:_SEAL_BYTES]


def unpack(packed: bytes, *, place: bytes) -> Remains:
    """What `pack` wrote for this place; raises ValueError where it is anything else."""
    body, seal = packed[:-_SEAL_BYTES], packed[-_SEAL_BYTES:]
    if sm3(place + body)[:_SEAL_BYTES] != seal:
        raise ValueError("its seal is not that of its bytes")
    return _decode(body)
