"""Which TCP ports a machine's settings open, as commands for its firewall.

Leaves out the firewall itself (`files/firewall.nft`) and the settings' files.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from edgegw.config.box import Box
from edgegw.config.hub import HubSettings
from edgegw.config.listen import addresses
from edgegw.config.mirror import MirrorSettings


def ports_of_box(box: Box) -> list[int]:
    """Of the ways in that others than this machine reach, rising."""
    ways = [(getattr(way, "host", ""), getattr(way, "port", 0)) for way in box.protocols.values()]
    return _reached(ways)


def ports_of_server(settings: HubSettings | MirrorSettings) -> list[int]:
    """The same of a hub, with its enrolment, or of a mirror."""
    enrolment = getattr(settings, "enrolment", None)
    return _reached([*addresses(settings.listen), *addresses(getattr(enrolment, "listen", ()))])


def commands(ports: Iterable[int]) -> str:
    """What `nft -f` does at once: these ports are open, and no others that were."""
    listed = ", ".join(str(port) for port in ports)
    added = f"add element inet edgegw ways_in {{ {listed} }}\n" if listed else ""
    return f"flush set inet edgegw ways_in\n{added}"


def _reached(places: Iterable[tuple[str, int]]) -> list[int]:
    return sorted({port for host, port in places if port and not _is_loopback(host)})


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
