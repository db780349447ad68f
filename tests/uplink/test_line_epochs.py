"""The line over real sockets where a past was lost: rehydration, the next epoch, a hub that lost its own."""

from collections.abc import Sequence

import pytest

from edgegw.core.messages import LogHead, PackageVerdict, Verdict
from edgegw.core.records import Mode
from edgegw.errors import Behind, RecordPruned
from edgegw.uplink.outbox import collect
from tests.core.authors import Author
from tests.uplink.box import MemoryBox, MemoryKeeper
from tests.uplink.hub import HubServer, MemoryHub
from tests.uplink.played import Start, synced
from tests.waiting import until


def behind(box: MemoryBox, hub: MemoryHub, size: int, *, boot: str = "boot2") -> MemoryBox:
    """The same box with the first `size` records of its first epoch alone, as a restore leaves it."""
    old = MemoryBox(hub.key, boot=boot)
    old.epoch_key, old.identity = box.epoch_key, box.identity._replace(boot=boot)
    if size:
        old.epochs, old.columns = {1: Author(box.epoch_key)}, {1: box.columns[1][:size]}
        for body in box.epochs[1].bodies[:size]:
            old.log.append_body(body)
    return old


@pytest.fixture
async def box(start: Start, hub: MemoryHub) -> MemoryBox:
    """A box with which the hub is in step."""
    box = await start()
    await synced(box, hub)
    return box


async def cut(server: HubServer, box: MemoryBox) -> None:
    """The line is down, and the box knows."""
    await server.stop()
    await until(lambda: box.line.mode is Mode.OFFLINE, "the outage")


def order_epoch(hub: MemoryHub) -> None:
    """A person lets the box have its next epoch; the sessions from before are forgotten."""
    hub.released = True
    hub.session = type(hub.session)()


@pytest.mark.parametrize("size", [0, 2])
async def test_a_box_that_lost_its_past_gets_it_back_and_then_its_next_epoch(
    box: MemoryBox, start: Start, hub: MemoryHub, size: int
) -> None:
    """Whatever the hub holds comes back in order, before the new epoch, which only an order gives."""
    for number in range(10):
        box.write("operator", number=number)
    await synced(box, hub)
    old = behind(box, hub, size)
    await start(box=old)
    await until(lambda: old.keeper is not None and old.keeper.completed == 1, "its past to come back")
    assert old.epochs[1].bodies == box.epochs[1].bodies
    assert old.line.mode is Mode.BEHIND
    assert old.line.status.lacking == 0
    beats = len(hub.beats)
    await until(lambda: len(hub.beats) > beats + 2, "heartbeats to go on")
    assert set(old.epochs) == {1}
    order_epoch(hub)
    await until(lambda: old.line.mode is Mode.ACTIVE and 2 in old.epochs, "the new epoch")
    assert hub.reader.bodies[0] == old.epochs[2].bodies[0]
    assert [mode for mode, _ in old.modes] == [Mode.SYNCING, Mode.ACTIVE]


async def test_an_answer_with_the_link_that_was_lost_gives_no_second_epoch(
    box: MemoryBox, hub: MemoryHub
) -> None:
    """A crash between the link and the epoch's first COMMIT: the next boot gets the same link again."""
    begin, lost = box.begin, list[str]()

    def crash(note: str) -> None:
        lost.append(note)
        if len(lost) > 1:
            begin(note)

    box.begin = crash  # type: ignore[method-assign]
    order_epoch(hub)
    await until(lambda: 2 in box.epochs and box.line.mode is Mode.ACTIVE, "the new epoch")
    assert lost[0] == lost[1]
    assert hub.epoch == 2


async def test_a_fenced_and_a_forked_box_get_their_next_epoch_when_it_is_ordered(
    start: Start, hub: MemoryHub
) -> None:
    """Both are an epoch's end, not the box's."""
    box = await start()
    for epoch, verdict, mode in ((2, Verdict.FENCED, Mode.FENCED), (3, Verdict.FORKED, Mode.FORKED)):
        await synced(box, hub)
        hub.verdict = verdict
        await until(lambda mode=mode: box.mode is mode, "the verdict to be obeyed")  # type: ignore[misc]
        hub.verdict = Verdict.OK
        order_epoch(hub)
        await until(lambda epoch=epoch: epoch in box.epochs, "the new epoch")  # type: ignore[misc]
    await synced(box, hub)
    assert sorted(box.epochs) == [1, 2, 3]


