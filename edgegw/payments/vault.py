"""Card numbers at the edge: a PAN comes in, a lookup and a mask go on.

The lookup is HMAC-SM3 under a key that all boxes of a bank share, because the site's settings map lookups to
accounts; nothing is stored for it. It stays inside the process: records carry the box's own token
(`payments.cards`). Leaves out: which account a lookup stands for (`core.site.Site.cards`).
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path
from typing import Final

from edgegw.access.key_files import KeyFileError
from edgegw.access.keystore import KeyFile, Keystore
from edgegw.sm.sm3 import hmac_sm3

KEY_BYTES: Final = 32
_PAN: Final = re.compile(r"[0-9]{8,19}")
_KEY: Final = re.compile(rb"[0-9A-Fa-f]{%d}" % (2 * KEY_BYTES))
_FULL_MASK_DIGITS: Final = 14
"""Shorter numbers show only their last four digits: six and four of them would leave too little to guess."""


class SecretFileError(ValueError):
    """A file of the secrets directory that cannot be used; the text names the file and the mend."""


def vault_key_file(path: Path, *, option: str) -> KeyFile:
    """The file of the bank's vault key, which option names."""
    return KeyFile(option, path, "vault", "vault")


def read_key(keystore: Keystore, key: KeyFile) -> bytes:
    """The 32 bytes of a key's file, whose text is 64 hex digits; raises SecretFileError and PlaceAway."""
    try:
        text = keystore.read(key).strip()
    except KeyFileError as problem:
        raise SecretFileError(f"{problem}; {problem.hint}; open, it is 64 hex digits, mode 0600") from None
    if not _KEY.fullmatch(text):
        raise SecretFileError(
            f"{key.path} does not hold {2 * KEY_BYTES} hex digits; write exactly that, no more"
        )
    return bytes.fromhex(text.decode("ascii"))


def create_key(path: Path) -> bytes:
    """Write a new random key file with mode 0600 and return its 32 bytes; raises FileExistsError rather than
    replace one."""
    key = secrets.token_bytes(KEY_BYTES)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(key.hex() + "\n")
        file.flush()
        os.fsync(file.fileno())
    return key


class Lookups:
    """Turns card numbers into lookups under one key."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"the vault's key has {len(key)} bytes; it must have {KEY_BYTES}")
        self._key = key

    @classmethod
    def open(cls, keystore: Keystore, key: KeyFile) -> Lookups:
        """The lookups under the key in this file; raises SecretFileError and PlaceAway."""
        return cls(read_key(keystore, key))

    def lookup(self, pan: str) -> str:
        """HMAC-SM3 of the PAN's ASCII digits, 64 lower-case hex digits; raises ValueError, which never quotes
        the PAN."""
        if not _PAN.fullmatch(pan):
            raise ValueError(f"a card number has 8 to 19 digits; this one has {len(pan)} characters")
        return hmac_sm3(self._key, pan.encode("ascii")).hex()


def mask(pan: str) -> str:
    """The PAN with only its first six and last four digits left, or the last four of one with under 14
    digits."""
    shown = 6 if len(pan) >= _FULL_MASK_DIGITS else 0
    return pan[:shown] + "*" * (len(pan) - shown - 4) + pan[-4:]
