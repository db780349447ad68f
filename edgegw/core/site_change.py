"""What differs between two versions of the site's settings, and what both allow.

`changes` tells an operator, section by section and key by key, what is added, removed and changed, and
whether that loosens or tightens a limit. `tighter` is what binds a box that must not loosen anything by
itself: the newer settings, with the limits, lists and rates of both. Pure; leaves out when that is due
(`core.apply`, `core.book`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from edgegw.core.allowance import lease_ns
from edgegw.core.site import (
    DEFAULT_TIGHTENING,
    AllowanceRule,
    LimitRule,
    NetDebitCap,
    RateRule,
    Site,
    StandInRule,
    TighteningStep,
)

LOOSENED, TIGHTENED = "loosened", "tightened"
KEYS: Final = ("id", "name", "code", "participant", "currency", "until_hours")
"""What tells the rules of a section apart: those of these that they have, in this order."""
SCALARS: Final = "settings"
"""The section of what stands alone."""

_LOW_IS_TIGHT: Final = ("limits", "stand_in", "rates", "net_debit_caps", "allowances", "tightening")
"""Sections whose numbers allow more the higher they are."""
_HIGH_IS_TIGHT: Final = ("payment_minor_min", "split_seconds", "seconds", "lease_margin_seconds")
"""But for these."""
_ABSENT_IS_ZERO: Final = ("headroom_percent", "seen_days", "seen_share_percent", "seen_account_minor")
"""Without one of these nothing is handed out by it; any other number that is not there bounds nothing."""
_FORBIDDING: Final = ("limits", "lists", "rates", "net_debit_caps")
"""Without a rule there, more is allowed; without one of `stand_in` or `allowances`, nothing."""

Plain = dict[str, object]


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One difference between two versions."""

    section: str
    key: str
    """Of the rule, account, client ... in its section; the name of what stands alone."""
    what: str
    """`added`, `removed` or `changed`."""
    field: str = ""
    """Of what is changed, "" where it is one value."""
    before: object = None
    after: object = None
    effect: str = ""
    """`loosened` or `tightened` for what bounds payments, else ""."""


def changes(old: Site, new: Site) -> list[Change]:
    """Every difference but the version's number, section by section in the order of their declaration."""
    before, after = _sections(old), _sections(new)
    found: list[Change] = []
    for section in after:
        rows = before.get(section, {}), after[section]
        for key in sorted(rows[0].keys() | rows[1].keys()):
            found += _changed(section, key, rows[0].get(key), rows[1].get(key))
    return found


def _sections(site: Site) -> dict[str, dict[str, object]]:
    """Each section as key to value; what stands alone, and tables, are sections too."""
    table: Plain = msgspec.to_builtins(site)
    found: dict[str, dict[str, object]] = {SCALARS: {}}
    for section in site.__struct_fields__:
        value = table.get(section)
        if section == "version":
            continue
        if section == "bank" or isinstance(value, str | int | bool):
            found[SCALARS][section] = value
        elif isinstance(value, dict):
            found[section] = dict(value)
        else:
            found[section] = _keyed(value if isinstance(value, list | tuple) else ())
    return found


def _keyed(values: Sequence[object]) -> dict[str, object]:
    found: dict[str, object] = {}
    for value in values:
        key = _key_of(value)
        number = 2
        while key in found:
            key, number = f"{_key_of(value)}#{number}", number + 1
        found[key] = value
    return found


def _key_of(value: object) -> str:
    if not isinstance(value, dict):
        return str(value)
    return "/".join(str(value[name]) for name in KEYS if value.get(name)) or "each"


def _changed(section: str, key: str, before: object, after: object) -> list[Change]:
    if before is None or after is None:
        if before == after:
            return []
        what = "added" if before is None else "removed"
        effect = _effect_of_rule(section, is_added=before is None)
        return [Change(section=section, key=key, what=what, before=before, after=after, effect=effect)]
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            Change(
                section=section,
                key=key,
                what="changed",
                field=field,
                before=before.get(field),
                after=after.get(field),
                effect=_effect_of_number(section, field, before.get(field), after.get(field)),
            )
            for field in sorted(before.keys() | after.keys())
            if before.get(field) != after.get(field)
        ]
    if before == after:
        return []
    return [Change(section=section, key=key, what="changed", before=before, after=after)]


def _effect_of_rule(section: str, *, is_added: bool) -> str:
    if section == "blocked" or section in _FORBIDDING:
        return TIGHTENED if is_added else LOOSENED
    if section in _LOW_IS_TIGHT:
        return LOOSENED if is_added else TIGHTENED
    return ""


def _effect_of_number(section: str, field: str, before: object, after: object) -> str:
    """What a changed bound does."""
    if field in _ABSENT_IS_ZERO:
        before, after = before or 0, after or 0
    if section not in _LOW_IS_TIGHT or not _is_bound(before) or not _is_bound(after):
        return ""
    is_higher = before is not None and (after is None or after > before)  # type: ignore[operator]
    return LOOSENED if is_higher != (field in _HIGH_IS_TIGHT and None not in (before, after)) else TIGHTENED


