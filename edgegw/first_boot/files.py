"""What lies in a machine's folder while it is made a box: its settings are there once it is one.

The claim that is being tried and the settings made from it lie beside keys and certificate until the hub's
answer is on disk. The settings get their name last, so a cut at any point leaves either a box, or what the
next start goes on with. The ids of the claims that were used here stay for good, also over a factory reset:
a stick or a virtual machine may hand in the same one again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from edgegw.access.key_files import (
    drafts_of,
    remove_key_file,
    rename_key_file,
    replace_key_file,
    shred_key_file,
)
from edgegw.core.enrolment import CLAIM_BYTES_MAX, Claim, EnrolmentError, decode_claim
from edgegw.core.records import UNREADABLE
from edgegw.factory_reset import RECORD_NAME

SPENT_MAX: Final = 64
"""So many ids of used claims are kept, the newest: no machine is enrolled more often."""


class Enrolment(msgspec.Struct, frozen=True, kw_only=True):
    """How the machine became a box, kept beside its settings; they were not written by a person."""

    claim: str
    """The claim's id."""
    source: str
    at_s: int
    """By the machine's clock."""
    edgegw: str
    """The program's version."""


class Files:
    """A machine's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder: Final = folder
        self.settings: Final = folder / "box.toml"
        self.draft: Final = folder / "enrolling.toml"
        self._record: Final = folder / RECORD_NAME
        self._claim: Final = folder / "claim.json"
        self._spent: Final = folder / "spent-claims.json"

    @property
    def is_done(self) -> bool:
        """Whether the machine is a box."""
        return self.settings.exists()

    def claim(self) -> Claim | None:
        """The claim that is being tried; None where there is none, or its file was cut short."""
        try:
            with self._claim.open("rb") as file:
                return decode_claim(file.read(CLAIM_BYTES_MAX + 1).strip())
        except (OSError, EnrolmentError):
            return None

    def keep_claim(self, body: bytes) -> None:
        """Try this claim from now on, over any power cut; raises KeyFileError."""
        replace_key_file(self._claim, body)

    def destroy_claim(self) -> None:
        """Try it no more, and leave none that was half-written; raises KeyFileError."""
        for path in (*drafts_of(self._claim), self._claim):
            shred_key_file(path)

    def spent(self) -> list[str]:
        """The ids of the claims that were used here, the newest last."""
        try:
            return msgspec.json.decode(self._spent.read_bytes(), type=list[str])
        except (OSError, *UNREADABLE):
            return []

    def finish(self, enrolment: Enrolment) -> None:
        """Make the machine a box, whose certificate is in its place; raises KeyFileError."""
        if enrolment.claim:
            spent = [*(one for one in self.spent() if one != enrolment.claim), enrolment.claim]
            replace_key_file(self._spent, msgspec.json.encode(spent[-SPENT_MAX:]))
            replace_key_file(self._record, msgspec.json.encode(enrolment))
        self.destroy_claim()
        rename_key_file(self.draft, self.settings)

    def drop_draft(self) -> None:
        """Take the settings away that are not in force yet; raises KeyFileError."""
        for path in (*drafts_of(self.draft), self.draft):
            remove_key_file(path)
