"""A branch that is updated while it pays: real hub and box, the agent's commands, RAUC as a script."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.processes import Branch, edgegw
from tests.update.appliance import COMPATIBLE, RAUC
from tests.waiting import wait_until

pytestmark = pytest.mark.lab
KEYS = ("--targets-key", "targets.pem", "--online-key", "online.pem")
VERSION = "1.1.0+2"


@pytest.fixture
def branch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Branch]:
    """A hub that serves releases, and a machine of two slots in files."""
    monkeypatch.chdir(tmp_path)
    branch = Branch(tmp_path)
    for name in ("root", "targets", "online"):
        branch.run("release", "key", f"{name}.pem")
    branch.run("release", "init", "releases", "--root-key", "root.pem", *KEYS)
    branch.run("release", "publish", "releases", "served")
    firmware, programs, image = tmp_path / "firmware", tmp_path / "bin", tmp_path / "image"
    for folder in (firmware, programs, image):
        folder.mkdir()
    (firmware / "rauc").write_text(RAUC)
    for name in ("booted", "first"):
        (firmware / name).write_text("a")
    (programs / "rauc").write_text(f'#!/bin/sh\nexec sh {firmware}/rauc {firmware} "$@"\n')
    (programs / "systemctl").write_text(f'#!/bin/sh\necho "$@" >> {firmware}/systemctl\n')
    for path in programs.iterdir():
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    (image / "image.json").write_bytes(
        msgspec.json.encode({"version": "1.0.0", "compatible": COMPATIBLE, "security_epoch": 1})
    )
    (image / "update-root.json").write_bytes((tmp_path / "releases/metadata/1.root.json").read_bytes())
    branch.more = f'[update]\nstate_dir = "{tmp_path}/state"\nbundle_bytes_max = 2000000\n'
    served = f'[updates]\ndirectory = "{tmp_path}/served"\nonline_key_file = "{tmp_path}/online.pem"\n'
    write_hub = branch._write_hub

    def with_updates(listen: tuple[str, ...]) -> None:
        write_hub(listen)
        text = (tmp_path / "hub.toml").read_text()
        (tmp_path / "hub.toml").write_text(text + served)

    monkeypatch.setattr(branch, "_write_hub", with_updates)
    with_updates(tuple(msgspec.toml.decode((tmp_path / "hub.toml").read_text())["listen"]))
    yield branch
    branch.end()


def release(branch: Branch, version: str) -> None:
    """Publish a release."""
    facts = {"version": version, "compatible": COMPATIBLE, "security_epoch": 1}
    said = msgspec.json.decode(branch.run("release", "facts"))
    facts |= {"schema": said["schema"], "readable_from": said["readable_from"]}
    name = f"edgegw-{version}-cloud"
    (branch.folder / f"{name}.json").write_bytes(msgspec.json.encode(facts))
    manifest = msgspec.json.encode({"compatible": COMPATIBLE, "version": version}).decode()
    (branch.folder / f"{name}.raucb").write_text("image" * 100_000 + f"\nmanifest {manifest}\n")
    branch.run("release", "add", "releases", f"{name}.raucb", *KEYS)
    branch.run("release", "publish", "releases", "served", "--online-key", "online.pem")


def fleet(branch: Branch) -> dict[str, str]:
    """What the hub knows of the box's program."""
    import http.client

    assert branch.hub is not None
    host = branch.hub.opened()["addresses"][0]
    connection = http.client.HTTPConnection(host, timeout=30)
    connection.request("GET", "/v1/status")
    [box] = msgspec.json.decode(connection.getresponse().read())["boxes"]
    connection.close()
    return {name: value for name, value in box.items() if name.startswith("program")}


def test_a_branch_pays_before_and_after_an_update_that_its_hub_brought(branch: Branch) -> None:
    """The whole way with real processes: published, fetched, installed, tried, kept, told."""
    branch.start_hub()
    branch.start_box()
    assert branch.pay("alice", 100).status == 201
    machine = ["--settings", branch.path("box.toml"), "--state", branch.path("state")]
    machine += ["--image", branch.path("image")]
    assert "nothing" in branch.run("update", "check", *machine)
    wait_until(lambda: fleet(branch)["program"] == "1.0.0", "the hub to know the version")
    release(branch, VERSION)
    branch.run("update", "check", "--now", *machine)
    assert (branch.folder / "firmware/systemctl").read_text() == "reboot\n"
    wait_until(lambda: fleet(branch)["program_word"] == f"trial {VERSION}", "the hub to hear of the trial")
    # The restart: the box ends, the other slot comes up as another boot of the machine.
    assert branch.box is not None
    branch.box.end(signal.SIGTERM)
    state = branch.folder / "state/state.json"
    state.write_bytes(state.read_bytes().replace(b'"boot_id":"', b'"boot_id":"before-'))
    (branch.folder / "firmware/booted").write_text("b")
    (branch.folder / "firmware/next").unlink()
    facts = {"version": VERSION, "compatible": COMPATIBLE, "security_epoch": 1}
    (branch.folder / "image/image.json").write_bytes(msgspec.json.encode(facts))
    branch.start_box()
    assert "kept" in branch.run("update", "commit", *machine)
    assert (branch.folder / "firmware/first").read_text().strip() == "b"
    wait_until(lambda: fleet(branch)["program"] == VERSION, "the hub to know the new version")
    assert branch.pay("alice", 100).status == 201
    assert f"box-1: {VERSION}; heard 2" in branch.run("release", "fleet", "--hub", branch.path("hub.toml"))
    # Without its box the next image would be left.
    release(branch, "1.2.0")
    branch.run("update", "check", "--now", *machine)
    branch.box.end(signal.SIGTERM)
    state.write_bytes(state.read_bytes().replace(b'"boot_id":"', b'"boot_id":"before-'))
    (branch.folder / "firmware/booted").write_text("a")
    (branch.folder / "firmware/next").unlink()
    facts["version"] = "1.2.0"
    (branch.folder / "image/image.json").write_bytes(msgspec.json.encode(facts))
    settings = branch.folder / "box.toml"
    settings.write_text(settings.read_text() + "commit_seconds = 10\n")
    assert "left" in branch.run("update", "commit", *machine, code=1)
    assert "the box does not run" in edgegw("update", "status", *machine[2:4]).stdout
