"""A passphrase in a file: for the lab. Whoever copies the disk has both, unless the file is on another one.

Argon2id (RFC 9106) makes a key of it, SM4-GCM seals under that key.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from edgegw.access.key_files import KeyFileError, read_key_file
from edgegw.access.places import PlaceRefuses
from edgegw.sm import sm4_gcm

PASSPHRASE_BYTES_MIN: Final = 12
ITERATIONS: Final = 3
MEMORY_KIB: Final = 65_536
"""The second choice of RFC 9106 clause 4, on one lane: about half a second and 64 MiB at each start."""
MEMORY_KIB_MAX: Final = 1 << 20
ITERATIONS_MAX: Final = 16
_SALT_BYTES: Final = 16
_PURPOSE: Final = b"edgegw passphrase slot 1"


class _Slot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    iterations: int
    memory_kib: int
    salt: bytes
    nonce: bytes
    sealed: bytes


class Passphrase:
    """The place `passphrase`."""

    def __init__(self, passphrase_file: str, *, memory_kib: int = MEMORY_KIB) -> None:
        self._file = passphrase_file
        self._memory_kib = memory_kib

    def seal(self, secret: bytes) -> bytes:
        """A slot's content under the passphrase; raises PlaceRefuses."""
        salt, nonce = secrets.token_bytes(_SALT_BYTES), sm4_gcm.fresh_nonce()
        key = self._key(salt, iterations=ITERATIONS, memory_kib=self._memory_kib)
        sealed = sm4_gcm.seal(key, secret, nonce=nonce, associated=_PURPOSE)
        slot = _Slot(
            iterations=ITERATIONS, memory_kib=self._memory_kib, salt=salt, nonce=nonce, sealed=sealed
        )
        return msgspec.json.encode(slot)

    def open(self, slot: bytes) -> bytes:
        """The secret; raises PlaceRefuses."""
        try:
            held = msgspec.json.decode(slot, type=_Slot)
            if not (1 <= held.iterations <= ITERATIONS_MAX and 8 <= held.memory_kib <= MEMORY_KIB_MAX):
                raise ValueError("its cost is out of bounds")
            key = self._key(held.salt, iterations=held.iterations, memory_kib=held.memory_kib)
            return sm4_gcm.unseal(key, held.sealed, nonce=held.nonce, associated=_PURPOSE)
        except sm4_gcm.NotAuthentic:
            problem = f"the passphrase in {self._file} does not open it, or it was altered"
            hint = "give the passphrase with which it was sealed in keys.passphrase.passphrase_file"
        except ValueError as wrong:
            problem, hint = f"it is no slot of this place ({wrong})", "restore it from its backup"
        raise PlaceRefuses(problem, hint=hint)

    def _key(self, salt: bytes, *, iterations: int, memory_kib: int) -> bytes:
        cost = Argon2id(
            salt=salt, length=sm4_gcm.KEY_BYTES, iterations=iterations, lanes=1, memory_cost=memory_kib
        )
        return cost.derive(self._passphrase())

    def _passphrase(self) -> bytes:
        if not self._file:
            raise PlaceRefuses(
                "keys.passphrase.passphrase_file is not given", hint="name the file with the passphrase there"
            )
        try:
            words = read_key_file(Path(self._file)).strip()
        except KeyFileError as problem:
            raise PlaceRefuses(f"keys.passphrase.passphrase_file = {problem}", hint=problem.hint) from None
        if len(words) < PASSPHRASE_BYTES_MIN:
            raise PlaceRefuses(
                f"keys.passphrase.passphrase_file = {self._file}: it has {len(words)} bytes",
                hint=f"a passphrase of less than {PASSPHRASE_BYTES_MIN} bytes is guessed; write a longer one",
            )
        return words
