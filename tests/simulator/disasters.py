"""Disasters: a box or the hub goes back to an older disk, a box is replaced or copied, a pen writes what no
sound pen writes; and the person who gives the orders that bring a box back.

Each function takes the world, does its harm after a while and notes it in `world.injected`. What a fault
destroys for ever is kept out: a disk is only put back while the hub holds all that was on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from random import Random
from typing import Any

from edgegw.errors import OperatingError
from edgegw.hub.journals import not_here
from edgegw.hub.operate import OrderError, release_epoch, seal_epoch
from edgegw.hub.take_journal import take_journal
from edgegw.ledger.export import export_journal
from edgegw.ledger.store import Store
from tests.simulator.loop import passed
from tests.simulator.machine import Machine
from tests.simulator.seams import SimulatedKeys
from tests.simulator.world import World, until

SYNC_S = 40.0
ORDER_S = 4.0
ORDER_AGAIN_S = 30.0


async def restore(world: World, chance: Random) -> None:
    """An old copy of a ledger is put back, with the anchor of that time or beside today's."""
    machine = chance.choice(list(world.machines.values()))
    await passed(2 + chance.random() * 12)
    if not machine.ledger.exists():
        return
    copy = world.folder / f"copy-of-{machine.name}"
    machine.copy_disk(copy, anchor=chance.random() < 0.4)
    await passed(3 + chance.random() * 25)
    if await _off_with_all_at_the_hub(world, machine):
        world.throw_disk_away(machine)
        machine.put_disk(copy)
        world.injected["restore"] += 1
        machine.supervised = True
        machine.boot()


async def replace(world: World, chance: Random) -> None:
    """A burnt box is replaced: an empty disk, and a checkpoint key that nobody knows."""
    machine = chance.choice(list(world.machines.values()))
    await passed(5 + chance.random() * 40)
    if await _off_with_all_at_the_hub(world, machine):
        world.throw_disk_away(machine)
        for part in ("data", "anchor"):
            shutil.rmtree(machine.folder / part, ignore_errors=True)
        old = machine.keys.checkpoint.newest
        machine.keys = machine.keys._replace(checkpoint=SimulatedKeys(old.name, old.public.public.point))
        world.injected["replace"] += 1
        machine.supervised = True
        machine.boot()


async def rotate(world: World, chance: Random) -> None:
    """Boxes get other checkpoint keys, whatever else happens to them in that second."""
    for _ in range(1 + chance.randrange(4)):
        await passed(1 + chance.random() * 15)
        machine = chance.choice(list(world.machines.values()))
        keys = machine.keys.checkpoint
        keys.prepare()
        if await until(lambda keys=keys: keys.following is None, seconds=SYNC_S):  # type: ignore[misc]
            world.injected["rotate"] += 1


async def _off_with_all_at_the_hub(world: World, machine: Machine) -> bool:
    """Switch a box off at a moment when the hub holds all that it has written; whether there was one."""
    if not await until(lambda: world.holds_all(machine), seconds=SYNC_S):
        return False
    machine.supervised = False
    machine.crash()
    return True


async def clone(world: World, chance: Random) -> None:
    """A copy of a box's disks is started as a second box, cut off or not, and has clients of its own."""
    await passed(3 + chance.random() * 12)
    original = chance.choice(list(world.machines.values()))
    if original.process is None or not original.ledger.exists():
        return
    label = f"{original.name}-copy"
    copy = original.clone(world.folder / label, label)
    world.machines[label] = copy
    for address in world.centre.addresses:
        link = world.network.link(label, address)
        link.broken_up = link.broken_down = chance.random() < 0.7
    copy.boot()
    world.injected["clone"] += 1
    client = world.client(f"till-copy-{chance.randrange(100)}", label, chance)
    await client.work(20 + chance.randrange(40))
    for address in world.centre.addresses:
        world.network.link(label, address).heal()


