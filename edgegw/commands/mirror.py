"""The mirror's command: run it. `edgegw journal export` reads what it keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click
import msgspec

from edgegw.commands import SettingsPath, serve_until_end
from edgegw.config.listen import addresses
from edgegw.config.mirror import MirrorSettings, load_mirror


@click.command()
@click.argument("settings", default="mirror.toml", type=SettingsPath)
def mirror(settings: Path) -> None:
    """Run a mirror: it keeps the journals of the branch's boxes, until SIGTERM or Ctrl-C.

    SETTINGS is the mirror's TOML file (mirror.toml here when it is not given). A box with
    `durability = "mirrored"` answers only what the mirror has on its disk. Its log is JSON lines on
    standard error.

    Example: edgegw mirror mirror.toml
    """
    from edgegw.observe.logs import set_up_logs
    from edgegw.sm import known_answers

    known_answers.self_test()
    loaded = load_mirror(settings)
    set_up_logs(level=loaded.log.level)
    serve_until_end(lambda: asyncio.run(serve_mirror(loaded)))


async def serve_mirror(settings: MirrorSettings) -> None:
    """Serve until SIGTERM or SIGINT; raises OperatingError, KeyFileError and SettingsError."""
    from edgegw.access.keys import open_signing_key
    from edgegw.commands.serving import serve
    from edgegw.discovery.finder import Discovery
    from edgegw.discovery.messages import EXCHANGE, Way
    from edgegw.encryption import listener_of
    from edgegw.key_places import keystore_of, mirror_key_file, open_sealed_tls_keys
    from edgegw.mirror.app import Mirror, make_app
    from edgegw.mirror.keeper import Keeper, Keys
    from edgegw.pinned import pinned_boxes, pinned_key
    from edgegw.tls_tables import PLAIN

    boxes = pinned_boxes(settings.bank, settings.boxes)
    keystore = keystore_of(settings)
    key = open_signing_key(keystore, mirror_key_file(settings))
    open_sealed_tls_keys(settings, keystore)
    tls = listener_of(settings.tls)
    hub = pinned_key("hub_key", text=settings.hub_key, file=settings.hub_key_file)
    with ExitStack() as opened:
        keepers = {}
        for box, pinned in boxes.items():
            keepers[box] = Keeper(
                Path(settings.data_dir) / box, Keys(key, pinned, hub), bank=settings.bank, box=box
            )
            opened.callback(keepers[box].close)
        mirror = Mirror(key, keepers, boxes, bank=settings.bank)
        application = make_app(mirror)
        opened.pop_all()
        discovery = Discovery(settings.discovery, kind="mirror", bank=settings.bank, name=settings.mirror)
        profile = PLAIN if settings.tls is msgspec.UNSET else settings.tls.profile

        def say(served: Sequence[str]) -> None:
            host, _, port = served[0].rpartition(":")
            discovery.say({EXCHANGE: Way(port=int(port), profile=profile, host=host)})

        speaking = asyncio.create_task(discovery.run())
        try:
            await serve(
                application,
                addresses(settings.listen),
                name="mirror",
                bank=settings.bank,
                tls=tls,
                turn=mirror.turn,
                failed=mirror.failed,
                opened=say,
            )
        finally:
            speaking.cancel()
            await asyncio.gather(speaking, return_exceptions=True)
