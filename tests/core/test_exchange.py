"""What each side makes of the other's messages: every verdict, and everything that is not what it claims."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgegw.core import journal
from edgegw.core.exchange import (
    CARRIES_ON,
    TRANSITIONS,
    VERDICT_EVENT,
    Event,
    HeldEpoch,
    HubView,
    Session,
    choose_version,
    frontier_at,
    judge_message,
    judge_open,
    judge_package,
    judge_push,
    next_mode,
    same_link,
)
from edgegw.core.messages import (
    MESSAGE_BYTES_MAX,
    PACKAGE_BYTES_MAX,
    RECORD_BYTES_MAX,
    VERSION,
    Ask,
    Beat,
    Beaten,
    Direction,
    ExchangeError,
    LinkNote,
    LogHead,
    Message,
    Open,
    Opened,
    PackageVerdict,
    Verdict,
    decode_message,
    encode_message,
    open_envelope,
    open_link,
    open_reply,
    read_envelope,
    seal_envelope,
    sign_link,
)
from edgegw.core.records import Mode
from tests.core.authors import BANK, BOX, Author, Reader, new_key
from tests.core.policies import one_key

BOX_KEY = new_key("branch-1")
EPOCH_KEY = new_key("branch-1/1")
HUB_KEY = new_key("hub")
SESSION = bytes(range(16))


def author_with(count: int) -> Author:
    author = Author(EPOCH_KEY)
    author.append(*(f"record {number}" for number in range(count)))
    return author


# --- messages and envelopes


MESSAGES: list[Message] = [
    Open(
        version=1,
        version_oldest=1,
        bank=BANK,
        box=BOX,
        boot="b",
        epoch=1,
        key="k",
        mode=Mode.OFFLINE,
        journals=(LogHead(1, 5, bytes(32)),),
        cosignature="note",
        directives=LogHead(1, 2, bytes(32)),
        directives_note="note",
    ),
    Opened(version=1, verdict=Verdict.LINK, reason="first", session=SESSION, link="note"),
    Beat(
        directives=LogHead(0),
        push=author_with(3).package(0, 3),
        asks=(Ask("1-b-1", "a", "CNY", 5),),
        waiting=3,
    ),
    Beaten(push=PackageVerdict.ACCEPTED, journal=LogHead(1, 3, bytes(32)), cosignature="note", more=True),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_that_changes_on_the_way_through_bytes(message: Message) -> None:
    """Every message comes back as it was sent."""
    assert decode_message(encode_message(message)) == message


def test_a_newer_peer_with_one_more_field_is_still_understood() -> None:
    """A box one release behind works: fields that it does not know are passed over."""
    fields = msgspec.msgpack.decode(encode_message(Beaten(reason="well")))
    message = decode_message(msgspec.msgpack.encode({**fields, "newer": [1, 2]}))
    assert message == Beaten(reason="well")


def seal(message: Message, *, counter: int = 7, direction: Direction = Direction.TO_HUB) -> bytes:
    return seal_envelope(
        BOX_KEY.sign, message, direction=direction, bank=BANK, box=BOX, session=SESSION, counter=counter
    )


def test_a_sealed_message_opens_for_the_pinned_key_alone() -> None:
    """The pinned key's message opens, another key's does not."""
    envelope = read_envelope(seal(MESSAGES[2]))
    assert open_envelope(BOX_KEY.public.verify, envelope, direction=Direction.TO_HUB) == MESSAGES[2]
    with pytest.raises(ExchangeError, match="not signed by the pinned key"):
        open_envelope(HUB_KEY.public.verify, envelope, direction=Direction.TO_HUB)


@pytest.mark.parametrize(
    "change",
    [
        {"counter": 8},
        {"session": bytes(16)},
        {"box": "branch-2"},
        {"bank": "other"},
        {"body": encode_message(MESSAGES[0])},
        {"signature": bytes(64)},
        {"signature": b""},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_tampered_envelope_is_refused(change: dict[str, Any]) -> None:
    """Whatever is changed in an envelope, its signature no longer holds."""
    envelope = msgspec.structs.replace(read_envelope(seal(MESSAGES[2])), **change)
    with pytest.raises(ExchangeError):
        open_envelope(BOX_KEY.public.verify, envelope, direction=Direction.TO_HUB)


def test_a_message_turned_round_is_refused() -> None:
    """What the box said is never taken for the hub's answer, even if one key were used for both."""
    envelope = read_envelope(seal(MESSAGES[3]))
    with pytest.raises(ExchangeError, match="not signed"):
        open_envelope(BOX_KEY.public.verify, envelope, direction=Direction.TO_BOX)


