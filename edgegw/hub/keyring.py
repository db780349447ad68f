"""Whose word counts at the hub: its own signing key, and the pinned key of every box of this bank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgegw.access.keys import SigningKey, VerifyingKey


@dataclass(frozen=True, slots=True)
class Keyring:
    """The hub's key and the boxes' device keys, by box."""

    bank: str
    key: SigningKey
    boxes: Mapping[str, VerifyingKey]
