"""How the copy is, from what litestream answered and when."""

import pytest

from edgegw.replica.control import Position
from edgegw.replica.progress import Progress
from edgegw.replica.status import State


@pytest.fixture
def progress() -> Progress:
    """A litestream that began at second 100 and has copied two batches at second 101; alarm after 8 s."""
    progress = Progress(began_s=100.0, alarm_s=8.0)
    progress.answered(Position(2, 2), now_s=101.0, changed=1)
    return progress


def test_an_idle_ledger_is_no_alarm(progress: Progress) -> None:
    """A branch at night writes nothing; an alarm each night is one that nobody reads."""
    for second in range(102, 500):
        progress.answered(Position(2, 2), now_s=float(second), changed=1)
    assert progress.state(500.0) == (State.WELL, "")


def test_the_lag_is_the_age_of_the_oldest_change_that_waits(progress: Progress) -> None:
    """The newest change is always young; the oldest says what would be lost."""
    progress.answered(Position(3, 2), now_s=102.0, changed=2)
    progress.answered(Position(4, 3), now_s=103.0, changed=3)
    progress.answered(Position(5, 3), now_s=104.0, changed=4)
    assert progress.lag_s(106.0) == 3.0
    progress.answered(Position(5, 5), now_s=107.0, changed=4)
    assert progress.lag_s(120.0) == 0.0


def test_a_copy_that_only_follows_slowly_is_not_stuck(progress: Progress) -> None:
    """A busy hour over a thin line lags, and moves."""
    for step in range(40):
        progress.answered(Position(20 + step, 3 + step), now_s=102.0 + step, changed=step + 2)
    assert progress.lag_s(141.0) > 8.0
    assert progress.state(141.0)[0] is State.WELL


def test_a_copy_that_does_not_follow_is_stuck(progress: Progress) -> None:
    """The target takes nothing any more."""
    for second in range(102, 113):
        progress.answered(Position(second, 2), now_s=float(second), changed=second)
    state, reason = progress.state(112.0)
    assert state is State.STUCK
    assert "2 of 112" in reason


def test_a_ledger_that_moves_unread_is_stuck(progress: Progress) -> None:
    """Position and copy agree for ever when nothing is read any more."""
    for second in range(102, 113):
        progress.answered(Position(2, 2), now_s=float(second), changed=second)
    assert progress.state(112.0)[0] is State.STUCK


def test_complaints_are_told_and_then_forgotten(progress: Progress) -> None:
    """A word that was mended an hour ago sends the operator to the wrong place."""
    for second in range(102, 112):
        progress.complained("disk full", now_s=float(second))
        assert progress.state(second)[0] is (State.WELL if second < 111 else State.STUCK)
    assert "disk full" in progress.state(111.0)[1]
    progress.answered(Position(2, 2), now_s=112.0, changed=1)
    assert progress.state(113.0) == (State.WELL, "")


def test_one_that_never_answered_is_starting_and_then_silent() -> None:
    """A child that hangs at its start must not count as one that starts for ever."""
    progress = Progress(began_s=100.0, alarm_s=8.0)
    assert progress.state(107.0)[0] is State.STARTING
    assert progress.state(109.0)[0] is State.SILENT


def test_a_whole_copy_may_take_its_time_and_no_more() -> None:
    """The first copy of a large ledger takes minutes, in which litestream is neither silent nor stuck."""
    progress = Progress(began_s=100.0, alarm_s=8.0)
    for second in range(101, 130):
        progress.busy(now_s=float(second))
    assert progress.state(129.0, whole_copy_s=60.0)[0] is State.STARTING
    assert progress.state(129.0, whole_copy_s=10.0)[0] is State.STUCK
    for second in range(130, 150):
        progress.answered(Position(1, 0), now_s=float(second), changed=1)
    assert progress.state(149.0, whole_copy_s=60.0)[0] is State.WELL
    assert progress.state(149.0, whole_copy_s=10.0)[0] is State.STUCK
