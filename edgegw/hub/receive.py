"""A box's row and the openings of its sessions: who may speak for the box, in which epoch, and from where.

What the verdicts mean stands in `core.exchange`; here is what the hub remembers for them. Leaves out what
follows an opening (`hub.beats`), envelopes and HTTP (`hub.app`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, insert, select, update

from edgegw.access.keys import VerifyingKey
from edgegw.core.exchange import (
    HubView,
    choose_version,
    judge_open,
    other_histories,
    same_link,
)
from edgegw.core.key_policy import open_revoked
from edgegw.core.messages import (
    VERSION,
    ExchangeError,
    LinkNote,
    LogHead,
    Open,
    Opened,
    Package,
    Verdict,
    open_link,
    sign_link,
)
from edgegw.core.records import Link, decode_record
from edgegw.core.site_format import FIRST_FORMAT
from edgegw.hub import schema
from edgegw.hub.directives import directives_held, directives_root_at
from edgegw.hub.journals import (
    begin_epoch,
    held_epochs,
    journal_head_of,
    listed_heads,
    mark_forked,
    note_told,
)
from edgegw.hub.key_policies import revoked_notes
from edgegw.hub.keyring import Keyring

BOOT_CHARS_MAX: Final = 64

ACTIVE: Final = "active"
BEHIND: Final = "behind"
FORKED: Final = "forked"
QUARANTINED: Final = "quarantined"
REVOKED_HINT: Final = "give the box another one (`edgegw keys rotate checkpoint`)"


class OtherDevice(Exception):
    """The box has another device than the one that signed: bound since, or revoked."""


@dataclass(slots=True)
class BoxRow:
    """A box's row, locked for this transaction; `write` puts it back."""

    box: str
    device_key: str
    epoch: int
    incarnation: int
    state: str
    reason: str
    boot: str
    release: bool
    taking_back: bool
    allot_due: bool
    stand_ins_due: bool
    waiting: int
    beat_at_ns: int
    site_version: int
    site_digest: str
    site_word: str
    site_word_ns: int
    site_format: int
    program: str
    program_word: str
    program_problem: str

    @classmethod
    def lock(cls, connection: Connection, box: str) -> BoxRow:
        """The row of a known box."""
        columns = [schema.box.c[name] for name in cls.__slots__]
        row = connection.execute(select(*columns).where(schema.box.c.box == box).with_for_update()).one()
        return cls(*row)

    @classmethod
    def lock_for(cls, connection: Connection, box: str, signer: str) -> BoxRow:
        """The row of a box whose device is the signer (its key's text); raises OtherDevice."""
        row = cls.lock(connection, box)
        if row.device_key != signer:
            raise OtherDevice(f"{box} has another device now")
        return row

    def write(self, connection: Connection) -> None:
        """Write every column back."""
        values = {name: getattr(self, name) for name in self.__slots__ if name != "box"}
        connection.execute(update(schema.box).where(schema.box.c.box == self.box).values(values))


# --- openings -----------------------------------------------------------------------------------------------


def open_session(
    connection: Connection, keyring: Keyring, message: Open, *, signer: str, candidate: bytes
) -> Opened:
    """Answer an authentic Open; signer is the text of the key that it is of, candidate the session (16 random
    bytes) that it gets. Raises ExchangeError and OtherDevice."""
    if not 0 < len(message.boot) <= BOOT_CHARS_MAX:
        raise ExchangeError(f"boot has {len(message.boot)} characters, not 1 to {BOOT_CHARS_MAX}")
    row = BoxRow.lock_for(connection, message.box, signer)
    note_told(connection, message.box, message.journals)
    row.site_format = message.site_format or FIRST_FORMAT
    view = _view(connection, row, message.boot)
    judgement = judge_open(message, view, hub_key=keyring.key.public)
    verdict, reason = judgement.verdict, judgement.reason
    if verdict is Verdict.VERSION:
        return Opened(version=VERSION, verdict=verdict, reason=reason)
    version = choose_version(oldest=message.version_oldest, newest=message.version)
    if verdict is Verdict.LINK and _is_revoked(connection, keyring, message):
        verdict, reason = Verdict.FENCED, f"its checkpoint key is revoked: {REVOKED_HINT}"
    if verdict is Verdict.LINK:
        link = _link(connection, keyring, message, row, view)
        return Opened(version=version, verdict=verdict, reason=reason, link=link)
    if verdict is Verdict.HUB_BEHIND:
        row.taking_back = True
        if message.epoch > row.epoch:
            _adopt_epoch(connection, keyring, message.link, row, epoch=message.epoch)
    elif verdict is Verdict.FORKED:
        _find_all_forked(connection, row, tuple(other_histories(message, view)), reason)
    elif verdict is Verdict.BEHIND and row.state == ACTIVE:
        row.state, row.reason = BEHIND, reason
    elif verdict is Verdict.OK and row.state == QUARANTINED:
        verdict, reason = Verdict.FENCED, f"quarantined: {row.reason}"
    row.write(connection)
    _offer_session(connection, message, candidate=candidate, verdict=verdict)
    listed = listed_heads(connection, row.box)
    others = other_histories(message, view)
    return Opened(
        version=version,
        verdict=verdict,
        reason=reason,
        session=candidate,
        # Where the box has another history, it hears what is held at its own size: so it can show its own.
        journals=(
            *_lost_epochs(message, row, view),
            *(others.get(head.number, head) for head in listed.wanted),
        ),
        closed=listed.closed,
        directives=directives_held(connection, box=row.box, incarnation=row.incarnation),
        revoked=tuple(revoked_notes(connection, row.box)),
    )


