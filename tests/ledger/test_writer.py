"""The pen: one COMMIT answers for a batch, an answer never comes before it, and nothing is decided twice."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import apsw
import msgspec
import pytest

from edgegw.core import journal, snapshot
from edgegw.core.decide import Funding, Short
from edgegw.core.exchange import Directives, SiteBundle
from edgegw.core.journal import Frontier, leaf_hash
from edgegw.core.lists import block_of
from edgegw.core.records import Kind, Mode, Refusal, Request, SiteDirective, Transfer, encode
from edgegw.core.site import ListRule
from edgegw.core.tiles import Tile
from edgegw.errors import BrokenInvariant, LedgerCorrupt, OutcomeUnknown, Overloaded, StorageFull
from edgegw.ledger.batch import Batch
from edgegw.ledger.outcomes import Budget, Conflict, Decision, Undecided
from edgegw.ledger.rows import Row, position_of
from edgegw.ledger.store import Store
from edgegw.ledger.writer import BATCH_REQUESTS_MAX, Job, Pen, take_snapshot
from tests.core.box import SITE, without_clock
from tests.ledger.running_box import KEY, TestClock, enrol, open_pen, payment, running

UP = Funding(line_up=True)
DOWN = Funding(line_up=False, reason="line_down")


@pytest.fixture
def clock() -> TestClock:
    """A clock that stands still until it is moved."""
    return TestClock()


async def one(pen: Pen, request: Request, funding: Funding = UP, *, client: str = "till") -> object:
    """The outcome of one request."""
    (outcome,) = await pen.decide(client, [request], funding)
    return outcome


async def decided(pen: Pen, request: Request, funding: Funding = UP, *, client: str = "till") -> Decision:
    """The decision that the outcome must be."""
    outcome = await one(pen, request, funding, client=client)
    assert isinstance(outcome, Decision), outcome
    return outcome


async def test_an_answer_is_on_disk_under_a_signed_checkpoint_before_it_is_given(
    tmp_path: Path, clock: TestClock
) -> None:
    """Another connection sees the record and a head that covers it, at the moment of the answer."""
    async with running(open_pen(tmp_path, clock)) as pen:
        await enrol(pen)
        reader = pen.desk.store.reader()
        for number in range(1, 20):
            answer = await decided(pen, payment(number))
            place = position_of(epoch=answer.record.epoch, seq=answer.record.seq)
            head = reader.head(1)
            assert reader.at(place) == answer.body
            assert head is not None
            checkpoint = KEY.public.open(head.checkpoint)
            assert checkpoint.size == head.size > answer.record.seq
        reader.close()


async def test_the_same_id_gets_the_first_answer_for_ever(tmp_path: Path, clock: TestClock) -> None:
    """In one batch, in a later one, and after a new start: the same bytes."""
    async with running(open_pen(tmp_path, clock)) as pen:
        await enrol(pen)
        first, second = await pen.decide("till", [payment(1), payment(1)], UP)
        assert isinstance(first, Decision)
        assert isinstance(second, Decision)
        assert (first.body, first.repeat, second.repeat) == (second.body, False, True)
        refusal = await decided(pen, payment(2, credit="nobody"))
        assert isinstance(refusal.record, Refusal)
    async with running(open_pen(tmp_path, clock, boot="boot-2")) as pen:
        assert (await decided(pen, payment(1))).body == first.body
        assert (await decided(pen, payment(2, credit="nobody"))).body == refusal.body
        assert pen.desk.book.available("anna") == 4_990


async def test_the_same_id_with_other_content_is_a_conflict_that_names_the_field(
    tmp_path: Path, clock: TestClock
) -> None:
    """Nothing is decided, the first answer stands; another client's equal id is another identity."""
    async with running(open_pen(tmp_path, clock)) as pen:
        await enrol(pen)
        await decided(pen, payment(1, 10))
        conflict = await one(pen, payment(1, 11))
        assert isinstance(conflict, Conflict)
        assert (conflict.field, conflict.first.amount_minor) == ("amount_minor", 10)
        await decided(pen, payment(1, 11), client="another")
        assert pen.desk.book.available("anna") == 4_979


async def test_requests_that_wait_share_a_commit(tmp_path: Path, clock: TestClock) -> None:
    """Batches form by themselves while a COMMIT runs."""
    async with running(open_pen(tmp_path, clock)) as pen:
        await enrol(pen)
        before = pen.batches
        outcomes = await asyncio.gather(*(one(pen, payment(number, 1)) for number in range(1, 201)))
        assert all(isinstance(outcome, Decision) for outcome in outcomes)
        assert pen.batches - before <= 3


