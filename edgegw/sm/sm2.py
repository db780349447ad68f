"""SM2 signatures with SM3 (GB/T 32918.2 on the curve of GB/T 32918.5): keys, sign, verify, the wire format.

On the wire a signature is r || s, two numbers of 32 bytes, big endian, both within 1 to n - 1: 64 bytes and
nothing else. `to_der` and `from_der` lead to and from the SEQUENCE of two INTEGERs that the openssl command
and other libraries write (GM/T 0009); that is strict DER, so that a signature has one form there too. Every
signature stands under a user id; the product's is always 1234567812345678, and an empty one is refused.

Leaves out the binding (`sm.libcrypto`), the keys' files (`access.key_files`), names of keys and the notes
that they sign (`access.keys`).
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

from edgegw.sm.libcrypto import POINT_BYTES, SPKI_HEAD, Key

USER_ID: Final = b"1234567812345678"
USER_ID_BYTES_MAX: Final = 8190
"""Its length in bits is hashed as a 16-bit number (GB/T 32918.2 clause 5.5); libcrypto takes a byte less than
fits."""
SIGNATURE_BYTES: Final = 64
DER_BYTES_MAX: Final = 72
ORDER: Final = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFF7203DF6B21C6052B53BBF40939D54123
"""n, the order of the base point (GB/T 32918.5)."""

_HALF: Final = 32
_PEM_FRAME: Final = (b"-----BEGIN PUBLIC KEY-----", b"-----END PUBLIC KEY-----")


class PublicKey:
    """A public key that is on the curve."""

    def __init__(self, point: bytes) -> None:
        """From the 65-byte uncompressed point; ValueError when it is malformed or not on the curve."""
        _check_bytes("point", point)
        if len(point) != POINT_BYTES or point[0] != 4:
            raise ValueError(
                f"an SM2 public key is 65 bytes and starts with 04, not {len(point)}: {point[:1].hex()}"
            )
        self.point: Final = point
        self._key = Key.of_point(point)

    @classmethod
    def from_pem(cls, pem: bytes) -> PublicKey:
        """From a SubjectPublicKeyInfo PEM; ValueError when it holds anything but an SM2 public key."""
        _check_bytes("pem", pem)
        lines = pem.strip().splitlines()
        if len(lines) < len(_PEM_FRAME) or (lines[0], lines[-1]) != _PEM_FRAME:
            raise ValueError(f"not a PEM of an SM2 public key: it starts with {_PEM_FRAME[0].decode()}")
        try:
            der = base64.b64decode(b"".join(lines[1:-1]), validate=True)
        except binascii.Error as problem:
            raise ValueError(f"not a PEM of an SM2 public key: {problem}") from None
        if not der.startswith(SPKI_HEAD):
            raise ValueError("not an SM2 public key with an uncompressed point on the named curve")
        return cls(der[len(SPKI_HEAD) :])

    def to_pem(self) -> bytes:
        """As SubjectPublicKeyInfo PEM."""
        return self._key.public_pem()

    def verify(self, message: bytes, signature: bytes, *, user_id: bytes = USER_ID) -> bool:
        """Whether signature (r || s, 64 bytes) is this key's over message under user_id; no malformed one is.

        Raises ValueError unless the user id has 1 to 8190 bytes, TypeError for anything but bytes.
        """
        _check_bytes("message", message)
        _check_user_id(user_id)
        try:
            der = to_der(signature)
        except ValueError:
            return False
        return self._key.verify(message, der, user_id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and self.point == other.point

    def __hash__(self) -> int:
        return hash(self.point)

    def __repr__(self) -> str:
        return f"PublicKey({self.point.hex()})"


class PrivateKey:
    """A private key; its number never leaves libcrypto except as the PEM that is written to its file."""

    def __init__(self, key: Key) -> None:
        self._key = key
        self.public: Final = PublicKey(key.point())

    @classmethod
    def generate(cls) -> PrivateKey:
        """A new key from libcrypto's generator; raises SmError."""
        return cls(Key.generated())

    @classmethod
    def from_pem(cls, pem: bytes) -> PrivateKey:
        """From an unencrypted PKCS#8 PEM; ValueError unless it is an SM2 key whose halves fit."""
        _check_bytes("pem", pem)
        return cls(Key.of_private_pem(pem))

    def to_pem(self) -> bytes:
        """As unencrypted PKCS#8 PEM."""
        return self._key.private_pem()

    def sign(self, message: bytes, *, user_id: bytes = USER_ID) -> bytes:
        """The signature over message under user_id: r || s, 64 bytes.

        Raises ValueError unless the user id has 1 to 8190 bytes, TypeError for anything but bytes, SmError
        when libcrypto fails.
        """
        _check_bytes("message", message)
        _check_user_id(user_id)
        return from_der(self._key.sign(message, user_id))


def to_der(signature: bytes) -> bytes:
    """The DER of r || s, at most 72 bytes; ValueError unless it is 64 bytes, both numbers in 1 to n - 1."""
    _check_bytes("signature", signature)
    if len(signature) != SIGNATURE_BYTES:
        raise ValueError(f"an SM2 signature is r || s, {SIGNATURE_BYTES} bytes, not {len(signature)}")
    numbers = (int.from_bytes(signature[:_HALF], "big"), int.from_bytes(signature[_HALF:], "big"))
    if not all(0 < number < ORDER for number in numbers):
        raise ValueError("r and s of an SM2 signature are numbers from 1 to n - 1")
    body = b"".join(_der_integer(number) for number in numbers)
    return bytes([0x30, len(body)]) + body


def from_der(der: bytes) -> bytes:
    """r || s, 64 bytes, of a signature in DER; ValueError unless it is the strict encoding of such a pair."""
    _check_bytes("der", der)
    if len(der) <= DER_BYTES_MAX:
        r_end = 4 + (der[3] if len(der) > 3 else 0)
        r, s = int.from_bytes(der[4:r_end], "big"), int.from_bytes(der[r_end + 2 :], "big")
        if 0 < r < ORDER and 0 < s < ORDER:
            signature = r.to_bytes(_HALF, "big") + s.to_bytes(_HALF, "big")
            # Whatever was lax above (tags, lengths, leading zeros, signs) differs from the encoding.
            if to_der(signature) == der:
                return signature
    raise ValueError(
        f"not an SM2 signature in strict DER, r and s from 1 to n - 1: {der[:DER_BYTES_MAX].hex()}"
    )


def _der_integer(number: int) -> bytes:
    body = number.to_bytes(number.bit_length() // 8 + 1, "big")
    return bytes([0x02, len(body)]) + body


def _check_bytes(name: str, value: object) -> None:
    if not isinstance(value, bytes):
        raise TypeError(f"{name} must be bytes, not {type(value).__name__}")


def _check_user_id(user_id: bytes) -> None:
    _check_bytes("user_id", user_id)
    if not 0 < len(user_id) <= USER_ID_BYTES_MAX:
        raise ValueError(f"user_id must have 1 to {USER_ID_BYTES_MAX} bytes, not {len(user_id)}")
