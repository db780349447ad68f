"""`edgegw keys`, and a box whose keys a TPM keeps, as its user meets them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import Authority, Files
from tests.processes import Branch, Process, edgegw
from tests.software_tpm import SoftwareTpm, need_tpm

KEYS = """
[keys]
place = "{place}"
[keys.tpm2]
tcti = "{tcti}"
[keys.passphrase]
passphrase_file = "words"
"""
WORDS = "correct horse battery staple"


def test_the_list_of_keys_says_where_they_lie_and_what_is_missing(tmp_path: Path) -> None:
    """Before anybody carries a machine away, its operator sees what would go with it."""
    hub, settings = tmp_path / "secrets" / "hub.pem", tmp_path / "hub.toml"
    settings.write_text('bank = "b1"\n')
    public = edgegw("keygen", "hub", "--bank", "b1", "--out", str(hub)).stdout.strip()
    listed = edgegw("keys", "list", str(settings), "--json")
    assert listed.exit_code == 0, listed.output
    (line,) = json.loads(listed.stdout)
    assert (line["purpose"], line["name"], line["place"], line["public"]) == (
        "hub",
        "b1/hub",
        "files",
        public,
    )
    shown = edgegw("keys", "list", str(settings))
    assert "files" in shown.stdout
    number = hub.read_text().splitlines()[1]  # the second line has the public point, too
    assert number not in listed.output + shown.output
    refused = edgegw("keys", "seal", str(settings))
    assert refused.exit_code == 2
    assert "keys.place = files: choose tpm2, pkcs11, systemd, passphrase" in refused.output
    settings.write_text('bank = "b1"\n[keys]\nplace = "tpm2"\n')
    assert "lies open" in edgegw("keys", "list", str(settings)).output
    hub.unlink()
    missing = edgegw("keys", "list", str(settings))
    assert missing.exit_code == 1
    assert "cannot be read" in missing.output


def test_the_keys_of_certificates_are_sealed_like_all_others(tmp_path: Path) -> None:
    """Who copies the disk would be the hub to every box, and a box to every till, by an open TLS key."""
    ours, hub, box = Authority(tmp_path, "p256"), tmp_path / "hub.toml", tmp_path / "box.toml"
    (tmp_path / "words").write_text(WORDS)
    (tmp_path / "words").chmod(0o600)
    ways = {"hub": ours.server("hub"), "line": ours.box("box-1", bank="b1"), "way": ours.server("way")}

    def table(name: str, files: Files, ca: str) -> str:
        named = f'certificate_file = "{files.certificate}"\nkey_file = "{files.key}"\n{ca} = "{ours.ca}"\n'
        return f'[{name}]\nprofile = "intl"\n{named}'

    place = '[keys]\nplace = "passphrase"\n[keys.passphrase]\npassphrase_file = "words"\n'
    hub.write_text(f'bank = "b1"\n{place}' + table("tls", ways["hub"], "client_ca_file"))
    lines = '[hub]\nkey_file = "secrets/hub.pub"\n[[hub.addresses]]\nurl = "https://127.0.0.1:1"\n'
    lines += "[http]\nport = 0\n"
    tables = table("hub.tls", ways["line"], "ca_file") + table("http.tls", ways["way"], "client_ca_file")
    box.write_text(f'bank = "b1"\nbox = "box-1"\n{place}{lines}{tables}')
    for settings in (hub, box):
        edgegw("keys", "make", str(settings))

    def listed(settings: Path) -> dict[str, tuple[str, int, str]]:
        """File to place, version and problem of the keys of certificates."""
        said = json.loads(edgegw("keys", "list", str(settings), "--json").stdout)
        return {
            line["file"]: (line["place"], line["key_version"], line["problem"])
            for line in said
            if line["purpose"] == "tls"
        }

    names = {hub: ["hub"], box: ["line", "way"]}
    for settings in (hub, box):
        files = [ways[name].key for name in names[settings]]
        opened = [file.read_text() for file in files]
        assert all("it lies open" in problem for _, _, problem in listed(settings).values())
        assert edgegw("keys", "seal", str(settings)).exit_code == 0
        assert listed(settings) == {str(file): ("passphrase", 1, "") for file in files}
        assert edgegw("config", "check", str(settings)).exit_code == 0
        turned = edgegw("keys", "rotate-kek", str(settings))
        assert turned.exit_code == 0, turned.output
        assert listed(settings) == {str(file): ("passphrase", 2, "") for file in files}
        checked = edgegw("config", "check", str(settings))
        assert checked.exit_code == 0, checked.output
        for file, text in zip(files, opened, strict=True):
            number = text.splitlines()[1]
            assert not any(number in path.read_text() for path in tmp_path.rglob("*") if path.is_file()), file
    shutil.copy(ways["line"].key, ways["way"].key)
    assert "it is not the key of" in edgegw("config", "check", str(box)).output
    (tmp_path / "words").write_text("others")
    assert edgegw("config", "check", str(hub)).exit_code == 2


@pytest.fixture
def branch(tmp_path: Path) -> Iterator[Branch]:
    """A branch that is set up, with nothing running."""
    (tmp_path / "branch").mkdir()
    branch = Branch(tmp_path / "branch")
    (branch.folder / "words").write_text(WORDS)
    (branch.folder / "words").chmod(0o600)
    yield branch
    branch.end()


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[SoftwareTpm]:
    """The branch's TPM."""
    need_tpm()
    tpm = SoftwareTpm(tmp_path / "tpm")
    yield tpm
    tpm.stop()


