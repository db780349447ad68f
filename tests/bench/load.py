"""The load client: closed loops or an open one, over many connections, every answer held to its request.

Runs in an environment of its own (uvloop, msgspec) and in a process of its own, whose processor time is told
apart from the server's. Requests are made as they are sent, from numbers that are never used twice; at the
end nothing is sent any more and every answer is waited for, so that what was sent is what was answered.
Latencies of an open loop are counted from when a request was due, also when no connection was free.

`python tests/bench/load.py < settings.json` prints one JSON line.
"""

from __future__ import annotations

import asyncio
import json
import resource
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import payments

DRAIN_SECONDS: Final = 30.0
JSON: Final = "application/json"


class Wrong(Exception):
    """An answer that is not the right one."""


class Answer(msgspec.Struct):
    """Of the product: what its clients go by."""

    id: str
    outcome: str
    cleared_by: str | None
    amount_minor: int


class Item(msgspec.Struct):
    """One of a batch."""

    status: int
    answer: Answer


class Answers(msgspec.Struct):
    """Of a batch."""

    answers: list[Item]


class Paid(msgspec.Struct):
    """Of the FastAPI peers."""

    id: str
    outcome: str
    amount_minor: int


_answer = msgspec.json.Decoder(Answer).decode
_answers = msgspec.json.Decoder(Answers).decode
_paid = msgspec.json.Decoder(Paid).decode


def right_answer(number: int, status: bytes, body: bytes) -> None:
    """Of the product to one payment."""
    found = _answer(body) if status == b"201" else None
    if (
        found is None
        or found.id != payments.identity(number)
        or found.outcome != "cleared"
        or found.cleared_by != "allowance"
        or found.amount_minor != payments.amount_minor(number)
    ):
        raise Wrong(f"payment {number} was answered {status!r} {body[:300]!r}")


def right_paid(number: int, status: bytes, body: bytes) -> None:
    """Of a FastAPI peer."""
    found = _paid(body) if status == b"201" else None
    wanted = (payments.identity(number), "cleared", payments.amount_minor(number))
    if found is None or (found.id, found.outcome, found.amount_minor) != wanted:
        raise Wrong(f"payment {number} was answered {status!r} {body[:300]!r}")


def right_echo(number: int, status: bytes, body: bytes) -> None:
    """The same body back."""
    if not status.startswith(b"20") or body != payments.body(number):
        raise Wrong(f"payment {number} was echoed {status!r} {body[:300]!r}")


def right_batch(size: int) -> Callable[[int, bytes, bytes], None]:
    """Of the product to a batch whose first payment is number times size."""

    def check(number: int, status: bytes, body: bytes) -> None:
        found = _answers(body).answers if status == b"200" else []
        first = number * size
        wanted = [(payments.identity(first + n), payments.amount_minor(first + n)) for n in range(size)]
        if [(one.answer.id, one.answer.amount_minor) for one in found] != wanted or any(
            one.status != 201 or one.answer.cleared_by != "allowance" for one in found
        ):
            raise Wrong(f"batch {number} was answered {status!r} {body[:300]!r}")

    return check


def batch_body(size: int) -> Callable[[int], bytes]:
    """A batch as a till sends it."""

    def make(number: int) -> bytes:
        first = number * size
        return b'{"payments":[' + b",".join(payments.body(first + n) for n in range(size)) + b"]}"

    return make


def right_line(number: int, _: bytes, line: bytes) -> None:
    """The record that the engine's socket answers with."""
    asked = f'"id":"{payments.identity(number)}"'.encode()
    if (
        not line.startswith(b'{"type":"transfer"')
        or asked not in line
        or b'"cleared_by":"allowance"' not in line
    ):
        raise Wrong(f"payment {number} was answered {line[:400]!r}")


KINDS: Final[dict[str, tuple[Callable[[int], bytes], Callable[[int, bytes, bytes], None]]]] = {
    "edgegw": (payments.body, right_answer),
    "paid": (payments.body, right_paid),
    "echo": (payments.body, right_echo),
    "batch": (batch_body(100), right_batch(100)),
    "line": (lambda number: payments.body(number)[:-1] + b',"kind":"payment"}', right_line),
}
"""What is sent, and what answer is right."""


def made_before(path: str) -> list[bytes]:
    """Requests from a file, each with four bytes of length in front."""
    data, at, found = Path(path).read_bytes(), 0, list[bytes]()
    while at < len(data):
        [length] = struct.unpack_from("<I", data, at)
        found.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return found


