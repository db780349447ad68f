#!/usr/bin/env python3
"""Verify what an edgegw box or hub has written, with nothing but this file, a Python and the keys.

    verifier.py --box-key KEY [--hub-key KEY] [--policy FILE] journal FILE
    verifier.py --box-key KEY [--hub-key KEY] receipt FILE
    verifier.py --box-key KEY [--hub-key KEY] checkpoints OLD NEW (--proof FILE | --journal FILE)
    verifier.py --box-key KEY [--hub-key KEY] export FILE

A KEY is the one-line text `<name>+<key id>+<base64>` of the box's checkpoint key or the hub's, from whoever
answers for it, never from what is to be verified. A box has a key for each epoch: --box-key may be given more
than once, and is not needed beside --hub-key where the first record is there, a link by which the hub names
the key, or where --policy has it. With --hub-key the hub's cosignature is asked for as well.
A key may follow another one within an epoch: a record at seq n, with a statement that both have signed, ends
the old one with size n and begins the new one with size n + 1. What is verified carries these statements;
--policy FILE (`edgegw keys policy --output`) has them as well, for what is older than they are, and the hub's
words by which a key is revoked: above a size nothing counts that it has signed. It takes --hub-key.
WITHOUT A COSIGNATURE a history is evident only against those who do not hold the box's key.
Exit codes: 0 verified; 1 not verified (the first bad record, what differs, the mend); 2 wrong usage, no key,
or an unreadable file. --json prints figures. It shares no code with the package that writes these files: the
standard library alone, SM2 in plain integers.

A log: leaf = SM3(0x00 || previous leaf || record), the first previous leaf 32 zero bytes; over the leaves the
Merkle tree of RFC 6962 with node = SM3(0x01 || left || right). A record's `seq` is its index in the tree.
A journal file (`edgegw journal export`) is one JSON document a line, written without blanks:
  {"edgegw_journal":1,"origin":"edgegw/<bank>/<box>/<epoch>","from":0}
      where records were pruned, "from" is their number, and "previous_leaf":"<hex>","peaks":["<hex>",...]
      stand for them: the last leaf, and the roots of their complete subtrees, largest first;
  the records, verbatim, and after every 256 of them and after the last one line
  {"leaves":"<base64 of their leaves>"}
      which is not trusted, but where the leaves give the signed root they tell which record was edited;
  {"checkpoint":"<signed note>","cosignatures":["<note cosigned by the hub>", ...]}
      and where a key followed another one, all such statements: ,"keys":["<note>", ...]
Every byte of it counts: there is no harmless difference. (Without --hub-key a cosignature is not looked at.)
The hub's log for a box has the origin "edgegw/<bank>/hub/<box>/<incarnation>" and is signed by the hub.
A receipt: {"type":"edgegw-receipt-v1","record":"<text>","previous_leaf":"<hex>","index":n,"size":n,"proof":
["<hex>",...],"checkpoint":"<note>","cosignature":"<note or empty>","cosignature_proof":["<hex>",...]}; the
last leads from the cosigned size to the checkpoint's; "keys":["<note>",...] may follow.
A proof: {"edgegw_consistency":1,"proof":["<hex>"]}.
Of these two only what they say counts, not the layout of the JSON.
An export (`edgegw export`) is a SQLite file. Each row of its tables must be what the records' bytes say, each
node and leaf what they give, and each view the one that format 1 has; tables beside them are named. Bytes
that no row reads (free pages, counters of the file) do not count.
A note: "<origin>\\n<size>\\n<base64 root>\\n", a blank line, a line "— <name> <base64(key id || signature)>".
A key id is the start of SM3(name || 0x0A || 0xff || "edgegw.sm2-sm3.v1" || point). A signature is r || s over
the three lines, with user id 1234567812345678; a cosignature is 8 bytes of Unix time || r || s over
"edgegw/cosig/v1\\ntime <t>\\n" and the three lines. A statement about a key: "edgegw/key/v1\\n", a line of
JSON, a blank line, two signature lines; one that revokes a key: "edgegw/revoked-key/v1\\n", a line of JSON, a
blank line and the hub's.
"""

from __future__ import annotations

import argparse
import base64
import datetime
import functools
import hashlib
import itertools
import json
import os
import re
import sqlite3
import sys
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

LINE_BYTES_MAX = 4 << 20
BLOCK_RECORDS = 256
OWN_WORD = "No cosignature was checked: this is evident only against those who do not hold the signer's key"


class Usage(Exception):
    """Wrong usage, or a file that cannot be read or is of another kind: exit code 2."""


class Malformed(ValueError):
    """Something is not of its form, or not signed."""


class Unverified(Exception):
    """It does not verify: where, what differs, the mend, and the first bad record if known. Exit code 1."""

    def __init__(self, place: str, problem: object, mend: str, record: int | str | None = None) -> None:
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
        document = json.loads(line, object_pairs_hook=_once)
    except RecursionError:
        document = None
    if not isinstance(document, dict):
        raise Malformed("not a JSON object")
    return document


def _array_of(records: Sequence[bytes]) -> list[dict[str, object]]:
    """The documents of all records, read at once; ValueError when they are not one each."""
    documents = json.loads(b"[" + b",".join(records) + b"]")
    if len(documents) != len(records):
        raise Malformed("not one document a line")
    return list(documents)


def _canonical(line: bytes) -> dict[str, object] | None:
    """The document of a line; None unless it is byte for byte as the program writes it."""
    try:
        document = _document_of(line)
        written = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    except ValueError:
        return None
    return document if written == line else None


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise Malformed("a field stands there twice")
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


class Revoked(NamedTuple):
    """The hub's word that a key counts for nothing above a size."""

    key: Key
    size_max: int
    reason: str


class Policy(NamedTuple):
    """What a policy file says of one epoch: its first key, statements about later ones, revoked ones."""

    first: Key | None = None
    notes: tuple[str, ...] = ()
    revoked: tuple[Revoked, ...] = ()


class Keys(NamedTuple):
    """The keys of the command line: a box has one for each epoch; policies by the text of the origin."""

    boxes: tuple[Key, ...]
    hub: Key | None
    policies: Mapping[str, Policy] = types.MappingProxyType({})

    def authors(self, origin: Origin) -> tuple[Key, ...]:
        """Whose signature the log's checkpoints must bear: one of these."""
        if origin.number_field != "epoch":
            if self.hub is None:
                raise Usage(f"--hub-key is needed for the log {origin.text}")
            return (self.hub,)
        first = self.policies.get(origin.text, Policy()).first
        if first is not None:
            return (first,)
        if not self.boxes:
            raise Usage(f"--box-key is needed for the log {origin.text}")
        return self.boxes

    def linked(self, record: bytes, origin: Origin, place: int | str = 0) -> Keys:
        """The same, and the box's key of this epoch as the hub's link in its first record names it."""
        known = self.policies.get(origin.text, Policy()).first
        if self.boxes or self.hub is None or known is not None or origin.number_field != "epoch":
            return self
        try:
            said = _document_of(record)
            if said.get("type") != "link":
                raise Usage(f"--box-key is needed: record {place} is no link of the hub's that names the key")
            body, key = open_link(said.get("note"), self.hub)
        except ValueError as problem:
            raise bad_record(place, f"it is no link of this hub: {problem}") from None
        if (body.get("bank"), body.get("box"), body.get("epoch")) != (origin.bank, origin.box, origin.number):
            raise bad_record(place, f"the hub's link in it is not for {origin.text}")
        return self._replace(boxes=(key,))


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
    if not blank or not match or len(root := _unbase64(match[3])) != 32:
        raise Malformed("a checkpoint is origin, size and root, a blank line and signature lines")
    head = Head(origin_of(match[1]), int(match[2]), root, f"{body}\n".encode())
    return head, _signature_lines(signatures)