def _is_revoked(connection: Connection, keyring: Keyring, message: Open) -> bool:
    """Whether the key with which the box would begin an epoch is void already, in whichever epoch."""
    notes = revoked_notes(connection, message.box)
    return any(open_revoked(note, keyring.key.public).key == message.key for note in notes)


def _find_all_forked(connection: Connection, row: BoxRow, epochs: tuple[int, ...], reason: str) -> None:
    """What one opening shows of forks; nothing is new where all of them are kept already."""
    if not epochs and row.state != FORKED:
        find_forked(connection, row, 0, reason)
    for epoch in epochs:
        find_forked(connection, row, epoch, reason)


def find_forked(
    connection: Connection, row: BoxRow, epoch: int, reason: str, *, other_checkpoint: str = ""
) -> None:
    """Take a box out of service that has two histories of an epoch; a new epoch that was ordered before that
    was known is ordered no more."""
    row.state, row.reason, row.release = FORKED, reason, False
    row.write(connection)
    if epoch:
        mark_forked(connection, box=row.box, epoch=epoch, reason=reason, other_checkpoint=other_checkpoint)


def _view(connection: Connection, row: BoxRow, boot: str) -> HubView:
    session = connection.execute(
        select(schema.session.c.epoch, schema.session.c.lived).where(
            schema.session.c.box == row.box, schema.session.c.boot == boot
        )
    ).one_or_none()
    superseded = session is not None and session.lived and session.epoch == row.epoch and row.boot != boot
    epochs = {epoch.head.number: epoch for epoch in held_epochs(connection, row.box)}
    newest = epochs.pop(row.epoch, None)
    head = journal_head_of(connection, row.box, row.epoch)

    forked = newest is not None and newest.forked

    def directives_root(size: int) -> bytes | None:
        return directives_root_at(connection, box=row.box, incarnation=row.incarnation, size=size)

    return HubView(
        epoch=row.epoch,
        key="" if head is None else head.key,
        journal=LogHead(row.epoch) if newest is None else newest.head,
        journal_root_at=(lambda _size: None) if newest is None else newest.root_at,
        directives=directives_held(connection, box=row.box, incarnation=row.incarnation),
        directives_root_at=directives_root,
        forked=forked,
        forked_before=row.state == FORKED and not forked,
        superseded=superseded,
        release=row.release,
        others=tuple(epochs.values()),
        taking_back=row.taking_back,
    )


def _lost_epochs(message: Open, row: BoxRow, view: HubView) -> list[LogHead]:
    """Epochs that the box holds and the hub has lost: wanted whole; their own first record proves them."""
    if not row.taking_back:
        return []
    known = {epoch.head.number for epoch in view.epochs} | {row.epoch}
    return [
        LogHead(head.number)
        for head in message.journals
        if 0 < head.number < row.epoch and head.number not in known
    ]


def adopt_from(connection: Connection, keyring: Keyring, row: BoxRow, push: Package) -> bool:
    """Take the epoch of a push for issued that the hub has lost: its first record must be the hub's own
    link."""
    if push.old_size or not push.records:
        return False
    try:
        first = decode_record(push.records[0])
    except msgspec.MsgspecError:
        return False
    return isinstance(first, Link) and _adopt_epoch(connection, keyring, first.note, row, epoch=push.number)


def _adopt_epoch(connection: Connection, keyring: Keyring, signed: str, row: BoxRow, *, epoch: int) -> bool:
    """Take an epoch for issued that the hub has issued and lost, by its own signed link."""
    try:
        link = open_link(signed, keyring.key.public)
    except ExchangeError:
        return False
    if (link.bank, link.box, link.epoch) != (keyring.bank, row.box, epoch):
        return False
    begin_epoch(connection, link, signed=signed)
    if epoch > row.epoch:
        row.epoch, row.boot, row.state, row.reason, row.release = epoch, "", ACTIVE, "", False
    return True


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
    begin_epoch(connection, note, signed=link)
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
