#!/usr/bin/env python3
"""Verify what an edgegw box or hub has written, with nothing but this file, a Python and the keys.

    verifier.py --box-key KEY [--hub-key KEY] journal FILE
    verifier.py --box-key KEY [--hub-key KEY] receipt FILE
    verifier.py --box-key KEY [--hub-key KEY] checkpoints OLD NEW (--proof FILE | --journal FILE)

A KEY is the one-line text `<name>+<key id>+<base64>` of the box's checkpoint key or the hub's, from whoever
answers for it, never from what is to be verified. With --hub-key the hub's cosignature is asked for as well.
WITHOUT A COSIGNATURE a history is evident only against those who do not hold the box's key.
Exit codes: 0 verified; 1 not verified (the first bad record, what differs, the mend); 2 wrong usage, no key,
or an unreadable file. --json prints figures. It shares no code with the package that writes these files: the
standard library alone, SM2 in plain integers.

A log: leaf = SM3(0x00 || previous leaf || record), the first previous leaf 32 zero bytes; over the leaves the
Merkle tree of RFC 6962 with node = SM3(0x01 || left || right). A record's `seq` is its index in the tree.
A journal file (`edgegw journal export`) is one JSON document a line:
  {"edgegw_journal":1,"origin":"edgegw/<bank>/<box>/<epoch>","from":0}
  the records, verbatim, and after every 256 of them at most (and after the last) one line
  {"leaves":"<base64 of their leaves>"}
      which is not trusted, but where the leaves give the signed root they tell which record was edited;
  {"checkpoint":"<signed note>","cosignatures":["<note cosigned by the hub>", ...]}
The hub's log for a box has the origin "edgegw/<bank>/hub/<box>/<incarnation>" and is signed by the hub.
A receipt: {"type":"edgegw-receipt-v1","record":"<text>","previous_leaf":"<hex>","index":n,"proof":["<hex>",
...],"checkpoint":"<note>","cosignature":"<note or empty>","cosignature_proof":["<hex>",...]}; the last leads
from the cosigned size to the checkpoint's. A proof file: {"edgegw_consistency":1,"proof":["<hex>",...]}.
A note: "<origin>\\n<size>\\n<base64 root>\\n", a blank line, lines "— <name> <base64(key id || signature)>".
A key id is the start of SM3(name || 0x0A || 0xff || "edgegw.sm2-sm3.v1" || point). A signature is r || s over
the three lines, with user id 1234567812345678; a cosignature is 8 bytes of Unix time || r || s over
"edgegw/cosig/v1\\ntime <t>\\n" and the three lines.
"""

from __future__ import annotations

import argparse
import base64
import datetime
import functools
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

LINE_BYTES_MAX = 4 << 20
BLOCK_RECORDS_MAX = 256
OWN_WORD = "No cosignature was checked: this is evident only against those who do not hold the signer's key"


class Usage(Exception):
    """Wrong usage, or a file that cannot be read or is of another kind: exit code 2."""


class Malformed(ValueError):
    """Something is not of its form, or not signed."""


class Unverified(Exception):
    """It does not verify: where, what differs, the mend, and the first bad record if known. Exit code 1."""

    def __init__(self, place: str, problem: object, mend: str, record: int | None = None) -> None:
        super().__init__(f"{place}: {problem}")
        self.place, self.problem, self.mend, self.record = place, str(problem), mend, record


