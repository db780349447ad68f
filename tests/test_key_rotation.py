"""`edgegw keys rotate` and `edgegw keys policy` as their user meets them, at processes that run."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import Branch, edgegw
from tests.waiting import wait_until


@pytest.fixture
def branch(tmp_path: Path) -> Iterator[Branch]:
    """A branch that is set up, with nothing running."""
    branch = Branch(tmp_path)
    yield branch
    branch.end()


def ranges(branch: Branch, *words: str) -> list[tuple[str, int, int | None]]:
    """The keys of the newest epoch, with their sizes."""
    found = json.loads(branch.run("keys", "policy", *words, "--json"))
    return [(one["key"], one["first"], one.get("last")) for one in found["epochs"][-1]["ranges"]]


def verified(branch: Branch, *words: str) -> str:
    """What the verifier says by the hub's key."""
    hub = (branch.folder / "secrets/hub.pub").read_text().strip()
    return edgegw("verify", "--hub-key", hub, *words).output


@pytest.mark.slow
def test_a_key_changes_under_payments_without_a_line_and_over_a_start(branch: Branch) -> None:
    """Running and offline, standing still, and the hub, an export and receipts after that."""
    branch.start_hub()
    branch.start_box()
    branch.wait_for_mode("active")
    paid = branch.pay("alice", 100, id="11" * 16)
    assert paid.status == 201, paid.body
    settings = branch.path("box.toml")
    assert branch.hub is not None
    branch.hub.end(signal.SIGKILL)
    branch.wait_for_mode("offline")
    first = (branch.folder / "secrets/checkpoint.pub").read_text().strip()
    told = branch.run("keys", "rotate", "checkpoint", settings)
    second = told.splitlines()[0]
    assert "signs from record 1/" in told
    wait_until(
        lambda: (branch.folder / "secrets/checkpoint.pub").read_text().strip() == second, "the new key"
    )
    assert not list((branch.folder / "secrets").glob("*.next.*"))
    assert branch.pay("alice", 5).status == 201
    assert [one[0] for one in ranges(branch, settings)] == [first, second]
    assert branch.box is not None
    assert branch.box.end(signal.SIGKILL) != 0
    told = branch.run("keys", "rotate", "checkpoint", settings)
    assert "its next start journals" in told
    branch.start_hub()
    branch.start_box()
    branch.wait_for_mode("active")
    wait_until(lambda: len(ranges(branch, settings)) == 3, "the third key")
    assert branch.pay("alice", 5).status == 201
    hub = branch.path("hub.toml")
    wait_until(lambda: ranges(branch, hub, "--box", "box-1") == ranges(branch, settings), "the hub to know")
    wait_until(lambda: branch.call("GET", "/v1/checkpoint").json["cosigned_size"] > 0, "a cosignature")
    receipt = branch.call("GET", f"/v1/receipts/{'11' * 16}")
    (branch.folder / "receipt.json").write_bytes(receipt.body)
    branch.run("export", settings, "--output", branch.path("audit.db"))
    branch.run("journal", "export", settings, "--output", branch.path("a.journal"))
    policy = branch.path("box-1.keys")
    branch.run("keys", "policy", hub, "--box", "box-1", "--output", policy)
    assert verified(branch, "export", branch.path("audit.db")).startswith("verified")
    assert verified(branch, "journal", branch.path("a.journal")).startswith("verified")
    told = verified(branch, "--policy", policy, "receipt", branch.path("receipt.json"))
    assert told.startswith("verified"), told
    branch.run("ledger", "check", settings)
