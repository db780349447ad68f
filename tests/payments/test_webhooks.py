"""Clients hear what became of their payments: in order, signed, each for itself, until they have noted it."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from structlog.testing import capture_logs

from edgegw.access.keystore import OPEN_FILES, KeyFile
from edgegw.access.webhook_key import WebhookKey, load_webhook_key
from edgegw.core.records import Acknowledgement, decode_record
from edgegw.core.site import WebhookRule
from edgegw.ledger.late_words import Noted
from edgegw.ledger.rows import column_fault
from edgegw.payments.backlog import Backlog
from edgegw.payments.http_api.bodies import PaymentBody
from edgegw.payments.webhook_post import Outcome, Postman, is_barred
from edgegw.payments.webhooks import Webhooks
from tests.payments.branch import BAKER, PUPIL, Branch, HttpClient, open_branch, payment, payment_id
from tests.waiting import until

WAIT_S = 30


class Receiver:
    """A merchant's server: keeps what it gets, and answers as it is told."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.status: Callable[[dict[str, Any]], int] = lambda _: 204
        self.silent = False
        self.url = ""

    @property
    def taken(self) -> list[str]:
        """The outcomes of what it took, in order."""
        return [
            notice["outcome"] for body in self.got if self.status(body) == 204 for notice in body["notices"]
        ]

    async def answer(self, request: web.Request) -> web.Response:
        if self.silent:
            await asyncio.Event().wait()
        self.bodies.append(await request.read())
        self.got.append(msgspec.json.decode(self.bodies[-1]))
        self.headers.append(dict(request.headers))
        return web.Response(status=self.status(self.got[-1]))


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    one = Receiver()
    app = web.Application()
    app.router.add_post("/hook", one.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    one.url = f"http://127.0.0.1:{port}/hook"
    try:
        yield one
    finally:
        await runner.cleanup()


@pytest.fixture
async def branch(tmp_path: Path) -> AsyncIterator[Branch]:
    async with open_branch(tmp_path) as branch:
        await branch.grant("risk:branch-1:CNY", 10_000)
        yield branch


@asynccontextmanager
async def webhooks(branch: Branch, key: WebhookKey, **urls: str) -> AsyncIterator[Webhooks]:
    """The webhooks of these clients, at work."""
    site = branch.book.site
    assert site is not None
    clients = tuple(
        msgspec.structs.replace(one, webhook=WebhookRule(url=urls[one.name], timeout_ms=60_000))
        if one.name in urls
        else one
        for one in site.clients
    )
    if clients != site.clients:
        await branch.use_site(branch.site(site.version + 1, clients=clients))
    reader = branch.store.reader()
    at_work = Webhooks(
        bank=branch.book.bank,
        box=branch.book.box,
        store=reader,
        pen=branch.pen,
        postman=Postman(key.sign, networks_barred=()),
        site=lambda: branch.book.site,
        clears=lambda: branch.pen.mode.clears,
        line_up=lambda: branch.centre.up,
        counted=lambda _: None,
        pause_seconds_max=300,
    )
    branch.pen.on_commit.append(at_work.wake)
    task = asyncio.create_task(at_work.run())
    try:
        yield at_work
    finally:
        branch.pen.on_commit.remove(at_work.wake)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        at_work.close()
        reader.close()


def webhook_key(folder: Path) -> WebhookKey:
    """The key in a folder, made if there is none."""
    key = KeyFile("webhook_key_file", folder / "webhook.pem", "webhook", "testbank/branch-1/webhook")
    return load_webhook_key(OPEN_FILES, key)


async def stand_in(branch: Branch, client: str = "till", amount_minor: int = 100) -> str:
    """A payment at the branch's risk; its record."""
    branch.centre.up = False
    asking = HttpClient(branch, client)
    done = await asking.pay(amount_minor, debit_account_id=PUPIL, credit_account_id=BAKER)
    await asking.close()
    branch.centre.up = True
    assert done.json["cleared_by"] == "stand_in"
    return str(done.json["record"])


def acknowledgements(branch: Branch) -> list[Acknowledgement]:
    reader = branch.store.reader()
    entries = reader.records(epoch=1, start=0, limit=1_000, bytes_max=1 << 24)
    reader.close()
    records = (decode_record(entry.body) for entry in entries)
    return [record for record in records if isinstance(record, Acknowledgement)]


def noted(branch: Branch, client: str = "till") -> Noted:
    reader = branch.store.reader()
    try:
        return reader.late.noted(client)
    finally:
        reader.close()


def newest(branch: Branch) -> int:
    reader = branch.store.reader()
    try:
        return reader.late.newest()
    finally:
        reader.close()


async def test_late_words_are_posted_signed_and_acknowledged_once(branch: Branch, tmp_path: Path) -> None:
    """The receiver checks them with the public key alone; after a restart nothing comes again."""
    key = webhook_key(tmp_path)
    places = [await stand_in(branch) for _ in range(3)]
    async with receiver() as shop:
        async with webhooks(branch, key, till=shop.url):
            await branch.confirm(places[0], 100)
            await branch.decline(places[1], 100)
            await branch.decline(places[2], 100, liable="branch")
            await until(lambda: noted(branch).up_to == newest(branch), "the receiver")
        said = [notice for body in shop.got for notice in body["notices"]]
        assert [(one["outcome"], one["money"], one["liable"], one["owner"]) for one in said] == [
            ("confirmed", "kept", "", ""),
            ("declined", "taken_back", "merchant", "merchant:baker"),
            ("declined", "receivable", "branch", "branch:branch-1"),
        ]
        public = Ed25519PublicKey.from_public_bytes(base64.b64decode(key.text.removeprefix("whpk_")))
        for headers, body in zip(shop.headers, shop.bodies, strict=True):
            signature = base64.b64decode(headers["webhook-signature"].removeprefix("v1a,"))
            signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
            public.verify(signature, signed)
        assert acknowledgements(branch)[-1].up_to == said[-1]["record"]
        async with webhooks(branch, webhook_key(tmp_path)):
            last = await stand_in(branch)
            await branch.confirm(last, 100)
            await until(lambda: len(shop.taken) == 4, "the receiver")
        assert shop.got[-1]["notices"][0]["payment_record"] == last
    assert {record.by for record in acknowledgements(branch)} == {"webhook"}


async def test_a_dead_and_a_silent_webhook_hold_up_nobody(branch: Branch, tmp_path: Path) -> None:
    """Each client has a connection and a pace of its own; the pen waits for none."""
    key = webhook_key(tmp_path)
    names = ("till", "other", "clerk")
    async with receiver() as shop, receiver() as silent:
        silent.silent = True
        async with webhooks(branch, key, till=shop.url, other=silent.url, clerk="http://127.0.0.1:9/"):
            for client in names[:2]:
                await branch.decline(await stand_in(branch, client), 100)
            await until(lambda: len(shop.taken) == 1, "the receiver", timeout_seconds=WAIT_S)
    assert noted(branch, "other") == Noted()


async def test_a_notice_that_is_refused_stands_apart_and_the_next_ones_come(
    branch: Branch, tmp_path: Path
) -> None:
    """Its receiver chokes on one: that one is tried again by itself, and is listed until it is taken."""
    key = webhook_key(tmp_path)
    places = [await stand_in(branch) for _ in range(4)]
    async with receiver() as shop:
        poison = places[1]
        shop.status = lambda body: (
            422 if any(one["payment_record"] == poison for one in body["notices"]) else 204
        )
        for place in places:
            await branch.confirm(place, 100)
        client = HttpClient(branch)
        async with webhooks(branch, key, till=shop.url) as at_work:
            await until(lambda: noted(branch).up_to == newest(branch), "all to be noted")
            assert (len(noted(branch).apart), len(shop.taken)) == (1, 3)
            page = (await client.get("/v1/notices")).json
            assert [one["payment_record"] for one in page["notices"]] == [poison]
            shop.status = lambda _: 204
            for delivery, _ in at_work._deliveries.values():
                delivery.try_now()
            await until(lambda: not noted(branch).apart, "the receiver")
        assert (await client.get("/v1/notices")).json["notices"] == []
        everything = (await client.get("/v1/notices?after=0/0")).json["notices"]
        assert [one["acknowledged"] for one in everything] == [True] * 4
        await client.close()


async def test_the_line_that_comes_back_amid_what_stands_apart_is_no_fault(
    branch: Branch, tmp_path: Path
) -> None:
    """Then all is due at once, also while one of those notices is on its way: that ended the round."""
    places = [await stand_in(branch) for _ in range(2)]
    for place in places:
        await branch.confirm(place, 100)
    async with receiver() as shop:
        shop.status = lambda _: 422
        async with webhooks(branch, webhook_key(tmp_path), till=shop.url) as at_work:
            await until(lambda: len(noted(branch).apart) == 2, "both to be refused")
            [(delivery, _)] = at_work._deliveries.values()

            def due_again(_: dict[str, Any]) -> int:
                delivery.try_now()
                return 204

            shop.status = due_again
            delivery.try_now()
            with capture_logs() as logged:
                await until(lambda: not noted(branch).apart, "the receiver")
    assert [one["event"] for one in logged if one["log_level"] == "error"] == []


async def test_what_was_polled_is_acknowledged_once_and_by_its_client_alone(branch: Branch) -> None:
    """The journal says who took note of what; again changes nothing, and nobody notes what is not there."""
    places = [await stand_in(branch), await stand_in(branch), await stand_in(branch, "other")]
    for place in places:
        await branch.decline(place, 100)
    client = HttpClient(branch)
    first = (await client.get("/v1/notices?limit=1")).json
    assert (len(first["notices"]), first["more"], first["acknowledged_up_to"]) == (1, True, "")
    path, up_to = "/v1/notices/acknowledgements", first["notices"][0]["record"]
    done = await client.send("POST", path, {"up_to": up_to})
    again = await client.send("POST", path, {"up_to": up_to})
    assert (done.status, done.body) == (200, again.body)
    [record] = acknowledgements(branch)
    assert (record.client, record.by, record.up_to) == ("till", "till", up_to)
    assert done.json["record"] == f"{record.epoch}/{record.seq}"
    [left] = (await client.get("/v1/notices")).json["notices"]
    assert left["payment_record"] == places[1]
    for wrong in ("1/999999", "2/1"):
        assert (await client.send("POST", path, {"up_to": wrong})).code == "notice_not_found"
    other = HttpClient(branch, "other")
    assert len((await other.get("/v1/notices")).json["notices"]) == 1
    backlog = Backlog(branch.store.reader(), now_ns=branch.pen.desk.time.now_ns, aged_hours=1)
    assert [(one.client, one.notices) for one in backlog._count()] == [("other", 1), ("till", 1)]
    backlog._store.close()
    backlog.close()
    needed = branch.store.late.oldest_needed()
    assert needed == {1: (int(places[1].partition("/")[2]), "till")}, "records that are still told are kept"
    for one in (client, other):
        await one.close()


async def test_what_a_terminal_cannot_hear_is_told_to_whoever_operates(branch: Branch) -> None:
    """A terminal asks for nothing, so its merchant would never hear of a late decline, and no record after it
    could ever be pruned."""
    terminal, path = "iso8583:T0000001", "/v1/notices/acknowledgements"
    branch.centre.up = False
    body = PaymentBody(**payment(100, debit_account_id=PUPIL, credit_account_id=BAKER))
    paid = await branch.gateway.handle(terminal, body.request())
    branch.centre.up = True
    await branch.decline(paid.record, 100)
    till, clerk = HttpClient(branch, "reader"), HttpClient(branch, "clerk")
    for reply in (
        await till.get(f"/v1/notices?client={terminal}"),
        await till.send("POST", path, {"up_to": "1/1", "client": terminal}),
    ):
        assert (reply.code, reply.json["field"]) == ("scope_missing", "client")
    [notice] = (await clerk.get(f"/v1/notices?client={terminal}")).json["notices"]
    assert (notice["payment_record"], notice["outcome"]) == (paid.record, "declined")
    noting = {"up_to": notice["record"], "client": terminal}
    assert (await clerk.send("POST", path, noting)).status == 200
    [record] = acknowledgements(branch)
    assert (record.client, record.by) == (terminal, "clerk")
    assert branch.store.late.oldest_needed() == {}
    for one in (till, clerk):
        await one.close()


async def test_a_hold_that_expired_is_told(branch: Branch) -> None:
    """Nobody asked for it, so nobody would know."""
    await branch.grant(PUPIL, 500)
    client = HttpClient(branch)
    body = payment(200, debit_account_id=PUPIL, credit_account_id=BAKER, timeout_s=1)
    assert (await client.send("POST", "/v1/holds", body)).status == 201
    async with asyncio.timeout(WAIT_S):
        while not (notices := (await client.get("/v1/notices")).json["notices"]):
            await branch.pen.tick()
    assert [(one["outcome"], one["money"], one["amount_minor"]) for one in notices] == [
        ("expired", "released", 200)
    ]
    await client.close()


async def test_a_reversal_that_was_kept_and_took_effect_is_told(branch: Branch) -> None:
    """Its sender heard only that it is kept; the payment came by another way, much later."""
    client = HttpClient(branch)
    body = payment(300, debit_account_id=PUPIL, credit_account_id=BAKER)
    kept = await client.send("POST", "/v1/reversals", {"id": payment_id(), "original_id": body["id"]})
    assert kept.status == 202
    assert (await client.get("/v1/notices")).json["notices"] == []
    assert (await client.send("POST", "/v1/payments", body)).code == "already_reversed"
    [notice] = (await client.get("/v1/notices")).json["notices"]
    assert (notice["id"], notice["outcome"], notice["money"], notice["amount_minor"]) == (
        kept.json["id"],
        "reversed",
        "never_moved",
        300,
    )
    await client.close()


async def test_no_webhook_reaches_a_barred_network(tmp_path: Path) -> None:
    """The site's settings name the address; the box's say where none may lie."""
    key = webhook_key(tmp_path)
    postman = Postman(key.sign, networks_barred=("127.0.0.0/8", "::1/128"))
    async with receiver() as shop:
        for url in (shop.url, shop.url.replace("127.0.0.1", "localhost")):
            said = await postman.post(url, id="x", body=b"{}", now_s=1, timeout_s=2)
            assert (said.outcome, "networks_barred" in said.text) == (Outcome.AWAY, True)
        assert shop.got == []
    await postman.close()
    assert is_barred("::ffff:127.0.0.1", postman._barred)
    assert not is_barred("example.org", postman._barred)


async def test_the_path_of_a_webhook_stays_out_of_the_log(branch: Branch, tmp_path: Path) -> None:
    """Many receivers know their callers by a secret in the address alone."""

    async def garbage(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"no answer of HTTP\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(garbage, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/s3cret?token=s3cret"
    await branch.decline(await stand_in(branch), 100)
    async with server:
        with capture_logs() as lines:
            async with webhooks(branch, webhook_key(tmp_path), till=url):
                await until(lambda: any(line["event"] == "webhook_away" for line in lines), "the line")
    [told, *_] = [line for line in lines if line["event"] == "webhook_away"]
    assert (told["client"], told["host"]) == ("till", url.split("/")[2])
    assert "s3cret" not in str(lines)


async def test_the_columns_of_an_acknowledgement_say_what_its_bytes_say(branch: Branch) -> None:
    """Whose it is stands beside it, and it has no identity."""
    await branch.decline(await stand_in(branch), 100)
    page = (await (client := HttpClient(branch)).get("/v1/notices")).json
    await client.send("POST", "/v1/notices/acknowledgements", {"up_to": page["notices"][0]["record"]})
    await client.close()
    reader = branch.store.reader()
    [row] = [row for row in reader.rows(epoch=1, start=0, limit=1_000) if row.type == "acknowledgement"]
    reader.close()
    assert (row.client, row.id) == ("till", None)
    assert not column_fault(row)
