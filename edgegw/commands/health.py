"""How well the machine of a box is: looked at here and now, and what a running box does about it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from edgegw.commands import ExitCode, SettingsPath, json_option, print_json, settings_argument
from edgegw.commands.running import read_running
from edgegw.commands.settings import protocol_shapes
from edgegw.config.box import load_box

if TYPE_CHECKING:
    from edgegw.config.box import BoxSettings
    from edgegw.observe.health import Standing


@click.command()
@settings_argument
@click.option(
    "--collect",
    type=SettingsPath,
    help="As root, instead: ask every disk by smartctl and every verity device by dmsetup, and leave the"
    " answers in this file for the box (/run/edgegw-health/disks.json).",
)
@json_option
def health(settings: Path, collect: Path | None, as_json: bool) -> None:
    """Say how well the machine is: each value, its threshold, what is done and what would help; exit code 0
    where all is well, 1 where something is not, 3 where it stops payments.

    The machine is looked at once, now, whether a box runs or not. What a running box holds to is told as
    such: it acts on readings over time, and lets go of them late.

    Example: edgegw health box.toml --json
    """
    if collect is not None:
        _collect(collect)
        return
    standings = standings_of(load_box(settings, protocol_shapes()).settings)
    if as_json:
        print_json(standings)
    else:
        _show(standings)
    levels = {one.level for one in standings}
    if "refuse" in levels:
        raise click.exceptions.Exit(ExitCode.CANNOT)
    if levels - {"well", "unknown"}:
        raise click.exceptions.Exit(ExitCode.FOUND)


def standings_of(settings: BoxSettings) -> tuple[Standing, ...]:
    """How the machine of these settings stands now, the worst first; a level that a running box holds to
    counts instead of what one look says."""
    from edgegw.box_health import look_once

    running = read_running(Path(settings.data_dir))
    if running is None:
        return look_once(settings, clock_ahead_s=None, held=())
    certificate = running.certificate
    ahead_s = None if certificate is None else certificate.clock_ahead_s
    return look_once(settings, clock_ahead_s=ahead_s, held=running.health)


def _collect(path: Path) -> None:
    from edgegw.observe.disks import collect
    from edgegw.observe.readings import Tree

    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(collect(Tree())))
    fresh.chmod(0o644)  # the box is another user
    fresh.replace(path)


def _show(standings: tuple[Standing, ...]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("what", "level", "value", "threshold", "told"):
        table.add_column(name, overflow="fold")
    for one in standings:
        told = "; ".join(filter(None, (one.told, one.action)))
        table.add_row(
            f"{one.check} {one.subject}".rstrip(),
            one.level,
            "" if one.value is None else f"{one.value:g} {one.unit}",
            "" if one.threshold is None else f"{one.threshold:g}",
            f"{told}\nhint: {one.mend}" if one.mend else told,
        )
    Console(highlight=False, soft_wrap=True).print(table)
