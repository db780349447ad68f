"""Addresses in settings: where a server listens, and whether one can be called at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec

from edgegw.config.options import repeated
from edgegw.tls_tables import OptionalServerTls, server_faults

ADDRESS_PATTERN: Final = r"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}\Z"
Address = Annotated[str, msgspec.Meta(pattern=ADDRESS_PATTERN)]
Listen = Annotated[
    tuple[Address, ...],
    msgspec.Meta(min_length=1, description="Where to listen, host:port each; port 0 takes a free one."),
]
PORT_MAX: Final = 65_535


def addresses(listen: Listen) -> tuple[tuple[str, int], ...]:
    """Host and port of each place to listen."""
    split = (one.rpartition(":") for one in listen)
    return tuple((host.strip("[]"), int(port)) for host, _, port in split)


def faults_of(listen: Listen, tls: OptionalServerTls) -> Iterator[str]:
    """What is wrong with them and their `[tls]`, a line each; whoever comes to them has a certificate."""
    hosts = (host for host, _ in addresses(listen))
    yield from server_faults(tls, hosts, option="listen", where="tls", clients_certified=True)
    for host, port in addresses(listen):
        if port > PORT_MAX:
            yield f"listen = {host}:{port}: a port is at most {PORT_MAX}"
    yield from repeated("listen", (one for one in listen if not one.endswith(":0")))


def has_port(url: str) -> bool:
    """Whether an address can be read, and its port, where it names one, is from 1 to 65535."""
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False
