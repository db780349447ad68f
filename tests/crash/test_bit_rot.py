"""One flipped bit in every kind of page, of the file, its WAL and the anchor: found, and never served.

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
from typing import NamedTuple
from unittest import mock

import pytest

from edgegw.errors import Behind, OperatingError
from edgegw.ledger import anchor, writer
from edgegw.ledger.boot import LEDGER_NAME, Opened
from edgegw.ledger.scrub import scrub
from edgegw.ledger.store import Store
from tests.crash.campaign import scratch
from tests.crash.judge import Balances, book_balances, plain_balances, stored_bodies
from tests.crash.workload import Told, open_box, open_day, start_pen
from tests.ledger.pens import full_check
from tests.ledger.running_box import KEY, TestClock
from tests.proof.figures import note

SEED = 31
BOOTS, ROUNDS = 2, 45
SHORT_FLIPS, LONG_FLIPS = 3, 150
PAGE = 4096
FILE_HEADER, WAL_HEADER, FRAME_HEADER = 100, 32, 24
WAL = f"{LEDGER_NAME}-wal"
ANSWERS_ASKED = 40
WRONG = "WRONG:"
HARMLESS = {"freelist", "WAL index"}
"""Nothing is read from there: a start makes the WAL's index anew."""
KINDS = {
    "record leaf",
    "record internal",
    "record overflow",
    "record_identity leaf",
    "record_identity internal",
    "tile leaf",
    "head leaf",
    "snapshot leaf",
    "meta leaf",
    "sqlite_schema leaf",
    "freelist",
    "file header",
    "anchor",
    "WAL header",
    "WAL frame header",
    "WAL frame",
    "WAL index",
}
"""Table and index, inside and leaf, overflow, free, the schema, headers and the WAL: all must be there."""


class Copy(NamedTuple):
    """A sound ledger's copy below `home`, and what a box must serve from it."""

    home: Path
    answers: dict[tuple[str, str], bytes]
    balances: Balances
    findings: set[str]
    """What the check says of a sound ledger: its hub is made up, and so is its cosignature."""


class Spot(NamedTuple):
    """Where a bit is flipped: in which copy, which of its files, and which bit."""

    copy: Copy
    file: str
    bit: int


