"""What box and hub say to each other before there is an exchange: the claim, and the signed requests and
replies of enrolment and renewal.

On the wire: HTTP POST of one `Signed` as msgpack to ENROL_PATH, RENEW_PATH or LEAVE_PATH; the answer is a
`Signed` by the hub's key, or a problem document whose `code` is a `Refusal`. Every signature is made over
`signed_text`: a label, who signs as what, and the body's bytes, so that none can stand in another's place. A
claim is one JSON document, in a file or as a QR. Owns the bytes and their limits. Leaves out keys and
certificates (`access.certificate_keys`), clocks and sockets.
"""

from __future__ import annotations

import base64
import binascii
import enum
from typing import Annotated, Final, Literal

import msgspec

from edgegw.core.records import UNREADABLE

VERSION: Final = 1
CLAIM_FORMAT: Final = 1
ENROL_PATH: Final = "/v1/enroll"
RENEW_PATH: Final = "/v1/renew"
LEAVE_PATH: Final = "/v1/leave"
CRL_PATH: Final = "/v1/crl/"
"""GET, followed by the kind: the CA's list of revoked certificates, DER."""

CLAIM_BYTES_MAX: Final = 2_900
"""What a QR code of the largest version holds."""
REQUEST_BYTES_MAX: Final = 16 << 10
REPLY_BYTES_MAX: Final = 8 << 20
"""Mostly the lists of revoked certificates."""
SEED_BYTES: Final = 32
NONCE_BYTES: Final = 16
SERIAL_BYTES: Final = 16

_REQUEST_LABEL: Final = "edgegw/enrolment/v1"
_REPLY_LABEL: Final = "edgegw/enrolled/v1"

CLAIM: Final = "claim"
DEVICE: Final = "device"
HUB: Final = "hub"
"""Who signs as what; a certificate's key signs as its kind, that of the old certificate as `old-` and the
kind (`old_role`)."""

Kind = Literal["p256", "sm2"]
"""A certificate's key, and its CA's: P-256 for the profiles intl and pq, SM2 for gm and gm-pq."""
KINDS: Final[tuple[Kind, ...]] = ("p256", "sm2")
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}\Z")]
Label = Annotated[str, msgspec.Meta(max_length=64)]
KeyText = Annotated[str, msgspec.Meta(max_length=300)]
Key = Annotated[bytes, msgspec.Meta(max_length=256)]
Certificate = Annotated[bytes, msgspec.Meta(max_length=4_096)]
Nonce = Annotated[bytes, msgspec.Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
Seconds = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Number = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class EnrolmentError(ValueError):
    """The peer's bytes are not what they must be; the text names what is wrong. Nothing of them was used."""


class Refusal(enum.StrEnum):
    """Why the hub refuses, the `code` of its problem document."""

    MALFORMED = "malformed_request"
    VERSION = "version"
    TOO_MANY = "too_many"
    """Too many requests from this address, or in all: come back later."""
    NO_CA = "no_ca"
    """The hub has no CA of a kind that is asked for."""
    BAD_SIGNATURE = "bad_signature"
    CLAIM_UNKNOWN = "claim_unknown"
    CLAIM_EXPIRED = "claim_expired"
    CLAIM_WITHDRAWN = "claim_withdrawn"
    CLAIM_DEAD = "claim_dead"
    """Too many wrong signatures or wrong boxes: it is good for nothing more."""
    CLAIM_USED = "claim_used"
    """Another device, or other keys, have used it."""
    WRONG_BOX = "wrong_box"
    """The claim is another box's."""
    WRONG_BRANCH = "wrong_branch"
    """The claim is for another branch."""
    KEY_BOUND = "key_bound"
    """The keys are bound already: to another box, or to this one at another time."""
    BOX_BOUND = "box_bound"
    """The box has another device; only a claim that replaces it puts a new one in its place."""
    NOT_ENROLLED = "not_enrolled"
    REVOKED = "revoked"
    REPLACED = "replaced"
    """Another device has this box's place."""
    SUPERSEDED = "superseded"
    """The certificate was renewed already, with another key: two devices have this box's identity."""
    TOO_SOON = "too_soon"
    """The certificate was issued a moment ago."""


# --- the claim ----------------------------------------------------------------------------------------------


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What a technician carries to a box: whoever has it may enrol this box, once, until it expires."""

    format: int
    id: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
    bank: Name
    box: Name
    branch: Label = ""
    """Of the place where the box stands, in the bank's own words."""
    addresses: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=8)]
    """URLs of the hub's enrolment, tried in order."""
    profile: str
    """The transport profile there."""
    server_name: str = ""
    """What the hub's certificate must name; "": the address's host."""
    line: Annotated[tuple[str, ...], msgspec.Meta(max_length=8)] = ()
    """URLs of the hub's exchange, for a box that has no settings yet: it writes them from the claim."""
    line_profile: str = ""
    """The transport profile there; "": the same."""
    settings: dict[str, dict[str, object]] = {}
    """Tables of the box's settings that the centre has chosen, for a box that has none yet."""
    hub_key: KeyText
    """The hub's verifying key as its one line."""
    authorities: Annotated[tuple[str, ...], msgspec.Meta(max_length=2)] = ()
    """The hub's CAs, base64 of DER each."""
    expires_at_s: Seconds
    """Unix time, by the hub's clock, which alone counts."""
    replaces: bool = False
    """The box's device before this one is fenced with it."""
    seed: str
    """Base64 of the Ed25519 seed that proves the claim: the one secret in it."""

    def seed_bytes(self) -> bytes:
        """The seed; raises EnrolmentError."""
        return _base64("seed", self.seed, SEED_BYTES)

    def authority_bytes(self) -> tuple[bytes, ...]:
        """The CAs in DER; raises EnrolmentError."""
        return tuple(_base64("authorities", one, None) for one in self.authorities)


