"""Sliding sums against a plain list of all payments, and their bounds."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from edgegw.core.counts import (
    COARSE_PARTS,
    EXACT_ENTRIES,
    NS_PER_S,
    Count,
    counted,
    is_over,
    taken_off,
    used,
)
from edgegw.core.records import Measure

SECONDS = 100
PERIOD_NS = SECONDS * NS_PER_S
MEASURE = Measure("card", "CNY", "always", "", SECONDS)

STEPS = st.lists(
    st.tuples(
        st.sampled_from((1, NS_PER_S // 10, NS_PER_S, 7 * NS_PER_S, 60 * NS_PER_S, PERIOD_NS - 1, PERIOD_NS)),
        st.integers(1, 50),
        st.booleans(),
    ),
    min_size=1,
    max_size=200,
)


def live(paid: list[tuple[int, int]], at_ns: int) -> tuple[int, int]:
    """Sum and number of what a list says to count."""
    amounts = [amount for when_ns, amount in paid if at_ns - when_ns < PERIOD_NS]
    return sum(amounts), len(amounts)


@settings(max_examples=150)
@given(STEPS)
def test_a_sliding_sum_is_what_a_list_says_or_a_little_more(
    steps: list[tuple[int, int, bool]],
) -> None:
    """Up to 64 payments in the period exactly; beyond, never less, and no more than 1/128 longer gives."""
    count: Count | None = None
    paid: list[tuple[int, int]] = []
    at_ns = 10**18
    for gap_ns, amount, gives_back in steps:
        at_ns += gap_ns
        found = used(count, MEASURE, since=0, at_ns=at_ns)
        wanted = live(paid, at_ns)
        assert found.amount_minor >= wanted[0]
        assert found.count >= wanted[1]
        if len(paid) <= EXACT_ENTRIES:
            assert (found.amount_minor, found.count) == wanted
        longest = live([(when + PERIOD_NS // COARSE_PARTS, one) for when, one in paid], at_ns)
        assert found.count <= longest[1]
        count = counted(count, MEASURE, since=0, at_ns=at_ns, amount_minor=amount)
        paid.append((at_ns, amount))
        if gives_back and len(paid) <= EXACT_ENTRIES:
            when_ns, first = paid[-1]
            less = taken_off(
                count,
                MEASURE,
                since=0,
                at_ns=at_ns,
                counted_at_ns=when_ns,
                amount_minor=first,
                count=1,
            )
            assert less is not None
            count = less
            paid.pop()
        assert len(count.entries) <= EXACT_ENTRIES + COARSE_PARTS + 1
    assert count is not None
    assert is_over(count, MEASURE, since=0, at_ns=at_ns + PERIOD_NS + 1)


def test_a_key_that_pays_without_end_stays_small() -> None:
    """A hundred thousand payments in one period are a few hundred entries, and none is forgotten."""
    count: Count | None = None
    for number in range(100_000):
        count = counted(count, MEASURE, since=0, at_ns=10**18 + number * 900_000, amount_minor=1)
    assert count is not None
    assert len(count.entries) <= EXACT_ENTRIES + COARSE_PARTS + 1
    at_ns = 10**18 + 100_000 * 900_000
    assert used(count, MEASURE, since=0, at_ns=at_ns).amount_minor == 100_000
