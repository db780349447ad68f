"""Bundles: cut and resumed, endless, altered, and a disk without room; and the hub's way of serving them."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from edgegw.access.arrivals import Arrivals
from edgegw.errors import LinkDown
from edgegw.hub.updates import serve_updates
from edgegw.update.bundle import BundleFile, Cut, NoRoom, WrongBundle
from edgegw.update.sources import FolderSource, HubSource, NotThere, TooLong
from edgegw.update.state import Release
from tests.encrypted import PLAIN_ANSWER, contexts
from tests.update.appliance import Appliance, Releases

ROOM = 1 << 20
BODY = bytes(range(256)) * 2_000
NAME = "edgegw-1.1.0-cloud.raucb"
RELEASE = Release(
    version="1.1.0", sha256=hashlib.sha256(BODY).hexdigest(), security_epoch=1, length=len(BODY)
)


class Scripted(FolderSource):
    """A source that gives what a test says, in pieces."""

    def __init__(self, folder: Path, *pieces: bytes, breaks_after: int | None = None) -> None:
        super().__init__(folder)
        self.pieces = pieces
        self.breaks_after = breaks_after
        self.starts: list[int] = []

    def bundle(self, name: str, *, start: int, take: Callable[[int, bytes], None]) -> None:
        """From `start` on, until it breaks."""
        self.starts.append(start)
        body = b"".join(self.pieces)[start:]
        end = len(body) if self.breaks_after is None else self.breaks_after
        for position in range(0, end, 10_000):
            take(start + position, body[position : min(position + 10_000, end)])
        if self.breaks_after is not None:
            raise LinkDown("the line broke")


@pytest.fixture
def held(tmp_path: Path) -> BundleFile:
    """An empty place for a bundle."""
    return BundleFile(tmp_path / "state", room_bytes=ROOM, keep_free_bytes=0)


def fetch(held: BundleFile, source: FolderSource, release: Release = RELEASE) -> None:
    """Have the bundle."""
    held.fetch(source, release, path=NAME, cancelled=lambda: False)


def test_a_cut_download_goes_on_where_it_was(tmp_path: Path, held: BundleFile) -> None:
    """A line of a few kilobytes must get a bundle within days, not never."""
    broken = Scripted(tmp_path, BODY, breaks_after=100_000)
    for _ in range(2):
        with pytest.raises(LinkDown):
            fetch(held, broken)
    whole = Scripted(tmp_path, BODY)
    fetch(BundleFile(tmp_path / "state", room_bytes=ROOM, keep_free_bytes=0), whole)
    assert (broken.starts, whole.starts) == ([0, 100_000], [200_000])
    assert held.path.read_bytes() == BODY
    assert held.has(RELEASE)


def test_a_bundle_that_ends_early_is_no_bundle(tmp_path: Path, held: BundleFile) -> None:
    """A proxy that closes in the middle must not look like the end."""
    with pytest.raises(Cut):
        fetch(held, Scripted(tmp_path, BODY[:-1]))
    assert not held.has(RELEASE)
    fetch(held, Scripted(tmp_path, BODY))


def test_a_bundle_without_an_end_is_cut_off(tmp_path: Path, held: BundleFile) -> None:
    """More than was signed is never written, whatever the disk would hold."""
    with pytest.raises(WrongBundle, match="more came"):
        fetch(held, Scripted(tmp_path, BODY, b"more" * 100_000))
    assert held.path.stat().st_size <= len(BODY)


def test_an_altered_bundle_is_thrown_away_and_fetched_anew(tmp_path: Path, held: BundleFile) -> None:
    """One flipped bit on the way must not be kept for the next try."""
    altered = BODY[:5_000] + b"!" + BODY[5_001:]
    with pytest.raises(WrongBundle, match="not the signed one"):
        fetch(held, Scripted(tmp_path, altered))
    again = Scripted(tmp_path, BODY)
    fetch(held, again)
    assert again.starts == [0]


def test_bytes_of_another_bundle_are_not_gone_on_with(tmp_path: Path, held: BundleFile) -> None:
    """A newer release while an older one comes must begin at its own first byte."""
    other = Release(version="1.0.9", sha256="0" * 64, security_epoch=1, length=len(BODY))
    with pytest.raises(LinkDown):
        fetch(held, Scripted(tmp_path, b"x" * len(BODY), breaks_after=50_000), other)
    source = Scripted(tmp_path, BODY)
    fetch(held, source)
    assert source.starts == [0]


def test_the_room_is_kept_and_the_ledgers_is_not_taken(tmp_path: Path, held: BundleFile) -> None:
    """A disk that fills must not cost the update, and the update must not cost payments."""
    held.reserve()
    assert held.path.stat().st_blocks * 512 >= ROOM
    assert held.path.stat().st_size == 0
    fetch(held, Scripted(tmp_path, BODY))
    held.drop()
    assert held.path.stat().st_blocks * 512 >= ROOM
    disk = os.statvfs(tmp_path)
    greedy = BundleFile(
        tmp_path / "other", room_bytes=ROOM, keep_free_bytes=disk.f_bavail * disk.f_frsize - ROOM // 2
    )
    with pytest.raises(NoRoom, match="the ledger keeps"):
        greedy.reserve()
    assert (tmp_path / "other/bundle.raucb").stat().st_blocks == 0


def test_a_bundle_that_is_larger_than_its_room_is_refused_at_once(tmp_path: Path) -> None:
    """Not after an hour on a thin line."""
    small = BundleFile(tmp_path / "state", room_bytes=100_000, keep_free_bytes=0)
    source = Scripted(tmp_path, BODY)
    with pytest.raises(NoRoom) as told:
        fetch(small, source)
    assert "bundle_bytes_max" in told.value.hint
    assert source.starts == []


def test_a_full_disk_is_told_and_the_machine_stays_as_it_is(releases: Releases, appliance: Appliance) -> None:
    """An update that finds no room is told and tried again."""
    releases.release("1.1.0")
    appliance.keep_free_bytes = 1 << 60
    outcome = appliance.look()
    assert (outcome.end, appliance.restarts) == ("away", 0)
    assert "the ledger keeps" in appliance.state.problem
    appliance.keep_free_bytes = 0
    assert appliance.update() == ["restarts", "kept"]


# --- the hub's side -----------------------------------------------------------------------------------------


@pytest.fixture
async def served(releases: Releases) -> AsyncIterator[TestServer]:
    """The repository behind the hub's own handlers."""
    app = web.Application()
    serve_updates(app, releases.repository.folder, downloads_max=1)
    server = TestServer(app)
    await server.start_server()
    yield server
    await server.close()


