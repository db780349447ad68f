"""The boxes' windows at the hub: counted from the records alone, compared, and never settled on a box's bare
word."""

from __future__ import annotations

import random
from collections import Counter

import msgspec
import pytest

from edgegw.core.calendar import first_window
from edgegw.core.messages import Ask
from edgegw.core.records import Account, Leg, Position, WindowClosed, decode_record
from edgegw.hub.operate import release_epoch, seal_epoch
from tests.hub.simulated_box import SimulatedBox
from tests.hub.test_receive import funded
from tests.hub.world import ACCOUNTS, CNY, NORTH, PEOPLE, SOUTH, World, a_site

PARTICIPANTS = {account.id: account.participant or "bank" for account in (*ACCOUNTS, *PEOPLE)}


def net(box: SimulatedBox) -> dict[str, int]:
    """An independent count of the open window: whose accounts the posted legs between customers and the
    box's own accounts touch."""
    nets: Counter[str] = Counter()
    for body in reversed(box.bodies):
        record = msgspec.json.decode(body)
        if record["type"] == "window":
            break
        for leg in record.get("legs", ()):
            debit, credit, amount, flags = (*leg, 0)[:4] if len(leg) == 3 else leg[:4]
            if flags & 2 or flags & 8 or debit[:7] == "centre:" or credit[:7] == "centre:":
                continue
            nets[PARTICIPANTS.get(debit, "bank")] -= amount
            nets[PARTICIPANTS.get(credit, "bank")] += amount
    return {who: amount for who, amount in nets.items() if amount}


def transfers(box: SimulatedBox) -> int:
    count = 0
    for body in reversed(box.bodies):
        record = msgspec.json.decode(body)
        if record["type"] == "window":
            break
        count += len(record.get("legs", ()))
    return count


def close(
    box: SimulatedBox, *, date: str = "2026-11-20", positions: dict[str, int] | None = None, more: int = 0
) -> int:
    """Close the open window, truly or with other positions or transfers."""
    said = net(box) if positions is None else positions
    record = WindowClosed(
        **box.head(),  # type: ignore[arg-type]
        window=box.window,
        business_date=date,
        transfers=transfers(box) + more,
        positions=tuple(Position(who, CNY, amount) for who, amount in sorted(said.items())),
        closed_by="calendar",
    )
    box.closed[box.epoch] = box.closed.get(box.epoch, 0) + 1
    return box.write(record)


def states(world: World) -> list[tuple[object, ...]]:
    return world.rows("SELECT box, number, state FROM clearing_window ORDER BY box, epoch, branch, number")


def figures(world: World, box: str, number: int) -> list[tuple[object, ...]]:
    """Participant, the hub's figure, the box's, the centre's."""
    return world.rows(
        "SELECT participant, net_minor, said_minor, centre_minor FROM window_position "
        "WHERE box = :box AND number = :number ORDER BY participant",
        box=box,
        number=number,
    )


def state_of(world: World, box: str) -> object:
    return world.row("SELECT state FROM box WHERE box = :box", box=box)[0]


def test_a_window_is_compared_with_what_its_records_give(world: World) -> None:
    """Payments, holds and their posts, grants and returns, over several pushes."""
    box = funded(world, NORTH, "A", 800)
    box.pay("A", "SHOP", 120)
    held = box.hold("A", "SHOP", 100)
    box.sync()
    box.pay("A", "B", 80, home=True)
    box.resolve(held, "A", "SHOP", 60)
    close(box)
    box.pay("A", "SHOP", 7)
    box.sync()
    assert states(world) == [(NORTH, 1, "compared"), (NORTH, 2, "open")]
    assert figures(world, NORTH, 1) == [("bank", -180, -180, 0), ("shops", 180, 180, 0)]
    assert figures(world, NORTH, 2) == [("bank", -7, None, 0), ("shops", 7, None, 0)]
    assert state_of(world, NORTH) == "active"


