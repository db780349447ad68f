"""An encrypted listener under peers that say nothing, rubbish, or the wrong protocol: it lives on."""

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import aiohttp
import pytest
from structlog.testing import capture_logs

from edgegw.access import arrivals
from tests.encrypted import PLAIN_ANSWER, EchoServer, contexts, echo_server, posted
from tests.waiting import until

HELLO_BEGINS = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


async def _said(port: int, sent: bytes, *, ends: bool = True) -> bytes:
    """All that the listener says to these bytes, until it ends; and to the end of sending, where that
    comes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    if ends:
        writer.write_eof()
    try:
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def _told(logs: Sequence[Mapping[str, object]]) -> list[object]:
    return [line["problem"] for line in logs if line["event"] == "handshake_refused"]


@pytest.mark.parametrize("profile", ["intl", pytest.param("gm-pq", marks=pytest.mark.slow)])
async def test_rubbish_costs_nobody_else_anything(profile: str, folder: Path) -> None:
    """HTTP without TLS hears so, rubbish is cut off with TLS's word or none, and the next peer is served."""
    server, client = contexts(profile, folder)
    async with echo_server(server) as echo:
        with capture_logs() as logs:
            assert await _said(echo.port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") == PLAIN_ANSWER
            for rubbish in (
                b"\0" * 400,
                b"\xff" * 5,
                b"\x16\x03\x01\x00\x04\x01\x00\x00\x00",
                b"\x80\x2e\1\3\1",
            ):
                said = await _said(echo.port, rubbish)
                assert said[:1] in (b"", b"\x15"), rubbish
            await until(lambda: len(_told(logs)) == 5, "all five to be told")
        told = _told(logs)
        assert told[0] == "it spoke HTTP without TLS"
        assert (await posted(echo.url, client))[0] == b"hello"
        await until(lambda: echo.arrivals.under_way == 0, "no handshake is left")


async def test_tls_on_a_plain_port_is_refused_cleanly(folder: Path) -> None:
    """A client that is set up for TLS says so at once, and does not hang, at a port that is not."""
    _, client = contexts("pq", folder)

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    listening = await asyncio.start_server(plain, "127.0.0.1", 0)
    with pytest.raises(aiohttp.ClientConnectorError, match=r"(?i)wrong version number|record layer"):
        await posted(f"https://localhost:{listening.sockets[0].getsockname()[1]}/", client)
    listening.close()


async def test_a_peer_that_says_nothing_is_ended_in_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection without a word, or with half of one, keeps its place for a limited time only."""
    monkeypatch.setattr(arrivals, "HANDSHAKE_S_MAX", 0.1)
    server, _ = contexts("pq", folder)
    async with echo_server(server) as echo:
        with capture_logs() as logs:
            assert await _said(echo.port, b"", ends=False) == b""
            assert await _said(echo.port, HELLO_BEGINS, ends=False) == b""
            await until(lambda: len(logs) == 2, "both to be told")
        assert [line["problem"] for line in logs] == ["its handshake was not done after 0.1 s"] * 2
        await until(lambda: echo.arrivals.under_way == 0, "no handshake is left")


async def _silent(echo: EchoServer, count: int, host: str) -> list[socket.socket]:
    """Connections of a host that say nothing; they have arrived when this returns."""
    before = echo.arrivals.under_way
    peers = []
    for _ in range(count):
        peer = socket.socket()
        peer.bind((host, 0))
        peer.connect(("127.0.0.1", echo.port))
        peer.setblocking(False)
        peers.append(peer)
    wanted = min(before + count, arrivals.HANDSHAKES_MAX)
    await until(lambda: echo.arrivals.under_way >= wanted, f"{wanted} handshakes are under way")
    return peers


async def test_a_flood_from_one_address_does_not_shut_out_another(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One address has few places, and the log few lines, however many connections it opens."""
    monkeypatch.setattr(arrivals, "HANDSHAKE_S_MAX", 300.0)
    monkeypatch.setattr(arrivals, "HANDSHAKES_EACH_MAX", 4)
    monkeypatch.setattr(arrivals, "LINES_EACH_MINUTE", 3)
    server, client = contexts("pq", folder)
    async with echo_server(server) as echo:
        with capture_logs() as logs:
            peers = await _silent(echo, 4, "127.0.0.9")
            for _ in range(10):
                with pytest.raises(OSError):
                    await _from(echo.port, "127.0.0.9", client)
            assert (await posted(echo.url, client))[0] == b"hello"
            await until(lambda: echo.arrivals.under_way == 4, "the silent ones alone to be left")
        assert 3 <= Counter(line["event"] for line in logs)["handshake_refused"] <= 6
        for peer in peers:
            peer.close()


async def _from(port: int, host: str, client: ssl.SSLContext) -> None:
    _, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=client, server_hostname="localhost", local_addr=(host, 0)
    )
    writer.close()


async def test_who_speaks_takes_the_place_of_who_is_silent_longest(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silent peers from many addresses fill all places, and an honest one still gets in."""
    monkeypatch.setattr(arrivals, "HANDSHAKE_S_MAX", 300.0)
    monkeypatch.setattr(arrivals, "HANDSHAKES_MAX", 6)
    server, client = contexts("pq", folder)
    async with echo_server(server) as echo:
        peers = [(await _silent(echo, 1, f"127.0.0.{number}"))[0] for number in range(20, 26)]
        assert (await posted(echo.url, client))[0] == b"hello"
        # The first has lost its place, the second still has it.
        await until(lambda: _has_ended(peers[0]), "the longest silent one was ended")
        assert not _has_ended(peers[1])
        for peer in peers:
            peer.close()


async def test_an_address_with_many_gives_way_before_an_older_one_with_few(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who fills all places from one address does not cost a slow peer of another its own."""
    monkeypatch.setattr(arrivals, "HANDSHAKE_S_MAX", 300.0)
    monkeypatch.setattr(arrivals, "HANDSHAKES_MAX", 6)
    server, client = contexts("pq", folder)
    async with echo_server(server) as echo:
        peers = await _silent(echo, 1, "127.0.0.20") + await _silent(echo, 5, "127.0.0.21")
        assert (await posted(echo.url, client))[0] == b"hello"
        await until(lambda: _has_ended(peers[1]), "the longest of the many was ended")
        assert not _has_ended(peers[0])
        for peer in peers:
            peer.close()


def _has_ended(peer: socket.socket) -> bool:
    try:
        return peer.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


async def test_a_connection_that_closed_meanwhile_does_not_end_the_watch_over_the_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The certificates of everybody else would go on for ever, revoked or not."""
    monkeypatch.setattr(arrivals, "WATCH_EACH_S", 0.01)
    ours, theirs = contexts("intl", folder)
    async with echo_server(ours) as server, aiohttp.ClientSession() as session:
        async with session.post(server.url, data=b"hello", ssl=theirs) as answer:
            assert await answer.read() == b"hello"
            (secured,) = server.arrivals._secured
            secured.abort()
            secured.close()
        await until(lambda: not server.arrivals._secured, "the closed one to be forgotten")
