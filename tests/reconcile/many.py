"""Three sides of any size that agree, made from a seed without a box or a hub: for measuring, and for memory.

Payments between a thousand customers of one box, with refusals and five closed windows; the hub's rows are
written as its own code would have left them.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec

from edgegw.access import key_files
from edgegw.access.keys import SigningKey
from edgegw.core.export import journal_lines
from edgegw.core.journal import FIRST_PREVIOUS, Checkpoint, Frontier, journal_origin, leaf_hash
from edgegw.core.records import (
    Account,
    ClearedBy,
    DirectiveApplied,
    GrantDirective,
    Kind,
    Leg,
    Position,
    Record,
    Refusal,
    Request,
    SiteDirective,
    Transfer,
    WindowClosed,
    encode,
)
from edgegw.hub.sqlite import SqliteDatabase
from tests.hub.simulated_box import new_key
from tests.reconcile.sides import HEADER

BANK, BOX, CNY = "testbank", "north", "CNY"
ACCOUNTS: Final = 1_000
PARTICIPANTS: Final = ("", "city", "coast", "land")
GRANTED_MINOR: Final = 10**12
WINDOWS: Final = 5
BATCH: Final = 10_000


class Writer:
    """One journal record after the other, and the sums that the hub has of them."""

    def __init__(self, records: int, seed: int) -> None:
        self._count = records
        self._chance = Random(seed)
        self._accounts = [
            Account(
                id=f"CUSTOMER-{number:04d}",
                currency=CNY,
                home=BOX,
                participant=PARTICIPANTS[number % len(PARTICIPANTS)],
            )
            for number in range(ACCOUNTS)
        ]
        self._about = {account.id: account.participant or "bank" for account in self._accounts}
        self.seq = 0
        self.debits: Counter[str] = Counter()
        self.credits: Counter[str] = Counter()
        self.grants: list[GrantDirective] = []
        self.closed: list[tuple[int, int, dict[str, int]]] = []
        """Window, transfers and positions of each that is closed."""
        self._nets: Counter[str] = Counter()
        self._window, self._transfers = 1, 0

    def _head(self) -> dict[str, Any]:
        at_ns = 1_800_000_000_000_000_000 + self.seq * 1_000_000
        head = {"v": 1, "bank": BANK, "box": BOX, "epoch": 1, "seq": self.seq}
        self.seq += 1
        return head | {"at_ns": at_ns, "wall_ns": at_ns, "mono_ns": at_ns}

    def records(self) -> Iterator[tuple[Record, tuple[str, ...] | None]]:
        """Every record, and the core's line of it where there is one."""
        said = {"v": 1, "bank": BANK, "box": BOX, "incarnation": 1, "wall_ns": 1}
        site = SiteDirective(**said, seq=0, version=1, digest="00" * 32, bytes=1)
        raw = msgspec.Raw(encode(site))
        yield (
            DirectiveApplied(
                **self._head(), window=1, directive=raw, outcome="applied", accounts=tuple(self._accounts)
            ),
            None,
        )
        for account in self._accounts:
            yield self._grant(account.id, said), None
        each = (self._count - self.seq) // WINDOWS
        while self.seq < self._count:
            if self.seq and not self.seq % each:
                yield self._close(), None
            else:
                yield self._decided()

    def _grant(self, account_id: str, said: dict[str, Any]) -> Record:
        grant = GrantDirective(
            **said, seq=len(self.grants) + 1, account_id=account_id, currency=CNY, amount_minor=GRANTED_MINOR
        )
        self.grants.append(grant)
        leg = Leg(f"centre:{CNY}", account_id, GRANTED_MINOR)
        self._move(leg)
        return DirectiveApplied(
            **self._head(), window=1, directive=msgspec.Raw(encode(grant)), outcome="applied", legs=(leg,)
        )

    def _move(self, leg: Leg) -> None:
        self.debits[leg.debit_account_id] += leg.amount_minor
        self.credits[leg.credit_account_id] += leg.amount_minor
        payer = self._about.get(leg.debit_account_id, "bank")
        payee = self._about.get(leg.credit_account_id, "bank")
        if payer != payee and not leg.debit_account_id.startswith("centre:"):
            self._nets[payer] -= leg.amount_minor
            self._nets[payee] += leg.amount_minor
        self._transfers += 1

    def _decided(self) -> tuple[Record, tuple[str, ...] | None]:
        chance = self._chance
        debit, credit = chance.sample(self._accounts, 2)
        id = f"{self.seq << 64 | chance.getrandbits(60):032x}"
        request = Request(
            kind=Kind.PAYMENT,
            id=id,
            debit_account_id=debit.id,
            credit_account_id=credit.id,
            amount_minor=chance.randint(1, 50_000),
            currency=CNY,
            terminal=f"T{chance.randrange(40):04d}",
            reference=f"invoice {self.seq}",
        )
        client = f"till-{self.seq % 20}"
        if not self.seq % 50:
            refusal = Refusal(
                **self._head(), client=client, request=request, code="insufficient_funds", detail="too little"
            )
            return refusal, None
        leg = Leg(debit.id, credit.id, request.amount_minor)
        self._move(leg)
        cells = ("edgegw", client, id, BOX, debit.id, credit.id, CNY, str(request.amount_minor), "posted")
        day = f"2030-01-{self._window:02d}"
        record = Transfer(
            **self._head(),
            window=self._window,
            client=client,
            request=request,
            cleared_by=ClearedBy.ALLOWANCE,
            legs=(leg,),
        )
        return record, (day, f"core-{record.seq:09d}", *cells)

    def _close(self) -> Record:
        positions = tuple(Position(name, CNY, net) for name, net in sorted(self._nets.items()) if net)
        closed = WindowClosed(
            **self._head(),
            window=self._window,
            business_date=f"2030-01-{self._window:02d}",
            transfers=self._transfers,
            positions=positions,
            closed_by="manager",
        )
        self.closed.append((self._window, self._transfers, dict(self._nets)))
        self._window, self._transfers = self._window + 1, 0
        self._nets.clear()
        return closed


