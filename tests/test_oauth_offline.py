"""Tokens with real processes: the centre's order arrives, the line goes down, the box is killed and comes
back; what was revoked stays so."""

from __future__ import annotations

import http.client
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from edgegw.access.oauth import ASSERTION_TYPE
from edgegw.access.tokens import mint_token
from edgegw.commands.keys import ed25519_key
from tests.processes import Branch
from tests.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def branch(tmp_path: Path) -> Iterator[Branch]:
    branch = Branch(tmp_path)
    branch.start_hub()
    branch.start_box()
    yield branch
    branch.end()


def tokens(branch: Branch, **parameters: str) -> Any:
    """What the token endpoint answers to a fresh assertion."""
    key = ed25519_key(branch.folder / "till.pem")
    assertion = mint_token(key, client="till", box="box-1", lifetime_seconds=60, now_s=int(time.time()))
    form = {
        "grant_type": "client_credentials",
        "client_assertion_type": ASSERTION_TYPE,
        "client_assertion": assertion,
        **parameters,
    }
    connection = http.client.HTTPConnection("127.0.0.1", branch.http_port, timeout=60)
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    connection.request("POST", "/v1/oauth/token", urlencode(form), headers)
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer


def status(branch: Branch, token: str) -> int:
    """What the box answers to who shows this token."""
    branch.token = token
    return branch.call("GET", "/v1/status").status


def test_what_was_revoked_stays_so_without_the_line_and_over_a_kill(branch: Branch) -> None:
    """Who has stolen a till must not wait for an outage or a power cut."""
    settings = branch.path("box.toml")
    first, other = tokens(branch), tokens(branch)
    assert branch.hub is not None
    branch.hub.end(signal.SIGTERM)
    second = tokens(branch, grant_type="refresh_token", refresh_token=first["refresh_token"])
    assert status(branch, second["access_token"]) == 200
    again = tokens(branch, grant_type="refresh_token", refresh_token=first["refresh_token"])
    assert again["error"] == "invalid_grant"
    assert status(branch, second["access_token"]) == 401

    listed = json.loads(branch.run("oauth", "list", settings, "--json"))
    lives = [one["id"] for one in listed["families"] if not one["ended"]]
    branch.run("oauth", "revoke", settings, "--token", lives[0], "--reason", "lost till")
    wait_until(lambda: status(branch, other["access_token"]) == 401, "the box to hear of it")

    kept = tokens(branch)
    assert branch.box is not None
    branch.box.end(signal.SIGKILL)
    branch.start_box(ready=False)
    assert status(branch, kept["access_token"]) == 200
    assert status(branch, second["access_token"]) == status(branch, other["access_token"]) == 401
    assert tokens(branch, grant_type="refresh_token", refresh_token=kept["refresh_token"])["scope"]


def test_the_centre_s_block_holds_without_the_line_and_over_a_kill(branch: Branch) -> None:
    """The order stands in the box's journal from the moment that it arrives."""
    granted = tokens(branch)
    hub = branch.path("hub.toml")
    branch.run("order", "block", "client", "till", "--reason", "key stolen", "--hub", hub)
    wait_until(lambda: status(branch, granted["access_token"]) == 403, "the order to arrive")
    assert branch.hub is not None
    assert branch.box is not None
    branch.hub.end(signal.SIGTERM)
    branch.box.end(signal.SIGKILL)
    branch.start_box(ready=False)
    assert status(branch, granted["access_token"]) == 403
    assert tokens(branch)["error"] == "invalid_client"
