"""`edgegw site`: the settings that the hub gives to every box; checked, compared, published, staged,
taken back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click
import msgspec

from edgegw.commands import (
    ExitCode,
    LongNumber,
    SettingsPath,
    hub_settings_option,
    json_option,
    print_json,
)
from edgegw.commands.orders import give_order, person_options
from edgegw.config.options import SettingsError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from edgegw.access.operators import Person
    from edgegw.commands.hub import HubBooks
    from edgegw.core.site import Site
    from edgegw.hub.site import Staging
    from edgegw.hub.stages import BoxSite

T = TypeVar("T")
VALUE_CHARS_MAX = 60

canary_option = click.option(
    "--canary", "canaries", default="", help="Boxes that get it first, by name with commas between."
)
share_option = click.option(
    "--share", "share_percent", type=click.IntRange(0, 100), help="Percent of the boxes that get it."
)
bake_option = click.option(
    "--bake-minutes",
    type=click.IntRange(0, 7 * 24 * 60),
    default=0,
    show_default=True,
    help="With --canary or --share: healthy there for so long, it goes to all by itself; 0: you say.",
)


@click.group()
def site() -> None:
    """The settings that the hub gives to every box: accounts, clients, limits.

    Example: edgegw site publish site.json --hub hub.toml
    """


class _RollBack(Exception):
    """What was only tried is not kept."""


@site.command("check")
@click.argument("file", type=SettingsPath)
@hub_settings_option
def site_check(file: Path, hub_settings: Path) -> None:
    """Check a site's settings (.json or .toml) against themselves, the hub's boxes and its books.

    The books are left as they are; where there are none yet, they are not asked.

    Example: edgegw site check site.json --hub hub.toml
    """
    from edgegw.commands.hub import load_keyring, open_database
    from edgegw.config.hub import load_hub
    from edgegw.config.site import load_site_bundle
    from edgegw.hub.site import SiteError, try_out

    hub = load_hub(hub_settings)
    has_books = bool(hub.database_url) or Path(hub.database_file).exists()
    found, bundle = load_site_bundle(file, bank=hub.bank, boxes=None if has_books else hub.boxes)
    if has_books:
        keyring = load_keyring(hub)

        def tried(connection: Connection) -> None:
            try_out(connection, keyring, bundle)
            raise _RollBack

        try:
            with open_database(hub, serves=False) as database, suppress(_RollBack):
                database.transact(tried)
        except SiteError as problem:
            raise SettingsError(str(file), str(problem).splitlines()) from None
    click.echo(f"{file}: sound; version {found.version}, {len(found.accounts)} accounts")


@site.command("publish")
@click.argument("file", type=SettingsPath)
@canary_option
@share_option
@bake_option
@person_options
@hub_settings_option
def site_publish(
    file: Path,
    canaries: str,
    share_percent: int | None,
    bake_minutes: int,
    person: Person,
    hub_settings: Path,
) -> None:
    """Publish a site's settings: every box uses them from the next message on. The hub may run meanwhile.

    A change needs a higher version; the same file again changes nothing. With --canary or --share some boxes
    get it first; `edgegw site promote` gives it to more, and one of them that fails takes it back by itself.

    Example: edgegw site publish site.json --canary branch-0042 --hub hub.toml
    """
    from edgegw.config.hub import load_hub
    from edgegw.config.site import load_site_bundle
    from edgegw.hub.order_actions import Publish

    staging = _staging(canaries, share_percent, bake_minutes)
    hub = load_hub(hub_settings)
    found, bundle = load_site_bundle(file, bank=hub.bank)
    action = Publish(version=found.version, staging=staging)
    give_order(hub_settings, action, person=person, attachment=bundle, what=str(file))


@site.command("rollback")
@click.argument("version", type=LongNumber)
@canary_option
@share_option
@bake_option
@person_options
@hub_settings_option
def site_rollback(
    version: int,
    canaries: str,
    share_percent: int | None,
    bake_minutes: int,
    person: Person,
    hub_settings: Path,
) -> None:
    """Publish the content of an older version again, under the next number.

    Boxes that still have it (they keep the last 50) take it from their own disk.

    Example: edgegw site rollback 41 --hub hub.toml
    """
    from edgegw.hub.order_actions import RollBack

    action = RollBack(version=version, staging=_staging(canaries, share_percent, bake_minutes))
    give_order(hub_settings, action, person=person, what=f"version {version}")


@site.command("promote")
@click.option(
    "--share",
    "share_percent",
    type=click.IntRange(0, 100),
    default=100,
    show_default=True,
    help="Percent of the boxes that get it.",
)
@canary_option
@person_options
@hub_settings_option
def site_promote(share_percent: int, canaries: str, person: Person, hub_settings: Path) -> None:
    """Give the version that is staged to more boxes: a larger share, or all.

    Example: edgegw site promote --share 50 --hub hub.toml
    """
    from edgegw.hub.order_actions import Promote

    action = Promote(share_percent=share_percent, canaries=_names(canaries))
    give_order(hub_settings, action, person=person, what="promote")


@site.command("halt")
@click.option("--reason", default="halted by hand", show_default=True, help="Kept with the version.")
@person_options
@hub_settings_option
def site_halt(reason: str, person: Person, hub_settings: Path) -> None:
    """Stop the version that is staged; its boxes get the content of the fleet's version again.

    Example: edgegw site halt --reason "terminals of branch-0042 fail" --hub hub.toml
    """
    from edgegw.hub.order_actions import Halt

    give_order(hub_settings, Halt(reason=reason), person=person, reason=reason, what="halt")


@site.command("diff")
@click.argument("old")
@click.argument("new")
@json_option
@hub_settings_option
def site_diff(old: str, new: str, as_json: bool, hub_settings: Path) -> None:
    """Tell what differs between two sites' settings, and which limits that loosens. OLD and NEW are versions
    that the hub has, or files.

    Exit code 1 when they differ.

    Example: edgegw site diff 41 site.json --hub hub.toml
    """
    from edgegw.core.site_change import changes

    before, after = _site_of(old, hub_settings), _site_of(new, hub_settings)
    found = changes(before, after)
    if as_json:
        print_json({"changes": found})
    for one in () if as_json else found:
        field = f".{one.field}" if one.field else ""
        values = {
            "added": f"+ {_short(one.after)}",
            "removed": f"- {_short(one.before)}",
            "changed": f"{_short(one.before)} -> {_short(one.after)}",
        }[one.what]
        effect = f"  [{one.effect}]" if one.effect else ""
        click.echo(f"{one.section}[{one.key}]{field}: {values}{effect}")
    if found:
        raise click.exceptions.Exit(ExitCode.FOUND)
    if not as_json:
        same = before.version == after.version
        click.echo("no difference" if same else "no difference but the version's number")


@site.command("versions")
@json_option
@hub_settings_option
def site_versions(as_json: bool, hub_settings: Path) -> None:
    """List the newest 50 versions, and which one each box has and is to have.

    Example: edgegw site versions --hub hub.toml
    """
    from edgegw.commands.hub import open_books
    from edgegw.hub.identities import live_boxes
    from edgegw.hub.stages import boxes_at, stages

    with open_books(hub_settings) as books:
        fleet = books.database.transact(live_boxes)
        listed, boxes = books.database.transact(lambda c: (stages(c), boxes_at(c, fleet)))
    if as_json:
        print_json({"versions": [one._asdict() for one in listed], "boxes": boxes})
        return
    for one in listed:
        reach = f", {len(one.boxes(fleet))} of {len(fleet)} boxes" if one.stage == "staged" else ""
        why = f": {one.reason}" if one.reason else ""
        again = f" (content of {one.restores[:8]})" if one.restores else ""
        click.echo(f"version {one.version} {one.digest[:8]}{again}: {one.stage}{reach}{why}")
    for box in boxes:
        click.echo(f"box {box.box}: {_told(box)}")


def _told(box: BoxSite) -> str:
    if box.format:
        return f"version {box.version}; {box.wanted} needs a newer program than its format {box.format}"
    if not box.version:
        return f"no version yet, is to have {box.wanted}" if box.wanted else "no version yet"
    on_its_way = f"; is to have {box.wanted}" if box.wanted > box.version else ""
    return f"version {box.version}, {box.word or 'not said yet'}{on_its_way}"


@site.command("export")
@click.argument("version", type=LongNumber)
@click.argument("file", type=SettingsPath)
@hub_settings_option
def site_export(version: int, file: Path, hub_settings: Path) -> None:
    """Write a version with the hub's signature to a file that proves itself (`edgegw site verify`).

    Example: edgegw site export 41 site-41.signed --hub hub.toml
    """
    from edgegw.commands.hub import open_books
    from edgegw.core.site_file import join_file
    from edgegw.hub.site import signed_bundle

    with open_books(hub_settings) as books:
        note, bundle = _ordered(books, f"version {version}", lambda c: signed_bundle(c, version))
    file.write_bytes(join_file(note, bundle))
    click.echo(f"{file}: version {version}, {len(bundle)} bytes, signed")


@site.command("verify")
@click.argument("file", type=SettingsPath)
@click.option("--key", "key_text", required=True, help="The hub's public key, as its one-line text.")
def site_verify(file: Path, key_text: str) -> None:
    """Check a signed site file with the hub's public key alone. Exit code 1 when it is not the hub's.

    Example: edgegw site verify site-41.signed --key "$(cat keys/hub.pub)"
    """
    from edgegw.access.keys import VerifyingKey
    from edgegw.core.site_file import NotOurs, check_site, split_file

    try:
        key = VerifyingKey.parse(key_text.strip())
    except ValueError as problem:
        raise SettingsError("--key", [str(problem)]) from None
    try:
        note, bundle = split_file(file.read_bytes())
        said = check_site(note, bundle, key)
    except NotOurs as problem:
        click.echo(f"{file}: {problem}", err=True)
        raise click.exceptions.Exit(ExitCode.FOUND) from None
    click.echo(f"{file}: version {said.version} of {said.bank}, {said.digest}, signed by {key.name}")


def _staging(canaries: str, share_percent: int | None, bake_minutes: int) -> Staging | None:
    from edgegw.hub.site import Staging

    names = _names(canaries)
    if not names and share_percent is None:
        if bake_minutes:
            raise SettingsError("--bake-minutes", ["it needs --canary or --share: who gets it first"])
        return None
    return Staging(names, share_percent or 0, bake_minutes * 60)


def _names(text: str) -> tuple[str, ...]:
    return tuple(sorted({name.strip() for name in text.split(",")} - {""}))


def _ordered(books: HubBooks, what: str, order: Callable[[Connection], T]) -> T:
    """Carry an order out in one SQL transaction; raises SettingsError for what it names."""
    from edgegw.hub.site import SiteError

    try:
        return books.database.transact(order)
    except SiteError as problem:
        raise SettingsError(what, str(problem).splitlines()) from None


def _site_of(text: str, hub_settings: Path) -> Site:
    """The site of a version at the hub, or of a file; raises SettingsError."""
    from edgegw.commands.hub import open_books
    from edgegw.config.site import load_site_bundle
    from edgegw.core.site import decode_site
    from edgegw.hub.site import signed_bundle

    if not text.isdecimal():
        return load_site_bundle(Path(text))[0]
    version: int = LongNumber(text)
    with open_books(hub_settings) as books:
        return decode_site(_ordered(books, text, lambda c: signed_bundle(c, version))[1])


def _short(value: object) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= VALUE_CHARS_MAX else f"{text[:VALUE_CHARS_MAX]}…"
