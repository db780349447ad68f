"""What each box holds of which account, at the hub."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from edgegw.commands import hub_settings_option
from edgegw.commands.hub import open_books

if TYPE_CHECKING:
    from edgegw.hub.holdings import Holding


@click.command()
@click.option("--box", default="", help="Only of this box.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines, one object each, for programs.")
@hub_settings_option
def allowances(box: str, as_json: bool, hub_settings: Path) -> None:
    """List what each box holds of which account, and when a silent box has stopped spending it.

    What is listed is what the hub has handed out and has not seen back: how much of it is free at the box
    only its journal says. It changes nothing.

    Example: edgegw allowances --hub hub.toml
    """
    from edgegw.hub.holdings import holdings

    is_any = False
    with open_books(hub_settings) as books:
        for holding in holdings(books.database, box=box):
            is_any = True
            click.echo(msgspec.json.encode(holding) if as_json else _told(holding, now_ns=time.time_ns()))
    if not is_any and not as_json:
        click.echo("no box holds anything")


def _told(one: Holding, *, now_ns: int) -> str:
    words = [f"{one.box} epoch {one.epoch}: {one.account_id}, {one.amount_minor} {one.currency} minor units"]
    if one.is_home:
        words.append("at home")
    if one.in_doubt:
        words.append("in doubt")
    if one.state != "active":
        words.append(one.state)
    words.append(f"heard {_moment(one.heard_ns)}" if one.heard_ns else "never heard")
    if one.lease_ends_ns:
        ended = one.lease_ends_ns <= now_ns
        words.append(f"lease {'ended' if ended else 'ends'} {_moment(one.lease_ends_ns)}")
    return ", ".join(words)


def _moment(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
