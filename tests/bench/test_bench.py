"""The bench itself: what failed, answered wrongly or lost an answer is compared with nothing."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import msgspec
import pytest

from tests.bench import hot_path, load, payments, results
from tests.bench.product import compare
from tests.bench.rounds import Comparison, Group, Lane, Measure, Unavailable, WrongAnswer, run_group

PAIR = Comparison(name="ours / peer", ours="ours", peer="peer", least=2.0)


class Played:
    """A lane that answers so many a second, and may go wrong."""

    def __init__(
        self, name: str, rates: list[float], *, opening: Any = None, fault: Any = None, lost: Any = None
    ):
        self.name = name
        self._rates, self._opening, self._fault, self._lost = iter(rates), opening, fault, lost

    def open(self, stack: ExitStack) -> None:
        if self._opening is not None:
            raise self._opening

    def measure(self, seconds: float) -> Measure:
        rate = next(self._rates)
        if self._fault is not None:
            raise self._fault
        return Measure(count=int(rate * seconds), seconds=seconds)

    def check(self) -> None:
        if self._lost is not None:
            raise self._lost


def ran(*lanes: Lane, rounds: int = 3) -> results.Results:
    """A run of one group with these lanes."""
    group = Group(name="played", about="", lanes=lambda _: lanes, comparisons=(PAIR,))
    found = run_group(group, place=None, rounds=rounds, seconds=1.0, tell=lambda _: None)  # type: ignore[arg-type]
    machine = {"processor": "", "cores": 2, "load": [0.0], "fsync_ms": {"p50": 0.1, "p99": 0.2}}
    return results.Results(
        began="", seconds=1.0, rounds=rounds, machine=machine, machine_after=machine, groups=[found]
    )


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    """A busy round hits both sides alike; the median of each side alone would compare one with another."""
    found = ran(Played("ours", [300, 30, 90]), Played("peer", [100, 20, 10]))
    [ratio] = found.groups[0].ratios
    assert ratio.spread is not None
    assert (ratio.spread.median, ratio.spread.least, ratio.spread.most) == (3.0, 1.5, 9.0)
    assert ratio.met
    assert not found.faults


@pytest.mark.parametrize(
    "wrong",
    [
        {"fault": WrongAnswer("payment 7 was answered 500")},
        {"lost": WrongAnswer("1 answered payments are not in the ledger")},
        {"opening": OSError("no such program")},
    ],
    ids=["answered wrongly", "lost what it answered", "did not start"],
)
@pytest.mark.parametrize("side", ["ours", "peer"])
def test_a_side_that_went_wrong_is_compared_with_nothing(side: str, wrong: dict[str, Any]) -> None:
    """The fastest way to answer is wrongly."""
    other = "peer" if side == "ours" else "ours"
    found = ran(Played(side, [9e9] * 3, **wrong), Played(other, [100] * 3))
    [ratio] = found.groups[0].ratios
    assert ratio.spread is None
    assert ratio.why_not.startswith(f"{side}: ")
    assert len(found.faults) == 1
    assert "NOT COMPARED" in results.table(found)
    assert results.warnings(found, {"ours / peer": 3.0})


def test_a_peer_that_this_machine_lacks_is_skipped_with_its_reason() -> None:
    """A missing program is nobody's fault, and no ratio."""
    found = ran(Played("ours", [100] * 3), Played("peer", [], opening=Unavailable("there is no nginx")))
    assert "there is no nginx" in results.table(found)
    assert found.groups[0].ratios[0].spread is None
    assert not found.faults


def test_a_ratio_that_fell_is_warned_of() -> None:
    """A step that makes the product slower is seen in the run after it."""
    found = ran(Played("ours", [200] * 3), Played("peer", [100] * 3))
    assert results.warnings(found, {"ours / peer": 2.2}) == []
    assert results.warnings(found, {"ours / peer": 2.6}) == ["ours / peer: was 2.60, is 2.00"]


def test_an_answered_payment_that_the_ledger_lacks_is_found() -> None:
    """And one that is there though nobody was answered."""
    one, other = b"1" * 16, b"2" * 16
    compare("the ledger", {one}, {one})
    with pytest.raises(WrongAnswer, match="1 answered payments are not in the ledger"):
        compare("the ledger", {one}, {one, other})
    with pytest.raises(WrongAnswer, match="1 payments are in the ledger that were not answered"):
        compare("the ledger", {one, other}, {one})


def answer(number: int, **changes: Any) -> bytes:
    """The product's answer to a payment, as far as the client reads it."""
    said = {
        "id": payments.identity(number),
        "outcome": "cleared",
        "cleared_by": "allowance",
        "amount_minor": payments.amount_minor(number),
    }
    return msgspec.json.encode(said | changes)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (b"201", answer(8)),
        (b"201", answer(7, amount_minor=1)),
        (b"201", answer(7, outcome="refused")),
        (b"201", answer(7, cleared_by="stand_in")),
        (b"409", answer(7)),
        (b"201", b"{}"),
        (b"201", b""),
    ],
)
def test_the_client_takes_no_other_answer_than_the_payments_own(status: bytes, body: bytes) -> None:
    """A repeat of another payment's answer, an error, nothing: none of them counts as answered."""
    load.right_answer(7, b"201", answer(7))
    with pytest.raises((load.Wrong, ValueError)):
        load.right_answer(7, status, body)


def test_ids_are_unique_and_time_ordered_and_bodies_have_one_length() -> None:
    """Repeats would be answered from the ledger, and measure nothing."""
    numbers = [*range(1, 5_000), *range(10**9, 10**9 + 5_000)]
    found = [payments.identity(number) for number in numbers]
    assert len(set(found)) == len(found)
    assert all(len(one) == 32 for one in found)
    assert [one[:12] for one in found] == sorted(one[:12] for one in found)
    assert len({len(payments.body(number)) for number in numbers}) == 1
    assert all(payments.payer(number) != payments.payee(number) for number in numbers)


def test_a_missed_target_is_told() -> None:
    """A target that is missed stands there with its figure."""
    told = results.table(ran(Played("ours", [100] * 3), Played("peer", [100] * 3)))
    assert "ours / peer: 1.00 [1.00 to 1.00], target 2  MISSED" in told


def test_a_flame_graph_has_a_line_for_each_function_that_divides_its_time() -> None:
    """Chains of callers would hide what they lead to, and a thread that waits is no work."""
    raw = (
        "MainThread;run (edgegw/app.py:9);pay (edgegw/core/decide.py:10);hash (edgegw/core/journal.py:4) 60\n"
        "MainThread;run (edgegw/app.py:9);pay (edgegw/core/decide.py:12) 30\n"
        "MainThread;run (edgegw/app.py:9);answer (edgegw/answer.py:7) 9\n"
        "MainThread;run (edgegw/app.py:9);seldom (edgegw/answer.py:7) 1\n"
        "Thread;commit (edgegw/ledger/writer.py:1);fdatasync (libc.so.6) 900\n"
    )
    told = [line.split() for line in hot_path.flame(raw)]
    assert [(words[0], words[2]) for words in told] == [
        ("100.0%", "run"),
        ("90.0%", "pay"),
        ("60.0%", "hash"),
        ("9.0%", "answer"),
    ]
    assert [len(words[1]) for words in told] == [30, 27, 18, 3]
