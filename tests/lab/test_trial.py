"""firmware/README.md's way to see an image run, as it stands there: a centre, a payment, a cut, an update."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from firmware import image
from firmware.keys import keys
from firmware.places import build_folder
from tests.docs.readme import ROOT, blocks
from tests.lab.skips import MACHINE, needs
from tests.ports import free_ports
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.lab_long,
    pytest.mark.xdist_group("machine"),
    pytest.mark.timeout(1_800),
    needs(MACHINE),
]
HEADING = "Try it in a virtual machine"
PORTS = ("8600", "8620", "18443", "18090")
SECONDS = 900


class Stranger:
    """Types what the page says, in a folder of their own; ports and the build's folder are this machine's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        releases = folder / "releases"
        shutil.copytree(image.releases(keys()), releases)
        self._instead = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
        self._instead |= {"../build/keys/releases": str(releases), "../build": str(build_folder())}
        self._running: list[tuple[subprocess.Popen[bytes], Path]] = []

    def _script(self, commands: tuple[str, ...]) -> str:
        text = "\n".join(commands)
        for written, here in self._instead.items():
            text = text.replace(written, here)
        if self._forwards:
            text = text.replace("--folder", f"{self._forwards} --folder")
        return text

    @property
    def _forwards(self) -> str:
        return f"--forward 8443 {self._instead['18443']} --forward 8090 {self._instead['18090']}"

    def _where(self) -> Path:
        trial = self.folder / "trial"
        return trial if trial.exists() else self.folder

    def types(self, commands: tuple[str, ...]) -> str:
        """Run a block; what it printed."""
        done = self._run(commands)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def succeeds(self, command: str) -> bool:
        """Whether a line does, typed again and again."""
        return self._run((command,)).returncode == 0

    def _run(self, commands: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self._script(commands)],
            cwd=self._where(),
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def starts(self, command: str) -> Path:
        """Leave a program running; where its output goes."""
        log = self.folder / f"{len(self._running)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                shlex.split(self._script((command,))),
                cwd=self._where(),
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self._running.append((process, log))
        return log

    def ends(self, log: Path) -> None:
        """Press Ctrl-C in a program's terminal."""
        process = next(process for process, its in self._running if its == log)
        process.send_signal(signal.SIGINT)
        process.wait(60)

    def leaves(self) -> None:
        """End all that runs."""
        for process, _ in self._running:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        for process, _ in self._running:
            process.wait(60)

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[Stranger]:
    made = Stranger(tmp_path)
    yield made
    made.leaves()


def test_a_stranger_sees_an_image_pay_lose_its_power_and_update_itself(stranger: Stranger) -> None:
    """Who weighs the appliance tries it before there is a server, and believes what they have seen."""
    image.image("cloud")
    page = [one for one in blocks((ROOT / "firmware/README.md").read_text("utf-8")) if one.heading == HEADING]
    prepare, (hub, boot), pay, update = (one.commands for one in page)
    stranger.types(prepare)
    stranger.starts(hub)
    log = stranger.starts(boot)

    def said(text: str) -> bool:
        return text in log.read_text(errors="replace")

    wait_until(lambda: said("takes payments"), "the box", timeout_seconds=SECONDS, poll_seconds=1)
    assert '"cleared_by"' in stranger.types(pay)
    stranger.ends(log)
    log = stranger.starts(boot)
    wait_until(lambda: said("this is slot a"), "the second start", timeout_seconds=SECONDS, poll_seconds=1)
    stranger.types(update)
    wait_until(
        lambda: said("this is slot b, version 0.1.0+2"),
        "the update",
        timeout_seconds=SECONDS,
        poll_seconds=1,
    )
    # It is ready in the new image; the same payment again is the same answer.
    wait_until(
        lambda: stranger.succeeds(pay[0]), "the box to be ready", timeout_seconds=SECONDS, poll_seconds=2
    )
    assert '"cleared_by"' in stranger.types(pay)
    kept = "0.1.0+2"
    wait_until(
        lambda: kept in stranger.types(update[-1:]), "the centre", timeout_seconds=SECONDS, poll_seconds=2
    )
