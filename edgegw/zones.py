"""Time zones by their IANA names, from the pinned `tzdata` package and never from the system.

An appliance may have no zones of its own, and two machines must not disagree about one. Leaves out what a
zone is used for (`core.calendar`).
"""

from __future__ import annotations

import importlib.resources
from datetime import tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo


class UnknownZone(ValueError):
    """No time zone has this name; the text says what would help."""


@lru_cache(maxsize=64)
def load_zone(name: str) -> tzinfo:
    """The time zone of this IANA name; raises UnknownZone."""
    place = importlib.resources.files("tzdata").joinpath("zoneinfo", *name.split("/"))
    try:
        with place.open("rb") as data:
            return ZoneInfo.from_file(data, key=name)
    except (OSError, ValueError):
        raise UnknownZone(f"no time zone is named {name!r}; give an IANA name, as in Asia/Shanghai") from None
