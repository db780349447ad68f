"""Whole Debian systems as hosts of a small network on one machine: real systemd and ssh, no emulator.

Everything lives in namespaces of one process: its end, however it comes, ends all hosts, mounts and links.
Run as a program, this file is that process. Leaves out what is done with the hosts.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from tests.waiting import wait_until

CONTROLLER: Final = "10.99.0.254"
CGROUPS: Final = ("systemd", "unified", "pids", "memory", "devices")
"""Where each controller has a hierarchy of its own."""
HOME: Final = "/root"
START_SECONDS: Final = 90
STOP_SECONDS: Final = 20
PREFIX: Final = "edgegw-lab-"
_PR_SET_PDEATHSIG: Final = 1


class Host(NamedTuple):
    """A host of the network."""

    name: str
    address: str


class Fleet:
    """Hosts that run, and commands among them."""

    def __init__(self, root: Path, folder: Path, hosts: Mapping[str, str]) -> None:
        """root: the system that all hosts share, each with changes of its own in memory. folder: an empty one
        for keys and logs. hosts: name to address in 10.99.0.0/24."""
        self.root, self.folder = root, folder
        self.hosts = [Host(name, address) for name, address in hosts.items()]
        self._stage: subprocess.Popen[bytes] | None = None
        self._inside = 0

    def start(self) -> None:
        """Boot all hosts; they answer on ssh when this returns."""
        sweep_cgroups()
        make_keys(self.folder, self.hosts)
        words = [f"{host.name}={host.address}" for host in self.hosts]
        inside = [sys.executable, "-m", "tests.lab.fleet", str(self.root), str(self.folder), *words]
        namespaces = ["--mount", "--net", "--pid", "--fork", "--mount-proc", "--propagation", "private"]
        log = (self.folder / "stage.log").open("wb")
        self._stage = subprocess.Popen(
            ["unshare", *namespaces, "--kill-child=SIGKILL", "--", *inside],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=Path(__file__).resolve().parents[2],
            env={**os.environ, "EDGEGW_LAB_OWNER": str(os.getpid())},
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - one system call
        )
        assert self._stage.stdout is not None
        said = self._stage.stdout.readline()
        if said.strip() != b"ready":
            self.stop()
            raise RuntimeError(f"the hosts do not start: {(self.folder / 'stage.log').read_text()[-2_000:]}")
        children = Path(f"/proc/{self._stage.pid}/task/{self._stage.pid}/children")
        self._inside = int(children.read_text().split()[0])

    def command(self, words: list[str], *, folder: Path = Path("/")) -> list[str]:
        """A command as it is run beside the hosts, in their network."""
        spaces = ["--target", str(self._inside), "--mount", "--net", "--pid", f"--wd={folder}"]
        return ["nsenter", *spaces, "--", *words]

    def run(
        self, *words: str, folder: Path = Path("/"), timeout_s: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run a command beside the hosts to its end."""
        return subprocess.run(
            self.command(list(words), folder=folder),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def on(self, host: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command on a host, over ssh."""
        address = next(one.address for one in self.hosts if one.name == host)
        return self.run("ssh", *ssh_options(self.folder), f"root@{address}", *words)

    def cut(self, host: str, *, connected: bool) -> None:
        """Pull a host's cable, or put it back."""
        done = self.run("ip", "link", "set", f"to-{host}", "up" if connected else "down")
        if done.returncode:
            raise RuntimeError(done.stderr)

    def stop(self) -> None:
        """End all hosts in order; what hangs is killed."""
        stage = self._stage
        if stage is None:
            return
        self._stage = None
        with suppress(OSError):
            assert stage.stdin is not None
            stage.stdin.close()
        try:
            stage.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            stage.kill()
            stage.wait()
        assert stage.stdout is not None
        stage.stdout.close()
        sweep_cgroups()


def ssh_options(folder: Path) -> list[str]:
    """How ssh gets to a host: by the lab's key, to the keys that the hosts were given."""
    options = [f"UserKnownHostsFile={folder / 'known_hosts'}", "StrictHostKeyChecking=yes", "BatchMode=yes"]
    return ["-F", "/dev/null", "-i", str(folder / "id"), *(word for one in options for word in ("-o", one))]


def make_keys(folder: Path, hosts: list[Host]) -> None:
    """The key of who comes, and of each host; nobody is trusted at first sight."""
    make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f"]
    subprocess.run([*make, str(folder / "id")], check=True)
    shutil.copy(folder / "id.pub", folder / "authorized_keys")
    lines = []
    for host in hosts:
        key = folder / f"{host.name}.key"
        subprocess.run([*make, str(key)], check=True)
        (folder / f"{host.name}.hostname").write_text(host.name + "\n")
        kind, public, *_ = key.with_name(key.name + ".pub").read_text().split()
        lines.append(f"{host.address} {kind} {public}\n")
    (folder / "known_hosts").write_text("".join(lines))


def hierarchies(place: Path = Path("/sys/fs/cgroup")) -> list[Path]:
    """The hierarchies of control groups: the kernel's one, or, of the older kind, each controller's."""
    if (place / "cgroup.controllers").exists():
        return [place]
    return [place / one for one in CGROUPS if (place / one).is_dir()]


def sweep_cgroups() -> None:
    """Remove the control groups that ended fleets have left, also killed ones."""
    for hierarchy in hierarchies():
        for top in hierarchy.glob(f"{PREFIX}*"):
            owner = top.name.removeprefix(PREFIX)
            if owner.isdigit() and Path("/proc", owner).exists() and owner != str(os.getpid()):
                continue
            folders = [path for path, _, _ in os.walk(top, topdown=False)]
            for path in folders:
                with suppress(OSError):
                    os.rmdir(path)


def _end_with_parent() -> None:
    """Be killed when the process that asked for the hosts ends, however it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


# --- inside ------------------------------


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _connect(hosts: list[Host]) -> None:
    """A switch, and a cable from it to the network of each host."""
    Path("/run/netns").mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run/netns"], check=True)
    _ip("link", "set", "lo", "up")
    _ip("link", "add", "switch", "type", "bridge")
    _ip("address", "add", f"{CONTROLLER}/24", "dev", "switch")
    _ip("link", "set", "switch", "up")
    for host in hosts:
        _ip("netns", "add", host.name)
        cable = ("type", "veth", "peer", "name", "host0", "netns", host.name)
        _ip("link", "add", f"to-{host.name}", *cable)
        _ip("link", "set", f"to-{host.name}", "master", "switch", "up")
        _ip("-n", host.name, "link", "set", "lo", "up")
        _ip("-n", host.name, "link", "set", "host0", "up")
        _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "host0")


def _boot(root: Path, folder: Path, host: Host, owner: str) -> subprocess.Popen[bytes]:
    """Boot one host, in a control group of its own."""
    own = f"{PREFIX}{owner}/{host.name}"
    joins = []
    for group in hierarchies():
        with suppress(OSError):
            (group / own).mkdir(parents=True, exist_ok=True)
            joins.append(f"echo 0 > {group / own}/cgroup.procs")
    nspawn = (
        f"systemd-nspawn --quiet --register=no --keep-unit --machine={host.name} --directory={root}"
        f" --volatile=overlay --capability=CAP_NET_ADMIN --network-namespace-path=/run/netns/{host.name}"
        " --kill-signal=SIGRTMIN+3"
        f" --console=pipe --bind-ro={folder}/authorized_keys:{HOME}/.ssh/authorized_keys"
        f" --bind-ro={folder}/{host.name}.key:/etc/ssh/ssh_host_ed25519_key"
        f" --bind-ro={folder}/{host.name}.key.pub:/etc/ssh/ssh_host_ed25519_key.pub"
        f" --bind-ro={folder}/{host.name}.hostname:/etc/hostname --boot"
    )
    with (folder / f"{host.name}.log").open("wb") as log:
        return subprocess.Popen(
            ["sh", "-c", "; ".join([*joins, f"exec {nspawn}"])],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def _answers(address: str) -> bool:
    with suppress(OSError), socket.create_connection((address, 22), timeout=1) as connection:
        return connection.recv(4) == b"SSH-"
    return False


def _serve(root: Path, folder: Path, hosts: list[Host]) -> None:
    """Run the hosts until whoever asked for them has closed the pipe."""
    os.umask(0o022)
    owner = os.environ["EDGEGW_LAB_OWNER"]
    _connect(hosts)
    running = [_boot(root, folder, host, owner) for host in hosts]
    try:
        for host in hosts:
            wait_until(
                partial(_answers, host.address), f"{host.name} to answer", timeout_seconds=START_SECONDS
            )
        print("ready", flush=True)
        sys.stdin.buffer.read()
    finally:
        # nspawn ends its system on SIGTERM; another signal would end nspawn alone.
        for one in running:
            one.terminate()
        for one in running:
            with suppress(subprocess.TimeoutExpired):
                one.wait(STOP_SECONDS // 2)


def main() -> None:
    """Be the process in whose namespaces the hosts live."""
    root, folder, *words = sys.argv[1:]
    hosts = [Host(*word.split("=", 1)) for word in words]
    _serve(Path(root), Path(folder), hosts)


if __name__ == "__main__":
    main()
