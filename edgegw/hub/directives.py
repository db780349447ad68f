"""The directive log of one box: the hub is its author, the box applies it in order and journals what it did.

`DirectiveLog` is one SQL transaction's open end of that log: it appends to the chain and the tree, and signs
one checkpoint over the new head when it is written. Each epoch of a box begins a new log (`incarnation`), so
that no grant is applied twice. Leaves out when a directive is due (`hub.grants`, `hub.replay`, `hub.site`).
"""

from __future__ import annotations

from typing import Final, TypedDict
from weakref import WeakKeyDictionary

import msgspec
from sqlalchemy import Connection, Row, delete, insert, select, update

from edgegw.core import journal
from edgegw.core.counts import LimitChange
from edgegw.core.exchange import HeldLog, frontier_at
from edgegw.core.journal import Checkpoint, Frontier
from edgegw.core.messages import PACKAGE_BYTES_MAX, PACKAGE_RECORDS_MAX, LogHead, Package
from edgegw.core.records import (
    BlockDirective,
    CloseDirective,
    ConfirmDirective,
    DeclineDirective,
    Directive,
    FreezeDirective,
    GrantDirective,
    LimitDirective,
    RecallDirective,
    RefuseDirective,
    SiteDirective,
    encode,
)
from edgegw.hub.keyring import Keyring
from edgegw.hub.schema import directive, directive_head

DIRECTIVE_VERSION: Final = 1
SITE_TYPE: Final = str(SiteDirective.__struct_config__.tag)


class _Place(TypedDict):
    v: int
    bank: str
    box: str
    incarnation: int
    seq: int
    wall_ns: int


