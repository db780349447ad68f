"""A box and a hub as real processes with every line encrypted: set up, run and looked at by commands."""

import asyncio
import json
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgegw.access.tls import client_context
from edgegw.commands.box import ask
from tests.encrypted import authority, connecting, kind_of
from tests.processes import LINE, Branch, Reply, edgegw
from tests.waiting import wait_until


class EncryptedBranch(Branch):
    """Hub, line and way in by one profile; clients of the box show certificates, too. All private keys are
    sealed, those of the certificates with them."""

    profile = "gm-pq"

    def _write_hub(self, listen: tuple[str, ...]) -> None:
        super()._write_hub(listen)
        self._add(
            "hub.toml", "tls", authority(self.folder, kind_of(self.profile)).server("hub"), "client_ca_file"
        )
        self._seal("hub.toml")

    def write_box(self, addresses: tuple[str, ...]) -> None:
        ours = authority(self.folder, kind_of(self.profile))
        hubs = "".join(
            f'[[hub.addresses]]\nurl = "https://{address}"\npriority = {priority}\n'
            for priority, address in enumerate(addresses)
        )
        (self.folder / "box.toml").write_text(
            f'bank = "b1"\nbox = "box-1"\n[hub]\nkey_file = "secrets/hub.pub"\n{hubs}{LINE}[http]\nport = 0\n'
        )
        self._add("box.toml", "hub.tls", ours.box("box-1", bank="b1"), "ca_file")
        self._add("box.toml", "http.tls", ours.server("way-in"), "client_ca_file")
        self._seal("box.toml")

    def _seal(self, name: str) -> None:
        (self.folder / "words").write_text("correct horse battery staple")
        (self.folder / "words").chmod(0o600)
        with (self.folder / name).open("a") as file:
            file.write('[keys]\nplace = "passphrase"\n[keys.passphrase]\npassphrase_file = "words"\n')
        self.run("keys", "seal", self.path(name))

    def _add(self, name: str, table: str, files: tuple[Path, Path], ca: str) -> None:
        trusted = authority(self.folder, kind_of(self.profile)).ca
        lines = {"profile": self.profile, "certificate_file": files[0], "key_file": files[1], ca: trusted}
        with (self.folder / name).open("a") as file:
            file.write(f"[{table}]\n" + "".join(f'{key} = "{value}"\n' for key, value in lines.items()))

    def call(self, method: str, path: str, body: object = None) -> Reply:
        ours = authority(self.folder, kind_of(self.profile))
        till = client_context(connecting(self.profile, ours.box("till"), ours.ca))
        address = f"127.0.0.1:{self.http_port}"
        status, said = asyncio.run(ask(address, method, path, token=self.token, body=body, tls=till))
        return Reply(status, {}, json.dumps(said).encode())

    def status(self) -> dict[str, Any]:
        """What `edgegw status` says."""
        said = edgegw("status", self.path("box.toml"), "--token", self.token, "--json")
        return json.loads(said.stdout)


@pytest.fixture
def branch(tmp_path: Path) -> Iterator[EncryptedBranch]:
    branch = EncryptedBranch(tmp_path)
    yield branch
    branch.end()


@pytest.mark.slow
def test_a_branch_whose_lines_are_all_encrypted_pays_and_is_looked_at(branch: EncryptedBranch) -> None:
    """Settings, processes and commands fit together: payments with and without the line, once each, and
    `edgegw status` sees the box behind its certificate."""
    branch.start_hub()
    assert edgegw("config", "check", branch.path("hub.toml"), branch.path("box.toml")).exit_code == 0
    branch.start_box()
    branch.wait_for_mode("active")
    central = secrets.token_hex(16)
    assert branch.pay("bob", 2_500, id=central).json["cleared_by"] == "centre"
    assert branch.hub is not None
    assert branch.hub.end(signal.SIGTERM) == 0
    branch.wait_for_mode("offline")
    assert branch.pay("bob", 900).json["cleared_by"] == "stand_in"
    assert branch.pay("bob", 2_500, id=central).status == 201
    branch.start_hub()
    branch.wait_for_mode("active")
    wait_until(lambda: branch.status()["mode"] == "active", "the box to say so beside its ledger")
    report = branch.status()
    assert (report["running"], report["ready"]) == (True, True)
    assert report["box_says"]["mode"] == "active"
    assert branch.box is not None
    assert branch.box.end(signal.SIGTERM) == 0


@pytest.mark.slow
def test_settings_whose_certificates_cannot_be_used_are_found_before_a_start(branch: EncryptedBranch) -> None:
    """A technician is told by option and file in the office, not by a box that stays offline in a branch."""
    branch.write_box(("127.0.0.1:1",))
    key = authority(branch.folder, "sm2").server("way-in").key
    key.chmod(0o640)
    checked = edgegw("config", "check", branch.path("box.toml"))
    assert checked.exit_code == 2
    assert f"http.tls.key_file = {key}: others may read it (mode 0640)" in checked.stderr
    started = edgegw("run", branch.path("box.toml"))
    assert started.exit_code == 2
