"""The keys of each box's checkpoints as the hub knows them: by its own links, the boxes' records, and its own
words that revoke one.

Leaves out what a policy is (`core.key_policy`) and who orders that a key is void (`hub.revoking`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, select

from edgegw.access.keys import VerifyingKey
from edgegw.core.key_policy import KeyPolicy, RevokedKey, open_revoked, void_above
from edgegw.hub import schema


def policy_of(connection: Connection, head: Row[Any], *, hub_key: VerifyingKey, bank: str) -> KeyPolicy:
    """The keys of the epoch of this head (`hub.journals.journal_head_of`); its statements were checked when
    they came. Raises NoteError where the hub's own words were changed."""
    box, epoch = head.box, head.epoch
    first = KeyPolicy(bank=bank, box=box, epoch=epoch, first=head.key, parse=VerifyingKey.parse)
    revoked = revoked_keys(connection, box, epoch, hub_key=hub_key)
    return first.known(notes_of(head.key_changes)).without(void_above(revoked, box=box, epoch=epoch))


def revoked_notes(connection: Connection, box: str, epoch: int | None = None) -> list[str]:
    """The hub's words that revoke keys of a box, of one epoch or of all, oldest first."""
    table = schema.revoked_key.c
    query = select(table.note).where(table.box == box).order_by(table.epoch, table.number)
    return list(connection.execute(query if epoch is None else query.where(table.epoch == epoch)).scalars())


def revoked_keys(connection: Connection, box: str, epoch: int, *, hub_key: VerifyingKey) -> list[RevokedKey]:
    """What they say; raises NoteError where one was changed."""
    return [open_revoked(note, hub_key) for note in revoked_notes(connection, box, epoch)]


def notes_of(stored: str) -> list[str]:
    """The statements of a head's column."""
    return msgspec.json.decode(stored, type=list[str]) if stored else []


def stored(notes: Sequence[str]) -> str:
    """What a head's column holds of statements."""
    return msgspec.json.encode(notes).decode() if notes else ""
