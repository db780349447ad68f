"""The suite that every way in passes because it is in the folder."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from edgegw.payments.protocol import Adapter, Server
from edgegw.payments.protocols import discover
from edgegw.payments.vault import create_key
from tests.payments.branch import Branch, open_branch

ADAPTERS = discover()
UNITS = ("_ms", "_s", "_days", "_bytes", "_max", "_min", "_count", "_file", "_directory")
WITHOUT_A_UNIT = {"host", "port", "length_header", "bitmap", "profile", "issuer"}


@asynccontextmanager
async def opened(
    adapter: Adapter, directory: Path, **options: object
) -> AsyncIterator[tuple[Branch, Server]]:
    """A real branch with this one way in, on a free port."""
    secrets = {}
    if "vault_key_file" in adapter.options.__struct_fields__:
        secrets = {"vault_key_file": str(directory / "vault.key")}
        create_key(directory / "vault.key")
    async with open_branch(directory) as branch:
        server = await adapter.start(branch.gateway, adapter.options(port=0, **secrets, **options))
        try:
            yield branch, server
        finally:
            await server.stop()


async def connected(server: Server) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A bare connection to it."""
    host, _, port = server.addresses[0].rpartition(":")
    return await asyncio.open_connection(host, int(port))


@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=list(ADAPTERS))
class TestEveryProtocol:
    """What holds for each of them."""

    def test_it_is_documented_and_so_is_every_option(self, adapter: Adapter) -> None:
        """The reference needs a page, and for each option a default, a sentence and a unit in the name."""
        assert len(adapter.documentation) > 100
        assert adapter.options() == adapter.options()
        schema = msgspec.json.schema(adapter.options)
        options = (option for table in schema["$defs"].values() for option in table["properties"].items())
        for name, option in options:
            if "$ref" in option:  # a table, whose own options are looked at
                continue
            assert option["description"].endswith("."), name
            assert name in WITHOUT_A_UNIT or name.endswith(UNITS), name

    async def test_it_says_where_it_listens_and_lets_go_of_it(self, adapter: Adapter, tmp_path: Path) -> None:
        """The address is a real one, taken once, and free again after the stop."""
        async with opened(adapter, tmp_path) as (branch, server):
            host, _, port = server.addresses[0].rpartition(":")
            taken = adapter.options(port=int(port), **_secrets(adapter, tmp_path))
            with pytest.raises(OSError, match="address already in use"):
                await adapter.start(branch.gateway, taken)
            reader, writer = await connected(server)
            await server.stop()
            await reader.read()
            writer.close()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(host, int(port))

    @pytest.mark.parametrize(
        "noise", [b"", b"\x00" * 64, b"\xff" * 512, b"GET", b"0200" * 40, bytes(range(256)) * 8]
    )
    async def test_noise_moves_nothing_and_the_next_peer_is_served(
        self, adapter: Adapter, tmp_path: Path, noise: bytes
    ) -> None:
        """Whatever comes, cut off in the middle: the ledger has no record more, and a new connection
        opens."""
        async with opened(adapter, tmp_path) as (branch, server):
            size = branch.pen.desk.tip.size
            reader, writer = await connected(server)
            writer.write(noise)
            writer.write_eof()
            async with asyncio.timeout(30):
                await reader.read()
            writer.close()
            _, again = await connected(server)
            again.close()
            assert branch.pen.desk.tip.size == size

    async def test_a_stop_does_not_wait_for_silent_peers(self, adapter: Adapter, tmp_path: Path) -> None:
        """Idle and half-open connections are closed, not waited for."""
        async with opened(adapter, tmp_path) as (_, server):
            peers = [await connected(server) for _ in range(20)]
            peers[0][1].write(b"\x00")
            async with asyncio.timeout(20):
                await server.stop()
                for reader, writer in peers:
                    with contextlib.suppress(ConnectionResetError):
                        assert await reader.read() == b""
                    writer.close()


def _secrets(adapter: Adapter, directory: Path) -> dict[str, str]:
    if "vault_key_file" in adapter.options.__struct_fields__:
        return {"vault_key_file": str(directory / "vault.key")}
    return {}
