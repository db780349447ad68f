"""What limits count: payments added up by whose they are, over fixed and sliding periods. Pure.

Which sums a box keeps (`Measure`) stands in the record of the site directive that asks for them, so that the
journal alone gives the same sums again. What counts is what stands: a hold from the moment it is placed; what
it does not use, and what is reversed or declined later, is taken off the period in which it was counted.
Leaves out what is allowed (`core.limits`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from edgegw.core.lists import HeldList
from edgegw.core.records import ClearedBy, Measure, Request, Transfer, Undone
from edgegw.core.site import (
    DEFAULT_TIGHTENING,
    LimitRule,
    ListRule,
    Site,
    StandInRule,
    TighteningStep,
)

NS_PER_S: Final = 1_000_000_000
ALWAYS: Final = "always"
OFFLINE: Final = "offline"
STAND_IN: Final = "stand_in"
OUTAGE: Final = "outage"
UNCONFIRMED: Final = "unconfirmed"
SUBJECTS: Final = ("account", "card", "terminal", "merchant", "branch")
SPLIT: Final = "split"
"""Whose payments the floor adds up: one payer's to one merchant."""

EXACT_ENTRIES: Final = 64
"""So many payments of a sliding period are kept one by one."""
COARSE_PARTS: Final = 128
"""Beyond these, payments within one part of the period are kept as one, which leaves with its last: a key has
at most 64 + 129 entries, and a payment counts up to 1/128 of the period too long, never too short."""


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Payments of a sliding period that leave it together."""

    first_at_ns: int
    last_at_ns: int
    amount_minor: int
    count: int


class Count(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True, gc=False):
    """What was counted of one id: for a fixed period its sums, for a sliding one its entries."""

    since: int
    """Which period: the number of its first window, or when the outage began; 0 for a sliding one."""
    first_at_ns: int
    """The first payment that was counted in a fixed period."""
    amount_minor: int = 0
    count: int = 0
    """Of all entries, where it is sliding."""
    entries: tuple[Entry, ...] = ()


class StandIn(msgspec.Struct, frozen=True, omit_defaults=True):
    """A stand-in that waits for the centre's word."""

    payer_account_id: str
    currency: str
    amount_minor: int
    client: str
    id: str
    card: str = ""
    terminal: str = ""
    merchant: str = ""

    def subjects(self, box: str) -> Iterator[tuple[str, str, str]]:
        """Under whose unconfirmed stand-ins it counts: (in which respect, whose, currency)."""
        named = (self.payer_account_id, self.card, self.terminal, self.merchant, box)
        return ((of, whose, self.currency) for of, whose in zip(SUBJECTS, named, strict=True) if whose)


class Stood(msgspec.Struct, frozen=True, gc=False):
    """The unconfirmed stand-ins of one account, card, terminal, merchant or branch."""

    amount_minor: int = 0
    count: int = 0


NOTHING: Final = Stood()


class LimitChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """Other values of a limit, by an order of the centre; None is as the site says."""

    payment_minor: int | None = None
    amount_minor: int | None = None
    count: int | None = None


class Limit(msgspec.Struct, frozen=True):
    """A limit as decisions read it."""

    rule: LimitRule
    only: frozenset[str]
    measure: Measure | None
    key: str


class Policy(NamedTuple):
    """A site's limits and lists as decisions read them."""

    limits: Mapping[str, tuple[Limit, ...]] = {}
    """By currency, without those for stand-ins alone."""
    stand_in_limits: Mapping[str, tuple[Limit, ...]] = {}
    tightening: tuple[TighteningStep, ...] = DEFAULT_TIGHTENING
    lists: tuple[tuple[ListRule, HeldList], ...] = ()


def policy_of(site: Site, lists: Mapping[str, HeldList]) -> Policy:
    """What these settings say; lists by digest, with all that they name."""
    return Policy(
        _limits_of(site),
        _stand_in_limits_of(site),
        DEFAULT_TIGHTENING if site.tightening is msgspec.UNSET else site.tightening,
        tuple((rule, lists[rule.digest]) for rule in site.lists or ()),
    )


def _limits_of(site: Site) -> dict[str, tuple[Limit, ...]]:
    rules = [rule for rule in site.limits if rule.when != STAND_IN]
    return _by_currency(site, rules)


def _stand_in_limits_of(site: Site) -> dict[str, tuple[Limit, ...]]:
    rules = [
        LimitRule(
            name=STAND_IN,
            currency=rule.currency,
            when=STAND_IN,
            per=UNCONFIRMED,
            amount_minor=rule.account_minor,
            count=rule.account_count,
        )
        for rule in site.stand_in
    ]
    return _by_currency(site, rules + [rule for rule in site.limits if rule.when == STAND_IN])


def _by_currency(site: Site, rules: list[LimitRule]) -> dict[str, tuple[Limit, ...]]:
    limits = []
    for rule in rules:
        measure = measure_of(rule)
        limits.append(Limit(rule, frozenset(rule.only), measure, "" if measure is None else measure.key))
    found = {
        code: tuple(limit for limit in limits if limit.rule.currency in ("", code))
        for code in (currency.code for currency in site.currencies)
    }
    return {code: some for code, some in found.items() if some}


