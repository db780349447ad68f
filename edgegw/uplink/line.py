"""The line to the centre: the address in use, the mode that the box is in, one loop of messages (DESIGN §4).

Owns fail-over and fail-back, heartbeats, the mode and its record, and what the box makes of each answer.
Payments never wait for this loop but for a grant, and then with an end. Reading the ledger happens in worker
threads, one at a time; memory is bounded by one package each way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, NoReturn, Protocol, TypeVar

from edgegw.core import journal
from edgegw.core.exchange import CARRIES_ON, VERDICT_EVENT, Event, SiteBundle, next_mode
from edgegw.core.messages import (
    PACKAGE_BYTES_MAX,
    Beat,
    Beaten,
    Coming,
    ExchangeError,
    LogHead,
    Opened,
    Package,
    PackageVerdict,
    Program,
    Verdict,
    open_link,
)
from edgegw.core.records import Mode
from edgegw.errors import Behind, NewEpoch, Next, OperatingError
from edgegw.uplink.asks import Asks, Outcome
from edgegw.uplink.cosignatures import without_cosignature
from edgegw.uplink.handback import HandBack, Returning
from edgegw.uplink.inbox import Inbox, SiteFaults, answers
from edgegw.uplink.others import Others
from edgegw.uplink.outbox import (
    EditedRecord,
    OtherHistory,
    Outgoing,
    collect,
    other_history,
)
from edgegw.uplink.ports import HeldDirectives, Identity, Journal, LineSettings, Pen
from edgegw.uplink.rehydrate import Keeper, rehydrate
from edgegw.uplink.session import (
    Reopen,
    Session,
    Sources,
    Wire,
    check_cosigned,
    directives_head,
    fresh_words,
    opening,
)
from edgegw.uplink.status import HINTS, LineStatus
from edgegw.uplink.threads import in_thread
from edgegw.uplink.transport import LineFault

PACKAGE_BYTES_MIN: Final = 1 << 14
"""A line too slow for this much within one answer's time counts as down."""
PACKAGE_BYTES_FIRST: Final = 1 << 18
LOOK_S: Final = 1.0
DETAIL_LENGTH_MAX: Final = 200
"""Of what others said, in a mode's record."""

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class ClosedLedger(Keeper, Protocol):
    """What a line with a closed ledger needs besides a pen (`ledger.closed.ClosedPen`)."""

    wants_site: str
    """The digest of the settings in force that are not here, "" where none are lacking."""

    def keep_site(self, bundle: SiteBundle) -> None:
        """Store the bundle that was wanted."""
        ...