def _signature_lines(text: str) -> list[tuple[str, bytes]]:
    lines = [re.fullmatch(r"— ([^\s+]+) ([A-Za-z0-9+/]+=*)", line) for line in text[:-1].split("\n")]
    if None in lines or len(lines) > 16 or not text.endswith("\n"):
        raise Malformed("signature lines are '— <name> <base64>', at most 16")
    return [(line[1], _unbase64(line[2])) for line in lines if line]


def _signed_by(lines: Sequence[tuple[str, bytes]], keys: Sequence[Key]) -> tuple[Key, bytes]:
    """The key that has signed a note, and its signature; a note of ours bears just one."""
    if len(lines) != 1:
        raise Malformed(f"it bears {len(lines)} signatures, one is expected")
    name, raw = lines[0]
    for key in keys:
        if (key.name, key.key_id) == (name, raw[:4]):
            return key, raw[4:]
    wanted = " or ".join(f"{key.name} ({key.key_id.hex()})" for key in keys)
    raise Malformed(f"it is signed by {name} ({raw[:4].hex()}), not by {wanted}")


def _open_note(note: object, keys: Sequence[Key], *, cosigned: bool = False) -> Head:
    head, lines = parse_checkpoint(note)
    key, signature = _signed_by(lines, keys)
    message, time_s = head.body, 0
    if cosigned:
        time_s, signature = int.from_bytes(signature[:8], "big"), signature[8:]
        message = f"edgegw/cosig/v1\ntime {time_s}\n".encode() + message
    if not sm2_verify(key.point, message, signature):
        raise Malformed(f"the signature by {key.name} does not verify")
    return head._replace(time_s=time_s)


def open_link(note: object, hub: Key) -> tuple[dict[str, object], Key]:
    """What the hub's link of an epoch says, and the box's key in it; ValueError unless the hub signed it."""
    body, _, signature = str(note).rpartition("\n\n")
    label, _, said = f"{body}\n".partition("\n")
    if label != "edgegw/link/v1":
        raise Malformed("it is no link")
    key, raw = _signed_by(_signature_lines(signature), (hub,))
    if not sm2_verify(key.point, f"{body}\n".encode(), raw):
        raise Malformed(f"the signature by {hub.name} does not verify")
    link = _document_of(said.encode())
    return link, key_of(str(link.get("key")))


# Keys that follow each other
class Change(NamedTuple):
    """A statement that both keys have signed: behind record seq the new one signs."""

    seq: int
    purpose: str
    old: Key
    new: Key


def open_change(note: object, origin: Origin) -> Change:
    """What a statement about this log's keys says; ValueError unless both keys have signed it."""
    body, _, signatures = str(note).rpartition("\n\n")
    label, _, text = f"{body}\n".partition("\n")
    lines = _signature_lines(signatures)
    if label != "edgegw/key/v1" or len(lines) != 2:
        raise Malformed(f"a statement about a key bears two signatures, this one {len(lines)}")
    said = _document_of(text.encode())
    seq, purpose = said.get("seq"), said.get("purpose")
    place = (said.get("bank"), said.get("box"), said.get("epoch"))
    if place != (origin.bank, origin.box, origin.number) or type(seq) is not int:
        raise Malformed(f"a statement about a key is for {place}, record {seq!r}, not for {origin.text}")
    old, new = key_of(str(said.get("old"))), key_of(str(said.get("new")))
    for key, (name, raw) in zip((old, new), lines, strict=True):
        signed = sm2_verify(key.point, f"{body}\n".encode(), raw[4:])
        if (key.name, key.key_id) != (name, raw[:4]) or not signed or old.name != new.name or old == new:
            raise Malformed(f"the statement of record {seq} about a key is not signed by {key_text(key)}")
    return Change(seq, str(purpose), old, new)


def changes_of(notes: object, origin: Origin, keys: Keys) -> list[Change]:
    """The changes of a log's checkpoint key, in order, by what is shown and by the policy; ValueError where
    they do not lead from one to the next."""
    if not isinstance(notes, list | tuple):
        raise Malformed("statements about keys are a list of notes")
    known = {str(note): None for note in (*notes, *keys.policies.get(origin.text, Policy()).notes)}
    changes = sorted(open_change(note, origin) for note in known)
    for before, after in itertools.pairwise(changes):
        if before.seq == after.seq or before.new != after.old:
            raise Malformed(f"the key of record {after.seq} does not follow that of record {before.seq}")
    if any(change.purpose != "checkpoint" for change in changes) or (changes and changes[0].seq < 2):
        raise Malformed("a statement beside a checkpoint is not about a checkpoint's key")
    return changes


def signers(head: Head, keys: Keys, notes: object) -> tuple[Key, ...]:
    """Whose signature a checkpoint of this size must bear: one of these; ValueError if nobody's counts."""
    authors, changes = keys.authors(head.origin), changes_of(notes, head.origin, keys)
    if not changes:
        return authors
    chain = [changes[0].old, *(change.new for change in changes)]
    if len(set(chain)) != len(chain):
        raise Malformed("a key that has ended signs again")
    index = sum(change.seq < head.size for change in changes)
    trusted = next((place for place, key in enumerate(chain) if key in authors), len(chain))
    if trusted > index:
        raise Malformed(
            f"no key that was given leads to {key_text(chain[index])}, which signs size {head.size}"
        )
    check_introducers(changes[trusted:index], head.origin, keys)
    return (chain[index],)


def check_introducers(changes: Iterable[Change], origin: Origin, keys: Keys) -> None:
    """ValueError where a revoked key introduces another: above its size, or by a statement that the policy
    does not know, for who has stolen a key can write any record's number in one."""
    policy = keys.policies.get(origin.text, Policy())
    for change, revoked in itertools.product(changes, policy.revoked):
        if change.old != revoked.key:
            continue
        if change.seq >= revoked.size_max or change not in [
            open_change(note, origin) for note in policy.notes
        ]:
            raise Malformed(f"record {change.seq} introduces a key by one that is {why_void(revoked)}")


def revoked_in(keys: Keys, origin: Origin) -> tuple[Revoked, ...]:
    """The keys of a log that the hub has revoked."""
    return keys.policies.get(origin.text, Policy()).revoked


def why_void(revoked: Revoked) -> str:
    """What to say of a revoked key."""
    return f"revoked by the hub above size {revoked.size_max} ({revoked.reason})"


def key_text(key: Key) -> str:
    """A key as messages name it."""
    return f"{key.name} ({key.key_id.hex()})"


def key_record(said: dict[str, Any], origin: Origin, place: int) -> str:
    """The statement of a record by which another checkpoint key takes over, "" of any other record; raises
    ValueError where it is none of both keys, of this place."""
    if said.get("type") != "key" or (place == 1 and "note" not in said):
        return ""
    if "note" not in said:
        raise Malformed("it begins a key without a statement of both keys")
    change = open_change(said["note"], origin)
    if change.seq != place or key_of(str(said.get("key"))) != change.new:
        raise Malformed(f"the statement about a key is that of record {change.seq}")
    return str(said["note"]) if change.purpose == "checkpoint" else ""