async def hub_restore(world: World, chance: Random) -> None:
    """The hub's database goes back to an older copy: a restore, or a failover that lost its last commits."""
    while True:
        await passed(3 + chance.random() * 20)
        if world.centre.process is None:
            continue
        copy = world.folder / "copy-of-hub"
        world.centre.back_up(copy)
        await passed(chance.choice((0.5, 3.0, 10.0)) * (0.5 + chance.random()))
        if world.centre.process is None:
            continue
        if world.injected["restore"] + world.injected["replace"]:
            return  # what both have lost is lost: nobody promises otherwise
        world.centre.crash(again_s=chance.choice((0.5, 4.0)))
        world.centre.put_back(copy)
        world.injected["hub_restore"] += 1
        if not await until(lambda: world.centre.process is not None, seconds=30):
            return
        bring_again(world)
        await passed(10 + chance.random() * 30)


def bring_again(world: World) -> None:
    """What people had brought to the hub before it was restored, they bring once more."""
    world.order_again()
    for machine in world.retired.values():
        bring_journals(world, machine)


async def poison(world: World, chance: Random) -> None:
    """A box signs what is wrong: bytes that are no record, or money that it does not have."""
    await passed(4 + chance.random() * 30)
    machine = chance.choice(list(world.machines.values()))
    own = machine.process
    if own is None or own.gateway is None or not own.gateway.book.epoch:
        return
    kind = chance.choice(("unreadable", "overdraft", "currency"))
    pen = own.gateway._pen
    if not hasattr(pen, "desk"):
        return
    _write_poison(own, pen, kind, world)  # not awaited: a process that is killed never ends it


def _write_poison(own: Any, pen: Any, kind: str, world: World) -> asyncio.Task[None]:
    """Let the pen write one poisoned record; a pen that has ended writes nothing."""
    from edgegw.ledger.batch import Batch
    from edgegw.ledger.writer import Job

    def run(batch: Batch) -> None:
        stamp = batch.stamp().head()
        words: dict[str, Any] = {"type": "transfer", **stamp, "window": 1, "client": "nobody"}
        currency = "XXX" if kind == "currency" else "CNY"
        words["request"] = {
            "kind": "payment",
            "id": f"{stamp['seq']:032x}",
            "debit_account_id": "CNY-00",
            "credit_account_id": "CNY-01",
            "amount_minor": 77_777,
            "currency": currency,
        }
        names = ("centre:XXX", "risk:XXX") if kind == "currency" else ("CNY-00", "CNY-01")
        words |= {"cleared_by": "allowance", "legs": [[*names, 77_777, 0, "", 0]]}
        if kind == "unreadable":
            words["type"], words["legs"] = "a-type-that-nobody-knows", "none"
        body = json.dumps(words).encode()
        world.facts.poisoned.add(body)
        world.injected["poison"] += 1
        _write_raw(batch, body)

    async def submit() -> None:
        with contextlib.suppress(OperatingError):
            await pen._submit(Job(run))

    done: asyncio.Task[None] = own.run(submit())
    return done


def _write_raw(batch: Any, body: bytes) -> None:
    """What `Batch.write` does, for bytes that were never a record."""
    from edgegw.core.journal import leaf_hash
    from edgegw.ledger.rows import Row, position_of

    place = position_of(epoch=batch.epoch, seq=batch.size)
    batch._leaf = leaf_hash(batch._leaf, body)
    batch.rows.append(Row(place, "transfer", None, None, None, batch._leaf, body))
    batch._at_ns = batch.stamp().at_ns


# --- the person at the hub ----------------------------------------------------------------------------------


