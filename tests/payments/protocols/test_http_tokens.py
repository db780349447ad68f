"""The token endpoint over HTTP: RFC 6749's wire format, and which operation takes which scope."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jwt
import pytest

from edgegw.access.keystore import OPEN_FILES, KeyFile
from edgegw.access.oauth import ASSERTION_TYPE, TokenFiles
from edgegw.access.tokens import mint_token
from edgegw.core.records import BlockDirective
from edgegw.core.scopes import SCOPES
from edgegw.payments.http_api.operations import ANY_SCOPE, OPERATIONS
from edgegw.payments.protocols.http import HttpOptions
from edgegw.payments.protocols.http import start as start_http
from tests.payments.branch import BOX, Branch, HttpClient, Reply, open_branch, payment, payment_id

TOKEN_URL, REVOKE_URL = "/v1/oauth/token", "/v1/oauth/revoke"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class Till(HttpClient):
    """A client that asks the box for its tokens."""

    def __init__(self, branch: Branch, name: str = "till") -> None:
        super().__init__(branch, name)
        self._branch, self._name = branch, name
        self.headers = {}

    def assertion(self) -> str:
        key = self._branch.client_keys[self._name]
        return mint_token(key, client=self._name, box=BOX, lifetime_seconds=60, now_s=int(time.time()))

    async def form(self, path: str, **parameters: str) -> Reply:
        """One request with a fresh assertion; a parameter that is "" is left out."""
        said = {
            "grant_type": "client_credentials",
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": self.assertion(),
            **parameters,
        }
        given = {name: value for name, value in said.items() if value}
        return await self.send("POST", path, urlencode(given).encode(), headers=FORM)

    async def tokens(self, **parameters: str) -> Any:
        """What the endpoint gives, and the headers to use it."""
        reply = await self.form(TOKEN_URL, **parameters)
        assert reply.status == 200, reply.body
        self.headers = {"Authorization": f"Bearer {reply.json['access_token']}"}
        return reply.json


@pytest.fixture
async def branch(tmp_path: Path) -> AsyncIterator[Branch]:
    async with open_branch(tmp_path) as opened:
        yield opened


@pytest.fixture
async def till(branch: Branch) -> AsyncIterator[Till]:
    client = Till(branch)
    yield client
    await client.close()


async def test_a_till_asks_for_tokens_pays_and_goes_on_with_the_next(branch: Branch, till: Till) -> None:
    """The whole way of a client, as OAuth 2.1 writes it."""
    await branch.grant("baker", 10_000)
    first = await till.form(TOKEN_URL)
    assert first.headers["Cache-Control"] == "no-store"
    assert first.headers["Content-Type"] == "application/json"
    assert first.json["token_type"] == "Bearer"
    assert "payments:write" in first.json["scope"].split()
    till.headers = {"Authorization": f"Bearer {first.json['access_token']}"}
    assert (await till.pay()).status == 201
    second = await till.tokens(grant_type="refresh_token", refresh_token=first.json["refresh_token"])
    assert (await till.pay()).status == 201
    again = await till.form(TOKEN_URL, grant_type="refresh_token", refresh_token=first.json["refresh_token"])
    assert (again.status, again.json["error"]) == (400, "invalid_grant")
    refused = await till.pay()
    assert (refused.status, refused.code) == (401, "token_revoked")
    assert 'error="invalid_token"' in refused.headers["WWW-Authenticate"]
    late = await till.form(TOKEN_URL, grant_type="refresh_token", refresh_token=second["refresh_token"])
    assert late.json["error"] == "invalid_grant"


async def test_errors_are_those_of_the_standard(till: Till) -> None:
    """A client of any maker must understand them."""
    wanted = [
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({"grant_type": ""}, 400, "invalid_request"),
        ({"grant_type": "refresh_token"}, 400, "invalid_request"),
        ({"grant_type": "refresh_token", "refresh_token": "x"}, 400, "invalid_grant"),
        ({"scope": "everything"}, 400, "invalid_scope"),
        ({"client_assertion": ""}, 401, "invalid_client"),
        ({"client_assertion_type": "x"}, 401, "invalid_client"),
        ({"client_assertion": "a.b.c"}, 401, "invalid_client"),
        ({"client_id": "other"}, 401, "invalid_client"),
    ]
    for parameters, status, error in wanted:
        reply = await till.form(TOKEN_URL, **parameters)
        assert (reply.status, reply.json["error"]) == (status, error), parameters
        assert reply.headers["Cache-Control"] == "no-store"
        assert ("WWW-Authenticate" in reply.headers) == (status == 401)
    assert (await till.form(TOKEN_URL, nonce="an unknown parameter", client_id="till")).status == 200
    twice = await till.send("POST", TOKEN_URL, b"grant_type=a&grant_type=b", headers=FORM)
    assert twice.json["error"] == "invalid_request"
    for body in (b"\xff", b"&".join(b"a%d=1" % number for number in range(99)), b"a=%ff"):
        assert (await till.send("POST", TOKEN_URL, body, headers=FORM)).json["error"] == "invalid_request"
    as_json = await till.send("POST", TOKEN_URL, b"{}", headers={"Content-Type": "application/json"})
    assert (as_json.status, as_json.code) == (415, "unsupported_media_type")


async def test_each_operation_takes_its_own_scope_and_no_other(till: Till) -> None:
    """A token that was made small must not do more than it says."""
    scoped = [operation for operation in OPERATIONS if operation.scope not in ("", ANY_SCOPE)]
    assert {operation.scope for operation in scoped} == SCOPES.keys() - {"notices:all"}
    all_scopes = SCOPES.keys()
    for scope in sorted({operation.scope for operation in scoped}):
        mine = [operation for operation in scoped if operation.scope == scope]
        await till.tokens(scope=" ".join(sorted(all_scopes - {scope})))
        for operation in mine:
            reply = await till.send(operation.method, _filled(operation.path))
            assert (reply.status, reply.code) == (403, "scope_missing"), operation.name
            assert reply.headers["WWW-Authenticate"] == (
                f'Bearer realm="edgegw", error="insufficient_scope", scope="{scope}"'
            )
        await till.tokens(scope=scope)
        for operation in mine:
            reply = await till.send(operation.method, _filled(operation.path))
            assert reply.status not in (401, 403), operation.name


def _filled(path: str) -> str:
    return re.sub(r"{[a-z_]+}", payment_id(), path)


async def test_a_group_s_members_need_their_own_scopes(branch: Branch, till: Till) -> None:
    """Else a group would be the way around every scope."""
    await branch.grant("baker", 10_000)
    member = {**payment(100), "kind": "payment"}
    refund = {"kind": "refund", "id": payment_id(), "payment_id": payment_id(), "amount_minor": 1}
    await till.tokens(scope="groups:write payments:write")
    assert (await till.send("POST", "/v1/groups", {"members": [member]})).status == 200
    refused = await till.send("POST", "/v1/groups", {"members": [member, refund]})
    assert (refused.code, refused.json["value"]) == ("scope_missing", "refunds:write")


async def test_another_client_s_notices_take_the_scope_of_the_token(till: Till) -> None:
    """A token without it must not read what its client may read with another one."""
    await till.tokens(scope="notices:read")
    assert (await till.get("/v1/notices?client=other")).code == "scope_missing"
    await till.tokens(scope="notices:read notices:all")
    assert (await till.get("/v1/notices?client=other")).status == 200


async def test_the_centre_blocks_a_client_and_the_line_may_go_down(branch: Branch, till: Till) -> None:
    """Whatever a blocked client shows, it is not heard; the order stands in the journal."""
    await till.tokens()

    async def order(of: str, whose: str, *, blocked: bool) -> None:
        head = branch._directive_head()
        await branch.say(BlockDirective(**head, of=of, whose=whose, blocked=blocked, reason="key stolen"))

    await order("client", "till", blocked=True)
    branch.centre.up = False
    refused = await till.get("/v1/status")
    assert (refused.status, refused.code) == (403, "client_blocked")
    direct = HttpClient(branch)
    assert (await direct.get("/v1/status")).code == "client_blocked"
    assert (await till.form(TOKEN_URL)).json["error"] == "invalid_client"
    await order("client", "till", blocked=False)
    assert (await till.get("/v1/status")).status == 200
    token_id = jwt.decode(direct.headers["Authorization"][7:], options={"verify_signature": False})["jti"]
    await order("token", token_id, blocked=True)
    assert (await direct.get("/v1/status")).code == "token_revoked"
    await direct.close()


async def test_a_client_revokes_and_unknown_tokens_are_no_error(till: Till) -> None:
    """RFC 7009: a client that logs out must not have to know what is left of its token."""
    granted = await till.tokens()
    assert (await till.form(REVOKE_URL, token="unknown")).status == 200
    assert (await till.get("/v1/status")).status == 200
    assert (await till.form(REVOKE_URL, token=granted["refresh_token"])).status == 200
    assert (await till.get("/v1/status")).code == "token_revoked"
    assert (await till.form(REVOKE_URL)).json["error"] == "invalid_request"


async def test_the_metadata_names_what_is_there(branch: Branch, till: Till) -> None:
    """A client that finds its way by RFC 8414 must arrive."""
    metadata = (await till.get("/.well-known/oauth-authorization-server")).json
    assert metadata["issuer"] == "edgegw://demo-bank/branch-1"
    assert metadata["token_endpoint"] == f"{branch.url}{TOKEN_URL}"
    assert metadata["revocation_endpoint"] == f"{branch.url}{REVOKE_URL}"
    keys = await till.get(metadata["jwks_uri"].removeprefix(branch.url))
    assert keys.headers["Content-Type"] == "application/jwk-set+json"
    assert [key["kty"] for key in keys.json["keys"]] == ["OKP"]
    assert "d" not in keys.json["keys"][0]
    assert SCOPES.keys() <= set(metadata["scopes_supported"])


async def test_tokens_outlive_a_restart_of_the_way_in(branch: Branch, till: Till, tmp_path: Path) -> None:
    """A restart in the middle of the day must not stop every till."""
    key = KeyFile("token_key_file", tmp_path / "secrets" / "tokens.json", "tokens", "x")
    branch.gateway.token_files = TokenFiles(OPEN_FILES, key, tmp_path / "tokens.db")
    await _restarted(branch)
    before = Till(branch)
    granted = await before.tokens()
    await _restarted(branch)
    after = Till(branch)
    after.headers = before.headers
    assert (await after.get("/v1/status")).status == 200
    await after.tokens(grant_type="refresh_token", refresh_token=granted["refresh_token"])
    for client in (before, after):
        await client.close()


async def _restarted(branch: Branch) -> None:
    assert branch.server is not None
    await branch.server.stop()
    branch.server = await start_http(branch.gateway, HttpOptions(port=0))


async def test_a_flood_of_strangers_at_the_token_endpoint_leaves_payments_alone(
    branch: Branch, till: Till
) -> None:
    """Whoever is not a client must not fill the queue of those who are."""
    await till.tokens()
    strangers = [till.form(TOKEN_URL, client_assertion=f"a.{number}.c") for number in range(100)]
    statuses = {reply.status for reply in await asyncio.gather(*strangers)}
    assert statuses == {401}
    assert (await till.get("/v1/status")).status == 200
