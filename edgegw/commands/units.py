"""The commands of a machine's service manager: write its units, say which ports the settings open."""

from __future__ import annotations

import os
from pathlib import Path

import click

from edgegw.commands import ExitCode, SettingsPath
from edgegw.units import ROLES, Role


@click.group("units")
def units() -> None:
    """The units of systemd, the firewall and the limits of a machine that runs edgegw.

    Example: edgegw units install / --role box
    """


@units.command("install")
@click.argument("root", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--role", type=click.Choice(ROLES), required=True, help="What the machine is.")
@click.option("--check", is_flag=True, help="Write nothing: name the files that are not as they should be.")
@click.pass_context
def units_install(ctx: click.Context, root: Path, role: Role, *, check: bool) -> None:
    """Write a machine's units and their files below ROOT, the root of its file systems.

    Nothing is enabled, started or loaded. What is there already is left alone; a change of one machine is a
    drop-in in /etc/systemd/system. Prints the files that were written; with --check exit code 1 when there
    would be any.

    \b
    edgegw units install / --role box
    systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload
    systemctl enable --now edgegw-firewall edgegw
    """
    from edgegw.units import differing, install

    if check:
        unlike = differing(root, role)
        for path in unlike:
            click.echo(path)
        if unlike:
            ctx.exit(ExitCode.FOUND)
        return
    before = os.umask(0o022)
    try:
        for path in install(root, role):
            click.echo(path)
    finally:
        os.umask(before)


@units.command("ports")
@click.argument("settings", type=SettingsPath)
@click.option(
    "--role", type=click.Choice(("box", "hub", "mirror")), required=True, help="Whose settings they are."
)
def units_ports(settings: Path, role: str) -> None:
    """Print what nft must do so that the firewall lets in what these settings open, and nothing else.

    Example: edgegw units ports box.toml --role box
    """
    from edgegw.units import firewall

    click.echo(firewall.commands(_ports(settings, role)), nl=False)


def _ports(settings: Path, role: str) -> list[int]:
    from edgegw.commands.settings import protocol_shapes
    from edgegw.config.box import load_box
    from edgegw.config.hub import load_hub
    from edgegw.config.mirror import load_mirror
    from edgegw.units import firewall

    if role == "box":
        return firewall.ports_of_box(load_box(settings, protocol_shapes()))
    return firewall.ports_of_server(load_hub(settings) if role == "hub" else load_mirror(settings))
