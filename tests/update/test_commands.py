"""The commands as a person types them: a release from its keys to a machine that has it."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from edgegw.__main__ import main
from edgegw.commands import update as command
from edgegw.update.files import alone
from edgegw.update.machine import Surroundings
from tests.update.appliance import COMPATIBLE, RAUC

KEYS = ("--targets-key", "targets.pem", "--online-key", "online.pem")


def edgegw(*words: str | Path, code: int = 0, **options: str) -> Result:
    """Run a command."""
    done = CliRunner().invoke(main, [str(word) for word in words], **options)  # type: ignore[arg-type]
    assert done.exit_code == code, done.output
    return done


@pytest.fixture
def centre(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with keys, a repository, and a bundle with its facts."""
    monkeypatch.chdir(tmp_path)
    for name in ("root", "targets", "online"):
        assert len(edgegw("release", "key", f"{name}.pem").stdout.strip()) == 64
    assert (tmp_path / "root.pem").stat().st_mode & 0o77 == 0
    edgegw("release", "init", "releases", "--root-key", "root.pem", *KEYS)
    facts = {"version": "1.1.0+2", "compatible": COMPATIBLE, "security_epoch": 1}
    said = msgspec.json.decode(edgegw("release", "facts").stdout)
    facts |= {"schema": said["schema"], "readable_from": said["readable_from"]}
    (tmp_path / "edgegw-1.1.0+2-cloud.json").write_bytes(msgspec.json.encode(facts))
    manifest = msgspec.json.encode({"compatible": COMPATIBLE, "version": "1.1.0+2"}).decode()
    (tmp_path / "edgegw-1.1.0+2-cloud.raucb").write_text(f"image\nmanifest {manifest}\n", encoding="ascii")
    return tmp_path


@pytest.fixture
def machine(centre: Path, monkeypatch: pytest.MonkeyPatch) -> list[str | Path]:
    """What names a machine to the commands; RAUC and systemctl are scripts."""
    firmware, programs, image = centre / "firmware", centre / "bin", centre / "image"
    for folder in (firmware, programs, image):
        folder.mkdir()
    (firmware / "rauc").write_text(RAUC, encoding="ascii")
    for name in ("booted", "first"):
        (firmware / name).write_text("a", encoding="ascii")
    (programs / "rauc").write_text(f'#!/bin/sh\nexec sh {firmware}/rauc {firmware} "$@"\n', encoding="ascii")
    (programs / "systemctl").write_text(f'#!/bin/sh\necho "$@" >> {firmware}/systemctl\n', encoding="ascii")
    for path in programs.iterdir():
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    facts = {"version": "1.0.0", "compatible": COMPATIBLE, "security_epoch": 1}
    (image / "image.json").write_bytes(msgspec.json.encode(facts))
    return ["--state", centre / "state", "--image", image, "--settings", centre / "box.toml"]


def test_a_release_goes_from_its_keys_into_a_machine(centre: Path, machine: list[str | Path]) -> None:
    """Every step that a person takes, in their order."""
    bundle = "edgegw-1.1.0+2-cloud.raucb"
    edgegw("release", "add", "releases", bundle, *KEYS, "--percent", "0")
    edgegw("release", "rollout", "releases", "1.1.0+2", "--box", "bank/box-1", *KEYS)
    edgegw("release", "publish", "releases", "stick/edgegw/updates")
    shown = msgspec.json.decode(edgegw("release", "show", "releases", "--json").stdout)
    assert shown["releases"][0]["rollout"] == {"percent": 0, "boxes": ["bank/box-1"]}
    assert "1.1.0+2 for edgegw-x86_64-cloud" in edgegw("release", "show", "releases").stdout
    stick = centre / "stick/edgegw/updates"
    refused = edgegw("update", "install", stick, *machine, code=1)
    assert "edgegw update trust" in refused.output
    edgegw("update", "trust", "releases/metadata/1.root.json", *machine[:4])
    alone = edgegw("update", "install", bundle, *machine, code=2)
    assert "no signed metadata" in alone.output
    armed = edgegw("update", "install", stick, *machine, "--no-reboot", "--json")
    assert msgspec.json.decode(armed.stdout.splitlines()[-1])["end"] == "armed"
    edgegw("update", "check", "--now", "--from", stick, *machine)
    assert (centre / "firmware/systemctl").read_text() == "reboot\n"
    status = msgspec.json.decode(edgegw("update", "status", "--json", *machine[:2]).stdout)
    assert (status["version"], status["phase"], status["target"]) == ("1.0.0", "trial", "1.1.0+2")
    assert "1.0.0 in slot a, trial 1.1.0+2" in edgegw("update", "status", *machine[:2]).stdout


