"""`[discovery]`: does a box or a mirror say on its network that it is there, and whom it knows there.

What is found by it are addresses. Nobody is believed for having one: keys and certificates say who it is.
Leaves out mDNS itself (`edgegw.discovery`).
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Final, Literal

import msgspec

from edgegw.config.listen import has_port
from edgegw.config.options import repeated

NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9-]{0,31}\Z"


class StaticPeer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[discovery.peers]]`: one that is known without multicast."""

    kind: Annotated[Literal["box", "mirror"], msgspec.Meta(description="What it is.")]
    name: Annotated[str, msgspec.Meta(pattern=NAME_PATTERN, description="Its name within the bank.")]
    url: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^https?://[^\s/]+/?\Z",
            description="Where it listens, as http://host:port or https://host:port.",
        ),
    ]


class DiscoveryTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[discovery]`: on the branch's network by multicast DNS; without the table nothing is said there."""

    enabled: Annotated[
        bool, msgspec.Meta(description="False: no multicast at all; the listed peers still count.")
    ] = True
    interfaces: Annotated[
        tuple[Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z._:@-]{1,64}\Z")], ...],
        msgspec.Meta(
            max_length=8,
            description="Interfaces of the branch's network, by name or IPv4 address; none: every one but"
            " loopback. Name them where the machine has another network too.",
        ),
    ] = ()
    peers: Annotated[tuple[StaticPeer, ...], msgspec.Meta(max_length=32)] = ()


OptionalDiscovery = DiscoveryTable | msgspec.UnsetType


def faults_of(table: OptionalDiscovery) -> list[str]:
    """What is wrong with the table, a line each."""
    if table is msgspec.UNSET:
        return []
    faults = list(repeated("discovery.peers[].url", [peer.url for peer in table.peers]))
    faults += list(repeated("discovery.interfaces", table.interfaces))
    faults += [
        f"discovery.peers[].url = {peer.url}: its port is no number from 1 to 65535"
        for peer in table.peers
        if not has_port(peer.url)
    ]
    faults += [
        f"discovery.interfaces = {one}: multicast DNS is spoken over IPv4 here; give the interface's name or"
        " its IPv4 address"
        for one in table.interfaces
        if _is_ipv6(one)
    ]
    return faults


def can_find(table: OptionalDiscovery) -> bool:
    """Whether addresses may come from it: by multicast, or because it lists some."""
    return table is not msgspec.UNSET and (table.enabled or bool(table.peers))


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False
