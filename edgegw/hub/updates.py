"""The releases that the hub hands to boxes: a published repository, read-only, a few bundles at a time.

The hub is not believed for them: what a box takes is signed offline. It may hold the online key, with which
the timestamp is signed afresh, so that boxes see when somebody shows them an old state. Leaves out the making
of releases (`update.repository`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import structlog
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from edgegw.exchange_http import problem

UPDATES_PATH: Final = "/exchange/updates/"
NAME: Final = "[A-Za-z0-9][A-Za-z0-9._+-]{0,254}"
REFRESH_S: Final = 3_600.0
RETRY_AFTER_S: Final = 60

_log = structlog.get_logger("edgegw.hub")


class _Bundle(web.FileResponse):
    """A file that takes one of the places for downloads for as long as it is sent."""

    def __init__(self, path: Path, places: asyncio.Semaphore) -> None:
        super().__init__(path)
        self._places = places

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send it: aiohttp does so when it prepares a file, and does it once."""
        async with self._places:
            return await super().prepare(request)


def serve_updates(app: web.Application, directory: Path, *, downloads_max: int) -> None:
    """Let the application serve this repository beside the exchange."""
    downloads = asyncio.Semaphore(downloads_max)

    async def metadata(request: web.Request) -> web.StreamResponse:
        path = directory / "metadata" / request.match_info["name"]
        if not await asyncio.to_thread(path.is_file):
            return _missing(path.name)
        return web.FileResponse(path, headers={"Cache-Control": "no-store"})

    async def bundle(request: web.Request) -> web.StreamResponse:
        path = directory / "targets" / request.match_info["name"]
        if not await asyncio.to_thread(path.is_file):
            return _missing(path.name)
        if downloads.locked():
            busy = problem(503, "busy", f"{downloads_max} boxes are being served", "Come again in a minute.")
            busy.headers["Retry-After"] = str(RETRY_AFTER_S)
            return busy
        return _Bundle(path, downloads)

    app.router.add_get(f"{UPDATES_PATH}metadata/{{name:{NAME}}}", metadata)
    app.router.add_get(f"{UPDATES_PATH}targets/{{name:{NAME}}}", bundle)


def refreshing(refresh: Callable[[], bool]) -> Callable[[web.Application], AsyncIterator[None]]:
    """Sign the timestamp afresh beside the application, in time. refresh: does it where it is due."""

    async def running(_: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(_refresh(refresh))
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    return running


async def _refresh(
    refresh: Callable[[], bool], pause: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> None:
    while True:
        try:
            if await asyncio.to_thread(refresh):
                _log.info("updates_refreshed")
        except Exception as fault:  # noqa: BLE001 - payments go on, and the boxes tell of frozen metadata
            _log.error("updates_not_refreshed", problem=str(fault), hint=getattr(fault, "hint", ""))
        await pause(REFRESH_S)


def _missing(name: str) -> web.Response:
    return problem(404, "not_published", f"{name} is not published here", "`edgegw release publish`.")
