"""The mathematics of the log against the definitions of RFC 6962, written down here a second time."""

import base64
import hashlib
import random
from collections.abc import Sequence

import pytest
from cryptography.hazmat.primitives import hashes
from gmssl import func
from gmssl import sm3 as gmssl_sm3
from hypothesis import given
from hypothesis import strategies as st

from edgegw.core import journal
from edgegw.core.journal import (
    FIRST_PREVIOUS,
    Checkpoint,
    Frontier,
    NoteError,
    ProofError,
    SignatureLine,
    consistency_proof,
    inclusion_proof,
    nodes_of,
    sha256,
    sm3,
    verify_consistency,
    verify_inclusion,
)

SIZE_MAX_EXHAUSTIVE = 70


def naive_split(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def naive_root(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, from leaf hashes, with SHA-256."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    k = naive_split(len(leaves))
    return hashlib.sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def naive_path(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PATH of section 2.1.1."""
    if len(leaves) == 1:
        return []
    k = naive_split(len(leaves))
    if m < k:
        return [*naive_path(m, leaves[:k]), naive_root(leaves[k:])]
    return [*naive_path(m - k, leaves[k:]), naive_root(leaves[:k])]


def naive_subproof(m: int, leaves: Sequence[bytes], *, whole: bool = True) -> list[bytes]:
    """SUBPROOF of section 2.1.2."""
    if m == len(leaves):
        return [] if whole else [naive_root(leaves)]
    k = naive_split(len(leaves))
    if m <= k:
        return [*naive_subproof(m, leaves[:k], whole=whole), naive_root(leaves[k:])]
    return [*naive_subproof(m - k, leaves[k:], whole=False), naive_root(leaves[:k])]


def leaves_of(size: int) -> list[bytes]:
    return [hashlib.sha256(b"\x00" + bytes([n % 251, n // 251])).digest() for n in range(size)]


LEAVES = leaves_of(SIZE_MAX_EXHAUSTIVE)
ROOTS = [naive_root(LEAVES[:size]) for size in range(SIZE_MAX_EXHAUSTIVE + 1)]
NODE = nodes_of(LEAVES, hash=sha256)


def mutations(proof: Sequence[bytes], rng: random.Random) -> list[list[bytes]]:
    """Every proof that differs by one bit, a lost, an added, a shortened or two exchanged elements."""
    changed = []
    for place, element in enumerate(proof):
        bit = rng.randrange(256)
        flipped = bytearray(element)
        flipped[bit // 8] ^= 1 << bit % 8
        changed.append([*proof[:place], bytes(flipped), *proof[place + 1 :]])
        changed.append([*proof[:place], *proof[place + 1 :]])
        changed.append([*proof[:place], element[:-1], *proof[place + 1 :]])
        changed.append([*proof[:place], element, *proof[place:]])
        if place:
            changed.append([*proof[: place - 1], element, proof[place - 1], *proof[place + 1 :]])
    for extra in (b"", bytes(32), ROOTS[5]):
        changed += [[*proof, extra], [extra, *proof]]
    return changed


def test_roots_are_those_of_the_rfc() -> None:
    """The frontier gives MTH at every size, and so do the peaks that it writes down and reads again."""
    frontier = Frontier(hash=sha256)
    for size in range(SIZE_MAX_EXHAUSTIVE + 1):
        assert frontier.size == size
        assert frontier.root() == ROOTS[size]
        again = Frontier.from_bytes(frontier.to_bytes(), hash=sha256)
        again.extend(LEAVES[size:])
        assert again.root() == ROOTS[-1]
        if size < SIZE_MAX_EXHAUSTIVE:
            frontier.append(LEAVES[size])


def test_a_copied_frontier_does_not_follow_its_original() -> None:
    """A batch that is thrown away must leave the writer's frontier alone."""
    frontier = Frontier(hash=sha256)
    frontier.extend(LEAVES[:5])
    overlay = frontier.copy()
    overlay.extend(LEAVES[5:9])
    assert (frontier.size, frontier.root()) == (5, ROOTS[5])
    assert (overlay.size, overlay.root()) == (9, ROOTS[9])


@pytest.mark.parametrize("body", [b"", bytes(7), bytes(9), (3).to_bytes(8, "big") + bytes(32), bytes(40)])
def test_a_torn_frontier_is_refused(body: bytes) -> None:
    """A frontier whose length does not fit its size would give wrong roots for ever."""
    if body:
        with pytest.raises(ValueError, match="bytes"):
            Frontier.from_bytes(body)
    else:
        with pytest.raises(ValueError, match="not 0"):
            Frontier.from_bytes(body)


def test_every_inclusion_proof_is_the_rfcs_and_every_changed_one_is_refused() -> None:
    """All leaves of all trees up to 70; a proof with a bit, element or order changed proves nothing."""
    rng = random.Random(6962)
    for size in range(1, SIZE_MAX_EXHAUSTIVE + 1):
        for index in range(size):
            proof = inclusion_proof(index, size, NODE, hash=sha256)
            assert proof == naive_path(index, LEAVES[:size])
            verify_inclusion(index, size, LEAVES[index], ROOTS[size], proof, hash=sha256)
            for changed in mutations(proof, rng):
                with pytest.raises(ProofError):
                    verify_inclusion(index, size, LEAVES[index], ROOTS[size], changed, hash=sha256)
            for other in (index - 1, index + 1, index ^ 2, 2**64 - 1):
                with pytest.raises(ProofError):
                    verify_inclusion(other, size, LEAVES[index], ROOTS[size], proof, hash=sha256)


def test_every_consistency_proof_is_the_rfcs_and_every_changed_one_is_refused() -> None:
    """All pairs of sizes up to 70; a changed proof, a wrong old size or a wrong root proves nothing."""
    rng = random.Random(9162)
    for size in range(1, SIZE_MAX_EXHAUSTIVE + 1):
        for old in range(1, size + 1):
            proof = consistency_proof(old, size, NODE, hash=sha256)
            assert proof == naive_subproof(old, LEAVES[:size])
            verify_consistency(old, size, ROOTS[old], ROOTS[size], proof, hash=sha256)
            for changed in mutations(proof, rng):
                with pytest.raises(ProofError):
                    verify_consistency(old, size, ROOTS[old], ROOTS[size], changed, hash=sha256)
            for roots in ((ROOTS[0], ROOTS[size]), (ROOTS[old], ROOTS[0])):
                with pytest.raises(ProofError):
                    verify_consistency(old, size, *roots, proof, hash=sha256)
            for other in {old - 1, old + 1, size + 1} - {old}:
                with pytest.raises(ProofError):
                    verify_consistency(other, size, ROOTS[old], ROOTS[size], proof, hash=sha256)


@given(size=st.integers(1, 700), data=st.data())
def test_proofs_hold_beyond_the_exhaustive_sizes(size: int, data: st.DataObject) -> None:
    """Larger trees, SM3: what is proved verifies, and not for the neighbouring leaf or root."""
    index = data.draw(st.integers(0, size - 1))
    old = data.draw(st.integers(1, size))
    leaves = leaves_of(size)
    frontier, old_frontier = Frontier(), Frontier()
    frontier.extend(leaves)
    old_frontier.extend(leaves[:old])
    node = nodes_of(leaves)
    proof = inclusion_proof(index, size, node)
    verify_inclusion(index, size, leaves[index], frontier.root(), proof)
    with pytest.raises(ProofError):
        verify_inclusion(index, size, leaves[index - 1] if size > 1 else bytes(32), frontier.root(), proof)
    steps = consistency_proof(old, size, node)
    verify_consistency(old, size, old_frontier.root(), frontier.root(), steps)
    with pytest.raises(ProofError):
        verify_consistency(old, size, old_frontier.root(), bytes(32), steps)


def test_a_proof_needs_only_complete_subtrees() -> None:
    """The store keeps complete subtrees alone; a proof that asked for another could not be made."""
    for size in range(1, SIZE_MAX_EXHAUSTIVE + 1):

        def complete(level: int, index: int, size: int = size) -> bytes:
            assert (index + 1) << level <= size
            return NODE(level, index)

        for place in range(size):
            inclusion_proof(place, size, complete, hash=sha256)
            consistency_proof(place + 1, size, complete, hash=sha256)


@pytest.mark.parametrize(
    ("old", "size", "old_root", "root", "proof"),
    [
        (0, 0, ROOTS[0], ROOTS[1], []),
        (0, 0, ROOTS[0], ROOTS[0], [ROOTS[0]]),
        (0, 1, ROOTS[0], ROOTS[1], []),
        (0, 1, ROOTS[0], ROOTS[1], [ROOTS[1]]),
        (1, 0, ROOTS[1], ROOTS[0], []),
        (2, 1, ROOTS[2], ROOTS[1], []),
        (1, 2, ROOTS[1], ROOTS[2], []),
        (1, 1, ROOTS[1], ROOTS[2], []),
        (1, 1, ROOTS[1], ROOTS[1], [ROOTS[1]]),
        (-1, 1, ROOTS[1], ROOTS[1], []),
    ],
)
def test_edges_of_consistency_are_refused(
    old: int, size: int, old_root: bytes, root: bytes, proof: list[bytes]
) -> None:
    """Empty trees, equal sizes, shrinking logs: what cannot be proved is never taken as proved."""
    with pytest.raises(ProofError):
        verify_consistency(old, size, old_root, root, proof, hash=sha256)


def test_equal_trees_need_no_proof() -> None:
    """The same size and root is the same tree, the empty one too, whoever made up its root."""
    verify_consistency(0, 0, ROOTS[0], ROOTS[0], [], hash=sha256)
    verify_consistency(0, 0, b"x", b"x", [], hash=sha256)
    verify_consistency(7, 7, ROOTS[7], ROOTS[7], [], hash=sha256)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (1, 1), (-1, 1), (5, 4)])
def test_a_leaf_outside_the_tree_has_no_proof(index: int, size: int) -> None:
    """Neither made nor accepted."""
    with pytest.raises(ValueError, match="tree of size"):
        inclusion_proof(index, size, NODE)
    with pytest.raises(ProofError):
        verify_inclusion(index, size, LEAVES[0], ROOTS[1], [], hash=sha256)


@pytest.mark.parametrize(("old", "size"), [(0, 0), (0, 3), (4, 3), (-1, 3)])
def test_a_consistency_proof_that_cannot_be_is_not_made(old: int, size: int) -> None:
    """RFC 6962 defines it for 0 < old <= size."""
    with pytest.raises(ValueError, match="old size"):
        consistency_proof(old, size, NODE)


def test_sm3_agrees_with_two_other_implementations() -> None:
    """GB/T 32905's example and random data, by OpenSSL in pyca and by pure Python."""
    assert sm3(b"abc").hex() == "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0"
    rng = random.Random(32905)
    for length in [0, 1, 55, 56, 63, 64, 65, 119, 120, 450]:
        data = rng.randbytes(length)
        pyca = hashes.Hash(hashes.SM3())
        pyca.update(data)
        assert sm3(data) == pyca.finalize()
        # gmssl pads the list that it is given, so it gets one of its own.
        assert sm3(data).hex() == gmssl_sm3.sm3_hash(func.bytes_to_list(data))


def test_an_edited_record_changes_every_later_leaf() -> None:
    """The chain is inside the leaf: leaf = H(0x00 || previous || record)."""
    records = [b"one", b"two", b"three"]
    leaves = journal.chain(FIRST_PREVIOUS, records)
    assert leaves[0] == sm3(b"\x00" + bytes(32) + b"one")
    assert leaves[1] == journal.leaf_hash(leaves[0], b"two") == sm3(b"\x00" + leaves[0] + b"two")
    assert leaves[2:] == journal.chain(leaves[1], records[2:])
    edited = journal.chain(FIRST_PREVIOUS, [b"One", b"two", b"three"])
    assert all(a != b for a, b in zip(leaves, edited, strict=True))
    assert journal.node_hash(*leaves[:2]) == sm3(b"\x01" + leaves[0] + leaves[1])


# Notes. The "signature" here is a keyed hash: what is tested is the note, not the cipher.

HEAD = Checkpoint("edgegw/b1/box-7/3", 20852163, bytes(range(32)))
KEY_ID = b"\x01\x02\x03\x04"


def sign(message: bytes) -> bytes:
    return sm3(b"secret" + message)


def verify(message: bytes, signature: bytes) -> bool:
    return signature == sign(message)


def note_of(checkpoint: Checkpoint = HEAD) -> str:
    return journal.sign_note(checkpoint.body(), name="box-7", key_id=KEY_ID, sign=sign)


def open_(note: str | bytes) -> Checkpoint:
    return journal.open_note(note, name="box-7", key_id=KEY_ID, verify=verify)


def test_a_checkpoint_reads_as_c2sp_lays_it_out() -> None:
    """Origin, decimal size, base64 root; blank line; em dash, name, base64 of key id and signature."""
    root = base64.b64encode(HEAD.root).decode()
    line = base64.b64encode(KEY_ID + sign(HEAD.body())).decode()
    assert note_of() == f"edgegw/b1/box-7/3\n20852163\n{root}\n\n— box-7 {line}\n"
    assert open_(note_of()) == open_(note_of().encode()) == HEAD
    assert journal.parse_checkpoint(note_of())[1] == [SignatureLine("box-7", KEY_ID, sign(HEAD.body()))]


def test_every_flipped_bit_of_a_note_is_refused() -> None:
    """No byte of a signed note is free to change."""
    note = note_of().encode()
    for place in range(len(note)):
        for bit in range(8):
            changed = bytearray(note)
            changed[place] ^= 1 << bit
            with pytest.raises(NoteError):
                open_(bytes(changed))


ROOT_TEXT = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "body",
    [
        f"o\n01\n{ROOT_TEXT}\n",
        f"o\n+1\n{ROOT_TEXT}\n",
        f"o\n1 \n{ROOT_TEXT}\n",
        f"o\n٣\n{ROOT_TEXT}\n",
        f"o\n9223372036854775808\n{ROOT_TEXT}\n",
        f"o\n\n{ROOT_TEXT}\n",
        f"\n1\n{ROOT_TEXT}\n",
        f"two words\n1\n{ROOT_TEXT}\n",
        f"o\n1\n{ROOT_TEXT}\nextension\n",
        f"o\n1\n{ROOT_TEXT[:-1]}\n",
        f"o\n1\n{ROOT_TEXT[:-2]}B=\n",
        f"o\n1\n {ROOT_TEXT}\n",
        "o\n1\nAAAA\n",
        "o\n1\n",
        f"o\r\n1\n{ROOT_TEXT}\n",
    ],
)
def test_a_signed_but_malformed_checkpoint_is_refused(body: str) -> None:
    """One text for one head: nothing that two readers could read as two heads."""
    note = journal.sign_note(body.encode(), name="box-7", key_id=KEY_ID, sign=sign)
    with pytest.raises(NoteError):
        open_(note)


