"""The keys that sign releases: Ed25519 in PKCS#8 PEM, with a passphrase or without."""

from __future__ import annotations

from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner


def signer_of(pem: bytes, passphrase: Callable[[], bytes]) -> CryptoSigner:
    """What signs with this key; raises ValueError. passphrase: asked where the key is encrypted."""
    secret = passphrase() if b"ENCRYPTED" in pem else None
    try:
        key = load_pem_private_key(pem, secret)
    except (ValueError, TypeError) as problem:
        raise ValueError(f"it cannot be opened: {problem}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("it is no Ed25519 key")
    return CryptoSigner(key)
