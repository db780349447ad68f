"""A box that lost its past, and the epoch after it: the real ledger, pen, line and hub, in one process."""

import shutil
from pathlib import Path

import pytest

from edgegw.core.reasons import Reason
from edgegw.core.records import Kind, Mode, Refusal, Request, Transfer, decode_record
from edgegw.core.site import Site
from edgegw.hub.operate import release_epoch, seal_epoch
from edgegw.ledger.check import check
from edgegw.ledger.outcomes import Conflict, Decision, Outcome, Recalled, Undecided
from edgegw.ledger.start import load
from tests.core.authors import new_key
from tests.hub.world import NORTH, World
from tests.uplink import real_box
from tests.uplink.real_box import Port, RealBox, synced
from tests.waiting import until


def order_epoch(world: World) -> None:
    """What `edgegw order new-epoch` does."""
    with world.engine.begin() as connection:
        release_epoch(connection, NORTH)


def answer(outcome: list[Outcome]) -> Decision:
    """The one decision."""
    (decided,) = outcome
    assert isinstance(decided, Decision), decided
    return decided


def about(number: int, kind: Kind, original: int, *, amount_minor: int = 0) -> Request:
    """A request of the till about an earlier one of its own."""
    return Request(kind=kind, id=f"{number:032x}", original_id=f"{original:032x}", amount_minor=amount_minor)


async def first_epoch(box: RealBox, world: World) -> dict[int, bytes]:
    """A grant, two payments, a live hold, a reversal that waits for its original; answers by number."""
    await synced(box, world)
    assert await box.line.ask(account_id="A", currency="CNY", amount_minor=400) == "granted"
    told = {1: answer(await box.pay(1, 100)).body, 2: answer(await box.pay(2, 50)).body}
    hold = Request(
        kind=Kind.HOLD,
        id=f"{3:032x}",
        debit_account_id="A",
        credit_account_id="SHOP",
        amount_minor=30,
        currency="CNY",
    )
    told[3] = answer(await box.ask(hold)).body
    told[4] = answer(await box.ask(about(4, Kind.REVERSAL, 99))).body
    return told


async def rehydrated(box: RealBox) -> None:
    """The hub has nothing more to give."""
    await until(
        lambda: box.closed is not None and box.closed.taken > 0 and box.line.status.lacking == 0,
        "its past to come back",
    )


async def clears(box: RealBox, world: World, *, epoch: int) -> None:
    """The epoch has begun, the hub has its records, and the site is in force."""
    await until(lambda: box.closed is None and box.pen.epoch == epoch, "the new epoch")
    await synced(box, world)
    await until(lambda: isinstance(box.pen.desk.book.site, Site), "the site")


async def check_past(box: RealBox, told: dict[int, bytes]) -> None:
    """What an old epoch promised, the new one keeps; nothing of it is spent twice."""
    for number, amount_minor in ((1, 100), (2, 50)):
        again = answer(await box.pay(number, amount_minor))
        assert (again.body, again.repeat) == (told[number], True)
    assert box.available("A") == box.available("SHOP") == 0
    for number, kind in ((10, Kind.POST), (11, Kind.VOID), (12, Kind.REVERSAL)):
        refused = answer(await box.ask(about(number, kind, 3)))
        assert isinstance(refused.record, Refusal)
        assert refused.record.code == "hold_epoch_over"
    late = answer(await box.pay(99, 5))
    assert isinstance(late.record, Refusal)
    assert late.record.code == "already_reversed"


def whole_check(box: RealBox, world: World) -> None:
    """Every record of every epoch, as `edgegw ledger check` reads them."""
    report = check(
        box.store,
        verify_checkpoint=lambda note: (
            world.hub_key.public if "/hub/" in note.partition("\n")[0] else box.key.public
        ).open(note),
        verify_cosignature=world.hub_key.public.check_cosignature,
        progress=lambda *_: None,
    )
    assert report.findings == []


