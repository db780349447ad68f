"""The key with which a box signs what it posts to its clients' webhooks: Ed25519, as Standard Webhooks' `v1a`
has it, so that no secret is shared.

Made at the first start. Leaves out what is signed (`payments.webhook_post`).
"""

from __future__ import annotations

import base64
import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from edgegw.access.key_files import KEY_FILE_BYTES_MAX, KeyFileError, write_new_file


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


def load_webhook_key(path: Path) -> WebhookKey:
    """The key in the file, which is made if there is none; raises KeyFileError."""
    if not path.exists():
        made = Ed25519PrivateKey.generate()
        pem = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_new_file(path, pem, mode=0o600)
    try:
        with path.open("rb") as file:
            mode, pem = os.fstat(file.fileno()).st_mode, file.read(KEY_FILE_BYTES_MAX)
        private = load_pem_private_key(pem, password=None)
    except OSError as problem:
        message = f"cannot be read ({problem.strerror})"
        raise KeyFileError(path, message, hint="give the path of the key") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        hint = "move it away: the next start makes a new one, and receivers need its public key"
        raise KeyFileError(path, "holds no private key", hint=hint) from None
    if mode & 0o077:
        raise KeyFileError(path, f"others can read it (mode {mode & 0o777:o})", hint=f"chmod 600 {path}")
    if not isinstance(private, Ed25519PrivateKey):
        raise KeyFileError(path, "holds no Ed25519 key", hint="move it away: the next start makes a new one")
    return WebhookKey(private)
