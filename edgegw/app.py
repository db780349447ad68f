"""The composition root of a box: from its settings to a running process, and back to a quiet disk.

Order of a start: the ledger's lock, its past, its book, the pen, the line, the ways in. Order of a stop: no
new payments, answers to what is in flight, the line, the pen, a last snapshot, the anchor. A start needs no
line. A ledger that is behind or forked is served closed: repeats and reads are answered, nothing is decided,
the line brings back what it lacks. A new epoch ends pen and line, closed or not, and begins the next ones;
the ways in stay open over it. Leaves out everything that the parts do, and the hub (`edgegw.hub`).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import structlog

from edgegw import __version__
from edgegw.access.key_files import KeyFileError
from edgegw.access.keys import VerifyingKey
from edgegw.access.tls import TlsError
from edgegw.box_health import BoxHealth
from edgegw.card_vault import CardVault
from edgegw.config.box import Box, BoxSettings
from edgegw.config.options import SettingsError
from edgegw.config.site import site_faults
from edgegw.core.book import Book
from edgegw.core.messages import open_link
from edgegw.core.records import Mode
from edgegw.discovery.finder import discovery_of
from edgegw.errors import Behind, BrokenInvariant, Forked, NewEpoch, Next, OperatingError
from edgegw.gauges import gauges_of
from edgegw.ledger.batch import Batch
from edgegw.ledger.boot import Opened, open_ledger
from edgegw.ledger.closed import ClosedPen
from edgegw.ledger.outcomes import Budget
from edgegw.ledger.reserve import Reserve
from edgegw.ledger.space import KINDS, Space
from edgegw.ledger.start import Own, Ways, begin_epoch, prepare, read_book, take_over
from edgegw.ledger.store import Store
from edgegw.ledger.writer import Pen, take_snapshot
from edgegw.ledger_source import LedgerSource
from edgegw.liveness import Liveness
from edgegw.machine import MachineClock, raise_descriptor_limit, settle_memory, stop_signal
from edgegw.mirrored import Mirrored, found_mirrors, mirror_line
from edgegw.observe.metrics import Metrics
from edgegw.own import Keys, load_keys, own_of, replaced, tell_of_places
from edgegw.payments import protocols, rules
from edgegw.payments.backlog import Backlog
from edgegw.payments.history import History
from edgegw.payments.protocols import Server
from edgegw.payments.service import Gateway
from edgegw.payments.service import Pen as GatewayPen
from edgegw.payments.site_health import SiteHealth, WatchingMeter
from edgegw.payments.vault import SecretFileError
from edgegw.payments.webhook_post import Postman
from edgegw.payments.webhooks import Webhooks
from edgegw.renewal import Renewal
from edgegw.replica.copier import Copier
from edgegw.rereading import keep_reading
from edgegw.retention import Retention
from edgegw.rotation import Rotation
from edgegw.running import RUNNING_NAME, Announcement, KeptWatch
from edgegw.update.told import Told
from edgegw.uplink.line import Line
from edgegw.uplink.ports import Identity, LineSettings
from edgegw.uplink.session import Sources

TICK_S: Final = 1.0
LINE_PAUSE_S: Final = 2.0
"""Before the line is taken up again when the world, or a fault of ours, has ended it."""

REREADING_FIRST_S: Final = 1.0
"""How long the ways in wait for all records to be read again; what is left is read beside the payments."""

SITE_HINT: Final = "The centre is told by the journal; publish mended settings, or roll back there."

_log = structlog.get_logger("edgegw.app")


# --- what the world sees ------------------------------------------------------------------------------------


class Front:
    """The ways in, the gateway service and the metrics of a box, from its start to its stop, over all its
    epochs."""

    def __init__(
        self,
        box: Box,
        store: Store,
        reserve: Reserve,
        copier: Copier,
        held: Keys,
        renewal: Renewal | None,
    ) -> None:
        self._held = held
        self._renewal = renewal
        self.life = Liveness()
        self.metrics = Metrics()
        ahead_s = None if renewal is None else lambda: float(renewal.status.clock_ahead_s)
        self.machine = BoxHealth(box.settings, clock_ahead_s=ahead_s or (lambda: None))
        self.metrics.machine.standings = lambda: self.machine.standings
        copier.why_paused, copier.may_drill = self.machine.why_no_copies, self.machine.may_work
        self.health = SiteHealth(**msgspec.structs.asdict(box.settings.site_health))
        self.watched = KeptWatch(Path(box.settings.data_dir))
        self.health.resume(self.watched.read())
        self._reads = store.reader()
        self.vault = CardVault(box.settings, held.keystore)
        self._reserve = reserve
        disk = box.settings.disk
        self._space = Space(Path(box.settings.data_dir), payments_bytes_min=disk.payments_bytes_min)
        self._copier = copier
        self._wanted = box.protocols
        self._line: Line | None = None
        self._mirrored: Mirrored | None = None
        self._gateway: Gateway | None = None
        self._servers: dict[str, Server] = {}
        certified = None if renewal is None else lambda: renewal.status
        self.discovery = discovery_of(box.settings)
        found, held_to = self.discovery, lambda: self.machine.held
        self._announcement = Announcement(box, self._servers, copier.told, certified, found, held_to)
        self._now_ns: Callable[[], int] = lambda: 0
        self.backlog: Backlog | None = None
        """Counts the notices that wait."""

    @property
    def gateway(self) -> Gateway:
        """The one gateway service; it is there once `show` was called."""
        if self._gateway is None:
            raise BrokenInvariant("there is no gateway before there is a pen")
        return self._gateway

    def show(
        self, pen: GatewayPen, book: Book, line: Line, mirrored: Mirrored, *, now_ns: Callable[[], int]
    ) -> None:
        """Decide, read and ask by these from now on; now_ns is the box's own time."""
        self._line, self._mirrored, self._now_ns = line, mirrored, now_ns
        line.may_fetch_ahead = self.machine.work_goes_on
        self.vault.use(book)
        if self._gateway is not None:
            self._gateway.use(pen, book, line)
            return
        history = History(self._reads, epoch=lambda: self.gateway.book.epoch)
        self._gateway = Gateway(
            pen=pen,
            book=book,
            line=line,
            history=history,
            meter=WatchingMeter(self.metrics, self.health),
            version=__version__,
        )
        self._gateway.replica = self._announcement.copy
        self._gateway.certificate = self._announcement.certificate
        self._gateway.keystore, self._gateway.token_files = self._held.keystore, self._held.tokens
        self._gateway.webhook = self._held.webhook
        self._gateway.cards = self.vault.cards
        self._copier.journal_size = lambda: self.gateway.book.seq + 1
        self._watch(self._gateway)

    async def open(self) -> None:
        """Open every way in that is in the settings and not open yet; raises OperatingError or
        SettingsError."""
        await _open_ways(self.gateway, self._wanted, self._servers)
        self._announcement.is_open = True
        self.announce()
        self.life.ready()

    def announce(self) -> None:
        """Say outside how the line is."""
        told = None if self._mirrored is None else self._mirrored.told()
        book = None if self._gateway is None else self._gateway.book
        self._announcement.write(self._line, told, book, self._now_ns())
        if book is not None:
            self.life.status(f"{book.mode}: {book.mode_reason}".rstrip(": "))

    async def stop(self) -> None:
        """No new payments; answers to what is in flight."""
        self.life.stopping()
        self.discovery.say({})
        if self._gateway is not None:
            self._gateway.stop_admitting()
        await asyncio.gather(*(server.stop() for server in self._servers.values()))
        self._servers.clear()

    async def close(self) -> None:
        """Stop, and end the reads."""
        await self.stop()
        if self._gateway is not None:
            self._gateway.history.close()
        self._reads.close()
        self.vault.close()

    def _watch(self, gateway: Gateway) -> None:
        """Fill the gauges; each is read at a scrape."""

        gauges = gauges_of(
            gateway,
            line=lambda: None if self._line is None else self._line.status,
            coverage=lambda: None if self._mirrored is None else self._mirrored.coverage,
            backlog=lambda: self.backlog,
            renewal=self._renewal,
            now_ns=lambda: self._now_ns(),  # noqa: PLW0108 - it changes
        )
        gauges["edgegw_disk_free_bytes"] = lambda: self._reserve.free_bytes
        gauges["edgegw_vault_open"] = lambda: int(self.vault.is_open)
        for name, read in (gauges | self._copier.gauges | self.discovery.gauges).items():
            self.metrics.watch(name, read)
        for kind in KINDS:
            costly = partial(self.machine.unless_shed, partial(self._space.bytes_of, kind))
            self.metrics.watch_disk(kind, costly)


