"""The site's settings as the hub publishes them: accounts, clients, terminals, cards, limits. Pure data,
checked by shape.

A bundle is one JSON document, named by its SM3 digest in a `site` directive, applied whole or not at all
(DESIGN §9). Loading and cross-checks that give an operator an error per field are in `edgegw.config`.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Final

import msgspec

from edgegw.core.records import UNREADABLE, Account, AccountId, AmountMinor, Currency

NotNegative = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
PARTICIPANT_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,33}\Z"
"""What a settlement report can name as an account; a BIC and an LEI fit."""


class CurrencyRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A currency of the site."""

    code: Currency
    numeric: Annotated[
        int, msgspec.Meta(ge=1, le=999, description="ISO 4217 number, as ISO 8583 field 49 carries it.")
    ]


class ClientRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A program that may call the box's API with tokens that it signs with its own Ed25519 key."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}\Z")]
    """The client's name, in its tokens and in the records of its payments."""
    public_key: Annotated[str, msgspec.Meta(description="Raw Ed25519 public key, 32 bytes in base64.")]
    scopes: tuple[Annotated[str, msgspec.Meta(pattern=r"^(pay|read|operate)\Z")], ...] = ("pay", "read")
    """What it may do: `pay`, `read`, `operate` (close windows)."""


class TerminalRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An ISO 8583 terminal (field 41) and the merchant's account that it fills."""

    id: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9]{1,8}\Z")]
    """Field 41."""
    merchant: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9]{1,15}\Z")]
    """Field 42, where the terminal sends it."""
    credit_account_id: AccountId
    """The merchant's account."""
    currency: Currency


class StandInRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When the branch may stand in for a payer whose money it does not hold (DESIGN §2.3). A floor of 0 is
    never."""

    currency: Currency
    floor_minor: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            description="Stand-in only for amounts below this (it fires at >=): "
            "half of it after 1 day offline, a quarter after 3, none after 5.",
        ),
    ]
    account_minor: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            description="Unconfirmed stand-ins of one account, summed, at most; "
            "half of it after 1 day offline, a quarter after 3, none after 5.",
        ),
    ]
    account_count: Annotated[
        int, msgspec.Meta(ge=0, description="Unconfirmed stand-ins of one account, counted, at most.")
    ]
    box_minor: Annotated[int, msgspec.Meta(ge=0, description="The risk account's allowance at each box.")]
    offline_seconds_max: Annotated[
        int,
        msgspec.Meta(ge=0, description="No stand-in after the line was down this long, nor after 5 days."),
    ]


class LimitRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits on what one account pays out at one box."""

    currency: Currency
    payment_minor: AmountMinor
    """One payment or hold, at most."""
    window_minor: AmountMinor
    """Per account and window, held amounts included."""
    velocity_per_minute: Annotated[int, msgspec.Meta(ge=1)] = 1000
    """Payments and holds of one account in a minute, at most."""


class AllowanceRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the hub hands out unasked to the box where an account is homed."""

    currency: Currency
    share_percent: Annotated[int, msgspec.Meta(ge=0, le=100)]
    """Of an account's whole balance, at most."""
    account_minor: NotNegative
    """For each account, at most."""


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
    """How far a participant's settlement account may go below zero when cycles are settled. Without one
    there is no limit."""

    participant: Annotated[str, msgspec.Meta(pattern=PARTICIPANT_PATTERN)]
    """As `accounts[].participant` names it; `bank` is the bank itself."""
    currency: Currency
    cap_minor: NotNegative
    """What is beyond it waits until cover arrives."""


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
    """Vault token of a PAN to the account behind the card."""
    blocked: tuple[str, ...] = ()
    """Account ids and card tokens that pay nothing."""
    limits: tuple[LimitRule, ...] = ()
    stand_in: tuple[StandInRule, ...] = ()
    allowances: tuple[AllowanceRule, ...] = ()
    late_decline_liable: Annotated[str, msgspec.Meta(pattern=r"^(merchant|branch)\Z")] = "merchant"
    """Who bears a stand-in that the centre declines: `merchant` or `branch`."""
    # A bundle without these two is the same bytes as before they existed, so that older boxes take it.
    calendar: CalendarRule | msgspec.UnsetType = msgspec.UNSET
    """When windows close by themselves; without it a person closes them."""
    net_debit_caps: tuple[NetDebitCap, ...] | msgspec.UnsetType = msgspec.UNSET
    """How far settlement may take participants below zero."""


_decoder = msgspec.json.Decoder(Site)


def decode_site(bundle: bytes) -> Site:
    """A site from a bundle's bytes; raises msgspec.DecodeError that names the field."""
    try:
        return _decoder.decode(bundle)
    except UNREADABLE as problem:
        raise msgspec.DecodeError(str(problem)) from None
