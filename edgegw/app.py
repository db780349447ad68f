"""The composition root of a box: from its settings to a running process, and back to a quiet disk.

Order of a start: the ledger's lock, its past, its book, the pen, the line, the ways in. Order of a stop: no
new payments, answers to what is in flight, the line, the pen, a last snapshot, the anchor. A start needs no
line. A ledger that is behind or forked is served read-only: repeats and reads are answered, nothing is
decided, nothing is written. Leaves out everything that the parts do, and the hub (`edgegw.hub`).
"""

from __future__ import annotations

import asyncio
import os
import resource
import secrets
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import structlog

from edgegw import __version__
from edgegw.access import keys, sm2
from edgegw.access.keys import SigningKey, VerifyingKey
from edgegw.config.box import Box, BoxSettings
from edgegw.config.options import SettingsError
from edgegw.core import journal
from edgegw.core.book import Book
from edgegw.core.decide import Funding
from edgegw.core.journal import Checkpoint
from edgegw.core.records import Mode, Refusal, Request, Transfer, WindowClosed, decode_record
from edgegw.errors import Behind, BrokenInvariant, Forked, LedgerCorrupt, Next, OperatingError
from edgegw.ledger.boot import Opened, open_ledger
from edgegw.ledger.outcomes import Budget, Conflict, Decision, Outcome, Undecided
from edgegw.ledger.requests import normalised
from edgegw.ledger.reserve import Reserve
from edgegw.ledger.rows import column_fault
from edgegw.ledger.scrub import scrub
from edgegw.ledger.start import Own, load, start
from edgegw.ledger.store import Store
from edgegw.ledger.writer import Pen, take_snapshot
from edgegw.observe.metrics import Metrics
from edgegw.payments import protocols, rules
from edgegw.payments.history import History
from edgegw.payments.protocols import Server
from edgegw.payments.service import Gateway
from edgegw.payments.service import Line as GatewayLine
from edgegw.payments.service import Pen as GatewayPen
from edgegw.payments.vault import SecretFileError
from edgegw.uplink.line import Line
from edgegw.uplink.ports import Head, HeldDirectives, Identity, LineSettings

RUNNING_NAME: Final = "running.json"
"""Beside the ledger while a box runs: its process and where it listens."""
DESCRIPTORS_MAX: Final = 65_536
TICK_S: Final = 1.0
LINE_PAUSE_S: Final = 2.0
"""Before the line is taken up again when the world, or a fault of ours, has ended it."""

SCRUB_FIRST_S: Final = 1.0
"""How long the ways in wait for all records to be read again; what is left is read beside the payments."""
SCRUB_REST: Final = 9
"""Then so many times as long as a portion took is left to the payments."""
SCRUB_PAUSE_S: Final = 3600.0

_log = structlog.get_logger("edgegw.app")


class RunningBox(msgspec.Struct, frozen=True):
    """What a running box says of itself in `running.json`."""

    pid: int
    addresses: dict[str, tuple[str, ...]]
    """Protocol to where it listens, host:port."""
    line: str = ""
    """The line's mode and its reason; the journal has them too, once the box has an epoch."""
    hub_address: str = ""
    """The hub address in use; "" while there is none."""
    hubs_said: dict[str, str] = {}
    """What each hub address that fails said last."""


# --- keys ---------------------------------------------------------------------------------------------------


class Keys(NamedTuple):
    """The box's own two keys and the hub's pinned one."""

    device: SigningKey
    checkpoint: SigningKey
    hub: VerifyingKey


def load_keys(settings: BoxSettings) -> Keys:
    """The keys that the settings name; the checkpoint key is made if there is none. Raises KeyFileError."""
    name = f"{settings.bank}/{settings.box}"
    device = keys.load_signing_key(Path(settings.device_key_file), name)
    path = Path(settings.checkpoint_key_file)
    if not path.exists():
        made = keys.create_signing_key(path, f"{name}/checkpoint")
        keys.store_verifying_key(path.with_suffix(".pub"), made.public)
    return Keys(device, keys.load_signing_key(path, f"{name}/checkpoint"), hub_key(settings))


def hub_key(settings: BoxSettings) -> VerifyingKey:
    """The hub's pinned key; raises KeyFileError or SettingsError."""
    if settings.hub.key_file:
        return keys.load_verifying_key(Path(settings.hub.key_file))
    try:
        return VerifyingKey.parse(settings.hub.key)
    except ValueError as problem:
        raise SettingsError("hub.key", [str(problem)]) from None


