"""The full check of a ledger file: what its bytes say, against every place where they are said again.

Each record decodes, stands at its place, chains to the one before, and its columns are what its bytes give;
tiles, head, signed checkpoint and cosignature follow from the leaves; so do the directives. Where records
were pruned it begins behind them, and what stays of them is what the journal says of it. Balances are the
replay's, which the caller passes in. Read-only, and safe beside a running box: it looks at what was committed
when it began.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from edgegw.core import snapshot, tiles
from edgegw.core.exchange import frontier_at
from edgegw.core.journal import (
    FIRST_PREVIOUS,
    Checkpoint,
    Cosignature,
    Frontier,
    NoteError,
    directives_origin,
    journal_origin,
    leaf_hash,
)
from edgegw.core.records import KeyIntroduced, Operator, Record, decode_directive, decode_record
from edgegw.core.records import Snapshot as SnapshotRecord
from edgegw.errors import LedgerCorrupt
from edgegw.ledger.key_changes import KeyNote
from edgegw.ledger.prune import Note, Remainder, told_by
from edgegw.ledger.remains import Horizon
from edgegw.ledger.rows import Row, place_at, position_of, row_of
from edgegw.ledger.store import DirectivesEnd, Head, Store

CHUNK: Final = 1_000
CHUNK_BYTES: Final = 8 * 2**20
TRIES: Final = 3
"""A running box may prune what is being read; then it is read again."""
FINDINGS_MAX: Final = 100
"""More of the same helps nobody; `Report.problems` counts on."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong: a kind of thing, where it stands, what differs."""

    what: str
    """`file`, `record`, `tile`, `key`, `head`, `cosignature`, `snapshot`, `site`, `pruned`, `directive`,
    `directives` or `replay`."""
    place: str
    problem: str

    def __str__(self) -> str:
        return f"{self.what} {self.place}: {self.problem}" if self.place else f"{self.what}: {self.problem}"


class Report(msgspec.Struct):
    """What a full check read and what it found wrong."""

    records: int = 0
    pruned: int = 0
    """Records that the box keeps no more; the check began behind them."""
    epochs: int = 0
    directives: int = 0
    problems: int = 0
    findings: list[Finding] = []

    @property
    def well(self) -> bool:
        """Whether nothing is wrong."""
        return self.problems == 0

    @property
    def first_bad_record(self) -> str:
        """Place (epoch/seq) of the first record that is wrong in itself, "" if none is."""
        return next((finding.place for finding in self.findings if finding.what == "record"), "")

    def add(self, what: str, place: str, problem: str) -> None:
        """One more thing that is wrong."""
        self.problems += 1
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(what, place, problem))


def check(
    store: Store,
    *,
    verify_checkpoint: Callable[[str], Checkpoint],
    verify_cosignature: Callable[[str], Cosignature],
    progress: Callable[[int, int], None],
    replay: Callable[[Record], None] | None = None,
) -> Report:
    """Read the whole ledger and say what is wrong with it; never raises for what it finds.

    verify_checkpoint opens a signed note of either log by the key that its origin names, verify_cosignature
    one of the hub; both raise NoteError. progress gets records done and in all. replay gets every record in
    order; the first exception that it raises is a finding, and its last call.
    """
    for tries_left in reversed(range(TRIES)):
        one = _Check(store, verify_checkpoint, verify_cosignature, progress, replay)
        for problem in store.integrity_problems():
            one.report.add("file", "", problem)
        try:
            one.run()
        except LedgerCorrupt as problem:
            one.report.add("file", "", f"reading stopped: {problem}")
        if one.report.well or not tries_left or store.pruned.horizons() == one.horizons:
            return one.report
    raise AssertionError("the last try returns")


