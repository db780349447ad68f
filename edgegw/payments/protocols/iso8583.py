"""ISO 8583:1987 over TCP, for payment terminals and the switches in front of them.

**Frames.** Two bytes of length, big-endian (or four ASCII digits), then the message. A length of 0 keeps the
line alive and is not answered. A length that cannot be closes the connection, because nothing behind it can
be found; everything else wrong is answered (field 39, and a word in field 44) or dropped, and the connection
lives on.

**Messages.** 0100 holds, 0200 pays, 0220 reports a payment, 0400 and 0420 undo; their repeats end in 1. 0800
with field 70: 001 signs on, 002 signs off, 301 is an echo. Processing codes (field 3) that begin with 00 or
01 move money from the card to the terminal's account, 20 and 21 the other way. A 0200 or 0220 with field 90
takes the hold of the 0100 that it names; with code 20 or 21 it is a refund of the payment that it names, in
parts or whole, and never more than that. 0500 and 0520 close the terminal's batch. Answers come as they are
decided, not in the order of the questions.

**Encryption.** With `[iso8583.tls]` the frames go inside TLS alone. There the end of sending is the end of
the connection, and what is not answered yet is repeated or reversed, as after any silence.

**Who may speak.** Field 41 names a terminal of the site's settings, field 42 (if sent) its merchant. It signs
on once per connection; a sign-on without field 41 signs on every terminal that has no key. A terminal with a
key file must send a MAC in its last field (64, or 128), and gets one: the first 8 bytes of HMAC-SM3 over all
bytes before it. An answer to what came without a right MAC has none either: it is a hint for people, and a
terminal goes on to wait, repeat or reverse. One with `certificates` in the site's settings is heard only on
a connection that has shown one of them in TLS, its own or that of the switch in front of it; others are
answered 63.

**Keys.** The last four digits of field 53 may say which version of its key a terminal uses; with 0000 or
without the field the box tries those that are good. 0800 with field 70 = 161 asks for the next key, which
comes in field 48 of the answer, under the terminal's master key; the box asks for that by an 0800 with 162.
`payments/iso8583/key_change.py` has the bytes. The first message under the new key ends the one before it,
`terminal_key_grace_s` later; what is in flight is answered under the key it came with.

**Repeats.** A message with the same fields 32, 41, 42, 11, 37, 12 and 13 as an earlier one gets the first
answer again; with other content, or after the replay horizon, 94. A reversal names its original by STAN and
acquirer of field 90 (else its own fields) and by fields 12 and 13, which it keeps from the original; failing
those, by the time in field 90. One whose original is unknown is kept, wins when that arrives, and is answered
25 (0410) or 00 (0430). Messages carry no year: one that is played back a year later looks new, so
change MAC keys at least once a year.

**Batches.** A 0500 (0520) may carry the terminal's totals since its last one: 74, 75, 86, 87 for credits
(refunds) and 76, 77, 88, 89 for debits (payments), reversals apart; what it leaves out of them is zero, and
none at all are not compared. The answer has the box's own, their net in 97 (D: the cards have paid), and in
field 39 00, or 95 where they differ, with 1 or 2 in field 66. The batch is closed either way.

**Mandatory fields.** 0100, 0200, 0220: 3, 4, 11, 12, 13, 32, 41, 49 and the card in 2, 35 or 45 (not needed
with field 90). 0400, 0420: 4, 11, 12, 13, 32, 41. 0500, 0520: 11, 12, 13, 32, 41. 0800: 11,
70.

**Field 39.** Of this protocol itself: 03 merchant, 12 not served, 13 amount, 14 card, 30 form, 58 terminal
unknown or not signed on, 63 MAC. Nothing was decided and the trace stays free: 91 not clearing, 96 overloaded
or the disk is full. Used before with other content: 94. Each reason of the ledger has its code.

**Field 44** says `allowance`, `centre` or `stand_in` of an approval, else why not: a reason, or the field at
fault. No answer at all means that the outcome is unknown: repeat or reverse, as after any silence. The PIN
block (field 52) is not looked at. Fields that are not listed here are checked for form and otherwise ignored.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import socket
import time
import traceback
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Final, Protocol

import msgspec

from edgegw.access.arrivals import arrivals_of
from edgegw.access.client_certificates import foreign, rules_of
from edgegw.access.crowd import host_of
from edgegw.access.keystore import KeyFile, Keystore
from edgegw.access.shield import Places, Rates
from edgegw.access.tls import certificate_shown
from edgegw.core.book import Book
from edgegw.core.records import Kind, Request, WindowClosed
from edgegw.core.site import Site, TerminalRule
from edgegw.payments.answer import Answer, Outcome
from edgegw.payments.cards import CardVault
from edgegw.payments.iso8583 import key_change, messages
from edgegw.payments.iso8583.authenticity import Authenticity
from edgegw.payments.iso8583.fields import Codec, FrameError, Message, is_well_formed
from edgegw.payments.iso8583.mac import encode_with_mac
from edgegw.payments.iso8583.messages import Directory, Interpreter, Proposal, Rejection, Role
from edgegw.payments.iso8583.options import TerminalOptions
from edgegw.payments.iso8583.terminal_keys import LOOK_EACH_S, TerminalKeys, terminal_key_files
from edgegw.payments.problems import Unanswered
from edgegw.payments.protocol import Adapter
from edgegw.payments.service import Decided, undecided_by
from edgegw.payments.site_health import FAILED_EVENT, TURNED_AWAY_EVENT
from edgegw.payments.vault import Lookups, vault_key_file
from edgegw.payments.vault_file import VaultFailed
from edgegw.tls_tables import OptionalServerTls

logger = logging.getLogger(__name__)


class Options(TerminalOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `[iso8583]` table of the box's settings."""

    tls: OptionalServerTls = msgspec.UNSET


