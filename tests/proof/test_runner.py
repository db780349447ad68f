"""The runner of the proofs must not call a claim proved that was not measured."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.proof import figures, results
from tests.proof.machine import ROOT
from tests.proof.runner import Run, source_digest, verdict
from tests.proof.steps import STEPS, Step, falls_short
from tests.waiting import wait_until

SOURCE = "this source"


def step(command: str, *asked: str, name: str = "one") -> Step:
    """A step that takes no time."""
    return Step(name=name, claim="nothing is lost", command=command, short=command, asked=asked)


def printing(**found: object) -> str:
    """A command that ends with these figures."""
    return python(f"print({json.dumps(json.dumps(found))})")


def python(script: str) -> str:
    """A command that runs a script."""
    return f"-c {shlex.quote(script)}"


def played(home: Path, *steps: Step, again: bool = False, short: bool = False) -> tuple[Run, list[str]]:
    """The run of some steps, and what it said."""
    said: list[str] = []
    run = Run(home, source=SOURCE, short=short, say=said.append)
    run.play(steps, again=again)
    return run, said


def test_figures_of_a_command_are_held_against_what_is_asked(tmp_path: Path) -> None:
    """A run that counts too few, or loses one, is not the proof that was promised."""
    enough = step(printing(paid=5, lost=0), "paid >= 5", "lost == 0", name="enough")
    few = step(printing(paid=4, lost=1), "paid >= 5", "lost == 0", name="few")
    run, _ = played(tmp_path, enough, few)
    assert verdict(enough, run.result(enough)) == (True, "holds")
    holds, words = verdict(few, run.result(few))
    assert not holds
    assert "paid is 4" in words
    assert "lost is 1" in words


def test_what_was_not_measured_does_not_hold() -> None:
    """A renamed figure must not make its bound vanish."""
    assert falls_short(step("", "lost == 0"), {}) == ["lost was not measured"]
    assert falls_short(step("", "lost == 0"), {"lost": "0"}) == ["lost was not measured"]
    assert verdict(step(""), None)[0] is False


def test_a_command_that_fails_does_not_hold_whatever_it_prints(tmp_path: Path) -> None:
    """Figures of a run that broke off are not the run's."""
    broken = step(python("print('{}'); raise SystemExit(3)"))
    run, _ = played(tmp_path, broken)
    assert verdict(broken, run.result(broken)) == (False, "failed with status 3")


def test_figures_of_a_test_come_from_what_it_notes(tmp_path: Path) -> None:
    """pytest's own output has no place for a test's figures."""
    noting = (
        "-c \"from tests.proof.figures import note; note(a=1, b=1); note(b=2); print('2 passed in 1 s')\""
    )
    run, _ = played(tmp_path, step(noting))
    result = run.result(step(noting))
    assert result is not None
    assert result.figures == {"passed": 2, "failed": 0, "a": 1, "b": 2}


def test_a_step_that_is_done_is_not_run_again_until_the_source_changes(tmp_path: Path) -> None:
    """A run of forty minutes that was interrupted in its last one must not begin anew."""
    counting = step(python(f"open('{tmp_path}/ran', 'a').write('x'); print(dict())"))
    for _ in range(2):
        run, said = played(tmp_path, counting)
    assert (tmp_path / "ran").read_text() == "x"
    assert said == ["one: done before, with the same source"]
    played(tmp_path, counting, again=True)
    assert (tmp_path / "ran").read_text() == "xx"
    other = Run(tmp_path, source="another source")
    assert not other.is_done(counting)
    assert run.is_done(counting)


def test_a_step_that_did_not_hold_is_run_again(tmp_path: Path) -> None:
    """After a failure is mended nobody should have to know which file to remove."""
    failing = step(python(f"open('{tmp_path}/ran', 'a').write('x'); raise SystemExit(1)"))
    for _ in range(2):
        played(tmp_path, failing)
    assert (tmp_path / "ran").read_text() == "xx"


def test_what_an_interrupted_step_kept_is_there_for_the_same_source_alone(tmp_path: Path) -> None:
    """Seeds that another source has passed are not this source's."""
    keeping = step(python("import sys; open(sys.argv[1], 'a').write('x'); sys.exit(1)") + " {state}")
    for _ in range(2):
        played(tmp_path, keeping)
    assert (tmp_path / "one.state").read_text() == "xx"
    (tmp_path / "one.source").write_text("another source")
    played(tmp_path, keeping)
    assert (tmp_path / "one.state").read_text() == "x"


