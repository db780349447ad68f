"""What box and hub say to each other, and what each makes of it: one file, one set of tables, run by both
sides (DESIGN §4).

Owns the messages and their bytes, the signed envelope, and the pure functions that judge an opening, a
package of records and a replayed message, and the table of the line's modes. Leaves out sockets, clocks,
random numbers and SQL: `uplink` and `hub` bring them, and the keys come in as callables.

On the wire: HTTP POST to EXCHANGE_PATH, the body one `Envelope` as msgpack. Messages are msgpack maps by
field name, so that a side may add a field with a default and an older peer ignores it; what cannot be ignored
raises VERSION. In order: `Open` -> `Opened`, then any number of `Beat` -> `Beaten`. The box speaks first,
always. Both logs travel in the same `Package`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from edgegw.core import journal
from edgegw.core.records import Mode

VERSION: Final = 1
"""The newest wire version that this code speaks."""
VERSION_OLDEST: Final = 1
EXCHANGE_PATH: Final = "/exchange"
SITE_PATH: Final = "/exchange/site/"
"""GET, followed by the bundle's digest in hex; the digest in the signed directive is the authority."""

PACKAGE_RECORDS_MAX: Final = 256
PACKAGE_BYTES_MAX: Final = 1 << 20
"""A package is filled up to here; a single record may be longer and then goes alone."""
RECORD_BYTES_MAX: Final = 4 << 20
ASKS_MAX: Final = 256
MESSAGE_BYTES_MAX: Final = PACKAGE_BYTES_MAX + RECORD_BYTES_MAX
"""A side reads no further than this, after decompression."""
SITE_BYTES_MAX: Final = 64 << 20
SESSION_BYTES: Final = 16

_ENVELOPE_LABEL: Final = b"edgegw/exchange/v1\n"
_LINK_LABEL: Final = "edgegw/link/v1\n"


class ExchangeError(ValueError):
    """The peer's bytes are not what they must be; the text says what is wrong. Nothing of the message
    was used."""


class SigningKey(Protocol):
    """A key of our own: SM2, 64 bytes r and s."""

    @property
    def name(self) -> str: ...
    @property
    def key_id(self) -> bytes: ...
    def sign(self, message: bytes, /) -> bytes: ...


class VerifyingKey(Protocol):
    """The other side's pinned public key."""

    @property
    def name(self) -> str: ...
    @property
    def key_id(self) -> bytes: ...
    def verify(self, message: bytes, signature: bytes, /) -> bool: ...


# --- messages -----------------------------------------------------------------------------------------------


class LogHead(msgspec.Struct, frozen=True):
    """How far a side holds a log. `number` is a journal's epoch or the directives' incarnation; size 0
    has an empty root."""

    number: int
    size: int = 0
    root: bytes = b""


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """Consecutive records of one log, with what proves that its author signed a log that continues them.

    `records` are leaves old_size, old_size + 1, ...; `root` is the author's root right after the last of
    them; `checkpoint` is the author's signed note for its head, at least that long; `proof` is the
    consistency proof from there to the head. Without records it only shows a newer head.
    """

    number: int
    old_size: int
    records: tuple[bytes, ...]
    root: bytes
    checkpoint: str
    proof: tuple[bytes, ...]

    @property
    def size(self) -> int:
        """The size of the log right after the last record."""
        return self.old_size + len(self.records)


class Ask(msgspec.Struct, frozen=True):
    """A wish for a grant of at least amount_minor, under an id of the box's own: `epoch-boot-number`.
    Repeated until answered."""

    request_id: str
    account_id: str
    currency: str
    amount_minor: int


class Open(msgspec.Struct, frozen=True, kw_only=True, tag="open"):
    """The box opens a session. Its envelope carries a fresh nonce as the session and counter 0."""

    version: int
    version_oldest: int
    bank: str
    box: str
    boot: str
    """Minted once per process; one boot lives per epoch."""
    epoch: int
    """0: none yet."""
    key: str
    """The checkpoint key of this epoch (or of the one asked for) as its one-line text."""
    mode: Mode
    journals: tuple[LogHead, ...] = ()
    """The box's own heads, one per epoch that it holds, oldest first."""
    cosignature: str = ""
    """The hub's last cosigned note for `epoch`: proof of what the hub once held."""
    directives: LogHead = LogHead(0)
    directives_note: str = ""
    """The hub's own signed checkpoint of them."""


