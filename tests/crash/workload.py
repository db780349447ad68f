"""A seeded branch day on a real pen, and what its clients were told: what the crash tests run and judge by.

Owns the requests, the told answers and the moment of telling. Leaves out where the ledger lies, what fails
under it, and the judgement (`tests.crash.judge`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from edgegw.access.keys import SigningKey
from edgegw.core.decide import Funding
from edgegw.core.records import Kind, Mode, Request, Transfer
from edgegw.ledger.boot import Opened, open_ledger
from edgegw.ledger.outcomes import Budget, Decision, Outcome
from edgegw.ledger.start import Ways, start
from edgegw.ledger.writer import Pen, take_snapshot
from tests.ledger.running_box import KEY, TestClock, enrol, own, payment

BANK, BOX = "demo", "box-1"
UP = Funding(line_up=True, centre="refused")
"""The line is up and the centre lends nothing: what is not covered is refused, nothing waits."""
TILLS = ("till-1", "till-2", "till-3")
GRANTED_MINOR = 200_000
ROUND_S = 13.0


def open_box(data: Path, outside: Path, *, boot: str) -> Opened:
    """The ledger as a box opens it."""
    return open_ledger(data, anchor_directory=outside, bank=BANK, box=BOX, boot=boot, create=True)


def start_pen(opened: Opened, clock: TestClock, *, boot: str, key: SigningKey = KEY) -> Pen:
    """The pen as a box starts it: no rules, a budget of refusals that is never used up."""
    return start(
        opened.store,
        own(boot, key),
        Ways(
            clock=clock,
            rules=(),
            budget=Budget(burst=10**6, per_second=10**6),
            room_for_payments=lambda: True,
            make_room=lambda: None,
        ),
    )


class Told:
    """What clients hold in their hands: the bytes of every answer, by identity, and the requests."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], bytes] = {}
        self.requests: dict[tuple[str, str], Request] = {}
        self.sizes: list[int] = []
        """Every size of the journal of which somebody was told something."""
        self.deaf = False
        """The box has no power any more: what it still says reaches nobody."""

    def take(self, client: str, request: Request, outcome: Outcome) -> None:
        """One answer; a repeat must be the same bytes."""
        if self.deaf:
            return
        assert isinstance(outcome, Decision), outcome
        identity = (client, request.id)
        known = self.answers.setdefault(identity, outcome.body)
        assert known == outcome.body, f"{identity} was told {known!r}, then {outcome.body!r}"
        self.requests[identity] = request


