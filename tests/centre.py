"""A centre in process for tests of enrolled boxes: a real hub with its CAs, its enrolment and its exchange at
ports of their own, both encrypted."""

from __future__ import annotations

import base64
import functools
import json
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from sqlalchemy import Connection

from edgegw.access.certificate_keys import claim_public, make_certificate_key
from edgegw.access.keys import SigningKey
from edgegw.access.tls import server_context
from edgegw.commands.serving import site_of
from edgegw.core.enrolment import CLAIM_FORMAT, KINDS, SEED_BYTES, Claim, Kind, encode_claim
from edgegw.hub.app import Hub, make_app
from edgegw.hub.books import post_core
from edgegw.hub.certificates import Authority, make_authority, pem_of
from edgegw.hub.claims import make_claim
from edgegw.hub.enrolment_app import Enrolment, Turns
from edgegw.hub.enrolments import Desk
from edgegw.hub.identities import end_identity, live_identity
from edgegw.hub.identity_log import Event, events
from edgegw.hub.keyring import Keyring
from edgegw.hub.site import publish
from edgegw.sm.sm2 import PrivateKey
from edgegw.tls_tables import ServerTls
from tests.encrypted import kind_of
from tests.hub.places import SqlitePlace
from tests.processes import SITE

BANK, BOX = "b1", "box-1"
NS, DAY_S = 1_000_000_000, 86_400
DAYS = 90


class EveryTurn(Turns):
    """Nobody asks too much: all of a test come from one address."""

    def take(self, remote: str) -> bool:
        return True


@functools.cache
def _authority(kind: Kind) -> Authority:
    at_s = int(time.time()) - 20 * 366 * DAY_S
    key = make_certificate_key(kind)
    return make_authority(key, name=f"{BANK} {kind}", at_s=at_s, ends_s=at_s + 60 * 366 * DAY_S)


