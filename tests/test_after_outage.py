"""The line comes back, and the merchant hears of a late decline within a second: real processes, a real line
that is cut, a merchant's own server."""

import asyncio
import json
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from edgegw.demo.relay import Relay
from tests.processes import Branch
from tests.waiting import until

WAITING = 5
"""Payments that the branch stood in for meanwhile."""


def spend_elsewhere(branch: Branch) -> None:
    """Spend the payer's money at the centre while the branch stands in for it."""
    posting = branch.folder / "spent.csv"
    columns = "id,debit_account_id,credit_account_id,amount_minor"
    posting.write_text(f"{columns}\nspent-1,bob,core:CNY,200000\n")
    branch.run("post", str(posting), "--hub", branch.path("hub.toml"))


def give_a_webhook(branch: Branch, url: str) -> None:
    site = json.loads((branch.folder / "site.json").read_text())
    site["version"] = 2
    site["clients"][0]["webhook"] = {"url": url}
    (branch.folder / "site.json").write_text(json.dumps(site))
    branch.run("site", "publish", branch.path("site.json"), "--hub", branch.path("hub.toml"))


@pytest.mark.slow
async def test_a_late_decline_is_posted_within_a_second_of_the_lines_return(tmp_path: Path) -> None:
    """From the first byte that the line carries again to the merchant's server having it."""
    branch, relay = Branch(tmp_path), None
    heard: list[tuple[float, dict[str, Any]]] = []

    async def hook(request: web.Request) -> web.Response:
        heard.append((time.monotonic(), await request.json()))
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/hook", hook)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        branch.more = "[notices]\nnetworks_barred = []\n"
        await asyncio.to_thread(branch.start_hub)
        hub = tomllib.loads((tmp_path / "hub.toml").read_text())["listen"][0]
        relay = Relay(target_port=int(hub.rpartition(":")[2]))
        await relay.start()
        branch.write_box((f"127.0.0.1:{relay.port}",))
        await asyncio.to_thread(give_a_webhook, branch, f"http://127.0.0.1:{runner.addresses[0][1]}/hook")
        await asyncio.to_thread(branch.start_box)
        await asyncio.to_thread(branch.wait_for_mode, "active")
        relay.cut()
        await asyncio.to_thread(branch.wait_for_mode, "offline")
        for _ in range(WAITING):
            stood = await asyncio.to_thread(branch.pay, "bob", 900)
            assert stood.json["cleared_by"] == "stand_in"
        await asyncio.to_thread(spend_elsewhere, branch)
        began_s = time.monotonic()
        relay.carry()
        await until(
            lambda: sum(len(body["notices"]) for _, body in heard) == 5, "five notices", timeout_seconds=20
        )
        seconds = heard[-1][0] - began_s
        first = heard[0][1]["notices"][0]
        assert (first["outcome"], first["owner"], first["reason"], first["money"]) == (
            "declined",
            "merchant:shop",
            "insufficient_funds",
            "taken_back",
        )
        await until(lambda: branch.call("GET", "/v1/notices").json["notices"] == [], "the acknowledgement")
        print(f"line's return to the last of {WAITING} notices: {seconds:.3f} s")
        assert seconds < 1
    finally:
        await asyncio.to_thread(branch.end)
        if relay is not None:
            await relay.stop()
        await runner.cleanup()
