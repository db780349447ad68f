"""What must hold after every step (DESIGN §3: 1, 2, 8, 11 and 12), read from the files by SQL of its own and
held against the plain model.

Reads only what is new at a box, and the hub's tables when its file has changed. Imports nothing of the
product. Leaves out what clients heard (`auditor`), and what makes the steps (`stage`).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import apsw
import pysqlite3

from tests.simulator.auditor import NOT_HERE, Facts, audit_own, decision, floors
from tests.simulator.books import audit_balances, audit_invariants
from tests.simulator.model import FUNDINGS, PENDING, POST, VOID, Leg, Model, Plain, legs_of

EPOCH_BITS: Final = 40
"""A record's position in a ledger file: the epoch above, the seq below."""
TABLES: Final = {
    "account": "account_id, currency, floor, balance_minor, available_minor",
    "outstanding": "box, epoch, account_id, amount_minor",
    "record": "box, epoch, seq, type, body",
    "journal_head": "box, epoch, size, sealed, forked",
    "directive": "box, incarnation, type, body, outcome",
    "directive_head": "box, incarnation, epoch",
    "stand_in": "box, epoch, seq, payer, payee, amount_minor, state, liable, settled",
    "suspense_item": "box, epoch, seq, reason",
    "loss": "box, epoch, account_id, amount_minor",
    "branch": "box, epoch, number, fork_size",
    "clearing_window": "box, epoch, branch, number, state, transfers",
    "window_position": "box, epoch, branch, number, currency, net_minor, said_minor, centre_minor",
}
Counters = list[int]
"""Debits pending, debits posted, credits pending, credits posted."""


class BoxLaws:
    """One ledger file, read record by record."""

    def __init__(self, label: str, box: str, path: Path, sites: dict[str, Plain]) -> None:
        self.label = label
        self.path = path
        self.model = Model(box, sites)
        self.counters: dict[str, Counters] = {}
        """Of the newest epoch."""
        self.position = -1
        self._held: dict[str, Leg] = {}
        self._db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)

    def close(self) -> None:
        """Let go of the file: another one is put in its place."""
        self._db.close()

    def look(self) -> Iterator[str]:
        """Take every record that is new, and say what is wrong with it."""
        query = "SELECT position, body FROM record WHERE position > ? ORDER BY position"
        for position, body in self._db.execute(query, (self.position,)).fetchall():
            epoch = position >> EPOCH_BITS
            if epoch != self.model.epoch:
                self.model.new_epoch(epoch)
                self.counters, self._held = {}, {}
            self.position = position
            yield from self._take(
                json.loads(body), f"{self.label} {epoch}/{position & (1 << EPOCH_BITS) - 1}"
            )

    def _take(self, record: Plain, where: str) -> Iterator[str]:
        model, legs = self.model, legs_of(record)
        if legs and record["window"] != model.state.window:
            yield f"{where}: is in window {record['window']}, and {model.state.window} is open"
        if record["type"] in ("transfer", "refusal"):
            yield from _decided(model, record, where)
        else:
            yield from audit_own(model, record, where)
        model.take(record)
        for number, leg in enumerate(legs):
            self._count(leg, f"{record['epoch'] << 96 | record['seq'] << 32 | number << 1 | 1:032x}")
        if legs:
            yield from floors(model, record, where)

    def _count(self, leg: Leg, id: str) -> None:
        debit, credit, amount, flags, pending, _ = leg
        sides = [self.counters.setdefault(name, [0, 0, 0, 0]) for name in (debit, credit)]
        if flags & PENDING:
            self._held[id] = leg
        if flags & (POST | VOID) and pending in self._held:
            held = self._held.pop(pending)[2]
            sides[0][0] -= held
            sides[1][2] -= held
        if not flags & VOID:
            at = 0 if flags & PENDING else 1
            sides[0][at] += amount
            sides[1][2 + at] += amount

    def compare(self, balance: Callable[[str], Any]) -> Iterator[str]:
        """The box's own balances, account by account, against the replay of its records."""
        sums: dict[str, Counters] = defaultdict(lambda: [0, 0, 0, 0])
        for name, counted in self.counters.items():
            found = balance(name)
            said = [found.debits_pending, found.debits_posted, found.credits_pending, found.credits_posted]
            if said != counted:
                yield f"{self.label}: {name} has {said}, its records say {counted}"
            total = sums[self.model.state.accounts.get(name, {}).get("currency") or name[-3:]]
            total[:] = [one + more for one, more in zip(total, said, strict=True)]
        for currency, total in sums.items():
            if total[:2] != total[2:]:
                yield f"{self.label}: debits are not credits in {currency}: {total}"


