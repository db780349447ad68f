"""A reversal that one box keeps, for a payment that another has cleared: neither lies there in silence."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import insert

from edgegw.core.book import KEPT
from edgegw.core.messages import Ask
from edgegw.core.records import ClearedBy, Kind, Request, Transfer
from edgegw.hub import kept
from edgegw.hub.ageing import keep_reminding
from edgegw.hub.app import Hub
from edgegw.hub.schema import kept_reversal
from tests.hub.simulated_box import SimulatedBox
from tests.hub.world import CNY, NORTH, SOUTH, World
from tests.waiting import until

PAID = f"{7:032x}"


def keep(box: SimulatedBox, original_id: str, *, client: str = "till") -> int:
    """Journal a reversal that waits for its original; its seq."""
    request = Request(kind=Kind.REVERSAL, id=f"{99:032x}", original_client=client, original_id=original_id)
    return box.write(
        Transfer(
            **box.head(),
            window=box.window,
            client="till",
            request=request,
            cleared_by=ClearedBy.ALLOWANCE,
            reason=KEPT,
        )
    )


def items(world: World) -> list[tuple[object, ...]]:
    """What waits for somebody."""
    return world.rows("SELECT box, seq, owner, reason, detail FROM suspense_item ORDER BY box, seq")


def granted(world: World) -> SimulatedBox:
    """A box that has 100 of A's money."""
    box = world.box(NORTH)
    box.sync(Ask("1-b-1", "A", CNY, 100))
    return box


def test_a_reversal_that_went_to_another_box_names_where_to_ask(world: World) -> None:
    """The payment came first: the item is the kept reversal's, and its owner is who was paid."""
    north, south = granted(world), world.box(SOUTH)
    paid = north.pay("A", "SHOP", 40, request_id=PAID)
    north.sync()
    seq = keep(south, PAID)
    south.sync()
    detail = f"its original was cleared at north 1/{paid}: ask there for the money back"
    assert items(world) == [("south", seq, "merchant:SHOP", "reversed_elsewhere", detail)]


def test_a_payment_whose_reversal_waits_at_another_box_is_found_when_it_comes(world: World) -> None:
    """The reversal came first: the item is the payment's, so that its own box gives the money back."""
    north, south = granted(world), world.box(SOUTH)
    seq = keep(south, PAID)
    south.sync()
    assert items(world) == []
    assert world.rows("SELECT box, seq, original_id FROM kept_reversal") == [("south", seq, PAID)]
    paid = north.pay("A", "SHOP", 40, request_id=PAID)
    north.sync()
    detail = f"its reversal is kept at south 1/{seq}, which does not know it: give the money back here"
    assert items(world) == [("north", paid, "merchant:SHOP", "reversed_elsewhere", detail)]


def test_another_clients_payment_of_the_same_id_is_not_meant(world: World) -> None:
    """An identity is a client and an id."""
    north, south = granted(world), world.box(SOUTH)
    north.pay("A", "SHOP", 40, request_id=PAID)
    north.sync()
    keep(south, PAID, client="other")
    south.sync()
    assert items(world) == []


def test_a_reversal_that_won_at_its_own_box_is_nobodys_item(world: World) -> None:
    """The box has refused the payment itself, and a repeated push says nothing new."""
    north = world.box(NORTH)
    keep(north, PAID)
    north.refuse(PAID)
    north.sync()
    north.sync()
    assert items(world) == []


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
def test_a_payment_and_its_reversal_that_come_at_one_moment_are_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through two hub processes neither push sees the other: the customer would never get the money back."""
    north, south = granted(world), world.box(SOUTH)
    other = Hub(world.place.open(), world.keyring)
    south.talk = other._exchange
    paid = north.pay("A", "SHOP", 40, request_id=PAID)
    seq = keep(south, PAID)
    look = kept._of_the_originals

    def look_before_the_other_comes(*found: Any, **at: Any) -> list[kept.Met]:
        met = look(*found, **at)
        monkeypatch.undo()
        # In a thread of its own: this one's event loop is in the middle of the first hub's transaction.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(south.beat).result()
        return met

    monkeypatch.setattr(kept, "_of_the_originals", look_before_the_other_comes)
    north.sync()
    assert items(world) == []
    with world.engine.begin() as connection:
        assert [one.name for one in kept.missed(connection, now_ns=5)] == [f"north/1/{paid}"]
        assert kept.missed(connection, now_ns=6) == []
    detail = f"its reversal is kept at south 1/{seq}, which does not know it: give the money back here"
    assert items(world) == [("north", paid, "merchant:SHOP", "reversed_elsewhere", detail)]
    other.close()


async def test_the_hub_looks_for_them_by_itself(world: World) -> None:
    """Nobody has to know that there is something to look for."""
    north = granted(world)
    paid = north.pay("A", "SHOP", 40, request_id=PAID)
    north.sync()
    unseen = {"original_id": PAID, "original_client": "till", "box": SOUTH, "epoch": 1, "seq": 5}
    with world.engine.begin() as connection:
        connection.execute(insert(kept_reversal).values(unseen))
    task = asyncio.create_task(keep_reminding(world.hub, 3, now_ns=world.now_ns))
    await until(lambda: len(items(world)) == 1, "the item")
    task.cancel()
    assert [row[:2] for row in items(world)] == [("north", paid)]
