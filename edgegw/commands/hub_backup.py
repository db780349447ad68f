"""The hub's backup: a copy of its SQLite file, and what a restored database has forgotten brought back."""

from __future__ import annotations

import os
from pathlib import Path

import click

from edgegw.commands import hub_settings_option
from edgegw.commands.hub import identity_keep, load_keyring, open_database
from edgegw.config.hub import load_hub
from edgegw.config.options import SettingsError
from edgegw.errors import OperatingError


@click.command("backup")
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write; none may be there.",
)
@hub_settings_option
def hub_backup(out: Path, hub_settings: Path) -> None:
    """Copy the hub's SQLite database as it is now, beside a hub that runs or not.

    One state of all tables, whole and checked; nobody waits for it. A hub on PostgreSQL is backed up by that
    server's own tools. Settings, keys and identities_file are files of their own: provision/RUNBOOK-HUB.md.

    Example: edgegw hub backup --out hub-2026-03-02.db --hub hub.toml
    """
    import pysqlite3

    settings = load_hub(hub_settings)
    if settings.database_url:
        raise SettingsError(
            str(hub_settings), ["database_url: a PostgreSQL is backed up by pg_dump or its WAL"]
        )
    if out.exists():
        raise OperatingError(
            f"{out} is there already", hint="Give --out another name; no backup is written over."
        )
    fresh = out.with_name(out.name + ".new")
    fresh.unlink(missing_ok=True)
    os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    source = pysqlite3.connect(f"file:{settings.database_file}?mode=ro", uri=True)
    try:
        source.execute("VACUUM INTO ?", (str(fresh),))
    except pysqlite3.Error as problem:
        raise OperatingError(
            f"{settings.database_file} cannot be copied: {problem}",
            hint="See that the file and the disk are well.",
        ) from None
    finally:
        source.close()
    copy = pysqlite3.connect(str(fresh))
    try:
        [found] = copy.execute("PRAGMA quick_check").fetchone()
    finally:
        copy.close()
    if found != "ok":
        raise OperatingError(
            f"the copy is not whole: {found}", hint="The database itself may be damaged: see it first."
        )
    with fresh.open("rb") as file:
        os.fsync(file.fileno())
    fresh.replace(out)
    click.echo(f"{out}: {out.stat().st_size:,} bytes")


@click.command("recall")
@hub_settings_option
def ca_recall(hub_settings: Path) -> None:
    """Bring back into a restored database what the settings' identities_file has and it lacks.

    Devices that were enrolled, claims that were used or withdrawn, certificates and revocations. The hub must
    be stopped; it refuses to start before. Nothing is done where the database lacks nothing.

    Example: edgegw hub ca recall --hub hub.toml
    """
    settings = load_hub(hub_settings)
    keep = identity_keep(settings, load_keyring(settings))
    if keep is None:
        raise SettingsError(str(hub_settings), ["identities_file: it is missing, so nothing was kept"])
    with open_database(settings, serves=True) as database:
        click.echo(f"{keep.recall(database)} rows were brought back")
