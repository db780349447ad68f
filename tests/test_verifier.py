"""The stand-alone verifier against the package: what we write verifies, what was changed is found."""

import ast
import base64
import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from edgegw import verifier
from edgegw.access.keys import SigningKey
from edgegw.core import export, journal
from edgegw.core.journal import FIRST_PREVIOUS, Checkpoint, Frontier, nodes_of
from edgegw.core.records import Boot, ModeChanged, encode
from edgegw.core.records import Mode as LineMode
from edgegw.sm.sm2 import PrivateKey

ORIGIN = journal.journal_origin(bank="b1", box="box-7", epoch=3)
SIZE = 600
BOX = SigningKey("b1/box-7", PrivateKey.generate())
HUB = SigningKey("b1/hub", PrivateKey.generate())
KEY_ARGUMENTS = ["--box-key", BOX.public.text()]
HUB_ARGUMENTS = ["--hub-key", HUB.public.text()]


def record_of(seq: int) -> bytes:
    common: dict[str, Any] = {"v": 1, "bank": "b1", "box": "box-7", "epoch": 3, "seq": seq}
    clocks: dict[str, Any] = {"at_ns": seq, "wall_ns": 1_800_000_000_000_000_000 + seq, "mono_ns": seq}
    if seq % 2:
        mode = ModeChanged(
            mode=LineMode.OFFLINE, previous=LineMode.ACTIVE, reason=f"线路 {seq}", **common, **clocks
        )
        return encode(mode)
    return encode(
        Boot(boot=f"{seq:032x}", version="0.1.0", box_digest="", site_digest="", **common, **clocks)
    )


class Log(NamedTuple):
    """A log as a box keeps it."""

    records: list[bytes]
    leaves: list[bytes]

    @classmethod
    def of(cls, records: list[bytes]) -> "Log":
        return cls(records, journal.chain(FIRST_PREVIOUS, records))

    def checkpoint(self, size: int, origin: str = ORIGIN) -> Checkpoint:
        frontier = Frontier()
        frontier.extend(self.leaves[:size])
        return Checkpoint(origin, size, frontier.root())

    def lines(self, *, key: SigningKey = BOX, cosigned: int = 0, origin: str = ORIGIN) -> list[bytes]:
        entries = zip(self.records, self.leaves, strict=True)
        head = self.checkpoint(len(self.records), origin)
        cosignatures = (
            [HUB.cosign(self.checkpoint(cosigned, origin), time_s=1_800_000_000)] if cosigned else []
        )
        note = key.seal(head.body())
        return list(export.journal_lines(origin, entries, checkpoint=note, cosignatures=cosignatures))


LOG = Log.of([record_of(seq) for seq in range(SIZE)])
LINES = LOG.lines(cosigned=400)
EDITED_SIZE = 300  # two blocks, the second one short
PLACES = {line: seq for seq, line in enumerate(record + b"\n" for record in LOG.records)}


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Verify bytes as a file of the given kind; returns the exit code and the figures."""

    def verify(
        kind: str, *bodies: bytes, keys: list[str] = KEY_ARGUMENTS, options: tuple[str, ...] = ()
    ) -> Any:
        paths = [tmp_path / f"file-{number}" for number in range(len(bodies))]
        for path, body in zip(paths, bodies, strict=True):
            path.write_bytes(body)
        code = verifier.main([*keys, "--json", kind, *map(str, paths), *options])
        return code, json.loads(capsys.readouterr().out)

    return verify


def test_a_clean_journal_verifies(run: Callable[..., Any]) -> None:
    """With the box's key alone, and with the hub's word for the part that it holds."""
    code, figures = run("journal", b"".join(LINES))
    assert (code, figures["verified"], figures["size"], figures["cosigned_size"]) == (0, True, SIZE, None)
    assert figures["root"] == LOG.checkpoint(SIZE).root.hex()
    code, figures = run("journal", b"".join(LINES), keys=KEY_ARGUMENTS + HUB_ARGUMENTS)
    assert (code, figures["cosigned_size"], figures["cosigned_at_s"]) == (0, 400, 1_800_000_000)


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 512])
def test_journals_of_every_shape_verify(size: int, run: Callable[..., Any]) -> None:
    """Empty, one record, just under, at and over a block."""
    code, figures = run("journal", b"".join(Log.of(LOG.records[:size]).lines()))
    assert (code, figures["size"]) == (0, size)


def test_the_hubs_log_is_verified_by_the_hubs_key(run: Callable[..., Any]) -> None:
    """Directives name an incarnation where records name an epoch."""
    origin = journal.directives_origin(bank="b1", box="box-7", incarnation=3)
    log = Log.of([record.replace(b'"epoch"', b'"incarnation"') for record in LOG.records[:300]])
    body = b"".join(log.lines(key=HUB, origin=origin))
    assert run("journal", body, keys=HUB_ARGUMENTS)[0] == 0
    assert run("journal", body, keys=KEY_ARGUMENTS)[0] == 2
    assert run("journal", b"".join(log.lines(key=BOX, origin=origin)), keys=HUB_ARGUMENTS)[0] == 1


def line_of(document: dict[str, Any]) -> bytes:
    """The one form in which a document stands in a journal file."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


