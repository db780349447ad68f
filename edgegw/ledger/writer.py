"""The pen: the one writer of a box's ledger. It decides in batches; one COMMIT answers for a whole batch
(DESIGN §6).

Decisions run on the event loop on a layer of the book; signing the checkpoint and COMMIT run in a thread
of their own, and the next batch forms by itself meanwhile. Only after COMMIT is the layer merged and
anybody told. An error before COMMIT throws the layer away and plays the jobs singly, so that the offender
alone gets no answer; a disk that fails or lies ends the pen. After a failed COMMIT nothing is known any
more: every waiter hears `OutcomeUnknown` and the process must stop. Leaves out: what a decision is
(`core.decide`), a batch (`ledger.batch`), the file (`ledger.store`), how a start finds its book
(`ledger.start`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Generic, TypeVar

from edgegw.core import snapshot, tiles
from edgegw.core.apply import Awaited, Sites, apply_directive
from edgegw.core.book import Book, ReplayError
from edgegw.core.counts import measures_of
from edgegw.core.decide import Funding, expiry
from edgegw.core.exchange import Directives, LogEnd
from edgegw.core.key_policy import KEY_CHANGES_MAX
from edgegw.core.ledger import due
from edgegw.core.records import (
    Boot,
    ClockStep,
    Durability,
    DurabilityChanged,
    KeyIntroduced,
    Link,
    Mode,
    ModeChanged,
    Operator,
    Request,
    SiteReturned,
    Snapshot,
    WindowClosed,
)
from edgegw.core.site import Site, decode_site
from edgegw.errors import (
    Behind,
    BrokenInvariant,
    Fenced,
    Forked,
    Next,
    NotEnrolled,
    OperatingError,
    Overloaded,
    StorageFull,
)
from edgegw.ledger import windows
from edgegw.ledger.acknowledging import acknowledgement
from edgegw.ledger.batch import Batch, Desk, Sign, Tip
from edgegw.ledger.clock import MACHINE_BOOT
from edgegw.ledger.coverage import Coverage, mirror_note_key
from edgegw.ledger.key_changes import KeyNote
from edgegw.ledger.late_words import Noted
from edgegw.ledger.lists import drop_lists, hold_lists, keep_lists
from edgegw.ledger.outcomes import Outcome, Undecided
from edgegw.ledger.requests import Requests, normalised
from edgegw.ledger.rows import position_of
from edgegw.ledger.store import Bundle, DirectivesEnd, Entry, Image
from edgegw.ledger.windows import NotClosed

T = TypeVar("T")

BATCH_REQUESTS_MAX: Final = 512
"""A batch is cut here, so that the loop is never kept for more than some 20 ms."""

QUEUE_REQUESTS_MAX: Final = 32_768
"""Beyond this the answer is "overloaded": four full batches of the API may wait."""

SNAPSHOT_RECORDS: Final = 50_000
"""A start replays at most about this many records."""

EXPIRE_MAX: Final = 512
CLOCK_STEP_NS: Final = 1_000_000_000


class Job(Generic[T]):
    """A piece of work for a batch: `run` writes records and gives what the caller gets; `weight` counts
    its requests."""

    def __init__(
        self,
        run: Callable[[Batch], T],
        *,
        weight: int = 1,
        alone: bool = False,
        identities: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.run = run
        self.weight = weight
        self.identities = identities
        """Looked up for the whole batch at once, before it runs."""
        self.alone = alone
        """It must see no other job's effects: a batch of its own."""
        self.future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._answers: list[T] = []

    def work(self, batch: Batch) -> None:
        """Run in a batch; the caller hears of it by `tell`, after COMMIT."""
        self._answers = [self.run(batch)]

    def tell(self) -> None:
        """The batch is on disk: give the answer to whoever still waits for it."""
        if not self.future.done():
            self.future.set_result(self._answers[0])

    def fail(self, error: Exception) -> None:
        """Give the error to whoever still waits."""
        if not self.future.done():
            self.future.set_exception(error)


