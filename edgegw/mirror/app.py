"""The mirror's HTTP side: the exchange with its boxes, and what operators on this machine read.

Each box has one thread, in which its messages are verified, judged and committed, and a bounded queue; one
box's slow disk holds up no other. A reply leaves after the COMMIT. Leaves out what the messages mean
(`mirror.keeper`) and the command line.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import msgspec
import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from edgegw.access.keys import SigningKey, VerifyingKey
from edgegw.core.messages import (
    EXCHANGE_PATH,
    MESSAGE_BYTES_MAX,
    SESSION_BYTES,
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
from edgegw.errors import BrokenInvariant, Next, OperatingError
from edgegw.mirror.keeper import BoxStatus, Keeper

ENVELOPE_BYTES_MAX: Final = MESSAGE_BYTES_MAX + 4096
"""Above the message itself: names, session and signature."""
WAITING_MAX: Final = 4
"""Messages of one box under way at once; a box sends one after the other, so more are an attacker's."""

T = TypeVar("T")
_log = structlog.get_logger("edgegw.mirror")


class NotPinned(Exception):
    """The envelope names a bank or box whose key is not pinned here."""


class Busy(Exception):
    """More messages of this box wait than it sends by itself."""


class Metrics:
    """What the mirror counts; names begin with `edgegw_mirror_`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.messages = Counter(
            "edgegw_mirror_messages",
            "Authentic messages by verdict.",
            ["box", "verdict"],
            registry=self.registry,
        )
        self.refused = Counter(
            "edgegw_mirror_messages_refused",
            "Messages that were not used, by cause.",
            ["cause"],
            registry=self.registry,
        )
        self.pushes = Counter(
            "edgegw_mirror_pushes",
            "Packages of records by verdict.",
            ["box", "verdict"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "edgegw_mirror_message_seconds",
            "From body to signed reply, COMMIT included.",
            registry=self.registry,
        )
        self.records = Gauge(
            "edgegw_mirror_records", "Records held of the newest epoch.", ["box"], registry=self.registry
        )
        self.waiting = Gauge(
            "edgegw_mirror_records_waiting",
            "Records that the box still has to send.",
            ["box"],
            registry=self.registry,
        )
        self.forked = Gauge(
            "edgegw_mirror_forked_epochs",
            "Epochs of which two histories were seen.",
            ["box"],
            registry=self.registry,
        )


class _Place:
    """A box's keeper and its thread."""

    def __init__(self, keeper: Keeper, key: VerifyingKey, box: str) -> None:
        self.keeper = keeper
        self.key = key
        self.waiting = 0
        self.worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"mirror-{box}")


