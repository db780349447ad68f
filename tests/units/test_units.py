"""The units of a machine: they are what the role needs, hardened, and the firewall lets in what is open."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edgegw.commands.settings import protocol_shapes
from edgegw.config.box import load_box
from edgegw.enrolment import HUB_TIME_NAME
from edgegw.units import ROLES, Role, differing, files_of, firewall, install
from tests.processes import edgegw

EXPOSURE_MAX = 2.5
FILES = Path(__file__).parents[2] / "edgegw/units/files"
ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed on this machine")


def units(root: Path) -> list[Path]:
    """The services that are ours."""
    return sorted((root / "usr/lib/systemd/system").glob("edgegw*.service"))


@pytest.mark.parametrize("role", ROLES)
def test_a_second_installation_changes_nothing(role: Role, tmp_path: Path) -> None:
    """A playbook that runs each night would restart every box of a bank."""
    assert edgegw("units", "install", str(tmp_path), "--role", role).exit_code == 0
    assert edgegw("units", "install", str(tmp_path), "--role", role, "--check").exit_code == 0
    assert install(tmp_path, role) == []
    altered = units(tmp_path)[0]
    altered.write_text(altered.read_text().replace("NoNewPrivileges=yes", "NoNewPrivileges=no"))
    assert differing(tmp_path, role) == [str(altered.relative_to(tmp_path))]
    checked = edgegw("units", "install", str(tmp_path), "--role", role, "--check")
    assert (checked.exit_code, checked.stdout.split()) == (1, [str(altered.relative_to(tmp_path))])


def test_every_file_is_installed_by_some_role() -> None:
    """A unit that nobody installs is one that everybody thinks is there."""
    there = {path.name for path in FILES.iterdir() if path.is_file()}
    contents = {file.content for role in ROLES for file in files_of(role)}
    unused = {name for name in there if (FILES / name).read_bytes() not in contents}
    assert unused == set()


@needs_systemd
@pytest.mark.parametrize("role", ROLES)
def test_no_service_may_more_than_it_must(role: Role, tmp_path: Path) -> None:
    """By systemd's own measure, each service of ours is at most 2.5 of 10."""
    install(tmp_path, role)
    assert units(tmp_path)
    for unit in units(tmp_path):
        told = subprocess.run(
            [str(ANALYZE), "security", "--offline=true", "--no-pager", str(unit)],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", told)
        assert found is not None, told
        assert float(found[1]) <= EXPOSURE_MAX, f"{unit.name}: {found[1]}"


def test_no_service_is_started_again_at_once(tmp_path: Path) -> None:
    """A process that cannot start would use up the machine, the log and the disk in a night."""
    for role in ROLES:
        install(tmp_path, role)
    for unit in units(tmp_path):
        text = unit.read_text()
        if "Restart=" in text:
            assert re.search(r"^RestartSec=([3-9]|[1-9][0-9]+)s$", text, re.MULTILINE), unit.name


def test_the_firewall_opens_what_the_settings_open_and_nothing_on_loopback(tmp_path: Path) -> None:
    """A port that is open in the settings and closed in the firewall is a branch that cannot pay."""
    settings = tmp_path / "box.toml"
    text = 'bank = "b1"\nbox = "box-1"\n[hub]\nkey = "k"\n[[hub.addresses]]\nurl = "http://127.0.0.1:1"\n'
    settings.write_text(text + '[http]\nhost = "127.0.0.1"\nport = 8443\n')
    assert firewall.ports_of_box(load_box(settings, protocol_shapes())) == []
    assert firewall.commands([]) == "flush set inet edgegw ways_in\n"
    tls = 'profile = "plain"\n'
    settings.write_text(text + f'[http]\nhost = "0.0.0.0"\nport = 8443\n[http.tls]\n{tls}')
    done = edgegw("units", "ports", str(settings), "--role", "box")
    assert done.stdout.splitlines()[1:] == ["add element inet edgegw ways_in { 8443 }"], done.output
    mirror = tmp_path / "mirror.toml"
    mirror.write_text(
        'bank = "b1"\nmirror = "m"\nhub_key = "k"\nlisten = ["127.0.0.1:8700", "[::]:8701"]\n'
        f'[boxes]\nbox-1 = "k"\n[tls]\n{tls}'
    )
    done = edgegw("units", "ports", str(mirror), "--role", "mirror")
    assert done.stdout.splitlines()[1:] == ["add element inet edgegw ways_in { 8701 }"], done.output


class Machine:
    """Files as `clock` finds them on a machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        install(root, "box")
        self.file("usr/lib/clock-epoch", 1_750_000_000)

    def file(self, path: str, at_s: int, text: str = "") -> None:
        """A file that was changed then."""
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        os.utime(place, (at_s, at_s))

    def word(self, text: str) -> None:
        """The hub's word as the box keeps it."""
        self.file("var/lib/edgegw/secrets/hub_time.json", 0, text)

    def floor(self) -> int:
        """What the clock is set to at least."""
        return int(self.run("print"))

    def run(self, *words: str) -> str:
        """Call the program."""
        return subprocess.run(
            [str(self.root / "usr/lib/edgegw/clock"), *words],
            env={**os.environ, "CLOCK_ROOT": str(self.root)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout


def test_the_clock_is_never_before_what_is_known(tmp_path: Path) -> None:
    """The latest of the build, what this machine has seen, and the hub's word, in the form the box keeps."""
    machine = Machine(tmp_path)
    assert machine.floor() == 1_750_000_000
    machine.file("var/lib/edgegw-clock/seen", 1_760_000_000)
    assert machine.floor() == 1_760_000_000
    machine.word('{"hub_s":1770000000.25,"mono_s":12.5,"boot_id":"x"}\n')
    assert machine.floor() == 1_770_000_000
    machine.file("var/lib/edgegw-clock/seen", 1_780_000_000)
    assert machine.floor() == 1_780_000_000


@pytest.mark.parametrize(
    "word",
    ["", "{", '{"hub_s":"2"}', '{"hub_s":99999999999999}', '{"hub_s":9e9}', '{"hub_s":5000000000.0}', "\0"],
)
def test_a_word_that_is_none_moves_no_clock(tmp_path: Path, word: str) -> None:
    """It lies where the box writes: a fault there must not send the machine a century ahead."""
    machine = Machine(tmp_path)
    machine.word(word)
    assert machine.floor() == 1_750_000_000


def test_what_time_it_is_is_kept(tmp_path: Path) -> None:
    """At each stop and every ten minutes, so that a start after a power cut knows it."""
    machine = Machine(tmp_path)
    (tmp_path / "var/lib/edgegw-clock").mkdir(parents=True)
    machine.run("seen")
    assert machine.floor() == int((tmp_path / "var/lib/edgegw-clock/seen").stat().st_mtime)


def test_the_clock_follows_the_hubs_word_once_it_is_said(tmp_path: Path) -> None:
    """A first boot with an empty battery would refuse every till until the next start."""
    install(tmp_path, "appliance")
    units = tmp_path / "usr/lib/systemd/system"
    watched = (units / "edgegw-clock-word.path").read_text()
    script = (tmp_path / "usr/lib/edgegw/clock").read_text()
    word = next(line for line in script.splitlines() if line.startswith("word=$root"))
    assert f"PathChanged={word.removeprefix('word=$root')}" in watched.splitlines()
    assert word.endswith(f"/{HUB_TIME_NAME}")
    preset = (tmp_path / "usr/lib/systemd/system-preset/10-edgegw.preset").read_text()
    assert "enable edgegw-clock-word.path" in preset.splitlines()
    # A service that stays active would never be started again.
    assert "RemainAfterExit" not in (units / "edgegw-clock-word.service").read_text()


class Firmware:
    """A machine that says which slot runs and which comes first, as `fallback` finds it."""

    def __init__(self, root: Path, *, runs: int, first: int) -> None:
        self.root = root
        install(root, "appliance")
        self.restarts = root / "restarts"
        variables = root / "sys/firmware/efi/efivars"
        variables.mkdir(parents=True)
        for name, numbers in (("BootCurrent", (runs,)), ("BootOrder", (first, runs, 7))):
            body = b"".join(number.to_bytes(2, "little") for number in numbers)
            (variables / f"{name}-8be4df61-93ca-11d2-aa0d-00e098032b8c").write_bytes(bytes(4) + body)
        (root / "proc").mkdir()
        self.image("10:salt:hash")
        (root / "var/lib/edgegw-update").mkdir(parents=True)

    def image(self, name: str) -> None:
        """The image that runs."""
        (self.root / "proc/cmdline").write_text(f"quiet edgegw.root={name} panic=10\n")

    def fall_back(self) -> bool:
        """Whether the machine was started again."""
        before = self.restarts.stat().st_size if self.restarts.exists() else 0
        restart = self.root / "restart"
        restart.write_text(f"#!/bin/sh\necho >> {self.restarts}\n")
        restart.chmod(0o755)
        environment = {
            **os.environ,
            "FALLBACK_ROOT": str(self.root),
            "FALLBACK_RESTART": str(restart),
        }
        subprocess.run([str(self.root / "usr/lib/edgegw/fallback")], env=environment, check=True)
        return self.restarts.exists() and self.restarts.stat().st_size > before


def test_a_trial_that_is_not_kept_is_left_and_not_for_ever(tmp_path: Path) -> None:
    """A broken image must fall back without its own Python; an image that is tried again and again must not
    keep a branch in a loop of starts."""
    machine = Firmware(tmp_path, runs=0x0E0B, first=0x0E0A)
    assert [machine.fall_back() for _ in range(7)] == [True] * 5 + [False] * 2
    machine.image("11:salt:other")
    assert machine.fall_back()


def test_a_committed_slot_is_never_left(tmp_path: Path) -> None:
    """A box that does not work on the slot that comes first would start over and over."""
    assert not Firmware(tmp_path, runs=0x0E0A, first=0x0E0A).fall_back()


def test_the_fallback_is_let_see_which_image_runs(tmp_path: Path) -> None:
    """Without the kernel's line all images share one count, and after five bad releases in a machine's life
    the sixth would stay up on trial and take no payments."""
    install(tmp_path, "appliance")
    assert "proc/cmdline" in (tmp_path / "usr/lib/edgegw/fallback").read_text()
    unit = (tmp_path / "usr/lib/systemd/system/edgegw-fallback.service").read_text()
    assert "ProcSubset=all" in unit.splitlines()


_NFT = """#!/bin/sh
[ "$1" = list ] && exit 0
[ "$2" = - ] || exec cat "$2"
exec cat
"""
"""In place of nft: prints what it is to do."""


def stand_in(root: Path, name: str, text: str) -> Path:
    """A program below root; its folder goes before all others on the path."""
    program = root / "bin" / name
    program.parent.mkdir(exist_ok=True)
    program.write_text(text)
    program.chmod(0o755)
    return program.parent


def test_each_role_of_a_server_keeps_its_ways_in(tmp_path: Path) -> None:
    """A server that is hub and mirror had let in only those of whichever was started last."""
    for role in ("hub", "mirror"):
        install(tmp_path, role)
    (tmp_path / "var/lib/edgegw-ports").mkdir(parents=True)
    folder = tmp_path / "var/lib/edgegw"
    folder.mkdir()
    folder_of_nft = stand_in(tmp_path, "nft", _NFT)
    # What the settings open is `edgegw units ports`; here they name it themselves.
    stand_in(tmp_path, "edgegw", '#!/bin/sh\ncat "$5"\n')
    environment = {"PORTS_ROOT": str(tmp_path), "PATH": f"{folder_of_nft}:{os.environ['PATH']}"}

    def opened(role: str) -> list[str]:
        words = [str(tmp_path / "usr/lib/edgegw/ports"), role]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    flush, hub, mirror = (
        "flush set inet edgegw ways_in",
        *(f"add element inet edgegw ways_in {{ {port} }}" for port in (8600, 8610)),
    )
    (folder / "hub.toml").write_text(firewall.commands([8600]))
    assert opened("hub") == [flush, hub]
    (folder / "mirror.toml").write_text(firewall.commands([8610]))
    assert opened("mirror") == [flush, hub, mirror]
    assert opened("hub") == [flush, hub, mirror]
    (folder / "mirror.toml").write_text(firewall.commands([]))
    assert opened("mirror") == [flush, hub]
    (folder / "hub.toml").unlink()
    (folder / "mirror.toml").write_text(firewall.commands([8611]))
    assert opened("mirror") == [flush, mirror.replace("8610", "8611")]


def test_a_reload_of_the_firewall_leaves_the_ways_in_open(tmp_path: Path) -> None:
    """The table is loaded anew with no port in it: a person who mends a site's rule would stop payments."""
    install(tmp_path, "appliance")
    for name, port in (("box", 8400), ("hub", 8600)):
        kept = tmp_path / f"var/lib/edgegw-ports/{name}.nft"
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(f"# a sum\n{firewall.commands([port])}")
    site = tmp_path / "var/etc/nftables.d/site.nft"
    site.parent.mkdir(parents=True)
    site.write_text("of the site\n")
    folder_of_nft = stand_in(tmp_path, "nft", _NFT)
    environment = {"FIREWALL_ROOT": str(tmp_path), "PATH": f"{folder_of_nft}:{os.environ['PATH']}"}
    program = str(tmp_path / "usr/lib/edgegw/firewall-additions")
    done = subprocess.run([program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "add element inet edgegw ways_in { 8400 }",
        "add element inet edgegw ways_in { 8600 }",
        "of the site",
    ]


def test_who_may_open_the_tpm_belongs_to_its_group(tmp_path: Path) -> None:
    """Root without the right to override opens nothing of another group: no update was ever looked for."""
    members = re.findall(r"^m (\S+) tss$", (FILES / "edgegw.sysusers").read_text(), re.MULTILINE)
    install(tmp_path, "appliance")
    for unit in units(tmp_path):
        text = unit.read_text()
        if "DeviceAllow=/dev/tpmrm0" in text:
            user = re.search(r"^User=(\S+)$", text, re.MULTILINE)
            is_member = user is not None and user[1] in members
            assert is_member or "\nSupplementaryGroups=tss\n" in text, unit.name
