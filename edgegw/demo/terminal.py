"""A payment terminal: builds ISO 8583:1987 messages, keeps one connection with many of them in flight.

Written against the standard and the box's reference with pyiso8583's own table, so that it shares no code
with the box. Leaves out when a message is sent and what its answer is worth (`client`).
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Mapping
from typing import Final

import iso8583
from iso8583.specs import default_ascii

from edgegw.demo.plan import NUMERIC, Step

ACQUIRER: Final = "123456"
ANSWER_SECONDS: Final = 15.0
MAC_DIGITS: Final = 16
SIGN_ON, ECHO = "001", "301"


class Broken(Exception):
    """The connection is of no use any more, or no answer came: the outcome is unknown."""


def merchant_of(terminal: str) -> str:
    """Two terminals stand at each merchant."""
    return f"M{(int(terminal[1:]) + 1) // 2:014d}"


def fields_of(step: Step) -> dict[int, str]:
    """The fields of a step's message, card number included."""
    amount_minor = step.field_4_minor or step.amount_minor
    fields = {
        2: step.pan,
        3: "000000",
        4: f"{amount_minor:012d}",
        7: step.local,
        11: step.stan,
        12: step.local[4:],
        13: step.local[:4],
        32: ACQUIRER,
        37: step.id,
        41: step.client,
        42: merchant_of(step.client),
        49: NUMERIC[step.currency],
    }
    if step.original_stan:
        fields[90] = f"{step.original_mti}{step.original_stan}{step.local}{ACQUIRER:0>11}{'0' * 11}"
    spent_minor = amount_minor - step.amount_minor
    if spent_minor:
        fields[95] = f"{spent_minor:012d}{'0' * 30}"
    return fields


def encode(mti: str, fields: Mapping[int, str], key: bytes | None = None) -> bytes:
    """The bytes of a message, with a MAC in its last field where the terminal has a key."""
    document = {"t": mti} | {str(number): value for number, value in fields.items() if value}
    if key is None:
        return bytes(iso8583.encode(document, default_ascii)[0])
    last = "128" if max(fields) > 64 else "64"
    document[last] = "0" * MAC_DIGITS
    covered = bytes(iso8583.encode(document, default_ascii)[0])[:-MAC_DIGITS]
    return covered + _mac(key, covered)


def _mac(key: bytes, covered: bytes) -> bytes:
    return hmac.digest(key, covered, "sm3")[: MAC_DIGITS // 2].hex().upper().encode()


def decode(raw: bytes) -> dict[str, str]:
    """The fields of an answer; raises Broken for bytes that are no message."""
    try:
        document, _ = iso8583.decode(raw, default_ascii)
    except iso8583.DecodeError as problem:
        raise Broken(f"the box sent no message: {problem}") from None
    return document


def repeat_of(mti: str) -> str:
    """The message type that says: I sent this before."""
    return mti[:3] + "1"


class Terminal:
    """One terminal; connects and signs on when it has to."""

    def __init__(self, name: str, *, port: int, key: bytes | None = None) -> None:
        self.name = name
        self._port = port
        self._key = key
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._waiting: dict[str, asyncio.Future[dict[str, str]]] = {}
        self._connecting = asyncio.Lock()
        self._traces = 990_000

    async def ask(
        self, mti: str, fields: Mapping[int, str], *, on_sent: Callable[[], None] = lambda: None
    ) -> dict[str, str]:
        """The answer to a message; on_sent is called when its bytes are on their way. Raises Broken."""
        async with self._connecting:
            if self._reading is None or self._reading.done():
                await self._connect()
        return await self._exchange(encode(mti, fields, self._key), fields[11], on_sent)

    async def close(self) -> None:
        """Hang up."""
        if self._writer is not None:
            self._writer.transport.abort()
        if self._reading is not None:
            await asyncio.wait((self._reading,))

    async def network(self, code: str) -> dict[str, str]:
        """Sign on or send an echo on the open connection; raises Broken."""
        self._traces += 1
        stan = f"{self._traces:06d}"
        fields = {7: "0101000000", 11: stan, 41: self.name, 70: code}
        return await self._exchange(encode("0800", fields, self._key), stan)

    async def open(self) -> None:
        """Connect and sign on; raises Broken."""
        async with self._connecting:
            await self._connect()

    async def send_raw(self, raw: bytes) -> None:
        """Bytes as they are, on the open connection."""
        if self._writer is not None:
            self._writer.write(raw)

    async def ended(self) -> bool:
        """Whether the box ends the connection within the time of an answer."""
        if self._reading is None:
            return True
        done, _ = await asyncio.wait((self._reading,), timeout=ANSWER_SECONDS)
        return bool(done)

    async def _connect(self) -> None:
        try:
            reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError as problem:
            raise Broken(str(problem)) from None
        self._reading = asyncio.ensure_future(self._read(reader, self._writer))
        answer = await self.network(SIGN_ON)
        if answer.get("39") != "00":
            raise Broken(f"{self.name} may not sign on: {answer.get('39')} {answer.get('44')}")

    async def _exchange(
        self, raw: bytes, stan: str, on_sent: Callable[[], None] = lambda: None
    ) -> dict[str, str]:
        if self._writer is None:
            raise Broken("not connected")
        waiting: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
        self._waiting[stan] = waiting
        try:
            self._writer.write(len(raw).to_bytes(2, "big") + raw)
            on_sent()
            async with asyncio.timeout(ANSWER_SECONDS):
                return await waiting
        except TimeoutError:
            raise Broken(f"no answer within {ANSWER_SECONDS:g} s") from None
        finally:
            self._waiting.pop(stan, None)

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        why = "the box closed the connection"
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(2), "big")
                raw = await reader.readexactly(size)
                answer = decode(raw)
                if self._key is not None and not raw.endswith(_mac(self._key, raw[:-MAC_DIGITS])):
                    raise Broken("the box's answer has no right MAC")
                waiting = self._waiting.get(answer.get("11", ""))
                if waiting is not None and not waiting.done():
                    waiting.set_result(answer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        except Broken as problem:
            why = str(problem)
        finally:
            writer.transport.abort()
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(Broken(why))
