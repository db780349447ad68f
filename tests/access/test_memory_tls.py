"""pyOpenSSL behind asyncio's interface: bytes in are bytes out, however they are cut, and however it ends."""

import asyncio
import functools
import random
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tlslite.api import HandshakeSettings, TLSConnection, X509CertChain, parsePEMKey
from tlslite.errors import TLSLocalAlert, TLSRemoteAlert

from edgegw.access.tls import TransportContext
from tests.certificates import Files
from tests.encrypted import authority, contexts, echo_server, posted

ADAPTED = ("pq", "gm", "gm-pq")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@functools.cache
def _pair(profile: str, folder: Path) -> tuple[TransportContext, TransportContext]:
    return contexts(profile, folder)


class _Side:
    """One end in memory."""

    def __init__(self, context: TransportContext, *, is_server: bool) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        host = None if is_server else "localhost"
        self.line = context.wrap_bio(
            self.incoming, self.outgoing, server_side=is_server, server_hostname=host
        )
        self.received = bytearray()
        self.has_ended = False

    def step(self, what: Callable[[], object]) -> bool:
        """Whether it could be done with what has come."""
        try:
            what()
        except ssl.SSLWantReadError:
            return False
        return True

    def read(self, size: int) -> None:
        """Take what has come, in pieces of this size."""
        try:
            while data := self.line.read(size):
                self.received += data
            self.has_ended = True
        except ssl.SSLWantReadError:
            return


def _shake(client: _Side, server: _Side, chance: random.Random) -> None:
    done = {client: False, server: False}
    while not all(done.values()):
        for side, other in ((client, server), (server, client)):
            done[side] = done[side] or side.step(side.line.do_handshake)
            _carry(
                side, other, chance, lambda end: end.step(end.line.do_handshake) if not done[end] else None
            )


def _carry(side: _Side, other: _Side, chance: random.Random, arrived: Callable[[_Side], object]) -> None:
    """What has left one side arrives at the other, cut at random."""
    sent = side.outgoing.read()
    while sent:
        size = chance.choice((1, 5, 100, 1_400, 20_000, 1 << 17))
        other.incoming.write(sent[:size])
        sent = sent[size:]
        if len(sent) < 1_000 or chance.random() < 0.5:
            arrived(other)
    arrived(other)


CUT = given(
    seed=st.integers(0, 1 << 32),
    sizes=st.lists(st.sampled_from((1, 2, 1_000, 16_383, 16_384, 16_385, 70_000)), min_size=1, max_size=5),
    piece=st.sampled_from((1_000, 16_384, 1 << 18)),
)


@settings(max_examples=8)
@CUT
def test_no_byte_is_lost_or_moved_however_it_is_cut(
    folder: Path, seed: int, sizes: list[int], piece: int
) -> None:
    """Both ways at once, records and segments cut anywhere, read in any pieces; and the end comes last."""
    _carried("pq", folder, seed, sizes, piece)


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["intl", *ADAPTED])
@settings(max_examples=200)
@CUT
def test_no_byte_is_lost_or_moved_by_any_profile(
    profile: str, folder: Path, seed: int, sizes: list[int], piece: int
) -> None:
    """The same for all profiles, many times; the standard library's own is held to it, too."""
    _carried(profile, folder, seed, sizes, piece)


def _carried(profile: str, folder: Path, seed: int, sizes: list[int], piece: int) -> None:
    chance = random.Random(seed)
    server_context, client_context = _pair(profile, folder)
    client, server = _Side(client_context, is_server=False), _Side(server_context, is_server=True)
    _shake(client, server, chance)
    sent = {client: bytearray(), server: bytearray()}
    for size in sizes:
        for side, other in ((client, server), (server, client)):
            data = chance.randbytes(size)
            assert side.line.write(memoryview(data)) == size
            sent[side] += data
            _carry(side, other, chance, lambda end: end.read(piece))
    assert server.received == sent[client]
    assert client.received == sent[server]
    assert not client.has_ended
    assert not server.step(server.line.unwrap)
    _carry(server, client, chance, lambda end: end.read(piece))
    assert client.has_ended
    assert client.step(client.line.unwrap)
    _carry(client, server, chance, lambda _: None)
    assert server.step(server.line.unwrap)


@pytest.mark.parametrize("profile", ["pq", pytest.param("gm-pq", marks=pytest.mark.slow)])
async def test_a_kept_connection_carries_large_bodies_whole(profile: str, folder: Path) -> None:
    """Bodies of megabytes go both ways on one connection, one after the other and unmixed."""
    server, client = contexts(profile, folder)
    chance = random.Random(profile)
    async with echo_server(server) as echo, aiohttp.ClientSession() as session:
        for size in (1_500_000, 0, 1, 16_384, 200_001):
            body = chance.randbytes(size)
            async with session.post(echo.url, data=body, ssl=client) as answer:
                assert await answer.read() == body


