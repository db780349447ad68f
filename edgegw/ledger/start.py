"""A start: from the ledger file to a pen that may write, in its epoch or in a new one (DESIGN §4, §6.3).

The head's checkpoint must be signed by this box and its root must be the tree's; the newest snapshot must
have the digest that its record names, and the tail behind it must chain and replay. What is not checked
here (every record, every balance) is `ledger.check`'s. Leaves out: who may open the file, lineage and
anchor (`ledger.boot`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from edgegw.core import snapshot
from edgegw.core.book import Book, ReplayError
from edgegw.core.decide import Rule
from edgegw.core.exchange import frontier_at
from edgegw.core.journal import FIRST_PREVIOUS, Checkpoint, Frontier, leaf_hash
from edgegw.core.records import Record, decode_record
from edgegw.core.records import Snapshot as SnapshotRecord
from edgegw.core.site import Site, decode_site
from edgegw.errors import Fenced, LedgerCorrupt
from edgegw.ledger.anchor import LINEAGE
from edgegw.ledger.batch import Batch, Desk, Sign, Tip
from edgegw.ledger.clock import MACHINE_BOOT, BoxTime, Clock
from edgegw.ledger.history import StoreHistory, gather_kept, kept_before, put_kept
from edgegw.ledger.lists import hold_lists
from edgegw.ledger.outcomes import Budget
from edgegw.ledger.rows import place_at
from edgegw.ledger.store import Head, Image, Store
from edgegw.ledger.writer import Pen

READ_RECORDS: Final = 1024
READ_BYTES_MAX: Final = 4 << 20

OpenNote = Callable[[int, str], Checkpoint]
"""(epoch, note) -> the checkpoint, if this box has signed it; raises ValueError."""


class Own(msgspec.Struct, frozen=True, kw_only=True):
    """Who starts: the names, this boot, what signs, and what the boot record says of the program and its
    settings."""

    bank: str
    box: str
    boot: str
    sign: Sign
    open_note: OpenNote
    key_text: str
    version: str
    box_digest: str


class Ways(msgspec.Struct, frozen=True, kw_only=True):
    """What a pen decides with and by, besides its book."""

    clock: Clock
    rules: Sequence[Rule]
    budget: Budget
    room_for_payments: Callable[[], bool]
    make_room: Callable[[], None]


def start(store: Store, own: Own, ways: Ways) -> Pen:
    """`prepare` and `take_over`."""
    pen = prepare(store, own, ways)
    take_over(pen)
    return pen


def prepare(store: Store, own: Own, ways: Ways) -> Pen:
    """Load the book, check it against the signed head, and give a pen that has written nothing yet. Raises
    LedgerCorrupt where the file does not say what was signed."""
    store.own(bank=own.bank, box=own.box)
    book, tip, last = load(store, bank=own.bank, box=own.box, open_note=own.open_note)
    return _pen(store, own, ways, book, tip, last)


def take_over(pen: Pen) -> None:
    """Claim the head for this boot and journal the boot; nothing before the first epoch."""
    desk = pen.desk
    if desk.tip.epoch:
        desk.store.begin()
        desk.store.claim_head(boot=desk.boot)
        desk.store.commit()
        pen.commit_now(pen.go_on)


def begin_epoch(store: Store, own: Own, ways: Ways, *, note: str, epoch: int, lineage: str = "") -> Pen:
    """The pen of a new epoch: link, key and boot are its first records, allowances are zero; in one COMMIT
    with the token that makes the ledger this box's newest (`Anchor.offer`; "" where there is no anchor).

    What is here of earlier epochs answers repeats and is reversed as before. Raises what the disk raises.
    """
    heads = store.heads()
    if heads and heads[-1].epoch >= epoch:
        raise Fenced(f"epoch {epoch} does not follow epoch {heads[-1].epoch}")
    kept = gather_kept(store)
    book = Book(bank=own.bank, box=own.box, history=StoreHistory(store))
    book.kept_before = kept
    pen = _pen(store, own, ways, book, _NO_TIP, _latest(store, heads))

    def first(batch: Batch) -> None:
        if lineage:
            store.put_meta(LINEAGE, lineage)
        put_kept(store, kept)
        pen.write_link(batch, note=note, epoch=epoch)

    pen.commit_now(first)
    return pen


_NO_TIP: Final = Tip(0, FIRST_PREVIOUS, Frontier(), "")


def _pen(store: Store, own: Own, ways: Ways, book: Book, tip: Tip, last: Record | None) -> Pen:
    """last: the box's time goes on from there."""
    desk = Desk(
        store=store,
        book=book,
        tip=tip,
        boot=own.boot,
        clock=ways.clock,
        time=_time(store, ways.clock, last),
        rules=ways.rules,
        budget=ways.budget,
        closed_for_payments=lambda: None,
    )
    return Pen(
        desk,
        sign=own.sign,
        key_text=own.key_text,
        version=own.version,
        box_digest=own.box_digest,
        room_for_payments=ways.room_for_payments,
        make_room=ways.make_room,
    )