async def test_the_tail_of_an_epoch_that_is_over_is_delivered_and_a_closed_one_is_not(
    box: MemoryBox, hub: MemoryHub, servers: list[HubServer]
) -> None:
    """Fencing ends authorship, not delivery; what the hub has closed it does not want."""
    await cut(servers[0], box)
    box.write("operator", late=True)
    hub.released = True
    await servers[0].start()
    await until(lambda: 2 in box.epochs, "the new epoch")
    await until(lambda: hub.readers[1].bodies == box.epochs[1].bodies, "the old epoch's tail")
    await synced(box, hub)
    synced_before = list(hub.readers[2].bodies)
    await cut(servers[0], box)
    box.write("operator", late=True)
    hub.released, hub.closed = True, {2}
    await servers[0].start()
    await until(lambda: 3 in box.epochs, "the third epoch")
    await synced(box, hub)
    assert hub.readers[2].bodies == synced_before
    assert box.line.status.waiting == 0


async def test_an_edited_record_of_an_old_epoch_holds_back_what_follows_in_that_epoch_alone(
    box: MemoryBox, hub: MemoryHub, servers: list[HubServer]
) -> None:
    """What was wrong with an epoch is why there is a newer one: that one goes on. What came before the edit
    is as sound as ever, and the centre would settle the epoch without it."""
    await cut(servers[0], box)
    box.write("operator", late=True)
    box.write("operator", amount=1)
    place = len(box.log.bodies) - 1
    box.log.bodies[place] = box.log.bodies[place].replace(b'"amount":1', b'"amount":9')
    box.write("operator", late=True)
    assert len(hub.reader.bodies) < place
    hub.released = True
    await servers[0].start()
    await until(lambda: 2 in box.epochs, "the new epoch")
    await synced(box, hub)
    assert hub.readers[1].bodies == box.epochs[1].bodies[:place]
    assert f"record 1/{place}" in box.line.status.epochs_at_fault[1]


