"""Formats of site settings: which field came with which release, and what a box of an older release is given.

A box says at its opening which format its program reads. What it cannot read is left out of its bundle where
it can do without; where leaving it out would loosen something, the box keeps the settings that it has, and
that waits for a person at the hub. Leaves out who is given what (`hub.site`).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

FIRST_FORMAT: Final = 1
"""Of programs that say none."""
SITE_FORMAT: Final = 2
"""The newest; raised once for a release that adds fields."""


class Added(NamedTuple):
    """A field that later formats have."""

    place: str
    """`section`, `section.field` or, of each of its rules, `section[].field`."""
    format: int
    needed: bool
    """Whether a box that leaves it out would decide more loosely; else it merely does without."""
    unused: object = None
    """A value besides the empty ones that says what its absence says."""


ADDED: Final = (
    Added("limits[].name", 2, needed=True),  # limits have another shape since
    Added("stand_in[].split_seconds", 2, needed=True, unused=3600),
    Added("tightening", 2, needed=True),
    Added("lists", 2, needed=True),
    Added("rates", 2, needed=True),
    Added("window_close_takes_two", 2, needed=True),
    Added("clients[].webhook", 2, needed=False),
    Added("clients[].certificates", 2, needed=True),
    Added("clients[].certificate_is_enough", 2, needed=False),
    Added("terminals[].certificates", 2, needed=True),
    Added("clients[].sm2_public_keys", 2, needed=False),
    Added("clients[].profile", 2, needed=True, unused="token"),
    Added("clients[].groups", 2, needed=True),
    Added("scope_groups", 2, needed=True),
    Added("tokens", 2, needed=True),
    Added("allowances[].lease_seconds", 2, needed=True),
    Added("allowances[].lease_margin_seconds", 2, needed=True),
    Added("allowances[].headroom_percent", 2, needed=False),  # the hub's alone, as the next four
    Added("allowances[].seen_days", 2, needed=False),
    Added("allowances[].seen_share_percent", 2, needed=False),
    Added("allowances[].seen_account_minor", 2, needed=False),
    Added("allowances[].idle_hours", 2, needed=False),
)
"""Every field that the first format does not have."""


class NeedsNewer(ValueError):
    """A bundle that an older box must not be given without the field that this names."""


_Table = dict[str, object]
_decoder: msgspec.json.Decoder[_Table] = msgspec.json.Decoder(_Table)


def format_of(bundle: bytes) -> int:
    """The oldest format that has every field which is in a sound bundle, used or not: a program refuses what
    it does not know."""
    table = _decoder.decode(bundle)
    return max((one.format for one in ADDED if _has(table, one)), default=FIRST_FORMAT)


def used_format_of(bundle: bytes) -> int:
    """The oldest format that has all that a sound bundle uses."""
    table = _decoder.decode(bundle)
    return max((one.format for one in ADDED if _uses(table, one)), default=FIRST_FORMAT)


def rendered(bundle: bytes, *, reads: int) -> bytes:
    """A sound bundle for a box that reads formats up to this one; the same bytes where nothing is left out.
    Raises NeedsNewer."""
    table = _decoder.decode(bundle)
    is_changed = False
    for one in ADDED:
        if one.format > reads:
            if one.needed and _uses(table, one):
                raise NeedsNewer(f"{one.place} needs format {one.format}, the box reads {reads}")
            is_changed = _drop(table, one) or is_changed
    return msgspec.json.encode(table) if is_changed else bundle


def _holders(table: _Table, place: str) -> tuple[list[_Table], str]:
    """The objects that may have the field of this place, and its name."""
    section, dot, field = place.partition(".")
    if not dot:
        return [table], section
    found = table.get(section.removesuffix("[]"))
    holders = found if isinstance(found, list) else [found]
    return [holder for holder in holders if isinstance(holder, dict)], field


def _has(table: _Table, one: Added) -> bool:
    holders, field = _holders(table, one.place)
    return any(field in holder for holder in holders)


def _uses(table: _Table, one: Added) -> bool:
    holders, field = _holders(table, one.place)
    values = (holder.get(field) for holder in holders)
    return any(value and value != one.unused for value in values)


def _drop(table: _Table, one: Added) -> bool:
    holders, field = _holders(table, one.place)
    found = [holder for holder in holders if field in holder]
    for holder in found:
        del holder[field]
    return bool(found)
