"""Net debit caps at the hub: shares at the boxes, what is used and what is free are the cap, at every COMMIT;
what two boxes may let a participant owe together is never more."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from edgegw.core.accounts import centre_account, risk_account
from edgegw.core.caps import cap_account, uncapped_account
from edgegw.core.legs import PENDING
from edgegw.core.messages import Ask
from edgegw.core.records import (
    ClearedBy,
    ConfirmDirective,
    GrantDirective,
    Leg,
    RecallDirective,
    RefuseDirective,
)
from edgegw.hub.caps import unsettled
from edgegw.hub.operate import release_epoch, seal_epoch
from edgegw.hub.schema import account
from tests.hub.simulated_box import CNY, SimulatedBox
from tests.hub.test_settlement import _cover, boxes, settle, site
from tests.hub.test_windows import close
from tests.hub.world import NORTH, PEOPLE, SOUTH, World

CITY = cap_account("city", CNY)
CAP = 400
SHARE = 100
"""Half of the cap, at two boxes."""


@pytest.fixture
def city(world: World) -> World:
    """Three participants at two boxes; city may owe 400."""
    world.publish(site(2, {"city": CAP}))
    for one in PEOPLE:
        world.fund(one.id, 10_000)
    return world


def pay(box: SimulatedBox, amount: int, *, back: bool = False) -> None:
    """A payment from a customer of city to one of land, or back, as a box with this cap writes it."""
    letter = "N" if box.name == NORTH else "S"
    ends = (f"CITY-{letter}", f"LAND-{letter}"), (CITY, uncapped_account(CNY))
    payer, payee = reversed(ends[0]) if back else ends[0]
    debit, credit = reversed(ends[1]) if back else ends[1]
    box.transfer((Leg(payer, payee, amount), Leg(debit, credit, amount)))


def whole(world: World, cap: int = CAP) -> tuple[int, int, int]:
    """Balance, available and outstanding of city's cap, which must be the cap and what is not settled."""
    balance, available, outstanding = world.money(CITY)
    with world.engine.begin() as connection:
        assert balance == cap + unsettled(connection)["city", CNY]
    return balance, available, outstanding


def heard(box: SimulatedBox, ask: Ask) -> list[int | str]:
    """What the box is told to one ask."""
    box.sync(ask)
    said = [one for one in box.directives if getattr(one, "request_id", "") == ask.request_id]
    return [
        one.amount_minor if isinstance(one, GrantDirective) else one.reason
        for one in said
        if isinstance(one, GrantDirective | RefuseDirective)
    ]


def test_each_box_gets_its_part_unasked_and_is_filled_up_when_half_is_used(city: World) -> None:
    """So that the line may go down at any time."""
    here = boxes(city)
    assert whole(city) == (CAP, CAP - 2 * SHARE, 2 * SHARE)
    pay(here[NORTH], 40)
    here[NORTH].sync()
    assert whole(city) == (360, 200, 160)
    pay(here[NORTH], 20)
    here[NORTH].sync()
    assert whole(city) == (340, 140, 200)


def test_two_boxes_together_are_granted_no_more_than_there_is(city: World) -> None:
    """One minor unit decides; who asks for more hears why, and by the reason that the client is told."""
    here = boxes(city)
    pay(here[NORTH], SHARE)
    here[NORTH].sync()
    assert whole(city) == (300, 100, 200)
    assert heard(here[SOUTH], Ask("s-1", CITY, CNY, 201)) == ["net_debit_cap"]
    assert heard(here[SOUTH], Ask("s-2", CITY, CNY, 100)) == [100]
    assert heard(here[NORTH], Ask("n-1", CITY, CNY, 101)) == ["net_debit_cap"]
    assert whole(city) == (300, 0, 300)


def test_what_is_idle_at_another_box_is_recalled_before_a_payment_is_refused(city: World) -> None:
    """A cap of which nothing is used must not refuse anybody because its parts lie elsewhere."""
    here = boxes(city)
    ask = Ask("n-1", CITY, CNY, CAP, 500)
    assert here[NORTH].beat(ask).again_ms > 0
    here[SOUTH].beat()
    recall = here[SOUTH].directives[-1]
    assert isinstance(recall, RecallDirective)
    assert (recall.account_id, recall.amount_minor) == (CITY, SHARE)
    here[SOUTH].apply(recall, back_minor=SHARE)
    here[SOUTH].sync()
    assert heard(here[NORTH], ask) == [CAP - SHARE]
    assert whole(city) == (CAP, 0, CAP)