# --- a running box ------------------------------------------------------------------------------------------


async def run_box(box: Box) -> None:
    """Run a box until SIGTERM or SIGINT.

    Raises what must end the process otherwise: OperatingError, BrokenInvariant, KeyFileError, SettingsError.
    """
    raise_descriptor_limit()
    settings = box.settings
    held = load_keys(settings)
    tell_of_places(held.keystore)
    stop = stop_signal()
    boot = secrets.token_hex(8)
    opened = open_ledger(
        Path(settings.data_dir),
        anchor_directory=Path(settings.anchor_dir),
        bank=settings.bank,
        box=settings.box,
        boot=boot,
        create=True,
        checkpoints=not settings.replica.targets,
    )
    copier = Copier(
        settings.replica,
        ledger=opened.store.path,
        settings=Path(box.source),
        payments_bytes_min=settings.disk.payments_bytes_min,
    )
    in_order = False
    try:
        own = own_of(box, held, opened.store, boot=boot)
        copier.allowed = opened.trouble is None
        copier.begin()
        await _live(box, own, held, opened, copier, stop)
        in_order = True
    finally:
        (Path(settings.data_dir) / RUNNING_NAME).unlink(missing_ok=True)
        # Before the lock goes: a litestream that is still at work would meet the next box's.
        opened.store.close()
        await copier.end(in_order=in_order)
        opened.close()
    _log.info("stopped", box=settings.box)


