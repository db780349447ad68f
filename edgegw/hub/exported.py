"""An exported journal, read as whoever holds nothing but the hub's key must read it: whole, against its
signed head, before anything of it is used. `edgegw/verifier.py` tells the format.

The leaves go into a temporary file and the complete subtrees of 256 into memory, so that a journal of any
length is read in bounded memory. Leaves out what the hub makes of it (`hub.take_journal`).
"""

from __future__ import annotations

import base64
import itertools
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import msgspec

from edgegw.access.keys import VerifyingKey
from edgegw.core import journal, tiles
from edgegw.core.exchange import frontier_at
from edgegw.core.export import BLOCK_RECORDS
from edgegw.core.journal import FIRST_PREVIOUS, HASH_BYTES, Frontier
from edgegw.core.key_policy import CHECKPOINT, KeyPolicy, changes_in, read_change
from edgegw.core.messages import (
    PACKAGE_BYTES_MAX,
    PACKAGE_RECORDS_MAX,
    RECORD_BYTES_MAX,
    ExchangeError,
    LinkNote,
    Package,
    open_link,
)
from edgegw.core.records import UNREADABLE, Link, decode_record

LINE_BYTES_MAX: Final = RECORD_BYTES_MAX + 1
"""A record and its end; the lines of leaves and of the signed head are shorter."""
_LEAVES: Final = b'{"leaves":'
_CHECKPOINT: Final = b'{"checkpoint":'
_EPOCH: Final = re.compile("0|[1-9][0-9]{0,18}")
AGAIN: Final = "export it again, and copy it whole"


class ExportError(ValueError):
    """The file is not a journal as its box has signed it; the text names the first bad record and the
    mend."""


class _Header(msgspec.Struct):
    edgegw_journal: int
    origin: str
    from_size: int = msgspec.field(name="from")
    previous_leaf: str = ""
    peaks: tuple[str, ...] = ()


class _Leaves(msgspec.Struct):
    leaves: str


class _Trailer(msgspec.Struct):
    checkpoint: str
    cosignatures: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


class _Place(msgspec.Struct):
    bank: str
    box: str
    epoch: int
    seq: int


_place_decoder: Final = msgspec.json.Decoder(_Place)


class Announced:
    """What the first lines of a file say that it is; nothing is verified yet."""

    def __init__(self, path: Path) -> None:
        """Raises ExportError for a file that is no exported journal of a box."""
        self.path = path
        with _opened(path) as file:
            first = _line(file, path, 1)
            self.first_record = _line(file, path, 2).removesuffix(b"\n")
        try:
            header = msgspec.json.decode(first, type=_Header)
        except UNREADABLE:
            raise ExportError(
                f"{path} is no exported journal: write one with `edgegw journal export`"
            ) from None
        parts = header.origin.split("/")
        is_journal = len(parts) == 4 and parts[0] == "edgegw" and _EPOCH.fullmatch(parts[3])
        if header.edgegw_journal != 1 or not is_journal:
            raise ExportError(f"{path} is of {header.origin!r}; give the journal of a box, of one epoch")
        self.origin, self.bank, self.box, self.epoch = header.origin, parts[1], parts[2], int(parts[3])
        try:
            self.start = header.from_size
            self.previous = bytes.fromhex(header.previous_leaf) if self.start else FIRST_PREVIOUS
            peaks = bytes.fromhex("".join(header.peaks))
            self.frontier = Frontier.from_bytes(self.start.to_bytes(8, "big") + peaks)
        except (ValueError, OverflowError) as problem:
            raise ExportError(
                f"{path}: its first line is not as it was written ({problem}); {AGAIN}"
            ) from None

    def link(self, hub_key: VerifyingKey) -> LinkNote:
        """The hub's own link in the first record; raises ExportError where there is none."""
        try:
            first = decode_record(self.first_record)
            if self.start or not isinstance(first, Link):
                raise ExchangeError("the first record is no link")
            link = open_link(first.note, hub_key)
        except (*UNREADABLE, ExchangeError) as problem:
            raise ExportError(
                f"epoch {self.epoch} of {self.box} was not issued here, and the file does not prove it:"
                f" {problem}"
            ) from None
        if (link.bank, link.box, link.epoch) != (self.bank, self.box, self.epoch):
            raise ExportError(f"the link is for {link.bank}/{link.box} epoch {link.epoch}, not {self.origin}")
        return link


