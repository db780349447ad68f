"""The bodies of the HTTP interface: what a client sends, and how each becomes the one canonical request.

Field limits stand in the types, so that the decoder and the OpenAPI document cannot differ.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from edgegw.core.records import (
    AccountId,
    AmountMinor,
    BatchTotals,
    Currency,
    Kind,
    Position,
    Request,
    RequestId,
    ShortText,
)
from edgegw.payments.answer import Answer, Totals
from edgegw.payments.problems import ProblemDocument
from edgegw.payments.service import BATCH_MAX

HOLD_SECONDS_MAX = 366 * 24 * 3600
BusinessDate = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}\Z",
        description="A calendar date.",
        extra_json_schema={"format": "date"},
    ),
]
Place = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[0-9]{1,6}/[0-9]{1,12}\Z", description="epoch/seq of a record in the box's journal."
    ),
]


CardLookup = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^([0-9a-f]{64})?\Z",
        description="The card's lookup (`edgegw card-lookup`), for limits and lists; never its number.",
    ),
]


class Sent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """What all bodies share: nothing unknown is let pass."""


class PaymentBody(Sent, frozen=True, kw_only=True):
    """A payment: amount_minor from debit_account_id to credit_account_id."""

    id: RequestId
    debit_account_id: AccountId
    credit_account_id: AccountId
    amount_minor: AmountMinor
    currency: Currency
    stand_in: Annotated[
        bool,
        msgspec.Meta(
            description="Whether the branch may stand in while the line is down and no allowance covers it."
        ),
    ] = True
    card: CardLookup = ""
    terminal: ShortText = ""
    merchant: ShortText = ""
    reference: ShortText = ""

    def request(self) -> Request:
        """The canonical request."""
        return Request(
            kind=Kind.PAYMENT,
            id=self.id,
            debit_account_id=self.debit_account_id,
            credit_account_id=self.credit_account_id,
            amount_minor=self.amount_minor,
            currency=self.currency,
            stand_in=self.stand_in,
            card=self.card,
            terminal=self.terminal,
            merchant=self.merchant,
            reference=self.reference,
        )


class BatchBody(Sent, frozen=True, kw_only=True):
    """Up to 8,190 payments in one request."""

    payments: Annotated[list[PaymentBody], msgspec.Meta(min_length=1, max_length=BATCH_MAX)]
    linked: Annotated[bool, msgspec.Meta(description="All of them are cleared, or none.")] = False


class HoldBody(Sent, frozen=True, kw_only=True):
    """A hold: reserves amount_minor on debit_account_id for credit_account_id."""

    id: RequestId
    debit_account_id: AccountId
    credit_account_id: AccountId
    amount_minor: AmountMinor
    currency: Currency
    timeout_s: Annotated[
        int, msgspec.Meta(ge=0, le=HOLD_SECONDS_MAX, description="Seconds until it expires; 0 is never.")
    ] = 0
    card: CardLookup = ""
    terminal: ShortText = ""
    merchant: ShortText = ""
    reference: ShortText = ""

    def request(self) -> Request:
        """The canonical request."""
        return Request(
            kind=Kind.HOLD,
            id=self.id,
            debit_account_id=self.debit_account_id,
            credit_account_id=self.credit_account_id,
            amount_minor=self.amount_minor,
            currency=self.currency,
            timeout_s=self.timeout_s,
            card=self.card,
            terminal=self.terminal,
            merchant=self.merchant,
            reference=self.reference,
        )


class PartBody(Sent, frozen=True, kw_only=True):
    """What is asked of an earlier request, whole (no amount_minor) or in part."""

    id: RequestId
    amount_minor: AmountMinor | UnsetType = UNSET
    reference: ShortText = ""
    asks_for: ClassVar[Kind]

    def request(self, client: str, original_id: str) -> Request:
        """The canonical request."""
        return Request(
            kind=self.asks_for,
            id=self.id,
            amount_minor=0 if self.amount_minor is UNSET else self.amount_minor,
            original_client=client,
            original_id=original_id,
            reference=self.reference,
        )


class PostBody(PartBody, frozen=True, kw_only=True):
    """Pay what was held, or a part of it; the rest is given free."""

    asks_for = Kind.POST


class VoidBody(Sent, frozen=True, kw_only=True):
    """Give free what was held."""

    id: RequestId
    reference: ShortText = ""

    def request(self, client: str, original_id: str) -> Request:
        """The canonical request."""
        return Request(
            kind=Kind.VOID,
            id=self.id,
            original_client=client,
            original_id=original_id,
            reference=self.reference,
        )


class ReversalBody(Sent, frozen=True, kw_only=True):
    """Give back a payment, whole (no amount_minor) or in part."""

    id: RequestId
    original_id: RequestId
    amount_minor: AmountMinor | UnsetType = UNSET
    reference: ShortText = ""

    def request(self, client: str) -> Request:
        """The canonical request."""
        return Request(
            kind=Kind.REVERSAL,
            id=self.id,
            amount_minor=0 if self.amount_minor is UNSET else self.amount_minor,
            original_client=client,
            original_id=self.original_id,
            reference=self.reference,
        )


class RefundBody(PartBody, frozen=True, kw_only=True):
    """Give money of a payment back, whatever is left of it (no amount_minor) or a part."""

    asks_for = Kind.REFUND


class GroupPayment(PaymentBody, frozen=True, kw_only=True, tag_field="kind", tag="payment"):
    """A payment of a group."""

    def of(self, client: str) -> Request:  # noqa: ARG002 - as the other members'
        """The canonical request."""
        return self.request()


class GroupHold(HoldBody, frozen=True, kw_only=True, tag_field="kind", tag="hold"):
    """A hold of a group."""

    def of(self, client: str) -> Request:  # noqa: ARG002 - as the other members'
        """The canonical request."""
        return self.request()


class GroupPost(PostBody, frozen=True, kw_only=True, tag_field="kind", tag="post"):
    """The post of a hold, which may be of the same group."""

    hold_id: RequestId

    def of(self, client: str) -> Request:
        """The canonical request."""
        return self.request(client, self.hold_id)


class GroupVoid(VoidBody, frozen=True, kw_only=True, tag_field="kind", tag="void"):
    """The void of a hold."""

    hold_id: RequestId

    def of(self, client: str) -> Request:
        """The canonical request."""
        return self.request(client, self.hold_id)


class GroupReversal(ReversalBody, frozen=True, kw_only=True, tag_field="kind", tag="reversal"):
    """The reversal of a payment or hold."""

    def of(self, client: str) -> Request:
        """The canonical request."""
        return self.request(client)


class GroupRefund(RefundBody, frozen=True, kw_only=True, tag_field="kind", tag="refund"):
    """The refund of a payment."""

    payment_id: RequestId

    def of(self, client: str) -> Request:
        """The canonical request."""
        return self.request(client, self.payment_id)


GROUP_MAX = 512
Member = GroupPayment | GroupHold | GroupPost | GroupVoid | GroupReversal | GroupRefund


class GroupBody(Sent, frozen=True, kw_only=True):
    """Up to 512 requests that are all cleared, in their order, or none is."""

    members: Annotated[list[Member], msgspec.Meta(min_length=1, max_length=GROUP_MAX)]


Merchant = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._:-]{0,63}\Z",
        description="A merchant, as payments name it: letters, digits, blanks and ._:-",
    ),
]


class CloseBatchBody(Sent, frozen=True, kw_only=True):
    """End a merchant's batch, or that of one of its terminals, and compare what the client has counted."""

    id: RequestId
    terminal: Annotated[
        ShortText, msgspec.Meta(description="Close this terminal's batch; without it, the merchant's own.")
    ] = ""
    totals: (
        Annotated[
            list[BatchTotals],
            msgspec.Meta(
                min_length=1, max_length=180, description="The client's own figures, one for each currency."
            ),
        ]
        | UnsetType
    ) = UNSET
    reference: ShortText = ""

    def request(self, merchant: str) -> Request:
        """The canonical request."""
        return Request(
            kind=Kind.CLOSE_BATCH,
            id=self.id,
            merchant=merchant,
            terminal=self.terminal,
            totals=() if self.totals is UNSET else tuple(self.totals),
            reference=self.reference,
        )


