"""Each role of the collection by its molecule scenario: converge, again without a change, verify."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab import scenarios
from tests.lab.controller import ANSIBLE
from tests.lab.skips import FLEET, skip_without

pytestmark = [pytest.mark.lab_long, pytest.mark.xdist_group("fleet"), pytest.mark.timeout(3_600)]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[scenarios.Scenarios]:
    """Hosts for all scenarios."""
    skip_without(FLEET)
    with scenarios.running(tmp_path_factory.mktemp("molecule")) as running:
        yield running


@pytest.mark.parametrize("name", scenarios.NAMES)
def test_the_scenario_passes(hosts: scenarios.Scenarios, name: str) -> None:
    """A role that was only read by a linter is a promise."""
    hosts.test(name)


def test_each_role_has_a_scenario() -> None:
    """One that has none is tried by the site that takes it first."""
    roles = {path.name for path in (ANSIBLE / "roles").iterdir()}
    # Boxes, hubs and mirrors come by it.
    assert roles - {"program"} <= set(scenarios.NAMES)
