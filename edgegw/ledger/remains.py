"""The tables of what was pruned: how far, what stays of it, and the book from which replays begin.

Part of a `Store` (its `pruned`), on the same connection and inside the same SQL transactions. Leaves out what
may be pruned and why (`ledger.prune`); that nothing else is ever deleted is the triggers' (`ledger.schema`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import apsw

from edgegw.core.pruned import Pruned, Remains, pack, remains_of, unpack
from edgegw.core.records import Refusal, Transfer, decode_record
from edgegw.core.tiles import TILE_WIDTH
from edgegw.errors import BrokenInvariant, LedgerCorrupt
from edgegw.ledger.faults import Guard
from edgegw.ledger.rows import SEQ_MAX, Row, place_at, position_of

_FIND_WIDTHS: Final = (1, 8, 64)
"""As `store` pads its lists of ids."""
KEPT_FIRST: Final = 3
"""An epoch's first records, its link, key and boot, stay whole: they prove its key."""
_FIND: Final = "SELECT id, client, position, remains FROM {table} WHERE id IN ({places})"
_SCAN: Final = (
    "SELECT id, client, position, remains FROM {table} WHERE (id, client) > (?, ?)"
    " ORDER BY id, client LIMIT ?"
)


Value = int | str | bytes
Read = Callable[[str, Sequence[Value]], list[Any]]
"""Runs a statement with its values; the rows."""


class Horizon(NamedTuple):
    """Records of an epoch below `size` are pruned; `base` is the seq from which its records replay."""

    epoch: int
    size: int
    base: int
    digest: str
    """SM3 (hex) of the book's image at `base`; "" where nothing is left to replay."""


class Portion(NamedTuple):
    """One transaction's worth of pruned records [start, end), and SM3 over the identities that stay of it."""

    epoch: int
    start: int
    end: int
    digest: bytes


class Mark(NamedTuple):
    """The centre held so many records of an epoch at hub_s (Unix seconds, the centre's clock); at_ns was the
    box's own time."""

    epoch: int
    size: int
    hub_s: int
    at_ns: int


class Identity(NamedTuple):
    """What stays of one decided request: its identity, its record's position, `core.pruned.pack`'s bytes."""

    id: bytes
    client: str
    position: int
    remains: bytes


class Cut(NamedTuple):
    """What one transaction takes away, and what it leaves."""

    portion: Portion
    identities: list[Identity]
    leaves: list[tuple[int, bytes]]
    """(seq, leaf) that later proofs need."""
    kept: tuple[int, ...]
    """Seqs whose records stay whole."""


class Base(NamedTuple):
    """The book of an epoch just before record `seq`, from which what is left replays."""

    epoch: int
    seq: int
    image: bytes
    """As `core.snapshot` writes it; b"" where nothing is left to replay."""
    digest: str


class Weight(NamedTuple):
    """What a run of records is: how many, with how many identities, bytes of their bodies."""

    records: int
    identities: int
    record_bytes: int


class FileSize(NamedTuple):
    """The file as SQLite counts it, in bytes; `free` is inside it, `shrinks` whether it can be given back."""

    size: int
    free: int
    shrinks: bool


def seal_place(row: Identity) -> bytes:
    """Where the remains of an identity lie, for their seal."""
    return row.position.to_bytes(8, "big") + row.id + row.client.encode()


