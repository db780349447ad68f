"""The token endpoint and what belongs to it, as HTTP has them: RFC 6749's form and errors, revocation
(RFC 7009), the published keys (RFC 7517), metadata (RFC 8414).

Owns their shapes and statuses. Leaves out what is given and why (`access.oauth`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Final, Literal, TypeVar
from urllib.parse import parse_qsl

import msgspec
import structlog

from edgegw.access.key_files import KeyFileError
from edgegw.access.oauth import (
    ASSERTION_TYPE,
    CLIENT_CREDENTIALS,
    REFRESH_TOKEN,
    OAuthError,
    TokenServer,
)
from edgegw.access.places import PlaceAway
from edgegw.access.shield import Rates
from edgegw.access.token_store import StoreFails
from edgegw.access.tokens import Assertion
from edgegw.core.scopes import SCOPES, groups_of
from edgegw.core.site import Site
from edgegw.payments.http_api.calls import Call, Reply
from edgegw.payments.problems import Unanswered
from edgegw.payments.service import Gateway
from edgegw.payments.site_health import TURNED_AWAY_EVENT

_log: Final = structlog.get_logger("edgegw.tokens")
T = TypeVar("T")
F = TypeVar("F", bound=msgspec.Struct)
FORM_BYTES_MAX: Final = 16 << 10
PARAMETERS_MAX: Final = 32
WAITING_MAX: Final = 64
"""Requests for tokens at work at once, each a COMMIT; about a second's."""
KEPT_EACH_S: Final = 60
BEHIND_S: Final = 60
CLOCK_HINT: Final = (
    "Tokens go by the time before. Mend the clock; if that earlier time was wrong: edgegw oauth reset-clock."
)
FORM: Final = re.compile(
    r"application/x-www-form-urlencoded(?:\s*;\s*charset=\"?utf-8\"?)?\s*", re.IGNORECASE
)
_BASE: Final = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_UNAUTHORIZED: Final = 401
FORM_ERRORS: Final = {
    400: ("invalid_request", "invalid_grant", "invalid_scope", "unsupported_grant_type"),
    _UNAUTHORIZED: ("invalid_client",),
}
_encode: Final = msgspec.json.Encoder().encode

_Assertion = Annotated[
    str,
    msgspec.Meta(
        description="A JWT (EdDSA) that the client has signed with its Ed25519 key: iss and sub the client,"
        " aud the box or the issuer, jti its own, exp at most an hour ahead. Each is good once."
    ),
]


class ClientForm(msgspec.Struct, frozen=True, kw_only=True):
    """How a client shows who it is: by `private_key_jwt` alone. Other parameters are let pass."""

    client_assertion_type: Annotated[str, msgspec.Meta(description=f"`{ASSERTION_TYPE}`.")] = ""
    client_assertion: _Assertion = ""
    client_id: Annotated[str, msgspec.Meta(description="May be left out: the assertion says it.")] = ""


class TokenForm(ClientForm, frozen=True, kw_only=True):
    """A request for tokens."""

    grant_type: Literal["client_credentials", "refresh_token"]
    scope: Annotated[
        str, msgspec.Meta(description="Scopes, or groups of them, with blanks between; without it, all.")
    ] = ""
    refresh_token: Annotated[str, msgspec.Meta(description="With grant_type refresh_token.")] = ""


class RevokeForm(ClientForm, frozen=True, kw_only=True):
    """A request that a token be revoked."""

    token: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            description="One of the client's own: a refresh token (its whole family ends), an access token,"
            " or one that the client has signed itself.",
        ),
    ]
    token_type_hint: str = ""


class OAuthProblem(msgspec.Struct, frozen=True, kw_only=True):
    """An error as RFC 6749, 5.2 writes it."""

    error: str
    error_description: str


class Jwks(msgspec.Struct, frozen=True, kw_only=True):
    """The box's public keys for access tokens."""

    keys: list[dict[str, str]]


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """What the box's authorization server can do."""

    issuer: str
    token_endpoint: str
    revocation_endpoint: str
    jwks_uri: str
    scopes_supported: list[str]
    response_types_supported: list[str]
    grant_types_supported: list[str]
    token_endpoint_auth_methods_supported: list[str]
    token_endpoint_auth_signing_alg_values_supported: list[str]
    revocation_endpoint_auth_methods_supported: list[str]
    revocation_endpoint_auth_signing_alg_values_supported: list[str]


def decode_form(raw: bytes, shape: type[F]) -> F:
    """A form's typed parameters; raises OAuthError. An empty one is as if it were left out."""
    try:
        pairs = parse_qsl(
            raw.decode("ascii"), keep_blank_values=True, max_num_fields=PARAMETERS_MAX, errors="strict"
        )
    except ValueError:
        raise OAuthError("invalid_request", "the body is no form of a few parameters in UTF-8") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in found and name in shape.__struct_fields__:
            raise OAuthError("invalid_request", f"{name} is given twice")
        found[name] = value
    given = {name: value for name, value in found.items() if value}
    if "grant_type" in given and given["grant_type"] not in (CLIENT_CREDENTIALS, REFRESH_TOKEN):
        raise OAuthError(
            "unsupported_grant_type", f"grant_type is neither {CLIENT_CREDENTIALS} nor {REFRESH_TOKEN}"
        )
    try:
        return msgspec.convert(given, shape)
    except msgspec.ValidationError as problem:
        raise OAuthError("invalid_request", str(problem)) from None


