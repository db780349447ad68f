"""The report's checks on a day of three payments, made by hand: each fault must be found by its own check."""

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from edgegw.demo import checks
from edgegw.demo.answers import Answered, Opening
from edgegw.demo.checks import Evidence
from edgegw.demo.evidence import BoxFile, Day, HubFile, Record, key_of
from edgegw.demo.plan import BOX


def sm3(data: bytes) -> bytes:
    """The hash of the logs."""
    return hashlib.new("sm3", data).digest()


def journal(*documents: dict[str, Any]) -> list[Record]:
    """Records of epoch 1 with their leaves."""
    records, leaf = [], bytes(32)
    for seq, document in enumerate(documents):
        body = json.dumps(document).encode()
        leaf = sm3(b"\0" + leaf + body)
        records.append(Record(1, seq, leaf, body, document))
    return records


def payment(number: int, debit: str, credit: str, amount_minor: int, leg: list[Any]) -> dict[str, Any]:
    """A transfer's record."""
    request = {
        "kind": "payment",
        "id": f"{number:032x}",
        "debit_account_id": debit,
        "credit_account_id": credit,
        "amount_minor": amount_minor,
        "reference": f"demo-{number}",
    }
    by = "stand_in" if leg[0].startswith("risk:") else "allowance"
    return {
        "type": "transfer",
        "window": 1,
        "wall_ns": 1,
        "client": "tills",
        "request": request,
        "cleared_by": by,
        "legs": [leg],
    }


def answered(number: int, debit: str, credit: str, amount_minor: int, by: str) -> Answered:
    """What its client was told."""
    return Answered(
        number=number,
        phase="morning",
        story="till",
        way="http",
        client="tills",
        kind="payment",
        id=f"{number:032x}",
        debit=debit,
        credit=credit,
        amount_minor=amount_minor,
        currency="CNY",
        original="",
        outcome="cleared",
        cleared_by=by,
        record=f"1/{number}",
        sent_ns=1,
        answered_ns=2,
        body="{}",
    )


GRANT = {
    "type": "directive",
    "window": 1,
    "legs": [["centre:CNY", "ann", 100, 0, "", 0], ["centre:CNY", f"risk:{BOX}:CNY", 50, 0, "", 0]],
}
HELD = f"{1 << 96 | 3 << 32 | 1:032x}"


@pytest.fixture
def evidence() -> Evidence:
    """ann pays bob 30 and bob pays ann 10 by allowance; vic, at home elsewhere, pays bob 20 at the branch's
    risk."""
    risk = f"risk:{BOX}:CNY"
    documents = [
        GRANT,
        payment(1, "ann", "bob", 30, ["ann", "bob", 30, 0, "", 0]),
        payment(2, "bob", "ann", 10, ["bob", "ann", 10, 0, "", 0]),
        payment(3, "vic", "bob", 20, [risk, "bob", 20, 2, "", 0]),
        {"type": "directive", "window": 1, "legs": [[risk, "bob", 20, 4, HELD, 0]]},
    ]
    answers = [
        answered(1, "ann", "bob", 30, "allowance"),
        answered(2, "bob", "ann", 10, "allowance"),
        answered(3, "vic", "bob", 20, "stand_in"),
    ]
    opening = Opening(
        accounts={"ann": 200, "bob": 0, "vic": 60},
        homes={"ann": BOX, "bob": BOX, "vic": ""},
        currencies=dict.fromkeys(("ann", "bob", "vic"), "CNY"),
    )
    records = journal(*documents)
    left, right = (
        sm3(b"\1" + records[0].leaf + records[1].leaf),
        sm3(b"\1" + records[2].leaf + records[3].leaf),
    )
    head = {1: (5, sm3(b"\1" + sm3(b"\1" + left + right) + records[4].leaf))}
    hub = HubFile(
        records=records,
        heads=head,
        accounts={
            "ann": ("CNY", 180, 100),
            "bob": ("CNY", 40, 0),
            "vic": ("CNY", 40, 40),
            risk: ("CNY", 50, 20),
            "core:CNY": ("CNY", -310, -310),
        },
        outstanding={(1, "ann"): 80, (1, "bob"): 40, (1, risk): 30},
        counters={
            (1, "centre:CNY"): (0, 150, 0, 0),
            (1, "ann"): (0, 30, 0, 110),
            (1, "bob"): (0, 10, 0, 50),
            (1, risk): (0, 20, 0, 50),
        },
        stand_ins={"1/3": ("confirmed", "", True)},
        suspense=[],
    )
    day = Day(opening, {key_of(answer): answer for answer in answers}, [], [], [], [])
    return Evidence(day, BoxFile(list(records), dict(head), {1: 5}), hub)


SUMS: list[Callable[[Evidence], Iterator[str]]] = [
    checks.lost,
    checks.doubled,
    checks.unbalanced,
    checks.hub_unsound,
    checks.wrong_balances,
    checks.heads_apart,
]


def test_a_sound_day_gives_no_finding(evidence: Evidence) -> None:
    """A check that is red on a sound day would be switched off soon."""
    assert [finding for check in SUMS for finding in check(evidence)] == []


