"""The ways in over TLS: payments as without it, and what speaks no TLS, or no certificate, gets no place."""

import asyncio
import logging
from pathlib import Path

import aiohttp
import msgspec
import pytest

from edgegw.access.tls import TransportContext, client_context
from edgegw.core.site import CertificateRule, Site
from edgegw.payments.protocols.http import HttpOptions
from edgegw.tls_tables import ServerTls
from tests.encrypted import authority, connecting, kind_of, serving
from tests.payments.branch import BAKER, PUPIL, Branch, HttpClient, open_branch, payment
from tests.payments.protocols.iso8583_branch import FUNDS_MINOR, PAYMENT, SIGN_ON, Terminal, branch
from tests.waiting import until


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


def _table(profile: str, folder: Path, *, mutual: bool = True) -> ServerTls:
    ours = authority(folder, kind_of(profile))
    return serving(profile, ours.server(), ours.ca if mutual else None)


def _is_reading(opened: Branch) -> bool:
    assert opened.server is not None
    return any(peer._current_request is not None for peer in opened.server._places)


def _client(profile: str, folder: Path, *, ca: str = "ca") -> TransportContext:
    """What a client of the box uses; its certificate is of this CA."""
    ours, its = authority(folder, kind_of(profile)), authority(folder, kind_of(profile), ca)
    return client_context(connecting(profile, its.box("till"), ours.ca))


@pytest.mark.parametrize(
    ("profile", "mutual"), [("gm-pq", True), pytest.param("intl", False, marks=pytest.mark.slow)]
)
async def test_a_payment_over_tls_is_made_once_and_answered_the_same(
    profile: str, mutual: bool, tmp_path: Path, folder: Path
) -> None:
    """Encryption changes nothing of a payment, its repeat or a large batch."""
    options = HttpOptions(port=0, tls=_table(profile, folder, mutual=mutual))
    async with open_branch(tmp_path, options=options) as opened:
        await opened.grant(BAKER, 10_000)
        till = HttpClient(opened)
        client, body = _client(profile, folder), payment(100)
        first, again = [await till.send("POST", "/v1/payments", body, ssl=client) for _ in range(2)]
        assert (first.status, first.body) == (201, again.body)
        batch = {"payments": [payment(1) for _ in range(200)]}
        reply = await till.send("POST", "/v1/payments/batch", batch, ssl=client)
        assert [item["status"] for item in reply.json["answers"]] == [201] * 200
        assert opened.book.available(PUPIL) == 300
        await till.close()


async def test_what_does_not_speak_tls_takes_no_place_of_a_client(
    tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """HTTP without TLS hears a problem; neither it nor strangers nor goodbyes use up the connections or fill
    the log."""
    options = HttpOptions(port=0, connections_max=2, tls=_table("gm", folder))
    async with open_branch(tmp_path, options=options) as opened:
        port = int(opened.url.rpartition(":")[2])
        for _ in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
            said = await reader.read()
            assert said.startswith(b"HTTP/1.1 400 ")
            assert b'"code":"malformed_http"' in said
            writer.close()
        stranger = _client("gm", folder, ca="others")
        till = HttpClient(opened)
        with pytest.raises(aiohttp.ClientError):
            await till.send("GET", "/readyz", ssl=stranger)
        with caplog.at_level(logging.WARNING, logger="asyncio"):
            _, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=_client("gm", folder), server_hostname="localhost"
            )
            writer.write(b"POST /v1/payments HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n")
            writer.write(b"Content-Type: application/json\r\nAuthorization: ")
            writer.write(till.headers["Authorization"].encode() + b"\r\n\r\nhalf")
            await until(lambda: _is_reading(opened), "the body to be waited for")
            writer.close()
            await writer.wait_closed()
            assert (await till.send("GET", "/readyz", ssl=_client("gm", folder))).status == 200
        assert not caplog.records
        await till.close()


@pytest.mark.parametrize("profile", ["gm", pytest.param("intl", marks=pytest.mark.slow)])
async def test_a_terminal_pays_over_tls_and_a_stranger_does_not(
    profile: str, tmp_path: Path, folder: Path
) -> None:
    """ISO 8583 is the same inside TLS; plain frames and certificates of another CA are counted and cut."""
    async with branch(tmp_path, tls=_table(profile, folder)) as here:
        port = int(here.server.addresses[0].rpartition(":")[2])
        terminal = Terminal(
            *await asyncio.open_connection(
                "127.0.0.1", port, ssl=_client(profile, folder), server_hostname="localhost"
            )
        )
        assert (await terminal.ask(SIGN_ON)).fields[39] == "00"
        first, again = await terminal.ask(PAYMENT), await terminal.ask(PAYMENT)
        assert first == again
        assert here.gateway.available("card-a") == FUNDS_MINOR - 12_345
        plain = await here.connect()
        await plain.send(SIGN_ON)
        plain.writer.write_eof()
        assert await plain.ended()
        _, stranger = await asyncio.open_connection(
            "127.0.0.1",
            port,
            ssl=_client(profile, folder, ca="others"),
            server_hostname="localhost",
        )
        await until(lambda: here.gateway.events["handshake_refused"] == 2, "both refusals")
        assert here.gateway.events["connected"] == 1
        for one in (stranger, terminal.writer):
            one.close()


