"""Blocks and changed limits at the hub: told to every box, to those that come later, and kept by a hub that
lost its last commits."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgegw.core.counts import LimitChange
from edgegw.core.messages import Verdict
from edgegw.core.records import BlockDirective, LimitDirective
from edgegw.core.site import LimitRule
from edgegw.hub.limit_orders import block, change_limit
from edgegw.hub.operate import OrderError
from edgegw.hub.order_actions import Action, Block, ChangeLimit, Scene
from tests.hub.test_take_back import back_up
from tests.hub.world import CNY, NORTH, World, a_site

DAY = LimitRule(name="day", of="card", currency=CNY, per="day", amount_minor=500)
OFTEN = LimitRule(name="often", seconds=60, count=3)
ONE = LimitRule(name="one", currency=CNY, payment_minor=100)


def ordered_block(world: World, whose: str, *, blocked: bool = True) -> None:
    """Block a terminal, or let it pay again."""
    with world.engine.begin() as connection:
        block(
            connection,
            world.keyring,
            of="terminal",
            whose=whose,
            blocked=blocked,
            reason="stolen",
            now_ns=1,
        )


def ordered_change(world: World, name: str, change: LimitChange | None, whose: str = "") -> None:
    """Give a limit of the site other values, or its own again."""
    site = a_site(2, limits=(DAY, OFTEN, ONE))
    with world.engine.begin() as connection:
        change_limit(
            connection, world.keyring, site, name=name, whose=whose, change=change, reason="risk", now_ns=1
        )


def test_a_box_hears_of_a_block_and_of_its_end(world: World) -> None:
    """By directives, in order."""
    box = world.box(NORTH)
    ordered_block(world, "T1")
    ordered_block(world, "T1", blocked=False)
    heard = [said for said in box.sync() if isinstance(said, BlockDirective)]
    assert [(said.of, said.whose, said.blocked) for said in heard] == [
        ("terminal", "T1", True),
        ("terminal", "T1", False),
    ]


def test_a_box_that_comes_later_hears_of_what_is_in_force(world: World) -> None:
    """Else a new box, or the next epoch, would let a stolen terminal pay."""
    for whose in ("T1", "T2"):
        ordered_block(world, whose)
    ordered_block(world, "T2", blocked=False)
    ordered_change(world, "day", LimitChange(amount_minor=0), "token")
    ordered_change(world, "day", LimitChange(amount_minor=9))
    ordered_change(world, "often", LimitChange(count=1))
    ordered_change(world, "often", None)
    box = world.box(NORTH)
    blocks = [said.whose for said in box.directives if isinstance(said, BlockDirective)]
    changes = [
        (said.name, said.whose, said.amount_minor)
        for said in box.directives
        if isinstance(said, LimitDirective)
    ]
    assert blocks == ["T1"]
    assert changes == [("day", "", 9), ("day", "token", 0)]


@pytest.mark.parametrize(
    ("name", "change", "fault"),
    [
        ("week", LimitChange(count=1), "no limit of the site's settings; there are day, often, one"),
        ("day", LimitChange(), "no value is given"),
        ("often", LimitChange(amount_minor=5), "takes a count alone"),
        ("one", LimitChange(count=5), "takes payment_minor alone"),
    ],
)
def test_a_change_that_no_box_could_hold_is_refused(
    world: World, name: str, change: LimitChange, fault: str
) -> None:
    """The order names what would fit."""
    with pytest.raises(OrderError, match=fault):
        ordered_change(world, name, change)


@pytest.mark.parametrize(("whose", "fault"), [("x" * 65, "64 are the most"), ("4" * 16, "the card's lookup")])
def test_an_id_that_no_payment_can_have_gets_no_limit(world: World, whose: str, fault: str) -> None:
    """A card number would stand in every box's journal, and the longer one in no database's column."""
    with pytest.raises(OrderError, match=fault) as caught:
        ordered_change(world, "day", LimitChange(amount_minor=5), whose)
    assert whose not in str(caught.value)


def test_a_client_and_a_token_are_told_to_every_box(world: World) -> None:
    """A key that was stolen is stolen at each box, also at one that begins a new log."""

    def order(of: str, whose: str, *, blocked: bool) -> str:
        with world.engine.begin() as connection:
            block = Block(of=of, whose=whose, blocked=blocked, reason="stolen")
            return block.run(Scene(connection, world.keyring, 1, "mei"))

    box = world.box(NORTH)
    box.open()
    assert order("client", "till", blocked=True) == "client till is not heard"
    order("token", "f" * 32, blocked=True)
    assert order("token", "f" * 32, blocked=False) == f"token {'f' * 32} is heard again"
    heard = [said for said in box.sync() if isinstance(said, BlockDirective)]
    assert [(said.of, said.whose, said.blocked) for said in heard] == [
        ("client", "till", True),
        ("token", "f" * 32, True),
        ("token", "f" * 32, False),
    ]


def test_an_order_about_what_is_not_there_is_said(world: World) -> None:
    """Whoever mistypes an id believes an account barred, or a terminal free again."""

    def order(action: Action) -> str:
        with world.engine.begin() as connection:
            return action.run(Scene(connection, world.keyring, 1, "mei"))

    gone = Block(of="terminal", whose="T1", blocked=False, reason="found")
    assert order(gone).endswith("pays again: no order had blocked it, so check the id")
    order(Block(of="terminal", whose="T1", blocked=True, reason="stolen"))
    assert order(gone) == "terminal T1 pays again"
    lifted = ChangeLimit(name="dya", whose="", change=None, reason="over")
    assert order(lifted).endswith("no order had changed it, so check name and id")
    with pytest.raises(OrderError, match="account_id nobody is unknown"):
        order(Block(of="account", whose="nobody", blocked=True, reason="stolen"))


def test_orders_that_a_restored_hub_has_lost_come_back_and_are_said_again(
    world: World, tmp_path: Path
) -> None:
    """A block that was given is in force after a failover that lost it, and one that was lifted is not."""
    box = world.box(NORTH)
    ordered_block(world, "OLD")
    box.sync()
    path = back_up(world, tmp_path)
    ordered_block(world, "OLD", blocked=False)
    ordered_block(world, "NEW")
    ordered_change(world, "day", LimitChange(amount_minor=7), "token")
    box.sync()
    world.restore(path)
    assert box.give_back(box.open()).verdict is Verdict.OK
    assert world.rows("SELECT whose FROM block") == [("NEW",)]
    assert world.rows("SELECT name, whose, amount_minor FROM limit_change") == [("day", "token", 7)]
