"""The shield: what a peer may cost before it has said anything useful."""

import asyncio

import pytest
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol

from edgegw.access.shield import BodyTooLarge, BodyTooSlow, Lines, Places, Rates, Shares, bounded, read_whole
from edgegw.core.site import RateRule, Site


def stream() -> StreamReader:
    loop = asyncio.get_running_loop()
    protocol = BaseProtocol(loop)
    protocol.transport = asyncio.Transport()  # connected, as far as the reader asks
    return StreamReader(protocol, limit=1 << 16, loop=loop)


async def test_a_body_in_pieces_is_read_whole() -> None:
    """A body that arrives in two packets is one body."""
    body = stream()
    reading = asyncio.create_task(read_whole(body, length=None, bytes_max=10, timeout_seconds=5))
    await asyncio.sleep(0)
    body.feed_data(b"abc")
    await asyncio.sleep(0)
    body.feed_data(b"def")
    body.feed_eof()
    assert await reading == b"abcdef"


async def test_an_announced_body_that_is_too_large_is_refused_before_it_comes() -> None:
    """Nobody waits for 16 MiB to say no."""
    with pytest.raises(BodyTooLarge):
        await read_whole(stream(), length=11, bytes_max=10, timeout_seconds=5)


async def test_a_body_without_a_length_is_cut_at_the_limit() -> None:
    """A chunked body has no length to believe."""
    body = stream()
    body.feed_data(b"a" * 11)
    with pytest.raises(BodyTooLarge):
        await read_whole(body, length=None, bytes_max=10, timeout_seconds=5)


async def test_a_body_of_exactly_the_limit_is_read() -> None:
    """Off by one at a limit refuses good work."""
    body = stream()
    body.feed_data(b"a" * 10)
    body.feed_eof()
    assert len(await read_whole(body, length=10, bytes_max=10, timeout_seconds=5)) == 10


async def test_a_slow_body_is_given_up_with_what_came() -> None:
    """A peer that sends a byte a minute must not hold a handler."""
    body = stream()
    body.feed_data(b"abc")
    with pytest.raises(BodyTooSlow, match=r"3 bytes of the body came within 0\.01 s"):
        await read_whole(body, length=100, bytes_max=1000, timeout_seconds=0.01)


def test_one_client_cannot_take_everybodys_turn() -> None:
    """A client with a loop gone wild must not lock the others out."""
    shares = Shares(each_max=2)
    assert [shares.take("till"), shares.take("till"), shares.take("till")] == [True, True, False]
    assert shares.take("other")
    shares.give_back("till")
    assert shares.take("till")


async def test_one_connection_too_many_gets_an_answer_and_is_closed() -> None:
    """A silent close looks like a broken network."""
    loop = asyncio.get_running_loop()
    factory = bounded(asyncio.Protocol, has_one_free=lambda: False, answer=b"busy")
    server = await loop.create_server(factory, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await reader.read() == b"busy"
        writer.close()


def _full(**hosts: str) -> tuple[Places[str], list[str]]:
    """Places that are all taken by these strangers, the longest idle first; and who gave way since."""
    gave_way: list[str] = []
    places: Places[str] = Places(places_max=len(hosts), end=gave_way.append)
    for name, host in hosts.items():
        assert places.has_one_free()
        places.take(name)
        places.stranger(name, host)
    return places, gave_way


def test_the_address_with_most_strangers_loses_those_that_were_idle_longest() -> None:
    """A flood from one address takes its own places; an honest one that came first keeps its only one."""
    places, gave_way = _full(till="a", first="b", second="b", third="b")
    for name in ("fourth", "fifth"):
        assert places.has_one_free()
        places.stranger(name, "b")
    assert gave_way == ["first", "second"]
    places.busy("third")
    places.idle("third")
    assert places.has_one_free()
    assert gave_way == ["first", "second", "fourth"]
    assert len(places) == 3


def test_nobody_known_and_no_request_in_hand_gives_way() -> None:
    """To end them would let strangers cut payments off; when only they are there, there is no place."""
    places, gave_way = _full(paid="a", asking="a", gone="a")
    places.known("paid")
    places.busy("paid")
    places.idle("paid")
    places.busy("asking")
    places.leave("gone")
    places.idle("gone")
    assert places.has_one_free()
    places.take("arriving")
    assert not places.has_one_free()
    assert not gave_way
    places.idle("asking")
    assert places.has_one_free()
    assert gave_way == ["asking"]
    places.known("asking")
    assert list(places) == ["paid", "arriving"]


def _site_with(rates: tuple[RateRule, ...]) -> Site:
    return Site(bank="b", version=1, currencies=(), rates=rates)


def test_a_client_that_asks_faster_than_its_rate_waits_and_no_other_one_does() -> None:
    """Its burst, then so many a second; the rule without a name is for each client that has none."""
    now_s = 0.0
    site = _site_with(
        (
            RateRule(per_second_count=2, burst_count=3),
            RateRule(name="fast", per_second_count=100, burst_count=100),
        )
    )
    rates = Rates(site=lambda: site, now_s=lambda: now_s)
    assert [rates.take("slow") for _ in range(5)] == [True, True, True, False, False]
    assert [rates.take("fast") for _ in range(100)] == [True] * 100
    assert rates.take("other")
    now_s = 0.5
    assert [rates.take("slow"), rates.take("slow")] == [True, False]


def test_new_rates_bind_from_the_next_request_on() -> None:
    """Without a rule there is no limit; with one the bucket is full at first."""
    site = _site_with(())
    rates = Rates(site=lambda: site, now_s=lambda: 0.0)
    assert all(rates.take("till") for _ in range(1_000))
    site = _site_with((RateRule(name="till", per_second_count=1, burst_count=2),))
    assert [rates.take("till") for _ in range(3)] == [True, True, False]


def test_strangers_fill_no_log() -> None:
    """So many lines a minute, and again in the next."""
    now_s = 100.0
    lines = Lines(each_minute_max=3, now_s=lambda: now_s)
    assert [lines.take() for _ in range(6)] == [True] * 3 + [False] * 3
    now_s += 60
    assert lines.take()
