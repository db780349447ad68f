"""A branch for tests: the real ledger file, pen, gateway and HTTP server; the centre is a line that grants
what it is told to have.

Only the hub's side is played here. What it says reaches the box as directives through the pen, as in a
running box."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgegw.access.keys import SigningKey
from edgegw.access.tokens import mint_token, public_key_text
from edgegw.core import journal
from edgegw.core.exchange import Directives, SiteBundle
from edgegw.core.records import (
    Account,
    ConfirmDirective,
    DeclineDirective,
    Directive,
    GrantDirective,
    Mode,
    SiteDirective,
    encode,
)
from edgegw.core.site import ClientRule, CurrencyRule, Site, StandInRule
from edgegw.ledger.outcomes import Budget
from edgegw.ledger.start import Own, Ways, start
from edgegw.ledger.store import Store
from edgegw.ledger.writer import Pen
from edgegw.observe.metrics import Metrics
from edgegw.payments.history import History
from edgegw.payments.protocols.http import HttpOptions, HttpServer
from edgegw.payments.protocols.http import start as start_http
from edgegw.payments.service import Gateway
from edgegw.sm.sm2 import PrivateKey
from edgegw.tls_tables import is_encrypted

BANK, BOX = "demo-bank", "branch-1"
BAKER, PUPIL, ELSEWHERE = "baker", "pupil", "far-away"
ALL_SCOPES = ("pay", "read", "operate")


class MachineClock:
    """This machine's clocks."""

    def wall_ns(self) -> int:
        return time.time_ns()

    def mono_ns(self) -> int:
        return time.monotonic_ns()

    def boot_id(self) -> str:
        return ""


class Centre:
    """The line as the gateway sees it, and behind it a centre that has so much of each account."""

    def __init__(self, branch: Branch) -> None:
        self._branch = branch
        self.up = True
        self.money: dict[str, int] = {}
        self.asked: list[tuple[str, int]] = []
        self.silent = False
        self.answering = asyncio.Event()
        self.answering.set()

    async def ask(self, *, account_id: str, currency: str, amount_minor: int) -> str:
        self.asked.append((account_id, amount_minor))
        await self.answering.wait()
        if self.silent:
            return "timeout"
        if self.money.get(account_id, 0) < amount_minor:
            return "refused"
        self.money[account_id] -= amount_minor
        await self._branch.grant(account_id, amount_minor, currency=currency)
        return "granted"