async def test_limits_count_inside_a_batch(tmp_path: Path, clock: TestClock) -> None:
    """Two payments of one batch cannot both spend the last of an allowance."""
    async with running(open_pen(tmp_path, clock)) as pen:
        await enrol(pen, granted_minor=100)
        outcomes = await pen.decide("till", [payment(1, 60), payment(2, 60), payment(3, 40)], UP)
        assert [type(outcome) for outcome in outcomes] == [Decision, Short, Decision]
        assert pen.desk.book.available("anna") == 0


async def test_a_linked_group_is_all_or_nothing(tmp_path: Path, clock: TestClock) -> None:
    """One member that is refused takes the others with it, by name; ids stay burned."""
    async with running(open_pen(tmp_path, clock)) as pen:
        await enrol(pen)
        group = [payment(1), payment(2, credit="nobody"), payment(3)]
        outcomes = await pen.decide("till", group, UP, linked=True)
        codes = [outcome.record.code for outcome in outcomes if isinstance(outcome, Decision)]  # type: ignore[union-attr]
        assert codes == ["linked_event_failed", "credit_account_not_found", "linked_event_failed"]
        assert pen.desk.book.available("anna") == 5_000
        cleared = await pen.decide("till", [payment(4), payment(5)], UP, linked=True)
        assert [outcome.record.linked for outcome in cleared] == [1, 0]  # type: ignore[union-attr]
        again = await pen.decide("till", [payment(4), payment(5)], UP, linked=True)
        assert [outcome.repeat for outcome in again] == [True, True]  # type: ignore[union-attr]
        mixed = await pen.decide("till", [payment(5), payment(6)], UP, linked=True)
        assert all(isinstance(outcome, Undecided) and outcome.code == "group_mixed" for outcome in mixed)


async def test_a_kept_reversal_that_meets_its_original_in_a_group_is_named(
    tmp_path: Path, clock: TestClock
) -> None:
    """The refusal without its place is no notice: nobody hears that the reversal has done its work."""
    async with running(open_pen(tmp_path, clock)) as pen:
        await enrol(pen)
        early = Request(kind=Kind.REVERSAL, id=f"{9:032x}", original_id=payment(2).id)
        kept = (await decided(pen, early)).record
        first, second = await pen.decide("till", [payment(1), payment(2)], UP, linked=True)
        assert isinstance(first, Decision)
        assert isinstance(second, Decision)
        assert isinstance(first.record, Refusal)
        assert isinstance(second.record, Refusal)
        assert (first.record.original, second.record.code) == ("", "already_reversed")
        assert second.record.original == f"{kept.epoch}/{kept.seq}"


async def test_lists_stay_while_settings_that_name_them_can_be_in_force(
    tmp_path: Path, clock: TestClock
) -> None:
    """Two versions in one package are applied both, and one that is refused takes no way back away."""
    async with running(open_pen(tmp_path, clock)) as pen:
        await enrol(pen)
        blocks = [block_of("account", (name,)) for name in ("a", "b", "c")]
        digests = [journal.sm3(block).hex() for block in blocks]
        bundles: list[SiteBundle] = []
        for version, (block, digest) in enumerate(zip(blocks, digests, strict=True), 2):
            rule = ListRule(name="list", of="account", digest=digest, entries=1)
            bank = "other" if version == 4 else SITE.bank
            site = msgspec.structs.replace(SITE, bank=bank, version=version, lists=(rule,))
            bundles.append(SiteBundle(msgspec.json.encode(site), site, "", {digest: block}))
        await publish(pen, *bundles[:2])
        assert pen.desk.book.site_version == 3
        await publish(pen, bundles[2])
        assert [pen.desk.store.id_list(digest) for digest in digests] == [blocks[0], blocks[1], None]
        assert await pen.return_site(left=pen.desk.book.site_digest, reason="test")
        assert pen.desk.book.policy.lists[0][0].digest == digests[0]


