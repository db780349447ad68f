"""Hub, box and mirror as real processes: what was answered outlives the box that answered it."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgegw import verifier
from tests.mirror.branch import MirroredBranch, Tills
from tests.processes import edgegw
from tests.waiting import wait_until

TILLS = 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a branch lives."""
    return tmp_path


def running(folder: Path, **rule: str | int) -> Iterator[MirroredBranch]:
    branch = MirroredBranch(folder, **rule)  # type: ignore[arg-type]
    try:
        branch.start_mirror()
        branch.start_hub()
        branch.start_box()
        wait_until(lambda: branch.metric("edgegw_mirror_up") == 1, "the mirror to be met")
        yield branch
    finally:
        branch.end()


@pytest.fixture
def branch(folder: Path) -> Iterator[MirroredBranch]:
    """A branch whose box goes on alone while the mirror is away."""
    yield from running(folder)


@pytest.fixture
def patient(folder: Path) -> Iterator[MirroredBranch]:
    """The same, and the mirror is not away because the machine is busy: every answer is at the mirror."""
    yield from running(folder, timeout_ms=60_000)


@pytest.fixture
def strict(folder: Path) -> Iterator[MirroredBranch]:
    """A branch whose box decides nothing while the mirror is away."""
    yield from running(folder, when_away="refuse", timeout_ms=2_000)


def shown(branch: MirroredBranch, *, code: int) -> str:
    """What `edgegw status` prints for people, on one line."""
    return " ".join(branch.run("status", branch.path("box.toml"), code=code).split())


def paid(tills: Tills, count: int) -> None:
    """Wait until so many more are answered."""
    goal = len(tills.answered) + count
    wait_until(lambda: len(tills.answered) >= goal, f"{count} answers", timeout_seconds=60)


def test_whatever_was_answered_outlives_the_box_that_burns(patient: MirroredBranch) -> None:
    """The promise of mirrored durability: the box's disks are gone, and no answered payment is.

    In the second round the hub has none of it: what only the mirror holds comes back to the books as well.
    """
    branch = patient
    for burn in range(3):
        if burn == 1:
            branch.kill_hub()
        tills = Tills(branch, TILLS)
        paid(tills, 60 + 37 * burn)
        branch.burn_box()
        tills.stop()
        kept = branch.exported()
        lost = tills.answered.keys() - kept.keys()
        assert not lost, f"burn {burn}: {len(lost)} of {len(tills.answered)} answered payments are lost"
        for identity, (status, said) in tills.answered.items():
            record = json.loads(kept[identity])
            assert (record["type"] == "transfer") == (status == 201)
            assert record["request"]["amount_minor"] == 1
            if status == 201:
                assert said["record"] == f"{record['epoch']}/{record['seq']}"
        # A replacement: behind until all has come back, and then only by the hub's order.
        if burn == 1:
            branch.start_hub()
        branch.start_box(ready=False)
        branch.wait_for_event("read_only")
        branch.run("order", "new-epoch", "box-1", "--hub", branch.path("hub.toml"))
        wait_until(lambda: branch.call("GET", "/readyz").status == 200, "the next epoch", timeout_seconds=60)
        identity = next(iter(tills.answered))
        again = branch.call("GET", f"/v1/payments/{identity}")
        assert again.status == 200
        assert again.json["answer"] == tills.answered[identity][1] or tills.answered[identity][0] == 409
    booked = sum(
        json.loads(body)["type"] == "transfer"
        for epoch in range(1, 5)
        for body in branch.exported(epoch=epoch).values()
    )
    wait_until(lambda: branch.hub_balance("shop") == booked, "the hub to have all in its books")


