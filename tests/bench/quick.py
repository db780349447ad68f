"""`make bench-quick`: what the engine and HTTP cost beside their floors, and what a payment weighs.

Everything is measured in one run, in turns, and told as ratios: absolute figures belong to the machine.
The engine's floor is a bare prepared INSERT of rows as wide as a record, with the same index, under the
same COMMIT; HTTP's floor is a bare aiohttp echo of the same body. Load goes to loopback only, a fixed
number of requests.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import apsw
import msgspec
from aiohttp import web

from edgegw.core import journal
from edgegw.core.decide import Funding
from edgegw.core.journal import FIRST_PREVIOUS, Frontier
from edgegw.core.messages import Beat, LogHead, Package, encode_message
from edgegw.core.records import Kind, Request, Transfer
from edgegw.ledger.outcomes import Decision
from edgegw.ledger.schema import open_writer
from edgegw.payments.protocols.http import HttpOptions
from tests.mirror.branch import MirroredBranch
from tests.payments.branch import BAKER, PUPIL, Branch, open_branch

ROUNDS = 3
ENGINE_PAYMENTS = 12_000
HTTP_REQUESTS = 3_000
CONNECTIONS = (1, 16, 64)
ROW_BYTES = 450
WIRE_RECORDS = 256


def identity(number: int) -> str:
    """A time-ordered id, as a till's UUIDv7 would be."""
    return f"{0x0193_0000_0000 + number // 8:012x}7{number % 8:03x}8{number:015x}"


def request(number: int) -> Request:
    """An ordinary purchase."""
    return Request(
        kind=Kind.PAYMENT,
        id=identity(number),
        debit_account_id=BAKER,
        credit_account_id=PUPIL,
        amount_minor=1 + number % 97,
        currency="CNY",
        terminal="T0000012",
        reference=f"receipt {number}",
    )


# -- the engine --------------------


async def engine_rate(branch: Branch, first: int, batch: int) -> float:
    """Payments a second that the pen answers when `batch` wait at any time."""
    funding = Funding(line_up=True)
    requests = [request(first + number) for number in range(ENGINE_PAYMENTS)]
    count = ENGINE_PAYMENTS if batch > 1 else ENGINE_PAYMENTS // 10
    started = time.perf_counter()
    for start in range(0, count, batch):
        outcomes = await branch.pen.decide("till", requests[start : start + batch], funding)
        if not all(isinstance(o, Decision) and isinstance(o.record, Transfer) for o in outcomes):
            raise SystemExit(f"a payment of the benchmark was not cleared: {outcomes[0]}")
    return count / (time.perf_counter() - started)


def floor_rate(directory: Path, first: int, batch: int) -> float:
    """Rows a second of bare prepared inserts under the same COMMIT."""
    connection = open_writer(directory / f"floor-{first}-{batch}.db", create=True)
    count = ENGINE_PAYMENTS if batch > 1 else ENGINE_PAYMENTS // 10
    rows = [
        (
            number,
            "transfer",
            "till",
            bytes.fromhex(identity(number)),
            None,
            os.urandom(32),
            os.urandom(ROW_BYTES),
        )
        for number in range(count)
    ]
    started = time.perf_counter()
    for start in range(0, count, batch):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO record VALUES(?, ?, ?, ?, ?, ?, ?)", rows[start : start + batch])
        connection.execute("COMMIT")
    rate = count / (time.perf_counter() - started)
    connection.close()
    return rate


# -- HTTP --------------------


async def http_rate(url: str, path: str, token: str, bodies: list[bytes], connections: int) -> float:
    """Requests a second over keep-alive connections, each with one request in flight."""
    host, port = url.removeprefix("http://").split(":")
    heads = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
    heads += "Content-Type: application/json\r\nContent-Length: "
    queue = iter(bodies)

    async def worker() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        for body in queue:
            writer.write(f"{heads}{len(body)}\r\n\r\n".encode() + body)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith((b"HTTP/1.1 201", b"HTTP/1.1 200")):
                raise SystemExit(f"a request of the benchmark failed: {head.decode()}")
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
            await reader.readexactly(int(length))
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(connections)))
    return len(bodies) / (time.perf_counter() - started)


async def serve_echo() -> None:
    """The floor: aiohttp that reads a body and sends it back."""

    async def echo(message: web.Request) -> web.Response:
        return web.Response(body=await message.read(), content_type="application/json", status=201)

    application = web.Application()
    application.router.add_post("/echo", echo)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    _announce(f"http://127.0.0.1:{runner.addresses[0][1]}", "-")
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


