"""Records as plain data: their legs, their places, and the ids by which later legs name them.

Imports nothing of the product; the words in quotes are the wire's.
"""

from __future__ import annotations

from typing import Any

Plain = dict[str, Any]
Leg = tuple[str, str, int, int, str, int]
PENDING, POST, VOID = 2, 4, 8


def leg(debit: str, credit: str, amount: int, flags: int = 0, pending: str = "", timeout_s: int = 0) -> Leg:
    """A leg as a record writes it."""
    return (debit, credit, amount, flags, pending, timeout_s)


def legs_of(record: Plain) -> list[Leg]:
    """The legs of a record."""
    legs = record.get("legs", ())
    return [leg(*one) for one in legs] if isinstance(legs, list) else []


def place(record: Plain) -> str:
    """Where a record stands."""
    return f"{record['epoch']}/{record['seq']}"


def hold_id(record: Plain, index: int = 0) -> str:
    """The id of a record's leg, as later legs name it."""
    return f"{record['epoch'] << 96 | record['seq'] << 32 | index << 1 | 1:032x}"


def original_place(pending: str) -> str:
    """Where the record stands whose first leg a later leg names."""
    number = int(pending, 16)
    return f"{number >> 96}/{number >> 32 & (2**64 - 1)}"


def first_leg(pending: str) -> str:
    """The id of the first leg of the record whose leg this is."""
    return f"{int(pending, 16) >> 32 << 32 | 1:032x}"
