"""The auditor's workspace: a SQLite file with the tables of each side, `break` and `summary`.

Written as a draft by one process, named when it is whole. Rows are loaded in batches, so that memory does
not grow with the sides. Leaves out what the tables mean to each other (`matching_*`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from sqlite_utils import Database

Value = int | str | bytes | None
Row = tuple[Value, ...]

APPLICATION_ID: Final = 0x45475752
"""EGWR, in the header of every workspace."""
SEQ_BITS: Final = 40
ROWS_BUFFERED: Final = 20_000
CACHE_KIB: Final = 131_072


class Table(NamedTuple):
    """A table: its columns in order, and those of its primary key (none: a rowid)."""

    name: str
    columns: dict[str, type]
    key: tuple[str, ...] = ()


_RECORD: Final[dict[str, type]] = {
    "place": int,
    "log": int,
    "seq": int,
    "leaf": bytes,
    "chained": int,
    "type": str,
    "client": str,
    "request_id": str,
    "kind": str,
    "state": str,
    "debit_account_id": str,
    "credit_account_id": str,
    "amount_minor": int,
    "currency": str,
    "window": int,
    "wall_ns": int,
    "original": str,
    "counted": int,
}
"""`place` is log << 40 | seq; `chained`: the bytes give the leaf; `counted`: this row stands for its payment
among all rows of all sides. `original` is EPOCH/SEQ of the same box. A row of `hub` that is the
`same` as the journal's has its columns there."""

_EPOCH: Final[dict[str, type]] = {"box": str, "epoch": int}
_MONEY: Final[dict[str, type]] = {"account_id": str, "currency": str, "amount_minor": int}

