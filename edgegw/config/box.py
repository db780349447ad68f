"""The box's own settings: one TOML file of addresses, disks, ports and the places of secrets.

What the site decides (accounts, limits, clients) is not here: it comes from the hub (`config.site`). The
tables of the ways in belong to their protocols; whoever loads a file says which there are.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from edgegw.config.discovery import OptionalDiscovery, can_find
from edgegw.config.discovery import faults_of as discovery_faults
from edgegw.config.files import read_toml
from edgegw.config.health import HealthTable
from edgegw.config.keys import KeysTable
from edgegw.config.listen import has_port
from edgegw.config.options import SettingsError, read_table, repeated, with_paths
from edgegw.config.replica import ReplicaTable, faults_of
from edgegw.config.update import UpdateTable
from edgegw.core.journal import sm3
from edgegw.tls_tables import (
    HOST_PATTERN,
    PLAIN,
    ClientTls,
    OptionalClientTls,
    OptionalServerTls,
    Profile,
    ServerTls,
    client_faults,
    is_encrypted,
    server_faults,
)

NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9-]{0,31}\Z"

Name = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN)]
DurationMs = Annotated[int, msgspec.Meta(ge=1, le=86_400_000)]


class PeerAddress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One address of the hub or the mirror."""

    url: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^https?://[^\s/]+/?\Z",
            description="Where it listens, as http://host:port or https://host:port.",
        ),
    ]
    priority: Annotated[
        int, msgspec.Meta(ge=0, le=999, description="The lowest is tried first; give each its own.")
    ] = 0


class HubTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[hub]`: who the centre is."""

    addresses: tuple[PeerAddress, ...]
    key: Annotated[
        str, msgspec.Meta(description="The hub's pinned public key, its one line of text; or give key_file.")
    ] = ""
    key_file: Annotated[
        str, msgspec.Meta(description="File with the hub's pinned public key, one line; or give key.")
    ] = ""
    tls: OptionalClientTls = msgspec.UNSET


class EnrolmentTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[enrolment]`: where the hub certifies this box; with it, the box renews its certificate by itself."""

    addresses: Annotated[
        tuple[Annotated[str, msgspec.Meta(pattern=r"^https://[^\s/]+/?\Z")], ...],
        msgspec.Meta(
            min_length=1, description="URLs of the hub's enrolment, https://host:port, tried in order."
        ),
    ]
    profile: Profile
    server_name: Annotated[
        str,
        msgspec.Meta(
            pattern=HOST_PATTERN,
            description="The name or IP address that the certificate there must have; without it, the host of"
            " the address.",
        ),
    ] = ""
    branch: Annotated[
        str, msgspec.Meta(max_length=64, description="Where the box stands; only a claim for it is good.")
    ] = ""


class LineTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[line]`: how the line to the centre behaves."""

    heartbeat_ms: Annotated[
        DurationMs, msgspec.Meta(description="The longest pause between two messages to the hub.")
    ] = 500
    gather_ms: Annotated[
        DurationMs,
        msgspec.Meta(description="The shortest pause between two messages that only carry new records."),
    ] = 25
    connect_timeout_ms: Annotated[
        DurationMs, msgspec.Meta(description="An address that takes no connection for this long has failed.")
    ] = 1_000
    answer_timeout_ms: Annotated[
        DurationMs,
        msgspec.Meta(description="An address that does not answer a message for this long has failed."),
    ] = 2_000
    centre_timeout_ms: Annotated[
        DurationMs,
        msgspec.Meta(
            description="A payment waits this long for a grant; then it is decided as if the line were down."
        ),
    ] = 800
    failback_ms: Annotated[
        DurationMs,
        msgspec.Meta(description="How often a better address is tried while a worse one is in use."),
    ] = 5_000
    backoff_ms_max: Annotated[
        DurationMs, msgspec.Meta(description="The longest pause before all addresses are tried again.")
    ] = 5_000


class MirrorTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[mirror]`: the second machine in the branch that keeps the journal. Where no addresses are given it is
    looked for by `[discovery]`; without both there is none."""

    addresses: tuple[PeerAddress, ...] = ()
    key: Annotated[
        str, msgspec.Meta(description="The mirror's pinned public key, its one line; or give key_file.")
    ] = ""
    key_file: Annotated[
        str, msgspec.Meta(description="File with the mirror's pinned public key, one line; or give key.")
    ] = ""
    tls: OptionalClientTls = msgspec.UNSET
    durability: Annotated[
        Literal["local", "mirrored"],
        msgspec.Meta(
            description="When an answer leaves: once its record is on the box's disk, or on the mirror's too."
        ),
    ] = "local"
    timeout_ms: Annotated[
        int,
        msgspec.Meta(
            ge=100,
            le=86_400_000,
            description="A mirror that lacks a record, or is silent, for this long is away: answers wait no"
            " longer.",
        ),
    ] = 2_000
    when_away: Annotated[
        Literal["alone", "refuse"],
        msgspec.Meta(
            description="With mirrored durability while the mirror is away: go on with the box's disk alone,"
            " or decide nothing."
        ),
    ] = "alone"


class DiskTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[disk]`: what the ledger's disk must keep free."""

    reserve_bytes: Annotated[
        int,
        msgspec.Meta(
            ge=1 << 20, le=1 << 50, description="Kept for the box's own records when the disk is full."
        ),
    ] = 64 << 20
    payments_bytes_min: Annotated[
        int,
        msgspec.Meta(ge=1 << 20, le=1 << 50, description="With less free space no new payment is taken."),
    ] = 32 << 20


class RetentionTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[retention]`: how long the box keeps the records that the centre has."""

    records_days: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            le=36_500,
            description="Records that the centre has had for so many days are pruned, all but identity and"
            " outcome; their refunds are the centre's from then on. 0 keeps all for ever.",
        ),
    ] = 400


class NoticesTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[notices]`: how clients are told what became of payments after their answers."""

    aged_hours: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=87_600,
            description="A notice that its client has not acknowledged for so long is told in the log each"
            " day; its records are not pruned before.",
        ),
    ] = 24
    retry_seconds_max: Annotated[
        int,
        msgspec.Meta(
            ge=1, le=86_400, description="The longest pause before a webhook that was away is tried again."
        ),
    ] = 300
    networks_barred: Annotated[
        tuple[str, ...],
        msgspec.Meta(description="Networks to which no webhook is posted, whatever the site says."),
    ] = (
        "0.0.0.0/8",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "224.0.0.0/3",
        "::/127",
        "fe80::/10",
        "ff00::/8",
    )


class RefusalsTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[refusals]`: how many refusals of one client are journalled; beyond that nothing is decided."""

    burst_count: Annotated[
        int, msgspec.Meta(ge=1, le=1_000_000, description="Refusals of one client that may come at once.")
    ] = 2_000
    per_second_count: Annotated[
        int, msgspec.Meta(ge=1, le=100_000, description="Refusals of one client in a second, for long.")
    ] = 50


class SiteHealthTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[site_health]`: when the box goes back by itself from new settings of its site to those before."""

    probation_s: Annotated[
        int,
        msgspec.Meta(ge=0, le=86_400, description="New settings are watched for so long; 0: not at all."),
    ] = 300
    requests_min: Annotated[
        int, msgspec.Meta(ge=1, le=1_000_000, description="Fewer requests than this show nothing.")
    ] = 20
    refused_percent_more: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=100,
            description="They are left when the share of requests that name unknown accounts or currencies"
            " has grown by more than so many points against the ten minutes before.",
        ),
    ] = 20


class LogTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[log]`: what the process writes to its standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        msgspec.Meta(description="Lines below this level are left out."),
    ] = "info"