async def serve_branch(directory: Path) -> None:
    """A branch with the real ledger, pen, gateway and HTTP server."""
    async with open_branch(directory, options=HttpOptions(port=0)) as branch:
        await branch.grant(BAKER, 10**15)
        _announce(branch.url, branch.token("till"))
        await asyncio.to_thread(sys.stdin.read)


def _announce(url: str, token: str) -> None:
    sys.stdout.write(json.dumps({"url": url, "token": token}) + "\n")
    sys.stdout.flush()


class Server:
    """A server in a process of its own, ended by closing its standard input."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments

    async def __aenter__(self) -> tuple[str, str]:
        """Its URL and a token for it."""
        pipe = asyncio.subprocess.PIPE
        command = (sys.executable, "-m", "tests.bench.quick", *self._arguments)
        self._process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
        stdout = self._process.stdout
        line = b"" if stdout is None else await stdout.readline()
        found = json.loads(line)
        return found["url"], found["token"]

    async def __aexit__(self, *_: object) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._process.wait()


def http_body(number: int) -> bytes:
    """A payment as a till sends it."""
    fields = msgspec.to_builtins(request(number))
    return json.dumps({key: value for key, value in fields.items() if key != "kind"}).encode()


# -- weights --------------------


async def weights(directory: Path) -> dict[str, float]:
    """Bytes on disk and on the wire for a payment, over the engine's own ledger."""
    async with open_branch(directory) as branch:
        await branch.grant(BAKER, 10**15)
        first = branch.pen.desk.tip.size
        await engine_rate(branch, 0, 64)
        reader = branch.store.reader()
        size = branch.pen.desk.tip.size
        records = reader.records(epoch=1, start=first, limit=WIRE_RECORDS, bytes_max=1 << 20)
        bodies = tuple(entry.body for entry in records)
        node = reader.node(1, size)
        proof = tuple(journal.consistency_proof(first + len(bodies), size, node))
        reader.close()
        checkpoint = branch.pen.desk.tip.checkpoint
    ledger = apsw.Connection(str(directory / "ledger.db"))
    ledger.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    ledger.close()
    edge = Frontier()
    edge.extend(journal.chain(FIRST_PREVIOUS, bodies))
    package = Package(
        number=1, old_size=first, records=bodies, root=edge.root(), checkpoint=checkpoint, proof=proof
    )
    message = encode_message(Beat(directives=LogHead(1), push=package))
    return {
        "record_bytes": sum(map(len, bodies)) / len(bodies),
        "disk_bytes_per_payment": (directory / "ledger.db").stat().st_size / size,
        "wire_bytes_per_payment": len(gzip.compress(message, 6)) / len(bodies),
        "wire_bytes_per_payment_uncompressed": len(message) / len(bodies),
    }


# -- the run --------------------


async def in_turns(
    measures: dict[str, Callable[[int], Awaitable[float]]],
) -> dict[str, list[float]]:
    """Each measure once a round, in turns, so that a busy moment hits all alike."""
    rates: dict[str, list[float]] = {name: [] for name in measures}
    for round_number in range(ROUNDS):
        for name, measure in measures.items():
            rates[name].append(await measure(round_number))
    return rates


