"""What the hub's settings say of keys: its own signing key, the boxes' pinned ones, and the people who give
orders. Whose word counts for a box stands in the database (`hub.identities`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgegw.access.keys import SigningKey, VerifyingKey
from edgegw.access.operators import Operators


@dataclass(frozen=True, slots=True)
class Keyring:
    """The hub's key, and the device keys that `[boxes]` pins, by box."""

    bank: str
    key: SigningKey
    pinned: Mapping[str, VerifyingKey]
    operators: Operators = field(default_factory=Operators)
