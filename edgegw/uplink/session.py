"""A session with the hub or the mirror at one address: opened, then one signed message after the other.

Owns the addresses and the pauses between them, envelopes, counters, and what the other side holds as far as
this session was told. What an answer means for the box is in `uplink.line` and `uplink.mirror`; the order of
messages is in `core.messages`.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from edgegw.core import journal
from edgegw.core.exchange import CARRIES_ON
from edgegw.core.key_policy import open_revoked
from edgegw.core.messages import (
    SESSION_BYTES,
    VERSION,
    VERSION_OLDEST,
    Beat,
    Beaten,
    Direction,
    ExchangeError,
    LogHead,
    Message,
    Open,
    Opened,
    Program,
    open_reply,
    seal_envelope,
)
from edgegw.core.records import Mode
from edgegw.core.site_format import SITE_FORMAT
from edgegw.uplink.ports import HeldDirectives, Identity, Journal, LineSettings
from edgegw.uplink.transport import Transport


class Reopen(Exception):
    """The other side does not know this session; nothing is wrong with the line."""


class Sources(NamedTuple):
    """Where clocks and chance come from; the defaults are the machine's."""

    now_ns: Callable[[], int] = time.monotonic_ns
    wall_s: Callable[[], int] = lambda: int(time.time())
    chance: Callable[[], float] = random.random
    token: Callable[[int], bytes] = secrets.token_bytes
    hub_says: Callable[[int], None] = lambda _: None
    """Hears what time it is at the hub, Unix seconds, as often as a session is opened."""


class Wire:
    """Signed messages to an address of the hub, or the mirror, and its signed answers; counts bytes."""

    def __init__(self, identity: Identity, settings: LineSettings, sources: Sources) -> None:
        self.identity = identity
        self.addresses = [address for _, address in sorted(settings.addresses)]
        """The best priority first."""
        self.transport = Transport(settings, tls=identity.tls)
        self.sent_bytes = 0
        """As they went over the wire, compressed."""
        self.sent_bytes_raw = 0
        self.received_bytes = 0
        """After decompression."""
        self._settings = settings
        self._sources = sources

    async def open(self, address: str, message: Open) -> Opened:
        """The signed answer to an opening; raises LineFault or ExchangeError."""
        nonce = self._sources.token(SESSION_BYTES)
        answer = await self.ask(address, message, session=nonce, counter=0)
        if not isinstance(answer, Opened):
            raise ExchangeError(f"the hub answered an opening with {type(answer).__name__}")
        if answer.verdict in CARRIES_ON:
            if not VERSION_OLDEST <= answer.version <= VERSION:
                raise ExchangeError(f"the hub chose wire version {answer.version}")
            if len(answer.session) != SESSION_BYTES:
                raise ExchangeError(f"the hub gave a session of {len(answer.session)} bytes")
        if answer.hub_s > 0:
            self._sources.hub_says(answer.hub_s)
        return answer

    def backoff_s(self, rounds: int) -> float:
        """How long to wait after so many rounds in vain, 0 for none: twice as long each, up to
        backoff_ms_max, and between half of it and all of it by chance."""
        if rounds < 1:
            return 0.0
        settings = self._settings
        longest_ms = min(settings.heartbeat_ms << min(rounds - 1, 16), settings.backoff_ms_max)
        return longest_ms / 1_000 * (0.5 + self._sources.chance() / 2)

    async def ask(self, address: str, message: Message, *, session: bytes, counter: int) -> Message:
        """The hub's answer to exactly this message; raises LineFault or ExchangeError."""
        sealed = await asyncio.to_thread(self._seal, message, session, counter)
        sent = await self.transport.exchange(address, sealed)
        self.sent_bytes += sent.sent_bytes
        self.sent_bytes_raw += len(sealed)
        self.received_bytes += len(sent.answer)
        return await asyncio.to_thread(self._open, sent.answer, session, counter)

    def _seal(self, message: Message, session: bytes, counter: int) -> bytes:
        who = self.identity
        return seal_envelope(
            who.key.sign,
            message,
            direction=Direction.TO_HUB,
            bank=who.bank,
            box=who.box,
            session=session,
            counter=counter,
        )

    def _open(self, answer: bytes, session: bytes, counter: int) -> Message:
        who = self.identity
        return open_reply(
            who.hub_key.verify, answer, bank=who.bank, box=who.box, session=session, counter=counter
        )