def compared(rates: dict[str, list[float]], ours: str, floor: str) -> dict[str, float]:
    """Medians, and the median of the rounds' ratios with its extremes."""
    ratios = [a / b for a, b in zip(rates[ours], rates[floor], strict=True)]
    return {
        "ours_per_s": statistics.median(rates[ours]),
        "floor_per_s": statistics.median(rates[floor]),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


async def measure_engine(directory: Path) -> dict[str, dict[str, float]]:
    """The pen beside bare inserts, at three batch sizes."""
    found = {}
    (directory / "engine").mkdir()
    async with open_branch(directory / "engine") as branch:
        await branch.grant(BAKER, 10**15)
        for column, batch in enumerate((1, 64, 512)):

            async def ours(turn: int, batch: int = batch, column: int = column) -> float:
                return await engine_rate(branch, (column * ROUNDS + turn) * ENGINE_PAYMENTS, batch)

            async def floor(turn: int, batch: int = batch, column: int = column) -> float:
                return floor_rate(directory, (column * ROUNDS + turn) * ENGINE_PAYMENTS, batch)

            rates = await in_turns({"ours": ours, "floor": floor})
            found[f"engine, batches of {batch}"] = compared(rates, "ours", "floor")
    return found


async def measure_http(directory: Path) -> dict[str, dict[str, float]]:
    """POST /v1/payments beside an echo of the same body, at three numbers of connections."""
    found = {}
    (directory / "http").mkdir()
    async with Server("--serve-branch", str(directory / "http")) as branch, Server("--serve-echo") as echo:
        for column, connections in enumerate(CONNECTIONS):

            async def ours(turn: int, connections: int = connections, column: int = column) -> float:
                first = (column * ROUNDS + turn) * HTTP_REQUESTS
                bodies = [http_body(first + number) for number in range(HTTP_REQUESTS)]
                return await http_rate(branch[0], "/v1/payments", branch[1], bodies, connections)

            async def floor(_: int, connections: int = connections) -> float:
                bodies = [http_body(number) for number in range(HTTP_REQUESTS)]
                return await http_rate(echo[0], "/echo", echo[1], bodies, connections)

            rates = await in_turns({"ours": ours, "floor": floor})
            found[f"HTTP, {connections} connections"] = compared(rates, "ours", "floor")
    return found


async def measure_mirrored(directory: Path) -> dict[str, dict[str, float]]:
    """POST /v1/payments of a box that answers what its mirror has too, beside one with local durability: both
    as real processes with a mirror that gets every record."""
    found = {}
    branches = {name: MirroredBranch(directory / name, durability=name) for name in ("mirrored", "local")}
    try:
        for branch in branches.values():
            branch.start_mirror()
            branch.start_hub()
            branch.start_box()
        for column, connections in enumerate(CONNECTIONS):

            async def rate(
                name: str, turn: int, connections: int = connections, column: int = column
            ) -> float:
                first = (column * ROUNDS + turn) * HTTP_REQUESTS
                branch = branches[name]
                bodies = [mirrored_body(first + number) for number in range(HTTP_REQUESTS)]
                url = f"http://127.0.0.1:{branch.http_port}"
                return await http_rate(url, "/v1/payments", branch.token, bodies, connections)

            rates = await in_turns(
                {
                    "mirrored": lambda turn, rate=rate: rate("mirrored", turn),  # type: ignore[misc]
                    "local": lambda turn, rate=rate: rate("local", turn),  # type: ignore[misc]
                }
            )
            found[f"mirrored, {connections} connections"] = compared(rates, "mirrored", "local")
    finally:
        for branch in branches.values():
            branch.end()
    return found


def mirrored_body(number: int) -> bytes:
    """A payment of one minor unit between accounts of the processes' branch."""
    fields = {"id": identity(number), "debit_account_id": "alice", "credit_account_id": "shop"}
    return json.dumps({**fields, "amount_minor": 1, "currency": "CNY"}).encode()


def commit_milliseconds(directory: Path) -> float:
    """The median COMMIT of one small row: what this disk's fsync costs."""
    connection = open_writer(directory / "fsync.db", create=True)
    times = []
    for number in range(200):
        started = time.perf_counter()
        connection.execute("INSERT INTO meta VALUES(?, 'x')", (str(number),))
        times.append(time.perf_counter() - started)
    connection.close()
    return statistics.median(times) * 1_000


async def measure(directory: Path) -> dict[str, object]:
    """All figures of one run."""
    (directory / "weights").mkdir()
    return {
        "cores": os.cpu_count(),
        "commit_ms": commit_milliseconds(directory),
        "comparisons": {
            **await measure_engine(directory),
            **await measure_http(directory),
            **await measure_mirrored(directory),
        },
        "weights": await weights(directory / "weights"),
    }


def print_table(found: dict[str, object]) -> None:
    """The figures for people."""
    sys.stdout.write(f"{found['cores']} cores, a COMMIT takes {found['commit_ms']:.2f} ms here\n\n")
    sys.stdout.write(f"{'':24}{'ours/s':>10}{'floor/s':>10}{'ratio':>8}  range of {ROUNDS} rounds\n")
    comparisons = found["comparisons"]
    assert isinstance(comparisons, dict)
    for name, row in comparisons.items():
        spread = f"{row['ratio_min']:.2f} to {row['ratio_max']:.2f}"
        numbers = f"{row['ours_per_s']:>10.0f}{row['floor_per_s']:>10.0f}{row['ratio']:>8.2f}"
        sys.stdout.write(f"{name:24}{numbers}  {spread}\n")
    sys.stdout.write("\n")
    assert isinstance(found["weights"], dict)
    for name, value in found["weights"].items():
        sys.stdout.write(f"{name.replace('_', ' '):44}{value:>8.0f}\n")


def main() -> None:
    """Run, or serve for a run."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.quick", description=__doc__)
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    parser.add_argument("--serve-echo", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--serve-branch", metavar="DIR", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_echo:
        asyncio.run(serve_echo())
    elif options.serve_branch:
        asyncio.run(serve_branch(options.serve_branch))
    else:
        with tempfile.TemporaryDirectory(prefix="edgegw-bench-", dir=".") as directory:
            found = asyncio.run(measure(Path(directory).absolute()))
        sys.stdout.write(json.dumps(found, indent=1) + "\n") if options.json else print_table(found)


if __name__ == "__main__":
    main()