def check_key_records(found: Sequence[tuple[int, str]], notes: object, start: int, origin: Origin) -> None:
    """Raise Unverified unless the statements beside a checkpoint are just those of its records."""
    shown = [str(note) for note in notes] if isinstance(notes, list) else []
    beside = {seq: note for note in shown if (seq := open_change(note, origin).seq) >= start}
    for seq in sorted({*beside, *dict(found)}):
        if beside.get(seq) != dict(found).get(seq):
            raise bad_record(seq, "what it says of a key is not what stands beside the checkpoint")


def load_policy(path: str, hub: Key | None) -> dict[str, Policy]:
    """The policies of a file, by origin; raises Usage."""
    document = _document_in(path, "edgegw_key_policy", 1)
    if hub is None:
        raise Usage("--policy takes --hub-key: by it the hub's words in the file are checked")
    found: dict[str, Policy] = {}
    try:
        for one in document["epochs"]:  # type: ignore[attr-defined]
            origin = origin_of(f"edgegw/{document['bank']}/{document['box']}/{one['epoch']}")
            link, first = open_link(one["link"], hub)
            if (link.get("bank"), link.get("box"), link.get("epoch")) != (
                origin.bank,
                origin.box,
                origin.number,
            ):
                raise Malformed(f"its link of {origin.text} is for another epoch")
            found[origin.text] = Policy(first, tuple(map(str, one["keys"])))
        for note in document["revoked"]:  # type: ignore[attr-defined]
            body, _, signature = str(note).rpartition("\n\n")
            label, _, text = f"{body}\n".partition("\n")
            key, raw = _signed_by(_signature_lines(signature), (hub,))
            if label != "edgegw/revoked-key/v1" or not sm2_verify(key.point, f"{body}\n".encode(), raw):
                raise Malformed("a word that revokes a key is not the hub's")
            said = _document_of(text.encode())
            place = f"edgegw/{said['bank']}/{said['box']}/{said['epoch']}"
            revoked = Revoked(key_of(str(said["key"])), int(str(said["size_max"])), str(said["reason"]))
            policy = found.get(place, Policy())
            found[place] = policy._replace(revoked=(*policy.revoked, revoked))
    except (ValueError, LookupError, TypeError) as problem:
        raise Usage(f"{path}: {problem}") from None
    return found


def open_checkpoint(note: object, keys: Keys, notes: object = ()) -> Head:
    """The head that the log's author has signed, by the key of its size; notes are the statements about keys
    beside it. Raises Unverified."""
    try:
        said, _ = parse_checkpoint(note)
        allowed = signers(said, keys, notes)
        head = _open_note(note, allowed)
        key, _ = _signed_by(parse_checkpoint(note)[1], allowed)
        for revoked in revoked_in(keys, head.origin):
            if key == revoked.key and head.size > revoked.size_max:
                raise Malformed(f"it is of size {head.size}, and {key_text(key)} is {why_void(revoked)}")
        return head
    except ValueError as problem:
        mend = "make sure that the key is this log's; if it is, somebody else has signed this"
        raise Unverified("checkpoint", problem, mend) from None


def open_cosignature(note: object, key: Key, head: Head) -> Head:
    """What the key has cosigned of the log to which head belongs; raises Unverified."""
    try:
        cosigned = _open_note(note, (key,), cosigned=True)
        if cosigned.origin != head.origin:
            raise Malformed(f"it is for another log, {cosigned.origin.text}")
    except ValueError as problem:
        place = f"cosignature of epoch {head.origin.number}"
        raise Unverified(place, problem, "export again once the box has reached the hub") from None
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

    def extend(self, leaves: list[bytes]) -> None:
        """Append many; a whole aligned block goes level by level, which takes a third of the time."""
        if self.size % BLOCK_RECORDS or len(leaves) != BLOCK_RECORDS:
            for leaf in leaves:
                self.append(leaf)
            return
        nodes = leaves
        while len(nodes) > 1:
            pairs = iter(nodes)
            nodes = [sm3(b"\x01" + left + right) for left, right in zip(pairs, pairs, strict=True)]
        node, carry = nodes[0], self.size // BLOCK_RECORDS
        while carry & 1:
            node = sm3(b"\x01" + self.peaks.pop() + node)
            carry >>= 1
        self.peaks.append(node)
        self.size += BLOCK_RECORDS

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
    if not old.size and old.root != sm3(b""):
        raise Malformed("an empty history has another root than this")
    if old.size == new.size or not old.size:
        if proof:
            raise Malformed("nothing is to be proved here, and a proof was given")
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
def bad_record(place: int | str, problem: object) -> Unverified:
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


def problem_of_key(record: bytes, origin: Origin, place: int) -> str:
    """What is wrong with what a record says of a key; "" if nothing is."""
    try:
        key_record(_document_of(record), origin, place)
    except ValueError as problem:
        return str(problem)
    return ""


class Start(NamedTuple):
    """Where a journal file begins: at 0, or after so many pruned records, for which these stand."""

    size: int = 0
    previous: bytes = bytes(32)
    peaks: tuple[bytes, ...] = ()


