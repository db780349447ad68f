"""Levels over time: they rise by agreement, fall by calm, never flap, and no sensor stops payments alone."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgegw.observe.checks import CHECKS, LEDGER, Check, Level, Limits, checks
from edgegw.observe.health import CALM_S_MAX, RISE_READINGS, SUBJECTS_MAX, Health, Judge, judged_once
from edgegw.observe.readings import Reading

LIMITS = Limits(
    payments_bytes_min=32 << 20,
    memory_percent_min=10,
    temperature_celsius_max=90,
    wear_percent_max=80,
    clock_ahead_seconds_max=300,
    calm_seconds=120,
)
KNOWN = checks(LIMITS)
SAMPLE_S = 5.0
ENDANGERS = {"memory", "read_only", "file_system_errors"}
"""What may stop payments: a disk that takes no writes or loses them, and no memory to write with."""

COUNTED = ("file_system_errors", "io_errors")

values = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True), st.integers(0, 120).map(float))


def _levels(judge: Judge, values: Sequence[float | None]) -> list[Level]:
    return [judge.take(value, number * SAMPLE_S) for number, value in enumerate(values)]


def _changes(levels: Sequence[Level]) -> int:
    return sum(1 for before, after in pairwise(levels) if before is not after)


def test_the_checks_that_may_stop_payments_are_those_that_endanger_the_ledger() -> None:
    """A thermometer or a worn-out flash cell that stops a branch is worse than what it warns of."""
    assert {check.name for check in KNOWN.values() if Level.REFUSE in check.thresholds} == ENDANGERS


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_check_says_what_mends_it_and_its_thresholds_rise_with_the_level(check: Check) -> None:
    """A warning without a mend is noise, and one that skips a tier would refuse payments first."""
    known = KNOWN[check.name]
    ordered = [known.thresholds[level] for level in sorted(known.thresholds)]
    assert ordered == sorted(ordered, reverse=known.is_low_bad)
    assert bool(known.mend) == bool(known.thresholds)


@given(st.lists(st.tuples(st.sampled_from(sorted(KNOWN)), st.sampled_from(["", LEDGER, "x"]), values)))
@settings(max_examples=60, deadline=None)
def test_no_reading_of_any_sensor_but_those_refuses_payments(readings: list[tuple[str, str, float]]) -> None:
    """Whatever nonsense a sensor says, for however long."""
    health = Health(LIMITS)
    made = [Reading(check=check, subject=subject, value=value) for check, subject, value in readings]
    for number in range(2 * RISE_READINGS):
        health.take(made, number * SAMPLE_S)
    refusing = {one.check for one in health.standings if one.level == "refuse"}
    assert refusing <= ENDANGERS
    assert health.level(of=lambda check: check.name not in ENDANGERS) < Level.REFUSE


@given(st.lists(values, max_size=200), st.sampled_from(sorted(KNOWN)))
@settings(max_examples=60, deadline=None)
def test_a_level_rises_only_after_enough_readings_in_a_row(found: list[float | None], name: str) -> None:
    """One wild reading must change nothing."""
    check = KNOWN[name]
    judge = Judge(check, LEDGER, calm_s=120.0)
    before = Level.WELL
    for number, value in enumerate(found):
        level = judge.take(value, number * SAMPLE_S)
        if level > before:
            last = found[number + 1 - RISE_READINGS : number + 1]
            assert len(last) == RISE_READINGS
            assert all(one is not None and check.beyond(one, LEDGER) >= level for one in last)
        before = level


@given(st.lists(st.sampled_from([0.0, 1.0, 1.9, 2.1, 3.0, 4.9, 6.0, 9.0, 11.0, 50.0, None]), max_size=150))
@settings(max_examples=40, deadline=None)
def test_after_an_hour_of_good_readings_everything_is_undone(found: list[float | None]) -> None:
    """What was shed, paused or refused for a moment's need would stay so for ever."""
    judge = Judge(KNOWN["memory"], "", calm_s=120.0)
    _levels(judge, found)
    start_s = len(found) * SAMPLE_S
    for number in range(int(CALM_S_MAX / SAMPLE_S) + 2):
        level = judge.take(90.0, start_s + number * SAMPLE_S)
    assert level is Level.WELL


