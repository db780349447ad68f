"""Handshakes take no more than their share of the processor, and no address takes another's turn."""

import asyncio
import contextlib
import ssl
import time
from pathlib import Path

import aiohttp
import pytest
from structlog.testing import capture_logs

from edgegw.access import arrivals, turns
from edgegw.access.turns import Turns
from tests.encrypted import contexts, echo_server, posted

FLOOD_S = 0.5


class _Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


async def _tired(clock: _Clock, share: float = 0.25) -> Turns:
    """Turns whose credit is used up."""
    made = Turns(share, now_s=clock)
    made.done(await made.wait("before"), turns.BURST_S)
    assert made._credit() <= 0
    return made


async def test_an_address_with_many_handshakes_does_not_delay_one_with_few() -> None:
    """Whoever comes behind a hundred of one address is next but one."""
    clock, order = _Clock(), list[str]()
    made = await _tired(clock)

    async def shake(host: str) -> None:
        made.done(await made.wait(host), 0.004)
        order.append(host)

    tasks = [asyncio.ensure_future(shake("flood")) for _ in range(20)]
    await asyncio.sleep(0)
    tasks += [asyncio.ensure_future(shake(host)) for host in ("till-1", "till-2")]
    await asyncio.sleep(0)
    assert made.waiting == 22
    while made.waiting:
        clock.now_s += 0.02
        made._go_on()
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert set(order[:3]) == {"flood", "till-1", "till-2"}


async def test_work_stays_within_its_share_whatever_a_handshake_costs() -> None:
    """Handshakes that cost more than was thought wait the longer for it; a rest gives a burst and no more."""
    for cost_s in (0.001, 0.02):
        clock, spent_s = _Clock(), 0.0
        made = await _tired(clock)
        begun_s = clock.now_s
        clock.now_s += 1_000.0
        began = [asyncio.ensure_future(made.wait("flood")) for _ in range(800)]
        await asyncio.sleep(0)
        while clock.now_s < begun_s + 1_003.0:
            for one in [one for one in began if one.done()]:
                began.remove(one)
                spent_s += cost_s + turns.BESIDES_S
                made.done(one.result(), cost_s)
            clock.now_s += 0.01
            made._go_on()
            await asyncio.sleep(0)
        assert 0.25 * 3 * 0.9 < spent_s < 0.25 * 3 * 1.1 + 3 * turns.BURST_S
        for one in began:
            one.cancel()


async def test_who_leaves_while_it_waits_costs_no_turn() -> None:
    """A peer that hangs up in the queue is passed over."""
    clock = _Clock()
    made = await _tired(clock)
    gone, stays = (asyncio.ensure_future(made.wait("one")) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    clock.now_s += 0.05
    before_s = made._credit()
    made._go_on()
    assert made._credit() == pytest.approx(before_s - made._guess_s)
    assert (await stays, made.waiting) == (made._guess_s, 0)


async def test_a_handshake_whose_turn_does_not_come_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends in the time that handshakes have, and its place is free again."""
    monkeypatch.setattr(arrivals, "HANDSHAKE_S_MAX", 0.05)
    server, client = contexts("intl", folder)
    async with echo_server(server) as echo:
        echo.arrivals._turns = await _tired(_Clock())
        async with asyncio.timeout(2):
            with capture_logs() as logs, pytest.raises(aiohttp.ClientError):
                await posted(echo.url, client)
        assert "its turn did not come" in str([line.get("problem") for line in logs])
        assert echo.arrivals.under_way == 0


@pytest.mark.slow
async def test_a_flood_of_greetings_leaves_the_processor_to_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over real connections: a peer plays one greeting back as fast as it can, and what the server computes
    for that stays within the share; an honest peer at another address still gets in."""
    work_s = 0.0
    settle = Turns.done

    def done(made: Turns, guess_s: float, cost_s: float) -> None:
        nonlocal work_s
        work_s += cost_s
        settle(made, guess_s, cost_s)

    monkeypatch.setattr(Turns, "done", done)
    server, client = contexts("intl", folder)
    greeting = _greeting(client)
    async with echo_server(server) as echo:

        async def flood() -> None:
            while True:
                with contextlib.suppress(OSError):
                    reader, writer = await asyncio.open_connection(
                        "127.0.0.1", echo.port, local_addr=("127.0.0.7", 0)
                    )
                    writer.write(greeting)
                    await reader.read(1)
                    writer.transport.abort()

        tasks = [asyncio.ensure_future(flood()) for _ in range(16)]
        began_s = time.monotonic()
        while time.monotonic() - began_s < FLOOD_S:
            assert (await posted(echo.url, client))[0] == b"hello"
        passed_s = time.monotonic() - began_s
        for task in tasks:
            task.cancel()
    assert 0 < work_s < arrivals.SHARE * passed_s + 2 * turns.BURST_S


def _greeting(client: ssl.SSLContext) -> bytes:
    leaving = ssl.MemoryBIO()
    wrapped = client.wrap_bio(ssl.MemoryBIO(), leaving, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        wrapped.do_handshake()
    return leaving.read()
