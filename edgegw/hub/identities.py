"""Who each box is: the device key that speaks for it, its branch, and every device that did before.

A box's live device key stands in its row, "" for none; `device_key` is the one way to it. Each device that a
box has had is a row of `identity`: pinned by `[boxes]` of the settings, enrolled by a claim, or enrolled in
another's place; live, revoked or replaced, which no settings undo. A pinned one that the settings name no
more is dropped until they do again. Leaves out claims
(`hub.claims`), certificates (`hub.enrolments`) and what the exchange says (`hub.app`).
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec
import structlog
from sqlalchemy import Connection, func, insert, select, update

from edgegw.access.keys import VerifyingKey
from edgegw.core.allowance import NS_PER_S
from edgegw.core.journal import sm3
from edgegw.core.site_format import FIRST_FORMAT
from edgegw.hub import schema
from edgegw.hub.keyring import Keyring
from edgegw.hub.schema import identity

PINNED: Final = "pinned"
ENROLLED: Final = "enrolled"
REPLACEMENT: Final = "replacement"
"""Where an identity comes from."""
LIVE: Final = "live"
REVOKED: Final = "revoked"
REPLACED: Final = "replaced"
DROPPED: Final = "dropped"
ENDED_MAX: Final = 4
"""So many of a box's former devices are recognised when they speak."""

_WHY: Final = {
    REVOKED: "this device is revoked",
    REPLACED: "another device has its place",
    DROPPED: "the hub's settings do not name it any more",
}

_log = structlog.get_logger("edgegw.hub")


class Identity(NamedTuple):
    """One device of a box."""

    box: str
    generation: int
    device_key: str
    branch: str
    origin: str
    state: str
    reason: str
    claim: str
    hosts: str
    """What its certificates may name, a JSON array."""
    epoch: int
    """The box's newest epoch when it was bound: those after it were given to this device or a later one."""
    bound_ns: int
    ended_ns: int
    heard_ns: int
    """When it was first heard after its end; 0: never."""

    @property
    def key(self) -> VerifyingKey:
        """Its key."""
        return VerifyingKey.parse(self.device_key)

    @property
    def host_names(self) -> tuple[str, ...]:
        """Host names and addresses that its certificates may have."""
        return tuple(msgspec.json.decode(self.hosts, type=list[str]))

    @property
    def why(self) -> str:
        """Why it speaks for the box no more, in words for an operator."""
        return f"{_WHY[self.state]}: {self.reason}" if self.reason else _WHY[self.state]


_COLUMNS: Final = tuple(identity.c[name] for name in Identity._fields)


def digest_of(key: VerifyingKey) -> str:
    """By what a device key is found, under whichever name it comes: SM3 of its point, hex."""
    return sm3(key.public.point).hex()


# --- asking -------------------------------------------------------------------------------------------------


def device_key(connection: Connection, box: str) -> VerifyingKey | None:
    """The key that speaks for a box now; None where none does."""
    text = connection.execute(select(schema.box.c.device_key).where(schema.box.c.box == box)).scalar()
    return VerifyingKey.parse(text) if text else None


def live_identity(connection: Connection, box: str) -> Identity | None:
    """The device of a box that counts now."""
    query = select(*_COLUMNS).where(identity.c.box == box, identity.c.state == LIVE)
    row = connection.execute(query).one_or_none()
    return None if row is None else Identity(*row)


def ended_identities(connection: Connection, box: str) -> list[Identity]:
    """The devices that a box had, the newest ENDED_MAX first."""
    query = select(*_COLUMNS).where(identity.c.box == box, identity.c.state != LIVE)
    rows = connection.execute(query.order_by(identity.c.generation.desc()).limit(ENDED_MAX))
    return [Identity(*row) for row in rows]


def identities(connection: Connection) -> list[Identity]:
    """Every device of every box, by box and age."""
    return [
        Identity(*row)
        for row in connection.execute(select(*_COLUMNS).order_by(identity.c.box, identity.c.generation))
    ]


def bound_to(connection: Connection, key: VerifyingKey) -> list[Identity]:
    """Every device that has, or had, this key under any name."""
    rows = connection.execute(select(*_COLUMNS).where(identity.c.key_digest == digest_of(key)))
    return [Identity(*row) for row in rows]


def known_boxes(connection: Connection) -> tuple[str, ...]:
    """Every box that has a device or is to have one: all but those that the settings have dropped."""
    dropped = {one.box for one in identities(connection) if one.state == DROPPED}
    rows = connection.execute(select(schema.box.c.box, schema.box.c.device_key).order_by(schema.box.c.box))
    return tuple(row.box for row in rows if row.device_key or row.box not in dropped)


def live_boxes(connection: Connection) -> tuple[str, ...]:
    """The boxes that have a device now."""
    table = schema.box.c
    return tuple(
        connection.execute(select(table.box).where(table.device_key != "").order_by(table.box)).scalars()
    )


# --- binding ------------------------------------------------------------------------------------------------


def lock_identities(connection: Connection) -> None:
    """Let one transaction at a time change claims, devices and certificates: the rows that it could meet are
    not all there yet."""
    connection.execute(select(schema.schema_version.c.version).with_for_update()).one()


