"""SM2 by its example and by all that must be refused: numbers out of range, other encodings, other points."""

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgegw.sm import libcrypto
from edgegw.sm.libcrypto import SPKI_HEAD, Key, SmError
from edgegw.sm.sm2 import (
    DER_BYTES_MAX,
    ORDER,
    USER_ID,
    USER_ID_BYTES_MAX,
    PrivateKey,
    PublicKey,
    from_der,
    to_der,
)
from tests.sm.signing_keys import pem, private_pem

PATIENCE_SECONDS = 20.0
CALLS = 50

# GB/T 32918.5 annex A.2.
MESSAGE = b"message digest"
POINT = bytes.fromhex(
    "0409f9df311e5421a150dd7d161e4bc5c672179fad1833fc076bb08ff356f35020"
    "ccea490ce26775a52dc6ea718cc1aa600aed05fbf35e084a6632f6072da9ad13"
)
SIGNATURE = bytes.fromhex(
    "f5a03b0648d2c4630eeac513e1bb81a15944da3827d5b74143ac7eaceee720b3"
    "b1b6aa29df212fd8763182bc0d421ca1bb9038fd1f7f42d4840b69c485bbc1aa"
)
R, S = int.from_bytes(SIGNATURE[:32], "big"), int.from_bytes(SIGNATURE[32:], "big")

# The base point G (GB/T 32918.5) and -G, which is (n - 1)G.
FIELD = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF00000000FFFFFFFFFFFFFFFF
BASE_X = 0x32C4AE2C1F1981195F9904466A39C9948FE30BBFF2660BE1715A4589334C74C7
BASE_Y = 0xBC3736A2F4F6779C59BDCEE36B692153D0A9877CC62A474002DF32E52139F0A0
BASE = b"\x04" + BASE_X.to_bytes(32, "big") + BASE_Y.to_bytes(32, "big")
MINUS_BASE = BASE[:33] + (FIELD - BASE_Y).to_bytes(32, "big")


def raw(r: int, s: int) -> bytes:
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def integer(number: int) -> bytes:
    body = number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True)
    return bytes([2, len(body)]) + body


def sequence(*parts: bytes) -> bytes:
    body = b"".join(parts)
    return bytes([0x30, len(body)]) + body


GOOD_DER = sequence(integer(R), integer(S))


def test_the_example_of_the_standard_verifies() -> None:
    """GB/T 32918.5 annex A.2, and nothing that differs from it by message, key or user id."""
    key = PublicKey(POINT)
    assert key.verify(MESSAGE, SIGNATURE)
    assert key.verify(MESSAGE, SIGNATURE, user_id=b"1234567812345678")
    assert not key.verify(MESSAGE + b"\x00", SIGNATURE)
    assert not key.verify(b"", SIGNATURE)
    assert not key.verify(MESSAGE, SIGNATURE, user_id=b"ALICE123@YAHOO.COM")
    assert not PublicKey(BASE).verify(MESSAGE, SIGNATURE)


