"""The demo's directory: keys, settings of hub, box and site, opening balances, and where everything lies.

Keys are made and pinned as an operator would; every port is a free one of 127.0.0.1.
"""

from __future__ import annotations

import base64
import datetime
import hmac
import json
import secrets
import socket
import time
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from edgegw.access import keys, tokens
from edgegw.access.key_files import write_new_file
from edgegw.demo.plan import BANK, BOX, CLIENTS, KEYED_TERMINAL, OTHER_BOX, Day

TOKEN_SECONDS: Final = 3600
STATE_NAME: Final = "demo.json"


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """Who listens where."""

    http: int
    iso8583: int
    hubs: tuple[int, int]
    relays: tuple[int, int]


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What a resumed demo must know."""

    seed: int
    payments: int
    date: datetime.date
    ports: Ports
    stage: str = "begun"
    """`before-sync` once everything was stopped there."""
    box_starts: int = 0


class Workplace:
    """Paths of one demo's directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.secrets = self.directory / "secrets"
        self.hub_settings = self.directory / "hub.toml"
        self.box_settings = self.directory / "box.toml"
        self.site = self.directory / "site.json"
        self.opening = self.directory / "opening.csv"
        self.answers = self.directory / "answers.jsonl"
        self.ledger = self.directory / "data" / "ledger.db"
        self.hub_database = self.directory / "hub.db"
        self.journal = self.directory / "branch-1.journal"
        self.receipts = self.directory / "receipts"
        self.hub_log = self.directory / "hub.log"
        self.box_log = self.directory / "box.log"

    def save(self, state: State) -> None:
        """Keep the state for a resume."""
        (self.directory / STATE_NAME).write_bytes(msgspec.json.encode(state))

    def state(self) -> State:
        """The state; raises FileNotFoundError where no demo has run."""
        return msgspec.json.decode((self.directory / STATE_NAME).read_bytes(), type=State)

    def furnish(self, day: Day, ports: Ports) -> None:
        """Write everything that has to be there before the first start."""
        self.secrets.mkdir(parents=True)
        self.receipts.mkdir()
        hub = _device_key(self.secrets / "hub.pem", f"{BANK}/hub")
        box = _device_key(self.secrets / "device.pem", f"{BANK}/{BOX}")
        other = _device_key(self.secrets / "other-device.pem", f"{BANK}/{OTHER_BOX}")
        (self.secrets / "terminals").mkdir()
        vault_key = secrets.token_bytes(32)
        for path, key in (
            (self.secrets / "vault.key", vault_key),
            (self.secrets / "terminals" / f"{KEYED_TERMINAL}.key", secrets.token_bytes(32)),
        ):
            write_new_file(path, f"{key.hex()}\n".encode(), mode=0o600)
        public_keys = {name: self._client_key(name) for name in CLIENTS}
        card_tokens = {pan: hmac.digest(vault_key, pan.encode(), "sm3").hex() for pan in day.cards}
        self.hub_settings.write_text(_hub_settings({BOX: box, OTHER_BOX: other}, ports))
        self.box_settings.write_text(_box_settings(hub, ports))
        self.site.write_text(json.dumps(day.settings(public_keys, card_tokens), indent=1))
        self.opening.write_text(_opening_balances(day))

    def _client_key(self, name: str) -> str:
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_new_file(self.secrets / f"{name}.pem", pem, mode=0o600)
        return base64.b64encode(key.public_key().public_bytes_raw()).decode()

    def client_tokens(self) -> dict[str, str]:
        """A bearer token for each client."""
        minted = {}
        for name in CLIENTS:
            key = load_pem_private_key((self.secrets / f"{name}.pem").read_bytes(), password=None)
            if not isinstance(key, Ed25519PrivateKey):
                raise TypeError(f"{name}.pem is no Ed25519 key")
            minted[name] = tokens.mint_token(
                key, client=name, box=BOX, lifetime_seconds=TOKEN_SECONDS, now_s=int(time.time())
            )
        return minted

    def terminal_key(self) -> bytes:
        """The MAC key of the terminal that has one."""
        return bytes.fromhex((self.secrets / "terminals" / f"{KEYED_TERMINAL}.key").read_text())

    def public_keys(self) -> tuple[str, str]:
        """The one-line texts of the box's checkpoint key and the hub's key, for the verifier."""
        box = keys.load_signing_key(self.secrets / "checkpoint.pem", f"{BANK}/{BOX}/checkpoint")
        hub = keys.load_verifying_key(self.secrets / "hub.pub")
        return box.public.text(), hub.text()


def _device_key(path: Path, name: str) -> str:
    key = keys.create_signing_key(path, name)
    keys.store_verifying_key(path.with_suffix(".pub"), key.public)
    return key.public.text()


def free_ports() -> Ports:
    """Six ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(6)]
    numbers = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return Ports(
        http=numbers[0],
        iso8583=numbers[1],
        hubs=(numbers[2], numbers[3]),
        relays=(numbers[4], numbers[5]),
    )


def _hub_settings(boxes: dict[str, str], ports: Ports) -> str:
    listen = ", ".join(f'"127.0.0.1:{port}"' for port in ports.hubs)
    pinned = "\n".join(f'{name} = "{key}"' for name, key in boxes.items())
    return f'bank = "{BANK}"\nlisten = [{listen}]\n\n[boxes]\n{pinned}\n'


def _box_settings(hub_key: str, ports: Ports) -> str:
    """The box's settings: defaults, but for a line that notices its end sooner."""
    addresses = "".join(
        f'\n[[hub.addresses]]\nurl = "http://127.0.0.1:{port}"\npriority = {priority}\n'
        for priority, port in enumerate(ports.relays, 1)
    )
    return f"""bank = "{BANK}"
box = "{BOX}"

[hub]
key = "{hub_key}"
{addresses}
[line]
heartbeat_ms = 250
answer_timeout_ms = 2500
centre_timeout_ms = 5000
backoff_ms_max = 1000
failback_ms = 1000

[http]
port = {ports.http}
body_timeout_ms = 2000

[iso8583]
port = {ports.iso8583}
frame_timeout_ms = 2000
"""


def _opening_balances(day: Day) -> str:
    currencies = {account["id"]: account["currency"] for account in day.accounts}
    rows = [
        f"opening-{account},core:{currencies[account]},{account},{amount_minor}"
        for account, amount_minor in day.opening.items()
        if amount_minor
    ]
    return "\n".join(["id,debit_account_id,credit_account_id,amount_minor", *rows, ""])
