"""The Ed25519 keys with which a box signs access tokens, sealed by its keystore.

A new key is made each week, is published (`jwks`) an hour before it signs, and the one before stays until
the last of its tokens has expired. Leaves out what is signed (`access.oauth`).
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from edgegw.access.key_files import KeyFileError
from edgegw.access.keystore import KeyFile, Keystore

ROTATED_AFTER_S: Final = 7 * 86_400
PUBLISHED_BEFORE_S: Final = 3_600
"""So long services may keep a copy of the published keys."""
OVERLAP_S: Final = 3_600
"""So long a key stays after the next one has begun to sign: longer than any access token and any leeway."""
_SEED_BYTES: Final = 32


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    seed: str
    signs_from_s: int


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    keys: tuple[_Kept, ...]


class TokenKey:
    """One key, under its RFC 7638 thumbprint."""

    def __init__(self, seed: bytes, signs_from_s: int) -> None:
        self.private: Final = Ed25519PrivateKey.from_private_bytes(seed)
        self.public: Final[Ed25519PublicKey] = self.private.public_key()
        self.signs_from_s: Final = signs_from_s
        self.x: Final = _base64url(self.public.public_bytes_raw())
        thumb = f'{{"crv":"Ed25519","kty":"OKP","x":"{self.x}"}}'
        self.kid: Final = _base64url(hashlib.sha256(thumb.encode()).digest())

    def jwk(self) -> dict[str, str]:
        """The public key as RFC 8037 writes it."""
        return {"kty": "OKP", "crv": "Ed25519", "x": self.x, "kid": self.kid, "use": "sig", "alg": "EdDSA"}


class TokenKeys:
    """A box's keys for access tokens; without a file they last as long as this object."""

    def __init__(self, keystore: Keystore, file: KeyFile | None) -> None:
        """Raises KeyFileError and PlaceAway."""
        self._keystore = keystore
        self._file = file
        self._keys: tuple[TokenKey, ...] = ()
        if file is not None and file.path.exists():
            self._keys = _read(keystore.read(file), file)

    def signing(self, now_s: int) -> TokenKey:
        """The key that signs now; made, and others let go, when it is time. Raises KeyFileError and
        PlaceAway."""
        kept = list(self._keys)
        while len(kept) > 1 and kept[1].signs_from_s + OVERLAP_S <= now_s:
            del kept[0]
        if not kept:
            kept = [_fresh(now_s)]
        elif kept[-1].signs_from_s + ROTATED_AFTER_S <= now_s:
            kept.append(_fresh(now_s + PUBLISHED_BEFORE_S))
        if tuple(kept) != self._keys:
            self._write(tuple(kept))
        return next((key for key in reversed(kept) if key.signs_from_s <= now_s), kept[0])

    def public_of(self, kid: object) -> Ed25519PublicKey | None:
        """The public key of this name, if it is one of the box's."""
        return next((key.public for key in self._keys if key.kid == kid), None)

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """All public keys, those that will sign soon and those that have until lately included."""
        return {"keys": [key.jwk() for key in self._keys]}

    def _write(self, keys: tuple[TokenKey, ...]) -> None:
        if self._file is not None:
            kept = tuple(
                _Kept(base64.b64encode(key.private.private_bytes_raw()).decode(), key.signs_from_s)
                for key in keys
            )
            content = msgspec.json.encode(_File(1, kept))
            if self._file.path.exists():
                self._keystore.replace(self._file, content)
            else:
                self._file.path.parent.mkdir(parents=True, exist_ok=True)
                self._keystore.create(self._file, content)
        self._keys = keys


def _fresh(signs_from_s: int) -> TokenKey:
    return TokenKey(Ed25519PrivateKey.generate().private_bytes_raw(), signs_from_s)


def _read(content: bytes, file: KeyFile) -> tuple[TokenKey, ...]:
    try:
        found = msgspec.json.decode(content, type=_File)
        seeds = [base64.b64decode(one.seed, validate=True) for one in found.keys]
        if found.format != 1 or not seeds or any(len(seed) != _SEED_BYTES for seed in seeds):
            raise ValueError("it is of another format")
    except (ValueError, msgspec.MsgspecError):
        hint = "move it away: the next start makes a new one, and clients ask for new tokens"
        raise KeyFileError(file.path, "holds no keys for tokens", hint=hint) from None
    return tuple(TokenKey(seed, one.signs_from_s) for seed, one in zip(seeds, found.keys, strict=True))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
