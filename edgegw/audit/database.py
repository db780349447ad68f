"""Writing the audit export: a journal read in steps beside a running box, proven on the way, into a file.

What is written is what the box has signed: each record's leaf is computed from its bytes, and the roots must
be those of the checkpoints, or nothing is written. The file gets its name when it is whole.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from sqlite_utils import Database

from edgegw.audit.rows import Numbers, Row, rows_of
from edgegw.audit.tables import FORMAT, LEVELS, NODE, TABLES, VIEWS
from edgegw.core.exchange import frontier_at
from edgegw.core.journal import (
    FIRST_PREVIOUS,
    Frontier,
    NoteError,
    consistency_proof,
    journal_origin,
    leaf_hash,
    node_hash,
    parse_checkpoint,
)
from edgegw.core.records import decode_record
from edgegw.errors import LedgerCorrupt, LedgerForeign
from edgegw.ledger.received import proven_head
from edgegw.ledger.rows import position_of
from edgegw.ledger.store import Head, Store

STEP: Final = 4_096
STEP_BYTES: Final = 8 * 2**20
ROWS_BUFFERED: Final = 20_000
Progress = Callable[[int, int], None]


class Written(NamedTuple):
    """What an export holds: epochs, records, and the bytes of the file."""

    epochs: int
    records: int
    bytes: int


def export_database(store: Store, path: Path, *, progress: Progress) -> Written:
    """Write all proven records of a ledger to a new SQLite file at path, replacing one that is there.

    Raises LedgerForeign when there is nothing to export, LedgerCorrupt for a record that was not chained.
    """
    bank, box = store.meta("bank"), store.meta("box")
    # The cosignatures first: none is then beyond a head that is read later.
    cosigned = {head.epoch: store.cosignature(head.epoch) for head in store.heads()}
    heads = [head for known in store.heads() if (head := proven_head(store, known.epoch)) is not None]
    if bank is None or box is None or not heads:
        raise LedgerForeign(f"{store.path} holds no journal yet", hint="Start the box once; then export.")
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        with _Sheets(draft) as sheets:
            sheets.add("export", (FORMAT, bank, box))
            firsts = {head.epoch: store.pruned.horizon(head.epoch) for head in heads}
            total = sum(head.size - firsts[head.epoch] for head in heads)
            done = 0
            for head in heads:
                epoch = _Epoch(
                    store, head, firsts[head.epoch], journal_origin(bank=bank, box=box, epoch=head.epoch)
                )
                epoch.describe(sheets, cosigned.get(head.epoch))
                for count in epoch.copy(sheets):
                    done += count
                    progress(done, total)
        size = draft.stat().st_size
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return Written(len(heads), total, size)


class _Sheets:
    """The new file: tables first, rows as they come, keys to search by and views last."""

    def __init__(self, path: Path) -> None:
        self._db = Database(path)
        self._rows: dict[str, list[Row]] = {name: [] for name in (*(one.name for one in TABLES), "node")}
        self._inserts: dict[str, str] = {}
        self._buffered = 0
        self.numbers = Numbers()

    def __enter__(self) -> _Sheets:
        # Nobody reads it before it is whole, and a half-written one is thrown away.
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-65536", "locking_mode=EXCLUSIVE"):
            self._db.execute(f"PRAGMA {pragma}").fetchall()
        for table in TABLES:
            primary = next(iter(table.columns))
            keys = [(column, target, column) for column, target in table.references]
            self._db.table(table.name).create(table.columns, pk=primary, foreign_keys=keys)
            marks = ", ".join("?" * len(table.columns))
            self._inserts[table.name] = f"INSERT INTO {table.name} VALUES({marks})"
        self._db.execute(NODE)
        self._inserts["node"] = "INSERT INTO node VALUES(?, ?, ?, ?)"
        self._db.table("level").insert_all({"level": level} for level in range(LEVELS))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
                self._finish()
        finally:
            self._db.close()

    def add(self, table: str, row: Row) -> None:
        """One more row."""
        self._rows[table].append(row)
        self._buffered += 1
        if self._buffered >= ROWS_BUFFERED:
            self._flush()

    def _flush(self) -> None:
        with self._db.conn:
            for table, rows in self._rows.items():
                if rows:
                    self._db.conn.executemany(self._inserts[table], rows)
                    rows.clear()
        self._buffered = 0

    def _finish(self) -> None:
        for table in TABLES:
            for columns in table.indexes:
                self._db.table(table.name).create_index(columns)
        for name, select in VIEWS.items():
            self._db.create_view(name, select)
        self._db.analyze()
        self._db.conn.commit()
        self._db.execute("PRAGMA locking_mode=NORMAL").fetchall()
        self._db.execute("PRAGMA journal_mode=DELETE").fetchall()


class _Epoch:
    """One epoch's journal on its way into the export."""

    def __init__(self, store: Store, head: Head, first: int, origin: str) -> None:
        self._store, self._head, self._first, self._origin = store, head, first, origin
        node = store.node(head.epoch, head.size)
        self._leaf = store.node(head.epoch, head.size)(0, first - 1) if first else FIRST_PREVIOUS
        self._tree = _Nodes(head.epoch, frontier_at(first, node))

    def describe(self, sheets: _Sheets, cosigned: tuple[int, str] | None) -> None:
        """The epoch's own rows: its head, and how far the other side holds it."""
        epoch, size, root, note, _ = self._head
        notes = [one.note for one in self._store.keys.notes(epoch) if one.seq < size]
        keys = json.dumps(notes, ensure_ascii=False, separators=(",", ":"))
        sheets.add("epoch", (epoch, self._origin, self._first, self._leaf, size, root, note, keys))
        for row in self._tree.border():
            sheets.add("node", row)
        if cosigned is None or not 0 < cosigned[0] <= size:
            return
        steps = consistency_proof(cosigned[0], size, self._store.node(epoch, size))
        proof = json.dumps([step.hex() for step in steps], separators=(",", ":"))
        sheets.add("cosignature", (epoch, cosigned[0], _cosigned_at_s(cosigned[1]), cosigned[1], proof))

    def copy(self, sheets: _Sheets) -> Iterator[int]:
        """Copy all records with what they say, telling how many at each step; raises LedgerCorrupt."""
        epoch, size, root = self._head.epoch, self._head.size, self._head.root
        seq = self._first
        while seq < size:
            limit = min(STEP, size - seq)
            entries = self._store.records(epoch=epoch, start=seq, limit=limit, bytes_max=STEP_BYTES)
            if not entries:
                raise LedgerCorrupt(f"records are missing from {epoch}/{seq} on")
            for entry in entries:
                if entry.seq != seq:
                    raise LedgerCorrupt(f"record {epoch}/{seq} is missing")
                self._copy_one(sheets, seq, entry.body)
                seq += 1
            yield len(entries)
        for row in self._tree.edge():
            sheets.add("node", row)
        if self._tree.root() != root:
            raise LedgerCorrupt(f"the records of epoch {epoch} do not give the root that was signed")

    def _copy_one(self, sheets: _Sheets, seq: int, body: bytes) -> None:
        epoch = self._head.epoch
        self._leaf = leaf_hash(self._leaf, body)
        for row in self._tree.append(self._leaf):
            sheets.add("node", row)
        record_id = position_of(epoch=epoch, seq=seq)
        try:
            record = decode_record(body)
        except msgspec.MsgspecError as problem:
            raise LedgerForeign(
                f"record {epoch}/{seq} cannot be read by this version: {problem}",
                hint="Export with the version that wrote it.",
            ) from None
        tag = str(record.__struct_config__.tag)
        head = (tag, record.at_ns, record.wall_ns, record.mono_ns)
        sheets.add("record", (record_id, epoch, seq, *head, self._leaf, body.decode()))
        for table, row in rows_of(record, record_id, sheets.numbers):
            sheets.add(table, row)