class History(Protocol):
    """What this protocol reads back."""

    async def answer(self, client: str, payment_id: str) -> Answer | None:
        """The first answer of an identity."""

    async def window(self, number: int) -> WindowClosed | None:
        """A closed window."""


class Meter(Protocol):
    """What this protocol counts."""

    def protocol_event(self, *, protocol: str, event: str) -> None:
        """Something happened that is no decision."""


class Payments(Protocol):
    """The gateway, as this protocol needs it."""

    @property
    def book(self) -> Book:
        """The box's state: its time and its open window."""

    @property
    def cards(self) -> CardVault:
        """What keeps card numbers."""

    @property
    def history(self) -> History:
        """What was answered."""

    @property
    def meter(self) -> Meter:
        """Where events are counted."""

    @property
    def keystore(self) -> Keystore:
        """What opens the keys' files."""

    @property
    def site(self) -> Site | None:
        """The settings in force."""

    async def decide(self, client: str, request: Request) -> Decided:
        """The answer, and whether it is a repeat; raises Unanswered."""

    async def covered(self, *records: str) -> None:
        """Return once what was read of these records may be told; raises Unanswered."""


class _Closed(Exception):
    """The connection ends here; the text says why, "" when the peer simply left."""


_UNANSWERED: Final = {
    "id_reused": messages.DUPLICATE,
    "not_clearing": messages.CENTRE_UNAVAILABLE,
    "mirror_away": messages.CENTRE_UNAVAILABLE,
    "stopping": messages.CENTRE_UNAVAILABLE,
}
"""Field 39 where nothing was decided, by the gateway's code; MALFUNCTION for the rest: the identity is still
free."""
_SILENT: Final = frozenset({"outcome_unknown", "internal_error"})
"""It may have been cleared: any answer would be a lie, and silence makes the terminal repeat or reverse."""

_SIGN_ON, _SIGN_OFF, _ECHO = "001", "002", "301"
_INVITED: Final = "0810"
"""What terminals answer to the box's own 0800; their question, if one follows, says all."""
_ALL_KEYLESS: Final = ""
_LOGGED_PER_CONNECTION_MAX: Final = 100
"""A peer that sends rubbish for ever is counted for ever, but does not fill the disk with log lines."""
_LOGGED_EACH_MINUTE_MAX: Final = 300
"""Of all connections together, so that a peer which comes again and again fills it neither."""
_KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))
_SEND_BUFFER_BYTES: Final = 65_536
"""The answers to some 256 messages; the kernel's own choice is megabytes for each peer that does not read."""
_STOP_SECONDS: Final = 5.0
_DAY_NS: Final = 86_400 * 1_000_000_000


