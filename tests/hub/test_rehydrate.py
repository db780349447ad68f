"""A box that has lost its past gets it back, whole and proved, before it gets a new epoch."""

import pytest
from sqlalchemy import Engine, event

from edgegw.core.messages import Ask, Beat, Beaten, LogHead, PackageVerdict, Verdict
from edgegw.core.records import Mode
from edgegw.hub.operate import OrderError, release_epoch, seal_epoch
from tests.hub.simulated_box import SimulatedBox
from tests.hub.world import CNY, NORTH, World


def with_a_past(world: World, payments: int = 600) -> SimulatedBox:
    """A box with more than two packages of records."""
    box = world.box(NORTH)
    box.sync(Ask("1", "A", CNY, 1_000))
    for _ in range(payments):
        box.pay("A", "SHOP", 1)
    box.sync()
    return box


def order_epoch(world: World) -> None:
    with world.engine.begin() as connection:
        release_epoch(connection, NORTH)


def heir_of(world: World, box: SimulatedBox, size: int) -> SimulatedBox:
    """The same box after a restore: it has the first records only, and another boot."""
    heir = world.new_box(NORTH)
    heir.epoch, heir.bodies, heir.past, heir.now_ns = box.epoch, box.bodies[:size], dict(box.past), box.now_ns
    return heir


def test_a_replaced_box_gets_its_whole_past_back_before_its_epoch(world: World) -> None:
    """An empty disk: every record comes back with the proof that the box itself signed it."""
    box = with_a_past(world)
    heir = world.new_box(NORTH)
    assert heir.open().verdict is Verdict.BEHIND
    order_epoch(world)
    first = heir.open(mode=Mode.BEHIND)
    assert first.verdict is Verdict.BEHIND
    assert f"{len(box.bodies)} records of epoch 1 (it has 0)" in first.reason
    assert heir.come_back().verdict is Verdict.OK
    assert (heir.epoch, heir.past[1]) == (2, box.bodies)
    heir.sync()
    assert world.row("SELECT state FROM box WHERE box = 'north'") == ("active",)


def test_a_new_epoch_is_not_given_before_the_last_record_is_back(world: World) -> None:
    """One package short is short: LINK comes only with the whole past, sealed epochs included."""
    box = with_a_past(world)
    heir = heir_of(world, box, 10)
    order_epoch(world)
    opened = heir.open()
    assert opened.verdict is Verdict.BEHIND
    heir.pull(1)
    assert heir.open().verdict is Verdict.BEHIND
    assert heir.come_back().verdict is Verdict.OK
    heir.sync()
    with world.engine.begin() as connection:
        seal_epoch(connection, NORTH, 1)
    third = heir_of(world, heir, len(heir.bodies))
    third.past = {}
    order_epoch(world)
    opened = third.open()
    assert opened.verdict is Verdict.BEHIND
    assert [(head.number, head.size) for head in opened.closed] == [(1, len(box.bodies))]
    assert third.come_back().verdict is Verdict.OK
    assert (third.epoch, third.past[1]) == (3, box.bodies)


def test_a_lost_link_is_given_again_to_who_is_still_before_it(world: World) -> None:
    """The answer with the link was lost: the same epoch again, for the same key, and no third one."""
    box = with_a_past(world, 5)
    heir = heir_of(world, box, len(box.bodies))
    order_epoch(world)
    talk, heir.talk = heir.talk, lambda data: (world.talk(data), b"")[1]
    with pytest.raises(ValueError, match="envelope"):
        heir.open()
    heir.talk = talk
    assert heir.open().verdict is Verdict.OK
    assert heir.epoch == 2
    assert world.rows("SELECT epoch FROM journal_head ORDER BY epoch") == [(1,), (2,)]


def test_a_box_with_another_history_is_forked_and_not_rehydrated(world: World) -> None:
    """What differs is kept and ends the order for a new epoch: a person looks first."""
    box = with_a_past(world, 5)
    heir = heir_of(world, box, len(box.bodies) - 2)
    heir.pay("A", "SHOP", 7)
    order_epoch(world)
    opened = heir.open()
    assert opened.verdict is Verdict.FORKED
    assert [head.number for head in opened.closed] == [1]
    assert world.row("SELECT state, release FROM box WHERE box = 'north'") == ("forked", 0)
    assert world.row("SELECT forked FROM journal_head WHERE box = 'north'") == (1,)
    order_epoch(world)
    ignorant = heir.open()
    assert (ignorant.verdict, heir.epoch) == (Verdict.BEHIND, 1)
    assert f"what the {len(box.bodies)} records of epoch 1 decided" in ignorant.reason
    heir.learn(ignorant)
    assert heir.open().verdict is Verdict.OK
    assert heir.epoch == 2


