"""Where a claim comes from without a person's typing: systemd's credentials, or a stick.

The stick is mounted by systemd (`run-edgegw\\x2dstick.mount`) once one with the label EDGEGW is plugged in,
so that nothing here may mount; a test gives a folder. What is read is bounded, and never said.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from edgegw.core.enrolment import CLAIM_BYTES_MAX, Claim, EnrolmentError, decode_claim
from edgegw.foreign_files import open_regular

CREDENTIAL: Final = "edgegw.claim"
CREDENTIAL_SOURCE: Final = "credential"
STICK_SOURCE: Final = "stick"
PAGE_SOURCE: Final = "page"
STICK_CLAIM: Final = Path("edgegw/claim.json")
"""Where it lies on a stick."""


class Found(NamedTuple):
    """A claim that somebody brings."""

    source: str
    body: bytes
    claim: Claim | None
    problem: str = ""
    """Why it is none."""


def read_claim(source: str, body: bytes) -> Found:
    """What is brought, read; nothing of it is kept."""
    try:
        return Found(source, body.strip() + b"\n", decode_claim(body.strip()))
    except EnrolmentError as problem:
        return Found(source, body, None, f"{problem}; copy the claim again, or ask the centre for another")


def lying_there(stick: Path) -> Iterator[Found]:
    """The claims that lie ready now: the unit's credential, and the stick's."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    places = [(STICK_SOURCE, stick, STICK_CLAIM.parts)]
    if folder:
        places.append((CREDENTIAL_SOURCE, Path(folder), (CREDENTIAL,)))
    for source, place, names in places:
        try:
            with open_regular(place, *names) as file:
                body = file.read(CLAIM_BYTES_MAX + 1)
        except OSError:
            continue
        if body.strip(b"\0 \r\n"):
            yield read_claim(source, body)
