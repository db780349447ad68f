"""What goes wrong when, all from the seed; then everything heals, and the auditor reads the books.

A fault is one function of this file: it takes the world, does its harm after a while and notes it in
`world.injected`. `run_seed` is one whole run.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec

from edgegw.core.counts import LimitChange
from edgegw.hub.limit_orders import block, change_limit
from edgegw.hub.operate import close, freeze
from tests.simulator import disasters
from tests.simulator.auditor import Facts, audit_answered, audit_answers, audit_box, audit_chain
from tests.simulator.books import audit_fleet, audit_invariants
from tests.simulator.loop import VirtualLoop, buried, passed
from tests.simulator.seams import Process, open_seams
from tests.simulator.site import next_site
from tests.simulator.world import SITES_MAX, World, digest_of, until, workplace

STEPS: Final = 1_000
NS: Final = 1_000_000_000
HEAL_S: Final = 120.0
ROUNDS_MAX: Final = 20
ALIKE_MAX: Final = 6
"""Findings of one kind in a report: what went wrong first is not hidden behind what followed from it."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One seed's run."""

    seed: int
    findings: tuple[str, ...]
    transfers: int
    answers: int
    injected: dict[str, int]
    digest: str
    virtual_s: float
    cpu_s: float


Fault = Callable[[World, Random], Awaitable[None]]


async def _restless(world: World, chance: Random) -> None:
    """Links lose, double, delay, mix up and garble what they carry."""
    for box in sorted(world.machines):
        for address in world.centre.addresses:
            link = world.network.link(box, address)
            link.lost = chance.choice((0.0, 0.02, 0.15))
            link.doubled = chance.choice((0.0, 0.1))
            link.stale = chance.choice((0.0, 0.1))
            link.garbled = chance.choice((0.0, 0.0, 0.03))
            link.delay_s = chance.choice((0.01, 0.05, 0.4))


async def _partition(world: World, chance: Random) -> None:
    """A box is cut off, one way or both, for a while; now and then by one address alone."""
    while True:
        await passed(4 + chance.random() * 25)
        box = chance.choice(sorted(world.machines))
        addresses = chance.choice((world.centre.addresses, world.centre.addresses[:1]))
        way = chance.choice(("both", "both", "up", "down"))
        for address in addresses:
            link = world.network.link(box, address)
            link.broken_up, link.broken_down = way != "down", way != "up"
        await passed(3 + chance.random() * 25)
        for address in addresses:
            link = world.network.link(box, address)
            link.broken_up = link.broken_down = False


async def _crash(world: World, chance: Random) -> None:
    """A box or the hub dies: at any moment, right before a COMMIT, or right after it."""
    while True:
        await passed(1 + chance.random() * 9)
        victim: Any = world.centre
        if chance.random() < 0.75:
            victim = chance.choice(list(world.machines.values()))
        own: Process | None = victim.process
        if own is None:
            continue
        world.injected["crash"] += 1
        if chance.random() < 0.25:
            victim.crash(again_s=chance.choice((0.5, 3.0, 15.0)))
        else:
            own.dies_after_commit = chance.random() < 0.5
            own.dies_with_records = chance.choice((0, 6)) if victim is not world.centre else 0
            own.dies_at_commit = own.commits + chance.randint(1, 4)


async def _stop(world: World, chance: Random) -> None:
    """A box is stopped in order and comes back."""
    while True:
        await passed(20 + chance.random() * 60)
        machine = chance.choice(list(world.machines.values()))
        if machine.up:
            world.injected["stop"] += 1
            await machine.stop()


async def _clock(world: World, chance: Random) -> None:
    """A wall clock steps, by seconds or by years, in either direction."""
    while True:
        await passed(5 + chance.random() * 30)
        machine = chance.choice(list(world.machines.values()))
        step_s = chance.choice((3, 90, 4_000, 30 * 3_600, 80 * 3_600, 86_400 * 400))
        machine.wall_ahead_ns += chance.choice((-1, 1)) * step_s * NS
        world.injected["clock"] += 1


async def _slow(world: World, chance: Random) -> None:
    """A disk takes seconds for a while."""
    while True:
        await passed(10 + chance.random() * 20)
        own = chance.choice(list(world.machines.values())).process
        if own is not None:
            world.injected["slow_disk"] += 1
            own.slow = chance.choice((20.0, 300.0, 1_500.0))
            await passed(1 + chance.random() * 8)
            own.slow = 1.0