def refused(error: OAuthError) -> Reply:
    """The answer to a request that is refused."""
    is_client = error.error == "invalid_client"
    problem = OAuthProblem(error=error.error, error_description=_printable(str(error)))
    headers = {"WWW-Authenticate": 'Bearer realm="edgegw"'} if is_client else {}
    return Reply(_UNAUTHORIZED if is_client else 400, _encode(problem), headers)


def _printable(text: str) -> str:
    """What an error_description may hold."""
    return "".join(one if " " <= one <= "~" and one not in '"\\' else "'" for one in text)[:512]


class TokenHandlers:
    """The operations of one box's token server."""

    def __init__(self, gateway: Gateway, server: TokenServer, rates: Rates) -> None:
        self._gateway = gateway
        self._server = server
        self._rates = rates
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokens")
        self._waiting = 0
        self._keeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to keep the time by which tokens live and end."""
        self._keeping = asyncio.create_task(self._keep_time())

    async def stop(self) -> None:
        """End the thread that writes, after what waits for it, and close the file."""
        if self._keeping is None:
            return
        self._keeping.cancel()
        self._keeping = None
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._thread, self._server.close)
        except StoreFails as problem:
            _log.warning("tokens_not_kept", problem=str(problem), hint=problem.hint)
        self._thread.shutdown()

    async def _keep_time(self) -> None:
        """A clock that goes back while the box is off must not revive what had expired."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                await loop.run_in_executor(self._thread, self._server.keep_time)
            except StoreFails as problem:
                _log.warning("tokens_not_kept", problem=str(problem), hint=problem.hint)
            behind_s = self._server.behind_s()
            if behind_s > BEHIND_S:
                _log.warning("clock_went_back", behind_seconds=behind_s, hint=CLOCK_HINT)
            await asyncio.sleep(KEPT_EACH_S)

    async def create_token(self, call: Call) -> Reply:
        """Tokens for a client's assertion, or the next ones for a refresh token."""
        form: TokenForm = call.body
        try:
            site, said = self._client(form)
            if form.grant_type == CLIENT_CREDENTIALS:
                granted = await self._written(lambda: self._server.begin(site, said, scope=form.scope))
            else:
                if not form.refresh_token:
                    raise OAuthError("invalid_request", "refresh_token is missing")
                granted = await self._written(
                    lambda: self._server.refresh(site, said, token=form.refresh_token, scope=form.scope)
                )
        except OAuthError as error:
            return refused(error)
        return Reply(200, _encode(granted), {"Pragma": "no-cache"})

    async def revoke_token(self, call: Call) -> Reply:
        """Revoke a token."""
        form: RevokeForm = call.body
        try:
            site, said = self._client(form)
            await self._written(lambda: self._server.revoke(site, said, token=form.token))
        except OAuthError as error:
            return refused(error)
        return Reply(200, b"{}")

    def _client(self, form: ClientForm) -> tuple[Site, Assertion]:
        site = self._gateway.site
        if site is None:
            why, hint = self._gateway.why_not_ready or ("", "")
            raise Unanswered("not_clearing", f"the box knows no clients yet: {why}", hint=hint)
        try:
            said = self._server.authenticated(
                site,
                assertion_type=form.client_assertion_type,
                assertion=form.client_assertion,
                client_id=form.client_id,
            )
        except OAuthError as error:
            if error.is_unknown:
                self._gateway.meter.protocol_event(protocol="http", event=TURNED_AWAY_EVENT)
            raise
        if not self._rates.take(said.rule.name):
            raise Unanswered("rate_exceeded", f"{said.rule.name} asks faster than the site allows")
        return site, said

    async def _written(self, work: Callable[[], T]) -> T:
        """Do it in the one thread that waits for the disk."""
        if self._waiting >= WAITING_MAX:
            raise Unanswered("overloaded", f"{self._waiting} requests for tokens wait; the box takes no more")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (StoreFails, KeyFileError, PlaceAway) as problem:
            raise Unanswered("tokens_not_kept", str(problem), hint=problem.hint) from problem
        finally:
            self._waiting -= 1

    async def get_jwks(self, call: Call) -> Reply:  # noqa: ARG002
        """The public keys of access tokens."""
        headers = {"Cache-Control": "public, max-age=900"}
        return Reply(200, _encode(self._server.keys.jwks()), headers, "application/jwk-set+json")

    async def get_token_metadata(self, call: Call) -> Reply:
        """RFC 8414's document; its addresses are those by which the client has asked."""
        own, site = self._server.issuer, self._gateway.site
        base = own if own.startswith("http") else call.base
        if not _BASE.fullmatch(base):
            raise Unanswered("malformed_http", "the Host header is no host with its port", field="Host")
        names = {*SCOPES, *(() if site is None else groups_of(site))}
        methods, algorithms = ["private_key_jwt"], ["EdDSA"]
        metadata = Metadata(
            issuer=own,
            token_endpoint=f"{base}/v1/oauth/token",
            revocation_endpoint=f"{base}/v1/oauth/revoke",
            jwks_uri=f"{base}/v1/oauth/jwks",
            scopes_supported=sorted(names),
            response_types_supported=[],
            grant_types_supported=[CLIENT_CREDENTIALS, REFRESH_TOKEN],
            token_endpoint_auth_methods_supported=methods,
            token_endpoint_auth_signing_alg_values_supported=algorithms,
            revocation_endpoint_auth_methods_supported=methods,
            revocation_endpoint_auth_signing_alg_values_supported=algorithms,
        )
        return Reply(200, _encode(metadata))