def _is_bound(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


# --- what both allow ----------------------------------------------------------------------------------------


def tighter(site: Site, other: Site) -> Site:
    """`site`, but for limits, stand-in, blocked, rates, caps and leases: there nothing is allowed that one of
    the two does not allow."""
    return msgspec.structs.replace(
        site,
        blocked=tuple(sorted({*site.blocked, *other.blocked})),
        limits=_both(site.limits, other.limits),
        stand_in=_only_both(site.stand_in, other.stand_in),
        lists=tuple(dict.fromkeys((*(site.lists or ()), *(other.lists or ())))) or site.lists,
        rates=_rates(site, other),
        tightening=_steps(site, other),
        net_debit_caps=_caps(site, other),
        allowances=_leased(site.allowances, other.allowances),
        window_close_takes_two=site.window_close_takes_two or other.window_close_takes_two,
    )


_AT_MOST: Final = ("payment_minor", "amount_minor", "count")
_AT_LEAST: Final = ("payment_minor_min",)


def _both(mine: Sequence[LimitRule], theirs: Sequence[LimitRule]) -> tuple[LimitRule, ...]:
    """Every limit of either side; where both have one of the same shape, its tighter bounds."""
    merged = {_shape(rule): rule for rule in mine}
    for rule in theirs:
        found = merged.get(_shape(rule))
        merged[_shape(rule)] = rule if found is None else _bounded(found, rule)
    return tuple(merged.values())


def _shape(rule: LimitRule) -> tuple[object, ...]:
    """What a limit is about, without how much it allows."""
    return tuple(
        getattr(rule, name) for name in rule.__struct_fields__ if name not in (*_AT_MOST, *_AT_LEAST)
    )


def _bounded(rule: LimitRule, other: LimitRule) -> LimitRule:
    bounds: dict[str, int] = {}
    for names, choose in ((_AT_MOST, min), (_AT_LEAST, max)):
        for name in names:
            given = [getattr(one, name) for one in (rule, other)]
            numbers = [number for number in given if number is not None]
            if numbers:
                bounds[name] = choose(numbers)
    return msgspec.structs.replace(rule, **bounds)


def _only_both(mine: Sequence[StandInRule], theirs: Sequence[StandInRule]) -> tuple[StandInRule, ...]:
    """The currencies in which both stand in, by the smaller numbers."""
    others = {rule.currency: rule for rule in theirs}
    found = []
    for rule in mine:
        other = others.get(rule.currency)
        if other is not None:
            smaller = {
                name: min(getattr(rule, name), getattr(other, name))
                for name in rule.__struct_fields__
                if name not in ("currency", "split_seconds")
            }
            split_seconds = max(rule.split_seconds, other.split_seconds)
            found.append(msgspec.structs.replace(rule, **smaller, split_seconds=split_seconds))
    return tuple(found)


def _rates(site: Site, other: Site) -> tuple[RateRule, ...] | msgspec.UnsetType:
    sides = [
        {rule.name: rule for rule in one.rates} for one in (site, other) if one.rates is not msgspec.UNSET
    ]
    if not sides:
        return msgspec.UNSET
    found = []
    for name in sorted({name for side in sides for name in side}):
        rules = [rule for side in sides if (rule := side.get(name) or side.get("")) is not None]
        found.append(
            RateRule(
                name=name,
                per_second_count=min(rule.per_second_count for rule in rules),
                burst_count=min(rule.burst_count for rule in rules),
            )
        )
    return tuple(found)


def _leased(mine: Sequence[AllowanceRule], theirs: Sequence[AllowanceRule]) -> tuple[AllowanceRule, ...]:
    """The first ones by the shorter leases of both, and what the other side alone leases; what a box holds
    else is the hub's to say."""
    merged = {rule.currency: rule for rule in mine}
    for rule in theirs:
        found = merged.setdefault(rule.currency, rule)
        lasts_ns = lease_ns(rule)
        if lasts_ns and not 0 < lease_ns(found) <= lasts_ns:
            merged[rule.currency] = msgspec.structs.replace(
                found, lease_seconds=rule.lease_seconds, lease_margin_seconds=rule.lease_margin_seconds
            )
    return tuple(merged.values())


def _steps(site: Site, other: Site) -> tuple[TighteningStep, ...] | msgspec.UnsetType:
    if site.tightening == other.tightening:
        return site.tightening
    sides = [
        DEFAULT_TIGHTENING if one.tightening is msgspec.UNSET else one.tightening for one in (site, other)
    ]
    ages = sorted({step.until_hours for side in sides for step in side})
    return tuple(
        TighteningStep(until_hours=hours, percent=min(_percent(side, hours) for side in sides))
        for hours in ages
    )


def _percent(steps: Sequence[TighteningStep], hours: int) -> int:
    return next((step.percent for step in steps if hours <= step.until_hours), 0)


def _caps(site: Site, other: Site) -> tuple[NetDebitCap, ...] | msgspec.UnsetType:
    sides = [one.net_debit_caps for one in (site, other) if one.net_debit_caps is not msgspec.UNSET]
    least: dict[tuple[str, str], NetDebitCap] = {}
    for cap in (cap for side in sides for cap in side):
        key = (cap.participant, cap.currency)
        if key not in least or cap.cap_minor < least[key].cap_minor:
            least[key] = cap
    return tuple(least.values()) if sides else msgspec.UNSET
