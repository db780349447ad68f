"""The site's settings as an operator writes them: JSON or TOML to one bundle, with every cross-check.

The bundle that the hub publishes is JSON; a TOML file becomes the same JSON. Shapes are `core.site`'s; what
one field says of another is checked here, for the hub before it publishes and for `edgegw site check` alike.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from edgegw.config.files import read_toml
from edgegw.config.listen import has_port
from edgegw.config.options import SettingsError, read_table, repeated
from edgegw.config.site_limits import limit_faults, list_faults
from edgegw.core.accounts import BANK, is_own
from edgegw.core.card_numbers import holds_card_number
from edgegw.core.records import UNREADABLE
from edgegw.core.scopes import scope_faults
from edgegw.core.site import PARTICIPANT_PATTERN, SIGNED, WEEKDAYS, CertificateRule, Site, decode_site
from edgegw.zones import UnknownZone, load_zone

PUBLIC_KEY_BYTES: Final = 32
SM2_POINT_BYTES: Final = 65
LOOKUP_LENGTH: Final = 64
"""Hex digits of a card's lookup; runs of digits within them mean nothing."""
_SM2_P: Final = 2**256 - 2**224 - 2**96 + 2**64 - 1
_SM2_B: Final = 0x28E9FA9E9D9F5E344D5A9E4BCF6509A7F39789F515AB8F92DDBCBD414D940E93
"""y² = x³ - 3 x + b modulo p."""


def load_site_bundle(
    path: Path, *, bank: str = "", boxes: Collection[str] | None = None
) -> tuple[Site, bytes]:
    """The site and its bundle from a .json or .toml file; raises SettingsError with every fault.

    bank and boxes, where they are given, are the hub's own, which the file must fit.
    """
    table = read_toml(path) if path.suffix == ".toml" else _read_json(path)
    faults: list[str] = []
    site = _converted(table) or read_table(Site, table, faults)
    if site is not None:
        faults += site_faults(site, bank=bank, boxes=boxes)
    if site is None or faults:
        raise SettingsError(str(path), faults)
    # A JSON file is the bundle as it stands; published twice, it is the same bytes.
    bundle = msgspec.json.encode(site) if path.suffix == ".toml" else path.read_bytes()
    try:
        return decode_site(bundle), bundle
    except msgspec.DecodeError as problem:
        raise SettingsError(str(path), [f"no box would take it: {problem}; name each option once"]) from None


def _converted(table: dict[str, Any]) -> Site | None:
    """The quick way for sound tables, which may list a hundred thousand accounts."""
    try:
        return msgspec.convert(table, Site)
    except msgspec.ValidationError:
        return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        table = msgspec.json.decode(path.read_bytes())
    except OSError as problem:
        raise SettingsError(
            str(path), [f"it cannot be read: {problem.strerror}; give the path of the site's settings"]
        ) from None
    except UNREADABLE as problem:
        raise SettingsError(str(path), [f"it is no JSON: {problem}"]) from None
    if not isinstance(table, dict):
        raise SettingsError(str(path), ["it is no JSON object; begin with {"])
    return table


def site_faults(site: Site, *, bank: str = "", boxes: Collection[str] | None = None) -> list[str]:
    """What is wrong between the fields of a site, one line each: the field, its value, the mend."""
    return [
        *_own_faults(site, bank),
        *_webhook_faults(site),
        *_certificate_faults(site),
        *_signature_faults(site),
        *_account_faults(site, boxes),
        *_reference_faults(site),
        *_rule_faults(site),
        *_allowance_faults(site),
        *limit_faults(site, boxes),
        *list_faults(site),
        *_calendar_faults(site),
        *_cap_faults(site),
        *_rate_faults(site),
        *scope_faults(site),
    ]


def _own_faults(site: Site, bank: str) -> Iterator[str]:
    if bank and site.bank != bank:
        yield f"bank = {site.bank}: the hub's bank is {bank}; use the settings of this bank"
    if not site.currencies:
        yield "currencies: none; list at least one"
    for field, values in (
        ("currencies[].code", [rule.code for rule in site.currencies]),
        ("currencies[].numeric", [str(rule.numeric) for rule in site.currencies]),
        ("accounts[].id", [account.id for account in site.accounts]),
        ("clients[].name", [client.name for client in site.clients]),
        ("terminals[].id", [terminal.id for terminal in site.terminals]),
    ):
        yield from repeated(field, values)
    for client in site.clients:
        signs = client.sm2_public_keys is not msgspec.UNSET
        if not _is_public_key(client.public_key) and (client.public_key or not signs):
            yield (
                f"clients[{client.name}].public_key = {client.public_key}: it is not"
                f" {PUBLIC_KEY_BYTES} bytes in base64; copy the line that `edgegw keygen client` printed"
            )


