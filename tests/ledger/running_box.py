"""A real pen over a real ledger file for tests, with a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec

from edgegw.access.keys import SigningKey
from edgegw.core import journal
from edgegw.core.exchange import Directives, SiteBundle
from edgegw.core.journal import FIRST_PREVIOUS, Checkpoint, Frontier, leaf_hash
from edgegw.core.records import GrantDirective, Kind, Mode, Request, SiteDirective, encode
from edgegw.core.site import Site
from edgegw.ledger.outcomes import Budget
from edgegw.ledger.start import Own, Ways, start
from edgegw.ledger.store import Store
from edgegw.ledger.writer import Pen
from edgegw.sm.sm2 import PrivateKey
from tests.core.box import SITE

KEY = SigningKey("box-1", PrivateKey.generate())
BUNDLE = msgspec.json.encode(SITE)
DIGEST = journal.sm3(BUNDLE).hex()
START_NS = 1_800_000_000 * 10**9


class TestClock:
    """Both clocks, moved by hand."""

    __test__ = False

    def __init__(self) -> None:
        self.wall = START_NS
        self.mono = 5
        self.boot = ""

    def wall_ns(self) -> int:
        """The wall clock."""
        return self.wall

    def mono_ns(self) -> int:
        """The monotonic clock."""
        return self.mono

    def boot_id(self) -> str:
        """This boot of the machine."""
        return self.boot

    def pass_seconds(self, seconds: float) -> None:
        """Both go on."""
        self.wall += int(seconds * 10**9)
        self.mono += int(seconds * 10**9)


def own(boot: str = "boot-1", key: SigningKey = KEY) -> Own:
    """Who starts."""

    def sign(epoch: int, size: int, root: bytes) -> str:
        origin = journal.journal_origin(bank="demo", box="box-1", epoch=epoch)
        return key.seal(Checkpoint(origin, size, root).body())

    return Own(
        bank="demo",
        box="box-1",
        boot=boot,
        sign=sign,
        open_note=lambda _, note: key.public.open(note),
        key_text=key.public.text(),
        version="test",
        box_digest="",
    )


def open_pen(directory: Path, clock: TestClock, *, boot: str = "boot-1", **options: object) -> Pen:
    """A started pen whose task does not run yet."""
    store = Store.open(directory / "ledger.db", create=True)
    wanted = {
        "rules": (),
        "budget": Budget(burst=100, per_second=10),
        "room_for_payments": lambda: True,
        "make_room": lambda: None,
        **options,
    }
    return start(store, own(boot), Ways(clock=clock, **wanted))  # type: ignore[arg-type]


@asynccontextmanager
async def running(pen: Pen) -> AsyncIterator[Pen]:
    """The pen's task runs; at the end it is closed and so is the file."""
    task = asyncio.create_task(pen.run())
    try:
        yield pen
    finally:
        pen.close()
        await task
        pen.desk.store.close()


async def enrol(pen: Pen, *, granted_minor: int = 5_000, used: Site = SITE) -> None:
    """The epoch's link, the site, and money for anna."""
    bundle = msgspec.json.encode(used)
    digest = journal.sm3(bundle).hex()
    pen.commit_now(partial(pen.write_link, note="the link", epoch=1))
    head = {"v": 1, "bank": "demo", "box": "box-1", "incarnation": 1, "wall_ns": 0}
    site = SiteDirective(**head, seq=0, version=1, digest=digest, bytes=len(bundle))  # type: ignore[arg-type]
    grant = GrantDirective(**head, seq=1, account_id="anna", currency="CNY", amount_minor=granted_minor)  # type: ignore[arg-type]
    bodies = (encode(site), encode(grant))
    leaves = []
    leaf, edge = FIRST_PREVIOUS, Frontier()
    for body in bodies:
        leaf = leaf_hash(leaf, body)
        leaves.append(leaf)
        edge.append(leaf)
    bundles = {digest: SiteBundle(bundle, used)}
    await pen.apply_directives(Directives(1, 0, bodies, tuple(leaves), edge, "the hub's note", bundles))
    await pen.change_mode(Mode.ACTIVE, "opened")


def payment(number: int, amount_minor: int = 10, *, debit: str = "anna", credit: str = "shop") -> Request:
    """A payment under an id of its own."""
    return Request(
        kind=Kind.PAYMENT,
        id=f"{number:032x}",
        debit_account_id=debit,
        credit_account_id=credit,
        amount_minor=amount_minor,
        currency="CNY",
    )
