"""Each class of drill once, half of them in the slow run; more are `python -m tests.drills --count 200`."""

import pytest

from tests.drills.classes import CLASSES
from tests.drills.run import run

NEAR_ANOTHER = {
    "restored_image_found_by_the_hub",
    "restored_image_found_by_the_mirror",
    "fork_shorter_than_what_the_hub_holds",
    "fork_longer_than_what_the_hub_holds",
    "hub_failed_over_without_its_last_commits",
    "image_from_before_the_epoch",
    "replacement_box",
}
"""Of these another class that is always run takes nearly the same way."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in NEAR_ANOTHER)) for name in CLASSES]
)
def test_a_past_that_came_back_is_fenced_and_mended(name: str) -> None:
    """A box, hub or disk that was taken back to its past would lose money, or spend it twice."""
    finding = run(name, seed=1)
    assert not finding, finding
