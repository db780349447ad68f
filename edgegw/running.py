"""What a running box says of itself beside its ledger: to `edgegw status`, to who looks for its ways in, and
to the process that runs after it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec
import structlog

from edgegw.config.box import Box, tls_of
from edgegw.core.book import Book
from edgegw.discovery.finder import Discovery, DiscoveryWord
from edgegw.discovery.messages import Way
from edgegw.ledger.windows import calendar_says
from edgegw.machine import started
from edgegw.payments.http_api.bodies import Certificate, Replica
from edgegw.payments.protocols import Server
from edgegw.payments.site_health import Watch
from edgegw.tls_tables import PLAIN
from edgegw.uplink.line import Line
from edgegw.uplink.status import MirrorWord

RUNNING_NAME: Final = "running.json"
"""Beside the ledger while a box runs: its process and where it listens."""

WATCH_NAME: Final = "site_health.json"
"""Beside the ledger: how the settings of the site are doing in their first minutes."""

_log = structlog.get_logger("edgegw.app")


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What is not well with the machine, and since when."""

    check: str
    subject: str
    level: str
    """What is done about it: `notice`, `shed`, `pause` or `refuse`."""
    since_s: int
    """Unix seconds."""
    why: str
    """The reading and the threshold by which it was last raised or lowered."""


class RunningBox(msgspec.Struct, frozen=True):
    """What a running box says of itself in `running.json`."""

    pid: int
    addresses: dict[str, tuple[str, ...]]
    """Protocol to where it listens, host:port."""
    line: str = ""
    """The line's mode and its reason; the journal has them too, once the box has an epoch."""
    mode: str = ""
    """The mode alone, also one that no record tells of: the box is behind, or forked."""
    hub_address: str = ""
    """The hub address in use; "" while there is none."""
    hubs_said: dict[str, str] = {}
    """What each hub address that fails said last."""
    lacking: int = 0
    """Records of the box's own past that are still to come back."""
    mirror: MirrorWord | None = None
    """None without a mirror."""
    replica: Replica | None = None
    """How the copy of the ledger's file is; None where the settings want none."""
    certificate: Certificate | None = None
    """How the box's own certificate is; None where the settings name no enrolment."""
    discovery: DiscoveryWord | None = None
    """How it is found and whom it knows on its network; None where the settings say nothing of it."""
    next_cut_off_s: int = 0
    """When the open window closes by the calendar, Unix seconds; 0 where that is not known."""
    window_due: bool = False
    """A cut-off has passed, and its window is not closed yet."""
    zone: str = ""
    """Of the site's calendar; "" where it has none."""
    health: tuple[Held, ...] = ()
    """What is not well with the machine."""
    started: str = ""
    """Which process of this number it is: a power cut leaves this word behind."""


class Announcement:
    """Says beside the ledger what runs here; written when it changes, and gone when the box has stopped."""

    def __init__(
        self,
        box: Box,
        servers: Mapping[str, Server],
        told: Callable[[], object] | None,
        certified: Callable[[], object] | None,
        discovery: Discovery,
        held: Callable[[], tuple[Held, ...]] = tuple,
    ) -> None:
        self._path = Path(box.settings.data_dir) / RUNNING_NAME
        self._discovery = discovery
        self._profiles = {name: _profile(way) for name, way in box.protocols.items()}
        self._told = told
        self._certified = certified
        self._box = box.settings.box
        self._held = held
        self._servers = servers
        self._said: RunningBox | None = None
        self._started = started(os.getpid())
        self.is_open = False
        """Whether every way in is open; before that nothing is said."""

    def copy(self) -> Replica | None:
        """How the copy is; None where the settings want none."""
        return None if self._told is None else msgspec.convert(self._told(), Replica)

    def certificate(self) -> Certificate | None:
        """How the box's own certificate is; None where the settings name no enrolment."""
        if self._certified is None:
            return None
        return msgspec.convert(self._certified(), Certificate, from_attributes=True)

    def _ways(self) -> dict[str, Way]:
        """The ways in that are open, as they are said on the network."""
        ways = {}
        for name, server in self._servers.items():
            for address in server.addresses[:1]:  # none, once a stop has closed it
                host, _, port = address.rpartition(":")
                ways[name] = Way(port=int(port), profile=self._profiles[name], host=host.strip("[]"))
        return ways

    def write(self, line: Line | None, mirror: MirrorWord | None, book: Book | None, wall_ns: int) -> None:
        """Say it again if something changed; a disk that takes no file is said in the log alone."""
        if not self.is_open:
            return
        self._discovery.say(self._ways())
        calendar = msgspec.UNSET if book is None or book.site is None else book.site.calendar
        said = None if book is None else calendar_says(book, wall_ns=wall_ns)
        from_hub = 0 if line is None else line.status.lacking
        running = RunningBox(
            os.getpid(),
            {name: server.addresses for name, server in self._servers.items()},
            "" if line is None else f"{line.status.mode}: {line.status.reason}".rstrip(": "),
            mode="" if line is None else line.status.mode.value,
            hub_address="" if line is None else line.status.address,
            hubs_said={} if line is None else dict(line.status.said),
            lacking=from_hub if mirror is None else max(from_hub, mirror.coming_back),
            mirror=mirror,
            replica=self.copy(),
            certificate=self.certificate(),
            discovery=self._discovery.told,
            next_cut_off_s=0 if said is None or said.next is None else said.next.at_ns // 1_000_000_000,
            # What does not clear closes nothing: its windows are the next epoch's business.
            window_due=said is not None and bool(said.cut_offs) and book is not None and book.mode.clears,
            zone="" if calendar is msgspec.UNSET else calendar.zone,
            health=self._held(),
            started=self._started,
        )
        if running == self._said:
            return
        if self._said is None:
            _log.info("open", box=self._box, addresses=running.addresses, ledger=str(self._path.parent))
        self._said = running
        fresh = self._path.with_suffix(".new")
        try:
            fresh.write_bytes(msgspec.json.encode(running))
            fresh.replace(self._path)
        except OSError as problem:
            _log.warning("not_announced", path=str(self._path), problem=str(problem))


def _profile(way: msgspec.Struct) -> str:
    tls = tls_of(way)
    return PLAIN if tls is msgspec.UNSET else tls.profile


class KeptWatch:
    """How the site's settings are doing, kept for the next process: they may be why this one ends."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / WATCH_NAME
        self._kept: Watch | None = None

    def read(self) -> Watch:
        """What the process before kept; nothing where there is none, or it cannot be read."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Watch)
        except (OSError, msgspec.MsgspecError):
            return Watch()

    def keep(self, watch: Watch) -> None:
        """Write it down if it changed; a disk that takes no file is no reason to stop."""
        if watch == self._kept:
            return
        self._kept = watch
        fresh = self._path.with_suffix(".new")
        try:
            fresh.write_bytes(msgspec.json.encode(watch))
            fresh.replace(self._path)
        except OSError as problem:
            _log.warning("not_kept", path=str(self._path), problem=str(problem))