# SM3 (GB/T 32905)
def sm3_in_python(data: bytes) -> bytes:
    """SM3 for a Python whose OpenSSL lacks it: right, and hundreds of times slower."""

    def rotate(x: int, by: int) -> int:
        return (x << by % 32 | x >> 32 - by % 32) & 0xFFFFFFFF

    initial = bytes.fromhex("7380166f4914b2b9172442d7da8a0600a96f30bc163138aae38dee4db0fb0e4e")
    state = [int.from_bytes(initial[i : i + 4], "big") for i in range(0, 32, 4)]
    data += b"\x80" + bytes(-(len(data) + 9) % 64) + (8 * len(data)).to_bytes(8, "big")
    for start in range(0, len(data), 64):
        w = [int.from_bytes(data[i : i + 4], "big") for i in range(start, start + 64, 4)]
        for j in range(16, 68):
            x = w[j - 16] ^ w[j - 9] ^ rotate(w[j - 3], 15)
            w.append(x ^ rotate(x, 15) ^ rotate(x, 23) ^ rotate(w[j - 13], 7) ^ w[j - 6])
        a, b, c, d, e, f, g, h = state
        for j in range(64):
            ss1 = rotate((rotate(a, 12) + e + rotate(0x79CC4519 if j < 16 else 0x7A879D8A, j)) % 2**32, 7)
            ff = a ^ b ^ c if j < 16 else (a & b) | (a & c) | (b & c)
            gg = e ^ f ^ g if j < 16 else (e & f) | (~e & g)
            tt1 = (ff + d + (ss1 ^ rotate(a, 12)) + (w[j] ^ w[j + 4])) % 2**32
            tt2 = (gg + h + ss1 + w[j]) % 2**32
            a, b, c, d = tt1, a, rotate(b, 9), c
            e, f, g, h = tt2 ^ rotate(tt2, 9) ^ rotate(tt2, 17), e, rotate(f, 19), g
        state = [x ^ y for x, y in zip(state, (a, b, c, d, e, f, g, h), strict=True)]
    return b"".join(x.to_bytes(4, "big") for x in state)


def choose_sm3() -> Callable[[bytes], bytes]:
    """The quick SM3 if this Python has a right one (example 1 of GB/T 32905)."""
    try:
        fresh = hashlib.new("sm3")
    except ValueError:
        return sm3_in_python

    def sm3_of_hashlib(data: bytes) -> bytes:
        state = fresh.copy()
        state.update(data)
        return state.digest()

    known = "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0"
    return sm3_of_hashlib if sm3_of_hashlib(b"abc").hex() == known else sm3_in_python


sm3 = choose_sm3()

# SM2 (GB/T 32918.2) on the recommended curve of GB/T 32918.5, in Jacobian coordinates

P = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF00000000FFFFFFFFFFFFFFFF
A = P - 3
B = 0x28E9FA9E9D9F5E344D5A9E4BCF6509A7F39789F515AB8F92DDBCBD414D940E93
N = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFF7203DF6B21C6052B53BBF40939D54123
GX = 0x32C4AE2C1F1981195F9904466A39C9948FE30BBFF2660BE1715A4589334C74C7
GY = 0xBC3736A2F4F6779C59BDCEE36B692153D0A9877CC62A474002DF32E52139F0A0
USER_ID = b"1234567812345678"
Point = tuple[int, int]
Jacobian = tuple[int, int, int]
INFINITY: Jacobian = (1, 1, 0)


def _double(point: Jacobian) -> Jacobian:
    x, y, z = point
    if not y or not z:
        return INFINITY
    yy, zz = y * y % P, z * z % P
    s, m = 4 * x * yy % P, 3 * (x - zz) * (x + zz) % P  # a = -3
    x3 = (m * m - 2 * s) % P
    return x3, (m * (s - x3) - 8 * yy * yy) % P, 2 * y * z % P


def _add(one: Jacobian, two: Jacobian) -> Jacobian:
    (x1, y1, z1), (x2, y2, z2) = one, two
    if not z1 or not z2:
        return one if z1 else two
    zz1, zz2 = z1 * z1 % P, z2 * z2 % P
    u1, u2 = x1 * zz2 % P, x2 * zz1 % P
    s1, s2 = y1 * zz2 * z2 % P, y2 * zz1 * z1 % P
    if u1 == u2:
        return _double(one) if s1 == s2 else INFINITY
    h, r = u2 - u1, s2 - s1
    hh = h * h % P
    hhh, v = h * hh % P, u1 * hh % P
    x3 = (r * r - hhh - 2 * v) % P
    return x3, (r * (v - x3) - s1 * hhh) % P, h * z1 * z2 % P


def on_curve(point: Point) -> bool:
    """Whether the point is one of the curve's (whose order is prime, so that every such point is a key)."""
    x, y = point
    return 0 <= x < P and 0 <= y < P and (y * y - (x * x + A) * x - B) % P == 0