class Mirror:
    """The mirror's parts: its key and, for each box, a ledger file and the one thread that uses it."""

    def __init__(
        self,
        key: SigningKey,
        keepers: Mapping[str, Keeper],
        boxes: Mapping[str, VerifyingKey],
        *,
        bank: str,
        token: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.metrics = Metrics()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Gets the error that must end the process."""
        self._key = key
        self._bank = bank
        self._token = token
        self._places = {box: _Place(keeper, boxes[box], box) for box, keeper in keepers.items()}

    async def exchange(self, data: bytes) -> bytes:
        """The signed reply to a signed message; raises ExchangeError, NotPinned, Busy or OperatingError."""
        envelope = read_envelope(data)
        place = self._places.get(envelope.box)
        if place is None or envelope.bank != self._bank:
            raise NotPinned(f"no key is pinned for {envelope.bank}/{envelope.box}")
        if place.waiting >= WAITING_MAX:
            raise Busy(f"{place.waiting} messages of {envelope.box} wait already")
        return await self._in_thread(place, lambda: self._answer(place, envelope))

    async def statuses(self) -> list[BoxStatus]:
        """How each box is, by name."""
        return [
            await self._in_thread(place, place.keeper.status) for _, place in sorted(self._places.items())
        ]

    def close(self) -> None:
        """Let the running messages finish, then let go of the files."""
        for place in self._places.values():
            place.worker.shutdown()
            place.keeper.close()

    async def _in_thread(self, place: _Place, work: Callable[[], T]) -> T:
        place.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(place.worker, work)
        except (OperatingError, BrokenInvariant) as problem:
            stops = isinstance(problem, BrokenInvariant) or problem.next is Next.STOP
            if stops and not self.failed.done():
                self.failed.set_exception(problem)
            raise
        finally:
            place.waiting -= 1

    def _answer(self, place: _Place, envelope: Envelope) -> bytes:
        with self.metrics.seconds.time():
            message = open_envelope(place.key.verify, envelope, direction=Direction.TO_HUB)
            reply = self._reply(place.keeper, envelope, message)
            self.metrics.messages.labels(envelope.box, reply.verdict.value).inc()
            return seal_envelope(
                self._key.sign,
                reply,
                direction=Direction.TO_BOX,
                bank=envelope.bank,
                box=envelope.box,
                session=envelope.session,
                counter=envelope.counter,
            )

    def _reply(self, keeper: Keeper, envelope: Envelope, message: object) -> Opened | Beaten:
        if isinstance(message, Open):
            if (message.bank, message.box, 0) != (envelope.bank, envelope.box, envelope.counter):
                raise ExchangeError("an opening has counter 0 and names its envelope's bank and box")
            opened = keeper.opened(message, candidate=self._token(SESSION_BYTES))
            verdict, reason = opened.verdict.value, opened.reason
            _log.info("opened", box=message.box, boot=message.boot, verdict=verdict, reason=reason)
            return opened
        if isinstance(message, Beat):
            beaten = keeper.beaten(message, session=envelope.session, counter=envelope.counter)
            if beaten.push is not None:
                self.metrics.pushes.labels(envelope.box, beaten.push.value).inc()
            return beaten
        raise ExchangeError("a box sends Open or Beat")


MIRROR: Final = web.AppKey("mirror", Mirror)


def make_app(mirror: Mirror) -> web.Application:
    """The application; bind it to the branch's own network."""
    app = web.Application(client_max_size=ENVELOPE_BYTES_MAX)
    app[MIRROR] = mirror
    app.router.add_post(EXCHANGE_PATH, _exchange)
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/metrics", _metrics)
    app.router.add_get("/v1/status", _status)
    app.cleanup_ctx.append(_closing)
    return app


async def _closing(app: web.Application) -> AsyncIterator[None]:
    yield
    app[MIRROR].close()


def _problem(status: int, code: str, message: str, hint: str) -> web.Response:
    body = {"type": "about:blank", "status": status, "code": code, "message": message, "hint": hint}
    return web.Response(
        status=status, body=msgspec.json.encode(body), content_type="application/problem+json"
    )


async def _exchange(request: web.Request) -> web.Response:
    mirror = request.app[MIRROR]
    data = await request.read()
    try:
        reply = await mirror.exchange(data)
    except ExchangeError as problem:
        return _refused(
            request, 400, "malformed_message", problem, "Both sides must run versions that know each other."
        )
    except NotPinned as problem:
        return _refused(
            request, 403, "box_not_pinned", problem, "Pin the box's key in the mirror's settings."
        )
    except Busy as problem:
        return _refused(request, 429, "busy", problem, "A box sends one message after the other.")
    except (OperatingError, BrokenInvariant) as problem:
        status = 507 if problem.code == "storage_full" else 503
        return _refused(
            request, status, problem.code, problem, getattr(problem, "hint", "Read the mirror's log.")
        )
    return web.Response(body=reply, content_type="application/msgpack")


def _refused(request: web.Request, status: int, code: str, problem: Exception, hint: str) -> web.Response:
    request.app[MIRROR].metrics.refused.labels(code).inc()
    _log.warning("message_refused", remote=request.remote, code=code, problem=str(problem), hint=hint)
    return _problem(status, code, str(problem), hint)


async def _healthz(request: web.Request) -> web.Response:
    await request.app[MIRROR].statuses()
    return web.Response(text="ok\n")


def _refuse_from_afar(request: web.Request) -> web.Response | None:
    try:
        is_near = ipaddress.ip_address(request.remote or "").is_loopback
    except ValueError:
        is_near = False
    if is_near:
        return None
    return _problem(
        403, "operators_only", "this is for operators on the mirror's own machine", "Ask from there."
    )


async def _metrics(request: web.Request) -> web.Response:
    refusal = _refuse_from_afar(request)
    if refusal is not None:
        return refusal
    mirror = request.app[MIRROR]
    for box in await mirror.statuses():
        mirror.metrics.records.labels(box.box).set(box.records)
        mirror.metrics.waiting.labels(box.box).set(box.waiting)
        mirror.metrics.forked.labels(box.box).set(len(box.forked))
    return web.Response(body=generate_latest(mirror.metrics.registry), content_type="text/plain")


async def _status(request: web.Request) -> web.Response:
    refusal = _refuse_from_afar(request)
    if refusal is not None:
        return refusal
    body = {"boxes": await request.app[MIRROR].statuses()}
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")
