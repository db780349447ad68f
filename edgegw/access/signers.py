"""Who has signed a request: clients by their SM2 keys in the site's settings, and by sessions.

Owns the order in which a signature is looked at, so that nobody's request costs little: structure, key,
signature; only then its body is read and held against its digest, and whether it came before. What stands in
the headers is `access.signatures`, what came before `access.replays`, sessions `access.sessions`, the threads
`access.verifying`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from edgegw.access.replays import FLOORS_NAME, Refused, Replays
from edgegw.access.sessions import COUNTER_MAX, Session, Sessions
from edgegw.access.shown import Shown, Stranger
from edgegw.access.signatures import (
    CONTENT_DIGEST,
    HMAC_SM3,
    SESSION_PREFIX,
    SIGNATURE,
    SIGNATURE_INPUT,
    SM2_SM3,
    SignatureProblem,
    Signed,
    authority_of,
    digest_fits,
    parse,
    signature_base,
    signature_tag,
)
from edgegw.access.tokens import Client
from edgegw.access.verifying import TooMany, Verifiers
from edgegw.core.scopes import scopes_of
from edgegw.core.site import SIGNED, ClientRule, Site
from edgegw.sm.sm2 import PublicKey
from edgegw.sm.sm3 import sm3

NONCE_CHARACTERS_MIN: Final = 16
_KEY_ID_DIGITS: Final = 8
_LARGE_BYTES: Final = 256 * 1024
"""A longer body is hashed in a thread."""


class _Held(NamedTuple):
    """One SM2 key of the site's settings."""

    rule: ClientRule
    key: PublicKey
    scopes: frozenset[str]


class Signers:
    """Knows one box's clients by what they sign."""

    def __init__(self, *, box: str, site: Callable[[], Site | None], folder: Path) -> None:
        """folder, on the ledger's disk, keeps what must outlast the process."""
        self._site = site
        self._tag = signature_tag(box)
        self._replays = Replays(folder / FLOORS_NAME)
        self._verifiers = Verifiers()
        self.sessions: Final = Sessions(box=box)
        self._seen_site: Site | None = None
        self._keys: dict[str, _Held] = {}
        self._signed_only: frozenset[str] = frozenset()
        """Clients of the profile `signed`."""

    def close(self) -> None:
        """End the threads that verify."""
        self._verifiers.close()

    def signature_of(self, shown: Shown) -> Signed | Stranger | None:
        """What the signature of a request says, or why it is nobody's; None where it carries none."""
        try:
            return parse(shown.headers, has_body=shown.has_body)
        except SignatureProblem as problem:
            return _malformed(problem)

    async def client_of(self, shown: Shown, signed: Signed) -> Client | Stranger:
        """The client that has signed a request, or why it is nobody's."""
        self._learn()
        try:
            return await self._client_of_signature(shown, signed)
        except SignatureProblem as problem:
            return _malformed(problem)

    def unsigned(self, client: Client, *, field: str) -> Client | Stranger:
        """A client that would change something without a signature: itself, unless it must sign."""
        self._learn()
        if client.name not in self._signed_only:
            return client
        message = f"{client.name} has the profile `signed`: what is not signed only reads"
        return self._once_more("signature_missing", message, field, counts=True)

    def _once_more(self, code: str, message: str, field: str, *, counts: bool = False) -> Stranger:
        """With what a client needs to sign once more."""
        now_s, challenge = self._replays.now_s, self._replays.challenge()
        return Stranger(code, message, field, counts, server_time_s=now_s, challenge=challenge)

    def _learn(self) -> None:
        """Take over the keys of new settings; sessions of keys that are gone end."""
        site = self._site()
        if site is self._seen_site:
            return
        self._seen_site = site
        self._keys, self._signed_only = {}, frozenset()
        if site is not None:
            self._keys = {
                keyid: _Held(rule, key, scopes_of(rule, site))
                for rule in site.clients
                for keyid, key in signature_keys(rule).items()
            }
            self._signed_only = frozenset(rule.name for rule in site.clients if rule.profile == SIGNED)
        self.sessions.end_all_but(lambda session: session.opened_by in self._keys)

    async def _client_of_signature(self, shown: Shown, signed: Signed) -> Client | Stranger:
        if signed.tag != self._tag:
            message = f'the tag is not "{self._tag}": it was signed for something else'
            return Stranger("signature_malformed", message, SIGNATURE_INPUT)
        base = signature_base(
            signed.components,
            signed.parameters,
            method=shown.method,
            authority=authority_of(shown.headers, scheme=shown.scheme),
            path=shown.path,
            query=shown.query,
            headers=shown.headers,
        )
        if signed.keyid.startswith(SESSION_PREFIX):
            return await self._client_of_session(shown, signed, base)
        held = self._keys.get(signed.keyid)
        if held is None:
            message = (
                "keyid names no client's SM2 key in the site's settings; it is `<client>/<8 hex digits>`"
            )
            return Stranger("signature_key_unknown", message, SIGNATURE_INPUT, counts=True)
        if signed.alg not in ("", SM2_SM3):
            return Stranger("signature_malformed", f"alg is not {SM2_SM3}", SIGNATURE_INPUT)
        if len(signed.nonce) < NONCE_CHARACTERS_MIN:
            message = (
                f"the nonce has fewer than {NONCE_CHARACTERS_MIN} characters; draw 16 random bytes for each"
            )
            return Stranger("signature_malformed", message, SIGNATURE_INPUT)
        try:
            good = await self._verifiers.verify(held.key, base, signed.signature, peer=shown.peer)
        except TooMany:
            return Stranger("overloaded", "too many signatures from this address wait", SIGNATURE)
        if not good:
            return Stranger("signature_invalid", _INVALID, SIGNATURE, counts=True)
        if not await _body_fits(shown):
            return Stranger("signature_invalid", _OTHER_BODY, CONTENT_DIGEST)
        name = held.rule.name
        try:
            await self._replays.spend(
                name, nonce=signed.nonce, created_s=signed.created_s, expires_s=signed.expires_s
            )
        except Refused as refused:
            return self._once_more(refused.code, str(refused), SIGNATURE_INPUT)
        return _client(held, signed.keyid)

    async def _client_of_session(self, shown: Shown, signed: Signed, base: bytes) -> Client | Stranger:
        session = self.sessions.find(signed.keyid)
        held = None if session is None else self._keys.get(session.opened_by)
        if session is None or held is None:
            message = "keyid names no open session: it has ended, or the box began anew since"
            return self._once_more("session_unknown", message, SIGNATURE_INPUT)
        if signed.alg not in ("", HMAC_SM3) or signed.created_s >= 0 or signed.expires_s >= 0:
            message = f"a session's signature has alg {HMAC_SM3} or none, no created and no expires"
            return Stranger("signature_malformed", message, SIGNATURE_INPUT)
        if not session.verify(base, signed.signature):
            return Stranger("signature_invalid", _INVALID, SIGNATURE)
        if not await _body_fits(shown):
            return Stranger("signature_invalid", _OTHER_BODY, CONTENT_DIGEST)
        return self._counted(session, signed.nonce) or _client(held, "")

    def _counted(self, session: Session, nonce: str) -> Stranger | None:
        """Count a request of a session; why it may not be."""
        counter = int(nonce) if nonce.isdecimal() and nonce[0] != "0" and len(nonce) <= _COUNTER_DIGITS else 0
        if not 0 < counter <= COUNTER_MAX:
            message = (
                f"a session's nonce is its requests' number from 1 to {COUNTER_MAX}, without leading zeros"
            )
            return Stranger("signature_malformed", message, SIGNATURE_INPUT)
        if session.count(counter):
            return None
        message = f"the session's request {counter} came before, or lies too far behind the highest number"
        return Stranger("signature_replayed", message, SIGNATURE_INPUT)


