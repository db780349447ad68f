"""SM4-GCM by its published example, by GCM written out over another SM4, and by all that was changed."""

import random
from unittest import mock

import gmalg
import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers import Cipher

from edgegw.sm.libcrypto import SmError
from edgegw.sm.sm4_gcm import NONCE_BYTES, TAG_BYTES, NotAuthentic, fresh_nonce, seal, unseal

# RFC 8998 appendix A.1.
KEY = bytes.fromhex("0123456789abcdeffedcba9876543210")
NONCE = bytes.fromhex("00001234567800000000abcd")
ASSOCIATED = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
PLAINTEXT = bytes.fromhex(
    "aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbccccccccccccccccdddddddddddddddd"
    "eeeeeeeeeeeeeeeeffffffffffffffffeeeeeeeeeeeeeeeeaaaaaaaaaaaaaaaa"
)
SEALED = bytes.fromhex(
    "17f399f08c67d5ee19d0dc9969c4bb7d5fd46fd3756489069157b282bb200735"
    "d82710ca5c22f0ccfa7cbf93d496ac15a56834cbcf98c397b4024a2691233b8d"
    "83de3541e4c2b58177e065a9bf7b62ec"
)
# x^128 + x^7 + x^2 + x + 1, bits reflected (SP 800-38D clause 6.3).
REDUCTION = 0xE1 << 120


def product(x: int, y: int) -> int:
    """x times y in GCM's field."""
    z = 0
    for bit in range(127, -1, -1):
        z ^= y if x >> bit & 1 else 0
        y = y >> 1 ^ (REDUCTION if y & 1 else 0)
    return z


def gcm_seal(key: bytes, plaintext: bytes, nonce: bytes, associated: bytes) -> bytes:
    """SP 800-38D clause 7.1 with a nonce of 96 bits, over gmalg's SM4."""
    block = gmalg.SM4(key).encrypt

    def padded(data: bytes) -> bytes:
        return data + bytes(-len(data) % 16)

    counters = range(2, 2 + (len(plaintext) + 15) // 16)
    stream = b"".join(block(nonce + counter.to_bytes(4, "big")) for counter in counters)
    ciphertext = bytes(a ^ b for a, b in zip(plaintext, stream, strict=False))
    lengths = (8 * len(associated)).to_bytes(8, "big") + (8 * len(ciphertext)).to_bytes(8, "big")
    hashed, total = padded(associated) + padded(ciphertext) + lengths, 0
    secret = int.from_bytes(block(bytes(16)), "big")
    for start in range(0, len(hashed), 16):
        total = product(total ^ int.from_bytes(hashed[start : start + 16], "big"), secret)
    tag = total ^ int.from_bytes(block(nonce + b"\x00\x00\x00\x01"), "big")
    return ciphertext + tag.to_bytes(16, "big")


def test_the_example_of_the_rfc_is_sealed_and_unsealed() -> None:
    """RFC 8998 appendix A.1; the written-out GCM gives it too."""
    assert seal(KEY, PLAINTEXT, nonce=NONCE, associated=ASSOCIATED) == SEALED
    assert gcm_seal(KEY, PLAINTEXT, NONCE, ASSOCIATED) == SEALED
    assert unseal(KEY, SEALED, nonce=NONCE, associated=ASSOCIATED) == PLAINTEXT


def test_every_length_agrees_with_gcm_written_out() -> None:
    """Empty, within a block, at its end, beyond; with and without associated data."""
    rng = random.Random(38)
    for length in (0, 1, 15, 16, 17, 31, 32, 33, 100):
        for associated in (b"", rng.randbytes(rng.randrange(1, 40))):
            key, nonce, plaintext = rng.randbytes(16), rng.randbytes(12), rng.randbytes(length)
            sealed = seal(key, plaintext, nonce=nonce, associated=associated)
            assert len(sealed) == length + TAG_BYTES
            assert sealed == gcm_seal(key, plaintext, nonce, associated)
            assert unseal(key, sealed, nonce=nonce, associated=associated) == plaintext


def test_nothing_that_was_changed_is_opened() -> None:
    """Each bit of ciphertext and tag, each truncation, another key, nonce or associated data."""
    for bit in range(8 * len(SEALED)):
        changed = bytearray(SEALED)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(NotAuthentic):
            unseal(KEY, bytes(changed), nonce=NONCE, associated=ASSOCIATED)
    for end in range(len(SEALED)):
        with pytest.raises(NotAuthentic):
            unseal(KEY, SEALED[:end], nonce=NONCE, associated=ASSOCIATED)
    for key, nonce, associated in (
        (KEY[:-1] + b"\x11", NONCE, ASSOCIATED),
        (KEY, NONCE[:-1] + b"\xce", ASSOCIATED),
        (KEY, NONCE, ASSOCIATED + b"\x00"),
        (KEY, NONCE, b""),
    ):
        with pytest.raises(NotAuthentic):
            unseal(key, SEALED, nonce=nonce, associated=associated)


@pytest.mark.parametrize("nonce_bytes", [0, 8, 11, 13, 16])
def test_another_length_of_nonce_is_refused(nonce_bytes: int) -> None:
    """GCM takes other lengths by hashing them, and two that were thought different may meet."""
    with pytest.raises(ValueError, match="nonce has 12 bytes"):
        seal(KEY, b"x", nonce=bytes(nonce_bytes), associated=b"")
    with pytest.raises(ValueError, match="nonce has 12 bytes"):
        unseal(KEY, SEALED, nonce=bytes(nonce_bytes), associated=b"")


@pytest.mark.parametrize("key_bytes", [0, 15, 17, 32])
def test_another_length_of_key_is_refused(key_bytes: int) -> None:
    """SM4 has one."""
    with pytest.raises(ValueError, match="SM4 key has 16 bytes"):
        seal(bytes(key_bytes), b"x", nonce=NONCE, associated=b"")
    with pytest.raises(ValueError, match="SM4 key has 16 bytes"):
        unseal(bytes(key_bytes), SEALED, nonce=NONCE, associated=b"")


def test_fresh_nonces_do_not_repeat() -> None:
    """A repeated one would open both texts."""
    drawn = {fresh_nonce() for _ in range(1_000)}
    assert len(drawn) == 1_000
    assert {len(nonce) for nonce in drawn} == {NONCE_BYTES}


def test_a_cryptography_without_sm4_gcm_is_named() -> None:
    """One that a distribution built on OpenSSL 3.0 lacks the mode: no payment may find that out."""
    lacking = UnsupportedAlgorithm("cipher SM4 in GCM mode is not supported")
    with mock.patch.object(Cipher, "encryptor", side_effect=lacking), pytest.raises(SmError) as refusal:
        seal(KEY, b"x", nonce=NONCE, associated=b"")
    assert "cryptography has no SM4-GCM" in str(refusal.value)
    assert "wheel" in refusal.value.hint
    with mock.patch.object(Cipher, "decryptor", side_effect=lacking), pytest.raises(SmError):
        unseal(KEY, SEALED, nonce=NONCE, associated=b"")
