"""Some seeds of the simulator, as a rule on every run: whatever goes wrong, nothing is lost, doubled or
created, and every answer is the one that a plain model gives."""

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from unittest.mock import patch

import pytest

from tests.simulator import disasters
from tests.simulator.auditor import audit_box
from tests.simulator.campaign import replay_command, run_seeds
from tests.simulator.drill import FAULTS, play, run_seed
from tests.simulator.loop import passed
from tests.simulator.world import World

ROOT = Path(__file__).resolve().parents[2]
SEEDS = range(1, 5)
STEPS = 200


@pytest.mark.parametrize("seed", SEEDS)
def test_no_sequence_of_faults_loses_doubles_or_creates_money(seed: int) -> None:
    """A fleet under drops, partitions, crashes and wrong clocks answers as the model says, and agrees."""
    report = run_seed(seed, steps=STEPS)
    assert not report.findings, "\n".join(
        [*report.findings, replay_command(seed, steps=STEPS, faults=tuple(FAULTS))]
    )
    assert report.answers >= STEPS * 0.9


def test_a_wrong_decision_on_a_disk_that_is_gone_is_found_too() -> None:
    """A box decides by what its disk holds; the disk that it is left with may hold another past."""
    _, facts = play(8, steps=STEPS, faults=("restore",))
    [journals] = facts.thrown_away["box-2"]
    assert not list(audit_box(facts, "box-2"))
    by_allowance = b'"cleared_by":"allowance"'
    seq = next(seq for seq, body in enumerate(journals[1]) if by_allowance in body)
    journals[1][seq] = journals[1][seq].replace(by_allowance, b'"cleared_by":"centre"')
    [finding] = audit_box(facts, "box-2")
    assert f"1/{seq}: decided" in finding


async def _poisoned_and_killed(world: World, chance: Random) -> None:
    await passed(4)
    machine = world.machines["box-1"]
    assert machine.process is not None
    await disasters._write_poison(machine.process, machine.process.gateway._pen, "overdraft", world)
    machine.crash()


def test_a_past_with_a_record_that_does_not_replay_keeps_no_box_out_for_ever() -> None:
    """The box that signed it starts no more; on an empty disk it gets its past back, and the next epoch."""
    with patch.dict(FAULTS, {"poisoned": _poisoned_and_killed}):
        report = run_seed(2, steps=60, faults=("poisoned",))
    assert report.injected["empty_disk"] == 1
    assert not report.findings, "\n".join(report.findings)


def test_a_seed_that_plays_differently_again_replays_no_failure() -> None:
    """Journals, directives and answers are the same bytes in two processes whose sets have two orders."""
    digests = set()
    script = "from tests.simulator.drill import run_seed; print(run_seed(3, steps=150).digest)"
    for hash_seed in ("1", "2"):
        ran = subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(ran.stdout.strip())
    assert len(digests) == 1
    assert len(digests.pop()) == 64


def test_a_campaign_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    """An hour's run is not begun again: what is in the state file, torn last line or not, is not played."""
    state = tmp_path / "state"
    first = list(run_seeds([1, 2], steps=20, faults=(), state=state, processes=1))
    with state.open("ab") as file:
        file.write(b'{"steps": 20, "rep')
    lines = state.read_bytes().splitlines()
    again = list(run_seeds([1, 2], steps=20, faults=(), state=state, processes=1))
    assert again == first
    assert state.read_bytes().splitlines() == lines


def test_the_command_says_in_json_what_it_found() -> None:
    """The long run reads verdict and counts; a table for people would be read wrongly one day."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.simulator", "--seeds", "1..1", "--steps", "20", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    said = json.loads(ran.stdout)
    assert (said["verdict"], said["seeds"], said["red"], said["findings"]) == ("green", 1, 0, {})
