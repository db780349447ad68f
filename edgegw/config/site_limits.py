"""What is wrong between the fields of a site's limits, one line each: the field, its value, the mend.

Shapes are `core.site`'s; the rest of a site is checked in `config.site`.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator

import msgspec

from edgegw.config.options import repeated
from edgegw.core.counts import ALWAYS, OUTAGE, STAND_IN, UNCONFIRMED
from edgegw.core.site import LimitRule, Site


def list_faults(site: Site) -> Iterator[str]:
    """Faults of `lists`; whether the hub has them is the hub's to say."""
    lists = () if site.lists is msgspec.UNSET else site.lists
    yield from repeated("lists[].name", [rule.name for rule in lists])
    for rule in lists:
        if rule.effect == "allow" and not rule.entries:
            yield f"lists[{rule.name}].entries = 0: nobody could pay; add ids, or leave the list out"


def limit_faults(site: Site, boxes: Collection[str] | None) -> Iterator[str]:
    """Faults of `limits` and `tightening`; boxes, where they are given, are the hub's own."""
    codes = {rule.code for rule in site.currencies}
    yield from repeated("limits[].name", [rule.name for rule in site.limits])
    for rule in site.limits:
        where = f"limits[{rule.name}]"
        yield from _currency_faults(rule, where, codes)
        yield from _amount_faults(rule, where)
        yield from _period_faults(rule, where)
        yield from _only_faults(rule, where, _known(site, rule.of, boxes))
    yield from _tightening_faults(site)


def _currency_faults(rule: LimitRule, where: str, codes: Collection[str]) -> Iterator[str]:
    if rule.currency and rule.currency not in codes:
        yield f"{where}.currency = {rule.currency}: it is not in currencies; add it there"
    for field in ("payment_minor_min", "payment_minor", "amount_minor"):
        if not rule.currency and getattr(rule, field) is not None:
            yield f"{where}.{field} = {getattr(rule, field)}: amounts are in one currency; give currency"


def _amount_faults(rule: LimitRule, where: str) -> Iterator[str]:
    fields = (rule.payment_minor_min, rule.payment_minor, rule.amount_minor, rule.count)
    if all(value is None for value in fields):
        yield f"{where}: it limits nothing; give payment_minor, amount_minor or count"
    least, most, total = rule.payment_minor_min, rule.payment_minor, rule.amount_minor
    if least is not None and most is not None and least > most:
        yield (
            f"{where}.payment_minor_min = {least}: more than payment_minor = {most}; lower it or raise that"
        )
    if most is not None and total is not None and most > total:
        yield f"{where}.payment_minor = {most}: more than amount_minor = {total}; lower it or raise that"


def _period_faults(rule: LimitRule, where: str) -> Iterator[str]:
    adds_up = rule.amount_minor is not None or rule.count is not None
    if rule.per and rule.seconds:
        yield f"{where}.seconds = {rule.seconds}: the period is per = {rule.per} already; keep one"
    if adds_up and not rule.per and not rule.seconds:
        field, value = ("amount_minor", rule.amount_minor)
        if value is None:
            field, value = ("count", rule.count)
        yield f"{where}.{field} = {value}: it needs a period; give per or seconds"
    if not adds_up and (rule.per or rule.seconds):
        field, text = ("per", rule.per) if rule.per else ("seconds", str(rule.seconds))
        yield f"{where}.{field} = {text}: nothing adds up over it; give amount_minor or count, or remove it"
    if rule.per == UNCONFIRMED and rule.when != STAND_IN:
        yield f"{where}.per = {rule.per}: only stand-ins wait for a confirmation; set when = {STAND_IN}"
    if rule.per == OUTAGE and rule.when == ALWAYS:
        yield f"{where}.per = {rule.per}: it counts nothing while the line is up; set when = offline"


def _known(site: Site, of: str, boxes: Collection[str] | None) -> Collection[str] | None:
    """The ids that a limit's `only` can name; None where anything can be one."""
    if of == "account":
        return {account.id for account in site.accounts}
    if of == "card":
        return site.cards.keys()
    return boxes if of == "branch" else None


def _only_faults(rule: LimitRule, where: str, known: Collection[str] | None) -> Iterator[str]:
    yield from repeated(f"{where}.only", rule.only)
    for whose in rule.only:
        if known is not None and whose not in known:
            yield f"{where}.only = {whose[:34]}: no {rule.of} of this name is known; mend or remove it"


def _tightening_faults(site: Site) -> Iterator[str]:
    if site.tightening is msgspec.UNSET:
        return
    if not site.tightening:
        yield "tightening: no step; leave it out for the default, or give at least one"
    for first, second in itertools.pairwise(site.tightening):
        if second.until_hours <= first.until_hours:
            yield (
                f"tightening[].until_hours = {second.until_hours}: not more than the {first.until_hours}"
                " before it; let the hours rise"
            )
        if second.percent > first.percent:
            yield (
                f"tightening[].percent = {second.percent}: more than the {first.percent} before it; it must"
                " never loosen"
            )
