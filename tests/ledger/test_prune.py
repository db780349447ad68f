"""Pruning: only what may go goes; repeats, conflicts, proofs, starts and checks are as before."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgegw.core.decide import Funding
from edgegw.core.exchange import frontier_at
from edgegw.core.journal import Checkpoint, consistency_proof, inclusion_proof, journal_origin
from edgegw.core.reasons import Reason
from edgegw.core.records import Kind, Refusal, Request, Transfer, decode_record
from edgegw.errors import BrokenInvariant, LedgerCorrupt, RecordPruned, StorageBusy
from edgegw.ledger import prune
from edgegw.ledger.batch import Batch
from edgegw.ledger.check import Report, check
from edgegw.ledger.export import export_journal
from edgegw.ledger.history import kept_before
from edgegw.ledger.outcomes import Budget, Conflict, Decision, Outcome, Recalled
from edgegw.ledger.prune import Done, Plan
from edgegw.ledger.remains import Base
from edgegw.ledger.replay import Replay
from edgegw.ledger.rows import position_of
from edgegw.ledger.scrub import scrub
from edgegw.ledger.start import Ways, begin_epoch
from edgegw.ledger.store import Store
from edgegw.ledger.writer import take_snapshot
from edgegw.payments.answer import PRUNED, answer_from, answer_from_pruned
from edgegw.payments.answer import Outcome as Said
from tests.ledger.pens import HUB, TestPen, new_store
from tests.ledger.running_box import KEY, START_NS, TestClock, enrol, open_pen, own, payment, running

DAY_S = prune.DAY_S
START_S = START_NS // 10**9
DAYS = 30
DOWN = Funding(line_up=False, reason="line_down")


def hold(number: int, amount_minor: int = 10) -> Request:
    return msgspec.structs.replace(payment(number, amount_minor), kind=Kind.HOLD)


def about(number: int, original: int, kind: Kind = Kind.REVERSAL) -> Request:
    return Request(kind=kind, id=f"{number:032x}", original_id=f"{original:032x}")


class PrunedBox:
    """A pen with days that pass, and a centre that cosigns."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = TestClock()
        self.pen = open_pen(directory, self.clock)
        self.paid = 0

    async def pay(self, count: int) -> list[Outcome]:
        numbers = range(self.paid + 1, self.paid + 1 + count)
        self.paid += count
        return await self.pen.decide("till", [payment(number, 1) for number in numbers], DOWN)

    async def ask(self, *requests: Request) -> list[Outcome]:
        return await self.pen.decide("till", requests, DOWN)

    async def close_window(self) -> None:
        await self.pen.close_window(business_date="2027-01-15", closed_by="test")

    async def snapshot(self) -> None:
        await self.pen.work(take_snapshot)

    async def cosign(self) -> None:
        tip = self.pen.desk.tip
        origin = journal_origin(bank="demo", box="box-1", epoch=tip.epoch)
        body = Checkpoint(origin, tip.size, tip.frontier.root())
        note = HUB.cosign(body, time_s=self.clock.wall // 10**9)
        await self.pen.keep_cosignature(epoch=tip.epoch, size=tip.size, note=note)

    async def pass_days(self, days: int) -> None:
        self.clock.pass_seconds(days * DAY_S)
        await self.pen.operator(operator="test", action="day", detail="")
        await self.cosign()

    async def remember(self) -> None:
        store = self.pen.desk.store
        marks = prune.new_marks(store, verify_cosignature=HUB.public.check_cosignature)
        await self.pen.work(prune.remember(marks))

    def plans(self, days: int = DAYS) -> list[Plan]:
        return prune.plans(
            self.pen.desk.store, records_days=days, verify_cosignature=HUB.public.check_cosignature
        )

    async def prune(self, days: int = DAYS) -> Done:
        """Prune the newest epoch; what was done."""
        plan = self.plans(days)[-1]
        done = Done(epoch=plan.epoch, start=plan.start, end=plan.start, held_by=plan.held_by)
        reader = self.pen.desk.store.reader()
        for step in prune.work(reader, plan, done):
            if step is not None:
                await self.pen.work(step)
        reader.close()
        return done

    async def old_day(self, payments: int = 600) -> list[Outcome]:
        """A day of payments, closed, cosigned and remembered, and then DAYS of nothing."""
        outcomes = await self.pay(payments)
        await self.close_window()
        await self.snapshot()
        await self.snapshot()
        await self.cosign()
        await self.remember()
        await self.pass_days(DAYS + 1)
        return outcomes

    def check(self) -> Report:
        return full_check(self.pen.desk.store)


def full_check(store: Store) -> Report:
    return check(
        store,
        verify_checkpoint=lambda note: (
            Checkpoint("edgegw/demo/hub/box-1/1", 2, b"")
            if note == "the hub's note"
            else KEY.public.open(note)
        ),
        verify_cosignature=HUB.public.check_cosignature,
        progress=lambda *_: None,
        replay=Replay(store, bank="demo", box="box-1").take,
    )


def findings(report: Report) -> list[str]:
    """What is wrong, but for the directives' made-up note."""
    return [str(finding) for finding in report.findings if finding.what != "directives"]


@asynccontextmanager
async def box(directory: Path, *, granted_minor: int = 100_000) -> AsyncIterator[PrunedBox]:
    one = PrunedBox(directory)
    async with running(one.pen):
        await enrol(one.pen, granted_minor=granted_minor)
        yield one


async def test_a_repeat_of_a_pruned_payment_is_its_first_decision(tmp_path: Path) -> None:
    """Same status, funding and place; nothing moves twice because the box forgot."""
    async with box(tmp_path) as one:
        first = await one.old_day()
        before = one.pen.desk.book.available("anna")
        done = await one.prune()
        assert done.end == 512
        assert done.identities > 500
        again = await one.ask(*(payment(number, 1) for number in range(1, 601)))
        assert one.pen.desk.book.available("anna") == before
        for old, new in zip(first, again, strict=True):
            assert isinstance(old, Decision)
            answer = answer_from(old.record)
            if isinstance(new, Recalled):
                recalled = answer_from_pruned(new.pruned, box="box-1", request=new.request)
                assert recalled == msgspec.structs.replace(answer, detail=PRUNED, legs=())
                assert recalled.outcome is Said.CLEARED
            else:
                assert isinstance(new, Decision)
                assert (new.repeat, new.body) == (True, old.body)
        assert sum(isinstance(new, Recalled) for new in again) == done.identities
        assert findings(one.check()) == []


async def test_a_pruned_identity_with_other_content_is_a_conflict(tmp_path: Path) -> None:
    """Another amount under an old id is never decided anew."""
    async with box(tmp_path) as one:
        await one.old_day()
        await one.prune()
        size = one.pen.desk.tip.size
        [outcome] = await one.ask(payment(5, 2))
        assert outcome == Conflict("", None)
        assert one.pen.desk.tip.size == size


@pytest.mark.parametrize("kind", [Kind.REVERSAL, Kind.POST, Kind.VOID])
async def test_what_names_a_pruned_original_moves_nothing(tmp_path: Path, kind: Kind) -> None:
    """The box cannot know any more what was given back already; the centre can."""
    async with box(tmp_path) as one:
        await one.old_day()
        await one.prune()
        before = one.pen.desk.book.available("anna"), one.pen.desk.book.available("shop")
        [outcome] = await one.ask(about(9_000, 7, kind))
        assert isinstance(outcome, Decision)
        assert isinstance(outcome.record, Refusal)
        assert outcome.record.code == Reason.RECORD_PRUNED
        assert (one.pen.desk.book.available("anna"), one.pen.desk.book.available("shop")) == before
        [again] = await one.ask(about(9_000, 7, kind))
        assert isinstance(again, Decision)
        assert (again.repeat, again.body) == (True, outcome.body)


async def test_a_refusal_stays_refused_when_its_record_is_pruned(tmp_path: Path) -> None:
    """A refused id burns for ever; money that came since does not change that."""
    async with box(tmp_path) as one:
        [refused] = await one.ask(payment(7_777, 999_999))
        assert isinstance(refused, Decision)
        assert isinstance(refused.record, Refusal)
        await one.old_day()
        await one.prune()
        [again] = await one.ask(payment(7_777, 999_999))
        assert isinstance(again, Recalled)
        answer = answer_from_pruned(again.pruned, box="box-1", request=again.request)
        assert (answer.outcome, answer.reason) == (Said.REFUSED, refused.record.code)


async def test_three_pruned_windows_leave_a_box_that_starts_and_checks(tmp_path: Path) -> None:
    """Snapshot and tail, the whole replay from the horizon on, the scrub: as if nothing had gone."""
    async with box(tmp_path) as one:
        for _ in range(3):
            await one.old_day(500)
        done = await one.prune()
        assert done.end >= 1_280
        await one.pay(10)
        report = one.check()
        assert findings(report) == []
        assert report.pruned == done.end
        assert report.records == one.pen.desk.tip.size - done.end
        assert sum(scrub(one.pen.desk.store)) > report.records
        balances = {name: one.pen.desk.book.balance(name) for name in ("anna", "shop")}
    again = open_pen(tmp_path, one.clock, boot="boot-2")
    async with running(again):
        assert {name: again.desk.book.balance(name) for name in ("anna", "shop")} == balances
        [repeat] = await again.decide("till", [payment(3, 1)], DOWN)
        assert isinstance(repeat, Recalled)
        assert findings(full_check(again.desk.store)) == []


async def test_nothing_goes_before_its_time(tmp_path: Path) -> None:
    """Every rule by itself keeps the records, and the plan says which one it is."""
    async with box(tmp_path) as one:
        await one.pay(600)
        assert one.plans()[-1].held_by.rule == "cosigned"
        await one.cosign()
        assert one.plans()[-1].held_by.rule == "records_days"
        await one.remember()
        await one.pass_days(DAYS - 1)
        assert one.plans()[-1].held_by.rule == "records_days"
        await one.pass_days(2)
        rules = {bound.rule: bound.size for bound in one.plans()[-1].bounds}
        assert rules["records_days"] > 512
        assert rules["window"] == rules["snapshot"] == 0
        await one.close_window()
        await one.snapshot()
        plan = one.plans()[-1]
        assert plan.end == 512
        assert one.plans(days=0)[-1].end == 0


async def test_a_clock_that_jumps_ahead_alone_prunes_nothing(tmp_path: Path) -> None:
    """The centre's clock and the box's own must agree: either may have been set wrong."""
    async with box(tmp_path) as one:
        await one.old_day()
        one_sided = [
            prune._aged(one.pen.desk.store.pruned.marks(), records_days=DAYS, now_s=now_s, now_ns=now_ns)
            for now_s, now_ns in [(START_S + 10**9, START_NS), (START_S, START_NS + 10**18)]
        ]
        assert one_sided == [{}, {}]


async def test_a_live_hold_keeps_its_record_and_all_behind_it(tmp_path: Path) -> None:
    """Its post needs the record; once it is resolved the rest may go."""
    async with box(tmp_path) as one:
        await one.pay(300)
        [held] = await one.ask(hold(8_000))
        assert isinstance(held, Decision)
        await one.old_day(600)
        done = await one.prune()
        assert (done.end, done.held_by.rule) == (256, "hold")
        assert findings(one.check()) == []
        [posted] = await one.ask(about(8_001, 8_000, Kind.POST))
        assert isinstance(posted, Decision)
        assert isinstance(posted.record, Transfer)
        assert findings(one.check()) == []
        await one.old_day(600)
        done = await one.prune()
        assert (done.start, done.end) == (256, 1_280)
        assert findings(one.check()) == []


async def test_a_reversal_takes_the_same_off_the_limits_when_its_original_is_pruned(tmp_path: Path) -> None:
    """Else the rest does not replay to the snapshots that the box has signed: checks, pruning end there."""
    async with box(tmp_path) as one:
        await one.pay(531)
        [reversed_] = await one.ask(about(10_000, one.paid - 39))
        assert isinstance(reversed_, Decision)
        assert isinstance(reversed_.record, Transfer)
        await one.snapshot()
        await one.old_day(0)
        done = await one.prune()
        original = int(reversed_.record.original.removeprefix("1/"))
        assert original < done.end == 512 < reversed_.record.seq
        assert findings(one.check()) == []


async def test_a_reversal_that_waits_for_its_original_wins_after_it_was_pruned(tmp_path: Path) -> None:
    """The original may come a year later; it is refused all the same."""
    async with box(tmp_path) as one:
        await one.ask(about(8_000, 8_888))
        await one.old_day()
        await one.prune()
        [late] = await one.ask(payment(8_888))
        assert isinstance(late, Decision)
        assert isinstance(late.record, Refusal)
        assert late.record.code == Reason.ALREADY_REVERSED
        assert ("till", f"{8_888:032x}") in kept_before(one.pen.desk.store)


async def test_pruning_above_what_the_centre_has_cosigned_is_impossible(tmp_path: Path) -> None:
    """Even a plan that is wrong is stopped by the file itself, and nothing of it stays."""
    async with box(tmp_path) as one:
        await one.pay(600)
        store = one.pen.desk.store
        plan = Plan(1, 0, 512, one.plans()[-1].bounds, False)
        steps = prune.work(store.reader(), plan, Done(epoch=1, start=0, end=0, held_by=plan.held_by))
        step = next(step for step in steps if step is not None)
        with pytest.raises(BrokenInvariant, match="only what the centre has cosigned"):
            one.pen.commit_now(step)
        assert store.pruned.horizons() == []
        assert findings(one.check()) == []


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM record WHERE position >= {above}",
        "UPDATE record SET body = x'00' WHERE position = {above}",
        "DELETE FROM record WHERE type IN ('link', 'key')",
        "DELETE FROM identity",
        "UPDATE identity SET remains = x'00'",
        "DELETE FROM horizon",
        "UPDATE horizon SET size = size - 256",
        "UPDATE horizon SET size = 100000",
        "INSERT OR REPLACE INTO horizon VALUES(1, 100000, 0, '', x'')",
        "INSERT INTO horizon VALUES(2, 256, 0, '', x'')",
        "DELETE FROM cosignature",
        "UPDATE cosignature SET size = 100",
        "INSERT OR REPLACE INTO record VALUES({above}, 'transfer', 'c', x'00', NULL, x'00', x'00')",
    ],
)
async def test_the_file_itself_lets_nothing_else_be_deleted(tmp_path: Path, statement: str) -> None:
    """Above the horizon nothing, below it no identity, and the horizon only rises, to what is cosigned."""
    async with box(tmp_path) as one:
        await one.old_day()
        await one.prune()
        above = position_of(epoch=1, seq=512)
        connection = one.pen.desk.store._db
        with pytest.raises(apsw.ConstraintError):
            connection.execute(statement.format(above=above))


