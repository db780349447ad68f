"""Each class of drill once; two hundred of them are `python -m tests.drills --count 200`."""

import pytest

from tests.drills.classes import CLASSES
from tests.drills.run import run


@pytest.mark.parametrize("name", CLASSES)
def test_a_past_that_came_back_is_fenced_and_mended(name: str) -> None:
    """A box, hub or disk that was taken back to its past would lose money, or spend it twice."""
    finding = run(name, seed=1)
    assert not finding, finding
