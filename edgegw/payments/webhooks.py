"""Carrying notices to clients that have a webhook: in order, until each is acknowledged, each client by
itself.

What is to be sent and how far that got is the journal's alone, so a restart goes on where the last record of
an acknowledgement stands; a message may come twice, never not at all. A notice that its receiver refuses is
set apart and tried again by itself, so that it holds up no other; a receiver that is away is tried again
after a pause that grows. Leaves out what a notice says (`payments.notices`) and HTTP
(`payments.webhook_post`).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Final, Protocol, TypeVar

import msgspec
import structlog

from edgegw.core.site import Site, WebhookRule
from edgegw.errors import BrokenInvariant, OperatingError
from edgegw.ledger.late_words import LateWord, Noted
from edgegw.ledger.rows import place_at
from edgegw.ledger.store import Store
from edgegw.payments.notices import Notice, notice_of, position
from edgegw.payments.webhook_post import Outcome, Postman, Said

T = TypeVar("T")

NOTICES_EACH: Final = 100
"""In one message."""
WORDS_EACH: Final = 1_000
"""Late words looked through for one message."""
APART_MAX: Final = 100
"""Notices that may stand apart; a receiver that refuses more is away."""
GATHER_S: Final = 0.02
TICK_S: Final = 1.0
FIRST_PAUSE_S: Final = 0.5
BY_WEBHOOK: Final = "webhook"

_log = structlog.get_logger("edgegw.webhooks")
_chance = random.SystemRandom()


class Pen(Protocol):
    """The one writer, as webhooks need it (`ledger.writer.Pen`)."""

    async def acknowledge(
        self,
        *,
        client: str,
        by: str,
        up_to: int,
        apart: Collection[int] = (),
        settled: Collection[int] = (),
        whole: bool = False,
    ) -> Noted:
        """Journal that a client has taken note of late words; raises OperatingError."""

    async def covered(self, *places: tuple[int, int]) -> None:
        """Return once records up to these (epoch, size) may be told; raises OutcomeUnknown."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a post to a webhook; `webhook-id` names it."""

    type: str = "notices"
    bank: str
    box: str
    client: str
    notices: tuple[Notice, ...]
    """In the journal's order. One may come again in another message: its `record` names it."""


