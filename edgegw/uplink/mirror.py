"""The way to the mirror: what it lacks, right after each COMMIT, and what its word does to the box.

The same exchange as with the hub, without directives and asks. Owns the task, the check of the mirror's
cosignature, and what its verdicts do: it can put a box out of clearing by itself, with the line to the hub
down. Leaves out who waits for a cosignature (`ledger.coverage`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, Protocol

from edgegw.core import journal
from edgegw.core.exchange import CARRIES_ON, VERDICT_EVENT, Event, frontier_at
from edgegw.core.messages import (
    PACKAGE_BYTES_MAX,
    PACKAGE_RECORDS_MAX,
    Beat,
    Beaten,
    ExchangeError,
    LogHead,
    Package,
    PackageVerdict,
    Verdict,
)
from edgegw.core.records import Mode
from edgegw.errors import Behind, RecordPruned
from edgegw.uplink.outbox import EditedRecord, OtherHistory, ends_early, other_history, pack
from edgegw.uplink.ports import Head, Identity, Journal, LineSettings
from edgegw.uplink.rehydrate import Keeper, rehydrate
from edgegw.uplink.session import Reopen, Session, Sources, Wire, check_cosigned, opening
from edgegw.uplink.threads import in_thread
from edgegw.uplink.transport import LineFault

TIPS_MAX: Final = 1_024
"""Heads of COMMITs that the mirror lacks; with more, a package ends inside of what the next head signs."""
NOTE_KEPT_EACH_NS: Final = 5_000_000_000
"""The newest cosignature is kept in the ledger so often at most: each costs a COMMIT."""

_log = logging.getLogger(__name__)


class Coverage(Protocol):
    """Who waits for the mirror (`ledger.coverage.Coverage`)."""

    said: str

    def answered(self) -> None:
        """The mirror has answered."""
        ...

    def covered(self, *, epoch: int, size: int) -> None:
        """The mirror holds so much of an epoch."""
        ...

    def excused(self, *, epoch: int) -> None:
        """The mirror will never hold this earlier epoch."""
        ...


class Trust(Protocol):
    """Where the box's mode is kept (`uplink.line.Line`)."""

    @property
    def mode(self) -> Mode:
        """The mode that the box is in."""
        ...

    async def distrust(self, problem: str) -> None:
        """A record was found changed by hand."""
        ...

    async def accused(self, event: Event, detail: str) -> None:
        """The mirror has found what ends the clearing."""
        ...