class Scan:
    """The records of a log as they stream by in blocks; memory is a few of them."""

    def __init__(self, origin: Origin, start: Start, *, size: int, roots_wanted: Iterable[int] = ()) -> None:
        self.origin, self.size, self.wanted = origin, size, frozenset(roots_wanted)
        self.tree, self.previous = Tree(start.size, start.peaks), start.previous
        self.roots = {0: sm3(b""), start.size: self.tree.root()}
        self.index = start.size  # where in the log the next record should stand
        self.wrong: Unverified | None = None  # the first record that is wrong by its own words
        self.trailing: Unverified | None = None  # the file goes on after its checkpoint
        self.layout: Unverified | None = None  # the first line of leaves that is not as it was written
        self.different: int | None = None  # the first record that does not give the leaf that is named
        self.named: Tree | None = None  # over the leaves that are named, once they differ
        self.named_previous = b""
        self.last_named = b""
        self.keys: list[tuple[int, str]] = []  # (seq, statement) of records by which another key takes over

    def lines(self, lines: Iterable[bytes]) -> None:
        """The lines of a journal file between its first and its last."""
        block: list[bytes] = []
        for line in lines:
            if line.startswith(b'{"leaves":'):
                self.records(block, self.leaves_of(line))
                block = []
                continue
            if line.startswith(b'{"checkpoint":'):
                problem = "lines follow the one with the checkpoint"
                self.trailing = Unverified("checkpoint", problem, "export the journal again")
                break
            block.append(line.removesuffix(b"\n"))
            if len(block) > 2 * BLOCK_RECORDS + 1:  # the lines of leaves are gone; memory stays bounded
                self.records(block[:BLOCK_RECORDS], b"")
                del block[:BLOCK_RECORDS]
        # A line of leaves that is no such line any more stands where the log has no record.
        surplus = self.index + len(block) == self.size + 1
        if len(block) > 1 and surplus and self.problem_at(block[-1], self.size):
            del block[-1]
        if block:
            self.records(block, b"")

    def leaves_of(self, line: bytes) -> bytes:
        """The leaves of their line; none if it is not as it was written."""
        try:
            raw = base64.b64decode(line[11:-3], validate=True)
        except ValueError:
            return b""
        whole = b'{"leaves":"%b"}\n' % base64.b64encode(raw) == line
        return raw if whole and len(raw) % 32 == 0 and len(raw) <= 32 * BLOCK_RECORDS else b""

    def records(self, records: list[bytes], named: bytes) -> None:
        """Records in a row, and the leaves that are named for them (b"": their line is not there)."""
        count = len(named) // 32
        if not records and named == self.last_named:
            self.layout = self.layout or self.changed_leaves("their line stands there twice")
            return
        self.last_named = named
        if named and len(records) - count >= BLOCK_RECORDS:  # a line of leaves before is missing or damaged
            self.records(records[:BLOCK_RECORDS], b"")
            records = records[BLOCK_RECORDS:]
            if len(records) - count == 1 and self.problem_at(records[0], self.index):
                records = records[1:]
        # Leaves that cannot stand here were moved, or what they stand for is gone: they tell nothing.
        if self.size >= 0 and count != min(BLOCK_RECORDS, self.size - self.index):
            named = b""
        in_order = self.read(records)
        tree, previous = Tree(self.tree.size, self.tree.peaks), self.previous
        leaves = self.chained(records)
        if self.layout is None and not named:
            self.layout = self.changed_leaves("their line is not as it was written, or not there")
        start, self.index = self.index, self.index + (count if named and not in_order else len(records))
        if named and self.named is None and named != b"".join(leaves):
            self.named, self.named_previous = tree, previous
        if named and self.named is not None:
            parts = [named[place : place + 32] for place in range(0, len(named), 32)]
            self.compare(records, parts, start, self.named)

    def read(self, records: list[bytes]) -> bool:
        """Whether all are right by their own words, read at once; the first that is wrong is kept."""
        if self.wrong is not None:
            return False
        origin, field = self.origin, self.origin.number_field
        try:
            for place, said in enumerate(_array_of(records), self.index):
                if (said["seq"], said["box"]) != (place, origin.box):
                    break
                if (said[field], said["bank"]) != (origin.number, origin.bank):
                    break
                if said.get("type") == "key" and (note := key_record(said, origin, place)):
                    self.keys.append((place, note))
            else:
                return True
        except (ValueError, LookupError, TypeError, RecursionError):
            pass  # one of them is no record: which, and why, is told below
        for place, record in enumerate(records, self.index):
            if problem := self.problem_at(record, place) or problem_of_key(record, self.origin, place):
                self.wrong = bad_record(place, problem)
                return False
        return True

    def problem_at(self, record: bytes, place: int) -> str:
        return problem_of(record, self.origin, place)

    def chained(self, records: list[bytes]) -> list[bytes]:
        """The leaves of the records, which the tree takes."""
        leaves, previous = [], self.previous
        for record in records:
            previous = sm3(b"\x00" + previous + record)
            leaves.append(previous)
        self.previous = previous
        if not any(self.tree.size < size <= self.tree.size + len(leaves) for size in self.wanted):
            self.tree.extend(leaves)
            return leaves
        for leaf in leaves:
            self.tree.append(leaf)
            if self.tree.size in self.wanted:
                self.roots[self.tree.size] = self.tree.root()
        return leaves

    def compare(self, records: list[bytes], leaves: list[bytes], start: int, named: Tree) -> None:
        """Find the first of the records that is not the named one; go on after the named ones."""
        bad = [len(leaves)] if len(leaves) < len(records) else []
        for offset, leaf in enumerate(leaves):
            record = records[offset] if offset < len(records) else b""
            if sm3(b"\x00" + self.named_previous + record) != leaf:
                bad.append(offset)
            named.append(leaf)
            self.named_previous = leaf
        if bad and self.different is None:
            self.different = start + min(bad)

    def changed_leaves(self, problem: object) -> Unverified:
        return Unverified(f"leaves of records from {self.index} on", problem, "export the journal again")

    def judge(self, head: Head, cosigned: Head | None) -> None:
        """Raise Unverified, with the first bad record, unless the records are those signed and cosigned."""
        held = cosigned is not None and self.roots.get(cosigned.size) == cosigned.root
        if (self.tree.size, self.tree.root()) == (head.size, head.root):
            if self.wrong or self.trailing or self.layout or self.different is not None:
                raise (
                    self.wrong
                    or self.trailing
                    or self.layout
                    or self.changed_leaves("they were changed, no record was")
                )
            if cosigned and not held:
                problem = "the hub cosigned others: the box's key has signed two histories, this is a fork"
                raise Unverified(f"records up to {cosigned.size - 1}", problem, "take the hub's copy")
            return
        signed = self.named and (self.named.size, self.named.root()) == (head.size, head.root)
        located = self.wrong.record if self.wrong else None
        if self.different is not None and self.different != located and (signed or located is None):
            doubt = "" if signed else " (or the leaves that are named were changed too)"
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
        first = file.readline(LINE_BYTES_MAX)
        here = file.tell()
        end, last = read_last_line(file)
        trailer = _canonical(last)
        try:
            origin, start = header_of(first)
        except ValueError as problem:
            if b'"checkpoint":' not in last:
                raise Usage(f"{path} is no journal file: {problem}") from None
            raise Unverified("header", problem, "export again: the first line is not as written") from None
        if keys.hub and not keys.boxes and not start.size:
            keys = keys.linked(file.readline(LINE_BYTES_MAX), origin)
            file.seek(here)
        authors = keys.authors(origin)
        fields = ["checkpoint", "cosignatures", "keys"]
        if trailer is None or list(trailer) not in (fields[:2], fields):
            raise cut_off(Scan(origin, start, size=-1), file, end, last)
        notes = trailer.get("keys", [])
        head = open_checkpoint(trailer["checkpoint"], keys, notes)
        if head.origin != origin:
            raise Unverified("header", f"the checkpoint is for {head.origin.text}", "export again")
        cosigned = newest_cosigned(trailer["cosignatures"], keys, head)
        wanted = [*roots_wanted, *([cosigned.size] if cosigned else [])]
        scan = Scan(origin, start, size=head.size, roots_wanted=wanted)
        scan.lines(lines_until(file, end))
    scan.judge(head, cosigned)
    check_key_records(scan.keys, notes, start.size, origin)
    figures: dict[str, object] = {"origin": origin.text, "from": start.size, "size": head.size}
    names = " or ".join(sorted({key.name for key in authors}))
    sentence = f"{head.size - start.size} records of {origin.text} are those that {names} signed"
    if start.size:
        sentence += f" (the first {start.size} are not in the file; their number and root are)"
    return with_cosigned((figures | {"root": head.root.hex()}, sentence, scan.roots), cosigned, head)


def header_of(line: bytes) -> tuple[Origin, Start]:
    """Whose journal a first line announces, and from where; ValueError if it is none."""
    header = _canonical(line)
    if header is None or header.get("edgegw_journal") != 1:
        raise Malformed("its first line is no header of format 1, byte for byte")
    size, pruned = header.get("from"), ["previous_leaf", "peaks"]
    if type(size) is not int or size < 0 or list(header)[1:] != ["origin", "from", *(pruned if size else [])]:
        raise Malformed("its first line does not say where the log begins")
    if not size:
        return origin_of(header.get("origin")), Start()
    previous, peaks = _hashes_of([header["previous_leaf"]])[0], _hashes_of(header["peaks"])
    if len(peaks) != size.bit_count():
        raise Malformed(f"{len(peaks)} roots stand for the first {size} records, not {size.bit_count()}")
    return origin_of(header.get("origin")), Start(size, previous, tuple(peaks))


