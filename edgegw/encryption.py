"""From the settings' `[...tls]` tables to contexts for listeners and lines, or to what is wrong with them.

Leaves out the profiles themselves (`access.tls`), the tables' form (`tls_tables`) and the ways in, which make
their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from edgegw.access.tls import (
    TlsError,
    TransportContext,
    client_context,
    expiry_faults,
    own_context,
    server_context,
)
from edgegw.config.options import SettingsError
from edgegw.tls_tables import ClientTls, OptionalClientTls, OptionalServerTls, ServerTls, is_encrypted


def listener_of(tls: OptionalServerTls, where: str = "tls") -> TransportContext | None:
    """What the hub's or the mirror's listeners use, None where they are plain; raises SettingsError. where:
    the table's name."""
    return _context(where, tls)


def line_of(
    tls: OptionalClientTls, where: str, *, now_s: Callable[[], float] | None = None
) -> TransportContext | None:
    """What a line uses, None where it is plain; raises SettingsError. where: the table's name; now_s: as
    `client_context` has it."""
    return _context(where, tls, now_s=now_s)


def own_listener_of(tls: OptionalServerTls, where: str) -> TransportContext | None:
    """What a command uses that speaks to the listener of this table on the same machine; raises
    SettingsError."""
    try:
        return own_context(tls) if isinstance(tls, ServerTls) and is_encrypted(tls) else None
    except TlsError as problem:
        raise SettingsError(where, [str(problem)]) from None


def tls_faults(tables: Iterable[tuple[str, OptionalServerTls | OptionalClientTls]]) -> Iterator[str]:
    """What is wrong with the files of these (name, table), a line each: `edgegw config check`."""
    for where, tls in tables:
        if tls is msgspec.UNSET or not is_encrypted(tls):
            continue
        try:
            context = _context(where, tls)
            faults = expiry_faults("certificate_file", tls.certificate_file)
            faults += [] if context is None else context.late()
        except SettingsError as problem:
            faults = list(problem.faults)
        yield from (f"{where}.{fault}" for fault in faults)


def _context(
    where: str, tls: OptionalServerTls | OptionalClientTls, *, now_s: Callable[[], float] | None = None
) -> TransportContext | None:
    if not is_encrypted(tls):
        return None
    try:
        if isinstance(tls, ServerTls):
            return server_context(tls)
        return client_context(tls, now_s=now_s) if isinstance(tls, ClientTls) else None
    except TlsError as problem:
        raise SettingsError(where, [str(problem)]) from None
