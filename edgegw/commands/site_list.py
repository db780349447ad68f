"""`edgegw site list`: a list of ids from a file, kept at the hub for the site's settings to name."""

from __future__ import annotations

import time
from pathlib import Path

import click
import msgspec

from edgegw.commands import SettingsPath, hub_settings_option
from edgegw.commands.limit_orders import BLOCKED, id_fault
from edgegw.config.options import SettingsError
from edgegw.core import journal
from edgegw.core.lists import ENTRIES_MAX, ENTRY_BYTES, block_of
from edgegw.core.site import ListRule


@click.command("list")
@click.argument("name")
@click.argument("file", type=SettingsPath)
@click.option(
    "--of",
    type=click.Choice(BLOCKED),
    required=True,
    help="What the ids are; of a card its lookup.",
)
@click.option(
    "--effect",
    type=click.Choice(("block", "allow")),
    default="block",
    help="Whoever is on it pays nothing, or whoever is not.",
)
@hub_settings_option
def site_list(name: str, file: Path, of: str, effect: str, hub_settings: Path) -> None:
    """Keep a long list at the hub, from a file with one id a line, and print what names it in the settings.

    Empty lines do not count, and an id that stands there twice counts once. Boxes fetch the list when
    settings that name it are published, and use them only with it. Another list is another digest, and so
    another version of the settings; one id is blocked sooner by `edgegw order block`.

    Example: edgegw site list hot-cards cards.txt --of card --hub hub.toml
    """
    from edgegw.commands.hub import open_books
    from edgegw.hub.lists import keep_list

    block = block_of(of, _ids(file, of))
    entries = len(block) // ENTRY_BYTES
    if entries > ENTRIES_MAX:
        raise SettingsError(str(file), [f"{entries} ids; a list has {ENTRIES_MAX} at most; make several"])
    table = {"name": name, "of": of, "effect": effect, "digest": journal.sm3(block).hex()}
    try:
        msgspec.convert({**table, "entries": entries}, ListRule)
    except msgspec.ValidationError as problem:
        raise SettingsError("NAME", [f"{name!r}: {problem}"]) from None
    with open_books(hub_settings) as books:
        books.database.transact(lambda c: keep_list(c, block, now_ns=time.time_ns()))
    click.echo("[[lists]]")
    for option, value in table.items():
        click.echo(f'{option} = "{value}"')
    click.echo(f"entries = {entries}")


def _ids(file: Path, of: str) -> list[str]:
    """The ids of a file; raises SettingsError with the first faults."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise SettingsError(str(file), [f"it cannot be read: {problem}; give a text file in UTF-8"]) from None
    ids, faults = [], []
    for number, line in enumerate(lines, 1):
        whose = line.strip()
        fault = id_fault(of, whose) if whose else ""
        if fault:
            faults.append(f"line {number}: {fault}")
        elif whose:
            ids.append(whose)
    if faults:
        raise SettingsError(str(file), faults[:20])
    return ids
