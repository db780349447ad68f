"""Stand-ins meet the centre: confirmed out of the payer's money, or declined late and borne by someone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgegw.core.messages import Ask, Package
from edgegw.core.records import ConfirmDirective, DeclineDirective, FreezeDirective
from edgegw.core.site import CurrencyRule
from edgegw.hub.operate import freeze, release_epoch, seal_epoch
from edgegw.hub.recalls import ONLINE_NS
from tests.hub.simulated_box import SimulatedBox
from tests.hub.world import CNY, NORTH, RISK_MINOR, SOUTH, World, a_site


def stand_ins(world: World) -> list[tuple[object, ...]]:
    """Every stand-in's state, who is liable, why, and whether the box has journalled it."""
    return world.rows("SELECT state, liable, reason, settled FROM stand_in ORDER BY box, epoch, seq")


def test_a_covered_stand_in_is_confirmed_and_the_branch_is_made_whole(world: World) -> None:
    """The payer pays at the centre, the payee gets it at the box, the risk allowance is full again."""
    box = world.box(NORTH)
    box.stand_in("A", "SHOP", 400)
    came = box.sync()
    assert isinstance(came[0], ConfirmDirective)
    assert world.money("A") == (600, 600, 0)
    assert world.money("SHOP") == (400, 0, 400)
    assert world.money("risk:north:CNY") == (RISK_MINOR, 0, RISK_MINOR)
    assert world.money("capital:CNY")[0] == -RISK_MINOR
    assert stand_ins(world) == [("confirmed", "", "", 1)]


def test_a_late_decline_is_borne_by_the_merchant(world: World) -> None:
    """Posted and taken back in one record: the merchant has nothing of it, the branch lost nothing."""
    box = world.box(NORTH)
    seq = box.stand_in("B", "SHOP", 400)
    came = box.sync()
    decline = came[0]
    assert isinstance(decline, DeclineDirective)
    assert (decline.at_seq, decline.liable, decline.reason) == (seq, "merchant", "insufficient_funds")
    assert world.money("SHOP") == (0, 0, 0)
    assert world.money("risk:north:CNY") == (RISK_MINOR, 0, RISK_MINOR)
    assert stand_ins(world) == [("declined", "merchant", "insufficient_funds", 1)]


def test_a_late_decline_is_borne_by_the_branch_as_a_receivable(world: World) -> None:
    """The merchant keeps the money; what the branch is owed stands in its own account."""
    world.publish(a_site(2, late_decline_liable="branch"))
    box = world.box(NORTH)
    box.stand_in("B", "SHOP", 400)
    box.sync()
    assert world.money("SHOP") == (400, 0, 400)
    assert world.money("receivable:north:CNY") == (-400, -400, 0)
    assert world.money("risk:north:CNY") == (RISK_MINOR, 0, RISK_MINOR)
    assert stand_ins(world) == [("declined", "branch", "insufficient_funds", 1)]


def test_two_boxes_stood_in_for_the_same_last_money(world: World) -> None:
    """Both paid the merchant; the payer's money confirms one and the other is declined."""
    north, south = world.box(NORTH), world.box(SOUTH)
    north.stand_in("A", "SHOP", 700)
    south.stand_in("A", "FAR", 700)
    north.sync()
    south.sync()
    assert world.money("A") == (300, 300, 0)
    assert [row[0] for row in stand_ins(world)] == ["confirmed", "declined"]


def test_a_stand_in_that_was_taken_back_in_time_asks_nobody(world: World) -> None:
    """Stood in and voided before the hub heard of it: the payer is not charged."""
    box = world.box(NORTH)
    seq = box.stand_in("A", "SHOP", 400)
    box.resolve(seq, "risk:north:CNY", "SHOP", 400, void=True)
    assert box.sync() == []
    assert world.money("A") == (1_000, 1_000, 0)
    assert stand_ins(world) == [("voided", "", "", 1)]


