"""The hub's side: its tables as they are at one moment, and the records under the heads of that moment.

Only reads, through a database that the caller opened. Records never change, so they are read in short SQL
transactions behind the state's own, and a running hub goes on meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, LargeBinary, Select, cast, select

from edgegw.core.records import place_of
from edgegw.hub import schema
from edgegw.hub.database import Database
from edgegw.hub.key_policies import notes_of
from edgegw.hub.schema import BRANCH_SEQS
from edgegw.hub.suspense import CLOSED
from edgegw.reconcile.records import money_of, said_by
from edgegw.reconcile.workspace import Row, Workspace

STEP: Final = 4_096


class Branch(NamedTuple):
    """Another history of an epoch that the hub knows: it leaves its parent after fork_size records."""

    number: int
    parent: int
    fork_size: int
    size: int


class HubEpoch(NamedTuple):
    """What the hub says of one epoch of a box."""

    box: str
    epoch: int
    size: int
    root: bytes
    key: str
    key_changes: tuple[str, ...]
    checkpoint: str
    sealed: bool
    branches: tuple[Branch, ...]

    def path(self, number: int) -> list[tuple[int, int, int]]:
        """(branch, first seq, end) of the records of one history, in order."""
        known = {branch.number: branch for branch in self.branches}
        end = known[number].size if number else self.size
        parts = []
        while number:
            branch = known[number]
            parts.append((number, branch.fork_size, end))
            number, end = branch.parent, branch.fork_size
        return [*reversed([*parts, (0, 0, end)])]


class HubRecord(NamedTuple):
    """One row of the hub's records, and the identity in the fleet under which the hub finds it."""

    seq: int
    type: str
    client: str | None
    request_id: str | None
    leaf: bytes
    body: bytes

    @property
    def identified(self) -> bool:
        """Whether it is the one that has its identity."""
        return self.request_id is not None


