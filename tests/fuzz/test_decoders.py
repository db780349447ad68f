"""Whatever a peer, a client or a rotted disk sends: only the documented error, in bounded time, with nothing
changed.

The long campaign, guided by coverage:
    python -m tests.fuzz --seconds 60
"""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutation import TOKENS, mutated
from tests.fuzz.target import Target, took
from tests.fuzz.targets import TARGETS

EXAMPLES, SLOW_EXAMPLES = 80, 25


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_true_samples_are_taken(target: Target) -> None:
    """Samples that are refused at the door would let the mutations test nothing behind it."""
    samples = target.samples()
    assert samples
    for sample in samples:
        assert took(target, sample), sample


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_rubbish_that_has_hurt_before_is_refused_in_order(target: Target) -> None:
    """Depths, lengths, half characters and huge numbers, alone and behind every sample."""
    for token in (b"", *TOKENS):
        took(target, token)
        for sample in target.samples()[:3]:
            took(target, sample + token)
            took(target, sample[: len(sample) // 2] + token + sample[len(sample) // 2 :])


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_changed_samples_raise_nothing_but_what_is_documented(target: Target) -> None:
    """An exception of another kind ends a beat or a start that should have said what is wrong."""
    samples = target.samples()

    @settings(max_examples=SLOW_EXAMPLES if target.slow else EXAMPLES)
    @given(sample=st.sampled_from(samples), seed=st.integers(0, 2**32), noise=st.binary(max_size=40))
    @example(sample=b"", seed=0, noise=b"\xff")
    def play(sample: bytes, seed: int, noise: bytes) -> None:
        rng = random.Random(seed)
        took(target, mutated(sample, rng, samples))
        took(target, mutated(sample, rng, [*samples, noise or b"\x00"]))
        took(target, noise)

    play()
