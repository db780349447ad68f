"""`python -m tests.audit.edits --count 10000 --clean 1000`: every edit is found, no clean log is called bad.

Each edit is drawn from a seed, made to a journal, a receipt, a pair of checkpoints or (one in twenty) an
audit export, and shown to the stand-alone verifier; an edit of a journal or an export says which record is
the first bad one (or that none is: another line was edited, or another history was signed). No difference is
harmless in a journal, none in a row of an export. In a receipt and in a proof file the layout of the JSON is
not signed (blanks, the order of fields); no edit here is of that kind.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edgegw import verifier
from edgegw.audit.database import export_database
from tests.audit.ledgers import new_ledger, write_epoch
from tests.audit.logs import BOX, Author, Log, records

EXPORTED_SIZES = (4, 60, 300)
SIZES = (1, 2, 3, 17, 255, 256, 257, 300, 511, 512, 513, 700)


class Shown(NamedTuple):
    """What the verifier is shown, and what it must say."""

    kind: str
    files: list[bytes]
    record: int | None = None
    options: tuple[bytes, ...] = ()
    hub: bool = True
    codes: tuple[int, ...] = (1,)


class World(NamedTuple):
    """A log with its neighbours: the next epoch's, and one that another key has signed."""

    log: Log
    lines: list[bytes]
    cosigned: int
    other: Log
    forger: Author

    @classmethod
    def of(cls, size: int, rng: random.Random) -> World:
        """A log of this size, two thirds of it cosigned."""
        author = Author.new()
        log = Log.of(author, list(records(author, size, rng.randrange(2**32))))
        next_epoch = Author.new(epoch=2, hub=author.hub)
        other = Log.of(next_epoch, list(records(next_epoch, size, rng.randrange(2**32))))
        cosigned = max(1, size * 2 // 3)
        return cls(log, log.lines(cosigned=cosigned), cosigned, other, Author.new(hub=author.hub))

    def places(self) -> list[int]:
        """Of each record the line that it stands in."""
        return [number for number, line in enumerate(self.lines) if line.startswith(b'{"type":')]

    def place(self, rng: random.Random) -> tuple[int, int]:
        """A record and its line."""
        record = rng.randrange(len(self.log.records))
        return record, self.places()[record]

    def journal(self, lines: Sequence[bytes], record: int | None, *, hub: bool = True) -> Shown:
        """The verifier is shown these lines."""
        return Shown("journal", [b"".join(lines)], record, hub=hub)

    def changed(self, place: int, *instead: bytes) -> list[bytes]:
        """The lines with others in place of one."""
        return [*self.lines[:place], *instead, *self.lines[place + 1 :]]


def at_line(world: World, place: int) -> int | None:
    """The record in a line; None for the header, leaves and the end."""
    return world.places().index(place) if place in world.places() else None


# --- edits of a journal -------------------------------------------------------------------------------------


def flipped_bit(world: World, rng: random.Random) -> Shown:
    """One bit of any line."""
    place = rng.randrange(len(world.lines))
    line = bytearray(world.lines[place][:-1])
    bit = rng.randrange(8 * len(line))
    line[bit // 8] ^= 1 << bit % 8
    return world.journal(world.changed(place, bytes(line) + b"\n"), at_line(world, place))


def changed_byte(world: World, rng: random.Random) -> Shown:
    """One byte of a record replaced, put in or left out."""
    record, place = world.place(rng)
    line = world.lines[place][:-1]
    at = rng.randrange(len(line))
    byte = bytes([rng.choice([b for b in range(256) if b not in (line[at], 0x0A)])])
    after = rng.choice([line[at : at + 1] if line[at : at + 1] != byte else b"", b""])
    new = line[:at] + rng.choice([byte, byte + after, b""]) + line[at + 1 :]
    return world.journal(world.changed(place, (new if new != line else line + byte) + b"\n"), record)


def swapped_bytes(world: World, rng: random.Random) -> Shown:
    """Two bytes of a record in each other's place."""
    record, place = world.place(rng)
    line = bytearray(world.lines[place])
    pairs = [at for at in range(len(line) - 2) if line[at] != line[at + 1]]
    at = rng.choice(pairs)
    line[at], line[at + 1] = line[at + 1], line[at]
    return world.journal(world.changed(place, bytes(line)), record)


def swapped_records(world: World, rng: random.Random) -> Shown:
    """Two records in each other's place, the leaves' lines left as they were."""
    if len(world.log.records) < 2:
        return deleted_record(world, rng)
    one, two = sorted(rng.sample(range(len(world.log.records)), 2))
    lines, places = world.lines.copy(), world.places()
    lines[places[one]], lines[places[two]] = lines[places[two]], lines[places[one]]
    return world.journal(lines, one)


def deleted_record(world: World, rng: random.Random) -> Shown:
    """One record gone."""
    record, place = world.place(rng)
    return world.journal(world.changed(place), record)


def deleted_records(world: World, rng: random.Random) -> Shown:
    """Several in a row gone, with the lines of leaves among them."""
    first, _ = world.place(rng)
    last = rng.randrange(first, min(first + 600, len(world.log.records)))
    places = world.places()
    return world.journal([*world.lines[: places[first]], *world.lines[places[last] + 1 :]], first)


def doubled_record(world: World, rng: random.Random) -> Shown:
    """One record twice in a row."""
    record, place = world.place(rng)
    return world.journal(world.changed(place, world.lines[place], world.lines[place]), record + 1)


def inserted_record(world: World, rng: random.Random) -> Shown:
    """A record that nobody signed between two others: invented, of another epoch, or from elsewhere here."""
    record, place = world.place(rng)
    stranger = rng.choice([world.other.records[record], rng.choice(world.log.records), b"{}", b""])
    if stranger == world.log.records[record]:
        record += 1
    return world.journal(world.changed(place, stranger + b"\n", world.lines[place]), record)


def cut_at_byte(world: World, rng: random.Random) -> Shown:
    """The file ends early, anywhere after its first line."""
    body = b"".join(world.lines)
    cut = body[: rng.randrange(len(world.lines[0]), len(body) - 1)]
    whole = sum(
        line.endswith(b"\n") for line in cut.splitlines(keepends=True) if line.startswith(b'{"type":')
    )
    return Shown("journal", [cut], whole)


def cut_at_line(world: World, rng: random.Random) -> Shown:
    """The file ends early, after a whole line."""
    lines = world.lines[: rng.randrange(1, len(world.lines))]
    return world.journal(lines, sum(line.startswith(b'{"type":') for line in lines))


def lost_tail(world: World, rng: random.Random) -> Shown:
    """The last records gone, the signed end kept."""
    record, place = world.place(rng)
    return world.journal([*world.lines[:place], world.lines[-1]], record)


def changed_field(world: World, rng: random.Random) -> Shown:
    """A value changed so that the record stays one."""
    record, place = world.place(rng)
    said = json.loads(world.lines[place])
    name = rng.choice([key for key in said if isinstance(said[key], int | str)])
    said[name] = said[name] + rng.choice((-1, 1)) if isinstance(said[name], int) else said[name] + "x"
    if "request" in said and rng.random() < 0.7:
        said = json.loads(world.lines[place])
        said["request"]["amount_minor"] = said["request"].get("amount_minor", 0) + rng.randrange(1, 10**6)
    return world.journal(world.changed(place, line_of(said)), record)


def changed_record_and_leaves(world: World, rng: random.Random) -> Shown:
    """A record changed and all leaves computed again under the old signature: nothing tells which."""
    record, _ = world.place(rng)
    bodies = list(world.log.records)
    bodies[record] = bodies[record].replace(b'"v":1', b'"v":2')
    return world.journal([*Log.of(world.log.author, bodies).lines()[:-1], world.lines[-1]], None)


def foreign_epoch(world: World, rng: random.Random) -> Shown:
    """A record of the next epoch in the place of the one of this number."""
    record, place = world.place(rng)
    return world.journal(world.changed(place, world.other.records[record] + b"\n"), record)


def spliced_epochs(world: World, rng: random.Random) -> Shown:
    """From a record on the lines of the next epoch, its end included or not."""
    record, place = world.place(rng)
    theirs = world.other.lines()
    end = theirs[-1] if rng.random() < 0.5 else world.lines[-1]
    spliced = [*world.lines[:place], *theirs[place:-1], end]
    return world.journal(spliced, None if end == theirs[-1] else record)


def other_key(world: World, rng: random.Random) -> Shown:
    """Another history from some record on, whole and consistent, signed under the same name by another."""
    forger = world.forger if rng.random() < 0.5 else world.log.author._replace(box=world.log.author.hub)
    return world.journal(rewritten(world, rng)._replace(author=forger).lines(), None, hub=False)


def same_key_branch(world: World, rng: random.Random) -> Shown:
    """Another history signed by the box itself; the hub has cosigned the first one."""
    record = rng.randrange(world.cosigned)
    branch = rewritten(world, rng, record)
    end = line_of({"checkpoint": branch.note(), "cosignatures": [world.log.cosignature(world.cosigned)]})
    return world.journal([*branch.lines()[:-1], end], None)


def rolled_back(world: World, rng: random.Random) -> Shown:
    """A history signed by the box itself that ends before what the hub holds."""
    size = rng.randrange(world.cosigned)
    short = Log.of(world.log.author, world.log.records[:size])
    end = line_of({"checkpoint": short.note(), "cosignatures": [world.log.cosignature(world.cosigned)]})
    return world.journal([*short.lines()[:-1], end], size)


def rewritten(world: World, rng: random.Random, record: int | None = None) -> Log:
    """The log with another history from a record on."""
    record = rng.randrange(len(world.log.records)) if record is None else record
    bodies = list(world.log.records)
    bodies[record:] = [body.replace(b'"v":1', b'"v":2') for body in bodies[record:]]
    return Log.of(world.log.author, bodies)


def resigned_head(world: World, rng: random.Random) -> Shown:
    """A head that the box itself signed over these records, one more or one less, or with another root."""
    size = len(world.log.records)
    head, way = world.log.head(), rng.randrange(3)
    if way == 0:
        head = type(head)(head.origin, size + rng.randrange(1, 300), head.root)
    elif way == 1 and size > world.cosigned:
        head = world.log.head(rng.randrange(world.cosigned, size))
    else:
        head = type(head)(head.origin, size, rng.randbytes(32))
    trailer = json.loads(world.lines[-1]) | {"checkpoint": world.log.author.box.seal(head.body())}
    first = {0: size, 1: head.size if size > world.cosigned else None, 2: None}[way]
    return world.journal([*world.lines[:-1], line_of(trailer)], first)


def changed_note(world: World, rng: random.Random) -> Shown:
    """Origin, size, root, signer or signature of the checkpoint or the cosignature, one character."""
    trailer = json.loads(world.lines[-1])
    whose = rng.choice(("checkpoint", "cosignatures"))
    note = trailer[whose] if whose == "checkpoint" else trailer[whose][0]
    at = rng.randrange(len(note))
    text = note[:at] + rng.choice("0123456789abcXYZ+/=\n —") + note[at + 1 :]
    text = text if text != note else note[:-1]
    trailer[whose] = text if whose == "checkpoint" else [text]
    return world.journal([*world.lines[:-1], line_of(trailer)], None)


def exchanged_note(world: World, rng: random.Random) -> Shown:
    """Notes of the next epoch, one as the other, one too many or none at all."""
    trailer, other = json.loads(world.lines[-1]), world.other
    ways: list[dict[str, Any]] = [
        {"checkpoint": other.note()},
        {"cosignatures": [other.cosignature(1)]},
        {"checkpoint": trailer["cosignatures"][0]},
        {"cosignatures": [trailer["checkpoint"]]},
        {"cosignatures": []},
        {"cosignatures": [*trailer["cosignatures"], other.cosignature(1)]},
        {"checkpoint": trailer["checkpoint"] + other.note().splitlines(keepends=True)[-1]},
        {"more": 1},
    ]
    return world.journal([*world.lines[:-1], line_of(trailer | rng.choice(ways))], None)


def changed_header(world: World, rng: random.Random) -> Shown:
    """Another origin, another start, another format."""
    header = json.loads(world.lines[0])
    origin = world.log.author.origin
    ways = [{"origin": world.other.author.origin}, {"origin": origin.replace(BOX, "x")}, {"from": 1}]
    ways += [{"edgegw_journal": 2}, {"more": 1}]
    return world.journal([line_of(header | rng.choice(ways)), *world.lines[1:]], None)


def changed_leaves(world: World, rng: random.Random) -> Shown:
    """A line of leaves gone, twice, in another's place, or with another leaf."""
    places = [number for number, line in enumerate(world.lines) if line.startswith(b'{"leaves":')]
    place = rng.choice(places)
    line, way = world.lines[place], rng.randrange(4)
    if way == 0:
        return world.journal(world.changed(place), None)
    if way == 1:
        return world.journal(world.changed(place, line, line), None)
    if way == 2 and len(places) > 1:
        other = rng.choice([one for one in places if one != place])
        lines = world.changed(place, world.lines[other])
        lines[other] = line
        return world.journal(lines, None)
    return world.journal(world.changed(place, line[:40] + line[44:48] + line[40:44] + line[48:]), None)


def blanks(world: World, rng: random.Random) -> Shown:
    """A carriage return, a blank or an empty line where none was."""
    record, place = world.place(rng)
    line = world.lines[place]
    ways: list[tuple[list[bytes], int | None]] = [
        (world.changed(place, line[:-1] + b"\r\n"), record),
        (world.changed(place, b" " + line), record),
        (world.changed(place, line.replace(b'":', b'": ', 1)), record),
        (world.changed(place, b"\n", line), record),
        ([*world.lines[:-1], b"\n", world.lines[-1]], len(world.log.records)),
        ([*world.lines, b"\n"], None),
        ([b"\n", *world.lines], None),
        ([line.replace(b"\n", b"\r\n") for line in world.lines], None),
        ([*world.lines[:-1], world.lines[-1][:-1] + b" \n"], None),
        ([*world.lines[:-1], world.lines[-1].replace(b'":', b'": ')], None),
        ([world.lines[0].replace(b",", b", "), *world.lines[1:]], None),
    ]
    return world.journal(*rng.choice(ways))


# --- edits of a receipt -------------------------------------------------------------------------------------


def receipt_of(world: World, rng: random.Random) -> dict[str, Any]:
    """The receipt of a record that the hub has cosigned."""
    return world.log.receipt(rng.randrange(world.cosigned), cosigned=world.cosigned)


def receipt_flipped(world: World, rng: random.Random) -> Shown:
    """One bit of a receipt; what is no JSON any more cannot be read, which is an answer too."""
    body = bytearray(line_of(receipt_of(world, rng))[:-1])
    bit = rng.randrange(8 * len(body))
    body[bit // 8] ^= 1 << bit % 8
    return Shown("receipt", [bytes(body)], codes=(1, 2))


def receipt_field(world: World, rng: random.Random) -> Shown:
    """A field from another receipt, changed, missing, too many, or there twice."""
    good = receipt_of(world, rng)
    name = rng.choice([key for key in good if key != "type"])
    value, way = good[name], rng.randrange(5)
    if way == 0:
        return Shown("receipt", [line_of({key: good[key] for key in good if key != name})])
    if way == 1:
        return Shown("receipt", [line_of(good | {"amount_minor": 5})])
    if way == 2:
        twice = line_of(good)[:-2] + b"," + line_of({name: value})[1:]
        return Shown("receipt", [twice], codes=(1, 2))
    if way == 3:
        other = world.other.receipt(good["index"], cosigned=world.cosigned)[name]
        other = other if other != value else None
        return Shown("receipt", [line_of(good | {name: other})])
    if isinstance(value, list):
        ways = [[*value, "00" * 32], ["00" * 32, *value], *([value[:-1], value[1:]] if value else [])]
        return Shown("receipt", [line_of(good | {name: rng.choice(ways)})])
    wrong = value + rng.choice((-1, 1)) if isinstance(value, int) else value[:-1]
    return Shown("receipt", [line_of(good | {name: wrong})])


def receipt_of_another(world: World, rng: random.Random) -> Shown:
    """Genuine, but of a history that the hub did not cosign, or of one that another key signed."""
    branch = rewritten(world, rng, 0)
    index = rng.randrange(world.cosigned)
    if rng.random() < 0.5:
        branch = branch._replace(author=world.forger)
        return Shown("receipt", [line_of(branch.receipt(index))], hub=False)
    mixed = branch.receipt(index, cosigned=world.cosigned)
    mixed["cosignature"] = world.log.cosignature(world.cosigned)
    return Shown("receipt", [line_of(mixed)])


# --- edits of a pair of checkpoints -------------------------------------------------------------------------


def pair(world: World, rng: random.Random) -> Shown:
    """Two checkpoints and the proof: a bit of one of the three, another history, another proof."""
    size = len(world.log.records)
    old = rng.randrange(1, size) if size > 1 else 1
    files = [world.log.note(old).encode(), world.log.note().encode(), world.log.consistency(old, size)]
    way = rng.randrange(5)
    if way == 0 and old < size:
        files[0] = rewritten(world, rng, 0).note(old).encode()
    elif way == 1:
        files[1] = rewritten(world, rng, 0).note().encode()
    elif way == 2 and old + 1 < size:
        files[2] = world.log.consistency(old + 1, size)
    elif way == 3:
        files[2] = line_of(json.loads(files[2]) | {"more": 1})
    else:
        spoilt = rng.randrange(3)
        body = bytearray(files[spoilt].rstrip(b"\n") if spoilt == 2 else files[spoilt])
        bit = rng.randrange(8 * len(body))
        body[bit // 8] ^= 1 << bit % 8
        files[spoilt] = bytes(body)
    return Shown("checkpoints", files[:2], options=(files[2],), codes=(1, 2))


# --- edits of an export -------------------------------------------------------------------------------------

SILENT = {"sqlite_stat1", "sqlite_stat4", "export", "level"}
OWNERS = {"leg": 1, "account": 1, "position": 1, "batch_total": 1}
"""In which column these tables name their record; the others in their first."""


def edit_export(db: sqlite3.Connection, rng: random.Random) -> tuple[str, str | None]:
    """Change one row of an audit export: a value, or the row gone, or there twice; what was done, and the
    record that must be named (None: the row is about no single record)."""
    select = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name"
    tables = [name for (name,) in db.execute(select) if name not in SILENT]
    table = rng.choice([name for name in tables if db.execute(f"SELECT count(*) FROM {name}").fetchone()[0]])
    columns = db.execute(f"PRAGMA table_info({table})").fetchall()
    keys = [row[1] for row in columns if row[5]]
    rows = db.execute(f"SELECT * FROM {table} ORDER BY {', '.join(keys)}").fetchall()
    row = rng.choice(rows)
    names = [one[1] for one in columns]
    mine = " AND ".join(f"{key} = ?" for key in keys)
    place = [row[names.index(key)] for key in keys]
    whose = None
    if table not in ("epoch", "cosignature", "node"):
        record_id = row[OWNERS.get(table, 0)]
        whose = f"{record_id >> 40}/{record_id & (1 << 40) - 1}"
    if rng.random() < 0.2:
        db.execute(f"DELETE FROM {table} WHERE {mine}", place)
        return f"a row of {table} deleted", whose
    name = rng.choice([name for name in names if name not in keys] or names)
    value = row[names.index(name)]
    if isinstance(value, int):
        other: object = value + rng.choice((-1, 1))
    elif isinstance(value, bytes):
        other = bytes([value[0] ^ 1]) + value[1:]
    else:
        other = None if value and rng.random() < 0.2 else f"{value or ''}x"
    db.execute(f"UPDATE {table} SET {name} = ? WHERE {mine}", [other, *place])
    # A leg that names another record than its own is a row that this one lacks.
    named = whose if name not in ("record_id", "leg_id") else None
    return f"{table}.{name} from {value!r:.60} to {other!r:.60}", named


Edit = Callable[[World, random.Random], Shown]
EDITS: list[Edit] = [
    *[flipped_bit] * 5,
    *[changed_byte, swapped_bytes, swapped_records, deleted_record, deleted_records, doubled_record],
    *[inserted_record, cut_at_byte, cut_at_line, lost_tail, changed_field, changed_record_and_leaves],
    *[foreign_epoch, spliced_epochs, other_key, same_key_branch, rolled_back, resigned_head],
    *[changed_note, exchanged_note, changed_header, changed_leaves, blanks, blanks],
    *[receipt_flipped, receipt_field, receipt_field, receipt_of_another, pair, pair],
]


def line_of(document: dict[str, Any]) -> bytes:
    """A document in its one form, as a line."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


# --- running ------------------------------------------------------------------------------------------------


class Bench:
    """Shows files to the verifier, in this process: a signature that was verified once is not again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Bench:
        self._verify = verifier.sm2_verify
        verifier.sm2_verify = functools.cache(self._verify)
        return self

    def __exit__(self, *_: object) -> None:
        verifier.sm2_verify = self._verify

    def show(self, shown: Shown, keys: list[str]) -> tuple[int, dict[str, Any]]:
        """The exit code, and the figures."""
        paths = []
        for number, body in enumerate((*shown.files, *shown.options)):
            paths.append(self._folder / f"file-{number}")
            paths[-1].write_bytes(body)
        arguments = [*keys, "--json", shown.kind, *map(str, paths[: len(shown.files)])]
        if shown.options:
            arguments += ["--proof", str(paths[-1])]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            code = verifier.main(arguments)
        figures: dict[str, Any] = json.loads(printed.getvalue())
        return code, figures


def try_edits(count: int, seed: int, progress: Callable[[int], None]) -> dict[str, Any]:
    """Make so many edits; how many were found, how many of them at the right record, and what was missed."""
    rng = random.Random(seed)
    worlds = [World.of(size, rng) for size in SIZES]
    classes: Counter[str] = Counter()
    missed: list[dict[str, Any]] = []
    placed = 0
    with tempfile.TemporaryDirectory() as folder, Bench(Path(folder)) as bench:
        for turn in range(count):
            edit = EDITS[turn % len(EDITS)]
            world = rng.choice(worlds)
            shown = edit(world, rng)
            code, figures = bench.show(shown, world.log.author.arguments(hub=shown.hub))
            classes[edit.__name__] += 1
            right = code in shown.codes and not figures["verified"]
            if right and shown.kind == "journal":
                right = figures["first_bad_record"] == shown.record
                placed += shown.record is not None
            if not right:
                missed.append(
                    {"turn": turn, "edit": edit.__name__, "records": len(world.log.records)}
                    | {"exit": code, "expected": shown.record, "said": figures}
                )
            progress(turn + 1)
    return {"edits": count, "found": count - len(missed), "placed": placed, "missed": missed} | {
        "classes": dict(sorted(classes.items()))
    }


def try_export_edits(count: int, seed: int, progress: Callable[[int], None]) -> dict[str, Any]:
    """Make so many edits to audit exports; how many were found, how many of them at their record."""
    rng = random.Random(seed ^ 0xDB)
    missed: list[dict[str, Any]] = []
    placed = 0
    with tempfile.TemporaryDirectory() as folder, Bench(Path(folder)) as bench:
        files = [exported(Path(folder) / str(size), (size, size)) for size in EXPORTED_SIZES]
        edited = Path(folder) / "edited.db"
        for turn in range(count):
            path, keys = rng.choice(files)
            shutil.copy(path, edited)
            with contextlib.closing(sqlite3.connect(edited)) as db:
                what, record = edit_export(db, rng)
                db.commit()
            code, figures = bench.show(Shown("export", [edited.read_bytes()]), keys)
            right = code == 1 and (record is None or figures["first_bad_record"] == record)
            placed += record is not None
            if not right:
                missed.append({"turn": turn, "edit": what, "expected": record, "exit": code, "said": figures})
            progress(turn + 1)
    return {"edits": count, "found": count - len(missed), "placed": placed, "missed": missed}


def exported(directory: Path, sizes: Sequence[int]) -> tuple[Path, list[str]]:
    """An audit export of epochs of so many records, and the key that proves it."""
    directory.mkdir()
    first = Author.new()
    authors = [first, *(Author.new(epoch=epoch, hub=first.hub) for epoch in range(2, len(sizes) + 1))]
    with contextlib.closing(new_ledger(directory)) as store:
        for author, size in zip(authors, sizes, strict=True):
            cosigned = max(1, size * (author.epoch % 3 + 1) // 3)
            write_epoch(store, author, size, 1_000 * author.epoch + sum(sizes), cosigned=cosigned)
        export_database(store, directory / "audit.db", progress=lambda *_: None)
    return directory / "audit.db", ["--hub-key", first.hub.public.text()]


def try_clean(count: int, seed: int, progress: Callable[[int], None]) -> dict[str, Any]:
    """Make so many clean logs of all shapes; how many were verified as such, and which were not."""
    rng = random.Random(seed ^ 0x5EED)
    alarms: list[dict[str, Any]] = []
    shown = total = receipts = pairs = exports = 0
    with tempfile.TemporaryDirectory() as folder, Bench(Path(folder)) as bench:

        def clean(show: Shown, keys: list[str], size: int) -> None:
            nonlocal shown
            shown += 1
            code, figures = bench.show(show, keys)
            if code or not figures["verified"]:
                alarms.append({"log": turn, "records": size, "kind": show.kind, "said": figures})

        authors: list[Author] = []
        for turn in range(count):
            if not authors or rng.random() < 0.3:  # another box, or the same one in its next epoch
                authors = [Author.new()]
            elif rng.random() < 0.5:
                authors.append(Author.new(epoch=len(authors) + 1, hub=authors[0].hub))
            author = rng.choice(authors)
            size = rng.choice((rng.randrange(1, 40), rng.randrange(1, 700), 256 * rng.randrange(1, 4)))
            size = rng.randrange(2_000, 6_000) if turn % 50 == 49 else size
            log = Log.of(author, list(records(author, size, rng.randrange(2**32))))
            cosigned = rng.choice((0, size, rng.randrange(1, size + 1)))
            keys = [text for one in authors for text in one.arguments(hub=False)]
            hub = ["--hub-key", author.hub.public.text()]
            keys = rng.choice((keys + hub, hub)) if cosigned else keys
            total += size
            clean(Shown("journal", [b"".join(log.lines(cosigned=cosigned))]), keys, size)
            keys = author.arguments(hub=bool(cosigned))
            for index in range(cosigned or size) if size < 40 else ():
                receipts += 1
                clean(Shown("receipt", [line_of(log.receipt(index, cosigned=cosigned))]), keys, size)
            old = rng.randrange(0, size + 1)
            notes = [log.note(old).encode(), log.note().encode()]
            pairs += 1
            clean(Shown("checkpoints", notes, options=(log.consistency(old, size),)), keys, size)
            if turn % 20 == 0:
                exports += 1
                sizes = [
                    rng.choice((1, 2, 3, 255, 256, 257, rng.randrange(1, 600)))
                    for _ in range(turn // 20 % 3 + 1)
                ]
                path, hub = exported(Path(folder) / f"export-{turn}", sizes)
                clean(Shown("export", [path.read_bytes()]), hub, sum(sizes))
            progress(turn + 1)
    counts = {"clean": count, "records": total, "receipts": receipts, "pairs": pairs, "exports": exports}
    return counts | {"shown": shown, "alarms": alarms}


def told(what: str, count: int) -> Callable[[int], None]:
    """A function that says on stderr how far it is, every tenth part."""
    step = max(1, count // 10)

    def tell(done: int) -> None:
        if done % step == 0 or done == count:
            print(f"{what} {done:,} of {count:,}", file=sys.stderr, flush=True)

    return tell


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both and print the counts; 1 when an edit was missed or a clean log called bad."""
    parser = argparse.ArgumentParser(prog="python -m tests.audit.edits", description=__doc__)
    parser.add_argument("--count", type=int, default=600, help="edits to make")
    parser.add_argument("--clean", type=int, default=60, help="clean logs to make")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    exports = options.count // 20
    edits = try_edits(options.count - exports, options.seed, told("edits", options.count - exports))
    of_exports = try_export_edits(exports, options.seed, told("edits of exports", exports))
    for name in ("edits", "found", "placed", "missed"):
        edits[name] += of_exports[name]
    edits["classes"]["edit_export"] = exports
    clean = try_clean(options.clean, options.seed, told("clean logs", options.clean))
    seconds = round(time.monotonic() - started, 1)
    if options.json:
        print(json.dumps({"seed": options.seed, "seconds": seconds, **edits, **clean}))
    else:
        print(f"{edits['found']} of {edits['edits']} edits found, {edits['placed']} at their record")
        print(
            f"{len(clean['alarms'])} false alarms in {clean['clean']} clean logs ({clean['shown']} documents)"
        )
        for one in (*edits["missed"][:20], *clean["alarms"][:20]):
            print(one)
    return 1 if edits["missed"] or clean["alarms"] else 0


if __name__ == "__main__":
    sys.exit(main())