def make_many(folder: Path, records: int, seed: int = 1) -> None:
    """north.journal, hub.db, hub.toml and core.csv of so many records in a folder."""
    writer = Writer(records, seed)
    database = SqliteDatabase(folder / "hub.db")
    leaf, frontier = FIRST_PREVIOUS, Frontier()
    leaves, lengths = bytearray(), 0
    with (
        (folder / "core.csv").open("w", newline="", encoding="utf-8") as core,
        (folder / "bodies").open("wb") as kept,
        database.engine.begin() as connection,
    ):
        connection.exec_driver_sql("PRAGMA defer_foreign_keys = 1")
        lines = csv.writer(core)
        lines.writerow(HEADER)
        rows: list[tuple[object, ...]] = []
        for record, line in writer.records():
            body = encode(record)
            leaf = leaf_hash(leaf, body)
            leaves += leaf
            frontier.append(leaf)
            kept.write(body + b"\n")
            asked = isinstance(record, Transfer | Refusal)
            identity = (record.client, record.request.id) if asked else (None, None)
            kind = str(record.__struct_config__.tag)
            rows.append((BOX, 1, record.seq, kind, *identity, leaf, body))
            if line is not None:
                lines.writerow(line)
            lengths += 1
            if len(rows) == BATCH:
                _insert_records(connection, rows)
        _insert_records(connection, rows)
        key = new_key(f"{BANK}/{BOX}/checkpoint")
        head = Checkpoint(journal_origin(bank=BANK, box=BOX, epoch=1), lengths, frontier.root())
        note = key.seal(head.body())
        _insert_books(connection, writer, key, head, note)
    database.close()
    _write_journal(folder, leaves, head, note)
    hub = new_key("hub")
    key_files.store_private_key(folder / "hub.pem", hub._private)
    (folder / "hub.toml").write_text(f'bank = "{BANK}"\ndatabase_file = "hub.db"\nkey_file = "hub.pem"\n')


