"""A branch for the ISO 8583 tests: a gateway in memory on the real core, and a terminal on a socket."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

from gmssl import func, sm3

from edgegw.access.keystore import OPEN_FILES
from edgegw.core.accounts import centre_account
from edgegw.core.apply import own_accounts
from edgegw.core.book import Book
from edgegw.core.decide import Context, Funding, Short, Stamp, decide
from edgegw.core.records import Account, Leg, Refusal, Request, Transfer, WindowClosed
from edgegw.core.site import CurrencyRule, Site, TerminalRule
from edgegw.payments.answer import Answer, answer_from
from edgegw.payments.cards import NoVault
from edgegw.payments.iso8583.fields import Codec, Message
from edgegw.payments.problems import Unanswered
from edgegw.payments.protocols.iso8583 import Iso8583Server, Options, start
from edgegw.payments.service import Decided, reused

PAN = "6222021234567890"
POOR_PAN = "6222029999999999"
VAULT_KEY = bytes(range(32))
TERMINAL_KEY = bytes(range(100, 132))
DAY_NS = 86_400 * 1_000_000_000
FUNDS_MINOR = 10_000_000


def packed(text: str) -> bytes:
    """A message that is written with blanks between its fields."""
    return "".join(text.split()).encode("ascii")


# 0200 with fields 2 3 4 7 11 12 13 32 37 41 42 49. The bitmap, by hand: 0x72 is 2 3 4 7, 0x38 is 11 12 13,
# 0x01 is 32, 0x08 is 37, 0xC0 is 41 42, 0x80 is 49.
PAYMENT = packed("""
    0200 7238000108C08000
    16 6222021234567890 000000 000000012345 1121093015 000123 173015 1121
    06 123456 112117000123 T0000001 M00000000000001 156
""")
SIGN_ON = packed("0800 8220000000800000 0400000000000000 1121093000 000001 T0000001 001")
ECHO = packed("0800 8220000000800000 0400000000000000 1121093000 000002 T0000001 301")

CODEC = Codec("hex")


def hmac_sm3(key: bytes, data: bytes) -> bytes:
    """RFC 2104 over gmssl's SM3: an implementation that shares no code with ours."""
    inner_key = bytes(byte ^ 0x36 for byte in key.ljust(64, b"\0"))
    outer_key = bytes(byte ^ 0x5C for byte in key.ljust(64, b"\0"))
    inner = bytes.fromhex(sm3.sm3_hash(func.bytes_to_list(inner_key + data)))
    return bytes.fromhex(sm3.sm3_hash(func.bytes_to_list(outer_key + inner)))


def site() -> Site:
    """Two cards, four terminals of two merchants; T0000009 has a key."""
    return Site(
        bank="testbank",
        version=1,
        currencies=(CurrencyRule(code="CNY", numeric=156), CurrencyRule(code="USD", numeric=840)),
        accounts=tuple(
            Account(id=name, currency="CNY", home="box-1")
            for name in ("card-a", "card-poor", "shop-1", "shop-2")
        ),
        terminals=(
            TerminalRule(
                id="T0000001", merchant="M00000000000001", credit_account_id="shop-1", currency="CNY"
            ),
            TerminalRule(id="T2", merchant="M2", credit_account_id="shop-2", currency="CNY"),
            TerminalRule(id="T0000009", merchant="M2", credit_account_id="shop-2", currency="CNY"),
        ),
        cards={
            hmac_sm3(VAULT_KEY, PAN.encode()).hex(): "card-a",
            hmac_sm3(VAULT_KEY, POOR_PAN.encode()).hex(): "card-poor",
        },
    )


