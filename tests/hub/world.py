"""A hub over a real database, boxes that talk to it, and the books checked after every message."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from sqlalchemy import Connection, text

from edgegw.access.keys import VerifyingKey
from edgegw.core.records import Account
from edgegw.core.site import AllowanceRule, CurrencyRule, Site, StandInRule
from edgegw.hub.app import Hub
from edgegw.hub.books import post_core
from edgegw.hub.keyring import Keyring
from edgegw.hub.site import publish
from tests.hub.places import Place
from tests.hub.simulated_box import BANK, CNY, SimulatedBox, new_key

NORTH, SOUTH = "north", "south"
RISK_MINOR = 1_000

ACCOUNTS = (
    Account(id="A", currency=CNY),
    Account(id="B", currency=CNY),
    Account(id="HOME", currency=CNY, home=NORTH),
    Account(id="SHOP", currency=CNY, home=NORTH, participant="shops"),
    Account(id="FAR", currency=CNY, home=SOUTH),
)

BANKS = ("city", "land", "shops")
PEOPLE = tuple(
    Account(id=f"{bank.upper()}-{place}", currency=CNY, home=box, participant=bank)
    for bank in BANKS
    for place, box in (("N", NORTH), ("S", SOUTH))
)
"""Participants, and an account of each at both boxes."""


def a_site(version: int = 1, **changes: object) -> Site:
    """A site of one currency with five accounts; no allotments unless asked for."""
    site = Site(
        bank=BANK,
        version=version,
        currencies=(CurrencyRule(code=CNY, numeric=156),),
        accounts=ACCOUNTS,
        stand_in=(
            StandInRule(
                currency=CNY,
                floor_minor=500,
                account_minor=900,
                account_count=5,
                box_minor=RISK_MINOR,
                offline_seconds_max=3600,
            ),
        ),
    )
    return msgspec.structs.replace(site, **changes)


ALLOTTED = (AllowanceRule(currency=CNY, share_percent=50, account_minor=400),)


HELD = "(SELECT COALESCE(SUM(o.amount_minor), 0) FROM outstanding o WHERE o.account_id = a.account_id)"
BROKEN = (
    "SELECT 'torn' AS what, a.account_id AS who, a.balance_minor AS one, a.available_minor AS other"
    f" FROM account a WHERE a.available_minor + {HELD} <> a.balance_minor"
    " UNION ALL SELECT 'below zero', account_id, balance_minor, available_minor FROM account"
    " WHERE floor AND (balance_minor < 0 OR available_minor < 0)"
    " UNION ALL SELECT 'sum', currency, SUM(balance_minor), 0 FROM account"
    " GROUP BY currency HAVING SUM(balance_minor) <> 0"
)


def check_books(connection: Connection) -> None:
    """The invariants in SQL of the test's own: nothing of the hub's code is trusted here."""
    assert connection.execute(text(BROKEN)).all() == []


OWNER = "CASE WHEN a.participant = '' THEN 'bank' ELSE a.participant END, a.currency"
OWN = "a.account_id NOT LIKE 'settlement:%'"
POSTED = "FROM core_posting k JOIN account a ON a.account_id = k"
UNEQUAL = (  # one statement, one look: another hub may write between two of them
    f"SELECT p, c, SUM(m) FROM (SELECT {OWNER.replace(', ', ' AS p, ')} AS c, a.balance_minor AS m"
    f" FROM account a WHERE {OWN}"
    f" UNION ALL SELECT {OWNER}, k.amount_minor {POSTED}.debit_account_id WHERE {OWN}"
    f" UNION ALL SELECT {OWNER}, -k.amount_minor {POSTED}.credit_account_id WHERE {OWN}"
    " UNION ALL SELECT participant, currency, -(net_minor + centre_minor) FROM window_position) AS moves"
    " WHERE NOT EXISTS (SELECT account_id FROM participant_since GROUP BY account_id HAVING COUNT(*) > 1)"
    " GROUP BY p, c HAVING SUM(m) <> 0"
)


def check_positions(connection: Connection) -> None:
    """All windows together, as they will be settled, are what the books moved between participants, but for
    the bank core's own postings; where no account has gone from one participant to another."""
    assert connection.execute(text(UNEQUAL)).all() == []


class World:
    """A hub with its site, and the boxes that the test brings up."""

    def __init__(self, place: Place, *, clock_ns: Callable[[], int] | None = None) -> None:
        """clock_ns: the machine's; without it the hub's time passes only where the test lets it, because a
        busy machine may take longer for a message than the hub waits for a box."""
        self.place = place
        began_ns, looks = time.time_ns(), itertools.count()
        self._clock_ns = clock_ns or (lambda: began_ns + next(looks))
        self.hub_key = new_key("hub")
        self.devices = {name: new_key(name) for name in (NORTH, SOUTH)}
        pinned = {name: VerifyingKey.parse(key.public.text()) for name, key in self.devices.items()}
        self.keyring = Keyring(bank=BANK, key=self.hub_key, pinned=pinned)
        self.ahead_ns = 0
        """How far the hub's clock is put on: a test lets time pass by it."""
        self.open()
        self.ids = itertools.count()

    def open(self) -> None:
        """Start the hub."""
        self.database = self.place.open()
        self.engine = self.place.engine
        """For SQL of the test's own."""
        self.hub = Hub(self.database, self.keyring, clock_ns=self.now_ns)

    def now_ns(self) -> int:
        """The hub's clock."""
        return self._clock_ns() + self.ahead_ns

    def back_up(self, path: Path) -> None:
        """A copy of the database as it is now."""
        self.place.back_up(path)

    def restore(self, path: Path) -> None:
        """Go on with a copy, as after a failover that lost its last commits."""
        self.hub.close()
        self.place.restore(path)
        self.open()

    def publish(self, site: Site) -> str:
        with self.engine.begin() as connection:
            return publish(connection, self.keyring, msgspec.json.encode(site), now_ns=1)

    def fund(self, account_id: str, amount_minor: int) -> None:
        with self.engine.begin() as connection:
            post_core(
                connection,
                id=f"opening-{next(self.ids)}",
                debit_account_id="core:CNY",
                credit_account_id=account_id,
                amount_minor=amount_minor,
            )

    def talk(self, data: bytes) -> bytes:
        reply = self.hub._exchange(data)
        with self.engine.begin() as connection:
            check_books(connection)
            check_positions(connection)
        return reply

    def box(self, name: str) -> SimulatedBox:
        """A box that is up, in step and has its risk allowance."""
        box = self.new_box(name)
        box.open()
        box.sync()
        return box

    def new_box(self, name: str) -> SimulatedBox:
        return SimulatedBox(name, self.devices[name], self.hub_key.public, self.talk)

    def row(self, query: str, **values: object) -> tuple[object, ...]:
        """The one row of a query."""
        with self.engine.begin() as connection:
            return tuple(connection.execute(text(query), values).one())

    def rows(self, query: str, **values: object) -> list[tuple[object, ...]]:
        with self.engine.begin() as connection:
            return [tuple(row) for row in connection.execute(text(query), values)]

    def money(self, account_id: str) -> tuple[int, int, int]:
        """balance, available, outstanding everywhere."""
        row = self.row(
            "SELECT balance_minor, available_minor, "
            "(SELECT COALESCE(SUM(amount_minor), 0) FROM outstanding o "
            "WHERE o.account_id = a.account_id) FROM account a WHERE account_id = :id",
            id=account_id,
        )
        return tuple(int(str(amount)) for amount in row)  # type: ignore[return-value]
