"""What the hub holds of each box's journals: their heads and trees, proofs out of them, and packages back.

One row a (box, epoch) is the head; the records' leaves and the stored tiles (`core.tiles`) are the tree, so
that a root or a proof reads a few hundred hashes at any size. Leaves out who may push or ask (`hub.receive`,
`hub.beats`) and what records mean (`hub.replay`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, insert, select, update

from edgegw.core import journal, tiles
from edgegw.core.exchange import HeldEpoch, HeldLog, PackageJudgement, frontier_at
from edgegw.core.journal import HASH_BYTES, Frontier, Node
from edgegw.core.messages import PACKAGE_BYTES_MAX, LinkNote, LogHead, Package
from edgegw.errors import HeadMoved
from edgegw.hub import schema
from edgegw.hub.key_policies import notes_of, stored


def journal_head_of(connection: Connection, box: str, epoch: int, *, lock: bool = False) -> Row[Any] | None:
    """The row of a journal's head, locked where asked; None for an epoch that was never issued."""
    table = schema.journal_head
    query = select(table).where(table.c.box == box, table.c.epoch == epoch)
    return connection.execute(query.with_for_update() if lock else query).one_or_none()


def held_epochs(connection: Connection, box: str) -> list[HeldEpoch]:
    """Every epoch that was issued to a box, oldest first."""
    table = schema.journal_head.c
    rows = connection.execute(
        select(table.epoch, table.size, table.root, table.forked)
        .where(table.box == box)
        .order_by(table.epoch)
    )

    def epoch_of(epoch: int, size: int, root: bytes, forked: bool) -> HeldEpoch:
        def root_at(size: int) -> bytes | None:
            return journal_root_at(connection, box=box, epoch=epoch, size=size)

        return HeldEpoch(LogHead(epoch, size, root), root_at, forked)

    return [epoch_of(*row) for row in rows]


class Listed(NamedTuple):
    """What the hub holds: of the epochs of which it wants more, and of the others."""

    wanted: tuple[LogHead, ...]
    closed: tuple[LogHead, ...]


def listed_heads(connection: Connection, box: str) -> Listed:
    """The heads for `Opened`, oldest first: an epoch that is sealed or forked, or whose newest key is
    revoked, is not to be pushed."""
    table, word = schema.journal_head.c, schema.revoked_key.c
    void = set(connection.execute(select(word.epoch).where(word.box == box, word.ends)).scalars())
    rows = connection.execute(
        select(table.epoch, table.size, table.root, table.sealed | table.forked)
        .where(table.box == box)
        .order_by(table.epoch)
    ).all()
    heads = [(LogHead(epoch, size, root), closed or epoch in void) for epoch, size, root, closed in rows]
    return Listed(
        tuple(head for head, closed in heads if not closed), tuple(head for head, closed in heads if closed)
    )


def begin_epoch(connection: Connection, link: LinkNote, *, signed: str) -> None:
    """Keep the link of an epoch as its head, with no record yet; older epochs' money is in doubt from now
    on."""
    connection.execute(
        insert(schema.journal_head).values(
            box=link.box,
            epoch=link.epoch,
            size=0,
            root=b"",
            frontier=Frontier().to_bytes(),
            key=link.key,
            key_changes="",
            link=signed,
            checkpoint="",
            proof=b"",
            cosignature="",
            told=0,
            sealed=False,
            forked=False,
        )
    )
    outstanding = schema.outstanding
    connection.execute(
        update(outstanding)
        .where(outstanding.c.box == link.box, outstanding.c.epoch < link.epoch)
        .values(in_doubt=True)
    )


def note_told(connection: Connection, box: str, theirs: Sequence[LogHead]) -> None:
    """Remember how much of each epoch the box says to hold: what is settled before all of it came is lost."""
    table = schema.journal_head
    told = {head.number: head.size for head in theirs}
    more = connection.execute(
        select(table.c.epoch, table.c.told).where(
            table.c.box == box, table.c.sealed.is_(False), table.c.epoch.in_(sorted(told))
        )
    ).all()
    for epoch, before in more:
        if told[epoch] > before:
            place = (table.c.box == box) & (table.c.epoch == epoch)
            connection.execute(update(table).where(place).values(told=told[epoch]))