def sm2_verify(point: Point, message: bytes, signature: bytes) -> bool:
    """Whether signature (r || s, 64 bytes) is that of the key over message."""
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    t = (r + s) % N
    if len(signature) != 64 or not on_curve(point) or not (0 < r < N and 0 < s < N) or not t:
        return False
    parameters = b"".join(number.to_bytes(32, "big") for number in (A, B, GX, GY, *point))
    za = sm3((8 * len(USER_ID)).to_bytes(2, "big") + USER_ID + parameters)
    e = int.from_bytes(sm3(za + message), "big")
    base, key = (GX, GY, 1), (*point, 1)
    table = (INFINITY, base, key, _add(base, key))
    total = INFINITY
    for bit in range(255, -1, -1):
        total = _add(_double(total), table[(s >> bit & 1) | (t >> bit & 1) << 1])
    x, _, z = total
    return bool(z) and (e + x * pow(z * z, -1, P) % P) % N == r


@functools.cache
def self_test() -> None:
    """Raise Usage unless this Python gives the known answer of GB/T 32918.5 annex A.2."""
    x = 0x09F9DF311E5421A150DD7D161E4BC5C672179FAD1833FC076BB08FF356F35020
    y = 0xCCEA490CE26775A52DC6EA718CC1AA600AED05FBF35E084A6632F6072DA9AD13
    r = "f5a03b0648d2c4630eeac513e1bb81a15944da3827d5b74143ac7eaceee720b3"
    s = "b1b6aa29df212fd8763182bc0d421ca1bb9038fd1f7f42d4840b69c485bbc1aa"
    signature = bytes.fromhex(r + s)
    if not sm2_verify((x, y), b"message digest", signature) or sm2_verify((x, y), b"other", signature):
        raise Usage("this Python computes SM2 or SM3 wrongly; use another one")


# Reading strictly
def _unbase64(text: str) -> bytes:
    raw = base64.b64decode(text, validate=True)
    if base64.b64encode(raw).decode() != text:
        raise Malformed(f"{text[:80]!r} is not canonical base64")
    return raw


def _hashes_of(value: object) -> list[bytes]:
    if not isinstance(value, list) or not all(re.fullmatch("[0-9a-f]{64}", str(one)) for one in value):
        raise Malformed("a proof is a list of hashes, each 64 lower-case hex digits")
    return [bytes.fromhex(one) for one in value]


def _document_of(line: bytes) -> dict[str, object]:
    try:
        document = json.loads(line)
    except RecursionError:
        document = None
    if not isinstance(document, dict):
        raise Malformed("not a JSON object")
    return document


def _document_in(path: str, name: str, value: object) -> dict[str, object]:
    try:
        document = _document_of(Path(path).read_bytes())
    except ValueError as problem:
        raise Usage(f"{path}: {problem}") from None
    if document.get(name) != value:
        raise Usage(f"{path} is of another kind: its {name} is {document.get(name)!r}, not {value!r}")
    return document


# Keys and notes
class Key(NamedTuple):
    """A verifying key under its name."""

    name: str
    key_id: bytes
    point: Point


class Origin(NamedTuple):
    """Whose log it is: the parts of an origin line."""

    text: str
    bank: str
    box: str
    number: int
    number_field: str


class Head(NamedTuple):
    """What a checkpoint says, and when it was cosigned (Unix seconds)."""

    origin: Origin
    size: int
    root: bytes
    body: bytes
    time_s: int = 0


class Keys(NamedTuple):
    """The keys of the command line."""

    box: Key | None
    hub: Key | None

    def author(self, origin: Origin) -> Key:
        """Whose signature the log's checkpoints must bear."""
        key, option = (self.box, "--box-key") if origin.number_field == "epoch" else (self.hub, "--hub-key")
        if key is None:
            raise Usage(f"{option} is needed for the log {origin.text}")
        return key


def key_of(text: str) -> Key:
    """The key of a one-line text."""
    name, _, rest = text.strip().partition("+")
    key_id, _, encoded = rest.partition("+")
    raw = _unbase64(encoded)
    point = (int.from_bytes(raw[2:34], "big"), int.from_bytes(raw[34:], "big"))
    if not name or len(raw) != 66 or raw[:2] != b"\xff\x04" or not on_curve(point):
        raise Malformed("a key is <name>+<key id>+<base64 of ff and the 65-byte point>, on the curve")
    computed = sm3(name.encode() + b"\n\xffedgegw.sm2-sm3.v1" + raw[1:])[:4]
    if computed.hex() != key_id:
        raise Malformed(f"its id is {computed.hex()}, the text says {key_id!r}: it was altered")
    return Key(name, computed, point)