# Each edit returns the lines and the record that must be named, or None where no record is to blame.


def flip(lines: list[bytes], rng: random.Random) -> tuple[list[bytes], int | None]:
    place = rng.randrange(1, len(lines))
    line = bytearray(lines[place])
    bit = rng.randrange(8 * (len(line) - 1))
    line[bit // 8] ^= 1 << bit % 8
    return [*lines[:place], bytes(line), *lines[place + 1 :]], PLACES.get(lines[place])


def record_lines(lines: list[bytes], rng: random.Random, count: int) -> list[int]:
    return sorted(rng.sample([place for place, line in enumerate(lines) if line in PLACES], count))


def swap(lines: list[bytes], rng: random.Random) -> tuple[list[bytes], int | None]:
    one, two = record_lines(lines, rng, 2)
    changed = lines.copy()
    changed[one], changed[two] = lines[two], lines[one]
    return changed, PLACES[lines[one]]


def delete(lines: list[bytes], rng: random.Random) -> tuple[list[bytes], int | None]:
    (place,) = record_lines(lines, rng, 1)
    return [*lines[:place], *lines[place + 1 :]], PLACES[lines[place]]


def duplicate(lines: list[bytes], rng: random.Random) -> tuple[list[bytes], int | None]:
    (place,) = record_lines(lines, rng, 1)
    return [*lines[: place + 1], *lines[place:]], PLACES[lines[place]] + 1


def truncate(lines: list[bytes], rng: random.Random) -> tuple[list[bytes], int | None]:
    body = b"".join(lines)
    cut = body[: rng.randrange(len(lines[0]), len(body) - 1)].splitlines(keepends=True)
    whole = [line for line in cut if line in PLACES]
    return cut, len(whole)


def drop_tail(lines: list[bytes], rng: random.Random) -> tuple[list[bytes], int | None]:
    """Cut records off and keep the signed end: the file looks whole."""
    (place,) = record_lines(lines, rng, 1)
    return [*lines[:place], lines[-1]], PLACES[lines[place]]


def branch(lines: list[bytes], rng: random.Random) -> tuple[list[bytes], int | None]:
    """Another history from some record on, whole and consistent, signed under the same name by another."""
    start = rng.randrange(EDITED_SIZE)
    records = [*LOG.records[:start], *(r.replace(b'"v":1', b'"v":2') for r in LOG.records[start:EDITED_SIZE])]
    impostor = SigningKey(BOX.name, PrivateKey.generate())
    return Log.of(records).lines(key=impostor), None


def consistent_edit(lines: list[bytes], rng: random.Random) -> tuple[list[bytes], int | None]:
    """A record and the lines of leaves changed together, under the old signature."""
    start = rng.randrange(EDITED_SIZE)
    records = LOG.records[:EDITED_SIZE]
    records[start] = records[start].replace(b'"v":1', b'"v":2')
    return [*Log.of(records).lines()[:-1], lines[-1]], None


EDITS = [flip, flip, flip, swap, delete, duplicate, truncate, drop_tail]


def test_five_hundred_edits_are_all_found_and_placed(run: Callable[..., Any]) -> None:
    """Bits, swaps, deletions, cuts, duplicates, forged branches: exit 1, and the very record."""
    rng = random.Random(500)
    lines = Log.of(LOG.records[:EDITED_SIZE]).lines()
    for turn in range(500):
        edit = (branch if turn % 2 else consistent_edit) if turn % 50 == 0 else EDITS[turn % len(EDITS)]
        changed, record = edit(lines, rng)
        code, figures = run("journal", b"".join(changed))
        assert code == 1, (turn, edit.__name__)
        assert figures["place"], figures
        assert figures["mend"], figures
        assert figures["first_bad_record"] == record, (turn, edit.__name__, figures)


def test_a_forged_signature_under_the_right_key_id_does_not_verify(run: Callable[..., Any]) -> None:
    """Name and key id are public: an old signature does not pass, nor another key's."""
    log = Log.of([LOG.records[0].replace(b'"v":1', b'"v":2'), *LOG.records[1:20]])
    head = log.checkpoint(20)
    impostor = SigningKey(BOX.name, PrivateKey.generate())
    _, (old,) = journal.parse_checkpoint(BOX.seal(LOG.checkpoint(20).body()))
    for signature in (old.signature, impostor.sign(head.body())):
        line = journal.SignatureLine(BOX.name, BOX.key_id, signature)
        note = journal.add_signature(head.body().decode() + "\n", line)
        entries = zip(log.records, log.leaves, strict=True)
        body = b"".join(export.journal_lines(ORIGIN, entries, checkpoint=note, cosignatures=[]))
        code, figures = run("journal", body)
        assert (code, figures["place"]) == (1, "checkpoint")
        assert "does not verify" in figures["problem"]


def test_a_forged_cosignature_under_the_right_key_id_does_not_verify(run: Callable[..., Any]) -> None:
    """Nor does a cosignature whose time was changed."""
    _, (line,) = journal.parse_checkpoint(HUB.cosign(LOG.checkpoint(400), time_s=1_800_000_000))
    later = (1_900_000_000).to_bytes(8, "big") + line.signature[8:]
    body = LOG.checkpoint(400).body().decode() + "\n"
    note = journal.add_signature(body, journal.SignatureLine(line.name, line.key_id, later))
    trailer = json.loads(LINES[-1]) | {"cosignatures": [note]}
    lines = [*LINES[:-1], line_of(trailer)]
    code, figures = run("journal", b"".join(lines), keys=KEY_ARGUMENTS + HUB_ARGUMENTS)
    assert (code, figures["place"]) == (1, "cosignature of epoch 3")


def test_an_edit_in_the_first_line_is_never_taken_for_the_log(run: Callable[..., Any]) -> None:
    """Any byte of the header: another log's, or no journal at all."""
    header = LINES[0]
    small = Log.of(LOG.records[:3]).lines()
    for place in range(len(header)):
        changed = bytearray(header)
        changed[place] ^= 1 << place % 8
        assert run("journal", bytes(changed) + b"".join(small[1:]))[0] in (1, 2)


def test_a_rewritten_history_is_caught_by_the_hubs_word(run: Callable[..., Any]) -> None:
    """Who holds the box's key can sign another history; the cosignature of the first one shows it."""
    records = [*LOG.records[:100], LOG.records[100].replace(b'"v":1', b'"v":2'), *LOG.records[101:]]
    rewritten = Log.of(records).lines()
    trailer = json.loads(rewritten[-1]) | {"cosignatures": json.loads(LINES[-1])["cosignatures"]}
    body = b"".join([*rewritten[:-1], line_of(trailer)])
    assert run("journal", body)[0] == 0
    code, figures = run("journal", body, keys=KEY_ARGUMENTS + HUB_ARGUMENTS)
    assert code == 1
    assert "fork" in figures["problem"]


def test_a_rolled_back_history_is_caught_by_the_hubs_word(run: Callable[..., Any]) -> None:
    """Signed, whole, and shorter than what the hub holds."""
    trailer = {"checkpoint": BOX.seal(LOG.checkpoint(300).body())}
    trailer["cosignatures"] = json.loads(LINES[-1])["cosignatures"]
    body = b"".join([*Log.of(LOG.records[:300]).lines()[:-1], line_of(trailer)])
    assert run("journal", body)[0] == 0
    code, figures = run("journal", body, keys=KEY_ARGUMENTS + HUB_ARGUMENTS)
    assert (code, figures["first_bad_record"]) == (1, 300)


@pytest.mark.parametrize("forger", [BOX, SigningKey("b1/hub", PrivateKey.generate())])
def test_a_cosignature_must_be_the_hubs(forger: SigningKey, run: Callable[..., Any]) -> None:
    """None, the box's own, or an impostor's is no cosignature."""
    entries = list(zip(LOG.records, LOG.leaves, strict=True))
    note = BOX.seal(LOG.checkpoint(SIZE).body())
    for cosignatures in ([], [forger.cosign(LOG.checkpoint(400), time_s=5)]):
        body = b"".join(export.journal_lines(ORIGIN, entries, checkpoint=note, cosignatures=cosignatures))
        code, figures = run("journal", body, keys=KEY_ARGUMENTS + HUB_ARGUMENTS)
        assert (code, figures["place"]) == (1, "cosignature of epoch 3")


def test_records_signed_out_of_place_are_refused(run: Callable[..., Any]) -> None:
    """The box's own signature does not make a gap, another box's record or another epoch's right."""
    for seq, old, new in [
        (7, b'"seq":7', b'"seq":8'),
        (9, b'"box-7"', b'"box-8"'),
        (11, b'"epoch":3', b'"epoch":4'),
    ]:
        records = LOG.records[:20]
        records[seq] = records[seq].replace(old, new)
        code, figures = run("journal", b"".join(Log.of(records).lines()))
        assert (code, figures["first_bad_record"]) == (1, seq)
        assert "is expected here" in figures["problem"]
        code, figures = run("receipt", json.dumps(receipt(seq, size=20, log=Log.of(records))).encode())
        assert code == 1
        assert "is expected here" in figures["problem"]


def receipt_document(
    record: bytes,
    *,
    previous_leaf: bytes,
    index: int,
    size: int,
    proof: Sequence[bytes],
    checkpoint: str,
    cosignature: str,
    cosignature_proof: Sequence[bytes],
) -> bytes:
    """A receipt: the record is number index in the tree of checkpoint, to which proof leads.

    cosignature is a cosigned note of the same log or ""; cosignature_proof leads from its size to the head's.
    """
    return msgspec.json.encode(
        {
            "type": "edgegw-receipt-v1",
            "record": record.decode(),
            "previous_leaf": previous_leaf.hex(),
            "index": index,
            "size": size,
            "proof": [node.hex() for node in proof],
            "checkpoint": checkpoint,
            "cosignature": cosignature,
            "cosignature_proof": [node.hex() for node in cosignature_proof],
        }
    )


def consistency_document(proof: Sequence[bytes]) -> bytes:
    """A consistency proof between two checkpoints, as a file of its own."""
    return msgspec.json.encode({"edgegw_consistency": 1, "proof": [node.hex() for node in proof]}) + b"\n"


def receipt(index: int, *, size: int = SIZE, cosigned: int = 0, log: Log = LOG) -> dict[str, Any]:
    node = nodes_of(log.leaves)
    body = receipt_document(
        log.records[index],
        previous_leaf=log.leaves[index - 1] if index else FIRST_PREVIOUS,
        index=index,
        size=size,
        proof=journal.inclusion_proof(index, size, node),
        checkpoint=BOX.seal(log.checkpoint(size).body()),
        cosignature=HUB.cosign(log.checkpoint(cosigned), time_s=5) if cosigned else "",
        cosignature_proof=journal.consistency_proof(cosigned, size, node) if cosigned else [],
    )
    document: dict[str, Any] = json.loads(body)
    return document


def test_receipts_verify_and_changed_ones_do_not(run: Callable[..., Any]) -> None:
    """Any record, with and without the hub's word; nothing in a receipt can be exchanged."""
    both = KEY_ARGUMENTS + HUB_ARGUMENTS
    for index in (0, 1, 255, 256, 399, SIZE - 1):
        assert run("receipt", json.dumps(receipt(index)).encode())[0] == 0
    for cosigned in (400, SIZE):
        code, figures = run("receipt", json.dumps(receipt(399, cosigned=cosigned)).encode(), keys=both)
        assert (code, figures["cosigned_size"]) == (0, cosigned)
    assert run("receipt", json.dumps(receipt(400, cosigned=400)).encode(), keys=both)[0] == 1
    assert run("receipt", json.dumps(receipt(5)).encode(), keys=both)[0] == 1
    good = receipt(5, cosigned=400)
    other = receipt(7, size=500, cosigned=300)
    for name, value in other.items():
        if name != "type":
            code, _ = run("receipt", json.dumps(good | {name: value}).encode(), keys=both)
            # Another signed head of the same log is caught by the proofs, another cosigned one by its own.
            assert code == 1, name
    for name, value in good.items():
        for wrong in (
            None,
            [],
            {},
            5.5,
            True,
            -1,
            2**70,
            "",
            "x",
            "\ud800",
            ["00"],
            [None],
            value and [value],
        ):
            code, _ = run("receipt", json.dumps(good | {name: wrong}).encode(), keys=both)
            assert code == (2 if name == "type" else 1), (name, wrong)


def test_two_checkpoints_of_one_history_verify(run: Callable[..., Any], tmp_path: Path) -> None:
    """By a proof or by the journal; a fork, a wrong proof or another log does not."""
    old, new = (BOX.seal(LOG.checkpoint(size).body()).encode() for size in (333, 600))
    proof, wrong = tmp_path / "proof", tmp_path / "wrong"
    proof.write_bytes(consistency_document(journal.consistency_proof(333, 600, nodes_of(LOG.leaves))))
    wrong.write_bytes(consistency_document(journal.consistency_proof(334, 600, nodes_of(LOG.leaves))))
    whole, fork = tmp_path / "journal", tmp_path / "fork"
    whole.write_bytes(b"".join(LINES))
    branched = Log.of([*LOG.records[:200], *(r.replace(b'"v":1', b'"v":2') for r in LOG.records[200:])])
    fork.write_bytes(b"".join(branched.lines()))
    for option, path, expected in [
        ("--proof", proof, 0),
        ("--proof", wrong, 1),
        ("--journal", whole, 0),
        ("--journal", fork, 1),
        ("--proof", whole, 2),
    ]:
        assert run("checkpoints", old, new, options=(option, str(path)))[0] == expected, path
    assert run("checkpoints", old, new)[0] == 2
    assert run("checkpoints", new, old, options=("--proof", str(proof)))[0] == 2
    assert run("checkpoints", new, new)[0] == 0
    forked = BOX.seal(branched.checkpoint(600).body()).encode()
    code, figures = run("checkpoints", new, forked)
    assert code == 1
    assert "fork" in figures["mend"]
    assert run("checkpoints", old, forked, options=("--proof", str(proof)))[0] == 1


def test_it_refuses_without_the_keys(run: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    """A key out of the file would verify any file; so would a key that was altered."""
    body = b"".join(LINES)
    code, figures = run("journal", body, keys=[])
    assert code == 2
    assert "--box-key" in figures["error"]
    text = BOX.public.text()
    for wrong in (text[:-2], text.replace("box-7", "box-8"), "x", "", text + "\u0661", text[:-4] + "AAA="):
        assert run("journal", body, keys=["--box-key", wrong])[0] == 2
    assert run("journal", body, keys=HUB_ARGUMENTS)[0] == 2
    with pytest.raises(SystemExit) as usage:
        verifier.main(["journal"])
    assert usage.value.code == 2
    capsys.readouterr()


@pytest.mark.parametrize(
    "body", [b"", b"\n", b"{}", b"[]\n", b"\xff" * 100, b'{"edgegw_journal":2}\n', b"[" * 99_999]
)
def test_what_is_no_journal_is_named_so(body: bytes, run: Callable[..., Any]) -> None:
    """Exit code 2, not a traceback."""
    for kind in ("journal", "receipt"):
        code, figures = run(kind, body)
        assert code == 2
        assert figures["error"]


def test_a_missing_file_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Exit code 2 on stderr, for people."""
    assert verifier.main([*KEY_ARGUMENTS, "journal", str(tmp_path / "none")]) == 2
    assert "No such file or directory: " in capsys.readouterr().err


def test_it_tells_people_what_a_missing_cosignature_means(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The sentence for people, verified and not."""
    path = tmp_path / "journal"
    path.write_bytes(b"".join(LINES))
    assert verifier.main([*KEY_ARGUMENTS, "journal", str(path)]) == 0
    assert "only against those who do not hold" in capsys.readouterr().out
    assert verifier.main([*KEY_ARGUMENTS, *HUB_ARGUMENTS, "journal", str(path)]) == 0
    assert "for the last 200 there is the signer's word alone" in capsys.readouterr().out
    path.write_bytes(b"".join(LINES).replace(b'"seq":77,', b'"seq":78,'))
    assert verifier.main([*KEY_ARGUMENTS, "journal", str(path)]) == 1
    assert (
        "NOT VERIFIED: record 77: its seq is 78, 77 is expected here.\nWhat to do: take"
        in capsys.readouterr().out
    )


def test_it_stands_alone(tmp_path: Path) -> None:
    """One file, copied away and run without site packages, verifies: the standard library is enough."""
    source = Path(verifier.__file__).read_text()
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add(str(node.module).partition(".")[0])
    assert names <= sys.stdlib_module_names
    alone, exported = tmp_path / "verifier.py", tmp_path / "journal"
    alone.write_text(source)
    exported.write_bytes(b"".join(LINES))
    command = [
        sys.executable,
        "-I",
        "-S",
        str(alone),
        *KEY_ARGUMENTS,
        *HUB_ARGUMENTS,
        "journal",
        str(exported),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("verified: 600 records of edgegw/b1/box-7/3 ")


def test_its_own_sm3_and_sm2_agree_with_the_packages() -> None:
    """Two implementations, one answer: random data, good and bad signatures, points off the curve."""
    rng = random.Random(1)
    for length in (0, 1, 55, 56, 64, 65, 200):
        data = rng.randbytes(length)
        assert verifier.sm3_in_python(data) == journal.sm3(data)
    verifier.self_test()
    for _ in range(5):
        key = SigningKey("k", PrivateKey.generate())
        message = rng.randbytes(rng.randrange(100))
        signature = key.sign(message)
        point = verifier.key_of(key.public.text()).point
        assert verifier.sm2_verify(point, message, signature)
        for _ in range(10):
            changed = bytearray(signature)
            bit = rng.randrange(512)
            changed[bit // 8] ^= 1 << bit % 8
            assert not verifier.sm2_verify(point, message, bytes(changed))
            assert not key.public.verify(message, bytes(changed))
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        n = verifier.N
        for bad in [(r + n, s), (r, s + n), (0, s), (r, 0), (r, n - r), (r, n - s), (n, s), (r, n)]:
            encoded = b"".join((number % 2**256).to_bytes(32, "big") for number in bad)
            assert not verifier.sm2_verify(point, message, encoded)
        assert not verifier.sm2_verify((point[0], point[1] ^ 1), message, signature)
        assert not verifier.sm2_verify(point, message, signature + b"\x00")


def test_without_an_sm3_in_hashlib_it_uses_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing or wrong: the slow one is right."""

    def missing(name: str) -> None:
        raise ValueError(f"unsupported hash type {name}")

    monkeypatch.setattr(verifier.hashlib, "new", missing)
    assert verifier.choose_sm3() is verifier.sm3_in_python
    monkeypatch.setattr(verifier.hashlib, "new", lambda _: hashlib.sha256())
    assert verifier.choose_sm3() is verifier.sm3_in_python


def test_a_journal_without_lines_of_leaves_is_not_as_it_was_written(run: Callable[..., Any]) -> None:
    """No record is to blame, but no difference is harmless; a gap is placed without them all the same."""
    for place in [n for n, line in enumerate(LINES) if line.startswith(b'{"leaves"')]:
        code, figures = run("journal", b"".join([*LINES[:place], *LINES[place + 1 :]]))
        assert (code, figures["first_bad_record"]) == (1, None)
        assert figures["place"].startswith("leaves")
    bare = [line for line in LINES if not line.startswith(b'{"leaves"')]
    code, figures = run("journal", b"".join(bare))
    assert (code, figures["first_bad_record"]) == (1, None)
    del bare[1 + 123]
    code, figures = run("journal", b"".join(bare))
    assert (code, figures["first_bad_record"]) == (1, 123)


def test_changed_lines_of_leaves_do_not_pass(run: Callable[..., Any]) -> None:
    """The records are right, but the file is not as it was written."""
    place = next(n for n, line in enumerate(LINES) if line.startswith(b'{"leaves"'))
    leaves = bytearray(base64.b64decode(json.loads(LINES[place])["leaves"]))
    leaves[70] ^= 1
    changed = (
        json.dumps({"leaves": base64.b64encode(leaves).decode()}, separators=(",", ":")).encode() + b"\n"
    )
    code, figures = run("journal", b"".join([*LINES[:place], changed, *LINES[place + 1 :]]))
    assert (code, figures["first_bad_record"]) == (1, None)
    assert figures["place"].startswith("leaves")


def test_verifier_and_package_agree_on_every_proof() -> None:
    """Right ones and random wrong ones, for all small trees: two implementations, one verdict."""
    rng = random.Random(6962)
    origin = verifier.origin_of(ORIGIN)
    heads = [verifier.Head(origin, size, LOG.checkpoint(size).root, b"") for size in range(1, 18)]
    node = nodes_of(LOG.leaves[:17])
    for new in heads:
        for index in range(new.size):
            for proof in variants(journal.inclusion_proof(index, new.size, node), rng):
                leaf = LOG.leaves[index]
                ours = agrees(journal.verify_inclusion, index, new.size, leaf, new.root, proof)
                made = agrees(verifier.root_of_inclusion, index, new.size, leaf, proof)
                assert ours == (made and verifier.root_of_inclusion(index, new.size, leaf, proof) == new.root)
        for old in heads[: new.size - 1]:
            for proof in variants(journal.consistency_proof(old.size, new.size, node), rng):
                ours = agrees(journal.verify_consistency, old.size, new.size, old.root, new.root, proof)
                assert ours == agrees(verifier.check_consistency, old, new, proof)


def variants(proof: list[bytes], rng: random.Random) -> list[list[bytes]]:
    wrong = [[*proof, bytes(32)], [bytes(32), *proof], proof[:-1], proof[1:], proof[::-1]]
    return [proof, *wrong, [*proof[:-1], rng.randbytes(32)]]


def agrees(check: Callable[..., object], *arguments: object) -> bool:
    try:
        check(*arguments)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("words", [(), ("journal",), ("receipt",), ("checkpoints",)])
def test_help_of_every_kind_ends_well(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """A stranger who asks gets an answer, not a trace."""
    with pytest.raises(SystemExit) as end:
        verifier.main([*words, "--help"])
    assert end.value.code == 0
    assert "usage:" in capsys.readouterr().out
