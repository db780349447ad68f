"""Power cuts: at every step of an update the machine comes up in a committed slot, and gets there."""

from pathlib import Path

import pytest

from edgegw.update.rauc import Rauc
from tests.power import Power
from tests.update.appliance import UNWELL, WELL, Appliance, Releases

STEPS = ("replace", "fsync", "unlink", "ftruncate", "pwrite", "write")
COMMANDS = ("slots", "facts", "install", "keep")


def watched(patch: pytest.MonkeyPatch) -> Power:
    """A power whose failure may come at each operation on a file, before and after each order to RAUC."""
    power = Power(patch, *STEPS)
    power.watch(Rauc, *COMMANDS, also_after=True)
    return power


def one_update(appliance: Appliance) -> None:
    """An update as it happens: the agent, the restart, the commit service."""
    if appliance.look().end in ("restarts", "trial"):
        appliance.boot()
    up(appliance)


def up(appliance: Appliance) -> None:
    """What a boot begins with."""
    if appliance.judge() == "left":
        appliance.boot()
        appliance.judge()


def check_every_cut(
    tmp_path: Path, releases: Releases, power: Power, *, is_good: bool, every: int, first: int = 0
) -> int:
    """Cut an update at each (or each n-th) step; how many steps there are."""
    steps = first
    while True:
        appliance = Appliance(tmp_path / f"machine-{steps}", releases.first_root, releases.source)
        if not is_good:
            appliance.answers = lambda version: UNWELL if version == "1.1.0" else WELL
        with power.fails_after(steps) as outcome:
            one_update(appliance)
        if not outcome.failed:
            return steps
        committed = {"1.0.0"} | ({"1.1.0"} if is_good else set())
        assert appliance.versions.get(appliance.first, appliance.versions["a"]).version in committed
        if appliance.first == "b":
            assert is_good, steps
        appliance.boot()
        up(appliance)
        for _ in range(4):
            one_update(appliance)
        wanted = ("b", "1.1.0") if is_good else ("a", "1.0.0")
        assert (appliance.slot, appliance.runs.version, appliance.first) == (*wanted, wanted[0]), steps
        assert [one.version for one in appliance.state.failed] == ([] if is_good else ["1.1.0"]), steps
        assert appliance.state.attempt is None, steps
        steps += every


@pytest.mark.parametrize("is_good", [True, False])
def test_a_cut_here_and_there_costs_nothing(
    tmp_path: Path, releases: Releases, monkeypatch: pytest.MonkeyPatch, is_good: bool
) -> None:
    """A branch's power fails when it fails; the machine must come up in what was committed."""
    releases.release("1.1.0")
    assert check_every_cut(tmp_path, releases, watched(monkeypatch), is_good=is_good, every=17) > 30


@pytest.mark.slow
@pytest.mark.parametrize("is_good", [True, False])
def test_a_cut_at_every_step_costs_nothing(
    tmp_path: Path, releases: Releases, monkeypatch: pytest.MonkeyPatch, is_good: bool
) -> None:
    """The same, at every step."""
    releases.release("1.1.0")
    assert check_every_cut(tmp_path, releases, watched(monkeypatch), is_good=is_good, every=1) > 30