def _time(store: Store, clock: Clock, last: Record | None) -> BoxTime:
    if last is None:
        return BoxTime(clock, last_at_ns=0, last_wall_ns=0)
    same_boot = bool(clock.boot_id()) and store.meta(MACHINE_BOOT) == clock.boot_id()
    return BoxTime(
        clock,
        last_at_ns=last.at_ns,
        last_wall_ns=last.wall_ns,
        last_mono_ns=last.mono_ns if same_boot else None,
    )


def _latest(store: Store, heads: Sequence[Head]) -> Record | None:
    """The last record of all epochs, by the box's own time; what this program cannot read does not count."""
    latest: Record | None = None
    for head in heads:
        for entry in store.records(epoch=head.epoch, start=head.size - 1, limit=1, bytes_max=1):
            with suppress(msgspec.MsgspecError):
                record = decode_record(entry.body)
                if latest is None or record.at_ns > latest.at_ns:
                    latest = record
    return latest


def load(
    store: Store, *, bank: str, box: str, open_note: OpenNote, behind: bool = False
) -> tuple[Book, Tip, Record | None]:
    """The book of the newest epoch, the tip and the last record; an empty book and epoch 0 for a ledger
    without a link.

    behind: the ledger is only read, its past may be on its way back; then records may be fewer than were
    signed, and settings of the site that are not here are left out.
    """
    history = StoreHistory(store)
    heads = store.heads()
    if not heads:
        book = Book(bank=bank, box=box, history=history)
        return book, _NO_TIP, None
    head = heads[-1]
    _check_head(store, head, open_note, behind=behind)
    book, first, leaf = _from_snapshot(store, head, bank=bank, box=box)
    book.kept_before = kept_before(store)
    last: Record | None = None
    for seq, stored_leaf, body in read_records(store, epoch=head.epoch, start=first, end=head.size):
        leaf = leaf_hash(leaf, body)
        if leaf != stored_leaf:
            raise LedgerCorrupt(f"record {head.epoch}/{seq} is not the one that was chained")
        last = _replayed(book, body, place=f"{head.epoch}/{seq}")
    _use_site(book, store, behind=behind)
    frontier = frontier_at(head.size, store.node(head.epoch, head.size))
    return book, Tip(head.epoch, leaf, frontier, head.checkpoint), last


def read_book(store: Store, *, bank: str, box: str, open_note: OpenNote) -> Book:
    """The book of a ledger that is only read; an empty one where a record of its past does not replay: the
    line must run all the same, or the epoch that mends it never comes."""
    try:
        return load(store, bank=bank, box=box, open_note=open_note, behind=True)[0]
    except LedgerCorrupt:
        return Book(bank=bank, box=box)


