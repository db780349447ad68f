"""The demo's course: the line falls silent and is cut, the box is killed and goes on alone, the line returns.

Owns the order of things and what is waited for; leaves out the clients (`client`), the processes
(`processes`) and the judgement (`report`).
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

import edgegw
from edgegw.demo.answers import AnswerFile, Event, Opening, Told
from edgegw.demo.client import Driver
from edgegw.demo.evidence import unsettled_stand_ins
from edgegw.demo.plan import CLIENTS, OPERATOR, TILLS, Day
from edgegw.demo.processes import DemoFailed, Process, command, must, run, tail, until
from edgegw.demo.relay import Relay
from edgegw.demo.workplace import State, Workplace

START_SECONDS_MAX: Final = 60.0
READY_SECONDS_MAX: Final = 60.0
OFFLINE_SECONDS_MAX: Final = 30.0
SYNC_SECONDS_MAX: Final = 120.0
KILL_SECONDS_MAX: Final = 60.0
IN_FLIGHT_MIN: Final = 16
SAMPLE: Final = 64
"""So many payments that were answered before the kill are asked again after it."""
RECEIPTS: Final = 4
STUCK: Final = ("behind", "forked", "fenced")
"""Modes that no waiting mends."""

Say = Callable[[str], None]


class Course:
    """One run of the demo in one directory."""

    def __init__(self, place: Workplace, day: Day, state: State, say: Say) -> None:
        self.place = place
        self.day = day
        self.state = state
        self.troubles: list[str] = []
        """What went wrong outside the checks, in the order of its finding."""
        self.figures: dict[str, Any] = {}
        self._say = say
        self._answers = AnswerFile(place.answers)
        self._processes: list[Process] = []
        self._relays = [Relay(target_port=port) for port in state.ports.hubs]
        self._box: Process | None = None
        self._killing: asyncio.Task[None] | None = None
        self._asked_again: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
        """Steps in flight at the kill, and steps that were answered before it."""
        self._driver = Driver(
            self._answers,
            http_port=state.ports.http,
            iso8583_port=state.ports.iso8583,
            tokens=place.client_tokens(),
            terminals=[terminal["id"] for terminal in day.terminals],
            terminal_key=place.terminal_key(),
        )

    # -- the course --------------------

    async def begin(self) -> None:
        """Hub, site, money, line, box: until the box has what it needs for the morning."""
        self._say("hub and box start")
        accounts = {account["id"]: account for account in self.day.accounts}
        await self._answers.write(
            Opening(
                accounts=self.day.opening,
                homes={name: account["home"] for name, account in accounts.items()},
                currencies={name: account["currency"] for name, account in accounts.items()},
            )
        )
        await self._driver.start()
        await self._start_hub()
        hub = str(self.place.hub_settings)
        await must("site", "publish", str(self.place.site), "--hub", hub)
        await must("post", str(self.place.opening), "--hub", hub)
        for relay, port in zip(self._relays, self.state.ports.relays, strict=True):
            await relay.start(port=port)
        await self._start_box(ready=(200, 503))
        await self._wait("the first allowances are there", self._is_stocked, READY_SECONDS_MAX)

    async def line_up(self) -> None:
        """The morning and the rush hour, with the line up."""
        for name in ("morning", "rush hour"):
            await self._play(name)

    async def outage(self) -> None:
        """Silence, then a cut; a kill in the middle; the window is closed."""
        await self._note("silent")
        for relay in self._relays:
            relay.fall_silent()
        await self._play("silence")
        await self._wait("the box notices that the line is gone", self._is_offline, OFFLINE_SECONDS_MAX)
        await self._note("cut")
        for relay in self._relays:
            relay.cut()
        self._driver.answered = 0
        self._driver.on_answer = self._on_answer
        await self._play("outage")
        await self._after_the_kill()
        await self._play("afternoon")
        token = {"EDGEGW_TOKEN": self.place.client_tokens()[OPERATOR]}
        closed = await must(
            "window",
            "close",
            str(self.place.box_settings),
            "--date",
            self.day.date.isoformat(),
            "--json",
            environment=token,
        )
        self.figures["window_closed"] = json.loads(closed)["window"]

    async def stop_before_sync(self) -> None:
        """End every process cleanly, with the line still down."""
        await self._end_processes()
        self.place.save(msgspec.structs.replace(self.state, stage="before-sync"))

    async def resume(self) -> None:
        """Start everything again as it was left: the line is down."""
        self._say("hub and box start again")
        await self._driver.start()
        await self._start_hub()
        for relay, port in zip(self._relays, self.state.ports.relays, strict=True):
            await relay.start(port=port)
            relay.cut()
        await self._start_box(ready=(200, 503))

    async def line_back(self) -> None:
        """The line carries again: everything syncs, the evening comes, everything syncs again."""
        await self._note("carries")
        for relay in self._relays:
            relay.carry()
        self._say("the line is back, box and hub sync")
        began = time.monotonic()
        await self._sync()
        self.figures["sync_seconds"] = round(time.monotonic() - began, 2)
        await self._play("evening")
        await self._wait("the hold that nobody posted expires", self._has_expired, READY_SECONDS_MAX)
        await self._sync()

    async def gather(self) -> None:
        """What only a running box can tell: the late words and the receipts."""
        for client, scopes in CLIENTS.items():
            if "pay" in scopes:
                await self._gather_notices(client)
        for number, step in enumerate(self._receipted()):
            receipt = await self._driver.get(f"/v1/receipts/{step}", TILLS)
            (self.place.receipts / f"{number}.json").write_text(json.dumps(receipt, ensure_ascii=False))

    def _receipted(self) -> list[str]:
        payments = [step.id for step in self.day.phase("rush hour").steps() if step.client == TILLS]
        return random.Random(self.day.seed).sample(payments, RECEIPTS)

    async def _gather_notices(self, client: str) -> None:
        after = ""
        while True:
            query = f"?limit=1000&after={after}" if after else "?limit=1000"
            page = await self._driver.get("/v1/notices" + query, client)
            told = [
                Told(
                    client=client,
                    id=notice["id"],
                    outcome=notice["outcome"],
                    liable=notice["liable"],
                    amount_minor=notice["amount_minor"],
                )
                for notice in page["notices"]
            ]
            await self._answers.write(*told)
            after = page["next_after"]
            if not page["more"]:
                return

    async def end(self) -> None:
        """End the processes cleanly; raises DemoFailed for a process that does not."""
        await self._end_processes()

    async def export(self) -> None:
        """Have the journal exported and verified from outside, the receipts too, and the ledger checked."""
        box_key, hub_key = self.place.public_keys()
        await must("journal", "export", str(self.place.box_settings), "--output", str(self.place.journal))
        verifier = Path(edgegw.__file__).parent / "verifier.py"
        both = ("-I", str(verifier), "--box-key", box_key, "--hub-key", hub_key)
        journal = await run(*both, "journal", str(self.place.journal))
        receipts = [await run(*both, "receipt", str(path)) for path in sorted(self.place.receipts.iterdir())]
        ledger = await command("ledger", "check", str(self.place.box_settings))
        self.figures["verified"] = {
            "journal": journal,
            "receipts": receipts,
            "ledger": ledger,
        }

    async def close(self) -> None:
        """Leave nothing running, whatever happened."""
        if self._killing is not None:
            self._killing.cancel()
        await self._driver.close()
        for process in self._processes:
            process.abandon()
        for relay in self._relays:
            await relay.stop()
        self._answers.close()

    # -- processes --------------------

    async def _start_hub(self) -> None:
        hub = Process("hub", ["hub", str(self.place.hub_settings)], log=self.place.hub_log)
        self._processes.append(hub)
        port = self.state.ports.hubs[0]

        async def answers() -> bool:
            return await _status_of(f"http://127.0.0.1:{port}/healthz") == 200

        await until(answers, "the hub answers", process=hub, seconds_max=START_SECONDS_MAX)

    async def _start_box(self, *, ready: tuple[int, ...] = (200,)) -> None:
        """A box that answers /readyz with one of these; 503 says that it takes nothing yet, or no more."""
        box = Process("box", ["run", str(self.place.box_settings)], log=self.place.box_log)
        self._processes.append(box)
        self._box = box
        starts = self.state.box_starts + 1
        self.state = msgspec.structs.replace(self.state, box_starts=starts)
        await self._note("box started", detail=str(box.pid))
        url = f"http://127.0.0.1:{self.state.ports.http}/readyz"

        async def is_ready() -> bool:
            return await _status_of(url) in ready

        began = time.monotonic()
        await until(is_ready, "the box is ready", process=box, seconds_max=START_SECONDS_MAX)
        self.figures[f"start_{starts}_seconds"] = round(time.monotonic() - began, 2)

    async def _end_processes(self) -> None:
        """The box first, then the hub; a killed box has ended already."""
        for process in reversed(self._processes):
            if process.lives:
                await process.stop()

    async def _note(self, what: str, *, detail: str = "", numbers: tuple[int, ...] = ()) -> None:
        await self._answers.write(Event(what=what, at_ns=time.time_ns(), detail=detail, numbers=numbers))

    async def _play(self, name: str) -> None:
        phase = self.day.phase(name)
        self._say(f"{name}: {sum(1 for _ in phase.steps())} requests")
        began = time.monotonic()
        await self._driver.run(phase)
        self.figures.setdefault("phase_seconds", {})[name] = round(time.monotonic() - began, 2)
        if self._box is None or not self._box.lives:
            raise DemoFailed(
                f"the box died in the {name}; read {self.place.box_log}:\n{tail(self.place.box_log)}"
            )

    # -- the kill --------------------

    def _on_answer(self) -> None:
        if self._killing is None and self._driver.answered >= self.day.kill_after:
            self._killing = asyncio.ensure_future(self._kill())

    async def _kill(self) -> None:
        """A kill with enough requests in flight, then a start while the line is down."""
        box, driver = self._box, self._driver
        if box is None:
            raise RuntimeError("there is no box to kill")
        numbers = await kill_in_flight(box, driver.in_flight)
        before = tuple(sorted(driver.first))
        await self._note("killed", detail=str(box.pid), numbers=numbers)
        self._say(f"the box is killed with {len(numbers)} requests in flight")
        await box.ended()
        self._asked_again = numbers, before
        await self._start_box()

    async def _after_the_kill(self) -> None:
        """Ask for everything that was in flight once more, and for some that was answered long before."""
        if self._killing is None:
            raise DemoFailed("the outage was over before the box could be killed; give more payments")
        await self._killing
        self._driver.on_answer = lambda: None
        numbers, before = self._asked_again
        sample = random.Random(self.day.seed).sample(before, min(SAMPLE, len(before)))
        steps = [self._driver.first[number] for number in {*numbers, *sample}]
        await self._driver.again("after the kill", steps, concurrency=16)

    # -- waiting --------------------

    async def _status(self) -> dict[str, Any]:
        return await self._driver.get("/v1/status", OPERATOR)

    async def _wait(self, what: str, condition: Callable[[], Any], seconds_max: float) -> None:
        if self._box is None:
            raise RuntimeError("there is no box to wait for")

        async def holds() -> bool:
            try:
                return bool(await condition())
            except (aiohttp.ClientError, OSError, TimeoutError, KeyError):
                return False

        await until(holds, what, process=self._box, seconds_max=seconds_max)

    async def _is_stocked(self) -> bool:
        status = await self._status()
        account = await self._driver.get("/v1/accounts/customer-0001", TILLS)
        return bool(
            status["mode"] == "active"
            and status["clears"]
            and status["records_waiting"] == 0
            and account["available_minor"]
        )

    async def _is_offline(self) -> bool:
        return bool((await self._status())["mode"] == "offline")

    async def _has_expired(self) -> bool:
        hold = next(step for step in self.day.phase("morning").steps() if step.timeout_s)
        view = await self._driver.get(f"/v1/payments/{hold.id}", hold.client)
        return any(event["type"] == "expiry" for event in view["events"])

    async def _sync(self) -> None:
        """Until the hub has everything and its late words are journalled; raises DemoFailed with the mode."""
        last = -1

        async def is_synced() -> bool:
            nonlocal last
            status = await self._status()
            if status["mode"] in STUCK:
                raise DemoFailed(f"the box is {status['mode']}: {status['mode_reason']}")
            size, last = last, status["journal_size"]
            return bool(
                status["mode"] == "active"
                and status["records_waiting"] == 0
                and size == status["journal_size"]
                and not unsettled_stand_ins(self.place.hub_database)
            )

        await self._wait("box and hub agree", is_synced, SYNC_SECONDS_MAX)


async def kill_in_flight(box: Process, in_flight: Mapping[int, int]) -> tuple[int, ...]:
    """Kill a box with enough requests in flight and name them; raises DemoFailed when too few are sent."""
    if len(in_flight) < IN_FLIGHT_MIN:
        # It answers faster than the clients send: from this moment on it answers no more.
        box.freeze()
    deadline = time.monotonic() + KILL_SECONDS_MAX
    while len(in_flight) < IN_FLIGHT_MIN:
        if time.monotonic() > deadline:
            raise DemoFailed(f"there were never {IN_FLIGHT_MIN} requests in flight to kill the box in")
        await asyncio.sleep(0)
    box.kill()
    return tuple(sorted(in_flight))


async def _status_of(url: str) -> int:
    """The HTTP status of an address, 0 when nothing answers."""
    timeout = aiohttp.ClientTimeout(total=2)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
            return response.status
    except (aiohttp.ClientError, OSError, TimeoutError):
        return 0
