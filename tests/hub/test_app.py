"""The hub over real HTTP: signed envelopes in, signed envelopes out, and what operators read."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from unittest.mock import Mock

import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request

from edgegw.core.journal import sm3
from edgegw.core.messages import EXCHANGE_PATH, MESSAGE_BYTES_MAX, Ask, ExchangeError, Verdict
from edgegw.core.records import GrantDirective, SiteDirective
from edgegw.hub.app import make_app
from tests.hub.simulated_box import SimulatedBox, new_key
from tests.hub.world import CNY, NORTH, World, a_site

Client = TestClient


@pytest.fixture
async def client(world: World) -> AsyncIterator[Client]:
    """An HTTP client of a served hub."""
    async with TestClient(TestServer(make_app(world.hub), host="127.0.0.1")) as client:
        yield client


def box_over_http(world: World, client: Client) -> SimulatedBox:
    """A box that talks to the served hub, gzip on the way in; run its methods in a thread."""
    loop = asyncio.get_running_loop()

    async def post(data: bytes) -> bytes:
        headers = {"Content-Encoding": "gzip"}
        async with client.post(EXCHANGE_PATH, data=gzip.compress(data), headers=headers) as response:
            assert response.status == 200, await response.text()
            return await response.read()

    box = world.new_box(NORTH)
    box.talk = lambda data: asyncio.run_coroutine_threadsafe(post(data), loop).result()
    return box


async def test_a_box_opens_asks_and_pays_over_http(world: World, client: Client) -> None:
    """The whole way: link, site, grant, payment, cosignature."""
    box = box_over_http(world, client)
    opened = await asyncio.to_thread(box.open)
    assert opened.verdict is Verdict.OK
    came = await asyncio.to_thread(box.sync)
    assert isinstance(came[0], SiteDirective)
    async with client.get(f"/exchange/site/{came[0].digest}") as response:
        bundle = await response.read()
    assert sm3(bundle).hex() == came[0].digest
    granted = await asyncio.to_thread(box.sync, Ask("1", "A", CNY, 300))
    assert isinstance(granted[0], GrantDirective)
    box.pay("A", "SHOP", 120)
    await asyncio.to_thread(box.sync)
    assert world.hub_key.public.check_cosignature(box.cosignature).checkpoint.size == len(box.bodies)
    async with client.get("/v1/accounts/SHOP") as response:
        account = await response.json()
    assert (account["balance_minor"], account["outstanding"][0]["amount_minor"]) == (120, 120)
    async with client.get("/v1/status") as response:
        status = await response.json()
    assert status["books"] == "sound"
    assert status["boxes"][0]["box"] == NORTH
    assert status["boxes"][0]["records"] == len(box.bodies)
    async with client.get("/metrics") as response:
        words = await response.text()
    assert f'edgegw_hub_records{{box="north"}} {float(len(box.bodies))}' in words


@pytest.mark.parametrize(
    "body", [b"", b"hello", b"\x80", msgspec.msgpack.encode({"bank": 1}), b"\xff" * 1000]
)
async def test_garbage_is_answered_with_what_is_wrong(client: Client, body: bytes) -> None:
    """The process lives on and says why."""
    async with client.post(EXCHANGE_PATH, data=body) as response:
        assert response.status == 400
        problem = await response.json(content_type=None)
    assert problem["code"] == "malformed_message"
    async with client.get("/healthz") as response:
        assert response.status == 200


async def test_a_body_over_the_limit_is_not_read_to_its_end(client: Client) -> None:
    """Memory is bounded, also for a body that grows when it is unpacked."""
    bomb = gzip.compress(b"\x00" * (MESSAGE_BYTES_MAX + (1 << 20)))
    headers = {"Content-Encoding": "gzip"}
    async with client.post(EXCHANGE_PATH, data=bomb, headers=headers) as response:
        assert response.status in (400, 413)


async def test_a_box_that_is_not_pinned_is_turned_away(world: World, client: Client) -> None:
    """A key of its own does not make a box."""
    stranger = SimulatedBox("stranger", new_key("stranger"), world.hub_key.public, lambda data: data)
    sent: list[bytes] = []

    def overhear(data: bytes) -> bytes:
        sent.append(data)
        return data

    stranger.talk = overhear
    with pytest.raises(ExchangeError):
        stranger.open()
    async with client.post(EXCHANGE_PATH, data=sent[0]) as response:
        assert response.status == 403
        assert (await response.json(content_type=None))["code"] == "box_not_pinned"


async def test_what_is_not_there_is_said_so(client: Client) -> None:
    """Unknown accounts and bundles are 404 with a hint."""
    for path in ("/v1/accounts/NOBODY", f"/exchange/site/{'0' * 64}"):
        async with client.get(path) as response:
            assert response.status == 404
            assert (await response.json(content_type=None))["hint"]


async def test_a_bundle_published_while_it_serves_is_announced(world: World, client: Client) -> None:
    """An operator's command beside the serving hub reaches the boxes with their next beat."""
    box = box_over_http(world, client)
    await asyncio.to_thread(box.open)
    await asyncio.to_thread(box.sync)
    world.publish(a_site(2, late_decline_liable="branch"))
    came = await asyncio.to_thread(box.sync)
    assert [type(directive) for directive in came] == [SiteDirective]


@pytest.mark.parametrize("path", ["/metrics", "/v1/status", "/v1/accounts/A"])
async def test_what_operators_read_is_not_for_the_line(world: World, path: str) -> None:
    """Balances are shown on the hub's own machine alone, whatever address the hub listens on."""
    far = Mock(spec=asyncio.Transport)
    far.get_extra_info = {"peername": ("10.1.2.3", 40_000)}.get
    app = make_app(world.hub)
    request = make_mocked_request("GET", path, app=app, transport=far)
    handler = (await app.router.resolve(request)).handler
    assert (await handler(request)).status == 403
