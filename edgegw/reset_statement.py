"""What a box says of its own end: signed by its device key just before that key is destroyed.

Owns the bytes. Leaves out the reset (`edgegw.factory_reset`) and who keeps the statement.
"""

from __future__ import annotations

from typing import Final

import msgspec

from edgegw.access.keys import SigningKey, VerifyingKey
from edgegw.core.journal import NoteError
from edgegw.core.records import UNREADABLE

LABEL: Final = "edgegw/reset/v1\n"
FORMAT: Final = 1
BYTES_MAX: Final = 1 << 20


class EndOfJournal(msgspec.Struct, frozen=True, kw_only=True):
    """How far an epoch's journal went."""

    epoch: int
    size: int
    root: str
    """Hex."""
    centre_size: int
    """How much of it the centre had signed for; what is beyond tells of the machine alone, or is exported."""
    exported: bool
    """Whether it had payments beyond that, which an export has."""


class Statement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole."""

    format: int
    bank: str
    box: str
    device_key: str
    """Public, its one line."""
    version: str
    """Of the program."""
    at_s: int
    journals: tuple[EndOfJournal, ...]


def sign(statement: Statement, key: SigningKey) -> str:
    """The statement as a note signed by the device."""
    return key.seal(LABEL.encode() + msgspec.json.encode(statement) + b"\n")


def read(note: str, key: VerifyingKey) -> Statement:
    """What this device has signed; raises NoteError for anything else."""
    text = key.open_text(note)
    try:
        if not text.startswith(LABEL):
            raise ValueError("it is no statement of a reset")
        statement = msgspec.json.decode(text.removeprefix(LABEL), type=Statement)
        if (statement.format, statement.device_key) != (FORMAT, key.text()):
            raise ValueError("it is of another format, or names another device")
    except (ValueError, *UNREADABLE) as problem:
        raise NoteError(str(problem)) from None
    return statement
