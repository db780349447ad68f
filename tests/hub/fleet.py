"""Many boxes at one or several hubs: each with customers of its own, or all with the same ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import msgspec

from edgegw.access.keys import VerifyingKey
from edgegw.core.messages import Ask
from edgegw.core.records import Account
from edgegw.hub.books import post_core
from edgegw.hub.database import Database
from edgegw.hub.keyring import Keyring
from edgegw.hub.site import publish
from tests.hub.simulated_box import BANK, CNY, SimulatedBox, new_key
from tests.hub.world import a_site

FUNDS_MINOR = 1_000_000


class Fleet:
    """A bank with so many branches; `talk` of each box is whatever hub the test gives it."""

    def __init__(self, count: int) -> None:
        self.names = [f"branch-{number:03d}" for number in range(count)]
        self.hub_key = new_key(f"{BANK}/hub")
        self.devices = {name: new_key(f"{BANK}/{name}") for name in self.names}
        pinned = {name: VerifyingKey.parse(key.public.text()) for name, key in self.devices.items()}
        self.keyring = Keyring(bank=BANK, key=self.hub_key, pinned=pinned)
        self._ids = itertools.count()

    def set_up(self, database: Database) -> None:
        """Publish the site and give every customer money; the hub has registered the boxes."""
        accounts = [Account(id="SHARED", currency=CNY), Account(id="MALL", currency=CNY)]
        for name in self.names:
            accounts += [Account(id=f"{name}:payer", currency=CNY), Account(id=f"{name}:shop", currency=CNY)]
        site = msgspec.json.encode(a_site(accounts=tuple(accounts)))
        database.transact(lambda c: publish(c, self.keyring, site, now_ns=1))
        for name in self.names:
            self.fund(database, f"{name}:payer", FUNDS_MINOR)

    def fund(self, database: Database, account_id: str, amount_minor: int) -> None:
        """Money from the world outside."""
        id = f"opening-{next(self._ids)}"
        database.transact(
            lambda c: post_core(
                c, id=id, debit_account_id="core:CNY", credit_account_id=account_id, amount_minor=amount_minor
            )
        )

    def box(self, name: str, talk: Callable[[bytes], bytes]) -> SimulatedBox:
        """A box that has its risk allowance and, of its own payer, all that it will spend."""
        box = SimulatedBox(name, self.devices[name], self.hub_key.public, talk)
        box.open()
        box.sync()
        box.sync(Ask(f"{name}-1", f"{name}:payer", CNY, FUNDS_MINOR // 2))
        return box
