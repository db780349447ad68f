"""The order to take in an exported journal: the late tail of an epoch, or a second history of one.

Anyone may bring the file, because the box has signed it (DESIGN §4, "Epochs"). A tail goes in by the very
code of a push; what differs from records that are held becomes a branch (`hub.branches`). Each package is one
SQL transaction, and the order can be given again at any time: what is in is found and not taken twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection, func, select, update

from edgegw.access.keys import VerifyingKey
from edgegw.core.key_policy import KeyPolicy, void_above
from edgegw.core.messages import Package, PackageVerdict
from edgegw.hub import schema
from edgegw.hub.beats import Taken, keep_cosignature, take_tail
from edgegw.hub.branches import Branch, begin_branch, branch_leaf, branches_of, take_branch
from edgegw.hub.database import Database
from edgegw.hub.exported import Announced, Exported, ExportError, read_journal
from edgegw.hub.identities import known_boxes
from edgegw.hub.items import set_aside
from edgegw.hub.journals import journal_head_of, mark_forked, same_head
from edgegw.hub.key_policies import revoked_keys
from edgegw.hub.keyring import Keyring
from edgegw.hub.operate import OrderError
from edgegw.hub.receive import FORKED, BoxRow, find_forked
from edgegw.hub.site import Sites

Progress = Callable[[int, int], None]
"""Records taken, and records to take."""


class TakenJournal(NamedTuple):
    """What came of the order."""

    box: str
    epoch: int
    records: int
    """In the file."""
    fresh: int
    """Of them not held before."""
    branch: int = 0
    """The branch that they are; 0: they continue what was held."""
    fork_size: int = 0
    """Records that the branch shares with what it leaves."""
    decided: int = 0
    """Payments and the like of the branch that no other history had decided."""
    losses: int = 0
    losses_minor: int = 0
    """Losses of that branch so far: what it spent beyond what was outstanding."""
    suspense: int = 0
    """Items of that branch that wait for a person."""


def take_journal(
    database: Database, keyring: Keyring, path: Path, *, now_ns: Callable[[], int], progress: Progress
) -> TakenJournal:
    """Take in the exported journal at `path`. Raises ExportError for the file and OrderError for the place
    that it is for."""
    announced = Announced(path)
    keys = database.transact(lambda c: _keys(c, keyring, announced))
    with read_journal(announced, keys) as exported:
        held, shared = database.transact(lambda c: _shared_prefix(c, exported))
        if shared == min(held, exported.size):
            return _Tail(database, keyring, exported, now_ns, progress).take(held)
        return _Branching(database, exported, now_ns, progress).take(shared)


def _keys(connection: Connection, keyring: Keyring, announced: Announced) -> KeyPolicy:
    """The keys that sign this epoch's heads, by the hub's own word: the first, and which are void."""
    if announced.bank != keyring.bank or announced.box not in known_boxes(connection):
        raise OrderError(f"{announced.bank}/{announced.box} is no box of this hub: it never had a key here")
    head = journal_head_of(connection, announced.box, announced.epoch)
    if head is not None and head.sealed:
        raise OrderError(
            f"epoch {announced.epoch} of {announced.box} is sealed: its books are settled, nothing more is"
            " taken"
        )
    if BoxRow.lock(connection, announced.box).taking_back:
        raise OrderError(
            f"the hub takes back what it has lost of {announced.box}: let the box speak first, then order"
            " again"
        )
    hub_key, box, epoch = keyring.key.public, announced.box, announced.epoch
    return KeyPolicy(
        bank=keyring.bank,
        box=box,
        epoch=epoch,
        first=announced.link(hub_key).key if head is None else head.key,
        parse=VerifyingKey.parse,
        void=void_above(revoked_keys(connection, box, epoch, hub_key=hub_key), box=box, epoch=epoch),
    )


def _shared_prefix(connection: Connection, exported: Exported) -> tuple[int, int]:
    """How many records the hub holds of the epoch, and how many of the first ones are the file's too."""
    box, epoch = exported.announced.box, exported.announced.epoch
    head = journal_head_of(connection, box, epoch)
    held = 0 if head is None else head.size
    if exported.start > held:
        raise OrderError(
            f"the file begins at record {exported.start}, the hub holds {held}: bring the rest first"
        )
    shared = _equal(connection, exported, number=0, start=0, end=min(held, exported.size))
    if shared < exported.start:
        raise OrderError(
            f"the file begins at record {exported.start}, and what came before is not what the hub holds:"
            " bring a file with all records"
        )
    return held, shared


def _equal(connection: Connection, exported: Exported, *, number: int, start: int, end: int) -> int:
    """Up to where [start, end) the file has the records of a history: a leaf stands for all before it."""
    box, epoch = exported.announced.box, exported.announced.epoch
    low, high = max(start, exported.start - 1), end
    while low < high:
        middle = (low + high) // 2
        held = branch_leaf(connection, box=box, epoch=epoch, number=number, seq=middle)
        if held == exported.leaf_at(middle):
            low = middle + 1
        else:
            high = middle
    return low