class BoxLogTable(LogTable, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[log]`: what the box writes to its standard error, and beside its ledger for who comes to it."""

    bytes_max: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            le=1 << 40,
            description="How much of the log is kept in log/box.jsonl beside the ledger; 0 keeps nothing.",
        ),
    ] = 32 << 20


class BoxSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file, but for the tables of the protocols."""

    bank: Annotated[
        Name, msgspec.Meta(description="The bank's name, as the hub and the site's settings have it.")
    ]
    box: Annotated[Name, msgspec.Meta(description="This box's name, unique within the bank.")]
    hub: HubTable
    data_dir: Annotated[str, msgspec.Meta(min_length=1, description="Directory of the ledger.")] = "data"
    anchor_dir: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            description="Directory on a second medium, outside every backup; finds out a restored ledger.",
        ),
    ] = "anchor"
    device_key_file: Annotated[
        str,
        msgspec.Meta(min_length=1, description="The box's private device key; `edgegw keygen box` makes it."),
    ] = "secrets/device.pem"
    checkpoint_key_file: Annotated[
        str,
        msgspec.Meta(
            min_length=1, description="The private key that signs checkpoints; made at the first start."
        ),
    ] = "secrets/checkpoint.pem"
    webhook_key_file: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            description="The private Ed25519 key that signs posts to webhooks; made at the first start.",
        ),
    ] = "secrets/webhook.pem"
    vault_keys_dir: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            description="Directory of the vault's own key versions; the first is made at the first start.",
        ),
    ] = "secrets/vault"
    token_key_file: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            description="The private Ed25519 keys that sign access tokens; made at the first start.",
        ),
    ] = "secrets/tokens.json"  # noqa: S105 - a path
    keys: KeysTable = KeysTable()
    enrolment: EnrolmentTable | msgspec.UnsetType = msgspec.UNSET
    line: LineTable = LineTable()
    mirror: MirrorTable = MirrorTable()
    discovery: OptionalDiscovery = msgspec.UNSET
    replica: ReplicaTable = ReplicaTable()
    disk: DiskTable = DiskTable()
    retention: RetentionTable = RetentionTable()
    notices: NoticesTable = NoticesTable()
    refusals: RefusalsTable = RefusalsTable()
    site_health: SiteHealthTable = SiteHealthTable()
    update: UpdateTable = UpdateTable()
    health: HealthTable = HealthTable()
    log: BoxLogTable = BoxLogTable()


class Box(msgspec.Struct, frozen=True, kw_only=True):
    """A loaded file: the box's settings, and the options of each protocol whose table is there."""

    settings: BoxSettings
    protocols: dict[str, msgspec.Struct]
    digest: str
    """SM3 (hex) of all of it, defaults included; the boot record carries it."""
    source: str = ""
    """The file, absolute."""


def load_box(path: Path, protocols: Mapping[str, type[msgspec.Struct]]) -> Box:
    """The box's settings from a file, paths made absolute; raises SettingsError with every fault.

    protocols names the tables of the ways in and their shapes; a way whose table is not there stays closed.
    """
    table = read_toml(path)
    folder = path.parent.absolute()
    faults: list[str] = []
    ways: dict[str, msgspec.Struct] = {}
    for name in sorted(table.keys() & protocols.keys()):
        way = _way(protocols[name], name, table.pop(name), faults)
        if way is not None:
            faults += _way_faults(name, way)
            ways[name] = with_paths(way, folder)
    settings = read_table(BoxSettings, table, faults)
    if settings is not None:
        faults += _faults(settings)
    if not ways and not faults:
        faults.append(f"no way in is open; give a table {' or '.join(f'[{name}]' for name in protocols)}")
    if settings is None or faults:
        raise SettingsError(str(path), faults)
    settings = with_paths(settings, folder)
    digest = _digest(settings, ways)
    return Box(settings=settings, protocols=ways, digest=digest, source=str(path.absolute()))


def _way(shape: type[msgspec.Struct], name: str, table: Any, faults: list[str]) -> msgspec.Struct | None:
    if isinstance(table, dict):
        return read_table(shape, table, faults, where=f"{name}.")
    faults.append(f"{name}: it is a table of options; write [{name}] on a line of its own")
    return None


def tls_of(way: msgspec.Struct) -> OptionalServerTls:
    """How a way in is encrypted, by its options."""
    tls = getattr(way, "tls", msgspec.UNSET)
    return tls if isinstance(tls, ServerTls) else msgspec.UNSET


def _way_faults(name: str, way: msgspec.Struct) -> Iterator[str]:
    """What is wrong with how a way in is encrypted; its clients show certificates where it asks for them."""
    host = getattr(way, "host", None)
    if host is not None:
        yield from server_faults(
            tls_of(way), iter([host]), option=f"{name}.host", where=f"{name}.tls", clients_certified=False
        )


def _faults(settings: BoxSettings) -> list[str]:
    faults = []
    hub = settings.hub
    if not hub.addresses:
        faults.append("hub.addresses: none; give at least one [[hub.addresses]] with its url")
    if bool(hub.key) == bool(hub.key_file):
        faults.append("hub.key, hub.key_file: give one of them, the hub's public key or its file")
    faults += _address_faults("hub", hub.addresses, hub.tls)
    faults += discovery_faults(settings.discovery)
    faults += _mirror_faults(settings.mirror, found=has_mirror(settings))
    faults += _enrolment_faults(settings)
    faults += faults_of(settings.replica, data_dir=settings.data_dir)
    faults += [
        f"notices.networks_barred = {network}: it is no network; write it as 10.0.0.0/8"
        for network in settings.notices.networks_barred
        if not _is_network(network)
    ]
    if settings.data_dir == settings.anchor_dir:
        faults.append(
            f"anchor_dir = {settings.anchor_dir}: it is data_dir as well; what is kept outside the ledger"
            " needs a place of its own"
        )
    return faults


def _enrolment_faults(settings: BoxSettings) -> list[str]:
    table, tls = settings.enrolment, settings.hub.tls
    if table is msgspec.UNSET:
        return []
    faults = [
        f"enrolment.addresses = {url}: its port is no number from 1 to 65535"
        for url in table.addresses
        if not has_port(url)
    ]
    if table.profile == PLAIN:
        faults.append("enrolment.profile = plain: nothing but TLS proves the hub; give intl, pq, gm or gm-pq")
    if not isinstance(tls, ClientTls) or not is_encrypted(tls):
        faults.append("enrolment: it certifies the line's key; give [hub.tls] with its profile and files")
    return faults


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def has_mirror(settings: BoxSettings) -> bool:
    """Whether the box has a mirror: its addresses are given, or its key is and they are to be found."""
    mirror = settings.mirror
    return bool(mirror.addresses or ((mirror.key or mirror.key_file) and can_find(settings.discovery)))


def _mirror_faults(mirror: MirrorTable, *, found: bool) -> list[str]:
    faults = _address_faults("mirror", mirror.addresses, mirror.tls)
    if found and bool(mirror.key) == bool(mirror.key_file):
        faults.append("mirror.key, mirror.key_file: give one of them, the mirror's public key or its file")
    if mirror.durability == "mirrored" and not found:
        faults.append(
            "mirror.durability = mirrored: there is no mirror; give a [[mirror.addresses]] with its url, or"
            " its key and [discovery]"
        )
    if found and not mirror.addresses:
        faults += _found_mirror_faults(mirror.tls)
    return faults


def _found_mirror_faults(tls: OptionalClientTls) -> Iterator[str]:
    """What is wrong where the mirror's address comes from the network, which is believed for nothing else."""
    if tls is msgspec.UNSET:
        yield (
            "mirror.tls: it is missing, and the mirror's address is found on the network; give [mirror.tls]"
            ' with its profile, or profile = "plain" where something in front encrypts'
        )
    elif is_encrypted(tls) and not tls.server_name:
        yield (
            "mirror.tls.server_name: it is missing, and the mirror's address is found on the network; give"
            " the name that its certificate must have"
        )


def _address_faults(where: str, addresses: tuple[PeerAddress, ...], tls: OptionalClientTls) -> list[str]:
    faults: list[str] = []
    for field in ("url", "priority"):
        values = [getattr(address, field) for address in addresses]
        faults += repeated(f"{where}.addresses[].{field}", values, "give each its own")
    faults += [
        f"{where}.addresses[].url = {address.url}: its port is no number from 1 to 65535"
        for address in addresses
        if not has_port(address.url)
    ]
    urls = (address.url for address in addresses if has_port(address.url))
    faults += client_faults(tls, urls, option=f"{where}.addresses[].url", where=f"{where}.tls")
    return faults


def _digest(settings: BoxSettings, ways: Mapping[str, msgspec.Struct]) -> str:
    return sm3(msgspec.json.encode([settings, sorted(ways.items())], order="deterministic")).hex()
