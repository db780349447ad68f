"""The change of a terminal's MAC key by messages: 0800 with field 70.

161: a terminal asks for its next key; the answer carries it in field 48 under the terminal's master key. 162:
the box asks a terminal to ask. The numbers are those that card networks use for key exchange and for its
solicitation; ISO 8583:1987 itself leaves 101 to 199 to security. So a key travels in one way alone, and is
bound to the question: an answer that is played back opens nothing.

Field 48 is, in digits and hex: form `01`, version (4 digits), nonce (12 bytes), ciphertext and tag (48 bytes)
of the 32 bytes of the key, by SM4-GCM. Its key is the first 16 bytes of HMAC-SM3(master, `edgegw terminal key
encryption`); authenticated with it are `edgegw terminal key`, terminal, version (4 digits), and fields 7 and
11 of the question, each after a byte 0. A terminal that has lost its keys, or has none yet, asks under
HMAC-SM3(master, `edgegw terminal key request`), and says so by version 9999. The last four digits of field 53
say a version; 0000 says none. Leaves out the keys' files and lives (`terminal_keys`).
"""

from __future__ import annotations

import datetime
from typing import Final

from edgegw.payments.iso8583.fields import Message
from edgegw.payments.iso8583.terminal_keys import Version
from edgegw.sm import sm4_gcm
from edgegw.sm.sm3 import hmac_sm3

ASK_KEY: Final = "161"
ASK_TO_ASK: Final = "162"
"""Of field 70."""
NEEDED: Final = (7, 11, 41)
BY_MASTER: Final = 9_999
"""A version in field 53: the message's MAC is under a key of the master key, which is good for ASK_KEY."""
EACH_S: Final = 60.0
"""A terminal gets no two new versions, and is not asked to ask twice, within this time."""
_FORM: Final = "01"
_ENCRYPTION: Final = b"edgegw terminal key encryption"
_REQUEST: Final = b"edgegw terminal key request"
_SEALED: Final = b"edgegw terminal key"


def named_version(message: Message) -> int:
    """The version that field 53 names, 0 where it names none."""
    last = message.get(53)[-4:]
    return int(last) if len(last) == 4 and last.isascii() and last.isdigit() else 0


def request_key(master: bytes) -> bytes:
    """What a terminal without a MAC key makes the MAC of its question under."""
    return hmac_sm3(master, _REQUEST)


def sealed_for(asked: Message, version: Version, *, terminal: str, master: bytes) -> str:
    """Field 48 of the answer to this question."""
    number = f"{version.number:04d}"
    bound = (terminal, number, asked.get(7), asked.get(11))
    nonce = sm4_gcm.fresh_nonce()
    sealed = sm4_gcm.seal(
        hmac_sm3(master, _ENCRYPTION)[: sm4_gcm.KEY_BYTES],
        version.key,
        nonce=nonce,
        associated=b"\0".join([_SEALED, *(one.encode() for one in bound)]),
    )
    return f"{_FORM}{number}{(nonce + sealed).hex().upper()}"


def invitation(terminal: str, *, trace: int, version: int, at: datetime.datetime) -> Message:
    """What asks a terminal to ask for its next key; its MAC is by this version."""
    return Message(
        "0800",
        {
            7: at.strftime("%m%d%H%M%S"),
            11: f"{trace:06d}",
            41: terminal.ljust(8),
            53: f"{version:016d}",
            70: ASK_TO_ASK,
        },
    )
