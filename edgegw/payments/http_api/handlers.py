"""What each operation does: a decoded call in, a reply out. One method per operation; no sockets, no headers
of its own."""

from __future__ import annotations

import base64
from collections.abc import Awaitable
from typing import Final

import msgspec

from edgegw.access.sessions import Sessions
from edgegw.core.book import Book
from edgegw.core.card_numbers import holds_card_number
from edgegw.core.merchants import first_batch
from edgegw.core.records import Account, Mode, Request, WindowClosed, parse_place, place_text
from edgegw.payments.answer import Outcome, shown_totals
from edgegw.payments.http_api import bodies
from edgegw.payments.http_api.calls import Call, Reply
from edgegw.payments.http_api.openapi import PROBLEM_TYPE
from edgegw.payments.http_api.operations import member_scope
from edgegw.payments.problems import ProblemDocument, Unanswered, refusal_document
from edgegw.payments.service import Decided, Gateway

_encode: Final = msgspec.json.Encoder().encode
_REPLAY: Final = {"Idempotent-Replay": "true"}
_NO_TRACE: Final = "0" * 32
_STATUSES: Final = {Outcome.CLEARED: 201, Outcome.KEPT: 202, Outcome.REFUSED: 409}


class Handlers:
    """The operations of one gateway."""

    def __init__(self, gateway: Gateway, document: bytes, sessions: Sessions) -> None:
        self._gateway = gateway
        self._sessions = sessions
        self._document = document

    # -- deciding --------------------

    def create_payment(self, call: Call) -> Awaitable[Reply]:
        """One payment."""
        return self._decide(call.client, call.body.request())

    def create_hold(self, call: Call) -> Awaitable[Reply]:
        """A hold."""
        return self._decide(call.client, call.body.request())

    def post_hold(self, call: Call) -> Awaitable[Reply]:
        """Post a hold."""
        return self._decide(call.client, call.body.request(call.client, call.path.hold_id))

    def void_hold(self, call: Call) -> Awaitable[Reply]:
        """Void a hold."""
        return self._decide(call.client, call.body.request(call.client, call.path.hold_id))

    def create_reversal(self, call: Call) -> Awaitable[Reply]:
        """A reversal."""
        return self._decide(call.client, call.body.request(call.client))

    def create_refund(self, call: Call) -> Awaitable[Reply]:
        """A refund."""
        return self._decide(call.client, call.body.request(call.client, call.path.id))

    async def _decide(self, client: str, request: Request) -> Reply:
        decided = await self._gateway.decide(client, request)
        answer = decided.answer
        headers = _REPLAY if decided.repeat else {}
        status = _STATUSES[answer.outcome]
        if answer.outcome is Outcome.REFUSED:
            return Reply(status, _encode(_refusal(decided)), headers, PROBLEM_TYPE)
        return Reply(status, _encode(answer), headers)

    async def create_payments(self, call: Call) -> Reply:
        """A batch of payments."""
        batch: bodies.BatchBody = call.body
        if batch.linked:
            _check_no_repeats("payments", [payment.id for payment in batch.payments])
        requests = [payment.request() for payment in batch.payments]
        return await self._decide_many(call.client, requests, linked=batch.linked)

    async def close_batch(self, call: Call) -> Reply:
        """Close a merchant's batch."""
        merchant: str = call.path.merchant
        if holds_card_number(merchant):
            raise Unanswered(
                "card_number", "merchant looks like a card number", field="merchant", value=merchant
            )
        request = call.body.request(merchant)
        seen: set[str] = set()
        for index, one in enumerate(request.totals):
            if one.currency in seen:
                field = f"totals[{index}].currency"
                raise Unanswered(
                    "repeated_currency", f"{field} stands there before", field=field, value=one.currency
                )
            seen.add(one.currency)
        return await self._decide(call.client, request)

    async def create_group(self, call: Call) -> Reply:
        """A linked group."""
        group: bodies.GroupBody = call.body
        for scope in sorted({member_scope(member) for member in group.members} - call.scopes):
            message = f"{call.client} does not have the scope `{scope}`, which a member of the group needs"
            raise Unanswered("scope_missing", message, field="members", value=scope)
        _check_no_repeats("members", [member.id for member in group.members])
        requests = [member.of(call.client) for member in group.members]
        return await self._decide_many(call.client, requests, linked=True)

    async def _decide_many(self, client: str, requests: list[Request], *, linked: bool) -> Reply:
        results = await self._gateway.decide_many(client, requests, linked=linked)
        replayed = all(isinstance(result, Decided) and result.repeat for result in results)
        items = [_item(result) for result in results]
        return Reply(200, _encode(bodies.BatchAnswers(answers=items)), _REPLAY if replayed else {})

    async def close_window(self, call: Call) -> Reply:
        """Close the open window."""
        body: bodies.CloseBody = call.body
        site = self._gateway.site
        takes_two = site is not None and site.window_close_takes_two is True
        if call.second == call.client or (takes_two and not call.second):
            raise Unanswered(
                "second_person_needed", f"{call.client} alone closes no window here", field="second_token"
            )
        by = f"{call.client}+{call.second}" if call.second else call.client
        closed = await self._gateway.close_window(window=body.window, business_date=body.business_date, by=by)
        return Reply(200, _encode(_window(closed)))

    # -- reading --------------------

    async def get_payment(self, call: Call) -> Reply:
        """A payment and what became of it."""
        view = await self._gateway.history.view(call.client, call.path.id)
        if view is None:
            raise self._no_payment(call)
        await self._gateway.covered(view.answer.record, *(event.record for event in view.events))
        return Reply(200, _encode(view))

    def _no_payment(self, call: Call) -> Unanswered:
        """There is none; or, where a part of the past is missing, that nobody here can tell."""
        book = self._gateway.book
        if book.mode in (Mode.BEHIND, Mode.FORKED):
            return Unanswered(
                "not_clearing",
                f"the box is {book.mode} and cannot say whether there was this payment: {book.mode_reason}",
                field="id",
                value=call.path.id,
                hint="Ask again when the box is mended; until then do not pay again under another id.",
            )
        return Unanswered(
            "payment_not_found", "this client has no such payment at this box", field="id", value=call.path.id
        )

    async def get_receipt(self, call: Call) -> Reply:
        """A receipt."""
        receipt = await self._gateway.history.receipt(call.client, call.path.id)
        if receipt is None:
            raise self._no_payment(call)
        await self._gateway.covered()
        return Reply(200, _encode(receipt))

    async def list_accounts(self, call: Call) -> Reply:
        """A page of accounts."""
        book, query = self._gateway.book, call.query
        site = book.site
        listed = (
            []
            if site is None
            else sorted(account.id for account in site.accounts if account.id > query.after)
        )
        page = listed[: query.limit]
        views = [
            _account(book, book.accounts[account_id]) for account_id in page if account_id in book.accounts
        ]
        next_after = page[-1] if len(listed) > len(page) else ""
        await self._gateway.covered()
        return Reply(200, _encode(bodies.AccountPage(accounts=views, next_after=next_after)))

    async def get_account(self, call: Call) -> Reply:
        """An account."""
        account_id: str = call.path.account_id
        account = self._gateway.book.accounts.get(account_id)
        if account is None:
            raise Unanswered(
                "account_not_found", "this box knows no such account", field="account_id", value=account_id
            )
        view = _account(self._gateway.book, account)
        await self._gateway.covered()
        return Reply(200, _encode(view))

    async def list_batches(self, call: Call) -> Reply:
        """A merchant's open batch, and closed ones."""
        book, query = self._gateway.book, call.query
        batch = book.batches.get((call.path.merchant, query.terminal)) or first_batch(book.epoch)
        start = batch.previous if query.before is msgspec.UNSET else query.before
        closed, before = await self._gateway.history.batches(
            start, merchant=call.path.merchant, terminal=query.terminal, limit=query.limit
        )
        page = bodies.BatchesPage(
            open=bodies.OpenBatch(number=batch.number, totals=shown_totals(batch.totals)),
            closed=closed,
            next_before=before,
        )
        await self._gateway.covered()
        return Reply(200, _encode(page))

    async def list_kept_reversals(self, call: Call) -> Reply:
        """Reversals that wait for their originals."""
        book, query = self._gateway.book, call.query
        after = (0, -1) if query.after is msgspec.UNSET else parse_place(query.after)
        waiting = sorted(
            parse_place(place) for place in {**book.kept_before, **dict(book.kept.items())}.values()
        )
        beyond = [place for place in waiting if place > after]
        records = await self._gateway.history.transfers(beyond[: query.limit])
        page = bodies.KeptPage(
            waiting=len(waiting),
            reversals=[
                bodies.KeptReversal(
                    client=record.client,
                    id=record.request.id,
                    original_id=record.request.original_id,
                    amount_minor=record.request.amount_minor,
                    record=place_text(epoch=record.epoch, seq=record.seq),
                    at_ns=record.at_ns,
                    wall_ns=record.wall_ns,
                )
                for record in records
            ],
            next_after=""
            if len(beyond) <= query.limit
            else place_text(epoch=beyond[query.limit - 1][0], seq=beyond[query.limit - 1][1]),
        )
        await self._gateway.covered()
        return Reply(200, _encode(page))

    async def list_windows(self, call: Call) -> Reply:
        """A page of closed windows."""
        closed = await self._gateway.history.windows(after=call.query.after, limit=call.query.limit)
        page = bodies.WindowPage(
            open_window=self._gateway.book.window, windows=[_window(record) for record in closed]
        )
        await self._gateway.covered()
        return Reply(200, _encode(page))

    async def list_notices(self, call: Call) -> Reply:
        """A page of notices."""
        whose, after = self._whose(call, call.query.client), call.query.after
        place = None if after is msgspec.UNSET else after
        notices = await self._gateway.history.notices(whose, after=place, limit=call.query.limit)
        await self._gateway.covered()
        return Reply(200, _encode(notices))

    async def acknowledge_notices(self, call: Call) -> Reply:
        """Take note of notices."""
        body: bodies.AcknowledgeBody = call.body
        noted = await self._gateway.acknowledge(
            self._whose(call, body.client), by=call.client, up_to=body.up_to
        )
        return Reply(200, _encode(bodies.Acknowledged(up_to=body.up_to, record=noted.record)))

    async def create_session(self, call: Call) -> Reply:
        """A session of a client that has signed for it."""
        if not call.signed_by:
            message = "a session is opened by a request that the client's SM2 key has signed"
            raise Unanswered("signature_missing", message, field="Signature")
        try:
            opened = self._sessions.open(client=call.client, opened_by=call.signed_by, share=call.body.share)
        except ValueError as problem:
            raise Unanswered("invalid_field", f"share: {problem}", field="share") from None
        webhook = self._gateway.webhook
        signature = b"" if webhook is None else base64.b64encode(webhook.sign(opened.transcript))
        answer = bodies.SessionOpened(
            keyid=opened.keyid,
            share=opened.share,
            lifetime_s=opened.lifetime_s,
            signature=signature.decode(),
        )
        return Reply(201, _encode(answer))

    def _whose(self, call: Call, asked: str | msgspec.UnsetType) -> str:
        """Whose notices a client is told and notes: its own, or, with the scope `notices:all`, anybody's."""
        if asked is msgspec.UNSET or asked == call.client:
            return call.client
        if "notices:all" not in call.scopes:
            raise Unanswered(
                "scope_missing",
                f"{call.client} does not have the scope `notices:all`, which another's notices need",
                field="client",
                value="notices:all",
            )
        return asked

    async def get_checkpoint(self, call: Call) -> Reply:  # noqa: ARG002
        """The signed end of the journal."""
        proven = await self._gateway.history.head()
        await self._gateway.covered()
        checkpoint = bodies.Checkpoint(
            epoch=proven.epoch,
            size=proven.size,
            checkpoint=proven.checkpoint,
            cosigned_size=proven.cosigned_size,
            cosignature=proven.cosignature,
        )
        return Reply(200, _encode(checkpoint))

    async def get_status(self, call: Call) -> Reply:  # noqa: ARG002
        """How the box is."""
        gateway, book = self._gateway, self._gateway.book
        proven = await gateway.history.head()
        status = bodies.Status(
            bank=book.bank,
            box=book.box,
            version=gateway.version,
            mode=book.mode,
            mode_reason=book.mode_reason,
            clears=gateway.ready,
            line_up=gateway.line_up,
            offline_since_ns=book.offline_since_ns,
            epoch=proven.epoch,
            journal_size=proven.size,
            cosigned_size=proven.cosigned_size,
            records_waiting=proven.size - proven.cosigned_size,
            window=book.window,
            window_transfers=book.window_transfers,
            site_version=book.site_version,
            queue_depth=gateway.queue_depth,
            webhook_key="" if gateway.webhook is None else gateway.webhook.text,
            replica=gateway.replica(),
            certificate=gateway.certificate(),
        )
        return Reply(200, _encode(status))

    async def get_health(self, call: Call) -> Reply:  # noqa: ARG002
        """Alive."""
        return Reply(200, _encode(bodies.Health(status="alive")))

    async def get_readiness(self, call: Call) -> Reply:  # noqa: ARG002
        """Ready for payments."""
        why_not = self._gateway.why_not_ready
        if why_not is not None:
            raise Unanswered("not_clearing", why_not[0], hint=why_not[1])
        return Reply(200, _encode(bodies.Health(status="ready")))

    async def get_metrics(self, call: Call) -> Reply:  # noqa: ARG002
        """All metrics."""
        body, content_type = self._gateway.meter.exposition()
        return Reply(200, body, {}, content_type)

    async def get_openapi(self, call: Call) -> Reply:  # noqa: ARG002
        """The OpenAPI document."""
        return Reply(200, self._document)