class MemoryGateway:
    """What the protocol needs of a gateway, with the line down and the records in a dictionary."""

    def __init__(self) -> None:
        self.book = Book(bank="testbank", box="box-1")
        self.site: Site | None = site()
        self.book.use_site(self.site)
        self.book.open_accounts((*own_accounts("box-1", "CNY"), *self.site.accounts))
        self.history = self
        self.cards = NoVault()
        self.keystore = OPEN_FILES
        self.meter = self
        self.events: Counter[str] = Counter()
        self.requests: list[tuple[str, Request]] = []
        self.records: dict[tuple[str, str], Transfer | Refusal] = {}
        self.closed_windows: dict[int, WindowClosed] = {}
        self.unanswered: Unanswered | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.seq = 36
        self.at_ns = time.time_ns()
        """Now, as for the protocol: by its own clock it tells what is older than the replay horizon."""
        legs = (Leg(centre_account("CNY"), "card-a", FUNDS_MINOR),)
        self.book.post(legs, epoch=1, seq=1, at_ns=self._step())
        self.book.at_ns = self.at_ns

    def _step(self) -> int:
        self.at_ns += 1 << 16
        return self.at_ns

    async def covered(self, *records: str) -> None:
        """At once: there is no mirror."""

    async def decide(self, client: str, request: Request) -> Decided:
        """Decide, or give the first answer again."""
        await self.gate.wait()
        if self.unanswered is not None:
            raise self.unanswered
        first = self.records.get((client, request.id))
        if first is not None:
            field = request.different_field(first.request)
            if field is not None:
                raise reused(field, request, first.request)
            return Decided(answer_from(first), True)
        self.requests.append((client, request))
        layer = self.book.overlay()
        at_ns = self._step()
        stamp = Stamp(
            bank="testbank", box="box-1", epoch=1, seq=self.seq, at_ns=at_ns, wall_ns=at_ns, mono_ns=0
        )
        decided = decide(Context(layer, stamp, client, request, Funding(False, reason="line_down"), ()))
        assert not isinstance(decided, Short)
        layer.note(decided)
        layer.merge()
        self.seq += 1
        self.records[client, request.id] = decided
        return Decided(answer_from(decided), False)

    async def answer(self, client: str, payment_id: str) -> Answer | None:
        """The first answer of an identity."""
        record = self.records.get((client, payment_id))
        return None if record is None else answer_from(record)

    async def window(self, number: int) -> WindowClosed | None:
        """A closed window."""
        return self.closed_windows.get(number)

    def protocol_event(self, *, protocol: str, event: str) -> None:
        """Count."""
        assert protocol == "iso8583"
        self.events[event] += 1

    def available(self, account_id: str) -> int:
        """What an account may spend."""
        return self.book.available(account_id)


def write_keys(directory: Path) -> dict[str, str]:
    """The secrets of the branch, as files; the options that name them."""
    (directory / "terminals").mkdir(exist_ok=True)
    for path, key in (
        (directory / "vault.key", VAULT_KEY),
        (directory / "terminals/T0000009.key", TERMINAL_KEY),
    ):
        path.write_text(key.hex() + "\n")
        path.chmod(0o600)
    return {
        "vault_key_file": str(directory / "vault.key"),
        "terminal_keys_directory": str(directory / "terminals"),
    }


class Terminal:
    """A terminal's end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, raw: bytes) -> None:
        """Send one framed message."""
        self.writer.write(len(raw).to_bytes(2, "big") + raw)
        await self.writer.drain()

    async def receive_raw(self) -> bytes:
        """The next framed message; raises IncompleteReadError at the end."""
        async with asyncio.timeout(10):
            size = int.from_bytes(await self.reader.readexactly(2), "big")
            return await self.reader.readexactly(size)

    async def receive(self) -> Message:
        """The next message."""
        return CODEC.decode(await self.receive_raw())

    async def ask(self, raw: bytes) -> Message:
        """Send and wait for the answer."""
        await self.send(raw)
        return await self.receive()

    async def ended(self) -> bool:
        """Whether the box has closed the connection."""
        async with asyncio.timeout(10):
            try:
                return await self.reader.read(1) == b""
            except ConnectionResetError:
                return True


class Branch:
    """A running server with its gateway and address."""

    def __init__(self, gateway: MemoryGateway, server: Iso8583Server) -> None:
        self.gateway = gateway
        self.server = server
        self._terminals: list[Terminal] = []

    async def connect(self) -> Terminal:
        """A connection that has not signed on."""
        host, _, port = self.server.addresses[0].rpartition(":")
        terminal = Terminal(*await asyncio.open_connection(host, int(port)))
        self._terminals.append(terminal)
        return terminal

    async def signed_on(self) -> Terminal:
        """A connection on which T0000001 has signed on."""
        terminal = await self.connect()
        assert (await terminal.ask(SIGN_ON)).fields[39] == "00"
        return terminal

    async def close(self) -> None:
        """Stop the server and hang up."""
        await self.server.stop()
        for terminal in self._terminals:
            terminal.writer.close()


@contextlib.asynccontextmanager
async def branch(directory: Path, **options: object) -> AsyncIterator[Branch]:
    """A branch on a free port of 127.0.0.1."""
    gateway = MemoryGateway()
    settings = Options(port=0, **(write_keys(directory) | options))  # type: ignore[arg-type]
    running = Branch(gateway, await start(gateway, settings))
    try:
        yield running
    finally:
        gateway.gate.set()
        await running.close()


def changed(raw: bytes, changes: dict[int, str | None], *, mti: str = "") -> bytes:
    """A message with fields set, or taken away where None."""
    message = CODEC.decode(raw)
    fields = message.fields | {number: value for number, value in changes.items() if value is not None}
    fields = {number: value for number, value in fields.items() if changes.get(number, "") is not None}
    return CODEC.encode(Message(mti or message.mti, fields))
