"""What is signed here verifies there and the reverse: random keys, ids, messages, numbers that trip parsers.

The default run takes a few of each kind; `-m slow` takes 1,000 each way with each oracle.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from edgegw.sm.sm2 import PrivateKey
from edgegw.sm.sm3 import hmac_sm3, sm3
from tests.sm.oracles import ORACLES, Oracle, digest_of, gmssl_sm3, numbers_of
from tests.sm.signing_keys import X_00, X_04, number_of
from tests.sm.test_sm2 import MESSAGE, POINT, SIGNATURE

SAMPLE = 8
MANY = 1_000
KINDS = 8
ZEROS_EACH = 40
"""One r and one s with a leading zero among so many: each of ours is one of 256 that are made."""
ID_BYTES_MAX = 4_096
"""gmalg takes no more."""

# GB/T 32918.5 annex A.2.
PRIVATE = 0x3945208F7B2144B13F36E38AC6D39F95889393692860B51A42FB81EF4DF7C5B8
NONCE = 0x59276E27D506861A16680F3AD9C02DCCEF3CC1FA3CDBE4CE6D54B80DEAC1BC21

oracles = pytest.mark.parametrize("oracle", ORACLES.values(), ids=ORACLES.keys())


class Case(NamedTuple):
    """One signature to be made."""

    key: PrivateKey
    user_id: bytes
    message: bytes
    is_wanted: Callable[[bytes], bool]
    """Which signatures (r || s) this case is about."""


def cases(count: int, *, seed: int, long_bytes: int) -> Iterator[Case]:
    """Count cases; each KINDS of them have each kind once, those that cost much more rarely."""
    rng = random.Random(seed)
    keys = [PrivateKey.generate() for _ in range(max(2, count // 20))]
    # Keys whose x begins with 04, which gmssl's own loader strips, and with 00, which an integer loses.
    keys_04 = [PrivateKey.from_pem(text) for text in X_04]
    keys_00 = [PrivateKey.from_pem(text) for text in X_00]
    for turn in range(count):
        kind = turn % KINDS
        key = rng.choice({0: keys_04, 1: keys_00}.get(kind, keys))
        id_bytes = rng.randrange(1, 65) if kind != 2 else rng.randrange(200, min(long_bytes, ID_BYTES_MAX))
        user_id = rng.randbytes(id_bytes)
        message = rng.randbytes(rng.randrange(1, 300))
        if kind == 3:
            message = b""
        elif kind == 4:
            message = rng.randbytes(rng.randrange(long_bytes // 2, long_bytes))
        zeros = {5: lambda made: made[0] == 0, 6: lambda made: made[32] == 0}
        wanted = zeros.get(turn % ZEROS_EACH, lambda _made: True)
        yield Case(key, user_id, message, wanted)


def signed_here(case: Case) -> bytes:
    """Ours: its nonce is random, so it is made until it is the one that is wanted."""
    return next(
        made
        for made in iter(lambda: case.key.sign(case.message, user_id=case.user_id), None)
        if case.is_wanted(made)
    )


def signed_there(oracle: Oracle, case: Case) -> tuple[bytes, bytes]:
    """(message, signature) of the oracle; a suffix is sought with which its signature is the one wanted."""
    nonce_key, number, point = PrivateKey.generate(), number_of(case.key), case.key.public.point
    nonce, x1 = number_of(nonce_key), int.from_bytes(nonce_key.public.point[1:33], "big")
    for suffix in itertools.count():
        message = case.message + (b"%d" % suffix if suffix else b"")
        r, s = numbers_of(number, nonce, x1, digest_of(point, message, case.user_id))
        if case.is_wanted(r.to_bytes(32, "big") + s.to_bytes(32, "big")):
            return message, oracle.sign(number, point, message, case.user_id, nonce=nonce)
    raise AssertionError("no suffix")


def judge_ours(oracle: Oracle, count: int, *, long_bytes: int) -> None:
    """The oracle takes what we sign, and one in ten of them with another message or id it refuses."""
    for turn, case in enumerate(cases(count, seed=1, long_bytes=long_bytes)):
        point, made = case.key.public.point, signed_here(case)
        assert len(made) == 64
        assert oracle.verify(point, case.message, case.user_id, made), (turn, case.message.hex(), made.hex())
        if turn % 10 == 9:
            assert not oracle.verify(point, case.message + b"\x00", case.user_id, made)
            assert not oracle.verify(point, case.message, case.user_id + b"\x00", made)


def judge_theirs(oracle: Oracle, count: int, *, long_bytes: int) -> None:
    """We take what the oracle signs, and refuse each with one bit, another message or another id."""
    for turn, case in enumerate(cases(count, seed=2, long_bytes=long_bytes)):
        message, made = signed_there(oracle, case)
        key = case.key.public
        assert len(made) == 64
        assert case.is_wanted(made)
        assert key.verify(message, made, user_id=case.user_id), (turn, message.hex(), made.hex())
        flipped = bytes([*made[:-1], made[-1] ^ 1])
        assert not key.verify(message, flipped, user_id=case.user_id)
        assert not key.verify(message + b"\x00", made, user_id=case.user_id)
        assert not key.verify(message, made, user_id=case.user_id + b"\x00")


@oracles
def test_an_oracle_takes_our_signatures(oracle: Oracle) -> None:
    """A binding that agrees with itself alone proves nothing."""
    judge_ours(oracle, SAMPLE, long_bytes=1_000)


@oracles
def test_we_take_an_oracles_signatures(oracle: Oracle) -> None:
    """A peer with another library must not be refused."""
    judge_theirs(oracle, SAMPLE, long_bytes=1_000)


@pytest.mark.slow
@pytest.mark.timeout(1_200)
@oracles
def test_an_oracle_takes_a_thousand_of_our_signatures(oracle: Oracle) -> None:
    """What one in 256 has (a leading zero, a start of 04) is seen several times in a thousand."""
    judge_ours(oracle, MANY, long_bytes=16_000)


@pytest.mark.slow
@pytest.mark.timeout(1_200)
@oracles
def test_we_take_a_thousand_signatures_of_an_oracle(oracle: Oracle) -> None:
    """The same, the other way."""
    judge_theirs(oracle, MANY, long_bytes=16_000)


@oracles
def test_an_oracle_makes_the_signature_of_the_standard(oracle: Oracle) -> None:
    """The oracles are right themselves: key and nonce of GB/T 32918.5 annex A.2 give its signature."""
    made = oracle.sign(PRIVATE, POINT, MESSAGE, b"1234567812345678", nonce=NONCE)
    assert made == SIGNATURE
    assert oracle.verify(POINT, MESSAGE, b"1234567812345678", SIGNATURE)


def test_sm3_and_its_mac_agree_with_the_oracles() -> None:
    """Every length around a block's end, and keys shorter, as long as and longer than a block."""
    import gmalg

    rng = random.Random(3)
    for length in (0, 1, 54, 55, 56, 57, 63, 64, 65, 119, 120, 128, 1_000):
        data = rng.randbytes(length)
        theirs = gmalg.SM3()
        theirs.update(data)
        assert sm3(data) == theirs.value() == gmssl_sm3(data)
    for length in (1, 32, 63, 64, 65, 200):
        key, data = rng.randbytes(length), rng.randbytes(100)
        block = (key if length <= 64 else gmssl_sm3(key)).ljust(64, b"\x00")
        inner = gmssl_sm3(bytes(byte ^ 0x36 for byte in block) + data)
        assert hmac_sm3(key, data) == gmssl_sm3(bytes(byte ^ 0x5C for byte in block) + inner)