def _vault_key(options: Options) -> KeyFile:
    return vault_key_file(Path(options.vault_key_file), option="iso8583.vault_key_file")


def key_files(options: Options) -> Iterator[KeyFile]:
    """The bank's vault key and the terminals' keys; raises SecretFileError."""
    yield _vault_key(options)
    for found in terminal_key_files(Path(options.terminal_keys_directory)):
        yield found.file


class Terminals:
    """What all connections share: settings, keys, and asking the gateway."""

    def __init__(self, payments: Payments, options: Options) -> None:
        self.options = options
        self.codec = Codec(options.bitmap)
        self.places = Places(places_max=options.connections_max, end=_Connection.give_way)
        directory = Path(options.terminal_keys_directory)
        keys = TerminalKeys(directory, payments.keystore, grace_s=options.terminal_key_grace_s)
        self.authenticity = Authenticity(keys, self.codec, self.count)
        self._minute = 0
        self._lines = 0
        self._interpreter = Interpreter(
            Lookups.open(payments.keystore, _vault_key(options)), hold_timeout_s=options.hold_timeout_s
        )
        self._payments = payments
        self._directory: Directory | None = None
        self._rates = Rates(site=lambda: payments.site)
        self._last_closed: tuple[int, datetime.date | None] = (0, None)

    def count(self, event: str) -> None:
        """Count something that happened."""
        self._payments.meter.protocol_event(protocol="iso8583", event=event)

    def may_log(self) -> bool:
        """Whether one more line about a peer's bytes may be written this minute, of all connections."""
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            if self._lines > _LOGGED_EACH_MINUTE_MAX:
                left_out = self._lines - _LOGGED_EACH_MINUTE_MAX
                logger.warning("iso8583: %s more lines were left out a minute ago", left_out)
            self._minute, self._lines = minute, 0
        self._lines += 1
        return self._lines <= _LOGGED_EACH_MINUTE_MAX

    def directory(self) -> Directory | None:
        """The site's settings in force, or None before the first."""
        site = self._payments.site
        if site is None:
            return None
        if self._directory is None or self._directory.site is not site:
            self._directory = Directory(site)
        return self._directory

    def too_fast(self, terminal: str) -> Rejection | None:
        """A rejection where this terminal asks faster than the site allows; nothing is decided then."""
        if self._rates.take(terminal):
            return None
        text = f"terminal {terminal} asks faster than the site's rates allow; it repeats by itself"
        return Rejection(messages.MALFUNCTION, "too fast", text)

    def _now_ns(self) -> int:
        """The wall clock, but never before the box's own time, which does not go back."""
        return max(self._payments.book.at_ns, time.time_ns())

    async def business_date(self) -> datetime.date:
        """The last closed window's business date; before the first one, today by the box's clock."""
        window = self._payments.book.window
        if self._last_closed[0] != window:
            closed = await self._payments.history.window(window - 1)
            date = None if closed is None else datetime.date.fromisoformat(closed.business_date)
            self._last_closed = window, date
        return (
            self._last_closed[1] or datetime.datetime.fromtimestamp(self._now_ns() / 1e9, datetime.UTC).date()
        )

    async def proposal(
        self, message: Message, role: Role, terminal: TerminalRule, directory: Directory
    ) -> Proposal | Rejection:
        """What to ask the gateway for, its original named by what this box knows."""
        business_date = await self.business_date()
        proposal = self._interpreter.proposal(
            message, role, terminal=terminal, directory=directory, business_date=business_date
        )
        if isinstance(proposal, Rejection):
            return proposal
        client = messages.client_of(terminal.id)
        for original_id in proposal.originals:
            original = await self._payments.history.answer(client, original_id)
            if original is not None and original.outcome is Outcome.CLEARED:
                request = msgspec.structs.replace(proposal.request, original_id=original_id)
                return msgspec.structs.replace(proposal, request=request)
        return proposal

    async def ask(self, message: Message, proposal: Proposal, terminal: TerminalRule) -> Message | None:
        """The gateway's answer as a message; None where silence is the only true answer."""
        client = messages.client_of(terminal.id)
        try:
            await self._keep_number(message, proposal.request.card)
            decided = await self._decide(client, proposal)
        except Unanswered as error:
            self.count(f"unanswered_{error.code}")
            if error.code in _SILENT:
                return None
            word = f"{error.code} {error.field}".strip()
            return messages.reply(message, code=_UNANSWERED.get(error.code, messages.MALFUNCTION), word=word)
        age_ns = self._now_ns() - decided.answer.at_ns
        if decided.repeat and age_ns > self.options.replay_horizon_days * _DAY_NS:
            self.count("replay")
            return messages.reply(message, code=messages.DUPLICATE, word="beyond replay horizon")
        return messages.answered(message, decided.answer, currency=terminal.currency)

    async def _keep_number(self, message: Message, lookup: str) -> None:
        """Let the vault have the card's number; raises Unanswered."""
        number = messages.number_of(message)
        if lookup and isinstance(number, str):
            try:
                await self._payments.cards.keep(lookup, number)
            except VaultFailed as problem:
                raise undecided_by(problem) from problem

    async def _decide(self, client: str, proposal: Proposal) -> Decided:
        """Ask; an advice whose identity belongs to an earlier request, or whose hold is gone, still has to be
        booked."""
        try:
            decided = await self._payments.decide(client, proposal.request)
        except Unanswered as error:
            if error.code != "id_reused" or not proposal.request.advice:
                raise
            return await self._advice_of_known(client, proposal, error)
        if (
            decided.answer.outcome is Outcome.REFUSED
            and proposal.request.kind in (Kind.POST, Kind.REFUND)
            and proposal.instead
        ):
            return await self._payments.decide(client, proposal.instead)
        return decided

    async def _advice_of_known(self, client: str, proposal: Proposal, error: Unanswered) -> Decided:
        first = await self._payments.history.answer(client, proposal.request.id)
        if first is None:
            raise error
        if proposal.instead is not None and (first.outcome is Outcome.REFUSED or first.kind is Kind.HOLD):
            return await self._payments.decide(client, proposal.instead)
        if error.field != "advice":
            raise error
        await self._payments.covered(first.record)
        return Decided(first, True)