class Verdict(enum.StrEnum):
    """What the hub makes of an opening, and of a session later on."""

    OK = "ok"
    LINK = "link"
    """Here is your epoch, as a hub-signed link; journal it first of all and open again."""
    BEHIND = "behind"
    """You are behind your own past: clear nothing until you have a new epoch."""
    FORKED = "forked"
    """You signed two histories; both are kept."""
    FENCED = "fenced"
    """A later epoch, or another boot, has your place. What you wrote is still taken."""
    HUB_BEHIND = "hub_behind"
    """The hub has lost what it once cosigned or directed: push it back; it grants nothing meanwhile."""
    REOPEN = "reopen"
    """This session is not known (any more)."""
    VERSION = "version"
    """No common wire version."""


class Opened(msgspec.Struct, frozen=True, kw_only=True, tag="opened"):
    """The hub's answer to Open; its envelope carries the box's nonce and counter 0."""

    version: int
    verdict: Verdict
    reason: str = ""
    session: bytes = b""
    """16 random bytes of the hub's own, signed over in every later message; a replayed Open is worth
    nothing."""
    link: str = ""
    """With LINK: a `LinkNote`."""
    journals: tuple[LogHead, ...] = ()
    """What the hub holds, for each epoch that it has issued to this box and has not sealed."""
    directives: LogHead = LogHead(0)
    """What the hub has for the box."""


class Beat(msgspec.Struct, frozen=True, kw_only=True, tag="beat"):
    """The one message of an open session: what the hub lacks, what the box wants, how far it is.
    Counter 1, 2, 3, ..."""

    directives: LogHead
    """How far the box has applied them."""
    push: Package | None = None
    asks: tuple[Ask, ...] = ()
    abandoned: tuple[str, ...] = ()
    """Request ids that nobody waits for any more; a grant for one is handed back."""
    directives_cosignature: str = ""
    """The box's cosigned note over `directives`; once per change."""
    mode: Mode = Mode.ACTIVE
    waiting: int = 0
    """Records that the box has and the hub, as far as the box knows, has not."""


class PackageVerdict(enum.StrEnum):
    """What the reader of a log makes of a package."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    GAP = "gap"
    FORK = "fork"
    BAD_PROOF = "bad_proof"
    BAD_CHECKPOINT = "bad_checkpoint"
    MALFORMED = "malformed"


class Beaten(msgspec.Struct, frozen=True, kw_only=True, tag="beaten"):
    """The hub's answer to Beat; its envelope repeats session and counter."""

    verdict: Verdict = Verdict.OK
    reason: str = ""
    push: PackageVerdict | None = None
    push_reason: str = ""
    journal: LogHead | None = None
    """What the hub holds of the pushed epoch now, whatever it made of the push."""
    cosignature: str = ""
    """The hub's cosigned note over `journal`, after its COMMIT."""
    directives: Package | None = None
    more: bool = False
    """There are more directives than went into this package."""


Message = Open | Opened | Beat | Beaten

_encoder = msgspec.msgpack.Encoder()
_message_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode_message(message: Message) -> bytes:
    """The bytes of a message (msgpack, a map with `type`)."""
    return _encoder.encode(message)


def decode_message(body: bytes) -> Message:
    """A message from its bytes; raises ExchangeError that names the field."""
    try:
        return _message_decoder.decode(body)
    except msgspec.MsgspecError as problem:
        raise ExchangeError(f"no message of the exchange: {problem}") from None


# --- envelopes and sessions ---------------------------------------------------------------------------------


