"""The mirror's command: run it. `edgegw journal export` reads what it keeps."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgegw.commands import SettingsPath, serve_until_end
from edgegw.config.mirror import MirrorSettings, load_mirror
from edgegw.errors import OperatingError

if TYPE_CHECKING:
    from aiohttp import web

    from edgegw.mirror.app import Mirror


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

    loaded = load_mirror(settings)
    set_up_logs(level=loaded.log.level)
    serve_until_end(lambda: asyncio.run(serve_mirror(loaded)))


async def serve_mirror(settings: MirrorSettings) -> None:
    """Serve until SIGTERM or SIGINT; raises OperatingError, KeyFileError and SettingsError."""
    from edgegw.access import sm2
    from edgegw.access.keys import load_signing_key
    from edgegw.mirror.app import Mirror, make_app
    from edgegw.mirror.keeper import Keeper, Keys
    from edgegw.pinned import pinned_boxes, pinned_key

    sm2.self_test()
    boxes = pinned_boxes(settings.bank, settings.boxes)
    key = load_signing_key(Path(settings.key_file), f"{settings.bank}/{settings.mirror}")
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
        await _serve(application, mirror, settings)


async def _serve(application: web.Application, mirror: Mirror, settings: MirrorSettings) -> None:
    import structlog
    from aiohttp import web

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=5.0)
    await runner.setup()
    log = structlog.get_logger("edgegw.mirror")
    stopping = asyncio.create_task(stop.wait())
    try:
        for host, port in settings.addresses():
            try:
                await web.TCPSite(runner, host, port).start()
            except OSError as problem:
                raise OperatingError(
                    f"listen: {host}:{port} cannot be had: {problem.strerror or problem}",
                    hint="Give listen another address, or stop the process that has this one.",
                ) from None
        addresses = [f"{name[0]}:{name[1]}" for name in runner.addresses]
        log.info("open", bank=settings.bank, pid=os.getpid(), addresses=addresses)
        await asyncio.wait((stopping, mirror.failed), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        await runner.cleanup()
    if mirror.failed.done():
        mirror.failed.result()
    log.info("stopped", bank=settings.bank)
