"""The gateway service: admits requests, has them decided by the pen, asks the centre when the allowance is
short, joins retries.

Every protocol calls this and nothing below it. A payment is always decided locally (DESIGN §2): what the line
adds is a grant that arrives as a directive, after which the payment starts again. Owns admission and the ways
to fund; leaves out deciding (`core.decide`), writing (`ledger.writer`), the line (`uplink`) and reading back
(`payments.history`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from edgegw.access.keystore import OPEN_FILES
from edgegw.access.oauth import TokenFiles
from edgegw.access.webhook_key import WebhookKey
from edgegw.core.accounts import CAP_PREFIX
from edgegw.core.book import Book
from edgegw.core.caps import ends_of, is_cap
from edgegw.core.decide import Funding, Short
from edgegw.core.records import Kind, Request, WindowClosed, parse_place
from edgegw.core.site import Site
from edgegw.errors import BrokenInvariant, OperatingError
from edgegw.ledger.late_words import Noted
from edgegw.ledger.outcomes import Conflict, Decision, Outcome, Recalled, Undecided
from edgegw.ledger.windows import NotClosed
from edgegw.payments import answer as answers
from edgegw.payments.answer import Answer, answer_from, answer_from_pruned
from edgegw.payments.cards import CardVault, NoVault
from edgegw.payments.history import History
from edgegw.payments.notices import position
from edgegw.payments.problems import Unanswered

if TYPE_CHECKING:
    from edgegw.payments.http_api.bodies import Certificate, Replica

BATCH_MAX: Final = 8_190
WAITING_MAX: Final = 32_768
"""Payments admitted and not yet answered: four full batches, about a second of work; more means
`overloaded`."""
ASKS_MAX: Final = 256
"""Questions to the centre under way at once; the rest wait their turn (they travel together in one
message)."""
ASKS_EACH_MAX: Final = 3
"""How often one payment asks, when others spend what it was granted before it is its turn."""


class Pen(Protocol):
    """The one writer, as this service needs it (`ledger.writer.Pen`); every answer is on disk before it
    returns."""

    async def decide(
        self, client: str, requests: Sequence[Request], funding: Funding, *, linked: bool = False
    ) -> list[Outcome]:
        """One outcome for each request, in their order; linked: all or nothing."""

    async def close_window(
        self, *, business_date: str, closed_by: str, window: int = 0
    ) -> WindowClosed | NotClosed:
        """Close this window (0: the open one) and open the next one."""

    async def acknowledge(self, *, client: str, by: str, up_to: int, whole: bool = False) -> Noted:
        """Journal that a client has taken note of late words up to a position; raises OutcomeUnknown."""

    async def covered(self, *places: tuple[int, int]) -> None:
        """Return once records up to these (epoch, size), or all that a reader can have seen, may be told;
        raises OutcomeUnknown."""

    def closed_for_payments(self) -> Undecided | None:
        """Why no new payment is decided now, or None."""


class Line(Protocol):
    """The line to the centre, as this service needs it."""

    @property
    def up(self) -> bool:
        """Whether it makes sense to ask."""

    async def ask(self, *, account_id: str, currency: str, amount_minor: int) -> str:
        """Ask for a grant of at least amount_minor: `granted` (and applied), `refused`, `timeout` or
        `down`."""


class Meter(Protocol):
    """What this service counts."""

    def decided(
        self, *, kind: str, outcome: str, cleared_by: str, reason: str, repeat: bool, seconds: float
    ) -> None:
        """A decision left the service."""

    def unanswered(self, *, code: str) -> None:
        """A request left the service without a decision."""

    def protocol_event(self, *, protocol: str, event: str) -> None:
        """A way in had something that is no decision: a connection, a bad frame, a rejection of its own."""

    def exposition(self) -> tuple[bytes, str]:
        """All metrics and their content type."""


class Decided(msgspec.Struct, frozen=True, gc=False):
    """An answer, and whether it is a repeat of the first one."""

    answer: Answer
    repeat: bool


class _Waiting:
    """A request that is being decided, and those who asked for the same meanwhile."""

    __slots__ = ("joined", "request", "result")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.joined: asyncio.Future[Decided | Unanswered] | None = None
        self.result: Decided | Unanswered | None = None

    async def join(self, request: Request) -> Decided | Unanswered:
        """Wait for the same answer; an Unanswered at once when the content differs."""
        field = request.different_field(self.request)
        if field is not None:
            return reused(field, request, self.request)
        result = self.result
        if result is None:
            if self.joined is None:
                self.joined = asyncio.get_running_loop().create_future()
            result = await asyncio.shield(self.joined)
        return Decided(result.answer, True) if isinstance(result, Decided) else result

    def done(self, result: Decided | Unanswered) -> None:
        """Give the result to all who joined."""
        self.result = result
        if self.joined is not None and not self.joined.done():
            self.joined.set_result(result)


class Gateway:
    """Payments in, answers out."""

    def __init__(
        self, *, pen: Pen, book: Book, line: Line, history: History, meter: Meter, version: str = ""
    ) -> None:
        self.book = book
        self.history = history
        self.meter = meter
        self.version = version
        self._pen = pen
        self._line = line
        self._waiting: dict[tuple[str, str], _Waiting] = {}
        self._admitted = 0
        self._asks = asyncio.Semaphore(ASKS_MAX)
        self._closing = asyncio.Lock()
        self._stopping = False
        self.replica: Callable[[], Replica | None] = lambda: None
        """How the copy of the ledger's file is."""
        self.cards: CardVault = NoVault()
        """What gives cards their tokens."""
        self.certificate: Callable[[], Certificate | None] = lambda: None
        """How the box's own certificate is."""
        self.keystore = OPEN_FILES
        """What opens the files of the keys that ways in need."""
        self.webhook: WebhookKey | None = None
        """Signs posts to webhooks and the shares of sessions; None before the box's own is given."""
        self.token_files = TokenFiles()
        """Where the keys and the memory of tokens lie; without files they last as long as a way in."""

    @property
    def site(self) -> Site | None:
        """The site's settings in force."""
        return self.book.site

    @property
    def box(self) -> str:
        """This box's id."""
        return self.book.box

    @property
    def queue_depth(self) -> int:
        """Payments admitted and not yet answered."""
        return self._admitted

    @property
    def line_up(self) -> bool:
        """Whether the centre can be asked."""
        return self._line.up

    @property
    def ready(self) -> bool:
        """Whether payments are taken."""
        return not self.why_not_ready

    @property
    def why_not_ready(self) -> tuple[str, str] | None:
        """Why no payments are taken and what would help, or None while they are."""
        if self._stopping:
            return "the box is stopping", "Ask again when it is back."
        closed = self._pen.closed_for_payments()
        if closed is not None:
            return closed.detail, closed.hint
        if self.book.site is None:
            hint = "Publish them at the centre (`edgegw site publish`), and let the box reach it once."
            return "the box has no settings of its site yet", hint
        return None

    def use(self, pen: Pen, book: Book, line: Line) -> None:
        """Go on with these: the ledger has begun a new epoch, or was closed."""
        self.book, self._pen, self._line = book, pen, line

    def stop_admitting(self) -> None:
        """Take no new payments; those admitted are still answered."""
        self._stopping = True

    async def covered(self, *records: str) -> None:
        """Return once what was read may be told: these records by place, or all that is on disk. Raises
        Unanswered when the mirror that must have it too is away."""
        try:
            await self._pen.covered(*((epoch, seq + 1) for epoch, seq in map(parse_place, records)))
        except OperatingError as error:
            raise undecided_by(error) from error

    # -- deciding --------------------

    async def handle(self, client: str, request: Request) -> Answer:
        """The answer to one request; raises Unanswered when nothing was decided or the id means something
        else."""
        return (await self.decide(client, request)).answer

    async def decide(self, client: str, request: Request) -> Decided:
        """The same, with whether it is a repeat."""
        [result] = await self.decide_many(client, [request])
        if isinstance(result, Unanswered):
            raise result
        return result

    async def decide_many(
        self, client: str, requests: Sequence[Request], *, linked: bool = False
    ) -> list[Decided | Unanswered]:
        """One result for each request, in order; `linked` makes them stand or fall together.

        Raises Unanswered for the whole when it is not admitted.
        """
        began = time.perf_counter()
        try:
            self._admit(len(requests))
            try:
                if any(request.card for request in requests):
                    requests = await self._with_tokens(requests)
                decided = self._decide_group if linked else self._decide_each
                results = await decided(client, requests)
            finally:
                self._admitted -= len(requests)
        except Unanswered as error:
            self.meter.unanswered(code=error.code)
            raise
        seconds = time.perf_counter() - began
        for result in results:
            self._count(result, seconds)
        return results

    def _count(self, result: Decided | Unanswered, seconds: float) -> None:
        if isinstance(result, Unanswered):
            self.meter.unanswered(code=result.code)
            return
        answer = result.answer
        self.meter.decided(
            kind=answer.kind,
            outcome=answer.outcome,
            cleared_by=answer.cleared_by or "",
            reason=answer.reason if answer.outcome is answers.Outcome.REFUSED else "",
            repeat=result.repeat,
            seconds=seconds,
        )

    def _admit(self, count: int) -> None:
        if self._stopping:
            raise Unanswered("stopping", "the box takes no new payments")
        if self._admitted + count > WAITING_MAX:
            raise Unanswered("overloaded", f"{self._admitted} payments wait; the box takes {WAITING_MAX}")
        self._admitted += count

    async def _with_tokens(self, requests: Sequence[Request]) -> list[Request]:
        """The same with each card's lookup, as ways in have it, turned into its token, as records do."""
        try:
            tokens = await self.cards.tokens({request.card for request in requests if request.card})
        except OperatingError as error:
            raise undecided_by(error) from error
        return [
            msgspec.structs.replace(request, card=tokens[request.card]) if request.card else request
            for request in requests
        ]

    async def _decide_each(self, client: str, requests: Sequence[Request]) -> list[Decided | Unanswered]:
        own: list[int] = []
        joining: list[tuple[int, asyncio.Future[Decided | Unanswered]]] = []
        for index, request in enumerate(requests):
            waiting = self._waiting.get((client, request.id))
            if waiting is None:
                self._waiting[client, request.id] = _Waiting(request)
                own.append(index)
            else:
                joining.append((index, asyncio.ensure_future(waiting.join(request))))
        results: list[Decided | Unanswered] = [_UNKNOWN] * len(requests)
        try:
            if own:
                decided = await self._through_pen(client, [requests[index] for index in own])
                for index, result in zip(own, decided, strict=True):
                    results[index] = result
        finally:
            for index in own:
                self._waiting.pop((client, requests[index].id)).done(results[index])
        for index, joined in joining:
            results[index] = await joined
        return results

    async def _through_pen(self, client: str, requests: list[Request]) -> list[Decided | Unanswered]:
        try:
            decisions = await self._pen.decide(client, requests, self._funding())
            for index, outcome in enumerate(decisions):
                same = self._with_card_before(requests[index], outcome)
                if same is not None:
                    requests[index] = same
                    [decisions[index]] = await self._pen.decide(client, [same], self._funding())
        except (OperatingError, BrokenInvariant) as error:
            return [undecided_by(error)] * len(requests)
        results = [
            self._result(request, decision) for request, decision in zip(requests, decisions, strict=True)
        ]
        short = [(index, decision) for index, decision in enumerate(decisions) if isinstance(decision, Short)]
        if short:
            asked = [self._with_centre(client, requests[index], decision) for index, decision in short]
            for (index, _), result in zip(short, await asyncio.gather(*asked), strict=True):
                results[index] = result
        return results

    def _with_card_before(self, request: Request, outcome: Outcome) -> Request | None:
        """What to ask again when it differs from its first request by the card alone, and the vault can no
        longer say whose the first token was: a card that was shredded must not turn a repeat into a
        conflict."""
        if not isinstance(outcome, Conflict) or outcome.first is None or outcome.field != "card":
            return None
        first = outcome.first.card
        if first and outcome.first.card_mask == request.card_mask and self.cards.lookup(first) is None:
            return msgspec.structs.replace(request, card=first)
        return None

    def _funding(self) -> Funding:
        return Funding(line_up=True) if self._line.up else _LINE_DOWN

    async def _with_centre(self, client: str, request: Request, short: Short) -> Decided | Unanswered:
        """Ask for a grant and decide again: from the grant, or at the branch's risk, or not at all."""
        funding = self._funding()
        for _ in range(ASKS_EACH_MAX):
            said = await self._ask(short)
            caps = {**funding.asked, short.account_id: said} if is_cap(short.account_id) else funding.asked
            funding = msgspec.structs.replace(funding if is_cap(short.account_id) else said, asked=caps)
            try:
                [again] = await self._pen.decide(client, [request], funding)
            except (OperatingError, BrokenInvariant) as error:
                return undecided_by(error)
            if not isinstance(again, Short):
                return self._result(request, again)
            short = again
        return _OUTRUN

    async def _ask(self, short: Short) -> Funding:
        async with self._asks:
            said = await self._line.ask(
                account_id=short.account_id, currency=short.currency, amount_minor=short.amount_minor
            )
        return _GRANTED if said == "granted" else _ASKED_IN_VAIN[said]

    async def _decide_group(self, client: str, requests: Sequence[Request]) -> list[Decided | Unanswered]:
        identities = [(client, request.id) for request in requests]
        if len(set(identities)) < len(identities):
            raise Unanswered("group_mixed", "an id stands twice in the group")
        if any(identity in self._waiting for identity in identities):
            raise Unanswered("not_decided", "a payment of this group is being decided; ask again in a moment")
        for identity, request in zip(identities, requests, strict=True):
            self._waiting[identity] = _Waiting(request)
        results: list[Decided | Unanswered] = [_UNKNOWN] * len(requests)
        try:
            results = await self._group_through_pen(client, requests)
        finally:
            for identity, result in zip(identities, results, strict=True):
                self._waiting.pop(identity).done(result)
        return results

    async def _group_through_pen(
        self, client: str, requests: Sequence[Request]
    ) -> list[Decided | Unanswered]:
        try:
            decisions = await self._pen.decide(client, requests, self._funding(), linked=True)
            asked: dict[str, Funding] = {}
            giving_back = sum(not request.debit_account_id for request in requests)
            for _ in range(ASKS_EACH_MAX + giving_back):
                short = next((decision for decision in decisions if isinstance(decision, Short)), None)
                if short is None:
                    break
                lacking = self._lacking(requests, asked)
                if giving_back and all(one.account_id != short.account_id for one in lacking):
                    lacking.append(short)  # of a payee who is to give back: only deciding finds it
                asked |= await self._ask_for_group(lacking)
                funding = msgspec.structs.replace(self._funding(), asked=asked)
                decisions = await self._pen.decide(client, requests, funding, linked=True)
        except (OperatingError, BrokenInvariant) as error:
            return [undecided_by(error)] * len(requests)
        return [
            self._result(request, decision) for request, decision in zip(requests, decisions, strict=True)
        ]

    async def _ask_for_group(self, lacking: list[Short]) -> dict[str, Funding]:
        """One question for each account, all at once; each answer counts for its own account alone."""
        answers = await asyncio.gather(*map(self._ask, lacking))
        return {short.account_id: funding for short, funding in zip(lacking, answers, strict=True)}

    def _lacking(self, requests: Sequence[Request], asked: Mapping[str, Funding]) -> list[Short]:
        """What payers and caps lack for a group when its members are booked in their order. What the centre
        does not give is paid by nobody here, so it is neither asked for again nor passed on."""
        left: dict[str, int] = {}
        lacking: dict[tuple[str, str], int] = {}
        for request in requests:
            if not request.debit_account_id:
                continue
            amount_minor = request.amount_minor
            for payer, payee in self._moves(request):
                if left.setdefault(payer, self.book.available(payer)) < amount_minor:
                    if asked.get(payer, _GRANTED) is not _GRANTED:
                        break
                    key = (payer, request.currency)
                    lacking[key] = lacking.get(key, 0) + amount_minor - min(left[payer], 0)
                    left[payer] += amount_minor - min(left[payer], 0)
                left[payer] -= amount_minor
                if payee and request.kind is Kind.PAYMENT:
                    left[payee] = left.setdefault(payee, self.book.available(payee)) + amount_minor
        return [Short(account_id, currency, minor) for (account_id, currency), minor in lacking.items()]

    def _moves(self, request: Request) -> Iterator[tuple[str, str]]:
        """From where a member takes what it needs, and where that can be spent here ("": nowhere): the money,
        and the payer's part of a net debit cap."""
        book, payee = self.book, self.book.accounts.get(request.credit_account_id)
        kept = request.credit_account_id if payee is not None and book.homed_here(payee) else ""
        yield request.debit_account_id, kept
        ends = None
        if payee is not None and request.debit_account_id in book.accounts:
            ends = ends_of(
                book, debit_account_id=request.debit_account_id, credit_account_id=request.credit_account_id
            )
        if ends is not None and ends[0].startswith(CAP_PREFIX):
            yield ends[0], ends[1] if ends[1].startswith(CAP_PREFIX) else ""

    def _result(self, request: Request, outcome: Outcome) -> Decided | Unanswered:
        if isinstance(outcome, Decision):
            return Decided(answer_from(outcome.record), outcome.repeat)
        if isinstance(outcome, Recalled):
            return Decided(answer_from_pruned(outcome.pruned, box=self.box, request=outcome.request), True)
        if isinstance(outcome, Conflict) and outcome.first is None:
            message = f"id {request.id} was used before with other content, whose record is not kept here"
            return Unanswered("id_reused", message, field="id", value=request.id)
        if isinstance(outcome, Conflict) and outcome.first is not None:
            return reused(outcome.field, request, outcome.first)
        if isinstance(outcome, Undecided):
            return Unanswered(_CODES.get(outcome.code, "not_decided"), outcome.detail, hint=outcome.hint)
        return _OUTRUN

    # -- notices --------------------

    async def acknowledge(self, client: str, *, by: str, up_to: str) -> Noted:
        """Journal that a client has taken note of its notices up to a place, by its own word or another's;
        again changes nothing."""
        if not await self.history.late_word(client, up_to):
            message = "the journal has no late word at this place"
            raise Unanswered("notice_not_found", message, field="up_to", value=up_to)
        if not self.book.mode.clears:
            raise Unanswered("not_clearing", f"the box is {self.book.mode}: {self.book.mode_reason}")
        try:
            return await self._pen.acknowledge(client=client, by=by, up_to=position(up_to), whole=True)
        except (OperatingError, BrokenInvariant) as error:
            raise undecided_by(error) from error

    # -- windows --------------------

    async def close_window(self, *, window: int, business_date: str, by: str) -> WindowClosed:
        """Close the open window; closing it again with the same date gives the same record, so that a retry
        is safe."""
        async with self._closing:  # Else a retry that overtakes its first try would close the next window.
            if window == self.book.window:
                if not self.book.epoch:
                    raise Unanswered("not_clearing", "the box has no epoch yet, so no window is open")
                if not self.book.mode.clears:
                    raise Unanswered("not_clearing", f"the box is {self.book.mode}: {self.book.mode_reason}")
                try:
                    closed_now = await self._pen.close_window(
                        window=window, business_date=business_date, closed_by=by
                    )
                except (OperatingError, BrokenInvariant) as error:
                    raise undecided_by(error) from error
                if isinstance(closed_now, WindowClosed):
                    return closed_now
                if closed_now.code != "window_not_open":
                    raise Unanswered(
                        closed_now.code, closed_now.detail, field="business_date", value=business_date
                    )
        closed = await self.history.window(window)
        await self.covered()
        if closed is None or closed.business_date != business_date:
            message = f"window {window} is not open; the open one is {self.book.window}"
            raise Unanswered("window_not_open", message, field="window", value=window)
        return closed


