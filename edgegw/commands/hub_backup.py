"""The hub's backup, what a restored database has forgotten, and the statements of boxes that were reset."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgegw.commands import ExitCode, hub_settings_option
from edgegw.commands.hub import identity_keep, load_keyring, open_books, open_database
from edgegw.config.hub import load_hub
from edgegw.config.options import SettingsError
from edgegw.errors import OperatingError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from edgegw.hub.identities import Identity
    from edgegw.reset_statement import Statement


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
    database = Path(settings.database_file).absolute()
    if not database.is_file():
        raise OperatingError(
            f"there is no {database}", hint="Give the settings of a hub that has run on this machine."
        )
    fresh = out.with_name(out.name + ".new")
    fresh.unlink(missing_ok=True)
    os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    source = pysqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)
    try:
        source.execute("VACUUM INTO ?", (str(fresh),))
    except pysqlite3.Error as problem:
        raise OperatingError(
            f"{database} cannot be copied: {problem}",
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


@click.command("destroyed")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@hub_settings_option
@click.pass_context
def ca_destroyed(ctx: click.Context, file: Path, hub_settings: Path) -> None:
    """Check the statement that `edgegw factory-reset --statement` wrote: which device, and is anything lost.

    The signature must be that of a device key that the hub has bound. Exit code 1 where the device still
    counts, or the hub lacks records that the statement names.

    Example: edgegw hub ca destroyed reset.json --hub hub.toml
    """
    from edgegw.hub.identities import LIVE

    with open_books(hub_settings) as books:
        device, statement, wrong = books.database.transact(lambda c: _destroyed(c, _read(file)))
    when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(statement.at_s))
    click.echo(f"device {device.generation} of {statement.box}: its key was destroyed at {when}")
    for one in statement.journals:
        click.echo(f"epoch {one.epoch}: {one.size} records, root {one.root[:16]}")
    if device.state == LIVE:
        wrong = [*wrong, f"the device still counts: edgegw hub ca revoke {statement.box}"]
    for problem in wrong:
        click.echo(f"! {problem}")
    if wrong:
        ctx.exit(ExitCode.FOUND)
    click.echo("nothing is lacking here")


def _read(file: Path) -> str:
    """A note in a file, as far as one may reach; what is no text is no signed one."""
    from edgegw.reset_statement import BYTES_MAX

    with file.open("rb") as opened:
        return opened.read(BYTES_MAX).decode("utf-8", "replace")


def _destroyed(connection: Connection, note: str) -> tuple[Identity, Statement, list[str]]:
    """The device, what it said, and what is wrong; raises OperatingError where no known device has
    signed it."""
    from edgegw.core.journal import NoteError
    from edgegw.hub.identities import identities
    from edgegw.reset_statement import read

    for device in identities(connection):
        try:
            statement = read(note, device.key)
        except NoteError:
            continue
        if statement.box != device.box:
            raise OperatingError(
                f"the device of {device.box} has signed it in the name of {statement.box}",
                hint="It proves nothing; keep the machine, and revoke its device.",
            )
        return device, statement, list(_lost(connection, statement))
    raise OperatingError(
        "no device that this hub has bound has signed it",
        hint="Ask where the file comes from; keep the machine.",
    )


def _lost(connection: Connection, statement: Statement) -> Iterator[str]:
    """Where the hub's own heads do not reach as far, a line each."""
    from sqlalchemy import select

    from edgegw.hub.schema import journal_head

    table = journal_head.c
    rows = connection.execute(select(table.epoch, table.size, table.root).where(table.box == statement.box))
    held = {row.epoch: row for row in rows}
    for one in statement.journals:
        head = held.get(one.epoch)
        size = 0 if head is None else head.size
        if size < one.centre_size:
            yield f"epoch {one.epoch}: the hub holds {size} records and had signed for {one.centre_size}"
        elif size < one.size and one.exported:
            yield (
                f"epoch {one.epoch}: the hub holds {size} of {one.size} records; the rest is in an export:"
                " edgegw order take-journal FILE"
            )
        elif head is not None and size == one.size and bytes(head.root).hex() != one.root:
            yield f"epoch {one.epoch}: the hub holds another history of the same size"