class Direction(enum.StrEnum):
    """Who speaks; signed over, so that no message can be turned round."""

    TO_HUB = "to_hub"
    TO_BOX = "to_box"


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """A message, signed. bank and box say whose session it is, in both directions: the hub finds the
    pinned key by them."""

    bank: str
    box: str
    session: bytes
    counter: int
    body: bytes
    signature: bytes


_envelope_decoder: msgspec.msgpack.Decoder[Envelope] = msgspec.msgpack.Decoder(Envelope)


def seal_envelope(
    sign: Callable[[bytes], bytes],
    message: Message,
    *,
    direction: Direction,
    bank: str,
    box: str,
    session: bytes,
    counter: int,
) -> bytes:
    """The bytes to send: the message in a signed envelope."""
    body = encode_message(message)
    signature = sign(_signed_text(direction, bank, box, session, counter, body))
    return _encoder.encode(
        Envelope(bank=bank, box=box, session=session, counter=counter, body=body, signature=signature)
    )


def read_envelope(data: bytes) -> Envelope:
    """An envelope whose signature is not checked yet: the hub needs bank and box to find the key.
    Raises ExchangeError."""
    if len(data) > MESSAGE_BYTES_MAX:
        raise ExchangeError(f"a message of {len(data)} bytes; {MESSAGE_BYTES_MAX} at most")
    try:
        envelope = _envelope_decoder.decode(data)
    except msgspec.MsgspecError as problem:
        raise ExchangeError(f"no envelope of the exchange: {problem}") from None
    if len(envelope.session) != SESSION_BYTES:
        raise ExchangeError(f"the session has {len(envelope.session)} bytes, not {SESSION_BYTES}")
    if not 0 <= envelope.counter < 2**63:
        raise ExchangeError(f"counter {envelope.counter} is not within 0 to 2**63 - 1")
    return envelope


def open_envelope(
    verify: Callable[[bytes, bytes], bool], envelope: Envelope, *, direction: Direction
) -> Message:
    """The message of an envelope that the peer's pinned key has signed for this direction; raises
    ExchangeError."""
    text = _signed_text(
        direction, envelope.bank, envelope.box, envelope.session, envelope.counter, envelope.body
    )
    if not verify(text, envelope.signature):
        raise ExchangeError(f"the envelope of {envelope.bank}/{envelope.box} is not signed by the pinned key")
    return decode_message(envelope.body)


