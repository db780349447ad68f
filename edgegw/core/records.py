"""What is written down: requests, the records of a journal, the directives of the hub, and how they become
bytes.

A record is one JSON object with a fixed field order, encoded once and kept verbatim (DESIGN §5). The
structs here are the only writers of those bytes. What a record *means* for balances is in `core.book`; how
it is chained is in `core.journal`.
"""

from __future__ import annotations

import enum
from typing import Annotated, Final, TypedDict

import msgspec

AMOUNT_MINOR_MAX: Final = 2**63 - 1
"""The ways in and the disk refuse more; the core itself counts to 2**128 - 1."""

AmountMinor = Annotated[
    int, msgspec.Meta(ge=1, le=AMOUNT_MINOR_MAX, description="Amount in minor units, a whole number.")
]
NotNegative = Annotated[int, msgspec.Meta(ge=0, le=AMOUNT_MINOR_MAX)]
AccountId = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,33}\Z",
        max_length=34,
        description="An account's id: 1 to 34 letters, digits or ._:- (an IBAN fits).",
    ),
]
RequestId = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[0-9a-f]{32}\Z",
        description="128 bits minted by the client before its first send, as 32 lower-case hex digits;"
        " UUIDv7 keeps indexes small.",
    ),
]
Currency = Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}\Z", description="ISO 4217 letters.")]
Epoch = Annotated[int, msgspec.Meta(ge=0, le=2**23 - 1)]
"""Of an epoch or incarnation; with `Seq` it makes up a place of 63 bits."""
Seq = Annotated[int, msgspec.Meta(ge=0, le=2**40 - 1)]
ShortText = Annotated[
    str, msgspec.Meta(max_length=64, pattern=r"^[ -~]*\Z", description="Printable ASCII, at most 64.")
]


class Kind(enum.StrEnum):
    """What a client asks for."""

    PAYMENT = "payment"
    HOLD = "hold"
    POST = "post"
    VOID = "void"
    REVERSAL = "reversal"
    """Undo what may have happened: kept, where it comes before its original."""
    REFUND = "refund"
    """Give money of a payment back that has happened."""
    CLOSE_BATCH = "close_batch"
    """End a merchant's or terminal's batch."""


class ClearedBy(enum.StrEnum):
    """What funded a payment (DESIGN §2); decided once, never changed."""

    ALLOWANCE = "allowance"
    CENTRE = "centre"
    STAND_IN = "stand_in"


class Mode(enum.StrEnum):
    """The line as the box sees it; every change is a record with its reason."""

    ACTIVE = "active"
    OFFLINE = "offline"
    SYNCING = "syncing"
    BEHIND = "behind"
    FORKED = "forked"
    FENCED = "fenced"

    @property
    def clears(self) -> bool:
        """Whether a box in this mode may clear payments."""
        return self in (Mode.ACTIVE, Mode.OFFLINE, Mode.SYNCING)


class Durability(enum.StrEnum):
    """Where a record must be before anybody is told of it; every change is a record with its reason."""

    LOCAL = "local"
    """On the box's own disk."""
    MIRRORED = "mirrored"
    """On the mirror's disk too."""
    AWAY = "away"
    """On the mirror's disk too, but the mirror is away: no payment is decided."""


class Side(enum.StrEnum):
    """Where a cleared request counts in a merchant's batch."""

    PAYMENTS = "payments"
    PAYMENT_REVERSALS = "payment_reversals"
    REFUNDS = "refunds"
    REFUND_REVERSALS = "refund_reversals"


Figure = Annotated[int, msgspec.Meta(ge=0, le=AMOUNT_MINOR_MAX)]


