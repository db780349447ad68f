"""Windows and settlement from the command line, with a box and a hub as real processes."""

from __future__ import annotations

import csv
import json
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import pytest

from edgegw.commands import ExitCode
from tests.processes import Branch, edgegw
from tests.waiting import wait_until


@pytest.fixture
def branch(tmp_path: Path) -> Iterator[Branch]:
    """A branch whose hub and box run, with a calendar and a cap in its site."""
    branch = Branch(tmp_path)
    publish(branch, version=2, cap_minor=1_000)
    branch.start_hub()
    branch.start_box()
    branch.wait_for_mode("active")
    yield branch
    branch.end()


def publish(branch: Branch, *, version: int, cap_minor: int) -> None:
    """Publish the site again with a calendar and this cap."""
    path = branch.folder / "site.json"
    # Whatever time it is, the next cut-off is hours away.
    cut_off = (datetime.now(UTC).hour + 6) % 24
    calendar = {"zone": "Etc/UTC", "cut_offs": [f"{cut_off:02}:00"], "weekend": []}
    caps = [{"participant": "bank", "currency": "CNY", "cap_minor": cap_minor}]
    changes = {"version": version, "calendar": calendar, "net_debit_caps": caps}
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    branch.run("site", "publish", str(path), "--hub", branch.path("hub.toml"))


def listed(branch: Branch, settings: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(branch.run("windows", branch.path(settings), "--json"))[
        "windows"
    ]
    return found


def close_by_hand(branch: Branch, date: str) -> Any:
    return edgegw(
        "window", "close", branch.path("box.toml"), "--date", date, "--token", branch.token, "--json"
    )


def test_a_day_from_payment_to_settlement_report(branch: Branch) -> None:
    """Pay, close, compare, wait for cover, settle, report: by the commands that an operator has. The net
    debit cap binds what is paid before it is settled, and what is settled before it is covered."""
    hub = ("--hub", branch.path("hub.toml"))
    assert branch.pay("alice", 1_000).status == 201
    over = branch.pay("alice", 1)
    assert (over.status, over.json["code"]) == (409, "net_debit_cap")
    wrong = close_by_hand(branch, "2001-01-01")
    assert wrong.exit_code == ExitCode.CANNOT
    assert "business_date_not_open" in wrong.stderr
    date = listed(branch, "box.toml")[-1]["business_date"]
    assert date in wrong.stderr
    assert close_by_hand(branch, date).exit_code == 0
    closed = next(one for one in listed(branch, "box.toml") if one["closed_by"] == "till")
    assert (closed["state"], closed["business_date"]) == ("closed", date)
    assert {(one["participant"], one["net_minor"]) for one in closed["positions"]} == {
        ("bank", -1_000),
        ("shopbank", 1_000),
    }
    wait_until(
        lambda: any(one["state"] == "compared" for one in listed(branch, "hub.toml")), "the hub to compare"
    )
    publish(branch, version=3, cap_minor=500)
    queued = json.loads(branch.run("settlement", "run", "--json", *hub))
    assert (queued["posted"], queued["queued"]) == (0, 1)
    assert json.loads(branch.run("settlement", "run", "--json", *hub)) == {}
    cover = branch.folder / "cover.csv"
    cover.write_text(
        "id,debit_account_id,credit_account_id,amount_minor\ncover-1,core:CNY,settlement:bank:CNY,500\n"
    )
    branch.run("post", str(cover), *hub)
    assert "1 posted, 0 wait" in branch.run("settlement", "run", *hub)
    at_hub = {one["window"]: one["state"] for one in listed(branch, "hub.toml")}
    assert at_hub[closed["window"]] == "settled"
    accounts = json.loads(branch.run("settlement", "accounts", "--json", *hub))["accounts"]
    assert {one["participant"]: one["balance_minor"] for one in accounts} == {
        "bank": -500,
        "shopbank": 1_000,
    }
    report, statement = branch.path("cycle.csv"), branch.path("cycle.xml")
    branch.run("settlement", "report", "2", "--csv", report, "--camt", statement, *hub)
    with Path(report).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["amount_minor"] for row in rows if row["kind"] == "closing"] == ["-500", "1000"]
    amounts = [node.text for node in Xml.parse(statement).iter() if node.tag.endswith("}Amt")]  # noqa: S314
    assert amounts == ["0.00", "5.00", "5.00", "10.00", "0.00", "10.00", "10.00"]
    assert "cycle 2" in branch.run("settlement", "list", *hub)


def test_a_stopped_box_and_hub_are_read_all_the_same(branch: Branch) -> None:
    """Who looks for a window of yesterday must not need a running branch."""
    assert branch.pay("alice", 10).status == 201
    for process in (branch.box, branch.hub):
        assert process is not None
        process.end(signal.SIGTERM)
    assert listed(branch, "box.toml")[-1]["state"] == "open"
    assert listed(branch, "hub.toml")[-1]["state"] == "open"
    assert branch.run("windows", branch.path("box.toml"))
    assert branch.run("windows", branch.path("hub.toml"), "--box", "box-1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("settlement", "report", "7"), "cycle 7 is not known here"),
        (("settlement", "accept", "box-1", "9"), "window 9 of box-1 is not known here"),
    ],
)
def test_an_order_that_cannot_be_carried_out_says_why(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    """Exit code 2, the reason, and no traceback."""
    branch = Branch(tmp_path)
    done = edgegw(*words, "--hub", branch.path("hub.toml"))
    assert done.exit_code == ExitCode.USAGE
    assert said in done.stderr