async def publish(pen: Pen, *bundles: SiteBundle) -> None:
    """One package of directives that name these."""
    start = pen.desk.store.directives_ends()[-1].size
    log = pen.desk.store.directives(incarnation=1, start=0, limit=start, bytes_max=1 << 20)
    edge = Frontier()
    edge.extend([entry.leaf for entry in log])
    leaf, bodies, leaves, sites = log[-1].leaf, [], [], {}
    head = {"v": 1, "bank": "demo", "box": "box-1", "incarnation": 1, "wall_ns": 0}
    for seq, bundle in enumerate(bundles, start):
        digest = journal.sm3(bundle.body).hex()
        said = SiteDirective(**head, seq=seq, version=bundle.site.version, digest=digest, bytes=1)  # type: ignore[arg-type]
        bodies.append(encode(said))
        leaf = leaf_hash(leaf, bodies[-1])
        leaves.append(leaf)
        sites[digest] = bundle
    edge.extend(leaves)
    await pen.apply_directives(
        Directives(1, start, tuple(bodies), tuple(leaves), edge, "the hub's note", sites)
    )


async def test_a_group_that_names_an_id_twice_does_not_stop_the_box(tmp_path: Path, clock: TestClock) -> None:
    """Both would be cleared under one identity, which the ledger takes for a broken invariant."""
    async with running(open_pen(tmp_path, clock)) as pen:
        await enrol(pen)
        outcomes = await pen.decide("till", [payment(1), payment(1)], UP, linked=True)
        assert [outcome.code for outcome in outcomes] == ["group_mixed"] * 2  # type: ignore[union-attr]
        assert isinstance(await one(pen, payment(1)), Decision)


async def test_a_job_that_breaks_leaves_the_others_of_its_batch_alone(
    tmp_path: Path, clock: TestClock
) -> None:
    """The batch is played singly; only the offender is without an answer."""
    async with running(open_pen(tmp_path, clock)) as pen:
        await enrol(pen)

        def poison(batch: Batch) -> None:
            batch.book.open_accounts(())
            raise ValueError("poison")

        answers = await asyncio.gather(
            one(pen, payment(1)), pen._submit(Job(poison)), one(pen, payment(2)), return_exceptions=True
        )
        assert [type(answer) for answer in answers] == [Decision, ValueError, Decision]
        assert pen.desk.book.available("anna") == 4_980


