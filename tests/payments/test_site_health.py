"""Settings that are not well in their first minutes are left again; what was wanted, or what a stranger
sends, is no reason."""

import msgspec
import pytest

from edgegw.payments.site_health import SiteHealth, Watch

OLD, NEW = "11" * 32, "22" * 32
UNKNOWN, LIMITED = "debit_account_not_found", "exceeds_payment_limit"


def a_health(*, probation_s: int = 120) -> SiteHealth:
    """After ten minutes of 5 good requests a second by the old settings."""
    health = SiteHealth(probation_s=probation_s, requests_min=20, refused_percent_more=20)
    for _ in range(600):
        for _ in range(5):
            health.decided("")
        assert health.second(OLD) == ""
    return health


def test_payments_that_name_what_is_no_longer_known_are_found() -> None:
    """Half of the payers are missing from the new settings."""
    health = a_health()
    assert health.second(NEW) == ""
    said = []
    for _ in range(10):
        for number in range(6):
            health.decided(UNKNOWN if number % 2 else "")
        said.append(health.second(NEW))
    assert any("not known" in one for one in said)


@pytest.mark.parametrize("code", [LIMITED, "account_blocked", "insufficient_funds", ""])
def test_what_limits_and_lists_refuse_is_no_reason(code: str) -> None:
    """A list against a fraud that is under way must not be undone by the fraud."""
    health = a_health()
    for _ in range(130):
        for _ in range(10):
            health.decided(code)
        assert health.second(NEW) == ""


def test_a_share_that_was_there_before_is_no_reason() -> None:
    """A till that has always named a wrong account is not the settings' fault."""
    health = SiteHealth(probation_s=120, requests_min=20, refused_percent_more=20)
    for second in range(200):
        for number in range(6):
            health.decided(UNKNOWN if number % 2 else "")
        assert health.second(OLD if second < 100 else NEW) == ""


def test_a_program_that_fails_under_new_settings_is_found() -> None:
    """An error of its own that was not there before."""
    health = a_health()
    health.second(NEW)
    for _ in range(3):
        health.failed()
    assert "failed on 3" in health.second(NEW)


def test_nobody_let_in_any_more_is_found() -> None:
    """All clients' keys are wrong: none of them is served, and they knock."""
    health = a_health()
    health.second(NEW)
    said = []
    for _ in range(5):
        for _ in range(5):
            health.turned_away()
        said.append(health.second(NEW))
    assert "nobody is let in" in said[-1]


def test_a_stranger_who_knocks_is_no_reason_while_clients_are_served() -> None:
    """Or anybody could take a box back to older settings."""
    health = a_health()
    for _ in range(120):
        health.decided("")
        for _ in range(1_000):
            health.turned_away()
        assert health.second(NEW) == ""


def test_after_the_probation_nothing_is_judged() -> None:
    """What is wrong later has another cause."""
    health = a_health(probation_s=10)
    for _ in range(11):
        assert health.second(NEW) == ""
    for _ in range(100):
        health.decided(UNKNOWN)
    assert health.second(NEW) == ""


def test_a_start_is_no_change_of_settings() -> None:
    """There is nothing before it to compare with, nor to return to."""
    health = SiteHealth(probation_s=60, requests_min=1, refused_percent_more=1)
    health.second(OLD)
    for _ in range(50):
        health.decided(UNKNOWN)
    assert health.second(OLD) == ""


def test_a_watch_goes_on_in_the_next_process() -> None:
    """What was seen before and since counts on, and so does the time."""
    health = a_health(probation_s=10)
    for _ in range(3):
        health.failed()
        health.failed()
        said = health.second(NEW)
    first = health.watch
    assert "failed on 6" in said
    health = SiteHealth(probation_s=10, requests_min=20, refused_percent_more=20)
    health.resume(msgspec.json.decode(msgspec.json.encode(first), type=Watch))
    assert "failed on 6" in health.second(NEW)
    for _ in range(first.seconds_left - 1):
        assert health.second(NEW)
    assert health.second(NEW) == ""


def test_settings_under_which_the_process_ends_again_and_again_are_left() -> None:
    """It dies of them at each start; nothing else would ever be seen."""
    watch = a_health().watch
    said = []
    for _ in range(5):
        health = SiteHealth(probation_s=120, requests_min=20, refused_percent_more=20)
        health.resume(watch)
        said.append(health.second(NEW))
        watch = health.watch
    assert said[:3] == ["", "", ""]
    assert "ended 3 times" in said[3]


def test_a_restart_later_on_is_no_reason() -> None:
    """The watch is over: a technician may start the box as often as it takes."""
    health = a_health(probation_s=1)
    health.second(NEW)
    for _ in range(5):
        watch, health = health.watch, SiteHealth(probation_s=1, requests_min=20, refused_percent_more=20)
        health.resume(watch)
        assert health.second(NEW) == ""