@pytest.mark.parametrize(
    ("positions", "more", "told"),
    [
        ({"bank": -119, "shops": 119}, 0, "-119 for bank in CNY, its records give -120"),
        ({}, 0, "0 for bank in CNY, its records give -120"),
        ({"bank": -120, "shops": 120, "nobody": 0}, 1, "transfers, its records give"),
        ({"bank": -120, "shops": 120, "\u0007x" * 100: 2**70}, 0, "1180591620717411303424"),
    ],
)
def test_a_box_that_says_other_figures_is_quarantined_with_both(
    world: World, positions: dict[str, int], more: int, told: str
) -> None:
    """One minor unit is enough; a person decides, no cycle settles it, and no strange word stops the push."""
    box = funded(world, NORTH, "A", 800)
    box.pay("A", "SHOP", 120)
    seq = close(box, positions=positions, more=more)
    box.beat()
    assert states(world)[0] == (NORTH, 1, "differs")
    [(reason, detail)] = world.rows("SELECT reason, detail FROM suspense_item WHERE seq = :seq", seq=seq)
    assert reason == "window_differs"
    assert told in str(detail)
    assert state_of(world, NORTH) == "quarantined"
    assert {row[0]: row[1] for row in figures(world, NORTH, 1)}["shops"] == 120


def test_a_record_that_names_another_window_is_found(world: World) -> None:
    """A transfer in no window, or in two, would be settled never or twice."""
    box = funded(world, NORTH, "A", 800)
    box.closed[1] = 4
    seq = box.pay("A", "SHOP", 120)
    box.beat()
    assert world.rows("SELECT seq, reason FROM suspense_item") == [(seq, "window_differs")]
    assert state_of(world, NORTH) == "quarantined"


def test_a_stand_in_is_settled_with_whom_the_centre_charged(world: World) -> None:
    """The box pays the shop at its own risk; the payer's part is the centre's word, and stands beside."""
    world.publish(a_site(2, accounts=(*ACCOUNTS, Account(id="C", currency=CNY, participant="city"))))
    world.fund("C", 500)
    box = world.box(NORTH)
    box.stand_in("C", "SHOP", 200)
    box.sync()
    close(box)
    box.sync()
    assert figures(world, NORTH, 1) == [
        ("bank", -200, -200, 200),
        ("city", 0, None, -200),
        ("shops", 200, 200, 0),
    ]


def test_what_exceeds_an_allowance_is_the_banks_position_not_the_payers(world: World) -> None:
    """The payer's books lose what was handed out and no more, and so does its participant."""
    box = funded(world, NORTH, "A", 100)
    world.publish(a_site(2, accounts=(*ACCOUNTS[1:], Account(id="A", currency=CNY, participant="city"))))
    box.sync()
    box.pay("A", "SHOP", 130)
    box.beat()
    assert world.rows("SELECT SUM(amount_minor) FROM loss") == [(30,)]
    assert figures(world, NORTH, 1) == [
        ("bank", 0, None, -30),
        ("city", -130, None, 30),
        ("shops", 130, None, 0),
    ]


def test_a_participant_counts_from_the_site_that_the_box_has(world: World) -> None:
    """What a box decided under an older site is netted as that site says, however late it comes."""
    box = funded(world, NORTH, "A", 800)
    box.pay("A", "SHOP", 120)
    moved = Account(id="SHOP", currency=CNY, home=NORTH, participant="malls")
    world.publish(a_site(2, accounts=(*(one for one in ACCOUNTS if one.id != "SHOP"), moved)))
    box.sync()
    box.pay("A", "SHOP", 5)
    box.beat()
    assert figures(world, NORTH, 1) == [
        ("bank", -125, None, 0),
        ("malls", 5, None, 0),
        ("shops", 120, None, 0),
    ]