def register_boxes(connection: Connection, keyring: Keyring, *, now_ns: int) -> None:
    """Bind the keys that the settings pin and drop those that they do not pin any more. One that was revoked,
    or in whose place another was enrolled, stays so: that is said in the log."""
    pinned = (one for one in identities(connection) if (one.state, one.origin) == (LIVE, PINNED))
    live = {one.box: one.device_key for one in pinned}
    if live == {box: key.text() for box, key in keyring.pinned.items()}:
        return
    lock_identities(connection)
    known = identities(connection)
    held_now = {one.box: one for one in known if one.state == LIVE}
    for box, held in held_now.items():
        if held.origin == PINNED and box not in keyring.pinned:
            end_identity(connection, held, state=DROPPED, reason="", now_ns=now_ns)
    for box, key in sorted(keyring.pinned.items()):
        _pin(connection, box, key, known, held_now.get(box), now_ns=now_ns)


def _pin(
    connection: Connection,
    box: str,
    key: VerifyingKey,
    known: list[Identity],
    held: Identity | None,
    *,
    now_ns: int,
) -> None:
    """Bind one pinned key, where it may be."""
    if held is not None and held.device_key == key.text():
        return
    same = [one for one in known if (one.box, one.device_key) == (box, key.text())]
    ended = next((one.why for one in same if one.state in (REVOKED, REPLACED)), "")
    if held is not None and held.origin != PINNED:
        ended = "another device was enrolled for it"
    if ended:
        hint = f"Drop {box} from [boxes] of the settings."
        _log.warning("pinned_key_not_used", box=box, problem=ended, hint=hint)
        return
    if held is not None:
        end_identity(connection, held, state=DROPPED, reason="", now_ns=now_ns)
    if same:
        _live_again(connection, same[0])
    else:
        bind(connection, box, key, origin=PINNED, now_ns=now_ns)


def _live_again(connection: Connection, dropped: Identity) -> None:
    place = (identity.c.box == dropped.box) & (identity.c.generation == dropped.generation)
    connection.execute(update(identity).where(place).values(state=LIVE, ended_ns=0, heard_ns=0))
    _speak(connection, dropped.box, dropped.device_key)


def bind(
    connection: Connection,
    box: str,
    key: VerifyingKey,
    *,
    origin: str,
    branch: str = "",
    claim: str = "",
    hosts: tuple[str, ...] = (),
    now_ns: int,
) -> Identity:
    """Let this device speak for the box from now on; the one before has ended."""
    add_box(connection, box)
    newest = connection.execute(select(func.max(identity.c.generation)).where(identity.c.box == box)).scalar()
    made = Identity(
        box=box,
        generation=(newest or 0) + 1,
        device_key=key.text(),
        branch=branch,
        origin=origin,
        state=LIVE,
        reason="",
        claim=claim,
        hosts=msgspec.json.encode(hosts).decode(),
        epoch=connection.execute(select(schema.box.c.epoch).where(schema.box.c.box == box)).scalar_one(),
        bound_ns=now_ns,
        ended_ns=0,
        heard_ns=0,
    )
    connection.execute(insert(identity).values(**made._asdict(), key_digest=digest_of(key)))
    _speak(connection, box, key.text())
    return made


def adopt(
    connection: Connection, held: Identity, *, branch: str, claim: str, hosts: tuple[str, ...]
) -> Identity:
    """Let a pinned device be an enrolled one: the same key, and a claim for it."""
    named = msgspec.json.encode(hosts).decode()
    after = held._replace(origin=ENROLLED, branch=branch, claim=claim, hosts=named)
    place = (identity.c.box == held.box) & (identity.c.generation == held.generation)
    connection.execute(update(identity).where(place).values(**after._asdict()))
    return after


def end_identity(connection: Connection, held: Identity, *, state: str, reason: str, now_ns: int) -> None:
    """Let a device speak for its box no more, in all sessions at once, and revoke its certificates."""
    place = (identity.c.box == held.box) & (identity.c.generation == held.generation)
    connection.execute(update(identity).where(place).values(state=state, reason=reason, ended_ns=now_ns))
    table = schema.certificate
    connection.execute(
        update(table)
        .where(table.c.box == held.box, table.c.generation == held.generation, table.c.revoked_s == 0)
        .values(revoked_s=now_ns // NS_PER_S, reason=reason)
    )
    _speak(connection, held.box, "")
    session = schema.session
    connection.execute(update(session).where(session.c.box == held.box).values(session=b"", candidate=b""))


def note_heard(connection: Connection, ended: Identity, *, now_ns: int) -> bool:
    """Keep that a device has spoken after its end; whether that is news."""
    place = (identity.c.box == ended.box) & (identity.c.generation == ended.generation)
    done = connection.execute(update(identity).where(place, identity.c.heard_ns == 0).values(heard_ns=now_ns))
    return done.rowcount == 1


def _speak(connection: Connection, box: str, key: str) -> None:
    table = schema.box
    connection.execute(update(table).where(table.c.box == box).values(device_key=key))


def add_box(connection: Connection, box: str) -> bool:
    """Give a box its row, without a device; whether it had none."""
    table = schema.box.c
    if connection.execute(select(table.box).where(table.box == box)).first() is not None:
        return False
    connection.execute(insert(schema.box).values(_new_box(box)))
    return True


def _new_box(box: str) -> dict[str, Any]:
    return {
        "box": box,
        "device_key": "",
        "epoch": 0,
        "incarnation": 0,
        "state": "active",
        "reason": "",
        "boot": "",
        "release": False,
        "taking_back": False,
        "site_version": 0,
        "site_digest": "",
        "site_word": "",
        "site_word_ns": 0,
        "site_format": FIRST_FORMAT,
        "allot_due": True,
        "stand_ins_due": False,
        "waiting": 0,
        "beat_at_ns": 0,
        "program": "",
        "program_word": "",
        "program_problem": "",
    }
