"""The hub's HTTP side: the exchange with the boxes, and what operators on this machine read.

Every message is verified, decided and committed in one worker thread, because SQLite has one writer and SM2
releases the interpreter; the loop only carries bytes. A reply leaves after the COMMIT, a cosignature is made
after it too. Leaves out what the messages mean (`hub.receive`, `hub.beats`) and the command line.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple, TypeVar

import msgspec
import structlog
from aiohttp import web
from sqlalchemy import Connection, func, select

from edgegw.access.keys import VerifyingKey
from edgegw.core.exchange import choose_version
from edgegw.core.messages import (
    SESSION_BYTES,
    SITE_PATH,
    Beat,
    Beaten,
    Envelope,
    ExchangeError,
    NotSigned,
    Open,
    Opened,
    Verdict,
    read_envelope,
)
from edgegw.exchange_http import (
    Metrics,
    NotPinned,
    check_certificate,
    exchange_app,
    json_response,
    operators_only,
    problem,
    signed_reply,
)
from edgegw.hub import receivables, schema, suspense
from edgegw.hub.ageing import reminding
from edgegw.hub.beats import Taken, keep_cosignature, take_beat
from edgegw.hub.books import violations
from edgegw.hub.database import Database, NotKept
from edgegw.hub.identities import Identity, device_key, ended_identities, register_boxes
from edgegw.hub.identity_log import note_ended_device, unseen_count
from edgegw.hub.items import set_aside
from edgegw.hub.keyring import Keyring
from edgegw.hub.lists import list_block
from edgegw.hub.receive import OtherDevice, open_session
from edgegw.hub.rollout import watching
from edgegw.hub.settling import settling
from edgegw.hub.site import Sites, advance, bundle_of, lost_site

Result = TypeVar("Result")
_log = structlog.get_logger("edgegw.hub")


NO_DEVICE: Final = "no_device"
"""The state of a box that has not enrolled yet, or whose device was revoked."""


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
    program: str
    """The version that it runs; "" while it has not said."""
    program_word: str
    program_problem: str


class HubMetrics(Metrics):
    """What the hub counts; names begin with `edgegw_hub_`."""

    def __init__(self) -> None:
        super().__init__("edgegw_hub")
        self.messages = self.counter("messages", "Authentic messages by verdict.", "type", "verdict")
        self.pushes = self.counter("pushes", "Packages of records by verdict.", "verdict")
        self.pulled = self.counter("records_pulled", "Records given back to boxes that had lost them.", "box")
        self.records = self.gauge("records", "Records held of the live epoch.", "box")
        self.beat_age = self.gauge("beat_age_seconds", "Since the box was last heard.", "box")
        self.suspense = self.gauge("suspense_items", "Items in suspense that wait for their owner.")
        self.suspense_parked = self.gauge("suspense_parked_items", "Items that a person has set aside.")
        self.suspense_aged = self.gauge(
            "suspense_aged_items", "Items that wait for longer than suspense_aged_days."
        )
        self.suspense_oldest = self.gauge(
            "suspense_oldest_seconds", "For how long the oldest open item waits; 0 without one."
        )
        self.receivables = self.gauge("receivables", "Receivables of the branches that are not paid.")
        self.receivables_aged = self.gauge(
            "receivables_aged", "Receivables that were not paid for longer than suspense_aged_days."
        )
        self.enrolments = self.counter(
            "enrolments",
            "Requests to enrol, renew or leave, by path and what came of them.",
            "path",
            "outcome",
        )
        self.enrolment_alarms = self.counter(
            "enrolment_alarms", "Of these, the ones that a person should look at, by cause.", "cause"
        )
        self.identity_alarms = self.gauge(
            "identity_alarms", "Alarms about claims, devices and certificates at which nobody has looked."
        )
        self.retried = self.counter(
            "transactions_retried",
            "SQL transactions that were run again because others were in their way, by SQLSTATE.",
            "cause",
        )


class Hub:
    """The hub's parts: its database, in whose threads it works, and its keys."""

    def __init__(
        self, database: Database, keyring: Keyring, *, clock_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._clock_ns = clock_ns
        self._sites = Sites()
        self.metrics = HubMetrics()
        database.on_retry = lambda cause: self.metrics.retried.labels(cause).inc()
        self._keys: dict[str, VerifyingKey] = {}
        """The devices' keys that were asked for; each message's transaction finds out whether one still
        counts."""
        self.identities_kept: Callable[[], object] = lambda: None
        """Keeps what has happened to identities beside the database; before an answer says so."""
        database.transact(lambda c: register_boxes(c, keyring, now_ns=clock_ns()))

    async def run(self, work: Callable[[Connection], Result]) -> Result:
        """Run `work` in one of the database's threads, in one SQL transaction that is committed when it
        returns."""
        return await asyncio.get_running_loop().run_in_executor(self._database.threads, self._transact, work)

    def _transact(self, work: Callable[[Connection], Result]) -> Result:
        try:
            return self._database.transact(work)
        except NotKept as problem:
            raise ExchangeError(f"a value of the message cannot be kept: {problem}") from None

    async def exchange(self, data: bytes, certified: frozenset[str] | None = None) -> bytes:
        """The signed reply to a signed message; raises ExchangeError, NotPinned or OtherBox with nothing
        used."""
        return await asyncio.get_running_loop().run_in_executor(
            self._database.threads, self._exchange, data, certified
        )

    async def advance_site(self) -> str:
        """Move a staged version of the site's settings on by itself; what was done, or ""."""
        return await self.run(lambda c: advance(c, self._keyring, now_ns=self._clock_ns()))

    async def turn(self) -> None:
        """Return once one of the database's threads is free: not all of them hang."""
        await asyncio.get_running_loop().run_in_executor(self._database.threads, _nothing)

    def now_ns(self) -> int:
        """The hub's clock."""
        return self._clock_ns()

    def sign(self, text: bytes) -> bytes:
        """The hub's signature over a text that names what it is for."""
        return self._keyring.key.sign(text)

    def close(self) -> None:
        """Let the running message finish, then let go of the database."""
        self._database.close()

    def _exchange(self, data: bytes, certified: frozenset[str] | None = None) -> bytes:
        with self.metrics.seconds.time():
            envelope = read_envelope(data)
            check_certificate(envelope, certified)
            if envelope.bank != self._keyring.bank:
                raise NotPinned(envelope)
            key = self._keys.get(envelope.box)
            if key is not None:
                with suppress(NotSigned, OtherDevice):
                    return self._answered(envelope, key)
            fresh, ended = self._transact(lambda c: _devices(c, envelope.box))
            if fresh is None and not ended:
                raise NotPinned(envelope)
            return self._answered_afresh(envelope, fresh, ended, known=key)

    def _answered_afresh(
        self,
        envelope: Envelope,
        key: VerifyingKey | None,
        ended: list[Identity],
        *,
        known: VerifyingKey | None,
    ) -> bytes:
        """The reply by the keys as the database has them; a device that has ended hears so."""
        self._keys.pop(envelope.box, None)
        if key is not None:
            self._keys[envelope.box] = key
            if key != known:
                with suppress(NotSigned, OtherDevice):
                    return self._answered(envelope, key)
        for one in ended:
            with suppress(NotSigned):
                return self._refused(envelope, one)
        raise NotSigned(f"the envelope of {envelope.bank}/{envelope.box} is not signed by the box's key")

    def _answered(self, envelope: Envelope, key: VerifyingKey) -> bytes:
        """The reply to a box's device; raises NotSigned and OtherDevice."""
        signer = key.text()
        return signed_reply(
            envelope,
            key=self._keyring.key,
            box_key=key,
            opened=lambda message: self._open(message, signer),
            beaten=lambda beat: self._beat(envelope, beat, signer),
        )

    def _refused(self, envelope: Envelope, ended: Identity) -> bytes:
        """What a device hears that is revoked, or has been replaced: it clears nothing any more, and nothing
        of it is taken. Raises NotSigned."""
        reason = ended.why
        reply = signed_reply(
            envelope,
            key=self._keyring.key,
            box_key=ended.key,
            opened=lambda message: Opened(
                version=choose_version(oldest=message.version_oldest, newest=message.version),
                verdict=Verdict.FENCED,
                reason=reason,
                session=os.urandom(SESSION_BYTES),
            ),
            beaten=lambda _: Beaten(verdict=Verdict.FENCED, reason=reason),
        )
        self.metrics.refused.labels("ended_device").inc()
        if self._transact(lambda c: note_ended_device(c, ended, now_ns=self._clock_ns())):
            _log.warning("ended_device_speaks", box=ended.box, device=ended.generation, problem=reason)
        return reply

    def _open(self, message: Open, signer: str) -> Opened:
        candidate = os.urandom(SESSION_BYTES)
        opened = self._transact(
            lambda c: open_session(c, self._keyring, message, signer=signer, candidate=candidate)
        )
        self.metrics.messages.labels("open", opened.verdict.value).inc()
        _log.info(
            "opened", box=message.box, boot=message.boot, verdict=opened.verdict.value, reason=opened.reason
        )
        return msgspec.structs.replace(opened, hub_s=self._clock_ns() // 1_000_000_000)

    def _beat(self, envelope: Envelope, beat: Beat, signer: str) -> Beaten:
        def taken_with(poisoned: Mapping[int, str]) -> Taken:
            return self._transact(
                lambda c: take_beat(
                    c,
                    self._keyring,
                    self._sites,
                    beat,
                    box=envelope.box,
                    signer=signer,
                    session=envelope.session,
                    counter=envelope.counter,
                    now_ns=self._clock_ns(),
                    poisoned=poisoned,
                )
            )

        taken = set_aside(taken_with)
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


def _devices(connection: Connection, box: str) -> tuple[VerifyingKey | None, list[Identity]]:
    """A box's device, and those before it."""
    return device_key(connection, box), ended_identities(connection, box)


def _nothing() -> None:
    """What a thread does that shows that it lives."""


HUB: Final = web.AppKey("hub", Hub)
AGED_DAYS: Final = web.AppKey("aged_days", int)


def make_app(hub: Hub, *, settlement_times: Sequence[str] = (), aged_days: int = 3) -> web.Application:
    """The application, for loopback or a listener that encrypts. It settles at these local times
    (HH:MM) of the site's calendar, and reminds of what waits for a person for aged_days."""
    app = exchange_app(hub, name="hub", compressed=True)
    app[HUB] = hub
    app.router.add_get(SITE_PATH + "{digest:[0-9a-f]{64}}", _site)
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/metrics", operators_only(_metrics))
    app.router.add_get("/v1/status", operators_only(_status))
    app.router.add_get("/v1/accounts/{account_id}", operators_only(_account))
    app[AGED_DAYS] = aged_days
    app.cleanup_ctx.append(settling(hub, settlement_times))
    app.cleanup_ctx.append(reminding(hub, aged_days))
    app.cleanup_ctx.append(watching(hub))
    return app


async def _site(request: web.Request) -> web.Response:
    digest = request.match_info["digest"]
    body = await request.app[HUB].run(lambda c: bundle_of(c, digest))
    if body is None:
        block = await request.app[HUB].run(lambda c: list_block(c, digest))
        if block is not None:
            return web.Response(body=block, content_type="application/octet-stream")
        return problem(404, "site_not_found", f"no bundle {digest}", "Use the digest of a site directive.")
    response = web.Response(body=body, content_type="application/json")
    response.enable_compression()
    return response


async def _healthz(request: web.Request) -> web.Response:
    await request.app[HUB].run(lambda c: c.execute(select(1)).scalar_one())
    return web.Response(text="ok\n")


async def _metrics(request: web.Request) -> web.Response:
    hub, now_ns = request.app[HUB], time.time_ns()
    before_ns = now_ns - request.app[AGED_DAYS] * suspense.DAY_NS
    boxes, items, owed, alarms = await hub.run(
        lambda c: (
            _boxes(c),
            suspense.counts(c, aged_before_ns=before_ns),
            receivables.counts(c, aged_before_ns=before_ns),
            unseen_count(c),
        )
    )
    hub.metrics.identity_alarms.set(alarms)
    for box in boxes:
        hub.metrics.records.labels(box.box).set(box.records)
        hub.metrics.waiting.labels(box.box).set(box.waiting)
        if box.beat_at_ns:
            hub.metrics.beat_age.labels(box.box).set((now_ns - box.beat_at_ns) / 1e9)
    hub.metrics.suspense.set(items.open)
    hub.metrics.suspense_parked.set(items.parked)
    hub.metrics.suspense_aged.set(items.aged)
    hub.metrics.suspense_oldest.set((now_ns - items.oldest_ns) / 1e9 if items.oldest_ns else 0)
    hub.metrics.receivables.set(owed.open)
    hub.metrics.receivables_aged.set(owed.aged)
    return hub.metrics.response()


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
            box.program,
            box.program_word,
            box.program_problem,
            box.device_key,
        )
        .outerjoin(schema.journal_head, (head.box == box.box) & (head.epoch == box.epoch))
        .order_by(box.box)
    )
    return [_status_of(BoxStatus(*row[:-1]), device_key=row.device_key) for row in rows]


