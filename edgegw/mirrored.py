"""A box's mirror, put together for one pen: from `[mirror]` in the settings to what is told and when.

Without addresses there is no mirror, and answers leave as soon as they are on the box's disk. Leaves out the
way to the mirror (`uplink.mirror`), the rule (`ledger.coverage`), and the box around it (`app`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple, Protocol

import structlog

from edgegw.access.keys import VerifyingKey
from edgegw.access.tls import TransportContext
from edgegw.config.box import BoxSettings, has_mirror
from edgegw.core.journal import NoteError, journal_origin
from edgegw.core.records import Durability
from edgegw.encryption import line_of
from edgegw.errors import MirrorAway, Next, OperatingError
from edgegw.ledger.coverage import Coverage, MirrorRule, mirror_note_key
from edgegw.ledger.store import Store
from edgegw.ledger.writer import Pen
from edgegw.ledger_source import LedgerSource
from edgegw.pinned import pinned_key
from edgegw.tls_tables import is_encrypted
from edgegw.uplink.line import Line
from edgegw.uplink.mirror import Mirror
from edgegw.uplink.ports import Head, Identity, LineSettings
from edgegw.uplink.rehydrate import Keeper
from edgegw.uplink.status import MirrorWord

ALONE_HINT: Final = (
    "Payments go on without it: what is answered meanwhile is lost if the box's disk is. Bring the mirror or"
    " the way to it back; answers wait for it again once it has every record. `edgegw status` says what it"
    " said last."
)
UNWANTED_HINT: Final = (
    "No answer waits for it, by the settings. Bring the mirror or the way to it back; it then gets every"
    " record that it lacks."
)
BACKOFF_MS_MAX: Final = 1_000
"""The mirror is near: it is looked for again at least so often."""

_log = structlog.get_logger("edgegw.mirrored")


class Finder(Protocol):
    """Knows where the mirror may be (`edgegw.discovery`)."""

    def mirrors(self, *, encrypted: bool) -> tuple[str, ...]:
        """URLs, the likeliest first."""

    def mirror_reached(self, url: str) -> None:
        """The mirror has proved itself there."""


class MirrorPeer(NamedTuple):
    """The mirror's pinned key, and how the line to it is encrypted."""

    key: VerifyingKey
    tls: TransportContext | None

    def speaking(self, identity: Identity) -> Identity:
        """The box as it speaks to the mirror, from how it speaks to the hub."""
        return identity._replace(hub_key=self.key, tls=self.tls)


def mirror_peer(settings: BoxSettings, *, now_s: Callable[[], float] | None = None) -> MirrorPeer | None:
    """The mirror, None where there is none; raises KeyFileError or SettingsError."""
    mirror = settings.mirror
    if not has_mirror(settings):
        return None
    key = pinned_key("mirror.key", text=mirror.key, file=mirror.key_file)
    return MirrorPeer(key, line_of(mirror.tls, "mirror.tls", now_s=now_s))


