"""`python -m tests.bench.tls`: what each transport profile costs beside the standard library's own.

Full mutual handshakes with one POST, POSTs on a kept connection, and megabytes of bodies, by real aiohttp
servers and clients in one process on loopback. Profiles take turns; figures are of processor time, told as
ratios: absolute figures belong to the machine. Both ends are counted.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import structlog

from edgegw.access.tls import TransportContext
from tests.encrypted import PROFILES, contexts, echo_server, posted

ROUNDS = 5
HANDSHAKES = 40
POSTS = 400
BODY_BYTES = 2_000_000
BODIES = 4
BODY = b"x" * 300


async def _rate(count: int, work: Callable[[], Awaitable[object]]) -> float:
    """How many times a second of processor time."""
    began_s = time.process_time()
    for _ in range(count):
        await work()
    return count / (time.process_time() - began_s)


async def measured(server: TransportContext, client: TransportContext) -> tuple[float, float, float]:
    """Handshakes, kept POSTs and megabytes a second of processor time."""
    async with echo_server(server) as echo, aiohttp.ClientSession() as session:

        async def post(body: bytes) -> None:
            async with session.post(echo.url, data=body, ssl=client) as answer:
                await answer.read()

        await posted(echo.url, client)
        await post(BODY)
        return (
            await _rate(HANDSHAKES, lambda: posted(echo.url, client, BODY)),
            await _rate(POSTS, lambda: post(BODY)),
            await _rate(BODIES, lambda: post(b"x" * BODY_BYTES)) * 2 * BODY_BYTES / 1e6,
        )


async def main() -> None:
    """Measure in turns and print one line a profile."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with tempfile.TemporaryDirectory() as folder:
        sides = {profile: contexts(profile, Path(folder)) for profile in PROFILES}
        found: dict[str, list[tuple[float, float, float]]] = {profile: [] for profile in PROFILES}
        for _ in range(ROUNDS):
            for profile, (server, client) in sides.items():
                found[profile].append(await measured(server, client))
    print("profile   handshake+POST /cpu-s     kept POST /cpu-s         MB /cpu-s     (beside intl)")
    for profile, rounds in found.items():
        cells = []
        for column in range(3):
            rate = statistics.median(one[column] for one in rounds)
            ratios = (one[column] / floor[column] for one, floor in zip(rounds, found["intl"], strict=True))
            cells.append(f"{rate:12.0f}  ({statistics.median(ratios):.2f})")
        print(f"{profile:8}" + "    ".join(cells))


if __name__ == "__main__":
    asyncio.run(main())
