"""Whose word counts at the hub: its own signing key, the pinned key of every box of this bank, and the people
who give orders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgegw.access.keys import SigningKey, VerifyingKey
from edgegw.access.operators import Operators


@dataclass(frozen=True, slots=True)
class Keyring:
    """The hub's key and the boxes' device keys, by box."""

    bank: str
    key: SigningKey
    boxes: Mapping[str, VerifyingKey]
    operators: Operators = field(default_factory=Operators)