def _decided(model: Model, record: Plain, where: str) -> Iterator[str]:
    """The decision is one that the plain model can give, however the centre was found."""
    wanted = decision(record)
    if wanted == NOT_HERE:
        return  # another history of this box decided the original
    client, request, at_ns = record["client"], record["request"], record["at_ns"]
    if (client, request["id"]) in model.by_identity:
        yield f"{where}: {client}/{request['id']} was decided before"
    if all(model.decide(client, request, at_ns, funding) != wanted for funding in FUNDINGS):
        yield f"{where}: decided {wanted} on {request}, the model never does"


class HubLaws:
    """The hub's file, read whole when it has changed."""

    def __init__(self, path: Path, facts: Facts) -> None:
        self._facts = facts
        self._version = -1
        # The hub's own copy of SQLite: two copies on one file would drop each other's locks.
        self._db = pysqlite3.connect(str(path), isolation_level=None)

    def close(self) -> None:
        """Let go of the file: another one is put in its place."""
        self._db.close()

    def look(self) -> Iterator[str]:
        """What is wrong with the hub's books now."""
        version = self._db.execute("PRAGMA data_version").fetchone()[0]
        if version == self._version:
            return
        self._version = version
        self._db.execute("BEGIN")
        tables = {name: self._rows(name, columns) for name, columns in TABLES.items()}
        self._db.execute("COMMIT")
        self._facts.tables = tables
        yield from audit_invariants(tables)
        records = {(row["box"], row["epoch"], row["seq"]): row for row in tables["record"]}
        yield from audit_balances(self._facts, records)
        legs = {place: legs_of(json.loads(row["body"])) for place, row in records.items()}
        yield from _windows(tables, legs)
        yield from _in_flight(tables, legs)

    def _rows(self, table: str, columns: str) -> list[Plain]:
        names = columns.split(", ")
        rows = self._db.execute(f"SELECT {columns} FROM {table}").fetchall()
        return [dict(zip(names, row, strict=True)) for row in rows]


def _windows(tables: dict[str, list[Plain]], legs: dict[tuple[str, int, int], list[Leg]]) -> Iterator[str]:
    """Each window's positions sum to zero, and each kept leg is counted in one window."""
    sums: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0, 0, 0])
    for row in tables["window_position"]:
        total = sums[row["box"], row["epoch"], row["branch"], row["number"], row["currency"]]
        total[0] += row["net_minor"]
        total[1] += row["said_minor"] or 0
        total[2] += row["centre_minor"]
    for place, total in sums.items():
        if any(total):
            yield f"hub: the positions of window {place} sum to {total}"
    forked = {(row["box"], row["epoch"]) for row in tables["journal_head"] if row["forked"]}
    counted: dict[tuple[str, int], int] = defaultdict(int)
    for row in tables["clearing_window"]:
        counted[row["box"], row["epoch"]] += row["transfers"]
        if row["state"] == "differs":
            yield f"hub: window {row['number']} of {row['box']} differs from the records"
    kept: dict[tuple[str, int], int] = defaultdict(int)
    for (box, epoch, _), moved in legs.items():
        kept[box, epoch] += len(moved)
    for place, number in kept.items():
        if place not in forked and counted[place] != number:
            yield f"hub: the windows of {place} have {counted[place]} legs, its records {number}"


def _in_flight(tables: dict[str, list[Plain]], legs: dict[tuple[str, int, int], list[Leg]]) -> Iterator[str]:
    """What is outstanding at a box is what its records leave there, and what is granted and on its way."""
    odd = {(row["box"], row["epoch"]) for row in tables["journal_head"] if row["forked"] or row["sealed"]}
    odd |= {(row["box"], row["epoch"]) for row in tables["loss"] + tables["suspense_item"]}
    expected: dict[tuple[str, int, str], int] = defaultdict(int)
    for (box, epoch, _), moved in legs.items():
        for debit, credit, amount, flags, *_ in moved:
            if not flags & (PENDING | VOID):
                expected[box, epoch, debit] -= amount
                expected[box, epoch, credit] += amount
    epochs = {(row["box"], row["incarnation"]): row["epoch"] for row in tables["directive_head"]}
    for row in tables["directive"]:
        if row["type"] == "grant" and not row["outcome"]:
            said = json.loads(row["body"])
            epoch = epochs[row["box"], row["incarnation"]]
            expected[row["box"], epoch, said["account_id"]] += said["amount_minor"]
    found = {
        (row["box"], row["epoch"], row["account_id"]): row["amount_minor"] for row in tables["outstanding"]
    }
    for place in sorted(expected.keys() | found.keys()):
        if place[:2] in odd or place[2].startswith("centre:"):
            continue
        if expected[place] != found.get(place, 0):
            yield f"hub: {place} has {found.get(place, 0)} outstanding, and should have {expected[place]}"
