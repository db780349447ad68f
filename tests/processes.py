"""A hub and a box as real processes on loopback, set up as an operator would: keys, settings, a site."""

from __future__ import annotations

import http.client
import json
import multiprocessing
import os
import secrets
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from click.testing import CliRunner, Result

from edgegw.__main__ import main
from tests.ports import free_ports
from tests.waiting import wait_until

START_SECONDS = 60.0
SITE: dict[str, Any] = {
    "bank": "b1",
    "version": 1,
    "currencies": [{"code": "CNY", "numeric": 156}],
    "accounts": [
        {"id": "alice", "currency": "CNY", "home": "box-1"},
        {"id": "shop", "currency": "CNY", "home": "box-1", "participant": "shopbank"},
        {"id": "bob", "currency": "CNY"},
    ],
    "stand_in": [
        {
            "currency": "CNY",
            "floor_minor": 10_000,
            "account_minor": 20_000,
            "account_count": 5,
            "box_minor": 50_000,
            "offline_seconds_max": 3_600,
        }
    ],
    "allowances": [{"currency": "CNY", "share_percent": 50, "account_minor": 100_000}],
}
BALANCES = """id,debit_account_id,credit_account_id,amount_minor
opening-alice,core:CNY,alice,200000
opening-bob,core:CNY,bob,200000
"""
LINE = (
    "[line]\nheartbeat_ms = 100\nbackoff_ms_max = 200\nconnect_timeout_ms = 5000\n"
    "answer_timeout_ms = 5000\ncentre_timeout_ms = 5000\n"
)
"""Short pauses, and patience with a busy machine."""


class Reply(NamedTuple):
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The body decoded."""
        return json.loads(self.body)


def edgegw(*words: str, text: str = "") -> Result:
    """Run a command of the command line to its end, in this process: starting Python anew costs a second."""
    return CliRunner().invoke(main, words, input=text, prog_name="edgegw")


_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        "edgegw.__main__",
        "edgegw.commands.box",
        "edgegw.commands.enroll",
        "edgegw.commands.hub",
        "edgegw.commands.mirror",
        "edgegw.app",
        "edgegw.hub.app",
        "edgegw.hub.database",
        "edgegw.mirror.app",
        "edgegw.payments.protocols",
    ]
)


def _be(words: tuple[str, ...], folder: str, log: str, environment: dict[str, str]) -> None:
    """In the child: be the command."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    sys.argv = ["edgegw", *words]
    main(list(words), prog_name="edgegw")


