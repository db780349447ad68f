"""Both sides of an encrypted line for tests: contexts of a profile, and a real aiohttp server behind them."""

import asyncio
import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web

from edgegw.access.arrivals import Arrivals
from edgegw.access.tls import TransportContext, certified_uris, client_context, server_context
from edgegw.tls_tables import ClientTls, ServerTls
from tests.certificates import Authority, Files

PROFILES = ("intl", "pq", "gm", "gm-pq")
BODY_BYTES_MAX = 1 << 26
PLAIN_ANSWER = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\nthis port speaks TLS"


def kind_of(profile: str) -> str:
    """The kind of certificates that a profile takes."""
    return "sm2" if profile.startswith("gm") else "p256"


def authority(folder: Path, kind: str, name: str = "ca") -> Authority:
    """One authority of a kind and name in a folder, made once."""
    return _authority(folder, kind, name)


@functools.cache
def _authority(folder: Path, kind: str, name: str) -> Authority:
    return Authority(folder, kind, name=name)


def serving(profile: str, files: Files, ca: Path | None, *, crl: str = "") -> ServerTls:
    """The table of a listener; with a CA it wants its clients certified."""
    return ServerTls(
        profile=profile,
        certificate_file=str(files.certificate),
        key_file=str(files.key),
        client_ca_file="" if ca is None else str(ca),
        crl_file=crl,
    )


def connecting(profile: str, files: Files, ca: Path, *, server_name: str = "", crl: str = "") -> ClientTls:
    """The table of what connects."""
    return ClientTls(
        profile=profile,
        certificate_file=str(files.certificate),
        key_file=str(files.key),
        ca_file=str(ca),
        server_name=server_name,
        crl_file=crl,
    )


def contexts(profile: str, folder: Path) -> tuple[TransportContext, TransportContext]:
    """The server's and the client's, of one authority; the client is `edgegw://bank/box-1`."""
    ca = authority(folder, kind_of(profile))
    server = server_context(serving(profile, ca.server(), ca.ca))
    return server, client_context(connecting(profile, ca.box("box-1"), ca.ca))


class EchoServer:
    """A real aiohttp server: POST / gives the body back, with what was negotiated in its headers."""

    def __init__(self, arrivals: Arrivals, port: int) -> None:
        self.arrivals = arrivals
        self.port = port
        self.url = f"https://localhost:{port}/"
        self.taken: list[int] = []
        self.shown: list[bytes | None] = []
        """The certificate of each request's client, DER."""


@asynccontextmanager
async def echo_server(context: TransportContext, *, host: str = "127.0.0.1") -> AsyncIterator[EchoServer]:
    """An echo server at a free port."""

    async def echo(request: web.Request) -> web.Response:
        body = await request.read()
        server.taken.append(len(body))
        assert request.transport is not None
        line = request.transport.get_extra_info("ssl_object")
        server.shown.append(line.getpeercert(binary_form=True))
        said = [line.version(), line.cipher()[0], getattr(line, "group", "")]
        uris = certified_uris(request.transport) or ()
        return web.Response(body=body, headers={"Line": " ".join(said), "Uris": " ".join(uris)})

    application = web.Application(client_max_size=BODY_BYTES_MAX)
    application.router.add_post("/", echo)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    assert runner.server is not None
    arrivals = Arrivals(context, name="echo", plain_answer=PLAIN_ANSWER)
    listening = await asyncio.get_running_loop().create_server(
        arrivals.protocol(runner.server), host, 0, backlog=1024
    )
    server = EchoServer(arrivals, listening.sockets[0].getsockname()[1])
    try:
        yield server
    finally:
        listening.close()
        arrivals.end()
        await runner.cleanup()


async def posted(url: str, context: TransportContext, body: bytes = b"hello") -> tuple[bytes, str, str]:
    """What a fresh connection gets: the body, what was negotiated, and the URIs that the server saw."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=body, ssl=context) as answer,
    ):
        return await answer.read(), answer.headers["Line"].strip(), answer.headers["Uris"]