async def _live(box: Box, own: Own, held: Keys, opened: Opened, copier: Copier, stop: asyncio.Event) -> None:
    """Serve until the stop, closed or open, from one epoch to the next."""
    settings = box.settings
    reserve = Reserve(
        Path(settings.data_dir),
        reserve_bytes=settings.disk.reserve_bytes,
        payments_bytes_min=settings.disk.payments_bytes_min,
    )
    reserve.state()
    ways = Ways(
        clock=MachineClock(),
        rules=[rule.refuses for rule in rules.discover()],
        budget=Budget(burst=settings.refusals.burst_count, per_second=settings.refusals.per_second_count),
        room_for_payments=reserve.room_for_payments,
        make_room=reserve.make_room,
    )
    renewal = None if held.enrolled is None else Renewal(held.enrolled)
    # It goes on over all epochs: without a certificate there is no line that could give the next one.
    renewing = [] if renewal is None else [asyncio.create_task(_keep("renewal", renewal.run))]
    front = Front(box, opened.store, reserve, copier, held, renewal)
    renewing.append(asyncio.create_task(_keep("discovery", front.discovery.run)))
    renewing.append(asyncio.create_task(_keep("health", front.machine.run)))
    trouble = opened.trouble or replaced(own, held, opened.store)
    begun: Pen | None = None
    try:
        while True:
            copier.allowed = trouble is None
            try:
                if trouble is not None:
                    await _serve_closed(box, front, own, held, opened, trouble, stop)
                else:
                    pen = begun or await _started(box, own, held, opened, ways, front)
                    await _serve(box, front, own, held, opened, pen, stop)
                return
            except NewEpoch as given:
                begun, trouble = _begin(box, own, held, opened, ways, given.note), None
            except Behind as found:
                opened.disown()
                trouble = found
    finally:
        await _end(renewing)
        await front.close()


async def _started(box: Box, own: Own, held: Keys, opened: Opened, ways: Ways, front: Front) -> Pen:
    """The pen of this start, its boot journalled; raises Behind where the hub or the mirror, if it answers at
    once, holds more of this ledger."""
    pen = prepare(opened.store, own, ways)
    if pen.epoch:
        looks = [_look(opened, pen, _identity(box, own, held), _line_settings(box.settings))]
        way = mirror_line(box.settings, found_mirrors(box.settings, front.discovery))
        if held.mirror is not None and way.addresses:
            looks.append(_look(opened, pen, held.mirror.speaking(_identity(box, own, held)), way))
        for found in await asyncio.gather(*looks, return_exceptions=True):
            if found is not None:
                raise found
    take_over(pen)
    settle_memory()
    return pen


