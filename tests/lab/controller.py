"""The machine of the people who run a fleet: the collection's tools, and releases for its hosts.

Leaves out the hosts (`tests.lab.fleet`), and what is played.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tarfile
from pathlib import Path
from typing import Final, NamedTuple

from tests.lab.fleet import Fleet, ssh_options
from tests.lab.system import System

ROOT: Final = Path(__file__).resolve().parents[2]
ANSIBLE: Final = ROOT / "ansible"
TOOLS: Final = ROOT / ".venv-ansible" / "bin"
PLAY_SECONDS: Final = 1_500
_RECAP: Final = re.compile(r"^(\S+) +: ok=\d+ +changed=(\d+) +unreachable=(\d+) +failed=(\d+)", re.MULTILINE)


class Played(NamedTuple):
    """A playbook that has ended."""

    said: str
    changed: dict[str, int]
    """How much each host has changed, by the recap."""


class Controller:
    """Runs the collection's tools beside the hosts."""

    def __init__(
        self, folder: Path, *, key: Path, ssh: list[str], beside: Fleet | System | None = None
    ) -> None:
        """Install the tools that ansible/requirements.txt pins. folder: for logs and what the tools keep;
        key: who comes; ssh: more words for ssh; beside: in whose network they run, if not in this one."""
        subprocess.run([str(ROOT / ".ci" / "setup-ansible")], check=True, timeout=600)
        self.folder, self._key, self._ssh, self._beside = folder, key, ssh, beside
        self._outputs = 0
        self._releases = Path(os.environ.get("EDGEGW_LAB_RELEASES") or ROOT / "build" / "releases")

    @classmethod
    def of(cls, fleet: Fleet, folder: Path) -> Controller:
        """One that comes to the hosts of a fleet by its key."""
        words = ssh_options(fleet.folder)
        return cls(folder, key=fleet.folder / "id", ssh=words[:2] + words[4:], beside=fleet)

    def release(self, *, python: str, wheel: Path | None = None) -> Path:
        """Make a release for hosts with this Python, of the checkout or of this wheel; its manifest. This
        alone needs a package index, where its wheels are not there from another day."""
        words = ["playbooks/release.yml", "-e", f"releases={self._releases}", "-e", f"pythons={python}"]
        if wheel is not None:
            words += ["-e", f"wheel={wheel}"]
        command = [str(TOOLS / "ansible-playbook"), "-i", "localhost,", *words]
        said = self._run(command, self.environment(), name="release")
        found = re.search(r"program_release: (\S+\.json)", said)
        assert found, said
        return Path(found[1])

    def wheel_of(self, release: Path) -> Path:
        """The product's own wheel out of a release."""
        archive = next(iter(json.loads(release.read_text())["archives"].values()))["file"]
        with tarfile.open(archive) as tar:
            name = next(one for one in tar.getnames() if "/edgegw-" in one)
            packed = tar.extractfile(name)
            assert packed is not None
            made = self.folder / Path(name).name
            made.write_bytes(packed.read())
        return made

    def environment(self, **more: str) -> dict[str, str]:
        """What the tools are told."""
        return {
            **os.environ,
            "ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"),
            "ANSIBLE_HOME": str(self.folder / "home"),
            "ANSIBLE_PRIVATE_KEY_FILE": str(self._key),
            "ANSIBLE_SSH_COMMON_ARGS": " ".join(self._ssh),
            # A socket's path may have 107 characters.
            "ANSIBLE_SSH_CONTROL_PATH_DIR": (
                "/run/netns/ssh" if isinstance(self._beside, Fleet) else "/run/edgegw-lab-ssh"
            ),
            "ANSIBLE_LOCAL_TEMP": str(self.folder / "temp"),
            "ANSIBLE_NOCOLOR": "1",
            "NO_COLOR": "1",
            "PATH": f"{TOOLS}:{os.environ['PATH']}",
            **more,
        }

    def play(self, playbook: str, *words: str, release: Path | None = None, code: int = 0) -> Played:
        """Run a playbook of the collection to the end that it must have."""
        command = [str(TOOLS / "ansible-playbook"), f"playbooks/{playbook}.yml", *words]
        said = self.beside(command, name=playbook, code=code, EDGEGW_RELEASE=str(release or ""))
        return Played(said, {host: int(count) for host, count, *_ in _RECAP.findall(said)})

    def beside(self, command: list[str], *, name: str, code: int = 0, **more: str) -> str:
        """Run a tool among the hosts; what it printed. It must end with this code."""
        if self._beside is not None:
            command = self._beside.command(command, folder=ANSIBLE)
        return self._run(command, self.environment(**more), name=name, code=code)

    def _run(self, command: list[str], environment: dict[str, str], *, name: str, code: int = 0) -> str:
        done = subprocess.run(
            command,
            cwd=ANSIBLE,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PLAY_SECONDS,
            check=False,
        )
        self._outputs += 1
        said = done.stdout + done.stderr
        (self.folder / f"{self._outputs}-{name}.log").write_text(said)
        assert done.returncode == code, f"{name} ended with {done.returncode}\n{said[-6_000:]}"
        return said