def _check_head(store: Store, head: Head, open_note: OpenNote, *, behind: bool) -> None:
    try:
        checkpoint = open_note(head.epoch, head.checkpoint)
    except ValueError as problem:
        raise LedgerCorrupt(
            f"the head of epoch {head.epoch} has no checkpoint of this box: {problem}"
        ) from None
    covers_more = behind and checkpoint.size > head.size
    if not covers_more and (checkpoint.size, checkpoint.root) != (head.size, head.root):
        raise LedgerCorrupt(f"the head of epoch {head.epoch} is not the one that its checkpoint signs")
    for beyond in store.records(epoch=head.epoch, start=head.size, limit=1, bytes_max=1):
        raise LedgerCorrupt(f"record {head.epoch}/{beyond.seq} stands behind the head that was signed")
    root = frontier_at(head.size, store.node(head.epoch, head.size)).root()
    if root != head.root:
        raise LedgerCorrupt(f"the records of epoch {head.epoch} do not give the root that was signed")


def _from_snapshot(store: Store, head: Head, *, bank: str, box: str) -> tuple[Book, int, bytes]:
    """The newest sound snapshot's book, the seq of its record, and the leaf before that; else an empty
    book from 0."""
    history = StoreHistory(store)
    for image in store.latest_snapshots():
        epoch, seq = place_at(image.position)
        if epoch == head.epoch and seq < head.size:
            _check_image(store, image)
            try:
                book = snapshot.load(image.body, history=history)
            except msgspec.DecodeError:
                continue  # a newer program, whose trial is over, has taken it; the records say the same
            return (
                book,
                seq,
                store.records(epoch=epoch, start=seq - 1, limit=1, bytes_max=READ_BYTES_MAX)[0].leaf,
            )
    return Book(bank=bank, box=box, history=history), 0, FIRST_PREVIOUS


def _check_image(store: Store, image: Image) -> None:
    body = store.at(image.position)
    record = None if body is None else decode_record(body)
    sound = isinstance(record, SnapshotRecord) and record.digest == image.digest == snapshot.digest(
        image.body
    )
    if not sound:
        epoch, seq = place_at(image.position)
        raise LedgerCorrupt(f"the snapshot at {epoch}/{seq} has not the digest that its record names")


def _use_site(book: Book, store: Store, *, behind: bool) -> None:
    """Let the book decide by the site that its journal has put in force."""
    if not book.site_version:
        return
    site = _site(store, book.site_digest, behind=behind)
    held_to = book.standing.held_to
    beside = _site(store, held_to, behind=behind) if held_to else None
    for one in (site, beside):
        missing = hold_lists(store, book, one) if one is not None else ""
        if missing and behind:
            return
        if missing:
            raise LedgerCorrupt(f"list {missing} of the site's settings is not in the ledger")
    if site is not None:
        book.use_site(site, held_to=beside)


def _site(store: Store, digest: str, *, behind: bool) -> Site | None:
    bundle = store.site(digest)
    if bundle is None and not behind:
        raise LedgerCorrupt(f"site bundle {digest} of the journal is not in the ledger")
    return None if bundle is None else decode_site(bundle.bundle)


def _replayed(book: Book, body: bytes, *, place: str) -> Record:
    try:
        record = decode_record(body)
        book.replay(record)
        book.forget_fresh()
    except (msgspec.MsgspecError, ReplayError) as problem:
        raise LedgerCorrupt(f"record {place} does not replay: {problem}") from None
    return record


def read_records(store: Store, *, epoch: int, start: int, end: int) -> Iterator[tuple[int, bytes, bytes]]:
    """(seq, leaf, body) of an epoch's records [start, end), read in portions; LedgerCorrupt where one is
    missing."""
    while start < end:
        portion = store.records(
            epoch=epoch, start=start, limit=min(READ_RECORDS, end - start), bytes_max=READ_BYTES_MAX
        )
        for entry in portion:
            if entry.seq != start:
                break
            yield entry
            start += 1
        if not portion or portion[-1].seq != start - 1:
            raise LedgerCorrupt(f"record {epoch}/{start} is missing")