@pytest.mark.parametrize("seed", range(4))
def test_any_day_in_any_portions_gives_what_the_journal_gives(world: World, seed: int) -> None:
    """Random payments, holds, stand-ins and closings, pushed in portions of any size: every window compared,
    sums zero, and equal to a count of the journal's bytes."""
    chance = random.Random(seed)
    world.fund("A", 5_000)
    box = funded(world, NORTH, "A", 4_000)
    counted: dict[int, dict[str, int]] = {}
    for _ in range(60):
        what = chance.randrange(6)
        if what <= 1:
            box.pay("A", chance.choice(("SHOP", "HOME")), chance.randint(1, 20))
        elif what == 2:
            seq, amount = box.hold("A", "SHOP", 10), chance.randint(1, 10)
            if chance.random() < 0.5:
                box.resolve(seq, "A", "SHOP", amount)
            else:
                box.resolve(seq, "A", "SHOP", 10, void=True)
        elif what == 3:
            box.stand_in("B", "SHOP", chance.randint(1, 4))
        elif what == 4:
            number = box.window
            counted[number] = net(box)
            close(box)
        else:
            box.sync()
    close(box)
    box.sync()
    assert {row[2] for row in states(world)} == {"compared", "open"}
    for number, wanted in counted.items():
        found = {str(row[0]): row[1] for row in figures(world, NORTH, number) if row[1]}
        assert found == wanted
    assert (
        world.rows(
            "SELECT number FROM window_position GROUP BY box, number "
            "HAVING SUM(net_minor) <> 0 OR SUM(centre_minor) <> 0 OR SUM(COALESCE(said_minor, 0)) <> 0"
        )
        == []
    )


def test_a_seal_ends_the_window_that_no_record_will_close(world: World) -> None:
    """The transfers of a lost box are settled all the same, with what the seal itself moves."""
    world.fund("B", 40)
    box = funded(world, NORTH, "A", 300)
    box.pay("A", "SHOP", 50)
    box.stand_in("B", "SHOP", 40)
    box.beat()
    with world.engine.begin() as connection:
        release_epoch(connection, NORTH)
    box.open()
    with world.engine.begin() as connection:
        seal_epoch(connection, NORTH, 1)
    assert states(world)[0] == (NORTH, 1, "closed")
    sums = {str(row[0]): int(str(row[1])) + int(str(row[3])) for row in figures(world, NORTH, 1)}
    assert sums == {"bank": -90, "shops": 90}
    assert world.money("SHOP")[0] == 90


def test_windows_of_two_epochs_have_numbers_of_their_own(world: World) -> None:
    """No number means two windows of a box."""
    box = funded(world, NORTH, "A", 300)
    close(box)
    box.sync()
    with world.engine.begin() as connection:
        release_epoch(connection, NORTH)
    box.open()
    box.sync()
    assert [row[1] for row in states(world)] == [1, 2, first_window(2)]
    assert decode_record(box.bodies[0]).epoch == 2


@pytest.mark.parametrize("rogue", ["core:CNY", "capital:CNY", "settlement:shops:CNY", f"risk:{SOUTH}:CNY"])
def test_no_box_moves_what_is_the_centres_or_another_boxs(world: World, rogue: str) -> None:
    """These accounts have no floor at the hub: a journal that named one would make money."""
    box = funded(world, NORTH, "A", 300)
    world.box(SOUTH)
    before = world.money("SHOP")
    seq = box.transfer((Leg(rogue, "SHOP", 10_000),), payer="A")
    box.beat()
    assert world.money("SHOP") == before
    assert world.rows("SELECT reason FROM suspense_item WHERE seq = :seq", seq=seq) == [("cannot_be_posted",)]
    assert state_of(world, NORTH) == "quarantined"


def test_an_ask_for_what_is_no_customers_is_refused(world: World) -> None:
    """A settlement account is nobody's to be granted."""
    box = world.box(NORTH)
    [said] = box.sync(Ask("ask", "settlement:shops:CNY", CNY, 1))
    assert said.reason == "account_not_found"  # type: ignore[union-attr]