@given(st.lists(st.tuples(st.sampled_from([1.0, 4.0, 9.0, 50.0]), st.integers(1, 60)), max_size=60))
@settings(max_examples=60, deadline=None)
def test_readings_that_swing_never_make_the_level_flap(swings: list[tuple[float, int]]) -> None:
    """Each change sheds, pauses or journals something: in any hour there are a handful of them."""
    levels = _levels(
        Judge(KNOWN["memory"], "", calm_s=120.0), [value for value, count in swings for _ in range(count)]
    )
    hour = int(3600 / SAMPLE_S)
    for start in range(0, len(levels), hour // 4):
        # A fall needs 2, then 4, 8, 16 and 32 calm minutes; each rise and fall has at most three steps.
        assert _changes(levels[start : start + hour]) <= 3 * 2 * 5


def test_a_reading_between_threshold_and_clear_of_it_keeps_the_level() -> None:
    """Without a gap the boundary itself would be the swing."""
    judge = Judge(KNOWN["memory"], "", calm_s=120.0)
    assert _levels(judge, [9.0] * RISE_READINGS)[-1] is Level.SHED
    assert {judge.take(11.0, 1_000.0 + number) for number in range(1_000)} == {Level.SHED}
    assert judge.take(13.0, 3_000.0) is Level.SHED
    assert judge.take(13.0, 3_121.0) is Level.WELL


def test_relapses_make_the_calm_longer() -> None:
    """A machine that fails every few minutes is not well between."""
    judge = Judge(KNOWN["memory"], "", calm_s=100.0)
    now_s, waited = 0.0, []
    for _ in range(4):
        for _ in range(RISE_READINGS):
            judge.take(9.0, now_s := now_s + 1)
        began_s = now_s
        while judge.take(50.0, now_s := now_s + 1):
            pass
        waited.append(now_s - began_s)
    assert waited == [101.0, 201.0, 401.0, 801.0]


def test_what_cannot_be_read_any_more_lets_go_of_payments() -> None:
    """A sensor that dies at its worst value must not hold the branch closed."""
    health = Health(LIMITS)
    for number in range(RISE_READINGS):
        health.take([Reading(check="memory", value=1.0)], number * SAMPLE_S)
    assert health.level() is Level.REFUSE
    for number in range(100):
        health.take([], 100 + number * SAMPLE_S)
    assert health.level() is Level.WELL


def test_errors_count_by_what_the_last_hour_has_added() -> None:
    """A disk that failed once in its youth would refuse payments for ever."""
    health = Health(LIMITS)

    def errors(count: int, now_s: float) -> Level:
        health.take([Reading(check="file_system_errors", subject=LEDGER, value=float(count))], now_s)
        return health.level()

    assert {errors(500, now_s) for now_s in (0.0, 5.0, 10.0, 15.0)} == {Level.WELL}
    assert [errors(501, now_s) for now_s in (20.0, 25.0, 30.0)][-1] is Level.PAUSE
    assert [errors(505, now_s) for now_s in (35.0, 40.0, 45.0)][-1] is Level.REFUSE
    assert {errors(505, float(now_s)) for now_s in range(60, 3_600, 30)} == {Level.REFUSE}
    later = [errors(505, float(now_s)) for now_s in range(3_600, 3_900, 30)]
    assert later[-1] is Level.WELL


def test_the_same_trouble_elsewhere_than_on_the_ledgers_disk_is_only_told() -> None:
    """A read-only /tmp is no reason to refuse a payment."""
    health = Health(LIMITS)
    for number in range(10):
        growing = [Reading(check=name, subject="anchor", value=9.0 * number) for name in COUNTED]
        health.take([Reading(check="read_only", subject="temporary", value=1.0), *growing], number * SAMPLE_S)
    assert {one.level for one in health.standings} == {"notice"}


def test_a_machine_with_a_hundred_sensors_has_few_lines() -> None:
    """Labels without end are what kills a metrics server."""
    health = Health(LIMITS)
    health.take([Reading(check="heat_margin", subject=f"chip{n}", value=50.0) for n in range(100)], 0.0)
    assert len(health.standings) == SUBJECTS_MAX


def test_one_look_takes_over_what_a_running_box_holds_to() -> None:
    """A person who asks would read that all is well while payments are refused."""
    held = {("memory", ""): (Level.REFUSE, "held since noon"), ("io_errors", LEDGER): (Level.PAUSE, "held")}
    found = judged_once(LIMITS, [Reading(check="memory", value=60.0)], held)
    assert [(one.check, one.level, one.threshold) for one in found] == [
        ("memory", "refuse", 2.0),
        ("io_errors", "pause", 20.0),
    ]
    assert found[0].told == "held since noon"
    assert found[0].mend
