"""Transport profiles over real aiohttp servers and clients: what is negotiated, and who is refused."""

import asyncio
import datetime
import ssl
from pathlib import Path

import aiohttp
import pytest
from OpenSSL import SSL
from structlog.testing import capture_logs

from edgegw.access.memory_tls import Connected, allow_only
from edgegw.access.tls import TlsError, TransportContext, client_context, own_context, server_context
from tests.certificates import Files
from tests.encrypted import (
    PROFILES,
    authority,
    connecting,
    contexts,
    echo_server,
    kind_of,
    posted,
    serving,
)

YESTERDAY = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
SLOW = pytest.mark.slow
NEGOTIATED = {
    "intl": "TLSv1.3 TLS_AES_256_GCM_SHA384",
    "pq": "TLSv1.3 TLS_AES_256_GCM_SHA384 X25519MLKEM768",
    "gm": "TLSv1.3 TLS_SM4_GCM_SM3 curveSM2",
    "gm-pq": "TLSv1.3 TLS_SM4_GCM_SM3 curveSM2MLKEM768",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.mark.parametrize("profile", PROFILES)
async def test_a_profile_that_negotiates_something_else_is_seen(profile: str, folder: Path) -> None:
    """Version, cipher, group and the client's certificate are those that the profile promises."""
    server, client = contexts(profile, folder)
    async with echo_server(server) as echo:
        body, line, uris = await posted(echo.url, client)
    assert (body, line, uris) == (b"hello", NEGOTIATED[profile], "edgegw://bank/box-1")


class _Refused:
    """Wrong pairs of certificates, as (server's, client's) contexts."""

    def __init__(self, profile: str, folder: Path) -> None:
        self.profile = profile
        self.ours = authority(folder, kind_of(profile))
        self.others = authority(folder, kind_of(profile), "others")

    def pair(self, harm: str) -> tuple[TransportContext, TransportContext]:
        """The pair with one harm in it."""
        server, client, server_ca, client_ca, name = (
            self.ours.server(),
            self.ours.box("box-1"),
            self.ours.ca,
            self.ours.ca,
            "",
        )
        if harm == "the server's CA is another":
            server = self.others.server()
        elif harm == "the client's CA is another":
            client = self.others.box("box-1")
        elif harm == "the server's name is another":
            name = "hub.bank.example"
        elif harm == "the server's address is another":
            name = "127.0.0.2"
        elif harm == "the server's certificate has expired":
            server = self.ours.issue("old-server", self.ours.names("localhost"), ends=YESTERDAY)
        elif harm == "the client's certificate has expired":
            client = self.ours.issue("old-box", self.ours.names("localhost"), ends=YESTERDAY)
        made = server_context(serving(self.profile, server, server_ca))
        return made, client_context(connecting(self.profile, client, client_ca, server_name=name))


CLIENT_REFUSES = {
    "the server's CA is another": "unable to get local issuer",
    "the server's name is another": "ostname mismatch",
    "the server's address is another": "IP address mismatch",
    "the server's certificate has expired": "certificate has expired",
}
SERVER_REFUSES = {
    "the client's CA is another": "unable to get local issuer",
    "the client's certificate has expired": "certificate has expired",
}


@pytest.mark.parametrize("profile", ["intl", "pq", pytest.param("gm", marks=SLOW), "gm-pq"])
async def test_a_certificate_that_does_not_fit_is_refused(profile: str, folder: Path) -> None:
    """Nobody speaks with a stranger, with another host, or by a certificate whose time is over; the side that
    refuses says why."""
    wrong = _Refused(profile, folder)
    for harm, said in CLIENT_REFUSES.items():
        server, client = wrong.pair(harm)
        async with echo_server(server) as echo:
            with pytest.raises(aiohttp.ClientConnectorCertificateError) as refused:
                await posted(echo.url, client)
        assert said in str(refused.value), harm
        assert echo.taken == []
    for harm, said in SERVER_REFUSES.items():
        server, client = wrong.pair(harm)
        with capture_logs() as logs:
            async with echo_server(server) as echo:
                with pytest.raises(aiohttp.ClientError):
                    await posted(echo.url, client)
        told = [line["problem"] for line in logs if line["event"] == "handshake_refused"]
        assert len(told) == 1, harm
        assert said in told[0], harm
        assert echo.taken == []


@pytest.mark.parametrize("profile", ["intl", pytest.param("pq", marks=SLOW), "gm", "gm-pq"])
async def test_a_client_without_a_certificate_is_refused_and_told(profile: str, folder: Path) -> None:
    """A listener that wants certificates lets nobody in without, and the client hears TLS's word for it."""
    server, client = contexts(profile, folder)
    made = _without_certificate(profile, folder)
    async with echo_server(server) as echo:
        with capture_logs() as logs, pytest.raises(aiohttp.ClientOSError, match=r"(?i)certificate.required"):
            await posted(echo.url, made)
        assert "did not return a certificate" in next(
            line["problem"] for line in logs if line["event"] == "handshake_refused"
        )
        assert (await posted(echo.url, client))[0] == b"hello"
    assert echo.taken == [5]


def _without_certificate(profile: str, folder: Path) -> ssl.SSLContext:
    ca = authority(folder, kind_of(profile)).ca
    if profile == "intl":
        return ssl.create_default_context(cafile=str(ca))
    return _by_hand(profile, ca)


class _ByHand(ssl.SSLContext):
    """A client of pyOpenSSL's that offers just what a test wants."""

    made: SSL.Context

    def wrap_bio(self, incoming, outgoing, server_side=False, server_hostname=None, session=None):  # type: ignore[no-untyped-def]
        return Connected(self.made, incoming, outgoing, server_side=False, server_hostname=server_hostname)


OFFERS = {
    "pq": ("X25519MLKEM768", "ECDSA+SHA256"),
    "gm": ("curveSM2", "sm2sig_sm3"),
    "gm-pq": ("curveSM2MLKEM768", "sm2sig_sm3"),
}


def _by_hand(
    profile: str, ca: Path, *, groups: str = "", files: Files | None = None, version: int = SSL.TLS1_3_VERSION
) -> ssl.SSLContext:
    offered, signatures = OFFERS[profile]
    client = SSL.Context(SSL.TLS_METHOD)
    assert allow_only(client, groups=groups or offered, signatures=signatures)
    if profile.startswith("gm"):
        client.set_tls13_ciphersuites(b"TLS_SM4_GCM_SM3")
    client.set_max_proto_version(version)
    client.load_verify_locations(str(ca))
    client.set_verify(SSL.VERIFY_PEER)
    if files is not None:
        client.use_certificate_chain_file(str(files.certificate))
        client.use_privatekey_file(str(files.key))
    made = _ByHand(ssl.PROTOCOL_TLS_CLIENT)
    made.made = client
    return made


@pytest.mark.parametrize(
    ("profile", "groups"),
    [("pq", "X25519:prime256v1"), ("gm", "X25519MLKEM768"), ("gm-pq", "curveSM2"), ("gm-pq", "X25519")],
)
async def test_a_client_that_offers_less_is_never_served_silently(
    profile: str, groups: str, folder: Path
) -> None:
    """A hybrid server does not fall back to a classical exchange, whatever certificate the client has."""
    server, _ = contexts(profile, folder)
    ours = authority(folder, kind_of(profile))
    less = _by_hand(profile, ours.ca, groups=groups, files=ours.box("box-1"))
    async with echo_server(server) as echo:
        with capture_logs() as logs, pytest.raises(aiohttp.ClientError, match=r"(?i)handshake.failure"):
            await posted(echo.url, less)
    assert "no suitable key share" in next(line["problem"] for line in logs if "problem" in line)
    assert echo.taken == []


async def test_a_hybrid_client_does_not_take_a_classical_server(folder: Path) -> None:
    """A server that was downgraded, or one in its place, gets no word of the exchange."""
    server, _ = contexts("gm", folder)
    _, client = contexts("gm-pq", folder)
    async with echo_server(server) as echo:
        with pytest.raises(aiohttp.ClientError, match=r"(?i)handshake.failure"):
            await posted(echo.url, client)
    assert echo.taken == []


@pytest.mark.parametrize("profile", ["intl", "pq"])
async def test_tls_1_2_is_refused(profile: str, folder: Path) -> None:
    """An older version has renegotiation and weaker handshakes; no profile speaks it."""
    server, _ = contexts(profile, folder)
    ours = authority(folder, "p256")
    old = ssl.create_default_context(cafile=str(ours.ca))
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    old.load_cert_chain(*ours.box("box-1"))
    async with echo_server(server) as echo:
        with pytest.raises(aiohttp.ClientError, match=r"(?i)protocol.version"):
            await posted(echo.url, old)
    assert echo.taken == []


@pytest.mark.parametrize("profile", ["intl", "pq"])
async def test_a_session_is_never_resumed(profile: str, folder: Path) -> None:
    """A resumed session would skip the look at a certificate that was renewed, revoked or has expired."""
    server, _ = contexts(profile, folder)
    ours = authority(folder, "p256")
    client = ssl.create_default_context(cafile=str(ours.ca))
    client.load_cert_chain(*ours.box("box-1"))
    if profile == "pq":
        context = _by_hand("pq", ours.ca, files=ours.box("box-1")).made  # type: ignore[attr-defined]
        assert not await _resumes(server, context)
        return
    async with echo_server(server) as echo:
        reader, writer = await asyncio.open_connection("localhost", echo.port, ssl=client)
        writer.write(b"POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi")
        assert (await reader.read()).endswith(b"hi")
        assert writer.get_extra_info("ssl_object").session.has_ticket is False
        writer.close()


@pytest.mark.parametrize("profile", ["intl", "gm"])
async def test_a_command_takes_only_its_own_box(profile: str, folder: Path) -> None:
    """A token must not go to another process that has taken the box's port, whoever has certified that."""
    ours = authority(folder, kind_of(profile))
    mine, other = ours.server("mine"), ours.server("another")
    command = own_context(serving(profile, mine, ours.ca))
    async with echo_server(server_context(serving(profile, mine, ours.ca))) as echo:
        assert (await posted(echo.url, command))[0] == b"hello"
    async with echo_server(server_context(serving(profile, other, ours.ca))) as echo:
        with pytest.raises(aiohttp.ClientError, match="another server"):
            await posted(echo.url, command)
    assert echo.taken == []


async def _resumes(server: TransportContext, context: SSL.Context) -> bool:
    """Whether a second connection with the first one's session skips the handshake's certificates."""
    first = SSL.Connection(context)
    first.set_connect_state()
    second = SSL.Connection(context)
    second.set_connect_state()
    finished = [_shaken(server, first)]
    session = first.get_session()
    assert session is not None
    second.set_session(session)
    finished.append(_shaken(server, second))
    # A certificate and a signature alone are more than that; signatures differ by a few bytes.
    return finished[1] < finished[0] - 400


def _shaken(server: TransportContext, client: SSL.Connection) -> int:
    """Shake hands in memory, and read what follows; the bytes that the server sent."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    serving_side = server.wrap_bio(incoming, outgoing, server_side=True)
    sent = 0
    for _ in range(6):
        for step in (client.do_handshake, lambda: client.recv(1)):
            try:
                step()
            except SSL.WantReadError:
                pass
        try:
            incoming.write(client.bio_read(1 << 20))
        except SSL.WantReadError:
            pass
        try:
            serving_side.do_handshake()
        except ssl.SSLWantReadError:
            pass
        said = outgoing.read()
        sent += len(said)
        if said:
            client.bio_write(said)
    assert serving_side.cipher() is not None
    return sent


# --- files --------------------------------------------------------------------------------------------------


Fault = tuple[str, str, Files, Path, str]
"""The harm, the profile, files, CA, and what the error must say."""


def _file(folder: Path, name: str, text: str) -> Path:
    """A file for its owner alone."""
    path = folder / name
    path.write_text(text)
    path.chmod(0o600)
    return path


def _unusable_files(folder: Path) -> list[Fault]:
    p256, sm2 = authority(folder, "p256"), authority(folder, "sm2")
    good, gm = p256.server("good"), sm2.server("gm")
    other = Files(good.certificate, p256.server("other").key)
    open_key = p256.server("open")
    open_key.key.chmod(0o644)
    garbage = _file(folder, "garbage.pem", "neither a key nor a certificate\n")
    locked = _file(folder, "locked.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    nothing = folder / "nothing.pem"
    no_key, no_chain = Files(good.certificate, garbage), Files(garbage, good.key)
    return [
        ("another key", "intl", other, p256.ca, "key_file = .*not the key of"),
        ("another key, pyOpenSSL", "pq", other, p256.ca, "key_file = .*not the key of"),
        ("an open key", "intl", open_key, p256.ca, "key_file = .*0644.*chmod 600"),
        ("no certificate", "pq", Files(nothing, good.key), p256.ca, "certificate_file = .*cannot be read"),
        ("no key", "gm", Files(gm.certificate, nothing), sm2.ca, "key_file = .*cannot be read"),
        ("no CA", "intl", good, nothing, "client_ca_file = .*cannot be read"),
        ("rubbish for a certificate", "intl", no_chain, p256.ca, "certificate_file = .*holds no certificate"),
        ("rubbish for a CA", "pq", good, garbage, "client_ca_file = .*it holds no certificate"),
        ("rubbish for a key", "intl", no_key, p256.ca, "key_file = .*holds no private key"),
        ("rubbish for a key, pyOpenSSL", "pq", no_key, p256.ca, "key_file = .*holds no private key"),
        ("a passphrase", "gm", Files(gm.certificate, locked), sm2.ca, "key_file = .*a passphrase"),
    ]


def _wrong_kinds(folder: Path) -> list[Fault]:
    p256, sm2 = authority(folder, "p256"), authority(folder, "sm2")
    good, gm = p256.server("good"), sm2.server("gm")
    mixed = Files(good.certificate, gm.key)
    return [
        ("a CA of SM2", "pq", good, sm2.ca, "client_ca_file = .*no CA but with a key of SM2"),
        ("a CA of P-256", "gm-pq", gm, p256.ca, "client_ca_file = .*no CA with a key of SM2"),
        ("a key of SM2", "pq", mixed, p256.ca, "key_file = .*not the key of"),
        ("a key of SM2, library", "intl", mixed, p256.ca, "private key in PEM that profile = intl can use"),
        ("a certificate of P-256", "gm", good, sm2.ca, "not one of SM2.*intl or pq"),
        ("a certificate of SM2", "intl", gm, p256.ca, "curve of SM2.*gm or gm-pq"),
        ("a certificate of SM2, pq", "pq", gm, p256.ca, "curve of SM2.*gm or gm-pq"),
    ]


def test_files_that_cannot_be_used_are_named_with_their_mend(folder: Path) -> None:
    """A technician reads which option, which file and what to do, not a number of OpenSSL's."""
    for harm, profile, files, ca, said in (*_unusable_files(folder), *_wrong_kinds(folder)):
        with pytest.raises(TlsError, match=f"(?s){said}"):
            pytest.fail(f"{harm}: taken, {server_context(serving(profile, files, ca))}")


def test_an_openssl_without_the_hybrid_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel of cryptography with another OpenSSL is said to be the cause, at the start."""
    monkeypatch.setattr("edgegw.access.tls.allow_only", lambda *_, **__: False)
    ours = authority(folder, "p256")
    with pytest.raises(TlsError, match=r"profile = pq: OpenSSL .* does not have X25519MLKEM768; install"):
        server_context(serving("pq", ours.server(), ours.ca))


def test_an_expired_certificate_stops_no_start(folder: Path) -> None:
    """A branch whose clock is wrong, or whose renewal is late, still starts and pays; the log says it."""
    ours = authority(folder, "p256")
    old = ours.issue("late", ours.names("localhost"), ends=YESTERDAY)
    with capture_logs() as logs:
        server_context(serving("intl", old, ours.ca))
    assert [line["event"] for line in logs] == ["certificate_expired"]
    assert str(old.certificate) in logs[0]["problem"]


def test_a_certificate_that_ends_during_a_long_run_is_told_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A box runs for years without a start: its log says each day that a certificate ends soon, or has."""
    ours = authority(folder, "p256")
    begun_s = 1_800_000_000
    ends = datetime.datetime.fromtimestamp(begun_s, datetime.UTC) + datetime.timedelta(days=20)
    monkeypatch.setattr("edgegw.access.tls.time.time", lambda: begun_s)
    server = server_context(serving("intl", ours.issue("brief", ours.names("localhost"), ends=ends), ours.ca))
    told = []
    for days in (0, 0, 1, 10, 10, 11, 21):
        now_s = begun_s + days * 86_400
        monkeypatch.setattr("edgegw.access.tls.time.time", lambda now_s=now_s: now_s)
        with capture_logs() as logs:
            server.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
        told.append([line["event"] for line in logs])
    soon, ended = ["certificate_ends_soon"], ["certificate_expired"]
    assert told == [[], [], [], soon, [], soon, ended]


@pytest.mark.parametrize("profile", ["intl", "gm-pq"])
async def test_a_renewed_certificate_is_served_without_a_restart(profile: str, folder: Path) -> None:
    """Files that were replaced count from the next connection on; while they are half replaced, the ones from
    before do."""
    ours = authority(folder, kind_of(profile))
    files = ours.issue("renewed", ours.names("localhost"), ends=YESTERDAY)
    server = server_context(serving(profile, files, ours.ca))
    client = client_context(connecting(profile, ours.box("box-1"), ours.ca))
    async with echo_server(server) as echo:
        with pytest.raises(aiohttp.ClientConnectorCertificateError, match="expired"):
            await posted(echo.url, client)
        fresh = ours.issue("fresh", ours.names("localhost"))
        fresh.key.replace(files.key)
        with (
            capture_logs() as logs,
            pytest.raises(aiohttp.ClientConnectorCertificateError, match="expired"),
        ):
            await posted(echo.url, client)
        assert "certificate_not_renewed" in [line["event"] for line in logs]
        fresh.certificate.replace(files.certificate)
        assert (await posted(echo.url, client))[0] == b"hello"
