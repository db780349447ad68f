"""The collection where nothing of the product is yet, and what its preflights say; no machine is changed."""

from __future__ import annotations

import json
import os
import subprocess
import tomllib
from pathlib import Path
from typing import Final

import pytest

from tests.lab.controller import ANSIBLE, ROOT, TOOLS

pytestmark = pytest.mark.lab_long

SYSTEMCTL: Final = """\
#!/bin/sh
# Of a server that has Debian's units, and none of the product.
case "$*" in
"show edgegw"*) printf 'LoadState=not-found\\nActiveState=inactive\\n' ;;
show*) printf 'LoadState=loaded\\nActiveState=active\\nUnitFileState=enabled\\n' ;;
*) exit 3 ;;
esac
"""
FACTS: Final = {
    "cacheable": True,
    "os_family": "Debian",
    "distribution": "Debian",
    "distribution_version": "13",
    "distribution_major_version": "13",
    "machine": "x86_64",
    "service_mgr": "systemd",
    "python_version": "3.13.5",
    "python": {"version": {"major": 3, "minor": 13}},
    "date_time": {"year": "2026", "iso8601": "2026-11-23T00:00:00Z"},
}


class Play:
    """Plays roles on this machine, as if it were hosts."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([str(ROOT / ".ci" / "setup-ansible")], check=True, timeout=600)
        self.folder = folder
        (folder / "bin").mkdir()
        (folder / "bin/systemctl").write_text(SYSTEMCTL, encoding="ascii")
        (folder / "bin/systemctl").chmod(0o755)
        # Those of this checkout, whichever one has the tools.
        (folder / "collections/ansible_collections/edgegw").mkdir(parents=True)
        (folder / "collections/ansible_collections/edgegw/fleet").symlink_to(ANSIBLE)

    def __call__(
        self,
        *words: str,
        hosts: tuple[str, ...],
        tasks: list[dict[str, object]],
        code: int = 0,
        **told: object,
    ) -> str:
        """What a play of these tasks says, which ends with this code."""
        path = self.folder / "play.yml"
        before = [{"ansible.builtin.set_fact": FACTS}]
        path.write_text(
            json.dumps([{"hosts": "all", "gather_facts": False, "tasks": [*before, *tasks]}]),
            encoding="utf-8",
        )
        command = [
            str(TOOLS / "ansible-playbook"),
            "-i",
            ",".join(hosts) + ",",
            "-e",
            json.dumps(told),
            *words,
        ]
        done = subprocess.run(
            [*command, "--connection", "local", str(path)],
            cwd=ANSIBLE,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"),
                "ANSIBLE_COLLECTIONS_PATH": str(self.folder / "collections"),
                "ANSIBLE_HOME": str(self.folder / "home"),
                "ANSIBLE_LOCAL_TEMP": str(self.folder / "temp"),
                "ANSIBLE_NOCOLOR": "1",
                "PATH": f"{self.folder / 'bin'}:{TOOLS}:{os.environ['PATH']}",
            },
        )
        assert done.returncode == code, done.stdout + done.stderr
        # The words of a message are broken into lines as they come.
        return " ".join((done.stdout + done.stderr).split())


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return Play(tmp_path)


def test_check_mode_says_what_becomes_of_servers_that_have_nothing_yet(play: Play) -> None:
    """It is the first command of the README: handlers had asked for units that no run has brought."""
    archive = play.folder / "edgegw-0.1.0-cp313-x86_64.tar"
    archive.touch()
    release = play.folder / "edgegw-0.1.0.json"
    archives = {"cp313": {"file": str(archive), "sha256": "0" * 64}}
    release.write_text(json.dumps({"version": "0.1.0", "archives": archives}), encoding="ascii")
    roles: list[dict[str, object]] = [
        {
            "ansible.builtin.import_role": {"name": f"edgegw.fleet.{role}"},
            "when": f"inventory_hostname == '{host}'",
        }
        for role, host in (("hub", "hub"), ("box", "box-1"), ("mirror", "mirror"), ("hardening", "plain"))
    ]
    said = play(
        "--check",
        hosts=("hub", "box-1", "mirror", "plain"),
        tasks=roles,
        program_release=str(release),
        hub_bank="lab",
        box_bank="lab",
        box_hub_host="hub",
        box_hub_addresses=["https://10.0.0.1:8600"],
        box_enrolment_addresses=["https://10.0.0.1:8620"],
        box_folder=str(play.folder / "box"),
        hub_folder=str(play.folder / "hub"),
        mirror_bank="lab",
        mirror_boxes={"box-1": "a key"},
    )
    assert said.count("failed=0") == 4, said


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ({"ansible_user": "deploy", "hardening_ssh_users": ["deploy"]}, "hardening_ssh_users = "),
        ({"ansible_ssh_pass": "a word"}, "ansible_password = (not shown)"),
    ],
)
def test_nobody_is_locked_out_under_another_name(play: Play, told: dict[str, object], named: str) -> None:
    """Whoever comes is asked of the machine: a name or a password has more than one way into a run."""
    preflight = {"name": "edgegw.fleet.hardening", "tasks_from": "preflight"}
    said = play(
        "--check", hosts=("plain",), tasks=[{"ansible.builtin.include_role": preflight}], code=2, **told
    )
    assert named in said
    assert "a word" not in said


def test_a_box_beside_a_hub_is_refused_with_field_and_mend(play: Play) -> None:
    """A condition that failed says nothing to whoever must mend it."""
    (play.folder / "hub.toml").touch()
    preflight = {"name": "edgegw.fleet.box", "tasks_from": "preflight"}
    said = play(
        hosts=("box-1",),
        tasks=[{"ansible.builtin.include_role": preflight}],
        code=2,
        box_bank="lab",
        box_name="box-1",
        box_hub_key="a key",
        box_hub_addresses=["https://10.0.0.1:8600"],
        box_folder=str(play.folder),
    )
    assert f"box_folder = {play.folder}: the hub of this machine" in said


def test_a_stop_is_taken_back_where_there_are_no_canaries(play: Play) -> None:
    """The way that the stop itself names must be one."""
    stopped = play.folder / "record/0.2.0/stopped.json"
    stopped.parent.mkdir(parents=True)
    stopped.write_text(json.dumps({"at": "then", "reason": "a box was not well"}), encoding="ascii")
    preflight = {"name": "edgegw.fleet.update", "tasks_from": "preflight"}
    tasks: list[dict[str, object]] = [{"ansible.builtin.include_role": preflight}]
    told = {"update_version": "0.2.0", "update_record": str(play.folder / "record")}
    said = play(hosts=("box-1",), tasks=tasks, code=2, **told)
    assert "-e update_again=true" in said
    play("-e", "update_again=true", hosts=("box-1",), tasks=tasks, **told)
    assert not stopped.exists()


def test_a_hub_that_hands_out_releases_may_sign_their_time(play: Play) -> None:
    """Its unit has a read-only system: the timestamp would end after two weeks, and no box take a release."""
    role = ANSIBLE / "roles/hub"
    made = {"hub.toml": play.folder / "hub.toml", "updates.conf": play.folder / "updates.conf"}
    tasks: list[dict[str, object]] = [{"ansible.builtin.include_vars": str(role / "defaults/main.yml")}]
    tasks += [
        {
            "ansible.builtin.template": {
                "src": str(role / f"templates/{name}.j2"),
                "dest": str(path),
                "mode": "0600",
            }
        }
        for name, path in made.items()
    ]
    told = {"hub_bank": "lab", "hub_updates_directory": "/srv/updates"}
    play(hosts=("hub",), tasks=tasks, hub_updates_online_key_file="/srv/online.pem", **told)
    settings = tomllib.loads(made["hub.toml"].read_text())
    assert settings["updates"] == {"directory": "/srv/updates", "online_key_file": "/srv/online.pem"}
    assert "ReadWritePaths=-/srv/updates\n" in made["updates.conf"].read_text()