def not_here(connection: Connection, box: str, epoch: int) -> int:
    """How many records of an epoch are known to have been written, by the box's word or its signature, and
    never came: of its longest history, and of a second one that only its signed head has shown."""
    head = journal_head_of(connection, box, epoch)
    if head is None:
        return 0
    branch, evidence = schema.branch.c, schema.evidence.c
    taken = connection.execute(select(branch.size).where(branch.box == box, branch.epoch == epoch)).scalars()
    signed = connection.execute(
        select(evidence.other_checkpoint).where(evidence.box == box, evidence.epoch == epoch)
    ).scalars()
    second = max(taken, default=0)
    first_signed = journal.parse_checkpoint(head.checkpoint)[0].size if head.checkpoint else 0
    second_signed = max((journal.parse_checkpoint(note)[0].size for note in signed), default=0)
    written: int = max(head.told, first_signed)
    held: int = max(head.size, second)
    return max(written - held, second_signed - second, 0)


# --- the tree -----------------------------------------------------------------------------------------------


def journal_node(connection: Connection, *, box: str, epoch: int) -> Node:
    """The tree's nodes, read as they are asked for; for one proof."""
    record, tile = schema.record.c, schema.tile.c

    def row(level: int, start: int, count: int) -> list[bytes]:
        if level:
            query = select(tile.hash).where(
                tile.box == box,
                tile.epoch == epoch,
                tile.level == level,
                tile.number >= start,
                tile.number < start + count,
            )
            return list(connection.execute(query.order_by(tile.number)).scalars())
        query = select(record.leaf).where(
            record.box == box, record.epoch == epoch, record.seq >= start, record.seq < start + count
        )
        return list(connection.execute(query.order_by(record.seq)).scalars())

    return tiles.node_reader(row)


def journal_root_at(connection: Connection, *, box: str, epoch: int, size: int) -> bytes | None:
    """The root of the first `size` records; None where they are not held."""
    head = journal_head_of(connection, box, epoch)
    if head is None or not 0 < size <= head.size:
        return None
    if size == head.size:
        return bytes(head.root)
    return frontier_at(size, journal_node(connection, box=box, epoch=epoch)).root()


def held_log(connection: Connection, head: Row[Any]) -> HeldLog:
    """What is held of an epoch, as a push is judged against it."""
    box, epoch = head.box, head.epoch

    def leaf_at(index: int) -> bytes:
        table = schema.record.c
        query = select(table.leaf).where(table.box == box, table.epoch == epoch, table.seq == index)
        return bytes(connection.execute(query).scalar_one())

    def root_at(size: int) -> bytes | None:
        return journal_root_at(connection, box=box, epoch=epoch, size=size)

    return HeldLog(epoch, Frontier.from_bytes(head.frontier), leaf_at, root_at)


def move_head(
    connection: Connection, push: Package, judged: PackageJudgement, held: HeldLog, *, box: str
) -> None:
    """Move a head to where an accepted push has brought it, and keep the tiles that it completes. Raises
    HeadMoved."""
    if judged.frontier is None:
        raise ValueError("a package that is accepted carries the frontier after it")
    table = schema.journal_head
    old_size = held.frontier.size
    moved = connection.execute(
        update(table)
        .where(table.c.box == box, table.c.epoch == push.number, table.c.size == old_size)
        .values(
            size=judged.head.size,
            root=judged.head.root,
            frontier=judged.frontier.to_bytes(),
            checkpoint=push.checkpoint,
            proof=b"".join(push.proof),
            key_changes="" if judged.keys is None else stored(judged.keys.notes),
        )
    )
    if moved.rowcount != 1:
        raise HeadMoved(f"the head of {box}/{push.number} is no longer at {old_size}")
    fresh = tiles.extend(held.frontier.copy(), judged.leaves, epoch=push.number)
    if fresh:
        connection.execute(insert(schema.tile), [{"box": box, **tile._asdict()} for tile in fresh])


# --- forks --------------------------------------------------------------------------------------------------