def test_names_that_run_together_sign_different_texts() -> None:
    """bank `a`, box `bc` and bank `ab`, box `c` are not the same signed text."""
    sealed = seal_envelope(
        BOX_KEY.sign,
        Beaten(),
        direction=Direction.TO_HUB,
        bank="a",
        box="bc",
        session=SESSION,
        counter=1,
    )
    moved = msgspec.structs.replace(read_envelope(sealed), bank="ab", box="c")
    with pytest.raises(ExchangeError, match="not signed"):
        open_envelope(BOX_KEY.public.verify, moved, direction=Direction.TO_HUB)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no envelope"),
        (b"\xff" * 40, "no envelope"),
        (msgspec.msgpack.encode({"bank": 1}), "no envelope"),
        (bytes(MESSAGE_BYTES_MAX + 1), "at most"),
    ],
    ids=["empty", "garbage", "wrong type", "too long"],
)
def test_bytes_that_are_no_envelope_are_named(data: bytes, says: str) -> None:
    """Garbage is an ExchangeError that says what is wrong, never another exception."""
    with pytest.raises(ExchangeError, match=says):
        read_envelope(data)


@given(st.binary(max_size=200))
def test_garbage_never_raises_anything_else(data: bytes) -> None:
    """Any bytes are a message or an ExchangeError."""
    for read in (decode_message, read_envelope):
        try:
            read(data)
        except ExchangeError:
            pass


@pytest.mark.parametrize(("session", "counter"), [(SESSION, 8), (bytes(16), 7)])
def test_a_replayed_answer_is_refused(session: bytes, counter: int) -> None:
    """An old answer of the hub's is not the answer to this message."""
    sealed = seal(Beaten(), direction=Direction.TO_BOX)
    verify = BOX_KEY.public.verify
    assert open_reply(verify, sealed, bank=BANK, box=BOX, session=SESSION, counter=7) == Beaten()
    with pytest.raises(ExchangeError, match="another message"):
        open_reply(verify, sealed, bank=BANK, box=BOX, session=session, counter=counter)


OLD, NEW = bytes(16), bytes([1]) * 16


@pytest.mark.parametrize(
    ("held", "session", "counter", "after"),
    [
        (Session(OLD, 3), OLD, 4, Session(OLD, 4)),
        (Session(OLD, 3), OLD, 9, Session(OLD, 9)),
        (Session(OLD, 3), OLD, 3, None),
        (Session(OLD, 3), OLD, 2, None),
        (Session(OLD, 3, NEW), OLD, 4, Session(OLD, 4, NEW)),
        (Session(OLD, 3, NEW), NEW, 1, Session(NEW, 1)),
        (Session(OLD, 3, NEW), NEW, 0, None),
        (Session(NEW, 1), OLD, 4, None),
        (Session(), OLD, 1, None),
        (Session(), b"", 1, None),
    ],
)
def test_a_replayed_or_unknown_message_moves_no_session(
    held: Session, session: bytes, counter: int, after: Session | None
) -> None:
    """Counters rise; a session that was only opened takes over with its first beat and ends the old one."""
    assert judge_message(held, session=session, counter=counter) == after


@pytest.mark.parametrize(
    ("oldest", "newest", "chosen"),
    [(1, VERSION, VERSION), (1, VERSION + 5, VERSION), (VERSION + 1, VERSION + 5, 0), (0, 0, 0)],
)
def test_versions_without_overlap_are_not_spoken(oldest: int, newest: int, chosen: int) -> None:
    """The newest version that both speak, or none."""
    assert choose_version(oldest=oldest, newest=newest) == chosen