# --- the ledger for the line --------------------------------------------------------------------------------


class LedgerSource:
    """`uplink.ports.Journal` over a reader of its own; called from one worker thread at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def heads(self) -> list[Head]:
        """One for each epoch, oldest first."""
        return [Head(head.epoch, head.size, head.root, head.checkpoint) for head in self._store.heads()]

    def records(
        self, *, epoch: int, start: int, limit: int, bytes_max: int
    ) -> list[tuple[int, bytes, bytes]]:
        """Consecutive (seq, leaf, body)."""
        return list(self._store.records(epoch=epoch, start=start, limit=limit, bytes_max=bytes_max))

    def column_fault(self, *, epoch: int, start: int, count: int) -> tuple[int, str] | None:
        """The first record whose columns are not those of its bytes."""
        for seq, row in enumerate(self._store.rows(epoch=epoch, start=start, limit=count), start):
            fault = column_fault(row)
            if fault:
                return seq, fault
        return None

    def node(self, *, epoch: int, size: int) -> journal.Node:
        """The complete subtrees of the first `size` leaves."""
        return self._store.node(epoch, size)

    def cosignature(self, epoch: int) -> str:
        """The hub's newest cosigned note; "" for none."""
        kept = self._store.cosignature(epoch)
        return "" if kept is None else kept[1]

    def directives(self) -> HeldDirectives:
        """How far the directives are applied."""
        ends = self._store.directives_ends()
        if not ends:
            return HeldDirectives(0, journal.Frontier(), journal.FIRST_PREVIOUS, "")
        end = ends[-1]
        last = self._store.directives(incarnation=end.incarnation, start=end.size - 1, limit=1, bytes_max=1)
        if not last:
            raise Forked(f"directive {end.incarnation}/{end.size - 1} is missing")
        return HeldDirectives(
            end.incarnation, journal.Frontier.from_bytes(end.frontier), last[0].leaf, end.checkpoint
        )


# --- a ledger that may not be written -----------------------------------------------------------------------


class ClosedPen:
    """Answers repeats from the ledger and decides nothing: for a ledger that is behind or forked."""

    def __init__(self, store: Store, trouble: Behind | Forked) -> None:
        self._store = store
        self._trouble = trouble

    async def decide(
        self,
        client: str,
        requests: Sequence[Request],
        funding: Funding,  # noqa: ARG002 - nothing is funded here
        *,
        linked: bool = False,  # noqa: ARG002 - a repeat is answered one by one
    ) -> list[Outcome]:
        """The first answer of each identity that has one, else why nothing is decided."""
        wanted = [normalised(client, request) for request in requests]
        known = self._store.find([(client, request.id) for request in wanted])
        return [self._outcome(request, known.get((client, request.id))) for request in wanted]

    def _outcome(self, request: Request, body: bytes | None) -> Outcome:
        record = None if body is None else decode_record(body)
        if body is None or not isinstance(record, Transfer | Refusal):
            return self.closed_for_payments()
        field = record.request.different_field(request)
        return Conflict(field, record.request) if field else Decision(record, body, repeat=True)

    async def close_window(self, *, business_date: str, closed_by: str) -> WindowClosed:  # noqa: ARG002
        """Never: nothing is written."""
        raise self._trouble

    async def covered(self, *places: tuple[int, int]) -> None:
        """At once: it tells what was told before, and writes nothing."""

    def closed_for_payments(self) -> Undecided:
        """Always, and why."""
        return Undecided(self._trouble.code, str(self._trouble), self._trouble.hint)


class NoLine:
    """The line of a box that must not speak for its ledger."""

    up = False

    async def ask(self, *, account_id: str, currency: str, amount_minor: int) -> str:  # noqa: ARG002
        """Nobody is asked."""
        return "down"


# --- a running box ------------------------------------------------------------------------------------------


class MachineClock:
    """The machine's clocks."""

    def wall_ns(self) -> int:
        """Nanoseconds since 1970."""
        return time.time_ns()

    def mono_ns(self) -> int:
        """Nanoseconds of the monotonic clock."""
        return time.monotonic_ns()


