"""The gateway: three ways to fund, retries that join, groups, batches, and what the undecided are told."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgegw.core.records import ClearedBy, Kind, Mode, Request
from edgegw.errors import OutcomeUnknown
from edgegw.payments.answer import Outcome
from edgegw.payments.problems import PROBLEMS, Unanswered
from edgegw.payments.service import WAITING_MAX, Decided
from tests.payments.branch import BAKER, BOX, ELSEWHERE, PUPIL, Branch, open_branch, payment_id
from tests.waiting import until

CLIENT = "till"


@pytest.fixture
async def branch(tmp_path: Path) -> AsyncIterator[Branch]:
    async with open_branch(tmp_path) as opened:
        yield opened


def pay(amount_minor: int = 100, **changes: Any) -> Request:
    wanted = {
        "kind": Kind.PAYMENT,
        "id": payment_id(),
        "debit_account_id": BAKER,
        "credit_account_id": PUPIL,
        "amount_minor": amount_minor,
        "currency": "CNY",
        **changes,
    }
    return Request(**wanted)


async def stand_ins_allowed(branch: Branch, amount_minor: int = 50_000) -> None:
    await branch.grant(f"risk:{BOX}:CNY", amount_minor)


async def line_down(branch: Branch) -> None:
    branch.centre.up = False
    await branch.pen.change_mode(Mode.OFFLINE, "test")


async def test_an_allowance_clears_with_the_line_down_and_asks_nobody(branch: Branch) -> None:
    """What is covered here must never wait for a line."""
    await branch.grant(BAKER, 1000)
    await line_down(branch)
    answer = await branch.gateway.handle(CLIENT, pay(600))
    assert (answer.outcome, answer.cleared_by) == (Outcome.CLEARED, ClearedBy.ALLOWANCE)
    assert branch.centre.asked == []
    assert branch.book.available(PUPIL) == 600


async def test_a_short_allowance_is_topped_up_by_the_centre(branch: Branch) -> None:
    """With the line up, an empty allowance is no reason to refuse."""
    branch.centre.money[BAKER] = 500
    answer = await branch.gateway.handle(CLIENT, pay(500))
    assert (answer.outcome, answer.cleared_by) == (Outcome.CLEARED, ClearedBy.CENTRE)
    assert branch.centre.asked == [(BAKER, 500)]


class Outrun:
    """A centre behind whose back another payment spends each grant, as often as it is told."""

    def __init__(self, branch: Branch, *, times: int) -> None:
        self._branch = branch
        self._times = times
        self._ask = branch.centre.ask

    async def ask(self, *, account_id: str, currency: str, amount_minor: int) -> str:
        said = await self._ask(account_id=account_id, currency=currency, amount_minor=amount_minor)
        if self._times:
            self._times -= 1
            await self._branch.gateway.handle("other", pay(amount_minor))
        return said


async def test_a_grant_that_another_payment_spent_is_asked_for_again(
    branch: Branch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The centre has the money, so "insufficient funds" would be a lie that stands for ever."""
    branch.centre.money[BAKER] = 5_000
    monkeypatch.setattr(branch.centre, "ask", Outrun(branch, times=2).ask)
    answer = await branch.gateway.handle(CLIENT, pay(500))
    assert answer.cleared_by == ClearedBy.CENTRE
    results = await branch.gateway.decide_many(CLIENT, [pay(400), pay(500)], linked=True)
    assert all(isinstance(result, Decided) and result.answer.cleared_by for result in results)


