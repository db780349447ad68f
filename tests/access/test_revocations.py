"""Revoked certificates over real connections: refused, and ended where they are in use; a list that is late
or broken lets nobody in who was out."""

import asyncio
import datetime
import math
import ssl
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from structlog.testing import capture_logs

from edgegw.access.revocations import Link
from edgegw.access.tls import TlsError, TransportContext, client_context, server_context
from tests.certificates import AT, Authority
from tests.encrypted import authority, connecting, echo_server, kind_of, posted, serving

DAY = datetime.timedelta(days=1)
REFUSED = (aiohttp.ClientError, ConnectionError, ssl.SSLError)


class _Place:
    """A server and a client of one authority, each with the same file of lists."""

    def __init__(self, profile: str, folder: Path, ours: Authority) -> None:
        self.profile = profile
        self.ours = ours
        self.crl = folder / "crl.pem"
        self.files = {name: ours.box(name) for name in ("client", "thief")}
        self.files["server"] = ours.server()
        self.crl.write_bytes(ours.crl())

    def revoke(self, *names: str, number: int = 2, **changes: datetime.datetime) -> None:
        """Put a list with these in the place of the one before, as a program would."""
        fresh = self.crl.with_name("fresh")
        fresh.write_bytes(
            self.ours.crl(*(self.files[one].certificate for one in names), number=number, **changes)
        )
        fresh.replace(self.crl)

    def server(self) -> TransportContext:
        return server_context(serving(self.profile, self.files["server"], self.ours.ca, crl=str(self.crl)))

    def client(self, name: str = "client") -> TransportContext:
        return client_context(connecting(self.profile, self.files[name], self.ours.ca, crl=str(self.crl)))


Make = Callable[[str], _Place]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("authorities")