def test_a_confirmation_that_came_too_late_is_taken_back(world: World) -> None:
    """The box had voided it meanwhile: the payer gets back what the hub had moved already."""
    box = world.box(NORTH)
    seq = box.stand_in("A", "SHOP", 400)
    box.beat()
    assert world.money("A") == (600, 600, 0)
    box.resolve(seq, "risk:north:CNY", "SHOP", 400, void=True)
    box.apply(box.directives[-1], outcome="refused")
    box.sync()
    assert world.money("A") == (1_000, 1_000, 0)
    assert world.money("risk:north:CNY") == (RISK_MINOR, 0, RISK_MINOR)
    assert stand_ins(world)[0][0] == "voided"


def late_grant(world: World) -> tuple[SimulatedBox, int]:
    """A box whose ask for all of A was granted after it had stood in; the hub has the stand-in, the box not
    yet the grant."""
    box = world.box(NORTH)
    box.beat(Ask("late", "A", CNY, 1_000))
    seq = box.stand_in("A", "SHOP", 400)
    box.beat()
    return box, seq


def test_a_payer_whose_money_is_on_its_way_in_a_late_grant_is_not_declined(world: World) -> None:
    """The grant is handed back; the payer has the money, so the merchant must not lose it."""
    box, _ = late_grant(world)
    assert stand_ins(world) == [("waiting", "", "", 0)]
    box.apply(box.directives[-1], outcome="returned")
    assert isinstance(box.sync()[0], ConfirmDirective)
    assert world.money("A") == (600, 600, 0)
    assert stand_ins(world) == [("confirmed", "", "", 1)]


def test_a_late_grant_that_another_payment_spent_declines_after_all(world: World) -> None:
    """It waits only for the word about the grant."""
    box, _ = late_grant(world)
    box.apply(box.directives[-1])
    box.pay("A", "SHOP", 1_000)
    assert isinstance(box.sync()[-1], DeclineDirective)
    assert world.money("A") == (0, 0, 0)


def test_a_stand_in_that_was_taken_back_while_it_waited_charges_nobody(world: World) -> None:
    """The void comes in a push of its own, before the word about the grant."""
    box, seq = late_grant(world)
    box.resolve(seq, "risk:north:CNY", "SHOP", 400, void=True)
    box.beat()
    box.apply(box.directives[-1], outcome="returned")
    assert box.sync() == []
    assert world.money("A") == (1_000, 1_000, 0)
    assert stand_ins(world) == [("voided", "", "", 1)]


def test_a_currency_that_the_site_drops_does_not_stop_the_log(world: World) -> None:
    """What was under way in it still comes back to where it belongs."""
    box = world.box(NORTH)
    seq = box.stand_in("A", "SHOP", 400)
    box.beat()
    confirmed = box.directives[-1]
    box.resolve(seq, "risk:north:CNY", "SHOP", 400, void=True)
    box.beat()
    world.publish(a_site(2, currencies=(CurrencyRule(code="EUR", numeric=978),), accounts=(), stand_in=()))
    box.apply(confirmed, outcome="refused")
    box.beat()
    assert world.money("A") == (1_000, 1_000, 0)
    assert stand_ins(world)[0][0] == "voided"


def test_money_at_another_box_does_not_confirm(world: World) -> None:
    """What is outstanding at a box that is away may be spent already; only what is available here pays."""
    world.box(SOUTH).sync(Ask("s", "A", CNY, 900))
    world.ahead_ns += ONLINE_NS
    box = world.box(NORTH)
    box.stand_in("A", "SHOP", 400)
    assert isinstance(box.sync()[0], DeclineDirective)
    assert world.money("A") == (1_000, 100, 900)


