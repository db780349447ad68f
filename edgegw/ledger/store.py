"""The ledger file as the pen and the readers see it: rows in, one COMMIT that moves the head, rows out.

One `Store` is one connection. The writer's is used by one thread at a time; every other reader takes a
`reader()` of its own. Before COMMIT an error undoes everything; after COMMIT was tried nothing is known any
more (DESIGN §6). Leaves out what a record means, chaining, and who may open the file (`ledger.boot`).
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Self, TypeVar, get_type_hints

import apsw
import msgspec

from edgegw.core import tiles
from edgegw.core.journal import FIRST_PREVIOUS, Node, leaf_hash, sm3
from edgegw.core.pruned import Pruned
from edgegw.core.tiles import Tile
from edgegw.errors import (
    BrokenInvariant,
    HeadMoved,
    LedgerCorrupt,
    LedgerForeign,
    OutcomeUnknown,
    RecordPruned,
    StorageFailed,
)
from edgegw.ledger import schema
from edgegw.ledger.faults import Guard
from edgegw.ledger.key_changes import KeyNote, KeyTables
from edgegw.ledger.late_words import LateWords
from edgegw.ledger.others import OtherTables
from edgegw.ledger.remains import PrunedTables
from edgegw.ledger.rows import SEQ_MAX, Row, place_at, position_of

__all__ = [
    "Bundle",
    "DirectivesEnd",
    "Entry",
    "Head",
    "Image",
    "Row",
    "Store",
    "Tile",
    "place_at",
    "position_of",
]

SNAPSHOTS_KEPT: Final = 2
_FIND_WIDTHS: Final = (1, 8, 64, 256)
"""Lists of ids are padded to these lengths, so that few statements serve all batches and stay prepared."""
_RECORD: Final = """SELECT r.client, r.id, r.position, r.body, r.leaf, coalesce(before.leaf,
        (SELECT hash FROM tile WHERE epoch = r.position >> 40 AND level = 0
            AND number = (r.position & 1099511627775) - 1))
    FROM record r LEFT JOIN record before ON before.position = r.position - 1"""
"""What `_proved` takes: a record with the leaf before its own, which stays when its record is pruned. The
numbers are `rows.SEQ_BITS` and `SEQ_MAX`."""
_FIND: Final = {width: f"{_RECORD} WHERE r.id IN ({', '.join('?' * width)})" for width in _FIND_WIDTHS}
_BY_IDENTITY: Final = "SELECT position FROM record INDEXED BY record_identity WHERE id = ? AND client = ?"
_BY_ORIGINAL: Final = (
    "SELECT position FROM record INDEXED BY record_original WHERE original = ? AND position = ?"
)
_APPEND: Final = "INSERT INTO record VALUES(?, ?, ?, ?, ?, ?, ?)"
_MOVE_HEAD: Final = """UPDATE head SET size = ?, root = ?, checkpoint = ?
    WHERE epoch = ? AND size = ? AND boot = ?"""
_KEEP_HEAD: Final = (
    "UPDATE head SET size = ?, root = ?, checkpoint = ?, boot = '' WHERE epoch = ? AND size = ?"
)
_SIGNED: Final = "signed/"
"""Begins the key in `meta` of an epoch's `signed_note`."""
_PUT_SITE: Final = """INSERT INTO site(number, version, digest, note, bundle)
    VALUES((SELECT coalesce(max(number), 0) + 1 FROM site), ?, ?, ?, ?)
    ON CONFLICT(digest) DO UPDATE SET number = excluded.number"""
_DROP_SITES: Final = """DELETE FROM site WHERE number <= (SELECT max(number) FROM site) - ?
    AND digest NOT IN (SELECT value FROM json_each(?))"""
_PUT_DIRECTIVES_HEAD: Final = """INSERT INTO directive_head VALUES(?, ?, ?, ?, ?)
    ON CONFLICT(incarnation) DO UPDATE SET size = excluded.size, root = excluded.root,
    checkpoint = excluded.checkpoint, frontier = excluded.frontier"""