LINK = LinkNote(bank=BANK, box=BOX, epoch=2, key="k+1+x", old_epoch=1, old_size=3, old_root=bytes(32).hex())


def test_a_link_that_the_hub_did_not_sign_is_refused() -> None:
    """An epoch is given by the hub's pinned key and by nothing else; a checkpoint is no link."""
    note = sign_link(LINK, HUB_KEY)
    assert open_link(note, HUB_KEY.public) == LINK
    for forged in (
        sign_link(LINK, BOX_KEY),
        note.replace('"epoch":2', '"epoch":3'),
        Author(HUB_KEY).checkpoint(0),
        "",
    ):
        with pytest.raises(ExchangeError):
            open_link(forged, HUB_KEY.public)


# --- openings


HELD = author_with(6)
DIRECTIVES = Author(HUB_KEY, number=1, field="incarnation")
DIRECTIVES.append("one", "two", "three")
OTHER = Author(EPOCH_KEY)
OTHER.append("another", "history", "of", "the", "same", "epoch", "and", "on")


def cosigned(author: Author, size: int) -> str:
    checkpoint = journal.Checkpoint(author.origin, size, author.root(size))
    return HUB_KEY.cosign(checkpoint, time_s=1)


def view(size: int = 6, directives: int = 3, epoch: int = 1, **changes: Any) -> HubView:
    return HubView(
        epoch=epoch,
        key="key",
        journal=LogHead(epoch, size, HELD.root(size) if size else b""),
        journal_root_at=HELD.root,
        directives=LogHead(1, directives, DIRECTIVES.root(directives) if directives else b""),
        directives_root_at=DIRECTIVES.root,
        **changes,
    )


def says(author: Author = HELD, size: int = 6, directives: int = 0, **changes: Any) -> Open:
    message = Open(
        version=VERSION,
        version_oldest=1,
        bank=BANK,
        box=BOX,
        boot="boot",
        epoch=1,
        key="key",
        mode=Mode.OFFLINE,
        journals=(LogHead(1, size, author.root(size) if size else b""),),
        directives=LogHead(1, directives, DIRECTIVES.root(directives) if directives else b""),
        directives_note=DIRECTIVES.checkpoint(directives) if directives else "",
    )
    return msgspec.structs.replace(message, **changes)


MORE = author_with(9)
FIRST = HeldEpoch(LogHead(1, 6, HELD.root(6)), HELD.root)
"""Epoch 1 where epoch 2 has been issued."""
FORKED_FIRST = FIRST._replace(forked=True)
SECOND = LogHead(2, 6, HELD.root(6))

