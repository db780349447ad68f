"""Pruning: which records may go, what stays of them, and the work that takes them away (DESIGN §3.4, §8).

A record goes when the centre has cosigned it, the legal horizon is over by the centre's clock and by the
box's own, and nothing here needs it any more: a start, the open window, a live hold or a waiting stand-in.
Before anything is deleted it was chained and replayed once more. What was taken away is a record itself.
Leaves out the tables (`ledger.remains`) and when it is done (`app`, `commands.prune`).
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from edgegw.core import snapshot
from edgegw.core.book import Book
from edgegw.core.exchange import frontier_at
from edgegw.core.journal import FIRST_PREVIOUS, Cosignature, NoteError, journal_origin, leaf_hash, sm3
from edgegw.core.records import Operator, decode_record, parse_place, place_of
from edgegw.core.records import Snapshot as SnapshotRecord
from edgegw.core.tiles import TILE_WIDTH
from edgegw.errors import LedgerCorrupt
from edgegw.ledger.batch import Batch
from edgegw.ledger.history import kept_before, put_kept
from edgegw.ledger.remains import KEPT_FIRST, Base, Cut, Identity, Mark, Portion, identity_of, seal_place
from edgegw.ledger.replay import Replay
from edgegw.ledger.rows import Row, place_at, position_of
from edgegw.ledger.store import Head, Store

PORTION: Final = 2 * TILE_WIDTH
"""Records that one transaction takes away: some 10 ms of the loop."""
READ_EACH: Final = 128
"""Records replayed between two rests."""
GIVE_BACK_PAGES: Final = 256
"""Pages that one transaction hands back to the file system; it frees about 70."""
DAY_S: Final = 86_400
ACTION: Final = "prune"
OPERATOR: Final = "retention"

Work = Callable[[Batch], None]
"""What a pen writes in one batch."""


class Bound(msgspec.Struct, frozen=True):
    """Why records from seq `size` on stay."""

    rule: str
    """`cosigned`, `records_days`, `notices`, `snapshot`, `window`, `hold`, `last`, or a rule of the
    caller's."""
    size: int
    why: str


class Plan(msgspec.Struct, frozen=True):
    """What may go of one epoch: records [start, end)."""

    epoch: int
    start: int
    end: int
    bounds: tuple[Bound, ...]
    """All that was asked; the smallest has set the end."""
    whole: bool
    """The epoch is over: nothing of it is replayed any more."""

    @property
    def held_by(self) -> Bound:
        """What keeps the rest."""
        return min(self.bounds, key=lambda bound: bound.size)


class Done(msgspec.Struct, kw_only=True):
    """What was taken away of one epoch, and what keeps the rest."""

    epoch: int
    start: int
    end: int
    records: int = 0
    identities: int = 0
    """Of which one row each stays."""
    record_bytes: int = 0
    held_by: Bound


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """The detail of the record that tells of one portion, as JSON."""

    epoch: int
    start: int
    end: int
    records: int
    identities: int
    rule: str
    """What keeps the records from `end` on."""
    base: int
    base_digest: str
    """SM3 (hex) of the book from which the rest replays."""
    remains: str
    """SM3 (hex) over what stays of all pruned records of this ledger, this portion's too
    (`remains_digest`)."""


# --- what may go --------------------------------------------------------------------------------------------


def plans(
    store: Store,
    *,
    records_days: int,
    verify_cosignature: Callable[[str], Cosignature],
    beside: Sequence[Callable[[int], Bound | None]] = (),
) -> list[Plan]:
    """What may go of each epoch, oldest first; holds are looked at later (`work`), when their book is known.

    verify_cosignature opens a note of the hub and raises NoteError; beside are bounds that others set.
    """
    heads = store.heads()
    held = {head.epoch: _cosigned(store, head, verify_cosignature) for head in heads}
    now_s = max((one.time_s for one in held.values() if isinstance(one, Cosignature)), default=0)
    now_ns = _at_ns(store, heads[-1]) if heads else 0
    aged = _aged(store.pruned.marks(), records_days=records_days, now_s=now_s, now_ns=now_ns)
    found = []
    needed = store.late.oldest_needed()
    for head in heads:
        bounds = [_cosigned_bound(held[head.epoch])]
        if head.epoch in needed:
            size, client = needed[head.epoch]
            bounds.append(Bound("notices", size, f"client {client} has not acknowledged its notices"))
        days = f"the centre has had them for {records_days} days"
        bounds.append(
            Bound("records_days", aged.get(head.epoch, 0), f"of the rest it is not sure that {days}")
        )
        bounds += [bound for asked in beside if (bound := asked(head.epoch)) is not None]
        found.append(_plan(store, head, bounds, whole=head is not heads[-1]))
    return found


