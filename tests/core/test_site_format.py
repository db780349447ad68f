"""A box of an older release is given what it can read, or keeps what it has: it is never given less than
binds."""

import inspect
from typing import get_args, get_type_hints

import msgspec
import pytest

from edgegw.core import site as site_module
from edgegw.core import site_format
from edgegw.core.site import RateRule, Site, decode_site
from edgegw.core.site_format import ADDED, Added, NeedsNewer, format_of, rendered, used_format_of
from tests.core.box import SITE

FIRST: dict[str, tuple[str, ...]] = {
    "": (
        *("bank", "version", "currencies", "accounts", "clients", "terminals", "cards", "blocked", "limits"),
        *("stand_in", "allowances", "late_decline_liable", "calendar", "net_debit_caps"),
    ),
    "currencies": ("code", "numeric"),
    "accounts": ("id", "currency", "home", "participant", "floor"),
    "clients": ("name", "public_key", "scopes"),
    "terminals": ("id", "merchant", "credit_account_id", "currency"),
    "stand_in": (
        *("currency", "floor_minor", "account_minor", "account_count", "box_minor", "offline_seconds_max"),
    ),
    "allowances": ("currency", "share_percent", "account_minor"),
    "calendar": ("zone", "cut_offs", "weekend", "holidays", "working_days"),
    "net_debit_caps": ("participant", "currency", "cap_minor"),
}
"""The fields that the first format has; this list never grows."""


def _rule(hint: object) -> type[msgspec.Struct] | None:
    """The struct in a section's type."""
    if inspect.isclass(hint) and issubclass(hint, msgspec.Struct):
        return hint
    return next((found for part in get_args(hint) if (found := _rule(part)) is not None), None)


def test_every_later_field_says_since_when_and_whether_a_box_can_do_without() -> None:
    """A field that nobody wrote down would be sent to boxes that refuse the whole bundle for it."""
    listed = {one.place for one in ADDED}
    missing = []
    hints = get_type_hints(Site)
    for section in Site.__struct_fields__:
        if section not in FIRST[""] and section not in listed:
            missing.append(section)
        rule = _rule(hints[section])
        if rule is None or section not in FIRST:
            continue
        for field in rule.__struct_fields__:
            places = {f"{section}[].{field}", f"{section}.{field}", section}
            if field not in FIRST[section] and not places & listed:
                missing.append(f"{section}.{field}")
    assert missing == [], f"add them to core.site_format.ADDED: {site_module.__name__}"


def test_what_a_box_cannot_do_without_is_not_left_out() -> None:
    """Without its rates it would let clients ask faster."""
    bundle = msgspec.json.encode(
        msgspec.structs.replace(SITE, limits=(), rates=(RateRule(per_second_count=1, burst_count=1),))
    )
    assert format_of(bundle) == 2
    with pytest.raises(NeedsNewer, match="rates"):
        rendered(bundle, reads=1)


def test_what_a_box_can_do_without_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what says nothing is: a default that an older program would not know."""
    added = (
        Added("clients[].colour", 2, needed=False),
        Added("stand_in[].split_seconds", 2, needed=True, unused=3600),
    )
    monkeypatch.setattr(site_format, "ADDED", added)
    table = msgspec.to_builtins(msgspec.structs.replace(SITE, limits=()))
    table["clients"] = [{"name": "till", "public_key": "k", "colour": "red"}]
    bundle = msgspec.json.encode(table)
    assert format_of(bundle) == 2
    older = msgspec.json.decode(rendered(bundle, reads=1))
    assert older["clients"] == [{"name": "till", "public_key": "k"}]
    assert "split_seconds" not in older["stand_in"][0]
    assert decode_site(rendered(bundle, reads=1)).version == SITE.version
    assert rendered(bundle, reads=2) == bundle


def test_a_field_that_says_nothing_still_needs_a_program_that_knows_it() -> None:
    """An older one refuses the whole bundle for its name; the value tells only that it may be left out."""
    bundle = msgspec.json.encode(msgspec.structs.replace(SITE, limits=()))
    assert b"split_seconds" in bundle
    assert (format_of(bundle), used_format_of(bundle)) == (2, 1)
    assert format_of(rendered(bundle, reads=1)) == 1


def test_a_bundle_without_later_fields_is_the_first_format() -> None:
    """So that boxes of every release take it as it is."""
    bundle = msgspec.json.encode(
        {"bank": "demo", "version": 1, "currencies": [{"code": "CNY", "numeric": 156}]}
    )
    assert format_of(bundle) == 1
    assert rendered(bundle, reads=1) == bundle
