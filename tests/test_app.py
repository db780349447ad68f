"""A box and a hub as real processes: money moves, processes die, and nothing that was answered is lost."""

import json
import os
import resource
import secrets
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from tests.processes import START_SECONDS, Branch, Process
from tests.waiting import wait_until


@pytest.fixture
def branch(tmp_path: Path) -> Iterator[Branch]:
    """A branch that is set up, with nothing running."""
    branch = Branch(tmp_path)
    yield branch
    branch.end()


@pytest.fixture
def open_branch(branch: Branch) -> Branch:
    """A branch whose hub and box run, with the line up."""
    branch.start_hub()
    branch.start_box()
    branch.wait_for_mode("active")
    # The first allotment comes with the directives behind the site's.
    wait_until(
        lambda: branch.call("GET", "/v1/accounts/alice").json["available_minor"] == 100_000,
        "alice's allowance",
    )
    return branch


def test_an_answered_payment_survives_sigkill_and_its_repeat_is_the_same_bytes(open_branch: Branch) -> None:
    """A till that asks again after a power cut would pay twice, or be told something else."""
    branch = open_branch
    local, central = secrets.token_hex(16), secrets.token_hex(16)
    first = branch.pay("alice", 1_500, id=local)
    second = branch.pay("bob", 2_500, id=central)
    assert (first.status, first.json["cleared_by"]) == (201, "allowance")
    assert (second.status, second.json["cleared_by"]) == (201, "centre")
    assert branch.box is not None
    branch.box.end(signal.SIGKILL)
    branch.start_box()
    again = branch.pay("alice", 1_500, id=local)
    assert (again.body, again.headers["Idempotent-Replay"]) == (first.body, "true")
    assert branch.pay("bob", 2_500, id=central).body == second.body
    other = branch.pay("alice", 1_501, id=local)
    assert (other.status, other.json["code"], other.json["field"]) == (409, "id_reused", "amount_minor")


def test_payments_go_on_without_the_hub_and_are_confirmed_when_it_is_back(open_branch: Branch) -> None:
    """A branch that stops with the line is what this product is against."""
    branch = open_branch
    assert branch.hub is not None
    assert branch.hub.end(signal.SIGTERM) == 0
    branch.wait_for_mode("offline")
    payment = secrets.token_hex(16)
    assert branch.pay("alice", 700).json["cleared_by"] == "allowance"
    stood = branch.pay("bob", 900, id=payment)
    assert (stood.status, stood.json["cleared_by"]) == (201, "stand_in")
    too_much = branch.pay("bob", 10_000)
    assert (too_much.status, too_much.json["code"]) == (409, "stand_in_above_floor")
    branch.start_hub()
    branch.wait_for_mode("active")
    wait_until(
        lambda: branch.call("GET", "/v1/notices").json["notices"] != [],
        "the centre's word",
        timeout_seconds=START_SECONDS,
    )
    (notice,) = branch.call("GET", "/v1/notices").json["notices"]
    assert (notice["id"], notice["outcome"]) == (payment, "confirmed")
    assert branch.pay("bob", 900, id=payment).body == stood.body


def test_sigterm_leaves_a_ledger_that_checks_and_an_export_that_verifies(open_branch: Branch) -> None:
    """A stop that loses or garbles the tail shows only when an auditor asks."""
    branch, folder = open_branch, open_branch.folder
    for _ in range(3):
        assert branch.pay("alice", 100).status == 201
    assert branch.box is not None
    assert branch.box.end(signal.SIGTERM) == 0, branch.box.log.read_text()
    left = {path.name for path in (folder / "data").iterdir()}
    assert left == {
        "ledger.db",
        "ledger.lock",
        "ledger.reserve",
        "log",
        "site_health.json",
        "tokens.db",
        "vault.db",
    }

    checked = branch.run("ledger", "check", branch.path("box.toml"), "--json")
    assert json.loads(checked)["problems"] == 0

    exported = folder / "b.journal"
    branch.run("journal", "export", branch.path("box.toml"), "--output", str(exported))
    records = [json.loads(line) for line in exported.read_bytes().splitlines() if b'"type"' in line]
    assert records[-1]["type"] == "snapshot"
    key = next(record["key"] for record in records if record["type"] == "key")
    keys = ("--box-key", key, "--hub-key", (folder / "secrets/hub.pub").read_text().strip())
    branch.run("verify", *keys, "journal", str(exported))
    branch.run("verify", "journal", str(exported), code=2)
    exported.write_bytes(exported.read_bytes().replace(b'"amount_minor":100,', b'"amount_minor":900,', 1))
    branch.run("verify", *keys, "journal", str(exported), code=1)


