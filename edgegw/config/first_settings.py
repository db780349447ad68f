"""A box's first settings, written from its claim: what a technician would otherwise type on a ladder.

Files and folders are those of the defaults, beside the settings. Leaves out the claim (`core.enrolment`) and
what the options mean (`config.box`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from edgegw.core.enrolment import Claim
from edgegw.tls_tables import PLAIN

Table = Mapping[str, object]
OWN_TABLES: Final = frozenset({"hub", "enrolment"})
"""What a claim has fields of its own for."""
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_LOOPBACK: Final = {"host": "127.0.0.1"}
_CLOSED: Final = '# Tills on other machines need host = "0.0.0.0" and an [http.tls].'
_CERTIFICATE: Final = {"certificate_file": "secrets/box.pem", "key_file": "secrets/box.key"}


def first_settings(claim: Claim, *, keys: Table, for_branch: bool = False) -> str:
    """The TOML text of a box that has this claim and nothing else; ValueError where the claim does not say
    where the hub's exchange is. keys: the table of that name, where the claim has none.

    for_branch: whether its HTTP is open to the branch, encrypted with the certificate that enrolment gives.
    """
    if not claim.line:
        raise ValueError(
            "the claim does not name the hub's exchange, so no settings can be written from it: give them, or"
            " have the centre set enrolment.line in its settings and make another claim"
        )
    profile = claim.line_profile or claim.profile
    if profile == PLAIN:
        raise ValueError(
            "the hub's exchange is plain, and enrolment is for lines that are encrypted: have the centre give"
            " its settings [tls]"
        )
    if wrong := sorted(OWN_TABLES & claim.settings.keys()):
        raise ValueError(
            f"the claim's settings have [{wrong[0]}], which the claim itself tells: have the centre leave it"
            " out and make another claim"
        )
    name: Table = {"server_name": claim.server_name} if claim.server_name else {}
    addresses = [{"url": url, "priority": number} for number, url in enumerate(claim.line)]
    tls: Table = {
        "profile": profile,
        "ca_file": "secrets/ca.pem",
        **_CERTIFICATE,
        "crl_file": "secrets/crl.pem",
    }
    enrolment: Table = {
        "addresses": claim.addresses,
        "profile": claim.profile,
        **name,
        "branch": claim.branch,
    }
    http: Table = _LOOPBACK
    if for_branch:
        http = {"host": "0.0.0.0", "tls": {"profile": profile, **_CERTIFICATE}}  # noqa: S104 - encrypted
    chosen: dict[str, Table] = {
        "keys": dict(keys),
        **claim.settings,
        "http": {**http, **claim.settings.get("http", {})},
    }
    tables: dict[str, Table] = {
        "hub": {"key": claim.hub_key, "addresses": addresses, "tls": {**tls, **name}},
        "enrolment": enrolment,
        **{title: table for title, table in chosen.items() if table},
    }
    lines = [
        "# Written from the box's claim. REFERENCE.md names every option.",
        f"bank = {_toml(claim.bank)}",
        f"box = {_toml(claim.box)}",
    ]
    for title, table in tables.items():
        note = [_CLOSED] if table == _LOOPBACK else []
        lines += ["", *note, *_table(_key(title), table)]
    return "\n".join(lines) + "\n"


def _table(title: str, table: Table) -> list[str]:
    """A table and those in it, as a person would write them; lists of tables stay in a line."""
    within = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    lines = [f"[{title}]"]
    lines += [f"{_key(key)} = {_toml(value)}" for key, value in table.items() if key not in within]
    for key, value in within.items():
        lines += ["", *_table(f"{title}.{_key(key)}", value)]
    return lines


def _toml(value: object) -> str:
    """A value as TOML; ValueError for what TOML has not."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if value is None:
        raise ValueError("the claim's settings have null, which says nothing: leave that option out")
    # JSON's texts are TOML's, but for this one character.
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")


def _key(key: object) -> str:
    return str(key) if _BARE.fullmatch(str(key)) else _toml(str(key))