class OpenBatch(msgspec.Struct, frozen=True, kw_only=True):
    """What has been counted since the last close."""

    number: int
    totals: tuple[Totals, ...]


class BatchesPage(msgspec.Struct, frozen=True, kw_only=True):
    """The open batch, and closed ones of this epoch of the box, newest first; `next_before` is where the next
    page starts, "" at the end."""

    open: OpenBatch
    closed: list[Answer]
    next_before: str


class BatchesQuery(Sent, frozen=True, kw_only=True):
    """Which batches to list."""

    terminal: Annotated[
        ShortText, msgspec.Meta(description="Those of this terminal; without it, the merchant's own.")
    ] = ""
    before: Place | UnsetType = UNSET
    limit: Annotated[int, msgspec.Meta(ge=1, le=100, description="At most so many.")] = 20


class SessionBody(Sent, frozen=True, kw_only=True):
    """Open a session. The request is signed with the client's SM2 key, and so is the share in it."""

    share: Annotated[
        str,
        msgspec.Meta(
            min_length=44,
            max_length=44,
            description="The base64 of an X25519 public key that the client made for this session.",
        ),
    ]


class SessionOpened(msgspec.Struct, frozen=True, kw_only=True):
    """A session. Its key is HKDF-SM3 of what the two shares have in common."""

    keyid: str
    """What the session's signatures name as keyid; it ends with the box's process."""
    share: str
    """The box's X25519 public key, base64."""
    lifetime_s: int
    """How long it lasts from now on."""
    signature: str
    """The box's Ed25519 signature over the session's transcript, base64, by the webhook key of GET
    /v1/status; "" where the box has none."""


