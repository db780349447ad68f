"""A box's row and the openings of its sessions: who may speak for the box, in which epoch, and from where.

What the verdicts mean stands in `core.exchange`; here is what the hub remembers for them. Leaves out what
follows an opening (`hub.beats`), envelopes and HTTP (`hub.app`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, insert, select, update

from edgegw.access.keys import VerifyingKey
from edgegw.core import journal
from edgegw.core.exchange import (
    HubView,
    choose_version,
    judge_open,
    same_link,
)
from edgegw.core.journal import Frontier
from edgegw.core.messages import (
    VERSION,
    ExchangeError,
    LinkNote,
    LogHead,
    Open,
    Opened,
    Verdict,
    sign_link,
)
from edgegw.hub import schema
from edgegw.hub.directives import directives_held, directives_root_at
from edgegw.hub.keyring import Keyring

BOOT_CHARS_MAX: Final = 64

ACTIVE: Final = "active"
BEHIND: Final = "behind"
FORKED: Final = "forked"
QUARANTINED: Final = "quarantined"


def register_boxes(connection: Connection, keyring: Keyring) -> None:
    """Give every pinned box its row."""
    known = {
        row.box: row.device_key
        for row in connection.execute(select(schema.box.c.box, schema.box.c.device_key))
    }
    for name, key in sorted(keyring.boxes.items()):
        if name not in known:
            connection.execute(insert(schema.box).values(_new_box(name, key)))
        elif known[name] != key.text():
            connection.execute(
                update(schema.box).where(schema.box.c.box == name).values(device_key=key.text())
            )


def _new_box(name: str, key: VerifyingKey) -> dict[str, str | int | bool]:
    return {
        "box": name,
        "device_key": key.text(),
        "epoch": 0,
        "incarnation": 0,
        "state": ACTIVE,
        "reason": "",
        "boot": "",
        "release": False,
        "allot_due": True,
        "waiting": 0,
        "beat_at_ns": 0,
    }


@dataclass(slots=True)
class BoxRow:
    """A box's row, locked for this transaction; `write` puts it back."""

    box: str
    epoch: int
    incarnation: int
    state: str
    reason: str
    boot: str
    release: bool
    allot_due: bool
    waiting: int
    beat_at_ns: int

    @classmethod
    def lock(cls, connection: Connection, box: str) -> BoxRow:
        """The row of a pinned box."""
        columns = [schema.box.c[name] for name in cls.__slots__]
        row = connection.execute(select(*columns).where(schema.box.c.box == box).with_for_update()).one()
        return cls(*row)

    def write(self, connection: Connection) -> None:
        """Write every column back."""
        values = {name: getattr(self, name) for name in self.__slots__ if name != "box"}
        connection.execute(update(schema.box).where(schema.box.c.box == self.box).values(values))


# --- openings -----------------------------------------------------------------------------------------------


def open_session(connection: Connection, keyring: Keyring, message: Open, *, candidate: bytes) -> Opened:
    """Answer an authentic Open; candidate is the session (16 random bytes) that it gets. Raises
    ExchangeError."""
    if not 0 < len(message.boot) <= BOOT_CHARS_MAX:
        raise ExchangeError(f"boot has {len(message.boot)} characters, not 1 to {BOOT_CHARS_MAX}")
    row = BoxRow.lock(connection, message.box)
    view = _view(connection, row, message.boot)
    judgement = judge_open(message, view, hub_key=keyring.key.public)
    verdict, reason = judgement.verdict, judgement.reason
    if verdict is Verdict.VERSION:
        return Opened(version=VERSION, verdict=verdict, reason=reason)
    version = choose_version(oldest=message.version_oldest, newest=message.version)
    if verdict is Verdict.LINK:
        link = _link(connection, keyring, message, row, view)
        return Opened(version=version, verdict=verdict, reason=reason, link=link)
    if verdict is Verdict.FORKED and row.state != FORKED:
        row.state, row.reason = FORKED, reason
    elif verdict is Verdict.BEHIND and row.state == ACTIVE:
        row.state, row.reason = BEHIND, reason
    elif verdict is Verdict.OK and row.state == QUARANTINED:
        verdict, reason = Verdict.FENCED, f"quarantined: {row.reason}"
    row.write(connection)
    _offer_session(connection, message, candidate=candidate, verdict=verdict)
    return Opened(
        version=version,
        verdict=verdict,
        reason=reason,
        session=candidate,
        journals=_heads(connection, row.box),
        directives=directives_held(connection, box=row.box, incarnation=row.incarnation),
    )


