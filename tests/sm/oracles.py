"""Two implementations of SM2 that share no code with ours or with each other: gmssl and gmalg.

Both are pure Python, slow and careless with secrets: for tests, never with a real key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Protocol

import gmalg
from gmssl import func
from gmssl.sm2 import CryptSM2
from gmssl.sm3 import sm3_hash

from edgegw.sm.sm2 import ORDER

# a || b || xG || yG of the curve of GB/T 32918.5, as Z takes them (GB/T 32918.2 clause 5.5).
PARAMETERS = bytes.fromhex(
    "fffffffeffffffffffffffffffffffffffffffff00000000fffffffffffffffc"
    "28e9fa9e9d9f5e344d5a9e4bcf6509a7f39789f515ab8f92ddbcbd414d940e93"
    "32c4ae2c1f1981195f9904466a39c9948fe30bbff2660be1715a4589334c74c7"
    "bc3736a2f4f6779c59bdcee36b692153d0a9877cc62a474002df32e52139f0a0"
)


def hashed(data: bytes) -> bytes:
    """SM3 by hashlib."""
    return hashlib.new("sm3", data).digest()


def gmssl_sm3(data: bytes) -> bytes:
    """SM3 by gmssl; the list is a fresh one, because gmssl pads what it is given."""
    return bytes.fromhex(sm3_hash(func.bytes_to_list(data)))


def digest_of(
    point: bytes, message: bytes, user_id: bytes, *, sm3: Callable[[bytes], bytes] = hashed
) -> bytes:
    """e, what is signed: SM3(Z || message) with Z = SM3(ENTL || id || parameters || point)."""
    entl = (8 * len(user_id)).to_bytes(2, "big")
    return sm3(sm3(entl + user_id + PARAMETERS + point[1:]) + message)


class Oracle(Protocol):
    """One implementation; signatures are r || s, keys numbers and uncompressed points."""

    def sign(self, number: int, point: bytes, message: bytes, user_id: bytes, *, nonce: int) -> bytes:
        """The signature with that nonce k."""
        ...

    def verify(self, point: bytes, message: bytes, user_id: bytes, signature: bytes) -> bool:
        """Whether it is one."""
        ...


class Gmssl:
    """gmssl 3.2.2. It knows one user id only, so the digest is made here, by its own SM3."""

    def sign(self, number: int, point: bytes, message: bytes, user_id: bytes, *, nonce: int) -> bytes:
        digest = digest_of(point, message, user_id, sm3=gmssl_sm3)
        made: str = self._key(point, number).sign(digest, f"{nonce:064x}")
        return bytes.fromhex(made)

    def verify(self, point: bytes, message: bytes, user_id: bytes, signature: bytes) -> bool:
        digest = digest_of(point, message, user_id, sm3=gmssl_sm3)
        return bool(self._key(point).verify(signature.hex(), digest))

    def _key(self, point: bytes, number: int = 0) -> CryptSM2:
        key = CryptSM2(private_key=f"{number:064x}", public_key="")
        # Its constructor strips digits 0 and 4 from the front of a key.
        key.public_key = point[1:].hex()
        return key


class Gmalg:
    """gmalg 1.1.2; its user ids have at most 4,095 bytes, and it drops leading zeros of r and s."""

    def sign(self, number: int, point: bytes, message: bytes, user_id: bytes, *, nonce: int) -> bytes:
        key = gmalg.SM2(number.to_bytes(32, "big"), user_id, point, rnd_fn=lambda _bits: nonce)
        r, s = key.sign(message)
        return bytes(r).rjust(32, b"\0") + bytes(s).rjust(32, b"\0")

    def verify(self, point: bytes, message: bytes, user_id: bytes, signature: bytes) -> bool:
        key = gmalg.SM2(uid=user_id, pk=point)
        return bool(key.verify(message, signature[:32], signature[32:]))


ORACLES: dict[str, Oracle] = {"gmssl": Gmssl(), "gmalg": Gmalg()}


def numbers_of(number: int, nonce: int, x1: int, digest: bytes) -> tuple[int, int]:
    """(r, s) of GB/T 32918.2 clause 6.1 for a private number, a nonce k and x of kG."""
    r = (int.from_bytes(digest, "big") + x1) % ORDER
    return r, pow(1 + number, -1, ORDER) * (nonce - r * number) % ORDER