class CloseBody(Sent, frozen=True, kw_only=True):
    """Close the open window. Its number makes a retry safe."""

    window: Annotated[
        int, msgspec.Meta(ge=1, le=2**63 - 1, description="The open window; GET /v1/status names it.")
    ]
    business_date: BusinessDate
    second_token: Annotated[
        str,
        msgspec.Meta(
            max_length=4096,
            description="The bearer token of a second client with the scope `operate`, where the site's"
            " settings say that closing by hand takes two.",
        ),
    ] = ""


class BatchItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One payment's result: `answer` when it was cleared, else `problem`."""

    status: int
    answer: Answer | UnsetType = UNSET
    problem: ProblemDocument | UnsetType = UNSET


class BatchAnswers(msgspec.Struct, frozen=True, kw_only=True):
    """The results of a batch, in the order of its payments."""

    answers: list[BatchItem]


class AccountView(msgspec.Struct, frozen=True, kw_only=True):
    """What this box holds of an account. Its full balance is known to the centre alone."""

    id: str
    currency: str
    home: str
    participant: str
    available_minor: int
    """What the account may spend here: its allowance less what is held."""
    debits_pending_minor: int
    debits_posted_minor: int
    credits_pending_minor: int
    credits_posted_minor: int
    frozen: bool
    closed: bool


class AccountPage(msgspec.Struct, frozen=True, kw_only=True):
    """Accounts in the order of their ids; `next_after` is where the next page starts, "" at the end."""

    accounts: list[AccountView]
    next_after: str


class AccountQuery(Sent, frozen=True, kw_only=True):
    """Which accounts to list."""

    after: Annotated[
        str, msgspec.Meta(max_length=34, pattern=r"^[A-Za-z0-9._:-]*\Z", description="List ids above this.")
    ] = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000, description="At most so many.")] = 100


class KeptReversal(msgspec.Struct, frozen=True, kw_only=True):
    """A reversal that came before its original, or for one that never comes."""

    client: str
    id: str
    original_id: str
    amount_minor: int
    """0 means: all of it."""
    record: str
    at_ns: int
    wall_ns: int


class KeptPage(msgspec.Struct, frozen=True, kw_only=True):
    """Reversals that wait, oldest first; `next_after` is where the next page starts, "" at the end."""

    waiting: int
    """How many there are in all."""
    reversals: list[KeptReversal]
    next_after: str


class KeptQuery(Sent, frozen=True, kw_only=True):
    """Where to go on: `next_after` of the page before."""

    after: Place | UnsetType = UNSET
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000, description="At most so many.")] = 100


class WindowView(msgspec.Struct, frozen=True, kw_only=True):
    """A closed clearing window; its positions sum to zero for each currency."""

    window: int
    business_date: str
    transfers: int
    positions: tuple[Position, ...]
    closed_by: str
    record: str
    at_ns: int