def _view(connection: Connection, row: BoxRow, boot: str) -> HubView:
    head = journal_head_of(connection, row.box, row.epoch)
    session = connection.execute(
        select(schema.session.c.epoch, schema.session.c.lived).where(
            schema.session.c.box == row.box, schema.session.c.boot == boot
        )
    ).one_or_none()
    superseded = session is not None and session.lived and session.epoch == row.epoch and row.boot != boot

    def root_at(size: int) -> bytes | None:
        return journal_root_at(connection, box=row.box, epoch=row.epoch, size=size)

    def directives_root(size: int) -> bytes | None:
        return directives_root_at(connection, box=row.box, incarnation=row.incarnation, size=size)

    return HubView(
        epoch=row.epoch,
        key="" if head is None else head.key,
        journal=LogHead(row.epoch) if head is None else LogHead(row.epoch, head.size, head.root),
        journal_root_at=root_at,
        directives=directives_held(connection, box=row.box, incarnation=row.incarnation),
        directives_root_at=directives_root,
        forked=row.state == FORKED,
        superseded=superseded,
        release=row.release,
    )


def journal_root_at(connection: Connection, *, box: str, epoch: int, size: int) -> bytes | None:
    """The root of the first `size` records. Reads their leaves: only where a box opens with less than is
    held."""
    table = schema.record.c
    leaves = connection.execute(
        select(table.leaf)
        .where(table.box == box, table.epoch == epoch, table.seq < size)
        .order_by(table.seq)
        .execution_options(yield_per=10_000)
    ).scalars()
    frontier = Frontier()
    frontier.extend(leaves)
    return frontier.root() if frontier.size == size else None


def _link(connection: Connection, keyring: Keyring, message: Open, row: BoxRow, view: HubView) -> str:
    """The signed link of the next epoch, or the same one again when its answer was lost."""
    if same_link(message, view):
        head = journal_head_of(connection, row.box, row.epoch)
        return "" if head is None else str(head.link)
    try:
        VerifyingKey.parse(message.key)
    except ValueError as problem:
        raise ExchangeError(f"key: {problem}") from None
    note = LinkNote(
        bank=keyring.bank,
        box=row.box,
        epoch=row.epoch + 1,
        key=message.key,
        old_epoch=row.epoch,
        old_size=view.journal.size,
        old_root=view.journal.root.hex(),
    )
    link = sign_link(note, keyring.key)
    connection.execute(
        insert(schema.journal_head).values(
            box=row.box,
            epoch=note.epoch,
            size=0,
            root=b"",
            frontier=Frontier().to_bytes(),
            last_leaf=journal.FIRST_PREVIOUS,
            key=message.key,
            link=link,
            checkpoint="",
            cosignature="",
            sealed=False,
        )
    )
    outstanding = schema.outstanding
    connection.execute(
        update(outstanding)
        .where(outstanding.c.box == row.box, outstanding.c.epoch == row.epoch)
        .values(in_doubt=True)
    )
    row.epoch, row.boot, row.state, row.reason, row.release = note.epoch, "", ACTIVE, "", False
    row.write(connection)
    return link


def _offer_session(connection: Connection, message: Open, *, candidate: bytes, verdict: Verdict) -> None:
    table = schema.session
    place = (table.c.box == message.box) & (table.c.boot == message.boot)
    known = connection.execute(select(table.c.epoch).where(place)).scalar_one_or_none()
    if known is None:
        connection.execute(
            insert(table).values(
                box=message.box,
                boot=message.boot,
                epoch=message.epoch,
                session=b"",
                counter=0,
                verdict="",
                candidate=candidate,
                candidate_verdict=verdict.value,
                lived=False,
            )
        )
        return
    values: dict[str, Any] = {"candidate": candidate, "candidate_verdict": verdict.value}
    if known != message.epoch:
        values |= {"epoch": message.epoch, "lived": False}
    connection.execute(update(table).where(place).values(values))


def journal_head_of(connection: Connection, box: str, epoch: int, *, lock: bool = False) -> Row[Any] | None:
    """The row of a journal's head, locked where asked; None for an epoch that was never issued."""
    table = schema.journal_head
    query = select(table).where(table.c.box == box, table.c.epoch == epoch)
    return connection.execute(query.with_for_update() if lock else query).one_or_none()


def _heads(connection: Connection, box: str) -> tuple[LogHead, ...]:
    table = schema.journal_head.c
    rows = connection.execute(
        select(table.epoch, table.size, table.root)
        .where(table.box == box, table.sealed.is_(False))
        .order_by(table.epoch)
    )
    return tuple(LogHead(row.epoch, row.size, row.root) for row in rows)
