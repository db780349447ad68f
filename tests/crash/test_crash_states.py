"""Every disk that a power cut may leave: the box starts on it, and no answer is lost (DESIGN §3).

Short: some hundred states in the default tests. Long, ten thousand distinct ones and more:
    pytest -m slow tests/crash/test_crash_states.py -s
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tests.crash.campaign import Fault, Film, Tally, film, judge_states, sampled, scratch
from tests.crash.fault_vfs import DIRECTORY, Event, Medium, apply, pieces
from tests.proof.figures import note

SHORT_SEED, SHORT_STATES = 12, 300
LONG_SEEDS, LONG_STATES = (21, 22, 23, 24, 25, 26), 10_000
PLANTED_STATES = 80


def verdict(shot: Film, tally: Tally) -> str:
    """What a failure says: the figures, the first wrong states, and how each one is seen again."""
    shown = [
        f"cut {cut}, {fate}: {what}\n    python -m tests.crash.campaign --seed {shot.seed} --cut {cut}"
        for cut, fate, what in tally.wrong[:5]
    ]
    return "\n".join([f"seed {shot.seed}: {tally}", *shown])


async def test_no_power_cut_loses_an_answer() -> None:
    """What a till was told must be on the disk, whatever of the unsynced writes got there."""
    tally = Tally()
    with scratch() as home:
        shot = await film(home, seed=SHORT_SEED)
        judge_states(shot, home, tally, states=SHORT_STATES, cuts=sampled(shot, SHORT_STATES // 2))
    print(tally)
    note(**tally.figures)
    assert not tally.wrong, verdict(shot, tally)
    assert tally.distinct == SHORT_STATES, verdict(shot, tally)


async def test_a_recording_meets_all_that_sqlite_does_to_its_files() -> None:
    """States are worth nothing where the days never came to a checkpoint, a removal or a cut WAL."""
    with scratch() as home:
        shot = await film(home, seed=SHORT_SEED)
    met = Counter((event.kind, event.name.removeprefix("ledger.db")) for event in shot.events)
    for wanted in (
        ("write", ""),
        ("write", "-wal"),
        ("write", "-journal"),
        ("sync", ""),
        ("sync", "-wal"),
        ("truncate", ""),
        ("truncate", "-wal"),
        ("delete", "-wal"),
        ("anchor", ""),
        ("told", ""),
    ):
        assert met[wanted], f"{wanted} never happened in {met}"
    kinds = {body.partition(b'"type":"')[2].partition(b'"')[0] for body in shot.bodies}
    assert {b"transfer", b"refusal", b"expiry", b"snapshot", b"directive", b"window"} <= kinds


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault(synchronous=("NORMAL", 1)), id="synchronous_normal"),
        pytest.param(Fault(lying="-wal"), id="wal_not_synced"),
        pytest.param(Fault(lying=".db"), id="file_not_synced_before_the_wal_starts_again"),
        pytest.param(Fault(lying=DIRECTORY), id="directory_not_synced"),
    ],
)
async def test_a_planted_loss_is_reported(fault: Fault, request: pytest.FixtureRequest) -> None:
    """A harness that finds nothing in a ledger that does lose answers proves nothing."""
    tally = Tally()
    with scratch() as home:
        shot = await film(home, seed=SHORT_SEED, fault=fault)
        judge_states(shot, home, tally, states=PLANTED_STATES, cuts=sampled(shot, PLANTED_STATES // 2))
    note(**{request.node.callspec.id: len(tally.wrong)})
    print(tally, Counter(what.rpartition("and is")[2][:40] for _, _, what in tally.wrong).most_common(3))
    assert tally.wrong, verdict(shot, tally)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
async def test_ten_thousand_power_cuts_lose_no_answer() -> None:
    """The long run: every moment of several recordings, every fate."""
    tally = Tally()
    for seed in LONG_SEEDS:
        with scratch() as home:
            shot = await film(home, seed=seed)
            judge_states(shot, home, tally, states=LONG_STATES * 2 // len(LONG_SEEDS))
        print(f"seed {seed}: {tally}", flush=True)
        note(**tally.figures)
        assert not tally.wrong, verdict(shot, tally)
        if tally.distinct >= LONG_STATES:
            break
    assert tally.distinct >= LONG_STATES


def written(at: int, body: bytes) -> Event:
    """A write to one file."""
    return Event("write", "file", at, body)


def test_what_was_synced_is_on_every_disk() -> None:
    """The model of the disk must not itself lose what a sync has promised, nor keep what nothing has."""
    medium = Medium()

    for event in (Event("create", "file"), written(0, b"a" * 600), Event("sync", "file"), Event("names")):
        medium.take(event)
    assert medium.certain
    medium.take(written(512, b"b" * 600))
    disks = {medium.after_cut("sectors", random.Random(seed), cut=0).files["file"] for seed in range(100)}
    assert all(disk[:512] == b"a" * 512 for disk in disks)
    assert len(disks) == 4
    assert {len(disk) for disk in disks} == {600, 1024, 1112}


def test_a_removed_file_comes_back_until_its_directory_is_synced() -> None:
    """A WAL that was removed and reappears is the classic of lost removals."""

    medium = Medium()
    for event in (Event("create", "file"), written(0, b"a"), Event("sync", "file"), Event("names")):
        medium.take(event)
    medium.take(Event("delete", "file"))
    found = {bool(medium.after_cut("writes", random.Random(seed), cut=0).files) for seed in range(50)}
    assert found == {True, False}
    medium.take(Event("names"))
    assert medium.after_cut("nothing", random.Random(0), cut=0).files == {}


def test_pieces_make_up_the_write() -> None:
    """Torn writes are cut at the file's sectors, not at the write's own beginning."""
    event = written(500, bytes(range(256)) * 5)
    cut = pieces(event, 512)
    assert [piece.at for piece in cut] == [500, 512, 1024, 1536]
    content = bytearray()
    apply(content, cut)
    assert bytes(content[500:]) == event.body
