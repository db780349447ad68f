"""Refunds, groups and what else becomes of a payment, over HTTP on a real box."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from edgegw.core.records import Mode
from tests.payments.branch import BAKER, BOX, PUPIL, Branch, HttpClient, open_branch, payment, payment_id

FUNDS_MINOR = 10_000
BATCHES = "/v1/merchants/Corner%20Shop%2012/batches"
A, B = b"0" * 32, b"1" * 32


@pytest.fixture
async def branch(tmp_path: Path) -> AsyncIterator[Branch]:
    async with open_branch(tmp_path) as opened:
        await opened.grant(BAKER, FUNDS_MINOR)
        yield opened


@pytest.fixture
async def till(branch: Branch) -> AsyncIterator[HttpClient]:
    client = HttpClient(branch)
    yield client
    await client.close()


async def refund(till: HttpClient, paid_id: str, amount_minor: int | None = None, **changes: Any) -> Any:
    body = {"id": payment_id(), **({} if amount_minor is None else {"amount_minor": amount_minor}), **changes}
    return await till.send("POST", f"/v1/payments/{paid_id}/refunds", body)


async def test_a_refund_is_answered_repeated_and_shown_with_its_payment(
    till: HttpClient, branch: Branch
) -> None:
    """It has an id of its own; a repeat is the same bytes; what is left can be given back later."""
    paid = payment(900)
    await till.send("POST", "/v1/payments", paid)
    given_id = payment_id()
    first = await refund(till, paid["id"], 250, id=given_id)
    assert (first.status, first.json["kind"], first.json["original_id"]) == (201, "refund", paid["id"])
    again = await refund(till, paid["id"], 250, id=given_id)
    assert (again.body, again.headers["Idempotent-Replay"]) == (first.body, "true")
    other = await refund(till, paid["id"], 251, id=given_id)
    assert (other.status, other.code, other.json["field"]) == (409, "id_reused", "amount_minor")
    assert (await refund(till, paid["id"], 651)).code == "exceeds_original"
    assert (await refund(till, paid["id"])).json["amount_minor"] == 650
    assert (branch.book.available(BAKER), branch.book.available(PUPIL)) == (FUNDS_MINOR, 0)
    shown = (await till.get(f"/v1/payments/{paid['id']}")).json
    assert [(event["type"], event["amount_minor"]) for event in shown["events"]] == [
        ("refund", 250),
        ("refund", 650),
    ]


async def test_nobody_refunds_anothers_payment(branch: Branch, till: HttpClient) -> None:
    """To another client the payment does not exist, and nothing of it shows."""
    paid = payment(900)
    await till.send("POST", "/v1/payments", paid)
    other = HttpClient(branch, "other")
    reply = await refund(other, paid["id"], 900)
    await other.close()
    assert (reply.status, reply.code) == (409, "original_not_found")
    assert branch.book.available(PUPIL) == 900


async def test_parallel_refunds_never_sum_to_more_than_the_payment(branch: Branch, till: HttpClient) -> None:
    """Sixty refunds and reversals at once, of seven each: what was paid comes back whole, once."""
    paid = payment(300)
    await till.send("POST", "/v1/payments", paid)
    asked = [refund(till, paid["id"], 7) for _ in range(30)]
    undone = [
        till.send("POST", "/v1/reversals", {"id": payment_id(), "original_id": paid["id"], "amount_minor": 7})
        for _ in range(30)
    ]
    replies = await asyncio.gather(*asked, *undone)
    assert sorted({reply.status for reply in replies}) == [201, 409]
    assert sum(reply.status == 201 for reply in replies) == 300 // 7
    assert branch.book.available(PUPIL) == 300 % 7


async def test_a_group_mixes_kinds_and_is_all_or_nothing(branch: Branch, till: HttpClient) -> None:
    """A hold is posted by the group that placed it, and a payment given back by the one that pays anew."""
    paid, hold, wrong = payment(500), payment(800, timeout_s=60), payment(100)
    await till.send("POST", "/v1/payments", paid)
    members = [
        {"kind": "refund", "id": payment_id(), "payment_id": paid["id"], "amount_minor": 500},
        {"kind": "payment", **payment(450)},
        {"kind": "hold", **hold},
        {"kind": "post", "id": payment_id(), "hold_id": hold["id"], "amount_minor": 700},
        {"kind": "reversal", "id": payment_id(), "original_id": hold["id"], "amount_minor": 50},
    ]
    first, second = [await till.send("POST", "/v1/groups", {"members": members}) for _ in range(2)]
    assert [item["status"] for item in first.json["answers"]] == [201] * 5
    assert (second.body, second.headers["Idempotent-Replay"]) == (first.body, "true")
    after = FUNDS_MINOR - 450 - 650
    assert branch.book.available(BAKER) == after

    late = [
        {"kind": "payment", **wrong},
        {"kind": "hold", **payment(1)},
        {"kind": "void", "id": payment_id(), "hold_id": hold["id"]},
        {"kind": "payment", **payment(1)},
    ]
    reply = await till.send("POST", "/v1/groups", {"members": late})
    codes = [item["problem"]["code"] for item in reply.json["answers"]]
    failed = "linked_event_failed"
    assert codes == [failed, failed, "hold_already_posted", failed]
    assert "member 2 of the group: hold_already_posted" in reply.json["answers"][0]["problem"]["message"]
    assert branch.book.available(BAKER) == after
    assert (await till.send("POST", "/v1/payments", wrong)).code == failed


async def test_a_group_asks_the_centre_for_whoever_is_to_give_back(branch: Branch, till: HttpClient) -> None:
    """The payee of a refund is short as a payer is: both are asked for, and the group is decided once."""
    paid = payment(500)
    await till.send("POST", "/v1/payments", paid)
    away = payment(500, debit_account_id=PUPIL, credit_account_id=BAKER)
    await till.send("POST", "/v1/payments", away)
    branch.centre.money = {PUPIL: 500, BAKER: 20_000}
    members = [
        {"kind": "refund", "id": payment_id(), "payment_id": paid["id"], "amount_minor": 300},
        {"kind": "payment", **payment(12_000)},
    ]
    reply = await till.send("POST", "/v1/groups", {"members": members})
    answers = [item["answer"] for item in reply.json["answers"]]
    assert [(answer["cleared_by"], answer["outcome"]) for answer in answers] == [("centre", "cleared")] * 2
    assert sorted(branch.centre.asked) == [(BAKER, 12_000), (PUPIL, 300)]


@pytest.mark.parametrize(
    ("member", "code", "field"),
    [
        ({"kind": "steal"}, "invalid_field", "members[1].kind"),
        ({}, "missing_field", "members[1].kind"),
        ({"kind": "post", "id": "0" * 32}, "missing_field", "members[1].hold_id"),
        ({"kind": "payment", **payment(0)}, "invalid_field", "members[1].amount_minor"),
        ({"kind": "void", "id": "0" * 32, "hold_id": "0" * 32, "x": 1}, "unknown_field", "members[1].x"),
    ],
)
async def test_a_bad_member_of_a_group_is_named_by_its_place(
    till: HttpClient, branch: Branch, member: dict[str, Any], code: str, field: str
) -> None:
    """Field and value, and the journal stays as it was."""
    before = branch.pen.desk.tip.size
    reply = await till.send("POST", "/v1/groups", {"members": [{"kind": "payment", **payment(1)}, member]})
    assert (reply.code, reply.json["field"]) == (code, field)
    assert branch.pen.desk.tip.size == before


@pytest.mark.parametrize(
    ("path", "inner"),
    [
        ("/v1/groups", b'"members":[{"kind":"void","kind":"void","id":"%s","hold_id":"%s"}]' % (A, B)),
        (BATCHES, b'"id":"%s","totals":[{"currency":"CNY","payments_count":1,"payments_count":2}]' % A),
    ],
)
async def test_a_field_named_twice_inside_a_list_is_refused(
    till: HttpClient, path: str, inner: bytes
) -> None:
    """The last would win in silence."""
    assert (await till.send("POST", path, b"{%s}" % inner)).code == "repeated_field"


async def test_the_line_down_a_group_stands_in_or_falls_whole(branch: Branch, till: HttpClient) -> None:
    """The branch stands in for a payment, not for a hold: so not for the group."""
    await branch.grant(f"risk:{BOX}:CNY", 50_000)
    branch.centre.up = False
    await branch.pen.change_mode(Mode.OFFLINE, "test")
    poor = {"debit_account_id": PUPIL, "credit_account_id": BAKER}
    payments = [{"kind": "payment", **payment(100, **poor)}, {"kind": "payment", **payment(100)}]
    reply = await till.send("POST", "/v1/groups", {"members": payments})
    by = [item["answer"]["cleared_by"] for item in reply.json["answers"]]
    assert by == ["stand_in", "allowance"]
    held = [{"kind": "payment", **payment(100)}, {"kind": "hold", **payment(300, **poor)}]
    reply = await till.send("POST", "/v1/groups", {"members": held})
    codes = [item["problem"]["code"] for item in reply.json["answers"]]
    assert codes == ["linked_event_failed", "stand_in_not_offered"]


SHOP = {"merchant": "Corner Shop 12", "terminal": "T1"}
ZERO = {
    f"{side}_{what}": 0
    for side in ("payments", "payment_reversals", "refunds", "refund_reversals")
    for what in ("count", "minor")
}


async def test_a_merchants_batch_is_closed_compared_repeated_and_listed(
    branch: Branch, till: HttpClient
) -> None:
    """What the clerk has counted against what the box has; the close is a record like a payment's."""
    paid = payment(900, **SHOP)
    await till.send("POST", "/v1/payments", paid)
    await till.send("POST", "/v1/payments", payment(70, merchant=SHOP["merchant"]))
    await refund(till, paid["id"], 250)
    counted = {**ZERO, "payments_count": 2, "payments_minor": 970, "refunds_count": 1, "refunds_minor": 250}
    opened = (await till.get(BATCHES)).json
    assert opened == {
        "open": {"number": 1, "totals": [{"currency": "CNY", **counted}]},
        "closed": [],
        "next_before": "",
    }
    said = {"currency": "CNY", "payments_count": 2, "payments_minor": 970, "refunds_minor": 250}
    close = {"id": payment_id(), "totals": [{**said, "refunds_count": 1}]}
    first, second = [await till.send("POST", BATCHES, close) for _ in range(2)]
    assert (first.status, second.body, second.headers["Idempotent-Replay"]) == (201, first.body, "true")
    batch = first.json["batch"]
    assert (batch["number"], batch["balanced"], batch["totals"][0]) == (
        1,
        True,
        {"currency": "CNY", **counted},
    )
    other = await till.send("POST", BATCHES, {**close, "totals": [said]})
    assert (other.code, other.json["field"]) == ("id_reused", "totals")

    own = {"id": payment_id(), "terminal": "T1", "totals": [said]}
    terminals = (await till.send("POST", BATCHES, own)).json["batch"]
    assert (terminals["balanced"], terminals["difference"]) == (
        False,
        "payments_count in CNY is 1 here and 2 there",
    )
    for _ in range(2):
        await till.send("POST", BATCHES, {"id": payment_id()})
    page = (await till.get(f"{BATCHES}?limit=2")).json
    assert (page["open"], [one["batch"]["number"] for one in page["closed"]]) == (
        {"number": 4, "totals": []},
        [3, 2],
    )
    rest = (await till.get(f"{BATCHES}?before={page['next_before']}")).json
    assert ([one["id"] for one in rest["closed"]], rest["next_before"]) == ([close["id"]], "")
    shown = (await till.get(f"/v1/payments/{close['id']}")).json
    assert shown["answer"] == first.json