class Pen:
    """See the module. Made by `ledger.start.start`; `run()` is its task."""

    def __init__(
        self,
        desk: Desk,
        *,
        sign: Sign,
        key_text: str,
        version: str,
        box_digest: str,
        room_for_payments: Callable[[], bool],
        make_room: Callable[[], None],
    ) -> None:
        self.desk = desk
        desk.closed_for_payments = self.closed_for_payments
        self.failure: OperatingError | BrokenInvariant | None = None
        self.awaited: Awaited = lambda _: False
        """Whether somebody still waits for the grant of this request id; the line says so."""
        self.unwell: Callable[[], OperatingError | None] = lambda: None
        """Why the machine allows no new payments, if so."""
        self.windows = windows.Windows()
        self.coverage = Coverage()
        """Says when what is on disk may be told."""
        self.on_commit: list[Callable[[], None]] = []
        """Called on the loop after each COMMIT; must be quick."""
        self.commit_ns = 0
        """How long the last COMMIT took, with the checkpoint's signature."""
        self.batches = 0
        self.records = 0
        self._sign = sign
        self._key_text = key_text
        self._version = version
        self._box_digest = box_digest
        self._room_for_payments = room_for_payments
        self._make_room = make_room
        self._queue: deque[Job[Any]] = deque()
        self._queued_requests = 0
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger-commit")
        self._closing = False
        self._since_snapshot = 0
        self._newest = (desk.tip.epoch, desk.tip.size)
        self._wall_ahead_ns = desk.time.wall_ahead_ns

    # -- what others ask of it --------------------

    @property
    def mode(self) -> Mode:
        """The line's mode as the journal says."""
        return self.desk.book.mode

    @property
    def mode_reason(self) -> str:
        """Why, as the journal says."""
        return self.desk.book.mode_reason

    @property
    def epoch(self) -> int:
        """The running epoch, 0 before the first link."""
        return self.desk.tip.epoch

    @property
    def checkpoint_key(self) -> str:
        """The key that signs this epoch's checkpoints now, as its one-line text."""
        return self._key_text

    @property
    def durability(self) -> Durability:
        """Where a record must be before it is told, as the journal says."""
        return self.desk.book.durability

    @property
    def queued_requests(self) -> int:
        """How many requests wait for a batch."""
        return self._queued_requests

    def closed_for_payments(self) -> Undecided | None:
        """Why no new payment is decided now, or None; repeats are answered all the same."""
        book = self.desk.book
        problem: OperatingError | None = None
        if isinstance(self.failure, OperatingError):
            problem = self.failure
        elif book.epoch == 0:
            problem = NotEnrolled("the box has no epoch yet")
        elif book.mode in _MODE_ERRORS:
            problem = _MODE_ERRORS[book.mode](f"the box is {book.mode}: {book.mode_reason}")
        elif self.coverage.closed:
            problem = self.coverage.why_closed()
        elif not self._room_for_payments():
            problem = StorageFull("the disk has no room for new payments")
        else:
            problem = self.unwell()
        return None if problem is None else _undecided(problem)

    async def decide(
        self, client: str, requests: Sequence[Request], funding: Funding, *, linked: bool = False
    ) -> list[Outcome]:
        """Decide requests of one client, in order; linked: all or nothing. Raises OperatingError.

        What is on disk but not where the durability wants it is `outcome_unknown`.
        """
        outcomes = await self._decided_and_written(client, requests, funding, linked=linked)
        return await self.coverage.told(outcomes, self._newest)

    async def covered(self, *places: tuple[int, int]) -> None:
        """Return once records up to these (epoch, size), or all that a reader can have seen, may be told.
        Raises OutcomeUnknown."""
        for epoch, size in places or (self._newest,):
            await self.coverage.reach(epoch=epoch, size=size)

    async def _decided_and_written(
        self, client: str, requests: Sequence[Request], funding: Funding, *, linked: bool
    ) -> list[Outcome]:
        """More than fit into one batch are written in several: one that is not written says so for its own
        requests alone, because the others may be on disk."""
        wanted = [normalised(client, request) for request in requests]
        if self._queued_requests + len(wanted) > QUEUE_REQUESTS_MAX:
            raise Overloaded(f"{self._queued_requests} requests wait already")
        if linked:
            group = Requests(client, wanted, funding, linked=True)
            return await self._submit(Job(group, weight=len(wanted), identities=group.identities))
        parts = [
            Requests(client, wanted[start : start + BATCH_REQUESTS_MAX], funding, linked=False)
            for start in range(0, len(wanted), BATCH_REQUESTS_MAX)
        ]
        if len(parts) == 1:
            return await self._submit(Job(parts[0], weight=len(wanted), identities=parts[0].identities))
        jobs = [
            self._submit(Job(part, weight=len(part.requests), identities=part.identities)) for part in parts
        ]
        outcomes: list[Outcome] = []
        for part, answer in zip(parts, await asyncio.gather(*jobs, return_exceptions=True), strict=True):
            if isinstance(answer, OperatingError):
                outcomes += [_undecided(answer)] * len(part.requests)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                outcomes += answer
        return outcomes

    def write_link(self, batch: Batch, *, note: str, epoch: int) -> None:
        """Begin the epoch of this hub-signed link: link, key and boot are its first records. For
        `commit_now` on a pen without an epoch (`ledger.start.begin_epoch`)."""
        batch.begin_epoch(epoch)
        batch.note_and_write(Link(**batch.head(), note=note))
        batch.note_and_write(KeyIntroduced(**batch.head(), key=self._key_text))
        self.write_boot(batch)

    def write_boot(self, batch: Batch) -> None:
        """The record of this start of the process."""
        self.desk.store.put_meta(MACHINE_BOOT, self.desk.clock.boot_id())
        digest = batch.book.site_digest
        batch.note_and_write(
            Boot(
                **batch.head(),
                boot=self.desk.boot,
                version=self._version,
                box_digest=self._box_digest,
                site_digest=digest,
            )
        )

    def go_on(self, batch: Batch) -> None:
        """The first records of a start in an epoch that has begun."""
        self.write_boot(batch)
        if self.desk.time.doubted_ns:
            self._wall_ahead_ns = self.desk.clock.wall_ns() - self.desk.time.now_ns()
            _note_clock(batch, self._wall_ahead_ns, doubted_ns=self.desk.time.doubted_ns)

    async def apply_directives(self, directives: Directives) -> None:
        """Journal a verified package of directives, each applied, returned or refused, and keep the log's
        new end."""

        def run(batch: Batch) -> None:
            store = self.desk.store
            for digest, bundle in directives.sites.items():
                kept = Bundle(bundle.site.version, digest, bundle.note, bundle.body)
                store.put_site(kept, in_force=_in_force(batch.book))
                keep_lists(store, batch.book, bundle.lists)
            for body in directives.bodies:
                stamp = batch.stamp()
                batch.write(
                    apply_directive(batch.book, stamp, body, awaited=self.awaited, sites=_sites(directives))
                )
            if directives.sites:
                drop_lists(store, batch.book, in_force=_in_force(batch.book))
            seqs = range(directives.start, directives.start + len(directives.bodies))
            frontier = directives.frontier
            end = DirectivesEnd(
                directives.incarnation,
                frontier.size,
                frontier.root(),
                directives.checkpoint,
                frontier.to_bytes(),
            )
            store.put_directives(
                [Entry(*row) for row in zip(seqs, directives.leaves, directives.bodies, strict=True)], end
            )

        await self._submit(Job(run))

    async def keep_cosignature(self, *, epoch: int, size: int, note: str) -> None:
        """Store the hub's word that it holds so much of this epoch."""

        def run(batch: Batch) -> None:
            self.desk.store.put_cosignature(epoch=epoch, size=size, note=note)
            batch.touched = True

        await self._submit(Job(run))

    async def keep_revoked(self, notes: Sequence[str]) -> None:
        """Store the hub's words that revoke keys of this box."""

        def run(batch: Batch) -> None:
            for note in notes:
                self.desk.store.keys.put_revoked(note)
            batch.touched = True

        await self._submit(Job(run))

    async def keep_other(self, end: LogEnd, records: Sequence[bytes]) -> None:
        """Store what these records of another history decided, and that it is known up to `end`."""

        def run(batch: Batch) -> None:
            self.desk.store.others.keep(end, records)
            batch.touched = True

        await self._submit(Job(run))

    async def keep_mirror_note(self, *, epoch: int, note: str) -> None:
        """Store the mirror's cosigned note: what it covers may be told after a restart without the mirror."""

        def run(batch: Batch) -> None:
            self.desk.store.put_meta(mirror_note_key(epoch), note)
            batch.touched = True

        await self._submit(Job(run))

    async def change_mode(self, mode: Mode, reason: str) -> None:
        """Journal a change of the line; nothing happens when the mode is that already."""

        def run(batch: Batch) -> None:
            previous = batch.book.mode
            if previous is not mode:
                batch.note_and_write(ModeChanged(**batch.head(), mode=mode, previous=previous, reason=reason))

        await self._submit(Job(run))

    async def change_durability(self, durability: Durability, reason: str) -> None:
        """Journal where records must be from here on before they are told."""

        def run(batch: Batch) -> None:
            previous = batch.book.durability
            if previous is not durability:
                batch.note_and_write(
                    DurabilityChanged(**batch.head(), durability=durability, previous=previous, reason=reason)
                )

        await self._submit(Job(run))

    async def close_window(
        self, *, business_date: str, closed_by: str, window: int = 0
    ) -> WindowClosed | NotClosed:
        """Close this window (0: the open one); its positions are in the record, and the next one is open.
        Raises OutcomeUnknown when it is closed, but may not be told yet."""
        run = windows.order(window=window, business_date=business_date, closed_by=closed_by)
        closed = await self._submit(Job(run))
        if isinstance(closed, WindowClosed):
            await self.covered((closed.epoch, closed.seq + 1))
        return closed

    async def return_site(self, *, left: str, reason: str) -> bool:
        """Decide by the settings again that were in force before those of this digest, and journal why;
        whether there are any to return to, and those are the ones in force."""

        def run(batch: Batch) -> bool:
            book, before = batch.book, batch.book.standing.before
            bundle = self.desk.store.site(before) if before and book.site_digest == left else None
            if bundle is None:
                return False
            site = decode_site(bundle.bundle)
            if hold_lists(self.desk.store, book, site):
                return False
            book.use_site(site, held_to=book.own_site)
            batch.note_and_write(
                SiteReturned(
                    **batch.head(),
                    version=book.site_version,
                    left_digest=left,
                    digest=before,
                    reason=reason,
                    counted=measures_of(book.site, book.own_site),
                )
            )
            return True

        return await self._submit(Job(run))

    async def acknowledge(
        self,
        *,
        client: str,
        by: str,
        up_to: int,
        apart: Collection[int] = (),
        settled: Collection[int] = (),
        whole: bool = False,
    ) -> Noted:
        """Journal that a client has taken note of late words (`ledger.acknowledging`); nothing is written
        where that is so already. Raises OutcomeUnknown when it is, but may not be told yet."""
        run = acknowledgement(client=client, by=by, up_to=up_to, apart=apart, settled=settled, whole=whole)
        noted = await self._submit(Job(run, alone=True))
        await self.covered()
        return noted

    async def operator(self, *, operator: str, action: str, detail: str) -> None:
        """Journal what a person ordered."""

        def run(batch: Batch) -> None:
            batch.note_and_write(Operator(**batch.head(), operator=operator, action=action, detail=detail))

        await self._submit(Job(run))

    async def change_key(self, statement: Callable[[str, int, int], str], *, key: str, sign: Sign) -> KeyNote:
        """Journal that another checkpoint key takes over, which signs from this COMMIT on; statement makes
        the note of both keys from the key that ends, epoch and seq. Raises what keeps it from the disk; the
        old key then goes on."""

        def run(batch: Batch) -> KeyNote:
            if len(self.desk.store.keys.notes(batch.epoch)) >= KEY_CHANGES_MAX:
                raise OperatingError(
                    f"epoch {batch.epoch} has had {KEY_CHANGES_MAX} keys",
                    hint="Have a new epoch ordered at the hub: it begins with the new key.",
                )
            one = KeyNote(batch.size, statement(self._key_text, batch.epoch, batch.size))
            batch.note_and_write(KeyIntroduced(**batch.head(), key=key, note=one.note))
            self.desk.store.keys.put(batch.epoch, one)
            batch.signer = (key, sign)
            return one

        return await self._submit(Job(run, alone=True))

    async def work(self, run: Callable[[Batch], T]) -> T:
        """Write a piece of the box's own work, in a batch for itself."""
        return await self._submit(Job(run, alone=True))

    async def tick(self) -> None:
        """Expire holds whose time is up, close windows whose cut-off has passed, and note a step of the wall
        clock; called about once a second."""
        desk = self.desk
        at_ns = desk.time.now_ns()
        if desk.book.epoch == 0:
            return
        if due(desk.book.ledger, at_ns=at_ns):
            await self._submit(Job(_expire))
        if self.windows.is_due(desk.book, wall_ns=desk.clock.wall_ns()):
            await self._submit(Job(self.windows.close_due))
        ahead_ns = desk.clock.wall_ns() - at_ns
        if abs(ahead_ns - self._wall_ahead_ns) > CLOCK_STEP_NS:
            self._wall_ahead_ns = ahead_ns
            await self._submit(Job(lambda batch: _note_clock(batch, ahead_ns)))

    # -- the task --------------------

    async def run(self) -> None:
        """Write batches until `close()`, or until nothing is certain any more (`failure` says why)."""
        while self.failure is None:
            while self._queue and self.failure is None:
                await self._commit(self._take())
            if self._closing or self.failure is not None:
                break
            self._wake.clear()
            await self._wake.wait()
        for job in self._queue:
            job.fail(self.failure or Overloaded("the box is stopping"))
        self._queue.clear()
        self._thread.shutdown()

    def close(self) -> None:
        """Take no more work; `run` ends when what waits is written."""
        self._closing = True
        self._wake.set()

    def give_up(self, why: OperatingError) -> None:
        """Write nothing more: `run` ends after the COMMIT under way, and whoever waits hears why."""
        if self.failure is None:
            self.failure = why
        self._wake.set()

    async def _submit(self, job: Job[T]) -> T:
        if self.failure is not None:
            raise self.failure
        if self._closing:
            raise Overloaded("the box is stopping")
        self._queue.append(job)
        self._queued_requests += job.weight
        self._wake.set()
        return await job.future

    def _take(self) -> list[Job[Any]]:
        jobs: list[Job[Any]] = []
        weight = 0
        while self._queue and weight < BATCH_REQUESTS_MAX:
            if self._queue[0].alone and jobs:
                break
            job = self._queue.popleft()
            jobs.append(job)
            weight += job.weight
            if job.alone:
                break
        self._queued_requests -= weight
        return jobs

    async def _commit(self, jobs: list[Job[Any]]) -> None:
        """Decide jobs as one batch and write it; after an error before COMMIT, each one singly."""
        try:
            batch = self._decided(jobs)
        except (BrokenInvariant, ReplayError) as broken:
            self._stop(BrokenInvariant(str(broken)), jobs)
            return
        except OperatingError as error:
            if error.next is Next.STOP:
                self._stop(error, jobs)
            else:
                await self._singly(jobs, error)
            return
        except Exception as error:  # noqa: BLE001 - whatever a job raises, it alone is left without an answer
            await self._singly(jobs, error)
            return
        try:
            loop = asyncio.get_running_loop()
            self._newest = (batch.epoch, batch.size)  # from here on a reader may see it
            began_ns = self.desk.clock.mono_ns()
            tip = await loop.run_in_executor(self._thread, self._seal, batch)
            self.commit_ns = self.desk.clock.mono_ns() - began_ns
        except (OperatingError, BrokenInvariant) as error:
            self._stop(error, jobs)
            return
        self._merge(batch, tip)
        for job in jobs:
            job.tell()
        for told in self.on_commit:
            told()
        if self._since_snapshot >= SNAPSHOT_RECORDS and not self._closing:
            self._since_snapshot = 0
            self._queue.append(Job(take_snapshot, alone=True))
            self._queued_requests += 1

    async def _singly(self, jobs: list[Job[Any]], error: Exception) -> None:
        if isinstance(error, StorageFull):
            self._make_room()
        if len(jobs) == 1:
            jobs[0].fail(error)
            return
        for job in jobs:
            if self.failure is None:
                await self._commit([job])
            else:
                job.fail(self.failure)

    def commit_now(self, run: Callable[[Batch], T]) -> T:
        """Write one batch at once, for a start or a stop, when `run` is not there yet or any more. Raises
        what goes wrong."""
        self.desk.store.begin()
        try:
            batch = Batch(self.desk)  # its time is that of what it decides, not of waiting for a lock
            answer = run(batch)
            self._append(batch)
        except BaseException:
            self.desk.store.rollback()
            raise
        self._merge(batch, self._seal(batch))
        self._newest = (self.desk.tip.epoch, self.desk.tip.size)
        return answer

    def _decided(self, jobs: list[Job[Any]]) -> Batch:
        """Run the jobs on a new layer and insert their rows; whatever goes wrong leaves no trace."""
        self.desk.store.begin()
        try:
            batch = Batch(self.desk)
            identities = [identity for job in jobs for identity in job.identities]
            if identities:
                batch.known = self.desk.store.find(identities)
            for job in jobs:
                if not job.alone:  # a snapshot is of the book as it is on disk
                    self.windows.close_due(batch)
                job.work(batch)
            self._append(batch)
        except BaseException:
            self.desk.store.rollback()
            raise
        return batch

    def _append(self, batch: Batch) -> None:
        batch.frontier = batch.frontier.copy()
        new_tiles = tiles.extend(batch.frontier, [row.leaf for row in batch.rows], epoch=batch.epoch)
        self.desk.store.append(batch.rows, new_tiles)

    def _seal(self, batch: Batch) -> Tip:
        """Sign the checkpoint and COMMIT. The note leaves this process only after that (DESIGN §3.7)."""
        store, tip = self.desk.store, self.desk.tip
        if not batch.rows:
            if batch.touched:
                store.commit()
            else:
                store.rollback()
            return tip
        root = batch.frontier.root()
        sign = self._sign if batch.signer is None else batch.signer[1]
        checkpoint = sign(batch.epoch, batch.size, root)
        store.seal(
            epoch=batch.epoch,
            old_size=batch.old_size,
            size=batch.size,
            root=root,
            checkpoint=checkpoint,
            boot=self.desk.boot,
        )
        return Tip(batch.epoch, batch.last_leaf, batch.frontier, checkpoint)

    def _merge(self, batch: Batch, tip: Tip) -> None:
        batch.book.merge()
        self.desk.tip = tip
        if batch.signer is not None:
            self._key_text, self._sign = batch.signer
        self.batches += 1
        self.records += len(batch.rows)
        self._since_snapshot += len(batch.rows)

    def _stop(self, error: OperatingError | BrokenInvariant, jobs: list[Job[Any]]) -> None:
        self.failure = error
        for job in jobs:
            job.fail(error)


