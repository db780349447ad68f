"""The way to the mirror, between a box in memory and a real mirror on a port: whose word counts, for what."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from edgegw.access.keys import SigningKey, VerifyingKey
from edgegw.access.tls import TransportContext, client_context, server_context
from edgegw.commands.serving import site_of
from edgegw.core import journal
from edgegw.core.exchange import Event
from edgegw.core.messages import LogHead
from edgegw.core.records import Mode
from edgegw.errors import Behind, RecordPruned
from edgegw.mirror import keeper as keeper_module
from edgegw.mirror.app import Mirror as MirrorServer
from edgegw.mirror.app import make_app
from edgegw.mirror.keeper import Keeper, Keys
from edgegw.uplink.mirror import Mirror
from edgegw.uplink.outbox import EditedRecord
from edgegw.uplink.ports import Head, Identity
from edgegw.uplink.session import Sources
from tests.certificates import Files
from tests.core.authors import BANK, BOX, new_key
from tests.encrypted import authority, connecting, serving
from tests.mirror.boxes import DEVICE_KEY, HUB_KEY, MIRROR_KEY, Epoch
from tests.uplink.box import FAST
from tests.waiting import until


class MirrorPort:
    """A real mirror on a port of its own, that can be stopped and started on the same files."""

    def __init__(
        self,
        directory: Path,
        *,
        key: SigningKey = MIRROR_KEY,
        cosigner: SigningKey | None = None,
        tls: TransportContext | None = None,
    ) -> None:
        self.directory = directory
        self.key = key
        self.cosigner = cosigner or key
        self.tls = tls
        self.port = 0
        self.keeper: Keeper | None = None
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        keys = Keys(self.cosigner, DEVICE_KEY.public, HUB_KEY.public)
        self.keeper = Keeper(self.directory / BOX, keys, bank=BANK, box=BOX)
        server = MirrorServer(self.key, {BOX: self.keeper}, {BOX: DEVICE_KEY.public}, bank=BANK)
        self._runner = web.AppRunner(make_app(server), shutdown_timeout=0.01)
        await self._runner.setup()
        await site_of(self._runner, "127.0.0.1", self.port, name="mirror", tls=self.tls).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None


class BoxHere:
    """A box whose journal is in memory: what its mirror tells it ends up here."""

    def __init__(self, log: Epoch) -> None:
        self.log = log
        self.mode = Mode.OFFLINE
        self.said = ""
        self.sizes: list[int] = []
        self.accusations: list[tuple[Event, str]] = []
        self.edited: list[str] = []
        self.notes: list[str] = []
        self.excused_epochs: list[int] = []

    # --- Journal

    def heads(self) -> list[Head]:
        return [Head(self.log.number, len(self.log.bodies), self.log.root(), self.log.checkpoint())]

    def records(
        self, *, epoch: int, start: int, limit: int, bytes_max: int
    ) -> list[tuple[int, bytes, bytes]]:
        rows = zip(self.log.leaves, self.log.bodies, strict=True)
        return [(seq, leaf, body) for seq, (leaf, body) in enumerate(rows)][start : start + limit]

    def column_fault(self, *, epoch: int, start: int, count: int) -> None:
        return None

    def node(self, *, epoch: int, size: int) -> journal.Node:
        return self.log.node(size)

    def cosignature(self, epoch: int) -> str:
        return ""

    def site(self, digest: str) -> None:
        return None

    def revoked_keys(self) -> list[Any]:
        return []

    def key_changes(self, epoch: int) -> list[Any]:
        return []

    def others(self) -> list[Any]:
        return []

    def directives(self) -> Any:
        return type("None yet", (), {"incarnation": 0, "frontier": journal.Frontier(), "checkpoint": ""})()

    def incarnations(self) -> list[Any]:
        return []

    def directive_records(self, **_: Any) -> list[Any]:
        return []

    # --- Coverage and Trust

    def answered(self) -> None:
        pass

    def covered(self, *, epoch: int, size: int) -> None:
        self.sizes.append(size)

    def excused(self, *, epoch: int) -> None:
        self.excused_epochs.append(epoch)

    async def distrust(self, problem: str) -> None:
        self.edited.append(problem)
        self.mode = Mode.FORKED

    async def accused(self, event: Event, detail: str) -> None:
        if not self.accusations or self.accusations[-1] != (event, detail):
            self.accusations.append((event, detail))
        self.mode = Mode.FORKED if event is Event.FOUND_FORKED else Mode.FENCED

    async def keep_note(self, epoch: int, note: str) -> None:
        self.notes.append(note)

    def way(
        self,
        port: int,
        *,
        boot: str = "boot-1",
        key: SigningKey = MIRROR_KEY,
        tls: TransportContext | None = None,
    ) -> Mirror:
        """The task that keeps the mirror at this port up to date."""
        identity = Identity(
            BANK, BOX, boot, DEVICE_KEY, key.public, VerifyingKey.parse, epoch_key=lambda: "", tls=tls
        )
        scheme = "http" if tls is None else "https"
        return Mirror(
            identity=identity,
            settings=msgspec.structs.replace(FAST, addresses=((0, f"{scheme}://127.0.0.1:{port}"),)),
            source=self,
            coverage=self,
            line=self,
            keep_note=self.keep_note,
            sources=Sources(chance=lambda: 0.0),
        )

    def write(self, way: Mirror, count: int) -> None:
        """One COMMIT of so many records."""
        self.log.write_many(count)
        way.head_moved(self.heads()[-1])


Run = Callable[[Mirror], "asyncio.Task[None]"]


@pytest.fixture
async def run() -> AsyncIterator[Run]:
    """Starts ways as tasks, and ends them."""
    tasks: list[asyncio.Task[None]] = []

    def start(way: Mirror) -> "asyncio.Task[None]":
        tasks.append(asyncio.create_task(way.run()))
        return tasks[-1]

    yield start
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError, Behind):
            await task


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[MirrorPort]:
    """A mirror that holds nothing."""
    port = MirrorPort(tmp_path)
    await port.start()
    yield port
    await port.stop()


async def test_each_commit_is_covered_and_proven_at_the_mirror(port: MirrorPort, run: Run) -> None:
    """Packages that end amid a COMMIT would leave the mirror with records that nobody can prove."""
    box = BoxHere(Epoch())
    way = box.way(port.port)
    run(way)
    for count in (1, 40, 300, 7):
        box.write(way, count)
    await until(lambda: box.sizes[-1:] == [349], "all to be covered")
    assert port.keeper is not None
    assert port.keeper._store.signed_note(1) is not None
    assert box.log.key.public.open(port.keeper._store.signed_note(1) or "").size == 349
    assert MIRROR_KEY.public.check_cosignature(box.notes[0]).checkpoint.origin == box.log.origin


async def test_over_tls_the_mirror_takes_the_box_that_its_certificate_names(tmp_path: Path, run: Run) -> None:
    """Records of a branch go encrypted to its mirror, and another box's certificate covers nothing."""
    ours = authority(tmp_path, "sm2")
    port = MirrorPort(tmp_path, tls=server_context(serving("gm-pq", ours.server("mirror"), ours.ca)))
    await port.start()
    other = client_context(connecting("gm-pq", ours.box("box-99", bank=BANK), ours.ca))
    stranger = BoxHere(Epoch())
    run(stranger.way(port.port, tls=other))
    await until(lambda: "other_certificate" in stranger.said, "the refusal")
    assert not stranger.sizes
    box = BoxHere(Epoch())
    way = box.way(port.port, tls=client_context(connecting("gm-pq", ours.box(BOX, bank=BANK), ours.ca)))
    run(way)
    box.write(way, 40)
    await until(lambda: box.sizes[-1:] == [41], "all to be covered")
    await port.stop()


