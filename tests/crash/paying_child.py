"""A box in a process of its own, to be killed or slowed: pays when told to, says what it told its clients.

    python -m tests.crash.paying_child DIRECTORY SEED WAL_PAGES

Says on stdout, one JSON array a line: ["ready", loop's thread, committing thread, batches], ["told", client,
request, body], ["error", code], ["done", batches]. Takes from stdin: `pay N` (one payment after the other),
`crowd N` (as many clients at once, each a few in a row) and `stop`. Ends by itself, with status 3, as soon as
its pen has failed.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec

from edgegw.access.keys import load_signing_key
from edgegw.core.records import Request
from edgegw.errors import OperatingError
from edgegw.ledger.outcomes import Outcome
from tests.crash.campaign import Fault, often
from tests.crash.workload import BOX, Day, Told, open_day
from tests.ledger.running_box import payment

KEY_NAME = "key.pem"
STATUS_FAILED = 3
WARM_ROUNDS = 4
IN_A_ROW = 5
"""What each client of a crowd pays."""


def say(*words: Any) -> None:
    """One line, whole."""
    os.write(1, msgspec.json.encode(words) + b"\n")


class SayingTold(Told):
    """Tells the parent as the gateway would tell a client."""

    def take(self, client: str, request: Request, outcome: Outcome) -> None:
        """Say it once it is remembered."""
        super().take(client, request, outcome)
        say("told", client, request, self.answers[client, request.id].decode())


async def main() -> None:
    """Serve until `stop`."""
    home, seed, wal_pages = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    key = load_signing_key(home / KEY_NAME, BOX)
    with often(Fault(), wal_pages=wal_pages):
        async with open_day(
            home / "data", home / "outside", SayingTold(), seed=seed, boot=f"boot-{os.getpid()}", key=key
        ) as (day, _):
            for _ in range(WARM_ROUNDS):
                await day.round()
            say("ready", threading.get_native_id(), _thread("ledger-commit"), day.pen.batches)
            while order := await asyncio.to_thread(sys.stdin.readline):
                word, _, count = order.strip().partition(" ")
                if word == "stop":
                    break
                await serve(day, word, int(count))
                say("done", day.pen.batches)


async def serve(day: Day, word: str, count: int) -> None:
    """Take payments, each told or answered with an error, and end the process when nothing is certain."""
    day.clock.pass_seconds(61)
    if word == "crowd":
        await asyncio.gather(*(pay(day, IN_A_ROW) for _ in range(count)))
    else:
        await pay(day, count)
    if day.pen.failure is not None:
        os._exit(STATUS_FAILED)


async def pay(day: Day, count: int) -> None:
    """One client's payments, one after the other."""
    for _ in range(count):
        try:
            await day.send("till-1", [payment(day._number(), 1)])
        except OperatingError as problem:
            say("error", problem.code)


def _thread(name: str) -> int:
    return next(one.native_id or 0 for one in threading.enumerate() if one.name.startswith(name))


if __name__ == "__main__":
    asyncio.run(main())
