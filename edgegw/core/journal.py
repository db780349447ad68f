"""The mathematics of a log: chained leaves, the Merkle tree, its proofs, and the signed notes with its root.

A leaf chains to the one before it, `leaf = H(0x00 || previous leaf || record)`; the tree over the leaves has
the shape of RFC 6962 section 2.1 and is the only authority a verifier accepts (DESIGN §3.6). Everything takes
leaf *hashes*, and the hash as a parameter: SM3 for our logs, SHA-256 for the public RFC 6962 vectors.
Checkpoints are C2SP signed notes in a private profile (SM2 with SM3). Keys are left to `access.keys`: signing
and verifying come in as callables.
"""

# ruff: noqa: A002 - `hash` is the word for the parameter here, and the builtin has no use on digests.

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

Hash = Callable[[bytes], bytes]
"""Bytes to a digest of HASH_BYTES."""
Node = Callable[[int, int], bytes]
"""(level, index) to the root of the complete subtree of the 2**level leaves from index * 2**level on."""

HASH_BYTES: Final = 32
FIRST_PREVIOUS: Final = bytes(HASH_BYTES)
"""What the first leaf of a log chains to."""
SIZE_MAX: Final = 2**63 - 1
SIGNATURE_LINES_MAX: Final = 16
"""C2SP asks a verifier to take at least so many; ours takes no more."""
SIGNATURE_TYPE: Final = b"\xff"
SIGNATURE_LABEL: Final = b"edgegw.sm2-sm3.v1"
COSIGNATURE_PREFIX: Final = b"edgegw/cosig/v1\n"

_LEAF: Final = b"\x00"
_NODE: Final = b"\x01"
_SIGNATURE_START: Final = "— "
_DECIMAL: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_ORIGIN_PART: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY_ID_BYTES: Final = 4


class ProofError(ValueError):
    """A proof that does not prove what it claims; the text names what is wrong."""


class NoteError(ValueError):
    """A signed note that is malformed or not signed as it must be; the text names what is wrong."""


@functools.cache
def _fresh_sm3() -> hashlib._Hash:
    """Copying it is faster than looking the name up for every hash; made at the first one, so that a machine
    without SM3 is told so by the known answers and not by an import that fails."""
    return hashlib.new("sm3")


def sm3(data: bytes) -> bytes:
    """SM3 of data, 32 bytes; ValueError when this Python's OpenSSL lacks it."""
    state = _fresh_sm3().copy()
    state.update(data)
    return state.digest()


def sha256(data: bytes) -> bytes:
    """SHA-256 of data, 32 bytes: the hash of the public RFC 6962 vectors."""
    return hashlib.sha256(data).digest()


def leaf_hash(previous: bytes, record: bytes, *, hash: Hash = sm3) -> bytes:
    """The leaf of a record's verbatim bytes, chained to the previous leaf (FIRST_PREVIOUS for the first)."""
    return hash(_LEAF + previous + record)


def chain(previous: bytes, records: Iterable[bytes], *, hash: Hash = sm3) -> list[bytes]:
    """The leaves of consecutive records, the first of which chains to `previous`."""
    leaves = []
    for record in records:
        previous = hash(_LEAF + previous + record)
        leaves.append(previous)
    return leaves


def node_hash(left: bytes, right: bytes, *, hash: Hash = sm3) -> bytes:
    """The parent of two subtrees."""
    return hash(_NODE + left + right)