def test_a_second_box_on_the_same_ledger_is_refused_with_a_hint(open_branch: Branch) -> None:
    """Two writers on one ledger would write two histories."""
    branch = open_branch
    second = Process("run", folder=branch.folder, log=branch.folder / "second.log")
    assert second.popen.wait(timeout=60) == 3
    said = second.event("ended")
    assert said is not None
    assert f"process {branch.box.popen.pid if branch.box else 0} has the ledger" in said["problem"]
    assert "One process per ledger" in said["hint"]
    assert branch.pay("alice", 100).status == 201


def test_a_box_starts_without_a_hub_and_says_why_it_takes_no_payments(branch: Branch) -> None:
    """A box that waits for the line to start is dead when the power comes back before the line."""
    branch.write_box(("127.0.0.1:9", "127.0.0.1:10"))
    branch.start_box(ready=False)
    assert branch.call("GET", "/healthz").status == 200
    assert branch.call("GET", "/readyz").status == 503
    report = json.loads(branch.run("status", branch.path("box.toml"), "--json", code=3))
    assert (report["running"], report["ready"], report["epoch"]) == (True, False, 0)
    assert report["hint"]
    assert branch.box is not None
    assert branch.box.end(signal.SIGTERM) == 0


def test_a_restored_ledger_answers_repeats_and_clears_nothing(open_branch: Branch) -> None:
    """A ledger from last night's backup would spend this morning's money again."""
    branch, folder = open_branch, open_branch.folder
    payment = secrets.token_hex(16)
    first = branch.pay("alice", 1_000, id=payment)
    assert branch.box is not None
    assert branch.box.end(signal.SIGTERM) == 0
    shutil.copytree(folder / "data", folder / "backup")
    branch.start_box()
    forgotten = branch.pay("alice", 1_000)
    assert forgotten.status == 201
    assert branch.box.end(signal.SIGTERM) == 0
    shutil.rmtree(folder / "data")
    shutil.copytree(folder / "backup", folder / "data")

    assert branch.hub is not None
    assert branch.hub.end(signal.SIGTERM) == 0
    branch.start_box(ready=False)
    assert branch.pay("alice", 1_000, id=payment).body == first.body
    refused = branch.pay("alice", 1_000)
    assert (refused.status, refused.json["code"]) == (503, "not_clearing")
    assert "ledger check" in refused.json["hint"]
    assert branch.call("GET", "/readyz").status == 503
    # "No such payment" would make the till pay it again elsewhere.
    for path in ("payments", "receipts"):
        asked = branch.call("GET", f"/v1/{path}/{forgotten.json['id']}")
        assert (asked.status, asked.json["code"]) == (503, "not_clearing")
    assert branch.box.end(signal.SIGTERM) == 0


@pytest.mark.parametrize("lost", ["an old copy", "the disk", "the machine"])
def test_what_was_lost_comes_back_from_the_centre_before_the_next_epoch(
    open_branch: Branch, lost: str
) -> None:
    """The till repeats what the lost records had answered: it must hear that answer, and pay once."""
    branch, folder = open_branch, open_branch.folder
    payments = {secrets.token_hex(16): amount_minor for amount_minor in (1_000, 2_000)}
    assert branch.box is not None
    assert branch.box.end(signal.SIGTERM) == 0
    shutil.copytree(folder / "data", folder / "backup")
    branch.start_box()
    told = {id: branch.pay("alice", amount_minor, id=id).body for id, amount_minor in payments.items()}
    wait_until(lambda: branch.call("GET", "/v1/status").json["records_waiting"] == 0, "the centre to hold it")
    branch.box.end(signal.SIGKILL)
    shutil.rmtree(folder / "data")
    if lost == "an old copy":
        shutil.copytree(folder / "backup", folder / "data")
    elif lost == "the machine":
        shutil.rmtree(folder / "anchor")
        for name in ("checkpoint.pem", "checkpoint.pub"):
            (folder / "secrets" / name).unlink()

    branch.start_box(ready=False)
    for id, amount_minor in payments.items():
        wait_until(
            lambda id=id, amount_minor=amount_minor: (  # type: ignore[misc]
                branch.pay("alice", amount_minor, id=id).body == told[id]
            ),
            "the lost payment to be known again",
            timeout_seconds=START_SECONDS,
        )
    assert branch.pay("alice", 1).status == 503
    branch.run("order", "new-epoch", "box-1", "--hub", branch.path("hub.toml"))
    wait_until(
        lambda: branch.call("GET", "/readyz").status == 200, "the new epoch", timeout_seconds=START_SECONDS
    )
    for id, amount_minor in payments.items():
        assert branch.pay("alice", amount_minor, id=id).body == told[id]
    assert branch.pay("alice", 1_000).status == 201
    assert branch.box.end(signal.SIGTERM) == 0
    report = json.loads(branch.run("ledger", "check", branch.path("box.toml"), "--json"))
    assert (report["epochs"], report["findings"]) == (2, [])


