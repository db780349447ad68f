"""The versions of images: MAJOR.MINOR.PATCH, and +BUILD for the same program built again.

Unlike in semantic versioning a build counts: 0.1.0 < 0.1.0+1 < 0.1.0+2 < 0.1.1. Other forms are refused,
because two readers would order them differently.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

PATTERN: Final = r"^[0-9]{1,6}\.[0-9]{1,6}\.[0-9]{1,6}(\+[0-9]{1,9})?\Z"
_FORM: Final = re.compile(PATTERN)


class Version(NamedTuple):
    """A version; they compare as their numbers do."""

    major: int
    minor: int
    patch: int
    build: int


def version_of(text: str) -> Version:
    """The version that a text names; raises ValueError."""
    if not _FORM.match(text):
        raise ValueError(f"{text!r} is no version; write 1.2.3, or 1.2.3+4 for its fourth build")
    numbers, _, build = text.partition("+")
    major, minor, patch = (int(part) for part in numbers.split("."))
    return Version(major, minor, patch, int(build or 0))
