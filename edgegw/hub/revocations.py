"""Ending what the hub has bound or certified: a box's device, or a server's certificate.

Leaves out replacing a device (`hub.enrolments`) and the list that tells of it (`hub.crls`).
"""

from __future__ import annotations

from sqlalchemy import Connection, select, update

from edgegw.core.allowance import NS_PER_S
from edgegw.hub.claims import withdraw_first_claims
from edgegw.hub.identities import REVOKED, end_identity, live_identity, lock_identities
from edgegw.hub.identity_log import note_event
from edgegw.hub.operate import OrderError
from edgegw.hub.schema import certificate


def revoke_device(connection: Connection, box: str, *, reason: str, by: str, now_ns: int) -> int:
    """Let a box's device speak for it no more, its certificates with it; which device it was. Raises
    OrderError."""
    lock_identities(connection)
    live = live_identity(connection, box)
    if live is None:
        raise OrderError(f"{box} has no device that could be revoked; `edgegw hub ca list` tells them")
    end_identity(connection, live, state=REVOKED, reason=reason, now_ns=now_ns)
    withdraw_first_claims(connection, box, by=by, now_ns=now_ns)
    detail = f"device {live.generation}: {reason}" + (f", by {by}" if by else "")
    note_event(connection, "revoked", now_ns=now_ns, box=box, detail=detail)
    return live.generation


def revoke_certificate(connection: Connection, serial: str, *, reason: str, by: str, now_ns: int) -> str:
    """Revoke one certificate by its serial number (hex); its name. Raises OrderError."""
    lock_identities(connection)
    wanted = serial.replace(":", "").lower().lstrip("0")
    table = certificate.c
    row = connection.execute(
        select(table.name, table.box, table.revoked_s).where(table.serial == wanted)
    ).first()
    if row is None:
        raise OrderError(f"no certificate has the serial number {serial}; `edgegw hub ca list` tells them")
    if row.revoked_s:
        raise OrderError(f"certificate {serial} of {row.name} is revoked already")
    connection.execute(
        update(certificate).where(table.serial == wanted).values(revoked_s=now_ns // NS_PER_S, reason=reason)
    )
    detail = f"certificate {serial} of {row.name}: {reason}" + (f", by {by}" if by else "")
    note_event(connection, "certificate_revoked", now_ns=now_ns, box=row.box, detail=detail)
    return str(row.name)