async def _look(opened: Opened, pen: Pen, identity: Identity, settings: LineSettings) -> None:
    source = opened.store.reader()
    try:
        await Line(identity=identity, settings=settings, source=LedgerSource(source), pen=pen).look()
    finally:
        source.close()


def _begin(box: Box, own: Own, held: Keys, opened: Opened, ways: Ways, note: str) -> Pen:
    """The pen of the epoch that the hub gives by this link: on disk in one COMMIT with the ledger's new
    lineage. A crash before it leaves the ledger as it was, and the hub gives the same link again."""
    link = open_link(note, held.hub)
    epoch = link.epoch
    own = own_of(box, held, opened.store, boot=own.boot, key=held.checkpoint.named(link.key))
    token = opened.anchor.offer(opened.store)
    pen = begin_epoch(opened.store, own, ways, note=note, epoch=epoch, lineage=token)
    held.checkpoint.settle(link.key)
    opened.anchor.confirm(token)
    opened.anchor.start()
    _note_anchor(opened, pen)
    _log.info("epoch_begun", epoch=epoch)
    return pen


def _hub_says(held: Keys, hub_s: int) -> None:
    """Let a machine whose clock is behind follow its hub, whose word each session brings."""
    if held.enrolled is None:
        return
    try:
        held.enrolled.time.told(hub_s)
    except KeyFileError as problem:
        _log.warning("hub_time_not_kept", problem=str(problem), hint=problem.hint)


async def _serve(
    box: Box, front: Front, own: Own, held: Keys, opened: Opened, pen: Pen, stop: asyncio.Event
) -> None:
    """Serve and write until the stop, or until nothing is certain any more. Raises NewEpoch, and Behind where
    the hub found it."""
    source, who = opened.store.reader(), _identity(box, own, held)
    line = Line(
        identity=who,
        settings=_line_settings(box.settings),
        source=LedgerSource(source),
        pen=pen,
        site_faults=partial(site_faults, bank=own.bank),
        sources=Sources(hub_says=partial(_hub_says, held)),
    )
    mirrored = Mirrored(
        box.settings, opened.store, who, peer=held.mirror, line=line, finder=front.discovery, pen=pen
    )
    notices, aged_hours = (opened.store.reader(), opened.store.reader()), box.settings.notices.aged_hours
    webhooks = _webhooks(box, held, notices[0], pen, line, front.metrics)
    front.backlog = backlog = Backlog(notices[1], now_ns=pen.desk.time.now_ns, aged_hours=aged_hours)
    rotation = Rotation(pen, held.checkpoint, bank=own.bank, box=own.box)
    pen.awaited, pen.unwell = line.awaited, front.machine.why_no_payments
    pen.on_commit += [webhooks.wake, line.head_moved, partial(_note_anchor, opened, pen)]
    pen.on_commit.append(_measure(front.metrics, pen))
    front.show(pen, pen.desk.book, line, mirrored, now_ns=pen.desk.time.now_ns)
    front.machine.pen, writing = pen, asyncio.create_task(pen.run())
    again, read_once = opened.store.reader(), asyncio.Event()
    tasks = (
        asyncio.create_task(_keep("line", line.run)),
        asyncio.create_task(_tick(pen, opened, front)),
        asyncio.create_task(front.life.watch(partial(pen.work, _nothing))),
        asyncio.create_task(keep_reading(again, line, read_once, front.machine.may_work)),
        asyncio.create_task(_keep("mirror", mirrored.talk)),
        asyncio.create_task(mirrored.hold()),
        asyncio.create_task(_keep("retention", _retention(box, front, held, opened, pen, mirrored).run)),
        asyncio.create_task(_keep("webhooks", webhooks.run)),
        asyncio.create_task(_keep("notices", backlog.run)),
        asyncio.create_task(_keep("rotation", rotation.run)),
    )
    goes_on = False
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(REREADING_FIRST_S):
                await read_once.wait()
        read_once.set()
        await front.open()
        await _first_of(asyncio.create_task(stop.wait()), writing, *tasks)
    except (NewEpoch, Behind) as end:
        goes_on = True
        pen.give_up(end)
        raise
    finally:
        if not goes_on:
            await front.stop()
        await _end(tasks)
        pen.close()
        await writing
        if pen.failure is None and pen.desk.tip.epoch and pen.mode.clears:
            pen.commit_now(take_snapshot)
        _note_anchor(opened, pen)
        # The writer's connection is closed last: then SQLite moves the WAL into the file.
        source.close()
        mirrored.close()
        again.close()
        webhooks.close()
        backlog.close()
        for reader in notices:
            reader.close()
    if pen.failure is not None:
        raise pen.failure