def _plan(store: Store, head: Head, bounds: list[Bound], *, whole: bool) -> Plan:
    start = store.pruned.horizon(head.epoch)
    if whole:
        all_of_it = min(bound.size for bound in bounds) >= head.size
        bounds.append(Bound("last", max(0, head.size - 1), "the last record of an epoch stays"))
        end = head.size - 1 if all_of_it else 0
    else:
        bounds += [_snapshot_bound(store, head), _window_bound(store, head)]
        end = min(bound.size for bound in bounds) // TILE_WIDTH * TILE_WIDTH
    return Plan(head.epoch, start, max(start, end), tuple(bounds), whole)


def new_marks(store: Store, *, verify_cosignature: Callable[[str], Cosignature]) -> list[Mark]:
    """What is to be remembered today: how much the centre says that it holds, and when it said so."""
    heads = store.heads()
    last = {mark.epoch: mark for mark in store.pruned.marks()}
    found = []
    for head in heads:
        held = _cosigned(store, head, verify_cosignature)
        if isinstance(held, str):
            continue
        before = last.get(head.epoch)
        if before is None or (held.checkpoint.size > before.size and held.time_s >= before.hub_s + DAY_S):
            mark = Mark(head.epoch, held.checkpoint.size, held.time_s, _at_ns(store, heads[-1]))
            found.append(mark)
    return found


def remember(marks: Sequence[Mark]) -> Work:
    """The work that keeps marks."""

    def run(batch: Batch) -> None:
        for mark in marks:
            batch.desk.store.pruned.put_mark(mark)
        batch.touched = True

    return run


def _aged(marks: Sequence[Mark], *, records_days: int, now_s: int, now_ns: int) -> dict[int, int]:
    """How much of each epoch is older than the horizon, by both clocks: one alone may have been set wrong."""
    if not records_days:
        return {}
    span_s = records_days * DAY_S
    return {
        mark.epoch: mark.size
        for mark in marks
        if now_s - mark.hub_s >= span_s and now_ns - mark.at_ns >= span_s * 1_000_000_000
    }


def _at_ns(store: Store, head: Head) -> int:
    """The box's own time at the last record."""
    for entry in store.records(epoch=head.epoch, start=head.size - 1, limit=1, bytes_max=1):
        return decode_record(entry.body).at_ns
    return 0


def _cosigned(
    store: Store, head: Head, verify_cosignature: Callable[[str], Cosignature]
) -> Cosignature | str:
    """The centre's word on an epoch, held against the tree that is here; else why it does not count."""
    kept = store.cosignature(head.epoch)
    if kept is None:
        return "the centre has cosigned none of it"
    try:
        said = verify_cosignature(kept[1])
    except NoteError as problem:
        return f"the centre's cosignature does not verify: {problem}"
    size = said.checkpoint.size
    origin = journal_origin(bank=store.meta("bank") or "", box=store.meta("box") or "", epoch=head.epoch)
    if said.checkpoint.origin != origin or not 0 < size <= head.size:
        return f"the centre has cosigned size {size} of {said.checkpoint.origin}"
    if frontier_at(size, store.node(head.epoch, size)).root() != said.checkpoint.root:
        return f"the centre has cosigned another root at size {size}"
    return said


def _cosigned_bound(held: Cosignature | str) -> Bound:
    if isinstance(held, str):
        return Bound("cosigned", 0, held)
    return Bound("cosigned", held.checkpoint.size, "the centre has not cosigned the rest")


def _snapshot_bound(store: Store, head: Head) -> Bound:
    """A start needs the newest sound snapshot and all behind it; the one before stays whole, too."""
    images = [image for image in store.latest_snapshots() if place_at(image.position)[0] == head.epoch]
    for image in images:
        body = store.at(image.position)
        record = None if body is None else decode_record(body)
        digest = snapshot.digest(image.body)
        if not isinstance(record, SnapshotRecord) or not record.digest == image.digest == digest:
            return Bound(
                "snapshot", 0, f"the snapshot at {head.epoch}/{place_at(image.position)[1]} is not sound"
            )
    if not images:
        return Bound("snapshot", 0, "no snapshot of this epoch was taken yet")
    seq = place_at(images[-1].position)[1]
    return Bound(
        "snapshot", max(0, seq - 1), f"a start needs what follows the snapshot at {head.epoch}/{seq}"
    )


def _window_bound(store: Store, head: Head) -> Bound:
    newest = store.pruned.newest_window(head.epoch)
    if newest is None:
        return Bound("window", 0, "no window of this epoch was closed yet")
    return Bound("window", newest, "the rest belongs to the open window")


def first_held(book: Book) -> int | None:
    """The seq of the oldest record that a live hold or a waiting stand-in of this book needs."""
    live = [place_of(number) for number, _ in book.ledger.transfers.items() if book.ledger.is_live(number)]
    return min((seq for epoch, seq, _ in live if epoch == book.epoch), default=None)