async def _full(world: World, chance: Random) -> None:
    """A disk has no room for payments for a while."""
    while True:
        await passed(15 + chance.random() * 40)
        machine = chance.choice(list(world.machines.values()))
        machine.has_room = False
        world.injected["full_disk"] += 1
        await passed(1 + chance.random() * 6)
        machine.has_room = True


async def _wander(world: World, chance: Random) -> None:
    """Clients that heard nothing ask at another box."""
    for client in world.clients:
        client.wandering = 0.3
    world.injected["wander"] += 1


FAULTS: Final[dict[str, Fault]] = {
    "network": _restless,
    "partition": _partition,
    "crash": _crash,
    "stop": _stop,
    "clock": _clock,
    "slow": _slow,
    "full": _full,
    "wander": _wander,
    "restore": disasters.restore,
    "replace": disasters.replace,
    "hub_restore": disasters.hub_restore,
    "poison": disasters.poison,
    "clone": disasters.clone,
    "rotate": disasters.rotate,
}
RARE: Final[dict[str, float]] = {
    "restore": 0.3,
    "replace": 0.15,
    "hub_restore": 0.25,
    "poison": 0.15,
    "clone": 0.2,
    "rotate": 0.3,
}
"""How often a seed has them; every other fault is in more than half of the seeds."""


async def _operate(world: World, chance: Random) -> None:
    """What people do on an ordinary day: windows, freezes, closed accounts, settings, money from outside."""
    while True:
        await passed(6 + chance.random() * 12)
        what = chance.choice(("window", "window", "freeze", "block", "limit", "close", "site", "fund"))
        if what == "window":
            machine = chance.choice(list(world.machines.values()))
            machine.operate(
                lambda gateway: gateway.close_window(
                    window=gateway.book.window, business_date="2030-01-02", by="operator"
                )
            )
        elif world.centre.process is None:
            continue
        elif what == "freeze":
            _freeze(world, chance)
        elif what == "block":
            _block(world, chance)
        elif what == "limit":
            _change_limit(world, chance)
        elif what == "close":
            _close(world, chance)
        elif what == "site" and chance.random() < 0.4:
            world.move_stage_on(chance)
        elif what == "site" and len(world.sites) < SITES_MAX:
            give = world.publish if chance.random() < 0.5 else partial(world.stage, chance)
            give(next_site(chance, world.sites[-1]))
        elif what == "fund":
            world.fund(chance.choice(world.sites[0].accounts).id, chance.choice((100, 2_500)))


def _ordered(world: World, order: Callable[..., object], *about: object, **what: object) -> None:
    """Give one of the orders that every box hears."""
    world.centre.order(
        lambda connection: order(
            connection, world.keyring, *about, **what, reason="ordered", now_ns=world.centre.clock_ns()
        )
    )


def _block(world: World, chance: Random) -> None:
    of, whose = chance.choice((("terminal", "T2"), ("card", "card-0"), ("merchant", "M1")))
    _ordered(world, block, of=of, whose=whose, blocked=chance.random() < 0.4)


def _change_limit(world: World, chance: Random) -> None:
    site = world.sites[-1]
    limits = [rule for rule in site.limits if rule.per or rule.seconds]
    if not limits:
        return
    name = chance.choice(limits).name
    whose = chance.choice(("", "T1", "M1"))
    change = chance.choice((None, LimitChange(count=5), LimitChange(count=100)))
    _ordered(world, change_limit, site, name=name, whose=whose, change=change)


def _freeze(world: World, chance: Random) -> None:
    account = chance.choice(world.sites[0].accounts[:6]).id
    _ordered(world, freeze, account_id=account, frozen=chance.random() < 0.5)


def _close(world: World, chance: Random) -> None:
    account = chance.choice(world.sites[0].accounts[4:8]).id
    _ordered(world, close, account_id=account, closed=chance.random() < 0.4)


# --- one run ------------------------------------------------------------------------------------------------


def run_seed(seed: int, *, steps: int = STEPS, faults: tuple[str, ...] = tuple(FAULTS)) -> Report:
    """Play one seed and audit it."""
    report, _ = play(seed, steps=steps, faults=faults)
    return report