def mark_forked(connection: Connection, *, box: str, epoch: int, reason: str, other_checkpoint: str) -> None:
    """Write down that a box has two histories of an epoch, with both signed heads where the second one is
    known."""
    table = schema.journal_head
    place = (table.c.box == box) & (table.c.epoch == epoch)
    held_checkpoint = connection.execute(select(table.c.checkpoint).where(place)).scalar_one()
    connection.execute(update(table).where(place).values(forked=True))
    if other_checkpoint:
        keep_evidence(
            connection,
            box=box,
            epoch=epoch,
            reason=reason,
            held_checkpoint=held_checkpoint,
            other_checkpoint=other_checkpoint,
        )


def keep_evidence(
    connection: Connection, *, box: str, epoch: int, reason: str, held_checkpoint: str, other_checkpoint: str
) -> None:
    """Keep two signed heads that do not lead to each other; the second one once, however often it was
    signed."""
    table = schema.evidence
    mine = (table.c.box == box) & (table.c.epoch == epoch)
    kept = connection.execute(select(table.c.other_checkpoint).where(mine)).scalars().all()
    if not any(same_head(other_checkpoint, one) for one in kept):
        connection.execute(
            insert(table).values(
                box=box,
                epoch=epoch,
                number=len(kept) + 1,
                reason=reason,
                held_checkpoint=held_checkpoint,
                other_checkpoint=other_checkpoint,
            )
        )


def same_head(one: str, other: str) -> bool:
    """Whether two notes sign the same head; a note signed again has another signature."""
    return journal.parse_checkpoint(one)[0] == journal.parse_checkpoint(other)[0]


# --- records back -------------------------------------------------------------------------------------------


class Pulled(NamedTuple):
    """The next records for a box that asks for its own journal, or why there are none."""

    package: Package | None
    other_history: str = ""
    """What differs, where the box holds other records than the hub."""
    whole: LogHead | None = None
    """What the hub holds of the epoch, where the box has all of it with this package."""
    is_news: bool = False
    """Nothing says yet that this epoch has two histories."""


def pulled_package(connection: Connection, want: LogHead, *, box: str, bytes_max: int) -> Pulled:
    """The records of want.number after want.size, with the box's own signed head, as far as one package takes
    them (one record at least)."""
    head = journal_head_of(connection, box, want.number)
    if head is None or want.size < 0:
        return Pulled(None)
    node = journal_node(connection, box=box, epoch=want.number)
    if 0 < want.size <= head.size and frontier_at(want.size, node).root() != want.root:
        other = f"another root at size {want.size} of epoch {want.number}"
        return Pulled(None, other, is_news=not head.forked)
    whole = LogHead(want.number, head.size, head.root) if head.size else None
    if want.size >= head.size:
        return Pulled(None, whole=whole if want.size == head.size else None)
    bodies, leaves = _records_after(connection, head, want.size, min(bytes_max, PACKAGE_BYTES_MAX))
    frontier = frontier_at(want.size, node)
    frontier.extend(leaves)
    signed, _ = journal.parse_checkpoint(head.checkpoint)
    proof = tiles.partial_proof(
        frontier.size,
        held_size=head.size,
        size=signed.size,
        held_proof=_hashes(head.proof),
        node=node,
    )
    return Pulled(
        Package(
            number=want.number,
            old_size=want.size,
            records=tuple(bodies),
            root=frontier.root(),
            checkpoint=head.checkpoint,
            proof=tuple(proof),
            keys=tuple(notes_of(head.key_changes)),
        ),
        whole=whole if frontier.size == head.size else None,
    )


def _records_after(
    connection: Connection, head: Row[Any], start: int, bytes_max: int
) -> tuple[list[bytes], list[bytes]]:
    """Bodies and leaves up to the next border of a tile, where a proof reads least."""
    table = schema.record.c
    end = min(head.size, start - start % tiles.TILE_WIDTH + tiles.TILE_WIDTH)
    rows = connection.execute(
        select(table.body, table.leaf)
        .where(table.box == head.box, table.epoch == head.epoch, table.seq >= start, table.seq < end)
        .order_by(table.seq)
    )
    bodies: list[bytes] = []
    leaves: list[bytes] = []
    package_bytes = 0
    for body, leaf in rows:
        package_bytes += len(body)
        if bodies and package_bytes > bytes_max:
            break
        bodies.append(body)
        leaves.append(leaf)
    return bodies, leaves


def _hashes(joined: bytes) -> list[bytes]:
    return [joined[start : start + HASH_BYTES] for start in range(0, len(joined), HASH_BYTES)]