@pytest.mark.parametrize("profile", ["pq", pytest.param("gm-pq", marks=pytest.mark.slow)])
async def test_an_abrupt_end_or_a_cancelled_request_harms_nobody_else(profile: str, folder: Path) -> None:
    """A peer that vanishes amid a body is no request, and the next one is answered."""
    server, client = contexts(profile, folder)
    async with echo_server(server) as echo:
        _, writer = await asyncio.open_connection("localhost", echo.port, ssl=client)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b"x" * 50_000)
        await writer.drain()
        writer.transport.abort()
        async with aiohttp.ClientSession() as session:
            under_way = asyncio.Event()

            async def endless() -> AsyncIterator[bytes]:
                yield b"x" * 20_000
                under_way.set()
                await asyncio.Event().wait()

            sending = asyncio.create_task(session.post(echo.url, data=endless(), ssl=client))
            await under_way.wait()
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            async with session.post(echo.url, data=b"after", ssl=client) as answer:
                assert await answer.read() == b"after"
    assert echo.taken == [5]


@pytest.mark.parametrize("profile", [pytest.param("intl", marks=pytest.mark.slow), "gm-pq"])
async def test_what_was_sent_before_the_end_of_sending_is_read(profile: str, folder: Path) -> None:
    """A peer that says goodbye right behind its last bytes loses none of them, and gets a goodbye."""
    server, client = contexts(profile, folder)
    got: list[bytes] = []
    ended = asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.read(-1))
        writer.close()
        ended.set()

    listening = await asyncio.start_server(take, "127.0.0.1", 0, ssl=server)
    port = listening.sockets[0].getsockname()[1]
    _, writer = await asyncio.open_connection("localhost", port, ssl=client)
    writer.write(b"x" * 300_000)
    writer.close()
    await writer.wait_closed()
    await ended.wait()
    assert got == [b"x" * 300_000]
    listening.close()


# --- another TLS --------------------------------------------------------------------------------------------


def _offering(groups: list[str]) -> HandshakeSettings:
    offered = HandshakeSettings()
    offered.minVersion = (3, 4)
    offered.eccCurves = offered.keyShares = groups
    return offered


def _material(files: Files) -> tuple[X509CertChain, object]:
    chain = X509CertChain()
    chain.parsePemList(files.certificate.read_text())
    return chain, parsePEMKey(files.key.read_text(), private=True)


async def test_pq_is_understood_by_another_tls_as_client(folder: Path) -> None:
    """What pyOpenSSL and pyOpenSSL agree on could be wrong on both sides; a TLS in pure Python agrees, too,
    and without the hybrid it is refused by TLS's own word."""
    server, _ = contexts("pq", folder)
    files = authority(folder, "p256").box("box-7")

    def ask(groups: list[str]) -> bytes:
        with socket.create_connection(("127.0.0.1", echo.port)) as plain:
            line = TLSConnection(plain)
            chain, key = _material(files)
            line.handshakeClientCert(chain, key, settings=_offering(groups), serverName="localhost")
            line.write(b"POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi")
            answer = b""
            while not answer.endswith(b"hi"):
                answer += line.read(max=1_000)
            line.close()
            return answer

    async with echo_server(server) as echo:
        answer = await asyncio.to_thread(ask, ["x25519mlkem768"])
        assert b"Uris: edgegw://bank/box-7" in answer
        assert b"X25519MLKEM768" in answer
        with pytest.raises(TLSRemoteAlert, match="handshake_failure"):
            await asyncio.to_thread(ask, ["x25519"])
    assert echo.taken == [2]


async def test_pq_is_understood_by_another_tls_as_server(folder: Path) -> None:
    """The same the other way round."""
    _, client = contexts("pq", folder)
    files = authority(folder, "p256").server()
    said: list[tuple[int, bool]] = []

    def serve(groups: list[str]) -> None:
        plain, _ = listening.accept()
        with plain:
            line = TLSConnection(plain)
            chain, key = _material(files)
            line.handshakeServer(certChain=chain, privateKey=key, reqCert=True, settings=_offering(groups))
            said.append((line.ecdhCurve, line.session.clientCertChain is not None))
            head = b""
            while b"\r\n\r\n" not in head:
                head += line.read(max=1_000)
            line.write(b"HTTP/1.1 200 OK\r\nLine: x\r\nUris: x\r\nContent-Length: 2\r\n\r\nhi")
            line.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"https://127.0.0.1:{listening.getsockname()[1]}/"
        serving = asyncio.create_task(asyncio.to_thread(serve, ["x25519mlkem768"]))
        assert (await posted(url, client, b""))[0] == b"hi"
        await serving
        assert said == [(0x11EC, True)]
        serving = asyncio.create_task(asyncio.to_thread(serve, ["x25519"]))
        with pytest.raises(aiohttp.ClientError, match=r"(?i)handshake failure"):
            await posted(url, client)
        with pytest.raises(TLSLocalAlert, match="No acceptable group"):
            await serving