class _Check:
    def __init__(
        self,
        store: Store,
        verify_checkpoint: Callable[[str], Checkpoint],
        verify_cosignature: Callable[[str], Cosignature],
        progress: Callable[[int, int], None],
        replay: Callable[[Record], None] | None,
    ) -> None:
        self.report = Report()
        self._store = store
        self._verify_checkpoint = verify_checkpoint
        self._verify_cosignature = verify_cosignature
        self._progress = progress
        self._replay = replay
        self._bank, self._box = store.meta("bank") or "", store.meta("box") or ""
        self._total = 0
        self._at_ns = 0
        self._previous = FIRST_PREVIOUS
        self._introduced: list[KeyNote] = []
        self.horizons: list[Horizon] = []
        self._newest_note: Note | None = None
        self._notes: dict[int, Note] = {}
        """What the newest record about pruning says, and of each epoch."""

    def run(self) -> None:
        heads, ends = self._store.heads(), self._store.directives_ends()
        self.horizons = self._store.pruned.horizons()
        self.report.pruned = sum(one.size for one in self.horizons)
        self._total = sum(head.size for head in heads) - self.report.pruned
        for head in heads:
            self._epoch(head)
            self.report.epochs += 1
        self._snapshots()
        for bundle in self._store.changed_sites():
            self.report.add("site", str(bundle.version), f"it was changed: its bytes are not {bundle.digest}")
        for end in ends:
            self._incarnation(end)
        records, under_heads, directives, under_ends = self._store.counts()
        if records != under_heads:
            self.report.add("file", "", f"{records} records, but the heads say {under_heads}")
        if directives != under_ends:
            self.report.add("file", "", f"{directives} directives, but their heads say {under_ends}")
        if self.horizons:
            self._remains()
        self._others()

    # --- the journal ---------------------------------------------------------------------------------------

    def _epoch(self, head: Head) -> None:
        done = horizon = self._store.pruned.horizon(head.epoch)
        self._introduced = []
        try:
            frontier, self._previous = self._beginning(head, done)
        except LedgerCorrupt as problem:
            self.report.add("pruned", f"{head.epoch}/{done}", f"what proofs need of it is missing: {problem}")
            return
        computed = list[tiles.Tile]()
        self._covered(head, done)
        while done < head.size:
            rows = self._store.rows(epoch=head.epoch, start=done, limit=min(CHUNK, head.size - done))
            rows = [row for row in rows if place_at(row.position)[1] < head.size]
            for row in rows:
                expected = position_of(epoch=head.epoch, seq=done)
                self._missing(head.epoch, done, place_at(row.position)[1])
                done += row.position - expected + 1
                self._record(row)
            computed += tiles.extend(frontier, [row.leaf for row in rows], epoch=head.epoch)
            self.report.records += len(rows)
            self._progress(self.report.records, self._total)
            if not rows:
                self._missing(head.epoch, done, head.size)
                break
        self._tiles(head, computed)
        self._keys(head, horizon)
        self._head(head, frontier)
        self._cosignature(head)

    def _beginning(self, head: Head, start: int) -> tuple[Frontier, bytes]:
        """The tree's edge and the leaf just before the first record that is here."""
        if not start:
            return Frontier(), FIRST_PREVIOUS
        node = self._store.node(head.epoch, head.size)
        return frontier_at(start, node), node(0, start - 1)

    def _covered(self, head: Head, start: int) -> None:
        """Nothing may be pruned that the centre has not cosigned."""
        kept = self._store.cosignature(head.epoch)
        if start > (kept[0] if kept else 0):
            held = kept[0] if kept else 0
            self.report.add("pruned", f"{head.epoch}/{start}", f"the centre has cosigned only size {held}")

    def _remains(self) -> None:
        """What stays of pruned records, against its own digests and against what the journal says of it."""
        kept = Remainder(self._store)
        for _ in kept.read(CHUNK):
            pass
        for place, problem in kept.problems():
            self.report.add("pruned", place, problem)
        for place, problem in kept.contradictions(self._newest_note, self._notes):
            self.report.add("pruned", place, problem)

    def _others(self) -> None:
        """What is known of other histories, by its seals and its count."""
        try:
            for _ in self._store.others.read(CHUNK):
                pass
        except LedgerCorrupt as problem:
            self.report.add("other_history", "", str(problem))

    def _missing(self, epoch: int, start: int, end: int) -> None:
        if start < end:
            self.report.add("record", f"{epoch}/{start}", f"is missing, and so is all up to {epoch}/{end}")

    def _record(self, row: Row) -> None:
        place = "/".join(map(str, place_at(row.position)))
        leaf = leaf_hash(self._previous, row.body)
        if leaf != row.leaf:
            problem = f"its bytes and the leaf before give leaf {leaf.hex()}, stored is {row.leaf.hex()}"
            self.report.add("record", place, problem)
        # On from the stored leaf, so that one edited record is one finding.
        self._previous = row.leaf
        try:
            record = decode_record(row.body)
        except msgspec.MsgspecError as problem:
            self.report.add("record", place, f"cannot be read: {problem}")
            return
        for text in self._contradictions(row, record):
            self.report.add("record", place, text)
        self._at_ns = record.at_ns
        if isinstance(record, KeyIntroduced) and record.note:
            self._introduced.append(KeyNote(record.seq, record.note))
        if isinstance(record, Operator) and (note := told_by(record)) is not None:
            self._newest_note = self._notes[note.epoch] = note
        self._play(record, place)

    def _contradictions(self, row: Row, record: Record) -> Iterator[str]:
        """Where a record's bytes differ from its place, its columns, its ledger and the record before."""
        says = (record.bank, record.box, record.epoch, record.seq)
        stands = (self._bank, self._box, *place_at(row.position))
        if says != stands:
            yield f"says it is {says}, but it stands as {stands}"
            return
        try:
            derived = row_of(record, leaf=row.leaf, body=row.body)
        except ValueError as problem:
            yield f"names no valid id or place: {problem}"
            return
        for field, column, derived_value in zip(Row._fields, row, derived, strict=True):
            if column != derived_value:
                yield f"column {field} is {column!r}, its bytes say {derived_value!r}"
        if record.at_ns <= self._at_ns:
            yield f"at_ns {record.at_ns} is not after {self._at_ns}"

    def _play(self, record: Record, place: str) -> None:
        if self._replay is None:
            return
        try:
            self._replay(record)
        except Exception as problem:  # noqa: BLE001 - whatever the book objects to is what this check is for
            self.report.add("replay", place, f"{type(problem).__name__}: {problem}")
            self._replay = None

    def _tiles(self, head: Head, computed: list[tiles.Tile]) -> None:
        stored = {(tile.level, tile.number): tile.hash for tile in self._store.tiles_of(head.epoch)}
        for tile in computed:
            kept = stored.pop((tile.level, tile.number), None)
            if kept != tile.hash:
                start, end = tile.number << tile.level, (tile.number + 1) << tile.level
                found = f"stored is {kept.hex()}" if kept else "none is stored"
                problem = f"records {start} to {end - 1} give {tile.hash.hex()}, {found}"
                self.report.add("tile", f"{head.epoch}/{tile.level}/{tile.number}", problem)
        horizon = self._store.pruned.horizon(head.epoch)
        for level, number in list(stored):
            if number << level >= horizon or (number + 1) << level > head.size:
                continue
            hash_ = stored.pop((level, number))
            if level > tiles.TILE_LEVELS and hash_ != self._from_below(head, level, number):
                self.report.add("tile", f"{head.epoch}/{level}/{number}", "is not what the tiles below give")
        for level, number in stored:
            # A running box may have completed some since this check began.
            if (number + 1) << level <= head.size:
                self.report.add("tile", f"{head.epoch}/{level}/{number}", "stands for no records")

    def _from_below(self, head: Head, level: int, number: int) -> bytes | None:
        below = level - tiles.TILE_LEVELS
        start = number << tiles.TILE_LEVELS
        hashes = {tile.number: tile.hash for tile in self._store.tiles_of(head.epoch) if tile.level == below}
        frontier = Frontier()
        frontier.extend(hashes.get(start + place, b"") for place in range(tiles.TILE_WIDTH))
        return frontier.root()

    def _keys(self, head: Head, horizon: int) -> None:
        """The statements that prove keys must be those of the records."""
        kept = [one for one in self._store.keys.notes(head.epoch) if horizon <= one.seq < head.size]
        differing = set(kept) ^ set(self._introduced)
        if differing:
            place = f"{head.epoch}/{min(differing).seq}"
            self.report.add("key", place, "the statement that is kept of it is not that of its record")

    def _head(self, head: Head, frontier: Frontier) -> None:
        origin = journal_origin(bank=self._bank, box=self._box, epoch=head.epoch)
        self._end_of_log("head", str(head.epoch), origin, head, frontier)

    def _end_of_log(
        self, what: str, place: str, origin: str, end: Head | DirectivesEnd, frontier: Frontier
    ) -> None:
        """Hold a log's stored end and its signed checkpoint against the tree over its entries."""
        computed = Checkpoint(origin, frontier.size, frontier.root())
        if (end.size, end.root) != (computed.size, computed.root):
            text = (
                f"says size {end.size}, root {end.root.hex()}; the entries give {computed.size},"
                f" {computed.root.hex()}"
            )
            self.report.add(what, place, text)
        try:
            signed = self._verify_checkpoint(end.checkpoint)
        except NoteError as problem:
            self.report.add(what, place, f"checkpoint: {problem}")
            return
        if (signed.origin, what) == (origin, "head") and signed.size > computed.size:
            text = f"signed up to size {signed.size}; only {computed.size} records are here"
            self.report.add(what, place, text)
        elif signed != computed:
            text = (
                f"signed is {signed.origin}, size {signed.size}, root {signed.root.hex()}; the entries give"
                f" {computed.origin}, {computed.size}, {computed.root.hex()}"
            )
            self.report.add(what, place, text)

    def _cosignature(self, head: Head) -> None:
        kept = self._store.cosignature(head.epoch)
        if kept is None:
            return
        size, note = kept
        place = f"{head.epoch}/{size}"
        if size > head.size:
            # A running box may have got it since this check began, together with what it covers.
            now = self._store.head(head.epoch)
            if now is None or size > now.size:
                self.report.add("cosignature", place, f"is beyond the head, size {head.size}")
            return
        try:
            signed = self._verify_cosignature(note).checkpoint
            root = frontier_at(size, self._store.node(head.epoch, size)).root()
        except (NoteError, LedgerCorrupt) as problem:
            self.report.add("cosignature", place, str(problem))
            return
        computed = Checkpoint(journal_origin(bank=self._bank, box=self._box, epoch=head.epoch), size, root)
        if signed != computed:
            text = f"the hub holds root {signed.root.hex()} at {signed.origin}, size {signed.size}"
            self.report.add("cosignature", place, f"{text}; the entries give {root.hex()}")

    def _snapshots(self) -> None:
        for image in self._store.latest_snapshots():
            place = "/".join(map(str, place_at(image.position)))
            body = self._store.at(image.position)
            try:
                record = decode_record(body or b"")
            except msgspec.MsgspecError:
                record = None
            digest = snapshot.digest(image.body)
            if not isinstance(record, SnapshotRecord):
                self.report.add("snapshot", place, "the record there is no snapshot")
            elif not record.digest == image.digest == digest:
                text = f"digest {digest}, stored as {image.digest}, recorded as {record.digest}"
                self.report.add("snapshot", place, text)

    # --- the directives ------------------------------------------------------------------------------------

    def _incarnation(self, end: DirectivesEnd) -> None:
        frontier, previous = Frontier(), FIRST_PREVIOUS
        while frontier.size < end.size:
            entries = self._store.directives(
                incarnation=end.incarnation,
                start=frontier.size,
                limit=min(CHUNK, end.size - frontier.size),
                bytes_max=CHUNK_BYTES,
            )
            if not entries:
                place = f"{end.incarnation}/{frontier.size}"
                self.report.add("directive", place, f"is missing, and all up to {end.size}")
                break
            for seq, leaf, body in entries:
                self._directive(end.incarnation, seq, leaf_hash(previous, body), leaf, body)
                previous = leaf
                self.report.directives += 1
            frontier.extend(leaf for _, leaf, _ in entries)
        origin = directives_origin(bank=self._bank, box=self._box, incarnation=end.incarnation)
        self._end_of_log("directives", str(end.incarnation), origin, end, frontier)
        if frontier.to_bytes() != end.frontier:
            self.report.add("directives", str(end.incarnation), "the stored right edge is not the tree's")

    def _directive(self, incarnation: int, seq: int, computed: bytes, leaf: bytes, body: bytes) -> None:
        place = f"{incarnation}/{seq}"
        if computed != leaf:
            problem = f"its bytes and the leaf before give leaf {computed.hex()}, stored is {leaf.hex()}"
            self.report.add("directive", place, problem)
        try:
            directive = decode_directive(body)
        except msgspec.MsgspecError as problem:
            self.report.add("directive", place, f"cannot be read: {problem}")
            return
        says = (directive.bank, directive.box, directive.incarnation, directive.seq)
        if says != (self._bank, self._box, incarnation, seq):
            self.report.add("directive", place, f"says it is {says}")