class Day:
    """Tills of one branch: each `round` is a few requests of every kind, all on disk when it returns."""

    def __init__(self, pen: Pen, clock: TestClock, told: Told, *, seed: int) -> None:
        self.pen = pen
        self.clock = clock
        self.told = told
        self.random = random.Random(seed)
        self._ids = seed << 64
        self._paid: list[tuple[str, str]] = []
        self._held: list[tuple[str, str]] = []

    async def begin(self) -> None:
        """Enrol a fresh ledger; nothing on one that has its epoch."""
        if self.pen.desk.tip.epoch == 0:
            await enrol(self.pen, granted_minor=GRANTED_MINOR)
        elif self.pen.mode is not Mode.ACTIVE:
            await self.pen.change_mode(Mode.ACTIVE, "opened again")

    async def round(self) -> None:
        """Concurrent requests of all tills, then now and then something of the box's own."""
        self.clock.pass_seconds(ROUND_S)
        wanted = [(self.random.choice(TILLS), self._requests()) for _ in range(self.random.randint(1, 5))]
        orders = [self.send(client, requests) for client, requests in wanted]
        for problem in await asyncio.gather(*orders, return_exceptions=True):
            if problem is not None:
                raise problem
        await self._own_work()

    async def send(self, client: str, requests: list[Request], *, linked: bool = False) -> None:
        """Ask for a decision and remember what was told."""
        outcomes = await self.pen.decide(client, requests, UP, linked=linked)
        for request, outcome in zip(requests, outcomes, strict=True):
            self.told.take(client, request, outcome)
            if isinstance(outcome, Decision) and isinstance(outcome.record, Transfer):
                kept = {Kind.PAYMENT: self._paid, Kind.HOLD: self._held}.get(request.kind)
                if kept is not None and not outcome.repeat:
                    kept.append((client, request.id))

    def _requests(self) -> list[Request]:
        return [self._request() for _ in range(self.random.randint(1, 3))]

    def _request(self) -> Request:
        kind = self.random.choices(("pay", "poor", "hold", "resolve", "reverse"), weights=(6, 1, 2, 2, 1))[0]
        debit, credit = self.random.choice((("anna", "shop"), ("anna", "bert"), ("bert", "shop")))
        amount_minor = self.random.randint(1, 40)
        if kind == "poor":
            return payment(self._number(), 9_999, debit="shop" if self.random.random() < 0.5 else "bert")
        if kind == "hold":
            return Request(
                kind=Kind.HOLD,
                id=self._id(),
                debit_account_id=debit,
                credit_account_id=credit,
                amount_minor=amount_minor,
                currency="CNY",
                timeout_s=self.random.choice((20, 600)),
            )
        if kind == "resolve" and self._held:
            return self._about(self.random.choice((Kind.POST, Kind.VOID)), self._held)
        if kind == "reverse" and self._paid:
            return self._about(Kind.REVERSAL, self._paid)
        return payment(self._number(), amount_minor, debit=debit, credit=credit)

    def _about(self, kind: Kind, originals: list[tuple[str, str]]) -> Request:
        client, original = originals.pop(self.random.randrange(len(originals)))
        return Request(kind=kind, id=self._id(), original_client=client, original_id=original)

    async def _own_work(self) -> None:
        chance = self.random.random()
        if chance < 0.15 and self.told.requests:
            (client, _), request = self.random.choice(list(self.told.requests.items()))
            await self.send(client, [request])
        elif chance < 0.25:
            await self.pen.tick()
        elif chance < 0.32:
            await self.pen.close_window(business_date="2027-01-01", closed_by="test")
        elif chance < 0.40:
            await self.send("till-1", [payment(self._number(), 3) for _ in range(3)], linked=True)
        elif chance < 0.45:
            await self.pen.operator(
                operator="test", action="look", detail="x" * self.random.randint(1, 9_000)
            )
        elif chance < 0.50:
            size = self.pen.desk.tip.size
            await self.pen.keep_cosignature(epoch=1, size=size, note="no hub is asked here")

    def _number(self) -> int:
        self._ids += 1
        return self._ids

    def _id(self) -> str:
        return f"{self._number():032x}"


@asynccontextmanager
async def open_day(
    data: Path,
    outside: Path,
    told: Told,
    *,
    seed: int,
    boot: str,
    key: SigningKey = KEY,
    on_told: Callable[[Pen], None] = lambda _: None,
) -> AsyncIterator[tuple[Day, Opened]]:
    """A box that is open for business; closed cleanly, with a snapshot, unless its pen has failed.

    on_told is called at the moment in which the clients of a batch are told.
    """
    opened = open_box(data, outside, boot=boot)
    try:
        assert opened.trouble is None, opened.trouble
        clock = TestClock()
        pen = start_pen(opened, clock, boot=boot, key=key)
        day = Day(pen, clock, told, seed=seed)

        def tell() -> None:
            if told.deaf:
                return
            tip = pen.desk.tip
            told.sizes.append(tip.size)
            if tip.size:
                opened.anchor.note(epoch=tip.epoch, size=tip.size, root=tip.frontier.root())
            on_told(pen)

        pen.on_commit.append(tell)
        running = asyncio.create_task(pen.run())
        try:
            await day.begin()
            yield day, opened
        finally:
            pen.close()
            await running
        if pen.failure is None:
            pen.commit_now(take_snapshot)
            tell()
    finally:
        opened.close()