async def test_a_payment_that_is_outrun_again_and_again_keeps_its_id(
    branch: Branch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is decided, nothing is burned: the same id clears when it is its turn."""
    branch.centre.money[BAKER] = 50_000
    monkeypatch.setattr(branch.centre, "ask", Outrun(branch, times=3).ask)
    request = pay(500)
    with pytest.raises(Unanswered) as undecided:
        await branch.gateway.handle(CLIENT, request)
    assert undecided.value.code == "not_decided"
    assert (await branch.gateway.handle(CLIENT, request)).cleared_by == ClearedBy.CENTRE


async def test_the_centres_no_is_a_refusal_and_never_a_stand_in(branch: Branch) -> None:
    """A branch that stands in after the centre said no pays for everybody who is broke."""
    await stand_ins_allowed(branch)
    answer = await branch.gateway.handle(CLIENT, pay(500))
    assert (answer.outcome, answer.reason, answer.transient) == (Outcome.REFUSED, "insufficient_funds", True)


async def test_a_silent_centre_counts_as_down_and_the_record_says_so(branch: Branch) -> None:
    """A customer at the counter must not wait for a centre that does not answer."""
    await stand_ins_allowed(branch)
    branch.centre.silent = True
    answer = await branch.gateway.handle(CLIENT, pay(500))
    assert (answer.cleared_by, answer.reason) == (ClearedBy.STAND_IN, "centre_timeout")


async def test_with_the_line_down_the_branch_stands_in_or_says_why_not(branch: Branch) -> None:
    """The whole point of the box."""
    await stand_ins_allowed(branch)
    await line_down(branch)
    answer = await branch.gateway.handle(CLIENT, pay(500))
    assert (answer.cleared_by, answer.reason) == (ClearedBy.STAND_IN, "line_down")
    unwilling = await branch.gateway.handle(CLIENT, pay(500, stand_in=False))
    assert (unwilling.outcome, unwilling.reason) == (Outcome.REFUSED, "stand_in_not_wanted")


async def test_a_retry_joins_the_payment_that_waits_for_the_centre(branch: Branch) -> None:
    """A second ask for one payment would take the money twice from the centre."""
    branch.centre.money[BAKER] = 5000
    branch.centre.answering.clear()
    request = pay(500)
    tries = [asyncio.create_task(branch.gateway.decide(CLIENT, request)) for _ in range(5)]
    await until(lambda: len(branch.centre.asked) > 0, "the centre is asked")
    branch.centre.answering.set()
    results = await asyncio.gather(*tries)
    assert len({msgspec.json.encode(result.answer) for result in results}) == 1
    assert sorted(result.repeat for result in results) == [False, True, True, True, True]
    assert branch.centre.asked == [(BAKER, 500)]
    assert branch.centre.money[BAKER] == 4500


async def test_a_retry_with_other_content_does_not_join(branch: Branch) -> None:
    """A till that reuses an id must hear of it, not get another payment's answer."""
    branch.centre.money[BAKER] = 500
    branch.centre.answering.clear()
    request = pay(500)
    first = asyncio.create_task(branch.gateway.decide(CLIENT, request))
    await until(lambda: len(branch.centre.asked) > 0, "the centre is asked")
    with pytest.raises(Unanswered) as caught:
        await branch.gateway.decide(CLIENT, msgspec.structs.replace(request, amount_minor=600))
    assert (caught.value.code, caught.value.field) == ("id_reused", "amount_minor")
    assert (caught.value.value, caught.value.first_value) == ("600", "500")
    branch.centre.answering.set()
    assert (await first).answer.outcome is Outcome.CLEARED


async def test_one_id_belongs_to_each_client_apart(branch: Branch) -> None:
    """Two tills that count from one must not answer for each other."""
    await branch.grant(BAKER, 1000)
    request = pay(100)
    first = await branch.gateway.decide(CLIENT, request)
    second = await branch.gateway.decide("other", request)
    assert (first.repeat, second.repeat) == (False, False)
    assert first.answer.record != second.answer.record


async def test_money_that_another_payment_took_meanwhile_is_asked_for_again(branch: Branch) -> None:
    """A grant that a quicker payment spends must not refuse the one it was for, while the centre has more."""
    branch.centre.money[BAKER] = 1000
    ask = branch.centre.ask

    async def ask_and_lose(**wanted: Any) -> str:
        said = await ask(**wanted)
        if len(branch.centre.asked) == 1:
            quick = await branch.gateway.handle("other", pay(100))
            assert quick.cleared_by is ClearedBy.ALLOWANCE
        return said

    branch.centre.ask = ask_and_lose  # type: ignore[method-assign]
    answer = await branch.gateway.handle(CLIENT, pay(300))
    assert answer.cleared_by is ClearedBy.CENTRE
    assert branch.centre.asked == [(BAKER, 300), (BAKER, 300)]


async def test_a_batch_answers_in_order_and_each_for_itself(branch: Branch) -> None:
    """Salaries that come back in another order are booked to the wrong people."""
    await branch.grant(BAKER, 250)
    requests = [pay(100), pay(100, currency="XXX"), pay(100), pay(100)]
    requests.append(requests[0])
    requests.append(msgspec.structs.replace(requests[0], amount_minor=7))
    results = await branch.gateway.decide_many(CLIENT, requests)
    said = [
        (result.answer.outcome.value, result.repeat) if isinstance(result, Decided) else result.code
        for result in results
    ]
    cleared, refused = ("cleared", False), ("refused", False)
    assert said == [cleared, refused, cleared, refused, ("cleared", True), "id_reused"]
    assert branch.book.available(BAKER) == 50


async def test_a_linked_group_stands_or_falls_together(branch: Branch) -> None:
    """Half a salary run is worse than none."""
    await branch.grant(BAKER, 250)
    bad = [pay(100), pay(100, credit_account_id="nobody"), pay(10)]
    results = await branch.gateway.decide_many(CLIENT, bad, linked=True)
    reasons = [result.answer.reason for result in results if isinstance(result, Decided)]
    assert reasons == ["linked_event_failed", "credit_account_not_found", "linked_event_failed"]
    assert branch.book.available(BAKER) == 250
    again = await branch.gateway.decide_many(CLIENT, bad, linked=True)
    assert all(isinstance(result, Decided) and result.repeat for result in again)


async def test_a_group_with_one_id_twice_leaves_nobody_hanging(branch: Branch) -> None:
    """It is no group; the id is free afterwards."""
    await branch.grant(BAKER, 250)
    twice = pay(100)
    with pytest.raises(Unanswered, match="stands twice"):
        await branch.gateway.decide_many(CLIENT, [twice, twice], linked=True)
    assert (await branch.gateway.decide(CLIENT, twice)).answer.outcome is Outcome.CLEARED


async def test_a_linked_group_asks_the_centre_for_what_all_of_it_needs(branch: Branch) -> None:
    """Asking for the first member alone would refuse the group for the second."""
    branch.centre.money[BAKER] = 1000
    results = await branch.gateway.decide_many(CLIENT, [pay(400), pay(500)], linked=True)
    assert [result.answer.cleared_by for result in results if isinstance(result, Decided)] == [
        ClearedBy.CENTRE,
        ClearedBy.CENTRE,
    ]
    assert branch.centre.asked == [(BAKER, 900)]


async def test_a_group_that_was_covered_meanwhile_is_not_called_granted(branch: Branch) -> None:
    """The centre was never asked: "centre" would be a word of the centre's that it never gave."""
    group = [pay(400), pay(500)]
    results, _ = await asyncio.gather(
        branch.gateway.decide_many(CLIENT, group, linked=True), branch.grant(BAKER, 900)
    )
    assert [result.answer.cleared_by for result in results if isinstance(result, Decided)] == [
        ClearedBy.ALLOWANCE,
        ClearedBy.ALLOWANCE,
    ]
    assert branch.centre.asked == []


async def test_a_group_is_not_refused_for_money_that_it_brings_itself(branch: Branch) -> None:
    """The pupil pays on what the baker gives him; the centre need not have it twice."""
    await branch.grant(PUPIL, 50)
    branch.centre.money[BAKER] = 400
    group = [
        pay(50, debit_account_id=PUPIL, credit_account_id=ELSEWHERE),
        pay(400),
        pay(400, debit_account_id=PUPIL, credit_account_id=ELSEWHERE),
    ]
    results = await branch.gateway.decide_many(CLIENT, group, linked=True)
    assert [result.answer.cleared_by for result in results if isinstance(result, Decided)] == [
        ClearedBy.ALLOWANCE,
        ClearedBy.CENTRE,
        ClearedBy.ALLOWANCE,
    ]
    assert branch.centre.asked == [(BAKER, 400)]


async def test_a_refused_group_names_the_member_whose_money_the_centre_refused(branch: Branch) -> None:
    """Whoever has the money must not be told that he lacks it."""
    await branch.grant(PUPIL, 50)
    branch.centre.money[BAKER] = 400
    group = [
        pay(50, debit_account_id=PUPIL, credit_account_id=ELSEWHERE),
        pay(400, credit_account_id=ELSEWHERE),
        pay(400, debit_account_id=PUPIL, credit_account_id=ELSEWHERE),
    ]
    results = await branch.gateway.decide_many(CLIENT, group, linked=True)
    reasons = [result.answer.reason for result in results if isinstance(result, Decided)]
    assert reasons == ["linked_event_failed", "linked_event_failed", "insufficient_funds"]


async def test_holds_are_posted_once(branch: Branch) -> None:
    """A hold that is posted twice takes the money twice."""
    await branch.grant(BAKER, 1000)
    hold = pay(800, kind=Kind.HOLD)
    await branch.gateway.handle(CLIENT, hold)
    assert branch.book.available(BAKER) == 200

    def post(amount_minor: int) -> Request:
        return Request(kind=Kind.POST, id=payment_id(), amount_minor=amount_minor, original_id=hold.id)

    posted = await branch.gateway.handle(CLIENT, post(300))
    assert (posted.outcome, posted.amount_minor) == (Outcome.CLEARED, 300)
    assert (await branch.gateway.handle(CLIENT, post(300))).reason == "hold_already_posted"
    assert branch.book.available(BAKER) == 700
    view = await branch.history.view(CLIENT, hold.id)
    assert view is not None
    assert [(event.type, event.id, event.amount_minor) for event in view.events] == [("post", posted.id, 300)]


async def test_a_reversal_that_comes_first_is_kept_and_wins(branch: Branch) -> None:
    """A payment that arrives after its reversal must not go through."""
    await branch.grant(BAKER, 1000)
    payment = pay(100)
    reversal = Request(kind=Kind.REVERSAL, id=payment_id(), original_id=payment.id)
    assert (await branch.gateway.handle(CLIENT, reversal)).outcome is Outcome.KEPT
    assert (await branch.gateway.handle(CLIENT, payment)).reason == "already_reversed"


async def test_a_late_decline_is_told_to_the_client_whose_payment_it_was(branch: Branch) -> None:
    """A merchant who is liable and never told learns it from the bank statement."""
    await stand_ins_allowed(branch)
    await line_down(branch)
    declined = await branch.gateway.handle(CLIENT, pay(500))
    confirmed = await branch.gateway.handle(CLIENT, pay(300))
    await branch.decline(declined.record, 500)
    await branch.confirm(confirmed.record, 300)
    page = await branch.history.notices(CLIENT, after="", limit=10)
    assert [(notice.id, notice.outcome, notice.liable) for notice in page.notices] == [
        (declined.id, "declined", "merchant"),
        (confirmed.id, "confirmed", ""),
    ]
    assert not page.more
    first = await branch.history.notices(CLIENT, after="", limit=1)
    rest = await branch.history.notices(CLIENT, after=first.next_after, limit=10)
    assert (first.more, [notice.id for notice in rest.notices]) == (True, [confirmed.id])
    assert (await branch.history.notices("other", after="", limit=10)).notices == ()


async def test_money_for_an_account_elsewhere_goes_home_by_itself(branch: Branch) -> None:
    """Money that lies where its owner never comes is lost to him."""
    await branch.grant(BAKER, 1000)
    answer = await branch.gateway.handle(CLIENT, pay(100, credit_account_id=ELSEWHERE))
    assert [leg.credit_account_id for leg in answer.legs] == [ELSEWHERE, "centre:CNY"]
    assert branch.book.available(ELSEWHERE) == 0


async def test_a_full_disk_decides_nothing_and_still_repeats(branch: Branch) -> None:
    """A retry after an answer must get that answer, however full the disk is."""
    await branch.grant(BAKER, 1000)
    paid = pay(100)
    await branch.gateway.handle(CLIENT, paid)
    branch.room = False
    with pytest.raises(Unanswered) as caught:
        await branch.gateway.handle(CLIENT, pay(100))
    assert caught.value.problem.status == 507
    assert (await branch.gateway.decide(CLIENT, paid)).repeat
    branch.room = True
    assert (await branch.gateway.handle(CLIENT, pay(100))).outcome is Outcome.CLEARED


async def test_a_box_behind_its_past_decides_nothing_and_still_repeats(branch: Branch) -> None:
    """A restored box that clears, spends money that is spent already."""
    await branch.grant(BAKER, 1000)
    paid = pay(100)
    await branch.gateway.handle(CLIENT, paid)
    await branch.pen.change_mode(Mode.BEHIND, "test")
    assert not branch.gateway.ready
    with pytest.raises(Unanswered) as caught:
        await branch.gateway.handle(CLIENT, pay(100))
    assert caught.value.code == "not_clearing"
    assert (await branch.gateway.decide(CLIENT, paid)).repeat


async def test_too_many_refusals_leave_the_id_free(tmp_path: Path) -> None:
    """A flood of nonsense must not fill the journal, and must burn nobody's id."""
    async with open_branch(tmp_path, refusals=2) as branch:
        requests = [pay(100, currency="XXX") for _ in range(3)]
        results = [await branch.gateway.decide_many(CLIENT, [request]) for request in requests]
        last = results[2][0]
        assert isinstance(last, Unanswered)
        assert (last.code, last.problem.status) == ("too_many_refusals", 429)
        assert await branch.history.answer(CLIENT, requests[1].id) is not None
        assert await branch.history.answer(CLIENT, requests[2].id) is None


async def test_more_than_the_queue_takes_is_overloaded_and_the_queue_empties(branch: Branch) -> None:
    """An unbounded queue answers nobody in time."""
    branch.gateway._admitted = WAITING_MAX
    with pytest.raises(Unanswered) as caught:
        await branch.gateway.handle(CLIENT, pay(1))
    assert caught.value.problem.status == 429
    branch.gateway._admitted = 0
    await branch.gateway.handle(CLIENT, pay(1))
    assert branch.gateway.queue_depth == 0


async def test_an_uncertain_commit_is_told_as_unknown_to_all_who_wait(branch: Branch) -> None:
    """ "Failed" for something that may be on disk makes the client pay twice."""

    async def fail(*_: object, **__: object) -> list[Any]:
        await asyncio.sleep(0)
        raise OutcomeUnknown("COMMIT failed")

    branch.pen.decide = fail  # type: ignore[method-assign]
    request = pay(1)
    tries = [branch.gateway.decide(CLIENT, request) for _ in range(2)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert [result.code for result in results if isinstance(result, Unanswered)] == ["outcome_unknown"] * 2


async def test_a_stopping_box_takes_nothing_new(branch: Branch) -> None:
    """A payment that is taken and not answered is a question for tomorrow."""
    branch.gateway.stop_admitting()
    with pytest.raises(Unanswered) as caught:
        await branch.gateway.handle(CLIENT, pay(1))
    assert caught.value.code == "stopping"


async def test_a_cancelled_payment_leaves_nobody_hanging(branch: Branch) -> None:
    """A client that hangs up must not leave its own retry waiting for ever."""
    branch.centre.answering.clear()
    request = pay(500)
    first = asyncio.create_task(branch.gateway.decide(CLIENT, request))
    await until(lambda: len(branch.centre.asked) == 1, "the centre is asked")
    second = asyncio.create_task(branch.gateway.decide(CLIENT, request))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(Unanswered) as caught:
        await second
    assert caught.value.code == "outcome_unknown"
    branch.centre.answering.set()
    assert (await branch.gateway.decide(CLIENT, request)).answer.reason == "insufficient_funds"


async def test_closing_a_window_twice_closes_one(branch: Branch) -> None:
    """A retry that closes the next window as well splits a day in two."""
    await branch.grant(BAKER, 1000)
    await branch.gateway.handle(CLIENT, pay(100))
    close = {"window": 1, "business_date": "2026-11-21", "by": "clerk"}
    first, second = await asyncio.gather(*(branch.gateway.close_window(**close) for _ in range(2)))  # type: ignore[arg-type]
    assert first == second
    assert branch.book.window == 2
    assert {(p.participant, p.net_minor) for p in first.positions} >= {("land", 100)}
    assert sum(position.net_minor for position in first.positions) == 0
    with pytest.raises(Unanswered) as caught:
        await branch.gateway.close_window(window=3, business_date="2026-11-21", by="clerk")
    assert caught.value.code == "window_not_open"
    with pytest.raises(Unanswered):
        await branch.gateway.close_window(window=1, business_date="2026-11-22", by="clerk")


def test_every_problem_says_what_mends_it() -> None:
    """An error without a mend is a call to the bank."""
    assert all(problem.mend.endswith(".") and problem.title for problem in PROBLEMS.values())
    assert all(
        (problem.status in (408, 429, 500, 503, 507)) == (problem.retry_after_s > 0)
        for problem in PROBLEMS.values()
    )


async def test_no_window_is_closed_before_there_is_an_epoch(tmp_path: Path) -> None:
    """A record without an epoch has no place in any journal: writing one ended the process."""
    branch = Branch(tmp_path)
    writing = asyncio.create_task(branch.pen.run())
    with pytest.raises(Unanswered) as refused:
        await branch.gateway.close_window(window=branch.book.window, business_date="2026-11-21", by="clerk")
    assert refused.value.code == "not_clearing"
    assert branch.pen.failure is None
    branch.pen.close()
    await writing
    branch.history.close()
    branch.store.close()
