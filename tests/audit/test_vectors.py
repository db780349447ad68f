"""Proof vectors in the shape of the public RFC 6962 sets, made here: every class of corruption is refused."""

import base64
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.audit import vectors

Proof = list[bytes]
UINT64 = 2**64


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


# A second way to the same trees: the recursive definitions of RFC 6962 section 2.1, word for word.
LEAVES = [sha256(b"\x00" + bytes([number]) * (number % 5)) for number in range(20)]


def split(count: int) -> int:
    return 1 << (count - 1).bit_length() - 1


def tree_root(leaves: Proof) -> bytes:
    if not leaves:
        return sha256(b"")
    if len(leaves) == 1:
        return leaves[0]
    middle = split(len(leaves))
    return sha256(b"\x01" + tree_root(leaves[:middle]) + tree_root(leaves[middle:]))


def path(index: int, leaves: Proof) -> Proof:
    if len(leaves) == 1:
        return []
    middle = split(len(leaves))
    if index < middle:
        return [*path(index, leaves[:middle]), tree_root(leaves[middle:])]
    return [*path(index - middle, leaves[middle:]), tree_root(leaves[:middle])]


def subproof(old: int, leaves: Proof, whole: bool) -> Proof:
    if old == len(leaves):
        return [] if whole else [tree_root(leaves)]
    middle = split(len(leaves))
    if old <= middle:
        return [*subproof(old, leaves[:middle], whole), tree_root(leaves[middle:])]
    return [*subproof(old - middle, leaves[middle:], False), tree_root(leaves[:middle])]


def spoilt(proof: Proof, extra: Proof) -> Iterator[Proof]:
    """The proof with garbage before and after it, cut, reordered, each element with a bit flipped."""
    for more in [b"", bytes(31), *extra, *proof[:1]]:
        yield [more, *proof]
        yield [*proof, more]
    if proof:
        yield []
        yield proof[:-1]
        yield proof[1:]
        yield [*proof[:-1], b""]
    if len(proof) > 1:
        yield proof[::-1]
        yield [proof[0], bytes(32), *proof[1:]]
    for place, element in enumerate(proof):
        yield [*proof[:place], bytes([element[0] ^ 16]) + element[1:], *proof[place + 1 :]]


