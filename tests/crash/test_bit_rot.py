"""One flipped bit in every kind of page: found, and never served.

A flipped bit is found by a start, by a box that reads its records again, by a read, or by the code of
`edgegw ledger check`; where it is found by none, it lies in a byte that means nothing, and all is served as
before. Short: a few flips in each kind of page. Long, some minutes:
    pytest -m slow tests/crash/test_bit_rot.py -s
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from edgegw.errors import Behind, OperatingError
from edgegw.ledger import writer
from edgegw.ledger.boot import LEDGER_NAME, Opened
from edgegw.ledger.scrub import scrub
from edgegw.ledger.store import Store
from tests.crash.campaign import scratch
from tests.crash.judge import book_balances, plain_balances, stored_bodies
from tests.crash.workload import Told, open_box, open_day, start_pen
from tests.ledger.pens import full_check
from tests.ledger.running_box import KEY, TestClock

SEED = 31
BOOTS, ROUNDS = 2, 45
SHORT_FLIPS, LONG_FLIPS = 3, 150
PAGE = 4096
WAL_HEADER, FRAME_HEADER = 32, 24
ANSWERS_ASKED = 40
WRONG = "WRONG:"
HARMLESS = {"freelist"}


class Sound:
    """A sound ledger at rest, one with a full WAL, and what both must serve."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.told = Told()
        self.pages: defaultdict[str, list[int]] = defaultdict(list)

    async def make(self) -> None:
        """Two boots; the second ledger is copied while its box runs."""
        data, outside = self.home / "data", self.home / "outside"
        with mock.patch.object(writer, "SNAPSHOT_RECORDS", 100):
            for boot in range(BOOTS):
                async with open_day(data, outside, self.told, seed=SEED + boot, boot=f"boot-{boot}") as (
                    day,
                    box,
                ):
                    for _ in range(ROUNDS):
                        await day.round()
                    await day.pen.operator(operator="test", action="overflow", detail="x" * 9_000)
                    box.anchor.close()
                    if boot:
                        self._copy("live")
                        self.live_told = dict(self.told.answers)
        self._copy("rest")
        self.content = (data / LEDGER_NAME).read_bytes()
        store = Store.open_reader(data / LEDGER_NAME)
        self.balances = plain_balances(stored_bodies(store))
        self._classify(store)
        self.findings = set(findings(store))
        """What the check says of a sound ledger: its hub is made up, and so is its cosignature."""
        store.close()

    def _copy(self, name: str) -> None:
        for part in ("data", "outside"):
            shutil.copytree(self.home / part, self.home / name / part)

    def _classify(self, store: Store) -> None:
        db = store._db
        for name, kind, number in db.execute("SELECT name, pagetype, pageno FROM dbstat"):
            self.pages[f"{name} {kind}"].append(number)
        known = {number for numbers in self.pages.values() for number in numbers}
        self.pages["freelist"] = [n for n in range(1, int(db.pragma("page_count")) + 1) if n not in known]

    def flipped(self, place: Path, name: str, file: str, bit: int) -> None:
        """A copy with one bit of one file flipped."""
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.home / name, place)
        target = place / "data" / file
        content = bytearray(target.read_bytes())
        content[bit // 8] ^= 1 << bit % 8
        target.write_bytes(content)


class Wrong(Exception):
    """Something that is not so was served."""


def found_by(place: Path, sound: Sound, rng: random.Random) -> str:
    """Who finds the flipped bit: start, a running box that reads again, a read, check or nobody; or Wrong."""
    try:
        opened = open_box(place / "data", place / "outside", boot="rot")
    except OperatingError as problem:
        return _halts("start", problem)
    try:
        if opened.trouble is not None:
            return _halts("start", opened.trouble)
        return _served(opened, sound, rng)
    finally:
        opened.close()


def _served(opened: Opened, sound: Sound, rng: random.Random) -> str:
    try:
        pen = start_pen(opened, TestClock(), boot="rot")
    except OperatingError as problem:
        return _halts("start", problem)
    if book_balances(pen.desk.book) != sound.balances:
        raise Wrong(f"balances {book_balances(pen.desk.book)}, not {sound.balances}")
    try:
        checked = set(findings(opened.store)) - sound.findings
        for _ in scrub(opened.store):
            continue
    except OperatingError as problem:
        return _halts("reading again", problem)
    try:
        for identity in rng.sample(sorted(sound.told.answers), ANSWERS_ASKED):
            answer = opened.store.find([identity]).get(identity)
            if answer != sound.told.answers[identity]:
                raise Wrong(f"{identity} is answered with {answer!r}")
    except OperatingError as problem:
        return _halts("read", problem)
    return "check" if checked else "nobody"


def findings(store: Store) -> list[str]:
    """What the code of `edgegw ledger check` says of a ledger."""
    return [str(finding) for finding in full_check(store, verify_checkpoint=KEY.public.open).findings]


def _halts(who: str, problem: OperatingError) -> str:
    assert problem.hint, f"no hint with {problem}"
    return who


@pytest.fixture(scope="module")
def sound() -> Iterator[Sound]:
    """Made once."""
    with scratch() as home:
        made = Sound(home)
        asyncio.run(made.make())
        yield made


def used_byte(page: bytes, rng: random.Random) -> int:
    """Where in a page to flip: mostly in what it is used for, its header, cell pointers and cells."""
    if page[0] not in (2, 5, 10, 13) or rng.random() < 0.2:
        return rng.randrange(PAGE)
    cells, content = int.from_bytes(page[3:5]), int.from_bytes(page[5:7])
    pointers = 12 + 2 * cells
    at = rng.randrange(pointers + PAGE - content)
    return at if at < pointers else content + at - pointers


def rot(sound: Sound, place: Path, *, flips: int, seed: int) -> dict[str, Counter[str]]:
    """Flip so many bits in every kind of page, one at a time: who finds each, or what is wrong."""
    found: dict[str, Counter[str]] = {}
    for kind, numbers in sorted(sound.pages.items()):
        found[kind] = Counter()
        for flip in range(flips):
            rng = random.Random(f"{seed} {kind} {flip}")
            at = (rng.choice(numbers) - 1) * PAGE
            bit = (at + used_byte(sound.content[at : at + PAGE], rng)) * 8 + rng.randrange(8)
            sound.flipped(place, "rest", LEDGER_NAME, bit)
            try:
                found[kind][found_by(place, sound, rng)] += 1
            except Wrong as wrong:
                found[kind][f"{WRONG} {wrong}, seed {seed}, flip {flip}"] += 1
        print(kind, dict(found[kind]), flush=True)
    return found


def judge(sound: Sound, place: Path, *, flips: int, seed: int) -> None:
    """Nothing false was served, and every kind of page that is used has its rot found."""
    found = rot(sound, place, flips=flips, seed=seed)
    wrong = [f"{kind}: {who}" for kind, row in found.items() for who in row if who.startswith(WRONG)]
    assert not wrong, "\n".join(wrong)
    unseen = {kind for kind, row in found.items() if set(row) == {"nobody"}}
    assert unseen <= HARMLESS if flips > SHORT_FLIPS else len(unseen) < len(found) // 2, unseen


def test_rot_in_every_kind_of_page_is_found_and_never_served(sound: Sound, tmp_path: Path) -> None:
    """A balance or an answer that a bit of a disk made is money that nobody paid."""
    assert {
        "record leaf",
        "record internal",
        "record overflow",
        "record_identity leaf",
        "tile leaf",
        "head leaf",
        "snapshot leaf",
        "meta leaf",
        "sqlite_schema leaf",
        "freelist",
    } <= set(sound.pages)
    judge(sound, tmp_path / "rot", flips=SHORT_FLIPS, seed=SEED)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_much_rot_in_every_kind_of_page_is_found(sound: Sound, tmp_path: Path) -> None:
    """The long run."""
    judge(sound, tmp_path / "rot", flips=LONG_FLIPS, seed=SEED + 1)


def test_rot_in_the_wal_ends_in_a_halt(sound: Sound, tmp_path: Path) -> None:
    """SQLite ends a WAL at the first frame that rotted and says nothing: the anchor knows how far it went."""
    wal = f"{LEDGER_NAME}-wal"
    content = (sound.home / "live" / "data" / wal).read_bytes()
    frames = (len(content) - WAL_HEADER) // (FRAME_HEADER + PAGE)
    assert frames > 20
    rng = random.Random(SEED)
    halted = 0
    for frame in [0, *rng.sample(range(frames), 10)]:
        start = WAL_HEADER + frame * (FRAME_HEADER + PAGE)
        sound.flipped(
            tmp_path / "rot", "live", wal, rng.randrange(start * 8, (start + FRAME_HEADER + PAGE) * 8)
        )
        opened = open_box(tmp_path / "rot" / "data", tmp_path / "rot" / "outside", boot="rot")
        halted += opened.trouble is not None
        assert opened.trouble is None or isinstance(opened.trouble, Behind)
        if opened.trouble is None:
            found = opened.store.find(list(sound.live_told))
            assert found == sound.live_told, f"flipped in frame {frame}, and answers are gone"
        opened.close()
    assert halted >= 5