def _webhook_faults(site: Site) -> Iterator[str]:
    for client in site.clients:
        webhook = client.webhook
        if webhook is not msgspec.UNSET and not has_port(webhook.url):
            yield (
                f"clients[{client.name}].webhook.url = {webhook.url}: its host or port cannot be read; write"
                " https://host:port/path with a port from 1 to 65535"
            )


def _certificate_faults(site: Site) -> Iterator[str]:
    tied = [(f"clients[{one.name}]", one.certificates) for one in site.clients]
    tied += [(f"terminals[{one.id}]", one.certificates) for one in site.terminals]
    for where, rules in tied:
        for rule in rules or ():
            if not (rule.uri or rule.dns or rule.sha256):
                yield f"{where}.certificates[]: one names nothing; give it a uri, dns or sha256"
    alone: dict[CertificateRule, str] = {}
    for client in site.clients:
        if client.certificate_is_enough is not True:
            continue
        if not client.certificates:
            yield f"clients[{client.name}].certificate_is_enough = true: it has no certificates; list them"
        for rule in client.certificates or ():
            other = alone.setdefault(rule, client.name)
            if other != client.name:
                yield (
                    f"clients[{client.name}].certificates[]: one is that of {other}, too, and enough for"
                    " both; give each its own"
                )


def _account_faults(site: Site, boxes: Collection[str] | None) -> Iterator[str]:
    codes = {rule.code for rule in site.currencies}
    for account in site.accounts:
        where = f"accounts[{account.id}]"
        if is_own(account):
            yield f"{where}.id = {account.id}: the prefix is kept for the books' own accounts; use another"
        if account.currency not in codes:
            yield f"{where}.currency = {account.currency}: it is not in currencies; add it there"
        if boxes is not None and account.home and account.home not in boxes:
            yield f"{where}.home = {account.home}: no box of this hub; pin its key first, or leave home out"
        if account.participant and not re.match(PARTICIPANT_PATTERN, account.participant):
            yield (
                f"{where}.participant = {account.participant}: it is no name; use 1 to 34 letters, digits"
                " or ._- (a BIC or LEI fits)"
            )
        if not account.floor:
            yield f"{where}.floor = false: only the books' own accounts go without; leave it out"


def _reference_faults(site: Site) -> Iterator[str]:
    accounts = {account.id: account for account in site.accounts}
    for terminal in site.terminals:
        where, account = f"terminals[{terminal.id}]", accounts.get(terminal.credit_account_id)
        if account is None:
            missing = terminal.credit_account_id
            yield f"{where}.credit_account_id = {missing}: it is not in accounts; add it there"
        elif account.currency != terminal.currency:
            yield (
                f"{where}.currency = {terminal.currency}: its account is in {account.currency};"
                " make them the same"
            )
    for token, account_id in site.cards.items():
        where = f"cards[{token[:6]}…]"
        if account_id not in accounts:
            yield f"{where} = {account_id}: it is not in accounts; add it there"
        if token.isdigit() or (len(token) < LOOKUP_LENGTH and holds_card_number(token)):
            yield f"{where}: it looks like a card number; write its lookup (`edgegw card-lookup`)"
    known = accounts.keys() | site.cards.keys()
    for one in site.blocked:
        if one not in known:
            yield f"blocked = {one[:34]}: it is no account and no card of this site; mend or remove it"


def _rule_faults(site: Site) -> Iterator[str]:
    codes = {rule.code for rule in site.currencies}
    for field, currencies in (
        ("stand_in", [rule.currency for rule in site.stand_in]),
        ("allowances", [rule.currency for rule in site.allowances]),
    ):
        yield from repeated(f"{field}[].currency", currencies)
        for currency in currencies:
            if currency not in codes:
                yield f"{field}[].currency = {currency}: it is not in currencies; add it there"
    for rule in site.stand_in:
        if rule.account_minor > rule.box_minor:
            yield (
                f"stand_in[{rule.currency}].account_minor = {rule.account_minor}: more than box_minor"
                f" = {rule.box_minor}; lower it or raise that"
            )


