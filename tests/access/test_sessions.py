"""Sessions: one key on both sides, each number once, and their ends."""

import base64
import random

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from edgegw.access.sessions import COUNTERS_BACK_MAX, LIFETIME_S, SESSIONS_EACH_MAX, Session, Sessions
from edgegw.sm.sm3 import hmac_sm3
from tests.signing import SessionSigner


def share_of(key: X25519PrivateKey) -> str:
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def bare() -> Session:
    return Session(client="till", opened_by="till/1", key=b"k" * 32, ends_s=1e9)


def test_both_sides_have_one_key_and_another_library_agrees() -> None:
    """HKDF-SM3 of `cryptography` over the documented transcript gives the key that the box verifies with."""
    sessions, own = Sessions(box="branch-1"), X25519PrivateKey.generate()
    opened = sessions.open(client="till", opened_by="till/1", share=share_of(own))
    text = f"edgegw-session-1\nbranch-1\ntill\n{opened.keyid}\n{share_of(own)}\n{opened.share}\n".encode()
    common = own.exchange(X25519PublicKey.from_public_bytes(base64.b64decode(opened.share)))
    key = HKDF(hashes.SM3(), 32, salt=None, info=text).derive(common)
    session = sessions.find(opened.keyid)
    assert session is not None
    assert opened.transcript == text
    assert session.verify(b"base", hmac_sm3(key, b"base"))
    assert not session.verify(b"base!", hmac_sm3(key, b"base"))
    signer = SessionSigner("till", own, {"share": opened.share, "keyid": opened.keyid})
    assert signer.transcript == text


@pytest.mark.parametrize(
    "share",
    [
        "",
        "AAAA",
        "A" * 44,
        base64.b64encode(bytes(32)).decode(),
        base64.b64encode(b"\1" + bytes(31)).decode(),
    ],
)
def test_a_share_that_fixes_the_key_is_refused(share: str) -> None:
    """Points of small order give everybody one key."""
    with pytest.raises(ValueError):
        Sessions(box="branch-1").open(client="till", opened_by="till/1", share=share)


def test_each_number_counts_once_in_any_order() -> None:
    """A model that remembers everything says the same, but for what lies too far behind."""
    session, seen, highest = bare(), set[int](), 0
    chance = random.Random(1)
    for _ in range(20_000):
        counter = max(
            1,
            highest
            + chance.choice((1, 1, 1, 2, 50, -1, -7, -100, -COUNTERS_BACK_MAX + 1, -COUNTERS_BACK_MAX)),
        )
        fresh = counter not in seen and counter > highest - COUNTERS_BACK_MAX
        assert session.count(counter) is fresh
        if fresh:
            seen.add(counter)
            highest = max(highest, counter)


def test_a_leap_forgets_nothing_that_it_would_let_through() -> None:
    """A far number ends the numbers before it."""
    session = bare()
    assert session.count(5)
    assert session.count(2**52)
    assert not session.count(5)
    assert not session.count(2**52)
    assert session.count(2**52 - 1)
    assert not session.count(0)
    assert not session.count(-1)


def test_a_session_ends() -> None:
    """After its lifetime, with its key, and when the client opens too many others."""
    now_s = 0.0
    sessions = Sessions(box="branch-1", mono_s=lambda: now_s)
    share = share_of(X25519PrivateKey.generate())
    first = sessions.open(client="till", opened_by="till/1", share=share).keyid
    other = sessions.open(client="other", opened_by="other/1", share=share).keyid
    more = [
        sessions.open(client="till", opened_by="till/2", share=share).keyid for _ in range(SESSIONS_EACH_MAX)
    ]
    assert sessions.find(first) is None
    assert all(map(sessions.find, (other, *more)))
    sessions.end_all_but(lambda session: session.opened_by != "till/2")
    assert [keyid for keyid in (other, *more) if sessions.find(keyid)] == [other]
    now_s = float(LIFETIME_S)
    assert sessions.find(other) is None
