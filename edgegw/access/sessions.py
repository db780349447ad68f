"""Sessions: after one request that a client signed with SM2, its requests carry an HMAC-SM3 each, which costs
a hundredth of a signature.

Client and box send each other an X25519 share made for this session alone: the client's stands in the body
that it signs, the box's in an answer that the box signs. The key is HKDF-SM3 (RFC 5869) of what the shares
have in common, with both shares, box, client and session in its info, so it is the same only where both mean
the same. Requests are counted from 1 up; each number counts once, within COUNTERS_BACK_MAX of the highest, so
many connections may overtake each other. No clock is asked.

A session ends after its lifetime, with the process, with the key that opened it, or when its client opens too
many after it. Leaves out the headers (`access.signatures`)."""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from edgegw.access.signatures import SESSION_PREFIX
from edgegw.sm.sm3 import HASH_BYTES, hmac_sm3

LIFETIME_S: Final = 12 * 3600
COUNTERS_BACK_MAX: Final = 8192
"""How far a request may be behind the highest number seen: more than a client's requests in hand by far."""
COUNTER_MAX: Final = 2**53 - 1
"""What every language counts to exactly."""
SESSIONS_EACH_MAX: Final = 256
"""Of one client, a till or process each; one more ends the oldest."""
SHARE_BYTES: Final = 32
_DOMAIN: Final = b"edgegw-session-1"
_MASK: Final = (1 << COUNTERS_BACK_MAX) - 1


class Opened(NamedTuple):
    """What the client is told of its new session."""

    keyid: str
    share: str
    """The box's half, base64."""
    lifetime_s: int
    transcript: bytes
    """What the box signs, so that the client knows whose share it is."""


class Session:
    """One session's key and the numbers that it has seen."""

    def __init__(self, *, client: str, opened_by: str, key: bytes, ends_s: float) -> None:
        self.client: Final = client
        self.opened_by: Final = opened_by
        """The keyid of the SM2 key that it stands on."""
        self.ends_s: Final = ends_s
        self._key = key
        self._highest = 0
        self._seen = 0
        """Bit n: highest - n was seen."""

    def verify(self, base: bytes, mac: bytes) -> bool:
        """Whether mac is this session's over base."""
        return hmac.compare_digest(hmac_sm3(self._key, base), mac)

    def count(self, counter: int) -> bool:
        """Let a number through; False when it was before, or lies too far behind."""
        ahead = counter - self._highest
        if ahead > 0:
            self._seen = ((self._seen << ahead) | 1) & _MASK if ahead < COUNTERS_BACK_MAX else 1
            self._highest = counter
            return True
        if counter < 1 or -ahead >= COUNTERS_BACK_MAX or self._seen >> -ahead & 1:
            return False
        self._seen |= 1 << -ahead
        return True


class Sessions:
    """All open sessions at one box."""

    def __init__(self, *, box: str, mono_s: Callable[[], float] = time.monotonic) -> None:
        self._box = box
        self._mono_s = mono_s
        self._open: dict[str, Session] = {}
        """By keyid, in the order of their opening."""

    def open(self, *, client: str, opened_by: str, share: str) -> Opened:
        """A new session with the holder of this share (base64); ValueError when it is none."""
        theirs, ours = _raw_share(share), X25519PrivateKey.generate()
        keyid = SESSION_PREFIX + secrets.token_hex(16)
        own = ours.public_key().public_bytes_raw()
        transcript = transcript_of(
            box=self._box, client=client, keyid=keyid, client_share=theirs, box_share=own
        )
        key = session_key(ours, theirs, transcript)
        now_s = self._mono_s()
        self.end_all_but(lambda session: session.ends_s > now_s)
        others = [other for other, session in self._open.items() if session.client == client]
        for other in others[: max(0, len(others) + 1 - SESSIONS_EACH_MAX)]:
            del self._open[other]
        self._open[keyid] = Session(client=client, opened_by=opened_by, key=key, ends_s=now_s + LIFETIME_S)
        return Opened(keyid, base64.b64encode(own).decode(), LIFETIME_S, transcript)

    def find(self, keyid: str) -> Session | None:
        """The session of this keyid, if it is open."""
        session = self._open.get(keyid)
        return session if session is not None and session.ends_s > self._mono_s() else None

    def end_all_but(self, keeps: Callable[[Session], bool]) -> None:
        """End the sessions that `keeps` does not."""
        for keyid in [keyid for keyid, session in self._open.items() if not keeps(session)]:
            del self._open[keyid]


def transcript_of(*, box: str, client: str, keyid: str, client_share: bytes, box_share: bytes) -> bytes:
    """What both sides mean: lines of text, the shares in base64."""
    shares: Iterator[bytes] = map(base64.b64encode, (client_share, box_share))
    return b"\n".join((_DOMAIN, box.encode(), client.encode(), keyid.encode(), *shares)) + b"\n"


def session_key(private: X25519PrivateKey, share: bytes, transcript: bytes) -> bytes:
    """The session's key, 32 bytes: HKDF-SM3 without salt, the transcript as info. ValueError for a share that
    has nothing in common with any key."""
    common = private.exchange(X25519PublicKey.from_public_bytes(share))
    extracted = hmac_sm3(bytes(HASH_BYTES), common)
    return hmac_sm3(extracted, transcript + b"\x01")


def _raw_share(text: str) -> bytes:
    try:
        share = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        share = b""
    if len(share) != SHARE_BYTES:
        raise ValueError(f"a share is the base64 of {SHARE_BYTES} bytes, an X25519 public key")
    return share
