"""The card vault as an operator has it: its commands, and a whole branch whose every byte is searched."""

import asyncio
import json
import resource
import signal
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from edgegw.access.keystore import OPEN_FILES
from edgegw.demo.card_search import CardSearch
from edgegw.payments.vault_file import VaultFile
from edgegw.payments.vault_keys import KeyFolder
from edgegw.replica.litestream import binary
from tests import card_leaks
from tests.card_leaks import REGISTERED, STRANGE
from tests.mirror.branch import MirroredBranch
from tests.processes import START_SECONDS, Process, edgegw
from tests.replica.test_restore import REPLICA, wait_until_copied
from tests.waiting import wait_until

SEARCH = CardSearch(card_leaks.NUMBERS)
BOX = (
    'bank = "b1"\nbox = "box-1"\n[hub]\nkey = "x"\n[[hub.addresses]]\nurl = "http://127.0.0.1:9"\n'
    "[http]\n[iso8583]\n"
)
WHO = ("--by", "mei", "--reason", "a test")


def test_the_commands_of_a_vault_need_no_running_box(tmp_path: Path) -> None:
    """An operator who has to wait for a box to start shreds tomorrow."""
    settings = str(tmp_path / "box.toml")
    Path(settings).write_text(BOX)
    for folder in ("data", "anchor"):
        (tmp_path / folder).mkdir()
    assert edgegw("vault", "status", settings).exit_code == 3, "there is none before the first start"
    edgegw("keygen", "vault", "--out", str(tmp_path / "secrets/vault.key"))
    shown = edgegw("card-lookup", "--box", settings, text=f"{REGISTERED}\n{STRANGE}\n")
    lookups = shown.stdout.split()
    keys = KeyFolder(OPEN_FILES, tmp_path / "secrets/vault", owner="b1/box-1/vault")
    file = VaultFile.open(tmp_path / "data/vault.db", keys, create=True)
    tokens = file.mint({lookups[0]: REGISTERED, lookups[1]: ""})
    file.close()

    def told(*words: str) -> tuple[int, str]:
        done = edgegw("vault", words[0], settings, *words[1:])
        return done.exit_code, done.stdout.strip()

    token = tokens[lookups[0]]
    assert told("reveal", token, *WHO) == (0, "622191******2576")
    assert told("reveal", lookups[0], "--full", *WHO) == (0, REGISTERED)
    assert told("reveal", tokens[lookups[1]], *WHO)[0] == 1, "its number was never shown"
    assert told("reveal", token, "--by", "mei", "--reason", f"card {REGISTERED}")[0] == 2
    assert told("rotate", *WHO) == (0, "2 cards lie under the new key version")
    assert told("shred", lookups[0], "unknown", *WHO)[0] == 1
    status = json.loads(told("status", "--json")[1])
    assert (status["cards"], status["shredded"], status["key_versions"]) == (1, 1, [3])
    acts = [(act["what"], act["token"]) for act in status["acts"]]
    assert acts == [
        ("reveal", token),
        ("reveal-full", token),
        ("rotate", ""),
        ("shred", token),
        ("rotate", ""),
    ]
    assert told("reveal", token, *WHO)[0] == 1
    assert told("accept-loss", *WHO) == (0, "0 cards are given up")
    assert [line.split()[0] for line in edgegw("keys", "list", settings).stdout.splitlines()].count(
        "vault-version"
    ) == 1
    assert list(SEARCH.in_file(tmp_path / "data/vault.db")) == []


def test_a_shredding_that_was_killed_before_its_rotation_is_ended_by_the_same_command(tmp_path: Path) -> None:
    """The card is gone from the file already, and every older copy still gives it."""
    settings = tmp_path / "box.toml"
    settings.write_text(BOX)
    for folder in ("data", "anchor"):
        (tmp_path / folder).mkdir()
    keys = KeyFolder(OPEN_FILES, tmp_path / "secrets/vault", owner="b1/box-1/vault")
    file = VaultFile.open(tmp_path / "data/vault.db", keys, create=True)
    token = file.mint({"ab" * 32: REGISTERED})["ab" * 32]
    file.shred(token, by="mei", reason="a test")
    file.close()
    done = edgegw("vault", "shred", str(settings), token, *WHO)
    assert (done.exit_code, keys.numbers()) == (1, [2]), done.stdout


