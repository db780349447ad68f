"""Power cuts of a disk as they are: what was written since the last flush is there, torn, or not at all.

QEMU logs what the guest writes and flushes (its driver blklogwrites, in the format of Linux' dm-log-writes).
From the disk as it was at the start and this log, `Sweep` makes the disk of a cut at any moment: everything
before the last flush, and of the writes since then what chance leaves of them. A killed QEMU alone would show
less: the memory of this machine keeps what the guest had written.

A write that was under way when a flush was asked for counts as flushed; the log does not say when it ended.
Leaves out what such a disk must still hold.

CUTS says how many moments a sweep looks at, CUTS_SEED repeats those of another run.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from firmware.layout import SECTOR_BYTES

CUTS: Final = int(os.environ.get("CUTS") or 200)
_MAGIC: Final = 0x6A736677736872
_HEAD: Final = struct.Struct("<QQQI")
_ENTRY: Final = struct.Struct("<QQQQ")
_FLUSH, _FUA, _DISCARD = 1, 2, 4
_ZEROS: Final = bytes(1 << 20)


def drawn_seed() -> int:
    """What a sweep's chance begins with; told, so that its moments can be had again."""
    seed = int(os.environ.get("CUTS_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"CUTS_SEED={seed}")
    return seed


class Written(NamedTuple):
    """One entry of a log: what was written where, or a flush (no bytes)."""

    at: int
    """The entry's own place in the log."""
    sector: int
    sectors: int
    flags: int

    @property
    def is_flush(self) -> bool:
        """Whether everything before it is on the medium."""
        return bool(self.flags & _FLUSH)

    @property
    def data_at(self) -> int:
        """Where in the log its bytes begin."""
        return self.at + SECTOR_BYTES


def entries(log: Path) -> list[Written]:
    """What a log holds, in its order, up to where QEMU was killed."""
    size, found = log.stat().st_size, []
    with log.open("rb") as file:
        head = file.read(SECTOR_BYTES)
        # QEMU writes the head now and then alone; a log that was ended before has zeros there.
        if any(head):
            magic, version, _, sector_bytes = _HEAD.unpack(head[: _HEAD.size])
            assert (magic, version, sector_bytes) == (_MAGIC, 1, SECTOR_BYTES), (magic, version, sector_bytes)
        at = SECTOR_BYTES
        while at + SECTOR_BYTES <= size:
            file.seek(at)
            sector, sectors, flags, _ = _ENTRY.unpack(file.read(_ENTRY.size))
            one = Written(at, sector, sectors, flags)
            end = one.data_at + (0 if flags & _DISCARD else sectors * SECTOR_BYTES)
            # A hole: this entry was not yet in the log, and those behind it cannot be found.
            if end > size or (sectors == 0 and not one.is_flush):
                break
            found.append(one)
            at = end
    return found


class Sweep:
    """A disk that goes forward through a log, and stops at cuts."""

    def __init__(self, disk: Path, log: Path) -> None:
        """disk: a copy of what it was at the log's start; it is changed."""
        self.written = entries(log)
        self._disk = disk.open("r+b", buffering=0)
        self._log = log.open("rb", buffering=0)
        self._next = 0
        self._unflushed: list[Written] = []

    def close(self) -> None:
        """Leave the files alone."""
        self._disk.close()
        self._log.close()

    def forward(self, to: int) -> None:
        """Go on until so many entries were asked of the disk."""
        for one in self.written[self._next : to]:
            if one.sectors:
                self._unflushed.append(one)
            if one.flags & (_FLUSH | _FUA):
                for each in self._unflushed:
                    self._apply(each, one_of=((0, each.sectors),))
                self._unflushed.clear()
        self._next = max(self._next, to)

    @contextmanager
    def cut(self, chance: random.Random) -> Iterator[int]:
        """The disk after a cut here, within the block; how many writes nobody had flushed."""
        kept = [(one, self._left(one, chance)) for one in _survivors(self._unflushed, chance)]
        before = [
            (place, self._read(place, size))
            for one, parts in kept
            for place, size in ((one.sector * SECTOR_BYTES, one.sectors * SECTOR_BYTES),)
            if parts
        ]
        try:
            for one, parts in kept:
                self._apply(one, one_of=parts)
            yield len(self._unflushed)
        finally:
            for place, body in reversed(before):
                os.pwrite(self._disk.fileno(), body, place)

    def lose(self, chance: random.Random) -> int:
        """Cut here for good; how many writes were not flushed."""
        for one in _survivors(self._unflushed, chance):
            self._apply(one, one_of=self._left(one, chance))
        lost = len(self._unflushed)
        self._unflushed.clear()
        return lost

    def _left(self, one: Written, chance: random.Random) -> Sequence[tuple[int, int]]:
        """Which sectors of a write that reached the medium are there: all, or those before it was torn."""
        if chance.random() < 0.8 or one.sectors < 2:
            return ((0, one.sectors),)
        return ((0, chance.randrange(1, one.sectors)),)

    def _read(self, place: int, size: int) -> bytes:
        body = os.pread(self._disk.fileno(), size, place)
        return body + bytes(size - len(body))

    def _apply(self, one: Written, *, one_of: Sequence[tuple[int, int]]) -> None:
        for first, count in one_of:
            place, size = (one.sector + first) * SECTOR_BYTES, count * SECTOR_BYTES
            if one.flags & _DISCARD:
                self._zero(place, size)
            else:
                body = os.pread(self._log.fileno(), size, one.data_at + first * SECTOR_BYTES)
                os.pwrite(self._disk.fileno(), body, place)

    def _zero(self, place: int, size: int) -> None:
        while size > 0:
            portion = _ZEROS[:size]
            os.pwrite(self._disk.fileno(), portion, place)
            place, size = place + len(portion), size - len(portion)


def _survivors(unflushed: Sequence[Written], chance: random.Random) -> list[Written]:
    """Of writes that nobody flushed: none, some in any order, or all until a moment."""
    kind = chance.randrange(4)
    if kind == 0 or not unflushed:
        return []
    if kind == 1:
        return list(unflushed[: chance.randrange(len(unflushed)) + 1])
    share = chance.random()
    return [one for one in unflushed if chance.random() < share]


def cut_out(disk: Path, target: Path, *, start: int, size: int) -> None:
    """Copy a part of a disk into a file of its own of that size, with its holes."""
    target.unlink(missing_ok=True)
    with disk.open("rb") as read, target.open("wb") as write:
        write.truncate(size)
        for first, end in _extents(read.fileno(), start, start + size):
            _copy(read.fileno(), write.fileno(), first, end, to=first - start)


def _extents(descriptor: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    while start < end:
        try:
            first = os.lseek(descriptor, start, os.SEEK_DATA)
        except OSError:
            return  # nothing but a hole follows
        if first >= end:
            return
        start = min(os.lseek(descriptor, first, os.SEEK_HOLE), end)
        yield first, start


def _copy(read: int, write: int, start: int, end: int, *, to: int) -> None:
    while start < end:
        body = os.pread(read, min(1 << 20, end - start), start)
        if not body:
            return
        os.pwrite(write, body, to)
        start, to = start + len(body), to + len(body)