class Webhooks:
    """All clients' webhooks at one box, for one pen."""

    def __init__(
        self,
        *,
        bank: str,
        box: str,
        store: Store,
        pen: Pen,
        postman: Postman,
        site: Callable[[], Site | None],
        clears: Callable[[], bool],
        line_up: Callable[[], bool],
        counted: Callable[[str], None],
        pause_seconds_max: float,
    ) -> None:
        """store: a reader of its own; counted is told each message's outcome."""
        self.bank, self.box = bank, box
        self.pen = pen
        self.postman = postman
        self.counted = counted
        self.pause_seconds_max = pause_seconds_max
        self._store = store
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="webhook-reads")
        self._site = site
        self._clears = clears
        self._line_up = line_up
        self._woken = asyncio.Event()
        self._deliveries: dict[str, tuple[_Delivery, asyncio.Task[None]]] = {}

    def wake(self) -> None:
        """Something was committed."""
        self._woken.set()

    async def run(self) -> None:
        """Deliver for ever; ends with the task that runs it."""
        seen, was_up = -1, self._line_up()
        try:
            while True:
                self._woken.clear()
                self._keep_deliveries()
                if self._deliveries:
                    seen = await self._look(seen)
                    if self._line_up() and not was_up:
                        for delivery, _ in self._deliveries.values():
                            delivery.try_now()
                was_up = self._line_up()
                with suppress(TimeoutError):
                    async with asyncio.timeout(TICK_S):
                        await self._woken.wait()
                        await asyncio.sleep(GATHER_S)
        finally:
            for _, task in self._deliveries.values():
                task.cancel()
            await asyncio.gather(*(task for _, task in self._deliveries.values()), return_exceptions=True)
            self._deliveries.clear()
            await self.postman.close()

    def close(self) -> None:
        """End the thread of reads, once `run` is over."""
        self._thread.shutdown()

    def _keep_deliveries(self) -> None:
        """One delivery for each client that has a webhook now."""
        site = self._site()
        wanted = {}
        if site is not None and self._clears():
            wanted = {
                client.name: client.webhook
                for client in site.clients
                if isinstance(client.webhook, WebhookRule)
            }
        for name, (delivery, task) in list(self._deliveries.items()):
            if wanted.get(name) != delivery.rule or task.done():
                task.cancel()
                del self._deliveries[name]
        for name, rule in wanted.items():
            if name not in self._deliveries:
                delivery = _Delivery(self, name, rule)
                self._deliveries[name] = delivery, asyncio.create_task(delivery.run())

    async def _look(self, seen: int) -> int:
        """Wake those for whom there is news; up to where the journal was looked through."""
        if seen < 0:
            newest = await self.read(self._store.late.newest)
            for delivery, _ in self._deliveries.values():
                delivery.news.set()
            return newest
        while True:
            words = await self.words(seen)
            for word in words:
                if word.client in self._deliveries:
                    self._deliveries[word.client][0].news.set()
                seen = word.position
            if len(words) < WORDS_EACH:
                return seen

    async def read(self, work: Callable[[], T]) -> T:
        """Read the ledger in the thread for that."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def words(self, after: int) -> list[LateWord]:
        """The next late words behind a position, whoever they are for."""
        return await self.read(partial(self._store.late.after, after, limit=WORDS_EACH))

    async def noted(self, client: str) -> Noted:
        """How far a client has taken note."""
        return await self.read(partial(self._store.late.noted, client))

    async def notices(self, client: str, words: Sequence[LateWord]) -> list[Notice]:
        """What these words tell a client."""

        def read() -> list[Notice]:
            found = (notice_of(self._store, client, word) for word in words)
            return [notice for notice in found if notice is not None]

        return await self.read(read)


class _Delivery:
    """One client's webhook."""

    def __init__(self, office: Webhooks, client: str, rule: WebhookRule) -> None:
        self.rule = rule
        self.news = asyncio.Event()
        self._office = office
        self._client = client
        self._after = -1
        """Behind this there may be something for the client."""
        self._failures = 0
        self._due_s = 0.0
        """Monotonic; before it nothing is tried, because the receiver was away."""
        self._apart_due_s: dict[int, tuple[float, int]] = {}

    def try_now(self) -> None:
        """Do not wait out the pause: what was in the way may be over."""
        self._failures, self._due_s, self._apart_due_s = 0, 0.0, {}
        self.news.set()

    async def run(self) -> None:
        """Deliver for ever."""
        while True:
            self.news.clear()
            try:
                goes_on = await self._next()
            except OperatingError as problem:
                self._away(Said(Outcome.AWAY, str(problem)))
                goes_on = False
            except BrokenInvariant:
                raise
            except Exception:  # noqa: BLE001 - the edge: logged with its trace; the others have tasks of their own
                _log.exception("webhook_failed", client=self._client)
                self._away(Said(Outcome.AWAY, "a fault of the box's own"))
                goes_on = False
            if not goes_on:
                await self._rest()

    async def _rest(self) -> None:
        """Until there is news, or what failed is due again; while the receiver is away, news changes
        nothing."""
        now_s = time.monotonic()
        dues = [due_s for due_s, _ in self._apart_due_s.values()]
        if self._due_s > now_s:
            dues = [self._due_s]
        wait_s = max(0.0, min(dues) - now_s) if dues else None
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while True:
                    await self.news.wait()
                    if self._due_s <= time.monotonic():
                        return
                    self.news.clear()

    async def _next(self) -> bool:
        """Send what is due; whether more may be."""
        if self._due_s > time.monotonic():
            return False
        office, noted = self._office, await self._office.noted(self._client)
        if not await self._send_apart(noted):
            return False
        words = await office.words(max(self._after, noted.up_to))
        notices = (await office.notices(self._client, words))[:NOTICES_EACH]
        if not notices:
            self._after = words[-1].position if words else self._after
            return len(words) == WORDS_EACH
        said = await self._post(notices)
        if said.outcome is Outcome.TAKEN:
            await self._acknowledge(notices)
        elif said.outcome is Outcome.REFUSED:
            return await self._send_singly(notices, said, len(noted.apart))
        else:
            self._away(said)
        return said.outcome is Outcome.TAKEN

    async def _send_singly(self, notices: Sequence[Notice], said: Said, apart: int) -> bool:
        """A receiver that refuses a message may refuse one notice of it: that one is set apart."""
        for notice in notices:
            if len(notices) > 1:
                said = await self._post([notice])
            if said.outcome is Outcome.TAKEN:
                await self._acknowledge([notice])
                continue
            if said.outcome is Outcome.AWAY or apart >= APART_MAX:
                self._away(said)
                return False
            apart += 1
            place = position(notice.record)
            _log.warning(
                "notice_refused",
                client=self._client,
                notice=notice.record,
                said=said.text,
                hint="It is tried again; the client may acknowledge it from the list.",
            )
            self._put_off(place)
            await self._office.pen.acknowledge(
                client=self._client, by=BY_WEBHOOK, up_to=place, apart=(place,)
            )
        return True

    async def _send_apart(self, noted: Noted) -> bool:
        """Try again what was refused and is due; False when the receiver is away."""
        self._apart_due_s = {one: self._apart_due_s.get(one, (0.0, 0)) for one in noted.apart}
        now_s = time.monotonic()
        for one in noted.apart:
            due_s, _ = self._apart_due_s.get(one, (0.0, 0))  # `try_now` forgets them all
            if due_s > now_s:
                continue
            [word] = (await self._office.words(one - 1))[:1]
            notices = await self._office.notices(self._client, [word])
            said = await self._post(notices) if notices else Said(Outcome.TAKEN, "it tells nothing")
            if said.outcome is Outcome.AWAY:
                self._away(said)
                return False
            if said.outcome is Outcome.REFUSED:
                self._put_off(one)
            else:
                await self._office.pen.acknowledge(
                    client=self._client, by=BY_WEBHOOK, up_to=-1, settled=(one,)
                )
        return True

    async def _post(self, notices: Sequence[Notice]) -> Said:
        office, last = self._office, notices[-1].record
        epoch, seq = place_at(position(last))
        await office.pen.covered((epoch, seq + 1))
        message = Message(bank=office.bank, box=office.box, client=self._client, notices=tuple(notices))
        said = await office.postman.post(
            self.rule.url,
            id="-".join((office.box, *(place.replace("/", ".") for place in (notices[0].record, last)))),
            body=msgspec.json.encode(message),
            now_s=int(time.time()),
            timeout_s=self.rule.timeout_ms / 1_000,
        )
        office.counted(said.outcome.value)
        return said

    async def _acknowledge(self, notices: Sequence[Notice]) -> None:
        if self._failures:
            _log.info("webhook_back", client=self._client)
        self._failures, self._due_s = 0, 0.0
        self._after = position(notices[-1].record)
        await self._office.pen.acknowledge(client=self._client, by=BY_WEBHOOK, up_to=self._after)

    def _away(self, said: Said) -> None:
        pause_s = self._pause_s(self._failures)
        self._failures += 1
        self._due_s = time.monotonic() + pause_s
        if self._failures & (self._failures - 1) == 0:
            _log.warning(
                "webhook_away",
                client=self._client,
                host=self.rule.url.split("/")[2],  # not its path, which may be the receiver's secret
                said=said.text,
                failures=self._failures,
                hint="Its notices wait, and are in its list; nobody else waits for it.",
            )

    def _put_off(self, one: int) -> None:
        _, failures = self._apart_due_s.get(one, (0.0, 0))
        self._apart_due_s[one] = (time.monotonic() + self._pause_s(failures), failures + 1)

    def _pause_s(self, failures: int) -> float:
        """Twice as long each time, up to the limit, and never two receivers in step."""
        longest_s = min(self._office.pause_seconds_max, FIRST_PAUSE_S * (1 << min(failures, 30)))
        return longest_s * _chance.uniform(0.5, 1.0)