OPENINGS: list[tuple[str, Open, HubView, Verdict]] = [
    ("equal heads", says(), view(), Verdict.OK),
    ("box has more", says(MORE, 9), view(), Verdict.OK),
    ("box has all directives", says(directives=3), view(), Verdict.OK),
    ("first contact", says(epoch=0, journals=()), view(0, 0, epoch=0), Verdict.LINK),
    ("lost link", says(epoch=0, journals=()), view(0, 0), Verdict.LINK),
    ("released and whole", says(mode=Mode.BEHIND), view(release=True), Verdict.LINK),
    ("released, and it has more", says(MORE, 9, mode=Mode.FENCED), view(release=True), Verdict.LINK),
    ("released, and it lacks some", says(size=4, mode=Mode.BEHIND), view(release=True), Verdict.BEHIND),
    ("released, with an empty disk", says(epoch=0, journals=()), view(release=True), Verdict.BEHIND),
    ("released, another history", says(OTHER, 4, mode=Mode.BEHIND), view(release=True), Verdict.FORKED),
    (
        "released after a fork, and it knows what the other history decided",
        says(OTHER, 4, others=(LogHead(1, 6, HELD.root(6)),)),
        view(release=True, forked=True),
        Verdict.LINK,
    ),
    (
        "released after a fork, and it knows too little",
        says(OTHER, 4, others=(LogHead(1, 5, HELD.root(5)),)),
        view(release=True, forked=True),
        Verdict.BEHIND,
    ),
    (
        "released, lacks an older epoch",
        says(epoch=2, journals=(SECOND,)),
        view(epoch=2, release=True, others=(FIRST,)),
        Verdict.BEHIND,
    ),
    (
        "released, an older epoch has two histories, and it has the hub's",
        says(epoch=2, journals=(FIRST.head, SECOND)),
        view(epoch=2, release=True, others=(FORKED_FIRST,)),
        Verdict.LINK,
    ),
    (
        "released, an older epoch has two histories, and it has none",
        says(epoch=2, journals=(SECOND,)),
        view(epoch=2, release=True, others=(FORKED_FIRST,)),
        Verdict.BEHIND,
    ),
    (
        "released, another history of an older epoch",
        says(epoch=2, journals=(LogHead(1, 4, OTHER.root(4)), SECOND)),
        view(epoch=2, release=True, others=(FIRST,)),
        Verdict.FORKED,
    ),
    (
        "released, whole in two epochs",
        says(epoch=2, journals=(FIRST.head, SECOND)),
        view(epoch=2, release=True, others=(FIRST,)),
        Verdict.LINK,
    ),
    ("released, the hub lost directives", says(directives=3), view(6, 2, release=True), Verdict.HUB_BEHIND),
    ("released while taking back", says(), view(release=True, taking_back=True), Verdict.HUB_BEHIND),
    ("lost link of a second epoch", says(), view(0, epoch=2, others=(FIRST,)), Verdict.LINK),
    ("lost link, and the box lost more", says(size=4), view(0, epoch=2, others=(FIRST,)), Verdict.BEHIND),
    ("lost link, another key", says(key="other"), view(0, epoch=2, others=(FIRST,)), Verdict.FENCED),
    (
        "empty disk after a past",
        says(epoch=0, journals=()),
        view(0, epoch=2, others=(FIRST,)),
        Verdict.BEHIND,
    ),
    (
        "lacks an older epoch, and works",
        says(epoch=2, journals=(SECOND,)),
        view(epoch=2, others=(FIRST,)),
        Verdict.OK,
    ),
    ("the hub takes back", says(), view(taking_back=True), Verdict.HUB_BEHIND),
    ("new disk", says(epoch=0, journals=()), view(), Verdict.BEHIND),
    ("restored box", says(size=4), view(), Verdict.BEHIND),
    ("box lost all of this epoch", says(size=0), view(), Verdict.BEHIND),
    ("lineage did not fit", says(mode=Mode.BEHIND), view(), Verdict.BEHIND),
    ("another root at the same size", says(OTHER, 6), view(), Verdict.FORKED),
    ("another root at a smaller size", says(OTHER, 4), view(), Verdict.FORKED),
    ("quarantined", says(), view(forked=True), Verdict.FORKED),
    ("older epoch", says(), view(epoch=2), Verdict.FENCED),
    ("another boot", says(), view(superseded=True), Verdict.FENCED),
    ("epoch unknown to the hub", says(epoch=2), view(), Verdict.HUB_BEHIND),
    ("hub lost cosigned records", says(MORE, 9, cosignature=cosigned(MORE, 8)), view(), Verdict.HUB_BEHIND),
    ("hub lost directives", says(directives=3), view(directives=2), Verdict.HUB_BEHIND),
    ("cosignature within what is held", says(cosignature=cosigned(HELD, 6)), view(), Verdict.OK),
    ("forged cosignature", says(MORE, 9, cosignature=MORE.checkpoint(8)), view(), Verdict.OK),
    (
        "cosignature of another log",
        says(MORE, 9, cosignature=cosigned(DIRECTIVES, 3)),
        view(2, 3),
        Verdict.OK,
    ),
    ("forged directives", says(directives=3, directives_note=""), view(directives=2), Verdict.OK),
    ("no version shared", says(version_oldest=VERSION + 1, version=VERSION + 1), view(), Verdict.VERSION),
]


