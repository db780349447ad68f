"""Recall before decline, and what returns by itself: money that lies at other boxes is asked back first, by
boxes that never wait for each other."""

from __future__ import annotations

import msgspec
import pytest
from sqlalchemy import insert

from edgegw.core.messages import Ask
from edgegw.core.records import (
    ConfirmDirective,
    DeclineDirective,
    Directive,
    GrantDirective,
    RecallDirective,
    RefuseDirective,
)
from edgegw.core.site import AllowanceRule
from edgegw.hub.directives import DirectiveLog
from edgegw.hub.operate import release_epoch
from edgegw.hub.order_actions import Scene, Seal
from edgegw.hub.orders import recall_first
from edgegw.hub.recalls import KEPT_NS, ONLINE_NS, SEAL_WAIT_NS, STAND_IN_WAIT_NS, Recalls
from edgegw.hub.schema import recall
from tests.hub.simulated_box import SimulatedBox
from tests.hub.test_close import order
from tests.hub.world import ALLOTTED, CNY, NORTH, SOUTH, World, a_site

HOUR_NS = 3600 * 10**9


def ask(request_id: str, amount_minor: int, *, account_id: str = "A", patience_ms: int = 500) -> Ask:
    """A wish of a box that can wait a while."""
    return Ask(request_id, account_id, CNY, amount_minor, patience_ms)


def recalls(box: SimulatedBox) -> list[tuple[str, int, str]]:
    """What a box was asked back."""
    return [
        (said.account_id, said.amount_minor, said.reason)
        for said in box.directives
        if isinstance(said, RecallDirective)
    ]


def last(box: SimulatedBox) -> Directive:
    """The newest directive."""
    return box.directives[-1]


def granted(box: SimulatedBox) -> int:
    """What the newest directive, a grant, gives."""
    said = last(box)
    assert isinstance(said, GrantDirective), said
    return said.amount_minor


def refused(box: SimulatedBox) -> str:
    """Why the newest directive refuses."""
    said = last(box)
    assert isinstance(said, RefuseDirective), said
    return said.reason


def test_money_at_another_box_is_recalled_before_a_payment_is_declined(world: World) -> None:
    """The ask is answered once the other box has given back what it has free, and by that alone."""
    north, south = world.box(NORTH), world.box(SOUTH)
    south.sync(ask("s", 900))
    assert north.beat(ask("n", 400)).again_ms > 0
    assert recalls(south) == []
    south.beat()
    assert recalls(south) == [("A", 300, "wanted elsewhere")]
    size = len(north.directives)
    assert north.beat(ask("n", 400)).again_ms > 0
    assert len(north.directives) == size
    south.apply(last(south), back_minor=300)
    south.sync()
    assert world.money("A") == (1_000, 400, 600)
    assert north.beat(ask("n", 400)).again_ms == 0
    assert granted(north) == 400
    assert world.money("A") == (1_000, 0, 1_000)


@pytest.mark.slow
def test_nobody_is_asked_where_all_boxes_together_have_too_little(world: World) -> None:
    """A payment that nobody covers is declined at once, and moves nothing."""
    north, south = world.box(NORTH), world.box(SOUTH)
    south.sync(ask("s", 900))
    assert north.beat(ask("n", 1_001)).again_ms == 0
    assert refused(north) == "insufficient_funds"
    south.beat()
    assert recalls(south) == []


def test_a_box_that_is_away_is_not_waited_for(world: World) -> None:
    """It could not answer."""
    south = world.box(SOUTH)
    south.sync(ask("s", 900))
    world.ahead_ns += ONLINE_NS
    north = world.box(NORTH)
    assert north.beat(ask("n", 400)).again_ms == 0
    assert refused(north) == "insufficient_funds"


@pytest.mark.slow
def test_a_box_that_goes_away_while_it_is_asked_ends_the_wait(world: World) -> None:
    """The payment is declined, not kept waiting."""
    north, south = world.box(NORTH), world.box(SOUTH)
    south.sync(ask("s", 900))
    assert north.beat(ask("n", 400)).again_ms > 0
    world.ahead_ns += ONLINE_NS
    assert north.beat(ask("n", 400)).again_ms == 0
    assert refused(north) == "insufficient_funds"


@pytest.mark.slow
@pytest.mark.parametrize("back_minor", [0, 299])
def test_a_box_that_has_less_free_than_it_holds_ends_the_wait(world: World, back_minor: int) -> None:
    """Holds keep their cover; the payment that lacks it is declined."""
    north, south = world.box(NORTH), world.box(SOUTH)
    south.sync(ask("s", 900))
    north.beat(ask("n", 400))
    south.beat()
    south.apply(last(south), back_minor=back_minor)
    south.sync()
    assert north.beat(ask("n", 400)).again_ms == 0
    assert refused(north) == "insufficient_funds"
    assert world.money("A") == (1_000, 100 + back_minor, 900 - back_minor)


