"""The site's settings as the hub publishes them: accounts, clients, terminals, cards, limits. Pure data,
checked by shape.

A bundle is one JSON document, named by its SM3 digest in a `site` directive, applied whole or not at all
(DESIGN §9). Loading and cross-checks that give an operator an error per field are in `edgegw.config`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from edgegw.core.records import UNREADABLE, Account, AccountId, AmountMinor, Currency

NotNegative = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


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


_decoder = msgspec.json.Decoder(Site)


def decode_site(bundle: bytes) -> Site:
    """A site from a bundle's bytes; raises msgspec.DecodeError that names the field."""
    try:
        return _decoder.decode(bundle)
    except UNREADABLE as problem:
        raise msgspec.DecodeError(str(problem)) from None