def _cosigned_at_s(note: str) -> int:
    """When the other side says that it cosigned: the first 8 bytes of its signature."""
    try:
        return int.from_bytes(parse_checkpoint(note)[1][0].signature[:8], "big")
    except NoteError as problem:
        raise LedgerCorrupt(f"the cosignature is none: {problem}") from None


class _Nodes:
    """The tree above the leaves of an epoch, node by node as it grows."""

    def __init__(self, epoch: int, frontier: Frontier) -> None:
        self._epoch, self._size = epoch, frontier.size
        edge = frontier.to_bytes()[8:]
        self._peaks = [edge[start : start + 32] for start in range(0, len(edge), 32)]

    def root(self) -> bytes:
        """The root over all leaves."""
        root = self._peaks[-1]
        for peak in self._peaks[-2::-1]:
            root = node_hash(peak, root)
        return root

    def border(self) -> Iterator[Row]:
        """What stands for the leaves that are not here any more."""
        start = 0
        for peak in self._peaks:
            level = (self._size - start).bit_length() - 1
            yield self._epoch, level, start >> level, peak
            start += 1 << level

    def append(self, leaf: bytes) -> Iterator[Row]:
        """One more leaf; the nodes that it completes."""
        carry, level, node = self._size, 0, leaf
        while carry & 1:
            node = node_hash(self._peaks.pop(), node)
            carry >>= 1
            level += 1
            yield self._epoch, level, carry, node
        self._peaks.append(node)
        self._size += 1

    def edge(self) -> Iterator[Row]:
        """The nodes over the last leaves, which are not as many as their level takes."""
        node: bytes | None = None
        peaks = self._peaks.copy()
        for level in itertools.count():
            number = self._size >> level
            if not number:
                return
            if node is not None:
                yield self._epoch, level, number, node
            if number & 1:
                peak = peaks.pop()
                node = peak if node is None else node_hash(peak, node)
