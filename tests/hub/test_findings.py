"""What waits for a person at the hub is all told, with its place, its amount and the next command."""

import re
from pathlib import Path

import pytest
from sqlalchemy import Connection

from edgegw.core.messages import Program, Verdict
from edgegw.core.reasons import Reason
from edgegw.core.records import Mode
from edgegw.hub import losses
from edgegw.hub.books import post_core
from edgegw.hub.findings import Finding, findings
from edgegw.hub.operate import release_epoch, seal_epoch
from edgegw.hub.suspense import SuspenseError
from tests.hub.simulated_box import CNY
from tests.hub.test_take_journal import exported, new_epoch, take, twin_of, with_money
from tests.hub.world import NORTH, SOUTH, World


def told(world: World) -> dict[str, list[Finding]]:
    """By kind."""
    kinds: dict[str, list[Finding]] = {}
    for finding in findings(world.database):
        assert finding.next
        kinds.setdefault(finding.kind, []).append(finding)
    return kinds


def make_good(connection: Connection, word: str, credit: str, amount_minor: int) -> None:
    """What `edgegw post` does with the id that a finding names."""
    [posting_id] = re.findall(r"loss:[^ ,]+", word)
    post_core(
        connection,
        id=posting_id,
        debit_account_id="capital:CNY",
        credit_account_id=credit,
        amount_minor=amount_minor,
    )
    losses.make_good(connection, posting_id, credit_account_id=credit, amount_minor=amount_minor)


def test_a_fork_and_all_that_came_of_it_is_listed(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read in pages of one row: the losses, the suspense and both signed heads must all be there."""
    monkeypatch.setattr("edgegw.hub.findings.PAGE_ROWS", 1)
    box = with_money(world)
    assert told(world) == {}
    twin = twin_of(world, box)
    box.pay("A", "SHOP", 450)
    box.pay("A", "SHOP", 10, request_id="ab" * 16)
    box.sync()
    twin.pay("A", "SHOP", 450)
    twin.pay("A", "SHOP", 20, request_id="ab" * 16)
    take(world, exported(twin, tmp_path / "twin"))
    kinds = told(world)
    [out] = kinds["box"]
    assert (out.box, out.epoch, out.reason.startswith("forked: ")) == (NORTH, 1, True)
    assert "edgegw order new-epoch north" in out.next
    [fork] = kinds["fork"]
    assert world.rows("SELECT held_checkpoint, other_checkpoint FROM evidence") == [
        (fork.held_checkpoint, fork.other_checkpoint)
    ]
    assert "edgegw order take-journal" in fork.next
    lost = [(one.log, one.seq, one.account_id, one.currency, one.amount_minor) for one in kinds["loss"]]
    seq = len(twin.bodies)
    assert lost == [("branch 1", seq - 2, "A", CNY, 410), ("branch 1", seq - 1, "A", CNY, 20)]
    for said, credit, amount_minor in (("A", "A", 410), ("409", "risk:north:CNY", 409)):
        with pytest.raises(SuspenseError, match=said), world.engine.begin() as connection:
            make_good(connection, kinds["loss"][0].next, credit, amount_minor)
    with world.engine.begin() as connection:
        make_good(connection, kinds["loss"][0].next, "risk:north:CNY", 410)
    assert told(world)["loss"] == kinds["loss"][1:]
    [item] = kinds["suspense"]
    assert (item.log, item.seq, item.amount_minor, item.account_id) == ("branch 1", seq - 1, 20, "A")
    assert item.reason.startswith("identity_conflict")


def test_money_in_doubt_is_listed_until_its_epoch_is_sealed(world: World) -> None:
    """A till hears that the centre does not cover it, and what may be the matter; here stands what is."""
    assert "edgegw order seal" in Reason.INSUFFICIENT_FUNDS.mend
    box = with_money(world)
    new_epoch(world, box)
    kinds = told(world)
    [old] = kinds["unsealed"]
    assert (old.box, old.epoch) == (NORTH, 1)
    doubt = {one.account_id: (one.epoch, one.amount_minor) for one in kinds["in_doubt"]}
    assert doubt["A"] == (1, 500)
    assert all("edgegw order seal north 1" in one.next for one in (old, *kinds["in_doubt"]))
    with world.engine.begin() as connection:
        seal_epoch(connection, NORTH, 1)
    assert told(world) == {}


def test_boxes_that_are_out_of_service_are_listed_with_what_helps(world: World, tmp_path: Path) -> None:
    """Behind, ordered, and a hub that has itself lost something."""
    north, south = with_money(world), world.box(SOUTH)
    path = tmp_path / "backup.db"
    world.back_up(path)
    heir = world.new_box(NORTH)
    assert heir.open(mode=Mode.BEHIND).verdict is Verdict.BEHIND
    [behind] = told(world)["box"]
    assert behind.reason.startswith("behind: ")
    with world.engine.begin() as connection:
        release_epoch(connection, NORTH)
    [ordered] = told(world)["box"]
    assert (ordered.box, ordered.reason) == (NORTH, "a new epoch is ordered")
    south.pay("B", "SHOP", 0)
    south.sync()
    world.restore(path)
    assert south.open().verdict is Verdict.HUB_BEHIND
    [lost] = told(world)["box"]
    assert (lost.box, lost.next) == (SOUTH, "let south speak: it hands back what it has by itself")
    assert north.epoch == 1


def test_a_release_that_failed_on_a_box_is_told_at_the_centre(world: World) -> None:
    """Else a fleet stays on its old version in silence; and a box cannot flood the hub with its word."""
    box = with_money(world)
    assert "program" not in told(world)
    box.program = Program(
        version="1.0.0", slot="a", problem="1.1.0 has failed: it takes no payments" + "!" * 9_999
    )
    box.sync()
    [failed] = told(world)["program"]
    assert failed.reason.startswith("runs 1.0.0: 1.1.0 has failed: it takes no payments")
    assert len(failed.reason) < 600
    box.program = Program(version="1.1.1", slot="b")
    box.beat()
    box.program = None
    box.beat()
    assert "program" not in told(world)