def test_a_payment_that_can_wait_no_longer_is_answered_now(world: World) -> None:
    """Its last message still brings a refusal: without an answer the branch would stand in."""
    north, south = world.box(NORTH), world.box(SOUTH)
    south.sync(ask("s", 900))
    assert north.beat(ask("n", 400)).again_ms > 0
    assert north.beat(ask("n", 400, patience_ms=0)).again_ms == 0
    assert refused(north) == "insufficient_funds"


@pytest.mark.slow
def test_an_ask_of_an_older_box_is_answered_at_once(world: World) -> None:
    """It names no patience."""
    north, south = world.box(NORTH), world.box(SOUTH)
    south.sync(ask("s", 900))
    north.beat(Ask("n", "A", CNY, 400))
    assert refused(north) == "insufficient_funds"
    south.beat()
    assert recalls(south) == []


@pytest.mark.slow
def test_what_was_recalled_for_nobody_is_there_for_the_next(world: World) -> None:
    """A payment that gave up leaves the money at the centre, and the rows behind it go."""
    north, south = world.box(NORTH), world.box(SOUTH)
    south.sync(ask("s", 900))
    north.beat(ask("n-1", 400))
    south.beat()
    south.apply(last(south), back_minor=300)
    south.sync()
    assert world.money("A") == (1_000, 400, 600)
    north.beat(ask("n-2", 400))
    assert granted(north) == 400
    world.ahead_ns += KEPT_NS
    south.beat()
    assert world.rows("SELECT * FROM recall") == []


@pytest.mark.slow
def test_a_recall_that_was_not_said_in_time_is_not_said_later(world: World) -> None:
    """A box that comes back finds no wishes of yesterday."""
    north, south = world.box(NORTH), world.box(SOUTH)
    south.sync(ask("s", 900))
    north.beat(ask("n", 400))
    world.ahead_ns += KEPT_NS
    south.beat()
    assert recalls(south) == []
    assert world.rows("SELECT * FROM recall") == []


def test_several_wishes_are_one_recall_and_each_is_asked_once(world: World) -> None:
    """Repeats of an ask add nothing; two asks add up, and the little that the centre has counts once."""
    north, south = world.box(NORTH), world.box(SOUTH)
    south.sync(ask("s", 900))
    for _ in range(3):
        north.beat(ask("n-1", 400), ask("n-2", 300))
    south.beat()
    south.beat()
    assert recalls(south) == [("A", 600, "wanted elsewhere")]
    south.apply(last(south), back_minor=600)
    south.sync()
    north.beat(ask("n-1", 400), ask("n-2", 300))
    assert [granted(north), world.money("A")] == [300, (1_000, 0, 1_000)]


def test_a_wish_that_comes_while_a_box_is_told_is_told_with_its_next_message(world: World) -> None:
    """Its amount is in no directive yet: marked as said, it would be refused though the money is there."""
    north, south = world.box(NORTH), world.box(SOUTH)
    south.sync(ask("s", 900))
    north.beat(ask("n", 400))
    with world.engine.begin() as connection:
        now_ns = world.now_ns()
        looking = Recalls(connection, box=SOUTH, now_ns=now_ns)
        late = {"box": SOUTH, "for_box": NORTH, "key": "late", "account_id": "A", "currency": CNY}
        connection.execute(
            insert(recall).values(**late, amount_minor=200, asked_ns=now_ns, incarnation=0, seq=0, done=False)
        )
        log = DirectiveLog(connection, world.keyring, box=SOUTH, incarnation=1, epoch=1, wall_ns=now_ns)
        looking.tell(log)
        log.write()
    south.beat()
    assert recalls(south) == [("A", 300, "wanted elsewhere"), ("A", 200, "wanted elsewhere")]


def test_an_allotment_is_not_filled_up_with_what_was_just_recalled(world: World) -> None:
    """The home box gives, and the hub does not hand it back in the same breath."""
    world.fund("HOME", 800)
    world.publish(a_site(2, allowances=(AllowanceRule(currency=CNY, share_percent=100, account_minor=800),)))
    north, south = world.box(NORTH), world.box(SOUTH)
    assert world.money("HOME") == (800, 0, 800)
    south.beat(ask("s", 700, account_id="HOME"))
    north.beat()
    north.apply(last(north), back_minor=700)
    north.sync()
    assert world.money("HOME") == (800, 700, 100)
    south.beat(ask("s", 700, account_id="HOME"))
    assert granted(south) == 700