async def test_a_pruned_record_of_an_old_epoch_holds_back_that_epoch_alone(
    box: MemoryBox, hub: MemoryHub, servers: list[HubServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub from an old backup lacks what nobody can send it any more; the running epoch must reach it."""
    await cut(servers[0], box)
    box.write("operator", amount=1)
    there = box.records

    def records(**place: int) -> Sequence[tuple[int, bytes, bytes]]:
        if place["epoch"] == 1 and place["start"] > 0:
            raise RecordPruned("records of epoch 1 were pruned")
        return there(**place)

    monkeypatch.setattr(box, "records", records)
    hub.released = True
    await servers[0].start()
    await until(lambda: 2 in box.epochs, "the new epoch")
    await synced(box, hub)
    assert "pruned" in box.line.status.epochs_at_fault[1]


async def test_a_hub_that_lost_its_directives_gets_them_back_before_any_record(
    box: MemoryBox, hub: MemoryHub, servers: list[HubServer]
) -> None:
    """Without its own grants a hub would take what was spent of them for an overdraft."""
    for _ in range(5):
        hub.grant("a", 100)
    await until(lambda: box.granted == {"a": 500}, "the grants")
    await synced(box, hub)
    await cut(servers[0], box)
    box.write("operator")
    whole = list(hub.directives.bodies)
    hub.directives.bodies, hub.directives.leaves = hub.directives.bodies[:2], hub.directives.leaves[:2]
    first = len(hub.beats)
    await servers[0].start()
    await until(lambda: hub.directives.bodies == whole, "the directives to come back")
    await synced(box, hub)
    kinds = [
        "directives" if beat.handed_back is not None else "records"
        for beat in hub.beats[first:]
        if beat.handed_back is not None or beat.push is not None
    ]
    assert kinds[0] == "directives"
    assert sorted(kinds) == kinds
    assert not any(beat.handed_back is not None and beat.push is not None for beat in hub.beats)


async def test_a_hub_whose_directives_are_others_is_shown_where_they_part(
    box: MemoryBox, hub: MemoryHub, servers: list[HubServer]
) -> None:
    """A restored hub has directed something else meanwhile; the last one that both could have says so."""
    for _ in range(3):
        hub.grant("a", 100)
    await until(lambda: box.granted == {"a": 300}, "the grants")
    await synced(box, hub)
    await cut(servers[0], box)
    hub.directives.bodies, hub.directives.leaves = hub.directives.bodies[:1], hub.directives.leaves[:1]
    for _ in range(4):
        hub.grant("b", 7)
    await servers[0].start()
    await until(lambda: bool(hub.handed_back), "a package to come back")
    shown = hub.handed_back[0]
    assert (shown.old_size, shown.records) == (2, (box.directive_rows[2][2],))


@pytest.mark.parametrize("more", [0, 5], ids=["shorter", "longer"])
async def test_a_fork_is_shown_to_the_hub_with_the_boxs_own_signature(
    box: MemoryBox, start: Start, hub: MemoryHub, more: int
) -> None:
    """Two histories are a quarrel until both are signed in one place."""
    for number in range(3):
        box.write("operator", number=number)
    await synced(box, hub)
    other = behind(box, hub, 3)
    for number in range(1 + more):
        other.log.append_body(other.log.body("", type="operator", number=100 + number))
        other.columns[1].append("operator")
    await start(box=other)
    await until(lambda: other.line.mode is Mode.FORKED, "the fork to be found")
    await until(lambda: PackageVerdict.FORK in hub.pushes, "the evidence")
    beats = len(hub.beats)
    await until(lambda: len(hub.beats) > beats + 2, "heartbeats to go on")
    assert hub.pushes.count(PackageVerdict.FORK) == 1
    assert other.line.status.waiting == 0


async def test_a_look_before_the_first_record_finds_a_restored_image(
    box: MemoryBox, hub: MemoryHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its second medium was restored with it: with one record more it would be a fork."""
    monkeypatch.setattr("edgegw.uplink.line.LOOK_S", 20.0)
    old = behind(box, hub, 2)
    line = old.new_line(*box.addresses)
    with pytest.raises(Behind, match="the box has 2"):
        await line.look()
    assert await box.new_line(*box.addresses).look() is None


async def test_a_hub_that_says_nothing_holds_no_start_up(
    box: MemoryBox, servers: list[HubServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A branch whose line is down must open all the same."""
    monkeypatch.setattr("edgegw.uplink.line.LOOK_S", 0.05)
    servers[0].silent.set()
    assert await box.new_line(*box.addresses).look() is None
    await servers[0].stop()
    assert await box.new_line(*box.addresses).look() is None


async def test_an_epoch_of_which_the_hub_holds_another_history_is_left_and_the_others_come_back(
    box: MemoryBox, start: Start, hub: MemoryHub
) -> None:
    """What was overwritten could never be proved again, and what never ends is never whole."""
    for number in range(3):
        box.write("operator", number=number)
    await synced(box, hub)
    order_epoch(hub)
    await until(lambda: 2 in box.epochs, "the second epoch")
    await synced(box, hub)
    other = behind(box, hub, 3)
    other.log.append_body(other.log.body("", type="operator", number=100))
    other.columns[1].append("operator")
    mine = list(other.log.bodies)
    other.keeper = MemoryKeeper(other, "restored")
    await start(box=other)
    await until(lambda: other.keeper is not None and other.keeper.completed == 1, "the second epoch to come")
    assert other.epochs[2].bodies == box.epochs[2].bodies
    assert other.epochs[1].bodies == mine


@pytest.mark.parametrize("size", [3, 4])
def test_the_hub_is_shown_that_it_holds_another_history_of_an_old_epoch(hub: MemoryHub, size: int) -> None:
    """A copy of the box wrote first, also as much or more: unseen, the box's own records of that epoch would
    stay with it alone."""
    box = MemoryBox(hub.key)
    for epoch, count in ((1, 4), (2, 1)):
        box.epochs[epoch], box.columns[epoch] = Author(box.epoch_key, number=epoch), ["operator"] * count
        for _ in range(count):
            box.log.append_body(box.log.body("", type="operator"))
    held = {1: LogHead(1, size, bytes(32)), 2: LogHead(2)}
    outgoing = collect(box, held, bytes_max=1 << 20)
    assert "another root" in outgoing.at_fault[1]
    assert outgoing.package is not None
    assert (outgoing.package.number, outgoing.package.old_size, outgoing.package.size) == (1, size - 1, size)
    held.pop(1)  # what the line does once the hub has called it a fork
    later = collect(box, held, bytes_max=1 << 20).package
    assert later is not None
    assert (later.number, later.size) == (2, 1)