@pytest.mark.parametrize("copied", [True, False], ids=["an old copy", "an empty disk"])
async def test_a_past_that_was_lost_comes_back_and_binds_the_next_epoch(
    tmp_path: Path, world: World, port: Port, boxes: list[RealBox], copied: bool
) -> None:
    """A restored box that forgot last night's payments would pay every retry again."""
    key = new_key("checkpoint")
    box = RealBox(tmp_path / "one", world, port, key=key, boot="one")
    boxes.append(box)
    await synced(box, world)
    if copied:
        (tmp_path / "two").mkdir()
        await boxes.pop().stop()
        shutil.copy(box.path, tmp_path / "two")
        box = RealBox(tmp_path / "one", world, port, key=key, boot="one and a half")
        boxes.append(box)
    told = await first_epoch(box, world)
    await synced(box, world)
    size = box.size()
    await boxes.pop().stop()

    again = RealBox(tmp_path / "two", world, port, key=key, boot="two", behind="restored")
    boxes.append(again)
    await rehydrated(again)
    assert again.closed is not None
    assert again.closed.held(1).size == size
    repeat = answer(await again.pay(1, 100))
    assert (repeat.body, repeat.repeat) == (told[1], True)
    (undecided,) = await again.pay(5, 1)
    assert isinstance(undecided, Undecided)
    assert undecided.code == "behind"
    order_epoch(world)
    await clears(again, world, epoch=2)
    assert again.pen.desk.book.window > 1
    await check_past(again, told)
    await until(lambda: (again.store.cosignature(1) or (0,))[0] == size, "the hub's word for what came back")
    whole_check(again, world)


async def test_a_refund_of_an_old_epochs_payment_is_funded_by_the_centre(
    tmp_path: Path, world: World, port: Port, boxes: list[RealBox]
) -> None:
    """The payee's allowance is gone with the epoch; the money is the payee's all the same."""
    box = RealBox(tmp_path, world, port, key=new_key("checkpoint"), boot="one")
    boxes.append(box)
    await first_epoch(box, world)
    await synced(box, world)
    order_epoch(world)
    await clears(box, world, epoch=2)
    world.fund("SHOP", 500)
    assert await box.line.ask(account_id="SHOP", currency="CNY", amount_minor=60) == "granted"
    refunded = answer(await box.ask(about(20, Kind.REVERSAL, 1, amount_minor=60)))
    assert isinstance(refunded.record, Transfer)
    assert refunded.record.original.startswith("1/")
    too_much = answer(await box.ask(about(21, Kind.REVERSAL, 1, amount_minor=60)))
    assert isinstance(too_much.record, Refusal)
    assert too_much.record.code == "exceeds_original"
    await synced(box, world)
    whole_check(box, world)


async def test_a_new_epoch_ends_an_open_pen_in_order(
    tmp_path: Path, world: World, port: Port, boxes: list[RealBox]
) -> None:
    """What was not written is not decided: the client asks again, and the next epoch answers."""
    box = RealBox(tmp_path, world, port, key=new_key("checkpoint"), boot="one")
    boxes.append(box)
    told = await first_epoch(box, world)
    await synced(box, world)
    old, size = box.pen, box.size()
    order_epoch(world)
    await clears(box, world, epoch=2)
    assert old.failure is not None
    assert (old.failure.code, old.desk.tip.size) == ("new_epoch", size)
    await check_past(box, told)
    head = box.store.head(1)
    assert head is not None
    assert head.size == size


