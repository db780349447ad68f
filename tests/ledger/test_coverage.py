"""What may be told when: nothing that the mirror must have and has not, and nobody waits for ever."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from edgegw.core.records import Durability
from edgegw.errors import OutcomeUnknown, StorageFull
from edgegw.ledger.coverage import COMMITS_MAX, Coverage, MirrorRule
from tests.waiting import until

MS = 1_000_000
TIMEOUT_MS = 80
LOCAL, MIRRORED, AWAY = Durability.LOCAL, Durability.MIRRORED, Durability.AWAY


class World:
    """A clock, a pen that journals changes, and the coverage between them."""

    def __init__(
        self, *, refuses: bool = False, mirrored: bool = True, journalled: Durability = LOCAL
    ) -> None:
        self.now_ns = 10**12
        self.epoch = 1
        self.durability = journalled
        self.journal: list[tuple[Durability, str]] = []
        self.told: list[str] = []
        """Every reason given, as the log has it."""
        self.full = False
        rule = MirrorRule(mirrored=mirrored, refuses=refuses, timeout_ms=TIMEOUT_MS)
        self.coverage = Coverage(rule, journalled=journalled, now_ns=lambda: self.now_ns)
        self.coverage.started(epoch=1, size=3, cosigned=0)
        self._task: asyncio.Task[None] | None = None

    async def change_durability(self, durability: Durability, reason: str) -> None:
        if self.full:
            raise StorageFull("no room")
        # Whatever waits must still wait while the change is not on disk.
        await asyncio.sleep(0)
        self.told.append(reason)
        if self.durability is not durability:
            self.durability = durability
            self.journal.append((durability, reason))

    def start(self) -> None:
        self._task = asyncio.create_task(self.coverage.keep(self))

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def later(self, milliseconds: int) -> None:
        self.now_ns += milliseconds * MS

    async def is_in(self, durability: Durability) -> None:
        await until(
            lambda: self.coverage.state is durability and self.durability is durability,
            f"the durability to be {durability}",
        )


@pytest.fixture
async def alone() -> AsyncIterator[World]:
    """A world whose rule is to go on alone, with the mirror there."""
    world = World()
    world.start()
    world.coverage.covered(epoch=1, size=3)
    await world.is_in(MIRRORED)
    yield world
    await world.stop()


@pytest.fixture
async def refusing() -> AsyncIterator[World]:
    """The same, but nothing is decided without the mirror."""
    world = World(refuses=True)
    world.start()
    world.coverage.covered(epoch=1, size=3)
    await until(lambda: not world.coverage.closed, "the mirror to be met")
    yield world
    await world.stop()


def waiting(world: World, size: int, *, epoch: int = 1) -> asyncio.Task[None]:
    return asyncio.create_task(world.coverage.reach(epoch=epoch, size=size))


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_an_answer_waits_for_just_its_own_record(alone: World) -> None:
    """One that left before would be lost with the box; one that waits for later ones is slow for nothing."""
    first, second = waiting(alone, 5), waiting(alone, 6)
    await settled()
    assert not first.done()
    alone.coverage.covered(epoch=1, size=4)
    await settled()
    assert not first.done()
    alone.coverage.covered(epoch=1, size=5)
    await settled()
    assert first.done()
    assert not second.done()
    second.cancel()


async def test_another_epoch_covers_nothing(alone: World) -> None:
    """Sizes of two epochs have nothing to do with each other."""
    answer = waiting(alone, 1, epoch=2)
    alone.coverage.covered(epoch=1, size=100)
    await settled()
    assert not answer.done()
    answer.cancel()


async def test_the_box_goes_on_alone_only_once_the_journal_says_so(alone: World) -> None:
    """An answer that left first would claim a durability that nobody can find in the journal."""
    alone.full = True
    answer = waiting(alone, 5)
    alone.coverage.committed(epoch=1, size=5)
    alone.coverage.said = "connection refused"
    alone.later(TIMEOUT_MS + 1)
    await until(lambda: alone.coverage.lag_ns > TIMEOUT_MS * MS, "the lag to show")
    await settled()
    assert not answer.done()
    alone.full = False
    await alone.is_in(LOCAL)
    await asyncio.wait_for(answer, 30)
    assert alone.journal[-1] == (LOCAL, "the mirror is away: connection refused")


async def test_the_journal_claims_the_mirror_only_once_it_has_what_was_answered_without_it() -> None:
    """Whoever reads `mirrored` takes every record before it for safe from a fire, too."""
    world = World()
    world.start()
    answer = waiting(world, 4)
    await settled()
    world.coverage.answered()
    world.coverage.covered(epoch=1, size=2)
    await settled()
    assert not answer.done()  # it waits from the start, whatever the journal says
    assert world.journal == []
    world.coverage.covered(epoch=1, size=3)
    await world.is_in(MIRRORED)
    assert world.journal == [(MIRRORED, "the mirror has every record that was answered")]
    world.later(TIMEOUT_MS + 1)
    await world.is_in(LOCAL)
    world.coverage.committed(epoch=1, size=6)
    await world.coverage.reach(epoch=1, size=6)
    world.coverage.answered()
    await until(lambda: world.coverage.state is MIRRORED, "answers to wait again")
    world.coverage.committed(epoch=1, size=7)
    world.coverage.covered(epoch=1, size=5)
    await settled()
    assert world.durability is LOCAL
    world.coverage.covered(epoch=1, size=6)
    await world.is_in(MIRRORED)
    await world.stop()


async def test_a_box_that_starts_without_its_mirror_claims_nothing_and_still_says_why() -> None:
    """`mirrored` for the first seconds of each start would fill the journal with claims that were not so."""
    world = World()
    world.start()
    answer = waiting(world, 4)
    world.coverage.said = "connection refused"
    world.later(TIMEOUT_MS + 1)
    await asyncio.wait_for(answer, 30)
    assert (world.journal, world.told) == ([], ["the mirror is away: connection refused"])
    await world.stop()


async def test_the_box_comes_back_to_its_mirror_by_itself(alone: World) -> None:
    """Else one outage of the mirror would leave the branch on one disk for ever."""
    alone.later(TIMEOUT_MS + 1)
    await alone.is_in(LOCAL)
    alone.coverage.committed(epoch=1, size=9)
    alone.coverage.answered()
    alone.later(TIMEOUT_MS)
    alone.coverage.answered()
    await settled()
    assert alone.coverage.state is LOCAL  # it answers, but has not caught up
    alone.coverage.covered(epoch=1, size=9)
    await alone.is_in(MIRRORED)
    answer = waiting(alone, 10)
    await settled()
    assert not answer.done()
    answer.cancel()


async def test_a_refusing_box_decides_nothing_and_tells_nothing_that_only_it_has(refusing: World) -> None:
    """What is told must be at the mirror; what is not there yet is unknown, never cleared or refused."""
    in_flight = waiting(refusing, 5)
    refusing.coverage.committed(epoch=1, size=5)
    refusing.later(TIMEOUT_MS + 1)
    await refusing.is_in(AWAY)
    assert refusing.coverage.closed
    with pytest.raises(OutcomeUnknown):
        await in_flight
    with pytest.raises(OutcomeUnknown):
        await refusing.coverage.reach(epoch=1, size=4)
    await refusing.coverage.reach(epoch=1, size=3)  # the mirror has that: a repeat is answered
    refusing.coverage.covered(epoch=1, size=5)
    await refusing.is_in(MIRRORED)
    assert not refusing.coverage.closed
    await refusing.coverage.reach(epoch=1, size=5)


async def test_a_refusing_box_that_starts_without_its_mirror_stays_closed() -> None:
    """Its first payments would be decided for nothing: their answers could not leave."""
    world = World(refuses=True)
    world.start()
    assert world.coverage.closed
    world.coverage.answered()
    await settled()
    assert world.coverage.closed  # it answers, but has not what was written before
    world.coverage.covered(epoch=1, size=3)
    await until(lambda: not world.coverage.closed, "the mirror to be met")
    await world.stop()


async def test_a_mirror_that_answers_but_never_catches_up_is_away(alone: World) -> None:
    """Heartbeats alone would let every answer wait for ever."""
    alone.coverage.committed(epoch=1, size=7)
    answer = waiting(alone, 7)
    for _ in range(6):
        alone.later(TIMEOUT_MS // 4)
        alone.coverage.answered()
        await settled()
    await alone.is_in(LOCAL)
    await asyncio.wait_for(answer, 30)


async def test_settings_without_a_mirror_are_journalled_too() -> None:
    """Whoever reads the journal must not believe that a mirror still stands behind the answers."""
    world = World(mirrored=False, journalled=MIRRORED)
    world.start()
    await world.is_in(LOCAL)
    assert world.journal == [(LOCAL, "settings")]
    assert not world.coverage.closed
    await world.coverage.reach(epoch=1, size=99)
    await world.stop()


async def test_nobody_waits_for_a_task_that_has_ended(alone: World) -> None:
    """A stop must not hang on answers that nobody will let go any more."""
    answer = waiting(alone, 50)
    await settled()
    await alone.stop()
    with pytest.raises(OutcomeUnknown):
        await answer


async def test_a_long_absence_costs_no_memory(alone: World) -> None:
    """A mirror may be away for a week."""
    for size in range(4, 3 * COMMITS_MAX):
        alone.coverage.committed(epoch=1, size=size)
    alone.later(7)
    assert alone.coverage.lag_ns == 7 * MS
    assert alone.coverage.lag_records(epoch=1, size=3 * COMMITS_MAX) == 3 * COMMITS_MAX - 3
    alone.coverage.covered(epoch=1, size=3 * COMMITS_MAX)
    assert alone.coverage.lag_ns == 0