def play(seed: int, *, steps: int = STEPS, faults: tuple[str, ...] = tuple(FAULTS)) -> tuple[Report, Facts]:
    """The same, with the facts."""
    began_s = time.process_time()
    with open_seams(), workplace() as folder:
        loop = VirtualLoop(Random(f"{seed}/loop"))
        asyncio.set_event_loop(loop)
        loop.set_exception_handler(lambda _loop, _context: None)
        try:
            world = loop.run_until_complete(_day(seed, folder, loop, steps, faults))
            facts = world.collect()
            virtual_s = loop.time()
        finally:
            buried(loop)
            asyncio.set_event_loop(None)
        world.close()
    findings = _audit(facts, world)
    transfers = sum(1 for row in facts.tables["record"] if row["type"] in ("transfer", "directive", "expiry"))
    report = Report(
        seed=seed,
        findings=tuple(findings),
        transfers=transfers,
        answers=sum(1 for one in facts.heard if one["answer"]),
        injected=dict(sorted(world.injected.items())),
        digest=digest_of(facts),
        virtual_s=virtual_s,
        cpu_s=time.process_time() - began_s,
    )
    return report, facts


async def _day(seed: int, folder: Path, loop: VirtualLoop, steps: int, faults: tuple[str, ...]) -> World:
    """Work while things go wrong, then heal everything and ask for what is open."""
    name = str(seed)
    world = World(name, folder, loop)
    world.open(name)
    _watch_books(world)
    await passed(1.0)
    chance = Random(f"{name}/faults")
    chosen = [fault for fault in faults if len(faults) == 1 or chance.random() < RARE.get(fault, 0.6)]
    trouble = [
        asyncio.ensure_future(FAULTS[fault](world, Random(f"{name}/{fault}"))) for fault in sorted(chosen)
    ]
    trouble.append(asyncio.ensure_future(_operate(world, Random(f"{name}/operate"))))
    person = asyncio.ensure_future(disasters.operator(world))
    each = max(1, steps // len(world.clients))
    await asyncio.gather(*(client.work(each) for client in list(world.clients)))
    for task in trouble:
        task.cancel()
    for done in await asyncio.gather(*trouble, return_exceptions=True):
        if isinstance(done, Exception):
            raise done
    await _heal(world)
    person.cancel()
    return world


def _watch_books(world: World) -> None:
    """Now and then look at the centre's books in the middle of it all."""

    def look() -> None:
        if world.centre.process is not None:
            tables = world.tables("account", "outstanding")
            world.findings += [f"at {world.loop.time():.1f} s: {one}" for one in audit_invariants(tables)]
        world.loop.call_later(15.0, look)

    world.loop.call_later(15.0, look)


async def _heal(world: World) -> None:
    """Mend all lines and disks, start what is down, ask again for all that is open, wait until all agree."""
    for link in world.network.links.values():
        link.heal()
    for machine in world.machines.values():
        machine.has_room = machine.supervised = True
        if machine.process is not None:
            machine.process.dies_at_commit = 0
            machine.process.slow = 1.0
        machine.boot()
    if world.centre.process is not None:
        world.centre.process.dies_at_commit = 0
    await until(lambda: world.centre.process is not None, seconds=60)
    if world.injected["hub_restore"]:
        disasters.bring_again(world)  # the day may have ended while the hub was down
    disasters.retire_copies(world)
    for client in world.clients:
        client.wandering = 0.0
    for _ in range(ROUNDS_MAX):
        await asyncio.gather(*(client.ask_again() for client in world.clients))
        if not any(client.open for client in world.clients):
            break
        await passed(5.0)
    if not await until(lambda: _agreed(world), seconds=HEAL_S):
        world.findings += [f"never in step: {one}" for one in world.in_step()[:5]]
    world.findings += world.centre.broken
    for machine in world.machines.values():
        world.findings += machine.broken


def _agreed(world: World) -> bool:
    """Whether all agree; what the centre alone can settle by then, it settles."""
    if world.in_step(settled=False):
        return False
    disasters.seal_what_is_over(world)
    return not world.in_step()


def _audit(facts: Facts, world: World) -> list[str]:
    """All findings, the deepest first."""
    kinds: list[Iterable[str]] = [audit_fleet(facts), audit_chain(facts)]
    kinds += [audit_box(facts, machine) for machine in sorted(facts.journals)]
    kinds += [audit_answers(facts), world.findings, audit_answered(facts, set())]
    return [finding for kind in kinds for finding in itertools.islice(kind, ALIKE_MAX)]