class Exported:
    """A verified journal: the records from `start` on, of a log whose signed head is (size, root)."""

    def __init__(self, announced: Announced, leaves: IO[bytes]) -> None:
        self.announced = announced
        self.start = announced.start
        self.size = announced.start
        self.root = b""
        self.checkpoint = ""
        self.keys: tuple[str, ...] = ()
        """The statements by which other keys took over, all of them."""
        self._leaves = leaves
        self._tiles: dict[tuple[int, int], bytes] = {}
        self._peaks = _spans(announced.frontier)

    def leaf_at(self, seq: int) -> bytes:
        """The leaf of a record of the file, or of the last one before it."""
        if seq == self.start - 1:
            return self.announced.previous
        self._leaves.seek((seq - self.start) * HASH_BYTES)
        return self._leaves.read(HASH_BYTES)

    def root_at(self, size: int) -> bytes:
        """The root of the first `size` records, at least `start`."""
        return frontier_at(size, self.node).root() if size else b""

    def node(self, level: int, index: int) -> bytes:
        """A node of the tree: read, or made of those below it."""
        first = index << level
        known = self._tiles.get((level, index)) or self._peaks.get((level, index))
        if known is not None:
            return known
        if not level:
            return self.leaf_at(first)
        return journal.node_hash(self.node(level - 1, 2 * index), self.node(level - 1, 2 * index + 1))

    def keep(self, leaves: Sequence[bytes], completed: Sequence[tiles.Tile]) -> None:
        """Take the leaves of the next records."""
        self._leaves.seek(0, 2)
        self._leaves.write(b"".join(leaves))
        self._tiles |= {(tile.level, tile.number): tile.hash for tile in completed}
        self.size += len(leaves)

    def packages(self, start: int) -> Iterator[Package]:
        """The records from `start` on, in packages that anyone can judge."""
        bodies: list[bytes] = []
        old_size, package_bytes = start, 0
        for seq, body in enumerate(self._bodies(start), start):
            full = len(bodies) == PACKAGE_RECORDS_MAX or package_bytes + len(body) > PACKAGE_BYTES_MAX
            if bodies and (full or seq % PACKAGE_RECORDS_MAX == 0):
                yield self._package(old_size, bodies)
                bodies, old_size, package_bytes = [], seq, 0
            bodies.append(body)
            package_bytes += len(body)
        if bodies:
            yield self._package(old_size, bodies)

    def leaves_of(self, package: Package) -> list[bytes]:
        """The leaves of a package's records."""
        return [self.leaf_at(seq) for seq in range(package.old_size, package.size)]

    def _package(self, old_size: int, bodies: list[bytes]) -> Package:
        end = old_size + len(bodies)
        return Package(
            number=self.announced.epoch,
            old_size=old_size,
            records=tuple(bodies),
            root=self.root_at(end),
            checkpoint=self.checkpoint,
            proof=tuple(journal.consistency_proof(end, self.size, self.node)),
            keys=self.keys,
        )

    def _bodies(self, start: int) -> Iterator[bytes]:
        with _opened(self.announced.path) as file:
            seq = self.start
            for line in _lines_after_first(file, self.announced.path):
                if line.startswith(_CHECKPOINT):
                    return
                if line.startswith(_LEAVES):
                    continue
                if seq >= start:
                    yield line.removesuffix(b"\n")
                seq += 1


@contextmanager
def read_journal(announced: Announced, keys: KeyPolicy) -> Iterator[Exported]:
    """Read a file whole and verify it against the head that the epoch's key has signed; keys: the first one,
    those after it stand in the file. Raises ExportError."""
    with tempfile.TemporaryFile() as leaves, _opened(announced.path) as file:
        exported = Exported(announced, leaves)
        scan = _Scan(exported)
        trailer = scan.lines(file)
        _judge(scan, _signed_head(announced, trailer, scan, keys))
        exported.root, exported.checkpoint = scan.frontier.root(), trailer.checkpoint
        exported.keys = trailer.keys
        yield exported