async def test_a_mirror_that_starts_again_goes_on_where_it_was(port: MirrorPort, run: Run) -> None:
    """Its sessions are gone; nothing that it holds is sent again, nothing is left out."""
    box = BoxHere(Epoch())
    way = box.way(port.port)
    run(way)
    box.write(way, 20)
    await until(lambda: box.sizes[-1:] == [21], "the first records to be covered")
    await port.stop()
    box.write(way, 5)
    await port.start()
    await until(lambda: box.sizes[-1:] == [26], "the rest to be covered")
    assert not box.accusations


async def test_a_restart_of_the_box_is_covered_without_a_record_more(port: MirrorPort, run: Run) -> None:
    """What the mirror had before must count at once, or repeats would wait for the next payment."""
    box = BoxHere(Epoch())
    way = box.way(port.port)
    task = run(way)
    box.write(way, 3)
    await until(lambda: box.sizes[-1:] == [4], "the records to be covered")
    task.cancel()
    again = BoxHere(box.log)
    run(again.way(port.port, boot="boot-2"))
    await until(lambda: again.sizes[-1:] == [4], "the restart to be covered")


async def test_the_word_of_another_key_covers_nothing(tmp_path: Path, run: Run) -> None:
    """Whoever takes the mirror's address, or half of its keys, could let answers go that nobody has."""
    cases = {
        "envelope": MirrorPort(tmp_path / "a", key=new_key(f"{BANK}/mirror-1")),
        "cosignature": MirrorPort(tmp_path / "b", cosigner=new_key(f"{BANK}/mirror-1")),
    }
    for name, port in cases.items():
        await port.start()
        box = BoxHere(Epoch())
        way = box.way(port.port)
        run(way)
        box.write(way, 3)
        await until(lambda box=box: "signed by" in box.said, f"the wrong {name} to be seen")  # type: ignore[misc]
        assert not box.sizes
        assert not box.notes
        await port.stop()


