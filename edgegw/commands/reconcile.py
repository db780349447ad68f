"""Comparing what boxes, hub and bank core hold; all three are only read."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from edgegw.commands import (
    ExitCode,
    hub_settings_option,
    json_option,
    progress_bar,
)
from edgegw.config.hub import load_hub
from edgegw.config.options import SettingsError
from edgegw.errors import OperatingError
from edgegw.reconcile.classes import definitions
from edgegw.reconcile.core_file import COLUMNS

if TYPE_CHECKING:
    from edgegw.reconcile.report import Count, Summary
    from edgegw.reconcile.workspace import Workspace

ROWS_SHOWN: Final = 50
SUSPENSE_HOURS: Final = 24


def _epilog() -> str:
    """What `--help` says at its end, from the tables that the code uses."""
    columns = "\n\n".join(f"{column.name}: {column.meaning} {column.words}" for column in COLUMNS)
    return f"Columns of the core's list:\n\n{columns}\n\nClasses of breaks:\n\n{definitions()}"


@click.command(
    "reconcile", epilog=_epilog(), short_help="Compare journals, hub and the bank core's list three ways."
)
@click.argument("journals", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--core",
    "core_files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The bank core's list, a CSV file; may be given several times. Without it two sides are compared.",
)
@hub_settings_option
@click.option(
    "--workspace",
    default="reconcile.db",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The SQLite file to write: the tables of each side, `break` and `summary`.",
)
@click.option(
    "--channel",
    default="edgegw",
    show_default=True,
    help="The core's word for us in its column `channel`; other lines are only counted.",
)
@click.option(
    "--postings",
    default="",
    help="The core's word in `channel` for what it has posted at the hub (`edgegw post`): `core_reference` is"
    " the posting's id. Compared only when this is given.",
)
@click.option(
    "--suspense-hours",
    default=SUSPENSE_HOURS,
    show_default=True,
    type=click.IntRange(min=0, max=1_000_000),
    help="How long an item may wait in the hub's suspense before it is a break.",
)
@json_option
@click.pass_context
def reconcile(
    ctx: click.Context,
    journals: tuple[Path, ...],
    core_files: tuple[Path, ...],
    hub_settings: Path,
    workspace: Path,
    channel: str,
    postings: str,
    suspense_hours: int,
    as_json: bool,
) -> None:
    """Compare boxes' journals, the hub and the bank core's list, and name every difference.

    JOURNALS are files of `edgegw journal export` and data directories of boxes or of a mirror, any number of
    them; a box may run meanwhile, and so may the hub. A record that the hub has not got yet is in flight and
    no break, and neither is a hold or a stand-in that is still open. Exit code 1 when there is a break.

    With --json: one object with `edgegw` (the format), `well`, `workspace`, `sides`, `classes` and `apart`
    (lists of what, records, currency, amount_minor) and `breaks`: class, amount_minor, currency, box, place
    (EPOCH/SEQ), client, request_id, account_id, detail, hint, and in `journal`, `hub` and `core` the row of
    that side, or null. New versions only add fields.

    The workspace is a SQLite file for any tool; `SELECT * FROM break` has each one with its class, amount,
    hint and the row of each side. A workspace of the same name is replaced.

    Example: edgegw reconcile branch-1.journal /var/lib/edgegw --core core.csv --hub hub.toml
    """
    from edgegw.hub.exported import ExportError
    from edgegw.reconcile.core_file import CoreFileError
    from edgegw.reconcile.report import summary_of
    from edgegw.reconcile.workspace import is_workspace, new_workspace

    if workspace.exists() and not is_workspace(workspace):
        raise SettingsError("--workspace", [f"{workspace} is there and is no workspace; give another name"])
    with new_workspace(workspace) as opened:
        try:
            _fill(
                opened,
                hub_settings,
                journals=journals,
                core_files=core_files,
                channel=channel,
                postings=postings,
                suspense_hours=suspense_hours,
            )
        except CoreFileError as problem:
            raise SettingsError("--core", problem.faults) from None
        except ExportError as problem:
            raise SettingsError("JOURNALS", [str(problem)]) from None
        summary = summary_of(opened, str(workspace))
        if as_json:
            _print_json(opened, summary)
        else:
            _show(opened, summary)
    if not summary.well:
        ctx.exit(ExitCode.FOUND)


def _fill(
    workspace: Workspace,
    hub_settings: Path,
    *,
    journals: tuple[Path, ...],
    core_files: tuple[Path, ...],
    channel: str,
    postings: str,
    suspense_hours: int,
) -> None:
    from edgegw.commands.hub import open_database
    from edgegw.reconcile.run import reconcile as run

    settings = load_hub(hub_settings)
    file = settings.database_file
    if file and not Path(file).exists():
        raise OperatingError(f"there is no hub database at {file}", hint="Give the hub's settings by --hub.")
    with progress_bar("reading") as progress:
        run(
            workspace,
            functools.partial(open_database, settings, serves=False),
            journals=journals,
            core_files=core_files,
            channel=channel,
            postings=postings,
            suspense_hours=suspense_hours,
            now_ns=time.time_ns(),
            progress=progress,
        )


def _print_json(workspace: Workspace, summary: Summary) -> None:
    """One object; the breaks are written one by one, however many there are."""
    import msgspec

    from edgegw.reconcile.report import breaks_of

    click.echo(msgspec.json.encode(summary)[:-1] + b',"breaks":[', nl=False)
    for number, one in enumerate(breaks_of(workspace)):
        click.echo((b"," if number else b"") + msgspec.json.encode(one), nl=False)
    click.echo(b"]}")


def _show(workspace: Workspace, summary: Summary) -> None:
    import itertools

    from rich.console import Console
    from rich.table import Column, Table

    from edgegw.reconcile.classes import MEND_OF
    from edgegw.reconcile.report import breaks_of

    console = Console(soft_wrap=False)
    sides = ", ".join(f"{count.records} {count.what}" for count in summary.sides)
    if not summary.well:
        names = ("class", "amount", "box", "place", "who", "what")
        table = Table(*(Column(name, overflow="fold") for name in names))
        for one in itertools.islice(breaks_of(workspace), ROWS_SHOWN):
            who = " ".join(filter(None, (one.client, one.request_id, one.account_id)))
            table.add_row(
                one.class_, f"{one.amount_minor} {one.currency}".strip(), one.box, one.place, who, one.detail
            )
        console.print(table)
        for name in dict.fromkeys(count.what for count in summary.classes):
            console.print(f"{name}: {MEND_OF[name]}", markup=False, highlight=False)
    for count in summary.apart:
        click.echo(f"no break: {_words(count)}")
    for count in summary.classes:
        click.echo(f"break: {_words(count)}")
    found = sum(count.records for count in summary.classes)
    click.echo(f"{summary.workspace}: {sides} rows: {f'{found} breaks' if found else 'all agree'}")


def _words(count: Count) -> str:
    money = "" if count.amount_minor is None else f", {count.amount_minor} {count.currency}".rstrip()
    return f"{count.what}: {count.records}{money}"