_MODE_ERRORS: Final[dict[Mode, type[OperatingError]]] = {
    Mode.BEHIND: Behind,
    Mode.FORKED: Forked,
    Mode.FENCED: Fenced,
}


def _undecided(problem: OperatingError) -> Undecided:
    return Undecided(problem.code, str(problem), problem.hint)


def _sites(directives: Directives) -> Sites:
    def site(digest: str) -> Site | str | None:
        bundle = directives.sites.get(digest)
        return directives.unusable.get(digest) if bundle is None else bundle.site

    return site


def _in_force(book: Book) -> set[str]:
    """The digests of the settings that a start, or a return, needs."""
    return {book.site_digest, book.standing.before, book.standing.held_to} - {""}


def take_snapshot(batch: Batch) -> None:
    """Keep an image of the book as it stands before this record, whose digest is the record. A batch of
    its own."""
    image = snapshot.dump(batch.desk.book)
    record = Snapshot(**batch.head(), digest=snapshot.digest(image))
    batch.note_and_write(record)
    position = position_of(epoch=record.epoch, seq=record.seq)
    batch.desk.store.put_snapshot(Image(position, record.digest, image))


def _expire(batch: Batch) -> None:
    for hold in due(batch.book.ledger, at_ns=batch.now_ns)[:EXPIRE_MAX]:
        record = expiry(batch.book, batch.stamp(), hold.id)
        if record is not None:
            batch.write(record)


def _note_clock(batch: Batch, ahead_ns: int, *, doubted_ns: int = 0) -> None:
    batch.note_and_write(ClockStep(**batch.head(), wall_ahead_ns=ahead_ns, doubted_ns=doubted_ns))