def test_who_orders_while_the_agent_is_at_work_is_told_to_come_again(
    centre: Path, machine: list[str | Path]
) -> None:
    """A rollout that took the agent's own look for a refusal would stop a version that nobody has tried."""
    edgegw("release", "add", "releases", "edgegw-1.1.0+2-cloud.raucb", *KEYS)
    edgegw("update", "trust", "releases/metadata/1.root.json", *machine[:4])
    order = ("update", "check", "--now", "--no-reboot", "--from", "releases", *machine)
    with alone(centre / "state"):
        busy = edgegw(*order, "--json", code=3)
    assert msgspec.json.decode(busy.stdout.splitlines()[-1])["end"] == "busy"
    edgegw(*order)


def test_another_root_is_never_exchanged(centre: Path, machine: list[str | Path]) -> None:
    """Who can give a command on the box must not thereby become its maker."""
    edgegw("release", "key", "other.pem")
    edgegw("release", "init", "others", "--root-key", "other.pem", *KEYS)
    edgegw("update", "trust", "releases/metadata/1.root.json", *machine[:4])
    refused = edgegw("update", "trust", "others/metadata/1.root.json", *machine[:4], code=2)
    assert "is trusted already" in refused.output
    edgegw("update", "trust", "releases/metadata/1.targets.json", *machine[:4], code=2)


def test_a_machine_without_slots_is_told_and_is_no_fault(centre: Path, machine: list[str | Path]) -> None:
    """On a plain server the commit service must not fail, and nothing is installed."""
    (centre / "image/image.json").unlink()
    assert "has no slots" in edgegw("update", "commit", *machine).stdout
    assert "has no slots" in edgegw("update", "check", *machine, code=3).output


@pytest.mark.parametrize("harm", ["torn", "empty", "leads_nowhere"])
def test_an_image_that_does_not_say_what_it_is_is_not_stayed_on(
    centre: Path, machine: list[str | Path], harm: str
) -> None:
    """It was taken for a plain server's: the trial ended well, and no agent ran any more."""
    path = centre / "image/image.json"
    if harm == "leads_nowhere":
        path.unlink()
        path.symlink_to(centre / "run/image.json")
    else:
        path.write_bytes(b"{" if harm == "torn" else b"")
    assert "built wrongly" in edgegw("update", "commit", *machine, code=3).output


def test_what_failed_can_be_forgotten_by_a_person(centre: Path, machine: list[str | Path]) -> None:
    """When the machine was at fault, and not the release."""
    edgegw("release", "add", "releases", "edgegw-1.1.0+2-cloud.raucb", *KEYS)
    edgegw("update", "trust", "releases/metadata/1.root.json", *machine[:4])
    state = {"failed": [{"version": "1.1.0+2", "sha256": "00", "why": "unwell", "at_s": 1}]}
    (centre / "state/state.json").write_bytes(msgspec.json.encode(state))
    refused = edgegw("update", "check", "--now", "--from", "releases", *machine, code=1)
    assert "it has failed here: unwell" in refused.output
    assert "1 forgotten" in edgegw("update", "forget", "1.1.0+2", *machine[:2]).stdout
    edgegw("update", "check", "--now", "--from", "releases", *machine)


