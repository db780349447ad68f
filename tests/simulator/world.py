"""One seed's world: a hub, its boxes, their clients, and the facts that the auditor gets at the end.

Leaves out what goes wrong when (`drill`) and what is right (`auditor`, `books`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, Final

import apsw
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection

from edgegw.access.keystore import OPEN_FILES
from edgegw.access.webhook_key import WebhookKey
from edgegw.core.journal import sm3
from edgegw.core.site import Site
from edgegw.hub.books import post_core
from edgegw.hub.keyring import Keyring
from edgegw.hub.site import SiteError, Staging, halt, promote, publish, rollback
from edgegw.hub.stages import STAGED, unfinished
from edgegw.own import Keys
from tests.simulator.auditor import BRANCH_SEQS, Facts
from tests.simulator.centre import Centre
from tests.simulator.clients import Client, Log
from tests.simulator.loop import VirtualLoop, passed
from tests.simulator.machine import BANK, Machine
from tests.simulator.network import Network
from tests.simulator.seams import SimulatedKeys, key_of
from tests.simulator.site import a_site, openings
from tests.simulator.words import Plain

MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a disk whose fsync is free; any other does, more slowly
ADDRESSES: Final = ("http://hub-a", "http://hub-b")
SITES_MAX: Final = 8
TABLES: Final = (
    "account",
    "outstanding",
    "record",
    "journal_head",
    "stand_in",
    "suspense_item",
    "loss",
    "directive",
    "box",
    "branch",
)


class World:
    """See the module. Made inside `seams.open_seams` and a running `VirtualLoop`."""

    def __init__(self, seed: str, folder: Path, loop: VirtualLoop, *, boxes: int = 0) -> None:
        """boxes: how many; 0: the seed says."""
        self.chance = Random(f"{seed}/world")
        self.loop = loop
        self.folder = folder
        self.injected: Counter[str] = Counter()
        self.findings: list[str] = []
        self.log = Log()
        self.network = Network(loop, Random(f"{seed}/network"), self.injected)
        count = boxes or self.chance.choice((2, 2, 2, 3, 3, 4))
        names = tuple(f"box-{number}" for number in range(1, count + 1))
        self.hub_key = key_of("hub", f"{seed}/hub".encode())
        devices = {name: key_of(name, f"{seed}/{name}".encode()) for name in names}
        self.keyring = Keyring(
            bank=BANK, key=self.hub_key, pinned={name: key.public for name, key in devices.items()}
        )
        self.centre = Centre(
            folder / "hub.db",
            loop=loop,
            chance=Random(f"{seed}/centre"),
            keyring=self.keyring,
            network=self.network,
            addresses=ADDRESSES,
        )
        self.machines: dict[str, Machine] = {}
        self.retired: dict[str, Machine] = {}
        """Copies that were found and switched off."""
        for name in names:
            held = {
                "device": devices[name],
                "checkpoint": SimulatedKeys(
                    f"{BANK}/{name}/checkpoint", f"{seed}/{name}/checkpoint".encode()
                ),
                "hub": self.hub_key.public,
                "keystore": OPEN_FILES,
                "webhook": WebhookKey(Ed25519PrivateKey.from_private_bytes(sm3(f"{seed}/{name}".encode()))),
            }
            keys = Keys(*(held.get(field) for field in Keys._fields))  # type: ignore[arg-type]
            self.machines[name] = self.machine(name, folder / name, keys, Random(f"{seed}/{name}"))
        self.sites: list[Site] = []
        self.facts = Facts()
        self.clients: list[Client] = []
        self._postings: list[tuple[str, str, int]] = []

    def machine(self, name: str, folder: Path, keys: Keys, chance: Random) -> Machine:
        """A machine for a box."""
        return Machine(
            name,
            folder,
            loop=self.loop,
            chance=chance,
            keys=keys,
            addresses=ADDRESSES,
            transport=self.network.transport,
        )

    # --- a day's work ------------------------------------------------------------------------------------

    def open(self, seed: str) -> None:
        """Start the hub with its site and its money, the boxes, the clients."""
        site = a_site(self.chance, tuple(self.machines))
        self.open_with(site, openings(self.chance, site))
        for number in range(self.chance.randint(3, 6)):
            home = sorted(self.machines)[number % len(self.machines)]
            self.client(f"till-{number}", home, Random(f"{seed}/client-{number}"))

    def open_with(self, site: Site, funds: list[tuple[str, int]]) -> None:
        """Start the hub with this site and so much money on its accounts, and the boxes."""
        self.centre.boot()
        self.publish(site)
        for account_id, amount in funds:
            self.fund(account_id, amount)
        for machine in self.machines.values():
            machine.boot()

    def client(self, name: str, home: str, chance: Random) -> Client:
        """A client more."""
        client = Client(name, home, chance=chance, site=self.sites[0], machines=self.machines, log=self.log)
        self.clients.append(client)
        return client

    def publish(self, site: Site) -> None:
        """Publish a site bundle."""
        self._publish(site)

    def _publish(self, site: Site, staging: Staging | None = None) -> None:
        body, now_ns = msgspec.json.encode(site), self.centre.clock_ns()

        def order(connection: Connection) -> str:
            if unfinished(connection) is not None:
                halt(connection, self.keyring, reason="another one is wanted", now_ns=now_ns)
            return publish(connection, self.keyring, body, now_ns=now_ns, staging=staging)

        with contextlib.suppress(SiteError):  # what the halt made has the number, or one that was lost
            self.centre.order(order)
        self._note_sites()

    def _note_sites(self) -> None:
        """Keep what the hub has made by itself, for the auditor and for whoever orders again."""
        for row in self.tables("site")["site"]:
            if row["bundle"] is None or row["digest"] in self.facts.sites:
                continue
            self.facts.sites[row["digest"]] = json.loads(row["bundle"])
            if not self.sites or row["version"] > self.sites[-1].version:
                self.sites.append(msgspec.json.decode(row["bundle"], type=Site))

    def stage(self, chance: Random, site: Site) -> None:
        """Publish a site to one box first."""
        self._publish(site, Staging((chance.choice(sorted(self.machines)),)))

    def move_stage_on(self, chance: Random) -> None:
        """Let the fleet have what is staged, or halt it; or take an older version back."""
        lets_out, version, now_ns = chance.random() < 0.5, chance.randint(1, 3), self.centre.clock_ns()

        def order(connection: Connection) -> None:
            stage = unfinished(connection)
            if stage is None and version < len(self.sites) < SITES_MAX:
                rollback(connection, self.keyring, self.sites[version - 1].version, now_ns=now_ns)
            elif stage is not None and stage.stage == STAGED and lets_out:
                promote(connection, share_percent=100, now_ns=now_ns)
            elif stage is not None:
                halt(connection, self.keyring, reason="ordered", now_ns=now_ns)

        with contextlib.suppress(SiteError):  # a restored hub may have lost the version
            self.centre.order(order)
        self._note_sites()

    def fund(self, account_id: str, amount_minor: int) -> None:
        """Post money to an account from outside."""
        self._postings.append((f"opening-{len(self._postings)}", account_id, amount_minor))
        self._post(*self._postings[-1])
        self.facts.openings[account_id] = self.facts.openings.get(account_id, 0) + amount_minor

    def _post(self, id: str, account_id: str, amount_minor: int) -> None:
        self.centre.order(
            lambda connection: post_core(
                connection,
                id=id,
                debit_account_id=f"core:{account_id[:3]}",
                credit_account_id=account_id,
                amount_minor=amount_minor,
            )
        )

    def order_again(self) -> None:
        """What operators do after the hub was restored: the files that they had given it go in once more."""
        for site in self.sites:
            if site.version > self.newest_version():
                self._publish(site)
        for posting in self._postings:
            self._post(*posting)

    def newest_version(self) -> int:
        """Of the site bundles that the hub has."""
        rows = self.tables("site")["site"]
        return max((int(row["version"]) for row in rows), default=0)

    def holds_all(self, machine: Machine) -> bool:
        """Whether the hub has every record of every epoch that is on this box's disk now."""
        if self.centre.process is None:
            return False
        rows = self.tables("record")["record"]
        held = {
            (row["epoch"], row["seq"] % BRANCH_SEQS, row["body"])
            for row in rows
            if row["box"] == machine.name
        }
        return all(
            (epoch, len(bodies) - 1, bodies[-1]) in held
            for epoch, bodies in journals_in(machine.ledger).items()
        )

    def throw_disk_away(self, machine: Machine) -> None:
        """Keep for the auditor what a box has decided by, and will not have any more."""
        self.facts.thrown_away[machine.label].append(journals_in(machine.ledger))

    # --- at the end --------------------------------------------------------------------------------------

    def in_step(self, *, settled: bool = True) -> list[str]:
        """What hub and boxes still lack of each other; empty when they agree."""
        tables = self.tables("journal_head", "directive", "box", "stand_in")
        sizes = {(row["box"], row["epoch"]): row["size"] for row in tables["journal_head"]}
        lacking = []
        for name, machine in sorted(self.machines.items()):
            own = machine.process
            if own is None or own.gateway is None:
                lacking.append(f"{name} is down")
                continue
            book = own.gateway.book
            if sizes.get((machine.name, book.epoch), 0) != book.seq + 1:
                lacking.append(f"{name} has {book.seq + 1} records of {book.epoch}, the hub {sizes}")
            if book.mode.value != "active":
                lacking.append(f"{name} is {book.mode.value}: {book.mode_reason}")
        now = {row["box"]: row["incarnation"] for row in tables["box"]}
        lacking += [
            f"{row['box']} has not applied {row['incarnation']}/{row['seq']}"
            for row in tables["directive"]
            if not row["outcome"] and row["incarnation"] == now[row["box"]]
        ]
        if settled:
            lacking += [f"a stand-in waits: {row}" for row in tables["stand_in"] if not row["settled"]]
        return lacking

    def tables(self, *names: str) -> dict[str, list[Plain]]:
        """Tables of the hub's database, as plain rows."""
        with self.centre.database.engine.begin() as connection:
            return {
                name: [dict(row) for row in connection.exec_driver_sql(f"SELECT * FROM {name}").mappings()]
                for name in names
            }

    def close(self) -> None:
        """Let go of every file; the loop is closed."""
        for machine in (*self.machines.values(), *self.retired.values()):
            machine.let_go()
        self.centre.database.close()

    def collect(self) -> Facts:
        """All that the auditor gets."""
        facts = self.facts
        facts.sent, facts.heard = self.log.sent, self.log.heard
        facts.tables = self.tables(*TABLES)
        heads = facts.tables["journal_head"]
        facts.forked = {(row["box"], row["epoch"]) for row in heads if row["forked"]}
        for name, machine in {**self.machines, **self.retired}.items():
            facts.box_of[name] = machine.name
            facts.journals[name] = journals_in(machine.ledger)
        return facts


