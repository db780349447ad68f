"""What a client may do, by name: scopes, and the groups in which they are given.

Owns the list of scopes, the groups that every site has (`pay`, `read`, `operate`) and those of a site's
settings. Leaves out which operation needs which (`payments.http_api.operations`) and who shows what
(`access.speakers`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from edgegw.core.site import ClientRule, Site

GROUPS: Final[Mapping[str, Mapping[str, str]]] = {
    "pay": {
        "payments:write": "pay, singly or in batches",
        "holds:write": "hold money, post and void holds",
        "refunds:write": "give money of a payment back",
        "reversals:write": "reverse payments",
        "groups:write": "send linked groups; each member needs its own scope, too",
        "batches:write": "close a merchant's batch",
    },
    "read": {
        "payments:read": "its own payments",
        "receipts:read": "receipts of its own payments, and the checkpoint that proves them",
        "accounts:read": "what the box holds of every account",
        "batches:read": "merchants' batches",
        "windows:read": "closed windows",
        "notices:read": "its own notices",
        "notices:write": "take note of its own notices",
        "status:read": "how the box is",
    },
    "operate": {
        "windows:close": "close the open window",
        "reversals:read": "reversals of all clients that wait for their originals",
        "notices:all": "read and note any client's notices, beside `notices:read` or `notices:write`",
    },
}
"""The groups that every site has, with their scopes and what each lets a client do."""

SCOPES: Final[Mapping[str, str]] = {name: text for group in GROUPS.values() for name, text in group.items()}
"""Every scope."""


def groups_of(site: Site) -> dict[str, frozenset[str]]:
    """Every group's scopes: those that each site has, and the site's own."""
    found = {name: frozenset(scopes) for name, scopes in GROUPS.items()}
    own = {} if site.scope_groups is msgspec.UNSET else site.scope_groups
    for name, members in own.items():
        if name not in GROUPS:
            found[name] = expanded(members, found)
    return found


def expanded(names: Iterable[str], groups: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """The scopes behind names, each a scope or a group; an unknown name gives none."""
    found: set[str] = set()
    for name in names:
        found |= groups.get(name, {name} & SCOPES.keys())
    return frozenset(found)


def scopes_of(client: ClientRule, site: Site) -> frozenset[str]:
    """All that a client may do: what its groups hold, or, where it names none, its `scopes`."""
    names = client.scopes if client.groups is msgspec.UNSET else client.groups
    return expanded(names, groups_of(site))


def scope_faults(site: Site) -> Iterable[str]:
    """What is wrong with a site's groups and who names them, one line each: field, value, mend."""
    own = {} if site.scope_groups is msgspec.UNSET else site.scope_groups
    known = GROUPS.keys() | SCOPES.keys()
    for name, members in own.items():
        if name in GROUPS:
            yield f"scope_groups.{name}: every site has this group already; use another name"
        for member in members:
            if member not in known:
                yield (
                    f"scope_groups.{name} = {member}: it is no scope; REFERENCE.md lists them (a group of the"
                    " site's own cannot hold another one)"
                )
    for client in site.clients:
        for name in () if client.groups is msgspec.UNSET else client.groups:
            if name not in GROUPS and name not in own:
                yield f"clients[{client.name}].groups = {name}: it is not in scope_groups; add it there"