class DirectiveLog:
    """The open end of one box's directive log. Each method that appends returns the directive's seq."""

    def __init__(
        self,
        connection: Connection,
        keyring: Keyring,
        *,
        box: str,
        incarnation: int,
        epoch: int,
        wall_ns: int,
    ) -> None:
        """epoch is the one that reads this incarnation; a log that has begun keeps its own."""
        self._connection = connection
        self._keyring = keyring
        self._box = box
        self.incarnation = incarnation
        self.epoch = epoch
        self._wall_ns = wall_ns
        self._rows: list[dict[str, str | int | bytes]] = []
        head = _head_row(connection, box=box, incarnation=incarnation, lock=True)
        self._is_new = head is None
        if head is not None:
            self.epoch = head.epoch
        self._frontier = Frontier() if head is None else Frontier.from_bytes(head.frontier)
        self._last_leaf: bytes = journal.FIRST_PREVIOUS if head is None else head.last_leaf

    @property
    def size(self) -> int:
        """How many directives the log holds, those not yet written included."""
        return self._frontier.size

    def site(
        self, *, version: int, digest: str, bundle_bytes: int, note: str = "", restores: str = ""
    ) -> int:
        """Use the site bundle of this digest, which the hub has signed by this note."""
        return self._append(
            SiteDirective(
                **self._place(),
                version=version,
                digest=digest,
                bytes=bundle_bytes,
                note=note,
                restores=restores,
            )
        )

    def grant(self, *, account_id: str, currency: str, amount_minor: int, request_id: str = "") -> int:
        """Spend amount_minor of this account; request_id names the ask that it answers."""
        return self._append(
            GrantDirective(
                **self._place(),
                account_id=account_id,
                currency=currency,
                amount_minor=amount_minor,
                request_id=request_id,
            )
        )

    def refuse(self, *, request_id: str, account_id: str, currency: str, reason: str) -> int:
        """No money for this ask."""
        return self._append(
            RefuseDirective(
                **self._place(),
                request_id=request_id,
                account_id=account_id,
                currency=currency,
                reason=reason,
            )
        )

    def confirm(self, *, epoch: int, at_seq: int, payer: str, currency: str, amount_minor: int) -> int:
        """The payer of the stand-in at epoch/at_seq had the money."""
        return self._append(
            ConfirmDirective(
                **self._place(),
                epoch=epoch,
                at_seq=at_seq,
                payer_account_id=payer,
                currency=currency,
                amount_minor=amount_minor,
            )
        )

    def decline(
        self,
        *,
        epoch: int,
        at_seq: int,
        payer: str,
        currency: str,
        amount_minor: int,
        liable: str,
        reason: str,
    ) -> int:
        """The payer of the stand-in at epoch/at_seq did not have it; the merchant or the branch bears it."""
        return self._append(
            DeclineDirective(
                **self._place(),
                epoch=epoch,
                at_seq=at_seq,
                payer_account_id=payer,
                currency=currency,
                amount_minor=amount_minor,
                liable=liable,
                reason=reason,
            )
        )

    def freeze(self, *, account_id: str, frozen: bool, reason: str) -> int:
        """From its journal record on, this account pays nothing out, or does again."""
        return self._append(
            FreezeDirective(
                **self._place(),
                account_id=account_id,
                frozen=frozen,
                reason=reason,
            )
        )

    def recall(self, *, account_id: str, currency: str, amount_minor: int, reason: str) -> int:
        """Give up to amount_minor of this account back to the centre."""
        return self._append(
            RecallDirective(
                **self._place(),
                account_id=account_id,
                currency=currency,
                amount_minor=amount_minor,
                reason=reason,
            )
        )

    def close(self, *, account_id: str, currency: str, closed: bool, reason: str) -> int:
        """From its journal record on, this account takes and pays nothing new, or does again."""
        return self._append(
            CloseDirective(
                **self._place(),
                account_id=account_id,
                currency=currency,
                closed=closed,
                reason=reason,
            )
        )

    def block(self, *, of: str, whose: str, blocked: bool, reason: str) -> int:
        """From its journal record on, this account, card, terminal or merchant pays nothing, or again."""
        return self._append(
            BlockDirective(**self._place(), of=of, whose=whose, blocked=blocked, reason=reason)
        )

    def limit(self, *, name: str, whose: str, change: LimitChange | None, reason: str) -> int:
        """Other values of the limit of this name for one id ("" for all); None: the site's again."""
        if change is None:
            said = LimitDirective(**self._place(), name=name, reason=reason, whose=whose, lifted=True)
        else:
            values = msgspec.structs.asdict(change)
            said = LimitDirective(**self._place(), name=name, reason=reason, whose=whose, **values)
        return self._append(said)

    def _place(self) -> _Place:
        return {
            "v": DIRECTIVE_VERSION,
            "bank": self._keyring.bank,
            "box": self._box,
            "incarnation": self.incarnation,
            "seq": self.size,
            "wall_ns": self._wall_ns,
        }

    def append_again(self, words: Directive, body: bytes) -> int:
        """A directive that the hub has written before and lost, as its bytes are."""
        return self._append_bytes(words, body)

    def _append(self, words: Directive) -> int:
        return self._append_bytes(words, encode(words))

    def _append_bytes(self, words: Directive, body: bytes) -> int:
        self._last_leaf = journal.leaf_hash(self._last_leaf, body)
        self._frontier.append(self._last_leaf)
        self._rows.append(
            {
                "box": self._box,
                "incarnation": self.incarnation,
                "seq": words.seq,
                "type": str(type(words).__struct_config__.tag),
                "leaf": self._last_leaf,
                "body": body,
                "outcome": "",
            }
        )
        return words.seq

    def write(self) -> None:
        """Write what was appended, and one signed checkpoint over it; the caller commits."""
        if not self._rows:
            return
        self._connection.execute(insert(directive), self._rows)
        self._rows = []
        head = {
            "size": self.size,
            "root": self._frontier.root(),
            "frontier": self._frontier.to_bytes(),
            "last_leaf": self._last_leaf,
            "checkpoint": _note(
                self._keyring, box=self._box, incarnation=self.incarnation, of=self._frontier
            ),
        }
        if self._is_new:
            place = {
                "box": self._box,
                "incarnation": self.incarnation,
                "epoch": self.epoch,
                "cosigned": "",
            }
            self._connection.execute(insert(directive_head).values(**place, **head))
            self._is_new = False
        else:
            self._connection.execute(
                update(directive_head)
                .where(directive_head.c.box == self._box, directive_head.c.incarnation == self.incarnation)
                .values(**head)
            )
        _heads.pop(self._connection, None)


_HeadRow = Row[int, int, bytes, bytes, bytes, str]
_heads: WeakKeyDictionary[Connection, dict[tuple[str, int], _HeadRow | None]] = WeakKeyDictionary()
"""What each SQL transaction has read of the heads: a beat looks at its log's several times, and nobody else
writes a box's log while its row is locked."""


def _head_row(connection: Connection, *, box: str, incarnation: int, lock: bool) -> _HeadRow | None:
    known = _heads.setdefault(connection, {})
    if lock or (box, incarnation) not in known:
        known[box, incarnation] = _read_head(connection, box=box, incarnation=incarnation, lock=lock)
    return known[box, incarnation]


def _read_head(connection: Connection, *, box: str, incarnation: int, lock: bool) -> _HeadRow | None:
    columns = directive_head.c
    query = select(
        columns.epoch, columns.size, columns.root, columns.frontier, columns.last_leaf, columns.checkpoint
    ).where(columns.box == box, columns.incarnation == incarnation)
    return connection.execute(query.with_for_update() if lock else query).one_or_none()


def epoch_of(connection: Connection, *, box: str, incarnation: int) -> int | None:
    """The epoch that reads an incarnation; None for one that has not begun here."""
    head = _head_row(connection, box=box, incarnation=incarnation, lock=False)
    return None if head is None else head.epoch


