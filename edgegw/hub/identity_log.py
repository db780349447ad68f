"""The log of identities: what happened to claims, devices and certificates, and which of it is an alarm.

Rows are only added. An alarm waits until a person says that they have looked (`mark_seen`), and until then
stands among the findings. Leaves out how it is told (`edgegw.commands.hub_ca`).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sqlalchemy import Connection, func, insert, select

from edgegw.hub.identities import Identity, lock_identities, note_heard
from edgegw.hub.schema import identity_event

SEEN: Final = "seen"
DETAIL_CHARACTERS_MAX: Final = 500


class Event(NamedTuple):
    """One row."""

    number: int
    at_ns: int
    event: str
    alarm: bool
    box: str
    claim: str
    remote: str
    """The address that it came from; "" for an order."""
    detail: str
    refers: int


_COLUMNS: Final = tuple(identity_event.c[name] for name in Event._fields)


def note_event(
    connection: Connection,
    event: str,
    *,
    now_ns: int,
    alarm: bool = False,
    box: str = "",
    claim: str = "",
    remote: str = "",
    detail: str = "",
    refers: int = 0,
) -> int:
    """Write what happened, behind `lock_identities`; its number."""
    newest = connection.execute(select(func.max(identity_event.c.number))).scalar()
    number = (newest or 0) + 1
    shown = "".join(one if one.isprintable() else "?" for one in detail)[:DETAIL_CHARACTERS_MAX]
    row = Event(number, now_ns, event, alarm, box, claim, remote[:64], shown, refers)
    connection.execute(insert(identity_event).values(**row._asdict()))
    return number


def was_told(connection: Connection, event: str, *, of: tuple[str, str, str] | None, since_ns: int) -> bool:
    """Whether the same was written down since: what asks again and again fills no table. of: box, claim and
    address; None for whichever, where the peer may have made them up."""
    table = identity_event.c
    query = select(table.number).where(table.event == event, table.at_ns > since_ns).limit(1)
    if of is not None:
        box, claim, remote = of
        query = query.where(table.box == box, table.claim == claim, table.remote == remote[:64])
    return connection.execute(query).first() is not None


def note_ended_device(connection: Connection, ended: Identity, *, now_ns: int) -> bool:
    """Keep that a device spoke after its end, the first time; whether it was that."""
    if ended.heard_ns:
        return False
    lock_identities(connection)
    if not note_heard(connection, ended, now_ns=now_ns):
        return False
    detail = f"device {ended.generation} speaks: {ended.why}"
    note_event(connection, "ended_device_speaks", now_ns=now_ns, alarm=True, box=ended.box, detail=detail)
    return True


def events(
    connection: Connection, *, after: int = 0, alarms: bool = False, limit: int = 1_000
) -> list[Event]:
    """The newest rows with a higher number, in order."""
    query = select(*_COLUMNS).where(identity_event.c.number > after)
    if alarms:
        query = query.where(identity_event.c.alarm)
    rows = connection.execute(query.order_by(identity_event.c.number.desc()).limit(limit)).all()
    return [Event(*row) for row in reversed(rows)]


def seen_up_to(connection: Connection) -> int:
    """Up to which row a person has looked at the alarms."""
    return connection.execute(select(func.max(identity_event.c.refers))).scalar() or 0


def unseen_alarms(connection: Connection, *, limit: int = 50) -> list[Event]:
    """The newest alarms at which nobody has looked, in order."""
    return events(connection, after=seen_up_to(connection), alarms=True, limit=limit)


def unseen_count(connection: Connection) -> int:
    """At how many alarms nobody has looked."""
    table = identity_event.c
    count = select(func.count()).where(table.alarm, table.number > seen_up_to(connection))
    return connection.execute(count).scalar() or 0


def mark_seen(connection: Connection, number: int, *, by: str, now_ns: int) -> int:
    """Say that the alarms up to this row were looked at; how many of them were new. What is still to come was
    not."""
    lock_identities(connection)
    before, table = seen_up_to(connection), identity_event.c
    newest = connection.execute(select(func.max(table.number))).scalar() or 0
    upto = min(number, newest)
    count = select(func.count()).where(table.alarm, table.number > before, table.number <= upto)
    fresh = connection.execute(count).scalar() or 0
    note_event(connection, SEEN, now_ns=now_ns, detail=f"by {by}" if by else "", refers=upto)
    return fresh