_COUNTER_DIGITS: Final = len(str(COUNTER_MAX))
_INVALID: Final = "it is not the key's over this request: compare the signature base line by line"
_OTHER_BODY: Final = "the body is not the one that Content-Digest names, by sm3 or sha-256"


async def _body_fits(shown: Shown) -> bool:
    """Whether the body is the one that was signed. It is read only now that its sender is known."""
    if not shown.has_body:
        return True
    body = await shown.body()
    if len(body) > _LARGE_BYTES:
        return await asyncio.to_thread(digest_fits, shown.headers, body)
    return digest_fits(shown.headers, body)


def _malformed(problem: SignatureProblem) -> Stranger:
    return Stranger("signature_malformed", f"{problem.field}: {problem}", problem.field)


def _client(held: _Held, signed_by: str) -> Client:
    return Client(held.rule.name, held.scopes, expires_at_s=0, signed_by=signed_by)


def signature_keys(rule: ClientRule) -> dict[str, PublicKey]:
    """A client's SM2 keys by the keyid that its signatures name; a key that is none is left out, as the
    settings' check refuses it."""
    texts = () if rule.sm2_public_keys is msgspec.UNSET else rule.sm2_public_keys
    keys = [key for key in map(signature_key, texts) if key is not None]
    return {keyid_of(rule.name, key): key for key in keys}


def signature_key(text: str) -> PublicKey | None:
    """The SM2 key of this text in the settings; None where it is none."""
    try:
        return PublicKey(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        return None


def keyid_of(client: str, key: PublicKey) -> str:
    """The keyid of a client's SM2 key: its name and the first digits of the SM3 of the key's point."""
    return f"{client}/{sm3(key.point).hex()[:_KEY_ID_DIGITS]}"
