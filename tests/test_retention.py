"""Retention of a whole box: by its command on a ledger at rest, and by itself beside the payments."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import apsw
import pytest

from edgegw.config.box import BoxSettings, HubTable, RetentionTable
from edgegw.core.records import Mode
from edgegw.ledger.coverage import Coverage
from edgegw.ledger.outcomes import Recalled
from edgegw.ledger.prune import DAY_S
from edgegw.retention import Retention
from tests.ledger.pens import HUB
from tests.ledger.running_box import payment
from tests.ledger.test_prune import DAYS, PrunedBox, box, findings
from tests.processes import Branch
from tests.waiting import wait_until


@pytest.fixture
def branch(tmp_path: Path) -> Iterator[Branch]:
    """A branch that keeps records for 30 days, with nothing running."""
    branch = Branch(tmp_path)
    branch.more = "[retention]\nrecords_days = 30\n"
    yield branch
    branch.end()


def pay_many(branch: Branch, count: int) -> list[dict[str, object]]:
    """So many payments in one batch; the bodies that were sent."""
    payments: list[dict[str, object]] = [
        {
            "id": secrets.token_hex(16),
            "debit_account_id": "alice",
            "credit_account_id": "shop",
            "amount_minor": 1,
            "currency": "CNY",
        }
        for _ in range(count)
    ]
    answer = branch.call("POST", "/v1/payments/batch", {"payments": payments})
    assert {item["status"] for item in answer.json["answers"]} == {201}
    return payments


def let_31_days_pass(path: Path) -> None:
    """What the centre holds now it has had for 31 days."""
    connection = apsw.Connection(str(path))
    connection.execute(
        "INSERT INTO mark SELECT epoch, size, ?, ? FROM cosignature",
        (int(time.time()) - 31 * DAY_S, time.time_ns() - 31 * DAY_S * 10**9),
    )
    connection.close()


def test_a_pruned_box_answers_as_it_decided_and_proves_what_is_left(branch: Branch) -> None:
    """A till that repeats after a year, a refund of a pruned payment, an auditor: each hears what is true."""
    branch.start_hub()
    branch.start_box()
    branch.wait_for_mode("active")
    wait_until(
        lambda: branch.call("GET", "/v1/accounts/alice").json["available_minor"] == 100_000,
        "alice's allowance",
    )
    sent = pay_many(branch, 600)
    first = branch.call("POST", "/v1/payments", sent[0]).json
    branch.run("window", "close", branch.path("box.toml"), "--date", "2026-03-02", "--token", branch.token)
    wait_until(
        lambda: branch.call("GET", "/v1/status").json["records_waiting"] == 0, "the centre to have it all"
    )
    busy = branch.run("ledger", "prune", branch.path("box.toml"), "--json")
    assert json.loads(busy)["dry_run"] is True
    assert branch.box is not None
    branch.box.end(signal.SIGTERM)
    let_31_days_pass(branch.folder / "data/ledger.db")
    planned = json.loads(branch.run("ledger", "prune", branch.path("box.toml"), "--dry-run", "--json"))
    done = json.loads(branch.run("ledger", "prune", branch.path("box.toml"), "--json"))
    assert planned["epochs"] == done["epochs"]
    assert done["epochs"][0]["end"] == 512
    assert done["epochs"][0]["identities"] > 490
    assert done["file_bytes"] < done["file_bytes_before"]
    assert "pruned records" in branch.run("ledger", "check", branch.path("box.toml"))
    branch.start_box()
    again = branch.call("POST", "/v1/payments", sent[0])
    assert (again.status, again.headers["Idempotent-Replay"]) == (201, "true")
    assert "not kept at this box" in again.json["detail"]
    assert {**first, "detail": "", "legs": []} == {**again.json, "detail": ""}
    other = branch.call("POST", "/v1/payments", {**sent[0], "amount_minor": 2})
    assert (other.status, other.json["code"]) == (409, "id_reused")
    assert branch.call("GET", f"/v1/payments/{sent[0]['id']}").json["answer"]["record"] == first["record"]
    receipt = branch.call("GET", f"/v1/receipts/{sent[0]['id']}")
    assert (receipt.status, receipt.json["code"]) == (410, "record_pruned")
    assert branch.call("GET", f"/v1/receipts/{sent[-1]['id']}").status == 200
    before = branch.call("GET", "/v1/accounts/alice").json
    refund = {"id": secrets.token_hex(16), "original_id": sent[0]["id"]}
    refused = branch.call("POST", "/v1/reversals", refund)
    assert (refused.status, refused.json["code"]) == (409, "record_pruned")
    assert branch.call("GET", "/v1/accounts/alice").json == before
    assert branch.pay("alice", 5).status == 201
    wait_until(lambda: branch.call("GET", "/v1/status").json["records_waiting"] == 0, "the line to go on")
    branch.run("journal", "export", branch.path("box.toml"), "--output", branch.path("journal"))
    keys = [(branch.folder / f"secrets/{name}.pub").read_text().strip() for name in ("checkpoint", "hub")]
    branch.run("verify", "--box-key", keys[0], "--hub-key", keys[1], "journal", branch.path("journal"))


def test_a_ledger_of_an_earlier_version_shrinks_after_one_vacuum(branch: Branch) -> None:
    """Ledgers in branches were made before pages could be given back."""
    data = branch.folder / "data"
    data.mkdir()
    path = data / "ledger.db"
    branch.start_hub()
    branch.start_box()
    branch.wait_for_mode("active")
    assert branch.box is not None
    branch.box.end(signal.SIGTERM)
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA journal_mode=DELETE").fetchall()
    connection.execute("PRAGMA auto_vacuum=NONE").fetchall()
    connection.execute("VACUUM").fetchall()
    connection.close()
    assert json.loads(branch.run("ledger", "prune", branch.path("box.toml"), "--json"))["shrinks"] is False
    report = json.loads(branch.run("ledger", "prune", branch.path("box.toml"), "--vacuum", "--json"))
    assert (report["shrinks"], report["free_bytes"]) == (True, 0)
    assert "well" in branch.run("ledger", "check", branch.path("box.toml"))


def retention(one: PrunedBox, *, anchored: bool = True) -> Retention:
    settings = BoxSettings(
        bank="demo", box="box-1", hub=HubTable(addresses=()), retention=RetentionTable(records_days=DAYS)
    )
    return Retention(
        settings,
        one.pen.desk.store,
        one.pen,
        hub=HUB.public,
        coverage=Coverage(),
        anchored=lambda: anchored,
        may_work=partial(asyncio.sleep, 0),
    )


async def test_a_running_box_prunes_beside_its_payments(tmp_path: Path) -> None:
    """Portion by portion; payments in between are decided, and the check finds nothing."""
    async with box(tmp_path) as one:
        await one.old_day(2_000)
        pruning = asyncio.create_task(retention(one).once())
        paid = 0
        while not pruning.done():
            await one.pay(10)
            paid += 10
        [done] = await pruning
        assert done.end > 1_500
        assert paid >= 20
        [again] = await one.ask(payment(3, 1))
        assert isinstance(again, Recalled)
        assert findings(one.check()) == []


async def test_nothing_is_pruned_while_the_anchor_cannot_be_written(tmp_path: Path) -> None:
    """An anchor that stays behind could not be held against a ledger whose past is gone."""
    async with box(tmp_path) as one:
        await one.old_day()
        assert await retention(one, anchored=False).once() == []
        await one.pen.change_mode(Mode.FENCED, "test")
        assert await retention(one).once() == []
        assert one.pen.desk.store.pruned.horizons() == []