def test_what_others_pay_can_be_granted_to_another_box(city: World) -> None:
    """City is owed 50 at one box, which sends home what it does not keep."""
    here = boxes(city)
    here[NORTH].transfer(
        (
            Leg("LAND-N", "CITY-N", 50),
            Leg(uncapped_account(CNY), CITY, 50),
            Leg(CITY, centre_account(CNY), 50),
        )
    )
    here[NORTH].sync()
    assert whole(city) == (450, 250, 200)
    assert heard(here[SOUTH], Ask("s-1", CITY, CNY, 250)) == [250]


def test_settlement_gives_the_used_part_back_once_it_is_posted(city: World) -> None:
    """Not before: what waits for cover is owed still."""
    here = boxes(city)
    for cycle in (1, 2):
        pay(here[NORTH], SHARE)
        here[NORTH].sync()
        pay(here[SOUTH], 200)
        here[SOUTH].sync()
        assert whole(city)[0] == 100
        for box in here.values():
            close(box)
            box.sync()
        done = settle(city)
        assert done is not None
        assert whole(city)[0] == (CAP if cycle == 1 else 100)
    assert done.queued == 1
    _cover(city, "cover-1", "city", 200)
    settle(city)
    assert whole(city)[0] == CAP


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
def test_a_box_does_not_wait_for_a_cap_on_which_another_one_draws(city: World) -> None:
    """By then it holds other accounts, for which that one may wait: they would meet in a circle. Its share
    comes with the first payment that lacks it."""
    with city.engine.connect() as other, other.begin():
        other.execute(select(account).where(account.c.account_id == CITY).with_for_update())
        box = city.box(NORTH)
    assert whole(city) == (CAP, CAP, 0)
    assert heard(box, Ask("1", CITY, CNY, 10)) == [10 + SHARE]


def test_a_lower_cap_takes_what_is_free_and_nothing_is_granted_until_the_rest_is_back(city: World) -> None:
    """A share that is out cannot be taken away from an open till; it comes back with the new site."""
    here = boxes(city)
    pay(here[NORTH], SHARE)
    here[NORTH].sync()
    city.publish(site(3, {"city": 150}))
    assert whole(city, 150) == (50, -150, 200)
    assert heard(here[SOUTH], Ask("s-1", CITY, CNY, 1)) == ["net_debit_cap"]
    here[SOUTH].transfer((Leg(CITY, centre_account(CNY), SHARE),))
    here[SOUTH].sync()
    assert whole(city, 150) == (50, -50, 100)


def test_a_stand_in_that_is_confirmed_is_charged_once(city: World) -> None:
    """The centre has the payer's money before the box's record charges the share; a new site between the two
    must not charge it as well."""
    box = boxes(city)[NORTH]
    risk = risk_account(NORTH, CNY)
    box.transfer(
        (Leg(risk, "LAND-N", 70, PENDING), Leg(CITY, uncapped_account(CNY), 70, PENDING)),
        cleared_by=ClearedBy.STAND_IN,
        payer="CITY-N",
        amount_minor=70,
    )
    box.beat()
    assert isinstance(box.directives[-1], ConfirmDirective)
    city.publish(site(3, {"city": CAP, "land": 0}))
    assert city.money(CITY)[0] == CAP


def test_a_share_of_a_lost_box_is_nobodys_until_its_epoch_is_sealed(city: World) -> None:
    """What it let the participant owe is known only then."""
    here = boxes(city)
    with city.engine.begin() as connection:
        release_epoch(connection, NORTH)
    here[NORTH].open()
    assert whole(city) == (CAP, CAP - 2 * SHARE, 2 * SHARE)
    with city.engine.begin() as connection:
        seal_epoch(connection, NORTH, 1)
    assert whole(city) == (CAP, CAP - SHARE, SHARE)
