"""Enrolling a machine by a claim: its first settings, the asking, and what goes away again with a claim that
was no good or has been used.

Shared by the technician's command and by the first boot of an appliance. Leaves out what is asked
(`edgegw.enrolment`) and where a claim comes from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from edgegw import key_places
from edgegw.access.key_files import KeyFileError, shred_key_file, write_new_file
from edgegw.access.keys import VerifyingKey
from edgegw.access.tls import TlsError, timeless_context
from edgegw.config.box import BoxSettings
from edgegw.config.first_settings import first_settings
from edgegw.config.options import SettingsError
from edgegw.core.enrolment import Claim, Enrolled
from edgegw.enrolment import (
    Holder,
    Where,
    certificate_files,
    enrol,
    enrolled_table,
    hub_time_of,
    kind_of_profile,
    write_authorities,
)
from edgegw.machine import MachineClock
from edgegw.pinned import hub_key
from edgegw.tls_tables import PLAIN


def write_settings(path: Path, claim: Claim, *, keys: Mapping[str, object], for_branch: bool = False) -> None:
    """Write a box's first settings, whole or not at all; raises SettingsError and KeyFileError. keys and
    for_branch are those of `first_settings`."""
    try:
        text = first_settings(claim, keys=keys, for_branch=for_branch)
    except ValueError as problem:
        raise SettingsError(str(path), [str(problem)]) from None
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    write_new_file(path, text.encode(), mode=0o600)


def made_here(box: BoxSettings) -> list[Path]:
    """The files that an enrolment makes before it asks."""
    keys = [key_places.device_key_file(box), key_places.checkpoint_key_file(box)]
    more = [key_places.webhook_key_file(box), key_places.tls_key_file(box)]
    return [*(key.path for key in [*keys, *more]), *(key.path.with_suffix(".pub") for key in keys)]


def is_enrolled(box: BoxSettings) -> bool:
    """Whether a certificate is in its place; raises SettingsError."""
    try:
        certificate_files(box).life()
    except KeyFileError:
        return False
    return True


def enrol_by(box: BoxSettings, claim: Claim, *, branch: str) -> tuple[Holder, Enrolled]:
    """Ask with a claim and put what the hub gives in its place, in this thread; safe to repeat. Raises
    SettingsError, and as `edgegw.enrolment.enrol` does."""
    hub = hub_key(box)
    try:
        is_same = VerifyingKey.parse(claim.hub_key) == hub
    except ValueError:
        is_same = False
    if not is_same:
        raise SettingsError(
            "hub.key", ["it is not the key in the claim: the claim, or the settings, are of another hub"]
        )
    holder = Holder(box, key_places.keystore_of(box), hub, hub_time_of(box, MachineClock()))
    with _where(box, claim) as where:
        return holder, asyncio.run(enrol(holder, claim, branch=branch, where=where))


@contextmanager
def _where(box: BoxSettings, claim: Claim) -> Iterator[Where]:
    """Where the claim says to ask, by the CAs in it; raises SettingsError and EnrolmentError."""
    if claim.profile == PLAIN:
        mend = "have the centre give its settings [enrolment.tls], and make another claim"
        raise SettingsError("the claim", [f"its profile is plain, and nothing would prove the hub: {mend}"])
    ca_file = Path(enrolled_table(box).ca_file + ".claim")
    write_authorities(ca_file, claim.authority_bytes(), frozenset({kind_of_profile(claim.profile)}))
    try:
        tls = timeless_context(profile=claim.profile, ca_file=ca_file, server_name=claim.server_name)
        yield Where(claim.addresses, tls)
    except TlsError as problem:
        raise SettingsError("the claim", [str(problem)]) from None
    finally:
        ca_file.unlink(missing_ok=True)


def destroy_claim(file: Path) -> str:
    """Overwrite a claim's file and take it away; why it could not be, "" where it is gone."""
    try:
        shred_key_file(file)
    except KeyFileError as problem:
        return str(problem)
    return ""
