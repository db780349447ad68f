"""Allowances from the command line, with boxes and a hub as real processes: orders bind within a second, and
what lies at another branch is asked back before a payment is declined."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import LINE, Branch, edgegw
from tests.waiting import wait_until

DEFAULT_LINE = "[line]\nbackoff_ms_max = 200\ncentre_timeout_ms = 5000\n"
"""The heartbeat that a box has by default, because orders wait for it; and patience with a busy machine."""
ORDERS = 6


class TwoBranches(Branch):
    """A hub with two boxes; the second one's calls go through `second`."""

    def _write_hub(self, listen: tuple[str, ...]) -> None:
        super()._write_hub(listen)
        other = self.folder / "two/secrets/device.pem"
        if not other.exists():
            self.run("keygen", "box", "--bank", "b1", "--box", "box-2", "--out", str(other))
        key = other.with_suffix(".pub").read_text().strip()
        with (self.folder / "hub.toml").open("a") as text:
            text.write(f'box-2 = "{key}"\n')

    def write_box(self, addresses: tuple[str, ...]) -> None:
        super().write_box(addresses)
        settings = self.folder / "box.toml"
        settings.write_text(settings.read_text().replace(LINE, DEFAULT_LINE))
        (self.folder / "two/secrets/hub.pub").write_text((self.folder / "secrets/hub.pub").read_text())
        (self.folder / "two/box.toml").write_text(settings.read_text().replace('"box-1"', '"box-2"'))

    def start_second(self) -> Second:
        """Run the other box."""
        return Second(self)


class Second(Branch):
    """The other box of two branches."""

    def __init__(self, first: TwoBranches) -> None:
        self.folder = first.folder / "two"
        self.hub, self.box, self.more, self.runs = None, None, "", 0
        self.token = first.run(
            "token", "--client", "till", "--box", "box-2", "--key", first.path("till.pem")
        ).strip()
        self.start_box()


@pytest.fixture
def branches(tmp_path: Path) -> Iterator[tuple[TwoBranches, Second]]:
    """Two boxes in step with their hub; a top-up brings as much again."""
    first = TwoBranches(tmp_path)
    path = first.folder / "site.json"
    site = json.loads(path.read_text())
    site["allowances"][0]["headroom_percent"] = 100
    path.write_text(json.dumps({**site, "version": 2}))
    first.run("site", "publish", str(path), "--hub", first.path("hub.toml"))
    first.start_hub()
    first.start_box()
    second = first.start_second()
    for branch in (first, second):
        branch.wait_for_mode("active")
    yield first, second
    second.end()
    first.end()


def seconds_until(branch: Branch, code: str) -> float:
    """How long payments of alice go on being cleared (code: "") or refused otherwise."""
    began = time.monotonic()
    wait_until(lambda: branch.pay("alice", 1).json.get("code", "") == code, f"a payment that says {code!r}")
    return time.monotonic() - began


@pytest.mark.slow
def test_an_order_at_the_centre_binds_a_box_within_a_second(
    branches: tuple[TwoBranches, Second], capsys: pytest.CaptureFixture[str]
) -> None:
    """Freeze, close and their ends: from the return of the command to the first payment that obeys it."""
    first, _ = branches
    hub, took = ("--reason", "x", "--hub", first.path("hub.toml")), list[float]()
    for _ in range(ORDERS):
        for order, off, code in (
            ("freeze", "--off", "account_frozen"),
            ("close", "--reopen", "account_closed"),
        ):
            first.run("order", order, "alice", *hub)
            took.append(seconds_until(first, code))
            first.run("order", order, "alice", off, *hub)
            took.append(seconds_until(first, ""))
    with capsys.disabled():
        print(f"\norders obeyed: median {statistics.median(took):.3f} s, longest {max(took):.3f} s")
    assert max(took) < 1.0


@pytest.mark.slow
def test_a_payment_takes_what_lies_at_the_other_branch(
    branches: tuple[TwoBranches, Second], capsys: pytest.CaptureFixture[str]
) -> None:
    """Bob's money is at the other branch and at the centre: together it covers him, and more is declined, not
    cleared at the branch's risk."""
    first, second = branches
    assert second.pay("bob", 50_000).json["cleared_by"] == "centre"
    held = edgegw("allowances", "--box", "box-2", "--json", "--hub", first.path("hub.toml")).stdout
    bob = next(one for one in map(json.loads, held.splitlines()) if one["account_id"] == "bob")
    assert bob["amount_minor"] in (50_000, 100_000)
    began = time.monotonic()
    paid = first.pay("bob", 140_000)
    seconds = time.monotonic() - began
    assert (paid.status, paid.json.get("cleared_by")) == (201, "centre"), paid.json
    with capsys.disabled():
        print(f"\nrecalled and paid in {seconds:.3f} s")
    began = time.monotonic()
    refused = first.pay("bob", 30_000)
    assert refused.json["code"] == "insufficient_funds"
    assert time.monotonic() - began < 2.0
    assert first.pay("bob", 10_000).json["cleared_by"] == "centre"