@pytest.fixture
def place(tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes the two sides of a profile; files are looked at each time, not each second."""
    monkeypatch.setattr("edgegw.access.tls.LOOK_EACH_S", 0.0)
    monkeypatch.setattr("edgegw.access.revocations.LOOK_EACH_S", 0.0)
    return lambda profile: _Place(profile, tmp_path, authority(shared, kind_of(profile)))


@pytest.mark.parametrize("profile", ["intl", "gm", pytest.param("pq", marks=pytest.mark.slow)])
async def test_a_revoked_certificate_is_refused_on_either_side(profile: str, place: Make) -> None:
    """Whose, when and by which list stands in the log; others are served, and no restart is needed."""
    here = place(profile)
    async with echo_server(here.server()) as echo:
        assert (await posted(echo.url, here.client("thief")))[0] == b"hello"
        here.revoke("thief")
        with capture_logs() as logs, pytest.raises(REFUSED):
            await posted(echo.url, here.client("thief"))
        (told,) = [line["problem"] for line in logs if line["event"] == "handshake_refused"]
        assert "CN=thief" in told
        assert "was revoked on 2026-01-01 00:00 UTC, by the list 2 of" in told
        assert (await posted(echo.url, here.client()))[0] == b"hello"
        client = here.client()
        here.revoke("thief", "server", number=3)
        with pytest.raises(aiohttp.ClientConnectorCertificateError, match="revoked"):
            await posted(echo.url, client)


@pytest.mark.parametrize("profile", ["intl", "gm-pq"])
async def test_a_connection_in_use_ends_when_its_certificate_is_revoked(profile: str, place: Make) -> None:
    """The one that was let in before would else speak on for as long as it likes."""
    here = place(profile)
    async with echo_server(here.server()) as echo, aiohttp.ClientSession() as session:
        thief = here.client("thief")
        async with session.post(echo.url, data=b"1", ssl=thief) as answer:
            assert await answer.read() == b"1"
        assert [len(them) for them in session.connector._conns.values()] == [1]  # type: ignore[union-attr]
        here.revoke("thief")
        with capture_logs() as logs, pytest.raises(REFUSED):
            await session.post(echo.url, data=b"2", ssl=thief)
        assert any("CN=thief" in str(line.get("problem")) for line in logs)
        assert echo.taken == [1]


async def test_a_silent_connection_ends_with_its_certificate_too(
    place: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Revoked, or past its end: nobody outlives a certificate by keeping a connection open."""
    here = place("intl")
    monkeypatch.setattr("edgegw.access.arrivals.WATCH_EACH_S", 0.01)
    real = time_now = datetime.datetime.now(datetime.UTC).timestamp()
    monkeypatch.setattr("edgegw.access.tls.time.time", lambda: time_now)
    here.files["thief"] = here.ours.issue(
        "short", here.ours.names("localhost"), ends=datetime.datetime.fromtimestamp(real + 3600, datetime.UTC)
    )
    async with echo_server(here.server()) as echo:
        silent = [
            await asyncio.open_connection("localhost", echo.port, ssl=here.client(name), family=2)
            for name in ("client", "thief")
        ]
        time_now = real + 3601
        async with asyncio.timeout(10):
            with pytest.raises(ConnectionError):
                await _ended(silent[1][0])
        assert not silent[0][0].at_eof()
        here.revoke("client")
        async with asyncio.timeout(10):
            with pytest.raises(ConnectionError):
                await _ended(silent[0][0])
        for _, writer in silent:
            writer.close()


async def _ended(reader: asyncio.StreamReader) -> None:
    """Wait for the end of a connection, which is said like a break."""
    if await reader.read() == b"":
        raise ConnectionResetError


async def test_a_late_list_is_used_on_and_told_of_each_day(
    place: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A branch that is offline for days keeps its ways in, and who was revoked stays out."""
    here = place("intl")
    now_s = (AT + 10 * DAY).timestamp()
    monkeypatch.setattr("edgegw.access.tls.time.time", lambda: now_s)
    here.revoke("thief", made=AT, ends=AT + 9 * DAY)
    with capture_logs() as logs:
        context = here.server()
    assert [line["event"] for line in logs] == ["crl_late"]
    assert context.late() == [logs[0]["problem"]]
    assert "24 h ago" in logs[0]["problem"]
    async with echo_server(context) as echo:
        with capture_logs() as logs:
            for days in (0.0, 0.5, 1.1, 1.2, 2.2):
                now_s = (AT + (10 + days) * DAY).timestamp()
                assert (await posted(echo.url, here.client()))[0] == b"hello"
                with pytest.raises(REFUSED):
                    await posted(echo.url, here.client("thief"))
    of_server = [line for line in logs if line["event"] == "crl_late"]
    # Each of the ten clients says it once, when it is made; the server twice.
    assert len(of_server) == 10 + 2


async def test_a_list_that_cannot_be_used_changes_nothing(place: Make, shared: Path) -> None:
    """Gone, rubbish, a stranger's, an older one or a part of one: the list before stays in use, and it is
    said."""
    here = place("intl")
    here.revoke("thief", number=5, made=AT + DAY)
    context, thief = here.server(), here.client("thief")
    other = authority(shared, "p256", "others")
    nothing = here.ours.crl(number=9, made=AT + 2 * DAY)
    bad = {
        "older": here.ours.crl(number=4),
        "signed": other.crl(number=9, made=AT + 2 * DAY),
        "cannot be read": nothing[:-60],
        "no list": b"rubbish",
        "more than": nothing + b"#" * (4 << 20),
        "part of another": here.ours.crl(number=9, made=AT + 2 * DAY, part=True),
    }
    async with echo_server(context) as echo:
        for said, body in bad.items():
            here.crl.write_bytes(body)
            with capture_logs() as logs, pytest.raises(REFUSED):
                await posted(echo.url, thief)
            told = [str(line["problem"]) for line in logs if line["event"] == "crl_not_renewed"]
            assert any(said in one for one in told), (said, logs)
        here.crl.unlink()
        with capture_logs() as logs, pytest.raises(REFUSED):
            await posted(echo.url, thief)
        assert any(line["event"] == "crl_not_renewed" for line in logs)
        here.crl.write_bytes(nothing)
        assert (await posted(echo.url, thief))[0] == b"hello"


@pytest.mark.parametrize("profile", ["intl", "gm"])
def test_a_start_takes_no_list_that_covers_nobody(
    profile: str, place: Make, shared: Path, tmp_path: Path
) -> None:
    """A missing file, a list of another CA or of one with the same name, or a CA without one: the operator
    hears which. A certificate whose issuer has no list is refused."""
    here = place(profile)
    other = authority(shared, kind_of(profile), "others")
    for body, said in (
        (None, "cannot be read"),
        (other.crl(), "no list that 'CN=edgegw test ca' has signed"),
        (b"", "no list of revoked"),
    ):
        here.crl.unlink(missing_ok=True)
        if body is not None:
            here.crl.write_bytes(body)
        with pytest.raises(TlsError, match=said):
            here.server()
        with pytest.raises(TlsError, match="crl_file"):
            here.client()
    namesake = Authority(tmp_path, kind_of(profile))
    here.crl.write_bytes(namesake.crl())
    with pytest.raises(TlsError, match="has signed"):
        here.server()
    here.crl.write_bytes(here.ours.crl())
    both = here.crl.with_name("both.pem")
    both.write_bytes(here.ours.ca.read_bytes() + other.ca.read_bytes())
    table = serving(profile, here.files["server"], both, crl=str(here.crl))
    with pytest.raises(TlsError, match="no list that 'CN=edgegw test others' has signed"):
        server_context(table)
    here.crl.write_bytes(here.ours.crl() + other.crl())
    server_context(table)
    stranger = here.server().problem((Link(b"another CA", 1, math.inf, "the certificate 'CN=x'"),))
    assert "says whether it is revoked" in stranger