def cut_off(scan: Scan, file: BinaryIO, end: int, last: bytes) -> Unverified:
    """What is wrong with a journal file that does not end as it was written."""
    scan.lines(lines_until(file, end))
    problem = scan.problem_at(last.removesuffix(b"\n"), scan.index)
    if scan.trailing:
        return scan.trailing
    changed = problem and last.endswith(b"\n") and not last.startswith(b'{"leaves":')
    if changed and scan.wrong is None and scan.different is None:
        mend = "export the journal again"
        return Unverified("checkpoint", "the file's last line is not as it was written", mend)
    place = scan.index if scan.different is None else scan.different
    if scan.different is None and last.endswith(b"\n") and not problem:
        place += 1  # the last line is a whole record
    cut = "the file ends before it, without a checkpoint: it was cut off"
    return scan.wrong or bad_record(place, cut)


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


def read_last_line(file: BinaryIO) -> tuple[int, bytes]:
    """Where the last line starts, and the line, whole or not; the file stays where it is."""
    here = file.tell()
    tail_start = max(here, file.seek(0, os.SEEK_END) - LINE_BYTES_MAX)
    file.seek(tail_start)
    tail = file.read()
    file.seek(here)
    last = tail.rfind(b"\n", 0, -1) + 1
    return tail_start + last, tail[last:]


def lines_until(file: BinaryIO, end: int) -> Iterator[bytes]:
    """The lines of a file from here to `end`."""
    position, told = file.tell(), 0
    while position < end:
        line = file.readline(LINE_BYTES_MAX)
        position += len(line)
        yield line
        if sys.stderr.isatty() and position - told > 2**24:
            told = position
            print(f"\r{position >> 20} of {end >> 20} MB ", end="", file=sys.stderr, flush=True)


def newest_cosigned(notes: object, keys: Keys, head: Head) -> Head | None:
    """The longest history that the hub has cosigned; None if that is not asked for."""
    if keys.hub is None or head.origin.number_field != "epoch":
        return None
    if not isinstance(notes, list) or not notes:
        mend = "export again once the box has reached the hub; of a history that it does not hold it has none"
        place = f"cosignature of epoch {head.origin.number}"
        raise Unverified(place, f"there is none by {keys.hub.name}", mend)
    return max((open_cosignature(note, keys.hub, head) for note in notes), key=lambda one: one.size)


# A receipt, and two checkpoints
RECEIPT_FIELDS = {"type", "record", "previous_leaf", "index", "size", "proof", "checkpoint"}
RECEIPT_FIELDS |= {"cosignature", "cosignature_proof"}
ASK_AGAIN = "ask the box for the receipt again; if it stays so, take it and this message to the bank"


def verify_receipt(path: str, keys: Keys) -> Verified:
    """Verify a receipt; raises Unverified or Usage."""
    receipt = _document_in(path, "type", "edgegw-receipt-v1")
    if set(receipt) - {"keys"} != RECEIPT_FIELDS:
        differing = ", ".join(sorted(map(repr, set(receipt) ^ RECEIPT_FIELDS)))
        raise Unverified("receipt", f"these fields are missing or too many: {differing}", ASK_AGAIN)
    head = open_checkpoint(receipt.get("checkpoint"), keys, receipt.get("keys", []))
    index = receipt.get("index")
    try:
        if type(index) is not int or not 0 <= index < head.size:
            raise Malformed(f"index {index!r} is not in a history of {head.size} records")
        if type(receipt["size"]) is not int or receipt["size"] != head.size:
            raise Malformed(f"its size is {receipt['size']!r}, {head.size} records were signed")
        record = str(receipt.get("record")).encode()
        leaf = sm3(b"\x00" + _hashes_of([receipt.get("previous_leaf")])[0] + record)
        if root_of_inclusion(index, head.size, leaf, _hashes_of(receipt.get("proof"))) != head.root:
            raise Malformed("the proof does not lead from this record to the signed root")
        if problem := problem_of(record, head.origin, index) or problem_of_key(record, head.origin, index):
            raise Malformed(problem)
        note, steps = receipt["cosignature"], _hashes_of(receipt["cosignature_proof"])
        if not isinstance(note, str) or (not note and steps):
            raise Malformed("a cosignature is a text, and a proof goes with it")
        cosigned = newest_cosigned([note] if note else [], keys, head)
        if cosigned and index >= cosigned.size:
            raise Malformed(f"the hub's cosignature covers {cosigned.size} records, not yet this one")
        if cosigned:
            check_consistency(cosigned, head, steps)
    except ValueError as problem:
        raise Unverified("receipt", problem, ASK_AGAIN) from None
    figures: dict[str, object] = {"origin": head.origin.text, "index": index, "size": head.size}
    sentence = f"record {index} of {head.origin.text} is among the {head.size} that were signed"
    return with_cosigned((figures, sentence, {}), cosigned, head)


def keys_in_journal(path: str) -> object:
    """The statements about keys in a journal file's last line, not held against its records yet."""
    with Path(path).open("rb") as file:
        trailer = _canonical(read_last_line(file)[1])
    return (trailer or {}).get("keys", [])


def verify_checkpoints(paths: Sequence[str], keys: Keys, proof: str | None, journal: str | None) -> Verified:
    """Verify that the second checkpoint's history only continues the first's; raises Unverified or Usage."""
    notes = keys_in_journal(journal) if journal else []
    old, new = (
        open_checkpoint(Path(path).read_bytes().decode(errors="replace"), keys, notes) for path in paths
    )
    if old.origin != new.origin or new.size < old.size:
        raise Usage("give an older and a newer checkpoint of one log, in this order")
    try:
        if journal:
            _, _, roots = verify_journal(journal, keys, roots_wanted=(old.size, new.size))
            if (roots.get(old.size), roots.get(new.size)) != (old.root, new.root):
                raise Malformed("the journal has other roots at these sizes")
        elif proof or old.size == new.size:
            document = _document_in(proof, "edgegw_consistency", 1) if proof else {"proof": []}
            if set(document) - {"edgegw_consistency", "proof"}:
                raise Malformed(f"the proof has fields too many: {sorted(document)}")
            check_consistency(old, new, _hashes_of(document.get("proof")))
        else:
            raise Usage("give --proof FILE or --journal FILE, which ties the two checkpoints together")
    except ValueError as problem:
        mend = "ask for the proof again; if it stays so, this is a fork: keep both checkpoints as evidence"
        raise Unverified("checkpoints", problem, mend) from None
    figures: dict[str, object] = {"origin": new.origin.text, "old_size": old.size, "size": new.size}
    sentence = f"{new.origin.text} at size {new.size} only continues what it was at size {old.size}"
    return figures, f"{sentence}. {OWN_WORD}.", {}