async def test_a_machine_updates_from_the_hub(
    releases: Releases, appliance: Appliance, served: TestServer
) -> None:
    """The whole way over HTTP, with an address before it that does not answer."""
    releases.release("1.1.0", filling=b"image" * 2_000)
    source = HubSource(["http://127.0.0.1:9", f"http://127.0.0.1:{served.port}/"], None)
    outcome = await asyncio.to_thread(appliance.look, source=source)
    assert outcome.end == "restarts", outcome
    appliance.boot()
    assert appliance.judge() == "kept"


async def test_a_download_from_the_hub_is_resumed(
    releases: Releases, tmp_path: Path, served: TestServer, held: BundleFile
) -> None:
    """By a range request, and whole where a server in between knows none."""
    (releases.repository.targets_folder / f"{RELEASE.sha256}.{NAME}").write_bytes(BODY)
    with pytest.raises(LinkDown):
        fetch(held, Scripted(tmp_path, BODY, breaks_after=30_000))
    source = HubSource([f"http://127.0.0.1:{served.port}"], None)
    await asyncio.to_thread(held.fetch, source, RELEASE, path=NAME, cancelled=lambda: False)
    assert held.path.read_bytes() == BODY
    taken: list[int] = []
    await asyncio.to_thread(
        source.bundle, f"{RELEASE.sha256}.{NAME}", start=500_000, take=lambda at, _: taken.append(at)
    )
    assert taken[0] == 500_000


