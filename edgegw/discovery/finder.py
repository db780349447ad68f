"""A box's or a mirror's side of discovery: the speaking process, what it found, and where the mirror may be.

Settings first: who is listed there is known without multicast. Nothing here is asked on a payment's way, and
nothing that is found is believed. Leaves out multicast DNS (`discovery.multicast`) and who proves to be whom
(`access`).
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec
import structlog

from edgegw.config.box import BoxSettings
from edgegw.config.discovery import DiscoveryTable, OptionalDiscovery
from edgegw.discovery import multicast
from edgegw.discovery.messages import (
    EXCHANGE,
    LINE_BYTES_MAX,
    PEERS_MAX,
    Advert,
    Kind,
    Order,
    Peer,
    Report,
    Way,
)

KEPT_NAME: Final = "mirror_found.txt"
"""Beside the ledger: where the mirror was reached last, when no address was given."""
MIRRORS_MAX: Final = 64
SILENT_S: Final = 30.0
"""A speaker that reports nothing for so long is ended."""
RESTART_S_MAX: Final = 60.0
GOODBYE_S: Final = 3.0
_TOLD_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "LANG", "LC_ALL")
"""What the speaker gets of ours: it hears strangers, and needs no secret."""

_log = structlog.get_logger("edgegw.discovery")


class DiscoveryWord(msgspec.Struct, frozen=True, kw_only=True):
    """How a running box is found, and whom it knows on its network: words of the network, nothing proved."""

    instance: str = ""
    """The name under which it is listed; "" while it is not."""
    addresses: tuple[str, ...] = ()
    problem: str = ""
    peers: tuple[Peer, ...] = ()


class Discovery:
    """See the module. `run` is the task; without the table in the settings it only waits."""

    def __init__(
        self, table: OptionalDiscovery, *, kind: Kind, bank: str, name: str, kept_dir: Path | None = None
    ) -> None:
        """kept_dir: where the address at which the mirror was reached is kept, for a box."""
        self._table = table if isinstance(table, DiscoveryTable) else DiscoveryTable(enabled=False)
        self._is_off = not isinstance(table, DiscoveryTable)
        self._kind: Kind = kind
        self._bank, self._name = bank, name
        self._kept = None if kept_dir is None else kept_dir / KEPT_NAME
        self._last = _read(self._kept)
        self._advert: Advert | None = None
        self._changed = asyncio.Event()
        self._report = Report()
        self._process: asyncio.subprocess.Process | None = None
        self.starts = 0

    # --- what others ask ---

    @property
    def told(self) -> DiscoveryWord | None:
        """For `edgegw status` and `edgegw peers`; None where the settings say nothing of it."""
        if self._is_off:
            return None
        report = self._report
        listed = tuple(_listed(peer.kind, peer.name, peer.url) for peer in self._table.peers)
        return DiscoveryWord(
            instance=report.instance,
            addresses=report.addresses,
            problem=report.problem,
            peers=listed + report.peers,
        )

    @property
    def gauges(self) -> dict[str, Callable[[], float]]:
        """The metrics by name; none where the settings say nothing of it."""
        if self._is_off:
            return {}
        return {
            "edgegw_discovery_listed": lambda: int(bool(self._report.instance)),
            "edgegw_discovery_peers": lambda: len(self._report.peers),
            "edgegw_discovery_restarts": lambda: max(0, self.starts - 1),
        }

    def mirrors(self, *, encrypted: bool) -> tuple[str, ...]:
        """Where the mirror may be, as URLs: where it was last, where the settings list one, then what was
        found. encrypted: by the box's own settings, whatever the network says."""
        scheme = "https" if encrypted else "http"
        listed = (peer.url.rstrip("/") for peer in self._table.peers if peer.kind == "mirror")
        found = (
            f"{scheme}://{address}:{way.port}"
            for peer in self._report.peers
            if peer.kind == "mirror" and (way := peer.ways.get(EXCHANGE)) is not None
            for address in peer.addresses
        )
        urls = dict.fromkeys((self._last, *listed, *found))
        return tuple(url for url in urls if url.startswith(f"{scheme}://"))[:MIRRORS_MAX]

    def mirror_reached(self, url: str) -> None:
        """The mirror has proved itself there."""
        if self._kept is None or url == self._last:
            return
        self._last = url
        try:
            self._kept.write_text(url)
        except OSError as problem:
            _log.warning("not_kept", path=str(self._kept), problem=str(problem))

    # --- what is said ---

    def say(self, ways: Mapping[str, Way]) -> None:
        """These ways in are open; said on the network as soon as it can be. None: say goodbye."""
        advert = Advert(kind=self._kind, bank=self._bank, name=self._name, ways=dict(ways)) if ways else None
        if advert != self._advert:
            self._advert = advert
            self._changed.set()

    async def run(self) -> None:
        """Keep a speaker until cancelled, then say goodbye."""
        if not self._table.enabled:
            await asyncio.Event().wait()
        failures = 0
        while True:
            began_s = asyncio.get_running_loop().time()
            problem = await self._spoken()
            lasted_s = asyncio.get_running_loop().time() - began_s
            failures = 0 if lasted_s > RESTART_S_MAX else failures + 1
            self._report = Report(problem=problem)
            _log.warning("discovery_interrupted", problem=problem, lasted_s=round(lasted_s, 1))
            await asyncio.sleep(min(RESTART_S_MAX, 2.0 ** min(failures - 1, 6)))

    async def _spoken(self) -> str:
        """One speaker from its start to its end; why it ended."""
        self.starts += 1
        given = {name: os.environ[name] for name in _TOLD_ENVIRONMENT if name in os.environ}
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", multicast.__name__),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=given,
                limit=LINE_BYTES_MAX,
            )
        except OSError as problem:
            return f"the speaker cannot be started: {problem.strerror or problem}"
        ordering = asyncio.create_task(self._give_orders(process))
        try:
            return await self._take_reports(process)
        finally:
            ordering.cancel()
            await _end(process)

    async def _give_orders(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None  # noqa: S101 - it was asked for
        with suppress(OSError):
            while True:
                self._changed.clear()
                order = Order(interfaces=self._table.interfaces, bank=self._bank, advert=self._advert)
                process.stdin.write(msgspec.json.encode(order) + b"\n")
                await process.stdin.drain()
                await self._changed.wait()

    async def _take_reports(self, process: asyncio.subprocess.Process) -> str:
        assert process.stdout is not None  # noqa: S101 - it was asked for
        while True:
            try:
                async with asyncio.timeout(SILENT_S):
                    line = await process.stdout.readline()
                if not line:
                    return f"the speaker has ended by itself, with {await process.wait()}"
                report = msgspec.json.decode(line, type=Report)
            except TimeoutError:
                return f"the speaker was silent for {SILENT_S:.0f} s"
            except (ValueError, msgspec.MsgspecError) as problem:
                return f"the speaker's report cannot be read: {problem}"
            self._take(report)

    def _take(self, report: Report) -> None:
        if report.instance != self._report.instance or report.problem != self._report.problem:
            said = _log.warning if report.problem else _log.info
            said("discovery", listed=report.instance, at=report.addresses, problem=report.problem)
        self._report = msgspec.structs.replace(report, peers=report.peers[: 2 * PEERS_MAX])


def discovery_of(settings: BoxSettings) -> Discovery:
    """A box's own."""
    folder = Path(settings.data_dir)
    return Discovery(settings.discovery, kind="box", bank=settings.bank, name=settings.box, kept_dir=folder)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Let it say goodbye; at the latest after GOODBYE_S it is gone."""
    assert process.stdin is not None  # noqa: S101 - it was asked for
    process.stdin.close()
    try:
        async with asyncio.timeout(GOODBYE_S):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _listed(kind: Kind, name: str, url: str) -> Peer:
    """A peer of the settings as one that was found."""
    parts = urlsplit(url)
    encrypted = parts.scheme == "https"
    way = Way(port=parts.port or (443 if encrypted else 80), profile="" if encrypted else "plain")
    ways = {EXCHANGE if kind == "mirror" else "http": way}
    return Peer(kind=kind, name=name, instance="settings", addresses=(parts.hostname or "",), ways=ways)


def _read(path: Path | None) -> str:
    """The kept address; "" where nothing readable is there."""
    try:
        return "" if path is None else path.read_text()
    except (OSError, ValueError):
        return ""