# An audit export
SCHEMA = "8fa1478b65796fccae1c7594ccf0685acd501348c12417351ba9d6e9dfa667b3"
"""SM3 over the tables and views of format 1, in their order, without blanks and quotes."""
SEQ_BITS = 40
REQUEST: tuple[str, ...] = (
    "id",
    "kind",
    "debit_account_id",
    "credit_account_id",
    "amount_minor",
    "currency",
    "timeout_s",
)
REQUEST += ("original_client", "original_id", "advice", "stand_in", "terminal", "merchant", "reference")
REQUEST_DEFAULTS = {"amount_minor": 0, "timeout_s": 0, "advice": False, "stand_in": True}
EVENTS = {
    "key": ("key", ("key", "note")),
    "boot": ("boot", ("boot", "version", "box_digest", "site_digest")),
    "mode": ("mode", ("mode", "previous", "reason")),
    "durability": ("durability", ("durability", "previous", "reason")),
    "health": ("health", ("check", "subject", "level", "previous", "reason")),
    "clock": ("clock", ("wall_ahead_ns",)),
    "snapshot": ("snapshot", ("digest",)),
    "operator": ("operator", ("operator", "action", "detail")),
    "site_returned": ("site_returned", ("version", "left_digest", "digest", "reason")),
    "acknowledgement": ("acknowledgement", ("client", "by", "up_to")),
    "window": ("clearing_window", ("window", "business_date", "transfers", "closed_by")),
}
ACTIONS = ((2, "hold"), (4, "post"), (8, "void"))
SIDES = ("payments", "payment_reversals", "refunds", "refund_reversals")
DIRECTIVES = {"site", "grant", "refuse", "confirm", "decline", "freeze", "recall", "close"}
Said = dict[str, Any]
Row = tuple[object, ...]


class Plain:
    """The plain tables of an export, read beside the records: each row must be what a record says."""

    def __init__(self, db: sqlite3.Connection, tables: Iterable[str]) -> None:
        self.rows = {table: db.execute(f"SELECT * FROM {table} ORDER BY 1") for table in tables}  # noqa: S608
        self.counts = {"leg": 0, "account": 0, "position": 0, "batch_total": 0}

    def record(self, record_id: int, said: Said) -> None:
        """Compare all rows of a record; raises Unverified."""
        kind = said["type"]
        if kind in ("transfer", "refusal"):
            asked = {name: said["request"].get(name, REQUEST_DEFAULTS.get(name, "")) for name in REQUEST}
            asked |= {"advice": int(asked["advice"]), "stand_in": int(asked["stand_in"])}
            start = (record_id, said["window"]) if kind == "transfer" else (record_id,)
            end = [said.get("code"), said.get("detail")]
            if kind == "transfer":
                end = [said["cleared_by"], said.get("reason", ""), place_of(said.get("original"))]
                end.append(said.get("linked", 0))
            self.expect(kind, record_id, (*start, said["client"], *asked.values(), *end))
        elif kind == "expiry":
            self.expect(kind, record_id, (record_id, said["window"], place_of(said["original"])))
        elif kind == "directive":
            head = (said["window"], said["outcome"], said.get("reason", ""))
            self.expect(kind, record_id, (record_id, *head, *directive_of(said["directive"])))
        elif kind == "link":
            self.expect(kind, record_id, (record_id, *link_of(said["note"])))
        elif kind in EVENTS:
            table, names = EVENTS[kind]
            given = {"note": ""} | said if kind == "key" else said
            self.expect(table, record_id, (record_id, *(given[name] for name in names)))
        if kind in ("transfer", "expiry", "directive", "window"):
            self.lists(record_id, said)

    def lists(self, record_id: int, said: Said) -> None:
        """The rows that a record has several of."""
        for place, leg in enumerate(said.get("legs", ())):
            debit, credit, amount_minor, flags, pending, timeout_s = leg
            action = next((action for flag, action in ACTIONS if flags & flag), "move")
            held: tuple[int | None, int | None] = (None, None)
            if pending:
                number = int(pending, 16)
                held = number >> 96 << SEQ_BITS | number >> 32 & 2**64 - 1, (number & 2**32 - 1) >> 1
            self.numbered("leg", record_id, place, debit, credit, amount_minor, action, *held, timeout_s)
        for one in said.get("accounts", ()):
            home, participant = one.get("home", ""), one.get("participant", "")
            floor = int(one.get("floor", True))
            self.numbered("account", record_id, one["id"], one["currency"], home, participant, floor)
        for participant, currency, net_minor in said.get("positions", ()):
            self.numbered("position", record_id, participant, currency, net_minor)
        batch = said.get("batch") or {}
        for total in batch.get("totals", ()):
            figures = (total.get(f"{side}_{what}", 0) for side in SIDES for what in ("count", "minor"))
            self.numbered("batch_total", record_id, batch["number"], total["currency"], *figures)

    def numbered(self, table: str, record_id: int, *row: object) -> None:
        """Compare a row that has a number of its own."""
        self.counts[table] += 1
        self.expect(table, record_id, (self.counts[table], record_id, *row))

    def expect(self, table: str, record_id: int, row: Row) -> None:
        """Compare the next row of a table with what a record says; raises Unverified."""
        try:
            actual = next(self.rows[table], None)
        except sqlite3.Error as problem:
            raise bad_record(place_text(record_id), f"its row in {table}: {problem}") from None
        if actual == row:
            return
        whose = None if actual is None else actual[1 if table in self.counts else 0]
        if isinstance(whose, int) and whose < record_id:
            raise bad_record(place_text(whose), f"table {table} has a row too many for it")
        if actual is None or whose != record_id:
            raise bad_record(place_text(record_id), f"table {table} has not its row")
        shown = next((pair for pair in zip(actual, row, strict=True) if pair[0] != pair[1]), ("", ""))
        said = f"table {table} says {shown[0]!r:.80} where its bytes say {shown[1]!r:.80}"
        raise bad_record(place_text(record_id), said)

    def end(self) -> None:
        """Raise Unverified when a table has rows that no record has."""
        for table, rows in self.rows.items():
            if (row := next(rows, None)) is not None:
                whose = row[1 if table in self.counts else 0]
                place = place_text(whose) if isinstance(whose, int) else repr(whose)
                raise bad_record(place, f"table {table} has a row too many for it")


def place_text(record_id: int) -> str:
    return f"{record_id >> SEQ_BITS}/{record_id & (1 << SEQ_BITS) - 1}"


def place_of(text: str | None) -> int | None:
    """The id of a record from its place, epoch/seq."""
    epoch, _, seq = (text or "").partition("/")
    return int(epoch) << SEQ_BITS | int(seq) if seq else None


def link_of(note: str) -> Row:
    """The columns of a link's note; nothing but the note where it is none."""
    try:
        said = _document_of(note.split("\n", 2)[1].encode())
        return (*(said[name] for name in ("key", "old_epoch", "old_size", "old_root")), note)
    except (ValueError, LookupError):
        return None, None, None, None, note


def directive_of(said: object) -> Row:
    """The columns of a directive of the hub; none where it is of no kind that format 1 knows."""
    if not isinstance(said, dict) or said.get("type") not in DIRECTIVES:
        return (None,) * 13

    def plain(name: str) -> object:
        value = said.get(name)
        value = int(value) if isinstance(value, bool) else value
        fits = isinstance(value, str) or (isinstance(value, int) and -(2**63) <= value < 2**63)
        return value if fits else None

    epoch, seq = plain("epoch"), plain("at_seq")
    about = None
    if isinstance(epoch, int) and isinstance(seq, int) and epoch >> 23 == seq >> SEQ_BITS == 0:
        about = epoch << SEQ_BITS | seq
    account = plain("account_id") or plain("payer_account_id")
    first = (plain("incarnation"), plain("seq"), plain("type"), account, plain("currency"))
    then = (plain("amount_minor"), plain("request_id"), about, plain("liable"), plain("reason"))
    return (*first, *then, plain("version"), plain("digest"), plain("frozen"))