_LINE_DOWN: Final = Funding(line_up=False, reason="line_down")
_GRANTED: Final = Funding(line_up=True, centre="granted")
_ASKED_IN_VAIN: Final = {
    "refused": Funding(line_up=True, centre="refused"),
    "timeout": Funding(line_up=True, centre="timeout", reason="centre_timeout"),
    "down": _LINE_DOWN,
}
_OUTRUN: Final = Unanswered(
    "not_decided", "other payments spent what the centre granted for this one, again and again"
)
_UNKNOWN: Final = Unanswered("outcome_unknown", "whoever asked first went away before there was an answer")


def reused(field: str, request: Request, first: Request) -> Unanswered:
    """Same identity, other content: names the field and both values."""
    value, first_value = getattr(request, field), getattr(first, field)
    message = f"id {request.id} was used before; {field} differs"
    return Unanswered("id_reused", message, field=field, value=value, first_value=first_value)


_CODES: Final = {
    "overloaded": "overloaded",
    "storage_full": "storage_full",
    "unwell": "unwell",
    "outcome_unknown": "outcome_unknown",
    "refusal_budget": "too_many_refusals",
    "group_mixed": "group_mixed",
    "behind": "not_clearing",
    "forked": "not_clearing",
    "fenced": "not_clearing",
    "not_enrolled": "not_clearing",
    "mirror_away": "mirror_away",
    "vault_unavailable": "vault_unavailable",
}


def undecided_by(error: OperatingError | BrokenInvariant) -> Unanswered:
    """What a client is told when the world, or we, did not allow a decision."""
    if isinstance(error, BrokenInvariant):
        return Unanswered("outcome_unknown", "the box stopped itself: a rule of its own did not hold")
    return Unanswered(_CODES.get(error.code, "not_decided"), str(error), hint=error.hint)