def test_an_old_record_that_was_changed_by_hand_stops_the_clearing_before_its_repeat(
    open_branch: Branch,
) -> None:
    """A start reads only the tail: a payment whose row lost its id would be paid a second time."""
    branch, payment = open_branch, secrets.token_hex(16)
    assert branch.pay("alice", 1_000, id=payment).status == 201
    wait_until(lambda: branch.call("GET", "/v1/status").json["records_waiting"] == 0, "the centre to hold it")
    assert branch.box is not None
    assert branch.hub is not None
    assert branch.box.end(signal.SIGTERM) == 0
    assert branch.hub.end(signal.SIGTERM) == 0
    with apsw.Connection(branch.path("data/ledger.db")) as ledger:
        ledger.execute("DROP TRIGGER record_keeps_content")
        ledger.execute("UPDATE record SET id = zeroblob(16) WHERE id = ?", (bytes.fromhex(payment),))
        assert ledger.total_changes() == 1

    branch.start_box(ready=False)
    repeat = branch.pay("alice", 1_000, id=payment)
    assert (repeat.status, repeat.json["code"]) == (503, "not_clearing")
    status = branch.call("GET", "/v1/status").json
    assert status["mode"] == "forked"
    assert "column id" in status["mode_reason"]
    assert branch.box.end(signal.SIGTERM) == 0


def test_site_settings_that_were_changed_by_hand_are_not_used(open_branch: Branch) -> None:
    """Who could raise a limit in the file, or put a key of his own there, would need no forged record."""
    branch = open_branch
    assert branch.box is not None
    assert branch.box.end(signal.SIGTERM) == 0
    with apsw.Connection(branch.path("data/ledger.db")) as ledger:
        ledger.execute(
            "UPDATE site SET bundle = CAST(replace(CAST(bundle AS TEXT), '10000', '90000') AS BLOB)"
        )
        assert ledger.total_changes() == 1
    box = Process("run", folder=branch.folder, log=branch.folder / "box-again.log")
    assert box.popen.wait(timeout=START_SECONDS) == 3
    ended = box.event("ended")
    assert ended is not None
    assert "site bundle" in ended["problem"]
    assert "it was changed" in branch.run("ledger", "check", branch.path("box.toml"), code=1)


def test_an_old_record_that_was_changed_in_an_outage_is_found_at_its_end(open_branch: Branch) -> None:
    """The centre has it already, so no package of the sync would carry it and nobody else would look."""
    branch, payment = open_branch, secrets.token_hex(16)
    assert branch.pay("alice", 1_000, id=payment).status == 201
    wait_until(lambda: branch.call("GET", "/v1/status").json["records_waiting"] == 0, "the centre to hold it")
    assert branch.hub is not None
    assert branch.hub.end(signal.SIGTERM) == 0
    branch.wait_for_mode("offline")
    with apsw.Connection(branch.path("data/ledger.db")) as ledger:
        ledger.set_busy_timeout(30_000)
        ledger.execute("DROP TRIGGER record_keeps_content")
        ledger.execute(
            "UPDATE record SET body = CAST(replace(CAST(body AS TEXT), ':1000', ':9') AS BLOB) WHERE id = ?",
            (bytes.fromhex(payment),),
        )
        assert ledger.total_changes() == 1
    assert branch.pay("alice", 1_000).status == 201

    branch.start_hub()
    branch.wait_for_mode("forked")
    assert branch.pay("alice", 1_000).status == 503


def test_a_record_behind_the_signed_head_ends_the_start_with_the_mend(open_branch: Branch) -> None:
    """Nobody signed it; the next record of the box itself would fall over it."""
    branch = open_branch
    assert branch.box is not None
    assert branch.box.end(signal.SIGTERM) == 0
    with apsw.Connection(branch.path("data/ledger.db")) as ledger:
        ledger.execute(
            "INSERT INTO record SELECT position + 1, type, client, id, original, leaf, body FROM record"
            " ORDER BY position DESC LIMIT 1"
        )
    box = Process("run", folder=branch.folder, log=branch.folder / "box-again.log")
    assert box.popen.wait(timeout=START_SECONDS) == 3
    ended = box.event("ended")
    assert ended is not None
    assert "stands behind the head" in ended["problem"]
    assert "ledger check" in ended["hint"]


