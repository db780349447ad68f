"""What the tests of the lab share: one root of the appliance, and an order for two that run at a time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.lab.skips import MACHINE, SYSTEM, skip_without

if TYPE_CHECKING:
    from firmware.image import Image

_LONGEST_FIRST: Final = ("machine", "fleet")
"""Groups of tests (`xdist_group`) that play one after the other and last longest: whoever runs two tests at a
time begins with these, one for each."""


@pytest.fixture(scope="session")
def root() -> Path:
    """The root that the appliance's images hold, as a folder that nobody writes to; built once for all."""
    skip_without(SYSTEM)
    if given := os.environ.get("EDGEGW_LAB_ROOT", ""):
        return Path(given)
    from firmware.image import finished_root

    return finished_root("cloud").tree


@pytest.fixture(scope="session")
def server_image() -> Image:
    """The image for branch servers, and what writes it to their disks; built once for all."""
    skip_without(MACHINE)
    from firmware.image import image

    return image("hardware")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what lasts longest to the front."""
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    mark = item.get_closest_marker("xdist_group")
    group = mark.args[0] if mark is not None else ""
    return _LONGEST_FIRST.index(group) if group in _LONGEST_FIRST else len(_LONGEST_FIRST)