class Branch:
    """A box with its parts in reach."""

    def __init__(self, directory: Path, *, refusals: int = 1_000_000) -> None:
        self.key = SigningKey(f"{BANK}/{BOX}/1", PrivateKey.generate())
        self.client_keys = {
            name: Ed25519PrivateKey.generate() for name in ("till", "other", "clerk", "reader")
        }
        self.store = Store.open(directory / "ledger.db", create=True)
        own = Own(
            bank=BANK,
            box=BOX,
            boot="b" * 32,
            sign=self._sign,
            open_note=lambda _epoch, note: journal.parse_checkpoint(note)[0],
            key_text=self.key.public.text(),
            version="0",
            box_digest="0" * 64,
        )
        self.room = True
        self.pen: Pen = start(
            self.store,
            own,
            Ways(
                clock=MachineClock(),
                rules=(),
                budget=Budget(burst=refusals, per_second=1),
                room_for_payments=lambda: self.room,
                make_room=lambda: None,
            ),
        )
        self.book = self.pen.desk.book
        self.centre = Centre(self)
        self.metrics = Metrics()
        self.history = History(self.store.reader(), epoch=lambda: self.pen.desk.tip.epoch)
        self.gateway = Gateway(
            pen=self.pen,
            book=self.book,
            line=self.centre,
            history=self.history,
            meter=self.metrics,
            version="0",
        )
        self._directives: list[bytes] = []
        self._leaves: list[bytes] = []
        self._wake: asyncio.Task[None] | None = None
        self.server: HttpServer | None = None

    def _sign(self, epoch: int, size: int, root: bytes) -> str:
        origin = journal.journal_origin(bank=BANK, box=BOX, epoch=epoch)
        return self.key.seal(journal.Checkpoint(origin, size, root).body())

    async def open(self, options: HttpOptions | None = None) -> None:
        self.pen.commit_now(partial(self.pen.write_link, note="note", epoch=1))
        self._wake = asyncio.create_task(self.pen.run())
        await self.use_site(self.site())
        await self.pen.change_mode(Mode.ACTIVE, "test")
        self._options = options or HttpOptions(port=0)
        self.server = await start_http(self.gateway, self._options)

    async def close(self) -> None:
        if self.server is not None:
            await self.server.stop()
        self.pen.close()
        if self._wake is not None:
            await self._wake
        self.history.close()
        self.store.close()

    def site(self, version: int = 1, **changes: Any) -> Site:
        clients = tuple(
            ClientRule(name=name, public_key=public_key_text(key), scopes=scopes)
            for (name, key), scopes in zip(
                self.client_keys.items(),
                (ALL_SCOPES, ALL_SCOPES, ("operate", "read"), ("read",)),
                strict=True,
            )
        )
        site = Site(
            bank=BANK,
            version=version,
            currencies=(CurrencyRule(code="CNY", numeric=156), CurrencyRule(code="EUR", numeric=978)),
            accounts=(
                Account(id=BAKER, currency="CNY", home=BOX, participant="city"),
                Account(id=PUPIL, currency="CNY", home=BOX, participant="land"),
                Account(id=ELSEWHERE, currency="CNY", home="branch-2"),
            ),
            clients=clients,
            stand_in=(
                StandInRule(
                    currency="CNY",
                    floor_minor=10_000,
                    account_minor=20_000,
                    account_count=10,
                    box_minor=50_000,
                    offline_seconds_max=86_400,
                ),
            ),
        )
        return msgspec.structs.replace(site, **changes)

    async def use_site(self, site: Site) -> None:
        body = msgspec.json.encode(site)
        digest = journal.sm3(body).hex()
        await self.say(
            SiteDirective(**self._directive_head(), version=site.version, digest=digest, bytes=len(body)),
            sites={digest: SiteBundle(body, site)},
        )

    def _directive_head(self) -> dict[str, Any]:
        return {
            "v": 1,
            "bank": BANK,
            "box": BOX,
            "incarnation": 1,
            "seq": len(self._directives),
            "wall_ns": 0,
        }

    async def say(self, directive: Directive, sites: dict[str, SiteBundle] | None = None) -> None:
        body = encode(directive)
        start_at = len(self._directives)
        previous = self._leaves[-1] if self._leaves else journal.FIRST_PREVIOUS
        self._directives.append(body)
        self._leaves.append(journal.leaf_hash(previous, body))
        frontier = journal.Frontier()
        frontier.extend(self._leaves)
        package = Directives(1, start_at, (body,), (self._leaves[-1],), frontier, "note", sites or {})
        await self.pen.apply_directives(package)

    async def grant(self, account_id: str, amount_minor: int, *, currency: str = "CNY") -> None:
        await self.say(
            GrantDirective(
                **self._directive_head(), account_id=account_id, currency=currency, amount_minor=amount_minor
            )
        )

    async def decline(self, record: str, amount_minor: int, *, liable: str = "merchant") -> None:
        epoch, seq = map(int, record.split("/"))
        await self.say(
            DeclineDirective(
                **self._directive_head(),
                epoch=epoch,
                at_seq=seq,
                payer_account_id=PUPIL,
                currency="CNY",
                amount_minor=amount_minor,
                liable=liable,
                reason="insufficient_funds",
            )
        )

    async def confirm(self, record: str, amount_minor: int) -> None:
        epoch, seq = map(int, record.split("/"))
        await self.say(
            ConfirmDirective(
                **self._directive_head(),
                epoch=epoch,
                at_seq=seq,
                payer_account_id=PUPIL,
                currency="CNY",
                amount_minor=amount_minor,
            )
        )

    def token(self, client: str = "till", **changes: Any) -> str:
        wanted = {"client": client, "box": BOX, "lifetime_seconds": 600, "now_s": int(time.time()), **changes}
        return mint_token(self.client_keys[client], **wanted)

    @property
    def url(self) -> str:
        assert self.server is not None
        scheme = "https" if is_encrypted(self._options.tls) else "http"
        return f"{scheme}://{self.server.addresses[0]}"


@asynccontextmanager
async def open_branch(
    directory: Path, *, options: HttpOptions | None = None, refusals: int = 1_000_000
) -> AsyncIterator[Branch]:
    """A branch in a directory, closed at the end."""
    branch = Branch(directory, refusals=refusals)
    try:
        await branch.open(options)
        yield branch
    finally:
        await branch.close()


class Reply:
    """An HTTP response, read whole."""

    def __init__(self, status: int, body: bytes, headers: Any) -> None:
        self.status = status
        self.body = body
        self.headers = headers

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["code"])


class HttpClient:
    """A client of a branch over HTTP."""

    def __init__(self, branch: Branch, name: str = "till") -> None:
        self._branch = branch
        self._session = aiohttp.ClientSession(branch.url)
        self.headers = {"Authorization": f"Bearer {branch.token(name)}"}

    async def close(self) -> None:
        await self._session.close()

    async def send(self, method: str, path: str, body: Any = None, **options: Any) -> Reply:
        """One request; body as JSON, or as it is when it is bytes."""
        headers = {**self.headers, **options.pop("headers", {})}
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
            options["data"] = body if isinstance(body, bytes) else msgspec.json.encode(body)
        async with self._session.request(method, path, headers=headers, **options) as response:
            return Reply(response.status, await response.read(), response.headers)

    async def pay(self, amount_minor: int = 100, **changes: Any) -> Reply:
        return await self.send("POST", "/v1/payments", payment(amount_minor, **changes))

    async def get(self, path: str) -> Reply:
        return await self.send("GET", path)


_ids = itertools.count(1)


def payment_id() -> str:
    """A fresh id."""
    return f"{next(_ids):032x}"


def payment(amount_minor: int = 100, **changes: Any) -> dict[str, Any]:
    """A payment's body: from the baker to the pupil unless `changes` say otherwise."""
    body = {
        "id": payment_id(),
        "debit_account_id": BAKER,
        "credit_account_id": PUPIL,
        "amount_minor": amount_minor,
        "currency": "CNY",
        **changes,
    }
    return {name: value for name, value in body.items() if value is not None}