class _Asked:
    """One message as it came, decoded, and the key under which it was right."""

    def __init__(self, raw: bytes) -> None:
        self.raw: Final = raw
        self.message: Message | None = None
        self.key: bytes | None = None


class _Connection:
    """One TCP connection: reads frames, answers them as they are decided, ends with a reason."""

    def __init__(
        self, terminals: Terminals, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._terminals = terminals
        self._places = terminals.places
        self._options = terminals.options
        self._reader = reader
        self._writer = writer
        self._slots = asyncio.Semaphore(self._options.in_flight_max)
        self._tasks: set[asyncio.Task[None]] = set()
        self._writing = asyncio.Lock()
        self._signed_on: set[str] = set()
        self._signed_off: set[str] = set()
        self._invited: dict[str, float] = {}
        self._logged = 0
        peer = writer.get_extra_info("peername")
        self._peer = f"{peer[0]}:{peer[1]}" if peer else "?"

    async def serve(self) -> None:
        """Read until the connection ends; what is in flight is still answered if the peer listens."""
        try:
            while True:
                raw = await self._frame()
                if raw:
                    await self._slots.acquire()
                    self._start(self._answer(raw))
        except _Closed as closed:
            if str(closed):
                self._terminals.count("closed")
                self._log("closed", str(closed))
        except OSError as error:
            self._terminals.count("closed")
            self._log("closed", f"the connection broke: {type(error).__name__}")
        except asyncio.CancelledError:
            self._log("closed", "the box is stopping")
        await self._finish()

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        self._places.busy(self)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._places.idle(self)
        self._slots.release()
        error = None if task.cancelled() else task.exception()
        if isinstance(error, OSError | TimeoutError):
            self._terminals.count("cut_off")
            self._log("cut off", "the peer takes no answers")
            self._writer.transport.abort()
        elif error is not None:
            # The error's own text may quote the message, so it is not shown.
            where = traceback.extract_tb(error.__traceback__)[-1]
            self._terminals.count(FAILED_EVENT)
            logger.error(
                "iso8583 %s: not answered: %s at %s:%s",
                self._peer,
                type(error).__name__,
                where.name,
                where.lineno,
            )

    def give_way(self) -> None:
        """End at once, for another connection."""
        self._terminals.count("connection_gave_way")
        self._log("closed", "nobody has signed on, and connections_max needed its place")
        self._writer.transport.abort()

    async def _finish(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_STOP_SECONDS)
        for task in self._tasks:
            task.cancel()
        self._writer.close()
        try:
            async with asyncio.timeout(self._options.write_timeout_ms / 1_000):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            self._writer.transport.abort()

    # -- frames ------------------------------------------------------------------------------------

    async def _frame(self) -> bytes:
        """The next frame, empty for a keep-alive; raises _Closed."""
        try:
            async with asyncio.timeout(self._options.idle_timeout_ms / 1_000):
                first = await self._reader.read(1)
        except TimeoutError:
            raise _Closed(f"nothing came for {self._options.idle_timeout_ms} ms") from None
        if not first:
            raise _Closed("")
        try:
            async with asyncio.timeout(self._options.frame_timeout_ms / 1_000):
                size = self._size(first + await self._reader.readexactly(self._header_bytes - 1))
                return await self._reader.readexactly(size)
        except TimeoutError:
            raise _Closed(f"a frame was not whole after {self._options.frame_timeout_ms} ms") from None
        except asyncio.IncompleteReadError:
            raise _Closed("the peer left in the middle of a frame") from None

    @property
    def _header_bytes(self) -> int:
        return 2 if self._options.length_header == "binary" else 4

    def _size(self, header: bytes) -> int:
        if self._options.length_header == "binary":
            size = int.from_bytes(header, "big")
        elif header.isdigit():
            size = int(header)
        else:
            raise _Closed("the length is not 4 ASCII digits; check length_header")
        if size > self._options.frame_bytes_max:
            raise _Closed(f"a frame of {size} bytes; frame_bytes_max is {self._options.frame_bytes_max}")
        return size

    async def _answer(self, raw: bytes) -> None:
        asked = _Asked(raw)
        reply = await self._reply(asked)
        if reply is not None:
            key = asked.key
            if key is None and asked.message is not None:
                key = self._terminals.authenticity.shown_key(asked.raw, asked.message)
            await self._send(reply, key)

    async def _send(self, message: Message, key: bytes | None) -> None:
        codec = self._terminals.codec
        body = codec.encode(message) if key is None else encode_with_mac(key, message, codec)
        size = len(body)
        header = size.to_bytes(2, "big") if self._header_bytes == 2 else b"%04d" % size
        async with self._writing:
            if self._writer.is_closing():  # asyncio would log a line for each write from here on.
                return
            self._writer.write(header + body)
            async with asyncio.timeout(self._options.write_timeout_ms / 1_000):
                await self._writer.drain()

    # -- messages ----------------------------------------------------------------------------------

    async def _reply(self, asked: _Asked) -> Message | None:
        self._terminals.count("received")
        try:
            message = asked.message = self._terminals.codec.decode(asked.raw)
        except FrameError as error:
            return self._rejected(error.partial, Rejection(messages.FORMAT_ERROR, error.word, str(error)))
        if message.mti == _INVITED:
            return None
        role = messages.role_of(message.mti)
        if role is None:
            text = f"message type {message.mti!r} is not served; see the reference of this protocol"
            return self._rejected(message, Rejection(messages.INVALID_REQUEST, "MTI not served", text))
        rejection = messages.malformed(message, role)
        if rejection is not None:
            return self._rejected(message, rejection)
        directory = self._terminals.directory()
        if directory is None:
            text = "the box has no settings of its site yet; connect it to the centre once"
            return self._rejected(message, Rejection(messages.CENTRE_UNAVAILABLE, "no site settings", text))
        if role is Role.NETWORK:
            return await self._network(asked, message, directory)
        terminal = messages.terminal_of(message, directory)
        if isinstance(terminal, Rejection):
            self._terminals.count(TURNED_AWAY_EVENT)
            return self._rejected(message, terminal)
        proposal = (
            self._not_certified(terminal)
            or self._not_authentic(asked, message, terminal.id)
            or self._not_signed_on(terminal.id)
            or self._terminals.too_fast(terminal.id)
            or await self._terminals.proposal(message, role, terminal, directory)
        )
        if isinstance(proposal, Rejection):
            return self._rejected(message, proposal)
        self._places.known(self)
        return await self._terminals.ask(message, proposal, terminal)

    def _rejected(self, message: Message, rejection: Rejection) -> Message | None:
        """Answer what has a STAN to answer to and a type that gets answers; drop the rest. Both are said in
        the log."""
        stan = message.get(11)
        answerable = bool(messages.response_mti(message.mti) and stan and is_well_formed(11, stan))
        self._terminals.count(f"rejected_{rejection.code}" if answerable else "dropped")
        what = f"answered {rejection.code}" if answerable else "dropped"
        self._log(f"STAN {stan}: {what}" if answerable else what, rejection.text)
        return messages.reply(message, code=rejection.code, word=rejection.word) if answerable else None

    async def _network(self, asked: _Asked, message: Message, directory: Directory) -> Message | None:
        name, code = message.get(41), message.get(70)
        if name:
            terminal = messages.terminal_of(message, directory)
            if isinstance(terminal, Rejection):
                return self._rejected(message, terminal)
            rejection = self._not_certified(terminal) or self._not_authentic(asked, message, name)
            if rejection is not None:
                return self._rejected(message, rejection)
        if code == key_change.ASK_KEY:
            given = await self._terminals.authenticity.next_key(message)
            return self._rejected(message, given) if isinstance(given, Rejection) else given
        if code == _SIGN_ON:
            self._signed_on.add(name)
            self._signed_off.discard(name)
            if name:  # Without one anybody may have sent it.
                self._places.known(self)
        elif code == _SIGN_OFF:
            self._sign_off(name)
        elif code != _ECHO:
            text = f"field 70 (network management code) is {code!r}; 001, 002, 161 and 301 are served"
            return self._rejected(
                message, Rejection(messages.INVALID_REQUEST, f"F70 {code} not served", text)
            )
        return messages.reply(message, code=messages.APPROVED)

    async def invite(self) -> None:
        """Ask each terminal that has signed on here, and for which a key waits, to ask for it."""
        if self._slots.locked():
            return  # it has enough to do, or takes nothing
        for said, key in self._terminals.authenticity.invitations(self._signed_on, self._invited):
            await self._slots.acquire()
            self._start(self._send(said, key))

    def _sign_off(self, name: str) -> None:
        if name == _ALL_KEYLESS:
            self._signed_on.clear()
        self._signed_on.discard(name)
        self._signed_off.add(name)

    def _not_certified(self, terminal: TerminalRule) -> Rejection | None:
        rules = rules_of(terminal)
        wrong = foreign(certificate_shown(self._writer.transport), terminal.id, rules) if rules else None
        if wrong is None:
            return None
        self._terminals.count(TURNED_AWAY_EVENT)
        return Rejection(messages.SECURITY_VIOLATION, wrong.code.replace("_", " "), wrong.message)

    def _not_authentic(self, asked: _Asked, message: Message, terminal: str) -> Rejection | None:
        """Why a terminal with keys is not believed; else asked has the key that the answer is signed with."""
        checked = self._terminals.authenticity.checked(asked.raw, message, terminal)
        if isinstance(checked, Rejection):
            return checked
        asked.key = checked
        if checked is not None:
            self._places.known(self)
        return None

    def _not_signed_on(self, terminal: str) -> Rejection | None:
        by_all = _ALL_KEYLESS in self._signed_on and not self._terminals.authenticity.has_keys(terminal)
        if terminal in self._signed_on or (by_all and terminal not in self._signed_off):
            return None
        text = f"terminal {terminal} has not signed on on this connection; send a 0800 with field 70 = 001"
        return Rejection(messages.TERMINAL_NOT_PERMITTED, "sign on first", text)

    def _log(self, what: str, text: str) -> None:
        self._logged += 1
        if not self._terminals.may_log():
            return
        if self._logged <= _LOGGED_PER_CONNECTION_MAX:
            logger.warning("iso8583 %s: %s: %s", self._peer, what, text)
        elif self._logged == _LOGGED_PER_CONNECTION_MAX + 1:
            logger.warning("iso8583 %s: further lines of this connection are only counted", self._peer)


class Iso8583Server:
    """The way in for terminals, open."""

    def __init__(self, payments: Payments, options: Options) -> None:
        self._terminals = Terminals(payments, options)
        self._options = options
        self._serving: set[asyncio.Task[None]] = set()
        self._keeping: asyncio.Task[None] | None = None
        self._server: asyncio.Server | None = None
        self._arrivals = arrivals_of(options.tls, name="iso8583", counted=self._terminals.count)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it listens, `host:port` each."""
        if self._server is None:
            return ()
        return tuple("{}:{}".format(*one.getsockname()[:2]) for one in self._server.sockets)

    async def open(self) -> None:
        """Listen; raises OSError when the address is taken."""
        loop = asyncio.get_running_loop()

        def accept() -> asyncio.StreamReaderProtocol:
            return asyncio.StreamReaderProtocol(asyncio.StreamReader(loop=loop), self._accept, loop=loop)

        arriving = accept if self._arrivals is None else self._arrivals.protocol(accept)
        self._server = await loop.create_server(arriving, self._options.host, self._options.port)
        self._keeping = loop.create_task(self._keep())

    async def _keep(self) -> None:
        """Follow the files of keys, and offer keys that wait, until it is cancelled."""
        while True:
            try:
                await self._terminals.authenticity.keys.keep()
                for connection in list(self._terminals.places):
                    await connection.invite()
            except Exception:
                logger.exception("iso8583: the terminals' keys were not looked after")
            await asyncio.sleep(LOOK_EACH_S)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._terminals.places.has_one_free():
            self._terminals.count("connection_refused")
            if self._terminals.may_log():
                logger.warning("iso8583: a connection was refused; as many as connections_max are in use")
            writer.transport.abort()
            return
        connection = _Connection(self._terminals, reader, writer)
        self._terminals.places.stranger(connection, host_of(writer.transport))
        task = asyncio.ensure_future(connection.serve())
        task.add_done_callback(lambda _: self._terminals.places.leave(connection))
        self._serving.add(task)
        self._terminals.count("connected")
        _bound(writer)
        task.add_done_callback(self._serving.discard)

    async def stop(self) -> None:
        """Take no new connections, answer what is in flight, close the rest."""
        if self._server is not None:
            self._server.close()
        if self._arrivals is not None:
            self._arrivals.end()
        if self._keeping is not None:
            self._keeping.cancel()
        for task in self._serving:
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)


def _bound(writer: asyncio.StreamWriter) -> None:
    """Let the kernel find peers that are gone, within two minutes, and keep little for deaf ones."""
    connected: socket.socket = writer.get_extra_info("socket")
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        connected.setsockopt(socket.IPPROTO_TCP, option, value)


async def start(gateway: Payments, options: Options) -> Iso8583Server:
    """Open the way in; raises OSError for a taken address and SecretFileError for a key file that cannot be
    used."""
    server = Iso8583Server(gateway, options)
    await server.open()
    return server


ADAPTER = Adapter(name="iso8583", options=Options, start=start, key_files=key_files)
