"""The boxes' side: journals from files that `edgegw journal export` wrote, and from data directories.

Unlike `hub.exported`, this reads on behind every fault: what is wrong is what an auditor wants to know. A
directory's journal is read beside a running box, up to the head that it had when it was opened.
"""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import msgspec

from edgegw.core.exchange import frontier_at
from edgegw.core.export import BLOCK_RECORDS
from edgegw.core.journal import FIRST_PREVIOUS, HASH_BYTES, Frontier, NoteError, ProofError, parse_checkpoint
from edgegw.core.records import UNREADABLE
from edgegw.errors import LedgerForeign, OperatingError
from edgegw.hub.exported import Announced
from edgegw.ledger.boot import LEDGER_NAME
from edgegw.ledger.store import Head, Store

STEP: Final = 4_096
STEP_BYTES: Final = 8 * 2**20
_LEAVES: Final = b'{"leaves":'
_CHECKPOINT: Final = b'{"checkpoint":'


Entry = tuple[int, bytes | None, bytes | None]
"""One place of a journal: seq, leaf and bytes; None for what is not there."""


class Journal(ABC):
    """One epoch's journal as a source has it; `head` is known once all entries were read."""

    box: str
    epoch: int
    bank: str
    source: str
    first_seq: int
    previous: bytes | None
    edge: Frontier | None
    ends: bool
    """Whether the box has no more than this: a file may be older than what the hub has by now."""
    size: int
    root: bytes
    checkpoint: str
    keys: Sequence[str]
    """The statements by which other keys took over, as the source has them."""
    fault: str

    @abstractmethod
    def blocks(self) -> Iterator[Sequence[Entry]]:
        """All places in order, those of missing records too."""


class DirectoryJournal(Journal):
    """One epoch of a ledger file."""

    def __init__(self, store: Store, head: Head, *, bank: str, box: str, source: str) -> None:
        self._store = store
        self.bank, self.box, self.epoch, self.source = bank, box, head.epoch, source
        self.first_seq = store.pruned.horizon(head.epoch)
        self.size, self.root, self.checkpoint = head.size, head.root, head.checkpoint
        self.ends, self.fault = True, ""
        self.keys = [one.note for one in store.keys.notes(head.epoch)]
        self.previous, self.edge = FIRST_PREVIOUS, Frontier()
        if self.first_seq:
            self._begin_behind_the_pruned(head)

    def _begin_behind_the_pruned(self, head: Head) -> None:
        try:
            node = self._store.node(head.epoch, head.size)
            self.previous = node(0, self.first_seq - 1)
            self.edge = frontier_at(self.first_seq, node)
        except (OperatingError, ProofError) as problem:
            self.previous, self.edge, self.fault = None, None, str(problem)

    def blocks(self) -> Iterator[Sequence[Entry]]:
        """See Journal."""
        seq = self.first_seq
        while seq < self.size:
            limit = min(STEP, self.size - seq)
            found = self._store.records(epoch=self.epoch, start=seq, limit=limit, bytes_max=STEP_BYTES)
            found = [entry for entry in found if entry.seq < self.size]
            if not found:
                break
            end = found[-1].seq + 1
            if end - seq == len(found):
                yield found
            else:
                held = {entry.seq: entry for entry in found}
                yield [held.get(place, (place, None, None)) for place in range(seq, end)]
            seq = end
        yield from _lost(seq, self.size)