def _insert_records(connection: Any, rows: list[tuple[object, ...]]) -> None:
    if rows:
        columns = "box, epoch, seq, type, client, request_id, leaf, body"
        connection.exec_driver_sql(f"INSERT INTO record({columns}) VALUES(?, ?, ?, ?, ?, ?, ?, ?)", rows)
        rows.clear()


def _insert(connection: Any, table: str, rows: list[dict[str, Any]]) -> None:
    """Rows of a table; columns that are not named are empty."""
    columns = [(row[1], row[2]) for row in connection.exec_driver_sql(f"PRAGMA table_info({table})")]
    marks = ", ".join("?" * len(columns))
    empty = {
        name: 0 if "INT" in kind or kind == "BOOLEAN" else b"" if kind == "BLOB" else ""
        for name, kind in columns
    }
    values = [tuple((empty | row).values()) for row in rows]
    connection.exec_driver_sql(f"INSERT INTO {table} VALUES({marks})", values)


def _insert_books(connection: Any, writer: Writer, key: SigningKey, head: Checkpoint, note: str) -> None:
    here = {"box": BOX, "epoch": 1}
    _insert(connection, "box", [here | {"incarnation": 1, "state": "active"}])
    whole = {"size": head.size, "root": head.root, "key": key.public.text(), "checkpoint": note}
    _insert(connection, "journal_head", [here | whole])
    _insert(connection, "directive_head", [here | {"incarnation": 1, "size": len(writer.grants) + 1}])
    said = [{"box": BOX, "incarnation": 1, "seq": 0, "type": "site", "outcome": "applied", "body": b"{}"}]
    said += [said[0] | {"seq": grant.seq, "type": "grant", "body": encode(grant)} for grant in writer.grants]
    _insert(connection, "directive", said)
    day = "2030-01-{:02d}".format
    windows = [
        here | {"number": n, "state": "compared", "business_date": day(n), "transfers": transfers}
        for n, transfers, _ in writer.closed
    ]
    _insert(connection, "clearing_window", windows)
    positions = [
        here | {"number": n, "participant": who, "currency": CNY, "net_minor": net}
        for n, _, nets in writer.closed
        for who, net in nets.items()
    ]
    _insert(connection, "window_position", positions)
    names = sorted(writer.debits.keys() | writer.credits.keys())
    balances = [
        here | {"account_id": n, "debits_posted": writer.debits[n], "credits_posted": writer.credits[n]}
        for n in names
    ]
    _insert(connection, "box_balance", balances)
    customers = [n for n in names if not n.startswith("centre:")]
    held = {n: writer.credits[n] - writer.debits[n] for n in customers}
    _insert(connection, "outstanding", [here | {"account_id": n, "amount_minor": held[n]} for n in customers])
    accounts = [{"account_id": n, "currency": CNY, "balance_minor": held[n]} for n in customers]
    outside = -sum(held.values())
    accounts.append(
        {"account_id": f"core:{CNY}", "currency": CNY, "balance_minor": outside, "available_minor": outside}
    )
    _insert(connection, "account", accounts)


def _write_journal(folder: Path, leaves: bytearray, head: Checkpoint, note: str) -> None:
    with (folder / "bodies").open("rb") as bodies, (folder / "north.journal").open("wb") as file:
        entries = (
            (body.removesuffix(b"\n"), bytes(leaves[32 * seq : 32 * seq + 32]))
            for seq, body in enumerate(bodies)
        )
        file.writelines(journal_lines(head.origin, entries, checkpoint=note, cosignatures=[]))
    (folder / "bodies").unlink()
