"""The profile `gm` against another code base's TLS: what both ends of our own get wrong alike would be seen
here."""

import asyncio
import importlib.util
import sys
from pathlib import Path

import aiohttp
import pytest

from edgegw.access.tls import client_context, server_context
from tests.certificates import Files
from tests.encrypted import authority, connecting, contexts, echo_server, posted, serving

_PACKAGE = importlib.util.find_spec("tongsuopy")
pytestmark = pytest.mark.skipif(_PACKAGE is None, reason="the package of the other TLS is for x86-64 alone")
PEER = Path(__file__).with_name("other_tls.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


async def _peer(role: str, port: int, files: Files, ca: Path) -> asyncio.subprocess.Process:
    assert _PACKAGE is not None
    assert _PACKAGE.origin is not None
    library = Path(_PACKAGE.origin).parent / "backends" / "_tongsuo.abi3.so"
    words = (library, role, port, files.certificate, files.key, ca)
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, PEER, *map(str, words), stdout=pipe, stderr=pipe
    )


async def _said(peer: asyncio.subprocess.Process) -> tuple[str, str]:
    async with asyncio.timeout(30):
        out, problem = await peer.communicate()
    return out.decode(), problem.decode()


async def test_gm_is_understood_by_another_tls_as_client(folder: Path) -> None:
    """It verifies our certificate and shows its own; a stranger's is refused."""
    ours, others = authority(folder, "sm2"), authority(folder, "sm2", "others")
    server, _ = contexts("gm", folder)
    async with echo_server(server) as echo:
        out, problem = await _said(await _peer("client", echo.port, ours.box("peer"), ours.ca))
        assert "TLSv1.3" in out, problem
        assert "TLS_SM4_GCM_SM3" in out
        assert "Line: TLSv1.3 TLS_SM4_GCM_SM3 curveSM2" in out
        assert "Uris: edgegw://bank/peer" in out
        assert "200 OK" in out
        out, problem = await _said(await _peer("client", echo.port, others.box("stranger"), ours.ca))
        assert "200 OK" not in out
        out, problem = await _said(await _peer("client", echo.port, ours.box("peer"), others.ca))
        assert "SSL_connect" in problem
    assert echo.taken == [5]


@pytest.mark.slow
async def test_gm_is_understood_by_another_tls_as_server(folder: Path) -> None:
    """Our client verifies its certificate, shows ours, and refuses one of another CA."""
    ours, others = authority(folder, "sm2"), authority(folder, "sm2", "others")
    _, client = contexts("gm", folder)
    for trusted in (True, False):
        files = (ours if trusted else others).server("peer-server")
        peer = await _peer("server", 0, files, ours.ca)
        assert peer.stdout is not None
        url = f"https://localhost:{int(await peer.stdout.readline())}/"
        if trusted:
            assert (await posted(url, client))[:2] == (b"hello", "other")
        else:
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await posted(url, client)
        await _said(peer)


@pytest.mark.slow
async def test_a_hybrid_profile_of_sm2_is_not_talked_down_by_another_tls(folder: Path) -> None:
    """A peer that knows curveSM2 alone is refused by `gm-pq`, whichever side it is."""
    ours = authority(folder, "sm2")
    context = server_context(serving("gm-pq", ours.server(), ours.ca))
    async with echo_server(context) as echo:
        _, problem = await _said(await _peer("client", echo.port, ours.box("peer"), ours.ca))
        assert "SSL_connect" in problem
    assert echo.taken == []
    peer = await _peer("server", 0, ours.server("peer-server"), ours.ca)
    assert peer.stdout is not None
    url = f"https://localhost:{int(await peer.stdout.readline())}/"
    with pytest.raises(aiohttp.ClientError):
        await posted(url, client_context(connecting("gm-pq", ours.box("box-1"), ours.ca)))
    await _said(peer)
