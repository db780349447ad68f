"""The site's settings between the real hub and the real ledger: whole or not at all, back from the box's own
disk, never looser by the box's own doing."""

import asyncio
import time
from pathlib import Path

import msgspec
import pytest

from edgegw.core.records import Account, Mode, SiteReturned, decode_record
from edgegw.core.site import LimitRule, Site
from edgegw.errors import OperatingError, StorageFailed
from edgegw.hub.operate import freeze
from edgegw.hub.site import Staging, advance, publish, rollback
from edgegw.ledger.store import SITES_KEPT, Bundle, Store
from tests.core.authors import new_key
from tests.hub.world import NORTH, World, a_site
from tests.uplink.real_box import Port, RealBox, synced
from tests.waiting import until

LOW = (LimitRule(name="most", currency="CNY", payment_minor=10),)
HIGH = (LimitRule(name="most", currency="CNY", payment_minor=500),)


async def in_force(box: RealBox, version: int) -> Site:
    await until(lambda: box.pen.desk.book.site_version == version, f"version {version} to be in force")
    site = box.pen.desk.book.site
    assert site is not None
    return site


async def test_a_rollback_comes_from_the_boxs_own_disk(
    tmp_path: Path, world: World, port: Port, boxes: list[RealBox]
) -> None:
    """It is made from what the box kept and proved by its digest; nothing is fetched."""
    box = RealBox(tmp_path, world, port, key=new_key("checkpoint"), boot="one")
    boxes.append(box)
    await in_force(box, 1)
    world.publish(a_site(2, late_decline_liable="branch"))
    assert (await in_force(box, 2)).late_decline_liable == "branch"
    transport = box.line._wire.transport
    fetch, fetched = transport.site, []

    async def recorded(address: str, digest: str) -> bytes:
        fetched.append(digest)
        return await fetch(address, digest)

    transport.site = recorded  # type: ignore[method-assign]
    with world.engine.begin() as connection:
        rollback(connection, world.keyring, 1, now_ns=2)
    site = await in_force(box, 3)
    assert msgspec.structs.replace(site, version=1) == a_site()
    assert fetched == []


async def test_a_box_that_returns_is_as_tight_as_both_and_its_version_is_halted(
    tmp_path: Path, world: World, port: Port, boxes: list[RealBox]
) -> None:
    """Older settings with older, higher limits come back; the newer, lower ones bind all the same, over a
    restart too, until the hub has said what it wants."""
    key = new_key("checkpoint")
    world.publish(a_site(2, limits=HIGH))
    box = RealBox(tmp_path, world, port, key=key, boot="one")
    boxes.append(box)
    await in_force(box, 2)
    digest = box.pen.desk.book.site_digest
    stage(world, a_site(3, limits=LOW, blocked=("B",), late_decline_liable="branch"))
    await in_force(box, 3)
    await port.close()
    await until(lambda: box.pen.mode is Mode.OFFLINE, "the outage")
    left = box.pen.desk.book.site_digest
    assert await box.pen.return_site(left=left, reason="unhealthy")
    assert not await box.pen.return_site(left=left, reason="once is enough")
    site = box.pen.desk.book.site
    assert site is not None
    assert (site.version, site.limits, site.blocked, site.late_decline_liable) == (2, LOW, ("B",), "merchant")
    assert box.pen.desk.book.site_digest == digest
    size = box.size()
    await boxes.pop().stop()
    again = RealBox(tmp_path, world, port, key=key, boot="two")
    boxes.append(again)
    assert again.pen.desk.book.site == site
    (last,) = again.reader.records(epoch=1, start=size - 1, limit=1, bytes_max=1)
    assert isinstance(decode_record(last.body), SiteReturned)
    await port.open()
    await until(lambda: world.row("SELECT stage FROM site WHERE version = 3") == ("failed",), "the word")
    with world.engine.begin() as connection:
        assert "unhealthy" in advance(connection, world.keyring, now_ns=3)
    assert (await in_force(again, 4)).limits == HIGH


