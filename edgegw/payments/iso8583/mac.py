"""The MAC of a message: HMAC-SM3 under the terminal's key, first eight bytes, in the last field (64, or 128
with two bitmaps).

It covers every byte of the message (without the length in front of the frame) before the MAC's own value. A
MAC in field 64 of a message with fields behind it would leave those open to change, so it does not count.
Leaves out: who has which key (`terminal_keys`) and what a wrong MAC is answered with (`messages`).
"""

from __future__ import annotations

import hmac
import re
import time
from collections.abc import Callable
from typing import Final

import msgspec

from edgegw.payments.iso8583.fields import Codec, Message
from edgegw.sm.sm3 import hmac_sm3

MAC_BYTES: Final = 8
WRONG_MAX: Final = 10
WRONG_WITHIN_S: Final = 600.0
"""So many wrong ones of one terminal within this time are an alarm: somebody tries, or the keys differ."""
ALARM_EACH_S: Final = 3_600.0


class WrongMacs:
    """Counts the wrong MACs of each terminal, and says when they are an alarm."""

    def __init__(self, *, mono_s: Callable[[], float] = time.monotonic) -> None:
        self._mono_s = mono_s
        self._begun: dict[str, tuple[float, int]] = {}
        self._told: dict[str, float] = {}

    def note(self, terminal: str) -> bool:
        """Count one of a terminal that the site's settings know; whether it makes an alarm, one an hour."""
        now_s = self._mono_s()
        begun_s, count = self._begun.get(terminal, (now_s, 0))
        if now_s - begun_s > WRONG_WITHIN_S:
            begun_s, count = now_s, 0
        self._begun[terminal] = begun_s, count + 1
        if count + 1 < WRONG_MAX or now_s - self._told.get(terminal, -ALARM_EACH_S) < ALARM_EACH_S:
            return False
        self._told[terminal] = now_s
        return True


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