def _refusal(decided: Decided) -> ProblemDocument:
    answer = decided.answer
    return refusal_document(
        reason=answer.reason, detail=answer.detail, box=answer.box, record=answer.record, payment_id=answer.id
    )


def _item(result: Decided | Unanswered) -> bodies.BatchItem:
    if isinstance(result, Unanswered):
        return bodies.BatchItem(status=result.problem.status, problem=result.document(trace_id=_NO_TRACE))
    status = _STATUSES[result.answer.outcome]
    if result.answer.outcome is Outcome.REFUSED:
        return bodies.BatchItem(status=status, problem=_refusal(result))
    return bodies.BatchItem(status=status, answer=result.answer)


def _check_no_repeats(name: str, ids: list[str]) -> None:
    seen: set[str] = set()
    for index, payment_id in enumerate(ids):
        if payment_id in seen:
            field = f"{name}[{index}].id"
            raise Unanswered(
                "repeated_id", f"{field} occurs before in this batch", field=field, value=payment_id
            )
        seen.add(payment_id)


def _account(book: Book, account: Account) -> bodies.AccountView:
    balance = book.balance(account.id)
    return bodies.AccountView(
        id=account.id,
        currency=account.currency,
        home=account.home,
        participant=account.participant,
        available_minor=book.available(account.id),
        debits_pending_minor=0 if balance is None else balance.debits_pending,
        debits_posted_minor=0 if balance is None else balance.debits_posted,
        credits_pending_minor=0 if balance is None else balance.credits_pending,
        credits_posted_minor=0 if balance is None else balance.credits_posted,
        frozen=account.id in book.frozen,
        closed=account.id in book.closed,
    )


def _window(record: WindowClosed) -> bodies.WindowView:
    return bodies.WindowView(
        window=record.window,
        business_date=record.business_date,
        transfers=record.transfers,
        positions=record.positions,
        closed_by=record.closed_by,
        record=place_text(epoch=record.epoch, seq=record.seq),
        at_ns=record.at_ns,
    )
