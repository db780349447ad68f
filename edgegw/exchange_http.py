"""The exchange's HTTP side as hub and mirror have it: a signed reply or a problem document, and who may look.

Leaves out what the messages mean (`hub.app`, `mirror.app`) and the box's side (`uplink.transport`).
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Protocol

import msgspec
import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from edgegw.access.keys import SigningKey, VerifyingKey
from edgegw.access.tls import certified_uris
from edgegw.core.messages import (
    EXCHANGE_PATH,
    MESSAGE_BYTES_MAX,
    Beat,
    Beaten,
    Direction,
    Envelope,
    ExchangeError,
    Open,
    Opened,
    open_envelope,
    seal_envelope,
)
from edgegw.errors import BrokenInvariant, OperatingError, StorageFull

ENVELOPE_BYTES_MAX: Final = MESSAGE_BYTES_MAX + 4096
"""Above the message itself: names, session and signature."""

BODIES_MAX: Final = 64
"""Messages that are read or decided at once: 320 MiB where every one is as long as may be."""
BODY_S_MAX: Final = 30.0
"""A sender that takes longer gives its turn up; boxes send less at once on a thin line."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class NotPinned(Exception):
    """The envelope names a bank or box whose key is not pinned here."""

    def __init__(self, envelope: Envelope) -> None:
        super().__init__(f"no key is pinned for {envelope.bank}/{envelope.box}")


class OtherBox(Exception):
    """The certificate of the connection is not the speaking box's."""


def check_certificate(envelope: Envelope, certified: frozenset[str] | None) -> None:
    """Whoever speaks must be who the connection's certificate names; raises OtherBox. certified: its URIs,
    None where the line is plain."""
    uri = f"edgegw://{envelope.bank}/{envelope.box}"
    if certified is not None and uri not in certified:
        has = ", ".join(sorted(certified)) or "no box"
        raise OtherBox(f"the message is of {uri}, and the connection's certificate names {has}")


class Busy(Exception):
    """More messages of this box wait than it sends by itself."""


class Metrics:
    """What hub and mirror both count, and how each adds its own."""

    def __init__(self, prefix: str) -> None:
        self.registry = CollectorRegistry()
        self._prefix = prefix
        self.refused = self.counter("messages_refused", "Messages that were not used, by cause.", "cause")
        self.seconds = Histogram(
            f"{prefix}_message_seconds",
            "From body to signed reply, COMMIT included.",
            registry=self.registry,
        )
        self.waiting = self.gauge("records_waiting", "Records that the box still has to send.", "box")

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """A counter under this prefix."""
        return Counter(f"{self._prefix}_{name}", text, labels, registry=self.registry)

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        """A gauge under this prefix."""
        return Gauge(f"{self._prefix}_{name}", text, labels, registry=self.registry)

    def response(self) -> web.Response:
        """All of them in Prometheus' text format."""
        return web.Response(body=generate_latest(self.registry), content_type="text/plain")


def signed_reply(
    envelope: Envelope,
    *,
    key: SigningKey,
    box_key: VerifyingKey,
    opened: Callable[[Open], Opened],
    beaten: Callable[[Beat], Beaten],
) -> bytes:
    """The reply to an envelope that the box has signed; raises ExchangeError with nothing used."""
    message = open_envelope(box_key.verify, envelope, direction=Direction.TO_HUB)
    reply: Opened | Beaten
    if isinstance(message, Open):
        if (message.bank, message.box, 0) != (envelope.bank, envelope.box, envelope.counter):
            raise ExchangeError("an opening has counter 0 and names its envelope's bank and box")
        reply = opened(message)
    elif isinstance(message, Beat):
        reply = beaten(message)
    else:
        raise ExchangeError("a box sends Open or Beat")
    return seal_envelope(
        key.sign,
        reply,
        direction=Direction.TO_BOX,
        bank=envelope.bank,
        box=envelope.box,
        session=envelope.session,
        counter=envelope.counter,
    )


class Exchange(Protocol):
    """A hub or a mirror."""

    @property
    def metrics(self) -> Metrics:
        """What it counts."""
        ...

    async def exchange(self, data: bytes, certified: frozenset[str] | None = None) -> bytes:
        """The signed reply to a signed message; raises ExchangeError, NotPinned, OtherBox, Busy,
        OperatingError or BrokenInvariant. certified: as `check_certificate` has it."""
        ...

    def close(self) -> None:
        """Let the running messages finish, then let go of the files."""
        ...


def exchange_app(server: Exchange, *, name: str, compressed: bool) -> web.Application:
    """An application with the exchange's own path; name is what the server is, as in its logs and hints."""
    log = structlog.get_logger(f"edgegw.{name}")

    # Bodies in memory are counted, not the boxes: what has no turn yet waits in its sender's socket.
    turns = asyncio.Semaphore(BODIES_MAX)

    async def answered(request: web.Request) -> web.Response:
        async with turns:
            return await taken(request)

    async def taken(request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(BODY_S_MAX):
                data = await request.read()
        except TimeoutError:
            return problem(
                408, "body_too_slow", f"no whole message within {BODY_S_MAX:g} s", "Send less at once."
            )
        try:
            reply = await server.exchange(data, certified_uris(request.transport))
        except (ExchangeError, NotPinned, OtherBox, Busy, OperatingError, BrokenInvariant) as fault:
            status, code, hint = _refusal(fault, name)
            server.metrics.refused.labels(code).inc()
            log.warning("message_refused", remote=request.remote, code=code, problem=str(fault), hint=hint)
            return problem(status, code, str(fault), hint)
        response = web.Response(body=reply, content_type="application/msgpack")
        if compressed:
            response.enable_compression()
        return response

    async def closing(_: web.Application) -> AsyncIterator[None]:
        yield
        server.close()

    app = web.Application(client_max_size=ENVELOPE_BYTES_MAX)
    app.router.add_post(EXCHANGE_PATH, answered)
    app.cleanup_ctx.append(closing)
    return app


def _refusal(
    fault: ExchangeError | NotPinned | OtherBox | Busy | OperatingError | BrokenInvariant, name: str
) -> tuple[int, str, str]:
    """Status, code and hint."""
    if isinstance(fault, ExchangeError):
        return 400, "malformed_message", "Both sides must run versions that know each other."
    if isinstance(fault, NotPinned):
        return 403, "box_not_pinned", f"Pin the box's key in the {name}'s settings."
    if isinstance(fault, OtherBox):
        return 403, "other_certificate", "Give each box the certificate that names it, and no other."
    if isinstance(fault, Busy):
        return 429, "busy", "A box sends one message after the other."
    hint = fault.hint if isinstance(fault, OperatingError) else f"Read the {name}'s log."
    return 507 if isinstance(fault, StorageFull) else 503, fault.code, hint


def operators_only(handler: Handler) -> Handler:
    """The handler, for whoever asks from this machine; a problem document for others."""

    async def guarded(request: web.Request) -> web.StreamResponse:
        try:
            is_near = ipaddress.ip_address(request.remote or "").is_loopback
        except ValueError:
            is_near = False
        if is_near:
            return await handler(request)
        return problem(403, "operators_only", "this is for operators on the server itself", "Ask from there.")

    return guarded


def problem(status: int, code: str, message: str, hint: str) -> web.Response:
    """A problem document (RFC 9457)."""
    body = {"type": "about:blank", "status": status, "code": code, "message": message, "hint": hint}
    return web.Response(
        status=status, body=msgspec.json.encode(body), content_type="application/problem+json"
    )


def json_response(value: object) -> web.Response:
    """A value as JSON."""
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