def test_a_pull_on_top_of_another_history_gives_nothing(world: World) -> None:
    """Packages only continue what the hub has: the box hears that it has forked."""
    box = with_a_past(world, 5)
    heir = heir_of(world, box, 4)
    assert heir.open().verdict is Verdict.BEHIND
    heir.bodies[-1:] = []
    heir.pay("A", "SHOP", 7)
    beaten = heir.pull(1)
    assert (beaten.verdict, beaten.pulled) == (Verdict.FORKED, None)
    assert world.row("SELECT forked FROM journal_head WHERE box = 'north'") == (1,)


def test_the_other_history_of_an_old_epoch_forks_nobody_again(world: World) -> None:
    """The fork was settled by a new epoch; a box that has the second history of the old one is well."""
    box = with_a_past(world, 5)
    heir = heir_of(world, box, len(box.bodies) - 2)
    heir.pay("A", "SHOP", 7)
    forked = heir.open()
    assert forked.verdict is Verdict.FORKED
    heir.learn(forked)
    order_epoch(world)
    assert heir.open().verdict is Verdict.OK
    assert (heir.pull(1).pulled, heir.pull(2).verdict) == (None, Verdict.OK)
    heir.sync()
    assert world.row("SELECT state FROM box WHERE box = 'north'") == ("active",)


def test_a_box_with_two_forks_gets_its_next_epoch(world: World) -> None:
    """The fork of its live epoch is known when that of an older one comes to light: each ends one order, and
    none is the last word."""
    box = with_a_past(world, 5)
    order_epoch(world)
    assert box.open(mode=Mode.BEHIND).verdict is Verdict.OK
    box.sync()
    box.pay("A", "SHOP", 1)
    box.beat()
    heir = heir_of(world, box, len(box.bodies))
    heir.keys, heir.key = dict(box.keys), box.key
    heir.bodies[-1:] = []
    heir.pay("A", "SHOP", 9)
    assert heir.open().verdict is Verdict.FORKED
    heir.past[1] = [*heir.past[1][:-1], heir.past[1][-1] + b" "]
    order_epoch(world)
    heir.learn(heir.open(mode=Mode.BEHIND))
    order_epoch(world)
    assert heir.open(mode=Mode.BEHIND).verdict is Verdict.OK
    assert heir.epoch == 3


def test_two_forks_that_are_seen_at_one_opening_are_both_marked(world: World) -> None:
    """Marked one at a time, the younger one would cost a second order."""
    box = with_a_past(world, 5)
    order_epoch(world)
    assert box.open(mode=Mode.BEHIND).verdict is Verdict.OK
    box.sync()
    box.pay("A", "SHOP", 1)
    box.beat()
    heir = heir_of(world, box, len(box.bodies))
    heir.bodies[-1:] = []
    heir.pay("A", "SHOP", 9)
    heir.past[1] = [*heir.past[1][:-1], heir.past[1][-1] + b" "]
    order_epoch(world)
    opened = heir.open(mode=Mode.BEHIND)
    assert opened.verdict is Verdict.FORKED
    assert "of epoch 1, and at" in opened.reason
    assert world.rows("SELECT epoch FROM journal_head WHERE forked ORDER BY epoch") == [(1,), (2,)]
    order_epoch(world)
    heir.learn(opened)
    assert heir.open(mode=Mode.BEHIND).verdict is Verdict.OK


def test_an_old_image_that_pulls_takes_nobody_out_of_service(world: World) -> None:
    """A disk from before the new epoch is started once more: what it holds otherwise is kept as a fork of the
    epoch that is over, and the box that has followed goes on."""
    box = with_a_past(world, 20)
    image = heir_of(world, box, 10)
    image.key = box.key
    image.pay("A", "SHOP", 2)
    heir = heir_of(world, box, len(box.bodies))
    order_epoch(world)
    assert heir.come_back().verdict is Verdict.OK
    heir.sync()
    assert image.open(mode=Mode.BEHIND).verdict is Verdict.FENCED
    assert image.pull(1).pulled is None
    assert world.rows("SELECT epoch FROM journal_head WHERE forked") == [(1,)]
    assert heir.beat().verdict is Verdict.OK
    assert heir.open().verdict is Verdict.OK


@pytest.mark.parametrize("seen", ["at a push", "at an opening"])
def test_a_box_that_wrote_on_in_an_old_epoch_still_gets_the_later_ones(world: World, seen: str) -> None:
    """Its disk and its anchor went back to epoch 1 together, so it wrote before it heard of epoch 2: told to
    open again at the epoch where it has another history, it would never come to the next one."""
    box = with_a_past(world, 5)
    image = heir_of(world, box, len(box.bodies) - 2)
    order_epoch(world)
    assert box.open(mode=Mode.BEHIND).verdict is Verdict.OK
    box.sync()
    image.pay("A", "SHOP", 7)
    image.key = box.key
    assert image.open().verdict is Verdict.FENCED
    if seen == "at a push":
        assert image.beat(push=image.package(4, len(image.bodies))).push is PackageVerdict.FORK
    else:
        order_epoch(world)
        assert image.open(mode=Mode.BEHIND).verdict is Verdict.FORKED
    order_epoch(world)
    opened = image.open(mode=Mode.BEHIND)
    assert (opened.verdict, [head.number for head in opened.closed]) == (Verdict.BEHIND, [1])
    nothing = image.pull(1)
    assert nothing.verdict is not Verdict.REOPEN
    assert nothing.pulled is None
    assert image.pull(2).pulled is not None
    assert image.past.pop(2) == box.bodies
    image.past, image.epoch, image.bodies = {1: image.bodies}, 2, box.bodies
    image.learn(opened)
    assert image.open(mode=Mode.BEHIND).verdict is Verdict.OK
    assert image.epoch == 3


