"""A box that is lost for ever: nothing comes back before an operator says so, and his word is kept."""

from __future__ import annotations

import pytest

from edgegw.core.messages import Ask, PackageVerdict, Verdict
from edgegw.core.site import AllowanceRule
from edgegw.hub.findings import findings
from edgegw.hub.holdings import Holding, holdings
from edgegw.hub.operate import OrderError, declare_lost, release_epoch
from edgegw.hub.recalls import KEPT_NS
from tests.hub.world import CNY, NORTH, RISK_MINOR, SOUTH, World, a_site

HOUR_NS = 3600 * 10**9


def declare(world: World, box: str = NORTH, *, lost: int = 0) -> None:
    """What `edgegw order lost` does, an hour after the box was heard."""
    world.ahead_ns += HOUR_NS
    with world.engine.begin() as connection:
        declare_lost(connection, box, lost=lost, reason="burnt down", now_ns=world.now_ns())


def test_only_a_declared_loss_brings_back_what_a_lost_box_held(world: World) -> None:
    """However long it is silent and whatever its lease says: the order gives back, once, and is kept with
    every amount."""
    world.publish(
        a_site(
            2, allowances=(AllowanceRule(currency=CNY, share_percent=0, account_minor=0, lease_seconds=60),)
        )
    )
    box = world.box(NORTH)
    box.sync(Ask("1", "A", CNY, 400))
    box.pay("A", "SHOP", 100)
    box.sync()
    south = world.box(SOUTH)
    world.ahead_ns += 30 * 24 * HOUR_NS
    for _ in range(3):
        world.ahead_ns += KEPT_NS
        south.sync(Ask(f"s-{world.ahead_ns}", "A", CNY, 700))
    assert world.money("A") == (900, 600, 300)
    declare(world)
    assert world.money("A") == (900, 900, 0)
    assert world.money("SHOP") == (100, 100, 0)
    assert world.money("risk:north:CNY") == (RISK_MINOR, RISK_MINOR, 0)
    [(epoch, records, is_lost, reason)] = world.rows(
        "SELECT epoch, records_lost, box_lost, reason FROM declaration"
    )
    assert (epoch, records, bool(is_lost), reason) == (1, 0, True, "burnt down")
    returned = world.rows("SELECT account_id, amount_minor FROM declared_return ORDER BY account_id")
    assert returned == [("A", 300), ("SHOP", 100), ("risk:north:CNY", RISK_MINOR)]
    [found] = [one for one in findings(world.database) if one.kind == "declared_loss"]
    assert (found.box, found.epoch) == (NORTH, 1)
    with pytest.raises(OrderError, match="no epoch"):
        declare(world)


def test_a_box_that_speaks_is_not_lost(world: World) -> None:
    """A wrong name in the order must not take a branch out of service."""
    box = world.box(NORTH)
    box.sync(Ask("1", "A", CNY, 400))
    with world.engine.begin() as connection, pytest.raises(OrderError, match="switch it off first"):
        declare_lost(connection, NORTH, lost=0, reason="burnt down", now_ns=world.now_ns())
    assert world.money("A") == (1_000, 600, 400)


@pytest.mark.slow
def test_records_that_are_known_to_be_missing_must_be_named(world: World) -> None:
    """What it has said to hold beyond what is here is a loss of so many records."""
    box = world.box(NORTH)
    box.sync(Ask("1", "A", CNY, 400))
    box.pay("A", "SHOP", 100)
    box.pay("A", "SHOP", 50)
    box.open()
    with pytest.raises(OrderError, match="--lost 2"):
        declare(world)
    assert world.money("A") == (1_000, 600, 400)
    declare(world, lost=2)
    assert world.money("A") == (1_000, 1_000, 0)
    assert world.rows("SELECT records_lost FROM declaration") == [(2,)]


@pytest.mark.slow
def test_a_lost_box_that_turns_up_is_out_of_service_until_a_new_epoch(world: World) -> None:
    """Its money was given back: it clears nothing, what it wrote is not booked any more, and a person lets it
    begin again."""
    box = world.box(NORTH)
    box.sync(Ask("1", "A", CNY, 400))
    declare(world)
    box.pay("A", "SHOP", 400)
    opened = box.open()
    assert opened.verdict is Verdict.FENCED
    assert "declared lost" in opened.reason
    assert [head.number for head in opened.journals] == []
    beaten = box.beat()
    assert beaten.push is PackageVerdict.MALFORMED
    assert "sealed" in beaten.push_reason
    assert world.money("A") == (1_000, 1_000, 0)
    with world.engine.begin() as connection:
        release_epoch(connection, NORTH)
    assert world.row("SELECT release FROM box WHERE box = 'north'") == (1,)


@pytest.mark.slow
def test_a_lost_box_is_not_asked_for_money(world: World) -> None:
    """It could not answer, and what it had is at the centre."""
    north = world.box(NORTH)
    north.sync(Ask("1", "A", CNY, 900))
    declare(world)
    south = world.box(SOUTH)
    assert south.beat(Ask("s", "A", CNY, 1_000, 500)).again_ms == 0
    assert world.money("A") == (1_000, 0, 1_000)


def test_what_each_box_holds_is_told_with_its_lease(world: World) -> None:
    """Where the money is, whether it is at home there, and until when a silent box can spend it."""
    rule = AllowanceRule(currency=CNY, share_percent=50, account_minor=400, lease_seconds=60)
    world.fund("HOME", 1_000)
    world.publish(a_site(2, allowances=(rule,)))
    box = world.box(NORTH)
    box.sync(Ask("1", "A", CNY, 300))
    found = {one.account_id: one for one in holdings(world.database, box=NORTH)}
    assert {name: one.amount_minor for name, one in found.items()} == {
        "A": 300,
        "HOME": 400,
        "risk:north:CNY": RISK_MINOR,
    }
    one = found["HOME"]
    assert isinstance(one, Holding)
    assert (one.is_home, found["A"].is_home, one.in_doubt, one.state) == (True, False, False, "active")
    assert one.lease_ends_ns == one.heard_ns + 60 * 10**9
    assert list(holdings(world.database, box=SOUTH)) == []
    assert len(list(holdings(world.database))) == 3
