"""Keys that follow each other: which one signs a checkpoint of a size, and what is no change of keys."""

from typing import Any

import msgspec
import pytest

from edgegw import verifier
from edgegw.access.keys import SigningKey, VerifyingKey
from edgegw.core import journal
from edgegw.core.exchange import HeldLog, PackageJudgement, judge_push
from edgegw.core.journal import Checkpoint, Frontier, NoteError
from edgegw.core.key_policy import KeyChange, KeyPolicy, KeyRange, open_change, sign_change
from edgegw.core.messages import Package, PackageVerdict
from edgegw.core.records import KeyIntroduced, encode
from edgegw.sm.sm2 import PrivateKey
from tests.core.authors import BANK, BOX
from tests.core.policies import one_key

NAME = f"{BANK}/{BOX}/checkpoint"
FIRST, SECOND, THIRD = (SigningKey(NAME, PrivateKey.generate()) for _ in range(3))
CHANGE = 5
"""The seq of the record by which SECOND takes over."""


def said(**changes: Any) -> KeyChange:
    """SECOND follows FIRST at CHANGE."""
    fields = {"purpose": "checkpoint", "bank": BANK, "box": BOX, "epoch": 1, "seq": CHANGE}
    return KeyChange(**fields | {"old": FIRST.public.text(), "new": SECOND.public.text()} | changes)


NOTE = sign_change(said(), old=FIRST, new=SECOND)


class Forger:
    """Signs under another key's name and id with a key of its own."""

    def __init__(self, key: SigningKey) -> None:
        self.name, self.key_id = key.name, key.key_id

    def sign(self, message: bytes) -> bytes:
        return THIRD.sign(message)


POLICY = one_key(FIRST.public, bank=BANK, box=BOX)


def record(seq: int, **changes: Any) -> bytes:
    """A record of a journal in which SECOND takes over at CHANGE."""
    head = {"v": 1, "bank": BANK, "box": BOX, "epoch": 1, "seq": seq}
    head |= {"at_ns": seq, "wall_ns": 0, "mono_ns": 0}
    if seq == CHANGE:
        fields = {"key": SECOND.public.text(), "note": NOTE} | changes
        return encode(KeyIntroduced(**head, **fields))  # type: ignore[arg-type]
    return msgspec.json.encode({"type": "operator", **head, "operator": "o", "action": "a", "detail": ""})


RECORDS = [record(seq) for seq in range(12)]


def checkpoint(key: SigningKey, size: int, bodies: list[bytes] = RECORDS) -> str:
    """The head of the first so many records, by any key."""
    frontier = Frontier()
    frontier.extend(journal.chain(journal.FIRST_PREVIOUS, bodies[:size]))
    origin = journal.journal_origin(bank=BANK, box=BOX, epoch=1)
    return key.seal(Checkpoint(origin, size, frontier.root()).body())


def package(
    start: int,
    end: int,
    key: SigningKey,
    size: int,
    *,
    keys: tuple[str, ...] = (),
    bodies: list[bytes] = RECORDS,
) -> Package:
    """Records [start, end) under the head of `size` by `key`."""
    leaves = journal.chain(journal.FIRST_PREVIOUS, bodies)
    frontier = Frontier()
    frontier.extend(leaves[:end])
    proof = journal.consistency_proof(end, size, journal.nodes_of(leaves[:size]))
    return Package(
        number=1,
        old_size=start,
        records=tuple(bodies[start:end]),
        root=frontier.root(),
        checkpoint=checkpoint(key, size, bodies),
        proof=tuple(proof),
        keys=keys,
    )


def judged(pushed: Package, held: int = 0, policy: KeyPolicy = POLICY) -> PackageJudgement:
    """What a reader of the first `held` records makes of it."""
    leaves = journal.chain(journal.FIRST_PREVIOUS, RECORDS)
    frontier = Frontier()
    frontier.extend(leaves[:held])
    log = HeldLog(1, frontier, leaves.__getitem__)
    return judge_push(pushed, log, bank=BANK, box=BOX, keys=policy)