GOOD_LINE = note_of().splitlines(keepends=True)[-1]


@pytest.mark.parametrize(
    "signatures",
    [
        "",
        GOOD_LINE[:-1],
        "- " + GOOD_LINE[2:],
        "—" + GOOD_LINE[2:],
        GOOD_LINE.replace(" ", "  "),
        "— box-7 AQIDBA==\n",
        "— box-7\n",
        "— a+b AQIDBAUG\n" + GOOD_LINE,
        GOOD_LINE + "\n" + GOOD_LINE,
        GOOD_LINE + GOOD_LINE,
        GOOD_LINE * 17,
    ],
)
def test_malformed_signature_lines_are_refused(signatures: str) -> None:
    """Also the second line by one key, and more than sixteen."""
    with pytest.raises(NoteError):
        open_(HEAD.body().decode() + "\n" + signatures)


def test_lines_of_unknown_keys_are_ignored_up_to_sixteen() -> None:
    """A roll of keys or a new witness must not break old readers; a name or an id alone is another key."""
    note = note_of()
    others = [SignatureLine("box-7", b"\x01\x02\x03\x05", b"x"), SignatureLine("other", KEY_ID, b"x")]
    others += [SignatureLine(f"witness-{n}", KEY_ID, b"x") for n in range(13)]
    for line in others:
        note = journal.add_signature(note, line)
    assert open_(note) == HEAD
    with pytest.raises(NoteError, match="not signed by hub"):
        journal.open_note(note, name="hub", key_id=KEY_ID, verify=verify)