TABLES: Final = (
    Table(
        "log",
        {
            "log": int,
            "side": str,
            **_EPOCH,
            "branch": int,
            "source": str,
            "first_seq": int,
            "size": int,
            "ends": int,
            "hub_size": int,
            "unchained": int,
            "missing": int,
            "root_fault": str,
            "note_fault": str,
        },
        ("log",),
    ),
    Table("journal", _RECORD, ("place",)),
    Table("hub", {**_RECORD, "identified": int, "same": int}, ("place",)),
    Table("misfiled", {"place": int, "client": str, "request_id": str, "found": str}, ("place",)),
    Table("hole", {"log": int, "first_seq": int, "end_seq": int}),
    Table(
        "core",
        {
            "line": int,
            "source": str,
            "value_date": str,
            "core_reference": str,
            "channel": str,
            "client": str,
            "request_id": str,
            "box": str,
            "debit_account_id": str,
            "credit_account_id": str,
            "currency": str,
            "amount_minor": int,
            "status": str,
            "ours": int,
        },
        ("line",),
    ),
    Table("pair", {"journal_log": int, "hub_log": int, "first_seq": int, "end_seq": int}),
    Table(
        "resolution",
        {
            "place": int,
            **_EPOCH,
            "seq": int,
            "at_epoch": int,
            "at_seq": int,
            "effect": str,
            "amount_minor": int,
        },
    ),
    Table(
        "applied_directive",
        {
            "place": int,
            **_EPOCH,
            "seq": int,
            "incarnation": int,
            "number": int,
            "type": str,
            "outcome": str,
            **_MONEY,
        },
    ),
    Table(
        "window_closed",
        {**_EPOCH, "window": int, "place": int, "business_date": str, "transfers": int},
    ),
    Table(
        "window_position",
        {**_EPOCH, "window": int, "place": int, "participant": str, "currency": str, "net_minor": int},
    ),
    Table("window_net", {**_EPOCH, "window": int, "participant": str, "currency": str, "net_minor": int}),
    Table("window_transfers", {**_EPOCH, "window": int, "transfers": int}),
    Table(
        "account_total",
        {**_EPOCH, "account_id": str, "debits_posted": int, "credits_posted": int, "returned_minor": int},
    ),
    Table("hub_box", {"box": str, "epoch": int, "state": str}, ("box",)),
    Table("hub_epoch", {**_EPOCH, "size": int, "sealed": int, "forked": int}, ("box", "epoch")),
    Table(
        "hub_account",
        {"account_id": str, "currency": str, "balance_minor": int, "available_minor": int},
        ("account_id",),
    ),
    Table(
        "hub_outstanding", {**_EPOCH, "account_id": str, "amount_minor": int}, ("box", "epoch", "account_id")
    ),
    Table(
        "hub_balance",
        {**_EPOCH, "account_id": str, "debits_posted": int, "credits_posted": int},
        ("box", "epoch", "account_id"),
    ),
    Table("hub_hold", {**_EPOCH, "seq": int, "amount_minor": int}, ("box", "epoch", "seq")),
    Table(
        "hub_stand_in",
        {
            **_EPOCH,
            "seq": int,
            "currency": str,
            "amount_minor": int,
            "state": str,
            "liable": str,
            "settled": int,
        },
        ("box", "epoch", "seq"),
    ),
    Table(
        "hub_directive",
        {
            "box": str,
            "incarnation": int,
            "number": int,
            "epoch": int,
            "type": str,
            "outcome": str,
            **_MONEY,
        },
        ("box", "incarnation", "number"),
    ),
    Table(
        "hub_suspense",
        {**_EPOCH, "branch": int, "seq": int, "owner": str, "reason": str, "detail": str},
        ("box", "epoch", "branch", "seq"),
    ),
    Table(
        "hub_window",
        {**_EPOCH, "window": int, "state": str, "business_date": str, "transfers": int},
        ("box", "epoch", "window"),
    ),
    Table(
        "hub_position",
        {**_EPOCH, "window": int, "participant": str, "currency": str, "net_minor": int},
        ("box", "epoch", "window", "participant", "currency"),
    ),
    Table(
        "hub_posting",
        {"core_reference": str, "debit_account_id": str, "credit_account_id": str, "amount_minor": int},
        ("core_reference",),
    ),
    Table("hub_loss", {**_EPOCH, "account_id": str, "amount_minor": int}),
    Table(
        "break",
        {
            "break_id": int,
            "class": str,
            "amount_minor": int,
            "currency": str,
            "box": str,
            "epoch": int,
            "seq": int,
            "client": str,
            "request_id": str,
            "account_id": str,
            "detail": str,
            "hint": str,
            "journal": str,
            "hub": str,
            "core": str,
            "journal_place": int,
            "hub_place": int,
            "core_line": int,
        },
        ("break_id",),
    ),
    Table("apart", {"class": str, "records": int, "currency": str, "amount_minor": int}),
    Table("summary", {"what": str, "records": int, "currency": str, "amount_minor": int}),
)


_SAME: Final = """INSERT INTO hub(place, log, seq, leaf, type, identified, chained, counted, same)
    VALUES(?, ?, ?, ?, ?, ?, 1, 0, 1)"""


