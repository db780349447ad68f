"""The support bundle of a box that runs, that is killed, and whose ledger is damaged; and of its hub."""

import json
import signal
import tarfile
from pathlib import Path

import pytest

from edgegw.demo.card_search import CardSearch
from tests.card_leaks import NUMBERS
from tests.processes import Branch, edgegw

NAMES = ("Zhangfei", "Noodles-Ltd")


def bundle_of(branch: Branch, settings: str) -> dict[str, bytes]:
    """A bundle's files."""
    output = branch.path(f"bundle-{branch.runs}-{settings}.tar.gz")
    done = edgegw("support", branch.path(settings), "--output", output)
    assert done.exit_code == 0, done.output
    with tarfile.open(output) as opened:
        files = {
            one.name.removeprefix("support/"): found.read()
            for one in opened.getmembers()
            if (found := opened.extractfile(one)) is not None
        }
    whole = b"\n".join(files.values())
    assert not list(CardSearch(NUMBERS).in_bytes(whole))
    for secret in (branch.token, *NAMES):
        assert secret.encode() not in whole
    for path in sorted(branch.folder.rglob("*.pem")):
        for line in path.read_bytes().splitlines():
            assert line.startswith(b"-----") or line not in whole
    return files


@pytest.mark.lab
def test_a_branch_tells_how_it_is_and_nothing_that_it_keeps(tmp_path: Path) -> None:
    """Running, killed, damaged: each bundle says what can be said, and names what it could not have."""
    branch = Branch(tmp_path)
    try:
        branch.start_hub()
        branch.start_box()
        for number, name in zip(NUMBERS, NAMES, strict=False):
            assert branch.pay("alice", 100).status == 201
            branch.call("POST", "/v1/payments", {"id": name, "debit_account_id": number, "reference": name})
        running = bundle_of(branch, "box.toml")
        assert json.loads(running["status.json"])["ready"] is True
        assert b"edgegw_line_up 1" in running["metrics.txt"]
        assert json.loads(running["heads.json"])[0]["size"] > 2
        assert "findings" in json.loads(bundle_of(branch, "hub.toml")["hub.json"])
        assert branch.box is not None
        branch.box.end(signal.SIGKILL)
        killed = bundle_of(branch, "box.toml")
        assert json.loads(killed["status.json"])["running"] is False
        for path in branch.folder.glob("data/ledger.db*"):
            path.write_bytes(b"SQLite format 3\0" + b"\xff" * 30_000)
        damaged = bundle_of(branch, "box.toml")
        assert "status.json" in json.loads(damaged["manifest.json"])["left_out"]
        assert b"open" in damaged["log.jsonl"]
    finally:
        branch.end()
