"""Boxes come back at once: a few in every run of the tests; two hundred take minutes, so only with
`-m slow`."""

from pathlib import Path

import pytest

from tests.hub.places import PostgresPlace
from tests.hub.storm import storm

RECORDS = 20_000
GROWTH_MAX = 1.5


def test_boxes_return_to_two_hubs_of_which_one_is_killed(postgres: PostgresPlace, tmp_path: Path) -> None:
    """The storm in small: what was answered is kept once, and the books hold."""
    figures = storm(postgres, tmp_path, boxes=6, hubs=2, records=360, kill=True)
    assert figures.records_kept == figures.records_sent


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_two_hundred_boxes_return_to_three_hubs_of_which_one_is_killed(
    postgres: PostgresPlace, tmp_path: Path
) -> None:
    """Every record is kept once, no money is made or lost, whoever died in the middle."""
    figures = storm(postgres, tmp_path, boxes=200, hubs=3, records=RECORDS, kill=True)
    assert figures.records_kept == figures.records_sent


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_a_hubs_memory_is_bounded_however_many_boxes_return(postgres: PostgresPlace, tmp_path: Path) -> None:
    """As many records from ten times the boxes take hardly more of it."""
    used = []
    for boxes in (20, 200):
        folder = tmp_path / str(boxes)
        folder.mkdir()
        postgres.start_afresh()
        used += storm(postgres, folder, boxes=boxes, hubs=1, records=RECORDS, kill=False).rss_max_bytes
    assert used[1] < used[0] * GROWTH_MAX