async def operator(world: World) -> None:
    """Order a new epoch for every box that waits for one, and again when the order was lost."""
    ordered: dict[str, float] = {}
    while True:
        await passed(ORDER_S)
        if world.centre.process is None:
            continue
        for name, machine in sorted(world.machines.items()):
            if machine.ended and "LedgerCorrupt" in machine.ended[-1]:
                give_an_empty_disk(world, machine)
            own = machine.process
            if machine.label != machine.name:
                continue
            if own is None or own.gateway is None or own.gateway.book.mode.value not in OUT_OF_SERVICE:
                continue
            if world.loop.time() - ordered.get(name, -ORDER_AGAIN_S) < ORDER_AGAIN_S:
                continue
            ordered[name] = world.loop.time()
            retire_copies(world, of=machine.name)  # else the copy would get the epoch that is ordered
            if own.gateway.book.mode.value in ("forked", "fenced"):
                bring_journals(world, machine)
            try:
                world.centre.order(lambda connection, box=name: release_epoch(connection, box))
            except OrderError:
                continue
            world.injected["new_epoch_ordered"] += 1


def give_an_empty_disk(world: World, machine: Machine) -> None:
    """A ledger with a poisoned record in it starts no more: what it holds goes to the hub, then it goes."""
    machine.supervised = False
    machine.crash()
    machine.let_go()
    bring_journals(world, machine)
    if world.holds_all(machine):
        world.throw_disk_away(machine)
        shutil.rmtree(machine.folder / "data")
        machine.ended.clear()
        machine.supervised = True
        machine.boot()
        world.injected["empty_disk"] += 1


def bring_journals(world: World, machine: Machine) -> None:
    """Export what is on a box's disk, epoch by epoch, and let the hub take it in."""
    store = Store.open_reader(machine.ledger)
    try:
        for head in store.heads():
            path = world.folder / f"{machine.folder.name}-{head.epoch}.journal"
            with path.open("wb") as out:
                export_journal(store, out, epoch=head.epoch, progress=lambda _done, _all: None)
            try:
                take_journal(
                    world.centre.database,
                    world.keyring,
                    path,
                    now_ns=world.centre.clock_ns,
                    progress=lambda _done, _all: None,
                )
            except OrderError:
                continue  # sealed, or the hub takes back first: the next order brings it again
            world.injected["journal_taken"] += 1
    finally:
        store.close()


OUT_OF_SERVICE = frozenset({"behind", "forked", "fenced"})


def retire_copies(world: World, *, of: str = "") -> None:
    """Switch the copies of a box (or of all) off for good and bring what they have written to the hub."""
    for label, machine in sorted(world.machines.items()):
        if label == machine.name or (of and machine.name != of):
            continue
        machine.supervised = False
        machine.crash()
        world.retired[label] = world.machines.pop(label)
        if machine.ledger.exists():
            bring_journals(world, machine)
        for client in world.clients:
            client.move(label, machine.name)


def _bring_what_is_missing(world: World, box: str, epoch: int) -> None:
    """Bring every disk of a box to the hub that knows of records which it has not."""
    if world.centre.order(lambda connection: not_here(connection, box, epoch)):
        for machine in (*world.machines.values(), *world.retired.values()):
            if machine.ledger.exists() and machine.name == box:
                bring_journals(world, machine)


def seal_what_is_over(world: World) -> None:
    """Settle every epoch that is followed by one that works, once all that was found of it is at the hub."""
    heads = world.tables("journal_head")["journal_head"]
    forked = {row["box"] for row in heads if row["forked"] and not row["sealed"]}
    for machine in (*world.machines.values(), *world.retired.values()):
        if machine.ledger.exists() and machine.name in forked:
            bring_journals(world, machine)
    newest = {row["box"]: row["epoch"] for row in world.tables("box")["box"]}
    for row in world.tables("journal_head")["journal_head"]:
        if row["epoch"] < newest[row["box"]] and not row["sealed"]:
            box, epoch = row["box"], row["epoch"]
            _bring_what_is_missing(world, box, epoch)
            world.centre.order(lambda connection, b=box, e=epoch: seal_epoch(connection, b, e))
            world.injected["sealed"] += 1
