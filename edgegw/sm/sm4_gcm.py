"""SM4-GCM (GB/T 32907 in the mode of NIST SP 800-38D, RFC 8998) by cryptography: sealing and unsealing.

One form: a key of 16 bytes, a nonce of 12, and ciphertext || tag with all 16 bytes of the tag. Leaves out
where key and nonce are kept; a nonce must never come twice under one key.
"""

from __future__ import annotations

import secrets
from typing import Final

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import SM4
from cryptography.hazmat.primitives.ciphers.modes import GCM

from edgegw.sm.libcrypto import SmError

KEY_BYTES: Final = 16
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16


class NotAuthentic(ValueError):
    """What was to be unsealed is not what was sealed under this key, nonce and associated data."""


def fresh_nonce() -> bytes:
    """12 random bytes; good for 2**32 messages under one key (SP 800-38D clause 8.3)."""
    return secrets.token_bytes(NONCE_BYTES)


def seal(key: bytes, plaintext: bytes, *, nonce: bytes, associated: bytes) -> bytes:
    """ciphertext || tag of plaintext, 16 bytes longer than it; associated is authenticated and not contained.

    Raises ValueError for a key or nonce of another length, SmError when cryptography lacks SM4-GCM.
    """
    cipher = _cipher(key, nonce, None)
    try:
        encryptor = cipher.encryptor()
    except UnsupportedAlgorithm as problem:
        raise _lacking(problem) from None
    encryptor.authenticate_additional_data(associated)
    return encryptor.update(plaintext) + encryptor.finalize() + encryptor.tag


def unseal(key: bytes, sealed: bytes, *, nonce: bytes, associated: bytes) -> bytes:
    """The plaintext of ciphertext || tag; no byte of it leaves before the tag has been found right.

    Raises NotAuthentic when anything was changed, ValueError for a key or nonce of another length, SmError
    when cryptography lacks SM4-GCM.
    """
    if len(sealed) < TAG_BYTES:
        raise NotAuthentic(f"a sealed text has at least {TAG_BYTES} bytes, not {len(sealed)}")
    cipher = _cipher(key, nonce, sealed[-TAG_BYTES:])
    try:
        decryptor = cipher.decryptor()
    except UnsupportedAlgorithm as problem:
        raise _lacking(problem) from None
    decryptor.authenticate_additional_data(associated)
    plaintext = decryptor.update(sealed[:-TAG_BYTES])
    try:
        return plaintext + decryptor.finalize()
    except InvalidTag:
        raise NotAuthentic("it was changed, or sealed under another key, nonce or associated data") from None


def _cipher(key: bytes, nonce: bytes, tag: bytes | None) -> Cipher[GCM]:
    if len(key) != KEY_BYTES:
        raise ValueError(f"an SM4 key has {KEY_BYTES} bytes, not {len(key)}")
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"the nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
    return Cipher(SM4(key), GCM(nonce, tag, min_tag_length=TAG_BYTES))


def _lacking(problem: UnsupportedAlgorithm) -> SmError:
    hint = "Install cryptography's own wheel: it carries an OpenSSL with SM4-GCM, which OpenSSL 3.0 lacks."
    return SmError(f"cryptography has no SM4-GCM ({problem})", hint=hint)
