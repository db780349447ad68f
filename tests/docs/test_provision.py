"""Holds the pages of the claim station and the technician to what exists: every command of theirs is run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.readme import ROOT, Block, blocks
from tests.docs.test_readme import check_block
from tests.ports import free_ports
from tests.processes import SITE, Process
from tests.waiting import wait_until

PAGES = ("provision/README.md", "provision/CHECKLIST.md")
SELF = "tests/docs/test_provision.py"
BLOCKS = [block for name in PAGES for block in blocks((ROOT / name).read_text(encoding="utf-8"))]
BRANCH = "branch-1"


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.heading}: {block.commands[0]}")
def test_a_command_of_the_pages_is_one_that_works(block: Block, tmp_path: Path) -> None:
    """On a ladder nobody looks an option up."""
    assert block.test in ("", SELF)
    if not block.test:
        check_block(block, tmp_path)


class Machine:
    """A folder on which somebody types what the pages say; 8600 and 8620 are free ports there."""

    def __init__(self, folder: Path, ports: dict[str, str]) -> None:
        self.folder, self._ports = folder, ports
        folder.mkdir(exist_ok=True)
        self.running: list[Process] = []

    def types(self, commands: tuple[str, ...], *, text: str = "", code: int = 0) -> str:
        """Run the lines of a block; what they printed."""
        script = "set -euo pipefail\n" + "\n".join(commands)
        for written, free in self._ports.items():
            script = script.replace(written, free)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env={**os.environ, "PATH": path},
            input=text,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == code, said
        return said

    def starts(self, command: str) -> Process:
        """Leave a server running that the page starts."""
        words = command.split()[1:]
        process = Process(*words, folder=self.folder, log=self.folder / f"{words[0]}.log")
        self.running.append(process)
        process.opened()
        return process

    def listens_anywhere(self) -> None:
        """Let the box take a free port: several are on one machine here."""
        path = self.folder / "box.toml"
        path.write_text(path.read_text().replace("[http]\n", "[http]\nport = 0\n"))

    def end(self) -> None:
        """Kill what runs."""
        for process in self.running:
            process.end(signal.SIGKILL)


def commands_under(page: str, heading: str) -> list[tuple[str, ...]]:
    """The blocks of a page under a heading, in order."""
    return [one.commands for one in blocks((ROOT / page).read_text("utf-8")) if one.heading == heading]


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[list[Machine]]:
    """The centre, the box, and new hardware for it."""
    ports = dict(zip(("8600", "8620"), map(str, free_ports(2)), strict=True))
    made = [Machine(tmp_path / name, ports) for name in ("centre", "box", "new")]
    yield made
    for machine in made:
        machine.end()


@pytest.mark.slow
def test_who_does_what_the_pages_say_gets_what_they_promise(machines: list[Machine]) -> None:
    """From a bare hub to a box that runs, to new hardware in its place, to a machine that is reset."""
    centre, box, new = machines
    ((*prepared, served),) = commands_under("provision/README.md", "The centre, once")
    centre.types(tuple(prepared))
    claim, more, replacement = commands_under("provision/README.md", "A claim")
    centre.types(claim)
    centre.types(more)
    ((*table, loop),) = commands_under("provision/README.md", "Many branches")
    centre.types((*table, loop))
    assert {one.name for one in (centre.folder / "claims").iterdir()} == {"branch-3.json", "branch-4.json"}
    accounts = [{**one, "home": BRANCH} if one.get("home") else one for one in SITE["accounts"]]
    site = {**SITE, "bank": "mybank", "accounts": accounts}
    (centre.folder / "site.json").write_text(json.dumps(site))
    centre.types(("edgegw site publish site.json --hub hub.toml",))
    centre.starts(served)
    plain = commands_under("provision/README.md", "A box without our image")
    by_stick, by_code, checked, (run, status), (reset,), (export, exported) = plain
    (centre.folder / "claim.json").rename(box.folder / "claim.json")
    said = box.types(by_stick)
    assert "mybank/branch-1 is enrolled" in said
    assert "removed" in said
    assert "clock" not in said
    assert not (box.folder / "claim.json").exists()
    assert "sound settings" in box.types(checked)
    box.listens_anywhere()
    running = box.starts(run)
    wait_until(lambda: "active" in box.types((f"{status} || true",)), "the line to be up")
    assert "well, until" in box.types((status,))
    centre.types(replacement)
    said = new.types(by_code, text=(centre.folder / "claim.json").read_text())
    assert "as device 2" in said
    new.listens_anywhere()
    wait_until(lambda: "fenced" in box.types((f"{status} || true",)), "the old machine to be fenced")
    new.starts(run)
    wait_until(lambda: "active" in new.types((f"{status} || true",)), "the new machine to be up")
    assert running.end(signal.SIGTERM) == 0
    box.types((export,))
    assert "counts no more" in box.types((f"{reset} --yes",))
    assert exported.startswith(reset)
    assert {one.name for one in box.folder.iterdir()} >= {"box.toml", "branch-1.journal"}
    assert not [one for one in (box.folder / "secrets").rglob("*") if one.is_file()]


@pytest.mark.slow
def test_an_appliance_does_what_the_technicians_page_promises(machines: list[Machine]) -> None:
    """Stick in, power on, serving; and back to a machine that waits for a claim."""
    centre, box, _ = machines
    ((*prepared, served),) = commands_under("provision/README.md", "The centre, once")
    centre.types(tuple(prepared))
    centre.types(commands_under("provision/README.md", "A claim")[0])
    centre.starts(served)
    stick = box.folder / "stick"
    (stick / "edgegw").mkdir(parents=True)
    shutil.copy(centre.folder / "claim.json", stick / "edgegw/claim.json")
    var = box.folder / "var"
    var.mkdir()
    words = ["--folder", var, "--stick", stick, "--listen", "127.0.0.1:0", "--state", box.folder / "state"]
    words += ["--tpm", "device:/dev/none"]
    first = Process("first-boot", *map(str, words), folder=box.folder, log=box.folder / "first-boot.log")
    box.running.append(first)
    wait_until((var / "box.toml").exists, "the machine to be enrolled")
    assert not list((stick / "edgegw").iterdir())
    (var / "box.toml").write_text((var / "box.toml").read_text().replace("[http]\n", "[http]\nport = 0\n"))
    running = box.starts(f"edgegw run {var}/box.toml")
    (said, status), (stop, reset) = commands_under("provision/CHECKLIST.md", "A machine goes back")
    places = {"/var/lib/edgegw": str(var), "/run/edgegw-stick": str(stick)}

    def typed(command: str) -> str:
        for written, there in places.items():
            command = command.replace(written, there)
        return command

    said = f"{said} --folder {var} || true"
    assert "no settings of its site" in box.types((said,))
    site = {**SITE, "bank": "mybank", "accounts": []}
    (centre.folder / "site.json").write_text(json.dumps(site))
    centre.types(("edgegw site publish site.json --hub hub.toml",))
    wait_until(lambda: "takes payments" in box.types((said,)), "the box to serve")
    assert first.popen.wait(timeout=60) == 0
    assert "well, until" in box.types((f"{typed(status)} || true",))
    assert stop == "systemctl stop edgegw"
    assert running.end(signal.SIGTERM) == 0
    assert "switch the machine off and on" in box.types((f"{typed(reset)} --yes",))
    assert [one.name for one in var.iterdir()] == ["spent-claims.json"]


@pytest.mark.slow
def test_a_stolen_box_and_a_lost_claim_are_dealt_with_as_the_page_says(machines: list[Machine]) -> None:
    """Somebody reads this page on the worst day."""
    centre, *_ = machines
    ((*prepared, _),) = commands_under("provision/README.md", "The centre, once")
    centre.types(tuple(prepared))
    claim, *_ = commands_under("provision/README.md", "A claim")
    drawn = centre.types((f"{claim[0]} --qr -",))
    assert max(drawn.count(half) for half in "▀▄█") > 1_000
    ((listed, withdraw, _, log, _),) = commands_under("provision/README.md", "Lost, stolen, returned")
    said = centre.types((listed,))
    id = said.split()[0]
    centre.types((withdraw.replace("0" * 32, id),))
    assert "withdrawn" in centre.types((listed,))
    centre.types((log,))
