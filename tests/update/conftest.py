"""A centre with releases and a machine that takes them."""

from pathlib import Path

import pytest

from tests.update.appliance import Appliance, Releases


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    """A repository without releases."""
    return Releases(tmp_path)


@pytest.fixture
def appliance(tmp_path: Path, releases: Releases) -> Appliance:
    """A machine of version 1.0.0."""
    return Appliance(tmp_path / "machine", releases.first_root, releases.source)