# --- the work -----------------------------------------------------------------------------------------------


def settled(store: Store, plan: Plan) -> Iterator[tuple[Plan, Base] | None]:
    """Replay up to the plan's end; yields None after each READ_EACH records, and last the plan with what live
    holds keep, and the book from which the rest replays. Raises LedgerCorrupt for what does not replay."""
    if plan.end <= plan.start:
        return
    if plan.whole:
        yield plan, Base(plan.epoch, plan.end + 1, b"", "")
        return
    replay = Replay(store, bank=store.meta("bank") or "", box=store.meta("box") or "")
    seq = replay.begin(plan.epoch) or 0
    while seq < plan.end:
        rows = store.rows(epoch=plan.epoch, start=seq, limit=min(READ_EACH, plan.end - seq))
        for row in rows:
            _replayed(replay, row, position_of(epoch=plan.epoch, seq=seq))
            seq += 1
        if not rows:
            raise LedgerCorrupt(f"record {plan.epoch}/{seq} is missing")
        yield None
    held = first_held(replay.book)
    if held is not None and held < plan.end:
        bound = Bound("hold", held, f"the hold or stand-in {plan.epoch}/{held} is not resolved")
        end = max(plan.start, held // TILE_WIDTH * TILE_WIDTH)
        plan = msgspec.structs.replace(plan, end=end, bounds=(*plan.bounds, bound))
    image = snapshot.dump(replay.book)
    yield plan, Base(plan.epoch, seq, image, snapshot.digest(image))


def _replayed(replay: Replay, row: Row, position: int) -> None:
    place = "/".join(map(str, place_at(position)))
    if row.position != position:
        raise LedgerCorrupt(f"record {place} is missing")
    try:
        replay.take(decode_record(row.body))
    except Exception as problem:  # whatever the book objects to, nothing is taken away then
        raise LedgerCorrupt(f"record {place} does not replay: {problem}") from problem


def work(store: Store, plan: Plan, done: Done) -> Iterator[Work | None]:
    """The portions of one epoch's pruning: None is a rest, anything else must be written before the next one.

    store is a reader of its own; done is counted up. Raises LedgerCorrupt before anything wrong is deleted.
    """
    for step in settled(store, plan):
        if step is None:
            yield None
            continue
        plan, base = step
        done.end, done.held_by = plan.start, plan.held_by
        for start in range(plan.start, plan.end, PORTION):
            rows = _rows(store, plan.epoch, start, min(start + PORTION, plan.end))
            cut = _cut(rows, whole=plan.whole)
            yield _taking(store, cut, base, plan.held_by.rule, records=len(rows) - len(cut.kept))
            done.end = cut.portion.end
            done.records += len(rows) - len(cut.kept)
            done.identities += len(cut.identities)
            done.record_bytes += sum(len(row.body) for row in rows[len(cut.kept) :])


def give_back(batch: Batch) -> None:
    """The work that hands free pages back to the file system."""
    batch.desk.store.pruned.give_back(GIVE_BACK_PAGES)
    batch.touched = True


def _rows(store: Store, epoch: int, start: int, end: int) -> list[Row]:
    """The rows [start, end), each chained to the one before; LedgerCorrupt where one is not."""
    rows = store.rows(epoch=epoch, start=start, limit=end - start)
    previous = store.node(epoch, start)(0, start - 1) if start else FIRST_PREVIOUS
    for seq, row in enumerate(rows, start):
        chained = leaf_hash(previous, row.body) == row.leaf
        if row.position != position_of(epoch=epoch, seq=seq) or not chained:
            raise LedgerCorrupt(f"record {epoch}/{seq} is not the one that was chained")
        previous = row.leaf
    if len(rows) != end - start:
        raise LedgerCorrupt(f"record {epoch}/{start + len(rows)} is missing")
    return rows


def _cut(rows: Sequence[Row], *, whole: bool) -> Cut:
    epoch, start = place_at(rows[0].position)
    end = start + len(rows)
    # The first tile's leaves prove the epoch's keys, the last incomplete one's the tree's right edge.
    first_needed = end // TILE_WIDTH * TILE_WIDTH if whole else end - 1
    leaves = [
        (seq, row.leaf)
        for seq, row in enumerate(rows, start)
        if seq < TILE_WIDTH or seq >= first_needed or seq == end - 1
    ]
    kept = tuple(range(start, min(end, KEPT_FIRST)))
    identities = [identity_of(row) for row in rows if row.id is not None]
    return Cut(Portion(epoch, start, end, portion_digest(identities)), identities, leaves, kept)


def portion_digest(identities: Sequence[Identity]) -> bytes:
    """SM3 over what stays of one portion, by id and client."""
    return sm3(b"".join(_mark_of(row) for row in sorted(identities)))


def _mark_of(row: Identity) -> bytes:
    return sm3(seal_place(row) + row.remains)


def remains_digest(portions: Sequence[Portion]) -> str:
    """SM3 (hex) over portions by epoch and start, each with its place, chained."""
    value = bytes(32)
    for portion in sorted(portions):
        place = b"".join(number.to_bytes(8, "big") for number in portion[:3])
        value = sm3(value + place + portion.digest)
    return value.hex()


def _taking(store: Store, cut: Cut, base: Base, rule: str, *, records: int) -> Work:
    """The work that takes one portion away and writes down that it did."""
    portion = cut.portion
    known = next((one for one in store.pruned.horizons() if one.epoch == portion.epoch), None)
    moved = known is None or (known.base, known.digest) != (base.seq, base.digest)
    note = Note(
        epoch=portion.epoch,
        start=portion.start,
        end=portion.end,
        records=records,
        identities=len(cut.identities),
        rule=rule,
        base=base.seq,
        base_digest=base.digest,
        remains=remains_digest([*store.pruned.portions(), portion]),
    )

    def run(batch: Batch) -> None:
        writer = batch.desk.store
        if moved:
            writer.pruned.move_base(base)
        _keep_reversals(writer, batch.desk.book, portion)
        writer.pruned.cut(cut)
        detail = msgspec.json.encode(note).decode()
        batch.note_and_write(Operator(**batch.head(), operator=OPERATOR, action=ACTION, detail=detail))
        writer.pruned.give_back(GIVE_BACK_PAGES)

    return run


def _keep_reversals(store: Store, book: Book, portion: Portion) -> None:
    """A reversal that still waits for its original wins in every later epoch, too, without its record."""
    waiting = {
        identity: place
        for identity, place in book.kept.items()
        if (portion.epoch, portion.start) <= parse_place(place) < (portion.epoch, portion.end)
    }
    if waiting:
        put_kept(store, kept_before(store) | waiting)


# --- what stays, read again ---------------------------------------------------------------------------------


def told_by(record: Operator) -> Note | None:
    """What a record says of pruning, None for any other operator's record."""
    if (record.operator, record.action) != (OPERATOR, ACTION):
        return None
    try:
        return msgspec.json.decode(record.detail, type=Note)
    except msgspec.MsgspecError:
        return None


class Remainder:
    """Reads all that stays of pruned records, a run at a time, and says where it is not what was kept."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._portions = store.pruned.portions()
        self._starts = [(portion.epoch, portion.start) for portion in self._portions]
        self._sums = [hashlib.new("sm3") for _ in self._portions]
        self._astray: list[str] = []

    def read(self, each: int) -> Iterator[int]:
        """Yields how many rows a run had."""
        for rows in self._store.pruned.identities(each):
            for row in rows:
                epoch, seq = place_at(row.position)
                index = bisect.bisect_right(self._starts, (epoch, seq)) - 1
                portion = self._portions[index] if index >= 0 else None
                if portion is None or portion.epoch != epoch or seq >= portion.end:
                    self._astray.append(f"{epoch}/{seq}")
                else:
                    self._sums[index].update(_mark_of(row))
            yield len(rows)

    def problems(self) -> Iterator[tuple[str, str]]:
        """(place, problem) once all was read."""
        for place in self._astray[:1]:
            yield place, f"{len(self._astray)} identities stay of records that were not pruned"
        for portion, found in zip(self._portions, self._sums, strict=True):
            if found.digest() != portion.digest:
                yield (
                    f"{portion.epoch}/{portion.start}",
                    f"what stays of records up to {portion.end - 1} was changed",
                )
        for horizon in self._store.pruned.horizons():
            ends = [0, *(portion.end for portion in self._portions if portion.epoch == horizon.epoch)]
            starts = [portion.start for portion in self._portions if portion.epoch == horizon.epoch]
            if starts != ends[:-1] or ends[-1] != horizon.size:
                yield f"{horizon.epoch}/{horizon.size}", "the pruned portions do not lead to the horizon"

    def contradictions(self, newest: Note | None, by_epoch: Mapping[int, Note]) -> Iterator[tuple[str, str]]:
        """(place, problem) where the journal tells something else than what is kept."""
        if newest is None or newest.remains != remains_digest(self._portions):
            yield "", "what stays is not what the journal's newest record about pruning says"
        for horizon in self._store.pruned.horizons():
            told = by_epoch.get(horizon.epoch)
            if horizon.digest and (
                told is None or (told.base, told.base_digest) != (horizon.base, horizon.digest)
            ):
                place = f"{horizon.epoch}/{horizon.base}"
                yield place, "the book from which the rest replays is not the one that the journal names"
