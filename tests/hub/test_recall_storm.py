"""A few accounts, all boxes at once, several hubs: recalls lose and make nothing, and no box waits for
another in a circle."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from edgegw.core.messages import Ask
from edgegw.core.records import GrantDirective, RecallDirective, RefuseDirective
from edgegw.core.site import AllowanceRule
from edgegw.hub.app import Hub
from tests.hub.conftest import hashed_signatures
from tests.hub.places import Place, PostgresPlace, SqlitePlace
from tests.hub.world import CNY, NORTH, SOUTH, World, a_site, check_books

MONEY_MINOR = 1_000
STEPS = 30
ACCOUNTS = ("A", "B", "HOME")


class Shopper:
    """A box that pays what it can, gives back what is free of what it is asked for, and no more."""

    def __init__(self, world: World, name: str, talk: Callable[[bytes], bytes], chance: Random) -> None:
        self.box = world.box(name)
        self.box.talk = talk
        self.name = name
        self.chance = chance
        self.free = dict.fromkeys(ACCOUNTS, 0)
        self.heard = 0
        self.asks: dict[str, Ask] = {}
        self.seen = {"grant": 0, "refuse": 0, "recall": 0, "given": 0}
        self._hear(fresh=False)

    def _hear(self, *, fresh: bool = True) -> None:
        for said in self.box.directives[self.heard :]:
            if isinstance(said, GrantDirective) and said.account_id in self.free:
                self.free[said.account_id] += said.amount_minor
                self.asks.pop(said.request_id, None)
                self.seen["grant"] += 1
                if fresh:
                    self.box.apply(said)
            elif isinstance(said, RecallDirective):
                back = min(self.free[said.account_id], said.amount_minor)
                self.free[said.account_id] -= back
                self.seen["recall"] += 1
                self.seen["given"] += back
                self.box.apply(said, back_minor=back)
            elif fresh:
                if isinstance(said, RefuseDirective):
                    self.asks.pop(said.request_id, None)
                    self.seen["refuse"] += 1
                self.box.apply(said)
        self.heard = len(self.box.directives)

    def step(self, number: int) -> None:
        """Ask for something, hear what came, spend a little."""
        if not self.asks:
            id, name = f"{self.name}-{number}", self.chance.choice(ACCOUNTS)
            self.asks[id] = Ask(id, name, CNY, self.chance.choice((50, 300, 700)), 500)
        [ask] = self.asks.values()
        if self.chance.random() < 0.1:
            self.asks = {ask.request_id: ask.__class__(ask.request_id, ask.account_id, CNY, ask.amount_minor)}
            [ask] = self.asks.values()
        self.box.beat(ask)
        self._hear()
        for name, free in self.free.items():
            if free and self.chance.random() < 0.2:
                self.box.pay(name, "SHOP", 1, home=self.name != NORTH)
                self.free[name] -= 1

    def rest(self) -> None:
        """Deliver and hear until nothing is left on either side."""
        while True:
            size = len(self.box.bodies)
            beaten = self.box.beat()
            self._hear()
            if size == len(self.box.bodies) == self.box.held and not beaten.more:
                return


@pytest.fixture(params=["sqlite", "postgresql"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[World, Hub]]:
    """A world, and a second hub on its database where the engine takes one."""
    with hashed_signatures():
        place: Place
        if request.param == "sqlite":
            place = SqlitePlace(request.getfixturevalue("tmp_path") / "hub.db")
        else:
            place = request.getfixturevalue("postgres")
        world = World(place, clock_ns=time.time_ns)
        rule = AllowanceRule(
            currency=CNY,
            share_percent=40,
            account_minor=400,
            headroom_percent=50,
            seen_days=2,
            seen_share_percent=30,
            seen_account_minor=200,
        )
        world.publish(a_site(allowances=(rule,)))
        for name in ACCOUNTS:
            world.fund(name, MONEY_MINOR)
        other = Hub(place.open(), world.keyring) if isinstance(place, PostgresPlace) else world.hub
        yield world, other
        world.hub.close()
        if other is not world.hub:
            other.close()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_storm_of_recalls_keeps_every_cent_in_one_place(ends: tuple[World, Hub], seed: int) -> None:
    """After each message `available + outstanding = balance`; at the end each box holds just what the hub
    says, and nothing was run again for a circle of locks."""
    world, other = ends
    boxes = [
        Shopper(world, NORTH, world.hub._exchange, Random(f"{seed}/north")),
        Shopper(world, SOUTH, other._exchange, Random(f"{seed}/south")),
    ]
    with ThreadPoolExecutor(2) as threads:
        for number in range(STEPS):
            list(threads.map(lambda one, number=number: one.step(number), boxes))
            with world.engine.begin() as connection:
                check_books(connection)
    for _ in range(3):
        for box in boxes:
            box.asks.clear()
            box.rest()
    for box in boxes:
        held = dict(
            world.rows("SELECT account_id, amount_minor FROM outstanding WHERE box = :box", box=box.name)
        )
        assert {name: held.get(name, 0) for name in ACCOUNTS} == box.free, box.seen
        assert all(box.seen.values()), box.seen
    for hub in {world.hub, other}:
        assert hub.metrics.retried.labels("40P01")._value.get() == 0
