"""The hub's HTTP side: the exchange with the boxes, and what operators on this machine read.

Every message is verified, decided and committed in one worker thread, because SQLite has one writer and SM2
releases the interpreter; the loop only carries bytes. A reply leaves after the COMMIT, a cosignature is made
after it too. Leaves out what the messages mean (`hub.receive`, `hub.beats`) and the command line.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple, TypeVar

import msgspec
import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from sqlalchemy import Connection, Engine, func, select

from edgegw.core.messages import (
    EXCHANGE_PATH,
    MESSAGE_BYTES_MAX,
    SESSION_BYTES,
    SITE_PATH,
    Beat,
    Beaten,
    Direction,
    Envelope,
    ExchangeError,
    Open,
    Opened,
    open_envelope,
    read_envelope,
    seal_envelope,
)
from edgegw.hub import schema
from edgegw.hub.beats import keep_cosignature, take_beat
from edgegw.hub.books import violations
from edgegw.hub.keyring import Keyring
from edgegw.hub.receive import open_session, register_boxes
from edgegw.hub.site import Sites, bundle_of, lost_site

ENVELOPE_BYTES_MAX: Final = MESSAGE_BYTES_MAX + 4096
"""Above the message itself: names, session and signature."""

Result = TypeVar("Result")
_log = structlog.get_logger("edgegw.hub")


class NotPinned(Exception):
    """The envelope names a bank or box whose key is not pinned here."""


class BoxStatus(NamedTuple):
    """A box as an operator sees it."""

    box: str
    epoch: int
    state: str
    reason: str
    records: int
    waiting: int
    beat_at_ns: int
    taking_back: bool
    """The hub has lost something of it and grants it nothing before all is back."""


class Metrics:
    """What the hub counts; names begin with `edgegw_hub_`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.messages = Counter(
            "edgegw_hub_messages",
            "Authentic messages by verdict.",
            ["type", "verdict"],
            registry=self.registry,
        )
        self.refused = Counter(
            "edgegw_hub_messages_refused",
            "Messages that were not used, by cause.",
            ["cause"],
            registry=self.registry,
        )
        self.pushes = Counter(
            "edgegw_hub_pushes", "Packages of records by verdict.", ["verdict"], registry=self.registry
        )
        self.pulled = Counter(
            "edgegw_hub_records_pulled",
            "Records given back to boxes that had lost them.",
            ["box"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "edgegw_hub_message_seconds",
            "From body to signed reply, COMMIT included.",
            registry=self.registry,
        )
        self.records = Gauge(
            "edgegw_hub_records", "Records held of the live epoch.", ["box"], registry=self.registry
        )
        self.waiting = Gauge(
            "edgegw_hub_records_waiting",
            "Records that the box still has to send.",
            ["box"],
            registry=self.registry,
        )
        self.beat_age = Gauge(
            "edgegw_hub_beat_age_seconds", "Since the box was last heard.", ["box"], registry=self.registry
        )
        self.suspense = Gauge(
            "edgegw_hub_suspense_items", "Items that wait for their owner.", registry=self.registry
        )


class Hub:
    """The hub's parts: its database, its keys, and the one thread that uses them."""

    def __init__(
        self, engine: Engine, keyring: Keyring, *, clock_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._engine = engine
        self._keyring = keyring
        self._clock_ns = clock_ns
        self._sites = Sites()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hub-sql")
        self.metrics = Metrics()
        with engine.begin() as connection:
            register_boxes(connection, keyring)

    async def run(self, work: Callable[[Connection], Result]) -> Result:
        """Run `work` in the worker thread, in one SQL transaction that is committed when it returns."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._transact, work)

    def _transact(self, work: Callable[[Connection], Result]) -> Result:
        with self._engine.begin() as connection:
            return work(connection)

    async def exchange(self, data: bytes) -> bytes:
        """The signed reply to a signed message; raises ExchangeError or NotPinned with nothing used."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._exchange, data)

    def close(self) -> None:
        """Let the running message finish, then let go of the database."""
        self._worker.shutdown()
        self._engine.dispose()

    def _exchange(self, data: bytes) -> bytes:
        with self.metrics.seconds.time():
            envelope = read_envelope(data)
            key = self._keyring.boxes.get(envelope.box)
            if key is None or envelope.bank != self._keyring.bank:
                raise NotPinned(f"no key is pinned for {envelope.bank}/{envelope.box}")
            message = open_envelope(key.verify, envelope, direction=Direction.TO_HUB)
            reply = self._reply(envelope, message)
            return seal_envelope(
                self._keyring.key.sign,
                reply,
                direction=Direction.TO_BOX,
                bank=envelope.bank,
                box=envelope.box,
                session=envelope.session,
                counter=envelope.counter,
            )

    def _reply(self, envelope: Envelope, message: object) -> Opened | Beaten:
        if isinstance(message, Open):
            return self._open(envelope, message)
        if isinstance(message, Beat):
            return self._beat(envelope, message)
        raise ExchangeError("a box sends Open or Beat")

    def _open(self, envelope: Envelope, message: Open) -> Opened:
        if (message.bank, message.box, 0) != (envelope.bank, envelope.box, envelope.counter):
            raise ExchangeError("an opening has counter 0 and names its envelope's bank and box")
        candidate = os.urandom(SESSION_BYTES)
        opened = self._transact(lambda c: open_session(c, self._keyring, message, candidate=candidate))
        self.metrics.messages.labels("open", opened.verdict.value).inc()
        _log.info(
            "opened", box=message.box, boot=message.boot, verdict=opened.verdict.value, reason=opened.reason
        )
        return opened

    def _beat(self, envelope: Envelope, beat: Beat) -> Beaten:
        taken = self._transact(
            lambda c: take_beat(
                c,
                self._keyring,
                self._sites,
                beat,
                box=envelope.box,
                session=envelope.session,
                counter=envelope.counter,
                now_ns=self._clock_ns(),
            )
        )
        beaten = taken.beaten
        self.metrics.messages.labels("beat", beaten.verdict.value).inc()
        if beaten.push is not None:
            self.metrics.pushes.labels(beaten.push.value).inc()
        if beaten.pulled is not None:
            self.metrics.pulled.labels(envelope.box).inc(len(beaten.pulled.records))
        if beat.handed_back is not None:
            held = beaten.incarnation
            _log.warning("handed_back", box=envelope.box, held=None if held is None else held.size)
        cosign = taken.cosign
        if cosign is None:
            return beaten
        note = self._keyring.key.cosign(cosign, time_s=self._clock_ns() // 1_000_000_000)
        self._transact(
            lambda c: keep_cosignature(c, box=envelope.box, epoch=taken.epoch, size=cosign.size, note=note)
        )
        return msgspec.structs.replace(beaten, cosignature=note)


HUB: Final = web.AppKey("hub", Hub)


def make_app(hub: Hub) -> web.Application:
    """The application; bind it to loopback or behind the bank's own TLS."""
    app = web.Application(client_max_size=ENVELOPE_BYTES_MAX)
    app[HUB] = hub
    app.router.add_post(EXCHANGE_PATH, _exchange)
    app.router.add_get(SITE_PATH + "{digest:[0-9a-f]{64}}", _site)
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/metrics", _metrics)
    app.router.add_get("/v1/status", _status)
    app.router.add_get("/v1/accounts/{account_id}", _account)
    app.cleanup_ctx.append(_closing)
    return app


async def _closing(app: web.Application) -> AsyncIterator[None]:
    yield
    app[HUB].close()


def _problem(status: int, code: str, message: str, hint: str) -> web.Response:
    body = {"type": "about:blank", "status": status, "code": code, "message": message, "hint": hint}
    return web.Response(
        status=status, body=msgspec.json.encode(body), content_type="application/problem+json"
    )


async def _exchange(request: web.Request) -> web.Response:
    hub = request.app[HUB]
    data = await request.read()
    try:
        reply = await hub.exchange(data)
    except ExchangeError as problem:
        hub.metrics.refused.labels("malformed").inc()
        _log.warning("message_refused", remote=request.remote, problem=str(problem))
        return _problem(
            400, "malformed_message", str(problem), "Both sides must run versions that know each other."
        )
    except NotPinned as problem:
        hub.metrics.refused.labels("not_pinned").inc()
        _log.warning("message_refused", remote=request.remote, problem=str(problem))
        return _problem(403, "box_not_pinned", str(problem), "Pin the box's key in the hub's settings.")
    response = web.Response(body=reply, content_type="application/msgpack")
    response.enable_compression()
    return response


async def _site(request: web.Request) -> web.Response:
    digest = request.match_info["digest"]
    body = await request.app[HUB].run(lambda c: bundle_of(c, digest))
    if body is None:
        return _problem(404, "site_not_found", f"no bundle {digest}", "Use the digest of a site directive.")
    response = web.Response(body=body, content_type="application/json")
    response.enable_compression()
    return response


async def _healthz(request: web.Request) -> web.Response:
    await request.app[HUB].run(lambda c: c.execute(select(1)).scalar_one())
    return web.Response(text="ok\n")


def _refuse_from_afar(request: web.Request) -> web.Response | None:
    try:
        is_near = ipaddress.ip_address(request.remote or "").is_loopback
    except ValueError:
        is_near = False
    if is_near:
        return None
    return _problem(
        403, "operators_only", "this is for operators on the hub's own machine", "Use the hub's console."
    )


async def _metrics(request: web.Request) -> web.Response:
    refusal = _refuse_from_afar(request)
    if refusal is not None:
        return refusal
    hub = request.app[HUB]
    boxes, items = await hub.run(lambda c: (_boxes(c), _count(c)))
    now_ns = time.time_ns()
    for box in boxes:
        hub.metrics.records.labels(box.box).set(box.records)
        hub.metrics.waiting.labels(box.box).set(box.waiting)
        if box.beat_at_ns:
            hub.metrics.beat_age.labels(box.box).set((now_ns - box.beat_at_ns) / 1e9)
    hub.metrics.suspense.set(items)
    return web.Response(body=generate_latest(hub.metrics.registry), content_type="text/plain")


def _boxes(connection: Connection) -> list[BoxStatus]:
    box, head = schema.box.c, schema.journal_head.c
    rows = connection.execute(
        select(
            box.box,
            box.epoch,
            box.state,
            box.reason,
            func.coalesce(head.size, 0),
            box.waiting,
            box.beat_at_ns,
            box.taking_back,
        )
        .outerjoin(schema.journal_head, (head.box == box.box) & (head.epoch == box.epoch))
        .order_by(box.box)
    )
    return [BoxStatus(*row) for row in rows]


def _count(connection: Connection) -> int:
    return connection.execute(select(func.count()).select_from(schema.suspense_item)).scalar_one()


async def _status(request: web.Request) -> web.Response:
    refusal = _refuse_from_afar(request)
    if refusal is not None:
        return refusal
    hub = request.app[HUB]
    boxes, items, wrong, lost = await hub.run(lambda c: (_boxes(c), _count(c), violations(c), lost_site(c)))
    body = {
        "boxes": [box._asdict() for box in boxes],
        "suspense_items": items,
        "books": "sound" if not wrong else "broken",
        "violations": wrong,
        "lost_site": None if lost is None else {"version": lost.version, "digest": lost.digest},
    }
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


async def _account(request: web.Request) -> web.Response:
    refusal = _refuse_from_afar(request)
    if refusal is not None:
        return refusal
    account_id = request.match_info["account_id"]
    found = await request.app[HUB].run(lambda c: _account_of(c, account_id))
    if found is None:
        return _problem(
            404, "account_not_found", f"no account {account_id}", "The published site lists the accounts."
        )
    return web.Response(body=msgspec.json.encode(found), content_type="application/json")


def _account_of(connection: Connection, account_id: str) -> dict[str, object] | None:
    row = (
        connection.execute(select(schema.account).where(schema.account.c.account_id == account_id))
        .mappings()
        .one_or_none()
    )
    if row is None:
        return None
    held = schema.outstanding.c
    outstanding = connection.execute(
        select(held.box, held.epoch, held.amount_minor, held.in_doubt).where(held.account_id == account_id)
    ).mappings()
    return {**row, "outstanding": [dict(one) for one in outstanding]}
