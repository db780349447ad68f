"""Lists of accounts, cards, terminals or merchants, up to a few million each: what is kept of them, and how
one is looked up. Pure.

A list is one block of bytes: of each id the first half of an SM3 over what it is and the id itself, sorted.
So whoever reads a list learns no name of a card from it, and one is found by halves in 16 bytes an entry.
It is named by its SM3 and travels by that name, never inside the site's settings. Leaves out where the blocks
lie.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Final

import msgspec

from edgegw.core.journal import sm3

ENTRY_BYTES: Final = 16
"""Two ids out of four million share an entry about once in 10**25 lists."""
ENTRIES_MAX: Final = 4_000_000
"""What a box fetches as one bundle (64 MB)."""


def entry(of: str, whose: str) -> bytes:
    """What stands in a list for one id."""
    return sm3(f"{of}:{whose}".encode())[:ENTRY_BYTES]


def block_of(of: str, ids: Iterable[str]) -> bytes:
    """The list of these ids; each counts once."""
    return b"".join(sorted({entry(of, whose) for whose in ids}))


class HeldList:
    """A list in memory."""

    __slots__ = ("_block", "_size")

    def __init__(self, block: bytes) -> None:
        """Takes a block that `check_block` found sound."""
        self._block = block
        self._size = len(block) // ENTRY_BYTES

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, place: int) -> bytes:
        start = place * ENTRY_BYTES
        return self._block[start : start + ENTRY_BYTES]

    def __iter__(self) -> Iterator[bytes]:
        return (self[place] for place in range(self._size))

    def has(self, of: str, whose: str) -> bool:
        """Whether this id is on the list."""
        wanted = entry(of, whose)
        place = bisect_left(self, wanted)
        return place < self._size and self[place] == wanted


def check_block(block: bytes, *, digest: str, entries: int) -> None:
    """Raise msgspec.ValidationError unless this is the list that the settings name: its digest, its length,
    its order."""
    found = sm3(block).hex()
    if found != digest:
        raise msgspec.ValidationError(f"the list has digest {found}, the settings name {digest}")
    if len(block) != entries * ENTRY_BYTES:
        raise msgspec.ValidationError(f"list {digest} has {len(block)} bytes, not {entries} entries")
    # One by one: a sort of millions would hold up every other thread, and take some 100 bytes for each.
    if any(first >= second for first, second in pairwise(HeldList(block))):
        raise msgspec.ValidationError(f"list {digest} is not sorted")
