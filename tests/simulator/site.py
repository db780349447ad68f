"""What the bank looks like in a run: currencies, accounts, rules and opening balances, from the seed."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

import msgspec

from edgegw.core.records import Account
from edgegw.core.site import AllowanceRule, CurrencyRule, LimitRule, NetDebitCap, Site, StandInRule
from tests.simulator.machine import BANK

CURRENCIES: Final = (("CNY", 156), ("EUR", 978))
PARTICIPANTS: Final = ("", "city", "land", "coast")


def a_site(chance: Random, boxes: tuple[str, ...]) -> Site:
    """The first version of the site's settings."""
    accounts = []
    for number in range(chance.randint(10, 40)):
        currency = CURRENCIES[0] if number < 4 or chance.random() < 0.75 else CURRENCIES[1]
        home = chance.choice(boxes) if chance.random() < 0.8 else ""
        accounts.append(
            Account(
                id=f"{currency[0]}-{number:02d}",
                currency=currency[0],
                home=home,
                participant=chance.choice(PARTICIPANTS),
            )
        )
    return Site(
        bank=BANK,
        version=1,
        currencies=tuple(CurrencyRule(code=code, numeric=number) for code, number in CURRENCIES),
        accounts=tuple(accounts),
        blocked=(accounts[-1].id,) if chance.random() < 0.5 else (),
        limits=_limits(chance),
        stand_in=_stand_in(chance),
        allowances=tuple(
            AllowanceRule(
                currency=code,
                share_percent=chance.choice((20, 50, 80)),
                account_minor=chance.choice((500, 2_000, 10_000)),
                headroom_percent=chance.choice((0, 0, 30, 200)),
                seen_days=(seen := chance.choice((0, 0, 1, 30))),
                seen_share_percent=30 if seen else 0,
                seen_account_minor=700 if seen else 0,
                idle_hours=chance.choice((0, 1)),
                lease_seconds=(lease := chance.choice((0, 0, 4, 15))),
                lease_margin_seconds=1 if lease else 0,
            )
            for code, _ in CURRENCIES
            if chance.random() < 0.8
        ),
        late_decline_liable=chance.choice(("merchant", "branch")),
        net_debit_caps=_caps(chance, accounts),
    )


def _caps(chance: Random, accounts: Sequence[Account]) -> tuple[NetDebitCap, ...] | msgspec.UnsetType:
    """Of some participants, the bank among them; a site in three has none."""
    if chance.random() < 0.34:
        return msgspec.UNSET
    return tuple(
        NetDebitCap(
            participant=who or "bank", currency=code, cap_minor=chance.choice((0, 900, 6_000, 40_000))
        )
        for who, code in sorted({(one.participant, one.currency) for one in accounts})
        if chance.random() < 0.5
    )


def _limits(chance: Random) -> tuple[LimitRule, ...]:
    """Some of every kind, few enough that most payments pass."""
    rules = []
    for code, _ in CURRENCIES:
        name = code.lower()
        rules += [
            LimitRule(
                name=f"{name}-window",
                currency=code,
                payment_minor=chance.choice((900, 5_000)),
                per="window",
                amount_minor=chance.choice((5_000, 20_000)),
            ),
            LimitRule(
                name=f"{name}-merchant", of="merchant", currency=code, per="day", amount_minor=4_000, count=25
            ),
            LimitRule(name=f"{name}-month", of="terminal", currency=code, per="month", amount_minor=9_000),
            LimitRule(
                name=f"{name}-outage", of="branch", currency=code, when="offline", per="outage", count=30
            ),
            LimitRule(name=f"{name}-hour", of="card", currency=code, seconds=40, amount_minor=1_200),
            LimitRule(
                name=f"{name}-waits",
                of=chance.choice(("merchant", "terminal", "card", "branch")),
                currency=code,
                when="stand_in",
                per="unconfirmed",
                amount_minor=chance.choice((600, 3_000)),
            ),
        ]
    rules += [
        LimitRule(name="often", seconds=60, count=chance.choice((8, 60))),
        LimitRule(name="tiny", of="terminal", only=("T1",), currency="CNY", payment_minor_min=7),
        LimitRule(name="offline-often", of="terminal", when="offline", seconds=20, count=25),
    ]
    return tuple(rule for rule in rules if chance.random() < 0.4)


def _stand_in(chance: Random) -> tuple[StandInRule, ...]:
    return tuple(
        StandInRule(
            currency=code,
            floor_minor=chance.choice((200, 600)),
            account_minor=chance.choice((700, 1_000)),
            account_count=chance.choice((2, 10)),
            box_minor=chance.choice((1_000, 8_000)),
            offline_seconds_max=chance.choice((3_600, 400_000)),
            split_seconds=chance.choice((0, 5, 30)),
        )
        for code, _ in CURRENCIES
        if chance.random() < 0.85
    )


def next_site(chance: Random, site: Site) -> Site:
    """A later version: other limits, another stand-in, one account more."""
    fresh = Account(
        id=f"CNY-new{site.version}", currency="CNY", home=chance.choice(site.accounts).home, participant=""
    )
    return msgspec.structs.replace(
        site,
        version=site.version + 1,
        accounts=(*site.accounts, fresh),
        limits=_limits(chance),
        stand_in=_stand_in(chance),
        net_debit_caps=_caps(chance, site.accounts),
    )


def openings(chance: Random, site: Site) -> list[tuple[str, int]]:
    """What each account has at the start; some have nothing."""
    return [
        (account.id, amount)
        for account in site.accounts
        if (amount := chance.choice((0, 300, 2_000, 2_000, 20_000, 20_000)))
    ]
