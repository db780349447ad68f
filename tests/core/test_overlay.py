"""Layers: what is read through them, merged and thrown away."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgegw.core.overlay import Deadlines, Overlay

KEYS = st.integers(0, 6)
VALUES = st.integers(1, 9)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), KEYS, VALUES),
        st.tuples(st.just("remove"), KEYS, st.just(0)),
        st.tuples(st.sampled_from(["open", "merge", "drop"]), st.just(0), st.just(0)),
    ),
    max_size=40,
)


@given(start=st.dictionaries(KEYS, VALUES), operations=OPERATIONS)
def test_a_layer_differs_from_a_copy(start: dict[int, int], operations: list[tuple[str, int, int]]) -> None:
    """A stack of layers behaves as a stack of copies: merging takes the copy, dropping forgets it."""
    base = dict(start)
    layers: list[dict[int, int] | Overlay[int, int]] = [base]
    copies = [dict(start)]
    for action, key, value in operations:
        top = layers[-1]
        if action == "open":
            layers.append(Overlay(top))
            copies.append(dict(copies[-1]))
        elif isinstance(top, Overlay):
            if action == "set":
                top[key] = value
                copies[-1][key] = value
            elif action == "remove":
                top.remove(key)
                copies[-1].pop(key, None)
            else:
                layers.pop()
                taken = copies.pop()
                if action == "merge":
                    top.merge()
                    copies[-1] = taken
        for layer, copy in zip(layers, copies, strict=True):
            assert dict(layer.items()) == copy
            assert [layer.get(key) for key in range(7)] == [copy.get(key) for key in range(7)]
            assert [key in layer for key in range(7)] == [key in copy for key in range(7)]


def test_a_removed_key_is_still_read() -> None:
    """A removed key is missing to every kind of reading, though the base still has it."""
    layer = Overlay(Overlay({1: 10}))
    layer.remove(1)
    assert layer.get(1) is None
    assert 1 not in layer
    with pytest.raises(KeyError):
        layer[1]
    layer[1] = 11
    assert layer[1] == 11


def test_a_removal_stops_halfway_down() -> None:
    """A removal that is merged layer by layer arrives at the bottom as a removal, not as a value."""
    base = {1: 10, 2: 20}
    middle = Overlay(base)
    top = Overlay(middle)
    top.remove(1)
    top.merge()
    middle.merge()
    assert base == {2: 20}


def test_a_merged_layer_writes_its_changes_twice() -> None:
    """After a merge the layer is empty and can serve the next batch."""
    base = {1: 10, 2: 20}
    layer = Overlay(base)
    layer[1] = 11
    layer.remove(2)
    layer.merge()
    assert base == {1: 11}
    base[1] = 12
    base[2] = 22
    layer.merge()
    assert base == {1: 12, 2: 22}
    assert list(layer.changes()) == []


@given(
    entries=st.lists(st.tuples(st.integers(1, 20), st.integers(0, 3)), max_size=30),
    split=st.tuples(st.integers(0, 30), st.integers(0, 30)),
    at_ns=st.integers(0, 21),
)
def test_a_deadline_is_due_early_late_or_out_of_order(
    entries: list[tuple[int, int]], split: tuple[int, int], at_ns: int
) -> None:
    """However deadlines are spread over layers, exactly the due ones are found, earliest first."""
    low, high = sorted(split)
    base = Deadlines()
    middle = Deadlines(base)
    top = Deadlines(middle)
    deadlines = [(expires, created, at) for at, (expires, created) in enumerate(entries)]
    for at, deadline in enumerate(deadlines):
        (base if at < low else middle if at < high else top).add(deadline)
    expected = sorted(deadline for deadline in deadlines if deadline[0] <= at_ns)
    assert top.due(at_ns=at_ns) == expected
    top.forget(through_ns=at_ns)
    top.merge()
    middle.merge()
    assert base.due(at_ns=99) == sorted(deadline for deadline in deadlines if deadline[0] > at_ns)


def test_resolved_holds_pile_up_in_the_index() -> None:
    """Once most entries are left-overs, compacting drops them and keeps the live ones due."""
    base = Deadlines()
    for hold in range(1000):
        base.add((10_000 - hold, hold, hold))
    for _ in range(900):
        base.note_resolved()
    base.compact(lambda hold: 500 <= hold < 600)
    assert len(base) == 100
    assert [hold for _, _, hold in base.due(at_ns=9_450)] == list(range(599, 549, -1))
    assert [hold for _, _, hold in base.due(at_ns=10_000)] == list(range(599, 499, -1))


def test_expired_deadlines_are_visited_again_at_every_look() -> None:
    """Left-overs that come first are dropped by every clean-up, however few they are."""
    base = Deadlines()
    for hold in range(50):
        base.add((hold, hold, hold))
    base.compact(lambda hold: hold >= 20 and hold % 2 == 0)
    assert base.due(at_ns=19) == []
    assert len(base) == 30


def test_deadlines_without_a_base_are_merged() -> None:
    """Merging the lowest deadlines is an error of the caller that says what to merge instead."""
    with pytest.raises(ValueError, match="layer"):
        Deadlines().merge()