def _webhooks(box: Box, held: Keys, reader: Store, pen: Pen, line: Line, metrics: Metrics) -> Webhooks:
    settings = box.settings
    return Webhooks(
        bank=settings.bank,
        box=settings.box,
        store=reader,
        pen=pen,
        postman=Postman(held.webhook.sign, networks_barred=settings.notices.networks_barred),
        site=lambda: pen.desk.book.site,
        clears=lambda: pen.mode.clears,
        line_up=lambda: line.up,
        counted=lambda outcome: metrics.protocol_event(protocol="webhook", event=outcome),
        pause_seconds_max=settings.notices.retry_seconds_max,
    )


def _retention(box: Box, front: Front, held: Keys, opened: Opened, pen: Pen, mirrored: Mirrored) -> Retention:
    return Retention(
        box.settings,
        opened.store,
        pen,
        hub=held.hub,
        coverage=mirrored.coverage,
        anchored=lambda: opened.anchor.failure is None,
        may_work=front.machine.may_work,
    )


async def _serve_closed(
    box: Box,
    front: Front,
    own: Own,
    held: Keys,
    opened: Opened,
    trouble: Behind | Forked,
    stop: asyncio.Event,
) -> None:
    """Serve reads and repeats, and take back what is lacking, until the stop. Raises NewEpoch."""
    _log.error("read_only", code=trouble.code, problem=str(trouble), hint=trouble.hint)
    pen = ClosedPen(
        opened.store,
        trouble,
        bank=own.bank,
        box=own.box,
        hub_key=held.hub,
        parse_key=VerifyingKey.parse,
        before_taking=opened.disown,
    )
    source, who = opened.store.reader(), _identity(box, own, held)
    line = Line(
        identity=who,
        settings=_line_settings(box.settings),
        source=LedgerSource(source),
        pen=pen,
        keeper=pen,
        link_waits=lambda: mirrored.link_waits(),  # noqa: PLW0108 - it comes later
    )
    mirrored = Mirrored(
        box.settings, opened.store, who, peer=held.mirror, line=line, finder=front.discovery, keeper=pen
    )

    def show() -> None:
        book = read_book(opened.store, bank=own.bank, box=own.box, open_note=own.open_note)
        book.mode, book.mode_reason = pen.mode, pen.mode_reason
        pen.wants_site = book.site_digest if book.site is None else ""
        front.show(pen, book, line, mirrored, now_ns=lambda: book.at_ns)

    show()
    pen.on_complete += [show, line.head_moved]
    tasks = (
        asyncio.create_task(_keep("line", line.run)),
        asyncio.create_task(_tick_closed(pen, front)),
        asyncio.create_task(front.life.watch(partial(asyncio.sleep, 0))),
        asyncio.create_task(_keep("mirror", mirrored.talk)),
    )
    goes_on = False
    try:
        await front.open()
        await _first_of(asyncio.create_task(stop.wait()), *tasks)
    except NewEpoch:
        goes_on = True
        raise
    finally:
        if not goes_on:
            await front.stop()
        await _end(tasks)
        source.close()
        mirrored.close()


def _identity(box: Box, own: Own, held: Keys) -> Identity:
    settings = box.settings
    return Identity(
        settings.bank,
        settings.box,
        own.boot,
        held.device,
        held.hub,
        parse_key=VerifyingKey.parse,
        epoch_key=lambda: held.checkpoint.newest.public.text(),  # noqa: PLW0108 - it changes
        tls=held.tls,
        program=Told(Path(settings.update.state_dir), version=__version__),
    )