class Mirrored:
    """See the module. For an open pen, or for the keeper of a closed ledger."""

    def __init__(
        self,
        settings: BoxSettings,
        store: Store,
        identity: Identity,
        *,
        peer: MirrorPeer | None,
        line: Line,
        finder: Finder,
        pen: Pen | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        """identity: as on the line to the hub. finder: says where the mirror may be where
        the settings do not."""
        table = settings.mirror
        rule = MirrorRule(
            mirrored=table.durability == "mirrored",
            refuses=table.when_away == "refuse",
            timeout_ms=table.timeout_ms,
        )
        self.coverage = Coverage(rule, journalled=Durability.LOCAL if pen is None else pen.durability)
        self.mirror: Mirror | None = None
        self._shown = (self.coverage.state, self.coverage.away)
        self._since_s = int(time.time())
        self._pen = pen
        self._reader = store.reader()
        if peer is not None:
            self.mirror = Mirror(
                identity=peer.speaking(identity),
                settings=mirror_line(settings),
                source=LedgerSource(self._reader),
                coverage=self.coverage,
                line=line,
                keep_note=self._keep_note,
                keeper=keeper,
                places=None if table.addresses else partial(found_mirrors, settings, finder),
                reached=(lambda _address: None) if table.addresses else finder.mirror_reached,
            )
        if pen is not None:
            self._cover(pen, identity, None if peer is None else peer.key)

    def close(self) -> None:
        """Close the reader, once `talk` has ended."""
        self._reader.close()

    def _cover(self, pen: Pen, identity: Identity, key: VerifyingKey | None) -> None:
        pen.coverage = self.coverage
        if key is None:
            return
        tip = pen.desk.tip
        size = _noted_size(pen.desk.store, tip.epoch, identity, key)
        self.coverage.started(epoch=tip.epoch, size=tip.size, cosigned=min(size, tip.size))
        pen.on_commit.append(self._committed)

    def _committed(self) -> None:
        if self._pen is not None and self.mirror is not None:
            tip = self._pen.desk.tip
            self.coverage.committed(epoch=tip.epoch, size=tip.size)
            self.mirror.head_moved(Head(tip.epoch, tip.size, tip.frontier.root(), tip.checkpoint))

    async def _keep_note(self, epoch: int, note: str) -> None:
        if self._pen is None:
            return
        try:
            await self._pen.keep_mirror_note(epoch=epoch, note=note)
        except OperatingError as problem:
            if problem.next is Next.STOP:
                raise

    async def talk(self) -> None:
        """Keep the mirror up to date until cancelled; waits for ever where there is none."""
        if self.mirror is None:
            await asyncio.Event().wait()
        else:
            await self.mirror.run()

    async def hold(self) -> None:
        """Hold the rule until cancelled, each change in the journal and in the log."""
        if self._pen is None:
            await asyncio.Event().wait()
        else:
            await self.coverage.keep(_Loud(self._pen, self.coverage.rule))

    def link_waits(self) -> str:
        """Why a closed ledger must not begin its next epoch yet: the mirror may hold more than the hub."""
        if self.mirror is None or self.mirror.gave_all:
            return ""
        return (
            "the mirror has not given back all that it holds; if it is lost for good, take [mirror] out of"
            " the settings"
        )

    def told(self) -> MirrorWord | None:
        """How the mirror is, for an operator; None where there is none."""
        if self.mirror is None:
            return None
        coverage, pen = self.coverage, self._pen
        now = (coverage.state, coverage.away)
        if now != self._shown:
            self._shown, self._since_s = now, int(time.time())
        tip = None if pen is None else pen.desk.tip
        return MirrorWord(
            address=self.mirror.address,
            durability=coverage.state.value,
            wanted=(Durability.MIRRORED if coverage.rule.mirrored else Durability.LOCAL).value,
            since_s=self._since_s,
            reason=coverage.reason,
            lacking_records=0 if tip is None else coverage.lag_records(epoch=tip.epoch, size=tip.size),
            lag_seconds=round(coverage.lag_ns / 1e9, 3),
            coming_back=self.mirror.lacking,
            said=coverage.said,
            hint=away_hint(coverage.rule) if coverage.weaker or coverage.away else "",
        )


def away_hint(rule: MirrorRule) -> str:
    """What an operator does while the mirror is away, by what the settings do without it."""
    if not rule.mirrored:
        return UNWANTED_HINT
    return MirrorAway.default_hint if rule.refuses else ALONE_HINT


class _Loud:
    """The pen, with every change of the durability in the log."""

    def __init__(self, pen: Pen, rule: MirrorRule) -> None:
        self._pen = pen
        self._rule = rule

    @property
    def epoch(self) -> int:
        """The running epoch."""
        return self._pen.epoch

    @property
    def durability(self) -> Durability:
        """What the journal says."""
        return self._pen.durability

    async def change_durability(self, durability: Durability, reason: str) -> None:
        """Journal it, then log it: what is weaker than the settings want is an alarm."""
        previous = self._pen.durability
        await self._pen.change_durability(durability, reason)
        weaker = durability is not Durability.MIRRORED and reason != "settings"
        say = _log.error if weaker else _log.warning
        hint = away_hint(self._rule) if weaker else ""
        say("durability", durability=durability.value, previous=previous.value, reason=reason, hint=hint)


def found_mirrors(settings: BoxSettings, finder: Finder) -> tuple[str, ...]:
    """Where the mirror may be, of a box whose settings do not say it."""
    return finder.mirrors(encrypted=is_encrypted(settings.mirror.tls))


def mirror_line(settings: BoxSettings, found: Sequence[str] = ()) -> LineSettings:
    """As the line to the hub, but a silent mirror is noticed well before it counts as away. found: its
    addresses where the settings name none."""
    line = settings.line
    return LineSettings(
        addresses=tuple((address.priority, address.url) for address in settings.mirror.addresses)
        or tuple(enumerate(found)),
        heartbeat_ms=max(1, min(line.heartbeat_ms, settings.mirror.timeout_ms // 4)),
        connect_timeout_ms=line.connect_timeout_ms,
        answer_timeout_ms=line.answer_timeout_ms,
        backoff_ms_max=min(line.backoff_ms_max, BACKOFF_MS_MAX),
    )


def _noted_size(store: Store, epoch: int, identity: Identity, key: VerifyingKey) -> int:
    """How much of the epoch the mirror has cosigned, by the note that the ledger keeps; 0 for none."""
    note = store.meta(mirror_note_key(epoch))
    if note is None:
        return 0
    try:
        checkpoint = key.check_cosignature(note).checkpoint
    except NoteError:
        return 0
    origin = journal_origin(bank=identity.bank, box=identity.box, epoch=epoch)
    return checkpoint.size if checkpoint.origin == origin else 0