class Frontier:
    """The right edge of a growing tree: its size and the roots of its complete subtrees, largest first.

    Enough to append (amortised one node hash a leaf) and to give the root at any moment; 64 hashes at most.
    """

    __slots__ = ("_hash", "_peaks", "_size")

    def __init__(self, *, hash: Hash = sm3) -> None:
        self._hash = hash
        self._size = 0
        self._peaks: list[bytes] = []

    @property
    def size(self) -> int:
        """How many leaves were appended."""
        return self._size

    def append(self, leaf: bytes) -> None:
        """Append one leaf hash."""
        self.extend((leaf,))

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Append leaf hashes in order."""
        hash_, peaks, size = self._hash, self._peaks, self._size
        for leaf in leaves:
            node, carry = leaf, size
            while carry & 1:
                node = hash_(_NODE + peaks.pop() + node)
                carry >>= 1
            peaks.append(node)
            size += 1
        self._size = size

    def root(self) -> bytes:
        """The root of the tree; H("") while it is empty."""
        return _fold(self._peaks, hash=self._hash)

    def copy(self) -> Frontier:
        """An independent frontier at the same place."""
        other = Frontier(hash=self._hash)
        other._size, other._peaks = self._size, self._peaks.copy()
        return other

    def to_bytes(self) -> bytes:
        """Size (8 bytes, big-endian) and the subtree roots, largest first."""
        return self._size.to_bytes(8, "big") + b"".join(self._peaks)

    @classmethod
    def from_bytes(cls, body: bytes, *, hash: Hash = sm3) -> Frontier:
        """The frontier that `to_bytes` wrote; raises ValueError when the length does not fit the size."""
        size = int.from_bytes(body[:8], "big")
        expected_bytes = 8 + HASH_BYTES * size.bit_count()
        if len(body) != expected_bytes:
            raise ValueError(f"a frontier of size {size} has {expected_bytes} bytes, not {len(body)}")
        frontier = cls(hash=hash)
        frontier._size = size
        frontier._peaks = [body[start : start + HASH_BYTES] for start in range(8, len(body), HASH_BYTES)]
        return frontier


def nodes_of(leaves: Sequence[bytes], *, hash: Hash = sm3) -> Node:
    """A `Node` over a list of leaf hashes; computes every level at once, for lists that fit in memory."""
    levels = [list(leaves)]
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append([hash(_NODE + below[i] + below[i + 1]) for i in range(0, len(below) - 1, 2)])

    def node(level: int, index: int) -> bytes:
        return levels[level][index]

    return node


def _fold(peaks: Sequence[bytes], *, hash: Hash) -> bytes:
    """The root over complete subtrees that stand side by side, largest first."""
    if not peaks:
        return hash(b"")
    root = peaks[-1]
    for peak in reversed(peaks[:-1]):
        root = hash(_NODE + peak + root)
    return root


def _subtree(start: int, end: int, node: Node, *, hash: Hash) -> bytes:
    """MTH over leaves [start, end) of RFC 6962, where start is a multiple of the subtree's full width."""
    peaks = []
    while start < end:
        level = (end - start).bit_length() - 1
        peaks.append(node(level, start >> level))
        start += 1 << level
    return _fold(peaks, hash=hash)


def _split(width: int) -> int:
    """The largest power of two smaller than width (width > 1)."""
    return 1 << (width - 1).bit_length() - 1


def inclusion_proof(index: int, size: int, node: Node, *, hash: Hash = sm3) -> list[bytes]:
    """PATH(index, D[size]) of RFC 6962 section 2.1.1, lowest first; ValueError unless 0 <= index < size."""
    if not 0 <= index < size:
        raise ValueError(f"no leaf {index} in a tree of size {size}")
    start, end = 0, size
    proof = []
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            proof.append(_subtree(middle, end, node, hash=hash))
            end = middle
        else:
            proof.append(_subtree(start, middle, node, hash=hash))
            start = middle
    proof.reverse()
    return proof


def consistency_proof(old_size: int, size: int, node: Node, *, hash: Hash = sm3) -> list[bytes]:
    """PROOF(old_size, D[size]) of RFC 6962 section 2.1.2; empty for equal sizes.

    ValueError unless 0 < old_size <= size: from the empty tree nothing can be proved, and nothing need be.
    """
    if not 0 < old_size <= size:
        raise ValueError(f"no consistency proof from {old_size} to {size}: it takes 0 < old size <= size")
    start, end, old_is_whole = 0, size, True
    proof = []
    while end != old_size:
        middle = start + _split(end - start)
        if old_size <= middle:
            proof.append(_subtree(middle, end, node, hash=hash))
            end = middle
        else:
            proof.append(_subtree(start, middle, node, hash=hash))
            start, old_is_whole = middle, False
    if not old_is_whole:
        proof.append(_subtree(start, end, node, hash=hash))
    proof.reverse()
    return proof


