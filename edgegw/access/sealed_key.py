"""What a sealed key's file says: a head that anyone may read, and the key under SM4-GCM.

Between two lines like a PEM's stands the base64 of: format (one byte, 1), length of the head (two bytes, big
endian), head (JSON), nonce (12 bytes), ciphertext, tag (16 bytes). All before the nonce is authenticated with
the key. Leaves out the files (`access.key_files`) and who has the key-encryption key (`access.keystore`).
"""

from __future__ import annotations

import base64
import binascii
import textwrap
from typing import Final

import msgspec

from edgegw.core.journal import sm3
from edgegw.sm import sm4_gcm

FORMAT: Final = 1
BEGIN: Final = b"-----BEGIN EDGEGW SEALED KEY-----\n"
END: Final = b"-----END EDGEGW SEALED KEY-----\n"
_LENGTH_BYTES: Final = 2
_COLUMNS: Final = 64


class Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What anyone may read of a sealed key."""

    purpose: str
    """What it is for: `device`, `checkpoint`, `tls`, `webhook`, `vault`, `vault-version`, `terminal`,
    `tokens`, `hub`, `ca`, `mirror`."""
    name: str
    """Whose it is."""
    key_version: int = 1
    """How often it was sealed: one more with each new key-encryption key."""
    place: str
    """Where the key-encryption key lies that opens it."""
    kek: str
    """Which one that is (`kek_id`)."""


class SealedKey(msgspec.Struct, frozen=True):
    """A file's content, read and not opened."""

    head: Head
    associated: bytes
    nonce: bytes
    sealed: bytes

    def open(self, kek: bytes) -> bytes:
        """The key's bytes as they were sealed; raises sm4_gcm.NotAuthentic."""
        return sm4_gcm.unseal(kek, self.sealed, nonce=self.nonce, associated=self.associated)


def kek_id(kek: bytes) -> str:
    """The name of a key-encryption key: 16 hex digits of its SM3, which say nothing of the key."""
    return sm3(b"edgegw key-encryption key\x00" + kek)[:8].hex()


def is_sealed(content: bytes) -> bool:
    """Whether a file's content is a sealed key rather than an open one."""
    return content.startswith(BEGIN)


def seal(content: bytes, *, kek: bytes, head: Head) -> bytes:
    """The file's content that holds these bytes under kek (16 bytes); head.kek is its id."""
    said = msgspec.json.encode(head)
    associated = bytes([FORMAT]) + len(said).to_bytes(_LENGTH_BYTES, "big") + said
    nonce = sm4_gcm.fresh_nonce()
    sealed = sm4_gcm.seal(kek, content, nonce=nonce, associated=associated)
    text = base64.b64encode(associated + nonce + sealed).decode()
    return BEGIN + "".join(f"{line}\n" for line in textwrap.wrap(text, _COLUMNS)).encode() + END


def parse(content: bytes) -> SealedKey:
    """A sealed key from its file's content; ValueError says what is wrong with it."""
    if not (content.startswith(BEGIN) and content.endswith(END)):
        raise ValueError("it does not end as a sealed key's file does: it was cut")
    try:
        raw = base64.b64decode(content[len(BEGIN) : -len(END)].replace(b"\n", b""), validate=True)
    except binascii.Error as problem:
        raise ValueError(f"it is not base64 ({problem})") from None
    if raw[:1] != bytes([FORMAT]):
        raise ValueError(f"its format is {raw[:1].hex() or 'empty'}, this program knows {FORMAT:02x}")
    start = 1 + _LENGTH_BYTES
    end = start + int.from_bytes(raw[1:start], "big")
    body = raw[end:]
    if len(body) < sm4_gcm.NONCE_BYTES + sm4_gcm.TAG_BYTES:
        raise ValueError("it is too short: it was cut")
    try:
        head = msgspec.json.decode(raw[start:end], type=Head)
    except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
        raise ValueError(f"its head cannot be read ({problem})") from None
    nonce, sealed = body[: sm4_gcm.NONCE_BYTES], body[sm4_gcm.NONCE_BYTES :]
    return SealedKey(head, raw[:end], nonce, sealed)
