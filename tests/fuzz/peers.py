"""Fuzz targets of what another machine sends: envelopes, messages, packages, notes, proofs, keys."""

from __future__ import annotations

from functools import partial
from typing import Final

import msgspec

from edgegw.access.keys import SigningKey, VerifyingKey
from edgegw.core import exchange, journal
from edgegw.core.journal import Checkpoint, Frontier, NoteError, ProofError, nodes_of
from edgegw.core.key_policy import KeyPolicy
from edgegw.core.messages import (
    Ask,
    Beat,
    Beaten,
    Direction,
    ExchangeError,
    LinkNote,
    LogHead,
    Open,
    Opened,
    Package,
    PackageVerdict,
    Verdict,
    decode_message,
    encode_message,
    open_envelope,
    open_link,
    read_envelope,
    seal_envelope,
    sign_link,
)
from edgegw.core.records import Mode
from edgegw.sm.sm2 import PrivateKey
from tests.core.authors import BANK, BOX, Author
from tests.fuzz.target import Target

KEY: Final = SigningKey("fuzz", PrivateKey.generate())
OTHER: Final = SigningKey("other", PrivateKey.generate())
SIZE, HELD = 9, 6


class Credulous:
    """A verifying key that believes everything, so that what lies behind a signature is reached."""

    name: Final = KEY.name
    key_id: Final = KEY.key_id

    def verify(self, message: bytes, signature: bytes, /) -> bool:
        """Yes."""
        return len(message) + len(signature) >= 0


def author(number: int = 1, field: str = "epoch") -> Author:
    """A log of a few records, signed."""
    made = Author(KEY, number=number, field=field)
    made.append(*(f"record {seq}" for seq in range(SIZE)))
    return made


LOG, DIRECTIVES = author(), author(field="incarnation")


# --- messages -----------------------------------------------------------------------------------------------


def messages() -> list[bytes]:
    """One of each kind, with everything in it."""
    head = LogHead(1, 3, bytes(32))
    package = LOG.package(0, 3)
    opening = Open(
        version=1,
        version_oldest=1,
        bank=BANK,
        box=BOX,
        boot="b",
        epoch=1,
        key=KEY.public.text(),
        mode=Mode.ACTIVE,
        journals=(head,),
        cosignature=LOG.checkpoint(),
        directives=head,
        link="l",
    )
    beat = Beat(
        directives=head,
        push=package,
        asks=(Ask("1-b-1", "anna", "CNY", 5, 500),),
        pull=head,
        handed_back=package,
    )
    opened = Opened(version=1, verdict=Verdict.OK, session=bytes(16), journals=(head,), closed=(head,))
    beaten = Beaten(push=PackageVerdict.ACCEPTED, journal=head, directives=package, pulled=package)
    return [encode_message(one) for one in (opening, opened, beat, beaten)]


def message(data: bytes) -> None:
    """A message means the same when it is sent on."""
    decoded = decode_message(data)
    assert decode_message(encode_message(decoded)) == decoded


def envelopes() -> list[bytes]:
    """Every message in its envelope."""
    return [
        seal_envelope(
            KEY.sign,
            decode_message(body),
            direction=Direction.TO_HUB,
            bank=BANK,
            box=BOX,
            session=bytes(16),
            counter=1,
        )
        for body in messages()
    ]


def envelope(data: bytes) -> None:
    """The signature is believed: what is inside must still be refused in order."""
    open_envelope(Credulous().verify, read_envelope(data), direction=Direction.TO_HUB)


# --- packages -----------------------------------------------------------------------------------------------

_packages: Final = msgspec.msgpack.Decoder(Package)


def packages() -> list[bytes]:
    """Parts of both logs, true ones."""
    pairs = ((0, 3), (0, 9), (6, 9), (3, 8), (6, 6), (2, 5))
    return [msgspec.msgpack.encode(log.package(*pair)) for log in (LOG, DIRECTIVES) for pair in pairs]


def held(log: Author) -> exchange.HeldLog:
    """What the reader holds of a log."""
    frontier = Frontier()
    frontier.extend(log.leaves[:HELD])
    return exchange.HeldLog(1, frontier, log.leaves.__getitem__, log.root)


def package(data: bytes) -> None:
    """Whoever signs for it: what is accepted continues what is held, to the root that the records give."""
    try:
        decoded = _packages.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
        raise ExchangeError(str(problem)) from None
    believing = KeyPolicy(bank=BANK, box=BOX, epoch=1, first="", parse=lambda _: Credulous())
    pushed = partial(exchange.judge_push, keys=believing)
    directed = partial(exchange.judge_package, key=Credulous())
    for judge, log in ((pushed, LOG), (directed, DIRECTIVES)):
        reader = held(log)
        judged = judge(decoded, reader, bank=BANK, box=BOX)
        if judged.verdict is not PackageVerdict.ACCEPTED:
            assert not judged.records
            assert judged.head.number == decoded.number or judged.head == reader.head
            continue
        whole = [*log.bodies[:HELD], *judged.records] if decoded.number == 1 else [*judged.records]
        frontier = Frontier()
        frontier.extend(journal.chain(journal.FIRST_PREVIOUS, whole))
        assert (judged.head.size, judged.head.root) == (len(whole), frontier.root())