def verify_inclusion(
    index: int,
    size: int,
    leaf: bytes,
    root: bytes,
    proof: Sequence[bytes],
    *,
    hash: Hash = sm3,
) -> None:
    """Raise ProofError unless proof shows that `leaf` is number `index` in the tree of this size and root."""
    if not 0 <= index < size:
        raise ProofError(f"index {index} is not in a tree of size {size}")
    if len(leaf) != HASH_BYTES:
        raise ProofError(f"the leaf hash has {len(leaf)} bytes, not {HASH_BYTES}")
    _check_elements(proof)
    place, last, node = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise ProofError(f"the inclusion proof is too long: {len(proof)} hashes")
        if place & 1 or place == last:
            node = hash(_NODE + sibling + node)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            node = hash(_NODE + node + sibling)
        place, last = place >> 1, last >> 1
    if last:
        raise ProofError(f"the inclusion proof is too short: {len(proof)} hashes")
    if node != root:
        raise ProofError(f"the proof leads to root {node.hex()}, not to {root.hex()}")


def verify_consistency(
    old_size: int,
    size: int,
    old_root: bytes,
    root: bytes,
    proof: Sequence[bytes],
    *,
    hash: Hash = sm3,
) -> None:
    """Raise ProofError unless proof shows that the tree (size, root) only appended to (old_size, old_root).

    From the empty tree nothing can be proved, and it is refused: who holds nothing does not ask. Of equal
    sizes only the roots are compared, whatever they are, as the public RFC 6962 vectors have it.
    """
    if not 0 <= old_size <= size:
        raise ProofError(f"old size {old_size} is not within 0 to {size}")
    if old_size == size:
        _check_same_tree(size, old_root, root, proof)
        return
    if old_size == 0:
        raise ProofError(f"nothing can be proved from the empty tree to size {size}")
    _check_elements(proof)
    if not proof:
        raise ProofError(f"the proof from size {old_size} to {size} is empty")
    path = [old_root, *proof] if old_size.bit_count() == 1 else list(proof)
    place, last = old_size - 1, size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    old_node = node = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise ProofError(f"the consistency proof is too long: {len(proof)} hashes")
        if place & 1 or place == last:
            old_node = hash(_NODE + sibling + old_node)
            node = hash(_NODE + sibling + node)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            node = hash(_NODE + node + sibling)
        place, last = place >> 1, last >> 1
    if last:
        raise ProofError(f"the consistency proof is too short: {len(proof)} hashes")
    if old_node != old_root:
        raise ProofError(f"the proof leads to old root {old_node.hex()}, not to {old_root.hex()}")
    if node != root:
        raise ProofError(f"the proof leads to root {node.hex()}, not to {root.hex()}")


def _check_elements(proof: Sequence[bytes]) -> None:
    for place, element in enumerate(proof):
        if len(element) != HASH_BYTES:
            raise ProofError(f"proof element {place} has {len(element)} bytes, not {HASH_BYTES}")


def _check_same_tree(size: int, old_root: bytes, root: bytes, proof: Sequence[bytes]) -> None:
    if proof:
        raise ProofError(f"the sizes are both {size}, so the proof must be empty, not {len(proof)} hashes")
    if old_root != root:
        raise ProofError(f"two roots at size {size}: {old_root.hex()} and {root.hex()}")


class Checkpoint(msgspec.Struct, frozen=True):
    """The head of a log: whose it is, how many leaves, and their root."""

    origin: str
    size: int
    root: bytes

    def body(self) -> bytes:
        """The three lines that are signed."""
        return f"{self.origin}\n{self.size}\n{_base64(self.root)}\n".encode()


