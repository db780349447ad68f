"""What the modules share: running the program on the machine, files that appear whole, and a box's own word.

Only the standard library and ansible's own module parts: this runs on machines that have nothing else.
"""

from __future__ import annotations

import json
import os
import pwd
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

COMMAND_SECONDS = 300
ANSWER_SECONDS = 3
PAUSE_SECONDS = 0.3
BEYOND = ("line", "hub", "fence", "site")
"""Reasons for taking no payments that no program on the machine can mend."""
PROGRAM = {"program": {"type": "path", "default": "/opt/edgegw/current/bin/edgegw"}}
USER = {"user": {"type": "str", "default": "edgegw"}}
"""What modules that run the program are told of it; the documentation fragment `program` has the same."""


class Done(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> str:
        """What it said, one line for each of its own, the last ones where there are many."""
        return "\n".join((self.out + "\n" + self.err).strip().splitlines()[-12:])


def run(
    words: Iterable[str],
    *,
    user: str = "",
    folder: str = "",
    text: str = "",
    timeout_s: int = COMMAND_SECONDS,
) -> Done:
    """Run a command to its end, as another user where one is named; nothing of it is logged."""
    command = [str(word) for word in words]
    if user and pwd.getpwuid(os.geteuid()).pw_name != user:
        command = ["runuser", "-u", user, "--", *command]
    done = subprocess.run(
        command,
        cwd=folder or None,
        input=text,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    return Done(done.returncode, done.stdout, done.stderr)


def write_whole(path: Path, content: str, *, mode: int = 0o644) -> None:
    """Write a file that is there whole or not at all, also after a power cut."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def point(link: Path, target: str) -> None:
    """Let a symbolic link point elsewhere, in one step that a power cut does not halve."""
    beside = link.with_name(f".{link.name}.new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    os.replace(beside, link)
    sync_folder(link.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Health(NamedTuple):
    """How the box of a folder is, by its own word and by the service manager's."""

    running: bool
    ready: bool
    reason: str
    """Why it takes no payments; empty when it does."""
    why: str = ""
    """The kind of reason, as the box names it."""

    @property
    def is_well(self) -> bool:
        """Whether it runs, and what keeps it from payments, if anything does, lies beyond this machine."""
        return self.running and (self.ready or self.why in BEYOND)

    @property
    def as_dict(self) -> dict[str, Any]:
        """For a module's result."""
        return self._asdict()


def service_state(unit: str) -> str:
    """`active`, `failed`, `inactive`, `activating`, …"""
    return run(["systemctl", "is-active", unit]).out.strip()


def box_health(folder: str, unit: str) -> Health:
    """Ask the box on its own machine; the network beyond it plays no part."""
    state = service_state(unit)
    if state != "active":
        return Health(False, False, f"{unit} is {state or 'unknown'}")
    try:
        running = json.loads(Path(folder, "data", "running.json").read_text(encoding="utf-8"))
        address = running["addresses"]["http"][0]
    except (OSError, ValueError, LookupError, TypeError):
        return Health(False, False, "it has not said yet where it listens")
    host, _, port = str(address).rpartition(":")
    address = f"{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"  # noqa: S104 - read, not listened on
    last = "it does not answer"
    for scheme in ("https", "http"):
        try:
            return _readiness(f"{scheme}://{address}/readyz")
        except (OSError, ValueError) as problem:
            last = f"it does not answer at {address}: {problem}"
    return _by_status(folder) or Health(False, False, last)


def _by_status(folder: str) -> Health | None:
    """By the program itself, for a profile that the machine's own TLS does not speak."""
    words = ["edgegw", "status", str(Path(folder, "box.toml")), "--json"]
    try:
        said = json.loads(run(words, user="edgegw", folder=folder).out)
        return Health(said["running"], said["ready"], said["not_ready"]) if said["running"] else None
    except (ValueError, LookupError, OSError):
        return None


def _readiness(url: str) -> Health:
    """/readyz says nothing that is secret, so whose certificate it is does not matter here."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        with opener.open(url, timeout=ANSWER_SECONDS) as answer:
            return Health(True, answer.status == 200, "")
    except urllib.error.HTTPError as problem:
        said: Mapping[str, Any] = {}
        try:
            said = json.loads(problem.read())
        except ValueError:
            pass
        if not said:
            raise
        return Health(True, False, str(said.get("message", problem.code)), str(said.get("why", "")))


def wait_for(condition: Callable[[], bool], timeout_s: float, *, pause_s: float = PAUSE_SECONDS) -> bool:
    """Whether it came true in time."""
    ends = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= ends:
            return False
        time.sleep(pause_s)
    return True