@pytest.mark.parametrize("where", ["box", "hub"])
def test_an_answer_without_its_record_is_lost(evidence: Evidence, where: str) -> None:
    """What was answered and is in one of the two databases only is lost all the same."""
    records = evidence.box.records if where == "box" else evidence.hub.records
    del records[1]
    [finding] = checks.lost(evidence)
    assert "answered cleared, absent" in finding


def test_a_record_that_says_otherwise_than_its_answer_is_lost(evidence: Evidence) -> None:
    """An edited amount must not count as the payment that was answered."""
    key = ("tills", f"{1:032x}")
    evidence.day.first[key] = msgspec.structs.replace(evidence.day.first[key], amount_minor=31)
    [finding] = checks.lost(evidence)
    assert "30" in finding
    evidence.day.first[key] = msgspec.structs.replace(
        evidence.day.first[key], amount_minor=30, outcome="refused", code="account_frozen"
    )
    [finding] = checks.lost(evidence)
    assert "the answer was refused" in finding


def test_a_second_record_of_one_identity_is_doubled(evidence: Evidence) -> None:
    """The same identity twice."""
    evidence.box.records.append(evidence.box.records[1])
    assert any("2 records" in finding for finding in checks.doubled(evidence))


def test_the_same_payment_under_another_identity_is_doubled(evidence: Evidence) -> None:
    """Money that moved twice for one request, hidden behind a fresh id."""
    said = json.loads(evidence.box.records[1].body)
    said["request"]["id"] = "f" * 32
    evidence.box.records.append(evidence.box.records[1]._replace(seq=5, said=said))
    [finding] = checks.doubled(evidence)
    assert "moved money 2 times" in finding


def test_money_that_nobody_asked_for_is_doubled(evidence: Evidence) -> None:
    """A movement without a request has no answer that could be counted."""
    del evidence.day.first["tills", f"{2:032x}"]
    [finding] = checks.doubled(evidence)
    assert "unasked" in finding


def test_a_balance_that_the_answers_do_not_give_is_found(evidence: Evidence) -> None:
    """One minor unit too much at the hub, kept in balance with the core."""
    evidence.hub.accounts["bob"] = ("CNY", 41, 1)
    evidence.hub.accounts["core:CNY"] = ("CNY", -311, -311)
    assert [finding.split(":")[0] for finding in checks.wrong_balances(evidence)] == ["bob"]
    assert list(checks.hub_unsound(evidence)) == []


def test_money_out_of_nowhere_is_found(evidence: Evidence) -> None:
    """Balances that do not sum to zero, allowances beyond a balance, a replica that is no replay."""
    evidence.hub.accounts["vic"] = ("CNY", 41, 41)
    evidence.hub.outstanding[1, "ann"] = 81
    evidence.hub.counters[1, "bob"] = (0, 10, 0, 51)
    findings = " / ".join(checks.hub_unsound(evidence))
    assert "all balances sum to 1" in findings
    assert "100 available and 81 outstanding are not 180" in findings
    assert "the replica says (0, 10, 0, 51)" in findings


def test_a_transfer_outside_its_window_is_found(evidence: Evidence) -> None:
    """Each transfer must be in exactly one window, the one that was open."""
    evidence.box.records[2].said["window"] = 2
    assert any("names window 2" in finding for finding in checks.unbalanced(evidence))


def test_an_edited_record_breaks_the_chain_and_the_comparison(evidence: Evidence) -> None:
    """A byte that was changed at the box is found without the box's help."""
    first = evidence.box.records[1]
    evidence.box.records[1] = first._replace(body=first.body + b" ")
    findings = " / ".join(checks.heads_apart(evidence))
    assert "record 1/1 differs" in findings
    assert "the chain of the box breaks at record 1/1" in findings


def test_a_log_that_the_hub_lacks_is_found_but_for_the_stop_itself(evidence: Evidence) -> None:
    """The snapshot of a clean stop comes after the line's end; a payment there would be lost."""
    leaf = sm3(b"\0" + evidence.box.records[-1].leaf + b'{"type":"snapshot"}')
    late = Record(1, 5, leaf, b'{"type":"snapshot"}', {"type": "snapshot"})
    evidence.box.records.append(late)
    assert list(checks.heads_apart(evidence)) == []
    evidence.box.records[-1] = late._replace(said={"type": "transfer"})
    assert any("the hub lacks 1" in finding for finding in checks.heads_apart(evidence))


def test_too_small_a_share_is_found(evidence: Evidence) -> None:
    """The centre cleared nothing here, and nobody cut the line."""
    findings = list(checks.too_few(evidence))
    assert findings[0].startswith("0 of 3 payments were cleared by centre")
    assert findings[1] == "the line was not cut and mended"


def test_a_repeat_with_another_answer_is_found(evidence: Evidence) -> None:
    """The first answer holds for ever, byte for byte."""
    first = evidence.day.first["tills", f"{1:032x}"]
    evidence.day.again.append(msgspec.structs.replace(first, again=True))
    assert list(checks.repeats(evidence)) == []
    evidence.day.again.append(msgspec.structs.replace(first, again=True, body="{ }"))
    assert len(list(checks.repeats(evidence))) == 1