def held_directives(connection: Connection, *, box: str, incarnation: int) -> HeldLog:
    """The log as a package of it that comes back is judged against it."""
    head = _head_row(connection, box=box, incarnation=incarnation, lock=False)
    frontier = Frontier() if head is None else Frontier.from_bytes(head.frontier)

    def leaf_at(index: int) -> bytes:
        table = directive.c
        query = select(table.leaf).where(
            table.box == box, table.incarnation == incarnation, table.seq == index
        )
        return bytes(connection.execute(query).scalar_one())

    def root_at(size: int) -> bytes | None:
        return directives_root_at(connection, box=box, incarnation=incarnation, size=size)

    return HeldLog(incarnation, frontier, leaf_at, root_at)


def drop_after(connection: Connection, keyring: Keyring, *, box: str, incarnation: int, size: int) -> None:
    """Shorten a log to directives that a box has applied: what followed was written by a hub that had lost
    others, and no box has heard it."""
    leaves = _leaves(connection, box=box, incarnation=incarnation, size=size)
    frontier = Frontier()
    frontier.extend(leaves)
    mine = (directive.c.box == box) & (directive.c.incarnation == incarnation)
    connection.execute(delete(directive).where(mine, directive.c.seq >= size))
    _heads.pop(connection, None)
    head = (directive_head.c.box == box) & (directive_head.c.incarnation == incarnation)
    if not size:
        connection.execute(delete(directive_head).where(head))
        return
    connection.execute(
        update(directive_head)
        .where(head)
        .values(
            size=size,
            root=frontier.root(),
            frontier=frontier.to_bytes(),
            last_leaf=leaves[-1],
            checkpoint=_note(keyring, box=box, incarnation=incarnation, of=frontier),
        )
    )


def directives_held(connection: Connection, *, box: str, incarnation: int) -> LogHead:
    """How far the hub has written this log."""
    head = _head_row(connection, box=box, incarnation=incarnation, lock=False)
    return LogHead(incarnation) if head is None else LogHead(incarnation, head.size, head.root)


def directives_root_at(connection: Connection, *, box: str, incarnation: int, size: int) -> bytes | None:
    """The root of the first `size` directives; None when there are fewer. Reads them all: openings only."""
    leaves = _leaves(connection, box=box, incarnation=incarnation, size=size)
    return frontier_at(size, journal.nodes_of(leaves)).root() if len(leaves) == size > 0 else None


def _leaves(connection: Connection, *, box: str, incarnation: int, size: int) -> list[bytes]:
    rows = connection.execute(
        select(directive.c.leaf)
        .where(directive.c.box == box, directive.c.incarnation == incarnation, directive.c.seq < size)
        .order_by(directive.c.seq)
    )
    return list(rows.scalars())


def package_after(
    connection: Connection, keyring: Keyring, *, box: str, incarnation: int, size: int, bytes_max: int
) -> Package | None:
    """What a box that holds `size` directives lacks, as far as one package takes it (one directive at
    least); None when it lacks nothing.

    Its note covers just what is in it, and it ends before the next site directive, whose bundle the box may
    have to wait for. So a box can always prove what it has applied to a hub that has lost it.
    """
    head = _head_row(connection, box=box, incarnation=incarnation, lock=False)
    if head is None or head.size <= size:
        return None
    rows = connection.execute(
        select(directive.c.body, directive.c.type)
        .where(directive.c.box == box, directive.c.incarnation == incarnation, directive.c.seq >= size)
        .order_by(directive.c.seq)
        .limit(PACKAGE_RECORDS_MAX)
    )
    bodies: list[bytes] = []
    package_bytes = 0
    for body, kind in rows:
        package_bytes += len(body)
        if bodies and (package_bytes > min(bytes_max, PACKAGE_BYTES_MAX) or kind == SITE_TYPE):
            break
        bodies.append(body)
    end = size + len(bodies)
    root, checkpoint = head.root, head.checkpoint
    if end < head.size:
        # A box far behind: the root is made afresh. Nobody waits for a grant that is this far down the log.
        frontier = Frontier()
        frontier.extend(_leaves(connection, box=box, incarnation=incarnation, size=end))
        root, checkpoint = frontier.root(), _note(keyring, box=box, incarnation=incarnation, of=frontier)
    return Package(
        number=incarnation,
        old_size=size,
        records=tuple(bodies),
        root=root,
        checkpoint=checkpoint,
        proof=(),
    )


def _note(keyring: Keyring, *, box: str, incarnation: int, of: Frontier) -> str:
    origin = journal.directives_origin(bank=keyring.bank, box=box, incarnation=incarnation)
    return keyring.key.seal(Checkpoint(origin, of.size, of.root()).body())
