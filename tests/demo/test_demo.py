"""The demo end to end: real processes, a real outage, and faults that its report must find.

One day is played up to the moment before the line returns, by the demo's own processes and commands; every
test goes on from a copy of it, with the same commands forked from a server that has imported them.
"""

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apsw
import psutil
import pytest
from click.testing import CliRunner, Result

from edgegw.demo import processes
from edgegw.demo.command import demo
from tests.processes import Forked

pytestmark = [pytest.mark.xdist_group("demo"), pytest.mark.timeout(240)]


def run(*arguments: str) -> Result:
    """The command's end and what it said."""
    return CliRunner().invoke(demo, list(arguments))


def report_of(result: Result) -> dict[str, Any]:
    """The JSON that the command printed."""
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def failed(report: dict[str, Any]) -> set[str]:
    """The names of the checks that do not hold."""
    return {check["name"] for check in report["checks"] if not check["holds"]}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory whose demo stopped just before the line returns."""
    directory = tmp_path_factory.mktemp("demo") / "day"
    result = run("--payments", "300", "--dir", str(directory), "--until", "before-sync")
    assert result.exit_code == 0, result.output
    return directory


@pytest.fixture
def day(stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to go on from."""

    def started(command: list[str], *, stdout: Any, **_: Any) -> Forked:
        return Forked(tuple(command[3:]), folder=tmp_path, log=Path(stdout.name))

    async def ran(*arguments: str, environment: None) -> tuple[int, str]:
        said = tmp_path / "said"
        said.write_bytes(b"")
        child = Forked(arguments[2:], folder=tmp_path, log=said)
        code = await asyncio.to_thread(child.wait, processes.COMMAND_SECONDS_MAX)
        return code, said.read_text().strip()

    monkeypatch.setattr(processes, "subprocess", SimpleNamespace(Popen=started, DEVNULL=subprocess.DEVNULL))
    monkeypatch.setattr(processes, "run", ran)
    return shutil.copytree(stopped, tmp_path / "day")


def test_nothing_runs_after_a_stop_before_the_sync(stopped: Path) -> None:
    """An auditor changes files there: a process that still writes would make the proof worthless."""
    left = [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any(str(stopped) in part for part in process.info["cmdline"] or ())
    ]
    assert left == []


def test_a_day_with_an_outage_and_a_kill_loses_and_doubles_nothing(day: Path) -> None:
    """This is the product's promise; each check of the report must hold."""
    result = run("--dir", str(day), "--resume", "--json")
    report = report_of(result)
    assert failed(report) == set(), report
    assert report["troubles"] == []
    assert result.exit_code == 0
    figures = report["figures"]
    assert figures["payments"] >= 300
    assert figures["in_flight_at_kill"] >= 16
    assert figures["late_declines"] == 1


@pytest.mark.parametrize(("fault", "check"), [("lost", "lost"), ("doubled", "doubled"), ("edited", "logs")])
def test_a_planted_fault_is_found(day: Path, fault: str, check: str) -> None:
    """A report that cannot be red proves nothing when it is green."""
    result = run("--dir", str(day), "--resume", "--json", "--plant", fault)
    assert result.exit_code == 1
    report = report_of(result)
    assert check in failed(report)
    assert report["figures"]["planted"]
    assert (report["lost"], report["doubled"]) == ((0, 1) if fault == "doubled" else (1, 0))


def test_a_row_changed_by_hand_in_the_outage_is_named(day: Path) -> None:
    """Whoever has the box in hand may change its file: the resume must say which record, and end with 1."""
    connection = apsw.Connection(str(day / "data" / "ledger.db"))
    connection.execute("DROP TRIGGER record_keeps_content")
    rows = connection.execute(
        "SELECT position, body FROM record WHERE type = 'transfer' ORDER BY position DESC LIMIT 40"
    ).fetchall()
    position, body = rows[-1]
    assert isinstance(position, int)
    assert isinstance(body, bytes)
    said = json.loads(body)
    said["wall_ns"] += 1
    edited = json.dumps(said, separators=(",", ":")).encode()
    connection.execute("UPDATE record SET body = ? WHERE position = ?", (edited, position))
    connection.close()
    result = run("--dir", str(day), "--resume", "--json")
    assert result.exit_code == 1
    report = report_of(result)
    place = f"1/{position & (1 << 40) - 1}"
    assert any(place in trouble for trouble in report["troubles"]), report["troubles"]
    assert "logs" in failed(report)


def test_a_directory_in_use_is_not_taken(stopped: Path) -> None:
    """A second demo in one directory would mix two days."""
    result = run("--dir", str(stopped))
    assert result.exit_code == 2
    assert "is not empty" in result.output


def test_resume_needs_a_demo_that_was_stopped(tmp_path: Path) -> None:
    """A wrong directory is named at once, not after a minute."""
    assert "no demo was stopped there" in run("--dir", str(tmp_path), "--resume").output
    assert "--until and --resume need --dir" in run("--resume").output