class Mirror:
    """See the module. `run` is the task."""

    def __init__(
        self,
        *,
        identity: Identity,
        settings: LineSettings,
        source: Journal,
        coverage: Coverage,
        line: Trust,
        keep_note: Callable[[int, str], Awaitable[None]],
        keeper: Keeper | None = None,
        sources: Sources | None = None,
        places: Callable[[], Sequence[str]] | None = None,
        reached: Callable[[str], None] = lambda _address: None,
    ) -> None:
        """identity: with the mirror's pinned key in the place of the hub's. keep_note: takes (epoch, cosigned
        note) now and then. keeper: takes the box's past back, for a ledger that is closed. places: where it
        may be, the likeliest first, where the settings name no address; reached: told when it was there."""
        self._identity = identity
        self._settings = settings
        self._source = source
        self._coverage = coverage
        self._line = line
        self._keep_note = keep_note
        self._keeper = keeper
        self._sources = sources or Sources()
        self._wire = Wire(identity, settings, self._sources)
        self._places = (lambda: self._wire.addresses) if places is None else places
        self._reached = reached
        self._turns = Turns()
        self._rounds = 0
        self._moved = asyncio.Event()
        self._tips: deque[Head] = deque(maxlen=TIPS_MAX)
        self._note_kept_ns = 0
        self._epoch = 0
        self._given_up: set[int] = set()
        """Epochs that the mirror will never have from here."""
        self.address = ""
        """The address in use; "" while there is none."""
        self.lacking = 0
        """Records of the box's own past that are still to come back from here."""
        self.gave_all = False
        """Whether the mirror has given back all that it holds and this box does not; for a closed ledger."""

    def head_moved(self, head: Head) -> None:
        """The journal on disk ends here now: told after each COMMIT, on the loop's thread."""
        self._tips.append(head)
        self._moved.set()

    async def run(self) -> None:
        """Keep the mirror up to date until cancelled; returns never.

        Raises Behind when the mirror finds the ledger of an open pen behind, and whatever error is not the
        way's.
        """
        try:
            while True:
                address = self._turns.next(self._places())
                try:
                    if not address:
                        raise LineFault("no mirror was found on the network yet")
                    await self._talk(await self._opened(address))
                except Reopen:
                    self._failed(address, "the mirror does not know the session")
                except (LineFault, ExchangeError) as problem:
                    self._failed(address, str(problem))
                except RecordPruned as problem:
                    self._failed(address, f"it lacks what this box has no more: {problem}")
                await asyncio.sleep(self._wire.backoff_s(self._rounds - 1))  # a first failure costs nothing
        finally:
            await self._wire.transport.close()

    def _failed(self, address: str, problem: str) -> None:
        self.address = ""
        self._coverage.said = problem
        self._rounds += 1
        _log.info("mirror address failed", extra={"address": address, "problem": problem})

    # --- opening ---

    async def _opened(self, address: str) -> Session:
        session = await self._open(address)
        keeper = self._keeper
        if keeper is None:
            return session
        while await rehydrate(session, keeper, mode=self._line.mode, lacking=self._is_lacking):
            session = await self._open(address)
        self.gave_all = True
        return session

    def _is_lacking(self, count: int) -> None:
        self.lacking = count

    async def _open(self, address: str) -> Session:
        message = await in_thread(lambda: opening(self._source, self._identity, self._line.mode))
        self._epoch = message.epoch
        opened = await self._wire.open(address, message)
        if opened.verdict not in CARRIES_ON:
            raise LineFault(f"{address}: the mirror says {opened.verdict}: {opened.reason}")
        self._coverage.answered()
        await self._obey(opened.verdict, opened.reason)
        session = Session(self._wire, address, opened)
        await self._credit(session)
        self.address = address
        self._reached(address)
        return session

    async def _obey(self, verdict: Verdict, reason: str) -> None:
        """What the mirror has found wrong with this box ends its clearing, whatever the hub knows."""
        if verdict is Verdict.BEHIND and self._keeper is None:
            # A record of it would be the beginning of a second history: the ledger is closed instead.
            raise Behind(f"the mirror says: {reason}")
        if verdict in (Verdict.FENCED, Verdict.FORKED):
            await self._line.accused(VERDICT_EVENT[verdict], f"the mirror says: {reason}")

    async def _credit(self, session: Session) -> None:
        """What the mirror says, signed, that it holds needs no cosignature once more, if it is ours."""
        for epoch, size in await in_thread(lambda: _shared(self._source, session)):
            self._coverage.covered(epoch=epoch, size=size)
        for head in session.opened.closed:
            if head.number < self._epoch:
                self._coverage.excused(epoch=head.number)

    # --- talking ---

    async def _talk(self, session: Session) -> None:
        """Message after message; a fault comes out as an exception."""
        while True:
            if not await self._beat(session):
                await self._pause()

    async def _pause(self) -> None:
        """Until the next COMMIT, or the heartbeat. (Not `wait_for`: see `uplink.line`.)"""
        try:
            async with asyncio.timeout(self._settings.heartbeat_ms / 1_000):
                await self._moved.wait()
        except TimeoutError:
            pass

    async def _beat(self, session: Session) -> bool:
        """One message and its answer; whether it carried records."""
        self._moved.clear()
        package, waiting = await self._outgoing(session)
        beat = Beat(directives=LogHead(0), push=package, mode=self._line.mode, waiting=waiting)
        beaten = await session.beat(beat)
        self._coverage.answered()
        if beaten.verdict is Verdict.REOPEN:
            raise Reopen
        if beaten.verdict not in CARRIES_ON:
            raise LineFault(f"{session.address}: the mirror says {beaten.verdict}: {beaten.reason}")
        self._rounds = 0
        self._coverage.said = ""
        if package is not None:
            await self._take_push_answer(session, package, beaten)
        await self._obey(beaten.verdict, beaten.reason)
        return package is not None

    async def _outgoing(self, session: Session) -> tuple[Package | None, int]:
        """The next package, the oldest epoch first, and how many records the mirror lacks."""
        if self._line.mode is Mode.FORKED or self._keeper is not None:
            return None, 0
        try:
            while True:
                tips, without = tuple(self._tips), frozenset(self._given_up)
                try:
                    return await in_thread(partial(_next_package, self._source, session, tips, without))
                except _NotToBeHad as problem:
                    self._give_up(problem)
        except EditedRecord as problem:
            await self._line.distrust(str(problem))
            return None, 0

    def _give_up(self, problem: _NotToBeHad) -> None:
        self._given_up.add(problem.epoch)
        self._coverage.excused(epoch=problem.epoch)
        _log.warning("mirror goes without", extra={"epoch": problem.epoch, "problem": str(problem)})

    async def _take_push_answer(self, session: Session, push: Package, beaten: Beaten) -> None:
        verdict, head = beaten.push, beaten.journal
        if verdict is PackageVerdict.FORK:
            self._given_up.add(push.number)
            if push.number == self._epoch:
                await self._line.accused(Event.FOUND_FORKED, f"the mirror says: {beaten.push_reason}")
            else:
                self._coverage.excused(epoch=push.number)
            return
        if verdict not in (PackageVerdict.ACCEPTED, PackageVerdict.DUPLICATE):
            raise LineFault(f"{session.address}: push refused, {verdict}: {beaten.push_reason}")
        if head is None or head.number != push.number or head.size < push.size:
            raise LineFault(f"{session.address}: the mirror does not hold what it has accepted")
        await in_thread(lambda: self._check_cosignature(head, push, beaten.cosignature))
        session.held[push.number] = head
        if not await in_thread(lambda: _ends_signed(self._source, head, push)):
            return
        while self._tips and _place(self._tips[0]) <= (head.number, head.size):
            self._tips.popleft()
        self._coverage.covered(epoch=head.number, size=head.size)
        now_ns = self._sources.now_ns()
        if now_ns - self._note_kept_ns > NOTE_KEPT_EACH_NS:
            self._note_kept_ns = now_ns
            await self._keep_note(head.number, beaten.cosignature)

    def _check_cosignature(self, head: LogHead, push: Package, note: str) -> None:
        """The mirror's pinned key must have signed for just what this box has; raises ExchangeError."""
        root = push.root if head.size == push.size else _root_at(self._source, head)
        check_cosigned(self._identity, note, head, root=root, by="mirror")