async def test_a_cosignature_of_something_else_covers_nothing(
    port: MirrorPort, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mirror that signs what the box did not send is wrong, or somebody else's."""
    true = keeper_module.Keeper._cosign

    def other(self: Keeper, head: LogHead) -> str:
        return true(self, LogHead(head.number, head.size, bytes(32)))

    monkeypatch.setattr(keeper_module.Keeper, "_cosign", other)
    box = BoxHere(Epoch())
    way = box.way(port.port)
    run(way)
    box.write(way, 3)
    await until(lambda: "cosigned something else" in box.said, "the false cosignature to be seen")
    assert not box.notes


async def test_a_stale_box_is_closed_by_the_mirror_alone(port: MirrorPort, run: Run) -> None:
    """A record of its own would begin a second history: its pen must end before that."""
    box = BoxHere(Epoch())
    way = box.way(port.port)
    task = run(way)
    stale = box.log.copy()
    box.write(way, 3)
    await until(lambda: box.sizes[-1:] == [4], "the records to be covered")
    task.cancel()
    with pytest.raises(Behind, match="the mirror says: 4 records of epoch 1"):
        await asyncio.wait_for(run(BoxHere(stale).way(port.port, boot="boot-2")), 30)


async def test_a_fork_is_found_at_the_opening_and_amid_a_session(port: MirrorPort, run: Run) -> None:
    """A clone that was connected before it wrote shows its fork only with its next push."""
    box = BoxHere(Epoch())
    way = box.way(port.port)
    run(way)
    await until(lambda: box.sizes[-1:] == [1], "the link to be covered")
    clone = BoxHere(box.log.copy())
    clone_way = clone.way(port.port, boot="boot-2")
    run(clone_way)
    await until(lambda: clone.sizes[-1:] == [1], "the clone to be connected")
    box.write(way, 2)
    await until(lambda: box.sizes[-1:] == [3], "the first history to be covered")
    clone.log.write_many(1, "another")
    clone_way.head_moved(clone.heads()[-1])
    await until(lambda: clone.mode is Mode.FORKED, "the clone to be told")
    assert clone.sizes[-1] == 1
    third = BoxHere(clone.log.copy())
    run(third.way(port.port, boot="boot-3"))
    await until(lambda: third.mode is Mode.FORKED, "the copy of the clone to be told")


async def test_a_full_disk_at_the_mirror_is_said_and_healed(port: MirrorPort, run: Run) -> None:
    """The mirror must not cosign what it could not write, nor need a restart once there is room."""
    box = BoxHere(Epoch())
    way = box.way(port.port)
    run(way)
    await until(lambda: box.sizes[-1:] == [1], "the link to be covered")
    assert port.keeper is not None
    database = port.keeper._store._db
    database.pragma("max_page_count", 1)  # as small as the file is
    box.write(way, 250)
    await until(lambda: "HTTP 507" in box.said, "the full disk to be said")
    assert box.sizes == [1]
    database.pragma("max_page_count", 1 << 30)
    await until(lambda: box.sizes[-1:] == [251], "the mirror to go on")


async def test_an_edited_record_never_reaches_the_mirror(port: MirrorPort, run: Run) -> None:
    """The mirror's copy is evidence: what was changed on the box's disk must not become it."""
    box = BoxHere(Epoch())
    way = box.way(port.port)
    run(way)
    await until(lambda: box.sizes[-1:] == [1], "the link to be covered")
    box.log.write_many(3)
    head = box.heads()[-1]
    box.log.bodies[2] = box.log.bodies[2].replace(b"done", b"dine")
    way.head_moved(head)
    await until(lambda: bool(box.edited), "the edit to be found")
    assert box.sizes == [1]


async def test_an_edited_head_is_found_on_the_way_to_the_mirror(port: MirrorPort, run: Run) -> None:
    """With the line to the hub down nobody else reads it: it must end the clearing, not the way's task."""
    box = BoxHere(Epoch())
    way = box.way(port.port)
    task = run(way)
    await until(lambda: box.sizes[-1:] == [1], "the link to be covered")
    box.log.write_many(1)
    true = box.heads()[-1]
    box.heads = lambda: [true._replace(checkpoint="edited")]  # type: ignore[method-assign]
    way.head_moved(box.heads()[-1])
    await until(lambda: bool(box.edited) or task.done(), "the edit to be found")
    assert box.edited
    assert not task.done()


async def test_a_mirror_that_lacks_pruned_records_is_said(port: MirrorPort, run: Run) -> None:
    """An empty mirror in the place of a lost one: an operator must read why it never has all."""
    box = BoxHere(Epoch())

    def gone(**_: Any) -> list[tuple[int, bytes, bytes]]:
        raise RecordPruned("records 1/3 to 1/511 were pruned")

    box.records = gone  # type: ignore[method-assign]
    task = run(box.way(port.port))
    await until(lambda: "pruned" in box.said or task.done(), "the pruned records to be said")
    assert not task.done()


@pytest.mark.parametrize("fault", [RecordPruned("1/3 to 1/9 were pruned"), EditedRecord("1/3 is missing")])
async def test_an_earlier_epoch_that_cannot_be_sent_bars_no_later_one(
    port: MirrorPort, run: Run, fault: Exception
) -> None:
    """What was wrong with it is why there is a newer one: that one clears, and the mirror has it."""
    box = BoxHere(Epoch(2))
    old = Epoch(1)
    old.write_many(5)
    newest, true_records = box.heads, box.records
    first = Head(1, len(old.bodies), old.root(), old.checkpoint())

    def records(**place: Any) -> list[tuple[int, bytes, bytes]]:
        if place["epoch"] == 1:
            raise fault
        return true_records(**place)

    box.heads = lambda: [first, *newest()]  # type: ignore[method-assign]
    box.records = records  # type: ignore[method-assign]
    box.node = lambda *, epoch, size: (old if epoch == 1 else box.log).node(size)  # type: ignore[method-assign]
    run(box.way(port.port))
    await until(lambda: 1 in box.sizes, "the newer epoch to be covered")
    assert box.excused_epochs == [1]
    assert not box.edited


async def test_impostors_are_passed_over_until_the_true_mirror_is_found(tmp_path: Path, run: Run) -> None:
    """An address from the network proves nothing. One impostor has a certificate of another CA, one a true
    certificate of another server, one the mirror's own certificate without the pinned key."""
    ours, theirs = authority(tmp_path, "sm2"), authority(tmp_path, "sm2", "theirs")
    names = ("mirror-1.branch",)
    named, forged = ours.server("mirror", names=names), theirs.server("forged", names=names)

    def door(name: str, files: Files, key: SigningKey = MIRROR_KEY) -> MirrorPort:
        (tmp_path / name).mkdir()
        return MirrorPort(tmp_path / name, key=key, tls=server_context(serving("gm-pq", files, ours.ca)))

    keyless = new_key("bank/mirror-1")
    doors = [door("a", forged), door("b", ours.server("till")), door("c", named, keyless), door("d", named)]
    for one in doors:
        await one.start()
    places = [f"https://127.0.0.1:{one.port}" for one in doors[:3]]
    box = BoxHere(Epoch())
    table = connecting("gm-pq", ours.box(BOX, bank=BANK), ours.ca, server_name="mirror-1.branch")
    way, reached = box.way(1, tls=client_context(table)), []
    way._places, way._reached = (lambda: tuple(places)), reached.append
    run(way)
    await until(lambda: way._turns._attempts > 6, "each of them to be tried")
    assert not reached
    assert not box.sizes
    places.append(f"https://127.0.0.1:{doors[3].port}")
    box.write(way, 5)
    await until(lambda: box.sizes[-1:] == [6], "the true mirror to cover all")
    assert reached == places[3:]
    for one in doors:
        await one.stop()
