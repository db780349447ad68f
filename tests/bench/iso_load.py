"""The load client for ISO 8583: one connection, many messages in flight, every answer held to its question.

Answers come in any order; field 37 says whose they are. Settings and output as in `load.py`.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import payments

DRAIN_SECONDS: Final = 30.0
FIXED: Final = {3: 6, 4: 12, 7: 10, 11: 6, 12: 6, 13: 4, 15: 4, 37: 12, 38: 6, 39: 2, 41: 8, 42: 15, 49: 3}
MEASURED: Final = (2, 32, 44)
"""Fields with two digits of length in front."""
APPROVED: Final = "00"


class Wrong(Exception):
    """An answer that is not the right one."""


def fields_of(message: str) -> dict[int, str]:
    """The fields of an answer with one bitmap; raises Wrong for one that this client does not know."""
    bitmap, at, found = int(message[4:20], 16), 20, dict[int, str]()
    for number in range(2, 65):
        if not bitmap >> (64 - number) & 1:
            continue
        length = FIXED.get(number)
        if number in MEASURED:
            length = int(message[at : at + 2])
            at += 2
        if length is None:
            raise Wrong(f"field {number} in {message!r}")
        found[number] = message[at : at + length]
        at += length
    return found


class Terminals(asyncio.Protocol):
    """The switch in front of all terminals: signs on, then keeps so many payments in flight."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.number = self.first = settings["first"]
        self.sent_s: dict[int, float] = {}
        self.latencies_s: list[float] = []
        self.done = asyncio.Event()
        self.fault: Exception | None = None
        self._rest = b""
        self._ends_s = self.began_s = 0.0
        self._signed_on = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Sign every terminal on that has no key."""
        self.transport: Any = transport
        month_day = self.settings["month_day"]
        message = f"080082200000000000000400000000000000{month_day}120000000001001".encode()
        self.transport.write(len(message).to_bytes(2, "big") + message)

    def connection_lost(self, exc: Exception | None) -> None:
        """Not while anything is in flight."""
        self._stop(Wrong(f"the box ended the connection: {exc}"))

    def data_received(self, data: bytes) -> None:
        """Answers, whole or in parts."""
        data, at = self._rest + data, 0
        out: list[bytes] = []
        while len(data) >= at + 2 and len(data) >= (end := at + 2 + int.from_bytes(data[at : at + 2], "big")):
            try:
                self._taken(data[at + 2 : end].decode("ascii"), out)
            except (Wrong, ValueError, KeyError) as fault:
                self._stop(fault)
                return
            at = end
        self._rest = data[at:]
        if out:
            self.transport.write(b"".join(out))

    def _taken(self, message: str, out: list[bytes]) -> None:
        now_s = time.perf_counter()
        if not self._signed_on:
            self._signed_on = message.startswith("0810")
            self.began_s, self._ends_s = now_s, now_s + self.settings["seconds"]
            out.extend(self._next(now_s) for _ in range(self.settings["in_flight"]))
            return
        found = fields_of(message)
        number = int(found[37])
        if not message.startswith("0210") or (found[39], int(found[4])) != (
            APPROVED,
            payments.amount_minor(number),
        ):
            raise Wrong(f"payment {number} was answered {message!r}")
        self.latencies_s.append(now_s - self.sent_s.pop(number))
        if now_s < self._ends_s:
            out.append(self._next(now_s))
        elif not self.sent_s:
            self.done.set()

    def _next(self, now_s: float) -> bytes:
        number = self.number
        self.number += 1
        self.sent_s[number] = now_s
        return payments.iso_payment(number, self.settings["month_day"])

    def _stop(self, fault: Exception) -> None:
        if not self.done.is_set():
            self.fault = fault
            self.done.set()


async def run(settings: dict[str, Any]) -> dict[str, Any]:
    """One run."""
    loop = asyncio.get_running_loop()
    before = resource.getrusage(resource.RUSAGE_SELF)
    transport, one = await loop.create_connection(lambda: Terminals(settings), "127.0.0.1", settings["port"])
    try:
        await asyncio.wait_for(one.done.wait(), settings["seconds"] + DRAIN_SECONDS)
    except TimeoutError:
        one.fault = Wrong(f"{len(one.sent_s)} messages had no answer in time")
    taken_s = time.perf_counter() - one.began_s
    after = resource.getrusage(resource.RUSAGE_SELF)
    transport.close()
    if one.fault is not None:
        return {"fault": f"{type(one.fault).__name__}: {one.fault}"}
    found = sorted(one.latencies_s)
    at = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
    return {
        "count": one.number - one.first,
        "seconds": taken_s,
        "client_cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "latency_ms": {
            name: found[min(len(found) - 1, int(len(found) * part))] * 1e3 for name, part in at.items()
        },
    }


def main() -> None:
    """Run the settings on standard input."""
    import uvloop

    sys.stdout.write(json.dumps(uvloop.run(run(json.load(sys.stdin)))) + "\n")


if __name__ == "__main__":
    main()