INTERRUPTED = """
import signal
import sys
from pathlib import Path
from tests.proof.runner import Run
from tests.proof.steps import Step
step = Step(name="one", claim="", command=sys.argv[2], short="", asked=("lost == 0",))
signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs in the background ignores it
try:
    Run(Path(sys.argv[1]), source="this source").play([step], again=False)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interrupted_step_is_ended_and_has_no_result(tmp_path: Path) -> None:
    """What goes on in the background disturbs the next run, and half a run is no measurement."""
    mark = tmp_path / "pid"
    waiting = python(
        f"import os, pathlib, signal; pathlib.Path('{mark}').write_text(str(os.getpid())); signal.pause()"
    )
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path), waiting]
    runner = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    wait_until(lambda: mark.exists() and mark.read_text() != "", "the step", timeout_seconds=60)
    runner.send_signal(signal.SIGINT)
    said, _ = runner.communicate(timeout=60)
    assert "interrupted" in said
    assert not (tmp_path / "one.json").exists()
    wait_until(lambda: not Path(f"/proc/{mark.read_text()}").exists(), "the step's end", timeout_seconds=60)


def test_what_a_machine_cannot_do_is_said_and_is_no_failure(tmp_path: Path) -> None:
    """A machine without a loop mount must still be able to run the rest, and not look like one with it."""
    lacking = step(printing(lacks="no loop mount"), "cuts >= 200")
    run, _ = played(tmp_path, lacking)
    assert verdict(lacking, run.result(lacking)) == (True, "not on this machine: no loop mount")


def test_the_end_counts_what_holds_and_names_the_log_of_what_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After an hour and a half nobody should search for what was red, or take a skip for a proof."""
    steps = (
        step(printing(lost=0), "lost == 0", name="well"),
        step(printing(lost=1), "lost == 0", name="ill"),
        step(printing(lacks="no loop mount"), "cuts >= 200", name="lacking"),
    )
    run, said = played(tmp_path, *steps)
    assert said[0].startswith("3 of 3 steps to run, about 2 min")
    assert not results.show(steps, run)
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == "1 of 3 hold, 1 not on this machine, 1 red or not measured"
    assert told[-2] == f"ill: lost is 1, asked is == 0; {tmp_path / 'ill.log'}"


def test_of_a_short_run_only_what_must_be_zero_is_asked(tmp_path: Path) -> None:
    """A short run counts fewer, but it loses none either."""
    few = step(printing(paid=1, lost=0), "paid >= 5", "lost == 0")
    run, _ = played(tmp_path, few, short=True)
    assert verdict(few, run.result(few), short=True) == (True, "holds")
    assert falls_short(few, {"paid": 1, "lost": 1}, short=True) == ["lost is 1, asked is == 0"]


def test_a_verdict_of_an_older_source_says_so(tmp_path: Path) -> None:
    """Figures of last month's code must not pass for this one's."""
    run = Run(tmp_path, source=SOURCE)
    one = step(printing(lost=0), "lost == 0")
    played(tmp_path, one)
    assert "holds |" in results.document([one], run, {})
    assert results.show([one], run)
    run.source = "another source"
    assert "holds (with an older source) |" in results.document([one], run, {})
    assert not results.show([one], run)


@pytest.mark.parametrize("one", STEPS, ids=lambda one: one.name)
def test_the_test_or_command_of_every_step_exists(one: Step) -> None:
    """A step whose file was renamed would fail after half an hour, in the long run alone."""
    for command in (one.command, one.short):
        words = shlex.split(command)
        assert words[0] == "-m"
        if words[1] == "pytest":
            paths = [word for word in words if word.startswith("tests/")]
            assert paths
            assert [path for path in paths if not (ROOT / path).exists()] == []
        else:
            place = ROOT / words[1].replace(".", "/")
            assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), words[1]
    assert one.asked


def test_the_results_that_are_kept_are_of_the_steps_that_are_run() -> None:
    """A claim that nobody measures any more, or one that is not told, misleads whoever reads it."""
    assert results.RESULTS.exists()
    told = results.claims(results.RESULTS.read_text(encoding="utf-8"))
    wanted = {one.name: one.claim for one in STEPS}
    assert told == wanted, "run `make proof`, or `python -m tests.proof --report` to write what is known"


def test_any_changed_file_is_another_source(tmp_path: Path) -> None:
    """A figure that survives a change of what it measured is a figure of nothing."""
    digests = []
    for content in ("a = 1\n", "a = 2\n"):
        (tmp_path / "edgegw/core").mkdir(parents=True, exist_ok=True)
        (tmp_path / "edgegw/core/one.py").write_text(content)
        digests.append(source_digest(tmp_path))
    assert digests[0] != digests[1]


def test_names_are_unique() -> None:
    """Two steps of one name would share a log and a result."""
    assert len({one.name for one in STEPS}) == len(STEPS)


def test_the_last_line_of_an_output_is_what_counts() -> None:
    """A log line in braces before the end is no figure."""
    assert figures.printed('{"a": 1}\nthe end') == {}
    assert figures.printed('the beginning\n{"a": 1}\n') == {"a": 1}
    assert figures.printed("===== 1 failed, 23 passed in 2 s =====") == {"passed": 23, "failed": 1}
