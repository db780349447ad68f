"""The hub's own settings: one TOML file with its database, where it listens, its key and the boxes' keys.

The database is a SQLite file or a PostgreSQL server, never both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final
from urllib.parse import parse_qsl, urlsplit

import msgspec

from edgegw.config.box import LogTable, Name
from edgegw.config.files import read_toml
from edgegw.config.keys import KeysTable
from edgegw.config.listen import Listen, faults_of
from edgegw.config.options import SettingsError, read_table, with_paths
from edgegw.core.site import TIME_PATTERN
from edgegw.tls_tables import OptionalServerTls

DATABASE_FILE: Final = "hub.db"
URL_EXAMPLE: Final = "postgresql://role@host:5432/database"


ORDERS: Final = (
    "accept-window",
    "block",
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
    log: LogTable = LogTable()


def load_hub(path: Path) -> HubSettings:
    """The hub's settings from a file, paths made absolute; raises SettingsError with every fault."""
    faults: list[str] = []
    settings = read_table(HubSettings, read_toml(path), faults)
    if settings is not None:
        faults += faults_of(settings.listen, settings.tls)
        faults += _database_faults(settings)
    if settings is None or faults:
        raise SettingsError(str(path), faults)
    if not settings.database_url and not settings.database_file:
        settings = msgspec.structs.replace(settings, database_file=DATABASE_FILE)
    return with_paths(settings, path.parent.absolute())


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
