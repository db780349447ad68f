"""What a package must be before it is held against a log: its measures, and the place that each of its
records says it has. Leaves out signatures and proofs (`core.exchange`)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edgegw.core.messages import PACKAGE_BYTES_MAX, PACKAGE_RECORDS_MAX, RECORD_BYTES_MAX, Package
from edgegw.core.records import UNREADABLE


def shape_fault(package: Package) -> str:
    """What is wrong with its measures, "" when nothing is."""
    if package.old_size < 0 or package.size == 0:
        return f"from {package.old_size}, {len(package.records)} records: nothing"
    if len(package.records) > PACKAGE_RECORDS_MAX:
        return f"{len(package.records)} records; {PACKAGE_RECORDS_MAX} at most"
    if len(package.records) > 1 and sum(map(len, package.records)) > PACKAGE_BYTES_MAX:
        return f"more than {PACKAGE_BYTES_MAX} bytes of records"
    if any(len(record) > RECORD_BYTES_MAX for record in package.records):
        return f"a record of more than {RECORD_BYTES_MAX} bytes"
    return ""


class _Place(msgspec.Struct):
    """What a record and a directive say about their own place; all else is for whoever replays them."""

    bank: str
    box: str
    seq: int
    epoch: int = -1
    incarnation: int = -1


_place_decoder: msgspec.json.Decoder[_Place] = msgspec.json.Decoder(_Place)


def place_fault(records: Sequence[bytes], *, start: int, field: str, number: int, bank: str, box: str) -> str:
    """The first of these records, from seq `start` on, that says it is of another place, "" when none does;
    field: what the number is, `epoch` or `incarnation`."""
    for seq, record in enumerate(records, start):
        try:
            place = _place_decoder.decode(record)
        except UNREADABLE as problem:
            return f"record {seq}: {problem}"
        says = place.epoch if field == "epoch" else place.incarnation
        if (place.bank, place.box, says, place.seq) != (bank, box, number, seq):
            return f"record {seq} says {place.bank}/{place.box} {field} {says} seq {place.seq}"
    return ""
