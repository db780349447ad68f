"""Claims: what lets a box that nobody knows yet be enrolled, once, for a short time.

The hub keeps the public half of a claim alone, so that its database gives none away. A box has one open claim
at most. Leaves out using one (`hub.enrolments`) and the document (`core.enrolment`).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec
from sqlalchemy import Connection, insert, select, update

from edgegw.core.allowance import NS_PER_S
from edgegw.core.enrolment import HUB
from edgegw.hub import schema
from edgegw.hub.certificates import general_name
from edgegw.hub.identities import PINNED, add_box, live_identity, lock_identities
from edgegw.hub.identity_log import note_event
from edgegw.hub.operate import OrderError
from edgegw.hub.schema import claim
from edgegw.hub.site import open_box

OPEN: Final = "open"
USED: Final = "used"
WITHDRAWN: Final = "withdrawn"
DEAD: Final = "dead"
ATTEMPTS_MAX: Final = 5
"""Uses that are refused for what they say; then the claim is good for nothing more."""
HOSTS_MAX: Final = 8


class ClaimRow(NamedTuple):
    """What the hub keeps of a claim."""

    id: str
    box: str
    branch: str
    public_key: str
    hosts: str
    replaces: bool
    state: str
    attempts: int
    expires_s: int
    made_ns: int
    by: str
    used_ns: int
    used_by: str

    @property
    def host_names(self) -> tuple[str, ...]:
        """What the box's certificates may name beside the box."""
        return tuple(msgspec.json.decode(self.hosts, type=list[str]))


_COLUMNS: Final = tuple(claim.c[name] for name in ClaimRow._fields)


def make_claim(
    connection: Connection,
    *,
    id: str,
    box: str,
    branch: str,
    public_key: str,
    hosts: tuple[str, ...],
    expires_s: int,
    replaces: bool,
    by: str,
    now_ns: int,
) -> None:
    """Let whoever has the seed of this public key (Ed25519, hex) enrol the box until expires_s. Raises
    OrderError.

    The box is known from here on, so that the site's settings may name it; its accounts are opened.
    """
    if box == HUB:
        raise OrderError("box = hub: that name is the hub's own; give the box another one")
    lock_identities(connection)
    if expires_s * NS_PER_S <= now_ns:
        raise OrderError(f"the claim for {box} has expired before it was approved; make another one")
    _check_hosts(hosts)
    _check_device(connection, box, replaces=replaces)
    if claim_of(connection, id) is not None:
        raise OrderError(f"claim {id} is there already")
    for row in _open_claims(connection, box):
        _end(connection, row, by=by, now_ns=now_ns, reason="another claim for the box follows")
    if add_box(connection, box):
        open_box(connection, box)
    row = ClaimRow(
        id=id,
        box=box,
        branch=branch,
        public_key=public_key,
        hosts=msgspec.json.encode(hosts).decode(),
        replaces=replaces,
        state=OPEN,
        attempts=0,
        expires_s=expires_s,
        made_ns=now_ns,
        by=by,
        used_ns=0,
        used_by="",
    )
    connection.execute(insert(claim).values(**row._asdict()))
    what = "to replace its device" if replaces else "for its first device"
    note_event(connection, "claim_made", now_ns=now_ns, box=box, claim=id, detail=_by(what, by))


def withdraw_claim(connection: Connection, id: str, *, by: str, reason: str, now_ns: int) -> str:
    """Let a claim be good for nothing more, as one that was lost or stolen; its box. Raises OrderError."""
    lock_identities(connection)
    row = claim_of(connection, id)
    if row is None:
        raise OrderError(f"there is no claim {id}; `edgegw hub ca list --claims` tells them")
    if row.state != OPEN:
        raise OrderError(
            f"claim {id} is {row.state} already; if its device is not yours: edgegw hub ca revoke"
        )
    _end(connection, row, by=by, now_ns=now_ns, reason=reason)
    return row.box


def withdraw_first_claims(connection: Connection, box: str, *, by: str, now_ns: int) -> None:
    """Let claims for the device that a box has be good for nothing more, now that it is revoked: they may be
    in the same hands. One that replaces it stays."""
    for row in _open_claims(connection, box):
        if not row.replaces:
            _end(connection, row, by=by, now_ns=now_ns, reason="the box's device was revoked")


def claim_of(connection: Connection, id: str) -> ClaimRow | None:
    """A claim by its id."""
    row = connection.execute(select(*_COLUMNS).where(claim.c.id == id)).one_or_none()
    return None if row is None else ClaimRow(*row)


def claims(connection: Connection, *, limit: int = 1_000) -> list[ClaimRow]:
    """The newest claims, the newest first."""
    rows = connection.execute(select(*_COLUMNS).order_by(claim.c.made_ns.desc(), claim.c.id).limit(limit))
    return [ClaimRow(*row) for row in rows]


def note_attempt(connection: Connection, row: ClaimRow) -> bool:
    """Count a use that was refused; whether the claim dies of it."""
    dies = row.state == OPEN and row.attempts + 1 >= ATTEMPTS_MAX
    state = DEAD if dies else row.state
    connection.execute(
        update(claim).where(claim.c.id == row.id).values(attempts=row.attempts + 1, state=state)
    )
    return dies


def use_claim(connection: Connection, row: ClaimRow, *, keys: str, now_ns: int) -> None:
    """Write down that these keys (their digest) were bound by it."""
    connection.execute(
        update(claim).where(claim.c.id == row.id).values(state=USED, used_ns=now_ns, used_by=keys)
    )


def _open_claims(connection: Connection, box: str) -> list[ClaimRow]:
    rows = connection.execute(select(*_COLUMNS).where(claim.c.box == box, claim.c.state == OPEN))
    return [ClaimRow(*row) for row in rows]


def _end(connection: Connection, row: ClaimRow, *, by: str, now_ns: int, reason: str) -> None:
    connection.execute(update(claim).where(claim.c.id == row.id).values(state=WITHDRAWN))
    detail = _by(reason, by)
    note_event(connection, "claim_withdrawn", now_ns=now_ns, box=row.box, claim=row.id, detail=detail)


def _by(what: str, by: str) -> str:
    return f"{what}, by {by}" if by else what


def _check_hosts(hosts: tuple[str, ...]) -> None:
    if len(hosts) > HOSTS_MAX:
        raise OrderError(f"host: {len(hosts)} are too many, {HOSTS_MAX} at most")
    for host in hosts:
        try:
            general_name(host)
        except ValueError as problem:
            raise OrderError(
                f"host = {host}: it is neither a host's name nor an address ({problem})"
            ) from None


def _check_device(connection: Connection, box: str, *, replaces: bool) -> None:
    """Whether a claim of this kind fits what the box has."""
    live = live_identity(connection, box)
    epoch = connection.execute(select(schema.box.c.epoch).where(schema.box.c.box == box)).scalar() or 0
    if replaces and live is None and not epoch:
        raise OrderError(f"{box} has no device yet that could be replaced; leave --replaces out")
    if not replaces and live is not None and live.origin != PINNED:
        raise OrderError(
            f"{box} has a device; to put another one in its place and fence that one: --replaces"
        )
    if not replaces and live is None and epoch:
        raise OrderError(f"{box} had a device, which is revoked; a new one takes its place with --replaces")
