"""What is said by multicast DNS, and what box and speaker tell each other: shapes and their checks, no I/O.

A TXT record has the format's version `v`, `bank`, `box` or `mirror` with the name, and for each way in its
port and `<way>-tls`, its profile. Nothing of it is secret, and nothing that comes in is believed but as an
address.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from edgegw.config.discovery import NAME_PATTERN

Kind = Literal["box", "mirror"]

TYPES: Final[dict[Kind, str]] = {"box": "_edgegw._tcp.local.", "mirror": "_edgegw-mirror._tcp.local."}
"""Two types: a till that takes the first `_edgegw._tcp` must never come to a mirror."""
VERSION: Final = "1"
PEERS_MAX: Final = 32
"""Of each kind; with more, a newcomer takes the place of any other."""
ADDRESSES_MAX: Final = 4
WAYS_MAX: Final = 8
EXCHANGE: Final = "exchange"
"""A mirror's only way in."""
LINE_BYTES_MAX: Final = 1 << 18
PROFILES: Final = ("plain", "intl", "pq", "gm", "gm-pq")
_TLS: Final = "-tls"
_NAME: Final = re.compile(NAME_PATTERN)
_WAY: Final = re.compile(r"[a-z][a-z0-9_]{0,15}\Z")
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}\Z")
_PORT_MAX: Final = 65_535
_INSTANCE_MAX: Final = 63


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """A way in."""

    port: int
    profile: str
    """How it is encrypted, `plain` for not at all."""
    host: str = ""
    """Of one's own: where it listens; "" or an unspecified address for everywhere."""


class Advert(msgspec.Struct, frozen=True, kw_only=True):
    """Who says that it is there, with its ways in."""

    kind: Kind
    bank: str
    name: str
    ways: dict[str, Way]


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who says to be there: addresses and words, of which nothing is proved."""

    kind: Kind
    name: str
    instance: str
    """The name under which it is listed."""
    addresses: tuple[str, ...]
    ways: dict[str, Way]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the speaker is to do, a line of JSON; the newest counts."""

    interfaces: tuple[str, ...]
    bank: str
    """Whose boxes and mirrors are looked for."""
    advert: Advert | None = None
    """None: say nothing."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """How the speaker is, a line of JSON."""

    instance: str = ""
    """The name under which the advert is listed; "" while it is not."""
    addresses: tuple[str, ...] = ()
    """With which it is listed."""
    problem: str = ""
    peers: tuple[Peer, ...] = ()


def text_of(advert: Advert) -> dict[str, str]:
    """The TXT record of an advert."""
    text = {"v": VERSION, "bank": advert.bank, advert.kind: advert.name}
    for name, way in sorted(advert.ways.items()):
        text |= {name: str(way.port), f"{name}{_TLS}": way.profile}
    return text


def peer_of(
    kind: Kind,
    instance: str,
    text: Mapping[str, str | None],
    *,
    addresses: Sequence[str],
    bank: str,
) -> Peer | None:
    """Who says so, None where it says nothing that is of use here: another format, another bank, no address
    or no way in."""
    name = text.get(kind) or ""
    if text.get("v") != VERSION or text.get("bank") != bank or not _NAME.match(name) or not addresses:
        return None
    ways: dict[str, Way] = {}
    for way, port in sorted((key, value or "") for key, value in text.items() if _WAY.match(key)):
        profile = text.get(f"{way}{_TLS}") or ""
        if _PORT.match(port) and int(port) <= _PORT_MAX and profile in PROFILES and len(ways) < WAYS_MAX:
            ways[way] = Way(port=int(port), profile=profile)
    if not ways:
        return None
    return Peer(
        kind=kind,
        name=name,
        instance="".join(one if one.isprintable() else "?" for one in instance)[:_INSTANCE_MAX],
        addresses=tuple(addresses[:ADDRESSES_MAX]),
        ways=ways,
    )