class BatchTotals(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A merchant's batch in one currency: how many, and their sum in minor units."""

    currency: Currency
    payments_count: Figure = 0
    payments_minor: Figure = 0
    payment_reversals_count: Figure = 0
    payment_reversals_minor: Figure = 0
    refunds_count: Figure = 0
    refunds_minor: Figure = 0
    refund_reversals_count: Figure = 0
    refund_reversals_minor: Figure = 0

    def different_figure(self, other: BatchTotals) -> str:
        """The name of the first figure in which two totals differ, "" where none does."""
        return next(
            (name for name in self.__struct_fields__ if getattr(self, name) != getattr(other, name)), ""
        )


class Request(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, gc=False
):
    """One request of a client, in the canonical form whose fields decide "same content" (DESIGN §2.1)."""

    kind: Kind
    """What is asked for."""
    id: RequestId
    debit_account_id: str = ""
    """Who pays."""
    credit_account_id: str = ""
    """Who is paid."""
    amount_minor: int = 0
    """0 on a post, reversal or refund means: all that is left."""
    currency: str = ""
    """ISO 4217 letters, the same as both accounts'."""
    timeout_s: int = 0
    """Holds only: seconds until the hold expires; 0 is never."""
    original_client: str = ""
    """Posts, voids, reversals, refunds: the client whose hold or payment is meant."""
    original_id: str = ""
    """Posts, voids, reversals, refunds: the id of the hold or payment that is meant."""
    advice: bool = False
    """It has already happened outside and cannot be refused (ISO 8583 0220, 0420)."""
    stand_in: bool = True
    """Whether the client accepts that the branch stands in while the line is down."""
    card: str = ""
    """The token that the box's vault has given the card, never a PAN."""
    card_mask: str = ""
    """What of the card's number may be shown."""
    terminal: str = ""
    """Where it was asked for."""
    merchant: str = ""
    """On whose behalf."""
    reference: str = ""
    """The client's own words."""
    merchant_pays: bool = False
    """A refund that names no payment, or cash paid in (ISO 8583 codes 20 and 21)."""
    totals: tuple[BatchTotals, ...] = ()
    """Closing a batch: the client's own figures, to be compared; none are not compared."""

    def different_field(self, other: Request) -> str | None:
        """The first field in which two requests differ, in the order of declaration; None when they are
        the same."""
        for name in self.__struct_fields__:
            if getattr(self, name) != getattr(other, name):
                return name
        return None


class Leg(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One transfer of a record. Its id is not stored: it is the record's place and the leg's index
    (`transfer_id`)."""

    debit_account_id: str
    credit_account_id: str
    amount_minor: int
    flags: int = 0
    """`core.model.TransferFlags`, without `linked`: the legs of a record stand or fall together."""
    pending: str = ""
    """For a post or void: the pending transfer's id as 32 hex digits."""
    timeout_s: int = 0


class Counted(msgspec.Struct, frozen=True, array_like=True):
    """In whose batch, and where in it, something counts whose request does not say so itself."""

    merchant: str
    terminal: str
    side: Side
    currency: str


class Undone(msgspec.Struct, frozen=True, array_like=True):
    """Of a payment that is reversed, what limits have counted it by: its own record may be pruned when the
    reversal's is replayed."""

    at_ns: int
    is_stand_in: bool
    currency: str
    debit_account_id: str
    credit_account_id: str
    card: str
    terminal: str
    merchant: str


class MerchantBatch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A merchant's or terminal's batch that was closed."""

    number: int
    previous: str = ""
    """epoch/seq of the close before it, "" for the first one of an epoch."""
    totals: tuple[BatchTotals, ...] = ()
    """One for each currency in which there was anything, sorted by it."""
    difference: str = ""
    """The first figure that the client has otherwise, "" where it has the same or sent none."""


class Account(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """An account as the site's settings describe it and the box's ledger opens it."""

    id: AccountId
    currency: Currency
    home: str = ""
    """The box where it is homed; "" is the centre."""
    participant: str = ""
    """Who it is netted under; "" is the bank itself."""
    floor: bool = True
    """Debits must not exceed credits. Only the books' own accounts go without."""


class HeadFields(TypedDict):
    """The fields of a `RecordHead`."""

    v: int
    bank: str
    box: str
    epoch: int
    seq: int
    at_ns: int
    wall_ns: int
    mono_ns: int


class RecordHead(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True, gc=False):
    """What every record names first. No record can be part of a cycle, so none is looked at for one."""

    v: int
    bank: str
    box: str
    epoch: int
    seq: int
    at_ns: int
    """The box's own time: strictly increasing, never back, across boots too; ledger timestamps are this."""
    wall_ns: int
    """The wall clock as it stood, believed by nobody for order."""
    mono_ns: int
    """The monotonic clock of this boot."""


class Link(RecordHead, frozen=True, kw_only=True, tag="link"):
    """First of an epoch: the hub's signed word that this epoch is this box's (`LinkNote` as a signed
    note)."""

    note: str


class Boot(RecordHead, frozen=True, kw_only=True, tag="boot"):
    """A start of the process."""

    boot: str
    version: str
    box_digest: str
    site_digest: str


class Transfer(RecordHead, frozen=True, kw_only=True, tag="transfer"):
    """A request that was cleared, with the legs that moved."""

    window: int
    client: str
    request: Request
    cleared_by: ClearedBy
    reason: str = ""
    """Why the branch stood in, or what else bent the ordinary way: `line_down`, `centre_timeout`, `kept`,
    `pre_empted`."""
    original: str = ""
    """epoch/seq of the hold or payment that it resolves or reverses, "" where there is none or it is not
    known yet."""
    legs: tuple[Leg, ...] = ()
    linked: int = 0
    """For a linked group: how many records of the group follow this one."""
    counted: Counted | None = None
    """Posts, reversals, refunds: where it counts in a merchant's batch, if it does."""
    batch: MerchantBatch | None = None
    """The batch that it closes."""
    undone: Undone | None = None
    """Reversals: off whose limits its amount is taken, if it is."""


class Refusal(RecordHead, frozen=True, kw_only=True, tag="refusal"):
    """A request that was decided against; changes nothing else."""

    client: str
    request: Request
    code: str
    detail: str
    original: str = ""
    """epoch/seq of the reversal that came before and was kept for this request; "" for any other refusal."""


class Expiry(RecordHead, frozen=True, kw_only=True, tag="expiry"):
    """A hold whose time was up."""

    window: int
    original: str
    legs: tuple[Leg, ...]


class Measure(msgspec.Struct, frozen=True, array_like=True):
    """What is added up for limits: whose payments, in which currency ("" for all), always or only offline or
    stood in for, over which fixed period or over how many sliding seconds."""

    of: str
    currency: str
    when: str
    per: str
    seconds: int

    @property
    def key(self) -> str:
        """Its name in the tables of a book."""
        return f"{self.of}/{self.currency}/{self.when}/{self.per or self.seconds}"


class DirectiveApplied(RecordHead, frozen=True, kw_only=True, tag="directive"):
    """A directive of the hub, verbatim, and what it did here."""

    window: int
    directive: msgspec.Raw
    outcome: str
    """`applied`, `returned` (a late grant handed back) or `refused`."""
    reason: str = ""
    legs: tuple[Leg, ...] = ()
    accounts: tuple[Account, ...] = ()
    cut_off_ns: int = 0
    """Of a site with a calendar: the moment since which its cut-offs count here, nanoseconds since 1970."""
    counted: tuple[Measure, ...] = ()
    """Of a site: what is counted for its limits from here on."""


class ModeChanged(RecordHead, frozen=True, kw_only=True, tag="mode"):
    """The line changed."""

    mode: Mode
    previous: Mode
    reason: str


class Position(msgspec.Struct, frozen=True, array_like=True):
    """A participant's net amount in a window: credits less debits, minor units. What moves between centre and
    box of one account's money is neither."""

    participant: str
    currency: str
    net_minor: int


class WindowClosed(RecordHead, frozen=True, kw_only=True, tag="window"):
    """A clearing cycle's end; its positions sum to zero for each currency."""

    window: int
    business_date: str
    transfers: int
    positions: tuple[Position, ...]
    closed_by: str
    """`calendar`, or who ordered it."""
    cut_off_ns: int = 0
    """The moment of the calendar's cut-off that this close is or stands for, nanoseconds since 1970; 0 where
    the site has no calendar."""
    next_business_date: str = ""
    """Of the window that is open now, by the site's calendar; "" without one."""


class ClockStep(RecordHead, frozen=True, kw_only=True, tag="clock"):
    """The wall clock and the box's own time have parted by more than a second since the last word about
    it."""

    wall_ahead_ns: int
    doubted_ns: int = 0
    """At a start: what the wall clock says to have passed while the machine was off, and the box's own time
    has not taken. The time offline grows by it, nothing expires by it."""


class Snapshot(RecordHead, frozen=True, kw_only=True, tag="snapshot"):
    """A digest (SM3, hex) of the whole book just before this record."""

    digest: str


class DurabilityChanged(RecordHead, frozen=True, kw_only=True, tag="durability"):
    """From here on answers leave when their records are where this says."""

    durability: Durability
    previous: Durability
    reason: str


class HealthChanged(RecordHead, frozen=True, kw_only=True, tag="health"):
    """Something that is watched of the machine is well no more, or again, and what is done about it."""

    check: str
    subject: str
    """Which disk, port or sensor; "" for the machine."""
    level: str
    """`well`, `notice`, `shed`, `pause` or `refuse`."""
    previous: str
    reason: str
    """The reading and the threshold."""


class Operator(RecordHead, frozen=True, kw_only=True, tag="operator"):
    """Something a person ordered at the box."""

    operator: str
    action: str
    detail: str


class SiteReturned(RecordHead, frozen=True, kw_only=True, tag="site_returned"):
    """The box found the site's settings unhealthy in their first minutes and decides by older ones again,
    without loosening any limit. Accounts stay as they were opened, and the version stays the number that a
    later one must exceed."""

    version: int
    """That it has left."""
    left_digest: str
    """SM3 in hex; its limits bind beside the older ones'."""
    digest: str
    """Of the settings that are in force again."""
    reason: str
    counted: tuple[Measure, ...] = ()
    """What is counted for limits from here on."""


class Acknowledgement(RecordHead, frozen=True, kw_only=True, tag="acknowledgement"):
    """A client has taken note of what became of its payments later, up to a record; the newest one of a
    client counts."""

    client: str
    by: str
    """`webhook`, or the client that said so."""
    up_to: str
    """epoch/seq of the record that the newest of these notices is of."""
    apart: tuple[str, ...] = ()
    """Records before it whose notices the client's webhook has refused: those are not acknowledged."""


class KeyIntroduced(RecordHead, frozen=True, kw_only=True, tag="key"):
    """A key of the box's, as its one-line text: right behind the link the one that this names, later one that
    takes over."""

    key: str
    note: str = ""
    """Of a key that takes over: the statement of both keys (`core.key_policy`)."""


Record = (
    Link
    | Boot
    | Transfer
    | Refusal
    | Expiry
    | DirectiveApplied
    | ModeChanged
    | WindowClosed
    | ClockStep
    | Snapshot
    | DurabilityChanged
    | HealthChanged
    | Operator
    | SiteReturned
    | Acknowledgement
    | KeyIntroduced
)


def legs_of(record: Record) -> tuple[Leg, ...]:
    """The transfers of a record, in order; most records have none."""
    return record.legs if isinstance(record, _WITH_LEGS) else ()


_WITH_LEGS: Final = (Transfer, DirectiveApplied, Expiry)  # a union would be made anew for each record


class DirectiveHead(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    """What every directive names first. Directives to one box are a log of their own, authored by the hub."""

    v: int
    bank: str
    box: str
    incarnation: int
    seq: int
    wall_ns: int


class SiteDirective(DirectiveHead, frozen=True, kw_only=True, tag="site"):
    """Use this site bundle from now on; fetched by digest (SM3, hex)."""

    version: int
    digest: str
    bytes: int
    note: str = ""
    """The hub's signature over the bundle itself (`core.site_file`), "" from a hub that makes none."""
    restores: str = ""
    """The digest of an older bundle that has the same content but for its version: a box that kept it makes
    this one from it."""


class GrantDirective(DirectiveHead, frozen=True, kw_only=True, tag="grant"):
    """amount_minor of this account is the box's to spend. request_id is empty when nobody at the box
    asked."""

    account_id: str
    currency: str
    amount_minor: AmountMinor
    request_id: str = ""


class RefuseDirective(DirectiveHead, frozen=True, kw_only=True, tag="refuse"):
    """The centre's refusal of a request for a grant; bars stand-in for that account until the line was
    down and up again."""

    request_id: str
    account_id: str
    currency: str
    reason: str


class ConfirmDirective(DirectiveHead, frozen=True, kw_only=True, tag="confirm"):
    """The payer's money is there: the stand-in at epoch/seq is posted and the risk account is made whole."""

    epoch: Epoch
    at_seq: Seq
    payer_account_id: str
    currency: str
    amount_minor: AmountMinor


class DeclineDirective(DirectiveHead, frozen=True, kw_only=True, tag="decline"):
    """A late decline of the stand-in at epoch/seq, and who bears it: `merchant` or `branch`."""

    epoch: Epoch
    at_seq: Seq
    payer_account_id: str
    currency: str
    amount_minor: AmountMinor
    liable: str
    reason: str


class FreezeDirective(DirectiveHead, frozen=True, kw_only=True, tag="freeze"):
    """From its journal record on, this account pays nothing out (or does again)."""

    account_id: str
    frozen: bool
    reason: str


class BlockDirective(DirectiveHead, frozen=True, kw_only=True, tag="block"):
    """From its journal record on, this account, card, terminal or merchant pays nothing here (or does again);
    a client, or a token by its id or its family's, is not heard."""

    of: str
    whose: str
    blocked: bool
    reason: str


class LimitDirective(DirectiveHead, frozen=True, kw_only=True, tag="limit"):
    """From its journal record on, the site's limit of this name has these values for one id, or ("") for all
    that have none of their own; what is not given stays. lifted: the site's own values are in force again."""

    name: str
    reason: str
    whose: str = ""
    lifted: bool = False
    payment_minor: NotNegative | None = None
    amount_minor: NotNegative | None = None
    count: NotNegative | None = None


class RecallDirective(DirectiveHead, frozen=True, kw_only=True, tag="recall"):
    """Give amount_minor of this account back to the centre, or as much as nobody holds here."""

    account_id: str
    currency: str
    amount_minor: AmountMinor
    reason: str


class CloseDirective(DirectiveHead, frozen=True, kw_only=True, tag="close"):
    """From its journal record on, this account takes and pays nothing new and what is not held goes back to
    the centre (or it is open again)."""

    account_id: str
    currency: str
    closed: bool
    reason: str


Directive = (
    SiteDirective
    | GrantDirective
    | RefuseDirective
    | ConfirmDirective
    | DeclineDirective
    | FreezeDirective
    | BlockDirective
    | LimitDirective
    | RecallDirective
    | CloseDirective
)

UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""All that msgspec raises for bytes: half characters and depth come as errors that are not its own."""

_encoder = msgspec.json.Encoder()
_record_decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)
_directive_decoder: msgspec.json.Decoder[Directive] = msgspec.json.Decoder(Directive)


def encode(record: Record | Directive) -> bytes:
    """The bytes of a record or directive: written once, kept verbatim."""
    return _encoder.encode(record)


def decode_record(body: bytes) -> Record:
    """A record from its bytes; raises msgspec.DecodeError that names the field."""
    try:
        return _record_decoder.decode(body)
    except UNREADABLE as problem:
        raise msgspec.DecodeError(str(problem)) from None


def decode_directive(body: bytes) -> Directive:
    """A directive from its bytes; raises msgspec.DecodeError that names the field."""
    try:
        return _directive_decoder.decode(body)
    except UNREADABLE as problem:
        raise msgspec.DecodeError(str(problem)) from None


def transfer_id(*, epoch: int, seq: int, leg: int) -> int:
    """The 128-bit id of a leg: epoch (32 bits), seq (64), leg (31), a low bit so that it is never 0.
    Time-ordered, needs no index."""
    return epoch << 96 | seq << 32 | leg << 1 | 1


def place_of(transfer: int) -> tuple[int, int, int]:
    """epoch, seq and leg of a transfer id."""
    return transfer >> 96, transfer >> 32 & (2**64 - 1), (transfer & (2**32 - 1)) >> 1


def place_text(*, epoch: int, seq: int) -> str:
    """A record's place as records name it: `epoch/seq`."""
    return f"{epoch}/{seq}"


def parse_place(text: str) -> tuple[int, int]:
    """epoch and seq of an `epoch/seq` text."""
    epoch, _, seq = text.partition("/")
    return int(epoch), int(seq)