_claim_decoder: msgspec.json.Decoder[Claim] = msgspec.json.Decoder(Claim)


def encode_claim(claim: Claim) -> bytes:
    """The document's bytes, one line of JSON; raises EnrolmentError for one that no QR code holds."""
    body = msgspec.json.encode(claim) + b"\n"
    if len(body) > CLAIM_BYTES_MAX:
        raise EnrolmentError(f"the claim has {len(body)} bytes, a QR code holds {CLAIM_BYTES_MAX}")
    return body


def decode_claim(body: bytes) -> Claim:
    """A claim from its bytes; raises EnrolmentError, which never repeats them."""
    if len(body) > CLAIM_BYTES_MAX:
        raise EnrolmentError(f"a claim has {CLAIM_BYTES_MAX} bytes at most, this file has more")
    try:
        claim = _claim_decoder.decode(body)
    except UNREADABLE as problem:
        raise EnrolmentError(f"no claim: {problem}") from None
    if claim.format != CLAIM_FORMAT:
        raise EnrolmentError(f"format = {claim.format}: this program reads claims of format {CLAIM_FORMAT}")
    claim.seed_bytes()
    claim.authority_bytes()
    return claim


def _base64(field: str, text: str, size: int | None) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise EnrolmentError(f"{field}: it is not base64") from None
    if size is not None and len(raw) != size:
        raise EnrolmentError(f"{field}: it has {len(raw)} bytes, not {size}")
    return raw


# --- requests -----------------------------------------------------------------------------------------------


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate that is asked for. Its key signs the request, too, as `kind`. What it may name stands in
    the claim's row at the hub, not here."""

    kind: Kind
    public_key: Key
    """SubjectPublicKeyInfo, DER."""


class Enrol(msgspec.Struct, frozen=True, kw_only=True, tag="enrol"):
    """Signed as `claim`, as `device`, and as the kind of every certificate that is wanted."""

    version: int
    claim: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
    bank: Name
    box: Name
    branch: Label = ""
    """As the box itself, or who stands before it, says: the claim must be for it."""
    device_key: KeyText
    """Its verifying key as one line, named BANK/BOX."""
    wanted: Annotated[tuple[Wanted, ...], msgspec.Meta(min_length=1, max_length=2)]
    nonce: Nonce
    clock_s: Seconds
    """The box's clock, which may be wrong by years."""


class Renew(msgspec.Struct, frozen=True, kw_only=True, tag="renew"):
    """Signed as `device`, as the kind of every new key, and as `old_role` of that kind by the key of the old
    certificate. The same keys again are answered with the same certificates."""

    version: int
    bank: Name
    box: Name
    device_key: KeyText
    wanted: Annotated[tuple[Wanted, ...], msgspec.Meta(min_length=1, max_length=2)]
    held: Annotated[tuple[Certificate, ...], msgspec.Meta(min_length=1, max_length=2)]
    """The certificates that are to be renewed, DER, in the order of `wanted`; expired ones, too."""
    nonce: Nonce
    clock_s: Seconds