async def test_the_file_shrinks_by_what_was_pruned(tmp_path: Path) -> None:
    """Retention that does not shrink the file is none: most of each record's bytes come back."""
    async with box(tmp_path) as one:
        await one.old_day(3_000)
        one.pen.desk.store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        before = (tmp_path / "ledger.db").stat().st_size
        done = await one.prune()
        while one.pen.desk.store.pruned.file_size().free:
            await one.pen.work(prune.give_back)
        one.pen.desk.store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        freed = before - (tmp_path / "ledger.db").stat().st_size
        assert done.records > 2_500
        assert freed > 0.5 * done.record_bytes
        assert findings(one.check()) == []


async def test_an_export_from_the_horizon_on_verifies(tmp_path: Path) -> None:
    """The verifier needs nothing but the tree's edge and the leaf before; a wrong edge is found."""
    from edgegw import verifier

    async with box(tmp_path) as one:
        await one.old_day()
        await one.prune()
        file = io.BytesIO()
        export_journal(one.pen.desk.store, file, epoch=1, progress=lambda *_: None)
    path = tmp_path / "journal"
    path.write_bytes(file.getvalue())
    arguments = ["--box-key", KEY.public.text(), "--hub-key", HUB.public.text(), "journal", str(path)]
    assert verifier.main(arguments) == 0
    header, *rest = file.getvalue().splitlines(keepends=True)
    spoilt = msgspec.json.decode(header)
    spoilt["peaks"][0] = "00" * 32
    path.write_bytes(msgspec.json.encode(spoilt) + b"\n" + b"".join(rest))
    assert verifier.main(arguments) == 1


