"""The records of a push as the hub reads them: what cannot be read, or is known to be poisoned, is an item
with its problem. Leaves out what they mean (`hub.replay`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

import msgspec

from edgegw.core.records import (
    Directive,
    DirectiveApplied,
    Record,
    WindowClosed,
    decode_directive,
    decode_record,
)

Result = TypeVar("Result")

UNDECODABLE: Final = "undecodable"
CANNOT_BE_APPLIED: Final = "cannot_be_applied"
"""A record that met a fault of the hub's own program."""
NO_FAULTS: Final[Mapping[int, str]] = {}


class Poisoned(Exception):
    """Records that this program cannot apply though it should: nothing of their push is kept, and it is to
    be replayed with these set aside."""

    def __init__(self, faults: Mapping[int, str]) -> None:
        super().__init__(f"records {sorted(faults)} cannot be applied")
        self.faults = dict(faults)


def set_aside(replayed: Callable[[Mapping[int, str]], Result]) -> Result:
    """What `replayed` gives, with the records set aside that turn out to be poisoned: a second attempt finds
    them all, so the others wait for one more transaction."""
    faults: dict[int, str] = {}
    while True:
        try:
            return replayed(faults)
        except Poisoned as found:
            if found.faults.keys() <= faults.keys():
                raise
            faults |= found.faults


class First(NamedTuple):
    """The record that has an identity, and where it is kept."""

    record: Record
    box: str
    epoch: int
    seq: int


@dataclass(slots=True)
class Item:
    """One record of a push: its place, its bytes, and what could be read of them."""

    seq: int
    leaf: bytes
    body: bytes
    record: Record | None
    problem: str = ""
    reason: str = UNDECODABLE
    """What keeps it from being applied, where it has a problem."""
    directive: Directive | None = None
    first: First | None = None
    """Who has this one's identity already, anywhere in the fleet."""
    has_identity: bool = True


def read_items(
    bodies: Sequence[bytes], leaves: Sequence[bytes], *, start: int, poisoned: Mapping[int, str] = NO_FAULTS
) -> list[Item]:
    """The records of a push as items; what cannot be decoded, or is known to be poisoned (seq to fault),
    carries its problem."""
    items = []
    for offset, (body, leaf) in enumerate(zip(bodies, leaves, strict=True)):
        item = Item(seq=start + offset, leaf=leaf, body=body, record=None)
        items.append(item)
        if item.seq in poisoned:
            item.problem, item.reason = poisoned[item.seq], CANNOT_BE_APPLIED
            continue
        try:
            item.record = decode_record(body)
            if isinstance(item.record, DirectiveApplied):
                item.directive = decode_directive(bytes(item.record.directive))
            _check_texts(item)
        except msgspec.MsgspecError as problem:
            item.record, item.directive, item.problem = None, None, str(problem)
    return items


def _check_texts(item: Item) -> None:
    """Raise DecodeError for a text that no database keeps as text. The words of a window's record are
    compared, not kept."""
    if isinstance(item.record, WindowClosed):
        return
    said = item.record.directive if isinstance(item.record, DirectiveApplied) else b""
    for body in (item.body, bytes(said)):
        if b"\\u0000" in body and _has_zero(msgspec.json.decode(body)):
            raise msgspec.DecodeError("a text in it holds the character U+0000, which no column keeps")


def _has_zero(value: object) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_zero(part) for part in (*value, *value.values()))
    return isinstance(value, list) and any(map(_has_zero, value))