class Session:
    """An open session; `held` is what the hub holds of each epoch that it wants, by its own last word."""

    def __init__(self, wire: Wire, address: str, opened: Opened) -> None:
        self.address = address
        self.opened = opened
        self.held = {head.number: head for head in opened.journals}
        self.told_directives: LogHead | None = None
        """The directives whose cosignature this session has carried."""
        self.told_program: Program | None = None
        """What this session has said of the box's program."""
        self.fork_shown = False
        """Whether this session has carried the evidence of a fork."""
        self.to_cosign: list[LogHead] | None = None
        """What the hub is still to be asked to cosign; None before that was looked up."""
        self._wire = wire
        self._counter = 0

    async def beat(self, beat: Beat) -> Beaten:
        """Send the next message of the session; raises LineFault or ExchangeError, and then the session
        is over."""
        self._counter += 1
        answer = await self._wire.ask(self.address, beat, session=self.opened.session, counter=self._counter)
        if not isinstance(answer, Beaten):
            raise ExchangeError(f"the hub answered a beat with {type(answer).__name__}")
        return answer


def opening(source: Journal, identity: Identity, mode: Mode) -> Open:
    """What the box says first: how far it is in both logs, with what the hub has signed of it. Reads the
    ledger."""
    heads = source.heads()
    epoch = heads[-1].epoch if heads else 0
    directives = source.directives()
    return Open(
        version=VERSION,
        version_oldest=VERSION_OLDEST,
        bank=identity.bank,
        box=identity.box,
        boot=identity.boot,
        epoch=epoch,
        key=identity.epoch_key(),
        mode=mode,
        journals=tuple(LogHead(head.epoch, head.size, head.root) for head in heads),
        cosignature=source.cosignature(epoch) if epoch else "",
        directives=directives_head(directives),
        directives_note=directives.checkpoint,
        link=link_of(source, epoch) if epoch else "",
        others=tuple(LogHead(end.number, end.frontier.size, end.frontier.root()) for end in source.others()),
        revoked=tuple(source.revoked_keys()),
        site_format=SITE_FORMAT,
    )


class _FirstRecord(msgspec.Struct):
    """What an epoch's first record says of its link."""

    note: str = ""


def link_of(source: Journal, epoch: int) -> str:
    """The hub-signed link of an epoch, "" where its first record has none."""
    rows = source.records(epoch=epoch, start=0, limit=1, bytes_max=1)
    try:
        return msgspec.json.decode(rows[0][2], type=_FirstRecord).note if rows else ""
    except msgspec.MsgspecError:
        return ""


def directives_head(directives: HeldDirectives) -> LogHead:
    """Number, size and root of what is applied."""
    size = directives.frontier.size
    return LogHead(directives.incarnation, size, directives.frontier.root() if size else b"")


def fresh_words(identity: Identity, opened: Opened, known: Sequence[str]) -> list[str]:
    """The hub's words that revoke keys of this box and are not known here yet; raises ExchangeError for what
    is none."""
    fresh = [note for note in opened.revoked if note not in known]
    for note in fresh:
        try:
            word = open_revoked(note, identity.hub_key)
        except journal.NoteError as problem:
            raise ExchangeError(f"a word that revokes a key: {problem}") from None
        if (word.bank, word.box) != (identity.bank, identity.box):
            raise ExchangeError(f"a word that revokes a key is for {word.bank}/{word.box}")
    return fresh


def check_cosigned(identity: Identity, note: str, head: LogHead, *, root: bytes, by: str) -> None:
    """The pinned key must have signed for this size of an epoch and just this root; raises ExchangeError."""
    key = identity.hub_key
    try:
        signed = journal.check_cosignature(note, name=key.name, key_id=key.key_id, verify=key.verify)
    except journal.NoteError as problem:
        raise ExchangeError(f"the {by}'s cosignature: {problem}") from None
    origin = journal.journal_origin(bank=identity.bank, box=identity.box, epoch=head.number)
    if signed.checkpoint != journal.Checkpoint(origin, head.size, root):
        raise ExchangeError(f"the {by} cosigned something else than size {head.size} of {origin}")
