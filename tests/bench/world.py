"""The product for a bench: a hub and a box set up as an operator would, the accounts at home at the box,
their money handed to it as allowances, limits on every account. The hub is ended then: the peers have no
second site either, and a payment that its allowance covers is decided the same with and without the line.

One such folder is made for a run and copied for each lane that pays.
"""

from __future__ import annotations

import hmac
import json
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from edgegw.payments.vault import create_key
from edgegw.sm.sm2 import PrivateKey
from tests.bench import payments
from tests.processes import Branch, Process
from tests.signing import sm2_text
from tests.waiting import wait_until

ENOUGH: Final = 10**15
LIMITS: Final = (
    {"name": "each", "payment_minor": 1_000_000, "currency": "CNY"},
    {"name": "day", "amount_minor": ENOUGH, "count": 10**9, "per": "day", "currency": "CNY"},
)
"""They refuse nothing here, and are counted for every payment."""
TOKEN_MINUTES: Final = 1_440
"""A round may take hours, and it has one token."""
SETTLED_SECONDS: Final = 240.0
SIGNER: Final = "signer.pem"
"""The SM2 key by which the client may sign."""


class World(Branch):
    """A folder with a hub's and a box's settings, keys and data."""

    process = Process
    database_url = ""

    def _set_up(self) -> None:
        secrets_folder = self.folder / "secrets"
        secrets_folder.mkdir(mode=0o700)
        self._vault_key = create_key(secrets_folder / "vault.key")
        self._signer = PrivateKey.generate()
        (self.folder / SIGNER).write_bytes(self._signer.to_pem())
        self.more = "[iso8583]\nport = 0\n"
        super()._set_up()

    def run(self, *words: str, code: int = 0) -> str:
        """Run a command; the site and the opening balances are the bench's."""
        if words[:2] == ("site", "publish"):
            self._enlarge_site()
        if words[0] == "post":
            rows = "".join(
                f"opening-{n},core:CNY,{payments.account_id(n)},{payments.OPENING_MINOR}\n"
                for n in range(payments.ACCOUNTS)
            )
            Path(words[1]).write_text("id,debit_account_id,credit_account_id,amount_minor\n" + rows)
        return super().run(*words, code=code)

    def _write_hub(self, listen: tuple[str, ...]) -> None:
        super()._write_hub(listen)
        if self.database_url:
            path = self.folder / "hub.toml"
            path.write_text(f'database_url = "{self.database_url}"\n' + path.read_text())

    def _enlarge_site(self) -> None:
        path = self.folder / "site.json"
        site: dict[str, Any] = json.loads(path.read_text())
        site["accounts"] = [
            {"id": payments.account_id(n), "currency": "CNY", "home": "box-1", "participant": "city"}
            for n in range(payments.ACCOUNTS)
        ]
        site["limits"] = LIMITS
        site["tokens"] = {"direct_minutes": TOKEN_MINUTES}
        site["clients"][0]["sm2_public_keys"] = [sm2_text(self._signer)]
        site["terminals"] = [
            {
                "id": payments.terminal(n),
                "merchant": payments.merchant(n),
                "credit_account_id": payments.account_id(payments.CARDS + n),
                "currency": "CNY",
            }
            for n in range(payments.TERMINALS)
        ]
        site["cards"] = {
            hmac.digest(self._vault_key, payments.card(n).encode(), "sm3").hex(): payments.account_id(n)
            for n in range(payments.CARDS)
        }
        site["allowances"] = [{"currency": "CNY", "share_percent": 100, "account_minor": ENOUGH}]
        path.write_text(json.dumps(site))


def make_world(folder: Path, *, database_url: str = "") -> None:
    """Hub and box once up, all money handed out, both ended in order. database_url: where the hub's books
    are, if not in a file."""
    folder.mkdir(parents=True)
    World.database_url = database_url
    world = World(folder)
    try:
        world.start_hub()
        world.start_box()
        wait_until(
            lambda: _is_handed_out(world), "the box to hold all money", timeout_seconds=SETTLED_SECONDS
        )
        for process in (world.box, world.hub):
            assert process is not None
            process.end(signal.SIGTERM)
    finally:
        with suppress(OSError):
            world.end()


def _is_handed_out(world: World) -> bool:
    last = payments.account_id(payments.ACCOUNTS - 1)
    found = world.call("GET", f"/v1/accounts/{last}")
    return found.status == 200 and found.json["available_minor"] == payments.OPENING_MINOR


def copy_world(world: Path, folder: Path) -> Path:
    """A box of its own for a lane."""
    shutil.copytree(world, folder)
    return folder