class Leave(msgspec.Struct, frozen=True, kw_only=True, tag="leave"):
    """The box gives its identity up (factory reset). Signed as `device`."""

    version: int
    bank: Name
    box: Name
    device_key: KeyText
    nonce: Nonce
    clock_s: Seconds


Request = Enrol | Renew | Leave


# --- replies ------------------------------------------------------------------------------------------------


class Issued(msgspec.Struct, frozen=True, kw_only=True):
    """One certificate."""

    kind: Kind
    chain: Annotated[tuple[Certificate, ...], msgspec.Meta(min_length=1, max_length=4)]
    """DER: the box's own, then those between it and its CA."""


class Enrolled(msgspec.Struct, frozen=True, kw_only=True, tag="enrolled"):
    """The answer to Enrol and Renew, signed as `hub`."""

    version: int
    nonce: Nonce
    """The request's."""
    bank: Name
    box: Name
    branch: Label
    generation: Number
    """The how-manieth device of this box it is."""
    epoch: Number
    """The newest that the hub has issued to the box; 0: none."""
    device_key: KeyText
    certificates: tuple[Issued, ...]
    authorities: tuple[Certificate, ...]
    """The hub's CAs that count now, DER."""
    crls: tuple[bytes, ...]
    """Their lists of revoked certificates, DER."""
    hub_time_s: Seconds


class Left(msgspec.Struct, frozen=True, kw_only=True, tag="left"):
    """The answer to Leave, signed as `hub`: the identity is revoked."""

    version: int
    nonce: Nonce
    bank: Name
    box: Name
    hub_time_s: Seconds


Reply = Enrolled | Left


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """A body and who has signed it, by role."""

    body: bytes
    signatures: Annotated[
        dict[str, Annotated[bytes, msgspec.Meta(max_length=128)]], msgspec.Meta(max_length=8)
    ]


_encoder = msgspec.msgpack.Encoder()
_signed_decoder: msgspec.msgpack.Decoder[Signed] = msgspec.msgpack.Decoder(Signed)
_request_decoder: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_reply_decoder: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def old_role(kind: Kind) -> str:
    """As what the key of an old certificate signs."""
    return f"old-{kind}"


def encode_body(body: Request | Reply) -> bytes:
    """The bytes that are signed and sent."""
    return _encoder.encode(body)


def signed_text(role: str, body: bytes) -> bytes:
    """What is signed as `role`: the hub's own label for what it says, another one for what is said to it."""
    label = _REPLY_LABEL if role == HUB else _REQUEST_LABEL
    return f"{label}\n{role}\n".encode() + body


def encode_signed(signed: Signed) -> bytes:
    """The bytes to send."""
    return _encoder.encode(signed)


def read_request(data: bytes) -> tuple[Signed, Request]:
    """A request whose signatures are not checked yet; raises EnrolmentError."""
    signed = _read_signed(data, bytes_max=REQUEST_BYTES_MAX)
    try:
        request = _request_decoder.decode(signed.body)
    except UNREADABLE as problem:
        raise EnrolmentError(f"no request: {problem}") from None
    if isinstance(request, Enrol | Renew):
        kinds = [one.kind for one in request.wanted]
        if len(set(kinds)) != len(kinds):
            raise EnrolmentError(f"wanted: two certificates of kind {kinds[0]}")
    if isinstance(request, Renew) and len(request.held) != len(request.wanted):
        raise EnrolmentError(f"held: {len(request.held)} certificates for {len(request.wanted)} wanted")
    return signed, request


def read_reply(data: bytes) -> tuple[Signed, Reply]:
    """A reply whose signature is not checked yet: the caller checks it, and the nonce, before it uses
    anything. Raises EnrolmentError."""
    signed = _read_signed(data, bytes_max=REPLY_BYTES_MAX)
    try:
        return signed, _reply_decoder.decode(signed.body)
    except UNREADABLE as problem:
        raise EnrolmentError(f"no reply: {problem}") from None


def _read_signed(data: bytes, *, bytes_max: int) -> Signed:
    if len(data) > bytes_max:
        raise EnrolmentError(f"a message of {len(data)} bytes; {bytes_max} at most")
    try:
        return _signed_decoder.decode(data)
    except UNREADABLE as problem:
        raise EnrolmentError(f"no signed message: {problem}") from None


def box_uri(*, bank: str, box: str) -> str:
    """By which URI a certificate names a box."""
    return f"edgegw://{bank}/{box}"
