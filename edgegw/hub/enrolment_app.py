"""The hub's enrolment over HTTP, on a listener of its own that asks for no client certificate.

Whoever can reach it may speak, so each address and all together have a bucket of requests, bodies are small,
few are read at once, and refusals fill neither log nor table. Leaves out what is answered
(`hub.enrolments`).
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final

import structlog
from aiohttp import web
from sqlalchemy import Connection

from edgegw.core.enrolment import (
    CRL_PATH,
    ENROL_PATH,
    HUB,
    KINDS,
    LEAVE_PATH,
    RENEW_PATH,
    REQUEST_BYTES_MAX,
    Enrol,
    EnrolmentError,
    Leave,
    Refusal,
    Renew,
    Request,
    Signed,
    encode_body,
    encode_signed,
    read_request,
    signed_text,
)
from edgegw.errors import OperatingError
from edgegw.exchange_http import problem
from edgegw.hub.app import Hub
from edgegw.hub.enrolments import TOLD_AGAIN_NS, UNAUTHENTIC, Desk, No, Scene
from edgegw.hub.identities import lock_identities
from edgegw.hub.identity_log import note_event, was_told

BODIES_MAX: Final = 16
BODIES_EACH_MAX: Final = 4
"""Of one address, so that a slow one holds nobody else up."""
BODY_S_MAX: Final = 10.0
ADDRESSES_MAX: Final = 4_096
"""Of so many addresses it is known how much they asked; the one that was silent longest is forgotten."""
EACH_BURST: Final = 12
EACH_PER_S: Final = 0.2
ALL_BURST: Final = 200
ALL_PER_S: Final = 10.0
"""A fleet of ten thousand boxes renews within a month at a thousandth of this."""
UNKNOWN_EACH_MINUTE: Final = 10
"""Rows and lines about requests of which nothing is known to be authentic."""
V6_PREFIX: Final = 64

_STATUS: Final = {Refusal.MALFORMED: 400, Refusal.VERSION: 400, Refusal.TOO_MANY: 429, Refusal.NO_CA: 409}
_PATHS: Final[dict[str, type[Request]]] = {ENROL_PATH: Enrol, RENEW_PATH: Renew, LEAVE_PATH: Leave}
_HINTS: Final = {
    Refusal.TOO_MANY: "Ask again in a minute.",
    Refusal.MALFORMED: "One of the two programs is another version, or something between them alters what is"
    " sent: compare `edgegw --version` at both.",
    Refusal.VERSION: "Update the older of the two programs.",
    Refusal.NO_CA: "Make it: edgegw hub ca init --kind KIND.",
    Refusal.TOO_SOON: "It is renewed at two thirds of its life.",
    Refusal.CLAIM_EXPIRED: "Ask the centre for another claim.",
    Refusal.WRONG_BOX: "Take the claim that was made for this box.",
    Refusal.WRONG_BRANCH: "Take the claim that was made for this branch.",
    Refusal.BOX_BOUND: "Ask the centre for a claim that replaces the device.",
    Refusal.CLAIM_USED: "Tell the centre at once: a device that is not yours must be revoked.",
    Refusal.KEY_BOUND: "Let the box make new keys.",
}
_ASK: Final = "Tell the centre: its log of identities (edgegw hub ca log) says more."

_log = structlog.get_logger("edgegw.hub")


class Bucket:
    """What may still be asked; it refills."""

    def __init__(self, *, burst: float, per_s: float, now_s: float) -> None:
        self._burst = burst
        self._per_s = per_s
        self._left = burst
        self._at_s = now_s

    def take(self, now_s: float) -> bool:
        """Whether one more may ask."""
        self._left = min(self._burst, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Turns:
    """How much each address, and all of them, may ask."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._all = Bucket(burst=ALL_BURST, per_s=ALL_PER_S, now_s=clock_s())
        self._each: OrderedDict[str, Bucket] = OrderedDict()
        self._minute = -1
        self._unknown = 0

    def take(self, remote: str) -> bool:
        """Whether this address may ask now; one that may not costs the others nothing."""
        now_s, place = self._clock_s(), place_of(remote)
        bucket = self._each.pop(place, None) or Bucket(burst=EACH_BURST, per_s=EACH_PER_S, now_s=now_s)
        self._each[place] = bucket
        if len(self._each) > ADDRESSES_MAX:
            self._each.popitem(last=False)
        return bucket.take(now_s) and self._all.take(now_s)

    def tell(self) -> bool:
        """Whether one more request of which nothing is authentic is worth a line this minute."""
        minute = int(self._clock_s() // 60)
        if minute != self._minute:
            self._minute, self._unknown = minute, 0
        self._unknown += 1
        return self._unknown <= UNKNOWN_EACH_MINUTE


def place_of(remote: str) -> str:
    """An address; of IPv6 the network, because one host has many there."""
    try:
        address = ipaddress.ip_address(remote)
    except ValueError:
        return remote
    if address.version == 6:
        return str(ipaddress.ip_network((address, V6_PREFIX), strict=False))
    return remote


class Enrolment:
    """The listener's parts: the hub, its desk, and who may ask."""

    def __init__(self, hub: Hub, desk: Desk, *, turns: Turns | None = None) -> None:
        self._hub = hub
        self._desk = desk
        self._turns = turns or Turns()
        self._bodies = asyncio.Semaphore(BODIES_MAX)
        self._of_place: Counter[str] = Counter()

    def app(self) -> web.Application:
        """The application; it serves nothing of the exchange."""
        app = web.Application(client_max_size=REQUEST_BYTES_MAX)
        for path in _PATHS:
            app.router.add_post(path, self._ask)
        app.router.add_get(CRL_PATH + "{kind}", self._crl)
        return app

    async def _ask(self, request: web.Request) -> web.Response:
        remote = request.remote or "?"
        if not self._turns.take(remote):
            return await self._flooded(remote, request.path)
        place = place_of(remote)
        if self._of_place[place] >= BODIES_EACH_MAX:
            return await self._flooded(remote, request.path)
        self._of_place[place] += 1
        try:
            return await self._in_turn(request, remote)
        finally:
            self._of_place[place] -= 1
            if not self._of_place[place]:
                del self._of_place[place]

    async def _in_turn(self, request: web.Request, remote: str) -> web.Response:
        """The answer once there is room for a body."""
        async with self._bodies:
            try:
                async with asyncio.timeout(BODY_S_MAX):
                    data = await request.read()
            except TimeoutError:
                return problem(408, "body_too_slow", f"no whole request within {BODY_S_MAX:g} s", _ASK)
            try:
                return await self._answer(data, request.path, remote)
            except OperatingError as fault:
                _log.warning("enrolment_not_answered", remote=remote, problem=str(fault), hint=fault.hint)
                return problem(503, fault.code, str(fault), fault.hint)

    async def _answer(self, data: bytes, path: str, remote: str) -> web.Response:
        try:
            signed, request = read_request(data)
            if not isinstance(request, _PATHS[path]):
                raise EnrolmentError(f"another request than {path} takes")
        except EnrolmentError as fault:
            no = No(Refusal.MALFORMED, str(fault), is_alarm=False)
            return self._refused(no, remote, path=path, is_told=self._turns.tell())

        told = functools.cache(self._turns.tell)

        def work(connection: Connection) -> bytes | No:
            scene = Scene(connection, signed, remote, self._hub.now_ns(), told)
            reply = self._desk.answer(scene, request)
            return reply if isinstance(reply, No) else encode_body(reply)

        answer = await self._hub.run(work)
        await asyncio.to_thread(self._hub.identities_kept)
        if isinstance(answer, No):
            is_told = answer.code not in UNAUTHENTIC or told()
            return self._refused(answer, remote, path=path, box=request.box, is_told=is_told)
        reply = Signed(body=answer, signatures={HUB: self._hub.sign(signed_text(HUB, answer))})
        self._hub.metrics.enrolments.labels(path, "ok").inc()
        _log.info("enrolment", path=path, box=request.box, remote=remote)
        return web.Response(body=encode_signed(reply), content_type="application/msgpack")

    async def _flooded(self, remote: str, path: str) -> web.Response:
        no, is_told = No(Refusal.TOO_MANY, "too many requests"), self._turns.tell()
        if is_told:
            await self._hub.run(lambda c: _note_flood(c, remote, now_ns=self._hub.now_ns()))
        return self._refused(no, remote, path=path, is_told=is_told)

    def _refused(self, no: No, remote: str, *, path: str, is_told: bool, box: str = "") -> web.Response:
        """A problem document; an alarm is counted, and told as often as a log bears it."""
        self._hub.metrics.enrolments.labels(path, no.code.value).inc()
        if no.is_alarm:
            self._hub.metrics.enrolment_alarms.labels(no.code.value).inc()
        if is_told:
            tell = _log.warning if no.is_alarm else _log.info
            tell("enrolment_refused", path=path, code=no.code.value, box=box, remote=remote, problem=no.text)
        return problem(_STATUS.get(no.code, 403), no.code.value, no.text, _HINTS.get(no.code, _ASK))

    async def _crl(self, request: web.Request) -> web.Response:
        if not self._turns.take(request.remote or "?"):
            return await self._flooded(request.remote or "?", CRL_PATH)
        kind = next((one for one in KINDS if one == request.match_info["kind"]), None)
        now_ns = self._hub.now_ns()
        found = (
            None if kind is None else await self._hub.run(lambda c: self._desk.crl(c, kind, now_ns=now_ns))
        )
        if found is None:
            kinds = ", ".join(self._desk.authorities) or "none"
            return problem(
                404, "no_ca", f"there is no CA of that kind; there are {kinds}", _HINTS[Refusal.NO_CA]
            )
        return web.Response(body=found, content_type="application/pkix-crl")


def _note_flood(connection: Connection, remote: str, *, now_ns: int) -> None:
    """Write down that somebody floods, once in a while, lest that bury the other alarms."""
    lock_identities(connection)
    if was_told(connection, Refusal.TOO_MANY.value, of=None, since_ns=now_ns - TOLD_AGAIN_NS):
        return
    note_event(
        connection,
        Refusal.TOO_MANY.value,
        now_ns=now_ns,
        alarm=True,
        remote=remote,
        detail="too many requests",
    )