def open_reply(
    verify: Callable[[bytes, bytes], bool],
    data: bytes,
    *,
    bank: str,
    box: str,
    session: bytes,
    counter: int,
) -> Message:
    """The hub's answer to exactly the message with this session and counter; raises ExchangeError for
    any other."""
    envelope = read_envelope(data)
    place = (envelope.bank, envelope.box, envelope.session, envelope.counter)
    if place != (bank, box, session, counter):
        raise ExchangeError(
            f"an answer to another message: {envelope.bank}/{envelope.box} counter {envelope.counter}, not
            {counter}" ) return open_envelope(verify, envelope, direction=Direction.TO_BOX)


def _signed_text(
    direction: Direction, bank: str, box: str, session: bytes, counter: int, body: bytes
) -> bytes:
    """Label, direction, bank and box a line each (neither can hold a newline: a JSON string), then
    fixed widths, then the body."""
    names = msgspec.json.encode((direction.value, bank, box)) + b"\n"
    return (
        _ENVELOPE_LABEL
        + names
        + len(session).to_bytes(1, "big")
        + session
        + counter.to_bytes(8, "big")
        + body
    )


class Session(msgspec.Struct, frozen=True):
    """What the hub remembers of a box's session, in the box's row."""

    session: bytes = b""
    counter: int = 0
    candidate: bytes = b""
    """Opened, but not used yet. It takes over with its first beat, so that a replayed Open displaces
    nobody."""


def judge_message(held: Session, *, session: bytes, counter: int) -> Session | None:
    """The session to remember for an authentic beat with this session and counter, or None: replayed, or not
    known (REOPEN).

    Within a session the counter must rise; gaps are messages that were lost.
    """
    if not session or counter < 1:
        return None
    if session == held.session:
        return Session(session, counter, held.candidate) if counter > held.counter else None
    if session == held.candidate:
        return Session(session, counter)
    return None


def choose_version(*, oldest: int, newest: int) -> int:
    """The newest wire version that both sides speak; 0 when there is none."""
    common = min(newest, VERSION)
    return common if common >= max(oldest, VERSION_OLDEST) else 0


# --- the link of an epoch -----------------------------------------------------------------------------------


class LinkNote(msgspec.Struct, frozen=True, kw_only=True):
    """The hub's word that this epoch is this box's, from a boot with this checkpoint key, after the old
    epoch as the hub holds it."""

    bank: str
    box: str
    epoch: int
    key: str
    old_epoch: int
    """0: there was none."""
    old_size: int
    old_root: str
    """Hex; empty when old_size is 0."""


_link_decoder: msgspec.json.Decoder[LinkNote] = msgspec.json.Decoder(LinkNote)


def sign_link(link: LinkNote, key: SigningKey) -> str:
    """The link as a signed note: the line `edgegw/link/v1`, one line of JSON, a blank line, the hub's
    signature line."""
    body = _LINK_LABEL.encode() + msgspec.json.encode(link) + b"\n"
    return journal.sign_note(body, name=key.name, key_id=key.key_id, sign=key.sign)


def open_link(note: str, key: VerifyingKey) -> LinkNote:
    """The link of a note that the hub's key has signed; raises ExchangeError."""
    try:
        body, lines = journal.parse_note(note)
        mine = [line for line in lines if line.name == key.name and line.key_id == key.key_id]
        if len(mine) != 1 or not key.verify(body.encode(), mine[0].signature):
            raise ExchangeError(f"the link is not signed by {key.name}")
        if not body.startswith(_LINK_LABEL):
            raise ExchangeError("the note is no link")
        return _link_decoder.decode(body[len(_LINK_LABEL) :])
    except (journal.NoteError, msgspec.MsgspecError) as problem:
        raise ExchangeError(f"no link: {problem}") from None


# --- judging an opening (the hub) ---------------------------------------------------------------------------


class HubView(NamedTuple):
    """What the hub holds about a box when it opens."""

    epoch: int
    """The newest that was issued; 0 for none."""
    key: str
    """That epoch's checkpoint key."""
    journal: LogHead
    """What is held of that epoch."""
    journal_root_at: Callable[[int], bytes | None]
    """Its root at a smaller size; None where it is not kept."""
    directives: LogHead
    directives_root_at: Callable[[int], bytes | None]
    forked: bool = False
    """Quarantined: two histories of this epoch are kept."""
    superseded: bool = False
    """This boot had its place in this epoch and another boot took it since."""
    release: bool = False
    """An operator has released a new epoch for this box."""


class Judgement(NamedTuple):
    """A verdict and, unless it is OK, why, in words for an operator."""

    verdict: Verdict
    reason: str = ""


def judge_open(message: Open, view: HubView, *, hub_key: VerifyingKey) -> Judgement:
    """What the hub answers to an authentic Open; the first that holds, in this order:

    version; link (a released or a first epoch, or the same link again when its answer was lost); forked;
    fenced; behind or hub_behind by epoch; forked or behind by the journal; hub_behind by a cosignature or
    directives that the hub itself has signed; behind because the box says so (its lineage token did not fit);
    ok.

    On LINK the hub issues view.epoch + 1, unless `same_link` says that the one already issued is to be
    repeated.
    """
    if not choose_version(oldest=message.version_oldest, newest=message.version):
        return Judgement(Verdict.VERSION, f"the hub speaks wire versions {VERSION_OLDEST} to {VERSION}")
    if view.release:
        return Judgement(Verdict.LINK, "an operator has released a new epoch")
    if message.epoch == 0:
        return _judge_without_epoch(message, view)
    if view.forked:
        return Judgement(Verdict.FORKED, f"two histories of epoch {view.epoch} are kept")
    if message.epoch < view.epoch:
        return Judgement(Verdict.FENCED, f"epoch {view.epoch} has followed epoch {message.epoch}")
    if view.superseded:
        return Judgement(Verdict.FENCED, f"another boot has taken the place of boot {message.boot}")
    if message.epoch > view.epoch:
        return Judgement(Verdict.HUB_BEHIND, f"epoch {message.epoch} is not known here, only {view.epoch}")
    return _judge_journal(message, view) or _judge_hub(message, view, hub_key) or _judge_lineage(message)


def same_link(message: Open, view: HubView) -> bool:
    """Whether the epoch already issued is this opening's own: nothing of it was held yet and the key is
    the same."""
    return view.epoch > 0 and view.journal.size == 0 and message.key == view.key and not view.release


def _judge_without_epoch(message: Open, view: HubView) -> Judgement:
    """Nothing was directed at an epoch before its link record is held, so an unused one may be given
    again or passed over."""
    if view.epoch == 0 or view.journal.size == 0:
        return Judgement(Verdict.LINK, "the first contact" if view.epoch == 0 else "its link was never used")
    return Judgement(
        Verdict.BEHIND, f"boot {message.boot} has no journal, but {view.journal.size} records of epoch
        {view.epoch} are held here", )


def _judge_journal(message: Open, view: HubView) -> Judgement | None:
    """Compare the box's head of the live epoch with what is held: shorter or different is the box's fault."""
    held = view.journal
    mine = next((head for head in message.journals if head.number == message.epoch), LogHead(message.epoch))
    if mine.size > held.size:
        return None
    root = held.root if mine.size == held.size else view.journal_root_at(mine.size) if mine.size else b""
    if root is not None and root != mine.root:
        return Judgement(Verdict.FORKED, f"another root at size {mine.size} of epoch {message.epoch}")
    if mine.size < held.size:
        return Judgement(
            Verdict.BEHIND,
            f"{held.size} records of epoch {message.epoch} are held here; the box has {mine.size}",
        )
    return None


def _judge_hub(message: Open, view: HubView, hub_key: VerifyingKey) -> Judgement | None:
    """Has the hub itself signed for more than it holds? A note that it did not sign counts for nothing."""
    cosigned = _cosigned(message.cosignature, hub_key)
    if cosigned is not None and cosigned.size > view.journal.size:
        return Judgement(
            Verdict.HUB_BEHIND, f"the hub cosigned {cosigned.size} records and holds {view.journal.size}"
        )
    theirs, own = message.directives, view.directives
    if (theirs.number, theirs.size) > (own.number, own.size):
        signed = _signed_checkpoint(message.directives_note, hub_key)
        if signed is not None and signed.size >= theirs.size:
            return Judgement(
                Verdict.HUB_BEHIND,
                f"the box holds {theirs.size} directives of the hub's, which has {own.size}",
            )
    if theirs.number == own.number and 0 < theirs.size <= own.size:
        root = own.root if theirs.size == own.size else view.directives_root_at(theirs.size)
        if root is not None and root != theirs.root:
            return Judgement(Verdict.HUB_BEHIND, f"the box holds other directives up to {theirs.size}")
    return None


def _judge_lineage(message: Open) -> Judgement:
    if message.mode is Mode.BEHIND:
        return Judgement(Verdict.BEHIND, "the box does not trust its own disk and waits for a new epoch")
    return Judgement(Verdict.OK)


def _cosigned(note: str, key: VerifyingKey) -> journal.Checkpoint | None:
    if not note:
        return None
    try:
        return journal.check_cosignature(note, name=key.name, key_id=key.key_id, verify=key.verify).checkpoint
    except journal.NoteError:
        return None


def _signed_checkpoint(note: str, key: VerifyingKey) -> journal.Checkpoint | None:
    if not note:
        return None
    try:
        return journal.open_note(note, name=key.name, key_id=key.key_id, verify=key.verify)
    except journal.NoteError:
        return None


# --- judging a package (both sides) -------------------------------------------------------------------------


class HeldLog(NamedTuple):
    """What the reader of a log holds of it. An empty frontier and no leaves is a log not begun."""

    number: int
    frontier: journal.Frontier
    leaf_at: Callable[[int], bytes]
    """The leaf of a record that is held; as it chains, it stands for all before it."""
    root_at: Callable[[int], bytes | None] = lambda _size: None
    """The root at a smaller size; None where it is not kept."""

    @property
    def head(self) -> LogHead:
        """Number, size and root."""
        size = self.frontier.size
        return LogHead(self.number, size, self.frontier.root() if size else b"")


class PackageJudgement(NamedTuple):
    """The verdict; with ACCEPTED also what is new, and the log after it. `head` is what the reader
    holds then."""

    verdict: PackageVerdict
    head: LogHead
    reason: str = ""
    records: tuple[bytes, ...] = ()
    """Those not held before, in order; the first is number head.size - len(records)."""
    leaves: tuple[bytes, ...] = ()
    frontier: journal.Frontier | None = None
    checkpoint: journal.Checkpoint | None = None
    """The author's signed head, where its signature held: evidence of a fork too."""


def judge_push(
    package: Package, held: HeldLog, *, bank: str, box: str, key: VerifyingKey
) -> PackageJudgement:
    """What the hub makes of a push of a box's journal; held.number is the epoch, key that epoch's
    checkpoint key."""
    origin = journal.journal_origin(bank=bank, box=box, epoch=package.number)
    if package.number != held.number:
        return _refuse(held, PackageVerdict.MALFORMED, f"epoch {package.number} against epoch {held.number}")
    return _judge(package, held, origin=origin, number_field="epoch", bank=bank, box=box, key=key)


def judge_package(
    package: Package, held: HeldLog, *, bank: str, box: str, key: VerifyingKey
) -> PackageJudgement:
    """What the box makes of a package of directives; held.number is the incarnation, key the hub's.

    A later incarnation starts a log of its own from 0; an earlier one is a fork of the hub.
    """
    origin = journal.directives_origin(bank=bank, box=box, incarnation=package.number)
    if package.number < held.number:
        return _refuse(held, PackageVerdict.FORK, f"incarnation {package.number} after {held.number}")
    if package.number > held.number:
        held = HeldLog(package.number, journal.Frontier(), _no_leaf)
    return _judge(package, held, origin=origin, number_field="incarnation", bank=bank, box=box, key=key)


def _no_leaf(index: int) -> bytes:
    raise ExchangeError(f"no leaf {index} in an empty log")


def _refuse(
    held: HeldLog,
    verdict: PackageVerdict,
    reason: str,
    checkpoint: journal.Checkpoint | None = None,
) -> PackageJudgement:
    return PackageJudgement(verdict, held.head, reason, checkpoint=checkpoint)


def _judge(
    package: Package,
    held: HeldLog,
    *,
    origin: str,
    number_field: str,
    bank: str,
    box: str,
    key: VerifyingKey,
) -> PackageJudgement:
    """The one order in which a package is checked: shape, signature, place, sameness of what is held,
    proof."""
    fault = _shape_fault(package)
    if fault:
        return _refuse(held, PackageVerdict.MALFORMED, fault)
    try:
        checkpoint = journal.open_note(
            package.checkpoint, name=key.name, key_id=key.key_id, verify=key.verify
        )
    except journal.NoteError as problem:
        return _refuse(held, PackageVerdict.BAD_CHECKPOINT, str(problem))
    if checkpoint.origin != origin:
        return _refuse(held, PackageVerdict.BAD_CHECKPOINT, f"origin {checkpoint.origin}, not {origin}")
    if checkpoint.size < package.size:
        return _refuse(
            held, PackageVerdict.BAD_CHECKPOINT, f"signed up to {checkpoint.size}, sent up to {package.size}"
        )
    size = held.frontier.size
    if package.old_size > size:
        return _refuse(held, PackageVerdict.GAP, f"starts at {package.old_size}; {size} are held", checkpoint)
    fault = _overlap_fault(package, held) or _signed_head_fault(checkpoint, held)
    if fault:
        return _refuse(held, PackageVerdict.FORK, fault, checkpoint)
    if package.size < size or (package.size == size and checkpoint.size == size):
        return _refuse(held, PackageVerdict.DUPLICATE, "", checkpoint)
    fresh = package.records[size - package.old_size :]
    fault = _place_fault(fresh, start=size, field=number_field, number=package.number, bank=bank, box=box)
    if fault:
        return _refuse(held, PackageVerdict.MALFORMED, fault, checkpoint)
    return _judge_proof(package, held, checkpoint, fresh)


def _shape_fault(package: Package) -> str:
    if package.old_size < 0 or package.size == 0:
        return f"from {package.old_size}, {len(package.records)} records: nothing"
    if len(package.records) > PACKAGE_RECORDS_MAX:
        return f"{len(package.records)} records; {PACKAGE_RECORDS_MAX} at most"
    if len(package.records) > 1 and sum(map(len, package.records)) > PACKAGE_BYTES_MAX:
        return f"more than {PACKAGE_BYTES_MAX} bytes of records"
    if any(len(record) > RECORD_BYTES_MAX for record in package.records):
        return f"a record of more than {RECORD_BYTES_MAX} bytes"
    return ""


def _overlap_fault(package: Package, held: HeldLog) -> str:
    """Records that are held already must be the same: the last one's leaf says so for all before it."""
    overlap = min(package.size, held.frontier.size) - package.old_size
    if overlap <= 0:
        return ""
    previous = held.leaf_at(package.old_size - 1) if package.old_size else journal.FIRST_PREVIOUS
    leaves = journal.chain(previous, package.records[:overlap])
    last = package.old_size + overlap - 1
    return "" if leaves[-1] == held.leaf_at(last) else f"another record at or before {last}"


def _signed_head_fault(checkpoint: journal.Checkpoint, held: HeldLog) -> str:
    """A signed head no longer than what is held must be one of its roots."""
    size = held.frontier.size
    if checkpoint.size > size or not checkpoint.size:
        return ""
    root = held.frontier.root() if checkpoint.size == size else held.root_at(checkpoint.size)
    return "" if root is None or root == checkpoint.root else f"another root signed at size {checkpoint.size}"


class _Place(msgspec.Struct):
    """What a record and a directive say about their own place; all else is for whoever replays them."""

    bank: str
    box: str
    seq: int
    epoch: int = -1
    incarnation: int = -1


_place_decoder: msgspec.json.Decoder[_Place] = msgspec.json.Decoder(_Place)


def _place_fault(
    records: Sequence[bytes], *, start: int, field: str, number: int, bank: str, box: str
) -> str:
    for seq, record in enumerate(records, start):
        try:
            place = _place_decoder.decode(record)
        except msgspec.MsgspecError as problem:
            return f"record {seq}: {problem}"
        says = place.epoch if field == "epoch" else place.incarnation
        if (place.bank, place.box, says, place.seq) != (bank, box, number, seq):
            return f"record {seq} says {place.bank}/{place.box} {field} {says} seq {place.seq}"
    return ""


def _judge_proof(
    package: Package, held: HeldLog, checkpoint: journal.Checkpoint, fresh: tuple[bytes, ...]
) -> PackageJudgement:
    """The author's own root must lead to its signed head, and must be the one that these records give
    here."""
    try:
        journal.verify_consistency(
            package.size, checkpoint.size, package.root, checkpoint.root, package.proof
        )
    except journal.ProofError as problem:
        return _refuse(held, PackageVerdict.BAD_PROOF, str(problem), checkpoint)
    size = held.frontier.size
    previous = held.leaf_at(size - 1) if size else journal.FIRST_PREVIOUS
    leaves = journal.chain(previous, fresh)
    frontier = held.frontier.copy()
    frontier.extend(leaves)
    root = frontier.root()
    if root != package.root:
        return _refuse(
            held, PackageVerdict.FORK, f"the records give another root at size {package.size}", checkpoint
        )
    return PackageJudgement(
        PackageVerdict.ACCEPTED,
        LogHead(package.number, package.size, root),
        records=fresh,
        leaves=tuple(leaves),
        frontier=frontier,
        checkpoint=checkpoint,
    )


def root_at(size: int, node: journal.Node) -> bytes:
    """The root of the first `size` leaves (more than 0), from the complete subtrees of a tree at least
    that large."""
    peaks, start = [], 0
    while start < size:
        level = (size - start).bit_length() - 1
        peaks.append(node(level, start >> level))
        start += 1 << level
    return journal.Frontier.from_bytes(size.to_bytes(8, "big") + b"".join(peaks)).root()


# --- the line's modes (the box) -----------------------------------------------------------------------------


class Event(enum.StrEnum):
    """What can happen to the line; its value is the reason that the mode's record names."""

    STARTED = "started"
    LINE_LOST = "line_lost"
    OPENED = "opened"
    CAUGHT_UP = "caught_up"
    HUB_BEHIND = "hub_behind"
    LINKED = "linked"
    FOUND_BEHIND = "found_behind"
    FOUND_FORKED = "found_forked"
    FOUND_FENCED = "found_fenced"
    RECORD_EDITED = "record_edited"


_A, _O, _S = Mode.ACTIVE, Mode.OFFLINE, Mode.SYNCING
_B, _K, _F = Mode.BEHIND, Mode.FORKED, Mode.FENCED

TRANSITIONS: Final[dict[Event, dict[Mode, Mode]]] = {
    #                     ACTIVE   OFFLINE  SYNCING  BEHIND   FORKED   FENCED
    Event.STARTED: {_A: _O, _O: _O, _S: _O, _B: _B, _K: _K, _F: _F},
    Event.LINE_LOST: {_A: _O, _O: _O, _S: _O, _B: _B, _K: _K, _F: _F},
    Event.OPENED: {_A: _A, _O: _S, _S: _S, _B: _B, _K: _K, _F: _F},
    Event.CAUGHT_UP: {_A: _A, _O: _A, _S: _A, _B: _B, _K: _K, _F: _F},
    Event.HUB_BEHIND: {_A: _S, _O: _S, _S: _S, _B: _B, _K: _K, _F: _F},
    Event.LINKED: {_A: _S, _O: _S, _S: _S, _B: _S, _K: _S, _F: _S},
    Event.FOUND_BEHIND: {_A: _B, _O: _B, _S: _B, _B: _B, _K: _K, _F: _B},
    Event.FOUND_FENCED: {_A: _F, _O: _F, _S: _F, _B: _B, _K: _K, _F: _F},
    Event.FOUND_FORKED: {_A: _K, _O: _K, _S: _K, _B: _K, _K: _K, _F: _K},
    Event.RECORD_EDITED: {_A: _K, _O: _K, _S: _K, _B: _K, _K: _K, _F: _K},
}
"""Out of BEHIND, FORKED and FENCED leads nothing but a new epoch's link (DESIGN §3.9)."""

VERDICT_EVENT: Final[dict[Verdict, Event]] = {
    Verdict.OK: Event.OPENED,
    Verdict.LINK: Event.LINKED,
    Verdict.BEHIND: Event.FOUND_BEHIND,
    Verdict.FORKED: Event.FOUND_FORKED,
    Verdict.FENCED: Event.FOUND_FENCED,
    Verdict.HUB_BEHIND: Event.HUB_BEHIND,
    Verdict.REOPEN: Event.LINE_LOST,
    Verdict.VERSION: Event.LINE_LOST,
}
"""What each of the hub's verdicts does to the box's mode."""

CARRIES_ON: Final = frozenset(
    {Verdict.OK, Verdict.FENCED, Verdict.FORKED, Verdict.BEHIND, Verdict.HUB_BEHIND}
)
"""Verdicts after which the session goes on: a box that clears nothing still delivers what it wrote, and
hears of its new epoch."""


def next_mode(mode: Mode, event: Event) -> tuple[Mode, str]:
    """The mode after the event and the reason for its record; the same mode means that no record is
    written."""
    return TRANSITIONS[event][mode], event.value