def test_a_cosignature_binds_head_and_time() -> None:
    """The hub's word is good for this head at this time and stands beside the box's own line."""
    line = journal.cosign(HEAD, time_s=1_800_000_000, name="hub", key_id=b"HUB.", sign=sign)
    note = journal.add_signature(note_of(), line)
    assert open_(note) == HEAD
    cosigned = journal.check_cosignature(note, name="hub", key_id=b"HUB.", verify=verify)
    assert (cosigned.checkpoint, cosigned.time_s) == (HEAD, 1_800_000_000)
    assert line.signature[8:] == sign(b"edgegw/cosig/v1\ntime 1800000000\n" + HEAD.body())
    later = SignatureLine("hub", b"HUB.", (1_800_000_001).to_bytes(8, "big") + line.signature[8:])
    with pytest.raises(NoteError, match="does not verify"):
        journal.check_cosignature(
            journal.add_signature(note_of(), later), name="hub", key_id=b"HUB.", verify=verify
        )


def test_a_checkpoint_signature_is_no_cosignature_nor_the_reverse() -> None:
    """The two texts have different first lines, so that one can never be shown as the other."""
    line = journal.cosign(HEAD, time_s=5, name="box-7", key_id=KEY_ID, sign=sign)
    with pytest.raises(NoteError):
        open_(HEAD.body().decode() + "\n" + line.text())
    with pytest.raises(NoteError):
        journal.check_cosignature(note_of(), name="box-7", key_id=KEY_ID, verify=verify)


