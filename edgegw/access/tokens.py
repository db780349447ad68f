"""Client tokens: short-lived JWTs that a client signs with its own Ed25519 key and the box checks against the
site's settings; and, beside them, the box's own access tokens (`access.oauth`).

The box holds its clients' public keys only, so that a stolen box cannot speak for a client. `alg` is EdDSA
and nothing else; `iss` and `sub` are the client's name, `aud` is the box. Such a token is a client assertion
(RFC 7523) at the token endpoint; used as it is, it is good for as long as the site's settings let it be. A
verified token is remembered until it expires (146 µs become one look-up) and forgotten when the site's
settings change or something is revoked."""

from __future__ import annotations

import base64
import binascii
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, Protocol

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from jwt.types import Options

from edgegw.core.journal import sm3
from edgegw.core.scopes import scopes_of
from edgegw.core.site import ClientRule, Site, TokenRule

ALGORITHM: Final = "EdDSA"
ACCESS_TYPES: Final = ("at+jwt", "application/at+jwt")
"""`typ` of the box's own access tokens (RFC 9068); what a client signs never has it."""
LEEWAY_SECONDS: Final = 60
TOKEN_CHARACTERS_MAX: Final = 4096
TOKEN_ID_CHARACTERS_MAX: Final = 128
REMEMBERED_MAX: Final = 4096
"""Tokens remembered at once: a client needs one, a fleet of tills a few hundred; a flood only costs the
memory of these."""
KEY_BYTES: Final = 32
X5T_S256: Final = "x5t#S256"
"""RFC 8705's name for the SHA-256 of a certificate, in base64url."""


class Client(msgspec.Struct, frozen=True):
    """Who speaks, and what it may do."""

    name: str
    scopes: frozenset[str]
    expires_at_s: int
    certificate: str = ""
    """SHA-256, in base64url, of the only certificate with which its token is good; "" with any or none."""
    signed_by: str = ""
    """The keyid of the SM2 key that signed this one request; "" where another way showed who it is."""
    token_id: str = ""
    """The token's `jti`, where it has one."""
    family: str = ""
    """Of an access token: that of its refresh tokens."""


class TokenError(Exception):
    """A token that is not accepted; `code` is `token_missing`, `token_invalid`, `token_expired` or
    `token_revoked`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Assertion(msgspec.Struct, frozen=True):
    """What a client has signed and the box has checked."""

    rule: ClientRule
    token_id: str
    issued_at_s: int
    """0 where it does not say."""
    expires_at_s: int
    certificate: str = ""
    """The only one with which it is good, and what it buys; "" with any or none."""


class Issuer(Protocol):
    """The box's own tokens and what was revoked, as `Tokens` needs them (`access.oauth.TokenServer`)."""

    def now_s(self) -> int:
        """The time by which tokens are judged."""

    def has_changed(self) -> bool:
        """Whether something was revoked since this was last asked."""

    def access_of(self, token: str, site: Site) -> Client:
        """The client of one of the box's access tokens; raises TokenError."""

    def check(self, *, client: str, ids: Collection[str], issued_at_s: int) -> None:
        """Raise TokenError where a client's token was revoked, by its own id or its family's, or because
        of when it was issued."""

    def check_orders(self, ids: Collection[str]) -> None:
        """Raise TokenError where the centre has revoked one of these ids; cheap enough for each request."""