def origin_of(value: object) -> Origin:
    """The parts of an origin line."""
    part = "([A-Za-z0-9][A-Za-z0-9._-]*)"
    match = re.fullmatch(f"edgegw/{part}/(hub/)?{part}/(0|[1-9][0-9]{{0,18}})", str(value))
    if not match:
        raise Malformed(f"{value!r} is no origin: edgegw/<bank>/<box>/<epoch>")
    return Origin(match[0], match[1], match[3], int(match[4]), "incarnation" if match[2] else "epoch")


def parse_checkpoint(note: object) -> tuple[Head, list[tuple[str, bytes]]]:
    """The head, and (name, key id || signature) of each line; nothing verified yet."""
    body, blank, signatures = str(note).partition("\n\n")
    match = re.fullmatch("(.+)\n(0|[1-9][0-9]{0,18})\n(.+)", body)
    if not blank or not match or len(root := _unbase64(match[3])) != 32 or not signatures.endswith("\n"):
        raise Malformed("a checkpoint is origin, size and root, a blank line and signature lines")
    lines = [re.fullmatch(r"— ([^\s+]+) ([A-Za-z0-9+/]+=*)", line) for line in signatures[:-1].split("\n")]
    if None in lines or len(lines) > 16:
        raise Malformed("signature lines are '— <name> <base64>', at most 16")
    head = Head(origin_of(match[1]), int(match[2]), root, f"{body}\n".encode())
    return head, [(line[1], _unbase64(line[2])) for line in lines if line]


def _open_note(note: object, key: Key, *, cosigned: bool = False) -> Head:
    head, lines = parse_checkpoint(note)
    mine = [raw[4:] for name, raw in lines if name == key.name and raw[:4] == key.key_id]
    if len(mine) != 1:
        raise Malformed(f"{len(mine) or 'no'} signatures by {key.name} ({key.key_id.hex()})")
    signature, message, time_s = mine[0], head.body, 0
    if cosigned:
        time_s, signature = int.from_bytes(signature[:8], "big"), signature[8:]
        message = f"edgegw/cosig/v1\ntime {time_s}\n".encode() + message
    if not sm2_verify(key.point, message, signature):
        raise Malformed(f"the signature by {key.name} does not verify")
    return head._replace(time_s=time_s)


def open_checkpoint(note: object, keys: Keys) -> Head:
    """The head that the log's author has signed; raises Unverified."""
    try:
        return _open_note(note, keys.author(parse_checkpoint(note)[0].origin))
    except ValueError as problem:
        mend = "make sure that the key is this log's; if it is, somebody else has signed this"
        raise Unverified("checkpoint", problem, mend) from None


def open_cosignature(note: object, key: Key, head: Head) -> Head:
    """What the key has cosigned of the log to which head belongs; raises Unverified."""
    try:
        cosigned = _open_note(note, key, cosigned=True)
        if cosigned.origin != head.origin:
            raise Malformed(f"it is for another log, {cosigned.origin.text}")
    except ValueError as problem:
        raise Unverified("cosignature", problem, "export again once the box has reached the hub") from None
    if cosigned.size > head.size:
        raise bad_record(head.size, f"it is missing here: the hub holds {cosigned.size} records")
    return cosigned


# The tree
class Tree:
    """The right edge of the Merkle tree."""

    def __init__(self, size: int = 0, peaks: Iterable[bytes] = ()) -> None:
        self.size, self.peaks = size, list(peaks)

    def append(self, leaf: bytes) -> None:
        carry = self.size
        while carry & 1:
            leaf = sm3(b"\x01" + self.peaks.pop() + leaf)
            carry >>= 1
        self.peaks.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        root = self.peaks[-1] if self.peaks else sm3(b"")
        for peak in self.peaks[-2::-1]:
            root = sm3(b"\x01" + peak + root)
        return root


