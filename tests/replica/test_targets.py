"""Every kind of target takes a copy and gives it back: litestream with real SFTP and S3 servers."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh
import boto3
import pytest
from moto.server import ThreadedMotoServer

from edgegw.config.replica import ReplicaTarget
from edgegw.replica.copies import Copies, CopyError, Ledger, newest_sound
from edgegw.replica.generations import Generation, Generations
from edgegw.replica.status import Drill, State
from tests.replica.kept import Kept
from tests.waiting import until

SECRET = "s3cr$t ${HOME} 'quoted' \"twice\": yes"


class PasswordServer(asyncssh.SSHServer):
    """Lets in who knows the password."""

    def password_auth_supported(self) -> bool:
        """Yes."""
        return True

    def validate_password(self, username: str, password: str) -> bool:
        """One user, one password."""
        return (username, password) == ("box", SECRET)


@asynccontextmanager
async def sftp(folder: Path) -> AsyncIterator[int]:
    """A real SFTP server with its root in a folder; its port."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    (folder / "host.pub").write_bytes(key.export_public_key())
    (folder / "password").write_text(SECRET + "\n")
    (folder / "root").mkdir()
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[key],
        server_factory=PasswordServer,
        sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=str(folder / "root").encode()),
    )
    try:
        yield server.get_port()
    finally:
        server.close()
        await server.wait_closed()


@pytest.fixture
def s3() -> Iterator[str]:
    """An S3-compatible server with a bucket; its URL."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="branch",
        aws_secret_access_key="secret",
    )
    client.create_bucket(Bucket="copies")
    yield url
    server.stop()


async def test_an_sftp_server_takes_a_copy_and_gives_it_back(tmp_path: Path) -> None:
    """A branch's only second place is often a server that speaks SFTP and nothing else."""
    async with sftp(tmp_path) as port:
        target = ReplicaTarget(
            name="store",
            kind="sftp",
            host=f"127.0.0.1:{port}",
            user="box",
            path="/copies/box-1",
            host_key_file=str(tmp_path / "host.pub"),
            password_file=str(tmp_path / "password"),
        )
        kept = Kept(tmp_path, target, alarm_ms=8_000)
        kept.write(100)
        async with kept.running():
            await kept.until(State.WELL)
            await kept.until_copied()
        assert await kept.copied_rows() == kept.rows
        await begins_anew(kept)


async def begins_anew(kept: Kept) -> None:
    """The copy goes on beside the one that is there, and whoever comes without a disk finds both."""
    generations = Generations(kept.table, kept.targets[0], Ledger(kept.data, kept.path))
    first = await asyncio.to_thread(generations.copies(1).txids)
    kept.reopen()
    async with kept.running() as keeper:
        await kept.until(State.WELL)
        keeper.renew(Drill(at_s=1, well=False, malformed=True, target=kept.targets[0].name))
        await until(lambda: keeper.status.generation == 2, "the next generation")
        await kept.until(State.WELL)
        await kept.until_copied()
        assert await kept.copied_rows() == kept.rows
    assert set(first) <= set(await asyncio.to_thread(generations.copies(1).txids))
    shutil.rmtree(kept.data / "litestream")
    assert await asyncio.to_thread(generations.held) == [2, 1]
    assert await asyncio.to_thread(generations.current) == Generation(2)
    assert keeper.status.place.endswith("box-1/generation-2")


async def test_another_sftp_server_in_its_place_gets_nothing(tmp_path: Path) -> None:
    """A copy holds every payment of a branch; a server with another key must not get it."""
    async with sftp(tmp_path) as port:
        other = asyncssh.generate_private_key("ssh-ed25519").export_public_key()
        (tmp_path / "other.pub").write_bytes(other)
        target = ReplicaTarget(
            name="store",
            kind="sftp",
            host=f"127.0.0.1:{port}",
            user="box",
            path="/copies/box-1",
            host_key_file=str(tmp_path / "other.pub"),
            password_file=str(tmp_path / "password"),
        )
        kept = Kept(tmp_path, target)
        kept.write(100)
        async with kept.running() as keeper:
            await kept.until(State.DEAD)
            assert "host key mismatch" in keeper.status.reason
    assert not list((tmp_path / "root").iterdir())


async def test_s3_compatible_storage_takes_a_copy_and_gives_it_back(tmp_path: Path, s3: str) -> None:
    """Object storage outlives the branch and the city."""
    (tmp_path / "secret").write_text("secret\n")
    target = ReplicaTarget(
        name="objects",
        kind="s3",
        endpoint=s3,
        bucket="copies",
        path="box-1",
        region="us-east-1",
        access_key_id="branch",
        secret_access_key_file=str(tmp_path / "secret"),
    )
    kept = Kept(tmp_path, target, alarm_ms=5_000)
    kept.write(100)
    async with kept.running():
        await kept.until(State.WELL)
        await kept.until_copied()
    assert await kept.copied_rows() == kept.rows
    await begins_anew(kept)


def test_a_secret_stands_in_no_file_that_others_may_read(tmp_path: Path) -> None:
    """The settings that are made for litestream are the one place where secrets are copied to."""
    (tmp_path / "host.pub").write_text("ssh-ed25519 AAAA\n")
    (tmp_path / "password").write_text(SECRET + "\n")
    target = ReplicaTarget(
        name="store",
        kind="sftp",
        host="store:22",
        user="box",
        path="/copies",
        host_key_file=str(tmp_path / "host.pub"),
        password_file=str(tmp_path / "password"),
    )
    kept = Kept(tmp_path, target)
    Copies(kept.table, target, Ledger(kept.data, kept.path))
    kept.writer.close()
    modes = {path.stat().st_mode & 0o077 for path in (kept.data / "litestream").rglob("*") if path.is_file()}
    assert modes == {0}


def test_a_target_that_does_not_answer_is_told_by_its_name(tmp_path: Path) -> None:
    """A refused connection alone does not say which of three servers to look at."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    (tmp_path / "host.pub").write_bytes(key.export_public_key())
    target = ReplicaTarget(
        name="store",
        kind="sftp",
        host="127.0.0.1:9",
        user="box",
        path="/copies",
        host_key_file=str(tmp_path / "host.pub"),
    )
    kept = Kept(tmp_path, target)
    kept.writer.close()
    with pytest.raises(CopyError, match="store: "):
        Copies(kept.table, target, Ledger(kept.data, kept.path)).txids()


@pytest.mark.parametrize("bad", [0, 1, 2, 5, 30, 99])
def test_the_search_finds_the_newest_sound_state_in_few_restores(bad: int) -> None:
    """Each look restores and checks a whole ledger: a hundred of them take the night."""
    looked = []

    def examine(state: str) -> str | None:
        looked.append(state)
        return None if int(state) < bad else state

    assert newest_sound([f"{number}" for number in range(100)], examine) == f"{bad}"
    assert len(looked) <= 14


def test_the_search_says_when_no_state_is_sound() -> None:
    """A box that is filled by the hub is better than one with a malformed ledger."""
    assert newest_sound(["3", "2", "1"], lambda _: None) is None
    assert newest_sound([], lambda state: state) is None