def test_a_stand_in_waits_a_moment_for_the_payer_s_money_at_another_box(world: World) -> None:
    """The payer pays, though his money lay elsewhere when the branch was back."""
    south, north = world.box(SOUTH), world.box(NORTH)
    south.sync(ask("s", 900))
    north.stand_in("A", "SHOP", 400)
    assert north.beat().again_ms > 0
    south.beat()
    assert recalls(south) == [("A", 300, "wanted elsewhere")]
    south.apply(last(south), back_minor=300)
    south.sync()
    came = north.sync()
    assert isinstance(came[0], ConfirmDirective)
    assert world.money("A") == (600, 0, 600)


def test_a_stand_in_is_declined_when_the_other_box_says_nothing(world: World) -> None:
    """The merchant hears within a second."""
    south, north = world.box(SOUTH), world.box(NORTH)
    south.sync(ask("s", 900))
    north.stand_in("A", "SHOP", 400)
    assert north.beat().again_ms > 0
    assert north.beat().again_ms > 0
    world.ahead_ns += STAND_IN_WAIT_NS
    assert isinstance(north.sync()[0], DeclineDirective)
    assert north.beat().again_ms == 0


def test_a_stand_in_is_paid_with_what_the_branch_itself_still_holds_of_the_payer(world: World) -> None:
    """A payment beyond the allowance left that untouched: together with the centre's it is enough."""
    box = world.box(NORTH)
    box.sync(ask("n", 700))
    box.stand_in("A", "SHOP", 400)
    assert box.beat().again_ms > 0
    assert recalls(box) == [("A", 100, "wanted elsewhere")]
    box.apply(last(box), back_minor=100)
    came = box.sync()
    assert isinstance(came[0], ConfirmDirective)
    assert world.money("A") == (600, 0, 600)


def test_what_a_stand_in_waits_for_is_not_handed_out_meanwhile(world: World) -> None:
    """The payer's allotment is filled up behind it: else his money would go there, and he be declined."""
    world.fund("HOME", 1_000)
    south, north = world.box(SOUTH), world.box(NORTH)
    south.sync(ask("s", 600, account_id="HOME"))
    world.publish(a_site(2, allowances=(AllowanceRule(currency=CNY, share_percent=40, account_minor=400),)))
    north.stand_in("HOME", "SHOP", 500)
    north.beat()
    south.beat()
    assert recalls(south) == [("HOME", 100, "wanted elsewhere")]
    south.apply(last(south), back_minor=100)
    south.sync()
    assert isinstance(north.sync()[0], ConfirmDirective)
    assert world.money("HOME") == (500, 0, 500)


def test_a_seal_asks_for_the_payer_s_money_before_it_declines(world: World) -> None:
    """The branch would bear what the payer has, at another box."""
    south, north = world.box(SOUTH), world.box(NORTH)
    south.sync(ask("s", 900))
    north.sync()
    for _ in range(2):
        north.stand_in("A", "SHOP", 200)
    with world.engine.begin() as connection:
        release_epoch(connection, NORTH)
    heir = world.new_box(NORTH)
    heir.come_back()
    heir.beat(push=north.package(north.held, len(north.bodies)))

    looks: list[int] = []

    def pause() -> None:
        looks.append(1)
        south.beat()
        if recalls(south) and len(looks) == 1:
            assert recalls(south) == [("A", 300, "wanted elsewhere")]
            south.apply(last(south), back_minor=300)
            south.sync()

    seal = Seal(box=NORTH, epoch=1)
    recall_first(world.database, seal, now_ns=world.now_ns, pause=pause)
    with world.engine.begin() as connection:
        seal.run(Scene(connection, world.keyring, world.now_ns(), "M. Li"))
    assert len(looks) == 1
    assert world.money("A") == (600, 0, 600)
    assert world.rows("SELECT state, reason FROM stand_in") == [("confirmed", "")] * 2


@pytest.mark.slow
def test_a_seal_does_not_wait_for_boxes_that_say_nothing(world: World) -> None:
    """The order is given after a few seconds, and declines."""
    south, north = world.box(SOUTH), world.box(NORTH)
    south.sync(ask("s", 900))
    north.stand_in("A", "SHOP", 200)
    with world.engine.begin() as connection:
        release_epoch(connection, NORTH)
    heir = world.new_box(NORTH)
    heir.come_back()
    heir.beat(push=north.package(north.held, len(north.bodies)))

    def pause() -> None:
        world.ahead_ns += SEAL_WAIT_NS // 2
        south.beat()

    recall_first(world.database, Seal(box=NORTH, epoch=1), now_ns=world.now_ns, pause=pause)
    assert world.money("A") == (1_000, 100, 900)


# --- what lies idle, and what follows use -------------------------------------------------------------------