def inclusion_vectors() -> Iterator[dict[str, Any]]:
    """Right ones for every leaf of every size, and for each of them every corruption."""
    for size in range(1, len(LEAVES) + 1):
        root = tree_root(LEAVES[:size])
        for index in range(size):
            good = {"index": index, "size": size, "root": root, "leaf": LEAVES[index]}
            proof = path(index, LEAVES[:size])
            yield inclusion(**good, proof=proof, refuse=False)
            for wrong in ((index - 1) % UINT64, index + 1, size, UINT64 - 1):
                yield inclusion(**good | {"index": wrong}, proof=proof, refuse=True)
            for wrong_size in (0, 2 * size + 1, size // 2):
                if wrong_size <= index or len(path(index, [b""] * wrong_size)) != len(proof):
                    yield inclusion(**good | {"size": wrong_size}, proof=proof, refuse=True)
            for wrong_hash in (b"", b"WrongHash", sha256(b""), bytes(32)):
                yield inclusion(**good | {"root": wrong_hash}, proof=proof, refuse=True)
                yield inclusion(**good | {"leaf": wrong_hash}, proof=proof, refuse=True)
            yield inclusion(**good | {"root": b"", "leaf": b""}, proof=proof, refuse=True)
            for wrong_proof in spoilt(proof, [root, LEAVES[index]]):
                yield inclusion(**good, proof=wrong_proof, refuse=True)
    for root in (b"", sha256(b""), bytes(32)):
        for leaf in (b"", bytes(32)):
            yield inclusion(index=0, size=0, root=root, leaf=leaf, proof=[], refuse=True)


def consistency_vectors() -> Iterator[dict[str, Any]]:
    """Right ones for every pair of sizes, their corruptions, and the sizes at which nothing is proved."""
    for size in range(1, len(LEAVES) + 1):
        root = tree_root(LEAVES[:size])
        for old in range(1, size):
            old_root = tree_root(LEAVES[:old])
            good = {"old": old, "size": size, "old_root": old_root, "root": root}
            proof = subproof(old, LEAVES[:size], True)
            yield consistency(**good, proof=proof, refuse=False)
            for wrong in (
                {"old": old - 1},
                {"old": size},
                {"old": size + 1},
                {"size": old},
                {"size": old - 1},
            ):
                yield consistency(**good | wrong, proof=proof, refuse=True)
            for wrong_root in (b"", b"WrongRoot", sha256(b""), bytes(32)):
                yield consistency(**good | {"root": wrong_root}, proof=proof, refuse=True)
                yield consistency(**good | {"old_root": wrong_root}, proof=proof, refuse=True)
            yield consistency(**good | {"old_root": root, "root": old_root}, proof=proof, refuse=True)
            for wrong_proof in spoilt(proof, [old_root, root]):
                yield consistency(**good, proof=wrong_proof, refuse=True)
    for size in (0, 1, 7):
        for root in (b"", b"any root", sha256(b"")):
            same = {"old": size, "size": size, "old_root": root, "root": root}
            yield consistency(**same, proof=[], refuse=False)
            yield consistency(**same, proof=[sha256(b"")], refuse=True)
            yield consistency(**same | {"root": b"another"}, proof=[], refuse=True)
            yield consistency(**same | {"size": size + 1}, proof=[], refuse=True)
            yield consistency(**same | {"old": size + 1}, proof=[], refuse=True)
            yield consistency(**same | {"old": 0, "size": size + 1}, proof=[root], refuse=True)


def inclusion(
    *, index: int, size: int, root: bytes, leaf: bytes, proof: Proof, refuse: bool
) -> dict[str, Any]:
    return {
        "leafIdx": index,
        "treeSize": size,
        "root": text(root),
        "leafHash": text(leaf),
        "proof": [text(element) for element in proof] or None,
        "wantErr": refuse,
    }


def consistency(
    *, old: int, size: int, old_root: bytes, root: bytes, proof: Proof, refuse: bool
) -> dict[str, Any]:
    return {
        "size1": old,
        "size2": size,
        "root1": text(old_root),
        "root2": text(root),
        "proof": [text(element) for element in proof],
        "wantErr": refuse,
    }


def text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def test_every_corruption_of_a_proof_is_refused_and_no_right_one() -> None:
    """A size of 0, an empty proof, an element too many: a proof that proves nothing must not be taken."""
    counts = {True: 0, False: 0}
    for vector in (*inclusion_vectors(), *consistency_vectors()):
        why = vectors.refused(vector)
        assert bool(why) == vector["wantErr"], (vector, why)
        counts[vector["wantErr"]] += 1
    assert counts[False] > 400
    assert counts[True] > 10_000


def test_a_directory_of_vectors_is_judged_by_one_command(tmp_path: Path) -> None:
    """The same command that reads the public set: it counts, and one verdict that differs is an error."""
    made = [*inclusion_vectors()][:50] + [*consistency_vectors()][:50]
    made[0] = {("leafIndex" if name == "leafIdx" else name): value for name, value in made[0].items()}
    for number, vector in enumerate(made):
        place = tmp_path / str(number % 3) / f"vector-{number}.json"
        place.parent.mkdir(exist_ok=True)
        place.write_text(json.dumps(vector))
    command = [sys.executable, "-m", "tests.audit.vectors", str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    found = json.loads(done.stdout)
    assert (done.returncode, found["vectors"], found["agree"]) == (0, 100, 100)
    (tmp_path / "0" / "vector-0.json").write_text(json.dumps(made[0] | {"wantErr": True}))
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert (done.returncode, json.loads(done.stdout)["agree"]) == (1, 99)


def test_a_directory_without_vectors_is_an_error_that_says_what_was_looked_for(tmp_path: Path) -> None:
    """A mistyped path or a set that was not unpacked would else pass for a proof."""
    (tmp_path / "vector.txt").write_text(json.dumps(next(inclusion_vectors())))
    (tmp_path / "index.json").write_text("[]")
    for directory, said in ((tmp_path, "*.json"), (tmp_path / "none", "not a directory")):
        command = [sys.executable, "-m", "tests.audit.vectors", str(directory)]
        done = subprocess.run(command, capture_output=True, check=False, timeout=60, text=True)
        assert done.returncode == 2
        assert str(directory) in done.stderr
        assert said in done.stderr