def test_each_size_has_one_key() -> None:
    """The border is the record itself: the COMMIT that writes it is signed by the new key."""
    policy = POLICY.extended([NOTE])
    first, second = FIRST.public.text(), SECOND.public.text()
    assert policy.ranges() == [KeyRange(first, 1, CHANGE), KeyRange(second, CHANGE + 1, None)]
    for size in range(1, 12):
        old, new = (FIRST, SECOND) if size <= CHANGE else (SECOND, FIRST)
        assert policy.open(checkpoint(old, size)).size == size
        with pytest.raises(NoteError, match=f"signs sizes from .* not {size}"):
            policy.open(checkpoint(new, size))


@pytest.mark.parametrize(
    "note",
    [
        pytest.param(sign_change(said(epoch=2), old=FIRST, new=SECOND), id="of another epoch"),
        pytest.param(sign_change(said(box="branch-2"), old=FIRST, new=SECOND), id="of another box"),
        pytest.param(sign_change(said(bank="other"), old=FIRST, new=SECOND), id="of another bank"),
        pytest.param(sign_change(said(purpose="device"), old=FIRST, new=SECOND), id="for another purpose"),
        pytest.param(
            sign_change(said(old=THIRD.public.text()), old=THIRD, new=SECOND), id="ends a key that never was"
        ),
        pytest.param(sign_change(said(), old=FIRST, new=FIRST), id="signed by the old key twice"),
        pytest.param(sign_change(said(), old=Forger(FIRST), new=SECOND), id="with a forged old signature"),
        pytest.param(sign_change(said(), old=FIRST, new=Forger(SECOND)), id="with a forged new signature"),
        pytest.param(sign_change(said(), old=SECOND, new=SECOND), id="signed by the new key twice"),
        pytest.param(sign_change(said(), old=THIRD, new=SECOND), id="signed by a stranger for the old key"),
        pytest.param(NOTE.rsplit("\n", 2)[0] + "\n", id="with the old key's signature alone"),
        pytest.param(NOTE.replace('"seq":5', '"seq":6'), id="moved to another record"),
        pytest.param(NOTE.replace('"seq":5', '"seq": 5'), id="written in another way"),
    ],
)
def test_what_both_keys_have_not_signed_for_this_place_changes_no_key(note: str) -> None:
    """One stolen key, or a statement made elsewhere, must not give checkpoints another author."""
    with pytest.raises(NoteError):
        POLICY.extended([note])


def test_keys_follow_one_after_the_other_and_never_come_back() -> None:
    """A chain that could loop or branch would have two answers for one size."""
    policy = POLICY.extended([NOTE])
    third = sign_change(said(seq=9, old=SECOND.public.text(), new=THIRD.public.text()), old=SECOND, new=THIRD)
    assert policy.extended([third]).newest == THIRD.public.text()
    back = sign_change(said(seq=9, old=SECOND.public.text(), new=FIRST.public.text()), old=SECOND, new=FIRST)
    early = sign_change(said(seq=4, old=SECOND.public.text(), new=THIRD.public.text()), old=SECOND, new=THIRD)
    again = sign_change(said(seq=9, new=THIRD.public.text()), old=FIRST, new=THIRD)
    for note in (back, early, again):
        with pytest.raises(NoteError):
            policy.extended([note])


def test_a_revoked_key_introduces_nobody_above_its_limit() -> None:
    """Who has stolen it would else only have to name a successor."""
    first = FIRST.public.text()
    for limit, counts in ((CHANGE + 1, True), (CHANGE, False), (CHANGE - 1, False)):
        policy = KeyPolicy(
            bank=BANK, box=BOX, epoch=1, first=first, parse=VerifyingKey.parse, void={first: limit}
        )
        assert policy.open(checkpoint(FIRST, min(limit, CHANGE))).size == min(limit, CHANGE)
        if counts:
            assert policy.extended([NOTE]).newest == SECOND.public.text()
        else:
            with pytest.raises(NoteError, match="revoked"):
                policy.open(checkpoint(FIRST, limit + 1))
            with pytest.raises(NoteError, match="revoked"):
                policy.extended([NOTE])