class Sound:
    """A sound ledger at rest and one with a full WAL."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.told = Told()
        self.copies: dict[str, Copy] = {}
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
        self._copy("rest")
        self.content = (data / LEDGER_NAME).read_bytes()
        self.frames = (self._size("live", WAL) - WAL_HEADER) // (FRAME_HEADER + PAGE)
        store = Store.open_reader(data / LEDGER_NAME)
        self._classify(store)
        store.close()

    def _copy(self, name: str) -> None:
        for part in ("data", "outside"):
            shutil.copytree(self.home / part, self.home / name / part)
        shutil.copytree(self.home / name, self.home / "read")
        store = Store.open_reader(self.home / "read" / "data" / LEDGER_NAME)
        balances, said = plain_balances(stored_bodies(store)), set(findings(store))
        store.close()
        shutil.rmtree(self.home / "read")
        self.copies[name] = Copy(self.home / name, dict(self.told.answers), balances, said)

    def _size(self, name: str, file: str) -> int:
        return (self.home / name / "data" / file).stat().st_size

    def _classify(self, store: Store) -> None:
        db = store._db
        for name, kind, number in db.execute("SELECT name, pagetype, pageno FROM dbstat"):
            self.pages[f"{name} {kind}"].append(number)
        known = {number for numbers in self.pages.values() for number in numbers}
        self.pages["freelist"] = [n for n in range(1, int(db.pragma("page_count")) + 1) if n not in known]

    @property
    def kinds(self) -> list[str]:
        """Every kind of place in which a bit can rot."""
        outside = ["file header", "anchor", "WAL header", "WAL frame header", "WAL frame", "WAL index"]
        return [*sorted(self.pages), *outside]

    def spot(self, kind: str, rng: random.Random) -> Spot:
        """A bit of this kind of place."""
        if kind in self.pages:
            at = (rng.choice(self.pages[kind]) - 1) * PAGE
            at += used_byte(self.content[at : at + PAGE], rng)
            return Spot(self.copies["rest"], f"data/{LEDGER_NAME}", at * 8 + rng.randrange(8))
        frame = WAL_HEADER + rng.randrange(self.frames) * (FRAME_HEADER + PAGE)
        name, file, start, width = {
            "file header": ("rest", f"data/{LEDGER_NAME}", 0, FILE_HEADER),
            "anchor": ("rest", f"outside/{anchor.FILE_NAME}", 0, 0),
            "WAL header": ("live", f"data/{WAL}", 0, WAL_HEADER),
            "WAL frame header": ("live", f"data/{WAL}", frame, FRAME_HEADER),
            "WAL frame": ("live", f"data/{WAL}", frame + FRAME_HEADER, PAGE),
            "WAL index": ("live", f"data/{LEDGER_NAME}-shm", 0, 0),
        }[kind]
        copy = self.copies[name]
        width = width or (copy.home / file).stat().st_size
        return Spot(copy, file, (start + rng.randrange(width)) * 8 + rng.randrange(8))


def flip(spot: Spot, place: Path) -> None:
    """A copy at `place` with that bit flipped."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(spot.copy.home, place)
    target = place / spot.file
    content = bytearray(target.read_bytes())
    content[spot.bit // 8] ^= 1 << spot.bit % 8
    target.write_bytes(content)


class Wrong(Exception):
    """Something that is not so was served."""


def found_by(place: Path, sound: Copy, rng: random.Random) -> str:
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


def _served(opened: Opened, sound: Copy, rng: random.Random) -> str:
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
        for identity in rng.sample(sorted(sound.answers), ANSWERS_ASKED):
            answer = opened.store.find([identity]).get(identity)
            if answer != sound.answers[identity]:
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
    for kind in sound.kinds:
        found[kind] = Counter()
        for number in range(flips):
            rng = random.Random(f"{seed} {kind} {number}")
            spot = sound.spot(kind, rng)
            flip(spot, place)
            try:
                found[kind][found_by(place, spot.copy, rng)] += 1
            except Wrong as wrong:
                found[kind][f"{WRONG} {wrong}, seed {seed}, flip {number}"] += 1
        print(kind, dict(found[kind]), flush=True)
    return found


def judge(sound: Sound, place: Path, *, flips: int, seed: int) -> None:
    """Nothing false was served, and every kind of page that is used has its rot found."""
    found = rot(sound, place, flips=flips, seed=seed)
    wrong = [f"{kind}: {who}" for kind, row in found.items() for who in row if who.startswith(WRONG)]
    finders = Counter[str]()
    for row in found.values():
        finders.update({who: count for who, count in row.items() if not who.startswith(WRONG)})
    note(flips=flips * len(found), kinds=len(found), served_wrong=len(wrong), found_by=str(dict(finders)))
    assert not wrong, "\n".join(wrong)
    unseen = {kind for kind, row in found.items() if set(row) == {"nobody"}}
    assert unseen <= HARMLESS if flips > SHORT_FLIPS else len(unseen) < len(found) // 2, unseen


def test_rot_in_every_kind_of_page_is_found_and_never_served(sound: Sound, tmp_path: Path) -> None:
    """A balance or an answer that a bit of a disk made is money that nobody paid."""
    assert set(sound.kinds) >= KINDS
    judge(sound, tmp_path / "rot", flips=SHORT_FLIPS, seed=SEED)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_much_rot_in_every_kind_of_page_is_found(sound: Sound, tmp_path: Path) -> None:
    """The long run."""
    judge(sound, tmp_path / "rot", flips=LONG_FLIPS, seed=SEED + 1)


def test_rot_in_the_wal_ends_in_a_halt(sound: Sound, tmp_path: Path) -> None:
    """SQLite ends a WAL at the first frame that rotted and says nothing: the anchor knows how far it went."""
    assert sound.frames > 20
    rng = random.Random(SEED)
    halted = 0
    for kind in ["WAL header", *["WAL frame header", "WAL frame"] * 5]:
        spot = sound.spot(kind, rng)
        flip(spot, tmp_path / "rot")
        opened = open_box(tmp_path / "rot" / "data", tmp_path / "rot" / "outside", boot="rot")
        halted += opened.trouble is not None
        assert opened.trouble is None or isinstance(opened.trouble, Behind)
        if opened.trouble is None:
            found = opened.store.find(list(spot.copy.answers))
            assert found == spot.copy.answers, f"{spot.file} bit {spot.bit}, and answers are gone"
        opened.close()
    assert halted >= 5
