"""Revoking a checkpoint key of a box: from a size on, nothing counts any more that it has signed.

The hub's signed word is kept for ever and given to the box, which gives it to its mirror; verifiers take it
from `edgegw keys policy`. A word can become stricter, never milder. Where it ends the key that signs now, the
box is out of service until its next epoch, which begins with another key. Leaves out who may order it
(`hub.order_actions`).
"""

from __future__ import annotations

from sqlalchemy import Connection, func, insert, select, update

from edgegw.core.key_policy import KeyRange, RevokedKey, sign_revoked
from edgegw.hub import schema
from edgegw.hub.identities import known_boxes
from edgegw.hub.journals import journal_head_of
from edgegw.hub.key_policies import policy_of
from edgegw.hub.keyring import Keyring
from edgegw.hub.operate import OrderError
from edgegw.hub.receive import ACTIVE, BEHIND, QUARANTINED, REVOKED_HINT, BoxRow


def revoke_key(
    connection: Connection,
    keyring: Keyring,
    *,
    box: str,
    epoch: int,
    key: str,
    size_max: int,
    reason: str,
    now_ns: int,
) -> KeyRange:
    """Let what this key of an epoch has signed count up to a size and no further; the key as it is then.

    epoch 0: the newest. key: its one-line text, or the key id in it. size_max -1: what the hub holds of it.
    Raises OrderError.
    """
    known = known_boxes(connection)
    if box not in known:
        raise OrderError(f"the hub knows no box {box}; there are {', '.join(known)}")
    row = BoxRow.lock(connection, box)
    epoch = epoch or row.epoch
    head = journal_head_of(connection, box, epoch, lock=True)
    if head is None:
        raise OrderError(f"epoch {epoch} of {box} was not issued here; its newest is {row.epoch}")
    hub = keyring.key.public
    policy = policy_of(connection, head, hub_key=hub, bank=keyring.bank)
    ranges = policy.ranges()
    found = next((one for one in ranges if key in (one.key, one.key.split("+")[1])), None)
    if found is None:
        ids = ", ".join(one.key.split("+")[1] for one in ranges)
        raise OrderError(f"{key} is no checkpoint key of epoch {epoch} of {box}; they are {ids}")
    limit = size_max if size_max >= 0 else min(head.size, head.size if found.last is None else found.last)
    if found.last is not None and limit == found.last < head.size:
        limit += 1  # the record by which another key followed stays
    if found.void_above is not None and found.void_above <= limit:
        raise OrderError(f"{found.key} is revoked above size {found.void_above} already, which is stricter")
    word = RevokedKey(
        bank=keyring.bank,
        box=box,
        epoch=epoch,
        key=found.key,
        size_max=limit,
        at_s=now_ns // 1_000_000_000,
        reason=reason,
    )
    ends = found.last is None or limit <= found.last
    _keep(connection, word, sign_revoked(word, keyring.key), ends=ends)
    if epoch == row.epoch and ends:
        if row.state in (ACTIVE, BEHIND):
            row.state = QUARANTINED
            row.reason = (
                f"its checkpoint key {found.key.split('+')[1]} is revoked above size {limit} ({reason}):"
                f" {REVOKED_HINT}"
            )
            row.write(connection)
        _end_sessions(connection, box)
    return found._replace(void_above=limit)


def signing_in(connection: Connection, keyring: Keyring, box: str, key: str) -> list[int]:
    """In which epochs of a box this key signs and is not revoked: it may have begun several."""
    table, hub = schema.journal_head, keyring.key.public
    heads = connection.execute(select(table).where(table.c.box == box).order_by(table.c.epoch)).all()
    policies = {head.epoch: policy_of(connection, head, hub_key=hub, bank=keyring.bank) for head in heads}
    return [
        epoch
        for epoch, policy in policies.items()
        if any(one.key == key and one.void_above is None for one in policy.ranges())
    ]


def _keep(connection: Connection, word: RevokedKey, note: str, *, ends: bool) -> None:
    table = schema.revoked_key
    place = (table.c.box == word.box) & (table.c.epoch == word.epoch)
    number = connection.execute(select(func.count()).where(place)).scalar_one() + 1
    connection.execute(
        insert(table).values(box=word.box, epoch=word.epoch, number=number, note=note, ends=ends)
    )


def _end_sessions(connection: Connection, box: str) -> None:
    """Let the box open again: then it hears of it."""
    table = schema.session
    connection.execute(update(table).where(table.c.box == box).values(session=b"", candidate=b""))