class SignatureLine(msgspec.Struct, frozen=True):
    """One signature under a note: the key's name, its 4-byte id, and what it signed with."""

    name: str
    key_id: bytes
    signature: bytes

    def text(self) -> str:
        """The line as it stands in the note, newline included."""
        return f"{_SIGNATURE_START}{self.name} {_base64(self.key_id + self.signature)}\n"


class Cosignature(msgspec.Struct, frozen=True):
    """The other side's word, at time_s (Unix seconds), that it holds what the checkpoint covers."""

    checkpoint: Checkpoint
    time_s: int


def journal_origin(*, bank: str, box: str, epoch: int) -> str:
    """The origin of a box's journal in one epoch."""
    return "/".join(("edgegw", _origin_part("bank", bank), _origin_part("box", box), _count("epoch", epoch)))


def directives_origin(*, bank: str, box: str, incarnation: int) -> str:
    """The origin of the hub's log for one box in one incarnation of the hub."""
    parts = (_origin_part("bank", bank), "hub", _origin_part("box", box), _count("incarnation", incarnation))
    return "/".join(("edgegw", *parts))


def key_id(name: str, public_point: bytes) -> bytes:
    """The 4-byte id of a key by its name and 65-byte public point (C2SP type 0xff, our label)."""
    return sm3(name.encode() + b"\n" + SIGNATURE_TYPE + SIGNATURE_LABEL + public_point)[:_KEY_ID_BYTES]


def check_key_name(name: str) -> str:
    """The name itself; raises NoteError unless it can stand in a signature line."""
    if not name or len(name) > 255 or not name.isprintable() or "+" in name or any(c.isspace() for c in name):
        raise NoteError(f"{name!r} is no key name: 1 to 255 printable characters, no spaces or plus signs")
    return name


def sign_note(body: bytes, *, name: str, key_id: bytes, sign: Callable[[bytes], bytes]) -> str:
    """A note: the body, a blank line, and this key's signature line."""
    if not body.endswith(b"\n"):
        raise NoteError("a note's body ends with a newline")
    return add_signature(body.decode() + "\n", SignatureLine(check_key_name(name), key_id, sign(body)))


def add_signature(note: str, line: SignatureLine) -> str:
    """The note with one more signature line."""
    return note + line.text()


def parse_checkpoint(note: str | bytes) -> tuple[Checkpoint, list[SignatureLine]]:
    """The checkpoint and the signature lines of a note, none verified; NoteError for anything malformed."""
    body, lines = parse_note(note)
    return _checkpoint_of(body), lines


def parse_note(note: str | bytes) -> tuple[str, list[SignatureLine]]:
    """The body (final newline included) and the signature lines of any note, none of them verified."""
    try:
        text = (note if isinstance(note, bytes) else note.encode()).decode()
    except UnicodeError as problem:
        raise NoteError(f"a note is UTF-8: {problem}") from None
    if any((c < " " and c != "\n") or c == "\x7f" for c in text):
        raise NoteError("a note holds no control characters but newlines")
    body, blank, signatures = text.rpartition("\n\n")
    if not blank or not signatures.endswith("\n"):
        raise NoteError("a note is its text, one blank line and signature lines, each ended by a newline")
    lines = signatures[:-1].split("\n")
    if len(lines) > SIGNATURE_LINES_MAX:
        raise NoteError(f"{len(lines)} signature lines; {SIGNATURE_LINES_MAX} at most")
    return body + "\n", [_parse_signature_line(line) for line in lines]


def open_text(note: str | bytes, *, name: str, key_id: bytes, verify: Callable[[bytes, bytes], bool]) -> str:
    """The body of a note that this key has signed; other keys' lines are ignored. Raises NoteError."""
    body, lines = parse_note(note)
    if not verify(body.encode(), _only_signature(lines, name, key_id)):
        raise NoteError(f"the signature by {name} does not verify")
    return body


def open_note(
    note: str | bytes, *, name: str, key_id: bytes, verify: Callable[[bytes, bytes], bool]
) -> Checkpoint:
    """The checkpoint of a note that this key has signed; other keys' lines are ignored. Raises NoteError."""
    return _checkpoint_of(open_text(note, name=name, key_id=key_id, verify=verify))


