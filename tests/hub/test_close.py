"""Accounts that are closed: nothing is given of them, what boxes hold returns, and every box hears of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgegw.core.messages import Ask, Verdict
from edgegw.core.records import CloseDirective, FreezeDirective, GrantDirective, RefuseDirective
from edgegw.hub.operate import OrderError, close, freeze
from tests.hub.simulated_box import SimulatedBox
from tests.hub.world import ALLOTTED, CNY, NORTH, SOUTH, World, a_site


def order(world: World, account_id: str, *, closed: bool = True) -> None:
    """What `edgegw order close` does."""
    with world.engine.begin() as connection:
        close(connection, world.keyring, account_id=account_id, closed=closed, reason="moved away", now_ns=1)


def closes(box: SimulatedBox) -> list[tuple[str, bool]]:
    """What a box has heard."""
    return [(said.account_id, said.closed) for said in box.directives if isinstance(said, CloseDirective)]


def test_a_closed_account_is_granted_to_nobody_and_its_money_returns(world: World) -> None:
    """What a box has free comes back with its word; live holds keep their cover, and it is posted later."""
    box = world.box(NORTH)
    box.sync(Ask("1", "A", CNY, 500))
    held = box.hold("A", "SHOP", 200)
    order(world, "A")
    box.beat()
    assert closes(box) == [("A", True)]
    box.apply(box.directives[-1], back_minor=300)
    box.sync(Ask("2", "A", CNY, 10))
    refusal = box.directives[-1]
    assert isinstance(refusal, RefuseDirective)
    assert refusal.reason == "account_closed"
    assert world.money("A") == (1_000, 800, 200)
    box.resolve(held, "A", "SHOP", 200)
    box.sync()
    assert world.money("A") == (800, 800, 0)


@pytest.mark.slow
def test_a_closed_account_at_home_is_allotted_nothing(world: World) -> None:
    """The policy does not hand out again what was just taken back."""
    world.fund("HOME", 10_000)
    world.publish(a_site(2, allowances=ALLOTTED))
    box = world.box(NORTH)
    order(world, "HOME")
    box.beat()
    box.apply(box.directives[-1], back_minor=400)
    box.sync()
    assert world.money("HOME") == (10_000, 10_000, 0)
    order(world, "HOME", closed=False)
    world.fund("HOME", 1)
    box.sync()
    assert world.money("HOME") == (10_001, 9_601, 400)


def test_a_stand_in_for_a_closed_payer_is_declined(world: World) -> None:
    """The branch stood in while it had not heard."""
    box = world.box(NORTH)
    order(world, "A")
    box.stand_in("A", "SHOP", 100)
    box.sync()
    assert world.rows("SELECT state, reason FROM stand_in") == [("declined", "account_closed")]


@pytest.mark.slow
def test_a_box_that_comes_later_hears_of_every_close(world: World) -> None:
    """Else a new box, or the next epoch, would pay."""
    order(world, "A")
    order(world, "B")
    order(world, "B", closed=False)
    assert closes(world.box(SOUTH)) == [("A", True)]


@pytest.mark.slow
def test_an_account_that_no_customer_has_cannot_be_closed(world: World) -> None:
    """The books' own accounts work for ever; a wrong name is told."""
    for account_id in ("NOBODY", "capital:CNY", "risk:north:CNY"):
        with pytest.raises(OrderError, match=account_id):
            order(world, account_id)


@pytest.mark.slow
def test_closes_that_a_hub_has_lost_come_back_and_lifted_ones_are_told(world: World, tmp_path: Path) -> None:
    """A restored hub bars what it had closed, by its own words from the box; what it closed unheard it says
    again in the new log."""
    box = world.box(NORTH)
    world.back_up(tmp_path / "old.db")
    order(world, "A")
    box.sync(Ask("1", "B", CNY, 1))
    world.restore(tmp_path / "old.db")
    with world.engine.begin() as connection:
        freeze(connection, world.keyring, account_id="HOME", frozen=True, reason="court", now_ns=1)
    assert box.give_back(box.open(), count=1).verdict is Verdict.OK
    came = box.sync()
    assert world.row("SELECT closed FROM account WHERE account_id = 'A'") == (1,)
    assert [said.account_id for said in came if isinstance(said, CloseDirective)] == ["A"]
    assert [said.account_id for said in came if isinstance(said, FreezeDirective)] == ["HOME"]
    box.sync(Ask("2", "A", CNY, 1))
    assert not any(isinstance(said, GrantDirective) and said.account_id == "A" for said in box.directives)