def journals_in(ledger: Path) -> dict[int, list[bytes]]:
    """The records of a ledger's file by epoch, read as anybody could."""
    found: dict[int, list[bytes]] = {}
    if not ledger.exists():
        return found
    connection = apsw.Connection(str(ledger), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'record'").fetchall():
            for position, body in connection.execute("SELECT position, body FROM record ORDER BY position"):
                found.setdefault(position >> 40, []).append(body)
    finally:
        connection.close()
    return found


def digest_of(facts: Facts) -> str:
    """One number for everything that was written and said: journals, directives, answers."""
    total = hashlib.sha256()
    for machine, journals in sorted(facts.journals.items()):
        for epoch, bodies in sorted(journals.items()):
            total.update(f"{machine}/{epoch}".encode())
            for body in bodies:
                total.update(body)
    for row in facts.tables["directive"]:
        total.update(row["body"])
    for one in facts.heard:
        total.update(f"{one['sent']} {one['code']}".encode() + one["answer"])
    return total.hexdigest()


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A folder in memory where there is one, gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="edgegw-sim-", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def until(condition: Any, *, seconds: float) -> bool:
    """Whether a condition comes true within so much played time."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + seconds
    while not condition():
        if loop.time() > end_s:
            return False
        await passed(0.5)
    return True
