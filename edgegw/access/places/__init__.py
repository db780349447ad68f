"""Where a machine's key-encryption key is kept while the machine is off: one module for each kind of place.

A place seals a few bytes into a slot's content that only it opens again. Leaves out the keys' own files, the
slots and which place is used (`access.keystore`).
"""

from __future__ import annotations

from typing import ClassVar, Protocol

from edgegw.errors import OperatingError

SECRET_BYTES_MAX = 64
"""Four key-encryption keys. A TPM seals 128 bytes at most."""


class PlaceAway(OperatingError):
    """The TPM, the HSM or the program that speaks for it does not answer now."""

    code: ClassVar[str] = "key_place_away"
    default_hint = "See that the device is there and that the box's user may open it; then start again."


class PlaceRefuses(Exception):
    """The place answers, and does not open or make the seal: the text says why, `hint` the mend."""

    def __init__(self, problem: str, *, hint: str) -> None:
        super().__init__(problem)
        self.hint = hint


class Place(Protocol):
    """One place, with its options from the settings."""

    def seal(self, secret: bytes) -> bytes:
        """A slot's content that opens to secret (16 to 64 bytes); raises PlaceAway and PlaceRefuses."""

    def open(self, slot: bytes) -> bytes:
        """The secret of a slot's content; raises PlaceAway and PlaceRefuses."""