@pytest.mark.parametrize(
    ("limit", "known", "counts"), [(9, True, True), (9, False, False), (CHANGE, False, False)]
)
def test_a_verifier_takes_no_successor_that_a_thief_has_named(limit: int, known: bool, counts: bool) -> None:
    """Who has stolen a key that is revoked can write any record's number in a statement: only one that the
    policy knows counts."""
    origin = verifier.origin_of(journal.journal_origin(bank=BANK, box=BOX, epoch=1))
    first = verifier.key_of(FIRST.public.text())
    revoked = (verifier.Revoked(first, limit, "stolen"),)
    policy = verifier.Policy(first, (NOTE,) if known else (), revoked)
    keys = verifier.Keys((), None, {origin.text: policy})
    if counts:
        assert verifier.open_checkpoint(checkpoint(SECOND, 8), keys, (NOTE,)).size == 8
    else:
        with pytest.raises(verifier.Unverified, match="revoked by the hub"):
            verifier.open_checkpoint(checkpoint(SECOND, 8), keys, (NOTE,))


def test_a_reader_learns_the_key_from_the_record_in_the_package() -> None:
    """It stands in what is judged, so nothing has to come before it."""
    found = judged(package(0, 9, SECOND, 9))
    assert found.verdict is PackageVerdict.ACCEPTED
    assert found.keys is not None
    assert found.keys.notes == (NOTE,)
    later = judged(package(9, 12, SECOND, 12), 9, found.keys)
    assert later.verdict is PackageVerdict.ACCEPTED


def test_the_first_part_of_a_backlog_is_opened_by_a_key_that_only_its_rest_introduces() -> None:
    """The head covers all that the box has; without the statement beside it the backlog would never leave."""
    bare = judged(package(0, 3, SECOND, 12))
    assert bare.verdict is PackageVerdict.BAD_CHECKPOINT
    first = judged(package(0, 3, SECOND, 12, keys=(NOTE,)))
    assert first.verdict is PackageVerdict.ACCEPTED
    rest = judged(package(3, 12, SECOND, 12), 3, first.keys or POLICY)
    assert rest.verdict is PackageVerdict.ACCEPTED


def test_a_statement_that_no_record_is_gives_way_to_the_records() -> None:
    """A thief of the old key could show one beside a head; the records decide."""
    other = sign_change(said(seq=8), old=FIRST, new=SECOND)
    first = judged(package(0, 3, SECOND, 12, keys=(other,)))
    assert first.verdict is PackageVerdict.ACCEPTED
    found = judged(package(3, 9, SECOND, 9), 3, first.keys or POLICY)
    assert (found.verdict, found.keys and found.keys.notes) == (PackageVerdict.ACCEPTED, (NOTE,))


def test_the_old_key_signs_no_head_beyond_its_record_nor_the_new_one_before_it() -> None:
    """Each has its range; outside of it its signature is worth nothing, also where both are known."""
    for pushed in (package(0, 9, FIRST, 9), package(0, 3, SECOND, 4, keys=(NOTE,))):
        found = judged(pushed)
        assert found.verdict is PackageVerdict.BAD_CHECKPOINT
        assert "signs sizes from" in found.reason
    assert judged(package(0, 5, FIRST, 5)).verdict is PackageVerdict.ACCEPTED


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"note": ""}, id="without a statement"),
        pytest.param({"note": NOTE.rsplit("\n", 2)[0] + "\n"}, id="with one signature"),
        pytest.param({"key": THIRD.public.text()}, id="naming another key than its statement"),
        pytest.param(
            {"note": sign_change(said(seq=CHANGE + 1), old=FIRST, new=SECOND)}, id="spliced from another seq"
        ),
        pytest.param(
            {"note": sign_change(said(epoch=2), old=FIRST, new=SECOND)}, id="spliced from another epoch"
        ),
        pytest.param(
            {"note": sign_change(said(box="branch-2"), old=FIRST, new=SECOND)}, id="spliced from another box"
        ),
    ],
)
def test_a_record_that_begins_a_key_wrongly_is_refused(changes: dict[str, str]) -> None:
    """It would stand in the journal for ever, and readers would part over who signs from there on."""
    bodies = [*RECORDS[:CHANGE], record(CHANGE, **changes), *RECORDS[CHANGE + 1 :]]
    for key in (FIRST, SECOND):
        assert judged(package(0, 9, key, 9, bodies=bodies)).verdict in (
            PackageVerdict.MALFORMED,
            PackageVerdict.BAD_CHECKPOINT,
        )


def test_a_statement_says_what_was_signed() -> None:
    """What is read of it is what both keys have seen."""
    assert open_change(NOTE, VerifyingKey.parse).said == said()