def enrolled(branch: Branch, tpm: SoftwareTpm) -> str:
    """Give the box keys that have never lain open; its public line."""
    for name in ("device.pem", "device.pub"):
        (branch.folder / "secrets" / name).unlink()
    branch.more = KEYS.format(place="tpm2", tcti=tpm.tcti)
    branch.write_box(("127.0.0.1:9",))
    public = branch.run("keys", "make", branch.path("box.toml")).strip()
    assert (branch.folder / "secrets/device.pub").read_text().strip() == public
    branch._write_hub(("127.0.0.1:0", "127.0.0.1:0"))
    return public


def ended(folder: Path, log: Path) -> tuple[int, str]:
    """Start the box of a folder, which cannot run; its exit code and what it said."""
    box = Process("run", folder=folder, log=log)
    code = box.popen.wait(timeout=60)
    event = box.event("ended")
    assert event is not None, log.read_text()
    return code, f"{event['problem']}; {event['hint']}"


@pytest.mark.slow
def test_a_box_clears_with_keys_that_a_copied_disk_does_not_open(
    branch: Branch, tpm: SoftwareTpm, tmp_path: Path
) -> None:
    """The whole disk in other hardware is no second box; and with the TPM away a box does not clear."""
    enrolled(branch, tpm)
    branch.start_hub()
    branch.start_box()
    branch.wait_for_mode("active")
    assert branch.pay("alice", 100).status == 201
    assert branch.box is not None
    assert branch.box.event("keys_lie_open") is None
    assert branch.box.end(signal.SIGTERM) == 0
    copy = tmp_path / "copy"
    shutil.copytree(branch.folder, copy)
    stranger = SoftwareTpm(tmp_path / "a stranger's")
    try:
        settings = (copy / "box.toml").read_text()
        (copy / "box.toml").write_text(settings.replace(tpm.tcti, stranger.tcti))
        code, said = ended(copy, copy / "box.log")
    finally:
        stranger.stop()
    assert code == 2
    assert "box-1.kek.tpm2" in said
    assert "TPM did not seal it" in said
    tpm.stop()
    code, said = ended(branch.folder, tmp_path / "away.log")
    assert code == 3
    assert "keys.tpm2.tcti" in said


@pytest.mark.slow
def test_a_box_starts_whenever_a_move_of_its_keys_was_killed(branch: Branch, tpm: SoftwareTpm) -> None:
    """The power goes in the middle: the settings are still the old ones, and every key still opens."""
    public = enrolled(branch, tpm)
    settings = branch.path("box.toml")
    move = [sys.executable, "-m", "edgegw", "keys", "move", settings, "--to", "passphrase"]
    for tenths in range(5, 60, 5):
        with subprocess.Popen(move, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as moving:
            try:
                moving.wait(timeout=tenths / 10)
            except subprocess.TimeoutExpired:
                moving.kill()
        assert public in branch.run("keys", "list", settings)
    branch.run("keys", "move", settings, "--to", "passphrase")
    assert {path.name for path in (branch.folder / "secrets").glob("*.kek.*")} == {"box-1.kek.passphrase"}
    branch.start_hub()
    branch.start_box()
    assert branch.box is not None
    assert (branch.box.event("keys_elsewhere") or {})["place"] == "passphrase"
    assert branch.box.end(signal.SIGTERM) == 0
    # What a box makes at its first start it has sealed where its settings said.
    branch.run("keys", "move", settings, "--to", "passphrase")
    branch.more = KEYS.format(place="passphrase", tcti="away")
    assert branch.hub is not None
    branch.write_box(tuple(branch.hub.opened()["addresses"]))
    branch.start_box(ready=False)
    assert branch.box.event("keys_elsewhere") is None