class Nodes:
    """The tree above the leaves of an epoch, computed beside the rows that say it."""

    def __init__(self, db: sqlite3.Connection, epoch: int, first: int) -> None:
        self.db, self.epoch, self.first = db, epoch, first
        self.levels: dict[int, Iterator[Row]] = {}
        peaks = []
        for level in range(first.bit_length() - 1, -1, -1):
            if first >> level & 1:
                row = next(self.level(level), None)
                if row is None or row[0] != (first >> level) - 1 or not isinstance(row[1], bytes):
                    raise self.wrong(level, (first >> level) - 1)
                peaks.append(row[1])
        self.tree = Tree(first, peaks)

    def level(self, level: int) -> Iterator[Row]:
        if level not in self.levels:
            select = "SELECT number, hash FROM node WHERE epoch = ? AND level = ? ORDER BY number"
            self.levels[level] = self.db.execute(select, (self.epoch, level))
        return self.levels[level]

    def append(self, leaf: bytes) -> None:
        """One more leaf, and the nodes that it completes; raises Unverified."""
        node, carry, level = leaf, self.tree.size, 0
        while carry & 1:
            node = sm3(b"\x01" + self.tree.peaks.pop() + node)
            carry >>= 1
            level += 1
            if next(self.level(level), None) != (carry, node):
                raise self.wrong(level, carry)
        self.tree.peaks.append(node)
        self.tree.size += 1

    def wrong(self, level: int, number: int) -> Unverified:
        """The first record whose proof takes a node that is not the one."""
        record = max(self.first, (number ^ 1) << level)
        problem = f"its proof does not hold: node {number} of level {level} is not the one of these records"
        return bad_record(f"{self.epoch}/{record}", problem)

    def end(self) -> None:
        """The nodes of the right edge, and none beside them; raises Unverified."""
        peaks, node, size = self.tree.peaks.copy(), b"", self.tree.size
        for level in range(size.bit_length()):
            if node and size >> level and next(self.level(level), None) != (size >> level, node):
                raise self.wrong(level, size >> level)
            if size >> level & 1:
                peak = peaks.pop()
                node = sm3(b"\x01" + peak + node) if node else peak
        for level in range(SEQ_BITS + 1):
            if (row := next(self.level(level), None)) is not None:
                raise self.wrong(level, row[0] if isinstance(row[0], int) else 0)


def verify_export(path: str, keys: Keys) -> Verified:
    """Verify an audit export, every row of it; raises Unverified or Usage."""
    with Path(path).open("rb") as file:
        if file.read(16) != b"SQLite format 3\0":
            raise Usage(f"{path} is no SQLite file")
    db = sqlite3.connect(f"{Path(path).resolve().as_uri()}?mode=ro", uri=True)
    try:
        db.execute("PRAGMA trusted_schema=OFF")
        return verify_database(path, db, keys)
    except sqlite3.Error as problem:
        raise Unverified("file", problem, "export again; the file is damaged") from None
    finally:
        db.close()


def verify_database(path: str, db: sqlite3.Connection, keys: Keys) -> Verified:
    """Verify the open file: its schema, its indexes, each epoch, and that nothing else is in its tables."""
    schema = db.execute("SELECT name, sql FROM sqlite_schema WHERE type IN ('table', 'view') ORDER BY rowid")
    sql = {name: re.sub(r'[\s"\[\]`]+', "", text or "").lower() for name, text in schema}
    if "export" not in sql or "record" not in sql:
        raise Usage(f"{path} is no audit export: it has no tables of one")
    ours = [sql.get(name, "") for name in (*PLAIN_TABLES, *FRAME_TABLES, *VIEWS)]
    if sm3("\n".join(ours).encode()).hex() != SCHEMA:
        problem = "its tables or views are not those of format 1: they may show something else than is there"
        raise Unverified("schema", problem, "export again with the program whose verifier this is")
    if (found := [str(row[0]) for row in db.execute("PRAGMA integrity_check(1)")]) != ["ok"]:
        raise Unverified("file", found[0], "export again; the file is damaged")
    about = db.execute("SELECT * FROM export").fetchall()
    levels = [row[0] for row in db.execute("SELECT level FROM level ORDER BY level")]
    if len(about) != 1 or about[0][0] != 1 or levels != list(range(SEQ_BITS + 1)):
        raise Unverified(
            "export", "it does not say its format, or its list of levels was changed", EXPORT_AGAIN
        )
    plain = Plain(db, PLAIN_TABLES)
    told, total = [], 0
    for row in db.execute("SELECT * FROM epoch ORDER BY epoch"):
        told.append(verify_epoch(db, plain, row, about[0][1:], keys))
        total += told[-1]["size"] - told[-1]["from"]
    plain.end()
    stray = "SELECT epoch FROM {} WHERE epoch NOT IN (SELECT epoch FROM epoch) LIMIT 1"
    for table in ("record", "node", "cosignature"):
        if (row := db.execute(stray.format(table)).fetchone()) is not None:
            raise Unverified(f"epoch {row[0]}", f"table {table} has it, table epoch has not", EXPORT_AGAIN)
    if not told:
        raise Unverified("export", "it holds no epoch", EXPORT_AGAIN)
    others = sorted(set(sql) - {*PLAIN_TABLES, *FRAME_TABLES, *VIEWS, "sqlite_stat1", "sqlite_stat4"})
    figures = {"epochs": told, "records": total, "other_tables": others}
    sentence = f"{total} records of {about[0][1]}/{about[0][2]} in {len(told)} epochs and all that the tables"
    sentence += " say of them are those that were signed"
    if others:
        sentence += f" (not of the export, and not verified: {', '.join(others)})"
    if keys.hub is None:
        return figures, f"{sentence}. {OWN_WORD}.", {}
    covered = "; ".join(f"of epoch {one['epoch']} the first {one['cosigned_size']}" for one in told)
    return figures, f"{sentence}. The hub held: {covered}.", {}


FRAME_TABLES: tuple[str, ...] = ("export", "level", "epoch", "cosignature", "record", "node")
PLAIN_TABLES: tuple[str, ...] = (
    "link",
    "transfer",
    "refusal",
    "expiry",
    "leg",
    "directive",
    "account",
    "position",
    "batch_total",
)
PLAIN_TABLES += tuple(table for table, _ in EVENTS.values())
VIEWS: tuple[str, ...] = ("inclusion", "receipt", "hold", "unresolved_hold", "waiting_stand_in", "balance")
VIEWS += ("payments_by_day", "refusals_by_day")
EXPORT_AGAIN = "export again, and find out who changed this file"