def _allowance_faults(site: Site) -> Iterator[str]:
    for allowance in site.allowances:
        where = f"allowances[{allowance.currency}]"
        if allowance.lease_margin_seconds and allowance.lease_margin_seconds >= allowance.lease_seconds:
            yield (
                f"{where}.lease_margin_seconds = {allowance.lease_margin_seconds}: nothing is left of"
                f" lease_seconds = {allowance.lease_seconds}; lower it or raise that"
            )
        if not allowance.seen_days and (allowance.seen_share_percent or allowance.seen_account_minor):
            yield (
                f"{where}.seen_days = 0: seen_share_percent and seen_account_minor need it; set it, or leave"
                " both out"
            )
        if allowance.seen_days and not (allowance.seen_share_percent and allowance.seen_account_minor):
            yield (
                f"{where}.seen_days = {allowance.seen_days}: without seen_share_percent and"
                " seen_account_minor nothing is filled up; set both, or leave it out"
            )


def _calendar_faults(site: Site) -> Iterator[str]:
    calendar = site.calendar
    if calendar is msgspec.UNSET:
        return
    try:
        load_zone(calendar.zone)
    except UnknownZone as problem:
        yield f"calendar.zone = {calendar.zone}: {problem}"
    if list(calendar.cut_offs) != sorted(set(calendar.cut_offs)):
        times = ", ".join(calendar.cut_offs)
        yield f"calendar.cut_offs = {times}: they must rise; write each once, the earliest first"
    if len(set(calendar.weekend)) == len(WEEKDAYS):
        yield "calendar.weekend: it has all seven days, so no window would close; leave the business days out"
    for field in ("weekend", "holidays", "working_days"):
        yield from repeated(f"calendar.{field}", map(str, getattr(calendar, field)))
    for day in set(calendar.holidays) & set(calendar.working_days):
        yield f"calendar.working_days = {day}: it is one of calendar.holidays too; keep one"


def _cap_faults(site: Site) -> Iterator[str]:
    caps = () if site.net_debit_caps is msgspec.UNSET else site.net_debit_caps
    known = {(account.participant or BANK, account.currency) for account in site.accounts}
    known |= {(BANK, rule.code) for rule in site.currencies}
    yield from repeated("net_debit_caps[]", [f"{cap.participant} {cap.currency}" for cap in caps])
    for cap in caps:
        if (cap.participant, cap.currency) not in known:
            yield (
                f"net_debit_caps[].participant = {cap.participant}: no account in {cap.currency} names it;"
                " mend the name or leave the cap out"
            )


def _is_public_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == PUBLIC_KEY_BYTES
    except (binascii.Error, ValueError):
        return False


def _signature_faults(site: Site) -> Iterator[str]:
    for client in site.clients:
        where = f"clients[{client.name}]"
        keys = () if client.sm2_public_keys is msgspec.UNSET else client.sm2_public_keys
        yield from repeated(f"{where}.sm2_public_keys", keys)
        for text in keys:
            if not _is_sm2_point(text):
                yield (
                    f"{where}.sm2_public_keys = {text}: it is no SM2 public key, 65 bytes in base64; copy the"
                    " line that `edgegw keygen client --sm2` printed"
                )
        if client.profile == SIGNED and not keys:
            yield f"{where}.profile = signed: it has no sm2_public_keys; give it one to sign with"


def _is_sm2_point(text: str) -> bool:
    """Whether it is an uncompressed point of the curve of GB/T 32918.5."""
    try:
        point = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    x, y = int.from_bytes(point[1:33], "big"), int.from_bytes(point[33:], "big")
    on_curve = (y * y - x * x * x + 3 * x - _SM2_B) % _SM2_P == 0
    return len(point) == SM2_POINT_BYTES and point[0] == 4 and max(x, y) < _SM2_P and on_curve


def _rate_faults(site: Site) -> Iterator[str]:
    if site.rates is msgspec.UNSET:
        return
    yield from repeated("rates[].name", [rule.name for rule in site.rates])
    known = {client.name for client in site.clients} | {terminal.id for terminal in site.terminals}
    for rule in site.rates:
        if rule.name and rule.name not in known:
            yield f"rates[].name = {rule.name}: no client or terminal of this site; mend or remove it"
