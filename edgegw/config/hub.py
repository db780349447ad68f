"""The hub's own settings: one TOML file with its database, where it listens, its key and the boxes' keys.

The database is a SQLite file or a PostgreSQL server, never both.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import parse_qsl, urlsplit

import msgspec

from edgegw.config.box import LogTable, Name
from edgegw.config.files import read_toml
from edgegw.config.keys import KeysTable
from edgegw.config.listen import Address, Listen, addresses, faults_of, has_port
from edgegw.config.options import SettingsError, read_table, with_paths
from edgegw.core.site import TIME_PATTERN
from edgegw.tls_tables import HOST_PATTERN, OptionalServerTls, is_encrypted, server_faults

DATABASE_FILE: Final = "hub.db"
URL_EXAMPLE: Final = "postgresql://role@host:5432/database"


ORDERS: Final = (
    "accept-window",
    "block",
    "ca-claim",
    "ca-replace",
    "ca-revoke",
    "ca-seen",
    "ca-withdraw",
    "close-account",
    "declare-box-lost",
    "declare-loss",
    "freeze",
    "halt",
    "limit",
    "new-epoch",
    "park",
    "promote",
    "publish",
    "revoke-key",
    "roll-back",
    "seal",
)
"""Every kind of order (`hub.order_actions`)."""


class OperatorTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[operators]]`: a person who gives orders. Once anybody is listed, certain orders take two."""

    name: Annotated[Name, msgspec.Meta(description="Who it is, as `--by` names them and records keep it.")]
    public_key: Annotated[
        str, msgspec.Meta(description="What `edgegw keygen operator` printed: 32 bytes in base64.")
    ]
    roles: tuple[Annotated[str, msgspec.Meta(pattern=r"^(maker|checker)\Z")], ...] = ("maker", "checker")
    """`maker` proposes, `checker` approves what another person has proposed."""
    actions: tuple[Annotated[str, msgspec.Meta(pattern=rf"^({'|'.join(ORDERS)})\Z")], ...] = ()
    """The kinds of orders that this person makes and checks, as `edgegw orders list` names them; none:
    all."""
    revoked: bool = False
    """This person gives no orders any more. Leave the entry: what they have signed is checked by its key."""


class EnrolmentTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[enrolment]`: the hub's CA, and the listener to which boxes bring their claims."""

    listen: Annotated[
        tuple[Address, ...],
        msgspec.Meta(description="Where boxes enrol and renew, host:port each; none: nowhere."),
    ] = ()
    addresses: Annotated[
        tuple[str, ...],
        msgspec.Meta(
            max_length=8, description="The URLs of it that claims tell the boxes, https://host:port each."
        ),
    ] = ()
    line: Annotated[
        tuple[str, ...],
        msgspec.Meta(
            max_length=8,
            description="The URLs of the exchange itself that claims tell the boxes: one without settings"
            " writes its own.",
        ),
    ] = ()
    server_name: Annotated[
        str,
        msgspec.Meta(
            pattern=HOST_PATTERN,
            description="What boxes must find in the listener's certificate; without it, the address's host.",
        ),
    ] = ""
    ca_dir: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            description="Directory of the CAs' keys and certificates; `edgegw hub ca init` makes them.",
        ),
    ] = "secrets"
    certificate_days: Annotated[
        float, msgspec.Meta(gt=0, le=825, description="How long a box's certificate lives.")
    ] = 90
    claim_hours_max: Annotated[
        int, msgspec.Meta(ge=1, le=720, description="The longest life that a claim may be given.")
    ] = 72
    tls: OptionalServerTls = msgspec.UNSET
    """Without client_ca_file: a box that enrols has no certificate yet."""


class UpdatesTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[updates]`: the releases that the hub hands to boxes, where it listens for them anyway."""

    directory: Annotated[
        str,
        msgspec.Meta(
            description="Directory of the published repository (`edgegw release publish`); none is served"
            " without it."
        ),
    ] = ""
    online_key_file: Annotated[
        str,
        msgspec.Meta(
            description="The repository's online key; with it the hub signs the timestamp afresh before it"
            " ends."
        ),
    ] = ""
    downloads_max: Annotated[
        int,
        msgspec.Meta(
            ge=1, le=10_000, description="Bundles that are handed out at once; other boxes come again later."
        ),
    ] = 8


class HubSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    bank: Annotated[
        Name, msgspec.Meta(description="The bank's name; boxes and site settings must have the same.")
    ]
    boxes: Annotated[
        dict[Name, str],
        msgspec.Meta(
            description="`[boxes]`: each box's name and its pinned public key, the one line of its .pub file."
        ),
    ] = {}
    listen: Listen = ("127.0.0.1:8600", "127.0.0.1:8601")
    database_file: Annotated[
        str,
        msgspec.Meta(
            description="The SQLite file of the hub's books, for one hub process; `hub.db` where no"
            " database_url is given."
        ),
    ] = ""
    database_url: Annotated[
        str,
        msgspec.Meta(
            description="PostgreSQL instead, for any number of hub processes:"
            " `postgresql://role@host:port/database`, with libpq's options (several hosts, `sslmode`,"
            " `sslrootcert`) and without the password."
        ),
    ] = ""
    database_password_file: Annotated[
        str,
        msgspec.Meta(
            description="The file with the password for database_url, for its owner alone; without one,"
            " ~/.pgpass is read."
        ),
    ] = ""
    key_file: Annotated[
        str, msgspec.Meta(min_length=1, description="The hub's private key; `edgegw keygen hub` makes it.")
    ] = "secrets/hub.pem"
    identities_file: Annotated[
        str,
        msgspec.Meta(
            description="File on another medium than the database, to which every claim, device, certificate"
            " and revocation is written as well, signed; a restored database gets from it what it has"
            " forgotten (`edgegw hub ca recall`). Without it nothing is kept."
        ),
    ] = ""
    keys: KeysTable = KeysTable()
    operators: tuple[OperatorTable, ...] = ()
    """The people who give orders. With none, every order acts at once, on one person's word."""
    settlement_times: tuple[Annotated[str, msgspec.Meta(pattern=TIME_PATTERN)], ...] = ()
    """Local times (HH:MM) at which the hub settles by itself, on the business days and in the time zone of
    the site's calendar; none: only `edgegw settlement run` does."""
    suspense_aged_days: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            le=3_650,
            description="An item in suspense, or a receivable, that waits for so many days is told in the log"
            " each day until somebody has acted on it.",
        ),
    ] = 3
    tls: OptionalServerTls = msgspec.UNSET
    enrolment: EnrolmentTable | msgspec.UnsetType = msgspec.UNSET
    updates: UpdatesTable = UpdatesTable()
    log: LogTable = LogTable()


