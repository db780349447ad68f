"""Proofs out of a part of a tree: the same bytes as from the whole one."""

from hypothesis import given
from hypothesis import strategies as st

from edgegw.core.journal import consistency_proof, nodes_of, sm3
from edgegw.core.tiles import partial_proof

LEAVES = [sm3(bytes([number % 256, number // 256])) for number in range(600)]


@given(st.data())
def test_a_proof_to_a_head_that_is_not_held_differs_from_the_authors(data: st.DataObject) -> None:
    """Whoever holds a prefix and the proof from its end proves every shorter prefix as the author would."""
    size = data.draw(st.integers(1, len(LEAVES)), label="size")
    held_size = data.draw(st.integers(1, size), label="held_size")
    old_size = data.draw(st.integers(1, held_size), label="old_size")
    whole = nodes_of(LEAVES[:size])
    held = nodes_of(LEAVES[:held_size])
    proof = partial_proof(
        old_size,
        held_size=held_size,
        size=size,
        held_proof=consistency_proof(held_size, size, whole),
        node=held,
    )
    assert proof == consistency_proof(old_size, size, whole)