class FileJournal(Journal):
    """An exported journal."""

    def __init__(self, path: Path) -> None:
        """Raises ExportError for a file that is no exported journal of a box."""
        announced = Announced(path)
        self._path = path
        self.bank, self.box, self.epoch = announced.bank, announced.box, announced.epoch
        self.source, self.first_seq = str(path), announced.start
        self.previous, self.edge = announced.previous, announced.frontier.copy()
        self.size, self.root, self.checkpoint = announced.start, b"", ""
        self.ends, self.fault = False, ""
        self.keys = ()

    def blocks(self) -> Iterator[Sequence[Entry]]:
        """See Journal."""
        seq, lines = self.first_seq, list[bytes]()
        with self._path.open("rb") as file:
            file.readline()
            for line in file:
                if line.startswith(_CHECKPOINT):
                    self._end(line)
                    break
                is_leaves = line.startswith(_LEAVES)
                if is_leaves or len(lines) >= 2 * BLOCK_RECORDS:
                    block = self._block(seq, lines, _leaves(line) if is_leaves else [])
                    yield block
                    seq, lines = seq + len(block), []
                if not is_leaves:
                    lines.append(line.removesuffix(b"\n"))
        rest = self._block(seq, lines, [])
        yield rest
        seq += len(rest)
        if not self.checkpoint:
            self.size, self.fault = seq, self.fault or "the file ends without its signed head"
        yield from _lost(seq, self.size)

    def _block(self, start: int, lines: list[bytes], leaves: list[bytes]) -> list[Entry]:
        """The places of a block. Where lines are missing or too many, each record's own seq places it."""
        if not leaves:
            return [(seq, None, body) for seq, body in enumerate(lines, start)]
        if len(lines) == len(leaves):
            return list(zip(range(start, start + len(lines)), leaves, lines, strict=True))
        placed: dict[int, bytes] = {}
        for body in lines:
            seq = _seq_of(body)
            if seq in placed:
                self.fault = self.fault or f"record {seq} stands there twice"
            placed.setdefault(seq, body)
        return [(seq, leaf, placed.get(seq)) for seq, leaf in enumerate(leaves, start)]

    def _end(self, line: bytes) -> None:
        try:
            trailer = msgspec.json.decode(line, type=_Trailer)
            self.checkpoint, self.keys = trailer.checkpoint, trailer.keys
            head = parse_checkpoint(self.checkpoint)[0]
            self.size, self.root = head.size, head.root
        except (*UNREADABLE, NoteError) as problem:
            self.fault = f"the line with the signed head cannot be read: {problem}"


class _Trailer(msgspec.Struct):
    checkpoint: str
    keys: tuple[str, ...] = ()


class _Leaves(msgspec.Struct):
    leaves: str


class _Seq(msgspec.Struct):
    seq: int


def _leaves(line: bytes) -> list[bytes]:
    try:
        raw = base64.b64decode(msgspec.json.decode(line, type=_Leaves).leaves)
    except (*UNREADABLE, ValueError):
        return []
    return [raw[start : start + HASH_BYTES] for start in range(0, len(raw), HASH_BYTES)]


def _seq_of(body: bytes) -> int:
    try:
        return msgspec.json.decode(body, type=_Seq).seq
    except UNREADABLE:
        return -1


def _lost(start: int, end: int) -> Iterator[list[Entry]]:
    """Blocks of places that nothing is held of."""
    for first in range(start, end, STEP):
        yield [(seq, None, None) for seq in range(first, min(end, first + STEP))]


def open_journals(places: list[Path], stack: ExitStack) -> list[Journal]:
    """The journals of files and directories, stores open for as long as the stack. Raises ExportError and
    OperatingError."""
    journals: list[Journal] = []
    for place in places:
        if not place.is_dir():
            journals.append(FileJournal(place))
            continue
        if not (place / LEDGER_NAME).exists():
            raise LedgerForeign(f"{place} holds no ledger", hint="Give a box's data directory.")
        store = Store.open_reader(place / LEDGER_NAME)
        stack.callback(store.close)
        bank, box = store.meta("bank"), store.meta("box")
        if bank is None or box is None:
            raise LedgerForeign(f"{store.path} does not say whose ledger it is")
        journals += [
            DirectoryJournal(store, head, bank=bank, box=box, source=str(place))
            for head in store.heads()
            if head.size
        ]
    return journals