@pytest.mark.parametrize(
    "path",
    ["metadata/../hub.toml", "metadata/%2e%2e%2fhub.toml", "targets/..", "metadata/", "other/1.root.json"],
)
async def test_nothing_but_the_repository_is_served(
    releases: Releases, served: TestServer, path: str
) -> None:
    """A box's certificate must not open the hub's disk."""
    (releases.repository.folder / "hub.toml").write_text("secret", encoding="ascii")
    source = HubSource([f"http://127.0.0.1:{served.port}"], None)
    with pytest.raises((NotThere, LinkDown)):
        await asyncio.to_thread(source._first, path, lambda: 0, lambda *_: None, 5.0)


async def test_an_answer_without_an_end_is_cut_off(tmp_path: Path) -> None:
    """A hostile server may send for ever; the box stops reading."""
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while sent < 1 << 30:
            await response.write(b"x" * 65_536)
            sent += 65_536
        return response

    app = web.Application()
    app.router.add_get("/{any:.*}", endless)
    server = TestServer(app)
    await server.start_server()
    source = HubSource([f"http://127.0.0.1:{server.port}"], None)
    with pytest.raises(TooLong):
        await asyncio.to_thread(source.metadata, "timestamp.json", bytes_max=100_000)
    held = BundleFile(tmp_path / "state", room_bytes=ROOM, keep_free_bytes=0)
    with pytest.raises(WrongBundle):
        await asyncio.to_thread(held.fetch, source, RELEASE, path=NAME, cancelled=lambda: False)
    assert sent < 1 << 26
    await server.close()


async def test_a_download_leaves_the_connection_as_it_should_be(
    releases: Releases, served: TestServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A hub that logs a fault for each good download hides the true one, and closes a line that was dear."""
    name = f"{RELEASE.sha256}.{NAME}"
    (releases.repository.targets_folder / name).write_bytes(BODY)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    for _ in range(2):
        writer.write(f"GET /exchange/updates/targets/{name} HTTP/1.1\r\nHost: hub\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert await reader.readexactly(len(BODY)) == BODY
    writer.close()
    await writer.wait_closed()
    assert not caplog.records


async def test_too_many_downloads_are_asked_to_come_again(releases: Releases, served: TestServer) -> None:
    """A thousand boxes at one moment must not take the exchange's line from payments."""
    name = f"{RELEASE.sha256}.{NAME}"
    (releases.repository.targets_folder / name).write_bytes(b"\0" * (64 << 20))
    address = f"http://127.0.0.1:{served.port}"
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(f"GET /exchange/updates/targets/{name} HTTP/1.1\r\nHost: hub\r\n\r\n".encode())
    await reader.readexactly(1_000)
    with pytest.raises(LinkDown, match="503"):
        await asyncio.to_thread(HubSource([address], None).bundle, name, start=0, take=lambda *_: None)
    writer.close()


@pytest.mark.parametrize("profile", ["intl", "gm"])
async def test_bundles_come_over_the_boxs_own_encrypted_line(
    releases: Releases, tmp_path: Path, held: BundleFile, profile: str
) -> None:
    """A file that is sent past the encryption would show, or break; a stranger gets nothing."""
    (releases.repository.targets_folder / f"{RELEASE.sha256}.{NAME}").write_bytes(BODY)
    for folder in ("ca", "other"):
        (tmp_path / folder).mkdir()
    listener, line = contexts(profile, tmp_path / "ca")
    app = web.Application()
    serve_updates(app, releases.repository.folder, downloads_max=2)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    assert runner.server is not None
    arrivals = Arrivals(listener, name="hub", plain_answer=PLAIN_ANSWER)
    listening = await asyncio.get_running_loop().create_server(
        arrivals.protocol(runner.server), "127.0.0.1", 0
    )
    port = listening.sockets[0].getsockname()[1]
    try:
        source = HubSource([f"https://localhost:{port}"], line)
        await asyncio.to_thread(held.fetch, source, RELEASE, path=NAME, cancelled=lambda: False)
        assert held.path.read_bytes() == BODY
        stranger = HubSource([f"https://localhost:{port}"], contexts(profile, tmp_path / "other")[1])
        with pytest.raises(LinkDown):
            await asyncio.to_thread(stranger.metadata, "timestamp.json", bytes_max=10_000)
    finally:
        listening.close()
        arrivals.end()
        await runner.cleanup()
