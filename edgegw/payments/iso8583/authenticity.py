"""Whether a message is its terminal's own, and giving terminals their next keys.

Owns which key a message is right under, the alarm over wrong MACs, the answer to a terminal that asks for its
next key, and whom the box asks to ask. Leaves out the keys' files (`terminal_keys`), the bytes of a key
change (`key_change`) and connections.
"""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

from edgegw.access.key_files import KeyFileError
from edgegw.access.places import PlaceAway
from edgegw.payments.iso8583 import key_change, messages
from edgegw.payments.iso8583.fields import Codec, Message
from edgegw.payments.iso8583.mac import WrongMacs, is_authentic
from edgegw.payments.iso8583.messages import Rejection
from edgegw.payments.iso8583.terminal_keys import Ring, TerminalKeys

logger = logging.getLogger(__name__)
_TRACE_MAX: Final = 999_999
_NO_MASTER: Final = Rejection(
    messages.INVALID_REQUEST,
    "no master key",
    "the terminal has no master key at this box; make one: edgegw keys terminal add",
)


class Authenticity:
    """The terminals of one way in, as far as they have keys."""

    def __init__(self, keys: TerminalKeys, codec: Codec, count: Callable[[str], None]) -> None:
        """count: is called with the name of what happened."""
        self.keys: Final = keys
        self._codec = codec
        self._count = count
        self._wrong = WrongMacs()
        self._trace = 0

    def has_keys(self, terminal: str) -> bool:
        """Whether a terminal must send a MAC."""
        return self.keys.ring(terminal) is not None

    def shown_key(self, raw: bytes, message: Message) -> bytes | None:
        """The key under which this message is right, None where under none: an answer to it is signed with
        that alone. A signed refusal to whoever asks in a terminal's name would be played to the terminal as
        the answer to what was booked."""
        ring = self.keys.ring(message.get(41))
        versions = [] if ring is None else ring.good(key_change.named_version(message))
        right = (one.key for one in versions if is_authentic(one.key, raw, message, self._codec))
        return next(right, None)

    def checked(self, raw: bytes, message: Message, terminal: str) -> bytes | Rejection | None:
        """The key under which this message of a terminal is right, None of one without keys; else why it is
        not believed. raw is what message was decoded from."""
        ring = self.keys.ring(terminal)
        if ring is None:
            return None
        named = key_change.named_version(message)
        if named == key_change.BY_MASTER and message.get(70) == key_change.ASK_KEY and ring.master:
            key = key_change.request_key(ring.master)
            if is_authentic(key, raw, message, self._codec):
                return key
        for version in ring.good(named):
            if is_authentic(version.key, raw, message, self._codec):
                self.keys.used(ring, version)
                return version.key
        self._count_wrong(terminal)
        which = f"version {named}" if named else "any version that is good"
        text = f"terminal {terminal} has keys, and the last field is no MAC under {which}; check keys and way"
        return Rejection(messages.SECURITY_VIOLATION, "MAC missing or wrong", text)

    def _count_wrong(self, terminal: str) -> None:
        self._count("mac_wrong")
        if self._wrong.note(terminal):
            self._count("mac_alarm")
            logger.error(
                "iso8583: terminal %s: many wrong MACs; if it is the terminal itself, compare its keys"
                " (edgegw keys terminal list), else find out who speaks in its name",
                terminal,
            )

    async def next_key(self, message: Message) -> Message | Rejection | None:
        """The answer to a terminal that asks for its next key, which is on disk by then; the one before stays
        good."""
        ring = self.keys.ring(message.get(41))
        rejection = _not_to_be_given(message, ring)
        if rejection is not None or ring is None or ring.master is None:
            return rejection or _NO_MASTER
        try:
            version = await self.keys.begin(ring)
        except (KeyFileError, PlaceAway, ValueError) as problem:
            text = f"no key could be made for terminal {ring.terminal}: {problem}"
            return Rejection(messages.MALFUNCTION, "no key could be made", text)
        self._count("key_given")
        answer = messages.reply(message, code=messages.APPROVED)
        sealed = key_change.sealed_for(message, version, terminal=ring.terminal, master=ring.master)
        return msgspec.structs.replace(answer, fields=answer.fields | {48: sealed})

    def invitations(
        self, signed_on: Iterable[str], invited: dict[str, float]
    ) -> Iterator[tuple[Message, bytes]]:
        """What to send, and under which key, to those of the terminals signed on for which a key waits;
        invited: when each was asked last, kept here."""
        now_s = time.monotonic()
        for name in signed_on:
            ring = self.keys.ring(name)
            active = None if ring is None else ring.versions.get(ring.active)
            if ring is None or ring.master is None or ring.waiting is None or active is None:
                continue
            if now_s - invited.get(name, -key_change.EACH_S) < key_change.EACH_S:
                continue
            invited[name] = now_s
            self._trace = self._trace % _TRACE_MAX + 1
            at = datetime.datetime.now(datetime.UTC)
            self._count("key_offered")
            yield key_change.invitation(name, trace=self._trace, version=active.number, at=at), active.key


def _not_to_be_given(message: Message, ring: Ring | None) -> Rejection | None:
    missing = [f"F{number}" for number in key_change.NEEDED if not message.get(number)]
    if missing:
        text = f"mandatory in a key change and missing: {', '.join(missing)}; send them"
        return Rejection(messages.FORMAT_ERROR, f"missing {' '.join(missing)}", text)
    if ring is None or ring.master is None:
        return _NO_MASTER
    if ring.waiting is None and ring.is_fresh(time.monotonic(), each_s=key_change.EACH_S):
        text = f"terminal {ring.terminal} had a new key within {key_change.EACH_S:.0f} s"
        return Rejection(messages.MALFUNCTION, "too fast", text)
    return None
