"""`edgegw peers`: who says on the branch's network that it is there."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgegw.commands import json_option, print_json, settings_argument
from edgegw.commands.box import found_as
from edgegw.commands.running import read_running
from edgegw.commands.settings import protocol_shapes
from edgegw.config.box import load_box
from edgegw.errors import OperatingError

if TYPE_CHECKING:
    from edgegw.config.box import BoxSettings
    from edgegw.discovery.finder import DiscoveryWord

LISTEN_S = 3.0


@click.command()
@settings_argument
@json_option
def peers(settings: Path, as_json: bool) -> None:
    """List the boxes and mirrors of the bank that say on the branch's network that they are there.

    A running box is asked what it knows; without one, the network is listened to for three seconds. The
    settings' [discovery] says where. These are addresses and words of the network, and prove nothing: box,
    hub and mirror know each other by keys and certificates alone.

    Example: edgegw peers box.toml --json
    """
    loaded = load_box(settings, protocol_shapes()).settings
    running = read_running(Path(loaded.data_dir))
    word = running.discovery if running is not None else asyncio.run(_listened(loaded))
    if word is None:
        raise OperatingError(
            "the settings have no [discovery], so nobody is looked for",
            hint="Give [discovery], with interfaces where the machine has more than one network; then start"
            " the box anew.",
        )
    if as_json:
        print_json(word)
        return
    click.echo(f"this box is found as {found_as(word)}")
    for peer in word.peers:
        ways = ", ".join(f"{name} {way.port} {way.profile}".rstrip() for name, way in peer.ways.items())
        click.echo(f"{peer.kind:7} {peer.name:20} {', '.join(peer.addresses):24} {ways} ({peer.instance})")


async def _listened(settings: BoxSettings) -> DiscoveryWord | None:
    """What is heard in a short while, without saying anything."""
    from edgegw.discovery.finder import discovery_of

    discovery = discovery_of(settings)
    if discovery.told is None:
        return None
    running = asyncio.create_task(discovery.run())
    await asyncio.sleep(LISTEN_S)
    word = discovery.told
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return word