def test_a_lost_disk_gets_a_new_epoch_by_an_order_at_the_hub_and_no_sooner(open_branch: Branch) -> None:
    """An empty ledger that clears at once would spend the old one's allowances a second time."""
    branch = open_branch
    assert branch.box is not None
    branch.box.end(signal.SIGKILL)
    shutil.rmtree(branch.folder / "data")
    branch.start_box(ready=False)
    status = ("status", branch.path("box.toml"), "--json")
    wait_until(
        lambda: "found_behind" in json.loads(branch.run(*status, code=3))["line"],
        "the hub's word",
    )
    assert branch.call("GET", "/readyz").status == 503
    branch.run("order", "new-epoch", "box-1", "--hub", branch.path("hub.toml"))
    wait_until(lambda: branch.call("GET", "/readyz").status == 200, "the new epoch")
    assert json.loads(branch.run(*status))["epoch"] == 2
    # What was outstanding in the old epoch is in doubt: it is not handed out again.
    assert branch.call("GET", "/v1/accounts/alice").json["available_minor"] <= 100_000


def test_a_head_that_another_hand_moved_ends_the_process_without_an_answer(open_branch: Branch) -> None:
    """A box that goes on after its own rule broke writes a second history."""
    branch = open_branch
    assert branch.box is not None
    wait_until(lambda: branch.call("GET", "/v1/status").json["records_waiting"] == 0, "the box to be at rest")
    ledger = apsw.Connection(branch.path("data/ledger.db"))
    ledger.set_busy_timeout(30_000)
    ledger.execute("UPDATE head SET boot = 'thief'")
    ledger.close()
    answer = branch.pay("alice", 100)
    assert (answer.status, answer.json["code"]) == (503, "outcome_unknown")
    assert branch.box.popen.wait(timeout=60) == 70
    ended = branch.box.event("ended")
    assert ended is not None
    assert "not at size" in ended["problem"]


def test_a_disk_without_room_refuses_payments_and_still_syncs(branch: Branch) -> None:
    """A box that cannot say that its disk is full looks like a box that lost its mind."""
    branch.more = f"[disk]\npayments_bytes_min = {1 << 50}\n"
    branch.start_hub()
    branch.start_box(ready=False)
    wait_until(
        lambda: branch.call("GET", "/v1/status").status == 200, "the site", timeout_seconds=START_SECONDS
    )
    branch.wait_for_mode("active")
    refused = branch.pay("alice", 100)
    assert (refused.status, refused.json["code"]) == (507, "storage_full")
    readiness = branch.call("GET", "/readyz")
    assert (readiness.status, "no room" in readiness.json["message"]) == (503, True)
    assert branch.box is not None
    os.kill(branch.box.popen.pid, signal.SIGHUP)
    wait_until(lambda: branch.box is not None and branch.box.event("hangup_ignored") is not None, "its word")
    assert branch.box.end(signal.SIGTERM) == 0


def test_a_shell_that_allows_few_descriptors_does_not_limit_the_box(branch: Branch) -> None:
    """The usual 1,024 are fewer than the connections that the ways in take; then nothing opens any more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    branch.write_box(("127.0.0.1:1",))
    branch.process = Process
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        branch.start_box(ready=False)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert branch.box is not None
    limits = Path(f"/proc/{branch.box.popen.pid}/limits").read_text()
    allowed = next(line for line in limits.splitlines() if line.startswith("Max open files")).split()[3]
    assert int(allowed) == min(hard, 65_536)


def test_a_way_in_without_its_secret_ends_with_the_mend(branch: Branch) -> None:
    """Terminals that cannot be served must be an error at the start, not at the first card."""
    branch.more = "[iso8583]\nport = 0\n"
    branch.write_box(("127.0.0.1:9",))
    box = Process("run", folder=branch.folder, log=branch.folder / "box.log")
    assert box.popen.wait(timeout=60) == 2
    ended = box.event("ended")
    assert ended is not None
    assert "vault.key" in ended["problem"]
    branch.run("keygen", "vault", "--out", branch.path("secrets/vault.key"))
    branch.start_box(ready=False)
    assert set(branch.box.opened()["addresses"] if branch.box else ()) == {"http", "iso8583"}


def test_a_hub_whose_address_is_taken_ends_with_a_hint(branch: Branch) -> None:
    """Two hubs on one port: the second must say so, not wait."""
    branch.start_hub()
    second = Process("hub", folder=branch.folder, log=branch.folder / "second.log")
    assert second.popen.wait(timeout=60) == 3
    ended = second.event("ended")
    assert ended is not None
    assert ended["hint"]