class Centre:
    """The hub's database, read."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read_state(self, workspace: Workspace) -> dict[tuple[str, int], HubEpoch]:
        """Copy what the hub counts and decides into the workspace; its epochs by (box, epoch)."""
        epochs: dict[tuple[str, int], HubEpoch] = {}

        def rows(connection: Connection) -> Iterator[tuple[str, Row]]:
            epochs.update(_epochs(connection))
            for name, found in _state(connection):
                yield from ((name, row) for row in found)

        for name, row in self._database.read(rows):
            workspace.add(name, row)
        workspace.add_all(
            "hub_epoch",
            (
                (one.box, one.epoch, one.size, int(one.sealed), int(bool(one.branches)))
                for one in epochs.values()
            ),
        )
        return epochs

    def records(
        self, *, box: str, epoch: int, branch: int, start: int, end: int
    ) -> Iterator[list[HubRecord]]:
        """The records of one history from seq start to end, in steps; `seq` is that of the history."""
        table, base = schema.record.c, branch * BRANCH_SEQS
        # SQLite keeps what somebody wrote by hand as text; its bytes are judged like any others.
        raw = (cast(table.leaf, LargeBinary), cast(table.body, LargeBinary))
        columns = (table.seq, table.type, table.client, table.request_id, *raw)
        while start < end:
            query = (
                select(*columns)
                .where(
                    table.box == box,
                    table.epoch == epoch,
                    table.seq >= base + start,
                    table.seq < base + end,
                )
                .order_by(table.seq)
                .limit(STEP)
            )
            rows = self._database.transact(partial(_all, query=query))
            if not rows:
                return
            yield [
                HubRecord(seq - base, kind, client, request_id, bytes(leaf), bytes(body))
                for seq, kind, client, request_id, leaf, body in rows
            ]
            start = rows[-1].seq - base + 1


def _all(connection: Connection, *, query: Select[Any]) -> Sequence[Any]:
    return connection.execute(query).all()


def _epochs(connection: Connection) -> dict[tuple[str, int], HubEpoch]:
    head, branch = schema.journal_head.c, schema.branch.c
    branches: dict[tuple[str, int], list[Branch]] = {}
    for row in connection.execute(
        select(
            branch.box, branch.epoch, branch.number, branch.parent, branch.fork_size, branch.size
        ).order_by(branch.box, branch.epoch, branch.number)
    ):
        branches.setdefault((row.box, row.epoch), []).append(Branch(*row[2:]))
    rows = connection.execute(
        select(
            head.box,
            head.epoch,
            head.size,
            cast(head.root, LargeBinary).label("root"),
            head.key,
            head.key_changes,
            head.checkpoint,
            head.sealed,
        ).order_by(head.box, head.epoch)
    )
    return {
        (row.box, row.epoch): HubEpoch(
            row.box,
            row.epoch,
            row.size,
            bytes(row.root),
            row.key,
            tuple(notes_of(row.key_changes)),
            row.checkpoint,
            row.sealed,
            tuple(branches.get((row.box, row.epoch), ())),
        )
        for row in rows
    }


def _state(connection: Connection) -> Iterator[tuple[str, Iterator[Row]]]:
    """(table of the workspace, its rows) of everything else that the hub has."""
    box, account, outstanding = schema.box.c, schema.account.c, schema.outstanding.c
    balance, stand_in, loss = schema.box_balance.c, schema.stand_in.c, schema.loss.c
    posting = schema.core_posting.c
    plain = {
        "hub_box": (box.box, box.epoch, box.state),
        "hub_account": (account.account_id, account.currency, account.balance_minor, account.available_minor),
        "hub_outstanding": (
            outstanding.box,
            outstanding.epoch,
            outstanding.account_id,
            outstanding.amount_minor,
        ),
        "hub_balance": (
            balance.box,
            balance.epoch,
            balance.account_id,
            balance.debits_posted,
            balance.credits_posted,
        ),
        "hub_posting": (
            posting.id,
            posting.debit_account_id,
            posting.credit_account_id,
            posting.amount_minor,
        ),
        "hub_stand_in": (
            stand_in.box,
            stand_in.epoch,
            stand_in.seq,
            stand_in.currency,
            stand_in.amount_minor,
            stand_in.state,
            stand_in.liable,
            stand_in.settled,
        ),
    }
    for name, columns in plain.items():
        yield name, (tuple(row) for row in connection.execute(select(*columns)))
    window, position = schema.clearing_window.c, schema.window_position.c
    windows = select(
        window.box, window.epoch, window.number, window.state, window.business_date, window.transfers
    ).where(window.branch == 0)
    yield "hub_window", (tuple(row) for row in connection.execute(windows))
    positions = select(
        position.box,
        position.epoch,
        position.number,
        position.participant,
        position.currency,
        position.net_minor,
    ).where(position.branch == 0)
    yield "hub_position", (tuple(row) for row in connection.execute(positions))
    losses = select(loss.box, loss.epoch, loss.account_id, loss.amount_minor).where(loss.log == "journal")
    yield "hub_loss", (tuple(row) for row in connection.execute(losses))
    yield "hub_hold", _holds(connection)
    yield "hub_suspense", _suspense(connection)
    yield "hub_directive", _directives(connection)


def _holds(connection: Connection) -> Iterator[Row]:
    hold = schema.box_hold.c
    for row in connection.execute(select(hold.box, hold.epoch, hold.transfer_id, hold.amount_minor)):
        _, seq, _ = place_of(int(row.transfer_id, 16))
        yield row.box, row.epoch, seq, row.amount_minor


def _suspense(connection: Connection) -> Iterator[Row]:
    item = schema.suspense_item.c
    for row in connection.execute(
        select(item.box, item.epoch, item.seq, item.owner, item.reason, item.detail).where(
            item.state != CLOSED
        )
    ):
        yield row.box, row.epoch, *divmod(row.seq, BRANCH_SEQS), row.owner, row.reason, row.detail


def _directives(connection: Connection) -> Iterator[Row]:
    said, head = schema.directive.c, schema.directive_head.c
    rows = connection.execute(
        select(
            said.box,
            said.incarnation,
            said.seq,
            head.epoch,
            said.type,
            said.outcome,
            cast(said.body, LargeBinary),
        ).join(
            schema.directive_head,
            (head.box == said.box) & (head.incarnation == said.incarnation),
        )
    )
    for *row, body in rows:
        yield *row, *money_of(said_by(bytes(body)))
