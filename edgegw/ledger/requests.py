"""Requests as the pen's work: identity first (repeat, conflict), then the decision, alone or as a linked
group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from edgegw.core.decide import Context, Funding, Short, decide, refuse
from edgegw.core.pruned import Pruned
from edgegw.core.reasons import REASONS, Reason
from edgegw.core.records import Refusal, Request, Transfer, decode_record, encode
from edgegw.errors import BrokenInvariant
from edgegw.ledger.batch import Batch
from edgegw.ledger.outcomes import Conflict, Decision, Outcome, Recalled, Undecided


class Requests:
    """Requests of one client, as a job's work."""

    def __init__(self, client: str, requests: Sequence[Request], funding: Funding, *, linked: bool) -> None:
        self.client = client
        self.requests = requests
        self.funding = funding
        self.linked = linked

    @property
    def identities(self) -> list[tuple[str, str]]:
        """What the batch must look up before it runs this."""
        return [(self.client, request.id) for request in self.requests]

    def __call__(self, batch: Batch) -> list[Outcome]:
        """Decide them in order; identities first, also against the batch itself."""
        if self.linked:
            return self._decide_group(batch)
        return [self._decide_one(batch, request) for request in self.requests]

    def _decide_one(self, batch: Batch, request: Request) -> Outcome:
        earlier = _earlier(batch, self.client, request)
        if earlier is not None:
            return earlier
        closed = batch.closed
        if closed is not None:
            return closed
        context = Context(batch.book, batch.stamp(), self.client, request, self.funding, batch.desk.rules)
        decided = decide(context)
        if isinstance(decided, Short):
            return decided
        return self._journalled(batch, decided)

    def _journalled(self, batch: Batch, decided: Transfer | Refusal) -> Decision | Undecided:
        if isinstance(decided, Refusal) and not batch.desk.budget.take(self.client, at_ns=decided.at_ns):
            return _OVER_BUDGET
        return Decision(decided, batch.note_and_write(decided), repeat=False)

    def _decide_group(self, batch: Batch) -> list[Outcome]:
        """All or nothing: a layer of its own, merged only when every member was cleared."""
        if len(set(self.identities)) < len(self.requests):
            return [Undecided("group_mixed", "an id stands twice in the group")] * len(self.requests)
        earlier = [_earlier(batch, self.client, request) for request in self.requests]
        found: list[Outcome] = [outcome for outcome in earlier if outcome is not None]
        if len(found) == len(self.requests):
            return found
        if found:
            detail = (
                "some ids of the group were decided before; send the group again as it was, or with new ids"
            )
            return [Undecided("group_mixed", detail)] * len(self.requests)
        closed = batch.closed
        if closed is not None:
            return [closed] * len(self.requests)
        layer = batch.book.overlay()
        cleared: list[Transfer] = []
        for index, request in enumerate(self.requests):
            stamp = batch.stamp(index)
            funding = self.funding.of(request.debit_account_id)
            decided = decide(Context(layer, stamp, self.client, request, funding, batch.desk.rules))
            if isinstance(decided, Short):
                return [decided] * len(self.requests)
            if isinstance(decided, Refusal):
                return self._refuse_group(batch, index, decided)
            decided = msgspec.structs.replace(decided, linked=len(self.requests) - 1 - index)
            layer.note(decided)
            cleared.append(decided)
        layer.merge()
        return [Decision(record, batch.write(record), repeat=False) for record in cleared]

    def _refuse_group(self, batch: Batch, culprit: int, refusal: Refusal) -> list[Outcome]:
        """Every member's refusal is journalled, or none: an id that alone stayed free would split the group
        for ever."""
        if not batch.desk.budget.take(self.client, at_ns=refusal.at_ns, count=len(self.requests)):
            return [_OVER_BUDGET] * len(self.requests)
        outcomes: list[Outcome] = []
        for index, request in enumerate(self.requests):
            code, detail = Reason.LINKED_EVENT_FAILED, f"member {culprit} of the group: {refusal.code}"
            original = ""
            if index == culprit:
                code, detail, original = REASONS[refusal.code], refusal.detail, refusal.original
            record = refuse(batch.stamp(), self.client, request, code, detail, original=original)
            outcomes.append(Decision(record, batch.note_and_write(record), repeat=False))
        return outcomes


_OVER_BUDGET: Final = Undecided("refusal_budget", "too many refused requests; the id is free")


def _earlier(batch: Batch, client: str, request: Request) -> Decision | Recalled | Conflict | None:
    """The first answer to this identity, from this batch or from the disk."""
    identity = client, request.id
    fresh = batch.book.fresh.get(identity)
    known = batch.known.get(identity) if fresh is None else encode(fresh)
    return None if known is None else first_answer(known, request)


def first_answer(known: bytes | Pruned, request: Request) -> Decision | Recalled | Conflict:
    """What a request hears whose identity was decided before, from its record or what stays of it."""
    if isinstance(known, Pruned):
        return Recalled(known, request) if known.is_of(request) else Conflict("", None)
    record = decode_record(known)
    if not isinstance(record, Transfer | Refusal):
        raise BrokenInvariant(f"the record of identity {request.id} is a {type(record).__name__}")
    field = record.request.different_field(request)
    return Conflict(field, record.request) if field else Decision(record, known, repeat=True)


def normalised(client: str, request: Request) -> Request:
    """The canonical form: an original that names no client is the requesting client's own."""
    if request.original_id and not request.original_client:
        return msgspec.structs.replace(request, original_client=client)
    return request