def root_of_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes]) -> bytes:
    """The root to which an inclusion proof leads (RFC 6962 section 2.1.1)."""
    rights, low, high = [], 0, size
    while high - low > 1:
        middle = low + (1 << (high - low - 1).bit_length() - 1)
        rights.append(index >= middle)
        low, high = (middle, high) if index >= middle else (low, middle)
    if len(proof) != len(rights):
        raise Malformed(f"the proof has {len(proof)} hashes, {len(rights)} are needed")
    for right, sibling in zip(reversed(rights), proof, strict=True):
        leaf = sm3(b"\x01" + (sibling + leaf if right else leaf + sibling))
    return leaf


def check_consistency(old: Head, new: Head, proof: Sequence[bytes]) -> None:
    """Raise Malformed unless new, which is not shorter, only appends to old (RFC 6962 section 2.1.2)."""
    if old.size == new.size and old.root != new.root:
        raise Malformed(f"two roots at size {old.size}, both signed: this is a fork")
    if old.size == new.size or not old.size:
        return
    rights, low, high = [], 0, new.size
    while high != old.size:
        middle = low + (1 << (high - low - 1).bit_length() - 1)
        rights.append(old.size > middle)
        low, high = (middle, high) if old.size > middle else (low, middle)
    needed = len(rights) + (low > 0)
    if len(proof) != needed:
        raise Malformed(f"the proof has {len(proof)} hashes, {needed} are needed")
    older = newer = proof[0] if low else old.root
    for right, sibling in zip(reversed(rights), proof[low > 0 :], strict=True):
        if right:
            older = sm3(b"\x01" + sibling + older)
        newer = sm3(b"\x01" + (sibling + newer if right else newer + sibling))
    if (older, newer) != (old.root, new.root):
        raise Malformed(f"the proof does not lead from the root at {old.size} to the root at {new.size}")


# A journal
def bad_record(place: int, problem: str) -> Unverified:
    """A record that is not the one that was signed."""
    mend = "take the record from the other side's copy, and find out who changed this one"
    return Unverified(f"record {place}", problem, mend, place)


def problem_of(record: bytes, origin: Origin, place: int) -> str:
    """What is wrong with a record at its place, by its own words; "" if nothing is."""
    try:
        said = _document_of(record)
    except ValueError as problem:
        return f"it is {problem}"
    expected = {"seq": place, "box": origin.box, origin.number_field: origin.number, "bank": origin.bank}
    for name, value in expected.items():
        if said.get(name) != value:
            return f"its {name} is {said.get(name)!r}, {value!r} is expected here"
    return ""