def test_a_frozen_or_unknown_payer_is_declined_with_its_reason(world: World) -> None:
    """The merchant hears why."""
    box = world.box(NORTH)
    with world.engine.begin() as connection:
        freeze(connection, world.keyring, account_id="A", frozen=True, reason="court order", now_ns=1)
    box.stand_in("A", "SHOP", 100)
    box.stand_in("GHOST", "SHOP", 100)
    box.sync()
    assert [row[2] for row in stand_ins(world)] == ["account_frozen", "account_not_found"]


def test_a_box_that_comes_later_hears_of_every_freeze(world: World) -> None:
    """Else a new box, or the next epoch, would stand in for an account that must pay nothing."""
    with world.engine.begin() as connection:
        freeze(connection, world.keyring, account_id="A", frozen=True, reason="court order", now_ns=1)
        freeze(connection, world.keyring, account_id="B", frozen=True, reason="court order", now_ns=1)
        freeze(connection, world.keyring, account_id="B", frozen=False, reason="lifted", now_ns=1)
    box = world.box(NORTH)
    assert [said.account_id for said in box.directives if isinstance(said, FreezeDirective)] == ["A"]


def test_the_same_stand_in_at_two_boxes_charges_the_payer_once(world: World) -> None:
    """One identity, cleared twice at the branches' risk: the second is declined as what it is."""
    north, south = world.box(NORTH), world.box(SOUTH)
    north.stand_in("A", "SHOP", 200, request_id="ef" * 16)
    south.stand_in("A", "SHOP", 200, request_id="ef" * 16)
    north.sync()
    south.sync()
    assert world.money("A") == (800, 800, 0)
    assert stand_ins(world)[1][2] == "duplicate_identity"


@pytest.mark.parametrize(("payer", "receivable_minor"), [("A", 0), ("B", -400)])
def test_stand_ins_of_a_box_that_is_gone_are_finished_at_the_centre(
    world: World, tmp_path: Path, payer: str, receivable_minor: int
) -> None:
    """The disk is lost after the push: the payee is paid all the same, by the payer or by the branch."""
    world.publish(a_site(2, late_decline_liable="branch"))
    box = world.box(NORTH)
    box.stand_in(payer, "SHOP", 400)
    box.beat()
    with world.engine.begin() as connection:
        release_epoch(connection, NORTH)
    world.new_box(NORTH).come_back()
    with world.engine.begin() as connection:
        seal_epoch(connection, NORTH, 1)
    assert world.money("SHOP") == (400, 400, 0)
    assert world.money("receivable:north:CNY")[0] == receivable_minor
    assert world.money("risk:north:CNY")[0] == RISK_MINOR
    assert stand_ins(world)[0][3] == 1


@pytest.mark.parametrize("pushed_before_the_end", [True, False])
def test_a_stand_in_that_the_tail_took_back_charges_nobody_when_the_epoch_is_sealed(
    world: World, pushed_before_the_end: bool
) -> None:
    """The void arrives with the recovered tail, after the hub had decided the stand-in or as it still
    waited."""
    box = world.box(NORTH)
    seq = box.stand_in("A", "SHOP", 400)
    if pushed_before_the_end:
        box.beat()
    with world.engine.begin() as connection:
        release_epoch(connection, NORTH)
    heir = world.new_box(NORTH)
    heir.come_back()
    for push in _tail(box, seq):
        heir.beat(push=push)
    with world.engine.begin() as connection:
        seal_epoch(connection, NORTH, 1)
    assert world.money("A") == (1_000, 1_000, 0)
    assert world.money("SHOP") == (0, 0, 0)
    assert stand_ins(world)[0][0] == "voided"


def _tail(box: SimulatedBox, seq: int) -> Iterator[Package]:
    """What the hub lacks of the old epoch; the void of the stand-in at seq comes in a package of its own."""
    if box.held <= seq:
        yield box.package(box.held, seq + 1)
    box.resolve(seq, "risk:north:CNY", "SHOP", 400, void=True)
    yield box.package(seq + 1, len(box.bodies))
