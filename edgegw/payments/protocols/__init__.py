"""The ways in. Every module of this folder is one protocol; a newcomer adds one file and nothing else.

A module says what it is with one value, `ADAPTER = Adapter(name=..., options=..., start=...)`; its docstring
is its page in the reference. Owns the discovery; the interface is `edgegw.payments.protocol`.
"""

from __future__ import annotations

import importlib
import pkgutil

from edgegw.payments.protocol import Adapter, Server

__all__ = ["Adapter", "Server", "discover"]


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
