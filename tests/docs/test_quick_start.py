"""The README's way by hand, walked as a stranger would: set up, start, pay, verify."""

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.docs.readme import Block, block_of
from tests.docs.test_readme import BIN
from tests.ports import free_ports
from tests.processes import Process
from tests.waiting import wait_until

README_PORTS = {8600, 8601, 8443}


def play(block: Block, folder: Path, ports: dict[int, int]) -> str:
    """Run a block of the README in a folder, with free ports in place of its own; its output."""
    script = "\n".join(block.commands)
    for port, free in ports.items():
        script = script.replace(f":{port}", f":{free}")
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": ""}
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="the README's HTTP lines use curl")
def test_a_stranger_gets_from_keys_to_a_verified_payment(tmp_path: Path) -> None:
    """Every line of the README between an empty folder and a verified journal works as it stands."""
    ports = dict(zip(sorted(README_PORTS), free_ports(3), strict=True))
    play(block_of("Quick start by hand"), tmp_path, ports)
    hub, box = tmp_path / "hub.toml", tmp_path / "box.toml"
    listen = [f"127.0.0.1:{ports[8600]}", f"127.0.0.1:{ports[8601]}"]
    hub.write_text(hub.read_text().replace("[boxes]", f"listen = {json.dumps(listen)}\n[boxes]"))
    box.write_text(box.read_text().replace("[http]", f"[http]\nport = {ports[8443]}"))
    started = [line.split()[1:] for line in block_of("Start").commands[:2]]
    assert started == [["hub", "hub.toml"], ["run", "box.toml"]]
    processes = []
    try:
        for words in started:
            processes.append(Process(*words, folder=tmp_path, log=tmp_path / f"{words[0]}.log"))
            processes[-1].opened()
        wait_until(lambda: _status(tmp_path) == 0, "the box to take payments", timeout_seconds=60)
        output = play(block_of("HTTP"), tmp_path, ports)
        bought = play(block_of("Tokens"), tmp_path, ports)
    finally:
        ends = [process.end(signal.SIGTERM) for process in processes]
    assert ends == [0, 0]
    assert re.search(r'"cleared_by":"allowance"', output)
    assert re.search(r'"refresh_token":"', bought)


def _status(folder: Path) -> int:
    command = [str(BIN / "edgegw"), "status", "box.toml"]
    return subprocess.run(command, cwd=folder, capture_output=True, timeout=60, check=False).returncode