def test_a_box_that_goes_on_alone_says_so_and_what_is_at_stake(branch: MirroredBranch) -> None:
    """An operator who reads that payments start again looks for an outage that there is not."""
    words = ("status", branch.path("box.toml"))
    wait_until(
        lambda: json.loads(edgegw(*words, "--json").stdout)["mirror"]["durability"] == "mirrored",
        "the mirror",
    )
    assert branch.mirror is not None
    branch.mirror.end(signal.SIGKILL)
    wait_until(lambda: branch.pay("alice", 1).status == 201, "the box to go on alone")
    wait_until(lambda: edgegw(*words).exit_code == 1, "the box to say so")
    said = json.loads(branch.run(*words, "--json", code=1))
    mirror = said["mirror"]
    assert (mirror["durability"], mirror["wanted"], mirror["address"]) == ("local", "mirrored", "")
    assert mirror["lacking_records"] > 0
    assert mirror["since_s"] > 0
    assert [need["what"] for need in said["needs"]] == ["mirror"]
    assert "the settings want mirrored: the mirror is away" in shown(branch, code=1)
    assert branch.box is not None
    alarm = [one for one in branch.box.events("durability") if one["durability"] == "local"][-1]
    assert alarm["hint"] == mirror["hint"]
    assert "Payments go on" in alarm["hint"]
    assert "start again" not in alarm["hint"]
    branch.start_mirror()
    wait_until(lambda: edgegw(*words).exit_code == 0, "nothing to need a person")


@pytest.mark.slow
def test_a_mirror_that_dies_leaves_the_box_alone_and_is_taken_back(branch: MirroredBranch) -> None:
    """The branch goes on; the journal says from where to where its answers stood on one disk."""
    tills = Tills(branch, TILLS)
    paid(tills, 30)
    assert branch.mirror is not None
    branch.mirror.end(signal.SIGKILL)
    wait_until(lambda: branch.metric("edgegw_mirror_durability") == 0, "the box to go on alone")
    paid(tills, 30)
    branch.start_mirror()
    wait_until(lambda: branch.metric("edgegw_mirror_durability") == 1, "the mirror to be taken back")
    paid(tills, 30)
    branch.kill_box()
    tills.stop()
    assert not tills.answered.keys() - branch.exported().keys()
    changes = branch.durabilities()
    assert [what for what, _ in changes] == ["mirrored", "local", "mirrored"]
    assert changes[1][1].startswith("the mirror is away: ")


def test_a_frozen_mirror_is_away_and_a_strict_box_decides_nothing_without_it(strict: MirroredBranch) -> None:
    """A mirror that keeps its connections and says nothing must not hold every till for ever."""
    first = strict.pay("alice", 5)
    assert first.status == 201
    assert strict.mirror is not None
    strict.mirror.popen.send_signal(signal.SIGSTOP)
    try:
        identity = "f" * 32
        caught = strict.pay("alice", 5, id=identity)
        assert (caught.status, caught.json["code"]) == (503, "outcome_unknown")
        fresh = "e" * 32
        refused = strict.pay("alice", 5, id=fresh)
        assert (refused.status, refused.json["code"]) == (503, "mirror_away")
        # What the mirror has is told; what it has not is not, whichever way it is asked.
        assert strict.call("GET", f"/v1/payments/{first.json['id']}").status == 200
        assert strict.pay("alice", 5, id=first.json["id"]).status == 201
        for reply in (strict.call("GET", f"/v1/payments/{identity}"), strict.pay("alice", 5, id=identity)):
            assert (reply.status, reply.json["code"]) == (503, "outcome_unknown")
        assert strict.call("GET", f"/v1/payments/{fresh}").status == 404
        assert strict.call("GET", "/readyz").status == 503
        wait_until(lambda: "durability away since" in shown(strict, code=3), "the status to say so")
        assert "payments start again by themselves" in shown(strict, code=3)
    finally:
        strict.mirror.popen.send_signal(signal.SIGCONT)
    wait_until(lambda: strict.call("GET", "/readyz").status == 200, "the mirror to be taken back")
    assert strict.pay("alice", 5, id=identity).headers["Idempotent-Replay"] == "true"
    assert strict.pay("alice", 5, id=fresh).status == 201
    assert [what for what, _ in strict.durabilities()] == ["mirrored", "away", "mirrored"]