async def test_tls_at_a_plain_terminal_port_is_closed(tmp_path: Path, folder: Path) -> None:
    """A terminal that was set up for TLS ends at once at a port that is not, and the port lives on."""
    async with branch(tmp_path) as here:
        port = int(here.server.addresses[0].rpartition(":")[2])
        with pytest.raises(ConnectionError):
            await asyncio.open_connection(
                "127.0.0.1", port, ssl=_client("gm", folder), server_hostname="localhost"
            )
        assert (await (await here.signed_on()).ask(PAYMENT)).fields[39] == "00"


async def test_a_till_without_its_certificate_pays_nothing(tmp_path: Path, folder: Path) -> None:
    """Over real connections: the token counts with the client's certificate alone, the certificate where the
    settings say so, and new settings count on a connection that is open already."""
    tied = (CertificateRule(uri="edgegw://bank/till"),)
    async with open_branch(tmp_path, options=HttpOptions(port=0, tls=_table("intl", folder))) as opened:
        await opened.grant(BAKER, 10_000)
        till = HttpClient(opened)
        own, body = _client("intl", folder), payment(100)
        assert (await till.send("GET", "/v1/status", ssl=own)).status == 200

        def tying(certificates: tuple[CertificateRule, ...], version: int, *, enough: bool) -> Site:
            clients = [
                msgspec.structs.replace(one, certificates=certificates, certificate_is_enough=enough)
                if one.name == "till"
                else one
                for one in opened.site().clients
            ]
            return opened.site(version=version, clients=tuple(clients))

        await opened.use_site(tying((CertificateRule(dns="another.example"),), 2, enough=False))
        refused = await till.send("POST", "/v1/payments", body, ssl=own)
        assert (refused.status, refused.code) == (403, "certificate_wrong")
        assert "edgegw://bank/till" in refused.json["message"]
        await opened.use_site(tying(tied, 3, enough=True))
        assert (await till.send("POST", "/v1/payments", body, ssl=own)).status == 201
        clerk = client_context(
            connecting("intl", authority(folder, "p256").box("clerk"), authority(folder, "p256").ca)
        )
        till.headers = {}
        assert (await till.send("POST", "/v1/payments", payment(1), ssl=own)).status == 201
        refused = await till.send("POST", "/v1/payments", payment(1), ssl=clerk)
        assert (refused.status, refused.code) == (401, "token_missing")
        assert opened.book.available(PUPIL) == 101
        await till.close()


async def test_a_terminal_is_heard_only_with_its_certificate(tmp_path: Path, folder: Path) -> None:
    """Its own, or that of the switch in front of it; another's sign-on and payment are answered 63."""
    async with branch(tmp_path, tls=_table("gm", folder)) as here:
        port = int(here.server.addresses[0].rpartition(":")[2])

        async def pays(rule: CertificateRule) -> tuple[str, str]:
            site = here.gateway.site
            assert site is not None
            first, *others = site.terminals
            tied = msgspec.structs.replace(first, certificates=(rule,))
            here.gateway.site = msgspec.structs.replace(site, terminals=(tied, *others))
            terminal = Terminal(
                *await asyncio.open_connection(
                    "127.0.0.1", port, ssl=_client("gm", folder), server_hostname="localhost"
                )
            )
            said = [(await terminal.ask(raw)).fields[39] for raw in (SIGN_ON, PAYMENT)]
            terminal.writer.close()
            return said[0], said[1]

        assert await pays(CertificateRule(uri="edgegw://bank/switch")) == ("63", "63")
        assert await pays(CertificateRule(uri="edgegw://bank/till")) == ("00", "00")


async def test_a_terminal_with_a_certificate_is_not_heard_in_the_clear(tmp_path: Path) -> None:
    """At a port without TLS nothing is shown, so a terminal that is tied to a certificate is refused."""
    async with branch(tmp_path) as here:
        site = here.gateway.site
        assert site is not None
        first, *others = site.terminals
        tied = msgspec.structs.replace(first, certificates=(CertificateRule(uri="edgegw://bank/till"),))
        here.gateway.site = msgspec.structs.replace(site, terminals=(tied, *others))
        answer = await (await here.connect()).ask(SIGN_ON)
        assert (answer.fields[39], answer.fields[44]) == ("63", "certificate missing")