class Entry(NamedTuple):
    """One entry of a log as it is sent and verified."""

    seq: int
    leaf: bytes
    body: bytes


class Head(NamedTuple):
    """Where the journal of an epoch ends; `boot` is whose pen may move it."""

    epoch: int
    size: int
    root: bytes
    checkpoint: str
    boot: str


class DirectivesEnd(NamedTuple):
    """Where the directives of an incarnation end; `frontier` is `Frontier.to_bytes`."""

    incarnation: int
    size: int
    root: bytes
    checkpoint: str
    frontier: bytes


class Image(NamedTuple):
    """A stored snapshot of the book: the position of its record, its digest (SM3, hex), its bytes."""

    position: int
    digest: str
    body: bytes


class Bundle(NamedTuple):
    """A site bundle as it was fetched."""

    version: int
    digest: str
    note: str
    """The hub's signature over it, "" where it came without."""
    bundle: bytes


SITES_KEPT: Final = 50
"""Bundles that a rollback finds here."""


Stored = TypeVar("Stored", Bundle, DirectivesEnd, Entry, Head, Image, Row, Tile)
_COLUMNS: Final = {
    kind: tuple(get_type_hints(kind).values())
    for kind in (Bundle, DirectivesEnd, Entry, Head, Image, Row, Tile)
}