def _line_settings(settings: BoxSettings) -> LineSettings:
    return LineSettings(
        addresses=tuple((address.priority, address.url) for address in settings.hub.addresses),
        **msgspec.structs.asdict(settings.line),
    )


async def _open_ways(
    gateway: Gateway, wanted: Mapping[str, msgspec.Struct], servers: dict[str, Server]
) -> None:
    """Open every protocol whose table is in the settings; raises OperatingError or SettingsError."""
    known = protocols.discover()
    for name, options in wanted.items():
        if name in servers:
            continue
        try:
            servers[name] = await known[name].start(gateway, options)
        except OSError as problem:
            raise OperatingError(
                f"[{name}] cannot listen: {problem.strerror or problem}",
                hint=f"Give [{name}] another address or port, or stop the process that has this one.",
            ) from None
        except (SecretFileError, TlsError) as problem:
            raise SettingsError(f"[{name}]", [str(problem)]) from None


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError, OperatingError, BrokenInvariant):
            await task


async def _first_of(*tasks: asyncio.Task[object] | asyncio.Task[None]) -> None:
    """Wait until one of them ends; raises what it raised."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    tasks[0].cancel()
    for task in done:
        task.result()


def _note_anchor(opened: Opened, pen: Pen) -> None:
    tip = pen.desk.tip
    if tip.size:
        opened.anchor.note(epoch=tip.epoch, size=tip.size, root=tip.frontier.root())


async def _tick(pen: Pen, opened: Opened, front: Front) -> None:
    """Once a second: holds whose time is up, the clock, what is wrong with the anchor, what is told
    outside."""
    said: OSError | None = None
    while True:
        front.metrics.mode(pen.mode.value, _MODES)
        failure = opened.anchor.failure
        if failure is not None and said is None:
            _log.error("anchor_not_written", problem=str(failure), hint="Check the medium of anchor_dir.")
        said = failure
        await _carry_on("tick", pen.tick())
        await _carry_on("site_health", _watch_site(pen, front.health, front.watched))
        front.vault.look(pen.desk.book)
        await asyncio.sleep(TICK_S)
        front.announce()


async def _watch_site(pen: Pen, health: SiteHealth, watched: KeptWatch) -> None:
    """Leave settings of the site that are not well, for those before them."""
    digest = pen.desk.book.site_digest
    reason = health.second(digest)
    watched.keep(health.watch)
    if reason and await pen.return_site(left=digest, reason=reason):
        _log.error("site_returned", version=pen.desk.book.site_version, reason=reason, hint=SITE_HINT)


async def _tick_closed(pen: ClosedPen, front: Front) -> None:
    """Once a second: what is told outside."""
    while True:
        front.metrics.mode(pen.mode.value, _MODES)
        book = front.gateway.book
        book.mode, book.mode_reason = pen.mode, pen.mode_reason
        await asyncio.sleep(TICK_S)
        front.announce()


_MODES: Final = tuple(mode.value for mode in Mode)


async def _keep(what: str, run: Callable[[], Awaitable[None]]) -> None:
    """Run a way out, to the hub or the mirror, for ever; payments go on without it."""
    while True:
        await _carry_on(what, run())
        await asyncio.sleep(LINE_PAUSE_S)


async def _carry_on(what: str, work: Awaitable[None]) -> None:
    """Log what goes wrong in a part that the box can do without; raises what must end the process, or this
    pen."""
    try:
        await work
    except (NewEpoch, Behind):
        raise
    except OperatingError as problem:
        if problem.next is Next.STOP:
            raise
        _log.warning(f"{what}_interrupted", code=problem.code, problem=str(problem), hint=problem.hint)
    except BrokenInvariant:
        raise
    except Exception:  # noqa: BLE001 - the edge: logged with its trace, the box lives on
        _log.exception(f"{what}_failed")


def _nothing(_: Batch) -> None:
    """A round through the pen and its thread that writes nothing: both live."""


def _measure(metrics: Metrics, pen: Pen) -> Callable[[], None]:
    """What is to be called after each COMMIT."""
    seen = pen.records

    def measure() -> None:
        nonlocal seen
        if pen.records == seen:
            return
        metrics.committed(records=pen.records - seen, seconds=pen.commit_ns / 1e9)
        seen = pen.records

    return measure