def the_rule(**fields: int) -> tuple[AllowanceRule, ...]:
    """A site's one rule: nothing at home, so that the others stand alone."""
    values = {"share_percent": 0, "account_minor": 0, **fields}
    return (msgspec.convert({"currency": CNY, **values}, AllowanceRule),)


def test_a_visitor_s_money_that_lies_idle_returns(world: World) -> None:
    """What a payment left behind goes back after idle_hours without one; a box is asked once."""
    world.publish(a_site(2, allowances=the_rule(idle_hours=2)))
    box = world.box(NORTH)
    box.sync(ask("1", 500))
    box.pay("A", "B", 100, home=True)
    box.sync()
    world.ahead_ns += HOUR_NS
    box.pay("A", "B", 100, home=True)
    box.sync()
    world.ahead_ns += HOUR_NS + HOUR_NS // 2
    box.sync()
    assert recalls(box) == []
    world.ahead_ns += HOUR_NS
    box.beat()
    assert recalls(box) == [("A", 300, "idle")]
    box.apply(last(box), back_minor=250)
    box.sync()
    assert world.money("A") == (800, 750, 50)
    world.ahead_ns += HOUR_NS
    box.sync()
    assert len(recalls(box)) == 1
    world.ahead_ns += HOUR_NS
    box.beat()
    assert recalls(box)[1:] == [("A", 50, "idle")]


@pytest.mark.slow
def test_money_at_home_never_lies_idle(world: World) -> None:
    """It is there for the day on which the line fails."""
    world.fund("HOME", 1_000)
    world.publish(a_site(2, allowances=(msgspec.structs.replace(ALLOTTED[0], idle_hours=1),)))
    box = world.box(NORTH)
    for _ in range(3):
        world.ahead_ns += 2 * HOUR_NS
        box.sync()
    assert recalls(box) == []
    assert world.money("HOME") == (1_000, 600, 400)


def test_an_account_that_paid_at_a_box_lately_has_an_allotment_there(world: World) -> None:
    """Who shops here each day can do so while the line is down; who comes no more is forgotten."""
    rule = the_rule(seen_days=2, seen_share_percent=20, seen_account_minor=400, idle_hours=72)
    world.publish(a_site(2, allowances=rule))
    box = world.box(NORTH)
    box.sync(ask("1", 100))
    box.pay("A", "B", 100, home=True)
    box.sync()
    assert world.money("A") == (900, 720, 180)
    box.pay("A", "B", 80, home=True)
    box.sync()
    assert world.money("A") == (820, 720, 100)
    box.pay("A", "B", 60, home=True)
    box.sync()
    assert world.money("A") == (760, 608, 152)
    world.ahead_ns += 72 * HOUR_NS + 10**9
    box.beat()
    assert recalls(box) == [("A", 152, "idle")]
    box.apply(last(box), back_minor=152)
    world.publish(a_site(3, allowances=rule))
    box.sync()
    assert world.money("A") == (760, 760, 0)


@pytest.mark.slow
def test_a_new_site_fills_up_what_was_seen_before_it(world: World) -> None:
    """All allotments are looked at when the policy changes."""
    world.publish(a_site(2, allowances=the_rule(idle_hours=500)))
    box = world.box(NORTH)
    box.sync(ask("1", 100))
    box.pay("A", "B", 100, home=True)
    box.sync()
    rule = the_rule(seen_days=2, seen_share_percent=50, seen_account_minor=200)
    world.publish(a_site(3, allowances=rule))
    box.sync()
    assert world.money("A") == (900, 700, 200)


def test_a_top_up_brings_headroom_within_share_and_cap(world: World) -> None:
    """The next payments of a visitor need no question; never more than the account's own limits."""
    rule = (AllowanceRule(currency=CNY, share_percent=30, account_minor=250, headroom_percent=50),)
    world.publish(a_site(2, allowances=rule))
    box = world.box(NORTH)
    box.sync(ask("1", 100))
    assert world.money("A") == (1_000, 850, 150)
    box.sync(ask("2", 400))
    assert world.money("A") == (1_000, 350, 650)
    box.sync(ask("3", 300))
    assert world.money("A") == (1_000, 50, 950)


@pytest.mark.slow
def test_what_comes_free_of_a_closed_account_returns(world: World) -> None:
    """A hold that is given free after the close leaves nothing behind."""
    box = world.box(NORTH)
    box.sync(ask("1", 500))
    held = box.hold("A", "SHOP", 200)
    order(world, "A")
    box.beat()
    box.apply(last(box), back_minor=300)
    box.sync()
    assert recalls(box) == []
    box.resolve(held, "A", "SHOP", 200, void=True)
    box.beat()
    assert recalls(box) == [("A", 200, "closed")]
    box.apply(last(box), back_minor=200)
    box.sync()
    assert world.money("A") == (1_000, 1_000, 0)
    assert len(recalls(box)) == 1
