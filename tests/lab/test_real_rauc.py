"""The real RAUC: its bundles, its word on them, its slots. That it writes one, the booted image shows."""

import datetime as dt
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgegw.update.rauc import Rauc, RaucFailed
from firmware.bundle import write_bundle
from firmware.disk import Made
from firmware.keys import AUTHORITY, Keys, make
from firmware.places import sha256_of
from firmware.roots import ready
from firmware.sandbox import tools_command
from tests.lab.skips import IMAGE, needs
from tests.update.appliance import COMPATIBLE
from tests.waiting import wait_until

pytestmark = [pytest.mark.lab, needs(IMAGE)]

SYSTEM = """[system]
compatible={compatible}
bootloader=custom
bundle-formats=verity
data-directory={folder}/data
[handlers]
bootloader-custom-backend={folder}/backend
[keyring]
path={folder}/lab.crt
[slot.rootfs.0]
device={folder}/slot-a
type=raw
bootname=a
[slot.rootfs.1]
device={folder}/slot-b
type=raw
bootname=b
"""
BACKEND = """#!/bin/sh
echo "$@" >> {folder}/calls
case "$1" in get-primary) echo b ;; get-state) echo good ;; get-current) echo a ;; esac
"""


class Workshop:
    """RAUC of the tools root, with a key of the lab and a machine of two slots that are files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tools = ready("tools").path
        (folder / "data").mkdir()
        (folder / "system.conf").write_text(SYSTEM.format(folder=folder, compatible=COMPATIBLE))
        (folder / "backend").write_text(BACKEND.format(folder=folder))
        (folder / "backend").chmod(0o755)
        for slot in "ab":
            (folder / f"slot-{slot}").write_bytes(b"\0" * 65_536)
        for name in ("lab", "other"):
            self.run(
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"),
                *("-subj", f"/CN={name}", "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.crt"),
            )
        self.bus = folder / "bus"
        self.with_bus = ("env", f"DBUS_SYSTEM_BUS_ADDRESS=unix:path={self.bus}")
        words = self.command(*self.with_bus, "rauc", "-c", folder / "system.conf")
        self.rauc = Rauc([str(word) for word in words])

    def command(self, *words: str | Path) -> list[str | Path]:
        """A program of the tools root that sees this folder."""
        return tools_command(self._tools, words, writable=[self.folder])

    def run(self, *words: str | Path) -> None:
        """Run one to its end."""
        subprocess.run(list(map(str, self.command(*words))), check=True, capture_output=True)

    def bundle(self, name: str, *, version: str = "1.1.0+2", key: str = "lab") -> Path:
        """A bundle, signed."""
        parts = self.folder / f"{name}-parts"
        parts.mkdir()
        (parts / "root.img").write_bytes(os.urandom(131_072))
        (parts / "manifest.raucm").write_text(
            f"[update]\ncompatible={COMPATIBLE}\nversion={version}\n[bundle]\nformat=verity\n"
            "[image.rootfs]\nfilename=root.img\n"
        )
        path = self.folder / f"{name}.raucb"
        secret, certificate = self.folder / f"{key}.key", self.folder / f"{key}.crt"
        self.run("rauc", "bundle", f"--cert={certificate}", f"--key={secret}", parts, path)
        return path


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    """The real programs."""
    return Workshop(tmp_path)


@pytest.fixture
def service(workshop: Workshop) -> Iterator[Workshop]:
    """RAUC's service on a bus of its own."""
    bus, conf = workshop.bus, workshop.folder / "system.conf"
    commands = [
        workshop.command("dbus-daemon", "--session", f"--address=unix:path={bus}", "--nofork"),
        workshop.command(*workshop.with_bus, "rauc", "-c", conf, "--override-boot-slot=a", "service"),
    ]
    running = []
    try:
        for words in commands:
            running.append(subprocess.Popen(list(map(str, words)), stderr=subprocess.DEVNULL))
            wait_until(bus.exists, "the bus")
        wait_until(lambda: answers(workshop.rauc), "RAUC's service")
        yield workshop
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(10)