@pytest.mark.parametrize(
    ("message", "held", "verdict"), [row[1:] for row in OPENINGS], ids=[row[0] for row in OPENINGS]
)
def test_a_side_that_is_behind_or_forked_is_found_at_the_opening(
    message: Open, held: HubView, verdict: Verdict
) -> None:
    """One row per verdict and per reason for it."""
    judged = judge_open(message, held, hub_key=HUB_KEY.public)
    assert judged.verdict is verdict
    assert bool(judged.reason) == (verdict is not Verdict.OK)


def test_every_opening_verdict_has_a_row() -> None:
    """REOPEN is said to messages of unknown sessions, not to openings; all others stand in the table."""
    assert {row[3] for row in OPENINGS} == set(Verdict) - {Verdict.REOPEN}


def test_other_directives_at_the_same_size_show_that_the_hub_lost_its_own() -> None:
    """A hub restored to before its last directives, which then wrote others, is behind."""
    others = Author(HUB_KEY, number=1, field="incarnation")
    others.append("not", "the", "same")
    head = LogHead(1, 3, others.root())
    message = replaced(says(), directives=head, directives_note=others.checkpoint())
    assert judge_open(message, view(), hub_key=HUB_KEY.public).verdict is Verdict.HUB_BEHIND


def test_a_lost_link_is_repeated_for_the_same_key_alone() -> None:
    """Another key gets another epoch, so that no epoch has two keys."""
    assert same_link(says(epoch=0), view(0, 0))
    assert not same_link(says(epoch=0, key="other"), view(0, 0))
    assert not same_link(says(epoch=0), view())
    assert not same_link(says(epoch=0), view(0, 0, epoch=0))


# --- packages


def reader_of(count: int) -> Reader:
    reader = Reader()
    if count:
        reader.keep(push(author_with(count).package(0, count), reader))
    return reader


def push(package: Any, reader: Reader) -> Any:
    keys = one_key(EPOCH_KEY.public, bank=BANK, box=BOX, epoch=package.number)
    return judge_push(package, reader.held(), bank=BANK, box=BOX, keys=keys)


