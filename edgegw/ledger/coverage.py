"""Where a record must be before anybody is told of it: on this disk alone, or on the mirror's too.

Owns how far the mirror has each epoch, who waits for it, and the rule for a mirror that is away. COMMITs
never wait here, only what is told of them: batch n + 1 is written while the answers of batch n wait. Leaves
out the way to the mirror (`uplink.mirror`) and how a change is journalled (`ledger.writer`).

Safe in this order: answers are let go without the mirror only after the record that says so is on disk;
payments are refused before the record that says so, and taken again after it; answers wait for the mirror
before the record that says so, which is written once the mirror has all that was told without it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

import msgspec

from edgegw.core.records import Durability
from edgegw.errors import BrokenInvariant, MirrorAway, Next, OperatingError, OutcomeUnknown
from edgegw.ledger.outcomes import Conflict, Decision, Outcome, Undecided
from edgegw.ledger.rows import SEQ_MAX

COMMITS_MAX: Final = 4_096
"""So many COMMITs are told apart by their time; a mirror away for longer needs only the oldest."""
LOOKS_EACH_TIMEOUT: Final = 8
"""How often within timeout_ms it is looked whether the mirror is away."""
_HINT: Final = "Ask again with the same id; it is decided once."


def mirror_note_key(epoch: int) -> str:
    """Where the ledger's `meta` has the mirror's newest cosigned note of an epoch."""
    return f"mirror_note/{epoch}"


class MirrorRule(msgspec.Struct, frozen=True, kw_only=True):
    """What the settings want of the mirror."""

    mirrored: bool = False
    refuses: bool = False
    """While the mirror is away nothing is decided; else the box goes on alone. For `mirrored` only."""
    timeout_ms: int = 2_000
    """A mirror that is behind, or silent, for longer is away."""


class Pen(Protocol):
    """What journals the changes."""

    @property
    def epoch(self) -> int:
        """The running epoch, 0 before the first link."""
        ...

    @property
    def durability(self) -> Durability:
        """What the journal says."""
        ...

    async def change_durability(self, durability: Durability, reason: str) -> None:
        """Journal a change."""
        ...


class Coverage:
    """See the module. On the loop's thread alone."""

    def __init__(
        self,
        rule: MirrorRule | None = None,
        *,
        journalled: Durability = Durability.LOCAL,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.rule = rule or MirrorRule()
        self.state = Durability.MIRRORED if self.rule.mirrored else Durability.LOCAL
        """What is in force."""
        if self.rule.refuses and journalled is Durability.AWAY:
            self.state = journalled
        self.reason = "settings"
        self.said = ""
        """What the mirror, or the way to it, said last when it failed."""
        self._now_ns = now_ns
        self._sizes: dict[int, int] = {}
        self._commits: deque[tuple[int, int, int]] = deque()
        self._waiting: dict[tuple[int, int], asyncio.Future[None]] = {}
        self._seen_ns = now_ns()
        self._has_answered = False
        self._newest = (0, 0)
        self._told_alone = (0, 0)
        """(epoch, size) of the journal up to which answers may have left without the mirror."""
        self._is_met = False
        """Whether the mirror has answered and has all of that."""
        self._changed = asyncio.Event()

    # -- what the pen and the readers ask --------------------

    @property
    def closed(self) -> bool:
        """Whether no payment may be decided now."""
        rule = self.rule
        return rule.mirrored and rule.refuses and (self.state is Durability.AWAY or not self._is_met)

    def why_closed(self) -> MirrorAway:
        """Why not, in words for an operator."""
        return MirrorAway(f"the mirror is away: {self.said or 'it has not answered yet'}")

    def has(self, *, epoch: int, size: int) -> bool:
        """Whether a journal of this size may be spoken of now."""
        return self.state is Durability.LOCAL or self._sizes.get(epoch, 0) >= size

    async def reach(self, *, epoch: int, size: int) -> None:
        """Return once a journal of this size may be spoken of; raises OutcomeUnknown when the mirror is
        away."""
        if self.has(epoch=epoch, size=size):
            return
        if self.state is Durability.AWAY:
            raise self._uncovered()
        place = (epoch, size)
        future = self._waiting.get(place)
        if future is None:
            future = self._waiting[place] = asyncio.get_running_loop().create_future()
        await asyncio.shield(future)

    async def told(self, outcomes: list[Outcome], newest: tuple[int, int]) -> list[Outcome]:
        """The outcomes once they may be told; of those that may not, that the outcome is unknown. `newest` is
        (epoch, size) of all that they can come from."""
        if self.state is Durability.LOCAL:
            return outcomes
        places = [_place(outcome, newest) for outcome in outcomes]
        try:
            for epoch, size in _furthest(places):
                await self.reach(epoch=epoch, size=size)
        except OutcomeUnknown as problem:
            unknown = Undecided(problem.code, str(problem), problem.hint)
            return [
                outcome if place is None or self.has(epoch=place[0], size=place[1]) else unknown
                for outcome, place in zip(outcomes, places, strict=True)
            ]
        return outcomes

    # -- what the metrics say --------------------

    @property
    def up(self) -> bool:
        """Whether the mirror answers."""
        return self._has_answered and not self.away

    @property
    def away(self) -> bool:
        """Whether the mirror has said nothing for timeout_ms, since the start or since its last word."""
        return self._silent_ns() > self._timeout_ns

    @property
    def weaker(self) -> bool:
        """Whether less is in force than the settings want."""
        return self.rule.mirrored and self.state is not Durability.MIRRORED

    @property
    def lag_ns(self) -> int:
        """For how long the oldest record that the mirror lacks is on disk; 0 when it has all."""
        return self._now_ns() - self._commits[0][2] if self._commits else 0

    def size(self, epoch: int) -> int:
        """How many records of an epoch the mirror is known to have."""
        return self._sizes.get(epoch, 0)

    def lag_records(self, *, epoch: int, size: int) -> int:
        """How many records of a journal of this size the mirror lacks."""
        return max(0, size - self._sizes.get(epoch, 0))

    # -- what happens --------------------

    def committed(self, *, epoch: int, size: int) -> None:
        """The journal on disk has this size now."""
        self._newest = (epoch, size)
        if self._sizes.get(epoch, 0) >= size:
            return
        if len(self._commits) >= COMMITS_MAX:
            # Told with the time of the one before it: it counts as older than it is, never as younger.
            _, _, at_ns = self._commits.pop()
            self._commits.append((epoch, size, at_ns))
        else:
            self._commits.append((epoch, size, self._now_ns()))

    def started(self, *, epoch: int, size: int, cosigned: int) -> None:
        """The journal had this size at the start, and the mirror had cosigned so much of it before."""
        self._sizes[epoch] = cosigned
        self._told_alone = (epoch, size)
        self.committed(epoch=epoch, size=size)

    def answered(self) -> None:
        """The mirror has answered."""
        self._seen_ns = self._now_ns()
        self._has_answered = True

    def covered(self, *, epoch: int, size: int) -> None:
        """The mirror has cosigned, or shown, that it holds so much of the epoch."""
        self.answered()
        if size <= self._sizes.get(epoch, 0):
            return
        self._sizes[epoch] = size
        while self._commits and self._commits[0][0] == epoch and self._commits[0][1] <= size:
            self._commits.popleft()
        for place in [place for place in self._waiting if place[0] == epoch and place[1] <= size]:
            _resolve(self._waiting.pop(place))
        if self.state is not Durability.MIRRORED or not self._is_met:
            self._changed.set()

    def excused(self, *, epoch: int) -> None:
        """The mirror holds another history of this earlier epoch, for ever: nothing waits for it to have
        ours."""
        self.covered(epoch=epoch, size=SEQ_MAX)

    # -- the task --------------------

    async def keep(self, pen: Pen) -> None:
        """Hold the rule until cancelled, each change journalled; raises what ends the pen."""
        try:
            while True:
                try:
                    await self._settle(pen)
                except (OperatingError, BrokenInvariant) as problem:
                    if isinstance(problem, BrokenInvariant) or problem.next is Next.STOP:
                        raise
                self._changed.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.rule.timeout_ms / 1_000 / LOOKS_EACH_TIMEOUT):
                        await self._changed.wait()
        finally:
            self._give_up()

    async def _settle(self, pen: Pen) -> None:
        target, reason = self._target()
        if target is Durability.MIRRORED and self.state is Durability.LOCAL:
            self.state, self._told_alone = target, self._newest
        if target is Durability.MIRRORED and not self._is_met:
            return
        changes = self.state is not target
        if not changes and (not pen.epoch or pen.durability is target):
            return
        if target is Durability.AWAY:
            self.state = target
            self._give_up()
        if pen.epoch and (changes or pen.durability is not target):
            await pen.change_durability(target, reason)
        self.state, self.reason = target, reason
        if target is Durability.LOCAL:
            for place in list(self._waiting):
                _resolve(self._waiting.pop(place))

    def _target(self) -> tuple[Durability, str]:
        rule = self.rule
        if not rule.mirrored:
            return Durability.LOCAL, "settings"
        away_ns = max(self._silent_ns(), self.lag_ns)
        if away_ns > self._timeout_ns:
            self._is_met = False
            said = self.said or f"nothing new for {away_ns // 1_000_000} ms"
            return (Durability.AWAY if rule.refuses else Durability.LOCAL), f"the mirror is away: {said}"
        if self._has_answered and 2 * away_ns <= self._timeout_ns:
            epoch, size = self._told_alone
            self._is_met = self.state is not Durability.LOCAL and self._sizes.get(epoch, 0) >= size
            if self._is_met or self.state is Durability.LOCAL:
                return Durability.MIRRORED, "the mirror has every record that was answered"
        return self.state, self.reason

    @property
    def _timeout_ns(self) -> int:
        return self.rule.timeout_ms * 1_000_000

    def _silent_ns(self) -> int:
        return self._now_ns() - self._seen_ns

    def _uncovered(self) -> OutcomeUnknown:
        return OutcomeUnknown(
            "it is on the box's disk, but its mirror, which must have it too, is away",
            hint=f"{_HINT} {MirrorAway.default_hint}" if self.rule.refuses else _HINT,
        )

    def _give_up(self) -> None:
        """Nobody waits any longer: what is not covered is not told."""
        for place in list(self._waiting):
            future = self._waiting.pop(place)
            if not future.done():
                future.set_exception(self._uncovered())
                future.exception()  # Whoever asked may have gone away; then nobody reads it.


def _place(outcome: Outcome, newest: tuple[int, int]) -> tuple[int, int] | None:
    """(epoch, size) that must be covered before this outcome may be told; None for what tells nothing."""
    if isinstance(outcome, Decision):
        return outcome.record.epoch, outcome.record.seq + 1
    return newest if isinstance(outcome, Conflict) else None


def _furthest(places: Sequence[tuple[int, int] | None]) -> list[tuple[int, int]]:
    sizes: dict[int, int] = {}
    for place in places:
        if place is not None:
            sizes[place[0]] = max(place[1], sizes.get(place[0], 0))
    return sorted(sizes.items())


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