class Tokens:
    """Checks the tokens of one box's clients."""

    def __init__(
        self,
        *,
        box: str,
        site: Callable[[], Site | None],
        now_s: Callable[[], float] = time.time,
        issuer: Issuer | None = None,
    ) -> None:
        self._box = box
        self._site = site
        self._issuer = issuer
        self._now_s: Callable[[], float] = now_s if issuer is None else issuer.now_s
        self._seen_site: Site | None = None
        self._remembered: dict[str, Client] = {}

    def client_of(self, authorization: str | None) -> Client:
        """The client of an Authorization header; raises TokenError that says what is wrong."""
        if not authorization:
            raise TokenError("token_missing", "the Authorization header is missing")
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise TokenError("token_missing", "the Authorization header is not `Bearer <token>`")
        site = self._site()
        changed = self._issuer is not None and self._issuer.has_changed()
        if site is not self._seen_site or changed:
            self._seen_site = site
            self._remembered.clear()
        client = self._remembered.get(token)
        if client is None:
            client = self._verified(token, site)
            if len(self._remembered) >= REMEMBERED_MAX:
                del self._remembered[next(iter(self._remembered))]
            self._remembered[token] = client
        elif client.expires_at_s + (0 if client.family else LEEWAY_SECONDS) <= self._now_s():
            del self._remembered[token]
            raise TokenError("token_expired", f"exp {client.expires_at_s} is behind the box's clock")
        if self._issuer is not None:
            self._issuer.check_orders((client.token_id, client.family))
        return client

    def _verified(self, token: str, site: Site | None) -> Client:
        if site is None:
            raise TokenError("token_invalid", "sub names no client of the site's settings")
        if self._issuer is not None and is_access_token(token):
            return self._issuer.access_of(token, site)
        rule = TokenRule() if site.tokens is msgspec.UNSET else site.tokens
        lifetime_seconds = rule.direct_minutes * 60
        said = assertion_of(
            token,
            site,
            audiences=(self._box,),
            now_s=int(self._now_s()),
            lifetime_seconds_max=lifetime_seconds,
        )
        if not lifetime_seconds:
            raise TokenError(
                "token_invalid", "the site takes no token that a client has signed itself as it is"
            )
        if self._issuer is not None:
            name = said.rule.name
            self._issuer.check(client=name, ids=(said.token_id,), issued_at_s=said.issued_at_s)
        return Client(
            said.rule.name,
            scopes_of(said.rule, site),
            said.expires_at_s,
            certificate=said.certificate,
            token_id=said.token_id,
        )


def assertion_of(
    token: str, site: Site, *, audiences: Collection[str], now_s: int, lifetime_seconds_max: int
) -> Assertion:
    """What a client of the site has signed for one of these audiences; raises TokenError."""
    if len(token) > TOKEN_CHARACTERS_MAX:
        raise TokenError("token_invalid", f"the token is longer than {TOKEN_CHARACTERS_MAX} characters")
    name = _unverified_subject(token)
    rule = next((rule for rule in site.clients if rule.name == name), None)
    if rule is None:
        raise TokenError("token_invalid", "sub names no client of the site's settings")
    claims = verified_claims(
        token, public_key_from(rule.public_key), issuer=rule.name, audiences=audiences, also=("sub",)
    )
    if is_access_token(token):
        raise TokenError("token_invalid", "the token calls itself the box's, and the client has signed it")
    expires_at_s, issued_at_s = claims["exp"], claims.get("iat", 0)
    if expires_at_s + LEEWAY_SECONDS <= now_s or expires_at_s > now_s + lifetime_seconds_max + LEEWAY_SECONDS:
        raise out_of_time("exp", expires_at_s, now_s, f"; exp lies at most {lifetime_seconds_max} s ahead")
    for claim in ("nbf", "iat"):
        if claims.get(claim, 0) > now_s + LEEWAY_SECONDS:
            raise out_of_time(claim, claims[claim], now_s)
    token_id = claims.get("jti", "")
    if not isinstance(token_id, str) or len(token_id) > TOKEN_ID_CHARACTERS_MAX:
        raise TokenError("token_invalid", f"jti is no text of up to {TOKEN_ID_CHARACTERS_MAX} characters")
    return Assertion(rule, token_id, issued_at_s, expires_at_s, bound_to(claims))


