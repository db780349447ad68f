"""The second history of an epoch, kept and booked beside the first (DESIGN §4, "fork", under §3.8).

A branch is what a box has signed at places where other records of its are held. Its records are kept at
places of their own (`schema.BRANCH_SEQS`) and replayed by the same code into the same books: what both
histories did under one identity counts once, what only one did has happened too, and what exceeds the box's
allowance is borne by its risk account. Leaves out the file that it comes from (`hub.exported`) and the order
(`hub.take_journal`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import Connection, insert, select, update

from edgegw.core.records import (
    DirectiveApplied,
    Expiry,
    Leg,
    Transfer,
    decode_record,
    legs_of,
    place_of,
    transfer_id,
)
from edgegw.errors import HeadMoved
from edgegw.hub import replay, schema
from edgegw.hub.books import Books, currencies_of
from edgegw.hub.items import First, Item, read_items
from edgegw.hub.schema import BRANCH_SEQS, is_other_branch
from edgegw.hub.stand_ins import keep_stand_ins
from edgegw.hub.windows import note_centre

_HEX_ID: Final = re.compile(r"[0-9a-f]{32}")


class Branch(NamedTuple):
    """A history that leaves another one, its parent (0: the one that came first), after fork_size records."""

    number: int
    parent: int
    fork_size: int
    size: int
    checkpoint: str


def branches_of(connection: Connection, box: str, epoch: int) -> list[Branch]:
    """The branches of an epoch that are kept, in the order in which they came."""
    table = schema.branch.c
    rows = connection.execute(
        select(table.number, table.parent, table.fork_size, table.size, table.checkpoint)
        .where(table.box == box, table.epoch == epoch)
        .order_by(table.number)
    )
    return [Branch(*row) for row in rows]


def begin_branch(connection: Connection, branch: Branch, *, box: str, epoch: int) -> None:
    """Write down a branch of which nothing is taken in yet."""
    connection.execute(insert(schema.branch).values(box=box, epoch=epoch, **branch._asdict()))


def branch_leaf(connection: Connection, *, box: str, epoch: int, number: int, seq: int) -> bytes | None:
    """The leaf of a record of one history; None where it is not kept in that one."""
    table = schema.record.c
    leaf: bytes | None = connection.execute(
        select(table.leaf).where(
            table.box == box, table.epoch == epoch, table.seq == number * BRANCH_SEQS + seq
        )
    ).scalar_one_or_none()
    return leaf


class BranchedEpoch:
    """An epoch with several histories, as one of them is replayed: where its records are kept, and which
    record counts where two say the same."""

    def __init__(self, connection: Connection, box: str, epoch: int, number: int = 0) -> None:
        self._connection = connection
        self._box = box
        self._epoch = epoch
        self._number = number
        self._branches = {branch.number: branch for branch in branches_of(connection, box, epoch)}

    def place(self, seq: int) -> int:
        """Where the record `seq` of this history is kept: in the branch itself or in one that it leaves."""
        number = self._number
        while number and seq < self._branches[number].fork_size:
            number = self._branches[number].parent
        return number * BRANCH_SEQS + seq

    def translate(self, items: Sequence[Item]) -> None:
        """Give each record the place where it is kept, and let what it resolves name the record that
        counts."""
        here = {item.seq: item for item in items}
        for item in items:
            record = item.record
            if isinstance(record, Transfer | Expiry | DirectiveApplied):
                legs = tuple(self._translated(leg, here) for leg in legs_of(record))
                item.record = msgspec.structs.replace(record, seq=item.seq, legs=legs)
            elif record is not None:
                item.record = msgspec.structs.replace(record, seq=item.seq)

    def _translated(self, leg: Leg, here: dict[int, Item]) -> Leg:
        if not _HEX_ID.fullmatch(leg.pending):
            return leg
        epoch, seq, index = place_of(int(leg.pending, 16))
        if epoch != self._epoch or seq >= BRANCH_SEQS:
            return leg
        counts = self._counting(self.place(seq), here)
        pending = f"{transfer_id(epoch=epoch, seq=counts, leg=index):032x}"
        return msgspec.structs.replace(leg, pending=pending)

    def _counting(self, seq: int, here: dict[int, Item]) -> int:
        """The place of the record that counts for the one at `seq`: of two histories' same one, the first."""
        if seq in here:
            item = here[seq]
            record, first = item.record, item.first
        else:
            record = self._kept_without_identity(seq)
            first = None if record is None else self._first(record)
        if not isinstance(record, Transfer) or first is None or not isinstance(first.record, Transfer):
            return seq
        same_epoch = (first.box, first.epoch) == (self._box, self._epoch)
        if not same_epoch or not is_other_branch(first.seq, seq):
            return seq
        return seq if first.record.request.different_field(record.request) else first.seq

    def _kept_without_identity(self, seq: int) -> Transfer | None:
        table = schema.record.c
        body = self._connection.execute(
            select(table.body).where(
                table.box == self._box,
                table.epoch == self._epoch,
                table.seq == seq,
                table.type == "transfer",
                table.request_id.is_(None),
            )
        ).scalar_one_or_none()
        record = None if body is None else decode_record(body)
        return record if isinstance(record, Transfer) else None

    def _first(self, record: Transfer) -> First | None:
        table = schema.record.c
        row = self._connection.execute(
            select(table.body, table.box, table.epoch, table.seq).where(
                table.request_id == record.request.id, table.client == record.client
            )
        ).one_or_none()
        return None if row is None else First(decode_record(row.body), row.box, row.epoch, row.seq)


def take_branch(
    connection: Connection,
    branch: Branch,
    bodies: Sequence[bytes],
    leaves: Sequence[bytes],
    *,
    box: str,
    epoch: int,
    is_over: bool,
    now_ns: int,
    poisoned: Mapping[int, str],
) -> int:
    """Keep and book the next records of a branch, those from branch.size on; how many of them nobody else had
    decided. is_over: the epoch is, and its money in doubt."""
    items = read_items(bodies, leaves, start=branch.number * BRANCH_SEQS + branch.size, poisoned=poisoned)
    names = replay.accounts_of(items)
    names |= replay.own_accounts_of(box, currencies_of(connection, names))
    books = Books(connection, box=box, epoch=epoch, in_doubt=is_over)
    books.open(names)
    histories = BranchedEpoch(connection, box, epoch, branch.number)
    outcome = replay.Replay(connection, books, box=box, epoch=epoch, now_ns=now_ns, histories=histories).run(
        items
    )
    keep_stand_ins(connection, outcome.stand_ins, box=box, epoch=epoch)
    note_centre(connection, books, box=box, epoch=epoch)
    books.write()
    table = schema.branch
    moved = connection.execute(
        update(table)
        .where(
            table.c.box == box,
            table.c.epoch == epoch,
            table.c.number == branch.number,
            table.c.size == branch.size,
        )
        .values(size=branch.size + len(bodies))
    )
    if moved.rowcount != 1:
        raise HeadMoved(f"branch {branch.number} of {box}/{epoch} is no longer at {branch.size}")
    return sum(isinstance(item.record, Transfer) and item.has_identity for item in items)