@pytest.mark.slow
def test_a_strict_box_loses_nothing_while_its_mirror_comes_and_goes(strict: MirroredBranch) -> None:
    """Kills of the mirror under load: each payment is told only once the mirror has it."""
    tills = Tills(strict, TILLS)
    for _ in range(2):
        paid(tills, 25)
        assert strict.mirror is not None
        strict.mirror.end(signal.SIGKILL)
        kept = strict.exported()
        known = dict(tills.answered)
        wait_until(lambda: strict.call("GET", "/readyz").status == 503, "the box to refuse")
        assert not (tills.answered.keys() | known.keys()) - kept.keys()
        strict.start_mirror()
        wait_until(lambda: strict.call("GET", "/readyz").status == 200, "the mirror to be taken back")
    paid(tills, 10)
    tills.stop()
    assert set(tills.codes) <= {"mirror_away", "outcome_unknown"}
    strict.burn_box()
    assert not tills.answered.keys() - strict.exported().keys()


def test_a_restored_box_gets_its_past_from_the_mirror_alone(patient: MirroredBranch) -> None:
    """With the hub out of reach a till that retries must still hear its first answer."""
    branch = patient
    assert branch.pay("alice", 5).status == 201
    assert branch.box is not None
    assert branch.box.end(signal.SIGTERM) == 0
    branch.keep_image()
    branch.start_box()
    paid_later = branch.pay("alice", 5)
    assert paid_later.status == 201
    branch.kill_box()
    branch.kill_hub()
    branch.put_image_back("data")
    branch.start_box(ready=False)
    branch.wait_for_mode("behind")
    assert branch.pay("alice", 5).json["code"] == "not_clearing"
    # What the image lacks has come back: a retry of the lost payment is a repeat, not a second payment.
    wait_until(
        lambda: branch.pay("alice", 5, id=paid_later.json["id"]).status == 201, "the past to come back"
    )
    assert branch.pay("alice", 5, id=paid_later.json["id"]).json == paid_later.json


@pytest.mark.slow
def test_an_image_that_has_paid_on_its_own_is_a_fork(branch: MirroredBranch) -> None:
    """Two histories of one epoch: the mirror keeps the first, and evidence of both; the box stops paying."""
    assert branch.box is not None
    assert branch.box.end(signal.SIGTERM) == 0
    branch.keep_image()
    branch.start_box()
    first = branch.pay("alice", 5)
    assert first.status == 201
    branch.kill_box()
    branch.kill_hub()
    assert branch.mirror is not None
    branch.mirror.end(signal.SIGKILL)
    branch.put_image_back("data", "anchor")
    branch.start_box()
    assert branch.pay("alice", 7).status == 201  # alone, at its own risk, and journalled so
    branch.start_mirror()
    branch.wait_for_mode("forked")
    assert branch.pay("alice", 5).json["code"] == "not_clearing"
    kept = branch.exported()
    assert set(kept) == {first.json["id"]}
    assert branch.mirror_status()["forked"].keys() == {"1"}


def test_a_stop_is_clean_and_a_start_goes_on(branch: MirroredBranch) -> None:
    """An operator restarts the mirror: exit code 0, and nothing is sent twice."""
    assert branch.pay("alice", 5).status == 201
    assert branch.mirror is not None
    assert branch.mirror.end(signal.SIGTERM) == 0
    branch.start_mirror()
    assert branch.pay("alice", 5).status == 201
    # A box that has not met it again by then answers alone, and the mirror gets it afterwards.
    wait_until(lambda: branch.metric("edgegw_mirror_lag_records") == 0, "the mirror to have all")
    words = ("--box-key", branch.line_of("checkpoint"), "--hub-key", branch.line_of("mirror"))
    assert branch.mirror.end(signal.SIGTERM) == 0
    assert len(branch.exported()) == 2
    assert verifier.main([*words, "journal", branch.path("mirror.journal")]) == 0
    assert "sound settings of mirror mirror-1" in branch.run("config", "check", branch.path("mirror.toml"))