def test_every_flipped_bit_of_a_signature_is_refused() -> None:
    """All 512 of the annex's signature."""
    key = PublicKey(POINT)
    for bit in range(512):
        changed = bytearray(SIGNATURE)
        changed[bit // 8] ^= 1 << bit % 8
        assert not key.verify(MESSAGE, bytes(changed))


@pytest.mark.parametrize(
    ("r", "s"),
    [
        (0, S),
        (R, 0),
        (0, 0),
        (ORDER, S),
        (R, ORDER),
        (ORDER + 1, S),
        (R, ORDER + 1),
        (2**256 - 1, 2**256 - 1),
        (R, ORDER - R),
        (ORDER - R, S),
        (R, ORDER - S),
        (S, R),
        (1, ORDER - 1),
        (1, 1),
    ],
)
def test_numbers_that_sign_nothing_are_refused(r: int, s: int) -> None:
    """Zeros, n and beyond, s = n - r (then t is 0), n - s; by libcrypto too, were our range check gone."""
    assert not PublicKey(POINT).verify(MESSAGE, raw(r, s))
    assert not Key.of_point(POINT).verify(MESSAGE, sequence(integer(r), integer(s)), USER_ID)
    if r not in range(1, ORDER) or s not in range(1, ORDER):
        with pytest.raises(ValueError, match="1 to n - 1"):
            to_der(raw(r, s))


OTHER_DER = {
    "r + n": sequence(integer(R + ORDER), integer(S)),
    "s + n": sequence(integer(R), integer(S + ORDER)),
    "negative r": sequence(integer(R - ORDER), integer(S)),
    "negative s": sequence(integer(R), integer(S - ORDER)),
    "r of 0": sequence(integer(0), integer(S)),
    "s of 0": sequence(integer(R), integer(0)),
    "trailing byte": GOOD_DER + b"\x00",
    "trailing byte within": sequence(integer(R), integer(S), b"\x00"),
    "third integer": sequence(integer(R), integer(S), integer(1)),
    "one integer": sequence(integer(R)),
    "long length": b"\x30\x81" + GOOD_DER[1:],
    "longer length": b"\x30\x82\x00" + GOOD_DER[1:],
    "indefinite length": b"\x30\x80" + GOOD_DER[2:] + b"\x00\x00",
    "long length of r": sequence(b"\x02\x81" + integer(R)[1:], integer(S)),
    "leading zero of r": sequence(b"\x02\x22\x00" + integer(R)[2:], integer(S)),
    "no sign byte": sequence(b"\x02\x20" + SIGNATURE[:32], b"\x02\x20" + SIGNATURE[32:]),
    "raw for DER": SIGNATURE,
    "raw in a sequence": sequence(SIGNATURE),
    "set for sequence": b"\x31" + GOOD_DER[1:],
    "octets for r": sequence(b"\x04" + integer(R)[1:], integer(S)),
    "length too short": bytes([0x30, GOOD_DER[1] - 1]) + GOOD_DER[2:],
    "length too long": bytes([0x30, GOOD_DER[1] + 1]) + GOOD_DER[2:],
    "empty": b"",
    "empty sequence": b"\x30\x00",
    "megabyte": GOOD_DER + bytes(1 << 20),
}


@pytest.mark.parametrize("der", OTHER_DER.values(), ids=OTHER_DER.keys())
def test_another_encoding_of_a_signature_is_refused(der: bytes) -> None:
    """A second form of one signature is a second message to whoever hashes it; libcrypto refuses each too."""
    with pytest.raises(ValueError, match="strict DER"):
        from_der(der)
    assert not Key.of_point(POINT).verify(MESSAGE, der, USER_ID)


@given(st.binary(max_size=DER_BYTES_MAX + 2) | st.integers(0, 8 * len(GOOD_DER) - 1))
def test_what_is_read_as_der_is_written_the_same(der: bytes | int) -> None:
    """Whatever comes, also the good one with a bit flipped: two encodings never mean one signature."""
    if isinstance(der, int):
        der = (int.from_bytes(GOOD_DER, "big") ^ 1 << der).to_bytes(len(GOOD_DER), "big")
    try:
        signature = from_der(der)
    except ValueError:
        return
    assert to_der(signature) == der


def test_every_truncation_is_refused() -> None:
    """Of the DER and of r || s, at each byte."""
    for end in range(len(GOOD_DER)):
        with pytest.raises(ValueError, match="strict DER"):
            from_der(GOOD_DER[:end])
    for end in range(64):
        assert not PublicKey(POINT).verify(MESSAGE, SIGNATURE[:end])
    assert not PublicKey(POINT).verify(MESSAGE, SIGNATURE + b"\x00")


def test_wire_and_der_lead_to_each_other() -> None:
    """Short numbers and full ones; DER goes nowhere where r || s is meant."""
    for r, s in ((R, S), (1, 1), (127, 128), (255, 256), (ORDER - 1, ORDER - 1), (2**248 - 1, 2**247)):
        der = to_der(raw(r, s))
        assert der == sequence(integer(r), integer(s))
        assert len(der) <= DER_BYTES_MAX
        assert from_der(der) == raw(r, s)
    assert Key.of_point(POINT).verify(MESSAGE, GOOD_DER, USER_ID)
    with pytest.raises(ValueError, match="64 bytes"):
        to_der(GOOD_DER)
    assert not PublicKey(POINT).verify(MESSAGE, GOOD_DER)


@pytest.mark.parametrize(
    "point",
    [
        b"",
        POINT[:-1],
        POINT + b"\x00",
        POINT[1:],
        b"\x02" + POINT[1:33],
        b"\x06" + POINT[1:],
        b"\x00",  # the point at infinity (SEC 1 clause 2.3.3)
        b"\x00" * 65,
        b"\x04" + bytes(64),
        POINT[:-1] + bytes([POINT[-1] ^ 1]),
        b"\x04" + POINT[33:] + POINT[1:33],
        b"\x04" + b"\xff" * 64,
        BASE[:33] + (FIELD + 1).to_bytes(32, "big"),
    ],
)
def test_a_point_off_the_curve_is_no_key(point: bytes) -> None:
    """An attacker's point must be refused when it is read, not when it is used."""
    with pytest.raises(ValueError, match=r"key|bytes"):
        PublicKey(point)
    with pytest.raises(ValueError, match=r"key|bytes"):
        PublicKey.from_pem(pem("PUBLIC KEY", SPKI_HEAD + point))


@pytest.mark.parametrize(
    ("number", "point"),
    [
        (0, BASE),
        (ORDER - 1, MINUS_BASE),
        (ORDER, BASE),
        (ORDER + 1, BASE),
        (2**256 - 1, BASE),
        (2, BASE),
        (1, POINT),
        (1, MINUS_BASE),
        (1, BASE[:-1] + b"\xa1"),
    ],
)
def test_a_private_number_out_of_range_or_of_another_point_is_no_key(number: int, point: bytes) -> None:
    """0, n - 1 (nobody can sign with it), n and beyond; and a point that is not that number's."""
    with pytest.raises(ValueError, match=r"SM2 key|libcrypto can read"):
        PrivateKey.from_pem(private_pem(number, point))


def test_the_smallest_private_number_is_a_key() -> None:
    """The range that is refused ends where the standard says, and the file of the tests is a good one."""
    key = PrivateKey.from_pem(private_pem(1, BASE))
    assert key.public.point == BASE
    assert key.public.verify(MESSAGE, key.sign(MESSAGE))


def test_keys_survive_their_texts() -> None:
    """PEM there and back; the same key signs after it."""
    key = PrivateKey.generate()
    again = PrivateKey.from_pem(key.to_pem())
    assert again.public == key.public == PublicKey.from_pem(key.public.to_pem())
    assert hash(again.public) == hash(key.public)
    assert key.public.verify(b"x", again.sign(b"x"))
    assert PrivateKey.generate().public != key.public
    assert key.to_pem().startswith(b"-----BEGIN PRIVATE KEY-----\n")


def other_pems() -> Iterator[bytes]:
    """What might lie in a key's file instead of an SM2 key."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    p256 = ec.generate_private_key(ec.SECP256R1())
    pkcs8, encoding = serialization.PrivateFormat.PKCS8, serialization.Encoding.PEM
    yield p256.private_bytes(encoding, pkcs8, serialization.NoEncryption())
    yield p256.private_bytes(encoding, pkcs8, serialization.BestAvailableEncryption(b"secret"))
    yield p256.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    yield PrivateKey.generate().to_pem()[:-60]
    yield PrivateKey.generate().public.to_pem()[:-60]
    yield pem("PUBLIC KEY", SPKI_HEAD + POINT + b"\x00")
    yield pem("PUBLIC KEY", b"\x30\x81" + SPKI_HEAD[1:] + POINT)
    yield b"-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----\n"
    yield b"-----BEGIN PRIVATE KEY-----\n"
    yield b""
    yield os.urandom(200)


def test_anything_but_an_sm2_key_is_refused() -> None:
    """Other curves, encrypted, torn, empty, trailing bytes; nothing asks a terminal for a passphrase."""
    for text in [*other_pems(), PrivateKey.generate().public.to_pem()]:
        with pytest.raises(ValueError, match=r"SM2|PKCS#8|libcrypto"):
            PrivateKey.from_pem(text)
    for text in [*other_pems(), PrivateKey.generate().to_pem()]:
        with pytest.raises(ValueError, match=r"SM2|65 bytes"):
            PublicKey.from_pem(text)


def test_a_wrong_type_or_user_id_is_an_error_and_not_a_verdict() -> None:
    """Text that was not encoded, or an id of no or too many bytes, is the caller's mistake."""
    key = PrivateKey.generate()
    signature = key.sign(b"x")
    for call in (
        lambda: key.sign("x"),  # type: ignore[arg-type]
        lambda: key.sign(bytearray(b"x")),  # type: ignore[arg-type]
        lambda: key.public.verify("x", signature),  # type: ignore[arg-type]
        lambda: key.public.verify(b"x", signature.hex()),  # type: ignore[arg-type]
        lambda: key.sign(b"x", user_id="id"),  # type: ignore[arg-type]
        lambda: PublicKey(POINT.hex()),  # type: ignore[arg-type]
        lambda: to_der(signature.hex()),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError, match="must be bytes"):
            call()
    for user_id in (b"", bytes(USER_ID_BYTES_MAX + 1)):
        with pytest.raises(ValueError, match="user_id must have 1 to"):
            key.sign(b"x", user_id=user_id)
        with pytest.raises(ValueError, match="user_id must have 1 to"):
            key.public.verify(b"x", signature, user_id=user_id)
    longest = b"i" * USER_ID_BYTES_MAX
    assert key.public.verify(b"x", key.sign(b"x", user_id=longest), user_id=longest)


def test_threads_share_one_key() -> None:
    """The writer's thread signs while others verify, with the same objects and no lock."""
    key = PrivateKey.generate()

    def work(worker: int) -> bool:
        messages = [b"%d-%d" % (worker, turn) for turn in range(20)]
        return all(
            key.public.verify(m, key.sign(m)) and not key.public.verify(m + b"!", key.sign(m))
            for m in messages
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def another_thread_runs_within(call: Callable[[], object], *, patience_seconds: float) -> bool:
    """Whether another thread gets the interpreter during at least CALLS calls, or until patience ends.

    The switch interval never comes, so it gets it only if a call lets go.
    """
    count = 0
    stop = threading.Event()

    def turn() -> None:
        nonlocal count
        while not stop.is_set():
            count += 1
            time.sleep(0)  # hands the interpreter back

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e6)
    other = threading.Thread(target=turn)
    try:
        other.start()
        before, calls = count, 0
        # A busy machine may be slow to give the other thread a core.
        deadline = time.monotonic() + patience_seconds
        while count == before and (calls < CALLS or time.monotonic() < deadline):
            call()
            calls += 1
        return count > before
    finally:
        stop.set()
        sys.setswitchinterval(interval)
        other.join()


def test_signing_and_verifying_release_the_interpreter() -> None:
    """A pen that signs must not stop the way in."""
    key = PrivateKey.generate()
    signature = key.sign(b"x")
    assert another_thread_runs_within(lambda: key.sign(b"x"), patience_seconds=PATIENCE_SECONDS)
    assert another_thread_runs_within(
        lambda: key.public.verify(b"x", signature), patience_seconds=PATIENCE_SECONDS
    )


@pytest.fixture
def bound_anew() -> Iterator[None]:
    """Let the test load libcrypto in its own way."""
    libcrypto._libcrypto.cache_clear()
    yield
    libcrypto._libcrypto.cache_clear()


def test_a_binding_that_holds_the_interpreter_is_seen(
    monkeypatch: pytest.MonkeyPatch, bound_anew: None
) -> None:
    """The proof above can fail: the same calls through PyDLL keep the interpreter."""
    monkeypatch.setattr(ctypes, "CDLL", ctypes.PyDLL)
    key = PrivateKey.generate()
    assert not another_thread_runs_within(lambda: key.sign(b"x"), patience_seconds=0)


def test_no_memory_is_lost_per_operation() -> None:
    """A box signs a checkpoint per batch for years."""

    def resident_kib() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])

    def turn(times: int) -> None:
        for _ in range(times):
            key = PrivateKey.from_pem(text)
            assert not key.public.verify(b"y", key.sign(b"x"))
            with pytest.raises(ValueError, match="key"):
                PublicKey(b"\x04" + bytes(64))

    text = PrivateKey.generate().to_pem()
    turn(20)
    before = resident_kib()
    turn(120)
    assert resident_kib() - before < 150


def test_a_missing_libcrypto_is_named_with_its_mend(
    monkeypatch: pytest.MonkeyPatch, bound_anew: None
) -> None:
    """An operator reads what is missing and what to install."""

    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(SmError, match=r"libcrypto\.so\.3") as refusal:
        PrivateKey.generate()
    assert "apt install" in refusal.value.hint