class Store:
    """One connection to a ledger file; `open` gives the writer, `reader` and `open_reader` give readers."""

    def __init__(self, path: Path, connection: apsw.Connection) -> None:
        self.path = path
        self._db = connection
        self._appended = 0
        self._end = -1
        self._commit_failed = False
        self.pruned = PrunedTables(connection, self._guarded)
        self.others = OtherTables(connection, self._guarded)
        self.late = LateWords(connection, self._guarded)
        self.keys = KeyTables(connection, self._guarded)

    @classmethod
    def open(cls, path: Path, *, create: bool = False, checkpoints: bool = True) -> Self:
        """The writer of the ledger at path; hold `boot.LedgerLock` first. Raises OperatingError.

        Without `checkpoints` the WAL is somebody else's to move into the file (`ledger.checkpoints`).
        """
        with Guard(_nothing):
            return cls(path, schema.open_writer(path, create=create, checkpoints=checkpoints))

    @classmethod
    def open_reader(cls, path: Path) -> Self:
        """A read-only store of the ledger at path, in this or another process than the writer's."""
        with Guard(_nothing):
            return cls(path, schema.open_reader(path))

    def reader(self) -> Store:
        """A read-only store with a connection of its own: sees committed state only, use it in one thread."""
        return Store.open_reader(self.path)

    def close(self) -> None:
        """Close the connection; what was not committed is gone."""
        self._db.close()

    # --- writing ------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Take the write lock, waiting up to the busy timeout (then StorageBusy)."""
        if self._commit_failed:
            raise OutcomeUnknown("a COMMIT failed before; this process must not write any more")
        if self._db.in_transaction:
            raise BrokenInvariant("begin() inside an open SQL transaction")
        self._appended, self._end = 0, -1
        with self._guarded():
            self._db.execute("BEGIN IMMEDIATE")

    def append(self, rows: Sequence[Row], new_tiles: Sequence[Tile]) -> None:
        """Insert consecutive records of one epoch, and the tiles that they complete (`tiles.extend`)."""
        if not rows:
            return
        start, end = rows[0].position, rows[-1].position
        if end - start != len(rows) - 1 or (self._appended and start != self._end + 1):
            raise BrokenInvariant(f"records {start} to {end} do not follow on {self._end}")
        self._appended, self._end = self._appended + len(rows), end
        with self._guarded():
            self._db.executemany(_APPEND, rows)
            self._db.executemany("INSERT INTO tile VALUES(?, ?, ?, ?)", new_tiles)

    def start_epoch(self, epoch: int, *, boot: str, root: bytes) -> None:
        """A head of size 0 with the empty tree's root; `append` and `seal` from size 0 must follow."""
        with self._guarded():
            self._db.execute("INSERT INTO head VALUES(?, 0, ?, '', ?)", (epoch, root, boot))

    def claim_head(self, *, boot: str) -> None:
        """Give the newest epoch's head to this boot; any other pen then fails at its next seal."""
        with self._guarded():
            self._db.execute("UPDATE head SET boot = ? WHERE epoch = (SELECT max(epoch) FROM head)", (boot,))

    def seal(self, *, epoch: int, old_size: int, size: int, root: bytes, checkpoint: str, boot: str) -> None:
        """Move the head and COMMIT: what was appended is on disk then. May run in a thread.

        Raises HeadMoved if the head is not at old_size or not this boot's (then all is undone), and
        OutcomeUnknown if COMMIT fails.
        """
        end = position_of(epoch=epoch, seq=size - 1) if self._appended else self._end
        if size - old_size != self._appended or end != self._end:
            self.rollback()
            raise BrokenInvariant(
                f"epoch {epoch}, size {old_size} to {size}, but {self._appended} records up to {self._end}"
            )
        with self._guarded():
            self._db.execute(_MOVE_HEAD, (size, root, checkpoint, epoch, old_size, boot))
            moved = self._db.changes()
        if moved != 1:
            self.rollback()
            raise HeadMoved(f"the head of epoch {epoch} is not at size {old_size} under boot {boot}")
        self._commit()

    def take(
        self,
        *,
        epoch: int,
        rows: Sequence[Row],
        new_tiles: Sequence[Tile],
        root: bytes,
        checkpoint: str,
        signed: bool,
        keys: Sequence[KeyNote] = (),
    ) -> None:
        """COMMIT records that were written elsewhere and verified here (`ledger.received`): no pen's head
        but of a journal that is only kept. The checkpoint may cover more than these; `signed` says that it
        covers just these, and then it is kept until the next one that does (`signed_note`). keys: all
        statements of the epoch up to that checkpoint.
        """
        self.begin()
        try:
            if self.head(epoch) is None:
                self.start_epoch(epoch, boot="", root=root)
            self.append(rows, new_tiles)
            self.keys.replace(epoch, keys, start=place_at(rows[0].position)[1])
            if signed:
                self.put_meta(f"{_SIGNED}{epoch}", checkpoint)
            size = place_at(rows[-1].position)[1] + 1
            with self._guarded():
                self._db.execute(_KEEP_HEAD, (size, root, checkpoint, epoch, size - len(rows)))
                moved = self._db.changes()
            if moved != 1:
                raise HeadMoved(f"the head of epoch {epoch} is not at size {size - len(rows)}")
        except BaseException:
            self.rollback()
            raise
        self._commit()

    def commit(self) -> None:
        """COMMIT what does not touch the journal: a cosignature, a site bundle, settings of the file."""
        if self._appended:
            self.rollback()
            raise BrokenInvariant("records are committed by seal(), which moves the head with them")
        self._commit()

    def rollback(self) -> None:
        """Undo everything since `begin`; does nothing when SQLite has already done so."""
        if self._db.in_transaction:
            try:
                self._db.execute("ROLLBACK")
            except apsw.Error as problem:
                raise StorageFailed(f"ROLLBACK failed: {problem}") from problem

    def put_directives(self, entries: Sequence[Entry], end: DirectivesEnd) -> None:
        """Keep directives that follow those of their incarnation, and where they end now."""
        if entries and entries[-1].seq != end.size - 1:
            raise BrokenInvariant(f"directives up to {entries[-1].seq} cannot end at size {end.size}")
        with self._guarded():
            self._db.executemany(
                "INSERT INTO directive VALUES(?, ?, ?)",
                [(position_of(epoch=end.incarnation, seq=seq), leaf, body) for seq, leaf, body in entries],
            )
            self._db.execute(_PUT_DIRECTIVES_HEAD, end)

    def put_snapshot(self, image: Image) -> None:
        """Keep a snapshot of the book; only the newest two stay."""
        with self._guarded():
            self._db.execute("INSERT INTO snapshot VALUES(?, ?, ?)", image)
            self._db.execute(
                "DELETE FROM snapshot WHERE position NOT IN"
                " (SELECT position FROM snapshot ORDER BY position DESC LIMIT ?)",
                (SNAPSHOTS_KEPT,),
            )

    def put_cosignature(self, *, epoch: int, size: int, note: str) -> None:
        """Keep the newest cosigned checkpoint of an epoch: it covers all before it."""
        with self._guarded():
            self._db.execute(
                "INSERT INTO cosignature VALUES(?, ?, ?) ON CONFLICT(epoch) DO UPDATE"
                " SET size = excluded.size, note = excluded.note WHERE excluded.size >= size",
                (epoch, size, note),
            )

    def put_site(self, bundle: Bundle, *, in_force: Collection[str] = ()) -> None:
        """Keep a site bundle, and of older ones the last SITES_KEPT and those in force, by digest: a start
        needs them."""
        with self._guarded():
            self._db.execute(_PUT_SITE, bundle)
            self._db.execute(_DROP_SITES, (SITES_KEPT, msgspec.json.encode(sorted(in_force)).decode()))

    def put_id_list(self, digest: str, block: bytes) -> None:
        """Keep a list of ids under its digest."""
        with self._guarded():
            self._db.execute("INSERT OR IGNORE INTO id_list VALUES(?, ?)", (digest, block))

    def drop_id_lists(self, *, besides: Collection[str]) -> None:
        """Let the lists go that are not among these digests."""
        kept = msgspec.json.encode(sorted(besides)).decode()
        with self._guarded():
            self._db.execute(
                "DELETE FROM id_list WHERE digest NOT IN (SELECT value FROM json_each(?))", (kept,)
            )

    def put_meta(self, key: str, value: str) -> None:
        """Set a fact about the file itself."""
        with self._guarded():
            self._db.execute(
                "INSERT INTO meta VALUES(?, ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value",
                (key, value),
            )

    def own(self, *, bank: str, box: str) -> None:
        """Say whose ledger it is, or raise LedgerForeign if it is another box's. Commits by itself."""
        known = (self.meta("bank"), self.meta("box"))
        if known == (None, None):
            self.begin()
            self.put_meta("bank", bank)
            self.put_meta("box", box)
            self.commit()
        elif known != (bank, box):
            raise LedgerForeign(f"{self.path} is the ledger of {known[0]}/{known[1]}, not of {bank}/{box}")

    # --- reading ------------------------------------------------------------------------------------------

    def find(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], bytes | Pruned]:
        """The bodies of the records of these identities, (client, id in hex), or what stays of them where
        they are pruned or stand in another history; unknown ones are absent.

        As every reader of single records here, it raises LedgerCorrupt for bytes that were not chained.
        """
        wanted, found = set(keys), dict[tuple[str, str], bytes | Pruned]()
        ids = [bytes.fromhex(identity) for _, identity in keys]
        with self._guarded():
            for start in range(0, len(ids), _FIND_WIDTHS[-1]):
                chunk = ids[start : start + _FIND_WIDTHS[-1]]
                width = next(width for width in _FIND_WIDTHS if width >= len(chunk))
                chunk += chunk[-1:] * (width - len(chunk))
                for row in self._db.execute(_FIND[width], chunk):
                    key = (row[0], row[1].hex())
                    if key in wanted:
                        found[key] = _proved(row)
        for elsewhere in (self.pruned, self.others):
            if len(found) < len(wanted):
                found |= elsewhere.find(list(wanted - found.keys()) if found else keys)
        return found

    def at(self, position: int) -> bytes | None:
        """The body of the record at a position."""
        row = self._row(f"{_RECORD} WHERE r.position = ?", position)
        return None if row is None else _proved(row)

    def about(self, original: int) -> list[bytes]:
        """The bodies of all records about the one at a position (`rows.original_of`), in order."""
        with self._guarded():
            rows = self._db.execute(f"{_RECORD} WHERE r.original = ? ORDER BY r.position", (original,))
            return [_proved(row) for row in rows]

    def without_original(self, reason: str) -> Iterator[bytes]:
        """The bodies of all payments' records that name no original and may give this reason, in order."""
        words = f'"reason":"{reason}"'.encode()
        with self._guarded():
            rows = self._db.execute(
                f"{_RECORD} WHERE r.type = 'transfer' AND r.original IS NULL AND instr(r.body, ?)"
                " ORDER BY r.position",
                (words,),
            )
            for row in rows:
                yield _proved(row)

    def of_type(
        self, record_type: Literal["window", "directive"], *, after: int, limit: int
    ) -> list[tuple[int, bytes]]:
        """(position, body) of at most `limit` records of a rare type beyond a position, in order."""
        # The type stands in the statement: only then does SQLite see that its partial index answers.
        statement = f"{_RECORD} WHERE r.type = '{record_type}' AND r.position > ? ORDER BY r.position LIMIT ?"
        with self._guarded():
            return [(row[2], _proved(row)) for row in self._db.execute(statement, (after, limit))]

    def records(self, *, epoch: int, start: int, limit: int, bytes_max: int) -> list[Entry]:
        """Records of an epoch from seq `start`: at most `limit` and bytes_max of bodies, but one at least.

        Raises RecordPruned where the record at `start` is not here any more.
        """
        entries = self._entries("record", epoch, start, limit, bytes_max)
        if start >= (horizon := self.pruned.horizon(epoch)):
            return entries
        # Of what was pruned the first few records stay: they prove keys.
        held = [entry for place, entry in enumerate(entries, start) if entry.seq == place]
        if not held:
            raise RecordPruned(f"records {epoch}/{start} to {epoch}/{horizon - 1} were pruned")
        return held

    def directives(self, *, incarnation: int, start: int, limit: int, bytes_max: int) -> list[Entry]:
        """Consecutive directives of an incarnation from seq `start`, bounded as `records` is."""
        return self._entries("directive", incarnation, start, limit, bytes_max)

    def rows(self, *, epoch: int, start: int, limit: int) -> list[Row]:
        """Records of an epoch with their columns, for the full check."""
        with self._guarded():
            rows = self._db.execute(
                "SELECT * FROM record WHERE position BETWEEN ? AND ? ORDER BY position LIMIT ?",
                (*_span(epoch, start), limit),
            )
            return [_whole(Row, row) for row in rows]

    def unindexed(self, rows: Sequence[Row]) -> list[int]:
        """The positions of those rows to which the index of identities or of originals does not lead."""
        lost = []
        with self._guarded():
            for row in rows:
                if row.id is not None:
                    found = self._db.execute(_BY_IDENTITY, (row.id, row.client)).fetchall()
                    if found != [(row.position,)]:
                        lost.append(row.position)
                if row.original is not None:
                    found = self._db.execute(_BY_ORIGINAL, (row.original, row.position)).fetchall()
                    if not found:
                        lost.append(row.position)
        return lost

    def node(self, epoch: int, size: int) -> Node:
        """The journal's tree of an epoch as it was at a size; take a fresh one for each proof."""
        return tiles.node_reader(functools.partial(self._hashes, epoch, size))

    def head(self, epoch: int) -> Head | None:
        """Where the journal of an epoch ends."""
        row = self._row("SELECT * FROM head WHERE epoch = ?", epoch)
        return row and _whole(Head, row)

    def signed_note(self, epoch: int) -> str | None:
        """The newest checkpoint of a journal that was written elsewhere that covers no more than is held."""
        return self.meta(f"{_SIGNED}{epoch}")

    def heads(self) -> list[Head]:
        """Where the journal of every epoch ends, oldest first."""
        with self._guarded():
            return [_whole(Head, row) for row in self._db.execute("SELECT * FROM head ORDER BY epoch")]

    def directives_ends(self) -> list[DirectivesEnd]:
        """Where the directives of every incarnation end, oldest first."""
        with self._guarded():
            rows = self._db.execute("SELECT * FROM directive_head ORDER BY incarnation")
            return [_whole(DirectivesEnd, row) for row in rows]

    def cosignature(self, epoch: int) -> tuple[int, str] | None:
        """Size and note of the newest cosigned checkpoint of an epoch."""
        row = self._row("SELECT size, note FROM cosignature WHERE epoch = ?", epoch)
        if row is not None and not (isinstance(row[0], int) and isinstance(row[1], str)):
            raise LedgerCorrupt(f"the cosignature of epoch {epoch} is {row}")
        return row and (row[0], row[1])

    def latest_snapshots(self) -> list[Image]:
        """The stored snapshots, newest first."""
        with self._guarded():
            rows = self._db.execute("SELECT * FROM snapshot ORDER BY position DESC")
            return [_whole(Image, row) for row in rows]

    def site(self, digest: str) -> Bundle | None:
        """The site bundle with this digest (SM3, hex); raises LedgerCorrupt where its bytes have another."""
        row = self._row("SELECT version, digest, note, bundle FROM site WHERE digest = ?", digest)
        kept = row and _whole(Bundle, row)
        if kept and sm3(kept.bundle).hex() != digest:
            raise LedgerCorrupt(f"site bundle {digest} is not the one that the journal names: it was changed")
        return kept

    def id_list(self, digest: str) -> bytes | None:
        """The list of ids with this digest, or None; raises LedgerCorrupt where its bytes have another."""
        with self._guarded():
            rows = self._db.execute("SELECT block FROM id_list WHERE digest = ?", (digest,)).fetchall()
        block = rows[0][0] if rows else None
        if isinstance(block, bytes) and sm3(block).hex() == digest:
            return block
        if rows:
            raise LedgerCorrupt(f"list {digest} is not the one that the site's settings name: it was changed")
        return None

    def changed_sites(self) -> list[Bundle]:
        """The site bundles whose bytes do not have the digest that they are kept under."""
        with self._guarded():
            rows = self._db.execute("SELECT version, digest, note, bundle FROM site ORDER BY number")
            kept = [_whole(Bundle, row) for row in rows]
        return [bundle for bundle in kept if sm3(bundle.bundle).hex() != bundle.digest]

    def meta(self, key: str) -> str | None:
        """A fact about the file itself."""
        row = self._row("SELECT value FROM meta WHERE key = ?", key)
        return None if row is None else str(row[0])

    def tiles_of(self, epoch: int) -> Iterator[Tile]:
        """The stored tiles of an epoch by level and number, for the full check."""
        with self._guarded():
            for row in self._db.execute(
                "SELECT * FROM tile WHERE epoch = ? AND level > 0 ORDER BY level, number", (epoch,)
            ):
                yield _whole(Tile, row)

    def counts(self) -> tuple[int, int, int, int]:
        """Records, records under a head (both without the pruned ones), directives, directives under a head;
        all at one moment."""
        row = self._row(
            "SELECT (SELECT count(*) FROM record LEFT JOIN horizon ON epoch = position >> 40"
            "   WHERE position & 1099511627775 >= coalesce(size, 0)),"
            " (SELECT coalesce(sum(head.size - coalesce(horizon.size, 0)), 0)"
            "   FROM head LEFT JOIN horizon USING (epoch)),"
            " (SELECT count(*) FROM directive), (SELECT coalesce(sum(size), 0) FROM directive_head)"
        )
        return (row[0], row[1], row[2], row[3])

    def integrity_problems(self, limit: int = 20) -> list[str]:
        """What SQLite's own integrity check finds wrong with the file; empty is well."""
        try:
            found = [str(row[0]) for row in self._db.execute(f"PRAGMA integrity_check({limit})")]
        except apsw.Error as problem:
            return [str(problem)]
        return [] if found == ["ok"] else found

    # --- inside -------------------------------------------------------------------------------------------

    def _commit(self) -> None:
        try:
            self._db.execute("COMMIT")
        except apsw.Error as problem:
            self._commit_failed = True
            raise OutcomeUnknown(f"COMMIT failed: {problem}") from problem

    def _guarded(self) -> Guard:
        return Guard(self.rollback)

    def _row(self, statement: str, *values: int | str) -> Any:
        with self._guarded():
            rows = self._db.execute(statement, values).fetchall()
        return rows[0] if rows else None

    def _entries(self, table: str, epoch: int, start: int, limit: int, bytes_max: int) -> list[Entry]:
        entries: list[Entry] = []
        size = 0
        with self._guarded():
            cursor = self._db.execute(
                f"SELECT position, leaf, body FROM {table} WHERE position BETWEEN ? AND ?"  # noqa: S608 - two names
                " ORDER BY position LIMIT ?",
                (*_span(epoch, start), limit),
            )
            for position, leaf, body in cursor:
                entry = _whole(Entry, (position & SEQ_MAX, leaf, body))
                size += len(entry.body)
                if entries and size > bytes_max:
                    break
                entries.append(entry)
            cursor.close(True)
        return entries

    def _hashes(self, epoch: int, size: int, level: int, start: int, count: int) -> list[bytes]:
        """Stored hashes of one level, [start, start + count) as far as they are complete at this size."""
        end = min(start + count, size >> level)
        if level:
            statement = (
                "SELECT hash FROM tile WHERE epoch = ? AND level = ? AND number BETWEEN ? AND ?"
                " ORDER BY number"
            )
            values: tuple[int, ...] = (epoch, level, start, end - 1)
        else:
            statement = "SELECT leaf FROM record WHERE position >= ? AND position < ? ORDER BY position"
            values = (position_of(epoch=epoch, seq=start), position_of(epoch=epoch, seq=end))
        with self._guarded():
            hashes = [row[0] for row in self._db.execute(statement, values)]
        if not level and len(hashes) < end - start:
            hashes = self._leaves_that_stay(epoch, start, end) or hashes
        if not all(isinstance(value, bytes) for value in hashes):
            raise LedgerCorrupt(f"epoch {epoch} has hashes of level {level} from {start} that are none")
        if len(hashes) != max(0, end - start):
            raise LedgerCorrupt(
                f"epoch {epoch} has {len(hashes)} hashes of level {level} from {start}, not {end - start}"
            )
        return hashes

    def _leaves_that_stay(self, epoch: int, start: int, end: int) -> list[bytes]:
        """The leaves [start, end), those below the horizon too; [] if none of them is pruned, RecordPruned if
        one is that did not stay."""
        horizon = self.pruned.horizon(epoch)
        if start >= horizon:
            return []
        known = self.pruned.leaves(epoch, start, min(end, horizon))
        gone = next((seq for seq in range(start, min(end, horizon)) if seq not in known), None)
        if gone is not None:
            raise RecordPruned(f"record {epoch}/{gone} was pruned, and its leaf with it")
        kept = [known[seq] for seq in range(start, min(end, horizon))]
        return kept + (self._hashes(epoch, end, 0, horizon, end - horizon) if end > horizon else [])


def _span(epoch: int, start: int) -> tuple[int, int]:
    """The positions from seq `start` to the end of an epoch."""
    return position_of(epoch=epoch, seq=start), position_of(epoch=epoch, seq=SEQ_MAX)


def _proved(row: Sequence[Any]) -> bytes:
    """The body of a `_RECORD` row, if it is the one that was chained: what is answered is never rot."""
    _, _, position, body, leaf, before = row
    epoch, seq = place_at(position)
    previous = before if seq else FIRST_PREVIOUS
    if not (isinstance(body, bytes) and isinstance(previous, bytes) and leaf_hash(previous, body) == leaf):
        raise LedgerCorrupt(f"record {epoch}/{seq} is not the one that was chained")
    return body


def _whole(kind: type[Stored], row: Sequence[Any]) -> Stored:
    """The row as what it stands for; SQLite checks the types of its columns on writing alone."""
    for value, wanted in zip(row, _COLUMNS[kind], strict=True):
        if not isinstance(value, wanted):
            raise LedgerCorrupt(f"{kind.__name__} {row[0]!r} has {value!r:.80}, which is no {wanted}")
    return kind(*row)


def _nothing() -> None:
    """Nothing is open yet that could be undone."""