class _Tail:
    """Records that continue what is held."""

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        exported: Exported,
        now_ns: Callable[[], int],
        progress: Progress,
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._exported = exported
        self._now_ns = now_ns
        self._progress = progress
        self._sites = Sites()

    def take(self, held: int) -> TakenJournal:
        announced, size = self._exported.announced, self._exported.size
        for package in self._exported.packages(held):
            self._push(package)
            self._progress(package.size - held, size - held)
        return TakenJournal(announced.box, announced.epoch, size - announced.start, max(0, size - held))

    def _push(self, package: Package) -> None:
        box = self._exported.announced.box

        def tail(poisoned: Mapping[int, str]) -> Taken:
            now_ns = self._now_ns()
            return self._database.transact(
                lambda c: take_tail(
                    c, self._keyring, self._sites, package, box=box, now_ns=now_ns, poisoned=poisoned
                )
            )

        taken = set_aside(tail)
        beaten = taken.beaten
        if beaten.push not in (PackageVerdict.ACCEPTED, PackageVerdict.DUPLICATE):
            raise ExportError(f"records {package.old_size} to {package.size - 1}: {beaten.push_reason}")
        if taken.cosign is not None:
            note = self._keyring.key.cosign(taken.cosign, time_s=self._now_ns() // 1_000_000_000)
            size = taken.cosign.size
            self._database.transact(
                lambda c: keep_cosignature(c, box=box, epoch=taken.epoch, size=size, note=note)
            )


class _Branching:
    """Records at places where others are held."""

    def __init__(
        self, database: Database, exported: Exported, now_ns: Callable[[], int], progress: Progress
    ) -> None:
        self._now_ns = now_ns
        self._database = database
        self._exported = exported
        self._progress = progress
        self._box, self._epoch = exported.announced.box, exported.announced.epoch

    def take(self, shared: int) -> TakenJournal:
        branch = self._database.transact(lambda c: self._begin(c, shared))
        first, decided = branch.size, 0
        for package in self._exported.packages(first):
            decided += set_aside(partial(self._booked, branch, package))
            self._progress(package.size - first, self._exported.size - first)
        fresh = max(0, self._exported.size - first)
        return self._database.transact(lambda c: self._figures(c, branch, fresh=fresh, decided=decided))

    def _booked(self, branch: Branch, package: Package, poisoned: Mapping[int, str]) -> int:
        work = partial(self._take, branch=branch, package=package, poisoned=poisoned)
        return self._database.transact(work)

    def _take(
        self, connection: Connection, *, branch: Branch, package: Package, poisoned: Mapping[int, str]
    ) -> int:
        row = BoxRow.lock(connection, self._box)
        return take_branch(
            connection,
            branch._replace(size=package.old_size),
            package.records,
            self._exported.leaves_of(package),
            box=self._box,
            epoch=self._epoch,
            is_over=self._epoch != row.epoch,
            now_ns=self._now_ns(),
            poisoned=poisoned,
        )

    def _begin(self, connection: Connection, shared: int) -> Branch:
        """The branch that the file is or continues, written down with both signed heads."""
        row = BoxRow.lock(connection, self._box)
        checkpoint = self._exported.checkpoint
        reason = f"another record at {self._epoch}/{shared}"
        if row.state != FORKED and self._epoch == row.epoch:
            find_forked(connection, row, self._epoch, reason, other_checkpoint=checkpoint)
        else:
            mark_forked(
                connection, box=self._box, epoch=self._epoch, reason=reason, other_checkpoint=checkpoint
            )
        known = branches_of(connection, self._box, self._epoch)
        parent, size = 0, shared
        for branch in known:
            equal = self._shared(connection, branch)
            if equal == min(branch.size, self._exported.size):
                return self._continued(connection, branch)
            if equal > size:
                parent, size = branch.number, equal
        fresh = Branch(len(known) + 1, parent=parent, fork_size=size, size=size, checkpoint=checkpoint)
        begin_branch(connection, fresh, box=self._box, epoch=self._epoch)
        return fresh

    def _shared(self, connection: Connection, branch: Branch) -> int:
        """Up to where the file has the records of a branch; 0 where it has none of its own ones."""
        if same_head(branch.checkpoint, self._exported.checkpoint):
            return branch.size
        end = min(branch.size, self._exported.size)
        equal = _equal(connection, self._exported, number=branch.number, start=branch.fork_size, end=end)
        return equal if equal > branch.fork_size else 0

    def _continued(self, connection: Connection, branch: Branch) -> Branch:
        """A branch that is known; the file may go further."""
        table = schema.branch
        if self._exported.size > branch.size:
            connection.execute(
                update(table)
                .where(
                    table.c.box == self._box,
                    table.c.epoch == self._epoch,
                    table.c.number == branch.number,
                )
                .values(checkpoint=self._exported.checkpoint)
            )
        return branch

    def _figures(self, connection: Connection, branch: Branch, *, fresh: int, decided: int) -> TakenJournal:
        loss, item = schema.loss.c, schema.suspense_item.c
        losses, losses_minor = connection.execute(
            select(func.count(), func.coalesce(func.sum(loss.amount_minor), 0)).where(
                loss.box == self._box, loss.epoch == self._epoch, loss.log == f"branch {branch.number}"
            )
        ).one()
        place = branch.number * schema.BRANCH_SEQS
        suspense = connection.execute(
            select(func.count()).where(
                item.box == self._box,
                item.epoch == self._epoch,
                item.seq >= place,
                item.seq < place + schema.BRANCH_SEQS,
            )
        ).scalar_one()
        return TakenJournal(
            box=self._box,
            epoch=self._epoch,
            records=self._exported.size - self._exported.start,
            fresh=fresh,
            branch=branch.number,
            fork_size=branch.fork_size,
            decided=decided,
            losses=losses,
            losses_minor=int(losses_minor),
            suspense=suspense,
        )
