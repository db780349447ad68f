"""Settling: transfers that bring positions to zero, and a queue that takes nobody beyond its cover."""

from __future__ import annotations

import itertools
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgegw.core.settlement import Obligation, obligations_of, releasable

CNY = "CNY"
NAMES = ("city", "land", "bank", "shops")


@given(
    moves=st.lists(
        st.tuples(
            st.sampled_from(NAMES),
            st.sampled_from(NAMES),
            st.sampled_from((CNY, "EUR")),
            st.integers(1, 2**63 - 1),
        ),
        max_size=30,
    )
)
def test_transfers_bring_every_position_to_zero(moves: list[tuple[str, str, str, int]]) -> None:
    """Whoever owes pays exactly that, whoever is owed gets exactly that, in as few transfers as there are
    participants."""
    positions: defaultdict[tuple[str, str], int] = defaultdict(int)
    for debtor, creditor, currency, amount in moves:
        positions[debtor, currency] -= amount
        positions[creditor, currency] += amount
    found = obligations_of(positions)
    paid = dict(positions)
    for one in found:
        assert one.amount_minor > 0
        paid[one.debtor, one.currency] += one.amount_minor
        paid[one.creditor, one.currency] -= one.amount_minor
    assert not any(paid.values())
    for currency in (CNY, "EUR"):
        count = sum(one.currency == currency for one in found)
        assert count <= max(0, sum(1 for (_, code), net in positions.items() if net and code == currency) - 1)
    assert found == obligations_of(dict(sorted(positions.items(), reverse=True)))


def test_positions_that_do_not_sum_to_zero_are_settled_by_nobody() -> None:
    """A unit that appears from nowhere must stop the cycle, not a participant's books."""
    with pytest.raises(ValueError, match="sum to 1"):
        obligations_of({("city", CNY): -4, ("land", CNY): 5})


obligations = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES), st.integers(1, 6)).filter(
        lambda one: one[0] != one[1]
    ),
    max_size=7,
)
covers = st.dictionaries(st.sampled_from(NAMES), st.integers(-3, 8))


def left(
    queue: list[Obligation], places: list[int], cover: dict[tuple[str, str], int]
) -> dict[tuple[str, str], int]:
    after = dict(cover)
    for place in places:
        one = queue[place]
        for who, amount in ((one.debtor, -one.amount_minor), (one.creditor, one.amount_minor)):
            if (who, CNY) in after:
                after[who, CNY] += amount
    return after


def allowed(queue: list[Obligation], places: list[int], cover: dict[tuple[str, str], int]) -> bool:
    """Nobody who pays ends below zero, and each debtor's transfers are the first ones of it."""
    after = left(queue, places, cover)
    payers = {(queue[place].debtor, CNY) for place in places}
    if any(after.get(payer, 0) < 0 for payer in payers):
        return False
    for name in NAMES:
        own = [place for place, one in enumerate(queue) if one.debtor == name]
        if [place for place in places if place in own] != own[: sum(place in own for place in places)]:
            return False
    return True


@given(wanted=obligations, cover=covers)
def test_the_queue_lets_as_much_through_as_any_choice_could(
    wanted: list[tuple[str, str, int]], cover: dict[str, int]
) -> None:
    """Against every choice there is: none is larger, and nobody is taken one minor unit beyond its cover."""
    queue = [Obligation(CNY, debtor, creditor, amount) for debtor, creditor, amount in wanted]
    limits = {(name, CNY): amount for name, amount in cover.items()}
    found = releasable(queue, limits)
    assert allowed(queue, found, limits)
    best = max(
        (
            list(choice)
            for size in range(len(queue) + 1)
            for choice in itertools.combinations(range(len(queue)), size)
            if allowed(queue, list(choice), limits)
        ),
        key=len,
    )
    assert len(found) == len(best)


def test_two_who_wait_for_each_other_are_settled_together() -> None:
    """Each could pay with what the other pays it: one after the other neither could, for ever."""
    queue = [Obligation(CNY, "city", "land", 100), Obligation(CNY, "land", "city", 100)]
    assert releasable(queue, {("city", CNY): 0, ("land", CNY): 0}) == [0, 1]


def test_a_small_transfer_does_not_overtake_a_large_one() -> None:
    """The oldest debt is paid first, though a newer one would fit."""
    queue = [Obligation(CNY, "city", "land", 100), Obligation(CNY, "city", "land", 1)]
    assert releasable(queue, {("city", CNY): 99}) == []
    assert releasable(queue, {("city", CNY): 100}) == [0]
    assert releasable(queue, {("city", CNY): 101}) == [0, 1]