class Scan:
    """The records of a journal file as they stream by; memory is one block."""

    def __init__(self, origin: Origin, roots_wanted: Iterable[int] = ()) -> None:
        self.origin, self.wanted = origin, frozenset(roots_wanted)
        self.tree, self.previous = Tree(), bytes(32)
        self.roots = {0: self.tree.root()}
        self.index = 0  # where in the log the next record should stand
        self.wrong: Unverified | None = None  # the first line that is wrong by its own words
        self.different: int | None = None  # the first record that does not give the leaf that the file names
        self.named: Tree | None = None  # over the leaves that the file names, once they differ
        self.named_previous = b""
        self.start_block()

    def start_block(self) -> None:
        self.block: list[bytes] = []
        self.block_leaves: list[bytes] = []
        self.block_tree, self.block_previous = Tree(self.tree.size, self.tree.peaks), self.previous

    def record(self, record: bytes) -> None:
        if self.wrong is None and (problem := problem_of(record, self.origin, self.index)):
            self.wrong = bad_record(self.index, problem)
        self.index += 1
        self.previous = sm3(b"\x00" + self.previous + record)
        self.tree.append(self.previous)
        if self.tree.size in self.wanted:
            self.roots[self.tree.size] = self.tree.root()
        self.block.append(record)
        self.block_leaves.append(self.previous)
        if len(self.block) > 2 * BLOCK_RECORDS_MAX:  # the lines of leaves are gone; memory stays bounded
            self.start_block()

    def leaves(self, line: bytes) -> None:
        """A line of leaves: compare the block with it, and go on from it."""
        try:
            raw = _unbase64(str(_document_of(line).get("leaves")))
            if len(raw) % 32 or not 0 < len(raw) <= 32 * BLOCK_RECORDS_MAX:
                raise Malformed(f"{len(raw)} bytes of leaves")
        except ValueError as problem:
            self.wrong = self.wrong or self.changed_leaves(problem)
            return
        if self.named is None and raw != b"".join(self.block_leaves):
            self.named, self.named_previous = self.block_tree, self.block_previous
        if self.named is not None:
            self.compare([raw[start : start + 32] for start in range(0, len(raw), 32)], self.named)
        self.start_block()

    def compare(self, leaves: Sequence[bytes], named: Tree) -> None:
        """Find the first record of the block that is not the named one; go on after the named ones."""
        start = self.index - len(self.block)
        bad = [len(leaves)] if len(leaves) < len(self.block) else []
        for offset, leaf in enumerate(leaves):
            record = self.block[offset] if offset < len(self.block) else b""
            if sm3(b"\x00" + self.named_previous + record) != leaf:
                bad.append(offset)
            named.append(leaf)
            self.named_previous = leaf
        if bad and self.different is None:
            self.different = start + min(bad)
        self.index = start + len(leaves)

    def changed_leaves(self, problem: object) -> Unverified:
        return Unverified(f"leaves before record {self.index}", problem, "export the journal again")

    def judge(self, head: Head, cosigned: Head | None) -> None:
        """Raise Unverified, with the first bad record, unless the records are those signed and cosigned."""
        held = cosigned is not None and self.roots.get(cosigned.size) == cosigned.root
        if (self.tree.size, self.tree.root()) == (head.size, head.root):
            if self.wrong or self.different is not None:
                raise self.wrong or self.changed_leaves("they were changed, the records were not")
            if cosigned and not held:
                problem = "the hub cosigned others: the box's key has signed two histories, this is a fork"
                raise Unverified(f"records up to {cosigned.size - 1}", problem, "take the hub's copy")
            return
        signed = self.named and (self.named.size, self.named.root()) == (head.size, head.root)
        located = self.wrong.record if self.wrong else None
        if self.different is not None and self.different != located and (signed or located is None):
            doubt = "" if signed else " (or the lines of leaves were changed too)"
            raise bad_record(self.different, f"its bytes are not those that were signed{doubt}")
        size = self.tree.size
        if self.wrong or size < head.size:
            raise self.wrong or bad_record(size, f"it is missing: {head.size} records were signed")
        if size > head.size:
            raise bad_record(head.size, f"it is one too many: {head.size} records were signed")
        since, problem = cosigned.size if cosigned and held else 0, "they do not give the signed root"
        raise Unverified(f"records {since} to {size - 1}", problem, "compare with the other side's copy")


Verified = tuple[dict[str, object], str, dict[int, bytes]]  # figures, a sentence, the roots wanted


def verify_journal(path: str, keys: Keys, *, roots_wanted: Sequence[int] = ()) -> Verified:
    """Verify a journal file, and give its roots at the wanted sizes; raises Unverified or Usage."""
    with Path(path).open("rb") as file:
        try:
            header = _document_of(file.readline(LINE_BYTES_MAX))
            if header.get("edgegw_journal") != 1 or header.get("from") != 0:
                raise Malformed("its first line is no header of format 1")
            origin = origin_of(header.get("origin"))
        except ValueError as problem:
            raise Usage(f"{path} is no journal file: {problem}") from None
        author = keys.author(origin)
        end, trailer = read_trailer(file)
        if trailer is None:
            scan = Scan(origin)
            stream(file, scan, end)
            cut = "the file ends before it, without a checkpoint: it was cut off or its last line changed"
            raise scan.wrong or bad_record(scan.index, cut)
        head = open_checkpoint(trailer.get("checkpoint"), keys)
        if head.origin != origin:
            raise Unverified("header", f"the checkpoint is for {head.origin.text}", "export again")
        cosigned = newest_cosigned(trailer.get("cosignatures"), keys, head)
        scan = Scan(origin, [*roots_wanted, *([cosigned.size] if cosigned else [])])
        stream(file, scan, end)
    scan.judge(head, cosigned)
    figures: dict[str, object] = {"origin": origin.text, "size": head.size, "root": head.root.hex()}
    sentence = f"{head.size} records of {origin.text} are those that {author.name} signed"
    return with_cosigned((figures, sentence, scan.roots), cosigned, head)


