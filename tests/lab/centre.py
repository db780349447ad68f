"""A centre for the lab's machines, as an operator sets it up: a hub with its CA, a site, releases.

It runs on this machine and listens on loopback; a machine of the lab reaches it at `vm.HUB_ADDRESS`.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import shutil
import signal
import sqlite3
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from firmware.virtual import HUB_ADDRESS
from tests.lab.vm import Gone, Machine
from tests.ports import free_ports
from tests.processes import BALANCES, SITE, Process, Reply, edgegw
from tests.waiting import wait_until

BOX: Final = "box-1"
HTTP_PORT: Final = 8443
_POLL_S: Final = 0.3
_HUB: Final = """
bank = "b1"
listen = ["127.0.0.1:{exchange}"]
[tls]
profile = "intl"
certificate_file = "hub.crt"
key_file = "hub.key"
client_ca_file = "secrets/ca-p256.crt"
[enrolment]
listen = ["127.0.0.1:{enrolment}"]
addresses = ["https://{address}:{enrolment}"]
line = ["https://{address}:{exchange}"]
[enrolment.tls]
profile = "intl"
certificate_file = "hub.crt"
key_file = "hub.key"
[updates]
directory = "updates"
"""
# A lab does not wait for a night, and an image that is unwell need not be watched for ten minutes: it is
# watched from when the box has started, or has failed to.
BOX_SETTINGS: Final = """
[line]
heartbeat_ms = 1000
backoff_ms_max = 2000
[update]
begins = "00:00"
ends = "00:00"
check_minutes = 1
commit_seconds = 30
"""


class Centre:
    """The hub of a lab, in a folder."""

    def __init__(self, folder: Path, releases: Path) -> None:
        """Set it up, unless the folder holds it already; `releases` is the repository whose root the image
        believes, its keys beside it."""
        self.folder = folder
        self.keys, self.releases, self.updates = releases.parent, folder / "releases", folder / "updates"
        self._process: Process | None = None
        self._runs = 0
        if not (folder / "hub.toml").exists():
            self._set_up(releases)

    def _set_up(self, releases: Path) -> None:
        folder = self.folder
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(releases, self.releases)
        self.updates.mkdir()
        exchange, enrolment = free_ports(2)
        settings = _HUB.format(exchange=exchange, enrolment=enrolment, address=HUB_ADDRESS)
        (folder / "hub.toml").write_text(settings, encoding="utf-8")
        self._edgegw("keygen", "hub", "--bank", "b1", "--out", self._path("secrets/hub.pem"))
        self._hub("ca", "init", "--kind", "p256")
        hosts = ("--host", "127.0.0.1", "--host", HUB_ADDRESS)
        self._hub(
            "ca", "certificate", *hosts, "--out", self._path("hub.crt"), "--key-out", self._path("hub.key")
        )
        till = self._path("till.pem")
        public = self._edgegw("keygen", "client", "--out", till).strip()
        clients = [{"name": "till", "public_key": public, "scopes": ["pay", "read", "operate"]}]
        (folder / "site.json").write_text(json.dumps({**SITE, "clients": clients}))
        (folder / "balances.csv").write_text(BALANCES)

    def _path(self, name: str) -> str:
        return str(self.folder / name)

    def _edgegw(self, *words: str) -> str:
        done = edgegw(*words)
        assert done.exit_code == 0, (words, done.exit_code, done.output, done.exception)
        return done.stdout

    def _hub(self, *words: str) -> str:
        return self._edgegw("hub", *words, "--hub", self._path("hub.toml"))

    def token(self) -> str:
        """A token for the till, which lives for minutes."""
        return self._edgegw(
            "token", "--client", "till", "--box", BOX, "--key", self._path("till.pem")
        ).strip()

    def start(self) -> None:
        """Run the hub."""
        self._runs += 1
        self._process = Process(
            "hub", "hub.toml", folder=self.folder, log=self.folder / f"hub-{self._runs}.log"
        )
        self._process.opened()

    def stop(self) -> None:
        """End the hub."""
        if self._process is not None:
            self._process.end(signal.SIGKILL)
            self._process = None

    def claim(self, *, settings: str = BOX_SETTINGS) -> str:
        """A new claim for the box, with what its settings begin with."""
        out, more = self.folder / f"claim-{secrets.token_hex(4)}.json", self.folder / "box-part.toml"
        more.write_text(settings, encoding="utf-8")
        hosts = ("--host", "127.0.0.1")
        self._hub("ca", "claim", BOX, "--branch", "Lab", *hosts, "--settings", str(more), "--out", str(out))
        return out.read_text(encoding="utf-8").strip()

    def open_site(self) -> None:
        """Publish the site's settings, and post the opening balances."""
        hub = ("--hub", self._path("hub.toml"))
        self._edgegw("site", "publish", self._path("site.json"), *hub)
        self._edgegw("post", self._path("balances.csv"), *hub)

    def release(self, bundle: Path) -> None:
        """Sign a bundle as a release and publish it where boxes look."""
        self.sign(bundle)
        self.publish()

    def sign(self, bundle: Path) -> None:
        """Sign a bundle as a release, which nobody is shown yet."""
        self._edgegw("release", "add", str(self.releases), str(bundle), *self._signers())

    def _signers(self) -> tuple[str, ...]:
        return tuple(
            word
            for name in ("targets", "online")
            for word in (f"--{name}-key", str(self.keys / f"{name}.pem"))
        )

    def take_back(self, version: str) -> None:
        """Withdraw one release, as it is done at a centre."""
        self._edgegw("release", "withdraw", str(self.releases), version, *self._signers())
        self.publish()

    def publish(self, folder: Path | None = None) -> None:
        """Bring what boxes see at the hub, or in this folder, to the repository's state, above whatever they
        have seen there."""
        online = ("--online-key", str(self.keys / "online.pem"))
        self._edgegw("release", "publish", str(self.releases), str(folder or self.updates), *online)

    def refresh(self, *, now_s: int) -> None:
        """Sign what boxes see as at this moment."""
        online = ("--online-key", str(self.keys / "online.pem"))
        self._edgegw("release", "refresh", str(self.updates), *online, "--now", str(now_s))

    def renew(self) -> None:
        """Sign the releases afresh, each time under the next number."""
        self._edgegw("release", "refresh", str(self.releases), *self._signers())

    def offered(self) -> str:
        """What the repository holds."""
        return self._edgegw("release", "show", str(self.releases))

    def fleet(self) -> str:
        """What an operator reads of the boxes' programs."""
        return self._edgegw("release", "fleet", "--hub", self._path("hub.toml"))

    def findings(self) -> str:
        """What waits for an operator."""
        return edgegw("findings", "--hub", self._path("hub.toml")).stdout

    def payments(self) -> list[str]:
        """The ids of the till's payments that the hub has, sorted; one that it has twice is there twice."""
        asked = "SELECT request_id FROM record WHERE client = 'till' AND request_id IS NOT NULL"
        return sorted(str(row[0]) for row in self._rows(asked))

    def proving_keys(self) -> list[str]:
        """The options of `edgegw verify` for the box's checkpoint key, as the hub has it, and the hub's."""
        ((key,),) = self._rows("SELECT key FROM journal_head")
        hub = (self.folder / "secrets/hub.pub").read_text(encoding="utf-8").strip()
        return ["--box-key", str(key), "--hub-key", hub]

    def wait_payments(self, answered: list[str], *, timeout_s: float = 180) -> None:
        """Wait until the hub has exactly these payments of the till, each once."""
        wait_until(
            lambda: self.payments() == sorted(answered),
            f"the hub to have {len(answered)} payments, each once",
            timeout_seconds=timeout_s,
            poll_seconds=_POLL_S,
        )

    def wait_version(self, version: str, *, timeout_s: float) -> None:
        """Wait until the box has told which image it runs."""
        self._wait_told("program", version, timeout_s=timeout_s)

    def has_kept(self, version: str) -> bool:
        """Whether the box has told that it runs this image, and that nothing is under way."""
        return self._rows("SELECT program, program_word FROM box") == [(version, "")]

    def wait_word(self, word: str, *, timeout_s: float) -> None:
        """Wait until the box has told how far an update is; nothing where there is none."""
        self._wait_told("program_word", word, timeout_s=timeout_s)

    def wait_problem(self, words: str, *, timeout_s: float) -> None:
        """Wait until the box has told of a problem with its updates, in these words among others."""
        self._wait_told(f"instr(program_problem, '{words}') > 0", 1, timeout_s=timeout_s)

    def _wait_told(self, column: str, value: str | int, *, timeout_s: float) -> None:
        wait_until(
            lambda: self._rows(f"SELECT {column} FROM box") == [(value,)],
            f"the box to tell {value!r} as {column}",
            timeout_seconds=timeout_s,
            poll_seconds=_POLL_S,
        )

    def _rows(self, asked: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(f"file:{self.folder}/hub.db?mode=ro", uri=True)) as database:
            return database.execute(asked).fetchall()


