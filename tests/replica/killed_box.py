"""A process that is killed: a writer at full speed in a thread, as the pen's COMMIT is, and a keeper.

Arguments: folder, seconds, records a second. It ends in order after so many seconds, unless it is killed.
"""

import asyncio
import hashlib
import os
import sys
import threading
import time
from pathlib import Path

import apsw

from tests.replica.kept import Kept

BATCH = 64
BODY_BYTES = 495
AHEAD_BYTES_MAX = 32 << 20
"""The writer waits where the ledger's file is further behind: a machine that leaves litestream no time would
give it hundreds of megabytes to read before its first copy."""


def chained(connection: apsw.Connection) -> tuple[int, bytes]:
    """How many records there are, and the chain's end; fails where the chain breaks."""
    count, leaf = 0, bytes(32)
    for position, stored, body in connection.execute(
        "SELECT position, leaf, body FROM record ORDER BY position"
    ):
        count, leaf = count + 1, hashlib.sha256(leaf + body).digest()
        assert (position, stored) == (count, leaf)
    return count, leaf


def write(connection: apsw.Connection, *, ledger: Path, per_second: float, stop: threading.Event) -> None:
    """Batches of chained records until told to stop."""
    count, leaf = chained(connection)
    written, began_s = 0, time.monotonic()
    while not stop.is_set():
        if count * BODY_BYTES > ledger.stat().st_size + AHEAD_BYTES_MAX:
            stop.wait(0.02)
            continue
        rows = []
        for _ in range(BATCH):
            count, body = count + 1, os.urandom(BODY_BYTES)
            leaf = hashlib.sha256(leaf + body).digest()
            rows.append((count, "transfer", f"till-{count % 14}", os.urandom(16), None, leaf, body))
        with connection:
            connection.executemany("INSERT INTO record VALUES(?, ?, ?, ?, ?, ?, ?)", rows)
        written += BATCH
        stop.wait(max(0.0, written / per_second - (time.monotonic() - began_s)))


async def main(folder: Path, seconds: float, per_second: float) -> None:
    """Write and copy."""
    kept = Kept(folder, alarm_ms=8_000)
    stop = threading.Event()
    async with kept.running():
        writing = threading.Thread(
            target=write,
            args=(kept.writer,),
            kwargs={"ledger": kept.path, "per_second": per_second, "stop": stop},
        )
        writing.start()
        try:
            async with asyncio.timeout(seconds):
                await stop_never()
        except TimeoutError:
            stop.set()
            await asyncio.to_thread(writing.join)
            # A stop leaves litestream some seconds for the rest, which a busy machine may not give it.
            await kept.until_follows()


async def stop_never() -> None:
    """Wait for the kill, or for the time that is over."""
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])))