def with_cosigned(verified: Verified, cosigned: Head | None, head: Head) -> Verified:
    """The same, saying how far the hub vouches for it."""
    figures, sentence, roots = verified
    if cosigned is None:
        return figures | {"cosigned_size": None}, f"{sentence}. {OWN_WORD}.", roots
    figures |= {"cosigned_size": cosigned.size, "cosigned_at_s": cosigned.time_s}
    at = datetime.datetime.fromtimestamp(cosigned.time_s, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    sentence += f"; at {at} the hub held the first {cosigned.size} of them"
    if cosigned.size < head.size:
        sentence += f", and for the last {head.size - cosigned.size} there is the signer's word alone"
    return figures, f"{sentence}.", roots


def read_trailer(file: BinaryIO) -> tuple[int, dict[str, object] | None]:
    """Where the whole lines of records end, and the last line if it is there, whole."""
    here = file.tell()
    tail_start = max(here, file.seek(0, os.SEEK_END) - LINE_BYTES_MAX)
    file.seek(tail_start)
    tail = file.read()
    file.seek(here)
    last = tail.rfind(b"\n", 0, -1) + 1
    try:  # a line that was cut or changed is told with its place, once the records before it are read
        document = _document_of(tail[last:]) if tail.endswith(b"\n") else {}
    except ValueError:
        document = {}
    return tail_start + last, document if "checkpoint" in document else None


def stream(file: BinaryIO, scan: Scan, end: int) -> None:
    """Feed the lines up to `end` to the scan."""
    position = file.tell()
    while position < end:
        line = file.readline(LINE_BYTES_MAX)
        position += len(line)
        if not line.startswith(b'{"leaves":'):
            scan.record(line.removesuffix(b"\n"))
            continue
        scan.leaves(line)
        if sys.stderr.isatty() and scan.tree.size % (BLOCK_RECORDS_MAX * 32) == 0:
            print(f"\r{scan.tree.size:,} records ", end="", file=sys.stderr, flush=True)


def newest_cosigned(notes: object, keys: Keys, head: Head) -> Head | None:
    """The longest history that the hub has cosigned; None if that is not asked for."""
    if keys.hub is None or head.origin.number_field != "epoch":
        return None
    if not isinstance(notes, list) or not notes:
        mend = "export again once the box has reached the hub, or verify without --hub-key"
        raise Unverified("cosignature", f"there is none by {keys.hub.name}", mend)
    return max((open_cosignature(note, keys.hub, head) for note in notes), key=lambda one: one.size)


# A receipt, and two checkpoints
def verify_receipt(path: str, keys: Keys) -> Verified:
    """Verify a receipt; raises Unverified or Usage."""
    receipt = _document_in(path, "type", "edgegw-receipt-v1")
    head = open_checkpoint(receipt.get("checkpoint"), keys)
    index = receipt.get("index")
    try:
        if not isinstance(index, int) or not 0 <= index < head.size:
            raise Malformed(f"index {index!r} is not in a history of {head.size} records")
        record = str(receipt.get("record")).encode()
        leaf = sm3(b"\x00" + _hashes_of([receipt.get("previous_leaf")])[0] + record)
        if root_of_inclusion(index, head.size, leaf, _hashes_of(receipt.get("proof"))) != head.root:
            raise Malformed("the proof does not lead from this record to the signed root")
        if problem := problem_of(record, head.origin, index):
            raise Malformed(problem)
        note = receipt.get("cosignature")
        cosigned = newest_cosigned([note] if note else [], keys, head)
        if cosigned and index >= cosigned.size:
            raise Malformed(f"the hub's cosignature covers {cosigned.size} records, not yet this one")
        if cosigned:
            check_consistency(cosigned, head, _hashes_of(receipt.get("cosignature_proof")))
    except ValueError as problem:
        mend = "ask the box for the receipt again; if it stays so, take it and this message to the bank"
        raise Unverified("receipt", problem, mend) from None
    figures: dict[str, object] = {"origin": head.origin.text, "index": index, "size": head.size}
    sentence = f"record {index} of {head.origin.text} is among the {head.size} that were signed"
    return with_cosigned((figures, sentence, {}), cosigned, head)


def verify_checkpoints(paths: Sequence[str], keys: Keys, proof: str | None, journal: str | None) -> Verified:
    """Verify that the second checkpoint's history only continues the first's; raises Unverified or Usage."""
    old, new = (open_checkpoint(Path(path).read_bytes().decode(errors="replace"), keys) for path in paths)
    if old.origin != new.origin or new.size < old.size:
        raise Usage("give an older and a newer checkpoint of one log, in this order")
    try:
        if journal:
            _, _, roots = verify_journal(journal, keys, roots_wanted=(old.size, new.size))
            if (roots.get(old.size), roots.get(new.size)) != (old.root, new.root):
                raise Malformed("the journal has other roots at these sizes")
        elif proof or old.size == new.size:
            document = _document_in(proof, "edgegw_consistency", 1) if proof else {"proof": []}
            check_consistency(old, new, _hashes_of(document.get("proof")))
        else:
            raise Usage("give --proof FILE or --journal FILE, which ties the two checkpoints together")
    except ValueError as problem:
        mend = "ask for the proof again; if it stays so, this is a fork: keep both checkpoints as evidence"
        raise Unverified("checkpoints", problem, mend) from None
    figures: dict[str, object] = {"origin": new.origin.text, "old_size": old.size, "size": new.size}
    sentence = f"{new.origin.text} at size {new.size} only continues what it was at size {old.size}"
    return figures, f"{sentence}. {OWN_WORD}.", {}


# The command
def arguments_parser() -> argparse.ArgumentParser:
    """What the command line takes."""
    parser = argparse.ArgumentParser(
        prog="verifier.py" if __name__ == "__main__" else "edgegw verify",
        description="Verify an edgegw journal, receipt or pair of checkpoints with the signers' public keys.",
        epilog="Exit codes: 0 verified, 1 not verified, 2 wrong usage or a file that cannot be read.",
    )
    parser.add_argument("--box-key", metavar="KEY", help="the box's checkpoint key: name+key id+base64")
    parser.add_argument("--hub-key", metavar="KEY", help="the hub's key; its cosignature is then asked for")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a sentence")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="journal | receipt | checkpoints")
    kinds.add_parser("journal", help="an exported journal").add_argument("file")
    kinds.add_parser("receipt", help="the receipt of one payment").add_argument("file")
    pair = kinds.add_parser("checkpoints", help="an older and a newer checkpoint of one log")
    pair.add_argument("files", nargs=2, metavar="CHECKPOINT")
    pair.add_argument("--proof", metavar="FILE", help="the consistency proof between them")
    pair.add_argument("--journal", metavar="FILE", help="an exported journal that covers both")
    return parser


def verify(options: argparse.Namespace) -> Verified:
    """Do what the command line asks for; raises Unverified or Usage."""
    self_test()
    try:
        keys = Keys(*(None if text is None else key_of(text) for text in (options.box_key, options.hub_key)))
    except ValueError as problem:
        raise Usage(f"--box-key or --hub-key is no key: {problem}") from None
    if keys == Keys(None, None):
        raise Usage("give --box-key, from whoever answers for the box: without a key nothing is verified")
    if options.kind == "checkpoints":
        return verify_checkpoints(options.files, keys, options.proof, options.journal)
    return (verify_journal if options.kind == "journal" else verify_receipt)(options.file, keys)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = arguments_parser().parse_args(arguments)
    started = time.monotonic()
    try:
        figures, sentence, _ = verify(options)
        code, figures = 0, {"verified": True, **figures}
    except (Usage, OSError) as problem:  # the text of an OSError names the file
        code, sentence, figures = 2, f"cannot verify: {problem}", {"verified": False, "error": str(problem)}
    except Unverified as problem:
        code, sentence = 1, f"NOT VERIFIED: {problem}.\nWhat to do: {problem.mend}."
        figures = {"verified": False, "place": problem.place, "first_bad_record": problem.record}
        figures |= {"problem": problem.problem, "mend": problem.mend}
    if options.json:
        print(json.dumps({"what": options.kind, **figures, "seconds": round(time.monotonic() - started, 3)}))
    else:
        print(sentence if code else f"verified: {sentence}", file=sys.stderr if code == 2 else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main())
