"""What travels between box and hub: the messages, the signed envelope around them, the link note of an epoch.

Owns the wire's bytes and limits. What a side makes of a message is in `core.exchange`; sockets are for
`uplink` and `hub`.

On the wire: HTTP POST to EXCHANGE_PATH, the body one `Envelope` as msgpack. Messages are msgpack maps by
field name, so that a side may add a field with a default and an older peer ignores it; what cannot be ignored
raises VERSION. In order: `Open` -> `Opened`, then any number of `Beat` -> `Beaten`. The box speaks first,
always. Both logs travel in the same `Package`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Annotated, Final, Protocol

import msgspec

from edgegw.core import journal
from edgegw.core.records import UNREADABLE, Mode

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
PROGRAM_WORD_CHARS_MAX: Final = 500
SITE_BYTES_MAX: Final = 64 << 20
SESSION_BYTES: Final = 16

_ENVELOPE_LABEL: Final = b"edgegw/exchange/v1\n"
_LINK_LABEL: Final = "edgegw/link/v1\n"


class ExchangeError(ValueError):
    """The peer's bytes are not what they must be; the text says what is wrong. Nothing of the message
    was used."""


class NotSigned(ExchangeError):
    """The key that was asked for has not signed these bytes."""


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


Counted = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""What a database can count."""
Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class LogHead(msgspec.Struct, frozen=True):
    """How far a side holds a log. `number` is a journal's epoch or the directives' incarnation; size 0
    has an empty root."""

    number: Number
    size: Number = 0
    root: bytes = b""


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """Consecutive records of one log, with what proves that its author signed a log that continues them.

    `records` are leaves old_size, old_size + 1, ...; `root` is the author's root right after the last of
    them; `checkpoint` is the author's signed note for its head, at least that long; `proof` is the
    consistency proof from there to the head. Without records it only shows a newer head. `keys` are the
    statements (`core.key_policy`) of records behind these that begin another checkpoint key; of a history
    that the reader does not hold, all of them.
    """

    number: Number
    old_size: Number
    records: tuple[bytes, ...]
    root: bytes
    checkpoint: str
    proof: tuple[bytes, ...]
    keys: tuple[str, ...] = ()

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
    amount_minor: Counted
    patience_ms: Number = 0
    """How long the hub may take to ask other boxes for it; a later word comes too late for the payment."""


class Open(msgspec.Struct, frozen=True, kw_only=True, tag="open"):
    """The box opens a session. Its envelope carries a fresh nonce as the session and counter 0."""

    version: int
    version_oldest: int
    bank: str
    box: str
    boot: str
    """Minted once per process; one boot lives per epoch."""
    epoch: Number
    """0: none yet."""
    key: str
    """The key, as its one-line text, with which this boot would sign an epoch given to it now; a LINK
    names it."""
    mode: Mode
    journals: tuple[LogHead, ...] = ()
    """The box's own heads, one per epoch that it holds, oldest first."""
    cosignature: str = ""
    """The hub's last cosigned note for `epoch`: proof of what the hub once held."""
    directives: LogHead = LogHead(0)
    directives_note: str = ""
    """The hub's own signed checkpoint of them."""
    link: str = ""
    """The hub-signed link of `epoch`: it proves the epoch to a hub that has lost it."""
    others: tuple[LogHead, ...] = ()
    """Journals of this box, one an epoch at most, that it has not itself, but knows what they decided."""
    revoked: tuple[str, ...] = ()
    """The hub's words that revoke keys of this box (`core.key_policy`): a mirror hears of them here alone."""
    site_format: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0
    """The newest format of site settings that this program reads (`core.site_format`); 0: from before there
    were formats."""


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
    """What the hub holds, for each epoch that it has issued to this box and takes more of; where the box has
    another history, up to the box's own size."""
    closed: tuple[LogHead, ...] = ()
    """What it holds of the others (sealed, forked): to be pulled, not pushed."""
    directives: LogHead = LogHead(0)
    """What the hub has for the box."""
    revoked: tuple[str, ...] = ()
    """The hub's words by which keys of this box are void above a size (`core.key_policy`), all of them."""
    hub_s: int = 0
    """What time it is at the hub, Unix seconds; 0 where it does not say."""


