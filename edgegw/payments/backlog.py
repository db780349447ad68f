"""How many notices wait for their clients' acknowledgement, and since when: counted beside the payments, told
by metrics, and once a day in the log where one waits for too long.

Leaves out delivering them (`payments.webhooks`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

import structlog

from edgegw.core.records import decode_record
from edgegw.ledger.late_words import Unnoted
from edgegw.ledger.store import Store
from edgegw.payments.notices import place

COUNT_S: Final = 5.0
REST: Final = 19
"""So many times as long as a count took is left to the payments."""
DAY_S: Final = 86_400.0
NS: Final = 1_000_000_000

_log = structlog.get_logger("edgegw.notices")


class Waiting(NamedTuple):
    """One client's notices that it has not acknowledged."""

    client: str
    notices: int
    oldest: str
    """The oldest one's record."""
    since_ns: int
    """The box's own time of that."""


class Backlog:
    """All clients' notices that wait, as they were counted last."""

    def __init__(self, store: Store, *, now_ns: Callable[[], int], aged_hours: int) -> None:
        """store: a reader of its own; now_ns: the box's own time."""
        self.waiting: list[Waiting] = []
        self._store = store
        self._now_ns = now_ns
        self._aged_ns = aged_hours * 3_600 * NS
        self._told_s: dict[str, float] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="notices-count")

    @property
    def notices(self) -> int:
        """How many wait."""
        return sum(one.notices for one in self.waiting)

    @property
    def oldest_seconds(self) -> float:
        """For how long the oldest one waits."""
        since_ns = min((one.since_ns for one in self.waiting), default=0)
        return max(0, self._now_ns() - since_ns) / NS if since_ns else 0.0

    async def run(self) -> None:
        """Count for ever; ends with the task that runs it."""
        while True:
            began_s = time.monotonic()
            self.waiting = await asyncio.get_running_loop().run_in_executor(self._thread, self._count)
            self._tell(time.monotonic())
            await asyncio.sleep(max(COUNT_S, REST * (time.monotonic() - began_s)))

    def close(self) -> None:
        """End the thread of reads, once `run` is over."""
        self._thread.shutdown()

    def _count(self) -> list[Waiting]:
        return [self._waiting(one) for one in self._store.late.unnoted()]

    def _waiting(self, one: Unnoted) -> Waiting:
        body = self._store.at(one.oldest)
        since_ns = 0 if body is None else decode_record(body).at_ns
        return Waiting(one.client, one.notices, place(one.oldest), since_ns)

    def _tell(self, now_s: float) -> None:
        """Say in the log what is aged, once a day for each client."""
        aged = {one.client: one for one in self.waiting if self._now_ns() - one.since_ns >= self._aged_ns}
        self._told_s = {client: said_s for client, said_s in self._told_s.items() if client in aged}
        for client, one in aged.items():
            if now_s - self._told_s.get(client, -DAY_S) >= DAY_S:
                self._told_s[client] = now_s
                _log.warning(
                    "notices_aged",
                    **one._asdict(),
                    hint="The client acknowledges them (POST /v1/notices/acknowledgements), or its webhook"
                    " takes them; for a terminal, or a client that is gone, a client with the scope operate"
                    " does, by `client`. Until then their records are not pruned.",
                )
