"""Operators: the people whose orders count at the hub, each known by an Ed25519 key of their own.

The hub's settings hold public keys alone, so that whoever has the hub's machine cannot speak for a second
person. Somebody who has left stays listed as revoked: what they signed before must verify for ever. Leaves
out what is ordered and what is signed for it (`hub.orders`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from edgegw.access.tokens import TokenError, public_key_from

MAKER: Final = "maker"
CHECKER: Final = "checker"


class OperatorError(ValueError):
    """Somebody may not do this; the text says who, why, and who may."""


class Operator(NamedTuple):
    """One person, as the hub's settings say."""

    name: str
    key_text: str
    roles: frozenset[str]
    actions: frozenset[str]
    """What they may make and check; empty: everything."""
    is_revoked: bool

    def may(self, role: str, action: str) -> bool:
        """Whether they may make, or check, an order of this kind."""
        return not self.is_revoked and role in self.roles and (not self.actions or action in self.actions)


class Person(NamedTuple):
    """Who gives an order now: a name, and a way to sign where there is a key."""

    name: str = ""
    sign: Callable[[bytes], bytes] | None = None


class Operators:
    """All that a bank has listed. True where anybody is: then certain orders need two of them."""

    def __init__(self, listed: Iterable[Operator] = ()) -> None:
        """Raises ValueError for a name or key that is there twice, a key that is none, and a list in which no
        two people can make and check an order."""
        self._by_name: dict[str, Operator] = {}
        self._keys: dict[str, Ed25519PublicKey] = {}
        owners: dict[str, str] = {}
        for one in listed:
            if one.name in self._by_name:
                raise ValueError(f"{one.name} is listed twice; give each person one entry")
            if one.key_text in owners:
                raise ValueError(f"{one.name} and {owners[one.key_text]} have one key; each has their own")
            try:
                self._keys[one.name] = public_key_from(one.key_text)
            except TokenError:
                raise ValueError(
                    f"{one.name}: public_key is not 32 bytes in base64;"
                    " copy what `edgegw keygen operator` printed"
                ) from None
            self._by_name[one.name] = one
            owners[one.key_text] = one.name
        if self._by_name and not self._pairs():
            raise ValueError("no two of them can make and check an order; list a maker and another checker")

    def __bool__(self) -> bool:
        return bool(self._by_name)

    def __iter__(self) -> Iterator[Operator]:
        return iter(sorted(self._by_name.values(), key=lambda one: one.name))

    def _pairs(self) -> bool:
        able = [one for one in self._by_name.values() if not one.is_revoked]
        return any(
            MAKER in maker.roles and CHECKER in checker.roles and _share_an_action(maker, checker)
            for maker in able
            for checker in able
            if maker is not checker
        )

    def key_text(self, name: str) -> str:
        """The public key of somebody who is listed, "" for anybody else."""
        found = self._by_name.get(name)
        return "" if found is None else found.key_text

    def signed(self, person: Person, statement: bytes, *, role: str, action: str) -> str:
        """The signature (hex) of a person who may do this, over a statement; raises OperatorError."""
        self._check(person.name, role=role, action=action)
        if person.sign is None:
            raise OperatorError(f"{person.name} has signed nothing; give the private key with --key")
        signature = person.sign(statement)
        if not self.has_signed(person.name, statement, signature):
            raise OperatorError(f"the key is not {person.name}'s; give the one that the settings name")
        return signature.hex()

    def _check(self, name: str, *, role: str, action: str) -> None:
        found = self._by_name.get(name)
        able = sorted(one.name for one in self._by_name.values() if one.may(role, action))
        who = (
            f"; a {role} of {action} is {' or '.join(able)}" if able else f"; nobody is a {role} of {action}"
        )
        if not name:
            raise OperatorError(f"orders need a person: give --by NAME and --key FILE{who}")
        if found is None:
            raise OperatorError(f"{name} is no operator in the hub's settings{who}")
        if found.is_revoked:
            raise OperatorError(f"{name} is revoked in the hub's settings{who}")
        if not found.may(role, action):
            raise OperatorError(f"{name} may not do that{who}")

    def has_signed(self, name: str, statement: bytes, signature: bytes) -> bool:
        """Whether this is the signature of somebody who is listed, revoked or not."""
        key = self._keys.get(name)
        if key is None:
            return False
        try:
            key.verify(signature, statement)
        except InvalidSignature:
            return False
        return True


def _share_an_action(one: Operator, other: Operator) -> bool:
    return not one.actions or not other.actions or not one.actions.isdisjoint(other.actions)