class Line:
    """The box's side of the line. `run` is the task; the rest is for the gateway service, the pen and the
    status."""

    def __init__(
        self,
        *,
        identity: Identity,
        settings: LineSettings,
        source: Journal,
        pen: Pen,
        keeper: ClosedLedger | None = None,
        link_waits: Callable[[], str] = lambda: "",
        sources: Sources | None = None,
        site_faults: SiteFaults = lambda _: (),
    ) -> None:
        """keeper: takes the box's past back, for a ledger that is closed; no directive is applied to it then.
        link_waits: why a new epoch must not begin yet, "" when it may; it is asked for again.
        site_faults: what keeps this program from working by a site's settings."""
        self._identity = identity
        self._settings = settings
        self._source = source
        self._pen = pen
        self._keeper = keeper
        self._link_waits = link_waits
        self._sources = sources or Sources()
        self._wire = Wire(identity, settings, self._sources)
        self._inbox = Inbox(identity, self._wire.transport, kept=self._kept_site, faults=site_faults)
        self._asks = Asks(boot=identity.boot, timeout_ms=settings.centre_timeout_ms)
        self._addresses = self._wire.addresses
        if not self._addresses:
            raise ValueError("there is no address; name at least one with its priority")
        self._turn = 0
        self._failures = 0
        self._rounds = 0
        self._reopens = 0
        self._epoch = 0
        self._hub_behind = False
        self._bytes_max = PACKAGE_BYTES_FIRST
        self._reading = asyncio.Lock()
        self._hub_directives = LogHead(0)
        """What the hub says that it has, when it has lost some."""
        self._hub_asked: LogHead | None = None
        """As it stood when the hub was asked whether they are the same as here."""
        self._hand_back: HandBack | None = None
        self._asking = False
        self._again_ms = 0
        self._slow_ns = 0
        """The longest of the latest round trips."""
        self._moved = asyncio.Event()
        self._asked = asyncio.Event()
        self._better = asyncio.Event()
        self._started = asyncio.Event()
        self._fetch: asyncio.Task[None] | None = None
        self.may_fetch_ahead: Callable[[], bool] = lambda: True
        """Whether the machine has something left for settings that are not due yet."""
        started, reason = next_mode(pen.mode, Event.STARTED)
        if keeper is not None:
            found = Event.FOUND_BEHIND if started is Mode.BEHIND else Event.FOUND_FORKED
            reason = f"{found}: {pen.mode_reason}"
        self.status = LineStatus(
            mode=started, reason=reason, hint=HINTS.get(started, ""), since_ns=self._sources.now_ns()
        )

    # --- for the gateway service and the pen ---

    @property
    def mode(self) -> Mode:
        """The mode that the line is in."""
        return self.status.mode

    @property
    def up(self) -> bool:
        """Whether the centre can be asked for a grant now."""
        return self.mode in (Mode.ACTIVE, Mode.SYNCING) and not self._hub_behind

    async def ask(self, *, account_id: str, currency: str, amount_minor: int) -> Outcome:
        """Ask the centre for a grant of at least amount_minor: granted (and applied), refused, timeout or
        down."""
        if not self.up:
            return Outcome.DOWN
        self._asked.set()
        self._moved.set()
        return await self._asks.wait(
            epoch=self._epoch, account_id=account_id, currency=currency, amount_minor=amount_minor
        )

    def awaited(self, request_id: str) -> bool:
        """Whether a payment still waits for this grant. If so the grant is its own, and it waits until it
        is written."""
        return self._asks.awaited(request_id)

    async def distrust(self, problem: str) -> None:
        """A record was found changed by hand: from here on nothing is sent and nothing cleared."""
        await self._started.wait()
        await self._happened(Event.RECORD_EDITED, problem)

    async def accused(self, event: Event, detail: str) -> None:
        """The mirror has found what the hub would have found: it counts, also while the line is down."""
        await self._started.wait()
        await self._happened(event, detail)

    def head_moved(self) -> None:
        """Tell the line that the journal grew: the pen calls it after each COMMIT, on the loop's thread."""
        self._moved.set()

    async def look(self) -> None:
        """Ask once, before this boot has written anything, whether the ledger is behind: a record more would
        make a fork of it. Raises Behind; an address that says nothing within LOOK_S does not hold a start up.
        """
        try:
            async with asyncio.timeout(LOOK_S):
                for address in self._addresses:
                    with suppress(LineFault, ExchangeError):
                        opened = await self._ask_opened(address)
                        if opened.verdict is Verdict.BEHIND:
                            raise Behind(f"{address} says: {opened.reason}")
                        return
        except TimeoutError:
            return
        finally:
            await self._wire.transport.close()

    # --- the task ---

    async def run(self) -> None:
        """Keep the line up until cancelled; returns never.

        Raises NewEpoch when the hub gives the box its next epoch, Behind when the hub finds the ledger of an
        open pen behind, and whatever error is not the line's.
        """
        try:
            heads = await self._read(self._source.heads)
            self._epoch = heads[-1].epoch if heads else 0
            self.status.mode = self._pen.mode
            await self._happened(Event.STARTED)
            self._started.set()
            while True:
                await self._turn_on(self._addresses[self._turn])
        finally:
            self._asks.give_up()
            if self._fetch is not None:
                self._fetch.cancel()
            await self._wire.transport.close()

    async def _turn_on(self, address: str) -> None:
        """One address, from its opening until it fails or a better one answers; then choose the next one."""
        try:
            session = await self._open(address)
            while await self._rehydrated(session) or await self._learnt(session):
                session = await self._open(address)
            await self._talk(session)
            self._turn = 0
        except Reopen:
            self._reopens += 1
            if self._reopens > 1:
                await self._failed(address, "the hub does not know the session that it has just opened")
        except (LineFault, ExchangeError) as problem:
            await self._failed(address, str(problem))

    async def _failed(self, address: str, problem: str) -> None:
        self.status.said[address] = problem
        self.status.address = ""
        self._failures += 1
        self._turn = (self._turn + 1) % len(self._addresses)
        if self._failures < len(self._addresses):
            _log.info("hub address failed", extra={"address": address, "problem": problem})
            return
        self._rounds += 1
        self._failures = 0
        self._turn = 0
        self._asks.give_up()
        await self._happened(Event.LINE_LOST, problem)
        await asyncio.sleep(self._wire.backoff_s(self._rounds))

    async def _read(self, read: Callable[[], _T]) -> _T:
        """Read the ledger in a worker thread; one at a time."""
        async with self._reading:
            return await in_thread(read)

    # --- opening ---

    async def _open(self, address: str) -> Session:
        opened = await self._ask_opened(address)
        if opened.verdict is Verdict.LINK:
            self._take_link(opened.link)
        if opened.verdict not in CARRIES_ON:
            raise LineFault(f"{address}: the hub says {opened.verdict}: {opened.reason}")
        if opened.revoked:
            known = await self._read(self._source.revoked_keys)
            if fresh := fresh_words(self._identity, opened, known):
                await self._pen.keep_revoked(fresh)
        self._hub_directives, self._hub_asked = opened.directives, None
        await self._take_verdict(opened.verdict, opened.reason)
        self.status.address = address
        return Session(self._wire, address, opened)

    async def _ask_opened(self, address: str) -> Opened:
        message = await self._read(lambda: opening(self._source, self._identity, self.mode))
        self._epoch = message.epoch
        return await self._wire.open(address, message)

    def _take_link(self, note: str) -> NoReturn:
        """End in order: the next epoch has a pen and a line of its own (`ledger.start.begin_epoch`)."""
        link = open_link(note, self._identity.hub_key)
        expected = (self._identity.bank, self._identity.box, self._identity.epoch_key())
        if (link.bank, link.box, link.key) != expected or link.epoch <= self._epoch:
            raise ExchangeError(f"the link is for {link.bank}/{link.box} epoch {link.epoch} and another key")
        waits = self._link_waits()
        if waits:
            raise LineFault(f"the link of epoch {link.epoch} waits: {waits}")
        raise NewEpoch(f"the hub has given epoch {link.epoch}", note=note)

    async def _rehydrated(self, session: Session) -> bool:
        """Whether something of the box's own past came back; then the hub is to judge again."""
        keeper = self._keeper
        is_behind = self.mode is Mode.BEHIND or session.opened.verdict is Verdict.BEHIND
        if keeper is None or not is_behind:
            return False
        try:
            taken = await rehydrate(
                session, keeper, mode=self.mode, lacking=self._is_lacking, bytes_max=self._bytes_max
            )
        except LineFault:
            self._carries_less()
            raise
        if keeper.wants_site:
            await self._inbox.fetch(session.address, keeper.wants_site)
            self.status.bundle_fault = self._inbox.fault
            bundle = self._inbox.fetched(keeper.wants_site)
            if bundle is not None:
                keeper.keep_site(bundle)
        return taken > 0

    async def _learnt(self, session: Session) -> bool:
        """Whether something became known of what other histories of this box decided; then the hub is to
        judge again. A hub that takes back its own past has other things to ask first."""
        if session.opened.verdict is Verdict.HUB_BEHIND:
            return False
        others = Others(
            session,
            self._source,
            self._pen,
            self._identity,
            read=self._read,
            mode=self.mode,
            lacking=self._is_lacking,
            bytes_max=self._bytes_max,
        )
        try:
            return await others.learn()
        except OperatingError as problem:
            if problem.next is Next.STOP:
                raise
            self.status.pen_fault = str(problem)
            return False

    def _is_lacking(self, count: int) -> None:
        if (count > 0) != (self.status.lacking > 0):
            _log.info("past coming back" if count else "past came back", extra={"lacking": count})
        self.status.lacking = count

    async def _take_verdict(self, verdict: Verdict, reason: str) -> None:
        if verdict is Verdict.BEHIND and self._keeper is None:
            # A record of it would be the beginning of a second history: the ledger is closed instead.
            raise Behind(f"the hub says: {reason}")
        self._hub_behind = verdict is Verdict.HUB_BEHIND
        await self._happened(VERDICT_EVENT[verdict], reason)

    # --- talking ---

    async def _talk(self, session: Session) -> None:
        """Message after message, until a better address answers; a fault comes out as an exception."""
        probe = asyncio.create_task(self._probe()) if self._turn else None
        self._better.clear()
        try:
            while not self._better.is_set():
                if not await self._beat(session):
                    await self._pause()
        finally:
            if probe is not None:
                probe.cancel()
                await asyncio.wait((probe,))

    async def _probe(self) -> None:
        """While a worse address is in use: try the better ones; `_better` is set when one answers as the
        hub."""
        while True:
            await asyncio.sleep(self._settings.failback_ms / 1_000)
            for address in self._addresses[: self._turn]:
                try:
                    await self._ask_opened(address)
                except (LineFault, ExchangeError) as problem:
                    self.status.said[address] = str(problem)
                else:
                    self._better.set()
                    self._moved.set()
                    return

    async def _pause(self) -> None:
        """Until something is asked for, at once; until the journal grew, after gather_ms; until the
        heartbeat, or sooner where the hub asks other boxes for this one."""
        if self._asks.unsent:
            return
        longest_ms = min(self._settings.heartbeat_ms, self._again_ms or self._settings.heartbeat_ms)
        gather_ms = min(self._settings.gather_ms, longest_ms)
        await _wait(self._asked, gather_ms)
        if not self._asked.is_set():
            await _wait(self._moved, longest_ms - gather_ms)

    async def _beat(self, session: Session) -> bool:
        """One message and its answer; whether the next one should follow at once."""
        self._asked.clear()
        self._moved.clear()
        outgoing, held = await self._outgoing(session)
        continues = self._may_push
        beat = await self._compose(session, outgoing, held)
        before_ns = self._sources.now_ns()
        try:
            beaten = await session.beat(beat)
        except LineFault:
            if beat.push is not None or beat.handed_back is not None:
                self._carries_less()
            raise
        self._answered(session, beat, before_ns)
        if beaten.verdict is Verdict.REOPEN:
            raise Reopen
        if beaten.verdict not in CARRIES_ON:
            raise LineFault(f"{session.address}: the hub says {beaten.verdict}: {beaten.reason}")
        await self._take_verdict(beaten.verdict, beaten.reason)
        if beat.push is not None and continues:
            await self._take_push_answer(session, beat.push, beaten)
        if beat.pull is not None and beaten.cosignature:
            await self._keep_cosignature(beat.pull, beaten.cosignature)
        if beat.handed_back is not None:
            self._take_handed_back(session, beat.handed_back, beaten)
        self._again_ms = beaten.again_ms
        waits_for_bundle = await self._take_directives(session, beaten, held)
        self._fetch_ahead(session, beaten.coming)
        self._failures = self._rounds = self._reopens = 0
        left = outgoing.waiting - (len(beat.push.records) if beat.push and continues else 0)
        self.status.waiting = left
        self.status.epochs_at_fault = dict(outgoing.at_fault)
        more = (beaten.more and not waits_for_bundle) or left > 0 or beat.handed_back is not None
        if not more and beaten.verdict is Verdict.OK:
            await self._happened(Event.CAUGHT_UP)
        return (more or beat.pull is not None) and self._may_push

    @property
    def _may_push(self) -> bool:
        """After a fork or an edited record nothing leaves the box but its heartbeats and, once in a session,
        the evidence."""
        return self.mode is not Mode.FORKED

    def _carries_less(self) -> None:
        self._bytes_max = max(PACKAGE_BYTES_MIN, self._bytes_max // 2)

    async def _outgoing(self, session: Session) -> tuple[Outgoing, HeldDirectives]:
        if self._may_push:
            try:
                outgoing = await self._read(
                    lambda: collect(self._source, session.held, bytes_max=self._bytes_max)
                )
            except OtherHistory as problem:
                await self._happened(Event.FOUND_FORKED, str(problem))
                outgoing = await self._evidence(session)
            except EditedRecord as problem:
                await self._happened(Event.RECORD_EDITED, str(problem))
                outgoing = Outgoing(None, 0)
        else:
            outgoing = await self._evidence(session)
        return outgoing, await self._read(self._source.directives)

    async def _evidence(self, session: Session) -> Outgoing:
        """Of a fork, once in a session: the box's signed word against what the hub holds."""
        if session.fork_shown or not self._epoch:
            return Outgoing(None, 0)
        session.fork_shown = True
        heads = (*session.opened.closed, *session.held.values())
        held = {head.number: head for head in heads}

        def shown() -> Package | None:
            newest = self._source.heads()[-1]
            return other_history(self._source, newest, held.get(newest.epoch))

        return Outgoing(await self._read(shown), 0)

    async def _returning(self) -> Returning | None:
        """What the hub has directed and lost goes first: it cannot judge the records without."""
        if not self._hub_behind:
            self._hand_back = None
            return None
        back = self._hand_back = self._hand_back or HandBack(self._source)
        said, bytes_max = self._hub_directives, self._bytes_max
        try:
            return await self._read(
                lambda: back.next(said, asked=said == self._hub_asked, bytes_max=bytes_max)
            )
        except EditedRecord as problem:
            await self._happened(Event.RECORD_EDITED, str(problem))
            return None

    async def _compose(self, session: Session, outgoing: Outgoing, held: HeldDirectives) -> Beat:
        directives = directives_head(held)
        returning = await self._returning()
        self._asking = returning is not None and returning.asks
        if self._asking:
            self._hub_asked = self._hub_directives
        handed_back = None if returning is None else returning.package
        self.status.handing_back = handed_back is not None
        idle = outgoing.package is None and handed_back is None
        return Beat(
            directives=directives,
            held=session.held.get(self._epoch),
            push=outgoing.package if handed_back is None else None,
            pull=await self._to_cosign(session) if idle else None,
            handed_back=handed_back,
            asks=self._asks.to_send(spent_ms=self._slow_ns // 1_000_000) if self.up else (),
            directives_cosignature=self._cosign(directives) if directives != session.told_directives else "",
            mode=self.mode,
            waiting=outgoing.waiting,
            package_bytes_max=self._bytes_max,
            ready=self._inbox.ready,
            program=self._program(session),
        )

    def _program(self, session: Session) -> Program | None:
        """What the hub has not heard of the box's program in this session."""
        says = None if self._identity.program is None else self._identity.program()
        return None if says == session.told_program else says

    async def _to_cosign(self, session: Session) -> LogHead | None:
        """What the hub is asked its word for beside an idle beat, once in a session each."""
        if session.to_cosign is None:
            theirs = (*session.opened.closed, *session.held.values())
            session.to_cosign = await self._read(lambda: without_cosignature(self._source, theirs))
        return session.to_cosign.pop(0) if session.to_cosign else None

    def _cosign(self, head: LogHead) -> str:
        """The box's word, as a note, that it holds and has journalled these directives."""
        if not head.size:
            return ""
        who = self._identity
        origin = journal.directives_origin(bank=who.bank, box=who.box, incarnation=head.number)
        checkpoint = journal.Checkpoint(origin, head.size, head.root)
        line = journal.cosign(
            checkpoint,
            time_s=self._sources.wall_s(),
            name=who.key.name,
            key_id=who.key.key_id,
            sign=who.key.sign,
        )
        return journal.add_signature(checkpoint.body().decode() + "\n", line)

    def _answered(self, session: Session, beat: Beat, before_ns: int) -> None:
        """Keep what an answer alone says: the line carries, and how fast."""
        status, now_ns = self.status, self._sources.now_ns()
        status.last_contact_ns = now_ns
        status.round_trip_ns = now_ns - before_ns
        self._slow_ns = max(status.round_trip_ns, self._slow_ns * 7 // 8)
        status.sent_bytes = self._wire.sent_bytes
        status.sent_bytes_raw = self._wire.sent_bytes_raw
        status.received_bytes = self._wire.received_bytes
        status.said.pop(session.address, None)
        session.told_directives = beat.directives
        session.told_program = beat.program or session.told_program
        if beat.push is not None and status.round_trip_ns < self._settings.answer_timeout_ms * 250_000:
            self._bytes_max = min(PACKAGE_BYTES_MAX, self._bytes_max * 2)

    # --- what the hub says ---

    async def _take_push_answer(self, session: Session, push: Package, beaten: Beaten) -> None:
        verdict, head = beaten.push, beaten.journal
        if verdict is PackageVerdict.FORK:
            session.held.pop(push.number, None)
            if push.number == self._epoch:
                await self._happened(Event.FOUND_FORKED, beaten.push_reason)
            return
        if verdict not in (PackageVerdict.ACCEPTED, PackageVerdict.DUPLICATE, PackageVerdict.GAP):
            raise LineFault(f"{session.address}: push refused, {verdict}: {beaten.push_reason}")
        if head is None or head.number != push.number:
            raise LineFault(f"{session.address}: the hub does not say what it holds of epoch {push.number}")
        before = session.held[push.number].size
        if head.size < before:
            raise Reopen
        if head.size == before:
            raise LineFault(f"{session.address}: {verdict}, but the hub's head did not move from {before}")
        session.held[push.number] = head
        self.status.pushed_records += head.size - before
        if beaten.cosignature:
            await self._keep_cosignature(head, beaten.cosignature)

    def _take_handed_back(self, session: Session, package: Package, beaten: Beaten) -> None:
        held = beaten.incarnation
        if not self._hub_behind:
            return  # a fork or a quarantine was found meanwhile: the mode says it
        if held is None or (held == self._hub_directives and not self._asking):
            raise LineFault(
                f"{session.address}: the hub does not take back its directives from"
                f" {package.number}/{package.old_size} on: {beaten.reason or 'no reason given'}"
            )
        self._hub_directives = held

    async def _keep_cosignature(self, head: LogHead, note: str) -> None:
        check_cosigned(self._identity, note, head, root=head.root, by="hub")
        await self._wrote(self._pen.keep_cosignature(epoch=head.number, size=head.size, note=note))

    async def _take_directives(self, session: Session, beaten: Beaten, held: HeldDirectives) -> bool:
        """Hand what can be applied to the pen; whether the rest waits for a bundle (or for room on the
        disk)."""
        package = beaten.directives
        if package is None or self._keeper is not None:
            return False
        taken = await asyncio.to_thread(self._inbox.take, package, held)
        if taken.missing:
            self._start_fetch(session.address, taken.missing)
        if taken.directives is None:
            return bool(taken.missing)
        if not await self._wrote(self._pen.apply_directives(taken.directives)):
            return True
        self._inbox.applied(taken.directives)
        self.status.directives_applied += len(taken.directives.bodies)
        for request_id, outcome in answers(taken.directives):
            self._asks.resolve(request_id, outcome)
        return bool(taken.missing)

    def _fetch_ahead(self, session: Session, coming: Coming | None) -> None:
        """Get the site's settings that are coming, so that their directive holds up none behind it."""
        if coming is not None and not self.may_fetch_ahead():
            return
        digest = "" if coming is None or self._keeper is not None else self._inbox.expect(coming)
        if digest:
            self._start_fetch(session.address, digest)

    async def _kept_site(self, digest: str) -> bytes | None:
        return await self._read(lambda: self._source.site(digest))

    def _start_fetch(self, address: str, digest: str) -> None:
        """One bundle at a time, beside the beats."""
        if self._fetch is None or self._fetch.done():
            self._fetch = asyncio.create_task(self._fetch_bundle(address, digest))

    async def _fetch_bundle(self, address: str, digest: str) -> None:
        await self._inbox.fetch(address, digest)
        self.status.bundle_fault = self._inbox.fault
        self._asked.set()
        self._moved.set()

    # --- modes ---

    async def _happened(self, event: Event, detail: str = "") -> None:
        """Move to the table's next mode; a change is journalled with its reason, once the box has an
        epoch."""
        mode, reason = next_mode(self.mode, event)
        if mode is not self.mode:
            text = f"{reason}: {detail[:DETAIL_LENGTH_MAX]}" if detail else reason
            _log.info("line mode", extra={"mode": mode.value, "previous": self.mode.value, "reason": text})
            self.status.mode, self.status.reason = mode, text
            self.status.hint = HINTS.get(mode, "")
            self.status.since_ns = self._sources.now_ns()
        if (self._epoch or self._keeper is not None) and self._pen.mode is not mode:
            await self._wrote(self._pen.change_mode(mode, self.status.reason))

    async def _wrote(self, writing: Awaitable[None]) -> bool:
        """Whether the pen could write it; what it could not is tried again with the next message."""
        try:
            await writing
        except OperatingError as problem:
            if problem.next is Next.STOP:
                raise
            self.status.pen_fault = str(problem)
            return False
        self.status.pen_fault = ""
        return True


async def _wait(event: asyncio.Event, timeout_ms: int) -> None:
    """Until the event is set, or the time is up.

    Not `wait_for`: in Python 3.11 it swallows a cancellation that meets the event, and the task never ends.
    """
    try:
        async with asyncio.timeout(timeout_ms / 1_000):
            await event.wait()
    except TimeoutError:
        pass