def test_a_root_in_several_hands_is_signed_one_after_the_other(centre: Path) -> None:
    """Nobody has all the keys of a bank in one room."""
    edgegw("release", "key", "root2.pem")
    begun = edgegw(
        *("release", "rotate", "releases", "--add", "root2.pem", "--threshold", "2", "--key", "root.pem")
    )
    assert "waits for more signatures" in begun.stdout
    assert "signed by enough keys" in edgegw("release", "sign", "releases", "--key", "root2.pem").stdout
    edgegw("release", "key", "online2.pem")
    edgegw(
        *("release", "rotate", "releases", "--role", "online", "--add", "online2.pem"),
        *("--key", "root.pem", "--key", "root2.pem"),
    )
    edgegw("release", "refresh", "releases", "--online-key", "online2.pem", "--targets-key", "targets.pem")
    wrong = edgegw("release", "sign", "releases", "--key", "root2.pem", code=3)
    assert "no root waits" in wrong.output


def test_a_key_with_a_passphrase_opens_with_it_alone(centre: Path) -> None:
    """A stick with an offline key is lost one day."""
    edgegw("release", "key", "secret.pem", "--passphrase", input="correct horse\ncorrect horse\n")
    words = ("release", "init", "r2", "--root-key", "secret.pem", *KEYS)
    assert "cannot be opened" in edgegw(*words, input="wrong\n", code=2).output
    edgegw(*words, input="correct horse\n")


