"""How much of an account a box holds, and for how long: the arithmetic of `AllowanceRule`. Pure.

The hub decides by it what it hands out, asked and unasked, and which boxes it asks for money back before it
declines (DESIGN §4); the box decides by it when its lease is over. Leaves out the books (`hub.books`) and
when which of these is due (`hub.grants`, `hub.recalls`, `core.decide`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from edgegw.core.site import AllowanceRule

NS_PER_S: Final = 1_000_000_000
HOUR_NS: Final = 3600 * NS_PER_S
DAY_NS: Final = 24 * HOUR_NS


class Holder(NamedTuple):
    """A box that can be asked for money, and what it holds by the hub's books."""

    box: str
    amount_minor: int
    is_home: bool
    """Whether the account is at home there."""


class Due(NamedTuple):
    """What one box is to give back."""

    box: str
    amount_minor: int


def home_target_minor(rule: AllowanceRule | None, *, balance_minor: int) -> int:
    """What a box holds unasked of an account that is at home there."""
    return 0 if rule is None else min(rule.account_minor, balance_minor * rule.share_percent // 100)


def seen_target_minor(rule: AllowanceRule | None, *, balance_minor: int) -> int:
    """What a box holds unasked of an account that paid there lately and is at home elsewhere."""
    return 0 if rule is None else min(rule.seen_account_minor, balance_minor * rule.seen_share_percent // 100)


def is_seen(rule: AllowanceRule | None, *, seen_ns: int, recalled_ns: int, now_ns: int) -> bool:
    """Whether an account paid at a box lately, and since it was last asked back from there."""
    return rule is not None and seen_ns > max(recalled_ns, now_ns - rule.seen_days * DAY_NS)


def grant_minor(
    rule: AllowanceRule | None,
    *,
    asked_minor: int,
    available_minor: int,
    outstanding_minor: int,
    balance_minor: int,
    target_minor: int,
) -> int:
    """What one top-up gives: what was asked, and with it what the account's allotment there (target_minor, 0
    for none) lacks, or the headroom, whichever is more; at most what is available."""
    more_minor = max(0, target_minor - outstanding_minor)
    if rule is not None:
        room_minor = max(0, home_target_minor(rule, balance_minor=balance_minor) - outstanding_minor)
        more_minor = max(more_minor, min(asked_minor * rule.headroom_percent // 100, room_minor))
    return min(available_minor, asked_minor + more_minor)


def lacking_minor(*, asked_minor: int, available_minor: int, outstanding_minor: int) -> int:
    """What other boxes must give back before asked_minor can be granted; 0 where the centre has enough.

    Enough with what the asking box holds already is enough, because the rest of it may be free there. With
    nothing at the centre it has shown that it is not.
    """
    covered_minor = available_minor + outstanding_minor
    if available_minor > 0 and covered_minor >= asked_minor:
        return 0
    return asked_minor - (available_minor if covered_minor >= asked_minor else covered_minor)


def to_recall(wanted_minor: int, holders: Iterable[Holder]) -> list[Due]:
    """Who gives back how much, so that it is wanted_minor together; nobody where all of them have less.

    As few boxes as possible, the fullest first, and last the one where the account is at home.
    """
    left_minor, dues = wanted_minor, []
    for holder in sorted(holders, key=lambda one: (one.is_home, -one.amount_minor, one.box)):
        if left_minor <= 0:
            break
        if holder.amount_minor > 0:
            dues.append(Due(holder.box, min(left_minor, holder.amount_minor)))
            left_minor -= dues[-1].amount_minor
    return dues if left_minor <= 0 else []


def lease_ns(rule: AllowanceRule) -> int:
    """How long after the hub's last word a box may spend, by its own clock; 0 is for ever."""
    return max(rule.lease_seconds - rule.lease_margin_seconds, 1) * NS_PER_S if rule.lease_seconds else 0