async def run_box(box: Box) -> None:
    """Run a box until SIGTERM or SIGINT.

    Raises what must end the process otherwise: OperatingError, BrokenInvariant, KeyFileError, SettingsError.
    """
    sm2.self_test()
    _raise_descriptor_limit()
    settings = box.settings
    held = load_keys(settings)
    stop = _stop_signal()
    boot = secrets.token_hex(8)
    opened = open_ledger(
        Path(settings.data_dir),
        anchor_directory=Path(settings.anchor_dir),
        bank=settings.bank,
        box=settings.box,
        boot=boot,
        create=True,
    )
    try:
        own = _own(box, held.checkpoint, boot=boot)
        if opened.trouble is not None and opened.store.heads():
            await _serve_closed(box, own, opened, opened.trouble, stop)
        else:
            await _serve(box, own, held, opened, stop)
    finally:
        (Path(settings.data_dir) / RUNNING_NAME).unlink(missing_ok=True)
        opened.close()
    _log.info("stopped", box=settings.box)


def _raise_descriptor_limit() -> None:
    """Take what the system allows: the usual first 1,024 are fewer than the connections of the ways in, and
    without one the line and the ledger's readers fail, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _stop_signal() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(
        signal.SIGHUP,
        lambda: _log.warning(
            "hangup_ignored", hint="Box settings are read at the start; site settings come from the hub."
        ),
    )
    return stop


def _own(box: Box, key: SigningKey, *, boot: str) -> Own:
    bank, name = box.settings.bank, box.settings.box

    def sign(epoch: int, size: int, root: bytes) -> str:
        origin = journal.journal_origin(bank=bank, box=name, epoch=epoch)
        return key.seal(Checkpoint(origin, size, root).body())

    def open_note(epoch: int, note: str) -> Checkpoint:
        checkpoint = key.public.open(note)
        if checkpoint.origin != journal.journal_origin(bank=bank, box=name, epoch=epoch):
            raise ValueError(f"it is signed for {checkpoint.origin}")
        return checkpoint

    return Own(
        bank=bank,
        box=name,
        boot=boot,
        sign=sign,
        open_note=open_note,
        key_text=key.public.text(),
        version=__version__,
        box_digest=box.digest,
    )


async def _serve(box: Box, own: Own, held: Keys, opened: Opened, stop: asyncio.Event) -> None:
    """Serve and write until the stop, or until nothing is certain any more."""
    settings, store = box.settings, opened.store
    if opened.trouble is not None:
        # An empty ledger after a past: the anchor keeps it from clearing until the hub gives a later epoch.
        _log.warning("ledger_is_empty", problem=str(opened.trouble), hint=opened.trouble.hint)
        opened.anchor.renew(store, boot=own.boot)
        opened.anchor.start()
    reserve = Reserve(
        Path(settings.data_dir),
        reserve_bytes=settings.disk.reserve_bytes,
        payments_bytes_min=settings.disk.payments_bytes_min,
    )
    reserve.state()
    pen = start(
        store,
        own,
        clock=MachineClock(),
        rules=[rule.refuses for rule in rules.discover()],
        budget=Budget(burst=settings.refusals.burst_count, per_second=settings.refusals.per_second_count),
        room_for_payments=reserve.room_for_payments,
        make_room=reserve.make_room,
    )
    source = store.reader()
    line = Line(
        identity=Identity(
            settings.bank, settings.box, own.boot, held.device, held.hub, epoch_key=own.key_text
        ),
        settings=_line_settings(settings),
        source=LedgerSource(source),
        pen=pen,
    )
    pen.awaited = line.awaited
    pen.on_commit.append(line.head_moved)
    pen.on_commit.append(lambda: _note_anchor(opened, pen))
    reads = store.reader()
    gateway, metrics = _gateway(reads, pen.desk.book, pen, line)
    _watch(metrics, gateway, pen, line, reserve)
    pen.on_commit.append(_measure(metrics, pen))
    writing = asyncio.create_task(pen.run())
    servers: dict[str, Server] = {}
    announcement = Announcement(settings, servers)
    ticking = asyncio.create_task(_tick(pen, opened, metrics, lambda: announcement.write(line)))
    talking = asyncio.create_task(_keep_line(line))
    again = store.reader()
    read_once = asyncio.Event()
    scrubbing = asyncio.create_task(_keep_reading(again, line, read_once))
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(SCRUB_FIRST_S):
                await read_once.wait()
        read_once.set()
        await _open_ways(gateway, box.protocols, servers)
        announcement.write(line)
        await _first_of(asyncio.create_task(stop.wait()), writing, ticking, talking, scrubbing)
    finally:
        await _stop(gateway, servers, (talking, ticking, scrubbing))
        pen.close()
        await writing
        if pen.failure is None and pen.desk.tip.epoch and pen.mode.clears:
            pen.commit_now(take_snapshot)
        _note_anchor(opened, pen)
        # The line's last read goes on in its thread after the line was cancelled.
        await asyncio.get_running_loop().shutdown_default_executor()
        # The writer's connection is closed last: then SQLite moves the WAL into the file.
        source.close()
        again.close()
        reads.close()
    if pen.failure is not None:
        raise pen.failure


async def _serve_closed(
    box: Box, own: Own, opened: Opened, trouble: Behind | Forked, stop: asyncio.Event
) -> None:
    """Serve reads and repeats until the stop."""
    _log.error("read_only", code=trouble.code, problem=str(trouble), hint=trouble.hint)
    book, _, _ = load(opened.store, bank=own.bank, box=own.box, open_note=own.open_note)
    book.mode = Mode.BEHIND if isinstance(trouble, Behind) else Mode.FORKED
    book.mode_reason = str(trouble)
    reads = opened.store.reader()
    gateway, _ = _gateway(reads, book, ClosedPen(opened.store, trouble), NoLine())
    servers: dict[str, Server] = {}
    try:
        await _open_ways(gateway, box.protocols, servers)
        Announcement(box.settings, servers).write(None)
        await stop.wait()
    finally:
        await _stop(gateway, servers, ())
        reads.close()


def _line_settings(settings: BoxSettings) -> LineSettings:
    return LineSettings(
        addresses=tuple((address.priority, address.url) for address in settings.hub.addresses),
        **msgspec.structs.asdict(settings.line),
    )


def _gateway(reads: Store, book: Book, pen: GatewayPen, line: GatewayLine) -> tuple[Gateway, Metrics]:
    metrics = Metrics()
    history = History(reads, epoch=lambda: book.epoch)
    gateway = Gateway(pen=pen, book=book, line=line, history=history, meter=metrics, version=__version__)
    return gateway, metrics


async def _open_ways(
    gateway: Gateway, wanted: Mapping[str, msgspec.Struct], servers: dict[str, Server]
) -> None:
    """Open every protocol whose table is in the settings; raises OperatingError or SettingsError."""
    known = protocols.discover()
    for name, options in wanted.items():
        try:
            servers[name] = await known[name].start(gateway, options)
        except OSError as problem:
            raise OperatingError(
                f"[{name}] cannot listen: {problem.strerror or problem}",
                hint=f"Give [{name}] another address or port, or stop the process that has this one.",
            ) from None
        except SecretFileError as problem:
            raise SettingsError(f"[{name}]", [str(problem)]) from None


class Announcement:
    """Says beside the ledger what runs here; written when it changes, and gone when the box has stopped."""

    def __init__(self, settings: BoxSettings, servers: Mapping[str, Server]) -> None:
        self._path = Path(settings.data_dir) / RUNNING_NAME
        self._box = settings.box
        self._servers = servers
        self._said: RunningBox | None = None

    def write(self, line: Line | None) -> None:
        """Say it again if something changed; a disk that takes no file is said in the log alone."""
        running = RunningBox(
            os.getpid(),
            {name: server.addresses for name, server in self._servers.items()},
            "" if line is None else f"{line.status.mode}: {line.status.reason}".rstrip(": "),
            "" if line is None else line.status.address,
            {} if line is None else dict(line.status.said),
        )
        if running == self._said:
            return
        if self._said is None:
            _log.info("open", box=self._box, addresses=running.addresses, ledger=str(self._path.parent))
        self._said = running
        fresh = self._path.with_suffix(".new")
        try:
            fresh.write_bytes(msgspec.json.encode(running))
            fresh.replace(self._path)
        except OSError as problem:
            _log.warning("not_announced", path=str(self._path), problem=str(problem))


async def _stop(gateway: Gateway, servers: Mapping[str, Server], tasks: Sequence[asyncio.Task[None]]) -> None:
    """No new payments; answers to what is in flight, while the line still carries; then the line."""
    gateway.stop_admitting()
    await asyncio.gather(*(server.stop() for server in servers.values()))
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError, OperatingError, BrokenInvariant):
            await task
    gateway.history.close()


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


async def _tick(pen: Pen, opened: Opened, metrics: Metrics, announce: Callable[[], None]) -> None:
    """Once a second: holds whose time is up, the clock, what is wrong with the anchor, what is told
    outside."""
    modes = tuple(mode.value for mode in Mode)
    said: OSError | None = None
    while True:
        metrics.mode(pen.mode.value, modes)
        failure = opened.anchor.failure
        if failure is not None and said is None:
            _log.error("anchor_not_written", problem=str(failure), hint="Check the medium of anchor_dir.")
        said = failure
        await _carry_on("tick", pen.tick())
        await asyncio.sleep(TICK_S)
        announce()


async def _keep_line(line: Line) -> None:
    """Run the line for ever; payments go on without it."""
    while True:
        await _carry_on("line", line.run())
        await asyncio.sleep(LINE_PAUSE_S)


async def _keep_reading(store: Store, line: Line, read_once: asyncio.Event) -> None:
    """Read every record again, at the start, when the line is back and each SCRUB_PAUSE_S; one that was
    changed by hand ends the clearing. Slowly once `read_once` is set, which the first pass does."""
    while True:
        portions = scrub(store)
        began_s = time.monotonic()
        try:
            while await asyncio.to_thread(next, portions, None) is not None:
                if read_once.is_set():
                    await asyncio.sleep(SCRUB_REST * (time.monotonic() - began_s))
                began_s = time.monotonic()
        except LedgerCorrupt as problem:
            _log.error("record_edited", problem=str(problem), hint=Forked.default_hint)
            await line.distrust(str(problem))
        read_once.set()
        await _next_reading(line)


async def _next_reading(line: Line) -> None:
    """Until SCRUB_PAUSE_S are over, or the line is back: what an outage has seen is found at its end."""
    began_s, was_up = time.monotonic(), line.up
    while time.monotonic() - began_s < SCRUB_PAUSE_S:
        await asyncio.sleep(TICK_S)
        if line.up and not was_up:
            return
        was_up = line.up


async def _carry_on(what: str, work: Awaitable[None]) -> None:
    """Log what goes wrong in a part that the box can do without; raises what must end the process."""
    try:
        await work
    except OperatingError as problem:
        if problem.next is Next.STOP:
            raise
        _log.warning(f"{what}_interrupted", code=problem.code, problem=str(problem), hint=problem.hint)
    except BrokenInvariant:
        raise
    except Exception:  # noqa: BLE001 - the edge: logged with its trace, the box lives on
        _log.exception(f"{what}_failed")


def _measure(metrics: Metrics, pen: Pen) -> Callable[[], None]:
    """What is to be called after each COMMIT."""
    seen = pen.records

    def measure() -> None:
        nonlocal seen
        metrics.committed(records=pen.records - seen, seconds=pen.commit_ns / 1e9)
        seen = pen.records

    return measure


def _watch(metrics: Metrics, gateway: Gateway, pen: Pen, line: Line, reserve: Reserve) -> None:
    """Fill the gauges; each is read at a scrape."""
    book, desk, waiting = pen.desk.book, pen.desk, line.status
    gauges: dict[str, Callable[[], float]] = {
        "edgegw_queue_depth": lambda: pen.queued_requests,
        "edgegw_line_up": lambda: int(line.up),
        "edgegw_clears": lambda: int(gateway.ready),
        "edgegw_offline_seconds": lambda: (
            (desk.time.now_ns() - book.offline_since_ns) / 1e9 if book.offline_since_ns else 0
        ),
        "edgegw_epoch": lambda: desk.tip.epoch,
        "edgegw_journal_records": lambda: desk.tip.size,
        "edgegw_cosigned_records": lambda: max(0, desk.tip.size - waiting.waiting),
        "edgegw_waiting_records": lambda: waiting.waiting,
        "edgegw_stand_ins_waiting": lambda: len(list(book.stand_ins.items())),
        "edgegw_window": lambda: book.window,
        "edgegw_site_version": lambda: book.site_version,
        "edgegw_disk_free_bytes": lambda: reserve.free_bytes,
    }
    for name, read in gauges.items():
        metrics.watch(name, read)
