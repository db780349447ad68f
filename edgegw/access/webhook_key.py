"""The key with which a box signs what it posts to its clients' webhooks: Ed25519, as Standard Webhooks' `v1a`
has it, so that no secret is shared.

Made at the first start. Leaves out what is signed (`payments.webhook_post`).
"""

from __future__ import annotations

import base64

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from edgegw.access.key_files import KeyFileError
from edgegw.access.keystore import KeyFile, Keystore


class WebhookKey:
    """One box's key for webhooks."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        public = base64.b64encode(private.public_key().public_bytes_raw()).decode()
        self.text = f"whpk_{public}"
        """The public key as a receiver's Standard Webhooks library takes it."""

    def sign(self, message: bytes) -> bytes:
        """The signature over message, 64 bytes."""
        return self._private.sign(message)


def load_webhook_key(keystore: Keystore, key: KeyFile) -> WebhookKey:
    """The key in the file, which is made if there is none; raises KeyFileError and PlaceAway."""
    if not key.path.exists():
        made = Ed25519PrivateKey.generate()
        keystore.create(key, made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    try:
        private = load_pem_private_key(keystore.read(key), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        hint = "move it away: the next start makes a new one, and receivers need its public key"
        raise KeyFileError(key.path, "holds no private key", hint=hint) from None
    if not isinstance(private, Ed25519PrivateKey):
        raise KeyFileError(
            key.path, "holds no Ed25519 key", hint="move it away: the next start makes a new one"
        )
    return WebhookKey(private)
