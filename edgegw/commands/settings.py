"""`edgegw config check`: settings, checked without anything running."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import msgspec

from edgegw.commands import ExitCode, SettingsPath
from edgegw.config.files import read_toml
from edgegw.config.options import SettingsError


def protocol_shapes() -> dict[str, type[msgspec.Struct]]:
    """The settings table of every way in, by its name."""
    from edgegw.payments import protocols

    return {name: adapter.options for name, adapter in protocols.discover().items()}


@click.group("config")
def config() -> None:
    """Look at settings files; nothing has to run.

    Example: edgegw config check box.toml hub.toml site.json
    """


@config.command("check")
@click.argument("files", nargs=-1, required=True, type=SettingsPath)
@click.pass_context
def config_check(ctx: click.Context, files: tuple[Path, ...]) -> None:
    """Check settings files of a box, a hub, a mirror or a site; every fault is a line with its mend.

    A file's kind is seen from what is in it. Every key and secret that it names is opened and parsed. Exit
    code 2 when there is a fault.

    Example: edgegw config check box.toml site.json
    """
    wrong = False
    for path in files:
        try:
            click.echo(f"{path}: {_checked(path)}")
        except SettingsError as problem:
            wrong = True
            click.echo(str(problem), err=True)
    if wrong:
        ctx.exit(ExitCode.USAGE)


def _checked(path: Path) -> str:
    """What a sound file is; raises SettingsError."""
    from edgegw.authorities import authority_faults
    from edgegw.config.box import load_box
    from edgegw.config.hub import load_hub
    from edgegw.config.mirror import load_mirror
    from edgegw.config.site import load_site_bundle
    from edgegw.encryption import tls_faults
    from edgegw.key_places import keystore_of, open_sealed_tls_keys, tls_tables
    from edgegw.pinned import box_key_faults, hub_key_faults, mirror_key_faults
    from edgegw.replica.key_files import key_file_faults

    table: dict[str, Any] = {} if path.suffix == ".json" else read_toml(path)
    if path.suffix == ".json" or "currencies" in table:
        site, bundle = load_site_bundle(path)
        size = f"{len(site.accounts)} accounts, {len(bundle)} bytes"
        return f"sound settings of a site, version {site.version}, {size}"
    if isinstance(table.get("mirror"), str):
        mirror = load_mirror(path)
        open_sealed_tls_keys(mirror, keystore_of(mirror))
        _sound(path, mirror_key_faults(mirror), tls_faults(tls_tables(mirror)))
        return f"sound settings of mirror {mirror.mirror} of {mirror.bank}, {len(mirror.boxes)} boxes"
    if "box" in table or "hub" in table:
        box = load_box(path, protocol_shapes())
        keys = key_file_faults(box.settings.replica)
        open_sealed_tls_keys(box.settings, keystore_of(box.settings))
        _sound(path, box_key_faults(box.settings), keys, tls_faults(tls_tables(box)))
        ways = ", ".join(box.protocols)
        return f"sound settings of box {box.settings.box} of {box.settings.bank}, open to {ways}"
    hub = load_hub(path)
    open_sealed_tls_keys(hub, keystore_of(hub))
    _sound(path, hub_key_faults(hub), authority_faults(hub), tls_faults(tls_tables(hub)))
    return f"sound settings of the hub of {hub.bank}, {len(hub.boxes)} boxes"


def _sound(path: Path, *faults: Iterable[str]) -> None:
    """Raise SettingsError if there is any fault."""
    found = list(itertools.chain(*faults))
    if found:
        raise SettingsError(str(path), found)
