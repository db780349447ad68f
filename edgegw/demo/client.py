"""The branch's clients: send the day's steps over both ways in, and again until each has its answer.

An answer is on disk before the worker that got it sends anything else. A request whose connection broke, or
that got no decision, is sent again with the same id (ISO 8583: as the repeat x1), as a real client must.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

import aiohttp

from edgegw.demo.answers import Answered, AnswerFile
from edgegw.demo.plan import KEYED_TERMINAL, Batch, Item, Phase, Step, Wrong
from edgegw.demo.strangers import say_wrong
from edgegw.demo.terminal import ANSWER_SECONDS, Broken, Terminal, fields_of, repeat_of

SETTLED_SECONDS_MAX: Final = 90.0
"""A request that has no answer after this long fails the demo."""
PAUSE_SECONDS: Final = 0.1
UNDECIDED: Final = frozenset(
    {
        "overloaded",
        "not_decided",
        "outcome_unknown",
        "stopping",
        "storage_full",
        "unwell",
        "internal_error",
        "not_clearing",
        "too_many_refusals",
        "request_timeout",
    }
)
"""Codes of answers that decide nothing: ask again with the same id."""
RECORD_PREFIX: Final = "urn:edgegw:record:"
_BASE_36: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class NotAnswered(Exception):
    """A request got no answer in the time that the demo gives it."""


class Reply(NamedTuple):
    """An answer as the client understands it."""

    outcome: str
    body: str
    cleared_by: str = ""
    code: str = ""
    record: str = ""
    amount_minor: int = 0

    @property
    def decides(self) -> bool:
        """Whether it settles the request."""
        return not (self.outcome == "error" and self.code in UNDECIDED)


def reply_over_http(body: str) -> Reply:
    """What a JSON answer says, or a problem document."""
    try:
        said: dict[str, Any] = json.loads(body)
    except ValueError:
        return Reply("error", body, code="no_json")
    if "outcome" in said:
        return Reply(
            said["outcome"],
            body,
            cleared_by=said["cleared_by"] or "",
            code="" if said["outcome"] == "cleared" else said["reason"],
            record=said["record"],
            amount_minor=said["amount_minor"],
        )
    instance = str(said.get("instance", ""))
    if instance.startswith(RECORD_PREFIX):
        return Reply("refused", body, code=said["code"], record=instance.split("/", 1)[1])
    return Reply("error", body, code=str(said.get("code", "no_code")))


def reply_over_iso8583(said: Mapping[str, str]) -> Reply:
    """What the fields of an answer say; the card number is left out of the body."""
    body = json.dumps({name: value for name, value in sorted(said.items()) if name != "2"})
    code, word = said.get("39", ""), said.get("44", "").strip()
    if code == "00":
        seq = 0
        for character in said.get("38", ""):
            seq = 36 * seq + _BASE_36.index(character)
        return Reply("cleared", body, cleared_by=word, record=f"/{seq}")
    if word.split(" ")[0] in UNDECIDED or code in ("30", "94", "63", "58"):
        return Reply("error", body, code=word.split(" ")[0])
    return Reply("refused", body, code=word)


class Driver:
    """All clients of the branch together."""

    def __init__(
        self,
        answers: AnswerFile,
        *,
        http_port: int,
        iso8583_port: int,
        tokens: Mapping[str, str],
        terminals: Iterable[str],
        terminal_key: bytes,
    ) -> None:
        self._answers = answers
        self._base = f"http://127.0.0.1:{http_port}"
        self._ports = (http_port, iso8583_port)
        self._tokens = tokens
        self._key = terminal_key
        self._terminals = {name: self._terminal(name) for name in terminals}
        self._session: aiohttp.ClientSession | None = None
        self.in_flight: dict[int, int] = {}
        """Step to when its bytes were written; gone when its answer is there."""
        self.answered = 0
        self.first: dict[int, Step] = {}
        """Steps that have their first answer."""
        self.on_answer: Callable[[], None] = lambda: None

    def _terminal(self, name: str) -> Terminal:
        return Terminal(name, port=self._ports[1], key=self._key if name == KEYED_TERMINAL else None)

    async def start(self) -> None:
        """Get ready to send."""
        trace = aiohttp.TraceConfig()
        trace.on_request_chunk_sent.append(self._sent)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
            trace_configs=[trace],
        )

    async def close(self) -> None:
        """Hang up everywhere."""
        for terminal in self._terminals.values():
            await terminal.close()
        if self._session is not None:
            await self._session.close()

    # -- phases --------------------

    async def run(self, phase: Phase) -> None:
        """Every chain of the phase; raises NotAnswered."""
        left = iter(phase.chains)

        async def work() -> None:
            for chain in left:
                for item in chain:
                    await self._do(phase.name, item)

        await _all(work() for _ in range(phase.concurrency))

    async def again(self, phase: str, steps: Iterable[Step], *, concurrency: int) -> None:
        """Send answered steps once more."""
        left = iter(steps)

        async def work() -> None:
            for step in left:
                await self._settle(phase, step, again=True)

        await _all(work() for _ in range(concurrency))

    async def _do(self, phase: str, item: Item) -> None:
        if isinstance(item, Wrong):
            token = self._tokens.get(item.client, "")
            await self._answers.write(
                await say_wrong(item, http_port=self._ports[0], token=token, terminal=self._terminal)
            )
        elif isinstance(item, Batch):
            await self._settle_batch(phase, item)
        else:
            await self._settle(phase, item, again=False)
            for _ in range(item.repeats):
                await self._settle(phase, item, again=True)

    # -- one request --------------------

    async def _settle(self, phase: str, step: Step, *, again: bool) -> None:
        began_ns, attempts = time.time_ns(), 0
        while True:
            attempts += 1
            reply = await self._attempt(step, is_repeat=again or attempts > 1)
            if reply is not None and reply.decides:
                break
            await self._pause(step, began_ns, reply)
        await self._keep(phase, step, reply, again=again, attempts=attempts, sent_ns=began_ns)

    async def _pause(self, step: Step, began_ns: int, reply: Reply | None) -> None:
        if time.time_ns() - began_ns > SETTLED_SECONDS_MAX * 1e9:
            said = "no answer" if reply is None else reply.code
            raise NotAnswered(f"step {step.number} ({step.story}) has only got: {said}")
        await asyncio.sleep(PAUSE_SECONDS)

    async def _attempt(self, step: Step, *, is_repeat: bool) -> Reply | None:
        """One answer, or None when the connection gave none."""
        try:
            if step.way == "iso8583":
                return await self._over_iso8583(step, is_repeat=is_repeat)
            path, document = http_request(step)
            status_and_body = await self._over_http(path, document, step.client, (step.number,))
            return reply_over_http(status_and_body)
        except (aiohttp.ClientError, Broken, OSError, TimeoutError):
            return None
        finally:
            self.in_flight.pop(step.number, None)

    async def _over_iso8583(self, step: Step, *, is_repeat: bool) -> Reply:
        mti = repeat_of(step.mti) if is_repeat else step.mti

        def sent() -> None:
            self.in_flight[step.number] = time.time_ns()

        answer = await self._terminals[step.client].ask(mti, fields_of(step), on_sent=sent)
        return reply_over_iso8583(answer)

    async def _over_http(
        self, path: str, document: Mapping[str, object], client: str, numbers: tuple[int, ...]
    ) -> str:
        if self._session is None:
            raise RuntimeError("the driver was not started")
        headers = {"Authorization": f"Bearer {self._tokens[client]}", "Content-Type": "application/json"}
        async with self._session.post(
            self._base + path,
            data=json.dumps(document).encode(),
            headers=headers,
            trace_request_ctx=numbers,
        ) as response:
            return await response.text()

    async def _sent(
        self, session: aiohttp.ClientSession, context: Any, chunk: aiohttp.TraceRequestChunkSentParams
    ) -> None:
        del session, chunk
        now_ns = time.time_ns()
        for number in context.trace_request_ctx:
            self.in_flight[number] = now_ns

    async def get(self, path: str, client: str) -> dict[str, Any]:
        """A JSON document of the box; raises aiohttp.ClientError or OSError."""
        if self._session is None:
            raise RuntimeError("the driver was not started")
        headers = {"Authorization": f"Bearer {self._tokens[client]}"}
        async with self._session.get(self._base + path, headers=headers) as response:
            found: dict[str, Any] = await response.json(content_type=None)
            return found

    async def post(self, path: str, document: Mapping[str, object], client: str) -> str:
        """The text of an answer."""
        return await self._over_http(path, document, client, ())

    # -- batches --------------------

    async def _settle_batch(self, phase: str, batch: Batch) -> None:
        began_ns, attempts = time.time_ns(), 0
        document = {"payments": [http_request(step)[1] for step in batch.steps]}
        numbers = tuple(step.number for step in batch.steps)
        while True:
            attempts += 1
            replies = await self._attempt_batch(document, batch.steps[0].client, numbers)
            if len(replies) == len(batch.steps) and all(reply.decides for reply in replies):
                break
            await self._pause(batch.steps[0], began_ns, replies[0] if replies else None)
        entries = [
            _entry(phase, step, reply, again=False, attempts=attempts, sent_ns=began_ns)
            for step, reply in zip(batch.steps, replies, strict=True)
        ]
        await self._answers.write(*entries)
        self._note(batch.steps)

    async def _attempt_batch(
        self, document: Mapping[str, object], client: str, numbers: tuple[int, ...]
    ) -> list[Reply]:
        try:
            said = json.loads(await self._over_http("/v1/payments/batch", document, client, numbers))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return []
        finally:
            for number in numbers:
                self.in_flight.pop(number, None)
        return [reply_over_http(_as_single(item)) for item in said.get("answers", [])]

    # -- keeping --------------------

    async def _keep(
        self, phase: str, step: Step, reply: Reply, *, again: bool, attempts: int, sent_ns: int
    ) -> None:
        await self._answers.write(_entry(phase, step, reply, again=again, attempts=attempts, sent_ns=sent_ns))
        if not again:
            self._note((step,))

    def _note(self, steps: Iterable[Step]) -> None:
        for step in steps:
            self.first[step.number] = step
            self.answered += 1
        self.on_answer()


def _as_single(item: Mapping[str, object]) -> str:
    """What the payment would have been answered by itself: the same bytes, without blanks."""
    return json.dumps(item.get("answer") or item.get("problem"), separators=(",", ":"), ensure_ascii=False)


def _entry(phase: str, step: Step, reply: Reply, *, again: bool, attempts: int, sent_ns: int) -> Answered:
    return Answered(
        number=step.number,
        phase=phase,
        story=step.story,
        way=step.way,
        client=step.client,
        kind=step.kind,
        id=step.id,
        debit=step.debit,
        credit=step.credit,
        amount_minor=reply.amount_minor or step.amount_minor,
        currency=step.currency,
        original=step.original,
        outcome=reply.outcome,
        cleared_by=reply.cleared_by,
        code=reply.code,
        record=reply.record,
        expect=step.expect,
        again=again,
        attempts=attempts,
        sent_ns=sent_ns,
        answered_ns=time.time_ns(),
        body=reply.body,
    )


def http_request(step: Step) -> tuple[str, dict[str, object]]:
    """The path and the body of a step over HTTP."""
    reference = f"demo-{step.number}"
    if step.kind in ("payment", "hold"):
        document: dict[str, object] = {
            "id": step.id,
            "debit_account_id": step.debit,
            "credit_account_id": step.credit,
            "amount_minor": step.amount_minor,
            "currency": step.currency,
            "reference": reference,
        }
        if step.kind == "payment":
            return "/v1/payments", document | ({} if step.stand_in else {"stand_in": False})
        return "/v1/holds", document | ({"timeout_s": step.timeout_s} if step.timeout_s else {})
    document = {"id": step.id, "reference": reference}
    if step.amount_minor:
        document["amount_minor"] = step.amount_minor
    if step.kind == "reversal":
        return "/v1/reversals", document | {"original_id": step.original}
    return f"/v1/holds/{step.original}/{step.kind}", document


async def _all(works: Iterable[Any]) -> None:
    """Run all of them; the first failure ends the rest."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except ExceptionGroup as problems:
        raise problems.exceptions[0] from None
