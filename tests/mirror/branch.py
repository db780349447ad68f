"""A branch with a mirror, as real processes, and tills that pay without a pause until they are stopped."""

from __future__ import annotations

import http.client
import json
import re
import secrets
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

from edgegw import verifier
from tests.ports import free_ports
from tests.processes import Branch, Process
from tests.waiting import wait_until

TIMEOUT_MS = 1_000


class MirroredBranch(Branch):
    """Hub, box and mirror; `when_away` and `durability` as in the box's settings."""

    def __init__(
        self,
        folder: Path,
        *,
        when_away: str = "alone",
        durability: str = "mirrored",
        timeout_ms: int = TIMEOUT_MS,
    ) -> None:
        self.mirror: Process | None = None
        folder.mkdir(exist_ok=True)
        super().__init__(folder)
        self.run(
            *("keygen", "mirror", "--bank", "b1", "--mirror", "mirror-1"),
            *("--out", self.path("secrets/mirror.pem")),
        )
        self._rule = f'durability = "{durability}"\nwhen_away = "{when_away}"\ntimeout_ms = {timeout_ms}\n'
        [port] = free_ports(1)
        self._write_mirror(f"127.0.0.1:{port}")

    def wait_for_mirror(self, timeout_ms: int) -> None:
        """From the box's next start on a mirror that is silent for so long is away."""
        self._rule, self.more = (
            re.sub(r"timeout_ms = \d+", f"timeout_ms = {timeout_ms}", text)
            for text in (self._rule, self.more)
        )
        settings = self.folder / "box.toml"
        if settings.exists():
            table, mirror, rest = settings.read_text().partition("[mirror]")
            settings.write_text(
                table + mirror + re.sub(r"timeout_ms = \d+", f"timeout_ms = {timeout_ms}", rest, count=1)
            )

    def _write_mirror(self, address: str) -> None:
        device = (self.folder / "secrets/device.pub").read_text().strip()
        (self.folder / "mirror.toml").write_text(
            f'bank = "b1"\nmirror = "mirror-1"\nhub_key_file = "secrets/hub.pub"\nlisten = ["{address}"]\n'
            f'[boxes]\nbox-1 = "{device}"\n'
        )

    def start_mirror(self) -> None:
        """Run the mirror; its port stays the same over restarts. Start it before the hub."""
        self.runs += 1
        self.mirror = self.process("mirror", folder=self.folder, log=self.folder / f"mirror-{self.runs}.log")
        [address] = self.mirror.opened()["addresses"]
        self._write_mirror(address)
        self.more = (
            f'[mirror]\nkey_file = "secrets/mirror.pub"\n{self._rule}'
            f'[[mirror.addresses]]\nurl = "http://{address}"\n'
        )

    def kill_box(self) -> None:
        """End the box as a power cut would."""
        assert self.box is not None
        self.box.end(signal.SIGKILL)

    def burn_box(self) -> None:
        """The box is lost with its disks; its keys were kept elsewhere."""
        self.kill_box()
        for name in ("data", "anchor"):
            shutil.rmtree(self.folder / name)

    def wait_for_event(self, name: str) -> None:
        """Wait until the box's log says this."""
        assert self.box is not None
        box = self.box
        wait_until(lambda: box.event(name) is not None, f"the box to log {name}")

    def keep_image(self) -> None:
        """Copy all that the stopped box has on its disks, its anchor too."""
        for name in ("data", "anchor"):
            shutil.copytree(self.folder / name, self.folder / f"image-{name}")

    def put_image_back(self, *names: str) -> None:
        """These disks of the box as they were when the image was taken."""
        for name in names:
            shutil.rmtree(self.folder / name)
            shutil.copytree(self.folder / f"image-{name}", self.folder / name)

    def mirror_status(self) -> dict[str, Any]:
        """The box as the mirror sees it."""
        assert self.mirror is not None
        [box] = json.loads(self._asked(self.mirror, "/v1/status"))["boxes"]
        return dict(box)

    def _asked(self, process: Process, path: str) -> bytes:
        host, _, port = process.opened()["addresses"][0].rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def kill_hub(self) -> None:
        """The centre is gone, with a power cut."""
        assert self.hub is not None
        self.hub.end(signal.SIGKILL)

    def hub_balance(self, account_id: str) -> int:
        """What an account has in the hub's books, minor units."""
        assert self.hub is not None
        return int(json.loads(self._asked(self.hub, f"/v1/accounts/{account_id}"))["balance_minor"])

    def exported(self, *, epoch: int = 0) -> dict[str, bytes]:
        """The payments of the mirror's copy of an epoch (the newest) by id, as the stand-alone verifier has
        found them sound."""
        output = self.folder / "mirror.journal"
        words = ("--output", str(output), "--epoch", str(epoch))
        self.run("journal", "export", self.path("mirror.toml"), *words)
        assert verifier.main(["--box-key", self.line_of("checkpoint"), "journal", str(output)]) == 0
        return payments_of(output)

    def line_of(self, name: str) -> str:
        """A public key's line."""
        return (self.folder / f"secrets/{name}.pub").read_text().strip()

    def metric(self, name: str) -> float:
        """A gauge of the box."""
        lines = self.call("GET", "/metrics").body.decode().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))

    def durabilities(self) -> list[tuple[str, str]]:
        """Every change of the durability that the box's journal has: what, and why."""
        output = self.folder / "box.journal"
        self.run("journal", "export", self.path("box.toml"), "--output", str(output))
        records = [json.loads(line) for line in output.read_bytes().splitlines()]
        return [(one["durability"], one["reason"]) for one in records if one.get("type") == "durability"]

    def end(self) -> None:
        super().end()
        if self.mirror is not None:
            self.mirror.end(signal.SIGKILL)


def payments_of(journal: Path) -> dict[str, bytes]:
    """The records of requests in an exported journal, by id."""
    found: dict[str, bytes] = {}
    for line in journal.read_bytes().splitlines():
        record: dict[str, Any] = json.loads(line)
        if record.get("type") in ("transfer", "refusal"):
            found[record["request"]["id"]] = line
    return found


class Tills:
    """Threads that pay one after the other; `answered` has each answer's id and body as it came."""

    def __init__(self, branch: MirroredBranch, count: int) -> None:
        self._branch = branch
        self._stop = threading.Event()
        self.answered: dict[str, tuple[int, dict[str, Any]]] = {}
        self.codes: dict[str, int] = {}
        self._threads = [threading.Thread(target=self._pay, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _pay(self) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._stop.is_set():
            identity = secrets.token_hex(16)
            body = {
                "id": identity,
                "debit_account_id": "alice",
                "credit_account_id": "shop",
                "amount_minor": 1,
                "currency": "CNY",
            }
            headers = {"Authorization": f"Bearer {self._branch.token}", "Content-Type": "application/json"}
            try:
                if connection is None:
                    port = self._branch.http_port
                    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                connection.request("POST", "/v1/payments", json.dumps(body), headers)
                reply = connection.getresponse()
                said = json.loads(reply.read())
            except (OSError, http.client.HTTPException, ValueError):
                connection = None
                self._stop.wait(0.02)
                continue
            if reply.status in (201, 409):
                self.answered[identity] = (reply.status, said)
            else:
                self.codes[said["code"]] = self.codes.get(said["code"], 0) + 1
                self._stop.wait(0.01)

    def stop(self) -> None:
        """Let the running payments end."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=60)