def test_what_came_back_carries_the_hubs_word_as_after_any_push(world: World) -> None:
    """An auditor who asks for the hub's cosignature finds a restored box's past unproven without it."""
    box = with_a_past(world, 300)
    heir = heir_of(world, box, 10)
    assert heir.open().verdict is Verdict.BEHIND
    first = heir.pull(1)
    assert (first.pulled is not None, first.journal, first.cosignature) == (True, None, "")
    last = heir.pull(1)
    for beaten in (last, heir.pull(1)):
        assert beaten.journal == box.journal_head(1)
        said = world.hub_key.public.check_cosignature(beaten.cosignature).checkpoint
        assert (said.size, said.root) == (len(box.bodies), box.root(len(box.bodies)))
    heir.bodies[-1:] = []
    heir.pay("A", "SHOP", 7)
    assert heir.pull(1).cosignature == ""


def test_the_tail_that_burnt_with_the_box_does_not_spoil_the_proofs(world: World) -> None:
    """The last signed head covers more than ever arrived: each package is proved to it all the same."""
    box = with_a_past(world, 300)
    for _ in range(700):
        box.pay("A", "SHOP", 1)
    box.beat()
    held = box.held
    assert held < len(box.bodies) - 256
    heir = heir_of(world, box, 0)
    heir.epoch = 0
    opened = heir.open()
    for bytes_max in (1, 40_000, 10_000, 123_456, 3_000):
        heir.pull(1, bytes_max=bytes_max)
    heir.rehydrate(opened)
    assert heir.bodies == box.bodies[:held]


def test_a_box_that_idles_after_the_order_opens_again(world: World) -> None:
    """Nothing more to pull: the session ends, so that the opening can give the epoch."""
    box = with_a_past(world, 5)
    heir = heir_of(world, box, len(box.bodies) - 1)
    assert heir.open().verdict is Verdict.BEHIND
    assert heir.pull(1).pulled is not None
    assert heir.pull(1).verdict is Verdict.BEHIND
    order_epoch(world)
    assert heir.pull(1).verdict is Verdict.REOPEN
    assert heir.open().verdict is Verdict.OK
    assert heir.epoch == 2


def test_a_late_tail_of_an_older_epoch_is_still_taken_after_the_new_one(world: World) -> None:
    """The old disk turns up: its records continue the old epoch, and its money was in doubt meanwhile."""
    box = with_a_past(world, 5)
    box.pay("A", "SHOP", 100)
    tail = box.package(box.held, len(box.bodies))
    heir = heir_of(world, box, box.held)
    order_epoch(world)
    assert heir.come_back().verdict is Verdict.OK
    heir.sync()
    before = world.money("SHOP")[0]
    assert heir.beat(push=tail).push is PackageVerdict.ACCEPTED
    assert world.money("SHOP")[0] == before + 100


def test_a_pull_costs_the_same_at_the_end_as_at_the_beginning(world: World) -> None:
    """A package is proved from a bounded number of hashes, however long the journal is."""
    box = with_a_past(world, 900)
    box.open()
    reads: list[str] = []

    def count(*args: object) -> None:
        reads.append(str(args[2]))

    def pull(size: int) -> None:
        box.counter += 1
        message = Beat(directives=LogHead(0), pull=LogHead(1, size, box.root(size)))
        beaten = box.send(message, session=box.session, counter=box.counter)
        assert isinstance(beaten, Beaten)
        assert beaten.pulled is not None

    event.listen(Engine, "before_cursor_execute", count)
    try:
        pull(256)
        early = len(reads)
        reads.clear()
        pull(768)
    finally:
        event.remove(Engine, "before_cursor_execute", count)
    assert 0 < len(reads) <= early + 4


def test_an_order_about_no_box_of_the_hub_names_the_boxes_that_there_are(world: World) -> None:
    """A slip of the pen in an order is a wrong use, not a fault of the hub."""
    with world.engine.begin() as connection:
        with pytest.raises(OrderError, match=rf"box nowhere is not in .* there are .*{NORTH}"):
            release_epoch(connection, "nowhere")
        with pytest.raises(OrderError, match=rf"box nowhere is not in .* there are .*{NORTH}"):
            seal_epoch(connection, "nowhere", 1)