def _status_of(status: BoxStatus, *, device_key: str) -> BoxStatus:
    """The same, where a device speaks for the box; else that none does."""
    return status if device_key else status._replace(state=NO_DEVICE)


async def _status(request: web.Request) -> web.Response:
    hub = request.app[HUB]
    before_ns = time.time_ns() - request.app[AGED_DAYS] * suspense.DAY_NS
    boxes, items, owed, wrong, lost = await hub.run(
        lambda c: (
            _boxes(c),
            suspense.counts(c, aged_before_ns=before_ns),
            receivables.counts(c, aged_before_ns=before_ns),
            violations(c),
            lost_site(c),
        )
    )
    body = {
        "boxes": [box._asdict() for box in boxes],
        "suspense_items": items.open,
        "suspense_parked_items": items.parked,
        "suspense_aged_items": items.aged,
        "receivables": owed.open,
        "receivables_aged": owed.aged,
        "books": "sound" if not wrong else "broken",
        "violations": wrong,
        "lost_site": None if lost is None else {"version": lost.version, "digest": lost.digest},
    }
    return json_response(body)


async def _account(request: web.Request) -> web.Response:
    account_id = request.match_info["account_id"]
    found = await request.app[HUB].run(lambda c: _account_of(c, account_id))
    if found is None:
        return problem(
            404, "account_not_found", f"no account {account_id}", "The published site lists the accounts."
        )
    return json_response(found)


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
