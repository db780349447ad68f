"""The mirror's HTTP side: the exchange with its boxes, and what operators on this machine read.

Each box has one thread, in which its messages are verified, judged and committed, and a bounded queue; one
box's slow disk holds up no other. A reply leaves after the COMMIT. Leaves out what the messages mean
(`mirror.keeper`) and the command line.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import structlog
from aiohttp import web

from edgegw.access.keys import SigningKey, VerifyingKey
from edgegw.core.messages import SESSION_BYTES, Beat, Beaten, Envelope, Open, Opened, read_envelope
from edgegw.errors import BrokenInvariant, Next, OperatingError
from edgegw.exchange_http import (
    Busy,
    Metrics,
    NotPinned,
    check_certificate,
    exchange_app,
    json_response,
    operators_only,
    signed_reply,
)
from edgegw.mirror.keeper import BoxStatus, Keeper

WAITING_MAX: Final = 4
"""Messages of one box under way at once; a box sends one after the other, so more are an attacker's."""

T = TypeVar("T")
_log = structlog.get_logger("edgegw.mirror")


class MirrorMetrics(Metrics):
    """What the mirror counts; names begin with `edgegw_mirror_`."""

    def __init__(self) -> None:
        super().__init__("edgegw_mirror")
        self.messages = self.counter("messages", "Authentic messages by verdict.", "box", "verdict")
        self.pushes = self.counter("pushes", "Packages of records by verdict.", "box", "verdict")
        self.records = self.gauge("records", "Records held of the newest epoch.", "box")
        self.forked = self.gauge("forked_epochs", "Epochs of which two histories were seen.", "box")


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
        self.metrics = MirrorMetrics()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Gets the error that must end the process."""
        self._key = key
        self._bank = bank
        self._token = token
        self._places = {box: _Place(keeper, boxes[box], box) for box, keeper in keepers.items()}

    async def exchange(self, data: bytes, certified: frozenset[str] | None = None) -> bytes:
        """The signed reply to a signed message; raises ExchangeError, NotPinned, OtherBox, Busy or
        OperatingError."""
        envelope = read_envelope(data)
        check_certificate(envelope, certified)
        place = self._places.get(envelope.box)
        if place is None or envelope.bank != self._bank:
            raise NotPinned(envelope)
        if place.waiting >= WAITING_MAX:
            raise Busy(f"{place.waiting} messages of {envelope.box} wait already")
        return await self._in_thread(place, lambda: self._answer(place, envelope))

    async def statuses(self) -> list[BoxStatus]:
        """How each box is, by name."""
        return [
            await self._in_thread(place, place.keeper.status) for _, place in sorted(self._places.items())
        ]

    async def turn(self) -> None:
        """Return once each box's thread has come to an end of what it was at."""
        loop = asyncio.get_running_loop()
        for place in self._places.values():
            await loop.run_in_executor(place.worker, _nothing)

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
            return signed_reply(
                envelope,
                key=self._key,
                box_key=place.key,
                opened=lambda message: self._opened(place.keeper, message),
                beaten=lambda beat: self._beaten(place.keeper, envelope, beat),
            )

    def _opened(self, keeper: Keeper, message: Open) -> Opened:
        opened = keeper.opened(message, candidate=self._token(SESSION_BYTES))
        verdict, reason = opened.verdict.value, opened.reason
        _log.info("opened", box=message.box, boot=message.boot, verdict=verdict, reason=reason)
        self.metrics.messages.labels(message.box, verdict).inc()
        return opened

    def _beaten(self, keeper: Keeper, envelope: Envelope, beat: Beat) -> Beaten:
        beaten = keeper.beaten(beat, session=envelope.session, counter=envelope.counter)
        if beaten.push is not None:
            self.metrics.pushes.labels(envelope.box, beaten.push.value).inc()
        self.metrics.messages.labels(envelope.box, beaten.verdict.value).inc()
        return beaten


def _nothing() -> None:
    """What a thread does that shows that it lives."""


MIRROR: Final = web.AppKey("mirror", Mirror)


def make_app(mirror: Mirror) -> web.Application:
    """The application, for loopback or a listener that encrypts."""
    app = exchange_app(mirror, name="mirror", compressed=False)
    app[MIRROR] = mirror
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/metrics", operators_only(_metrics))
    app.router.add_get("/v1/status", operators_only(_status))
    return app


async def _healthz(request: web.Request) -> web.Response:
    await request.app[MIRROR].statuses()
    return web.Response(text="ok\n")


async def _metrics(request: web.Request) -> web.Response:
    mirror = request.app[MIRROR]
    for box in await mirror.statuses():
        mirror.metrics.records.labels(box.box).set(box.records)
        mirror.metrics.waiting.labels(box.box).set(box.waiting)
        mirror.metrics.forked.labels(box.box).set(len(box.forked))
    return mirror.metrics.response()


async def _status(request: web.Request) -> web.Response:
    return json_response({"boxes": await request.app[MIRROR].statuses()})