def verified_claims(
    token: str, key: Ed25519PublicKey, *, issuer: str, audiences: Collection[str], also: Collection[str]
) -> dict[str, Any]:
    """The claims of a JWT that this key has signed, its times whole seconds and not judged yet; raises
    TokenError."""
    options: Options = {
        "require": ["exp", "iss", "aud", *also],
        "verify_exp": False,
        "verify_nbf": False,
        "verify_iat": False,
        "verify_sub": False,
        "verify_jti": False,
    }
    try:
        claims = jwt.decode(
            token, key, algorithms=[ALGORITHM], audience=list(audiences), issuer=issuer, options=options
        )
    except jwt.PyJWTError as error:
        raise TokenError("token_invalid", f"the token does not verify: {error}") from error
    for claim in ("exp", "nbf", "iat"):
        if claim in claims and (not isinstance(claims[claim], int) or isinstance(claims[claim], bool)):
            raise TokenError("token_invalid", f"{claim} is not a whole number of seconds")
    return claims


def out_of_time(claim: str, value: int, now_s: int, more: str = "") -> TokenError:
    """The error of a token whose time is not now."""
    ahead = value - now_s
    where = "ahead of" if ahead > 0 else "behind"
    return TokenError("token_expired", f"{claim} {value} is {abs(ahead)} s {where} the box's clock{more}")


def header_of(token: str) -> dict[str, Any]:
    """A JWT's header, which nobody has verified; raises TokenError."""
    if len(token) > TOKEN_CHARACTERS_MAX:
        raise TokenError("token_invalid", f"the token is longer than {TOKEN_CHARACTERS_MAX} characters")
    try:
        return jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        raise TokenError("token_invalid", "the token is not a JWT") from error


def is_access_token(token: str) -> bool:
    """Whether a JWT says of itself that it is an access token; raises TokenError."""
    kind = header_of(token).get("typ")
    return isinstance(kind, str) and kind.lower() in ACCESS_TYPES


def key_name(public_key: str) -> str:
    """A short name of a client's public key in the site's settings: what it bought ends with it."""
    return sm3(public_key.encode())[:8].hex()


def bound_to(claims: Mapping[str, Any]) -> str:
    """The certificate that a token is bound to (RFC 8705); raises TokenError for other bindings, which nobody
    here would check."""
    if "cnf" not in claims:
        return ""
    bound = claims["cnf"]
    thumbprint = bound.get(X5T_S256) if isinstance(bound, dict) and len(bound) == 1 else None
    if not isinstance(thumbprint, str) or not thumbprint:
        raise TokenError("token_invalid", f"cnf is not an object of {X5T_S256} alone")
    return thumbprint


def _unverified_subject(token: str) -> str:
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        raise TokenError("token_invalid", "the token is not a JWT") from error
    subject = claims.get("sub")
    return subject if isinstance(subject, str) else ""


def public_key_from(text: str) -> Ed25519PublicKey:
    """An Ed25519 public key from the base64 of its 32 bytes; raises TokenError when the settings hold
    something else."""
    try:
        raw = base64.b64decode(text, validate=True)
        return Ed25519PublicKey.from_public_bytes(raw)
    except (binascii.Error, ValueError, UnsupportedAlgorithm) as error:
        message = (
            f"public_key in the site's settings is not {KEY_BYTES} bytes in base64; mend the client's entry"
        )
        raise TokenError("token_invalid", message) from error


def public_key_text(key: Ed25519PrivateKey) -> str:
    """The base64 that goes into the site's settings for a client with this key."""
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def mint_token(
    key: Ed25519PrivateKey, *, client: str, box: str, lifetime_seconds: int, now_s: int, certificate: str = ""
) -> str:
    """A token that lets `client` speak to `box` for lifetime_seconds from now_s on (an hour at most, unless
    the site says another), or ask it for an access token, once.

    certificate: SHA-256, in base64url, of the one with which alone it is good; "" with any or none."""
    claims: dict[str, object] = {
        "iss": client,
        "sub": client,
        "aud": box,
        "iat": now_s,
        "exp": now_s + lifetime_seconds,
        "jti": secrets.token_hex(16),
    }
    if certificate:
        claims["cnf"] = {X5T_S256: certificate}
    return jwt.encode(claims, key, algorithm=ALGORITHM)