# --- notes and proofs ---------------------------------------------------------------------------------------


def notes() -> list[bytes]:
    """A checkpoint, a cosigned one, one by two."""
    checkpoint = Checkpoint(LOG.origin, SIZE, LOG.root())
    signed, cosigned = KEY.seal(checkpoint.body()), KEY.cosign(checkpoint, time_s=1_800_000_000)
    both = journal.add_signature(signed, journal.parse_note(OTHER.seal(checkpoint.body()))[1][0])
    return [note.encode() for note in (signed, cosigned, both)]


def link_note() -> str:
    """The hub's word for an epoch."""
    link = LinkNote(
        bank=BANK, box=BOX, epoch=2, key=KEY.public.text(), old_epoch=1, old_size=9, old_root="00" * 32
    )
    return sign_link(link, KEY)


def note(data: bytes) -> None:
    """A note says the same when it is put together again; cosignatures are read whoever made them."""
    body, lines = journal.parse_note(data)
    assert (body + "\n" + "".join(line.text() for line in lines)).encode() == data
    checkpoint, _ = journal.parse_checkpoint(data)
    assert checkpoint.body().decode() == body
    key = Credulous()
    assert journal.open_note(data, name=key.name, key_id=key.key_id, verify=key.verify) == checkpoint
    journal.check_cosignature(data, name=key.name, key_id=key.key_id, verify=key.verify)


def link(data: bytes) -> None:
    """A link says the same when it is signed again."""
    try:
        opened = open_link(data.decode("utf-8", "surrogateescape"), Credulous())
    except UnicodeEncodeError:
        raise ExchangeError("not a text") from None
    assert open_link(sign_link(opened, KEY), Credulous()) == opened


class Proof(msgspec.Struct, array_like=True):
    """A claim and its proof, as a peer would send them."""

    index: int
    size: int
    leaf: bytes
    root: bytes
    proof: tuple[bytes, ...]


_proofs: Final = msgspec.msgpack.Decoder(Proof)
NODES: Final = nodes_of(LOG.leaves)


def proofs() -> list[bytes]:
    """True proofs of inclusion and of consistency."""
    included = [
        Proof(i, SIZE, LOG.leaves[i], LOG.root(), tuple(journal.inclusion_proof(i, SIZE, NODES)))
        for i in range(SIZE)
    ]
    consistent = [
        Proof(i, SIZE, LOG.root(i), LOG.root(), tuple(journal.consistency_proof(i, SIZE, NODES)))
        for i in range(1, SIZE + 1)
    ]
    return [msgspec.msgpack.encode(one) for one in (*included, *consistent)]


def proof(data: bytes) -> None:
    """Nothing but what is in the tree is proved to be in it, and nothing but its past to be that."""
    try:
        one = _proofs.decode(data)
    except (msgspec.MsgspecError, RecursionError) as problem:
        raise ProofError(str(problem)) from None
    refused = []
    for verify in (_included, _consistent):
        try:
            verify(one)
        except ProofError as problem:
            refused.append(problem)
    if len(refused) == 2:
        raise refused[0]


def _included(one: Proof) -> None:
    journal.verify_inclusion(one.index, one.size, one.leaf, one.root, one.proof)
    assert (one.size, one.root) != (SIZE, LOG.root()) or LOG.leaves[one.index] == one.leaf


def _consistent(one: Proof) -> None:
    journal.verify_consistency(one.index, one.size, one.leaf, one.root, one.proof)
    assert (one.size, one.root) != (SIZE, LOG.root()) or LOG.root(one.index) == one.leaf


def frontier(data: bytes) -> None:
    """A frontier is the bytes that it was read from."""
    assert Frontier.from_bytes(data).to_bytes() == data


def frontiers() -> list[bytes]:
    """Of logs of several sizes."""
    made = []
    for size in (0, 1, 7, SIZE):
        one = Frontier()
        one.extend(LOG.leaves[:size])
        made.append(one.to_bytes())
    return made


def key_text(data: bytes) -> None:
    """A pinned key has one text."""
    text = data.decode("utf-8", "surrogateescape")
    assert VerifyingKey.parse(text).text() == text


TARGETS: Final = (
    Target("message", message, (ExchangeError,), messages),
    Target("envelope", envelope, (ExchangeError,), envelopes),
    Target("package", package, (ExchangeError,), packages),
    Target("note", note, (NoteError,), notes),
    Target("link", link, (ExchangeError,), lambda: [link_note().encode()]),
    Target("proof", proof, (ProofError,), proofs),
    Target("frontier", frontier, (ValueError,), frontiers),
    Target("key-text", key_text, (ValueError,), lambda: [KEY.public.text().encode()]),
)
