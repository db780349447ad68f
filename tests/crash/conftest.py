"""A crash test may be skipped only for a reason on the list of `machine.py`."""

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.crash.machine import MAY_LACK

HERE = Path(__file__).parent


def unlisted(reason: str) -> bool:
    """Whether a skip's reason is not on the list."""
    return reason.removeprefix("Skipped: ") not in MAY_LACK.values()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip for any other reason into a failure."""
    report = yield
    if report.skipped and item.path.is_relative_to(HERE) and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        if unlisted(reason):
            report.outcome = "failed"
            report.longrepr = f"skipped for a reason that is not in tests/crash/machine.py: {reason}"
    return report