async def test_a_box_that_died_between_the_link_and_its_epoch_gets_the_same_link(
    tmp_path: Path, world: World, port: Port, boxes: list[RealBox], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two links for one order would skip an epoch, or give two."""
    key = new_key("checkpoint")
    box = RealBox(tmp_path, world, port, key=key, boot="one")
    boxes.append(box)
    await synced(box, world)

    class Died(Exception):
        """The process is gone."""

    def die(*_: object, **__: object) -> None:
        raise Died

    with monkeypatch.context() as patched:
        patched.setattr(real_box, "begin_epoch", die)
        order_epoch(world)
        await until(lambda: box.ended, "the box to die")
        with pytest.raises(Died):
            await boxes.pop().stop()
    links = world.rows("SELECT epoch, link FROM journal_head ORDER BY epoch")
    assert [row[0] for row in links] == [1, 2]
    again = RealBox(tmp_path, world, port, key=key, boot="two")
    boxes.append(again)
    await clears(again, world, epoch=2)
    assert world.rows("SELECT epoch, link FROM journal_head ORDER BY epoch") == links


async def test_other_hardware_gets_the_past_under_the_old_key_and_goes_on_under_its_own(
    tmp_path: Path, world: World, port: Port, boxes: list[RealBox]
) -> None:
    """Each epoch's records are proved by the key that the hub's link gave it."""
    box = RealBox(tmp_path / "old", world, port, key=new_key("checkpoint"), boot="one")
    boxes.append(box)
    told = await first_epoch(box, world)
    await synced(box, world)
    await boxes.pop().stop()
    other = RealBox(
        tmp_path / "new", world, port, key=new_key("checkpoint-of-the-new-machine"), boot="new", behind="new"
    )
    boxes.append(other)
    await rehydrated(other)
    order_epoch(world)
    await clears(other, world, epoch=2)
    await check_past(other, told)


async def test_a_restored_box_that_writes_on_is_forked_and_gets_its_next_epoch_by_order(
    tmp_path: Path, world: World, port: Port, boxes: list[RealBox]
) -> None:
    """A clone with its second medium starts; the hub finds it, and only an order leads on."""
    key = new_key("checkpoint")
    box = RealBox(tmp_path / "one", world, port, key=key, boot="one")
    boxes.append(box)
    await synced(box, world)
    await boxes.pop().stop()
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    box = RealBox(tmp_path / "one", world, port, key=key, boot="one again")
    boxes.append(box)
    told = await first_epoch(box, world)
    await synced(box, world)
    sizes = [box.size()]
    await boxes.pop().stop()
    clone = RealBox(tmp_path / "two", world, port, key=key, boot="clone")
    boxes.append(clone)
    await until(lambda: clone.pen.mode is Mode.FORKED, "the fork to be found")
    await until(
        lambda: [end.frontier.size for end in clone.store.reader().others.ends()] == sizes, "the other"
    )
    order_epoch(world)
    await clears(clone, world, epoch=2)
    for number, amount_minor in ((1, 100), (2, 50)):
        (again,) = await clone.pay(number, amount_minor)
        assert isinstance(again, Recalled), again
        first = decode_record(told[number])
        assert (again.pruned.epoch, again.pruned.seq) == (first.epoch, first.seq)
        assert again.pruned.remains.amount_minor == amount_minor
    (conflict,) = await clone.pay(2, 51)
    assert isinstance(conflict, Conflict)
    whole_check(clone, world)
    book, _, _ = load(
        clone.store, bank=clone.own.bank, box=clone.own.box, open_note=clone.own.open_note, behind=True
    )
    assert book.epoch == 2


async def test_a_stand_in_that_waited_when_its_epoch_ended_is_paid_once(
    tmp_path: Path, world: World, port: Port, boxes: list[RealBox]
) -> None:
    """Reversed here while the centre finishes it there, the payer would be paid for what was never taken."""
    box = RealBox(tmp_path, world, port, key=new_key("checkpoint"), boot="one")
    boxes.append(box)
    await synced(box, world)
    await until(lambda: box.available(f"risk:{NORTH}:CNY") > 0, "the risk allowance")
    await port.close()
    await until(lambda: box.pen.mode is Mode.OFFLINE, "the outage")
    stood = answer(await box.pay(1, 70))
    assert stood.record.cleared_by == "stand_in"  # type: ignore[union-attr]
    order_epoch(world)
    await port.open()
    await clears(box, world, epoch=2)
    refused = answer(await box.ask(about(2, Kind.REVERSAL, 1)))
    assert isinstance(refused.record, Refusal)
    assert refused.record.code == "stand_in_epoch_over"
    assert not Reason(refused.record.code).transient  # a box is never told what the seal decided
    held = "SELECT size FROM journal_head WHERE box = :box AND epoch = 1"
    await until(lambda: world.row(held, box=NORTH) == (box.store.heads()[0].size,), "the old epoch's tail")
    with world.engine.begin() as connection:
        seal_epoch(connection, NORTH, 1)
    assert world.money("SHOP")[0] == 70
    assert world.money("A")[0] == 930


async def test_a_hub_that_was_put_back_gets_its_directives_and_the_records_again(
    tmp_path: Path, world: World, port: Port, boxes: list[RealBox]
) -> None:
    """Grants that only the box remembers were spent: a hub that forgot them would pay out twice."""
    box = RealBox(tmp_path / "box", world, port, key=new_key("checkpoint"), boot="one")
    boxes.append(box)
    await synced(box, world)
    world.back_up(tmp_path / "older.db")
    assert await box.line.ask(account_id="A", currency="CNY", amount_minor=400) == "granted"
    answer(await box.pay(1, 300))
    await synced(box, world)
    await port.close()
    await until(lambda: box.pen.mode is Mode.OFFLINE, "the outage")
    answer(await box.pay(2, 20))
    world.restore(tmp_path / "older.db")
    assert world.money("SHOP") == (0, 0, 0)
    await port.open()
    await synced(box, world)
    assert world.money("SHOP") == (320, 0, 320)
    assert world.money("A") == (680, 600, 80)
    assert await box.line.ask(account_id="A", currency="CNY", amount_minor=100) == "granted"
    await synced(box, world)
    whole_check(box, world)
