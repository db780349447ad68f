"""Lists at the hub: settings that name one which is not here are refused; boxes fetch it by its digest."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import TestClient, TestServer

from edgegw.core.lists import block_of
from edgegw.core.messages import SITE_PATH
from edgegw.core.site import ListRule
from edgegw.hub.app import make_app
from edgegw.hub.lists import keep_list
from edgegw.hub.site import SiteError
from tests.hub.world import World, a_site


async def test_a_list_is_published_with_the_settings_that_name_it(world: World) -> None:
    """Not before the hub has it, and with its true length."""
    block = block_of("card", ("a", "b"))
    with world.engine.begin() as connection:
        digest = keep_list(connection, block, now_ns=1)
        assert keep_list(connection, block, now_ns=2) == digest
    rule = ListRule(name="hot", of="card", digest=digest, entries=2)
    for wrong, fault in (
        (ListRule(name="hot", of="card", digest="0" * 64, entries=2), "the hub has no such list"),
        (ListRule(name="hot", of="card", digest=digest, entries=3), "it has 2; write that"),
    ):
        with pytest.raises(SiteError, match=fault):
            world.publish(a_site(2, lists=(wrong,)))
    world.publish(a_site(2, lists=(rule,)))
    async with TestClient(TestServer(make_app(world.hub))) as client:
        async with client.get(SITE_PATH + digest) as response:
            assert await response.read() == block
        async with client.get(SITE_PATH + "0" * 64) as response:
            assert response.status == 404