class Turns:
    """Whose turn it is among the places where the mirror may be: the likeliest's each second time, so that
    any number of false ones costs little, and between these who was not tried for the longest time."""

    def __init__(self) -> None:
        self._attempts = 0
        self._tried: dict[str, int] = {}
        """Which attempt at a place was the last one."""

    def next(self, places: Sequence[str]) -> str:
        """Where to try now, "" for nowhere. places: the likeliest first."""
        self._tried = {place: self._tried.get(place, 0) for place in places}
        if not places:
            return ""
        self._attempts += 1
        others = places[1:]
        turn = places[0] if self._attempts % 2 or not others else min(others, key=self._tried.__getitem__)
        self._tried[turn] = self._attempts
        return turn


class _NotToBeHad(Exception):
    """An earlier epoch cannot be sent any more; the newer ones can."""

    def __init__(self, epoch: int, problem: Exception) -> None:
        super().__init__(str(problem))
        self.epoch = epoch


def _place(head: Head) -> tuple[int, int]:
    return head.epoch, head.size


def _next_package(
    source: Journal, session: Session, tips: tuple[Head, ...], without: frozenset[int]
) -> tuple[Package | None, int]:
    """The next package for a mirror that holds so much; raises EditedRecord and RecordPruned for the newest
    epoch, _NotToBeHad for an earlier one, and Reopen for an epoch that the session has not named."""
    package, waiting = None, 0
    closed = without | {head.number for head in session.opened.closed}
    heads = source.heads()
    for head in heads:
        if head.epoch in closed:
            continue
        have = session.held.get(head.epoch)
        if have is None:
            raise Reopen
        if have.size >= head.size or ends_early(head):
            continue
        waiting += head.size - have.size
        if package is None:
            try:
                package = pack(source, _ending(head, have, tips), have, PACKAGE_BYTES_MAX)
            except OtherHistory:
                package = other_history(source, head, have)
            except (EditedRecord, RecordPruned) as problem:
                if head is heads[-1]:
                    raise
                raise _NotToBeHad(head.epoch, problem) from None
    return package, waiting


def _ending(newest: Head, have: LogHead, tips: tuple[Head, ...]) -> Head:
    """The head that the package shows: the last one that the package reaches, so that the mirror can prove
    all that it has; else the next one, else the newest."""
    ahead = [tip for tip in tips if tip.epoch == newest.epoch and have.size < tip.size <= newest.size]
    reached = [tip for tip in ahead if tip.size <= have.size + PACKAGE_RECORDS_MAX]
    return reached[-1] if reached else ahead[0] if ahead else newest


def _ends_signed(source: Journal, head: LogHead, push: Package) -> bool:
    """Whether what the mirror holds ends where the box has signed, not amid a COMMIT: it can give back, and
    prove, no further than that, so no answer may leave for more."""
    signed = journal.parse_checkpoint(push.checkpoint)[0]
    return head.size == signed.size or (head.number, head.size) in map(_place, source.heads())


def _shared(source: Journal, session: Session) -> list[tuple[int, int]]:
    """(epoch, size) of what the mirror has said that it holds, where it is all that this box has signed: of
    less, it cannot be seen here whether that ends amid a COMMIT."""
    mine = {head.epoch: head for head in source.heads()}
    return [
        (theirs.number, theirs.size)
        for theirs in session.opened.journals
        if theirs.number in mine
        and 0 < theirs.size == mine[theirs.number].size
        and _root_at(source, theirs) == theirs.root
    ]


def _root_at(source: Journal, head: LogHead) -> bytes:
    return frontier_at(head.size, source.node(epoch=head.number, size=head.size)).root()
