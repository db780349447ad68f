"""The enrolment beside a hub that serves: its listeners, and the files of what its CAs have revoked.

Leaves out what is said there (`hub.enrolment_app`) and the commands of a person (`commands.hub_ca`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Final

import structlog
from aiohttp import web

from edgegw.access.key_files import KeyFileError
from edgegw.authorities import keep_list, load_authorities
from edgegw.commands.serving import listening
from edgegw.config.hub import EnrolmentTable, HubSettings
from edgegw.config.listen import addresses
from edgegw.encryption import listener_of
from edgegw.errors import OperatingError
from edgegw.hub.app import Hub
from edgegw.hub.enrolment_app import Enrolment
from edgegw.hub.enrolments import Desk
from edgegw.key_places import keystore_of

DAY_S: Final = 86_400
LOOK_S: Final = 30.0
"""How often a revocation that another process has written down is looked for."""

_log = structlog.get_logger("edgegw.enrolment")


def enrolling(
    hub: Hub, settings: HubSettings, table: EnrolmentTable
) -> Callable[[web.Application], AsyncIterator[None]]:
    """What runs for as long as the hub serves; raises SettingsError and KeyFileError."""
    authorities = load_authorities(keystore_of(settings), settings)
    desk = Desk(bank=settings.bank, authorities=authorities, life_s=int(table.certificate_days * DAY_S))
    tls = listener_of(table.tls, "enrolment.tls")

    async def serving(_: web.Application) -> AsyncIterator[None]:
        keeping = asyncio.create_task(keep_lists(hub, settings, desk, look_s=LOOK_S))
        enrolment = Enrolment(hub, desk).app()
        places = addresses(table.listen)
        try:
            async with listening(
                enrolment, places, name="enrolment", option="enrolment.listen", tls=tls
            ) as served:
                _log.info("open", addresses=served, kinds=list(authorities))
                yield
        finally:
            keeping.cancel()
            await asyncio.wait((keeping,))

    return serving


async def keep_lists(hub: Hub, settings: HubSettings, desk: Desk, *, look_s: float) -> None:
    """Keep the files up to date until cancelled: listeners read them again as they change."""
    while True:
        for kind in desk.authorities:
            try:
                der = await hub.run(partial(desk.crl, kind=kind, now_ns=hub.now_ns()))
                if der is not None and keep_list(settings, kind, der):
                    _log.info("revocation_list_written", kind=kind)
            except (OperatingError, KeyFileError) as problem:
                _log.error("revocation_list_not_written", kind=kind, problem=str(problem), hint=problem.hint)
        try:
            # What another process of the hub, or a command elsewhere, has done.
            await asyncio.to_thread(hub.identities_kept)
        except (OperatingError, OSError) as problem:
            _log.error("identities_not_kept", problem=str(problem), hint="See the medium of identities_file.")
        await asyncio.sleep(look_s)
