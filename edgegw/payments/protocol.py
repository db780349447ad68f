"""What a way in is: the interface of the modules in `payments.protocols`, which all share it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple, Protocol

import msgspec

from edgegw.access.keystore import KeyFile
from edgegw.payments.service import Gateway


class Server(Protocol):
    """A way in that is open."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it listens, `host:port` each, with the port that it really got."""

    async def stop(self) -> None:
        """Take no new requests, answer those in flight, close the connections."""


def no_key_files(_options: Any) -> Iterable[KeyFile]:
    """For a way in that keeps no keys."""
    return ()


class Adapter(NamedTuple):
    """One protocol: its name in the settings, its options, how it starts."""

    name: str
    options: type[msgspec.Struct]
    """Every field with a default, a unit in its name and a sentence of help in its metadata."""
    start: Callable[[Gateway, Any], Awaitable[Server]]
    """start(gateway, options) opens it; raises OSError when the address is taken."""
    documentation: str = ""
    key_files: Callable[[Any], Iterable[KeyFile]] = no_key_files
    """key_files(options) names the keys that it reads, from the gateway's keystore."""
