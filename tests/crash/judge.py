"""The judgement of a ledger after a crash: what clients were told is there, and nothing is there that was not
decided.

Opens the ledger by the product's own way (`open_ledger`, `start`), then holds it against what was told and
against a replay that shares no code with the product's: bodies as plain JSON, balances as plain sums.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from edgegw.access.keys import SigningKey
from edgegw.core.accounts import account_key
from edgegw.core.book import Book
from edgegw.core.journal import FIRST_PREVIOUS, Frontier, leaf_hash
from edgegw.core.records import Request, transfer_id
from edgegw.errors import OperatingError
from edgegw.ledger.boot import Opened
from edgegw.ledger.outcomes import Decision
from edgegw.ledger.requests import Requests
from edgegw.ledger.store import Store
from edgegw.ledger.writer import Pen
from tests.crash.workload import UP, Told, open_box, start_pen
from tests.ledger.pens import full_check
from tests.ledger.running_box import KEY, TestClock, payment

PENDING, POST, VOID = 2, 4, 8
"""Bits of a leg's flags, as TigerBeetle's documentation numbers them."""
ASKED_AGAIN = 3
Balances = dict[str, tuple[int, int, int, int]]


class Halted(Exception):
    """The box refuses to clear on this ledger; the operator is told what to do."""

    def __init__(self, problem: OperatingError) -> None:
        super().__init__(f"{problem.code}: {problem}")
        self.problem = problem


def plain_balances(bodies: list[bytes]) -> Balances:
    """Debits pending, debits posted, credits pending, credits posted of every account, by adding up legs."""
    sums: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    live: dict[str, tuple[str, str, int]] = {}
    for body in bodies:
        record = json.loads(body)
        for index, leg in enumerate(record.get("legs", ())):
            debit, credit, amount_minor, flags, pending, *_ = [*leg, *(0, "", 0)[len(leg) - 3 :]]
            ended = flags & (POST | VOID) or record["type"] == "expiry"
            if ended:
                debit, credit, held_minor = live.pop(pending)
                sums[debit][0] -= held_minor
                sums[credit][2] -= held_minor
            if flags & PENDING:
                name = f"{transfer_id(epoch=record['epoch'], seq=record['seq'], leg=index):032x}"
                live[name] = (debit, credit, amount_minor)
                sums[debit][0] += amount_minor
                sums[credit][2] += amount_minor
            elif not flags & VOID and record["type"] != "expiry":
                sums[debit][1] += amount_minor
                sums[credit][3] += amount_minor
    return {account: (row[0], row[1], row[2], row[3]) for account, row in sums.items() if any(row)}


def book_balances(book: Book) -> Balances:
    """The same four sums as the box serves them."""
    rows: Balances = {}
    for account_id in book.accounts:
        b = book.ledger.balances[account_key(account_id)]
        row = (b.debits_pending, b.debits_posted, b.credits_pending, b.credits_posted)
        if any(row):
            rows[account_id] = row
    return rows


class Judge:
    """Judges ledgers that may hold any beginning of one journal: `bodies`, empty if it is not known."""

    def __init__(self, told: Told, *, key: SigningKey = KEY, bodies: tuple[bytes, ...] = ()) -> None:
        self.told = told
        self.key = key
        self.bodies = bodies
        self._balances: dict[bytes, Balances] = {}
        self._boots = 0

    def judge(self, data: Path, outside: Path, *, told_size: int, deep: bool) -> list[str]:
        """Everything that is wrong with the ledger in a directory; empty is well. Raises Halted.

        told_size is how long the journal was when the last client was told; deep reads the whole file twice
        and lets the box go on as well.
        """
        self._boots += 1
        boot = f"judge-{self._boots}"
        try:
            opened = open_box(data, outside, boot=boot)
        except OperatingError as problem:
            raise Halted(problem) from problem
        try:
            if opened.trouble is not None:
                raise Halted(opened.trouble)
            return self._opened(opened, boot, told_size, deep=deep)
        except OperatingError as problem:
            raise Halted(problem) from problem
        finally:
            opened.close()

    def _opened(self, opened: Opened, boot: str, told_size: int, *, deep: bool) -> list[str]:
        store = opened.store
        entries = stored_bodies(store)
        wrong = [*self._journal(store, entries), *self._told(store, told_size)]
        clock = TestClock()
        pen = start_pen(opened, clock, boot=boot, key=self.key)
        wrong += self._served(pen, entries)
        if not deep:
            return wrong
        if pen.desk.tip.epoch:
            wrong += self._goes_on(pen, told_size)
        report = full_check(store, verify_checkpoint=self._verify, replay=None)
        return wrong + [
            str(finding) for finding in report.findings if finding.what not in ("cosignature", "directives")
        ]

    def _verify(self, note: str) -> Any:
        return self.key.public.open(note)

    def _journal(self, store: Store, entries: list[bytes]) -> list[str]:
        """The stored journal chains, is what was decided, and its head is signed."""
        wrong: list[str] = []
        head = store.head(1)
        if head is None:
            return ["records without a head"] if entries else []
        if len(entries) != head.size:
            wrong.append(f"the head says {head.size} records, there are {len(entries)}")
        if self.bodies and tuple(entries) != self.bodies[: len(entries)]:
            wrong.append("the journal is no beginning of what was decided")
        leaf, frontier = FIRST_PREVIOUS, Frontier()
        for body in entries:
            leaf = leaf_hash(leaf, body)
            frontier.append(leaf)
        signed = self.key.public.open(head.checkpoint)
        if (signed.size, signed.root) != (len(entries), frontier.root()):
            wrong.append(f"the signed head is of size {signed.size}, root {signed.root.hex()}")
        return wrong

    def _told(self, store: Store, told_size: int) -> list[str]:
        """Every answer that a client holds is found by its identity, with the same bytes."""
        answers = {key: body for key, body in self.told.answers.items() if _seq(body) < told_size}
        found = store.find(list(answers))
        lost = [key for key in answers if key not in found]
        other = [key for key in found if found[key] != answers[key]]
        return [f"{key} was answered and is lost" for key in lost] + [
            f"{key} was answered with other bytes" for key in other
        ]

    def _served(self, pen: Pen, entries: list[bytes]) -> list[str]:
        """The balances of the started box are those of the plain replay."""
        if not entries:
            return []
        key = entries[-1]
        if key not in self._balances:
            self._balances[key] = plain_balances(entries)
        served, plain = book_balances(pen.desk.book), self._balances[key]
        return [] if served == plain else [f"the box serves {served}, the plain replay gives {plain}"]

    def _goes_on(self, pen: Pen, told_size: int) -> list[str]:
        """The last answers are repeated byte for byte, and a new payment is decided."""
        told = [key for key, body in self.told.answers.items() if _seq(body) < told_size][-ASKED_AGAIN:]
        wrong = []
        for client, id_ in told:
            outcome = ask(pen, client, self.told.requests[client, id_])
            if not (isinstance(outcome, Decision) and outcome.repeat):
                wrong.append(f"{client}/{id_} was asked again and decided again: {outcome}")
            elif outcome.body != self.told.answers[client, id_]:
                wrong.append(f"{client}/{id_} was asked again and answered with other bytes")
        if told:
            fresh = ask(pen, "till-new", payment(2**120 + self._boots, 1))
            if not isinstance(fresh, Decision):
                wrong.append(f"a new payment is not decided: {fresh}")
        return wrong


def stored_bodies(store: Store) -> list[bytes]:
    """The bodies of the first epoch's records, in order."""
    return [entry.body for entry in store.records(epoch=1, start=0, limit=10**9, bytes_max=2**40)]


def ask(pen: Pen, client: str, request: Request) -> object:
    """One request at a pen whose task does not run."""
    work = Requests(client, [request], UP, linked=False)

    def run(batch: Any) -> object:
        batch.known = pen.desk.store.find(work.identities)
        return work(batch)[0]

    return pen.commit_now(run)


def _seq(body: bytes) -> int:
    return int(json.loads(body)["seq"])
