"""The MAC of a message: HMAC-SM3 under the terminal's key, first eight bytes, in the last field (64, or 128
with two bitmaps).

It covers every byte of the message (without the length in front of the frame) before the MAC's own value. A
MAC in field 64 of a message with fields behind it would leave those open to change, so it does not count.
Leaves out: who has a key (the secrets directory) and what a wrong MAC is answered with (`messages`).
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from edgegw.access.keystore import KeyFile, Keystore
from edgegw.payments.iso8583.fields import Codec, Message
from edgegw.payments.vault import SecretFileError, read_key
from edgegw.sm.sm3 import hmac_sm3

MAC_BYTES: Final = 8
_KEY_FILE: Final = re.compile(r"([A-Za-z0-9]{1,8})\.key")


def terminal_key_files(directory: Path) -> Iterator[KeyFile]:
    """The `<terminal>.key` files, by terminal's name; none where there is no directory.

    Raises SecretFileError for a file of another name, so that a mistyped one does not switch a terminal's MAC
    off.
    """
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        matched = _KEY_FILE.fullmatch(path.name)
        if matched is None:
            raise SecretFileError(f"{path} is not named <terminal>.key; rename it or take it away")
        yield KeyFile("iso8583.terminal_keys_directory", path, "terminal", matched[1])


def terminal_keys(directory: Path, keystore: Keystore) -> dict[str, bytes]:
    """The terminals' keys (64 hex digits each) by terminal; raises SecretFileError and PlaceAway."""
    return {key.name: read_key(keystore, key) for key in terminal_key_files(directory)}


def mac_of(key: bytes, covered: bytes) -> bytes:
    """Eight bytes over the bytes of a message before its MAC's value."""
    return hmac_sm3(key, covered)[:MAC_BYTES]


def _field(message: Message) -> int:
    return 128 if message.empty_secondary or max(message.fields, default=0) > 64 else 64


def is_authentic(key: bytes, raw: bytes, message: Message, codec: Codec) -> bool:
    """Whether the message's last field is its MAC and the MAC is right; raw is what message was decoded
    from."""
    value = message.fields.get(_field(message), "")
    if not re.fullmatch(r"[0-9A-Fa-f]{16}", value):
        return False
    return hmac.compare_digest(mac_of(key, raw[: -codec.mac_bytes]), bytes.fromhex(value))


def encode_with_mac(key: bytes, message: Message, codec: Codec) -> bytes:
    """The bytes of a message with its MAC added as the last field."""
    empty = "0" * (2 * MAC_BYTES)
    fields = {number: value for number, value in message.fields.items() if number not in (64, 128)}
    bare = msgspec.structs.replace(message, fields=fields, empty_secondary=False)
    full = msgspec.structs.replace(bare, fields=fields | {_field(bare): empty})
    covered = codec.encode(full)[: -codec.mac_bytes]
    value = mac_of(key, covered)
    return covered + (value.hex().upper().encode() if codec.mac_bytes == 2 * MAC_BYTES else value)
