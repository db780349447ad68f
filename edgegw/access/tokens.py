"""Client tokens: short-lived JWTs that a client signs with its own Ed25519 key and the box checks against the
site's settings.

The box holds public keys only, so that a stolen box cannot speak for a client. `alg` is EdDSA and nothing
else; `iss` and `sub` are the client's name, `aud` is the box, `exp` is at most a day ahead. A verified token
is remembered until it expires (146 µs become one look-up) and forgotten when the site's settings change."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from jwt.types import Options

from edgegw.core.site import Site

ALGORITHM: Final = "EdDSA"
LIFETIME_SECONDS_MAX: Final = 24 * 3600
LEEWAY_SECONDS: Final = 60
TOKEN_CHARACTERS_MAX: Final = 4096
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


class TokenError(Exception):
    """A token that is not accepted; `code` is `token_missing`, `token_invalid` or `token_expired`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Tokens:
    """Checks the tokens of one box's clients."""

    def __init__(
        self, *, box: str, site: Callable[[], Site | None], now_s: Callable[[], float] = time.time
    ) -> None:
        self._box = box
        self._site = site
        self._now_s = now_s
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
        if site is not self._seen_site:
            self._seen_site = site
            self._remembered.clear()
        client = self._remembered.get(token)
        if client is None:
            client = self._verified(token, site)
            if len(self._remembered) >= REMEMBERED_MAX:
                del self._remembered[next(iter(self._remembered))]
            self._remembered[token] = client
        elif client.expires_at_s + LEEWAY_SECONDS <= self._now_s():
            del self._remembered[token]
            raise self._out_of_time("exp", client.expires_at_s)
        return client

    def _verified(self, token: str, site: Site | None) -> Client:
        if len(token) > TOKEN_CHARACTERS_MAX:
            raise TokenError("token_invalid", f"the token is longer than {TOKEN_CHARACTERS_MAX} characters")
        rule = None
        if site is not None:
            name = _unverified_subject(token)
            rule = next((rule for rule in site.clients if rule.name == name), None)
        if rule is None:
            raise TokenError("token_invalid", "sub names no client of the site's settings")
        claims = self._claims(token, rule.name, public_key_from(rule.public_key))
        return Client(rule.name, frozenset(rule.scopes), claims["exp"], certificate=_bound_to(claims))

    def _claims(self, token: str, name: str, key: Ed25519PublicKey) -> dict[str, Any]:
        options: Options = {
            "require": ["exp", "iss", "sub", "aud"],
            "verify_exp": False,
            "verify_nbf": False,
            "verify_iat": False,
        }
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=self._box,
                issuer=name,
                subject=name,
                options=options,
            )
        except jwt.PyJWTError as error:
            raise TokenError("token_invalid", f"the token does not verify: {error}") from error
        for claim in ("exp", "nbf", "iat"):
            if claim in claims and (not isinstance(claims[claim], int) or isinstance(claims[claim], bool)):
                raise TokenError("token_invalid", f"{claim} is not a whole number of seconds")
        now_s = int(self._now_s())
        if claims["exp"] + LEEWAY_SECONDS <= now_s:
            raise self._out_of_time("exp", claims["exp"])
        if claims["exp"] > now_s + LIFETIME_SECONDS_MAX + LEEWAY_SECONDS:
            raise self._out_of_time("exp", claims["exp"])
        if claims.get("nbf", 0) > now_s + LEEWAY_SECONDS:
            raise self._out_of_time("nbf", claims["nbf"])
        return claims

    def _out_of_time(self, claim: str, value: int) -> TokenError:
        ahead = value - int(self._now_s())
        text = f"{claim} {value} is {abs(ahead)} s {'ahead of' if ahead > 0 else 'behind'} the box's clock"
        return TokenError("token_expired", f"{text}; exp lies at most {LIFETIME_SECONDS_MAX} s ahead")


def _bound_to(claims: Mapping[str, Any]) -> str:
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
    """A token that lets `client` speak to `box` for lifetime_seconds from now_s on (a day at most).

    certificate: SHA-256, in base64url, of the one with which alone it is good; "" with any or none."""
    claims: dict[str, object] = {
        "iss": client,
        "sub": client,
        "aud": box,
        "iat": now_s,
        "exp": now_s + lifetime_seconds,
    }
    if certificate:
        claims["cnf"] = {X5T_S256: certificate}
    return jwt.encode(claims, key, algorithm=ALGORITHM)