class _Scan:
    """One reading of the records; what differs from the leaves that the file names is remembered."""

    def __init__(self, exported: Exported) -> None:
        self.exported = exported
        self.frontier = exported.announced.frontier.copy()
        self.different: int | None = None
        self.changes: list[str] = []
        """The statements by which records begin other keys."""
        self._previous = exported.announced.previous

    def lines(self, file: IO[bytes]) -> _Trailer:
        """Read from the second line up to the one with the checkpoint, which must be the last."""
        block: list[bytes] = []
        for line in _lines_after_first(file, self.exported.announced.path):
            if line.startswith(_CHECKPOINT):
                self._take(block, b"")
                return self._trailer(line, file)
            if line.startswith(_LEAVES):
                self._take(block, line)
                block = []
                continue
            if len(block) == BLOCK_RECORDS:  # a line of leaves is missing; memory stays bounded
                self._take(block, b"")
                block = []
            self._check_place(line, self.exported.size + len(block))
            block.append(line.removesuffix(b"\n"))
        end = self.exported.size + len(block)
        raise ExportError(f"the file ends after record {end - 1}, without its signed head; {AGAIN}")

    def _trailer(self, line: bytes, file: IO[bytes]) -> _Trailer:
        if file.read(1):
            raise ExportError(f"lines follow the one with the signed head; {AGAIN}")
        try:
            return msgspec.json.decode(line, type=_Trailer)
        except UNREADABLE:
            raise ExportError(
                f"the line with the signed head, after record {self.exported.size - 1}, is cut off or edited;"
                f" {AGAIN}"
            ) from None

    def _check_place(self, line: bytes, seq: int) -> None:
        announced = self.exported.announced
        try:
            place = _place_decoder.decode(line)
        except UNREADABLE:
            raise ExportError(f"record {seq} is cut off or edited: it is no record; {AGAIN}") from None
        if not line.endswith(b"\n"):
            raise ExportError(f"record {seq} is cut off; {AGAIN}")
        if (place.bank, place.box, place.epoch) != (announced.bank, announced.box, announced.epoch):
            raise ExportError(
                f"record {seq} is of {place.bank}/{place.box} epoch {place.epoch}, not {announced.origin}"
            )
        if place.seq != seq:
            raise ExportError(f"record {place.seq} stands where record {seq} must be; {AGAIN}")

    def _take(self, block: list[bytes], named_line: bytes) -> None:
        self._note_keys(block)
        leaves = journal.chain(self._previous, block)
        if leaves:
            self._previous = leaves[-1]
        start, named = self.exported.size, _named(named_line)
        if named and self.different is None:
            pairs = enumerate(zip(leaves, named, strict=False), start)
            self.different = next((seq for seq, (one, two) in pairs if one != two), None)
        self.exported.keep(leaves, tiles.extend(self.frontier, leaves, epoch=self.exported.announced.epoch))

    def _note_keys(self, block: list[bytes]) -> None:
        try:
            found = changes_in(block, self.exported.size)
        except journal.NoteError as problem:
            raise ExportError(f"{problem}; {AGAIN}") from None
        self.changes += [note for _, note in found if read_change(note).said.purpose == CHECKPOINT]


def _named(line: bytes) -> list[bytes]:
    try:
        raw = base64.b64decode(msgspec.json.decode(line, type=_Leaves).leaves)
    except (*UNREADABLE, ValueError):
        return []
    return [raw[start : start + HASH_BYTES] for start in range(0, len(raw), HASH_BYTES)]


def _signed_head(announced: Announced, trailer: _Trailer, scan: _Scan, keys: KeyPolicy) -> journal.Checkpoint:
    try:
        policy = keys.extended(trailer.keys)
        if scan.changes != list(policy.notes_from(announced.start)):
            raise journal.NoteError("its line of the signed head names other keys than its records")
        head = policy.open(trailer.checkpoint)
    except journal.NoteError as problem:
        raise ExportError(
            f"the head after record {scan.exported.size - 1} is not signed by the key of epoch"
            f" {announced.epoch} of {announced.box}: {problem}"
        ) from None
    if head.origin != announced.origin:
        raise ExportError(f"the signed head is of {head.origin}, the records of {announced.origin}; {AGAIN}")
    return head


def _judge(scan: _Scan, head: journal.Checkpoint) -> None:
    size = scan.exported.size
    if scan.different is not None and (size, scan.frontier.root()) != (head.size, head.root):
        raise ExportError(
            f"record {scan.different} was edited: its bytes are not those that were signed; {AGAIN}"
        )
    if size < head.size:
        raise ExportError(f"record {size} is missing: {head.size} records were signed; {AGAIN}")
    if size > head.size:
        raise ExportError(f"record {head.size} is one too many: {head.size} records were signed; {AGAIN}")
    if scan.frontier.root() != head.root:
        raise ExportError(
            f"records {scan.exported.start} to {size - 1} are not those that were signed; {AGAIN}"
        )


def _spans(frontier: Frontier) -> dict[tuple[int, int], bytes]:
    """The complete subtrees of a tree's edge by level and index."""
    peaks, start = {}, 0
    joined = frontier.to_bytes()[8:]
    for place in range(0, len(joined), HASH_BYTES):
        level = (frontier.size - start).bit_length() - 1
        peaks[level, start >> level] = joined[place : place + HASH_BYTES]
        start += 1 << level
    return peaks


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as problem:
        raise ExportError(f"{path} cannot be read: {problem.strerror or problem}") from None


def _lines_after_first(file: IO[bytes], path: Path) -> Iterator[bytes]:
    _line(file, path, 1)
    for number in itertools.count(2):
        line = _line(file, path, number)
        if not line:
            return
        yield line


def _line(file: IO[bytes], path: Path, number: int) -> bytes:
    """The next line with its end; b"" after the last one."""
    line = file.readline(LINE_BYTES_MAX + 1)
    if len(line) > LINE_BYTES_MAX:
        raise ExportError(
            f"{path}: line {number} is longer than {LINE_BYTES_MAX} bytes, as no line is; {AGAIN}"
        )
    return line