@pytest.mark.slow
def test_the_agent_stops_at_once_and_tells_of_what_it_cannot_have(
    centre: Path, machine: list[str | Path]
) -> None:
    """A unit that hangs at a stop holds up the machine's restart."""
    process = subprocess.Popen(
        [sys.executable, "-m", "edgegw", "update", "agent", *map(str, machine)],
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stderr is not None
    assert b'"agent"' in process.stderr.readline()
    begun = time.monotonic()
    process.terminate()
    assert process.wait(10) == 0
    assert time.monotonic() - begun < 8


def test_the_centre_lists_what_its_fleet_runs(centre: Path) -> None:
    """Who has not got a release yet is the question of the morning after."""
    edgegw("keygen", "hub", "--bank", "b1", "--out", "secrets/hub.pem")
    public = edgegw("keygen", "box", "--bank", "b1", "--box", "box-1", "--out", "device.pem")
    assert public.exit_code == 0
    key = (centre / "device.pub").read_text().strip()
    (centre / "hub.toml").write_text(f'bank = "b1"\n[boxes]\nbox-1 = "{key}"\n')
    assert edgegw("release", "fleet").stdout == "box-1: has not said; heard never\n"
    said = msgspec.json.decode(edgegw("release", "fleet", "--json", "--version", "1.1.0").stdout)
    assert (said["box"], said["program"]) == ("box-1", "")


def test_a_second_bundle_of_the_same_name_takes_no_release_away(centre: Path) -> None:
    """Two profiles built to one name: the boxes of the first would never hear of a release again."""
    bundle = "edgegw-1.1.0+2-cloud.raucb"
    edgegw("release", "add", "releases", bundle, *KEYS)
    facts = msgspec.json.decode((centre / "edgegw-1.1.0+2-cloud.json").read_bytes())
    other = centre / "hardware" / bundle
    other.parent.mkdir()
    other.write_text("another image\n", encoding="ascii")
    other.with_suffix(".json").write_bytes(msgspec.json.encode(facts | {"compatible": "edgegw-x86_64-other"}))
    refused = edgegw("release", "add", "releases", other, *KEYS, code=3)
    assert "that would be offered no more" in refused.output
    shown = msgspec.json.decode(edgegw("release", "show", "releases", "--json").stdout)
    assert [one["compatible"] for one in shown["releases"]] == [COMPATIBLE]
    edgegw("release", "add", "releases", bundle, *KEYS)


def test_nothing_is_forgotten_while_the_agent_is_at_work(centre: Path, machine: list[str | Path]) -> None:
    """Written over its record, the trial that it prepares would be judged by nothing."""
    with alone(centre / "state"):
        refused = edgegw("update", "forget", "1.1.0", *machine[:2], code=3)
    assert "another process" in refused.output


def run_agent(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    here: Surroundings,
    looked: Callable[..., tuple[str, float]],
) -> None:
    """Run a box's agent beside a stick until SIGTERM; looked stands in for each of its looks."""
    stick = folder / "stick"
    (stick / "metadata").mkdir(parents=True)
    (stick / "metadata/timestamp.json").write_text("{}")
    (folder / "box.toml").touch()
    for name, value in {"STICK": stick, "STICK_S": 0.01, "_once": looked}.items():
        monkeypatch.setattr(command, name, value)
    monkeypatch.setattr(command, "_surroundings", lambda *_: here)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        command._run_agent(folder / "box.toml", folder / "state", folder / "image")
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_a_stick_that_must_wait_is_installed_when_its_time_comes(
    machine: list[str | Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Put in by day, in a branch without a line: at night it is the stick's release that is to be taken."""
    looks = []

    def looked(*_: object, is_stick: bool) -> tuple[str, float]:
        looks.append(is_stick)
        if len(looks) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return ("waits", 0.0) if len(looks) < 3 else ("nothing", 0.0)

    here = command._surroundings(tmp_path / "none.toml", tmp_path / "state", tmp_path / "image")
    run_agent(tmp_path, monkeypatch, here, looked)
    assert looks == [True, True, True, False]


def test_a_stick_that_meets_another_look_is_looked_at_after_it(
    machine: list[str | Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Put in while somebody's order was at work, it was done with: nothing came of it until it was pulled and
    put in again."""
    looks, look = [], command._once
    here = command._surroundings(tmp_path / "none.toml", tmp_path / "state", tmp_path / "image")

    def looked(*_: object, is_stick: bool) -> tuple[str, float]:
        looks.append(is_stick)
        if len(looks) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        if len(looks) > 1:
            return "nothing", 0.0
        with alone(tmp_path / "state"):
            end, _ = look(here, tmp_path / "none.toml", threading.Event(), is_stick=True)
        return end, 0.0

    run_agent(tmp_path, monkeypatch, here, looked)
    assert looks == [True, True, False]


def test_settings_that_cannot_be_read_keep_no_release_away(centre: Path, machine: list[str | Path]) -> None:
    """A newer image wrote them, and was left: the agent died of them each time, so no image that reads them
    could come again, not even on a stick."""
    edgegw("release", "add", "releases", "edgegw-1.1.0+2-cloud.raucb", *KEYS)
    edgegw("update", "trust", "releases/metadata/1.root.json", *machine[:4])
    (centre / "box.toml").write_text('bank = "b1"\nan_option_of_tomorrow = 1\n')
    edgegw("update", "install", "releases", *machine)
    assert (centre / "firmware/systemctl").read_text() == "reboot\n"


@pytest.mark.parametrize(
    ("said", "alive"),
    [(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", True), (b"what?\r\n\r\n", False), (b"", False)],
)
def test_the_page_of_the_first_boot_is_asked_for_life_alone(
    monkeypatch: pytest.MonkeyPatch, said: bytes, alive: bool
) -> None:
    """What answers no HTTP is unwell, and no fault of who asks; the page itself takes no payments."""

    def answers(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.recv(1_000)
        connection.sendall(said)
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setattr(command, "FIRST_BOOT_URL", f"127.0.0.1:{listener.getsockname()[1]}")
        page = threading.Thread(target=answers, args=(listener,))
        page.start()
        found = command._first_boot_page()
        page.join()
    assert (found.alive, found.ready) == (alive, False)