def replaced(package: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(package, **changes)


def resealed(size: int, author: Author = MORE) -> str:
    """A checkpoint that the right key signs for a root that never was."""
    return EPOCH_KEY.seal(journal.Checkpoint(author.origin, size, bytes(32)).body())


def forged_place(**changes: Any) -> Any:
    author = author_with(6)
    author.append_body(author.body("forged", **changes))
    return author.package(6, 7)


def more(start: int, stop: int, **changes: Any) -> Callable[[], Any]:
    """A true package of MORE, but for the changes."""
    return lambda: replaced(MORE.package(start, stop), **changes)


EDITED = (MORE.bodies[6].replace(b"record", b"Record"), *MORE.bodies[7:9])
HUBS_WORD = HUB_KEY.seal(journal.Checkpoint(MORE.origin, 9, MORE.root()).body())
OTHER_LOGS_WORD = Author(EPOCH_KEY, number=7).checkpoint()
TOO_MANY_BYTES = (bytes(PACKAGE_BYTES_MAX), b"{}")
TOO_LONG = (bytes(RECORD_BYTES_MAX + 1),)

V = PackageVerdict
PUSHES: list[tuple[str, Callable[[], Any], int, PackageVerdict, int]] = [
    ("the whole log", more(0, 9), 0, V.ACCEPTED, 9),
    ("a part, the head further on", more(0, 4), 0, V.ACCEPTED, 4),
    ("the rest", more(6, 9), 6, V.ACCEPTED, 9),
    ("half of it held already", more(3, 8), 6, V.ACCEPTED, 8),
    ("a newer head alone", more(6, 6), 6, V.ACCEPTED, 6),
    ("the same again", lambda: HELD.package(0, 6), 6, V.DUPLICATE, 6),
    ("a shorter one", lambda: HELD.package(0, 3, head=3), 6, V.DUPLICATE, 6),
    ("a gap", more(7, 9), 6, V.GAP, 6),
    ("other records for those held", lambda: OTHER.package(0, 8), 6, V.FORK, 6),
    ("others for the first of those held", lambda: OTHER.package(0, 5, head=8), 6, V.FORK, 6),
    ("another root at the held size", lambda: OTHER.package(6, 6, head=6), 6, V.FORK, 6),
    ("other records beyond", lambda: OTHER.package(6, 8), 6, V.FORK, 6),
    ("one byte of a record", more(6, 9, records=EDITED), 6, V.FORK, 6),
    ("a proof that leads elsewhere", more(0, 4, proof=(bytes(32),)), 0, V.BAD_PROOF, 0),
    ("no proof", more(0, 4, proof=()), 0, V.BAD_PROOF, 0),
    ("a head with an unproven root", more(0, 4, checkpoint=resealed(9)), 0, V.BAD_PROOF, 0),
    ("a head shorter than the push", more(6, 9, checkpoint=MORE.checkpoint(7)), 6, V.BAD_CHECKPOINT, 6),
    ("signed by another key", more(6, 9, checkpoint=HUBS_WORD), 6, V.BAD_CHECKPOINT, 6),
    ("another log's checkpoint", more(6, 9, checkpoint=OTHER_LOGS_WORD), 6, V.BAD_CHECKPOINT, 6),
    ("no note", more(6, 9, checkpoint="x"), 6, V.BAD_CHECKPOINT, 6),
    ("another epoch", more(6, 9, number=2), 6, V.MALFORMED, 6),
    ("an epoch below all", more(6, 9, number=-22), 6, V.MALFORMED, 6),
    ("an epoch beyond all", more(6, 9, number=2**63), 6, V.MALFORMED, 6),
    ("nothing at all", more(1, 1, old_size=0), 6, V.MALFORMED, 6),
    ("before the beginning", more(1, 2, old_size=-1), 6, V.MALFORMED, 6),
    ("too many records", more(6, 9, records=(b"{}",) * 257), 6, V.MALFORMED, 6),
    ("too many bytes", more(6, 9, records=TOO_MANY_BYTES), 6, V.MALFORMED, 6),
    ("one record too long", more(6, 9, records=TOO_LONG), 6, V.MALFORMED, 6),
    ("a record of another box", lambda: forged_place(box="branch-2"), 6, V.MALFORMED, 6),
    ("a record of another epoch", lambda: forged_place(epoch=2), 6, V.MALFORMED, 6),
    ("a record with another number", lambda: forged_place(seq=8), 6, V.MALFORMED, 6),
    ("a record without a place", lambda: forged_place(seq="six"), 6, V.MALFORMED, 6),
]


@pytest.mark.parametrize(
    ("make", "held", "verdict", "size"), [row[1:] for row in PUSHES], ids=[row[0] for row in PUSHES]
)
def test_a_push_that_is_not_the_true_continuation_moves_no_head(
    make: Callable[[], Any], held: int, verdict: PackageVerdict, size: int
) -> None:
    """One row per verdict and per reason for it; only ACCEPTED moves the head, to a prefix of the log."""
    judged = push(make(), reader_of(held))
    assert (judged.verdict, judged.head.size) == (verdict, size), judged.reason
    assert judged.head.root == (MORE.root(size) if size else b"")
    assert bool(judged.reason) == (verdict not in (V.ACCEPTED, V.DUPLICATE))
    if verdict is V.ACCEPTED:
        assert list(judged.records) == MORE.bodies[held:size]
        assert list(judged.leaves) == MORE.leaves[held:size]


def test_every_package_verdict_has_a_row() -> None:
    """No verdict is only written down."""
    assert {row[3] for row in PUSHES} == set(PackageVerdict)


def test_a_fork_keeps_the_other_signed_checkpoint_as_evidence() -> None:
    """Both signed heads are needed to show that the box signed two histories."""
    judged = push(OTHER.package(6, 8), reader_of(6))
    assert judged.checkpoint == journal.Checkpoint(OTHER.origin, 8, OTHER.root())


def test_directives_of_a_new_incarnation_start_again_and_an_old_one_is_a_fork() -> None:
    """A restored hub starts a new log; the log that it replaces is not taken any more."""
    reader = Reader()
    later = Author(HUB_KEY, number=2, field="incarnation")
    later.append("first", "second")
    for author, verdict in ((DIRECTIVES, V.ACCEPTED), (later, V.ACCEPTED), (DIRECTIVES, V.FORK)):
        package = author.package(0, len(author.bodies))
        judged = judge_package(package, reader.held(), bank=BANK, box=BOX, key=HUB_KEY.public)
        assert judged.verdict is verdict
        if verdict is V.ACCEPTED:
            reader.bodies, reader.leaves = [], []
            reader.keep(judged)
    assert reader.held().head == later.head()


def test_a_tampered_directive_is_refused() -> None:
    """A grant that the hub did not sign for is not applied, whoever carries it."""
    package = DIRECTIVES.package(0, 3)
    forged = replaced(package, records=(*package.records[:2], package.records[2].replace(b"three", b"3000 ")))
    judged = judge_package(forged, Reader().held(), bank=BANK, box=BOX, key=HUB_KEY.public)
    assert judged.verdict is V.FORK
    assert judged.head.size == 0


LOG = author_with(12)
PACKAGES = st.tuples(st.integers(0, 11), st.integers(1, 12), st.integers(1, 12))


@given(st.lists(PACKAGES, max_size=12))
def test_a_head_that_is_no_prefix_of_the_log(pushes: list[tuple[int, int, int]]) -> None:
    """However pushes are doubled, reordered or cut short: the hub's head is a prefix, and only grows."""
    reader = Reader()
    for start, end, head in pushes:
        stop = max(start, end)
        before = reader.frontier.size
        judged = push(LOG.package(start, stop, head=max(stop, head)), reader)
        assert judged.verdict in (V.ACCEPTED, V.DUPLICATE, V.GAP)
        if judged.verdict is V.ACCEPTED:
            reader.keep(judged)
        size = reader.frontier.size
        assert size >= before
        assert (size > before) == (start <= before < stop)
        assert reader.bodies == LOG.bodies[:size]
        assert reader.frontier.root() == LOG.root(size)


@given(st.integers(1, 70))
def test_a_frontier_from_nodes_that_differs_from_the_grown_one(size: int) -> None:
    """The right edge read from a tree's nodes is the one that appending gives, at every smaller size."""
    leaves = [journal.sm3(bytes([number])) for number in range(70)]
    grown = journal.Frontier()
    grown.extend(leaves[:size])
    assert frontier_at(size, journal.nodes_of(leaves)).to_bytes() == grown.to_bytes()


# --- modes


def test_a_mode_or_verdict_without_a_place_in_the_table() -> None:
    """The table is whole: every event in every mode, every verdict but the one that ends it an event."""
    assert set(TRANSITIONS) == set(Event)
    assert all(set(row) == set(Mode) for row in TRANSITIONS.values())
    assert set(VERDICT_EVENT) == set(Verdict) - {Verdict.LINK}
    assert set(Verdict) - {Verdict.LINK, Verdict.REOPEN, Verdict.VERSION} == CARRIES_ON


@pytest.mark.parametrize("mode", [Mode.BEHIND, Mode.FORKED, Mode.FENCED])
@pytest.mark.parametrize("event", sorted(Event))
def test_a_box_that_must_not_clear_clears_again_by_itself(mode: Mode, event: Event) -> None:
    """No event leads out of BEHIND, FORKED and FENCED; a new epoch begins with another line."""
    assert not next_mode(mode, event)[0].clears


def test_no_event_but_catching_up_makes_the_line_active() -> None:
    """ACTIVE means that the hub has everything."""
    for event in set(Event) - {Event.CAUGHT_UP, Event.OPENED}:
        for mode in Mode:
            assert next_mode(mode, event)[0] is not Mode.ACTIVE
    assert next_mode(Mode.OFFLINE, Event.OPENED)[0] is Mode.SYNCING