async def test_settings_on_their_way_hold_up_no_other_directive(
    tmp_path: Path, world: World, port: Port, boxes: list[RealBox]
) -> None:
    """A long list takes its time on a thin line; a freeze, and money for a payer, must not wait behind it."""
    box = RealBox(tmp_path, world, port, key=new_key("checkpoint"), boot="one")
    boxes.append(box)
    await in_force(box, 1)
    transport = box.line._wire.transport
    fetch, thin, fetching = transport.site, asyncio.Event(), asyncio.Event()

    async def held_up(address: str, digest: str) -> bytes:
        fetching.set()
        await thin.wait()
        return await fetch(address, digest)

    transport.site = held_up  # type: ignore[method-assign]
    world.publish(a_site(2, late_decline_liable="branch"))
    await fetching.wait()
    with world.engine.begin() as connection:
        freeze(connection, world.keyring, account_id="A", frozen=True, reason="court", now_ns=1)
    await until(lambda: "A" in box.pen.desk.book.frozen, "the freeze")
    assert box.pen.desk.book.site_version == 1
    thin.set()
    assert (await in_force(box, 2)).late_decline_liable == "branch"


def stage(world: World, site: Site) -> None:
    with world.engine.begin() as connection:
        publish(connection, world.keyring, msgspec.json.encode(site), now_ns=1, staging=Staging((NORTH,)))


async def test_a_bundle_that_was_fetched_and_not_applied_is_not_in_force_after_a_crash(
    tmp_path: Path, world: World, port: Port, boxes: list[RealBox]
) -> None:
    """The COMMIT fails in between: bundle, accounts and settings are there together, or none of them is."""
    key = new_key("checkpoint")
    box = RealBox(tmp_path, world, port, key=key, boot="one")
    boxes.append(box)
    await synced(box, world)
    seal = box.store.seal

    def failing(**fields: object) -> None:
        if kept(box) == 2:
            raise StorageFailed("the disk is gone in the middle of a COMMIT")
        seal(**fields)  # type: ignore[arg-type]

    box.store.seal = failing  # type: ignore[method-assign]
    new = Account(id="NEW", currency="CNY", home=NORTH)
    world.publish(a_site(2, accounts=(*a_site().accounts, new)))
    await until(lambda: box.ended, "the pen to stop, and its line with it")
    box.store.rollback()
    boxes.pop()
    with pytest.raises(OperatingError):
        await box.stop()
    again = RealBox(tmp_path, world, port, key=key, boot="two")
    boxes.append(again)
    book = again.pen.desk.book
    assert book.site_version == 1
    assert "NEW" not in book.accounts
    assert kept(again) == 1
    await in_force(again, 2)
    assert "NEW" in again.pen.desk.book.accounts


def kept(box: RealBox) -> int:
    rows = box.store._db.execute("SELECT count(*) FROM site").fetchall()
    return int(str(rows[0][0]))


def test_the_last_fifty_bundles_are_kept_and_those_in_force(tmp_path: Path) -> None:
    """A start needs what is in force, however old it is; a disk does not fill with the others."""
    store = Store.open(tmp_path / "ledger.db", create=True)
    for number in range(60):
        store.begin()
        bundle = Bundle(number, f"{number:064x}", "", b"%d" % number)
        store.put_site(bundle, in_force={f"{0:064x}"})
        store.commit()
    store.begin()
    store.put_site(Bundle(12, f"{12:064x}", "", b"12"), in_force={f"{0:064x}"})
    store.commit()
    rows = store._db.execute("SELECT version FROM site ORDER BY version").fetchall()
    versions = [row[0] for row in rows]
    assert len(versions) <= SITES_KEPT + 1
    assert {0, 12, 59} <= set(versions)
    store.close()


@pytest.mark.slow
async def test_ten_thousand_accounts_more_are_in_force_and_out_again(
    tmp_path: Path, world: World, port: Port, boxes: list[RealBox]
) -> None:
    """Told is how long, from the hub's COMMIT to the box's, the bundle's way and its checks included."""
    box = RealBox(tmp_path, world, port, key=new_key("checkpoint"), boot="one")
    boxes.append(box)
    await synced(box, world)
    many = tuple(Account(id=f"M{number:05d}", currency="CNY", home=NORTH) for number in range(10_000))
    await asyncio.to_thread(world.publish, a_site(2, accounts=(*a_site().accounts, *many)))
    began_s = time.monotonic()
    assert "M09999" in {account.id for account in (await in_force(box, 2)).accounts}
    print(f"in force after {time.monotonic() - began_s:.3f} s")
    await synced(box, world)
    with world.engine.begin() as connection:
        rollback(connection, world.keyring, 1, now_ns=2)
    began_s = time.monotonic()
    assert len((await in_force(box, 3)).accounts) == len(a_site().accounts)
    print(f"back after {time.monotonic() - began_s:.3f} s")
