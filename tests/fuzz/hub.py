"""Fuzz targets of the hub: a box that signs what it likes, and a journal that anybody brings."""

from __future__ import annotations

import re
from typing import Final

from sqlalchemy import Connection

from edgegw.core.journal import FIRST_PREVIOUS, leaf_hash
from edgegw.core.key_policy import KeyPolicy
from edgegw.core.messages import ExchangeError
from edgegw.core.packages import place_fault
from edgegw.core.records import encode
from edgegw.hub import replay
from edgegw.hub.books import Books
from edgegw.hub.exported import Announced, ExportError, read_journal
from edgegw.hub.items import read_items
from tests.fuzz.peers import Credulous
from tests.fuzz.stored import BRANCH, PLACE, file, journals
from tests.fuzz.target import Target
from tests.hub.places import SqlitePlace
from tests.hub.simulated_box import BANK
from tests.hub.world import NORTH, World, a_site, check_books

_WORLD: list[World] = []


def world() -> World:
    """A hub with a branch that holds money, made when it is first asked for."""
    if not _WORLD:
        made = World(SqlitePlace(PLACE / "hub.db"))
        made.publish(a_site())
        made.fund("A", 1_000)
        box = made.box(NORTH)
        box.pay("A", "SHOP", 1)
        box.hold("A", "SHOP", 1)
        box.stand_in("B", "SHOP", 5)
        box.sync()
        _WORLD.append(made)
    return _WORLD[0]


def records() -> list[bytes]:
    """What this branch and another wrote."""
    return [*_told(), *(encode(record) for record in BRANCH.records)]


def _told() -> list[bytes]:
    with world().engine.begin() as connection:
        rows = connection.exec_driver_sql("SELECT body FROM record WHERE box = 'north' ORDER BY seq")
        return [bytes(row[0]) for row in rows]


def record(data: bytes) -> None:
    """Applying is total: kept and counted or to suspense, never raised, and no money is made of nothing."""
    with world().engine.connect() as connection:
        seq = connection.exec_driver_sql("SELECT max(seq) + 1 FROM record WHERE box = 'north'").scalar_one()
        body = placed(data, seq)
        if place_fault((body,), start=seq, field="epoch", number=1, bank=BANK, box=NORTH):
            raise ExchangeError("refused before it is replayed")
        try:
            _replayed(connection, body, seq)
            check_books(connection)
        finally:
            connection.rollback()


def placed(data: bytes, seq: int) -> bytes:
    """The record as the next one of this branch: any other place is refused before."""
    for name, value in (("bank", f'"{BANK}"'), ("box", f'"{NORTH}"'), ("epoch", "1"), ("seq", str(seq))):
        data = re.sub(rf'"{name}":[^,}}]*'.encode(), f'"{name}":{value}'.encode(), data, count=1)
    return data


def _replayed(connection: Connection, data: bytes, seq: int) -> None:
    items = read_items((data,), (leaf_hash(FIRST_PREVIOUS, data),), start=seq)
    books = Books(connection, box=NORTH, epoch=1)
    books.open(replay.accounts_of(items) | replay.own_accounts_of(NORTH, {"CNY"}))
    replay.Replay(connection, books, box=NORTH, epoch=1, now_ns=1).run(items)
    books.write()


def exported(data: bytes) -> None:
    """With its head believed, what is read of a journal are the records that were signed."""
    announced = Announced(file("taken.journal", data))
    believing = KeyPolicy(
        bank=announced.bank, box=announced.box, epoch=announced.epoch, first="", parse=lambda _: Credulous()
    )
    with read_journal(announced, believing) as read:
        count = sum(len(read.leaves_of(package)) for package in read.packages(read.start))
        assert (read.start + count, read.root) == (read.size, read.root_at(read.size))


TARGETS: Final = (
    Target("taken-journal", exported, (ExportError,), journals),
    Target("hub-record", record, (ExchangeError,), records, slow=True),
)
