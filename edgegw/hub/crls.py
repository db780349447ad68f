"""The lists of revoked certificates: made anew when something was revoked since, and once a day.

The next list is promised for as far ahead as a certificate lives: a box whose line is down for long must not
lose the way back because its list is old. Leaves out the list's form (`hub.certificates`).
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, delete, insert, select

from edgegw.core.allowance import NS_PER_S
from edgegw.core.enrolment import Kind
from edgegw.hub.certificates import Authority, Revoked
from edgegw.hub.identities import lock_identities
from edgegw.hub.schema import certificate, crl

DAY_S: Final = 86_400
NEXT_S_MIN: Final = 8 * DAY_S
KEPT_S: Final = 30 * DAY_S
"""An entry stays so long after its certificate's end: clocks differ."""


def crl_of(connection: Connection, authority: Authority, *, now_ns: int, life_s: int) -> bytes:
    """The list (DER) of one CA, as of now."""
    now_s = now_ns // NS_PER_S
    held = _fresh(connection, authority.kind, now_s=now_s)
    if held is not None:
        return held
    lock_identities(connection)
    held = _fresh(connection, authority.kind, now_s=now_s)
    if held is not None:
        return held
    table = certificate.c
    rows = connection.execute(
        select(table.serial, table.revoked_s)
        .where(table.kind == authority.kind, table.revoked_s > 0, table.ends_s > now_s - KEPT_S)
        .order_by(table.revoked_s, table.serial)
    ).all()
    before = connection.execute(select(crl.c.number).where(crl.c.kind == authority.kind)).scalar() or 0
    revoked = [Revoked(int(row.serial, 16), row.revoked_s) for row in rows]
    der = authority.crl(revoked, number=before + 1, at_s=now_s, next_s=now_s + max(life_s, NEXT_S_MIN))
    connection.execute(delete(crl).where(crl.c.kind == authority.kind))
    connection.execute(
        insert(crl).values(
            kind=authority.kind, number=before + 1, made_s=now_s, entries=len(revoked), der=der
        )
    )
    return der


def _fresh(connection: Connection, kind: Kind, *, now_s: int) -> bytes | None:
    """The list that is kept, where nothing was revoked since."""
    held = connection.execute(select(crl.c.made_s, crl.c.der).where(crl.c.kind == kind)).one_or_none()
    if held is None or not held.made_s <= now_s < held.made_s + DAY_S:
        return None
    table = certificate.c
    news = select(table.digest).where(table.kind == kind, table.revoked_s >= held.made_s).limit(1)
    return None if connection.execute(news).first() is not None else bytes(held.der)