def test_any_signed_text_opens_by_the_same_rules() -> None:
    """Notes that are not checkpoints (the link of an epoch) carry text with blank lines too."""
    note = journal.sign_note(b"one\n\ntwo\n", name="hub", key_id=KEY_ID, sign=sign)
    assert journal.open_text(note, name="hub", key_id=KEY_ID, verify=verify) == "one\n\ntwo\n"
    with pytest.raises(NoteError):
        journal.open_text(note.replace("two", "too"), name="hub", key_id=KEY_ID, verify=verify)
    for text in (b"\xff\n\n", "\ud800\n\n" + GOOD_LINE):
        with pytest.raises(NoteError):
            journal.parse_note(text)


def test_the_two_logs_of_a_box_cannot_be_taken_for_each_other() -> None:
    """Journal and directives differ in origin whatever the names; a name that forges a path is refused."""
    assert journal.journal_origin(bank="b1", box="box-7", epoch=3) == "edgegw/b1/box-7/3"
    assert journal.directives_origin(bank="b1", box="box-7", incarnation=1) == "edgegw/b1/hub/box-7/1"
    for box in ("hub", "a/b", "", "a b", "a\nb", "..", "x" * 65):
        with pytest.raises(ValueError, match="box"):
            journal.journal_origin(bank="b1", box=box, epoch=3)
    with pytest.raises(ValueError, match="epoch"):
        journal.journal_origin(bank="b1", box="box-7", epoch=-1)


def test_the_key_id_is_that_of_the_profile() -> None:
    """SM3(name || 0x0A || 0xff || label || public key), first four bytes."""
    point = b"\x04" + bytes(64)
    assert journal.key_id("box-7", point) == sm3(b"box-7\n\xffedgegw.sm2-sm3.v1" + point)[:4]