class WindowPage(msgspec.Struct, frozen=True, kw_only=True):
    """The open window's number, and closed windows, oldest first."""

    open_window: int
    windows: list[WindowView]


class WindowQuery(Sent, frozen=True, kw_only=True):
    """Which closed windows to list."""

    after: Annotated[
        int, msgspec.Meta(ge=0, le=2**53, description="List windows with a number above this.")
    ] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000, description="At most so many.")] = 100


Whose = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^([a-z0-9][a-z0-9-]{0,31}|iso8583:[A-Za-z0-9]{1,8})\Z",
        description="Another client's notices, for one with the scope `operate`: those of a terminal,"
        " `iso8583:` and its id, which nobody else can read, or of a client that is gone.",
    ),
]


class NoticeQuery(Sent, frozen=True, kw_only=True):
    """Where to go on: `next_after` of the page before. Without it the list begins with the oldest notice that
    is not acknowledged, and has only such."""

    client: Whose | UnsetType = UNSET
    after: Place | UnsetType = UNSET
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000, description="At most so many.")] = 100


class AcknowledgeBody(Sent, frozen=True, kw_only=True):
    """All of the client's notices up to a record are taken note of, those set apart too."""

    up_to: Place
    """`record` of a notice, or `next_after` of a page."""
    client: Whose | UnsetType = UNSET


class Acknowledged(msgspec.Struct, frozen=True, kw_only=True):
    """It is in the journal."""

    up_to: str
    record: str
    """The journal's record that says so, the newest one of this client."""


class NoQuery(Sent, frozen=True, kw_only=True):
    """No parameters."""


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """How the copy of the ledger's file is."""

    state: str
    """`off`, `starting`, `well`, `stuck`, `silent`, `dead` or `no_room`."""
    alarm: bool
    """Whether an operator must look."""
    malformed: bool
    """Whether the last drill found the copy malformed."""
    reason: str
    hint: str
    """What an operator does about it; "" where nothing is to be done."""
    target: str
    place: str
    """Where the copy stands at the target."""
    txid: int
    """What litestream has read of the ledger, in its own numbers."""
    replicated_txid: int
    """What of that is at the target."""
    lag_seconds: float
    """Age of the oldest change that is not at the target."""
    lag_records: int
    """Records of the running epoch that are not known to be at the target."""
    lag_bytes: int
    wal_bytes: int
    restarts: int
    drill_at_s: int
    """When the copy was last restored and checked, in seconds since 1970; 0 for never."""
    drill_well: bool
    drill_skipped: bool
    """Whether there was no room for it; it says nothing of the copy then."""
    drill_problem: str


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """The box's own certificate, which the centre gives and renews."""

    state: str
    """`well`, `due` for renewal, `ended`, or `refused` by the centre: then only a person mends it."""
    ends_s: int
    """Seconds since 1970."""
    days_left: float
    problem: str
    """Why the last renewal failed; "" where none did."""
    hint: str
    clock_ahead_s: int
    """How far the machine's clock is ahead of the centre's time; negative: behind."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """How the box is."""

    bank: str
    box: str
    version: str
    mode: str
    mode_reason: str
    clears: bool
    """Whether payments are taken now."""
    line_up: bool
    offline_since_ns: int
    """The box's own time when the line went down; 0 while it is up."""
    epoch: int
    journal_size: int
    cosigned_size: int
    """How much of the journal the centre has in its books."""
    records_waiting: int
    """What the centre has not cosigned yet."""
    window: int
    window_transfers: int
    site_version: int
    queue_depth: int
    webhook_key: str
    """The public Ed25519 key of posts to webhooks, as Standard Webhooks writes it (`whpk_...`)."""
    replica: Replica | None
    """The copy for the day the box burns; null where the box's settings want none."""
    certificate: Certificate | None
    """Null where the box's settings name no enrolment."""


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """The signed end of the journal."""

    epoch: int
    size: int
    checkpoint: str
    """The signed note: origin, size, root, signature."""
    cosigned_size: int
    cosignature: str
    """The centre's cosignature, which covers cosigned_size records; "" when there is none yet."""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Alive, or ready."""

    status: str