def answers(rauc: Rauc) -> bool:
    """Whether the service is there."""
    try:
        rauc.slots()
    except RaucFailed:
        return False
    return True


def test_the_facts_of_a_real_bundle_are_read(workshop: Workshop) -> None:
    """What the agent compares with the metadata is RAUC's own word on its own signature."""
    facts = workshop.rauc.facts(workshop.bundle("good"))
    assert (facts.version, facts.compatible) == ("1.1.0+2", COMPATIBLE)


def test_a_bundle_of_the_build_has_the_same_bytes_twice_and_is_one_to_rauc(
    tmp_path: Path, workshop: Workshop
) -> None:
    """Who doubts what a fleet installs builds it again and compares: no salt, no time of day may be in it."""
    made = Made(
        profile="cloud",
        version="1.1.0+2",
        tools=ready("tools").path,
        keys=Keys(folder=tmp_path / "keys"),
        epoch=1_700_000_000,
        said={},
    )
    make(made.keys)
    (tmp_path / "root").write_bytes(os.urandom(1_000_000))
    (tmp_path / "esp").write_bytes(os.urandom(100_000))
    written = []
    for name in ("one", "two"):
        work = tmp_path / name
        work.mkdir()
        target = work / "update.raucb"
        write_bundle(target, root=tmp_path / "root", esp=tmp_path / "esp", made=made, work=work)
        written.append(target)
    assert sha256_of(written[0]) == sha256_of(written[1])
    signed_at = dt.datetime.fromtimestamp(made.epoch, dt.UTC).strftime("%y%m%d%H%M%SZ").encode()
    assert signed_at in written[0].read_bytes()
    settings = tmp_path / "host.conf"
    settings.write_text("[system]\ncompatible=none\nbootloader=noop\n[keyring]\ncheck-purpose=codesign\n")
    authority = made.keys.certificate(AUTHORITY)
    words = ("rauc", "-c", settings, f"--keyring={authority}")
    workshop.run(*words, "extract", written[0], tmp_path / "taken")
    assert sha256_of(tmp_path / "taken/root.img") == sha256_of(tmp_path / "root")
    content = bytearray(written[1].read_bytes())
    content[len(content) // 2] ^= 1
    written[1].write_bytes(content)
    with pytest.raises(subprocess.CalledProcessError):
        workshop.run(*words, "extract", written[1], tmp_path / "not-taken")


def test_a_bundle_of_another_key_or_a_torn_one_is_refused(workshop: Workshop) -> None:
    """RAUC says why, and the agent hands it on."""
    with pytest.raises(RaucFailed, match="signature"):
        workshop.rauc.facts(workshop.bundle("foreign", key="other"))
    torn = workshop.bundle("torn")
    torn.write_bytes(torn.read_bytes()[:-100])
    with pytest.raises(RaucFailed):
        workshop.rauc.facts(torn)


def test_the_slots_are_read_and_the_running_one_is_kept(service: Workshop) -> None:
    """The form of RAUC's answer is the agent's only view of the machine."""
    slots = service.rauc.slots()
    assert (slots.compatible, slots.booted, slots.other, slots.first) == (COMPATIBLE, "a", "b", "b")
    service.rauc.keep()
    assert "set-state a good" in (service.folder / "calls").read_text()


def test_an_installation_that_fails_says_why(service: Workshop) -> None:
    """On this machine without device-mapper each does; the slots stay as they are."""
    told: list[int] = []
    with pytest.raises(RaucFailed, match=r"rauc install: ."):
        service.rauc.install(service.bundle("good"), progress=lambda percent, _: told.append(percent))
    assert told
    assert (service.folder / "slot-a").read_bytes() == b"\0" * 65_536
