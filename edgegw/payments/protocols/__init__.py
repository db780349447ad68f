"""The ways in. Every module of this folder is one protocol; a newcomer adds one file and nothing else.

A module says what it is with one value, `ADAPTER = Adapter(name=..., options=..., start=...)`; its docstring
is its page in the reference. Owns the interface and the discovery; what the protocols share is one level up
(`edgegw.payments`)."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol

import msgspec

from edgegw.payments.service import Gateway


class Server(Protocol):
    """A way in that is open."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it listens, `host:port` each, with the port that it really got."""

    async def stop(self) -> None:
        """Take no new requests, answer those in flight, close the connections."""


class Adapter(NamedTuple):
    """One protocol: its name in the settings, its options, how it starts."""

    name: str
    options: type[msgspec.Struct]
    """Every field with a default, a unit in its name and a sentence of help in its metadata."""
    start: Callable[[Gateway, Any], Awaitable[Server]]
    """start(gateway, options) opens it; raises OSError when the address is taken."""
    documentation: str = ""


def discover() -> dict[str, Adapter]:
    """All protocols of this folder by name; raises TypeError that names a module without an ADAPTER."""
    found: dict[str, Adapter] = {}
    for module_info in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
        module = importlib.import_module(f"{__name__}.{module_info.name}")
        adapter = getattr(module, "ADAPTER", None)
        if not isinstance(adapter, Adapter):
            raise TypeError(
                f"{module.__name__} has no ADAPTER; set ADAPTER = Adapter(name=..., options=..., start=...)"
            )
        found[adapter.name] = adapter._replace(documentation=(module.__doc__ or "").strip())
    return found