@pytest.mark.parametrize(
    ("path", "changes", "code", "field"),
    [
        (BATCHES, {"totals": []}, "invalid_field", "totals"),
        (BATCHES, {"totals": [{"currency": "CNY"}] * 2}, "repeated_currency", "totals[1].currency"),
        (BATCHES, {"totals": [{"currency": "CNY", "paid": 1}]}, "unknown_field", "totals[0].paid"),
        (BATCHES, {"terminal": "4111111111111111"}, "card_number", "terminal"),
        ("/v1/merchants/4111111111111111/batches", {}, "card_number", "merchant"),
        ("/v1/merchants/%2e/batches", {}, "not_found", ""),
        ("/v1/merchants/-a/batches", {}, "invalid_field", "merchant"),
    ],
)
async def test_a_bad_close_is_named_and_closes_nothing(
    branch: Branch, till: HttpClient, path: str, changes: dict[str, Any], code: str, field: str
) -> None:
    """Field and mend, and the journal stays as it was."""
    before = branch.pen.desk.tip.size
    reply = await till.send("POST", path, {"id": payment_id(), **changes})
    assert reply.code == code
    assert reply.json.get("field", "") == field
    assert branch.pen.desk.tip.size == before


async def test_reversals_that_wait_are_listed_until_their_original_comes(
    branch: Branch, till: HttpClient
) -> None:
    """A reversal of a typing error waits for ever, but not in silence; in one batch with its original the
    reversal wins as well."""
    clerk = HttpClient(branch, "clerk")
    coming = payment(100)
    ids = [payment_id() for _ in range(3)]
    for kept_id, original_id in zip(ids, [payment_id(), coming["id"], payment_id()], strict=True):
        body = {"id": kept_id, "original_id": original_id}
        assert (await till.send("POST", "/v1/reversals", body)).status == 202
    page = (await clerk.get("/v1/reversals?limit=2")).json
    assert (page["waiting"], [one["id"] for one in page["reversals"]]) == (3, ids[:2])
    rest = (await clerk.get(f"/v1/reversals?after={page['next_after']}")).json
    assert ([one["id"] for one in rest["reversals"]], rest["next_after"]) == (ids[2:], "")
    assert (await till.send("POST", "/v1/payments", coming)).code == "already_reversed"
    left = (await clerk.get("/v1/reversals")).json
    assert [one["id"] for one in left["reversals"]] == [ids[0], ids[2]]
    assert (await till.send("GET", "/v1/reversals", headers={"Authorization": "Bearer no"})).status == 401

    later = payment(100)
    members = [
        {"kind": "reversal", "id": payment_id(), "original_id": later["id"]},
        {"kind": "payment", **later},
    ]
    reply = await till.send("POST", "/v1/groups", {"members": members})
    assert [item["problem"]["code"] for item in reply.json["answers"]] == [
        "linked_event_failed",
        "already_reversed",
    ]
    assert (await till.send("POST", "/v1/payments", later)).code == "already_reversed"
    assert (await clerk.get("/v1/reversals")).json["waiting"] == 2
    await clerk.close()