def verify_epoch(db: sqlite3.Connection, plain: Plain, row: Row, owner: Row, keys: Keys) -> Said:
    """Verify the records of one epoch, and every row that is about them; what to tell of it."""
    epoch, origin, first, previous, size, root, note, shown = row
    notes = json.loads(str(shown))
    if json.dumps(notes, ensure_ascii=False, separators=(",", ":")) != shown:
        raise Unverified(f"epoch {epoch}", "its list of keys is not as it was written", EXPORT_AGAIN)
    if not (isinstance(epoch, int) and isinstance(first, int) and isinstance(previous, bytes) and first >= 0):
        raise Unverified(f"epoch {epoch}", "its row is not whole", EXPORT_AGAIN)
    start = epoch << SEQ_BITS
    select = "SELECT record_id FROM record WHERE record_id BETWEEN ? AND ? LIMIT 1"
    if first and (early := db.execute(select, (start, start + first - 1)).fetchone()) is not None:
        raise bad_record(place_text(early[0]), f"the epoch's row says that it begins with {epoch}/{first}")
    if not first and keys.hub and not keys.boxes:
        body = db.execute("SELECT CAST(body AS BLOB) FROM record WHERE record_id = ?", (start,)).fetchone()
        if body is None or not isinstance(body[0], bytes):
            raise bad_record(place_text(start), "it is missing here")
        keys = keys.linked(body[0], origin_of(origin), place_text(start))
    head = open_checkpoint(note, keys, notes)
    same = (head.origin.text, head.origin.number, head.size, head.root) == (origin, epoch, size, root)
    if not same or (head.origin.bank, head.origin.box) != owner or (not first and previous != bytes(32)):
        raise Unverified(f"epoch {epoch}", "its row does not say what its checkpoint says", EXPORT_AGAIN)
    cosigned = cosigned_epoch(db, epoch, head, keys)
    nodes, introduced = Nodes(db, epoch, first), list[tuple[int, str]]()
    select = """SELECT record_id, epoch, seq, type, at_ns, wall_ns, mono_ns, leaf, CAST(body AS BLOB),
        typeof(body) FROM record WHERE record_id BETWEEN ? AND ? ORDER BY record_id"""
    rows = iter(db.execute(select, (start, start | (1 << SEQ_BITS) - 1)))
    for seq in range(first, head.size):
        place = f"{epoch}/{seq}"
        record = next(rows, None)
        if record is None or record[0] != start | seq:
            raise bad_record(place, "it is missing here")
        if record[9] != "text":
            raise bad_record(place, "its bytes are not kept as text")
        body, leaf = record[8], sm3(b"\x00" + previous + record[8])
        if leaf != record[7]:
            raise bad_record(place, "its bytes are not those that were chained, or its leaf was changed")
        said = said_by(body, head.origin, seq, place)
        expected = (epoch, seq, said["type"], said["at_ns"], said["wall_ns"], said["mono_ns"])
        if record[1:7] != expected:
            raise bad_record(place, f"its row says {record[1:7]}, its bytes say {expected}")
        nodes.append(leaf)
        try:
            if said["type"] == "key" and (statement := key_record(said, head.origin, seq)):
                introduced.append((seq, statement))
            plain.record(start | seq, said)
        except (LookupError, TypeError, AttributeError, ValueError) as problem:
            raise bad_record(place, f"it lacks what a record of its type has ({problem})") from None
        previous = leaf
    if (record := next(rows, None)) is not None:
        raise bad_record(place_text(record[0]), f"it is one too many: {head.size} records were signed")
    if nodes.tree.root() != head.root:
        other = "they do not give the signed root, though leaves, nodes and columns fit them"
        raise Unverified(f"records {epoch}/{first} to {epoch}/{head.size - 1}", other, EXPORT_AGAIN)
    nodes.end()
    check_key_records(introduced, notes, first, head.origin)
    figures: Said = {"epoch": epoch, "origin": head.origin.text, "from": first, "size": head.size}
    return figures | {"root": head.root.hex(), "cosigned_size": cosigned.size if cosigned else None}


def said_by(body: bytes, origin: Origin, seq: int, place: str) -> Said:
    """What a record says, which must be of this place; raises Unverified."""
    try:
        said: Said = json.loads(body)
        if (said["epoch"], said["seq"], said["box"], said["bank"]) == (
            origin.number,
            seq,
            origin.box,
            origin.bank,
        ):
            return said
    except (ValueError, LookupError, TypeError, RecursionError):
        pass  # why it is none is told below
    raise bad_record(place, problem_of(body, origin, seq) or "it is no record")


def cosigned_epoch(db: sqlite3.Connection, epoch: int, head: Head, keys: Keys) -> Head | None:
    """What the hub has cosigned of an epoch, and the proof that leads from there; None if not asked for."""
    row = db.execute("SELECT * FROM cosignature WHERE epoch = ?", (epoch,)).fetchone()
    cosigned = newest_cosigned([row[3]] if row else [], keys, head)
    if cosigned is None:
        return None
    try:
        if row[1:3] != (cosigned.size, cosigned.time_s):
            raise Malformed("its row does not say what its note says")
        proof = json.loads(row[4])
        if json.dumps(proof, separators=(",", ":")) != row[4]:
            raise Malformed("its proof is not as it was written")
        check_consistency(cosigned, head, _hashes_of(proof))
    except (ValueError, TypeError) as problem:
        raise Unverified(f"cosignature of epoch {epoch}", problem, EXPORT_AGAIN) from None
    return cosigned


# The command
def arguments_parser() -> argparse.ArgumentParser:
    """What the command line takes."""
    parser = argparse.ArgumentParser(
        prog="verifier.py" if __name__ == "__main__" else "edgegw verify",
        description="Verify what an edgegw box or hub has written with the signers' public keys alone.",
        epilog="Exit codes: 0 verified, 1 not verified, 2 wrong usage or a file that cannot be read.",
    )
    several = "the box's checkpoint key: name+key id+base64; once for each epoch"
    parser.add_argument("--box-key", metavar="KEY", action="append", default=[], help=several)
    parser.add_argument("--hub-key", metavar="KEY", help="the hub's key; its cosignature is then asked for")
    parser.add_argument("--policy", metavar="FILE", help="keys that follow others, and revoked ones")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a sentence")
    kinds = parser.add_subparsers(
        dest="kind", required=True, metavar="journal | receipt | checkpoints | export"
    )
    kinds.add_parser("journal", help="an exported journal").add_argument("file")
    kinds.add_parser("receipt", help="the receipt of one payment").add_argument("file")
    kinds.add_parser("export", help="an audit export, a SQLite file").add_argument("file")
    pair = kinds.add_parser("checkpoints", help="an older and a newer checkpoint of one log")
    pair.add_argument("files", nargs=2, metavar="CHECKPOINT")
    pair.add_argument("--proof", metavar="FILE", help="the consistency proof between them")
    pair.add_argument("--journal", metavar="FILE", help="an exported journal that covers both")
    return parser


def verify(options: argparse.Namespace) -> Verified:
    """Do what the command line asks for; raises Unverified or Usage."""
    self_test()
    try:
        hub = None if options.hub_key is None else key_of(options.hub_key)
        policies = load_policy(options.policy, hub) if options.policy else {}
        keys = Keys(tuple(map(key_of, options.box_key)), hub, policies)
    except ValueError as problem:
        raise Usage(f"--box-key or --hub-key is no key: {problem}") from None
    if not keys.boxes and keys.hub is None:
        raise Usage("give --box-key, from whoever answers for the box: without a key nothing is verified")
    if options.kind == "checkpoints":
        return verify_checkpoints(options.files, keys, options.proof, options.journal)
    by_kind = {"journal": verify_journal, "receipt": verify_receipt, "export": verify_export}
    try:
        return by_kind[options.kind](options.file, keys)
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as problem:
        # What is verified may be made to confuse: whatever it is, it is not of its form.
        raise Unverified("file", f"it is not of its form: {problem!r:.200}", "ask for it again") from None


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