def cosign(
    checkpoint: Checkpoint, *, time_s: int, name: str, key_id: bytes, sign: Callable[[bytes], bytes]
) -> SignatureLine:
    """The line by which the other side says at time_s (Unix seconds) that it holds these records too."""
    signature = sign(_cosigned_text(checkpoint, time_s))
    return SignatureLine(check_key_name(name), key_id, time_s.to_bytes(8, "big") + signature)


def check_cosignature(
    note: str | bytes, *, name: str, key_id: bytes, verify: Callable[[bytes, bytes], bool]
) -> Cosignature:
    """What the given key has cosigned in this note, and when; raises NoteError unless it did."""
    checkpoint, lines = parse_checkpoint(note)
    signature = _only_signature(lines, name, key_id)
    time_s = int.from_bytes(signature[:8], "big")
    if not verify(_cosigned_text(checkpoint, time_s), signature[8:]):
        raise NoteError(f"the cosignature by {name} does not verify")
    return Cosignature(checkpoint, time_s)


def _checkpoint_of(body: str) -> Checkpoint:
    fields = body.split("\n")
    if len(fields) != 4 or fields[3]:
        raise NoteError("a checkpoint has three lines: origin, size and root")
    origin, size, root = fields[:3]
    check_key_name(origin)
    if not _DECIMAL.fullmatch(size) or int(size) > SIZE_MAX:
        raise NoteError(f"size {size!r} is not a canonical decimal up to {SIZE_MAX}")
    root_bytes = _unbase64("root", root)
    if len(root_bytes) != HASH_BYTES:
        raise NoteError(f"the root has {len(root_bytes)} bytes, not {HASH_BYTES}")
    return Checkpoint(origin, int(size), root_bytes)


def _cosigned_text(checkpoint: Checkpoint, time_s: int) -> bytes:
    return COSIGNATURE_PREFIX + f"time {time_s}\n".encode() + checkpoint.body()


def _only_signature(lines: Sequence[SignatureLine], name: str, key_id: bytes) -> bytes:
    mine = [line.signature for line in lines if line.name == name and line.key_id == key_id]
    if not mine:
        signers = ", ".join(f"{line.name} ({line.key_id.hex()})" for line in lines)
        raise NoteError(f"not signed by {name} ({key_id.hex()}); it is signed by {signers}")
    if len(mine) > 1:
        raise NoteError(f"{len(mine)} signature lines by {name}; a key signs once")
    return mine[0]


def _parse_signature_line(line: str) -> SignatureLine:
    name, space, signature = line.removeprefix(_SIGNATURE_START).partition(" ")
    if not line.startswith(_SIGNATURE_START) or not space:
        raise NoteError(f"{line!r} is no signature line: em dash, key name and base64, a space between")
    raw = _unbase64("signature", signature)
    if len(raw) <= _KEY_ID_BYTES:
        raise NoteError(f"the signature of {name} has {len(raw)} bytes, too few for a key id and a signature")
    return SignatureLine(check_key_name(name), raw[:_KEY_ID_BYTES], raw[_KEY_ID_BYTES:])


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _unbase64(field: str, text: str) -> bytes:
    """Strict base64: the one text that encodes these bytes, or NoteError."""
    try:
        raw = base64.b64decode(text.encode(), validate=True)
    except binascii.Error as problem:
        raise NoteError(f"{field} {text!r} is not base64: {problem}") from None
    if _base64(raw) != text:
        raise NoteError(f"{field} {text!r} is not canonical base64")
    return raw


def _origin_part(field: str, value: str) -> str:
    if not _ORIGIN_PART.fullmatch(value) or value == "hub":
        raise ValueError(
            f"{field} {value!r} cannot stand in an origin: 1 to 64 of A-Za-z0-9._- and not 'hub'"
        )
    return value


def _count(field: str, value: int) -> str:
    if not 0 <= value <= SIZE_MAX:
        raise ValueError(f"{field} {value} is not within 0 to {SIZE_MAX}")
    return str(value)