def measures_of(*sites: Site | None) -> tuple[Measure, ...]:
    """The sums that the limits of these sites need, each once."""
    wanted: list[Measure | None] = []
    for site in sites:
        if site is not None:
            wanted += [measure_of(rule) for rule in site.limits]
            wanted += [split_measure(rule) for rule in site.stand_in if rule.split_seconds]
    return tuple(dict.fromkeys(measure for measure in wanted if measure is not None))


def measure_of(rule: LimitRule) -> Measure | None:
    """The sum that a limit is held against; None for what needs none or is counted anyway."""
    if (rule.amount_minor is None and rule.count is None) or rule.per == UNCONFIRMED:
        return None
    return Measure(rule.of, rule.currency, rule.when, rule.per, rule.seconds)


def split_measure(rule: StandInRule) -> Measure:
    """The stand-ins of one payer at one merchant that the floor adds up."""
    return Measure(SPLIT, rule.currency, STAND_IN, "", rule.split_seconds)


def undone_of(original: Transfer) -> Undone:
    """What a payment or hold was counted by."""
    paid = original.request
    return Undone(
        original.at_ns,
        original.cleared_by is ClearedBy.STAND_IN,
        paid.currency,
        paid.debit_account_id,
        paid.credit_account_id,
        paid.card,
        paid.terminal,
        paid.merchant,
    )


def subject(of: str, request: Request | Undone, box: str) -> str:
    """Whose payment it is, in one respect; "" where the request does not say."""
    if of == "account":
        return request.debit_account_id
    if of == "card":
        return request.card
    if of == "terminal":
        return request.terminal
    if of == "merchant":
        return request.merchant or request.credit_account_id
    if of == SPLIT:
        return f"{request.debit_account_id}\n{request.merchant or request.credit_account_id}"
    return box


def counted(before: Count | None, measure: Measure, *, since: int, at_ns: int, amount_minor: int) -> Count:
    """One more payment."""
    if not measure.seconds:
        if before is None or before.since != since:
            return Count(since, at_ns, amount_minor, 1)
        return Count(since, before.first_at_ns, before.amount_minor + amount_minor, before.count + 1)
    fresh = Entry(at_ns, at_ns, amount_minor, 1)
    if before is None:
        return Count(0, 0, amount_minor, 1, (fresh,))
    period_ns = measure.seconds * NS_PER_S
    before = _live(before, at_ns - period_ns)
    entries = before.entries
    if len(entries) >= EXACT_ENTRIES and at_ns - entries[-1].first_at_ns <= period_ns // COARSE_PARTS:
        last = entries[-1]
        fresh = Entry(last.first_at_ns, at_ns, last.amount_minor + amount_minor, last.count + 1)
        entries = entries[:-1]
    return Count(0, 0, before.amount_minor + amount_minor, before.count + 1, (*entries, fresh))


def taken_off(
    before: Count,
    measure: Measure,
    *,
    since: int,
    at_ns: int,
    counted_at_ns: int,
    amount_minor: int,
    count: int,
) -> Count | None:
    """Without what a payment that was counted at counted_at_ns gave back; None where nothing changes, because
    its period is over."""
    if not measure.seconds:
        if before.since != since or counted_at_ns < before.first_at_ns:
            return None
        return Count(
            since,
            before.first_at_ns,
            max(0, before.amount_minor - amount_minor),
            max(0, before.count - count),
        )
    for place, entry in enumerate(before.entries):
        if entry.first_at_ns <= counted_at_ns <= entry.last_at_ns:
            less = Entry(
                entry.first_at_ns,
                entry.last_at_ns,
                max(0, entry.amount_minor - amount_minor),
                max(0, entry.count - count),
            )
            changed = Count(
                0,
                0,
                before.amount_minor - entry.amount_minor + less.amount_minor,
                before.count - entry.count + less.count,
                (*before.entries[:place], less, *before.entries[place + 1 :]),
            )
            return _live(changed, at_ns - measure.seconds * NS_PER_S)
    return None


def used(count: Count | None, measure: Measure, *, since: int, at_ns: int) -> Count | Stood:
    """What counts at this moment."""
    if count is None:
        return NOTHING
    if not measure.seconds:
        return count if count.since == since else NOTHING
    return _live(count, at_ns - measure.seconds * NS_PER_S)


def is_over(count: Count, measure: Measure, *, since: int, at_ns: int) -> bool:
    """Whether nothing of it counts any more, now and later."""
    if measure.seconds:
        return not count.entries or count.entries[-1].last_at_ns <= at_ns - measure.seconds * NS_PER_S
    return count.since != since


def _live(count: Count, over_ns: int) -> Count:
    """A sliding count without the entries whose time was over at this moment."""
    entries, amount_minor, number = count.entries, count.amount_minor, count.count
    gone = 0
    for entry in entries:
        if entry.last_at_ns > over_ns:
            break
        gone, amount_minor, number = gone + 1, amount_minor - entry.amount_minor, number - entry.count
    return Count(0, 0, amount_minor, number, entries[gone:]) if gone else count