class Centre:
    """The hub of a test; `ahead_s` puts its clock on."""

    def __init__(self, folder: Path, profile: str) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.profile, self.kind = profile, kind_of(profile)
        self.ahead_s = 0.0
        self.key = SigningKey(f"{BANK}/hub", PrivateKey.generate())
        self._place = SqlitePlace(folder / "hub.db")
        self.database = self._place.open()
        self.keyring = Keyring(bank=BANK, key=self.key, pinned={})
        self.hub = Hub(self.database, self.keyring, clock_ns=self.now_ns)
        self.authorities = {kind: _authority(kind) for kind in KINDS}
        self.desk = Desk(bank=BANK, authorities=self.authorities, life_s=DAYS * DAY_S)
        self.lose_replies = 0
        """So many answers to requests are made and do not arrive."""
        self._runners: list[web.AppRunner] = []
        self.enrolment_port = self.exchange_port = 0

    def now_ns(self) -> int:
        """The hub's clock."""
        return time.time_ns() + int(self.ahead_s * NS)

    # --- listening ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Listen, at the same ports as before."""
        enrolment = Enrolment(self.hub, self.desk, turns=EveryTurn()).app()
        enrolment.middlewares.append(self._losing)
        exchange = make_app(self.hub)
        exchange.cleanup_ctx.clear()
        self.enrolment_port = await self._listen(enrolment, self.enrolment_port, clients=False)
        self.exchange_port = await self._listen(exchange, self.exchange_port, clients=True)

    async def close(self) -> None:
        """Be away."""
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()

    async def _listen(self, app: web.Application, port: int, *, clients: bool) -> int:
        runner = web.AppRunner(app, shutdown_timeout=0.01)
        await runner.setup()
        tls = server_context(self.server(clients=clients))
        await site_of(runner, "127.0.0.1", port, name="hub", tls=tls).start()
        self._runners.append(runner)
        found: int = runner.addresses[0][1]
        return found

    def server(self, *, clients: bool) -> ServerTls:
        """The table of a listener, with a certificate of the hub's own CA."""
        ca, key = self.authorities[self.kind], make_certificate_key(self.kind)
        at_s = self.now_ns() // NS
        der = ca.issue(key.public, name="hub", hosts=("127.0.0.1",), at_s=at_s, ends_s=at_s + DAYS * DAY_S)
        name = f"server-{clients}"
        files = {"pem": pem_of(der), "key": key.to_pem(), "ca": pem_of(ca.der)}
        for suffix, body in files.items():
            path = self.folder / f"{name}.{suffix}"
            path.unlink(missing_ok=True)
            path.touch(mode=0o600)
            path.write_bytes(body)
        return ServerTls(
            profile=self.profile,
            certificate_file=str(self.folder / f"{name}.pem"),
            key_file=str(self.folder / f"{name}.key"),
            client_ca_file=str(self.folder / f"{name}.ca") if clients else "",
        )

    @web.middleware
    async def _losing(self, request: web.Request, handler: Any) -> web.StreamResponse:
        answer: web.StreamResponse = await handler(request)
        if self.lose_replies and request.method == "POST":
            self.lose_replies -= 1
            assert request.transport is not None
            request.transport.abort()
        return answer

    # --- what a person at the centre does -------------------------------------------------------------------

    def transact(self, work: Any) -> Any:
        """One SQL transaction."""
        return self.database.transact(work)

    def claim(
        self,
        box: str = BOX,
        *,
        branch: str = "Harbour Street",
        hours: float = 24,
        replaces: bool = False,
        keep: Path | None = None,
        **changes: object,
    ) -> Path:
        """A claim's file, as a technician carries it."""
        seed, id = secrets.token_bytes(SEED_BYTES), secrets.token_hex(16)
        expires_s = self.now_ns() // NS + int(hours * 3_600)
        self.transact(
            lambda c: make_claim(
                c,
                id=id,
                box=box,
                branch=branch,
                public_key=claim_public(seed).hex(),
                hosts=("127.0.0.1",),
                expires_s=expires_s,
                replaces=replaces,
                by="mei",
                now_ns=self.now_ns(),
            )
        )
        ca = base64.b64encode(self.authorities[self.kind].der).decode()
        fields: dict[str, Any] = {
            "format": CLAIM_FORMAT,
            "id": id,
            "bank": BANK,
            "box": box,
            "branch": branch,
            "addresses": (f"https://127.0.0.1:{self.enrolment_port}",),
            "profile": self.profile,
            "line": (f"https://127.0.0.1:{self.exchange_port}",),
            "hub_key": self.key.public.text(),
            "authorities": (ca,),
            "expires_at_s": expires_s,
            "replaces": replaces,
            "seed": base64.b64encode(seed).decode(),
        }
        file = keep or self.folder / f"claim-{id}.json"
        file.write_bytes(encode_claim(Claim(**{**fields, **changes})))
        return file

    def revoke(self, box: str = BOX) -> None:
        """Take the box's identity from it."""

        def work(connection: Connection) -> None:
            live = live_identity(connection, box)
            assert live is not None
            end_identity(connection, live, state="revoked", reason="stolen", now_ns=self.now_ns())

        self.transact(work)

    def generation(self, box: str = BOX) -> int:
        """The how-manieth device of the box counts now; 0: none."""
        live = self.transact(lambda c: live_identity(c, box))
        return 0 if live is None else live.generation

    def log(self) -> list[Event]:
        """What happened to identities, the oldest first."""
        return sorted(self.transact(events), key=lambda one: one.number)

    def fund(self, client: str = "") -> None:
        """Publish a site with accounts and money; client: a till's public key."""
        scopes = ["pay", "read", "operate"]
        clients = [{"name": "till", "public_key": client, "scopes": scopes}] if client else []
        site = json.dumps({**SITE, "clients": clients}).encode()
        self.transact(lambda c: publish(c, self.keyring, site, now_ns=self.now_ns()))
        for account_id in ("alice", "bob"):
            self.transact(
                functools.partial(
                    post_core,
                    id=f"opening-{account_id}",
                    debit_account_id="core:CNY",
                    credit_account_id=account_id,
                    amount_minor=200_000,
                )
            )


@asynccontextmanager
async def centre_of(folder: Path, profile: str = "intl") -> AsyncIterator[Centre]:
    """A centre that listens."""
    centre = Centre(folder / "centre", profile)
    await centre.open()
    try:
        yield centre
    finally:
        await centre.close()
        centre.hub.close()