async def test_what_stays_is_found_when_it_is_changed(tmp_path: Path) -> None:
    """A refusal turned into an approval in the table of identities is no answer, and the check names it."""
    async with box(tmp_path) as one:
        await one.old_day()
        await one.prune()
        store = one.pen.desk.store
        store._db.execute("DROP TRIGGER identity_keeps_content")
        store._db.execute("UPDATE identity SET remains = CAST(zeroblob(90) AS BLOB)")
        with pytest.raises(LedgerCorrupt, match="has rotted"):
            store.find([("till", f"{3:032x}")])
        assert {finding.what for finding in one.check().findings} >= {"pruned"}
        with pytest.raises(LedgerCorrupt, match="was changed"):
            list(scrub(store))


async def test_what_was_promised_is_what_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a box that started twice before its first payment: only the first start proves anything."""
    one = PrunedBox(tmp_path)
    link = one.pen.write_link

    def link_and_second_boot(batch: Batch, *, note: str, epoch: int) -> None:
        link(batch, note=note, epoch=epoch)
        one.pen.write_boot(batch)

    monkeypatch.setattr(one.pen, "write_link", link_and_second_boot)
    async with running(one.pen):
        await enrol(one.pen, granted_minor=100_000)
        await one.old_day()
        plan = one.plans()[-1]
        promised = one.pen.desk.store.pruned.weight(1, plan.start, plan.end)
        done = await one.prune()
        assert promised == (done.records, done.identities, done.record_bytes)
        assert promised.records == plan.end - len(("link", "key", "boot"))
        assert findings(one.check()) == []


async def test_records_that_were_pruned_are_refused_by_name(tmp_path: Path) -> None:
    """Whoever needs them, a new mirror or a hub that was set back, must not take it for a fork."""
    async with box(tmp_path) as one:
        await one.old_day()
        await one.prune()
        store = one.pen.desk.store
        kept = store.records(epoch=1, start=0, limit=10, bytes_max=10**6)
        assert [decode_record(entry.body).__struct_config__.tag for entry in kept] == ["link", "key", "boot"]
        with pytest.raises(RecordPruned):
            store.records(epoch=1, start=3, limit=10, bytes_max=10**6)
        with pytest.raises(RecordPruned):
            frontier_at(300, store.node(1, one.pen.desk.tip.size))
        assert store.at(position_of(epoch=1, seq=300)) is None


class Stopped(Exception):
    """The process ends here."""


async def test_a_stop_at_any_statement_leaves_the_ledger_as_before_or_after(tmp_path: Path) -> None:
    """Half a portion is never there: each statement of it is stopped once."""
    async with box(tmp_path) as one:
        await one.old_day()
        store, connection = one.pen.desk.store, one.pen.desk.store._db
        plan = one.plans()[-1]
        reader = store.reader()
        stop_at, stops = 0, 0
        while True:
            steps = prune.work(reader, plan, Done(epoch=1, start=0, end=0, held_by=plan.held_by))
            step = next(step for step in steps if step is not None)
            stop_at += 1
            connection.exec_trace = StopAt(stop_at)
            try:
                one.pen.commit_now(step)
            except Stopped:
                stops += 1
            finally:
                connection.exec_trace = None
            store.rollback()
            if store.pruned.horizons():
                break
            assert findings(one.check()) == []
        assert stops > 8
        assert findings(one.check()) == []


class StopAt:
    """Stops the process at a statement, counted without the rows of one."""

    def __init__(self, left: int) -> None:
        self._left = left
        self._last = ""

    def __call__(self, cursor: Any, statement: str, bindings: Any) -> bool:
        if statement != self._last:
            self._left -= 1
            self._last = statement
        if not self._left:
            raise Stopped(statement)
        return True


async def test_a_kill_while_it_prunes_leaves_a_sound_ledger_that_goes_on(tmp_path: Path) -> None:
    """SIGKILL is no exception: nothing is rolled back but by the next process that opens the file."""
    async with box(tmp_path) as one:
        await one.old_day(1_600)
        clock = one.clock
    ends = [0]
    while ends[-1] < 1_536:
        ends.append(_killed(tmp_path, clock, before=ends[-1]))
        assert len(ends) < 20
    assert len(ends) > 2
    again = open_pen(tmp_path, clock, boot="boot-2")
    async with running(again):
        [repeat] = await again.decide("till", [payment(3, 1)], DOWN)
        assert isinstance(repeat, Recalled)


def _killed(directory: Path, clock: TestClock, *, before: int) -> int:
    """The horizon after a process that raised it was killed; the ledger is sound."""
    may_step, step = os.pipe()
    child = os.fork()
    if not child:
        os.close(step)
        _prune_and_exit(directory, clock, may_step)
    # A step for each look: however slow the looking is, the child does not come to its end meanwhile.
    while _horizon(directory) <= before and os.waitpid(child, os.WNOHANG) == (0, 0):
        os.write(step, b".")
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    os.close(may_step)
    os.close(step)
    reader = Store.open_reader(directory / "ledger.db")
    assert findings(full_check(reader)) == []
    reader.close()
    return _horizon(directory)


def _horizon(directory: Path) -> int:
    try:
        reader = Store.open_reader(directory / "ledger.db")
    except StorageBusy:
        return 0  # The child recovers the WAL of the one before.
    horizon = reader.pruned.horizon(1)
    reader.close()
    return horizon


def _prune_and_exit(directory: Path, clock: TestClock, may_step: int) -> None:
    """Prune until killed, in a process of its own that ends without the tests' own end."""
    try:
        pen = open_pen(directory, clock, boot=f"boot-{os.getpid()}")
        reader = pen.desk.store.reader()
        [plan] = prune.plans(reader, records_days=DAYS, verify_cosignature=HUB.public.check_cosignature)
        for step in prune.work(reader, plan, Done(epoch=1, start=0, end=0, held_by=plan.held_by)):
            if step is not None:
                os.read(may_step, 1)
                pen.commit_now(step)
    finally:
        os._exit(0)