class Hook:
    """A client's server for notices: all bytes that it was sent."""

    def __init__(self) -> None:
        self.got = bytearray()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.got += str(self.headers).encode() + self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def end(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class CardBranch(MirroredBranch):
    """Hub, mirror, and a box with both ways in, a copy by litestream and a webhook; REGISTERED is bob's."""

    process = Process  # a forked one has no faulthandler to write of a crash

    def furnish(self, hook: Hook) -> None:
        """Publish the site with its card and terminal."""
        self.run("keygen", "vault", "--out", self.path("secrets/vault.key"))
        lookup = edgegw("card-lookup", "--vault-key", self.path("secrets/vault.key"), text=REGISTERED)
        site = json.loads((self.folder / "site.json").read_text())
        site |= {
            "version": 2,
            "terminals": [
                {
                    "id": "T0000001",
                    "merchant": "M00000000000001",
                    "credit_account_id": "shop",
                    "currency": "CNY",
                }
            ],
            "cards": {lookup.stdout.strip(): "bob"},
            "limits": [{"name": "day", "of": "card", "currency": "CNY", "per": "window", "count": 1_000}],
        }
        site["clients"][0]["webhook"] = {"url": hook.url}
        (self.folder / "site.json").write_text(json.dumps(site))
        self.run("site", "publish", self.path("site.json"), "--hub", self.path("hub.toml"))

    def write_box(self, addresses: tuple[str, ...]) -> None:
        super().write_box(addresses)
        settings = self.folder / "box.toml"
        more = f'[iso8583]\nport = 0\n[notices]\nnetworks_barred = []\n{REPLICA}[log]\nlevel = "debug"\n'
        settings.write_text(settings.read_text() + more)

    def drive(self, number: str, first: int) -> None:
        """All ways in with a number; the answers over HTTP go to a file, for the search."""
        assert self.box is not None
        iso_port = int(self.box.opened()["addresses"]["iso8583"][0].rpartition(":")[2])
        ids = (f"{one:032x}" for one in range(first << 32, (first + 1) << 32))
        traces = (f"{one:06d}" for one in range(first * 1_000, 900_000))
        ends = {"payer": "alice", "payee": "shop"}
        requests = card_leaks.http_requests(number, ids, self.token, **ends)
        said = asyncio.run(card_leaks.speak_http(self.http_port, requests))
        for path in ("/metrics", "/v1/status", "/v1/notices", "/v1/openapi.json", "/v1/accounts"):
            said += self.call("GET", path).body
        (self.folder / f"answers-{first}").write_bytes(said)
        answers = asyncio.run(card_leaks.speak_iso(iso_port, card_leaks.iso_frames(number, traces)))
        assert b"0210" in answers

    def pay_by_card(self, trace: int) -> bytes:
        """The answers to a sign-on and one card payment."""
        assert self.box is not None
        iso_port = int(self.box.opened()["addresses"]["iso8583"][0].rpartition(":")[2])
        [frame, *_] = card_leaks.iso_frames(
            REGISTERED, iter([f"{one:06d}" for one in range(trace, trace + 99)])
        )
        return asyncio.run(card_leaks.speak_iso(iso_port, iter([frame])))


@pytest.fixture
def hook() -> Iterator[Hook]:
    """A client's server."""
    hook = Hook()
    yield hook
    hook.end()


@pytest.fixture
def branch(tmp_path: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> Iterator[CardBranch]:
    """The branch, running; its processes may dump core and tell where they crashed, as far as they let it."""
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")
    branch = CardBranch(tmp_path, timeout_ms=60_000)
    branch.furnish(hook)
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    try:
        branch.start_mirror()
        branch.start_hub()
        branch.start_box()
        branch.wait_for_mode("active")
        yield branch
    finally:
        branch.end()


def found_in(folder: Path) -> dict[str, list[Any]]:
    """What is found in all files of a folder."""
    found = {str(path): list(SEARCH.in_file(path)) for path in sorted(folder.rglob("*"))}
    return {name: leaks for name, leaks in found.items() if leaks}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_byte_of_a_whole_branch_holds_a_card_number(branch: CardBranch, hook: Hook) -> None:
    """Ledger, journal, vault, logs, metrics, exports, litestream's files, what a crash leaves, hub and
    mirror, with the line up and down."""
    branch.drive(REGISTERED, 1)
    branch.kill_hub()
    branch.wait_for_mode("offline")
    branch.drive(STRANGE, 2)
    assert b"0210" in branch.pay_by_card(500)
    assert branch.pay("bob", 9_000).json["cleared_by"] == "stand_in"
    branch.start_hub()
    branch.wait_for_mode("active")
    wait_until(lambda: bool(hook.got), "a notice", timeout_seconds=START_SECONDS)
    wait_until_copied(branch)
    assert branch.box is not None
    limits = Path(f"/proc/{branch.box.popen.pid}/limits").read_text()
    assert next(line for line in limits.splitlines() if line.startswith("Max core")).split()[4] == "0"
    assert branch.box.end(signal.SIGABRT) == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in branch.box.log.read_text()
    branch.start_box()
    branch.drive(card_leaks.LONG, 3)
    wait_until_copied(branch)
    branch.kill_box()
    yml = branch.path("data/litestream/disk.yml")
    words = [
        binary(),
        "restore",
        "-config",
        yml,
        "-o",
        branch.path("restored.db"),
        branch.path("data/ledger.db"),
    ]
    subprocess.run(words, check=True)
    branch.run("export", branch.path("box.toml"), "--output", branch.path("export.db"))
    branch.run("journal", "export", branch.path("box.toml"), "--output", branch.path("box.journal"))
    branch.exported()
    for process in (branch.hub, branch.mirror):
        assert process is not None
        process.end(signal.SIGTERM)
    (branch.folder / "posts").write_bytes(hook.got)
    masked = [
        path.name
        for path in branch.folder.rglob("*")
        if path.is_file() and b"622191******2576" in path.read_bytes()
    ]
    assert {"ledger.db", "hub.db", "restored.db", "box.journal"} <= set(masked), masked
    assert found_in(branch.folder) == {}
    (branch.folder / "data/core").write_bytes(b"\0" + bytes.fromhex(REGISTERED) + b"\0")
    assert [Path(name).name for name in found_in(branch.folder)] == ["core"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_running_box_hears_what_was_shredded_and_takes_no_card_when_its_vault_is_lost(
    branch: CardBranch,
) -> None:
    """The commands work beside payments; and whoever deletes the vault gets no limits anew."""
    assert b"0210" in branch.pay_by_card(1)
    box = branch.path("box.toml")
    status = json.loads(branch.run("vault", "status", box, "--json"))
    assert (status["cards"], status["with_number"], status["key_versions"]) == (1, 1, [1])
    branch.run("journal", "export", box, "--output", branch.path("j"))
    records = [json.loads(line) for line in Path(branch.path("j")).read_bytes().splitlines()]
    [token] = {one["request"]["card"] for one in records if one.get("request", {}).get("card")}
    branch.run("vault", "shred", box, token, *WHO)
    assert branch.box is not None
    running: Process = branch.box
    wait_until(lambda: len(running.events("vault_act")) == 2, "the box to tell it")
    assert b"vault_unavailable" not in branch.pay_by_card(2)
    assert branch.metric("edgegw_vault_open") == 1
    assert running.end(signal.SIGTERM) == 0
    for path in (branch.folder / "data").glob("vault.db*"):
        path.unlink()
    branch.start_box()
    assert b"vault_unavailable" in branch.pay_by_card(3)
    assert branch.pay("alice", 5).status == 201, "payments without a card go on"
    assert branch.metric("edgegw_vault_open") == 0
    branch.run("vault", "status", box, code=1)
    branch.run("vault", "accept-loss", box, *WHO)
    wait_until(lambda: branch.metric("edgegw_vault_open") == 1, "the vault to be taken up")
    assert b"vault_unavailable" not in branch.pay_by_card(4)