class PrunedTables:
    """See the module; `guarded` is the store's."""

    def __init__(self, connection: apsw.Connection, guarded: Callable[[], Guard]) -> None:
        self._db = connection
        self._guarded = guarded

    # --- reading ------------------------------------------------------------------------------------------

    def find(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Pruned]:
        """What stays of these identities, (client, id in hex); raises LedgerCorrupt for what has rotted."""
        return find_in("identity", self._rows, keys)

    def horizon(self, epoch: int) -> int:
        """From which seq on the records of an epoch are here."""
        rows = self._rows("SELECT size FROM horizon WHERE epoch = ?", (epoch,))
        return int(rows[0][0]) if rows else 0

    def horizons(self) -> list[Horizon]:
        """The epochs of which something was pruned, oldest first."""
        rows = self._rows("SELECT epoch, size, base, digest FROM horizon ORDER BY epoch")
        return [Horizon(*row) for row in rows]

    def image(self, epoch: int) -> bytes:
        """The book at the base of an epoch, as `core.snapshot` wrote it."""
        rows = self._rows("SELECT image FROM horizon WHERE epoch = ?", (epoch,))
        return bytes(rows[0][0]) if rows else b""

    def portions(self) -> list[Portion]:
        """What was pruned, transaction by transaction, by epoch and start."""
        rows = self._rows("SELECT * FROM portion ORDER BY epoch, start")
        return [Portion(*row) for row in rows]

    def identities(self, each: int) -> Iterator[list[Identity]]:
        """All identities that stay, `each` at a time, by id and client."""
        return scan("identity", self._rows, each)

    def leaf(self, epoch: int, seq: int) -> bytes | None:
        """The leaf of a pruned record, where a proof still needs it."""
        return self.leaves(epoch, seq, seq + 1).get(seq)

    def leaves(self, epoch: int, start: int, end: int) -> dict[int, bytes]:
        """Those leaves of pruned records [start, end) that proofs still need, by seq."""
        rows = self._rows(
            "SELECT number, hash FROM tile WHERE epoch = ? AND level = 0 AND number >= ? AND number < ?",
            (epoch, start, end),
        )
        return {number: leaf for number, leaf in rows if isinstance(leaf, bytes)}

    def marks(self) -> list[Mark]:
        """When the centre was known to hold how much, by epoch and size."""
        return [Mark(*row) for row in self._rows("SELECT * FROM mark ORDER BY epoch, size")]

    def newest_window(self, epoch: int) -> int | None:
        """The seq of the newest record that closed a window of an epoch."""
        rows = self._rows(
            "SELECT max(position) FROM record WHERE type = 'window' AND position BETWEEN ? AND ?",
            (position_of(epoch=epoch, seq=0), position_of(epoch=epoch, seq=SEQ_MAX)),
        )
        return None if rows[0][0] is None else place_at(rows[0][0])[1]

    def weight(self, epoch: int, start: int, end: int) -> Weight:
        """What the records [start, end) are that are here and would go."""
        rows = self._rows(
            "SELECT count(*), count(id), coalesce(sum(length(body)), 0) FROM record"
            " WHERE position >= ? AND position < ?",
            tuple(position_of(epoch=epoch, seq=seq) for seq in (max(start, KEPT_FIRST), end)),
        )
        return Weight(*rows[0])

    def file_size(self) -> FileSize:
        """How large the file is."""
        page, pages, free, mode = (
            int(self._rows(f"PRAGMA {name}")[0][0])
            for name in ("page_size", "page_count", "freelist_count", "auto_vacuum")
        )
        return FileSize(page * pages, page * free, mode != 0)

    def _rows(self, statement: str, values: Sequence[Value] = ()) -> list[Any]:
        with self._guarded():
            return self._db.execute(statement, tuple(values)).fetchall()

    # --- writing, inside the store's transactions ---------------------------------------------------------

    def put_mark(self, mark: Mark) -> None:
        """Keep when the centre was known to hold so much."""
        with self._guarded():
            self._db.execute("INSERT OR IGNORE INTO mark VALUES(?, ?, ?, ?)", mark)

    def cut(self, cut: Cut) -> None:
        """Raise the horizon of an epoch to the portion's end, keep what stays, delete the rest."""
        epoch, start, end, _ = cut.portion
        span = position_of(epoch=epoch, seq=start), position_of(epoch=epoch, seq=end)
        spared = ", ".join(str(position_of(epoch=epoch, seq=seq)) for seq in cut.kept)
        with self._guarded():
            self._db.execute("UPDATE horizon SET size = ? WHERE epoch = ? AND size = ?", (end, epoch, start))
            if self._db.changes() != 1:
                raise BrokenInvariant(f"the horizon of epoch {epoch} is not at {start}")
            self._db.executemany("INSERT INTO identity VALUES(?, ?, ?, ?)", cut.identities)
            self._db.executemany(
                "INSERT OR IGNORE INTO tile VALUES(?, 0, ?, ?)",
                [(epoch, seq, leaf) for seq, leaf in cut.leaves],
            )
            self._db.execute("INSERT INTO portion VALUES(?, ?, ?, ?)", cut.portion)
            self._db.execute(
                f"DELETE FROM record WHERE position >= ? AND position < ? AND position NOT IN ({spared})",  # noqa: S608 - numbers
                span,
            )
            self._db.execute("DELETE FROM snapshot WHERE position >= ? AND position < ?", span)
            self._db.execute("DELETE FROM mark WHERE epoch = ? AND size < ?", (epoch, start))
            # The last portion's end has moved on: its leaf is none of those that proofs need.
            self._db.execute(
                "DELETE FROM tile WHERE epoch = ? AND level = 0 AND number = ? AND number >= ?",
                (epoch, start - 1, TILE_WIDTH),
            )

    def move_base(self, base: Base) -> None:
        """Let replays of an epoch begin at a later book; the horizon stays where it is."""
        with self._guarded():
            self._db.execute(
                "INSERT INTO horizon VALUES(?, 0, ?, ?, ?) ON CONFLICT(epoch) DO UPDATE SET"
                " base = excluded.base, digest = excluded.digest, image = excluded.image",
                (base.epoch, base.seq, base.digest, base.image),
            )

    def give_back(self, pages: int) -> None:
        """Hand up to so many free pages back to the file system."""
        with self._guarded():
            self._db.execute(f"PRAGMA incremental_vacuum({pages})").fetchall()

    def vacuum(self) -> None:
        """Write the whole file anew without its free pages, so that later ones are given back by and by.
        Takes as much disk again; no transaction may be open."""
        with self._guarded():
            self._db.execute("PRAGMA auto_vacuum=INCREMENTAL").fetchall()
            self._db.execute("VACUUM").fetchall()
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


