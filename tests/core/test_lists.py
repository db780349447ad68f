"""Lists as sorted blocks: what is on them, and what is no list."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgegw.core.journal import sm3
from edgegw.core.lists import ENTRY_BYTES, HeldList, block_of, check_block, entry

IDS = st.lists(st.text(min_size=1, max_size=8), max_size=12)


@settings(max_examples=30)
@given(IDS, IDS)
def test_a_list_has_its_ids_and_no_others(ids: list[str], others: list[str]) -> None:
    """As a set has, of one kind of id alone."""
    block = block_of("card", ids)
    held = HeldList(block)
    check_block(block, digest=sm3(block).hex(), entries=len(set(ids)))
    assert len(held) == len(set(ids))
    for whose in {*ids, *others}:
        assert held.has("card", whose) == (whose in ids)
        assert not held.has("terminal", whose)


def test_a_block_that_is_not_the_one_named_is_no_list() -> None:
    """Another digest, another length, another order."""
    block = block_of("card", ("a", "b", "c"))
    backwards = b"".join(sorted((entry("card", one) for one in "abc"), reverse=True))
    for sent, digest, entries in (
        (block, sm3(backwards).hex(), 3),
        (block, sm3(block).hex(), 4),
        (block[:-1], sm3(block[:-1]).hex(), 3),
        (backwards, sm3(backwards).hex(), 3),
        (block[:ENTRY_BYTES] * 2, sm3(block[:ENTRY_BYTES] * 2).hex(), 2),
    ):
        with pytest.raises(msgspec.ValidationError):
            check_block(sent, digest=digest, entries=entries)