class Forked:
    """`edgegw` with these words, from a server that has imported it already: a start costs 0.1 s of a core
    instead of 1.5 s. A process as any other; what `subprocess.Popen` offers of it."""

    def __init__(self, words: tuple[str, ...], *, folder: Path, log: Path) -> None:
        self._process = _SERVER.Process(
            target=_be, args=(words, str(folder), str(log), dict(os.environ)), daemon=True
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Its exit code, once it has ended."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, when it ends within so many seconds."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(["edgegw"], timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Process:
    """A running `edgegw` command whose log is read as JSON lines."""

    def __init__(self, *words: str, folder: Path, log: Path) -> None:
        self.log = log
        self.popen = self._start(words, folder)

    def _start(self, words: tuple[str, ...], folder: Path) -> subprocess.Popen[bytes] | Forked:
        with self.log.open("wb") as stream:
            # Without compiled bytecode each start takes seconds, so a shell that forbids it is overruled.
            return subprocess.Popen(
                [sys.executable, "-m", "edgegw", *words],
                cwd=folder,
                stderr=stream,
                stdout=stream,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""},
            )

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events of this name in the log so far; its last line may be half written."""
        lines = self.log.read_text(encoding="utf-8").splitlines(keepends=True)
        told = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]
        return [one for one in told if one["event"] == name]

    def event(self, name: str) -> dict[str, Any] | None:
        """The first event of this name in the log so far."""
        return next(iter(self.events(name)), None)

    def opened(self) -> dict[str, Any]:
        """Wait until it listens; its `open` event."""
        wait_until(
            lambda: self.event("open") is not None or self.popen.poll() is not None,
            "the process to listen",
            timeout_seconds=START_SECONDS,
        )
        found = self.event("open")
        assert found is not None, self.log.read_text(encoding="utf-8")
        return found

    def end(self, number: signal.Signals) -> int:
        """Send a signal and wait; the exit code."""
        self.popen.send_signal(number)
        return self.popen.wait(timeout=60)


class ForkedProcess(Process):
    """The same, forked."""

    def _start(self, words: tuple[str, ...], folder: Path) -> Forked:
        self.log.write_bytes(b"")
        return Forked(words, folder=folder, log=self.log)


class Branch:
    """A folder with a hub's and a box's settings, and what runs of them."""

    process: type[Process] = ForkedProcess
    """How a hub or box is started; `Process` where it must inherit what the test itself has set."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hub: Process | None = None
        self.box: Process | None = None
        self.runs = 0
        self.http_port = 0
        self.more = ""
        self._set_up()

    def _set_up(self) -> None:
        self.run("keygen", "hub", "--bank", "b1", "--out", self.path("secrets/hub.pem"))
        device = self.path("secrets/device.pem")
        self.run("keygen", "box", "--bank", "b1", "--box", "box-1", "--out", device)
        till = self.path("till.pem")
        public = self.run("keygen", "client", "--out", till).strip()
        scopes = ["pay", "read", "operate"]
        site = {**SITE, "clients": [{"name": "till", "public_key": public, "scopes": scopes}]}
        (self.folder / "site.json").write_text(json.dumps(site))
        (self.folder / "balances.csv").write_text(BALANCES)
        self._write_hub(tuple(f"127.0.0.1:{port}" for port in free_ports(2)))
        self.run("site", "publish", self.path("site.json"), "--hub", self.path("hub.toml"))
        self.run("post", self.path("balances.csv"), "--hub", self.path("hub.toml"))
        self.token = self.run("token", "--client", "till", "--box", "box-1", "--key", till).strip()

    def path(self, name: str) -> str:
        """A file of this folder."""
        return str(self.folder / name)

    def run(self, *words: str, code: int = 0) -> str:
        """Run a command to its end; what it printed, once its exit code is the expected one."""
        done = edgegw(*words)
        assert done.exit_code == code, (words, done.exit_code, done.output, done.exception)
        return done.stdout

    def _write_hub(self, listen: tuple[str, ...]) -> None:
        device = (self.folder / "secrets/device.pub").read_text().strip()
        (self.folder / "hub.toml").write_text(
            f'bank = "b1"\nlisten = {json.dumps(listen)}\n[boxes]\nbox-1 = "{device}"\n'
        )

    def write_box(self, addresses: tuple[str, ...]) -> None:
        """The box's settings with these hub addresses, and `more` at their end."""
        hubs = "".join(
            f'[[hub.addresses]]\nurl = "http://{address}"\npriority = {priority}\n'
            for priority, address in enumerate(addresses)
        )
        (self.folder / "box.toml").write_text(
            f'bank = "b1"\nbox = "box-1"\n[hub]\nkey_file = "secrets/hub.pub"\n{hubs}{LINE}[http]\nport = 0\n'
            + self.more
        )

    def start_hub(self) -> None:
        """Run the hub; its ports stay the same over restarts."""
        self.runs += 1
        self.hub = self.process("hub", folder=self.folder, log=self.folder / f"hub-{self.runs}.log")
        addresses = tuple(self.hub.opened()["addresses"])
        self._write_hub(addresses)
        self.write_box(addresses)

    def start_box(self, *, ready: bool = True) -> None:
        """Run the box, and wait until it takes payments."""
        self.runs += 1
        self.box = self.process("run", folder=self.folder, log=self.folder / f"box-{self.runs}.log")
        self.http_port = int(self.box.opened()["addresses"]["http"][0].rpartition(":")[2])
        if ready:
            wait_until(
                lambda: self.call("GET", "/readyz").status == 200,
                "the box to take payments",
                timeout_seconds=START_SECONDS,
            )

    def call(self, method: str, path: str, body: object = None) -> Reply:
        """Ask the box over HTTP."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=60)
        headers = {"Authorization": f"Bearer {self.token}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return Reply(answer.status, dict(answer.headers.items()), answer.read())
        finally:
            connection.close()

    def pay(self, debit: str, amount_minor: int, *, id: str = "", credit: str = "shop") -> Reply:
        """Pay; a fresh id unless one is given."""
        body = {
            "id": id or secrets.token_hex(16),
            "debit_account_id": debit,
            "credit_account_id": credit,
            "amount_minor": amount_minor,
            "currency": "CNY",
        }
        return self.call("POST", "/v1/payments", body)

    def wait_for_mode(self, mode: str) -> None:
        """Wait until the box is in a mode."""
        wait_until(
            lambda: self.call("GET", "/v1/status").json["mode"] == mode,
            f"the box to be {mode}",
            timeout_seconds=START_SECONDS,
        )

    def end(self) -> None:
        """Kill what still runs."""
        for process in (self.box, self.hub):
            if process is not None:
                process.end(signal.SIGKILL)
