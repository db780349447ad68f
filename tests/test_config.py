"""Settings: every fault is said, with the option, its value and the mend; paths and defaults are what they
say."""

import base64
import enum
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest

from edgegw.config.box import BoxSettings, load_box
from edgegw.config.hub import load_hub
from edgegw.config.listen import addresses
from edgegw.config.options import SettingsError, options_of
from edgegw.config.site import load_site_bundle
from edgegw.core.accounts import OWN_PREFIXES
from edgegw.core.site import decode_site
from edgegw.sm.sm2 import PrivateKey

BOX = """
bank = "b1"
box = "box-1"
[hub]
key = "k"
[[hub.addresses]]
url = "http://127.0.0.1:8600"
[way]
"""


class Colour(enum.Enum):
    """Values of an option, as a class."""

    RED = "red"


class Way(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A way in, for these tests."""

    port: Annotated[int, msgspec.Meta(ge=0, le=65_535, description="Port to listen on.")] = 1
    key_file: Annotated[str, msgspec.Meta(description="A secret.")] = "secrets/way.key"
    keys_directory: Annotated[str, msgspec.Meta(description="Secrets.")] = ""
    days: Annotated[tuple[Literal["monday", "sunday"], ...], msgspec.Meta(description="Days.")] = ()
    colour: Annotated[Colour, msgspec.Meta(description="Its colour.")] = Colour.RED


def write(folder: Path, text: str, name: str = "box.toml") -> Path:
    """A settings file."""
    path = folder / name
    path.write_text(text)
    return path


def faults(folder: Path, text: str) -> tuple[str, ...]:
    """What is wrong with a box's settings."""
    with pytest.raises(SettingsError) as caught:
        load_box(write(folder, text), {"way": Way})
    return caught.value.faults


def test_every_fault_is_said_at_once_with_its_value_and_the_mend(tmp_path: Path) -> None:
    """One fault for each start of a box costs an operator the night."""
    said = faults(
        tmp_path,
        BOX.replace('bank = "b1"', 'bank = "B 1"')
        + 'port = "eighty"\n[line]\nheartbeat_ms = 0\nfailback = 3\n[disk]\nreserve_bytes = 1.5\n',
    )
    assert len(said) == 5
    by_option = {fault.split(" ")[0].rstrip(":"): fault for fault in said}
    assert by_option.keys() == {
        "bank", "way.port", "line.heartbeat_ms", "line.failback", "disk.reserve_bytes",
    }  # fmt: skip
    assert '"eighty"' in by_option["way.port"]
    assert "Port to listen on." in by_option["way.port"]
    assert "did you mean failback_ms?" in by_option["line.failback"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('box = "box-1"\n', ""), "box: it is missing. This box's name"),
        (('key = "k"', ""), "hub.key, hub.key_file: give one of them"),
        (('key = "k"', 'key = "k"\nkey_file = "f"'), "hub.key, hub.key_file: give one of them"),
        (("127.0.0.1:8600", "127.0.0.1:0"), "its port is no number from 1 to 65535"),
        (("http://127.0.0.1:8600", "127.0.0.1:8600"), "hub.addresses[0].url = "),
        (("[way]", '[[hub.addresses]]\nurl = "http://other:1"\n[way]'), "hub.addresses[].priority = 0"),
        (("[way]", "[wya]"), "wya: there is no such option"),
        (
            ("[way]", '[mirror]\ndurability = "Mirored"\n[way]'),
            'durability = "Mirored": it must be one of "local", "mirrored"; did you mean mirrored? When',
        ),
        (
            ("[way]", "[mirror]\nwhen_away = 3\n[way]"),
            'mirror.when_away = 3: it must be one of "alone", "refuse". With',
        ),
        (
            ("[way]", '[[replica.targets]]\nname = "x"\nkind = "ftp"\n[way]'),
            'replica.targets[0].kind = "ftp": it must be one of "file", "sftp", "s3"; did you mean sftp? A',
        ),
        (
            ("[way]", '[way]\ndays = ["monday", "sonday"]'),
            'days = ["monday","sonday"]: it must be one of "monday", "sunday"; did you mean sunday? Days.',
        ),
        (
            ("[way]", '[way]\ncolour = "rad"'),
            'way.colour = "rad": it must be one of "red"; did you mean red?',
        ),
        (("[way]", ""), "no way in is open; give a table [way]"),
        (("[way]", "way = 3"), "hub.addresses[0].way: there is no such option"),
        (("[hub]", 'anchor_dir = "data"\n[hub]'), "it is data_dir as well"),
    ],
)
def test_a_fault_in_the_box_settings_names_its_mend(
    tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    """Each of these would otherwise show as a box that never clears, far from its cause."""
    assert any(said in fault for fault in faults(tmp_path, BOX.replace(*change)))


def test_a_file_that_is_no_toml_or_is_not_there_is_said_with_its_place(tmp_path: Path) -> None:
    """A missing quote must not end in a stack trace."""
    assert "line 1" in faults(tmp_path, 'bank = "b1\n\n')[0]
    with pytest.raises(SettingsError, match=r"nowhere\.toml: it cannot be read"):
        load_box(tmp_path / "nowhere.toml", {})


def test_paths_are_relative_to_the_file_and_the_digest_follows_every_value(tmp_path: Path) -> None:
    """A box started from another folder would open an empty ledger there."""
    box = load_box(write(tmp_path, BOX), {"way": Way})
    way = box.protocols["way"]
    assert isinstance(way, Way)
    assert box.settings.data_dir == str(tmp_path / "data")
    assert (way.key_file, way.keys_directory) == (str(tmp_path / "secrets/way.key"), "")
    assert load_box(write(tmp_path, BOX + "port = 1\n"), {"way": Way}).digest == box.digest
    assert load_box(write(tmp_path, BOX + "port = 2\n"), {"way": Way}).digest != box.digest


def test_a_whole_file_of_defaults_is_what_the_defaults_are(tmp_path: Path) -> None:
    """What the reference prints as a default must be accepted when it is written down."""
    tables: dict[str, list[str]] = {}
    for option in options_of(BoxSettings):
        table, _, name = option.name.rpartition(".")
        optional = table.endswith(".tls") or table in ("enrolment", "discovery")
        if option.default and "hub" not in table and "[]" not in table and not optional:
            tables.setdefault(table, []).append(f"{name} = {option.default}")
    top, rest = tables.pop(""), tables
    text = "\n".join(top) + BOX + "".join(f"[{table}]\n" + "\n".join(o) + "\n" for table, o in rest.items())
    assert (
        load_box(write(tmp_path, text), {"way": Way}).digest
        == load_box(write(tmp_path, BOX), {"way": Way}).digest
    )


def test_the_hub_settings_refuse_a_port_and_an_address_that_cannot_be(tmp_path: Path) -> None:
    """A hub that listens somewhere else leaves every box offline."""
    text = 'bank = "b1"\nlisten = ["127.0.0.1:70000", "[::1]:86", "h:1", "h:1"]\n[tls]\nprofile = "plain"\n'
    with pytest.raises(SettingsError) as caught:
        load_hub(write(tmp_path, text))
    assert [fault.split(":")[0] for fault in caught.value.faults] == ["listen = 127.0.0.1", "listen = h"]
    hub = load_hub(write(tmp_path, 'bank = "b1"\nlisten = ["[::1]:86"]\n'))
    assert addresses(hub.listen) == (("::1", 86),)


def test_a_mistyped_kind_of_order_is_refused(tmp_path: Path) -> None:
    """Its person would be able to make and check nothing, and nobody would be told."""
    text = 'bank = "b1"\n[[operators]]\nname = "mei"\npublic_key = "x"\nactions = ["freezee"]\n'
    with pytest.raises(SettingsError, match=r"operators\[0\].actions.*did you mean freeze\?"):
        load_hub(write(tmp_path, text))


# --- the site -----------------------------------------------------------------------------------------------

KEY = base64.b64encode(bytes(32)).decode()
POINT = PrivateKey.generate().public.point
SM2_KEY = base64.b64encode(POINT).decode()
OFF_CURVE = base64.b64encode(POINT[:-1] + bytes([POINT[-1] ^ 1])).decode()


def a_site(**changes: object) -> dict[str, Any]:
    """A sound site, with changes."""
    site: dict[str, Any] = {
        "bank": "b1",
        "version": 1,
        "currencies": [{"code": "CNY", "numeric": 156}],
        "accounts": [{"id": "alice", "currency": "CNY"}, {"id": "shop", "currency": "CNY", "home": "box-1"}],
        "clients": [{"name": "till", "public_key": KEY}],
        "terminals": [{"id": "T1", "merchant": "M1", "credit_account_id": "shop", "currency": "CNY"}],
        "cards": {"ab" * 32: "alice"},
        "blocked": ["alice"],
    }
    return {**site, **changes}


def site_faults(folder: Path, site: dict[str, Any]) -> tuple[str, ...]:
    """What is wrong with a site's settings at the hub of b1 with the one box."""
    with pytest.raises(SettingsError) as caught:
        load_site_bundle(write(folder, json.dumps(site), "site.json"), bank="b1", boxes=["box-1"])
    return caught.value.faults


ACCOUNT = {"id": "alice", "currency": "CNY"}


def test_who_signs_needs_no_key_for_tokens(tmp_path: Path) -> None:
    """Two SM2 keys at once, while a client goes over to the next; and nothing of another kind."""
    second = base64.b64encode(PrivateKey.generate().public.point).decode()
    client = {"name": "till", "sm2_public_keys": [SM2_KEY, second], "profile": "signed"}
    made = write(tmp_path, json.dumps(a_site(clients=[client])), "site.json")
    site, _ = load_site_bundle(made, bank="b1", boxes=["box-1"])
    assert (site.clients[0].profile, site.clients[0].public_key) == ("signed", "")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bank": "b2"}, "bank = b2: the hub's bank is b1"),
        ({"currencies": []}, "currencies: none"),
        ({"accounts": [ACCOUNT, ACCOUNT]}, "accounts[].id = alice: it stands there 2 times"),
        ({"accounts": [{**ACCOUNT, "currency": "EUR"}]}, "accounts[alice].currency = EUR: it is not in"),
        ({"accounts": [{**ACCOUNT, "home": "box-2"}]}, "accounts[alice].home = box-2: no box of this hub"),
        ({"accounts": [{**ACCOUNT, "floor": False}]}, "accounts[alice].floor = false"),
        ({"accounts": []}, "terminals[T1].credit_account_id = shop: it is not in accounts"),
        ({"accounts": []}, "cards[ababab…] = alice: it is not in accounts"),
        ({"blocked": ["carol"]}, "blocked = carol: it is no account and no card"),
        ({"cards": {"6222020000000000006": "alice"}}, "cards[622202…]: it looks like a card number"),
        ({"cards": {"6221 9173-4608-2576": "alice"}}, "cards[6221 9…]: it looks like a card number"),
        ({"clients": [{"name": "till", "public_key": "x"}]}, "clients[till].public_key = x: it is not 32"),
        ({"clients": [{"name": "till"}]}, "clients[till].public_key = : it is not 32"),
        (
            {"clients": [{"name": "till", "public_key": KEY, "profile": "signed"}]},
            "clients[till].profile = signed: it has no sm2_public_keys",
        ),
        (
            {"clients": [{"name": "till", "sm2_public_keys": [KEY]}]},
            f"clients[till].sm2_public_keys = {KEY}: it is no SM2 public key",
        ),
        (
            {"clients": [{"name": "till", "sm2_public_keys": [OFF_CURVE]}]},
            f"clients[till].sm2_public_keys = {OFF_CURVE}: it is no SM2 public key",
        ),
        (
            {"clients": [{"name": "till", "sm2_public_keys": [SM2_KEY, SM2_KEY]}]},
            f"clients[till].sm2_public_keys = {SM2_KEY}: it stands there 2 times",
        ),
        ({"clients": [{"name": "till", "sm2_public_keys": [SM2_KEY] * 3}]}, "clients[0].sm2_public_keys"),
        (
            {"clients": [{"name": "till", "sm2_public_keys": [SM2_KEY], "profile": "sined"}]},
            'clients[0].profile = "sined": expected',
        ),
        (
            {"clients": [{"name": "till", "public_key": KEY, "webhook": {"url": "http://shop:99999/"}}]},
            "clients[till].webhook.url = http://shop:99999/: its host or port cannot be read; write https://",
        ),
        (
            {"clients": [{"name": "till", "public_key": KEY, "webhook": {"url": "http://[::1"}}]},
            "clients[till].webhook.url = http://[::1: its host or port cannot be read",
        ),
        ({"version": 0}, "version = 0: "),
        (
            {"late_decline_liable": "shop"},
            'late_decline_liable = "shop": it must be one of "merchant", "branch". Who bears',
        ),
        (
            {"calendar": {"zone": "Asia/Shanghai", "cut_offs": ["22:00"], "weekend": ["sundy"]}},
            "did you mean sunday? Days of the week",
        ),
        ({"acounts": []}, "acounts: there is no such option; did you mean accounts?"),
        (
            {
                "limits": [
                    {
                        "name": "one",
                        "currency": "CNY",
                        "payment_minor": 2,
                        "amount_minor": 1,
                        "per": "window",
                    }
                ]
            },
            "limits[one].payment_minor = 2: more than amount_minor = 1",
        ),
        ({"limits": [{"name": "one"}]}, "limits[one]: it limits nothing"),
        (
            {"limits": [{"name": "one", "seconds": 60, "count": 1, "payment_minor": 5}]},
            "limits[one].payment_minor = 5: amounts are in one currency; give currency",
        ),
        ({"limits": [{"name": "one", "count": 3}]}, "limits[one].count = 3: it needs a period"),
        (
            {"limits": [{"name": "one", "count": 3, "per": "day", "seconds": 5}]},
            "limits[one].seconds = 5: the period is per = day already",
        ),
        (
            {"limits": [{"name": "one", "count": 3, "per": "outage"}]},
            "limits[one].per = outage: it counts nothing while the line is up",
        ),
        (
            {"limits": [{"name": "one", "count": 3, "per": "unconfirmed"}]},
            "limits[one].per = unconfirmed: only stand-ins wait",
        ),
        (
            {"limits": [{"name": "one", "count": 3, "seconds": 5, "only": ["carol"]}]},
            "limits[one].only = carol: no account of this name is known",
        ),
        (
            {"limits": [{"name": "one", "count": 3, "seconds": 5, "of": "pos"}]},
            'it must be one of "account", "card"',
        ),
        (
            {"tightening": [{"until_hours": 5, "percent": 10}, {"until_hours": 9, "percent": 20}]},
            "tightening[].percent = 20: more than the 10 before it",
        ),
        (
            {"tightening": [{"until_hours": 5, "percent": 10}, {"until_hours": 5, "percent": 0}]},
            "tightening[].until_hours = 5: not more than the 5 before it",
        ),
        (
            {"allowances": [{"currency": "EUR", "share_percent": 1, "account_minor": 1}]},
            "allowances[].currency = EUR: it is not in currencies",
        ),
    ],
)
def test_a_fault_in_the_site_names_the_field_the_value_and_the_mend(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    """A bundle that goes out wrong is refused by every box at once."""
    assert any(said in fault for fault in site_faults(tmp_path, a_site(**changes)))


@pytest.mark.parametrize("prefix", OWN_PREFIXES)
def test_an_account_with_a_reserved_prefix_is_refused(tmp_path: Path, prefix: str) -> None:
    """A customer's account named like the books' own would be moved by them."""
    account = {"id": f"{prefix}CNY", "currency": "CNY"}
    said = site_faults(tmp_path, a_site(accounts=[ACCOUNT, account], terminals=[], cards={}))
    assert any("the prefix is kept" in fault for fault in said)


def test_a_card_number_in_the_settings_is_not_repeated_in_the_error(tmp_path: Path) -> None:
    """An error that quotes the number puts it into every log."""
    said = site_faults(tmp_path, a_site(cards={"6222020000000000006": "nobody"}))
    assert "6222020000000000006" not in "\n".join(said)


def test_a_sound_site_is_the_same_bytes_from_json_and_the_same_site_from_toml(tmp_path: Path) -> None:
    """A bundle that changed on its way would have another digest at every publishing."""
    text = json.dumps(a_site(), indent=1)
    site, bundle = load_site_bundle(write(tmp_path, text, "site.json"), bank="b1", boxes=["box-1"])
    assert bundle.decode() == text
    toml = 'bank = "b1"\nversion = 1\n[[currencies]]\ncode = "CNY"\nnumeric = 156\n'
    other, other_bundle = load_site_bundle(write(tmp_path, toml, "site.toml"))
    assert decode_site(other_bundle) == other
    assert (other.bank, other.currencies) == (site.bank, site.currencies)