class Coming(msgspec.Struct, frozen=True, kw_only=True):
    """The site's settings that a directive is to name once the box has them, long lists and all: so they hold
    up no directive behind it. The fields are those of `records.SiteDirective`."""

    version: int
    digest: str
    note: str = ""
    restores: str = ""


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """Which program a box runs, and how its updates are."""

    version: str = ""
    """Of the image; of the program itself where no image is."""
    slot: str = ""
    word: str = ""
    """What is under way, in words; "" for nothing."""
    problem: str = ""
    """What a person should look at: what failed here, or why nothing newer can be had."""


class Beat(msgspec.Struct, frozen=True, kw_only=True, tag="beat"):
    """The one message of an open session: what the hub lacks, what the box wants, how far it is.
    Counter 1, 2, 3, ..."""

    directives: LogHead
    """How far the box has applied them."""
    held: LogHead | None = None
    """What the hub holds of the newest epoch's journal, by its own last word in this session."""
    push: Package | None = None
    asks: tuple[Ask, ...] = ()
    directives_cosignature: str = ""
    """The box's cosigned note over `directives`; once per change."""
    mode: Mode = Mode.ACTIVE
    waiting: Counted = 0
    """Records that the box has and the hub, as far as the box knows, has not; those of this push count."""
    pull: LogHead | None = None
    """How far the box holds this epoch of its own journal: what follows is asked back (`Beaten.pulled`)."""
    handed_back: Package | None = None
    """Directives that the hub has signed and lost, in order, for a hub that says HUB_BEHIND."""
    package_bytes_max: Number = PACKAGE_BYTES_MAX
    """The hub sends no larger package back, but always one directive: so much did the line carry lately."""
    ready: str | None = None
    """The digest of `Beaten.coming` once nothing of it is lacking, or nothing will make it usable; "" before;
    None from a box that fetches nothing ahead."""
    program: Program | None = None
    """Once in a session, and when it has changed."""


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
    """What the hub holds of the pushed epoch now, whatever it made of the push; without one, of the epoch of
    `Beat.pull`, where the box has all of it now."""
    cosignature: str = ""
    """The hub's cosigned note over `journal`, after its COMMIT."""
    directives: Package | None = None
    more: bool = False
    """There are more directives than went into this package."""
    pulled: Package | None = None
    """The next records of the box's own journal after `Beat.pull`, with its own signed note; None when
    there are no more, or when the box holds others."""
    again_ms: Number = 0
    """Other boxes are asked for what this one wants: come back after so long. 0: nothing is under way."""
    incarnation: LogHead | None = None
    """After `Beat.handed_back`: the directives that the hub holds now."""
    coming: Coming | None = None
    """To be fetched now; the directive that names it comes after `Beat.ready`."""


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
    except UNREADABLE as problem:
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
    except UNREADABLE as problem:
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
        raise NotSigned(f"the envelope of {envelope.bank}/{envelope.box} is not signed by the pinned key")
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
            f"an answer to another message: {envelope.bank}/{envelope.box} counter {envelope.counter},"
            f" not {counter}"
        )
    return open_envelope(verify, envelope, direction=Direction.TO_BOX)


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
        body = journal.open_text(note, name=key.name, key_id=key.key_id, verify=key.verify)
        if not body.startswith(_LINK_LABEL):
            raise ExchangeError("the note is no link")
        return _link_decoder.decode(body[len(_LINK_LABEL) :])
    except (journal.NoteError, *UNREADABLE) as problem:
        raise ExchangeError(f"no link: {problem}") from None
