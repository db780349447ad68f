"""A mirror that gets a long journal in packages: what it is credited with, it can prove, at every moment.

A COMMIT may be longer than a package. The box has signed the ends of COMMITs alone, so a mirror that holds a
part of one can give back, and prove to others, only what was before it.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from edgegw.access.keys import VerifyingKey
from edgegw.core import tiles
from edgegw.core.journal import Frontier
from edgegw.core.messages import PACKAGE_RECORDS_MAX, Beat, Beaten, ExchangeError
from edgegw.ledger.coverage import Coverage
from edgegw.ledger.received import proven_head
from edgegw.ledger.rows import row_of_bytes
from edgegw.ledger.store import Store
from edgegw.ledger_source import LedgerSource
from edgegw.uplink.mirror import TIPS_MAX, Mirror
from edgegw.uplink.ports import Head, Identity
from edgegw.uplink.session import Sources
from tests.core.authors import BANK, BOX
from tests.mirror.boxes import DEVICE_KEY, MIRROR_KEY, Epoch
from tests.mirror.test_way import BoxHere, MirrorPort
from tests.uplink.box import FAST
from tests.waiting import until


class Ledger:
    """A real ledger file, to which `commit` writes so many records at once, and the way to its mirror."""

    def __init__(self, folder: Path, port: MirrorPort) -> None:
        self.store = Store.open(folder / "ledger.db", create=True)
        self.store.own(bank=BANK, box=BOX)
        # Thousands of COMMITs, none of which has to outlive a power cut here.
        self.store._db.execute("PRAGMA synchronous=OFF").fetchall()
        self.reader = self.store.reader()
        self.log = Epoch()
        self.frontier = Frontier()
        self.ends: list[int] = []
        self.held: list[int] = []
        self.credits: list[int] = []
        self.unproven: list[int] = []
        self.lost: Sequence[int] = ()
        self.box = BoxHere(self.log)
        self._port = port
        self._way: Mirror | None = None
        self._run: asyncio.Task[None] | None = None
        self.commit(0)

    def commit(self, count: int) -> None:
        """One COMMIT of so many records, and the first of all."""
        old = self.frontier.size
        self.log.write_many(count)
        new = range(old, len(self.log.bodies))
        rows = [
            row_of_bytes(self.log.bodies[seq], leaf=self.log.leaves[seq], epoch=1, seq=seq) for seq in new
        ]
        self.store.begin()
        if not old:
            self.store.start_epoch(1, boot="boot-1", root=Frontier().root())
        self.store.append(rows, tiles.extend(self.frontier, [row.leaf for row in rows], epoch=1))
        root, note = self.frontier.root(), self.log.checkpoint()
        size = self.frontier.size
        self.store.seal(epoch=1, old_size=old, size=size, root=root, checkpoint=note, boot="boot-1")
        self.ends.append(size)
        if self._way is not None:
            self._way.head_moved(Head(1, size, root, note))

    def start(self) -> None:
        """The mirror is added; its pushes whose numbers are in `lost` get no answer."""
        assert self._port.keeper is not None
        keeper, ledger = self._port.keeper, self
        answer = keeper.beaten

        def beaten(beat: Beat, *, session: bytes, counter: int) -> Beaten:
            said = answer(beat, session=session, counter=counter)
            if beat.push is not None and said.journal is not None:
                self.held.append(said.journal.size)
                if len(self.held) in self.lost:
                    raise ExchangeError("the answer is lost")
            return said

        class Credited(Coverage):
            def covered(self, *, epoch: int, size: int) -> None:
                proven = proven_head(keeper._store, epoch)
                ledger.credits.append(size)
                if proven is None or proven.size < size:
                    ledger.unproven.append(size)
                super().covered(epoch=epoch, size=size)

        keeper.beaten = beaten  # type: ignore[method-assign]
        self.coverage = Credited()
        self._way = Mirror(
            identity=Identity(
                BANK, BOX, "boot-1", DEVICE_KEY, MIRROR_KEY.public, VerifyingKey.parse, epoch_key=lambda: ""
            ),
            settings=msgspec.structs.replace(FAST, addresses=((0, f"http://127.0.0.1:{self._port.port}"),)),
            source=LedgerSource(self.reader),
            coverage=self.coverage,
            line=self.box,
            keep_note=self.box.keep_note,
            sources=Sources(chance=lambda: 0.0),
        )
        self._run = asyncio.create_task(self._way.run())

    async def covered(self) -> None:
        """Wait until the mirror is credited with all, and compare what it holds."""
        size = self.frontier.size
        await until(lambda: self.coverage.size(1) == size, f"{size} records, {self.credits[-3:]}")
        assert self._port.keeper is not None
        entries = self._port.keeper._store.records(epoch=1, start=0, limit=size + 1, bytes_max=1 << 40)
        assert [entry.body for entry in entries] == self.log.bodies

    async def end(self) -> None:
        """Let go of all."""
        if self._run is not None:
            self._run.cancel()
            with suppress(asyncio.CancelledError):
                await self._run
        self.reader.close()
        self.store.close()


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    """A ledger whose mirror is there and holds nothing; `start` lets them meet."""
    port = MirrorPort(tmp_path / "mirror")
    await port.start()
    (tmp_path / "box").mkdir()
    made = Ledger(tmp_path / "box", port)
    yield made
    await made.end()
    await port.stop()


@pytest.mark.parametrize("lost", [(), (2, 5, 6, 14)])
async def test_a_mirror_added_late_is_credited_with_whole_commits_alone(
    ledger: Ledger, lost: Sequence[int]
) -> None:
    """An answer that leaves for a part of a COMMIT is lost when the box burns: nobody can prove that part."""
    for count in (700, 3, 900, 1_200, 260, 511):
        ledger.commit(count)
    ledger.lost = lost
    ledger.start()
    await ledger.covered()
    for count in (600, 1, 500):
        ledger.commit(count)
        await ledger.covered()
    assert set(ledger.held) - set(ledger.ends), "packages ended amid COMMITs"
    assert ledger.unproven == []
    assert set(ledger.credits) <= set(ledger.ends)


async def test_a_mirror_further_behind_than_the_heads_that_are_kept_gets_all(ledger: Ledger) -> None:
    """The oldest heads are forgotten: a package then ends amid what the first known one signs."""
    ledger.start()
    await ledger.covered()
    for _ in range(TIPS_MAX + 2 * PACKAGE_RECORDS_MAX):
        ledger.commit(1)
    for count in (300, 1, 700):
        ledger.commit(count)
    await ledger.covered()
    assert ledger.unproven == []
    assert set(ledger.credits) <= set(ledger.ends)