class Load:
    """One run."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.body, self.check = KINDS[settings["kind"]]
        self.is_http = settings["kind"] != "line"
        self.number = settings["first"]
        self.latencies_s: list[float] = []
        self.fault: Exception | None = None
        self.free: deque[Connection] = deque()
        self.due: deque[float] = deque()
        self.in_flight = 0
        self.ending = False
        self.done = asyncio.Event()
        self.ends_s = 0.0
        self.made = made_before(settings["requests"]) if "requests" in settings else None
        """Signed ones, which take longer to make than to send."""
        if self.is_http:
            length = len(self.body(self.number))
            more = "".join(f"{name}: {value}\r\n" for name, value in settings.get("headers", {}).items())
            self.head = (
                f"POST {settings['path']} HTTP/1.1\r\nHost: 127.0.0.1:{settings['port']}\r\n{more}"
                f"Content-Type: {JSON}\r\nContent-Length: {length}\r\n\r\n"
            ).encode()

    def request(self) -> tuple[int, bytes]:
        """The next one, with its number."""
        number = self.number
        self.number += 1
        if self.made is not None:
            return number, self.made[number - self.settings["first"]]
        body = self.body(number)
        return number, self.head + body if self.is_http else body + b"\n"

    @property
    def is_used_up(self) -> bool:
        """Whether no request that was made beforehand is left."""
        return self.made is not None and self.number - self.settings["first"] >= len(self.made)

    def answered(self, connection: Connection, number: int, status: bytes, body: bytes) -> None:
        """Hold it to its request, and go on."""
        now_s = time.perf_counter()
        self.in_flight -= 1
        try:
            self.check(number, status, body)
        except Exception as fault:  # noqa: BLE001 - a body that does not decode is a wrong answer, too
            self.stop(fault)
            return
        self.latencies_s.append(now_s - connection.due_s)
        self.next(connection, now_s)

    def next(self, connection: Connection, now_s: float) -> None:
        """Send the connection's next request, if one is due."""
        if self.ending or now_s >= self.ends_s or self.is_used_up:
            self.ending = True
            if not self.in_flight and not self.due:
                self.done.set()
            if not self.due:
                return
        if "per_s" not in self.settings:
            connection.send(now_s)
        elif self.due:
            connection.send(self.due.popleft())
        else:
            self.free.append(connection)

    def stop(self, fault: Exception) -> None:
        """Something is wrong: no more of it."""
        self.fault = self.fault or fault
        self.ending = True
        self.done.set()

    async def run(self) -> dict[str, Any]:
        """Connect, work, wait for what is in flight; what is told of it."""
        loop, settings = asyncio.get_running_loop(), self.settings
        made = [self._connect(loop) for _ in range(settings["connections"])]
        connections = [connection for _, connection in await asyncio.gather(*made)]
        before, began_s = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        self.ends_s = began_s + settings["seconds"]
        if "per_s" in settings:
            self.free.extend(connections)
            self._pace(loop, began_s, 0)
        else:
            for connection in connections:
                connection.send(time.perf_counter())
        try:
            await asyncio.wait_for(self.done.wait(), settings["seconds"] + DRAIN_SECONDS)
        except TimeoutError:
            self.fault = self.fault or Wrong(
                f"{self.in_flight} requests had no answer after {DRAIN_SECONDS} s"
            )
        taken_s = time.perf_counter() - began_s
        after = resource.getrusage(resource.RUSAGE_SELF)
        for connection in connections:
            connection.transport.close()
        if self.fault is not None:
            return {"fault": f"{type(self.fault).__name__}: {self.fault}"}
        return {
            "count": self.number - settings["first"],
            "seconds": taken_s,
            "client_cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
            "latency_ms": self._quantiles(),
        }

    def _connect(self, loop: asyncio.AbstractEventLoop) -> Any:
        if "socket" in self.settings:
            return loop.create_unix_connection(lambda: Connection(self), self.settings["socket"])
        return loop.create_connection(lambda: Connection(self), "127.0.0.1", self.settings["port"])

    def _pace(self, loop: asyncio.AbstractEventLoop, began_s: float, sent: int) -> None:
        """Send what is due by now, and come back when the next one is."""
        now_s, per_s = time.perf_counter(), self.settings["per_s"]
        while not self.ending and (due_s := began_s + sent / per_s) <= now_s:
            if due_s >= self.ends_s:
                self.ending = True
                if not self.in_flight and not self.due:
                    self.done.set()
                return
            sent += 1
            if self.free:
                self.free.popleft().send(due_s)
            else:
                self.due.append(due_s)
        if not self.ending:
            loop.call_later(max(0.0, began_s + sent / per_s - now_s), self._pace, loop, began_s, sent)

    def _quantiles(self) -> dict[str, float]:
        found = sorted(self.latencies_s)
        at = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
        return {name: found[min(len(found) - 1, int(len(found) * part))] * 1e3 for name, part in at.items()}


class Connection(asyncio.Protocol):
    """One connection with one request in flight."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._rest = b""
        self.due_s = 0.0
        self._number = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there."""
        self.transport: Any = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """The server must not end it while a request is in flight."""
        if self._number >= 0:
            self._load.stop(exc or ConnectionResetError("the server ended a connection"))

    def send(self, due_s: float) -> None:
        """The next request; latency counts from due_s."""
        self.due_s = due_s
        self._load.in_flight += 1
        self._number, request = self._load.request()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """One answer, or a part of it."""
        data = self._rest + data if self._rest else data
        if self._load.is_http:
            end = data.find(b"\r\n\r\n") + 4
            whole = end + _length(data[:end]) if end > 3 else len(data) + 1
        else:
            end, whole = 0, data.find(b"\n") + 1 or len(data) + 1
        if len(data) < whole:
            self._rest = data
            return
        self._rest, number, self._number = b"", self._number, -1
        self._load.answered(self, number, data[9:12], data[end:whole])


def _length(head: bytes) -> int:
    """Of the body behind these headers; raises ValueError where it is not told."""
    at = head.find(b"Content-Length: ")
    if at < 0:
        head = head.lower()
        at = head.index(b"content-length: ")
    return int(head[at + 16 : head.index(b"\r", at)])


def main() -> None:
    """Run the settings on standard input."""
    import uvloop

    async def run() -> dict[str, Any]:
        return await Load(json.load(sys.stdin)).run()

    sys.stdout.write(json.dumps(uvloop.run(run())) + "\n")


if __name__ == "__main__":
    main()