class Workspace:
    """One workspace being written. Rows go in by `add`; SQL over them after `flush`."""

    def __init__(self, path: Path) -> None:
        self.beside = path.with_name(f"{path.name}.beside")
        """Where a second process may write what it reads meanwhile."""
        self._db = Database(path)
        for pragma in (
            f"application_id={APPLICATION_ID}",
            "journal_mode=OFF",
            "synchronous=OFF",
            f"cache_size=-{CACHE_KIB}",
            "temp_store=FILE",
            "locking_mode=EXCLUSIVE",
        ):
            self._db.execute(f"PRAGMA {pragma}").fetchall()
        self._rows: dict[str, list[Row]] = {}
        self._inserts: dict[str, str] = {}
        self._buffered = 0
        for table in TABLES:
            key = table.key[0] if len(table.key) == 1 else table.key
            self._db.table(table.name).create(table.columns, pk=key or None)
            marks = ", ".join("?" * len(table.columns))
            self._inserts[table.name] = f"INSERT INTO [{table.name}] VALUES({marks})"
            self._rows[table.name] = []

    def add(self, table: str, row: Sequence[Value]) -> None:
        """One more row, in the order of the table's columns."""
        self._rows[table].append(tuple(row))
        self._buffered += 1
        if self._buffered >= ROWS_BUFFERED:
            self.flush()

    def add_all(self, table: str, rows: Iterable[Row]) -> None:
        """Many rows of one table."""
        for row in rows:
            self.add(table, row)

    def insert(self, table: str, rows: Sequence[Row]) -> None:
        """Many whole rows of one table at once."""
        self._db.conn.executemany(self._inserts[table], rows)

    def attach_beside(self) -> None:
        """Let SQL read what a second process has written."""
        self.flush()
        self._db.conn.execute("ATTACH ? AS beside", (str(self.beside),))

    def alike(self, first: int, end: int, *, shift: int) -> int:
        """How many records of `beside` with these places are a journal's too, whose places are so much
        higher, under the same identity where the hub has one."""
        query = """SELECT count(*) FROM beside.chained AS one JOIN journal ON journal.place = one.place + ?
            WHERE one.place >= ? AND one.place < ? AND journal.leaf = one.leaf AND journal.chained
                AND (one.request_id IS NULL
                    OR (one.request_id = journal.request_id AND one.client = journal.client))"""
        ((count,),) = self.rows(query, shift, first, end)
        return int(count)

    def insert_alike(self, first: int, end: int, *, log: int, shift: int) -> None:
        """Let those be rows of `hub` in this log."""
        mask = (1 << SEQ_BITS) - 1
        self.run(
            f"""INSERT INTO hub(place, log, seq, leaf, type, identified, chained, counted, same)
            SELECT place + ?, ?, place & {mask}, leaf, type, request_id IS NOT NULL, 1, 0, 1
            FROM beside.chained WHERE place >= ? AND place < ?""",
            shift,
            log,
            first,
            end,
        )

    def insert_same(self, rows: Sequence[Row]) -> None:
        """Rows of `hub` that are the journal's: place, log, seq, leaf, type, identified."""
        self._db.conn.executemany(_SAME, rows)

    def flush(self) -> None:
        """Write what is buffered."""
        for table, rows in self._rows.items():
            if rows:
                self._db.conn.executemany(self._inserts[table], rows)
                rows.clear()
        self._db.conn.commit()
        self._buffered = 0

    def run(self, statement: str, *values: Value) -> int:
        """Run one statement over all rows; how many it changed."""
        self.flush()
        cursor = self._db.conn.execute(statement, values)
        self._db.conn.commit()
        return int(cursor.rowcount)

    def run_many(self, statement: str, rows: Iterable[Row]) -> None:
        """Run one statement for each of these rows."""
        self.flush()
        self._db.conn.executemany(statement, rows)
        self._db.conn.commit()

    def rows(self, query: str, *values: Value) -> Iterator[tuple[Any, ...]]:
        """The rows of a query, one after the other."""
        self.flush()
        yield from self._db.conn.execute(query, values)

    def index(self, table: str, *columns: str, where: str = "") -> None:
        """An index that a matching is about to use."""
        self.flush()
        name = f"{table}_{'_'.join(columns)}"
        condition = f" WHERE {where}" if where else ""
        self._db.execute(f"CREATE INDEX [{name}] ON [{table}]({', '.join(columns)}){condition}")

    def finish(self) -> None:
        """Write the rest and leave a file that any tool opens."""
        self.flush()
        for _, name, _ in self._db.execute("PRAGMA database_list").fetchall():
            if name == "beside":
                self._db.execute("DETACH beside")
        self._db.execute("PRAGMA locking_mode=NORMAL").fetchall()
        self._db.execute("PRAGMA journal_mode=DELETE").fetchall()

    def close(self) -> None:
        """Close the file."""
        self._db.close()


@contextmanager
def new_workspace(path: Path) -> Iterator[Workspace]:
    """A workspace that gets its name at the end, in place of an older one; one that fails leaves nothing."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        workspace = Workspace(draft)
        try:
            yield workspace
            workspace.finish()
        finally:
            workspace.close()
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def is_workspace(path: Path) -> bool:
    """Whether a file that is there is a workspace, and so may be replaced."""
    with path.open("rb") as file:
        header = file.read(72)
    return header[:16] == b"SQLite format 3\x00" and header[68:72] == APPLICATION_ID.to_bytes(4, "big")
