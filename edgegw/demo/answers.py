"""What the clients were answered: one line of JSON each, on disk before that client says its next word.

Everything that the report knows of the day comes from this file, never from the program that is under test.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec


class Opening(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="opening"):
    """What everyone had when the day began."""

    accounts: dict[str, int]
    """Account to its money at the centre, minor units."""
    homes: dict[str, str]
    currencies: dict[str, str]


class Answered(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="answered"):
    """A request and its answer."""

    number: int
    phase: str
    story: str
    way: str
    client: str
    kind: str
    id: str
    debit: str
    credit: str
    amount_minor: int
    """What moved, or would have."""
    currency: str
    original: str
    outcome: str
    """`cleared`, `refused`, `kept`, or `error` for an answer that decides nothing."""
    cleared_by: str = ""
    code: str = ""
    """Why it was refused."""
    record: str = ""
    """epoch/seq, as far as the answer tells it: ISO 8583 has the seq alone."""
    expect: str = ""
    again: bool = False
    """Sent after it had been answered: the answer must be the first one's bytes."""
    attempts: int = 1
    sent_ns: int
    answered_ns: int
    body: str
    """The answer itself: JSON text, or the fields of an ISO 8583 message without the card number."""


class Mistaken(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="mistaken"):
    """A wrong message and what came back."""

    number: int
    way: str
    what: str
    expect: tuple[str, ...]
    got: str
    field: str
    clear: bool
    """Whether the error names what is wrong and, where there is one, the field."""
    id: str
    body: str


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="event"):
    """Something that the demo did to the line or the processes."""

    what: str
    at_ns: int
    detail: str = ""
    numbers: tuple[int, ...] = ()


class Told(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="told"):
    """The centre's late word on a stand-in, as the box told the client that had asked for it."""

    client: str
    id: str
    outcome: str
    """`confirmed` or `declined`."""
    liable: str
    amount_minor: int


Entry = Opening | Answered | Mistaken | Event | Told

_decoder: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(Entry)


class AnswerFile:
    """Appends entries; those that wait together share one fsync."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._lines: list[bytes] = []
        self._next: asyncio.Future[None] | None = None
        self._flushing: asyncio.Task[None] | None = None

    async def write(self, *entries: Entry) -> None:
        """Return when the entries are on disk."""
        self._lines += (msgspec.json.encode(entry) + b"\n" for entry in entries)
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        waiter = self._next
        if self._flushing is None:
            self._flushing = asyncio.ensure_future(self._flush())
        await waiter

    async def _flush(self) -> None:
        while self._next is not None:
            lines, waiter = self._lines, self._next
            self._lines, self._next = [], None
            try:
                await asyncio.to_thread(self._store, b"".join(lines))
            except OSError as problem:
                waiter.set_exception(problem)
            else:
                waiter.set_result(None)
        self._flushing = None

    def _store(self, lines: bytes) -> None:
        self._file.write(lines)
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; everything written is on disk already."""
        self._file.close()


def read_entries(path: Path) -> Iterator[Entry]:
    """Every entry, in the order in which the answers came."""
    with path.open("rb") as file:
        for line in file:
            yield _decoder.decode(line)