class Till:
    """A till in the branch of a machine: pays over the forwarded port, and remembers what was answered."""

    def __init__(self, machine: Machine, centre: Centre) -> None:
        self._machine, self.centre = machine, centre
        self.answered: list[str] = []

    def call(self, method: str, path: str, body: object = None, *, timeout_s: float = 30) -> Reply:
        """Ask the box; raises OSError or HTTPException."""
        # Its certificate is checked by who knows the centre's CA; the lab asks for what is behind it.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self._machine.ports[HTTP_PORT], timeout=timeout_s, context=context
        )
        headers = {"Authorization": f"Bearer {self.centre.token()}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return Reply(answer.status, dict(answer.headers.items()), answer.read())
        finally:
            connection.close()

    def pay(self, amount_minor: int = 100, *, debit: str = "alice", id: str = "") -> str:
        """Pay, and keep the id of what was answered. id: of a payment that has not been answered yet."""
        id = id or secrets.token_hex(16)

        def taken() -> bool:
            self.ask(id, amount_minor, debit=debit)
            return True

        # A till asks again, with the same id, when a box is too busy to answer in time.
        self._until(taken, "payment taken by the", 60)
        self.answered.append(id)
        return id

    def ask(self, id: str, amount_minor: int, *, debit: str = "alice") -> Reply:
        """Pay, with one question; its answer. Raises OSError, HTTPException, and ValueError where it is not
        taken."""
        body = {
            "id": id,
            "debit_account_id": debit,
            "credit_account_id": "shop",
            "amount_minor": amount_minor,
            "currency": "CNY",
        }
        reply = self.call("POST", "/v1/payments", body)
        if reply.status not in (200, 201):
            raise ValueError(reply.body.decode(errors="replace"))
        return reply

    def status(self) -> dict[str, Any]:
        """What the box says of itself."""
        reply = self.call("GET", "/v1/status")
        if reply.status != 200:
            raise ValueError(reply.body.decode(errors="replace"))
        return reply.json

    def wait_ready(self, *, timeout_s: float = 400) -> None:
        """Wait until the box takes payments."""
        self._until(lambda: self.call("GET", "/readyz", timeout_s=5).status == 200, "ready", timeout_s)

    def wait_mode(self, mode: str, *, timeout_s: float = 120) -> None:
        """Wait until the box is in a mode."""
        self._until(lambda: self.status()["mode"] == mode, mode, timeout_s)

    def _until(self, reached: Callable[[], bool], what: str, timeout_s: float) -> None:
        said = ""

        def quietly() -> bool:
            nonlocal said
            assert self._machine.running, "QEMU has ended"
            try:
                return reached()
            except (OSError, http.client.HTTPException, KeyError, ValueError) as problem:
                said = repr(problem)
                return False

        try:
            wait_until(quietly, f"{what} box", timeout_seconds=timeout_s, poll_seconds=_POLL_S)
        except AssertionError as problem:
            raise Gone(f"{problem} ({said});\n{self._machine.said()[-3_000:]}") from None