# --- identities, of what was pruned or of another history (`ledger.others`) ---------------------------------


def identity_of(row: Row) -> Identity:
    """What stays of a record that has an identity; raises LedgerCorrupt where it decides nothing."""
    record = decode_record(row.body)
    if not isinstance(record, Transfer | Refusal) or row.id is None or row.client is None:
        raise LedgerCorrupt(f"record {place_at(row.position)} has an identity, but decides nothing")
    bare = Identity(row.id, row.client, row.position, b"")
    return bare._replace(remains=pack(remains_of(record), place=seal_place(bare)))


def find_in(table: str, read: Read, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Pruned]:
    """What a table of identities has of these, (client, id in hex); raises LedgerCorrupt for what has
    rotted."""
    found = dict[tuple[str, str], Pruned]()
    if not read(f"SELECT 1 FROM {table} LIMIT 1", ()):  # noqa: S608 - a name
        return found
    wanted = set(keys)
    ids = [bytes.fromhex(identity) for _, identity in keys]
    for start in range(0, len(ids), _FIND_WIDTHS[-1]):
        chunk = ids[start : start + _FIND_WIDTHS[-1]]
        width = next(width for width in _FIND_WIDTHS if width >= len(chunk))
        chunk += chunk[-1:] * (width - len(chunk))
        places = ", ".join("?" * width)
        rows = read(_FIND.format(table=table, places=places), chunk)
        for row in (Identity(*row) for row in rows):
            if (row.client, row.id.hex()) in wanted:
                found[row.client, row.id.hex()] = outcome_of(row)
    return found


def scan(table: str, read: Read, each: int) -> Iterator[list[Identity]]:
    """All identities of a table, `each` at a time, by id and client."""
    after: tuple[bytes, str] = (b"", "")
    while True:
        rows = [Identity(*row) for row in read(_SCAN.format(table=table), (*after, each))]
        if not rows:
            return
        yield rows
        after = rows[-1].id, rows[-1].client


def outcome_of(row: Identity) -> Pruned:
    """The outcome that stays; raises LedgerCorrupt where its seal is not that of its bytes."""
    epoch, seq = place_at(row.position)
    try:
        remains: Remains = unpack(row.remains, place=seal_place(row))
    except ValueError as problem:
        raise LedgerCorrupt(f"what stays of record {epoch}/{seq} has rotted: {problem}") from None
    return Pruned(row.client, row.id.hex(), epoch, seq, remains)