async def test_a_part_that_is_not_written_does_not_deny_the_parts_that_are(
    tmp_path: Path, clock: TestClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large batch takes several COMMITs: "nothing was decided" may be said of its own requests only."""
    async with running(open_pen(tmp_path, clock)) as pen:
        await enrol(pen)
        append = Store.append

        def no_room(store: Store, rows: Sequence[Row], new_tiles: Sequence[Tile]) -> None:
            if len(rows) < BATCH_REQUESTS_MAX:
                raise StorageFull("injected")
            append(store, rows, new_tiles)

        monkeypatch.setattr(Store, "append", no_room)
        wanted = [payment(number, 1) for number in range(BATCH_REQUESTS_MAX + 2)]
        outcomes = await pen.decide("till", wanted, UP)
        assert {type(outcome) for outcome in outcomes[:BATCH_REQUESTS_MAX]} == {Decision}
        assert [outcome.code for outcome in outcomes[-2:]] == ["storage_full"] * 2  # type: ignore[union-attr]
        assert pen.desk.book.available("anna") == 5_000 - BATCH_REQUESTS_MAX


async def test_a_failed_commit_stops_the_pen_and_everybody_hears_that_the_outcome_is_unknown(
    tmp_path: Path, clock: TestClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is not trusted again; a new start finds what the disk has, and the ids can be asked again."""
    async with running(open_pen(tmp_path, clock)) as pen:
        await enrol(pen)
        await decided(pen, payment(1))

        def fail(_: Store) -> None:
            raise OutcomeUnknown("COMMIT failed: injected")

        monkeypatch.setattr(Store, "_commit", fail)
        answers = await asyncio.gather(one(pen, payment(2)), one(pen, payment(3)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [OutcomeUnknown, OutcomeUnknown]
        with pytest.raises(OutcomeUnknown):
            await one(pen, payment(4))
        assert isinstance(pen.failure, OutcomeUnknown)
        monkeypatch.undo()
    async with running(open_pen(tmp_path, clock, boot="boot-2")) as pen:
        assert not (await decided(pen, payment(2))).repeat
        assert (await decided(pen, payment(1))).repeat


async def test_a_pen_whose_head_was_taken_over_writes_nothing(tmp_path: Path, clock: TestClock) -> None:
    """The head moves only for the boot that claimed it last."""
    async with running(open_pen(tmp_path, clock)) as pen:
        await enrol(pen)
        thief = apsw.Connection(str(tmp_path / "ledger.db"))
        thief.execute("UPDATE head SET boot = 'another'")
        thief.close()
        with pytest.raises(BrokenInvariant):
            await one(pen, payment(1))


async def test_refusals_beyond_the_budget_are_not_journalled(tmp_path: Path, clock: TestClock) -> None:
    """The id stays free, only counts are kept, other clients are not touched, and the bucket refills."""
    budget = Budget(burst=2, per_second=1)
    async with running(open_pen(tmp_path, clock, budget=budget)) as pen:
        await enrol(pen)
        outcomes = await pen.decide("till", [payment(n, credit="nobody") for n in (1, 2, 3)], UP)
        assert [type(outcome) for outcome in outcomes] == [Decision, Decision, Undecided]
        assert budget.exhausted == {"till": 1}
        assert isinstance(await one(pen, payment(3, credit="nobody"), client="other"), Decision)
        clock.pass_seconds(1.5)
        assert isinstance(await one(pen, payment(3)), Decision)


async def test_a_group_is_refused_whole_or_not_decided_whole(tmp_path: Path, clock: TestClock) -> None:
    """A budget that ends inside a group must not burn some of its ids: the group could never be sent
    again."""
    budget = Budget(burst=2, per_second=1)
    async with running(open_pen(tmp_path, clock, budget=budget)) as pen:
        await enrol(pen)
        first = [payment(n, credit="nobody") for n in (1, 2, 3)]
        outcomes = await pen.decide("till", first, UP, linked=True)
        assert [type(outcome) for outcome in outcomes] == [Decision] * 3
        second = [payment(n, credit="nobody") for n in (4, 5)]
        outcomes = await pen.decide("till", second, UP, linked=True)
        assert [type(outcome) for outcome in outcomes] == [Undecided] * 2
        assert budget.exhausted == {"till": 2}
        clock.pass_seconds(1.5)
        assert isinstance(await one(pen, payment(4, credit="nobody")), Undecided)
        clock.pass_seconds(1.5)
        outcomes = await pen.decide("till", second, UP, linked=True)
        assert [type(outcome) for outcome in outcomes] == [Decision] * 2


async def test_without_room_repeats_and_windows_still_work(tmp_path: Path, clock: TestClock) -> None:
    """A full disk refuses new payments only."""
    room = [True]
    async with running(open_pen(tmp_path, clock, room_for_payments=lambda: room[0])) as pen:
        await enrol(pen)
        first = await decided(pen, payment(1))
        room[0] = False
        full = await one(pen, payment(2))
        assert isinstance(full, Undecided)
        assert full.code == "storage_full"
        assert (await decided(pen, payment(1))).body == first.body
        assert (await pen.close_window(business_date="2027-01-15", closed_by="test")).transfers == 2
        room[0] = True
        await decided(pen, payment(2))


@pytest.mark.parametrize("mode", [Mode.BEHIND, Mode.FORKED, Mode.FENCED])
async def test_a_box_that_must_not_clear_answers_repeats_only(
    tmp_path: Path, clock: TestClock, mode: Mode
) -> None:
    """The mode is a record, survives a start, and its error has a hint."""
    async with running(open_pen(tmp_path, clock)) as pen:
        await enrol(pen)
        first = await decided(pen, payment(1))
        await pen.change_mode(mode, "test")
    async with running(open_pen(tmp_path, clock, boot="boot-2")) as pen:
        closed = await one(pen, payment(2))
        assert isinstance(closed, Undecided)
        assert closed.code == mode.value
        assert closed.hint
        assert (await decided(pen, payment(1))).body == first.body


async def test_a_box_without_an_epoch_clears_nothing(tmp_path: Path, clock: TestClock) -> None:
    """It says that it is not enrolled, and burns no id."""
    async with running(open_pen(tmp_path, clock)) as pen:
        outcome = await one(pen, payment(1))
        assert isinstance(outcome, Undecided)
        assert outcome.code == "not_enrolled"


async def test_holds_expire_across_a_restart_late_rather_than_early(tmp_path: Path, clock: TestClock) -> None:
    """A clock that was set back while the box was off does not shorten a hold, and neither does it make
    time go back."""
    hold = msgspec.structs.replace(payment(1, 100), kind=Kind.HOLD, timeout_s=60)
    async with running(open_pen(tmp_path, clock)) as pen:
        await enrol(pen)
        await decided(pen, hold)
        last_at_ns = pen.desk.book.at_ns
    clock.wall -= 3_600 * 10**9
    clock.mono = 0
    async with running(open_pen(tmp_path, clock, boot="boot-2")) as pen:
        assert pen.desk.book.at_ns > last_at_ns
        clock.pass_seconds(59)
        await pen.tick()
        assert pen.desk.book.available("anna") == 4_900
        clock.pass_seconds(2)
        await pen.tick()
        assert pen.desk.book.available("anna") == 5_000
        late = await decided(pen, Request(kind=Kind.POST, id="f" * 32, original_id=hold.id))
        assert isinstance(late.record, Refusal)
        assert late.record.code == "hold_expired"


async def test_a_step_of_the_wall_clock_is_journalled_once(tmp_path: Path, clock: TestClock) -> None:
    """Order does not follow it: the box's own time goes on as before."""
    async with running(open_pen(tmp_path, clock)) as pen:
        await enrol(pen)
        size = pen.desk.tip.size
        clock.wall += 10**15
        await pen.tick()
        await pen.tick()
        assert pen.desk.tip.size == size + 1
        before = pen.desk.book.at_ns
        await decided(pen, payment(1))
        assert 0 < pen.desk.book.at_ns - before < 10**9


async def test_a_start_from_a_snapshot_gives_the_same_book(tmp_path: Path, clock: TestClock) -> None:
    """Snapshot and tail, or the whole journal: no difference."""
    async with running(open_pen(tmp_path, clock)) as pen:
        await enrol(pen)
        await decided(pen, payment(1))
        hold = msgspec.structs.replace(payment(2, 100), kind=Kind.HOLD, timeout_s=60)
        await decided(pen, hold)
        pen.commit_now(take_snapshot)
        await decided(pen, Request(kind=Kind.POST, id="a" * 32, original_id=hold.id, amount_minor=40))
        await decided(pen, payment(3, 5, debit="bert"), DOWN)
        image = without_clock(snapshot.dump(pen.desk.book))
    with_snapshot = open_pen(tmp_path, clock, boot="boot-2")
    assert without_clock(snapshot.dump(with_snapshot.desk.book)) == image
    with_snapshot.desk.store.close()
    editor = apsw.Connection(str(tmp_path / "ledger.db"))
    editor.execute("DELETE FROM snapshot")
    editor.close()
    without = open_pen(tmp_path, clock, boot="boot-3")
    assert without_clock(snapshot.dump(without.desk.book)) == image
    without.desk.store.close()


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE record SET body = CAST(replace(CAST(body AS TEXT), ':10,', ':11,') AS BLOB)",
        "UPDATE record SET leaf = zeroblob(32) WHERE position = (SELECT max(position) FROM record) - 2",
        "DELETE FROM record WHERE position = (SELECT max(position) FROM record)",
        "UPDATE head SET size = size - 1",
        "UPDATE head SET checkpoint = replace(checkpoint, 'demo', 'memo')",
        "UPDATE snapshot SET body = CAST(replace(CAST(body AS TEXT), '5000', '9000') AS BLOB)",
        "DELETE FROM site",
    ],
)
async def test_a_file_that_was_changed_by_hand_does_not_start(
    tmp_path: Path, clock: TestClock, edit: str
) -> None:
    """A start never serves wrong balances: it stops and says what is wrong."""
    async with running(open_pen(tmp_path, clock)) as pen:
        await enrol(pen)
        if "snapshot" in edit:
            await decided(pen, payment(9))
            pen.commit_now(take_snapshot)
        for number in range(1, 5):
            await decided(pen, payment(number))
    editor = apsw.Connection(str(tmp_path / "ledger.db"))
    for trigger in ("record_keeps_rows", "record_keeps_content"):
        editor.execute(f"DROP TRIGGER {trigger}")
    editor.execute(edit)
    assert editor.changes()
    editor.close()
    with pytest.raises(LedgerCorrupt):
        open_pen(tmp_path, clock, boot="boot-2")


async def test_a_closed_pen_writes_what_waits_and_takes_no_more(tmp_path: Path, clock: TestClock) -> None:
    """Every request gets an answer; later ones hear that the box is stopping."""
    pen = open_pen(tmp_path, clock)
    async with running(pen):
        await enrol(pen)
        waiting = [asyncio.ensure_future(one(pen, payment(number))) for number in range(1, 50)]
        await asyncio.sleep(0)
        pen.close()
        outcomes = await asyncio.gather(*waiting)
        assert all(isinstance(o, Decision) and isinstance(o.record, Transfer) for o in outcomes)
        with pytest.raises(Overloaded):
            await one(pen, payment(99))
