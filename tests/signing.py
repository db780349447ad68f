"""A client that signs: headers for one request, by an SM2 key or in a session."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from edgegw.access.sessions import session_key, transcript_of
from edgegw.access.signatures import draft
from edgegw.access.signers import keyid_of
from edgegw.core.site import ClientRule
from edgegw.sm.sm2 import PrivateKey
from edgegw.sm.sm3 import hmac_sm3


def sm2_text(key: PrivateKey) -> str:
    """How the site's settings name the key."""
    return base64.b64encode(key.public.point).decode()


def signing_client(name: str, *keys: PrivateKey, profile: str = "signed", **changes: Any) -> ClientRule:
    """A client with these SM2 keys."""
    return ClientRule(
        name=name,
        sm2_public_keys=tuple(map(sm2_text, keys)),
        profile=profile,
        scopes=("pay", "read"),
        **changes,
    )


def signed(
    sign: Callable[[bytes], bytes],
    keyid: str,
    *,
    host: str,
    path: str,
    body: bytes | None,
    method: str = "POST",
    query: str = "",
    box: str = "branch-1",
    nonce: str = "",
    created_s: int | None = -1,
) -> dict[str, str]:
    """The headers of a request that is signed now, unless created_s says otherwise (None: without a time)."""
    drafted = draft(
        method=method,
        host=host,
        path=path,
        query=query,
        body=body,
        box=box,
        keyid=keyid,
        nonce=nonce or secrets.token_hex(16),
        created_s=int(time.time()) if created_s == -1 else created_s,
    )
    return drafted.signed(sign(drafted.base))


class Sm2Signer:
    """Signs with one SM2 key of a client."""

    def __init__(self, client: str, key: PrivateKey | None = None) -> None:
        self.key = key or PrivateKey.generate()
        self.client = client
        self.keyid = keyid_of(client, self.key.public)

    def headers(self, **request: Any) -> dict[str, str]:
        return signed(self.key.sign, self.keyid, **request)


class SessionSigner:
    """Signs in a session, from the answer that opened it."""

    def __init__(
        self, client: str, share: X25519PrivateKey, answer: dict[str, Any], *, box: str = "branch-1"
    ) -> None:
        theirs = base64.b64decode(answer["share"])
        own = share.public_key().public_bytes_raw()
        self.keyid = answer["keyid"]
        self.transcript = transcript_of(
            box=box, client=client, keyid=self.keyid, client_share=own, box_share=theirs
        )
        self._key = session_key(share, theirs, self.transcript)
        self.counter = 0

    def headers(self, *, counter: int | None = None, **request: Any) -> dict[str, str]:
        if counter is None:
            counter = self.counter = self.counter + 1
        return signed(
            lambda base: hmac_sm3(self._key, base), self.keyid, nonce=str(counter), created_s=None, **request
        )