# --- proofs, over records of no meaning ---------------------------------------------------------------------


def prune_at(store: Store, horizon: int, *, portion: int) -> None:
    """Prune a test pen's epoch up to a horizon, without asking why."""
    store.begin()
    store.pruned.move_base(Base(1, horizon, b"", ""))
    for start in range(0, horizon, portion):
        rows = prune._rows(store, 1, start, min(start + portion, horizon))
        store.pruned.cut(prune._cut(rows, whole=start + portion >= horizon))
    store._db.execute("COMMIT")


@settings(max_examples=12, deadline=None)
@given(data=st.data(), size=st.integers(2, 1_500))
def test_every_proof_is_the_one_it_was_before(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, size: int
) -> None:
    """Against the same checkpoints, whatever the size and wherever the horizon."""
    whole = data.draw(st.booleans())
    horizon = size - 1 if whole else data.draw(st.integers(0, (size - 1) // 256)) * 256
    store = new_store(tmp_path_factory.mktemp("proofs"))
    pen = TestPen(store)
    pen.write_transfers(size)
    pen.cosign(size)
    old_sizes = sorted({*data.draw(st.lists(st.integers(max(1, horizon), size), max_size=8)), size})
    before = _proofs(store, horizon, old_sizes, size)
    prune_at(store, horizon, portion=data.draw(st.sampled_from([256, 512, 1_024])))
    assert _proofs(store, horizon, old_sizes, size) == before
    store.close()


def _proofs(store: Store, horizon: int, old_sizes: list[int], size: int) -> list[list[bytes]]:
    seqs = [*range(horizon, size, max(1, (size - horizon) // 20)), size - 1, 0]
    return [
        *(inclusion_proof(seq, size, store.node(1, size)) for seq in seqs),
        *(consistency_proof(old, size, store.node(1, size)) for old in old_sizes),
        *([frontier_at(old, store.node(1, size)).to_bytes()] for old in old_sizes),
        *(inclusion_proof(old - 1, old, store.node(1, old)) for old in old_sizes if old > horizon),
    ]


async def test_an_epoch_that_is_over_goes_but_for_its_last_record(tmp_path: Path) -> None:
    """Repeats of it are answered in the next epochs, which begin on the ledger as before."""
    clock = TestClock()
    async with box(tmp_path) as one:
        first = await one.pay(600)
        await one.ask(about(8_000, 8_888))
        await one.cosign()
        size, clock = one.pen.desk.tip.size, one.clock
    clock.pass_seconds(1)
    store = Store.open(tmp_path / "ledger.db")
    pen = begin_epoch(store, own("boot-2"), ways(clock), note="the link", epoch=2)
    async with running(pen):
        two = PrunedBox.__new__(PrunedBox)
        two.directory, two.clock, two.pen, two.paid = tmp_path, clock, pen, 0
        await two.cosign()
        await two.remember()
        await two.pass_days(DAYS + 1)
        plan = two.plans()[0]
        assert (plan.epoch, plan.end, plan.whole) == (1, size - 1, True)
        done = Done(epoch=1, start=0, end=0, held_by=plan.held_by)
        reader = store.reader()
        for step in prune.work(reader, plan, done):
            if step is not None:
                await pen.work(step)
        assert (done.end, done.held_by.rule) == (size - 1, "last")
        assert findings(two.check()) == []
        again = await two.ask(*(payment(number, 1) for number in range(1, 601)))
        assert sum(isinstance(outcome, Recalled) for outcome in again) >= 599
        assert len(first) == 600
        [late] = await two.ask(payment(8_888))
        assert isinstance(late, Decision)
        assert isinstance(late.record, Refusal)
        head = reader.head(1)
        assert head is not None
        assert frontier_at(size, reader.node(1, size)).root() == head.root
        assert inclusion_proof(0, size, reader.node(1, size))
        assert [plan.end - plan.start for plan in two.plans()] == [0, 0]
        reader.close()
    clock.pass_seconds(1)
    third = begin_epoch(Store.open(tmp_path / "ledger.db"), own("boot-3"), ways(clock), note="link", epoch=3)
    async with running(third):
        [repeat] = await third.decide("till", [payment(3, 1)], DOWN)
        assert isinstance(repeat, Recalled)
        assert findings(full_check(third.desk.store)) == []


def ways(clock: TestClock) -> Ways:
    return Ways(
        clock=clock,
        rules=(),
        budget=Budget(burst=100, per_second=10),
        room_for_payments=lambda: True,
        make_room=lambda: None,
    )
