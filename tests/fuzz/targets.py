"""All fuzz targets: one table, so that the quick run, the long campaign and the list are of the same."""

from __future__ import annotations

from typing import Final

from tests.fuzz import hub, peers, stored, ways_in
from tests.fuzz.target import Target

TARGETS: Final[tuple[Target, ...]] = (*ways_in.TARGETS, *peers.TARGETS, *stored.TARGETS, *hub.TARGETS)
BY_NAME: Final = {target.name: target for target in TARGETS}
