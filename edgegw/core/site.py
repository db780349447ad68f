"""The site's settings as the hub publishes them: accounts, clients, terminals, cards, limits. Pure data,
checked by shape.

A bundle is one JSON document, named by its SM3 digest in a `site` directive, applied whole or not at all
(DESIGN §9). Loading and cross-checks that give an operator an error per field are in `edgegw.config`.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Final

import msgspec

from edgegw.core.records import UNREADABLE, Account, AccountId, AmountMinor, Currency, NotNegative

PERIOD_SECONDS_MAX: Final = 366 * 86_400
PARTICIPANT_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,33}\Z"
"""What a settlement report can name as an account; a BIC and an LEI fit."""


SIGNED: Final = "signed"
"""The profile of a client that must sign."""


class CurrencyRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A currency of the site."""

    code: Currency
    numeric: Annotated[
        int, msgspec.Meta(ge=1, le=999, description="ISO 4217 number, as ISO 8583 field 49 carries it.")
    ]


class WebhookRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a client is told at once what became of its payments after their answers."""

    url: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^https?://[^\s/@?#]+(/[!-~]*)?\Z",
            max_length=2048,
            description="Where boxes post notices: http or https, without a user or password.",
        ),
    ]
    timeout_ms: Annotated[
        int, msgspec.Meta(ge=100, le=60_000, description="A post without an answer for this long has failed.")
    ] = 5_000


GroupName = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,31}\Z")]
SCOPE_PATTERN: Final = r"^[a-z][a-z:-]{0,31}\Z"


class CertificateRule(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """A certificate by what is in it; all that is given must be so. The listener's `client_ca_file` says who
    may have certified it."""

    uri: Annotated[str, msgspec.Meta(max_length=255, pattern=r"^[!-~]*\Z")] = ""
    """A URI among its subject's alternative names, as in `edgegw://BANK/NAME`."""
    dns: Annotated[str, msgspec.Meta(max_length=253, pattern=r"^[A-Za-z0-9._-]*\Z")] = ""
    """A DNS name among them, letter for letter: no wildcards."""
    sha256: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""
    """SHA-256 of its DER in hex, as `openssl x509 -fingerprint -sha256` says it, without colons and in lower
    case: this one certificate and not the next."""


class ClientRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A program that may call the box's API with tokens that it signs with its own Ed25519 key."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}\Z")]
    """The client's name, in its tokens and in the records of its payments."""
    public_key: Annotated[
        str,
        msgspec.Meta(
            description="Raw Ed25519 public key, 32 bytes in base64; who signs with SM2 can do without."
        ),
    ] = ""
    scopes: tuple[Annotated[str, msgspec.Meta(pattern=r"^(pay|read|operate)\Z")], ...] = ("pay", "read")
    """What it may do: `pay`, `read`, `operate` (close windows)."""
    webhook: WebhookRule | msgspec.UnsetType = msgspec.UNSET
    """Without it the client asks for its notices."""
    certificates: tuple[CertificateRule, ...] | msgspec.UnsetType = msgspec.UNSET
    """The client is heard only over TLS with one of these certificates, whatever else it shows; several for
    a change from one to the next."""
    certificate_is_enough: bool | msgspec.UnsetType = msgspec.UNSET
    """Whether one of `certificates` is all that the client needs to show (RFC 8705)."""
    sm2_public_keys: (
        Annotated[
            tuple[Annotated[str, msgspec.Meta(description="Raw SM2 public key, 65 bytes in base64.")], ...],
            msgspec.Meta(max_length=2),
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    """The keys that it signs requests with; two while it goes over to the next."""
    profile: Annotated[str, msgspec.Meta(pattern=r"^(token|signed)\Z")] | msgspec.UnsetType = msgspec.UNSET
    """`signed`: whatever changes something must be signed, by one of sm2_public_keys or in a session that one
    opened; what is not signed only reads. `token`, or without it: both will do."""
    groups: tuple[GroupName, ...] | msgspec.UnsetType = msgspec.UNSET
    """Names of `scope_groups`, or of `pay`, `read`, `operate`: what these hold is then all that it may do,
    and `scopes` says nothing."""


class TerminalRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An ISO 8583 terminal (field 41) and the merchant's account that it fills."""

    id: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9]{1,8}\Z")]
    """Field 41."""
    merchant: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9]{1,15}\Z")]
    """Field 42, where the terminal sends it."""
    credit_account_id: AccountId
    """The merchant's account."""
    currency: Currency
    certificates: tuple[CertificateRule, ...] | msgspec.UnsetType = msgspec.UNSET
    """The terminal is heard only over TLS with one of these certificates, its own or that of the switch in
    front of it; several for a change from one to the next."""


class StandInRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When the branch may stand in for a payer whose money it does not hold (DESIGN §2.3). A floor of 0 is
    never. All but box_minor and the times shrink with the time offline, as `tightening` says."""

    currency: Currency
    floor_minor: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            description="Stand-in only for amounts below this (it fires at >=); what one account pays to one"
            " merchant within split_seconds is added up.",
        ),
    ]
    account_minor: Annotated[
        int,
        msgspec.Meta(ge=0, description="Unconfirmed stand-ins of one account, summed, at most."),
    ]
    account_count: Annotated[
        int, msgspec.Meta(ge=0, description="Unconfirmed stand-ins of one account, counted, at most.")
    ]
    box_minor: Annotated[int, msgspec.Meta(ge=0, description="The risk account's allowance at each box.")]
    offline_seconds_max: Annotated[
        int,
        msgspec.Meta(ge=0, description="No stand-in after the line was down this long."),
    ]
    split_seconds: Annotated[int, msgspec.Meta(ge=0, le=PERIOD_SECONDS_MAX)] = 3600
    """So long stand-ins of one account at one merchant count as one sale for the floor; 0: each alone."""


class TighteningStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is left of the limits for the time offline (stand_in, and limits with `when` offline or stand_in)
    up to an age. After the last step nothing is left."""

    until_hours: Annotated[
        int,
        msgspec.Meta(ge=1, le=24 * 366, description="Hours without the centre, this one included."),
    ]
    percent: Annotated[
        int, msgspec.Meta(ge=0, le=100, description="Of amounts and counts, rounded down; must not rise.")
    ]


DEFAULT_TIGHTENING: Final = tuple(
    TighteningStep(until_hours=hours, percent=percent)
    for hours, percent in ((24, 100), (72, 50), (120, 25), (168, 0))
)


class LimitRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One limit: on a single payment, and on what adds up of one account, card, terminal, merchant or branch
    over a period. Holds count as payments from the moment they are placed."""

    name: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^[a-z0-9][a-z0-9_-]{0,31}\Z", description="How refusals and orders name it; each once."
        ),
    ]
    of: Annotated[str, msgspec.Meta(pattern=r"^(account|card|terminal|merchant|branch)\Z")] = "account"
    """Whose payments are added up: `account` is the payer's, `merchant` the request's merchant or, where it
    names none, the payee's account, `branch` all that this box decides."""
    only: tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=64)], ...] = ()
    """For these ids alone; without it for each one."""
    currency: Annotated[str, msgspec.Meta(pattern=r"^([A-Z]{3})?\Z")] = ""
    """ISO 4217 letters; without it payments of all currencies are counted, and no amounts can be given."""
    when: Annotated[str, msgspec.Meta(pattern=r"^(always|offline|stand_in)\Z")] = "always"
    """`offline`: while the line is down; `stand_in`: only what the branch stands in for. These two shrink
    with the time offline, as `tightening` says."""
    payment_minor_min: AmountMinor | None = None
    """One payment, at least."""
    payment_minor: AmountMinor | None = None
    """One payment, at most."""
    amount_minor: NotNegative | None = None
    """All payments of the period, summed, at most."""
    count: NotNegative | None = None
    """All payments of the period, counted, at most."""
    per: Annotated[str, msgspec.Meta(pattern=r"^(window|day|month|outage|unconfirmed)?\Z")] = ""
    """The period of amount_minor and count: the clearing `window`, the business `day` or `month` of the
    site's calendar, the `outage` (since the line went down), `unconfirmed` (stand-ins without the centre's
    word)."""
    seconds: Annotated[int, msgspec.Meta(ge=0, le=PERIOD_SECONDS_MAX)] = 0
    """Instead of `per`: a sliding period. A payment counts until just before so many seconds have passed."""


class ListRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A long list, by reference: `edgegw site list` makes it from a file of ids and prints this table."""

    name: Annotated[
        str,
        msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}\Z", description="How refusals name it; each once."),
    ]
    of: Annotated[str, msgspec.Meta(pattern=r"^(account|card|terminal|merchant)\Z")]
    """What its ids are; of a merchant as in `limits[].of`, of a card its lookup."""
    effect: Annotated[str, msgspec.Meta(pattern=r"^(block|allow)\Z")] = "block"
    """`block`: who is on it pays nothing; `allow`: who is not on it pays nothing."""
    digest: Annotated[
        str,
        msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z", description="The list's SM3, as the command printed it."),
    ]
    entries: Annotated[
        int, msgspec.Meta(ge=0, le=4_000_000, description="How many ids it has, as the command printed it.")
    ]


class RateRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How fast a client or terminal may ask at one box; beyond it nothing is decided, and it asks again."""

    name: Annotated[str, msgspec.Meta(max_length=32)] = ""
    """The client's name or the terminal's id; "" is each that has no rule of its own."""
    per_second_count: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    """Requests in a second, in the long run."""
    burst_count: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    """Requests at once."""


class AllowanceRule(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """What each box holds before the line fails: what the hub hands out unasked to the box where an account
    is homed and where it paid lately, how much more than asked, what returns, and for how long it lasts."""

    currency: Currency
    share_percent: Annotated[int, msgspec.Meta(ge=0, le=100)]
    """Of an account's whole balance, at most, at the box where it is homed."""
    account_minor: NotNegative
    """For each account, at most, at the box where it is homed."""
    headroom_percent: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    """A top-up that a payment asks for is so much larger, within share_percent and account_minor, at any
    box."""
    seen_days: Annotated[int, msgspec.Meta(ge=0, le=400)] = 0
    """An account that paid at a box within so many days is filled up there too, wherever it is homed; 0:
    only at home."""
    seen_share_percent: Annotated[int, msgspec.Meta(ge=0, le=100)] = 0
    """Of such an account's whole balance, at most, at that box."""
    seen_account_minor: NotNegative = 0
    """For each such account, at most, at that box."""
    idle_hours: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0
    """What a box holds of an account that is homed elsewhere and has not paid there for so long returns to
    the centre; 0: it stays."""
    lease_seconds: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 0
    """So long after the hub's last word a box spends no allowance any more; nothing moves by that, and the
    next word renews it. 0: without end."""
    lease_margin_seconds: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 0
    """The box ends its lease so much earlier, for the error of its clock."""


TIME_PATTERN: Final = r"^([01][0-9]|2[0-3]):[0-5][0-9]\Z"
WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
"""As `datetime.date.weekday` counts them."""


class CalendarRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When every box's window closes by itself, with the line up or down (DESIGN §9: business dates come
    from the window). Without this table a person closes windows."""

    zone: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^[A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,2}\Z",
            description="The time zone of the cut-offs by its IANA name, as in Asia/Shanghai.",
        ),
    ]
    cut_offs: Annotated[
        tuple[Annotated[str, msgspec.Meta(pattern=TIME_PATTERN)], ...],
        msgspec.Meta(min_length=1, max_length=96),
    ]
    """Local times (HH:MM), rising; at each the open window closes. After the last one the next business day
    has begun."""
    weekend: tuple[Annotated[str, msgspec.Meta(pattern=rf"^({'|'.join(WEEKDAYS)})\Z")], ...] = (
        "saturday",
        "sunday",
    )
    """Days of the week without cut-offs."""
    holidays: tuple[date, ...] = ()
    """Other days without cut-offs."""
    working_days: tuple[date, ...] = ()
    """Days of a weekend that have cut-offs all the same."""


class NetDebitCap(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much a participant may owe the others, net, at all boxes together, before it is settled; and how
    far its settlement account may go below zero when it is. Without one there is no limit."""

    participant: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,25}\Z")]
    """As `accounts[].participant` names it, 26 characters at most; `bank` is the bank itself."""
    currency: Currency
    cap_minor: NotNegative
    """A payment beyond it is refused (`net_debit_cap`); a settlement transfer beyond it waits for cover."""


class TokenRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long the tokens of the site's clients are good for, at every box."""

    access_minutes: Annotated[int, msgspec.Meta(ge=5, le=15)] = 10
    """An access token of the box: so long may last what the box has not heard of, as the line is down."""
    refresh_hours: Annotated[int, msgspec.Meta(ge=1, le=720)] = 24
    """A refresh token and all that follow it, in all; then the client begins anew with its key."""
    direct_minutes: Annotated[int, msgspec.Meta(ge=0, le=1440)] = 60
    """A token that the client has signed itself, used as it is; 0: only at the token endpoint."""


class Site(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One site bundle."""

    bank: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}\Z")]
    """The bank that it is for."""
    version: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    """Rises with every change."""
    currencies: tuple[CurrencyRule, ...]
    accounts: tuple[Account, ...] = ()
    clients: tuple[ClientRule, ...] = ()
    terminals: tuple[TerminalRule, ...] = ()
    cards: dict[str, AccountId] = {}
    """Lookup of a PAN to the account behind the card."""
    blocked: tuple[str, ...] = ()
    """Account ids and lookups of cards that pay nothing."""
    limits: tuple[LimitRule, ...] = ()
    stand_in: tuple[StandInRule, ...] = ()
    allowances: tuple[AllowanceRule, ...] = ()
    late_decline_liable: Annotated[str, msgspec.Meta(pattern=r"^(merchant|branch)\Z")] = "merchant"
    """Who bears a stand-in that the centre declines: `merchant` or `branch`."""
    # A bundle without these is the same bytes as before they existed, so that older boxes take it.
    calendar: CalendarRule | msgspec.UnsetType = msgspec.UNSET
    """When windows close by themselves; without it a person closes them."""
    window_close_takes_two: bool | msgspec.UnsetType = msgspec.UNSET
    """Whether closing a window by hand takes two clients with the scope `operate`: one asks, and gives the
    other's token with it. Without it one is enough."""
    net_debit_caps: tuple[NetDebitCap, ...] | msgspec.UnsetType = msgspec.UNSET
    """How far settlement may take participants below zero."""
    lists: tuple[ListRule, ...] | msgspec.UnsetType = msgspec.UNSET
    """Long lists of who pays nothing, or of who alone pays."""
    tightening: tuple[TighteningStep, ...] | msgspec.UnsetType = msgspec.UNSET
    """How the limits for the time offline shrink; without it to 100 % until 24 hours, 50 % until 72,
    25 % until 120, then 0 %."""
    rates: tuple[RateRule, ...] | msgspec.UnsetType = msgspec.UNSET
    """How fast clients and terminals may ask."""
    scope_groups: (
        dict[
            GroupName,
            tuple[Annotated[str, msgspec.Meta(pattern=SCOPE_PATTERN)], ...],
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    """Groups of scopes that clients are given, by name."""
    tokens: TokenRule | msgspec.UnsetType = msgspec.UNSET
    """How long tokens are good for; without it as its fields say."""


_decoder = msgspec.json.Decoder(Site)


def decode_site(bundle: bytes) -> Site:
    """A site from a bundle's bytes; raises msgspec.DecodeError that names the field."""
    try:
        return _decoder.decode(bundle)
    except UNREADABLE as problem:
        raise msgspec.DecodeError(str(problem)) from None