def load_hub(path: Path) -> HubSettings:
    """The hub's settings from a file, paths made absolute; raises SettingsError with every fault."""
    faults: list[str] = []
    settings = read_table(HubSettings, read_toml(path), faults)
    if settings is not None:
        faults += faults_of(settings.listen, settings.tls)
        faults += _database_faults(settings)
        faults += _enrolment_faults(settings.enrolment)
    if settings is None or faults:
        raise SettingsError(str(path), faults)
    if not settings.database_url and not settings.database_file:
        settings = msgspec.structs.replace(settings, database_file=DATABASE_FILE)
    return with_paths(settings, path.parent.absolute())


def _enrolment_faults(table: EnrolmentTable | msgspec.UnsetType) -> Iterator[str]:
    """What is wrong with the enrolment's listener and what claims say of it, a line each."""
    if table is msgspec.UNSET:
        return
    where = "enrolment.tls"
    hosts = (host for host, _ in addresses(table.listen))
    yield from server_faults(
        table.tls, hosts, option="enrolment.listen", where=where, clients_certified=False
    )
    if table.tls is not msgspec.UNSET and table.tls.client_ca_file:
        file = table.tls.client_ca_file
        yield f"{where}.client_ca_file = {file}: who enrols has no certificate yet; drop it"
    scheme = "https" if is_encrypted(table.tls) else "http"
    for url in table.line:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc or not has_port(url):
            yield f"enrolment.line = {url}: it is no address; write https://host:port"
    for url in table.addresses:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc or not has_port(url):
            yield f"enrolment.addresses = {url}: it is no address; write {scheme}://host:port"
        elif is_encrypted(table.tls) and urlsplit(url).scheme != "https":
            yield f"enrolment.addresses = {url}: [{where}] encrypts; write https://{urlsplit(url).netloc}"


def _database_faults(settings: HubSettings) -> list[str]:
    """What is wrong with where the database is said to be; a password is never shown."""
    url = settings.database_url
    if not url:
        if not settings.database_password_file:
            return []
        file = settings.database_password_file
        return [f"database_password_file = {file}: there is no database_url for it; give one, or drop this"]
    faults = []
    if settings.database_file:
        faults.append(
            f"database_file = {settings.database_file}: there is a database_url, too; keep the one in use"
        )
    try:
        parts = urlsplit(url)
        password = parts.password or dict(parse_qsl(parts.query)).get("password")
    except ValueError as problem:
        return [*faults, f"database_url: it is no URL ({problem}); write {URL_EXAMPLE}"]
    if password:
        shown = url.replace(password, "…")
        faults.append(
            f"database_url = {shown}: it holds a password; put that into a file of mode 0600 and name it in"
            " database_password_file"
        )
    elif parts.scheme not in ("postgresql", "postgres") or not parts.path.strip("/"):
        faults.append(f"database_url = {url}: it names no database; write {URL_EXAMPLE}")
    return faults
